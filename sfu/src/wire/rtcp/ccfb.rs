//! Congestion control feedback (RFC 8888 section 3.1). Read only: Chappe asks for transport-wide feedback.

use std::time::Duration;

use super::Reader;
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
