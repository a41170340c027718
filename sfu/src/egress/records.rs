//! What was sent lately, for repair.

use std::time::{Duration, Instant};

use crate::{
    cache::{CodecPatch, EncodingSet, PacketMeta, Rewritten},
    prefetch::prefetch,
    rtp::{RtpTs32, SeqNo},
    wire::{AbsSendTime, ActiveTargets, DescriptorPatch},
};

/// A ring of small records, one for the packets of a frame that left under numbers in a row, in the order of these. It starts small
/// and grows by an eighth while a record younger than [`Self::MAX_AGE`] would be lost: 30 frames a second cost 1.3 KiB.
///
/// In this order: what each frame that leaves looks at comes first, in one line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Records {
    /// The latest record, which packets may still join. Apart: the ring of a subscriber is in no cache when its turn comes, and a read
    /// waits for memory, a write does not.
    latest: Packed,
    /// Those before it. Empty, or a multiple of [`Self::LOOKS`] long.
    slots: Vec<Packed>,
    /// The place of the oldest record, which the next one takes.
    next: u32,
    /// Of the latest record, the upper half of its first number at ingress: records keep the lower half of theirs, which are near it.
    ingress_upper: u32,
    /// Times of resends count milliseconds from here, and those of [`Self::clock`].
    origin: Instant,
    /// When packets were sent again, by number; nothing until one is.
    resent: Vec<Resent>,
}

/// How one egress packet was made: everything but the payload, which is in the track's cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) time: RtpTs32,
    pub(super) ingress_seq: SeqNo,
    pub(super) patch: CodecPatch,
    pub(super) descriptor: Option<DescriptorPatch>,
    pub(super) encoding: u8,
    /// It has the marker bit, though it came without.
    pub(super) ends_picture: bool,
}

/// A record in half a cache line: most are never read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(align(32))]
struct Packed {
    /// Low 32 bits of the first number at egress.
    seq: u32,
    time: u32,
    /// Low 32 bits of the first number at ingress.
    ingress: u32,
    mask: u32,
    patch: CodecPatch,
    frame_number: u16,
    /// When, by [`moment`]: of 64 s, while a record is of use for one.
    sent: u16,
    /// How many packets in a row; 0 marks an empty slot.
    count: u8,
    /// How many decode targets the mask has; 0: no mask.
    targets: u8,
    /// Encoding, and what there is.
    bits: u8,
}

/// A packet that was sent again.
#[derive(Clone, Copy, Debug, Default)]
struct Resent {
    /// Low 32 bits of its number; zero, which no stream reaches soon, marks an empty slot.
    seq: u32,
    /// When, in milliseconds.
    at_ms: u32,
}

const ENCODING: u8 = 0b0001_1111;
const ENDS_PICTURE: u8 = 1 << 5;
const DESCRIPTOR: u8 = 1 << 6;

const _: () = assert!(size_of::<Packed>() == 32);
const _: () = assert!(std::mem::offset_of!(Records, origin) == 64);
const _: () = assert!(EncodingSet::MAX <= ENCODING + 1);

impl Records {
    const FIRST: usize = 16;
    /// About two seconds of a 5 Mb/s stream whose packets all need records of their own.
    const MAX: usize = 1_024;
    /// Of so many slots the last, written latest, is looked at before the first is written over.
    const LOOKS: usize = 8;
    /// A second, in the units of [`moment`]: as long as a cache keeps packets.
    const MAX_AGE: u16 = 1 << 10;
    /// What comes later than behind so many others of the ring has no record, and is not sent again: its place would have to be made among them.
    const MAX_LATE: usize = 64;
    /// Packets that were sent again are told apart by so many numbers, all that may wait for it. Of two that share a place the first may
    /// be sent again early.
    const RESENT: usize = 256;

    pub(super) fn new(origin: Instant) -> Self {
        let (slots, resent) = (Vec::new(), Vec::new());
        Self { latest: Packed::EMPTY, slots, next: 0, ingress_upper: 0, origin, resent }
    }

