//! Extended reports (RFC 3611): the blocks with which a receiver measures round trip time.

use super::{BufferTooSmall, CompoundWriter, Reader};
use crate::{rtp::Ssrc, wire::NtpTime};

/// Extended report.
#[derive(Clone, Copy, Debug)]
pub struct ExtendedReport<'a> {
    /// Who reports.
    pub sender: Ssrc,
    blocks: &'a [u8],
}

impl<'a> ExtendedReport<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let sender = Ssrc(reader.u32()?);
        let blocks = reader.rest();
        while !reader.rest().is_empty() {
            XrBlock::read(&mut reader)?;
        }
        Some(Self { sender, blocks })
    }

    /// The blocks in order.
    pub fn blocks(&self) -> impl Iterator<Item = XrBlock<'a>> + use<'a> {
        let mut reader = Reader::new(self.blocks);
        // The blocks were checked when the message was parsed; at the end the header cannot be read.
        std::iter::from_fn(move || XrBlock::read(&mut reader))
    }
}

/// One report block.
#[derive(Clone, Copy, Debug)]
pub enum XrBlock<'a> {
    /// Receiver reference time (section 4.4): to be answered with a [`DlrrItem`].
    ReferenceTime(NtpTime),
    /// Delay since last receiver reference time (section 4.5); see [`XrBlock::dlrr_items`].
    Dlrr(&'a [[u8; 12]]),
    /// Another block type.
    Unknown(u8),
}

impl<'a> XrBlock<'a> {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let [kind, _] = reader.array()?;
        let len = usize::from(reader.u16()?) * 4;
        let mut body = Reader::new(reader.take(len)?);
        match kind {
            4 => Some(Self::ReferenceTime(NtpTime(body.u64()?))),
            5 => {
                let (items, odd) = body.rest().as_chunks();
                odd.is_empty().then_some(Self::Dlrr(items))
            }
            kind => Some(Self::Unknown(kind)),
        }
    }

    /// The items of a DLRR block; empty for other blocks.
    pub fn dlrr_items(&self) -> impl ExactSizeIterator<Item = DlrrItem> + use<'a> {
        let items = match *self {
            Self::Dlrr(items) => items,
            Self::ReferenceTime(_) | Self::Unknown(_) => &[],
        };
        items.iter().map(|[a, b, c, d, e, f, g, h, i, j, k, l]| DlrrItem {
            ssrc: Ssrc(u32::from_be_bytes([*a, *b, *c, *d])),
            last_rr: u32::from_be_bytes([*e, *f, *g, *h]),
            delay: u32::from_be_bytes([*i, *j, *k, *l]),
        })
    }
}

/// The answer to one receiver's reference time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DlrrItem {
    /// The receiver that asked.
    pub ssrc: Ssrc,
    /// Middle 32 bits of its reference time.
    pub last_rr: u32,
    /// Since it came, in 1/65536 s.
    pub delay: u32,
}

impl CompoundWriter<'_> {
    /// Writes a receiver reference time.
    pub fn xr_reference_time(&mut self, sender: Ssrc, ntp: NtpTime) -> Result<(), BufferTooSmall> {
        self.message(207, 0, |writer| {
            writer.u32(sender.0)?;
            writer.put(&[4, 0, 0, 2])?;
            writer.u64(ntp.0)
        })
    }

    /// Writes answers to reference times.
    pub fn xr_dlrr(&mut self, sender: Ssrc, items: &[DlrrItem]) -> Result<(), BufferTooSmall> {
        let words = u16::try_from(items.len() * 3).map_err(|_| BufferTooSmall)?;
        self.message(207, 0, |writer| {
            writer.u32(sender.0)?;
            writer.put(&[5, 0])?;
            writer.u16(words)?;
            for item in items {
                writer.u32(item.ssrc.0)?;
                writer.u32(item.last_rr)?;
                writer.u32(item.delay)?;
            }
            Ok(())
        })
    }
}
