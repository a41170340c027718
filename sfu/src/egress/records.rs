//! What was sent lately, for repair.

use std::time::{Duration, Instant};

use crate::{
    cache::{CodecPatch, EncodingSet, PacketMeta, Rewritten},
    prefetch::prefetch,
    rtp::{RtpTs32, SeqNo},
    wire::{ActiveTargets, DescriptorPatch},
};

/// A ring of small records by egress sequence number. It starts small and grows by an eighth while a record younger than
/// [`Self::MAX_AGE`] would be lost: 50 packets a second cost 2.5 KiB, 120 cost 4.5.
#[derive(Debug)]
pub(super) struct Records {
    /// Empty, or a multiple of [`Self::LOOKS`] long.
    slots: Vec<Packed>,
    /// The latest block of [`Self::LOOKS`] numbers of which one was noted.
    block: u64,
    /// Times in records count milliseconds from here.
    origin: Instant,
    /// The latest moment, in milliseconds: the packets of a slice share it, and telling costs more than comparing.
    latest: (Instant, u32),
    /// Number at ingress of the latest packet: records keep the low half of theirs, which is near it.
    ingress: SeqNo,
}

/// How one egress packet was made: everything but the payload, which is in the track's cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) time: RtpTs32,
    pub(super) ingress_seq: SeqNo,
    pub(super) patch: CodecPatch,
    pub(super) descriptor: Option<DescriptorPatch>,
    pub(super) encoding: u8,
    pub(super) marker: bool,
}

/// A record in half a cache line: one is written for each packet, and most are never read.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Packed {
    /// Low 32 bits of the number at egress; zero, which no stream reaches soon, marks an empty slot.
    seq: u32,
    time: u32,
    /// Low 32 bits of the number at ingress.
    ingress: u32,
    mask: u32,
    patch: CodecPatch,
    frame_number: u16,
    /// Low 16 bits of milliseconds: 65 s, while a record is of use for one.
    sent_ms: u16,
    /// The same of when it was last sent again, if [`RESENT`].
    resent_ms: u16,
    /// How many decode targets the mask has; 0: no mask.
    targets: u8,
    /// Encoding, and what there is.
    bits: u8,
}

const ENCODING: u8 = 0b0001_1111;
const MARKER: u8 = 1 << 5;
const DESCRIPTOR: u8 = 1 << 6;
const RESENT: u8 = 1 << 7;

const _: () = assert!(size_of::<Packed>() == 32);
const _: () = assert!(EncodingSet::MAX <= ENCODING + 1);

impl Records {
    const FIRST: usize = 32;
    /// About two seconds of a 5 Mb/s stream.
    const MAX: usize = 1_024;
    /// Of so many slots the last, written latest, is looked at before the first is written over. The ring of a subscriber is in no
    /// cache when its turn comes: a read waits for memory, a write does not.
    const LOOKS: usize = 16;
    /// As long as a cache keeps packets.
    const MAX_AGE: Duration = Duration::from_secs(1);

    pub(super) fn new(origin: Instant) -> Self {
        Self { slots: Vec::new(), block: 0, origin, latest: (origin, 0), ingress: SeqNo(0) }
    }

    /// Where packets from this number on will be noted: four of them, or two lines.
    #[inline(always)]
    pub(super) fn prefetch(&self, next: SeqNo) {
        let place = index(&self.slots, next.0);
        for place in [place, place + 2] {
            if let Some(slot) = self.slots.get(place) {
                prefetch(slot);
            }
        }
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, now: Instant, meta: &PacketMeta, rewritten: &Rewritten) {
        let sent_ms = self.millis(now) as u16;
        let seq = rewritten.seq;
        self.ingress = meta.seq;
        if self.slots.is_empty() {
            self.begin();
        }
        let mut place = index(&self.slots, seq.0);
        // Not with the first place of a block, whose packet may come late or never.
        let block = seq.0 / Self::LOOKS as u64;
        if block > self.block {
            self.block = block;
            if self.would_lose_young(place, sent_ms) {
                self.grow();
                place = index(&self.slots, seq.0);
            }
        }
        self.slots[place] = Packed::new(sent_ms, meta, rewritten);
    }

    pub(super) fn get(&self, seq: SeqNo) -> Option<Record> {
        let packed = self.slots.get(index(&self.slots, seq.0))?;
        (packed.seq == seq.0 as u32).then(|| packed.unpack(self.ingress))
    }

