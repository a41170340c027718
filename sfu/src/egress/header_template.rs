//! The header of a stream's plain packets, put together once.

use crate::{
    rtp::ExtensionMap,
    wire::{BufferTooSmall, ExtensionValues, RtpHeaderFields, WrittenHeader},
};

/// Longer headers are put together each time: they carry more than what this is for.
pub(super) const LEN: usize = 40;

/// Fixed part without CSRCs.
const FIXED: usize = 12;

/// Extensions of packets that carry nothing of their own differ in the m-line's name alone, which is there or not, and in what is
/// written over when a packet leaves. Their bytes are kept; the fixed part is written anew.
#[derive(Debug)]
pub(super) struct HeaderTemplate {
    bytes: [u8; LEN],
    /// Where things are in it, and whether it names the m-line; `None` before the first packet.
    written: Option<(WrittenHeader, bool)>,
}

impl HeaderTemplate {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; LEN], written: None }
    }

    /// Other extensions were negotiated.
    pub(super) fn forget(&mut self) {
        self.written = None;
    }

    /// What is kept, of packets that name the m-line or of those that do not. All behind the header's end is to be written over.
    pub(super) fn kept(&self, names_mid: bool) -> Option<(&[u8; LEN], WrittenHeader)> {
        let (written, _) = self.written.filter(|(_, named)| *named == names_mid)?;
        Some((&self.bytes, written))
    }

    /// Writes the header of a packet. `values` says what it carries if nothing is kept. What `out` has behind it is undefined.
    #[inline(always)]
    pub(super) fn write<'a>(
        &mut self,
        fields: &RtpHeaderFields,
        names_mid: bool,
        map: &ExtensionMap,
        values: impl FnOnce() -> ExtensionValues<'a>,
        out: &mut [u8],
    ) -> Result<WrittenHeader, BufferTooSmall> {
        if let Some((written, named)) = self.written
            && named == names_mid
            && let Some(place) = out.first_chunk_mut::<LEN>()
        {
            // With what is behind it, which is written over: a copy of known length is three moves.
            *place = self.bytes;
            fields.write_fixed(place);
            return Ok(written);
        }
        let written = fields.write(out, &values(), map)?;
        if (FIXED..=LEN).contains(&written.len)
            && let Some(bytes) = out.get(..written.len)
        {
            self.bytes[..written.len].copy_from_slice(bytes);
            self.written = Some((written, names_mid));
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::{Extension, Mid, Pt, RtpTs32, Seq16, Ssrc};

    #[test]
    fn what_is_kept_is_what_would_be_written() {
        let mut map = ExtensionMap::default();
        map.set(Extension::Mid, 4);
        map.set(Extension::TransportCc, 5);
        let mut template = HeaderTemplate::new();
        for n in 0..40_u32 {
            let names_mid = n % 5 < 2;
            let fields = RtpHeaderFields {
                marker: n % 3 == 0,
                pt: Pt::new(96 + n as u8 % 2).unwrap(),
                seq: Seq16(n as u16 * 999),
                timestamp: RtpTs32(n * 70_000),
                ssrc: Ssrc(n % 4 + 1),
            };
            let values = || ExtensionValues {
                mid: Mid::new(b"video-0").filter(|_| names_mid),
                transport_cc: Some(0),
                ..ExtensionValues::default()
            };
            let (mut kept, mut anew) = ([7; 64], [7; 64]);
            let written = template.write(&fields, names_mid, &map, values, &mut kept).unwrap();
            assert_eq!(written, fields.write(&mut anew, &values(), &map).unwrap());
            let len = written.len;
            assert_eq!(kept[..len], anew[..len], "packet {n}");
            if n == 20 {
                map.set(Extension::TransportCc, 0);
                template.forget();
            }
        }
        let fields = RtpHeaderFields {
            marker: false,
            pt: Pt::new(96).unwrap(),
            seq: Seq16(1),
            timestamp: RtpTs32(1),
            ssrc: Ssrc(1),
        };
        let small = template.write(&fields, true, &map, ExtensionValues::default, &mut [0; 9]);
        assert!(small.is_err(), "no room");
    }
}
