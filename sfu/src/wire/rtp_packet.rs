//! RTP packets as they arrive: a borrowed view with all bounds checked (RFC 3550 section 5, RFC 8285).

use super::{cursor::Reader, extension::ExtensionValues};
use crate::rtp::{Extension, ExtensionMap, Pt, RtpTs32, Seq16, Ssrc};

/// Why bytes are no RTP packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum RtpError {
    /// Ends inside the header.
    #[error("RTP header cut short")]
    Short,
    /// Version is not 2.
    #[error("RTP version is not 2")]
    Version,
    /// A header extension element reaches over the end of the block.
    #[error("RTP header extension overruns its block")]
    Extension,
    /// The padding count is zero or larger than the payload.
    #[error("RTP padding count is wrong")]
    Padding,
}

/// The part of a packet that SRTP leaves in the clear; what demultiplexing and decryption need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RtpHeader {
    /// Marker bit.
    pub marker: bool,
    /// Payload type.
    pub pt: Pt,
    /// Sequence number as on the wire.
    pub seq: Seq16,
    /// Timestamp as on the wire.
    pub timestamp: RtpTs32,
    /// Synchronisation source.
    pub ssrc: Ssrc,
    /// Bytes before the payload: fixed header, CSRCs and extension block.
    pub header_len: usize,
    has_padding: bool,
    csrc_count: u8,
    /// `defined by profile` of the extension block; 0 when there is none.
    profile: u16,
}

impl RtpHeader {
    /// Fixed header without CSRCs.
    pub const MIN_LEN: usize = 12;

    /// Reads a header. The payload may still be encrypted, so padding is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, RtpError> {
        Self::read(&mut Reader::new(bytes)).unwrap_or(Err(RtpError::Short))
    }

    /// `None` where the bytes end.
    fn read(reader: &mut Reader<'_>) -> Option<Result<Self, RtpError>> {
        let [first, second] = reader.array()?;
        if first >> 6 != 2 {
            return Some(Err(RtpError::Version));
        }
        let mut header = Self {
            marker: second & 0x80 != 0,
            pt: Pt::from_header_byte(second),
            seq: Seq16(reader.u16()?),
            timestamp: RtpTs32(reader.u32()?),
            ssrc: Ssrc(reader.u32()?),
            header_len: Self::MIN_LEN,
            has_padding: first & 0x20 != 0,
            csrc_count: first & 0x0f,
            profile: 0,
        };
        let csrc_len = usize::from(header.csrc_count) * 4;
        reader.take(csrc_len)?;
        header.header_len += csrc_len;
        if first & 0x10 != 0 {
            header.profile = reader.u16()?;
            let len = usize::from(reader.u16()?) * 4;
            reader.take(len)?;
            header.header_len += 4 + len;
        }
        Some(Ok(header))
    }

    const fn form(&self) -> Option<ExtensionForm> {
        match self.profile {
            0xbede => Some(ExtensionForm::OneByte),
            // The low four bits are `appbits`, which mean nothing here (RFC 8285 section 4.3).
            0x1000..=0x100f => Some(ExtensionForm::TwoByte),
            _ => None,
        }
    }
}

/// A whole packet, decrypted.
#[derive(Clone, Copy, Debug)]
pub struct RtpPacket<'a> {
    /// Fixed header fields.
    pub header: RtpHeader,
    /// Media, padding removed; empty in a packet that is padding only.
    pub payload: &'a [u8],
    /// Bytes of padding behind the payload, their count included.
    pub padding: u8,
    csrcs: &'a [u8],
    elements: ExtensionElements<'a>,
}

impl<'a> RtpPacket<'a> {
    /// Reads a decrypted packet.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RtpError> {
        let header = RtpHeader::parse(bytes)?;
        let (head, body) = bytes.split_at_checked(header.header_len).ok_or(RtpError::Short)?;
        let csrc_end = RtpHeader::MIN_LEN + usize::from(header.csrc_count) * 4;
        let csrcs = head.get(RtpHeader::MIN_LEN..csrc_end).ok_or(RtpError::Short)?;
        let elements = match header.form() {
            Some(form) => ExtensionElements { form, rest: head.get(csrc_end + 4..).unwrap_or(&[]) },
            None => ExtensionElements { form: ExtensionForm::OneByte, rest: &[] },
        };
        elements.check()?;
        let mut padding = 0;
        if header.has_padding {
            padding = *body.last().ok_or(RtpError::Padding)?;
            if padding == 0 {
                return Err(RtpError::Padding);
            }
        }
        let payload_len = body.len().checked_sub(padding.into()).ok_or(RtpError::Padding)?;
        let payload = body.get(..payload_len).ok_or(RtpError::Padding)?;
        Ok(Self { header, payload, padding, csrcs, elements })
    }

    /// Contributing sources.
    pub fn csrcs(&self) -> impl ExactSizeIterator<Item = Ssrc> + use<'a> {
        self.csrcs.as_chunks().0.iter().map(|csrc| Ssrc(u32::from_be_bytes(*csrc)))
    }

    /// Extension elements as (local id, value), in order.
    pub const fn elements(&self) -> ExtensionElements<'a> {
        self.elements
    }

    /// Extension elements that `map` knows, in order.
    pub fn extensions<'m>(
        &self,
        map: &'m ExtensionMap,
    ) -> impl Iterator<Item = (Extension, &'a [u8])> + use<'a, 'm> {
        self.elements.filter_map(|(id, value)| Some((map.extension(id)?, value)))
    }

    /// All extensions that `map` knows, read in one walk. Values of a wrong length are left out.
    pub fn extension_values(&self, map: &ExtensionMap) -> ExtensionValues<'a> {
        let mut values = ExtensionValues::default();
        for (extension, value) in self.extensions(map) {
            values.read(extension, value);
        }
        values
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ExtensionForm {
    OneByte,
    TwoByte,
}

/// Iterates the elements of an extension block (RFC 8285 section 4): (local id, value).
#[derive(Clone, Copy, Debug)]
pub struct ExtensionElements<'a> {
    form: ExtensionForm,
    rest: &'a [u8],
}

impl<'a> ExtensionElements<'a> {
    fn check(mut self) -> Result<(), RtpError> {
        while self.step()?.is_some() {}
        Ok(())
    }

    fn step(&mut self) -> Result<Option<(u8, &'a [u8])>, RtpError> {
        let mut reader = Reader::new(self.rest);
        while let Some(first) = reader.u8() {
            let (id, len) = match self.form {
                ExtensionForm::OneByte => {
                    if first == 0 {
                        continue;
                    }
                    // Id 15, and padding that claims a length, end the whole block (RFC 8285 section 4.2).
                    if first >> 4 == 15 || first >> 4 == 0 {
                        break;
                    }
                    (first >> 4, usize::from(first & 0x0f) + 1)
                }
                ExtensionForm::TwoByte => {
                    if first == 0 {
                        continue;
                    }
                    (first, reader.u8().ok_or(RtpError::Extension)?.into())
                }
            };
            let value = reader.take(len).ok_or(RtpError::Extension)?;
            self.rest = reader.rest();
            return Ok(Some((id, value)));
        }
        self.rest = &[];
        Ok(None)
    }
}

impl<'a> Iterator for ExtensionElements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // The block was checked when the packet was parsed.
        self.step().ok().flatten()
    }
}
