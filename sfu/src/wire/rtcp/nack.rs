//! Generic NACK (RFC 4585 section 6.2.1).

use super::{BufferTooSmall, CompoundWriter, Reader};
use crate::rtp::{Seq16, Ssrc};

/// Packets that a receiver misses.
#[derive(Clone, Copy, Debug)]
pub struct Nack<'a> {
    /// Who misses them.
    pub sender: Ssrc,
    /// The stream they belong to.
    pub media: Ssrc,
    entries: &'a [[u8; 4]],
}

impl<'a> Nack<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let (sender, media) = (Ssrc(reader.u32()?), Ssrc(reader.u32()?));
        let (entries, odd) = reader.rest().as_chunks();
        odd.is_empty().then_some(Self { sender, media, entries })
    }

    /// The missing sequence numbers, in the order of the message: up to 17 for each four bytes.
    pub fn lost(&self) -> impl Iterator<Item = Seq16> + use<'a> {
        self.entries.iter().flat_map(|[a, b, c, d]| {
            let pid = u16::from_be_bytes([*a, *b]);
            // The packet itself is bit 0, the mask of the following ones is above it.
            let mask = u32::from(u16::from_be_bytes([*c, *d])) << 1 | 1;
            (0..17u16)
                .filter(move |bit| mask & 1 << bit != 0)
                .map(move |bit| Seq16(pid.wrapping_add(bit)))
        })
    }
}

impl CompoundWriter<'_> {
    /// Writes a NACK. Ascending numbers (across the wrap) pack best. Nothing is written for no numbers.
    pub fn nack(
        &mut self,
        sender: Ssrc,
        media: Ssrc,
        lost: impl IntoIterator<Item = Seq16>,
    ) -> Result<(), BufferTooSmall> {
        let mut lost = lost.into_iter().peekable();
        if lost.peek().is_none() {
            return Ok(());
        }
        self.message(205, 1, |writer| {
            writer.u32(sender.0)?;
            writer.u32(media.0)?;
            while let Some(Seq16(pid)) = lost.next() {
                let mut mask = 0u16;
                while let Some(Seq16(next)) = lost.peek() {
                    let distance = next.wrapping_sub(pid);
                    if distance > 16 {
                        break;
                    }
                    if distance > 0 {
                        mask |= 1 << (distance - 1);
                    }
                    lost.next();
                }
                writer.u16(pid)?;
                writer.u16(mask)?;
            }
            Ok(())
        })
    }
}
