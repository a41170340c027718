//! Goodbye (RFC 3550 section 6.6).

use super::{BufferTooSmall, CompoundWriter, Reader};
use crate::rtp::Ssrc;

/// Sources that end.
#[derive(Clone, Copy, Debug)]
pub struct Bye<'a> {
    /// Why, if it was said.
    pub reason: Option<&'a [u8]>,
    ssrcs: &'a [[u8; 4]],
}

impl<'a> Bye<'a> {
    pub(super) fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let (ssrcs, _) = reader.take(usize::from(count) * 4)?.as_chunks();
        let reason = match reader.u8() {
            Some(len) => Some(reader.take(len.into())?),
            None => None,
        };
        Some(Self { reason, ssrcs })
    }

    /// The sources.
    pub fn ssrcs(&self) -> impl ExactSizeIterator<Item = Ssrc> + use<'a> {
        self.ssrcs.iter().map(|ssrc| Ssrc(u32::from_be_bytes(*ssrc)))
    }
}

impl CompoundWriter<'_> {
    /// Writes a goodbye of at most 31 sources; more become further messages.
    pub fn bye(&mut self, ssrcs: &[Ssrc]) -> Result<(), BufferTooSmall> {
        for ssrcs in ssrcs.chunks(31) {
            self.message(203, ssrcs.len() as u8, |writer| {
                ssrcs.iter().try_for_each(|ssrc| writer.u32(ssrc.0))
            })?;
        }
        Ok(())
    }
}
