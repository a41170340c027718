//! Sender report (RFC 3550 section 6.4.1).

use super::{BufferTooSmall, CompoundWriter, Reader, ReportBlock, ReportBlocks};
use crate::{
    rtp::{RtpTs32, Ssrc},
    wire::NtpTime,
};

/// What a sender says about its own stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenderInfo {
    /// The stream.
    pub ssrc: Ssrc,
    /// Wall clock now.
    pub ntp: NtpTime,
    /// The same instant on the stream's clock.
    pub rtp_timestamp: RtpTs32,
    /// Packets sent so far, modulo 2^32.
    pub packet_count: u32,
    /// Payload bytes sent so far, modulo 2^32.
    pub octet_count: u32,
}

/// Sender report.
#[derive(Clone, Copy, Debug)]
pub struct SenderReport<'a> {
    /// About what it sends.
    pub info: SenderInfo,
    /// About what it receives.
    pub reports: ReportBlocks<'a>,
}

impl<'a> SenderReport<'a> {
    pub(super) fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let info = SenderInfo {
            ssrc: Ssrc(reader.u32()?),
            ntp: NtpTime(reader.u64()?),
            rtp_timestamp: RtpTs32(reader.u32()?),
            packet_count: reader.u32()?,
            octet_count: reader.u32()?,
        };
        Some(Self { info, reports: ReportBlocks::take(count, &mut reader)? })
    }
}

impl CompoundWriter<'_> {
    /// Writes a sender report; blocks above 31 become receiver reports behind it.
    pub fn sender_report(
        &mut self,
        info: &SenderInfo,
        reports: &[ReportBlock],
    ) -> Result<(), BufferTooSmall> {
        let (first, rest) = reports.split_at(reports.len().min(ReportBlock::MAX_PER_MESSAGE));
        self.message(200, first.len() as u8, |writer| {
            writer.u32(info.ssrc.0)?;
            writer.u64(info.ntp.0)?;
            writer.u32(info.rtp_timestamp.0)?;
            writer.u32(info.packet_count)?;
            writer.u32(info.octet_count)?;
            first.iter().try_for_each(|report| report.write(writer))
        })?;
        if rest.is_empty() { Ok(()) } else { self.receiver_report(info.ssrc, rest) }
    }
}