    /// What [`Self::insert`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.latest);
    }

    /// Where it writes, once that is here.
    #[inline(always)]
    pub(super) fn prefetch_pointees(&self) {
        if let Some(slot) = self.slots.get(self.next as usize) {
            prefetch(slot);
        }
    }

    /// Notes `count` packets that left in a row, of which `first` and `rewritten` are the first: see [`PacketMeta::follows`].
    #[inline(always)]
    pub(super) fn insert(
        &mut self,
        now: AbsSendTime,
        first: &PacketMeta,
        rewritten: &Rewritten,
        count: u8,
    ) {
        let sent = moment(now);
        let packed = Packed::new(sent, first, rewritten, count);
        let upper = (first.seq.0 >> 32) as u32;
        if self.latest.count == 0 {
            (self.latest, self.ingress_upper) = (packed, upper);
        } else if packed.is_before(&self.latest) {
            self.insert_late(packed);
        } else if self.latest.joins(&packed) {
            self.latest.count += count;
        } else {
            let before = std::mem::replace(&mut self.latest, packed);
            self.ingress_upper = upper;
            self.push(before, sent);
        }
    }

    pub(super) fn get(&self, seq: SeqNo) -> Option<Record> {
        let seq = seq.0 as u32;
        if let Some(place) = self.latest.place(seq) {
            return Some(self.latest.unpack(place, self.near()));
        }
        // Empty slots come before all others.
        let (mut from, mut to) = (0, self.slots.len());
        while from < to {
            let middle = from.midpoint(to);
            let record = self.aged(middle);
            if record.count > 0 && is_before(seq, record.seq) {
                to = middle;
            } else {
                from = middle + 1;
            }
        }
        let record = self.aged(from.checked_sub(1)?);
        Some(record.unpack(record.place(seq)?, self.near()))
    }

    /// A number at ingress to which those of all records are near.
    fn near(&self) -> SeqNo {
        SeqNo(u64::from(self.ingress_upper) << 32 | u64::from(self.latest.ingress))
    }

    /// A time as [`Self::insert`] wants it, where nobody keeps that clock.
    pub(super) fn clock(&self, now: Instant) -> AbsSendTime {
        AbsSendTime::from_duration(now.saturating_duration_since(self.origin))
    }

    /// Marks a packet as sent again; false when that happened less than `rtt` ago, or it is not known.
    pub(super) fn claim_resend(&mut self, now: Instant, seq: SeqNo, rtt: Duration) -> bool {
        if self.get(seq).is_none() {
            return false;
        }
        if self.resent.is_empty() {
            self.resent.resize(Self::RESENT, Resent::default());
        }
        let at_ms = self.millis(now);
        let seq = seq.0 as u32;
        let place = &mut self.resent[seq as usize % Self::RESENT];
        let too_soon =
            place.seq == seq && u128::from(at_ms.wrapping_sub(place.at_ms)) < rtt.as_millis();
        if !too_soon {
            *place = Resent { seq, at_ms };
        }
        !too_soon
    }

    /// The record at a place, the oldest first.
    fn aged(&self, place: usize) -> &Packed {
        let place = self.next as usize + place;
        let len = self.slots.len();
        &self.slots[if place < len { place } else { place - len }]
    }

    /// The place before this one; none where there are no slots.
    #[inline(always)]
    fn before(&self, place: usize) -> usize {
        place.checked_sub(1).unwrap_or_else(|| self.slots.len().wrapping_sub(1))
    }

    /// Puts a record behind all others of the ring, at this moment.
    #[inline(always)]
    fn push(&mut self, packed: Packed, now: u16) {
        self.make_room(now);
        let next = self.next as usize;
        self.slots[next] = packed;
        self.next = if next + 1 == self.slots.len() { 0 } else { self.next + 1 };
    }

    /// Puts a packet that came late before those with higher numbers.
    #[cold]
    fn insert_late(&mut self, packed: Packed) {
        self.make_room(packed.sent);
        let next = self.next as usize;
        let mut place = next;
        let mut steps = Self::MAX_LATE.min(self.slots.len() - 1);
        loop {
            let before = self.before(place);
            if self.slots[before].count == 0 || !packed.is_before(&self.slots[before]) {
                break;
            }
            if steps == 0 {
                return;
            }
            (place, steps) = (before, steps - 1);
        }
        if place == next {
            self.push(packed, packed.sent);
            return;
        }
        // The latest moves up to where the oldest was, and so on.
        let latest = self.slots[self.before(next)];
        let mut to = self.before(next);
        while to != place {
            let from = self.before(to);
            self.slots[to] = self.slots[from];
            to = from;
        }
        self.slots[place] = packed;
        self.push(latest, packed.sent);
    }

    /// Makes the ring longer rather than have the next record take the place of a young one.
    #[inline(always)]
    fn make_room(&mut self, now: u16) {
        if self.next.is_multiple_of(Self::LOOKS as u32) && self.would_lose_young(now) {
            self.grow();
        }
    }

    /// Of the block of slots that begins where the next record goes. There is none before the first.
    fn would_lose_young(&self, now: u16) -> bool {
        let Some(old) = self.slots.get(self.next as usize + Self::LOOKS - 1) else { return true };
        let age = now.wrapping_sub(old.sent);
        old.count > 0 && age < Self::MAX_AGE && self.slots.len() < Self::MAX
    }

    #[cold]
    fn grow(&mut self) {
        let len = self.slots.len();
        // Multiples of what is looked at.
        let more = (len / 8 / Self::LOOKS).max(1) * Self::LOOKS;
        let more = (len + more).clamp(Self::FIRST, Self::MAX) - len;
        self.slots.rotate_left(self.next as usize);
        self.next = len as u32;
        self.slots.reserve_exact(more);
        self.slots.resize(len + more, Packed::EMPTY);
    }

    fn millis(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.origin);
        (since.as_secs() as u32).wrapping_mul(1_000).wrapping_add(since.subsec_millis())
    }
}

