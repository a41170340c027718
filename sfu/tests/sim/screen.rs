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

    /// Numbers up to two seconds before the last, and how many of them never came.
    pub(crate) fn loss(&self) -> (u64, u64) {
        let end = self.numbers.values().max().copied().unwrap_or_default();
        let settled = self.numbers.iter().filter(|(_, at)| **at + Duration::from_secs(2) < end);
        let settled: Vec<u64> = settled.map(|(seq, _)| *seq).collect();
        let (Some(low), Some(high)) = (settled.first(), settled.last()) else { return (0, 0) };
        let packets = high - low + 1;
        (packets, packets - self.numbers.range(low..=high).count() as u64)
    }

    /// Times between two pictures: from, to.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = (Duration, Duration)> + '_ {
        self.shown.windows(2).map(|pair| (pair[0].at, pair[1].at))
    }

    /// The best layer just before `at`; `None`: nothing is seen any more.
    pub(crate) fn layer_at(&self, at: Duration) -> Option<u8> {
        let before = self.shown.iter().rev().skip_while(|shown| shown.at > at);
        before.take_while(|shown| shown.at + Self::RECENT > at).map(|shown| shown.layer).max()
    }
}
