//! What changes in a packet on its way to one subscriber: decided in `forward`, applied in `egress`.

use crate::{
    rtp::{MediaTime, SeqNo},
    wire::DescriptorPatch,
};

/// The numbers that one subscriber sees on a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewritten {
    /// Sequence number at egress.
    pub seq: SeqNo,
    /// Timestamp at egress.
    pub time: MediaTime,
    /// Marker bit: the last packet of a picture as this subscriber gets it.
    pub marker: bool,
    /// Changes to the payload.
    pub patch: CodecPatch,
    /// Changes to the dependency descriptor.
    pub descriptor: Option<DescriptorPatch>,
    /// First packet of a stream: after a pause, of another encoding or another source.
    pub opens: bool,
    /// Packets with higher numbers that are here already may have waited for this one: they have to be tried again. It
    /// opens a stream, or brings the structure by which others are read.
    pub awaited: bool,
}

/// At most six bytes of a payload to overwrite; applied while the payload is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CodecPatch {
    at: u8,
    len: u8,
    bytes: [u8; Self::MAX_LEN],
}

impl CodecPatch {
    /// Bytes at most.
    pub const MAX_LEN: usize = 6;
    /// Nothing changes.
    pub const NONE: Self = Self { at: 0, len: 0, bytes: [0; Self::MAX_LEN] };

    /// From byte `at` on.
    pub const fn new(at: u8) -> Self {
        Self { at, len: 0, bytes: [0; Self::MAX_LEN] }
    }

    /// One byte more. The seventh is left out: no payload descriptor has it.
    pub fn push(&mut self, byte: u8) {
        debug_assert!(usize::from(self.len) < Self::MAX_LEN, "patch too long");
        if let Some(slot) = self.bytes.get_mut(usize::from(self.len)) {
            *slot = byte;
            self.len += 1;
        }
    }

    /// What it makes of the first sixteen bytes of a payload, read as a little-endian number: which bits stay, and which are set.
    /// `None` where it reaches beyond them.
    pub(crate) fn on_first_sixteen(&self) -> Option<(u128, u128)> {
        let (at, len) = (u32::from(self.at) * 8, u32::from(self.len) * 8);
        if at + len > u128::BITS {
            return None;
        }
        let [a, b, c, d, e, f] = self.bytes;
        let bytes = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) & !(u64::MAX << len);
        let changed = u128::from(!(u64::MAX << len)) << (at % u128::BITS);
        Some((!changed, u128::from(bytes) << (at % u128::BITS)))
    }

    /// Overwrites its bytes; those beyond the payload's end are left out.
    #[inline(always)]
    pub fn apply(&self, payload: &mut [u8]) {
        let at = usize::from(self.at);
        let len = usize::from(self.len);
        // One by one: for a copy of so few, whose length nobody knows before, the call costs more.
        if let Some(place) = payload.get_mut(at..at + len) {
            for (place, byte) in place.iter_mut().zip(self.bytes) {
                *place = byte;
            }
        }
    }
}
