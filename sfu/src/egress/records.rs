//! What was sent lately, for repair.

use std::time::{Duration, Instant};

use crate::{
    cache::{CodecPatch, PacketMeta, Rewritten},
    rtp::{RtpTs32, SeqNo},
    wire::DescriptorPatch,
};

/// A ring of small records by egress sequence number. It starts small and doubles while a record younger than
/// [`Self::MAX_AGE`] would be lost, so that an audio stream costs 2 KiB.
#[derive(Debug)]
pub(super) struct Records {
    /// Empty, or a power of two long.
    slots: Vec<Record>,
    /// Times in records count milliseconds from here.
    origin: Instant,
    /// The latest moment, in milliseconds: the packets of a slice share it, and telling costs more than comparing.
    latest: (Instant, u32),
}

/// How one egress packet was made: everything but the payload, which is in the track's cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// Low 32 bits of the number at egress; zero, which no stream reaches soon, marks an empty slot.
    seq: u32,
    sent_ms: u32,
    /// When it was last sent again, if ever.
    resent_ms: Option<u32>,
    pub(super) time: RtpTs32,
    pub(super) ingress_seq: SeqNo,
    pub(super) patch: CodecPatch,
    pub(super) descriptor: Option<DescriptorPatch>,
    pub(super) encoding: u8,
    pub(super) marker: bool,
}

impl Records {
    const FIRST: usize = 64;
    /// About two seconds of a 5 Mb/s stream.
    const MAX: usize = 1_024;
    /// As long as a cache keeps packets.
    const MAX_AGE: Duration = Duration::from_secs(1);

    pub(super) fn new(origin: Instant) -> Self {
        Self { slots: Vec::new(), origin, latest: (origin, 0) }
    }

    pub(super) fn insert(&mut self, now: Instant, meta: &PacketMeta, rewritten: &Rewritten) {
        let sent_ms = self.millis(now);
        let seq = rewritten.seq;
        let record = Record {
            seq: seq.0 as u32,
            sent_ms,
            resent_ms: None,
            time: rewritten.time.ts32(),
            ingress_seq: meta.seq,
            patch: rewritten.patch,
            descriptor: rewritten.descriptor,
            encoding: meta.encoding,
            marker: rewritten.marker,
        };
        if self.slots.is_empty() {
            self.slots.resize(Self::FIRST, Record::EMPTY);
        }
        let index = self.index(seq);
        let old = &self.slots[index];
        let young = u128::from(sent_ms.saturating_sub(old.sent_ms)) < Self::MAX_AGE.as_millis();
        if old.seq != 0 && young && self.slots.len() < Self::MAX {
            self.grow();
        }
        let index = self.index(seq);
        self.slots[index] = record;
    }

    pub(super) fn get(&self, seq: SeqNo) -> Option<&Record> {
        let record = self.slots.get(self.index(seq))?;
        (record.seq == seq.0 as u32).then_some(record)
    }

    /// Marks a packet as sent again; false when that happened less than `rtt` ago.
    pub(super) fn claim_resend(&mut self, now: Instant, seq: SeqNo, rtt: Duration) -> bool {
        let now_ms = self.millis(now);
        let index = self.index(seq);
        let Some(record) = self.slots.get_mut(index).filter(|record| record.seq == seq.0 as u32)
        else {
            return false;
        };
        let too_soon = record
            .resent_ms
            .is_some_and(|at| u128::from(now_ms.saturating_sub(at)) < rtt.as_millis());
        if !too_soon {
            record.resent_ms = Some(now_ms);
        }
        !too_soon
    }

    fn index(&self, seq: SeqNo) -> usize {
        seq.0 as usize & self.slots.len().wrapping_sub(1)
    }

    fn grow(&mut self) {
        let len = self.slots.len() * 2;
        let old = std::mem::replace(&mut self.slots, vec![Record::EMPTY; len]);
        for record in old {
            if record.seq != 0 {
                self.slots[record.seq as usize & (len - 1)] = record;
            }
        }
    }

    fn millis(&mut self, now: Instant) -> u32 {
        if self.latest.0 != now {
            let millis = now.saturating_duration_since(self.origin).as_millis() as u32;
            self.latest = (now, millis);
        }
        self.latest.1
    }
}

impl Record {
    const EMPTY: Self = Self {
        seq: 0,
        sent_ms: 0,
        resent_ms: None,
        time: RtpTs32(0),
        ingress_seq: SeqNo(0),
        patch: CodecPatch::NONE,
        descriptor: None,
        encoding: 0,
        marker: false,
    };
}
