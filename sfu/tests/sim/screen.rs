//! What a viewer sees of the packets that arrive: pictures in the order of their numbers, none before it is complete, and
//! after a hole nothing before it is filled or the next keyframe.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{client::Received, media::Tag};

/// A frame, or one spatial layer of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// Since the beginning.
    pub(crate) at: Duration,
    /// Stream of a simulcast publisher, counted from the lowest, or spatial layer.
    layer: u8,
}

/// One video stream, watched.
#[derive(Default, Debug)]
pub(crate) struct Screen {
    shown: Vec<Shown>,
    waiting: BTreeMap<u64, Tag>,
    /// Number after the last one that was shown.
    next: Option<u64>,
    /// When each number came.
    numbers: BTreeMap<u64, Duration>,
    asked_at: Duration,
}

impl Screen {
    /// A simulcast publisher's first stream is its voice.
    const FIRST_VIDEO: u8 = 1;
    /// What is not older is still seen.
    const RECENT: Duration = Duration::from_millis(500);
    /// A viewer asks for a keyframe after so long, and again.
    const STUCK: Duration = Duration::from_millis(300);
    const STUCK_AGAIN: Duration = Duration::from_secs(1);
    /// A packet that comes so long after one that follows it is no use any more.
    const DEADLINE: Duration = Duration::from_millis(500);

    /// A packet came.
    pub(crate) fn push(&mut self, start: Instant, packet: &Received) {
        let at = packet.at.saturating_duration_since(start);
        let twice = self.numbers.insert(packet.seq, at).is_some();
        if twice || self.next.is_some_and(|next| packet.seq < next) {
            return;
        }
        self.waiting.insert(packet.seq, packet.tag());
        // VP9 with picture id and layers; VP8 has a zero there.
        let layered = packet.payload[0] & 0xa0 == 0xa0;
        while let Some((seq, tag)) = self.complete(layered) {
            let next = seq + u64::from(tag.parts);
            self.next = Some(next);
            self.waiting = self.waiting.split_off(&next);
            let layer = if layered { tag.stream } else { tag.stream - Self::FIRST_VIDEO };
            self.shown.push(Shown { at, layer });
        }
    }

    /// The next frame that can be shown: the one after the last, or a keyframe further on.
    fn complete(&self, layered: bool) -> Option<(u64, Tag)> {
        let whole = |seq: u64, tag: &Tag| {
            (0..u64::from(tag.parts)).all(|part| {
                self.waiting.get(&(seq + part)).is_some_and(|other| {
                    (other.stream, other.frame, u64::from(other.part))
                        == (tag.stream, tag.frame, part)
                })
            })
        };
        if let Some(next) = self.next
            && let Some(tag) = self.waiting.get(&next)
            && tag.part == 0
            && whole(next, tag)
        {
            return Some((next, *tag));
        }
        let begins = |tag: &Tag| tag.keyframe && tag.part == 0 && (!layered || tag.stream == 0);
        let mut keyframes = self.waiting.iter().filter(|(_, tag)| begins(tag));
        keyframes.find(|(seq, tag)| whole(**seq, tag)).map(|(seq, tag)| (*seq, *tag))
    }

    /// Packets come and nothing can be shown: whether the viewer asks for a keyframe now.
    pub(crate) fn is_stuck(&mut self, now: Duration) -> bool {
        let seen = self.shown.last().map_or(Duration::ZERO, |shown| shown.at);
        let stuck = !self.waiting.is_empty()
            && now > seen + Self::STUCK
            && now > self.asked_at + Self::STUCK_AGAIN;
        if stuck {
            self.asked_at = now;
        }
        stuck
    }

    /// Numbers up to two seconds before the last, and how many of them never came, or so long after one that follows that nobody waits
    /// for them.
    pub(crate) fn loss(&self) -> (u64, u64) {
        let end = self.numbers.values().max().copied().unwrap_or_default();
        let (mut low, mut packets, mut came) = (None, 0, 0);
        // The earliest moment at which something that follows came.
        let mut followed = Duration::MAX;
        for (seq, at) in self.numbers.iter().rev() {
            followed = followed.min(*at);
            if *at + Duration::from_secs(2) >= end && packets == 0 {
                continue;
            }
            packets += low.map_or(1, |low| low - seq);
            low = Some(*seq);
            came += u64::from(*at < followed + Self::DEADLINE);
        }
        (packets, packets - came)
    }

    /// Times between two pictures, and from the last to the end: from, to.
    pub(crate) fn gaps(&self, end: Duration) -> impl Iterator<Item = (Duration, Duration)> + '_ {
        let ends = self.shown.iter().skip(1).map(|shown| shown.at).chain([end]);
        self.shown.iter().map(|shown| shown.at).zip(ends)
    }

    /// The best layer just before `at`; `None`: nothing is seen any more.
    pub(crate) fn layer_at(&self, at: Duration) -> Option<u8> {
        let before = self.shown.iter().rev().skip_while(|shown| shown.at > at);
        before.take_while(|shown| shown.at + Self::RECENT > at).map(|shown| shown.layer).max()
    }
}
