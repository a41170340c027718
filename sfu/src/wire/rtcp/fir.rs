//! Full intra request (RFC 5104 section 4.3.1).

use super::{BufferTooSmall, CompoundWriter, Reader};
use crate::rtp::Ssrc;

/// One stream to refresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirEntry {
    /// The stream.
    pub ssrc: Ssrc,
    /// Counts commands to this stream: a repeated number is a repeated request, not a new one.
    pub seq: u8,
}

/// A request for decoder refresh points.
#[derive(Clone, Copy, Debug)]
pub struct Fir<'a> {
    /// Who asks.
    pub sender: Ssrc,
    entries: &'a [[u8; 8]],
}

impl<'a> Fir<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let sender = Ssrc(reader.u32()?);
        // The media source of the header is unused: each entry names its own.
        reader.u32()?;
        let (entries, odd) = reader.rest().as_chunks();
        odd.is_empty().then_some(Self { sender, entries })
    }

    /// The streams to refresh.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = FirEntry> + use<'a> {
        self.entries.iter().map(|[a, b, c, d, seq, ..]| FirEntry {
            ssrc: Ssrc(u32::from_be_bytes([*a, *b, *c, *d])),
            seq: *seq,
        })
    }
}

impl CompoundWriter<'_> {
    /// Writes a full intra request.
    pub fn fir(&mut self, sender: Ssrc, entries: &[FirEntry]) -> Result<(), BufferTooSmall> {
        self.message(206, 4, |writer| {
            writer.u32(sender.0)?;
            writer.u32(0)?;
            for entry in entries {
                writer.u32(entry.ssrc.0)?;
                writer.put(&[entry.seq, 0, 0, 0])?;
            }
            Ok(())
        })
    }
}
