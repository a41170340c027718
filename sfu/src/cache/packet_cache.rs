//! The ring of an encoding's latest packets.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{CachedPacket, PacketMeta};
use crate::rtp::SeqNo;

/// The latest packets of one encoding on one shard: at most [`Self::MAX_PACKETS`], and no more memory than the last
/// [`Self::MAX_AGE`] of the stream took.
///
/// Facts stand in a ring indexed by sequence number, bytes in a ring filled in order of arrival, which overwrites
/// the oldest. Both start small and double while packets younger than `MAX_AGE` would be lost: an audio stream costs
/// some 16 KiB, a video stream a second of its bitrate, and the steady state allocates nothing.
#[derive(Debug, Default)]
pub struct PacketCache {
    /// A power of two long, or empty before the first packet.
    slots: Vec<Option<Slot>>,
    bytes: Vec<u8>,
    /// Bytes ever written, skipped ends included: byte `n` stands at `n % bytes.len()`, which is a power of two.
    head: u64,
    /// `head` at moments about [`CHECKPOINT_INTERVAL`] apart, the first one `MAX_AGE` ago.
    checkpoints: VecDeque<(Instant, u64)>,
    highest: Option<SeqNo>,
}

/// Why a packet was not stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It is there already.
    #[error("duplicate packet")]
    Duplicate,
    /// Its place was taken by newer packets.
    #[error("packet older than the cache")]
    TooOld,
    /// Larger than any datagram that could carry it on.
    #[error("packet too large")]
    TooLarge,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    meta: PacketMeta,
    /// Position of the descriptor, with the payload behind it.
    at: u64,
    descriptor_len: u16,
    payload_len: u16,
}

/// Finer costs memory, coarser lets a ring grow that much more than a second of its stream.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(100);
const FIRST_SLOTS: usize = 32;
const FIRST_BYTES: usize = 8 * 1024;
/// 512 packets of 1,200 bytes fit, with room for skipped ends.
const MAX_BYTES: usize = 1024 * 1024;

impl PacketCache {
    /// Packets kept at most.
    pub const MAX_PACKETS: usize = 512;
    /// Packets younger than this are kept, up to `MAX_PACKETS`. A repair that takes longer comes too late to be shown.
    pub const MAX_AGE: Duration = Duration::from_secs(1);
    /// Descriptor and payload of one packet at most, bytes. No path of the internet carries more in one datagram.
    pub const MAX_PACKET_LEN: usize = 2_048;

    /// Empty; takes memory with the first packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores a packet.
    pub fn insert(&mut self, now: Instant, packet: CachedPacket<'_>) -> Result<(), Refused> {
        let len = packet.dependency_descriptor.len() + packet.payload.len();
        if len > Self::MAX_PACKET_LEN {
            return Err(Refused::TooLarge);
        }
        let seq = packet.meta.seq;
        let index = self.make_slot(now, seq)?;
        let at = self.make_room(now, len);
        let start = place(at, self.bytes.len());
        let (descriptor, payload) =
            self.bytes[start..start + len].split_at_mut(packet.dependency_descriptor.len());
        descriptor.copy_from_slice(packet.dependency_descriptor);
        payload.copy_from_slice(packet.payload);
        self.slots[index] = Some(Slot {
            meta: *packet.meta,
            at,
            descriptor_len: packet.dependency_descriptor.len() as u16,
            payload_len: packet.payload.len() as u16,
        });
        self.highest = Some(self.highest.map_or(seq, |highest| highest.max(seq)));
        Ok(())
    }

