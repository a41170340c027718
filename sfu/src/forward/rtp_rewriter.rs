//! Continuous sequence numbers and timestamps for a subscriber.

use std::time::{Duration, Instant};

use super::renumber::Renumber;
use crate::{
    cache::{EncodingSet, FormatId, PacketMeta, SenderClock, Timing, ticks_in},
    prefetch::prefetch,
    rtp::{MediaTime, SeqNo},
};

/// Gives the packets of one subscription their sequence numbers and timestamps, across layer switches, pauses and
/// changes of the source.
///
/// Gaps that loss left upstream stay gaps, so that late packets keep their place; what was skipped by choice is closed
/// up. A switch moves timestamps by what the sender's clock says between the two packets, or, before both encodings
/// had a sender report, by their times of arrival.
#[derive(Debug)]
#[repr(C)]
pub struct RtpRewriter {
    /// The packet with the highest timestamp so far.
    last: Option<Last>,
    /// Added to ingress timestamps, modulo 2^64.
    time_offset: u64,
    numbers: Renumber,
    /// The encoding that `numbers` are of.
    source: Option<u8>,
    /// By encoding, one above the highest number seen when it was left. Elsewhere: mostly only one ever passed.
    left: Option<Box<[u64; EncodingSet::MAX as usize]>>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    encoding: u8,
    generation: u8,
    format: FormatId,
    time_in: MediaTime,
    received_at: Instant,
}

/// Beyond this, what timestamps say and when packets arrived disagree so much that it was another clock.
const CLOCK_DISTRUST: Duration = Duration::from_secs(2);

impl RtpRewriter {
    /// Egress numbers start at `first_seq`: below 2^15 for an SSRC that was never used, so that receivers agree
    /// on the rollover counter even when the first packets are lost (RFC 3711 section 3.3.1).
    pub fn new(first_seq: SeqNo) -> Self {
        Self {
            numbers: Renumber::new(first_seq.0),
            time_offset: 0,
            last: None,
            source: None,
            left: None,
        }
    }

    /// What [`Self::rewrite`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.time_offset);
    }

    /// Numbers at ingress begin anew: the track has another source.
    pub fn attach(&mut self) {
        self.source = None;
        self.left = None;
    }

    /// Whether a packet is behind all that was seen of its encoding. A stream that began with an earlier one, a keyframe that
    /// comes late, would show again what was shown, and lack what left already under numbers of before.
    pub fn is_news(&self, meta: &PacketMeta) -> bool {
        let seen = if self.source == Some(meta.encoding) {
            self.numbers.next()
        } else {
            let left = self.left.as_deref().and_then(|left| left.get(usize::from(meta.encoding)));
            left.copied().unwrap_or(0)
        };
        meta.seq.0 >= seen
    }

    /// The first packet of a stream: see [`super::Decision::Open`].
    pub fn start(&mut self, meta: &PacketMeta, timing: &Timing<'_>) {
        if let Some(left) = self.source.replace(meta.encoding)
            && left != meta.encoding
        {
            let places = self.left.get_or_insert_default();
            if let Some(place) = places.get_mut(usize::from(left)) {
                *place = self.numbers.next();
            }
        }
        self.numbers.start(meta.seq.0);
        let Some(last) = self.last else { return };
        let clock_rate = timing.clock_rate(meta.format);
        let last_out = last.time_in.0.wrapping_add(self.time_offset);
        // Time goes on by a millisecond at least: two frames at one moment would be taken for one.
        let least = u64::from(clock_rate / 1_000).max(1);
        let step = Self::step(&last, meta, timing, clock_rate).max(least);
        self.time_offset = last_out.wrapping_add(step).wrapping_sub(meta.time.0);
    }

    /// The numbers of a packet that passes; `None` when it is too late for one.
    pub fn rewrite(&mut self, meta: &PacketMeta) -> Option<(SeqNo, MediaTime)> {
        let seq = self.numbers.map(meta.seq.0)?;
        let newer = self.last.is_none_or(|last| {
            last.encoding != meta.encoding
                || last.generation != meta.generation
                || meta.time > last.time_in
        });
        if newer {
            self.last = Some(Last {
                encoding: meta.encoding,
                generation: meta.generation,
                format: meta.format,
                time_in: meta.time,
                received_at: meta.received_at,
            });
        }
        Some((SeqNo(seq), MediaTime(meta.time.0.wrapping_add(self.time_offset))))
    }

    /// Whether no packet with a higher number was seen.
    pub fn is_latest(&self, meta: &PacketMeta) -> bool {
        self.numbers.next() == meta.seq.0 + 1
    }

    /// `count` packets behind the latest one, of the same frame, get the numbers behind its own.
    pub fn follow(&mut self, count: u64) {
        self.numbers.follow(count);
    }

    /// Closes up the number of a packet that was left out by choice.
    pub fn skip(&mut self, meta: &PacketMeta) {
        self.numbers.skip(meta.seq.0);
    }

    /// The sender's clock against the subscriber's timestamps, at `now`: what a sender report says. `None` before a
    /// packet passed or the publisher reported.
    pub fn sender_clock(&self, now: Instant, timing: &Timing<'_>) -> Option<SenderClock> {
        let last = self.last?;
        let clock_rate = timing.clock_rate(last.format);
        let clock = timing.clock(last.encoding, last.generation)?.advanced_to(now, clock_rate);
        Some(SenderClock { time: MediaTime(clock.time.0.wrapping_add(self.time_offset)), ..clock })
    }

    /// Ticks from `last` to the first packet of a stream.
    fn step(last: &Last, meta: &PacketMeta, timing: &Timing<'_>, clock_rate: u32) -> u64 {
        let arrival = meta.received_at.saturating_duration_since(last.received_at);
        let arrival = ticks_in(arrival, clock_rate);
        let told = if last.encoding == meta.encoding && last.generation == meta.generation {
            // After a pause: timestamps went on.
            Some(i128::from(meta.time.0) - i128::from(last.time_in.0))
        } else {
            let clock = timing.clock(last.encoding, last.generation);
            let from = clock.map(|clock| clock.ntp_at(last.time_in, clock_rate));
            from.zip(timing.captured_at(meta)).map(|(from, to)| {
                // To the nearest tick.
                (i128::from(to.signed_since(from)) * i128::from(clock_rate) + (1 << 31)) >> 32
            })
        };
        // The track may have another publisher by now, whose numbers say nothing about those before.
        let distrust = i128::from(ticks_in(CLOCK_DISTRUST, clock_rate));
        told.filter(|told| (told - i128::from(arrival)).abs() <= distrust)
            .map_or(arrival, |told| told.max(0) as u64)
    }
}

#[cfg(test)]
mod tests;
