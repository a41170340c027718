//! Receiver report and the report blocks that sender reports share (RFC 3550 section 6.4.2).

use super::{BufferTooSmall, CompoundWriter, Reader, Writer};
use crate::rtp::Ssrc;

/// How one source was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReportBlock {
    /// The source reported on.
    pub ssrc: Ssrc,
    /// Lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Lost since the start; negative with duplicates. 24 bits on the wire, saturated when written.
    pub cumulative_lost: i32,
    /// Rollovers in the high 16 bits, sequence number in the low ones.
    pub highest_seq: u32,
    /// Interarrival jitter in units of the codec's clock.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last sender report; 0 when there was none.
    pub last_sr: u32,
    /// Since that report came, in 1/65536 s.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    const LEN: usize = 24;

    /// What one message can carry: its count has five bits.
    pub const MAX_PER_MESSAGE: usize = 31;

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let ssrc = Ssrc(reader.u32()?);
        let loss = reader.u32()?;
        Some(Self {
            ssrc,
            fraction_lost: (loss >> 24) as u8,
            cumulative_lost: (loss << 8) as i32 >> 8,
            highest_seq: reader.u32()?,
            jitter: reader.u32()?,
            last_sr: reader.u32()?,
            delay_since_last_sr: reader.u32()?,
        })
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        writer.u32(self.ssrc.0)?;
        writer.u8(self.fraction_lost)?;
        writer.u24(self.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32)?;
        writer.u32(self.highest_seq)?;
        writer.u32(self.jitter)?;
        writer.u32(self.last_sr)?;
        writer.u32(self.delay_since_last_sr)
    }
}

/// Iterates report blocks.
#[derive(Clone, Copy, Debug)]
pub struct ReportBlocks<'a> {
    reader: Reader<'a>,
}

impl<'a> ReportBlocks<'a> {
    /// `None` when there is less than `count` blocks. What follows them is a profile's own and passed over.
    pub(super) fn take(count: u8, reader: &mut Reader<'a>) -> Option<Self> {
        let blocks = reader.take(usize::from(count) * ReportBlock::LEN)?;
        Some(Self { reader: Reader::new(blocks) })
    }
}

impl Iterator for ReportBlocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        ReportBlock::read(&mut self.reader)
    }
}

/// Receiver report.
#[derive(Clone, Copy, Debug)]
pub struct ReceiverReport<'a> {
    /// Who reports.
    pub ssrc: Ssrc,
    /// What it received.
    pub reports: ReportBlocks<'a>,
}

impl<'a> ReceiverReport<'a> {
    pub(super) fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let ssrc = Ssrc(reader.u32()?);
        Some(Self { ssrc, reports: ReportBlocks::take(count, &mut reader)? })
    }
}

impl CompoundWriter<'_> {
    /// Writes one receiver report, empty or with at most 31 blocks; more become further reports.
    pub fn receiver_report(
        &mut self,
        ssrc: Ssrc,
        reports: &[ReportBlock],
    ) -> Result<(), BufferTooSmall> {
        let (first, rest) = reports.split_at(reports.len().min(ReportBlock::MAX_PER_MESSAGE));
        self.message(201, first.len() as u8, |writer| {
            writer.u32(ssrc.0)?;
            first.iter().try_for_each(|report| report.write(writer))
        })?;
        if rest.is_empty() { Ok(()) } else { self.receiver_report(ssrc, rest) }
    }
}