    /// A packet that is still there.
    #[inline(always)]
    pub fn get(&self, seq: SeqNo) -> Option<CachedPacket<'_>> {
        let mask = self.slots.len().checked_sub(1)?;
        let slot = self.slots[seq.0 as usize & mask].as_ref()?;
        if slot.meta.seq != seq || !self.is_alive(slot) {
            return None;
        }
        let start = place(slot.at, self.bytes.len());
        let len = usize::from(slot.descriptor_len) + usize::from(slot.payload_len);
        let (dependency_descriptor, payload) =
            self.bytes[start..start + len].split_at(slot.descriptor_len.into());
        Some(CachedPacket { meta: &slot.meta, dependency_descriptor, payload })
    }

    /// What is known about a packet that is still there, and its dependency descriptor: to complete what could not be
    /// read when it came.
    pub fn revise(&mut self, seq: SeqNo) -> Option<(&mut PacketMeta, &[u8])> {
        let mask = self.slots.len().checked_sub(1)?;
        let alive = |slot: &Slot| slot.meta.seq == seq && self.is_alive(slot);
        let index = seq.0 as usize & mask;
        self.slots[index].as_ref().filter(|slot| alive(slot))?;
        let slot = self.slots[index].as_mut()?;
        let start = place(slot.at, self.bytes.len());
        let descriptor = self.bytes.get(start..start + usize::from(slot.descriptor_len))?;
        Some((&mut slot.meta, descriptor))
    }

    /// Whether [`Self::get`] would find it.
    pub fn contains(&self, seq: SeqNo) -> bool {
        self.get(seq).is_some()
    }

    /// The highest sequence number stored so far.
    pub fn highest(&self) -> Option<SeqNo> {
        self.highest
    }

    /// Memory held, bytes.
    pub fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Slot>>() + self.bytes.capacity()
    }

    /// Forgets every packet and gives the memory back: nobody may ask for this encoding any more.
    pub fn clear(&mut self) {
        *self = Self { highest: self.highest, ..Self::default() };
    }

    fn is_alive(&self, slot: &Slot) -> bool {
        self.head - slot.at <= self.bytes.len() as u64
    }

    /// The slot for `seq`, grown until no packet worth keeping is in it.
    fn make_slot(&mut self, now: Instant, seq: SeqNo) -> Result<usize, Refused> {
        if self.slots.is_empty() {
            self.slots.resize(FIRST_SLOTS, None);
        }
        loop {
            let index = seq.0 as usize & (self.slots.len() - 1);
            let Some(slot) = self.slots[index].as_ref().filter(|slot| self.is_alive(slot)) else {
                return Ok(index);
            };
            let there = slot.meta.seq;
            if there == seq {
                return Err(Refused::Duplicate);
            }
            let near = there.0.abs_diff(seq.0) < Self::MAX_PACKETS as u64;
            let young = now.saturating_duration_since(slot.meta.received_at) < Self::MAX_AGE;
            if near && young && self.slots.len() < Self::MAX_PACKETS {
                self.grow_slots();
            } else if there > seq {
                return Err(Refused::TooOld);
            } else {
                return Ok(index);
            }
        }
    }

    fn grow_slots(&mut self) {
        let len = self.slots.len() * 2;
        let old = std::mem::replace(&mut self.slots, vec![None; len]);
        for slot in old.into_iter().flatten() {
            let index = slot.meta.seq.0 as usize & (len - 1);
            // Two packets meet only where they are at least `len` apart: the newer is worth more.
            if self.slots[index].is_none_or(|other| other.meta.seq < slot.meta.seq) {
                self.slots[index] = Some(slot);
            }
        }
    }

    /// Takes `len` bytes from the ring, in one piece, and says where.
    fn make_room(&mut self, now: Instant, len: usize) -> u64 {
        // The first one stays while there may be packets younger than `MAX_AGE` before the second.
        while let Some((second, _)) = self.checkpoints.get(1) {
            if now.saturating_duration_since(*second) < Self::MAX_AGE {
                break;
            }
            self.checkpoints.pop_front();
        }
        let last = self.checkpoints.back().map(|(at, _)| *at);
        if last.is_none_or(|at| now.saturating_duration_since(at) >= CHECKPOINT_INTERVAL) {
            self.checkpoints.push_back((now, self.head));
        }
        if self.bytes.is_empty() {
            self.bytes.resize(FIRST_BYTES, 0);
        }
        loop {
            let capacity = self.bytes.len();
            let offset = place(self.head, capacity);
            let skipped = if offset + len > capacity { capacity - offset } else { 0 };
            let at = self.head + skipped as u64;
            let head = at + len as u64;
            let floor = self.checkpoints.front().map_or(self.head, |(_, head)| *head);
            if head - floor > capacity as u64 && capacity < MAX_BYTES {
                self.grow_bytes();
                continue;
            }
            self.head = head;
            return at;
        }
    }

    fn grow_bytes(&mut self) {
        let capacity = self.bytes.len();
        // Slots whose bytes were overwritten must not come to life again under the new positions.
        let oldest = self.head.saturating_sub(capacity as u64);
        let mut slots: Vec<&mut Slot> = Vec::new();
        for slot in &mut self.slots {
            if slot.is_some_and(|slot| slot.at < oldest) {
                *slot = None;
            }
            slots.extend(slot.as_mut());
        }
        slots.sort_unstable_by_key(|slot| slot.at);

        let mut bytes = vec![0; capacity * 2];
        let mut head = 0;
        let mut checkpoints = self.checkpoints.iter_mut().peekable();
        for slot in slots {
            while let Some((_, position)) = checkpoints.next_if(|(_, head)| *head <= slot.at) {
                *position = head as u64;
            }
            let len = usize::from(slot.descriptor_len) + usize::from(slot.payload_len);
            let start = place(slot.at, capacity);
            bytes[head..head + len].copy_from_slice(&self.bytes[start..start + len]);
            slot.at = head as u64;
            head += len;
        }
        checkpoints.for_each(|(_, position)| *position = head as u64);
        self.bytes = bytes;
        self.head = head as u64;
    }
}

/// Where byte `at` of all that were ever written stands in a ring of so many, a power of two.
#[inline(always)]
fn place(at: u64, capacity: usize) -> usize {
    debug_assert!(capacity.is_power_of_two());
    (at & (capacity as u64).wrapping_sub(1)) as usize
}

#[cfg(test)]
mod tests;
