//! Redundant audio (RFC 2198).

use super::{PayloadError, Reader};
use crate::rtp::Pt;

/// One block: older sound, or the primary one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedBlock<'a> {
    /// Payload type of the data.
    pub pt: Pt,
    /// How much older than the packet's timestamp it is, in units of the clock; 0 for the primary.
    pub timestamp_offset: u16,
    /// Payload.
    pub data: &'a [u8],
}

/// The block that the packet is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedPrimary<'a> {
    /// Payload type of the data.
    pub pt: Pt,
    /// Payload.
    pub data: &'a [u8],
    /// Where the data starts in the RED payload.
    pub offset: usize,
}

/// Iterates the blocks of a RED payload, the oldest first and the primary last.
#[derive(Clone, Copy, Debug)]
pub struct RedBlocks<'a> {
    headers: Reader<'a>,
    data: Reader<'a>,
    /// Redundant blocks still to come.
    left: usize,
    primary: RedPrimary<'a>,
    done: bool,
}

impl<'a> RedBlocks<'a> {
    /// More blocks than any sender puts into a packet.
    const MAX_BLOCKS: usize = 32;

    /// Checks that all blocks are there.
    pub fn parse(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(payload);
        let headers = reader;
        let (mut left, mut redundant_len) = (0, 0);
        let pt = loop {
            let first = reader.u8().ok_or(PayloadError::Short)?;
            if first & 0x80 == 0 {
                break Pt::from_header_byte(first);
            }
            redundant_len += (reader.u24().ok_or(PayloadError::Short)? & 0x3ff) as usize;
            left += 1;
            if left == Self::MAX_BLOCKS {
                return Err(PayloadError::Malformed);
            }
        };
        let data = reader;
        reader.take(redundant_len).ok_or(PayloadError::Short)?;
        let offset = payload.len() - reader.rest().len();
        let primary = RedPrimary { pt, data: reader.rest(), offset };
        Ok(Self { headers, data, left, primary, done: false })
    }

    /// The block that the packet is about. Empty when the sender had nothing new to say.
    pub const fn primary(&self) -> RedPrimary<'a> {
        self.primary
    }
}

/// Writes a RED payload: older sounds, the oldest first, each with how much older it is (14 bits, units of the clock), and
/// the primary one. All blocks have the same payload type. Returns its length; `None` where `out` is too small, or a block
/// has more than 1,023 bytes.
#[must_use]
pub fn write_red(
    out: &mut [u8],
    block: Pt,
    older: &[(u16, &[u8])],
    primary: &[u8],
) -> Option<usize> {
    let mut rest = out.get_mut(..)?;
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        let (place, behind) = std::mem::take(&mut rest).split_at_mut_checked(bytes.len())?;
        place.copy_from_slice(bytes);
        rest = behind;
        len += bytes.len();
        Some(())
    };
    for (offset, data) in older {
        let size = u32::try_from(data.len()).ok().filter(|size| *size < 1 << 10)?;
        let bits = u32::from(0x80 | block.value()) << 24 | u32::from(offset & 0x3fff) << 10 | size;
        put(&bits.to_be_bytes())?;
    }
    put(&[block.value()])?;
    for (_, data) in older {
        put(data)?;
    }
    put(primary)?;
    Some(len)
}

impl<'a> Iterator for RedBlocks<'a> {
    type Item = RedBlock<'a>;

    fn next(&mut self) -> Option<RedBlock<'a>> {
        if self.done {
            return None;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.done = true;
            let RedPrimary { pt, data, .. } = self.primary;
            return Some(RedBlock { pt, timestamp_offset: 0, data });
        };
        self.left = left;
        let pt = Pt::from_header_byte(self.headers.u8()?);
        let bits = self.headers.u24()?;
        let data = self.data.take((bits & 0x3ff) as usize)?;
        Some(RedBlock { pt, timestamp_offset: (bits >> 10) as u16, data })
    }
}