    /// Marks a packet as sent again; false when that happened less than `rtt` ago.
    pub(super) fn claim_resend(&mut self, now: Instant, seq: SeqNo, rtt: Duration) -> bool {
        let now_ms = self.millis(now) as u16;
        let place = index(&self.slots, seq.0);
        let Some(record) = self.slots.get_mut(place).filter(|record| record.seq == seq.0 as u32)
        else {
            return false;
        };
        let too_soon = record.bits & RESENT != 0
            && u128::from(now_ms.wrapping_sub(record.resent_ms)) < rtt.as_millis();
        if !too_soon {
            record.resent_ms = now_ms;
            record.bits |= RESENT;
        }
        !too_soon
    }

    /// Of the block of slots around `place`, which is written next.
    fn would_lose_young(&self, place: usize, sent_ms: u16) -> bool {
        let old = &self.slots[place | (Self::LOOKS - 1)];
        let age = sent_ms.wrapping_sub(old.sent_ms);
        old.seq != 0 && u128::from(age) < Self::MAX_AGE.as_millis() && self.slots.len() < Self::MAX
    }

    #[cold]
    fn begin(&mut self) {
        self.slots.resize(Self::FIRST, Packed::EMPTY);
    }

    #[cold]
    fn grow(&mut self) {
        // Multiples of what is looked at.
        let more = (self.slots.len() / 8 / Self::LOOKS).max(1) * Self::LOOKS;
        let len = (self.slots.len() + more).min(Self::MAX);
        let mut longer = vec![Packed::EMPTY; len];
        for record in self.slots.iter().filter(|record| record.seq != 0) {
            let place = index(&longer, record.seq.into());
            let place = &mut longer[place];
            // What was left of a round before where a number is missing gives way.
            if place.seq < record.seq {
                *place = *record;
            }
        }
        self.slots = longer;
    }

    fn millis(&mut self, now: Instant) -> u32 {
        if self.latest.0 != now {
            let millis = now.saturating_duration_since(self.origin).as_millis() as u32;
            self.latest = (now, millis);
        }
        self.latest.1
    }
}

/// Where a number has its place. A record keeps the low half of its number, so that is all that counts.
#[inline(always)]
fn index(slots: &[Packed], seq: u64) -> usize {
    (seq as u32).checked_rem(slots.len() as u32).unwrap_or(0) as usize
}

impl Packed {
    const EMPTY: Self = Self {
        seq: 0,
        time: 0,
        ingress: 0,
        mask: 0,
        patch: CodecPatch::NONE,
        frame_number: 0,
        sent_ms: 0,
        resent_ms: 0,
        targets: 0,
        bits: 0,
    };

    fn new(sent_ms: u16, meta: &PacketMeta, rewritten: &Rewritten) -> Self {
        let mut packed = Self {
            seq: rewritten.seq.0 as u32,
            time: rewritten.time.ts32().0,
            ingress: meta.seq.0 as u32,
            patch: rewritten.patch,
            sent_ms,
            bits: meta.encoding & ENCODING | if rewritten.marker { MARKER } else { 0 },
            ..Self::EMPTY
        };
        if let Some(DescriptorPatch { frame_number, active }) = rewritten.descriptor {
            packed.bits |= DESCRIPTOR;
            packed.frame_number = frame_number;
            if let Some(ActiveTargets { mask, count }) = active {
                (packed.mask, packed.targets) = (mask, count);
            }
        }
        packed
    }

