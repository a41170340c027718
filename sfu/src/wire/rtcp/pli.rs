//! Picture loss indication (RFC 4585 section 6.3.1).

use super::{BufferTooSmall, CompoundWriter, Reader};
use crate::rtp::Ssrc;

/// A decoder asks for a keyframe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pli {
    /// Who asks.
    pub sender: Ssrc,
    /// The stream to refresh.
    pub media: Ssrc,
}

impl Pli {
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        Some(Self { sender: Ssrc(reader.u32()?), media: Ssrc(reader.u32()?) })
    }
}

impl CompoundWriter<'_> {
    /// Writes a picture loss indication.
    pub fn pli(&mut self, pli: &Pli) -> Result<(), BufferTooSmall> {
        self.message(206, 1, |writer| {
            writer.u32(pli.sender.0)?;
            writer.u32(pli.media.0)
        })
    }
}
