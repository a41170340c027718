//! Congestion control feedback (RFC 8888 section 3.1): read from subscribers, written to publishers that know nothing else.

use std::time::{Duration, Instant};

use super::{BufferTooSmall, CompoundWriter, Reader};
use crate::rtp::{Seq16, Ssrc};

/// Arrival of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CcfbArrival {
    /// ECN bits of its IP header.
    pub ecn: u8,
    /// How long before the report's timestamp it came; `None` when it is out of range or unknown.
    pub before: Option<Duration>,
}

/// What became of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CcfbReport {
    /// Its stream.
    pub ssrc: Ssrc,
    /// Its number.
    pub seq: Seq16,
    /// `None`: it did not arrive.
    pub arrival: Option<CcfbArrival>,
}

/// Congestion control feedback over the streams of one transport.
#[derive(Clone, Copy, Debug)]
pub struct CongestionFeedback<'a> {
    /// Who reports.
    pub sender: Ssrc,
    /// When, in 1/65536 s: the middle 32 bits of its NTP clock.
    pub timestamp: u32,
    blocks: &'a [u8],
}

impl<'a> CongestionFeedback<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let (rest, timestamp) = body.split_last_chunk()?;
        let mut reader = Reader::new(rest);
        let sender = Ssrc(reader.u32()?);
        let blocks = reader.rest();
        while !reader.rest().is_empty() {
            take_block(&mut reader)?;
        }
        Some(Self { sender, timestamp: u32::from_be_bytes(*timestamp), blocks })
    }

    /// Packet by packet, stream by stream.
    pub fn reports(&self) -> impl Iterator<Item = CcfbReport> + use<'a> {
        let mut reader = Reader::new(self.blocks);
        // The blocks were checked when the message was parsed; at the end the header cannot be read.
        std::iter::from_fn(move || take_block(&mut reader)).flat_map(|(ssrc, begin, metrics)| {
            metrics.iter().zip(0u16..).map(move |(metric, index)| {
                let bits = u16::from_be_bytes(*metric);
                let arrival = (bits & 0x8000 != 0).then(|| CcfbArrival {
                    ecn: (bits >> 13 & 3) as u8,
                    // 1/1024 s; 0x1ffe is "over range" and 0x1fff "unknown".
                    before: (bits & 0x1fff < 0x1ffe).then(|| {
                        Duration::from_nanos((u64::from(bits & 0x1fff) * 1_000_000_000) >> 10)
                    }),
                });
                CcfbReport { ssrc, seq: Seq16(begin.wrapping_add(index)), arrival }
            })
        })
    }
}

/// Arrivals of one stream, to be written.
#[derive(Clone, Copy, Debug)]
pub struct CcfbBlock<'a> {
    /// The stream.
    pub ssrc: Ssrc,
    /// Number of the first.
    pub begin: Seq16,
    /// When each came; `None`: it did not.
    pub arrivals: &'a [Option<Instant>],
}

/// 1/1024 s, in 13 bits. What is beyond is told as such.
const OVER_RANGE: u128 = 0x1ffe;

impl CompoundWriter<'_> {
    /// Writes feedback on one stream, and returns how many of its packets it covers: fewer than given where the buffer
    /// ends. `timestamp` is the middle 32 bits of the reporter's NTP clock, `before` says how long before it something came.
    pub fn ccfb(
        &mut self,
        sender: Ssrc,
        timestamp: u32,
        block: &CcfbBlock<'_>,
        before: impl Fn(Instant) -> Duration,
    ) -> Result<usize, BufferTooSmall> {
        // Header, sender, stream, begin, count and timestamp; metrics are padded to four bytes.
        let room = self.remaining().saturating_sub(20) / 4 * 2;
        let covered = block.arrivals.len().min(room).min(16_384);
        let arrivals = block.arrivals.get(..covered).unwrap_or(&[]);
        if arrivals.is_empty() {
            return Err(BufferTooSmall);
        }
        self.message(205, 11, |writer| {
            writer.u32(sender.0)?;
            writer.u32(block.ssrc.0)?;
            writer.u16(block.begin.0)?;
            writer.u16(covered as u16)?;
            for arrival in arrivals {
                let metric = arrival.map_or(0, |at| {
                    let ticks = (before(at).as_nanos() << 10) / 1_000_000_000;
                    0x8000 | ticks.min(OVER_RANGE) as u16
                });
                writer.u16(metric)?;
            }
            writer.pad4()?;
            writer.u32(timestamp)
        })?;
        Ok(covered)
    }
}

type Block<'a> = (Ssrc, u16, &'a [[u8; 2]]);

fn take_block<'a>(reader: &mut Reader<'a>) -> Option<Block<'a>> {
    let (ssrc, begin, count) = (reader.u32()?, reader.u16()?, reader.u16()?);
    // Section 3.1: more than 16,384 reports would be ambiguous.
    if count > 16_384 {
        return None;
    }
    let (metrics, _) = reader.take(usize::from(count) * 2)?.as_chunks();
    if count % 2 == 1 {
        reader.take(2)?;
    }
    Some((Ssrc(ssrc), begin, metrics))
}
