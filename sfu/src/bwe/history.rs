//! What left lately, by transport-wide number.

use std::time::Duration;

use crate::{prefetch::prefetch, rtp::ProbeId};

/// A ring of 8-byte records. It starts small and doubles while a packet that may still be reported on would be
/// overwritten: an audio subscriber costs 2 KiB, nobody more than 16 KiB.
#[derive(Debug)]
pub(super) struct History {
    /// Empty before the first packet, then a power of two long.
    slots: Vec<Slot>,
    /// Extended number after the highest one.
    end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Wraps after 71 minutes, long after the record is gone.
    sent_us: u32,
    size: u16,
    /// Zero: none.
    probe: u8,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Empty,
    InFlight,
    Lost,
    Arrived,
}

/// One packet, as the feedback found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SentPacket {
    /// Since the estimator's origin.
    pub(super) sent: Duration,
    /// Bytes.
    pub(super) size: u16,
    pub(super) probe: Option<ProbeId>,
    /// It was reported lost before and arrived after all.
    pub(super) was_lost: bool,
}

impl History {
    const FIRST: usize = 256;
    /// Two seconds of 10 Mb/s in packets of 1,200 bytes, half a second of 40 Mb/s.
    const MAX: usize = 2_048;
    /// Feedback comes each 100 ms and takes a round trip.
    const MAX_AGE: Duration = Duration::from_secs(2);

    pub(super) fn new() -> Self {
        // One rollover of headroom, so that numbers below the first have an extension.
        Self { slots: Vec::new(), end: 1 << 16 }
    }

    /// Where the next packet will be noted.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        let next = self.end as usize & self.slots.len().wrapping_sub(1);
        if let Some(slot) = self.slots.get(next) {
            prefetch(slot);
        }
    }

    /// The next few packets from this number on.
    #[inline(always)]
    pub(super) fn prefetch_fates(&self, number: u16) {
        /// A line of memory and a bit.
        const STEP: u16 = 8;
        let mask = self.slots.len().wrapping_sub(1);
        for line in 0..4 {
            // The ring is as long as a power of two: the lower half of a number gives its place.
            let index = usize::from(number.wrapping_add(line * STEP)) & mask;
            if let Some(slot) = self.slots.get(index) {
                prefetch(slot);
            }
        }
    }

    pub(super) fn insert(&mut self, now: Duration, number: u16, size: u16, probe: Option<ProbeId>) {
        if self.slots.is_empty() {
            self.slots = vec![Slot::EMPTY; Self::FIRST];
        }
        let ahead = number.wrapping_sub(self.end as u16);
        // Numbers only grow; a jump leaves a gap, and the first may be any.
        self.skip(ahead);
        let index = self.index(self.end);
        let old = self.slots[index];
        let young = now.saturating_sub(old.sent(now)) < Self::MAX_AGE;
        if old.fate == Fate::InFlight && young && self.slots.len() < Self::MAX {
            self.grow();
        }
        let index = self.index(self.end);
        self.slots[index] = Slot {
            sent_us: now.as_micros() as u32,
            size,
            probe: probe.map_or(0, |probe| probe.0),
            fate: Fate::InFlight,
        };
        self.end += 1;
    }

    /// The packet of this number arrived. `None`: it was never sent, is forgotten, or was known to have arrived.
    pub(super) fn take_arrived(&mut self, now: Duration, number: u16) -> Option<SentPacket> {
        let slot = self.slot(number)?;
        let was_lost = match slot.fate {
            Fate::Empty | Fate::Arrived => return None,
            Fate::Lost => true,
            Fate::InFlight => false,
        };
        slot.fate = Fate::Arrived;
        Some(slot.packet(now, was_lost))
    }

    /// The packet of this number did not arrive. `None` as with [`Self::take_arrived`], or it was known to be lost.
    pub(super) fn take_lost(&mut self, now: Duration, number: u16) -> Option<SentPacket> {
        let slot = self.slot(number).filter(|slot| slot.fate == Fate::InFlight)?;
        slot.fate = Fate::Lost;
        Some(slot.packet(now, false))
    }

    fn slot(&mut self, number: u16) -> Option<&mut Slot> {
        let back = (self.end as u16).wrapping_sub(number);
        if back == 0 || usize::from(back) > self.slots.len() {
            return None;
        }
        let index = self.index(self.end - u64::from(back));
        self.slots.get_mut(index)
    }

    fn skip(&mut self, numbers: u16) {
        for offset in 0..u64::from(numbers).min(self.slots.len() as u64) {
            let index = self.index(self.end + offset);
            self.slots[index] = Slot::EMPTY;
        }
        self.end += u64::from(numbers);
        if usize::from(numbers) > self.slots.len() {
            self.slots.fill(Slot::EMPTY);
        }
    }

    fn index(&self, number: u64) -> usize {
        number as usize & (self.slots.len() - 1)
    }

    fn grow(&mut self) {
        let len = self.slots.len();
        let mut slots = vec![Slot::EMPTY; len * 2];
        for number in self.end - len as u64..self.end {
            slots[number as usize & (len * 2 - 1)] = self.slots[number as usize & (len - 1)];
        }
        self.slots = slots;
    }
}

