//! Packets that differ from those before them in nothing but number, marker and payload.

use super::{EgressStream, Leaving, PayloadMapping, Written};
use crate::{
    cache::{CachedPacket, Rewritten},
    egress::header_template::LEN,
    rtp::{Seq16, SeqNo, Ssrc},
    wire::{RtpHeaderFields, WrittenHeader},
};

/// What the packets of a frame are written from: the header, without number and marker, and what changes in their payloads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// Bytes behind the header's end are written over.
    header: [u8; LEN],
    written: WrittenHeader,
    ssrc: Ssrc,
    /// What of a payload's first bytes stays, and what is set: see [`CodecPatch::on_first_sixteen`].
    ///
    /// [`CodecPatch::on_first_sixteen`]: crate::cache::CodecPatch::on_first_sixteen
    kept: u128,
    set: u128,
}

impl EgressStream {
    /// `None` where more than this changes, or what is written is looked at once more, or nothing is kept of the header yet.
    #[inline(always)]
    pub(crate) fn stamp(&self, leaving: Leaving, rewritten: &Rewritten) -> Option<Stamp> {
        let Leaving { mapping, names_mid, .. } = leaving;
        if mapping.payload != PayloadMapping::Verbatim
            || self.redundancy() > 0
            || self.marks.protected
        {
            return None;
        }
        let (known, written) = self.header.kept(names_mid)?;
        let (kept, set) = rewritten.patch.on_first_sixteen()?;
        let mut header = *known;
        let fields = RtpHeaderFields {
            marker: false,
            pt: mapping.pt,
            seq: Seq16(0),
            timestamp: rewritten.time.ts32(),
            ssrc: self.ssrc,
        };
        fields.write_fixed(&mut header);
        Some(Stamp { header, written, ssrc: self.ssrc, kept, set })
    }
}

impl Stamp {
    /// Whether a packet can be written from it: its header is plain ([`CachedPacket::is_plain`]), its payload not shorter than what may
    /// change in it.
    #[inline(always)]
    pub(crate) fn suits(&self, packet: &CachedPacket<'_>) -> bool {
        packet.is_plain() && packet.payload.len() >= 16
    }

    /// Writes a packet that it suits. `None`: there is no room for it.
    #[inline(always)]
    pub(crate) fn write(
        &self,
        packet: CachedPacket<'_>,
        seq: SeqNo,
        marker: bool,
        out: &mut [u8],
    ) -> Option<Written> {
        debug_assert!(self.suits(&packet));
        let place = out.first_chunk_mut::<LEN>()?;
        let Self { header, written, ssrc, kept, set } = self;
        // In pieces that do not overlap: where the cipher reads what was written over, it waits until all of the payload has reached the cache.
        let (first, rest) = header.split_first_chunk::<8>()?;
        let (first_place, rest_place) = place.split_first_chunk_mut::<8>()?;
        let own = u64::from(marker) << 55 | u64::from(seq.seq16().0) << 32;
        *first_place = (u64::from_be_bytes(*first) | own).to_be_bytes();
        rest_place.copy_from_slice(rest);
        let len = packet.payload.len();
        let place = out.get_mut(written.len..written.len + len)?;
        let (first, rest) = packet.payload.split_first_chunk::<16>()?;
        let (first_place, rest_place) = place.split_first_chunk_mut::<16>()?;
        *first_place = (u128::from_le_bytes(*first) & kept | set).to_le_bytes();
        rest_place.copy_from_slice(rest);
        Some(Written {
            len: written.len + len,
            header_len: written.len,
            ssrc: *ssrc,
            seq,
            transport_cc: written.transport_cc,
            abs_send_time: written.abs_send_time,
        })
    }
}

#[cfg(test)]
mod tests;
