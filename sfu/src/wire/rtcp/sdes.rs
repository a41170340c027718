//! Source description (RFC 3550 section 6.5).

use super::{BufferTooSmall, CompoundWriter, Reader};
use crate::rtp::Ssrc;

/// One item of one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SdesItem<'a> {
    /// The source described.
    pub ssrc: Ssrc,
    /// Item type, e.g. [`SdesItem::CNAME`].
    pub kind: u8,
    /// UTF-8 by the RFC, anything in fact.
    pub text: &'a [u8],
}

impl SdesItem<'_> {
    /// Canonical name.
    pub const CNAME: u8 = 1;
    /// MID (RFC 8843 section 15.2).
    pub const MID: u8 = 15;
    /// RtpStreamId (RFC 8852).
    pub const RTP_STREAM_ID: u8 = 12;
    /// RepairedRtpStreamId (RFC 8852).
    pub const REPAIRED_RTP_STREAM_ID: u8 = 13;
}

/// Source description.
#[derive(Clone, Copy, Debug)]
pub struct Sdes<'a> {
    count: u8,
    chunks: &'a [u8],
}

impl<'a> Sdes<'a> {
    pub(super) fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        let mut items = SdesItems {
            chunks_left: count,
            ssrc: None,
            total: body.len(),
            reader: Reader::new(body),
        };
        while items.step()?.is_some() {}
        Some(Self { count, chunks: body })
    }

    /// All items of all sources, in order.
    pub fn items(&self) -> impl Iterator<Item = SdesItem<'a>> + use<'a> {
        let mut items = SdesItems {
            chunks_left: self.count,
            ssrc: None,
            total: self.chunks.len(),
            reader: Reader::new(self.chunks),
        };
        // The chunks were checked when the message was parsed.
        std::iter::from_fn(move || items.step().flatten())
    }
}

struct SdesItems<'a> {
    chunks_left: u8,
    /// Source of the chunk that is being read.
    ssrc: Option<Ssrc>,
    total: usize,
    reader: Reader<'a>,
}

impl<'a> SdesItems<'a> {
    /// `None` when malformed, `Some(None)` at the end.
    fn step(&mut self) -> Option<Option<SdesItem<'a>>> {
        loop {
            let Some(ssrc) = self.ssrc else {
                let Some(left) = self.chunks_left.checked_sub(1) else { return Some(None) };
                self.chunks_left = left;
                self.ssrc = Some(Ssrc(self.reader.u32()?));
                continue;
            };
            let kind = self.reader.u8()?;
            if kind == 0 {
                // A chunk ends with one to four zero bytes, up to the next 32-bit boundary.
                let at = self.total - self.reader.rest().len();
                self.reader.take(at.next_multiple_of(4) - at)?;
                self.ssrc = None;
                continue;
            }
            let len = self.reader.u8()?;
            return Some(Some(SdesItem { ssrc, kind, text: self.reader.take(len.into())? }));
        }
    }
}

impl CompoundWriter<'_> {
    /// Writes one chunk with a canonical name, cut at 255 bytes.
    pub fn sdes_cname(&mut self, ssrc: Ssrc, cname: &[u8]) -> Result<(), BufferTooSmall> {
        let cname = cname.get(..255).unwrap_or(cname);
        self.message(202, 1, |writer| {
            writer.u32(ssrc.0)?;
            writer.put(&[SdesItem::CNAME, cname.len() as u8])?;
            writer.put(cname)?;
            writer.u8(0)
        })
    }
}