impl Slot {
    const EMPTY: Self = Self { sent_us: 0, size: 0, probe: 0, fate: Fate::Empty };

    fn sent(self, now: Duration) -> Duration {
        let age = (now.as_micros() as u32).wrapping_sub(self.sent_us);
        now.saturating_sub(Duration::from_micros(age.into()))
    }

    fn packet(self, now: Duration, was_lost: bool) -> SentPacket {
        SentPacket {
            sent: self.sent(now),
            size: self.size,
            probe: (self.probe != 0).then_some(ProbeId(self.probe)),
            was_lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_packet_is_taken_once_and_may_turn_up_after_it_was_given_up() {
        let mut history = History::new();
        for number in [65_534u16, 65_535, 0, 5] {
            history.insert(MS * 7, number, 100, Some(ProbeId(3)));
        }
        let packet =
            SentPacket { sent: MS * 7, size: 100, probe: Some(ProbeId(3)), was_lost: false };
        assert_eq!(history.take_arrived(MS * 9, 65_535), Some(packet));
        assert_eq!(history.take_arrived(MS * 9, 65_535), None, "twice");
        assert_eq!(history.take_lost(MS * 9, 65_535), None, "it arrived");
        assert_eq!(history.take_lost(MS * 9, 0), Some(packet));
        assert_eq!(history.take_arrived(MS * 9, 0), Some(SentPacket { was_lost: true, ..packet }));
        assert_eq!(history.take_arrived(MS * 9, 3), None, "in the gap");
        assert_eq!(history.take_arrived(MS * 9, 6), None, "not sent yet");
        assert_eq!(history.take_arrived(MS * 9, 5), Some(packet));
    }

    #[test]
    fn the_ring_grows_while_packets_are_in_flight_and_no_further() {
        let mut history = History::new();
        for n in 0..5_000u32 {
            history.insert(MS * n / 4, n as u16, 1_200, None);
        }
        assert_eq!(history.slots.len(), History::MAX);
        let now = MS * 1_250;
        assert!(history.take_arrived(now, 4_999).is_some());
        assert!(history.take_arrived(now, (5_000 - History::MAX) as u16).is_some());
        assert!(history.take_arrived(now, (5_000 - History::MAX - 1) as u16).is_none());

        let mut slow = History::new();
        for n in 0..5_000u32 {
            slow.insert(MS * 20 * n, n as u16, 100, None);
        }
        assert_eq!(slow.slots.len(), History::FIRST, "50 packets a second");
    }

    #[test]
    fn a_far_jump_forgets_everything() {
        let mut history = History::new();
        history.insert(MS, 1, 100, None);
        history.insert(MS, 40_000, 100, None);
        assert_eq!(history.take_arrived(MS, 1), None);
        assert!(history.take_arrived(MS, 40_000).is_some());
    }
}
