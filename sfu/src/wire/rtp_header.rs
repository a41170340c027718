//! RTP headers as they leave: written anew for each subscriber (RFC 3550 section 5.1, RFC 8285).

use super::{
    cursor::{BufferTooSmall, Writer},
    extension::{AbsSendTime, ExtensionValues},
};
use crate::rtp::{Extension, ExtensionMap, Pt, RtpTs32, Seq16, Ssrc};

/// The fixed part of a header to write: no CSRCs, no padding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RtpHeaderFields {
    /// Marker bit.
    pub marker: bool,
    /// Payload type.
    pub pt: Pt,
    /// Sequence number.
    pub seq: Seq16,
    /// Timestamp.
    pub timestamp: RtpTs32,
    /// Synchronisation source.
    pub ssrc: Ssrc,
}

/// Where things are in a header that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct WrittenHeader {
    /// Bytes written: the payload goes here.
    pub len: usize,
    /// Offset of the transport-wide sequence number, for [`patch_transport_cc`].
    pub transport_cc: Option<u16>,
    /// Offset of the absolute send time, for [`patch_abs_send_time`].
    pub abs_send_time: Option<u16>,
}

impl RtpHeaderFields {
    /// Room that a header needs at most while its raw values (dependency descriptor, layers allocation) are not
    /// longer than 200 bytes together.
    pub const MAX_LEN: usize = 320;

    /// Writes the header and those of `extensions` that `map` has an id for: in the one-byte form where all of
    /// them fit it, else in the two-byte form. A value that no element can carry is left out.
    pub fn write(
        &self,
        buf: &mut [u8],
        extensions: &ExtensionValues<'_>,
        map: &ExtensionMap,
    ) -> Result<WrittenHeader, BufferTooSmall> {
        let mut present = [(Extension::Mid, 0, 0); Extension::ALL.len()];
        let mut count = 0;
        let mut one_byte = true;
        for extension in Extension::ALL {
            let Some(id) = map.id(extension) else { continue };
            let Some(len) = extensions.wire_len(extension) else { continue };
            present[count] = (extension, id, len as u8);
            count += 1;
            one_byte &= id <= 14 && len <= 16;
        }
        let any = count > 0;

        let mut writer = Writer::new(buf);
        writer.u8(0x80 | u8::from(any) << 4)?;
        writer.u8(u8::from(self.marker) << 7 | self.pt.value())?;
        writer.u16(self.seq.0)?;
        writer.u32(self.timestamp.0)?;
        writer.u32(self.ssrc.0)?;
        let mut written = WrittenHeader { len: 0, transport_cc: None, abs_send_time: None };
        if any {
            writer.u16(if one_byte { 0xbede } else { 0x1000 })?;
            let len_at = writer.len();
            writer.u16(0)?;
            let block_at = writer.len();
            for (extension, id, len) in present.into_iter().take(count) {
                if one_byte {
                    writer.u8(id << 4 | (len - 1))?;
                } else {
                    writer.put(&[id, len])?;
                }
                let value_at = writer.len() as u16;
                match extension {
                    Extension::TransportCc => written.transport_cc = Some(value_at),
                    Extension::AbsSendTime => written.abs_send_time = Some(value_at),
                    _ => {}
                }
                extensions.write(extension, &mut writer)?;
            }
            writer.pad4()?;
            let words = (writer.len() - block_at) / 4;
            writer.set_u16(len_at, words as u16);
        }
        written.len = writer.len();
        Ok(written)
    }

    /// Writes over the fixed part of a header that was written before, all but what says whether it has extensions.
    pub(crate) fn write_fixed(&self, header: &mut [u8]) {
        let Some((fixed, rest)) = header.split_first_chunk_mut::<8>() else { return };
        let second = u8::from(self.marker) << 7 | self.pt.value();
        let first = u16::from_be_bytes([fixed[0], second]);
        let (first, seq) = (u64::from(first), u64::from(self.seq.0));
        *fixed = (first << 48 | seq << 32 | u64::from(self.timestamp.0)).to_be_bytes();
        if let Some(ssrc) = rest.first_chunk_mut() {
            *ssrc = self.ssrc.0.to_be_bytes();
        }
    }
}

/// Puts the transport-wide sequence number into a header that was written with room for it.
pub fn patch_transport_cc(packet: &mut [u8], at: u16, seq: u16) {
    let at = usize::from(at);
    debug_assert!(at + 2 <= packet.len(), "offset of another packet");
    if let Some(bytes) = packet.get_mut(at..at + 2) {
        bytes.copy_from_slice(&seq.to_be_bytes());
    }
}

/// Puts the absolute send time into a header that was written with room for it.
pub fn patch_abs_send_time(packet: &mut [u8], at: u16, time: AbsSendTime) {
    let at = usize::from(at);
    debug_assert!(at + 3 <= packet.len(), "offset of another packet");
    if let Some(bytes) = packet.get_mut(at..at + 3) {
        bytes.copy_from_slice(&time.bits().to_be_bytes()[1..]);
    }
}