    /// `near`: a number at ingress less than 2^31 from this one.
    fn unpack(&self, near: SeqNo) -> Record {
        let ahead = self.ingress.wrapping_sub(near.0 as u32) as i32;
        let active = ActiveTargets { mask: self.mask, count: self.targets };
        let descriptor = DescriptorPatch {
            frame_number: self.frame_number,
            active: (self.targets > 0).then_some(active),
        };
        Record {
            time: RtpTs32(self.time),
            ingress_seq: SeqNo(near.0.wrapping_add_signed(ahead.into())),
            patch: self.patch,
            descriptor: (self.bits & DESCRIPTOR != 0).then_some(descriptor),
            encoding: self.bits & ENCODING,
            marker: self.bits & MARKER != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        cache::test_packets::{meta, ms, start},
        rtp::MediaTime,
    };

    fn plain(seq: u64) -> Rewritten {
        Rewritten {
            seq: SeqNo(seq),
            time: MediaTime(seq),
            marker: false,
            patch: CodecPatch::NONE,
            descriptor: None,
            opens: false,
            awaited: false,
        }
    }

    proptest! {
        #[test]
        fn what_was_kept_is_what_is_found(
            time in any::<u32>(),
            ingress in (1_u64 << 33) - (1 << 20)..(1 << 33) + (1 << 20),
            later in -(1_i64 << 20)..1 << 20,
            encoding in 0..EncodingSet::MAX,
            marker in any::<bool>(),
            bytes in prop::collection::vec(any::<u8>(), 0..=CodecPatch::MAX_LEN),
            frame in proptest::option::of(any::<u16>()),
            active in proptest::option::of((any::<u32>(), 1..=32_u8)),
        ) {
            let now = start();
            let mut patch = CodecPatch::new(3);
            bytes.into_iter().for_each(|byte| patch.push(byte));
            let active = active.map(|(mask, count)| ActiveTargets { mask, count });
            let descriptor = frame.map(|frame_number| DescriptorPatch { frame_number, active });
            let rewritten = Rewritten {
                seq: SeqNo(1 << 33 | 5),
                time: MediaTime(1 << 35 | u64::from(time)),
                marker,
                patch,
                descriptor,
                opens: false,
                awaited: false,
            };
            let mut records = Records::new(now);
            let seq = ingress.saturating_add_signed(later);
            records.insert(now, &meta(encoding, ingress, 0, now), &rewritten);
            // Of another encoding, whose numbers are others.
            let next = Rewritten { seq: SeqNo(1 << 33 | 6), ..rewritten };
            records.insert(now, &meta(0, seq, 0, now), &next);
            let expected = Record {
                time: RtpTs32(time),
                ingress_seq: SeqNo(ingress),
                patch,
                descriptor,
                encoding,
                marker,
            };
            prop_assert_eq!(records.get(rewritten.seq), Some(expected));
            prop_assert_eq!(records.get(SeqNo(1 << 33 | 7)), None);
        }
    }

    #[test]
    fn what_was_sent_within_a_second_is_found_wherever_numbers_begin() {
        for first in [1, 5, 15, 16, 63, 64] {
            let now = start();
            let mut records = Records::new(now);
            for seq in first..first + 100 {
                records.insert(now, &meta(0, seq + 7, 0, now), &plain(seq));
            }
            for seq in first..first + 100 {
                let found = records.get(SeqNo(seq)).map(|record| record.ingress_seq);
                assert_eq!(found, Some(SeqNo(seq + 7)), "from {first}");
            }
        }
    }

    #[test]
    fn a_ring_is_hardly_longer_than_a_second_of_its_stream() {
        let mut records = Records::new(start());
        let mut seq = 0;
        for frame in 0..300_u64 {
            // 30 frames a second, each as far from its time as an uplink moves it.
            let now = start() + ms(frame * 1_000 / 30 + frame * 7 % 13);
            for _ in 0..4 {
                seq += 1;
                records.insert(now, &meta(0, seq, 0, now), &plain(seq));
                let known = |seq| records.get(SeqNo(seq)).is_some();
                assert!((seq.saturating_sub(119)..=seq).filter(|seq| *seq > 0).all(known), "{seq}");
            }
        }
        assert!(records.slots.len() <= 144, "{}", records.slots.len());
    }

    #[test]
    fn what_comes_late_makes_a_ring_no_longer_and_holes_lose_nothing() {
        let mut records = Records::new(start());
        let mut late = Vec::new();
        for seq in 1..2_400_u64 {
            // 120 packets a second, of which one in twenty comes 150 ms later than its turn, and some never.
            let now = start() + ms(seq * 1_000 / 120);
            match seq % 80 {
                0 | 16 | 32 | 48 => late.push(seq),
                5 | 63 => {}
                _ => records.insert(now, &meta(0, seq, 0, now), &plain(seq)),
            }
            let due = late.iter().filter(|late| **late + 18 <= seq).copied().collect::<Vec<_>>();
            late.retain(|late| !due.contains(late));
            for seq in due {
                records.insert(now, &meta(0, seq, 0, now), &plain(seq));
            }
            for known in (seq.saturating_sub(100)..=seq).filter(|known| *known > 0) {
                let missing = [5, 63].contains(&(known % 80)) || late.contains(&known);
                assert_eq!(records.get(SeqNo(known)).is_some(), !missing, "{known} at {seq}");
            }
        }
        assert!(records.slots.len() <= 176, "{}", records.slots.len());
    }

    #[test]
    fn a_resend_is_claimed_once_a_round_trip_whatever_the_clock_says() {
        // Beyond 16 bits of milliseconds.
        let sent = start() + ms(65_500);
        let mut records = Records::new(start());
        records.insert(sent, &meta(0, 4, 0, sent), &plain(9));
        let rtt = Duration::from_millis(50);
        assert!(records.claim_resend(sent + ms(20), SeqNo(9), rtt));
        assert!(!records.claim_resend(sent + ms(69), SeqNo(9), rtt));
        assert!(records.claim_resend(sent + ms(70), SeqNo(9), rtt));
        assert!(!records.claim_resend(sent + ms(70), SeqNo(8), rtt), "never sent");
    }
}