/// A time in 1/1024 s, modulo 64 s.
fn moment(time: AbsSendTime) -> u16 {
    (time.bits() >> 8) as u16
}

/// Of numbers less than 2^31 apart.
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Packed {
    const EMPTY: Self = Self {
        seq: 0,
        time: 0,
        ingress: 0,
        mask: 0,
        patch: CodecPatch::NONE,
        frame_number: 0,
        sent: 0,
        count: 0,
        targets: 0,
        bits: 0,
    };

    fn new(sent: u16, first: &PacketMeta, rewritten: &Rewritten, count: u8) -> Self {
        let ends_picture = rewritten.marker && !first.marker;
        let mut packed = Self {
            seq: rewritten.seq.0 as u32,
            time: rewritten.time.ts32().0,
            ingress: first.seq.0 as u32,
            patch: rewritten.patch,
            sent,
            count,
            bits: first.encoding & ENCODING | if ends_picture { ENDS_PICTURE } else { 0 },
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

    fn is_before(&self, other: &Self) -> bool {
        is_before(self.seq, other.seq)
    }

    /// Where among those of the record a packet is.
    fn place(&self, seq: u32) -> Option<u32> {
        let place = seq.wrapping_sub(self.seq);
        (place < self.count.into()).then_some(place)
    }

    /// Whether `behind` can be told by this record too: the next numbers, and all else is the same.
    fn joins(&self, behind: &Self) -> bool {
        let Self { seq, time, ingress, mask, patch, frame_number, targets, bits, .. } = *self;
        let count = u32::from(self.count);
        time == behind.time
            && seq.wrapping_add(count) == behind.seq
            && ingress.wrapping_add(count) == behind.ingress
            && self.count.checked_add(behind.count).is_some()
            && (bits, targets, frame_number) == (behind.bits, behind.targets, behind.frame_number)
            && bits & ENDS_PICTURE == 0
            && (mask, patch) == (behind.mask, behind.patch)
    }

    /// The packet at `place` among those of the record. `near`: a number at ingress less than 2^31 from its own.
    fn unpack(&self, place: u32, near: SeqNo) -> Record {
        let ahead = self.ingress.wrapping_add(place).wrapping_sub(near.0 as u32) as i32;
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
            ends_picture: self.bits & ENDS_PICTURE != 0,
        }
    }
}

#[cfg(test)]
mod tests;
