//! Which packets of a stream are missing, and when to ask for them (RFC 4585 section 6.2.1).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{cache::PacketCache, rtp::SeqNo};

/// Asks for lost packets: after a short wait for reordered ones, then once in a round trip.
#[derive(Debug, Default)]
pub struct NackGenerator {
    /// Ascending.
    missing: VecDeque<Missing>,
    highest: Option<SeqNo>,
    given_up: bool,
    /// No packet is due before; may be too early, never too late.
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    seq: SeqNo,
    since: Instant,
    next: Instant,
    tries: u8,
}

impl NackGenerator {
    /// Outstanding packets at most (mediasoup's figure): beyond, a keyframe is cheaper.
    pub const MAX_MISSING: usize = 1_000;
    /// Requests for one packet at most (mediasoup's figure).
    pub const MAX_TRIES: u8 = 10;
    /// Longer asks less for packets that were only reordered, shorter repairs sooner. Reordering on the internet's
    /// paths is mostly within one burst of the sender's pacer.
    pub const REORDER_WAIT: Duration = Duration::from_millis(10);
    /// Requests are not repeated faster than this, however near the peer says it is.
    const MIN_INTERVAL: Duration = Duration::from_millis(20);

    /// A packet arrived for the first time, as media or as a retransmission.
    pub fn handle_packet(&mut self, now: Instant, seq: SeqNo) {
        let Some(highest) = self.highest else {
            self.highest = Some(seq);
            return;
        };
        if seq <= highest {
            if let Ok(index) = self.missing.binary_search_by_key(&seq, |missing| missing.seq) {
                self.missing.remove(index);
                self.due = self.due.filter(|_| !self.missing.is_empty());
            }
            return;
        }
        self.highest = Some(seq);
        let lost = seq.0 - highest.0 - 1;
        if lost as usize + self.missing.len() > Self::MAX_MISSING {
            self.missing.clear();
            // Nothing to ask for, but somebody has to notice.
            self.due = Some(now);
            self.given_up = true;
            return;
        }
        if lost == 0 {
            return;
        }
        let next = now + Self::REORDER_WAIT;
        self.due = Some(self.due.map_or(next, |due| due.min(next)));
        self.missing.extend((1..=lost).map(|n| Missing {
            seq: highest.plus(n),
            since: now,
            next,
            tries: 0,
        }));
    }

    /// A keyframe begins at `seq`: nobody needs what was before it.
    pub fn handle_keyframe(&mut self, seq: SeqNo) {
        while self.missing.front().is_some_and(|missing| missing.seq < seq) {
            self.missing.pop_front();
        }
        self.due = self.due.filter(|_| !self.missing.is_empty());
    }

    /// Forgets what is missing: nobody will ask for it.
    pub fn clear(&mut self) {
        self.missing.clear();
        self.due = None;
        self.given_up = false;
    }

    /// Calls `ask` for each packet to ask for now, ascending; it then counts as asked for. `ask` returns false when
    /// it has no room: the rest stays due.
    pub fn poll(&mut self, now: Instant, rtt: Duration, mut ask: impl FnMut(SeqNo) -> bool) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        let interval = rtt.clamp(Self::MIN_INTERVAL, PacketCache::MAX_AGE);
        let mut room = true;
        let given_up = &mut self.given_up;
        self.missing.retain_mut(|missing| {
            if now < missing.next || !room {
                return true;
            }
            let age = now.saturating_duration_since(missing.since);
            if missing.tries >= Self::MAX_TRIES || age >= PacketCache::MAX_AGE {
                *given_up = true;
                return false;
            }
            room = ask(missing.seq);
            if room {
                missing.tries += 1;
                missing.next = now + interval;
            }
            true
        });
        self.due = self.missing.iter().map(|missing| missing.next).min();
    }

    /// When [`Self::poll`] may have something to ask for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Whether packets were given up since the last call: the picture stays broken without a keyframe.
    pub fn take_given_up(&mut self) -> bool {
        std::mem::take(&mut self.given_up)
    }

    /// Packets that are missing now.
    pub fn missing(&self) -> usize {
        self.missing.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(nack: &mut NackGenerator, now: Instant) -> Vec<u64> {
        let mut asked = Vec::new();
        nack.poll(now, Duration::from_millis(50), |seq| {
            asked.push(seq.0);
            true
        });
        asked
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn lost_packets_are_asked_for_once_a_round_trip_and_reordered_ones_never() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut nack = NackGenerator::default();
        for seq in [100, 101, 104, 105, 107] {
            nack.handle_packet(at(0), SeqNo(seq));
        }
        assert_eq!(nack.poll_timeout(), Some(at(10)));
        nack.handle_packet(at(5), SeqNo(103));
        assert_eq!(ask(&mut nack, at(9)), [0; 0]);
        assert_eq!(ask(&mut nack, at(10)), [102, 106]);
        assert_eq!(ask(&mut nack, at(59)), [0; 0]);
        nack.handle_packet(at(59), SeqNo(106));
        assert_eq!(ask(&mut nack, at(60)), [102]);
        nack.handle_keyframe(SeqNo(104));
        assert_eq!(nack.missing(), 0);
        assert!(!nack.take_given_up());
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn what_does_not_come_is_given_up() {
        let start = Instant::now();
        let mut nack = NackGenerator::default();
        nack.handle_packet(start, SeqNo(1));
        nack.handle_packet(start, SeqNo(3));
        let asked: usize =
            (0..3_000).map(|ms| ask(&mut nack, start + Duration::from_millis(ms)).len()).sum();
        assert_eq!(asked, 10);
        assert_eq!(nack.missing(), 0);
        assert!(nack.take_given_up());
        assert!(!nack.take_given_up(), "told once");

        nack.handle_packet(start, SeqNo(2_000));
        assert_eq!(nack.missing(), 0);
        assert!(nack.take_given_up(), "too many at once");
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn what_finds_no_room_stays_due() {
        let start = Instant::now();
        let mut nack = NackGenerator::default();
        nack.handle_packet(start, SeqNo(1));
        nack.handle_packet(start, SeqNo(5));
        let now = start + NackGenerator::REORDER_WAIT;
        let mut room = 2;
        nack.poll(now, Duration::ZERO, |_| {
            room -= 1;
            room >= 1
        });
        assert_eq!(ask(&mut nack, now), [3, 4]);
    }
}
