//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1).

use super::{BufferTooSmall, CompoundWriter, Reader, Writer};
use crate::rtp::Ssrc;

/// An arrival on the reporter's clock, in ticks of 250 us from an origin of its own. The reference times of
/// messages have 24 bits, so ticks wrap after 12 days.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ArrivalTick(pub i64);

impl ArrivalTick {
    /// Length of a tick in microseconds.
    pub const MICROS: i64 = 250;
    /// Ticks in one unit of reference time: 64 ms.
    const PER_REFERENCE: i64 = 256;

    /// Microseconds from the reporter's origin.
    pub const fn micros(self) -> i64 {
        self.0 * Self::MICROS
    }
}

/// What became of packets in the order of their transport-wide numbers.
#[derive(Clone, Copy, Debug)]
pub struct TransportFeedback<'a> {
    /// Who reports.
    pub sender: Ssrc,
    /// Any stream of the transport.
    pub media: Ssrc,
    /// Number of the first packet reported on.
    pub base_seq: u16,
    /// How many packets are reported on.
    pub status_count: u16,
    /// Counts these messages, modulo 256.
    pub feedback_count: u8,
    reference_time: i32,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl<'a> TransportFeedback<'a> {
    /// More packets than anybody sends between two reports; run lengths make larger claims cheap for a peer and
    /// dear for us.
    const MAX_STATUS_COUNT: u16 = 4_096;

    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let (sender, media) = (Ssrc(reader.u32()?), Ssrc(reader.u32()?));
        let (base_seq, status_count) = (reader.u16()?, reader.u16()?);
        let reference_time = (reader.u24()? << 8) as i32 >> 8;
        let feedback_count = reader.u8()?;
        if status_count > Self::MAX_STATUS_COUNT {
            return None;
        }

        let rest = reader.rest();
        let (mut left, mut delta_len) = (usize::from(status_count), 0);
        while left > 0 {
            let chunk = Chunk(reader.u16()?);
            let covered = chunk.len().min(left);
            delta_len += chunk.delta_len(covered)?;
            left -= covered;
        }
        let deltas = reader.rest().get(..delta_len)?;
        let chunks = rest.get(..rest.len() - reader.rest().len())?;
        Some(Self {
            sender,
            media,
            base_seq,
            status_count,
            feedback_count,
            reference_time,
            chunks,
            deltas,
        })
    }

    /// (transport-wide number, arrival) of each packet, `None` for those that did not arrive.
    pub const fn arrivals(&self) -> Arrivals<'a> {
        Arrivals {
            seq: self.base_seq,
            left: self.status_count,
            tick: self.reference_time as i64 * ArrivalTick::PER_REFERENCE,
            chunk: Chunk(0),
            used: 0,
            chunk_len: 0,
            chunks: Reader::new(self.chunks),
            deltas: Reader::new(self.deltas),
        }
    }
}

/// A packet status chunk (sections 3.1.3 and 3.1.4).
#[derive(Clone, Copy, Debug)]
struct Chunk(u16);

impl Chunk {
    const fn len(self) -> usize {
        match self.0 >> 14 {
            0 | 1 => (self.0 & 0x1fff) as usize,
            2 => 14,
            _ => 7,
        }
    }

    /// Symbol of the packet at `index`: 0 missing, 1 small delta, 2 large or negative delta, 3 reserved.
    const fn symbol(self, index: usize) -> u8 {
        let symbol = match self.0 >> 14 {
            0 | 1 => self.0 >> 13 & 3,
            2 => self.0 >> 13_usize.saturating_sub(index) & 1,
            _ => self.0 >> 12_usize.saturating_sub(2 * index) & 3,
        };
        symbol as u8
    }

    /// Bytes of delta that the first `covered` packets have; `None` with a reserved symbol, or when the chunk
    /// stands for no packet (a run of zero would never end).
    fn delta_len(self, covered: usize) -> Option<usize> {
        if covered == 0 {
            return None;
        }
        if self.0 >> 15 == 0 {
            let symbol = self.symbol(0);
            return (symbol < 3).then_some(usize::from(symbol) * covered);
        }
        (0..covered).try_fold(0, |sum, index| {
            let symbol = self.symbol(index);
            (symbol < 3).then_some(sum + usize::from(symbol))
        })
    }
}

/// See [`TransportFeedback::arrivals`].
#[derive(Clone, Copy, Debug)]
pub struct Arrivals<'a> {
    seq: u16,
    left: u16,
    tick: i64,
    chunk: Chunk,
    used: usize,
    chunk_len: usize,
    chunks: Reader<'a>,
    deltas: Reader<'a>,
}

impl Iterator for Arrivals<'_> {
    type Item = (u16, Option<ArrivalTick>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        if self.used == self.chunk_len {
            // Chunks and deltas were counted when the message was parsed.
            self.chunk = Chunk(self.chunks.u16()?);
            (self.used, self.chunk_len) = (0, self.chunk.len());
        }
        let delta = match self.chunk.symbol(self.used) {
            1 => Some(i64::from(self.deltas.u8()?)),
            2 => Some(i64::from(self.deltas.u16()? as i16)),
            _ => None,
        };
        self.used += 1;
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        Some((
            seq,
            delta.map(|delta| {
                self.tick += delta;
                ArrivalTick(self.tick)
            }),
        ))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.into(), Some(self.left.into()))
    }
}

/// The fixed part of a feedback message to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransportFeedbackFields {
    /// Who reports.
    pub sender: Ssrc,
    /// Any stream of the transport.
    pub media: Ssrc,
    /// Number of the first packet reported on.
    pub base_seq: u16,
    /// Counts these messages, modulo 256.
    pub feedback_count: u8,
}

impl CompoundWriter<'_> {
    /// Writes feedback on the packets from `base_seq` on, and returns how many of `arrivals` it covers: fewer than
    /// given where the buffer ends or an arrival is over 8.19 s from the one before; the rest goes into a message
    /// of its own. Nothing is written, and 0 returned, when none of them arrived.
    pub fn transport_cc(
        &mut self,
        fields: &TransportFeedbackFields,
        arrivals: &[Option<ArrivalTick>],
    ) -> Result<usize, BufferTooSmall> {
        let Some(first) = arrivals.iter().flatten().next() else { return Ok(0) };
        let reference = first.0.div_euclid(ArrivalTick::PER_REFERENCE);
        // A packet takes at most two bytes of delta and a seventh of a chunk; 20 bytes are header, 7 rounding.
        let room = self.remaining().saturating_sub(27) * 7 / 16;
        let fitting = arrivals.len().min(room).min(TransportFeedback::MAX_STATUS_COUNT.into());
        let symbols = Symbols {
            arrivals: arrivals.get(..fitting).unwrap_or(arrivals),
            tick: reference * ArrivalTick::PER_REFERENCE,
        };
        let covered = symbols.clone().count();
        if covered == 0 {
            return Err(BufferTooSmall);
        }
        self.message(205, 15, |writer| {
            writer.u32(fields.sender.0)?;
            writer.u32(fields.media.0)?;
            writer.u16(fields.base_seq)?;
            writer.u16(covered as u16)?;
            writer.u24(reference as u32)?;
            writer.u8(fields.feedback_count)?;
            write_chunks(writer, symbols.clone())?;
            for delta in symbols.flatten() {
                match u8::try_from(delta) {
                    Ok(small) => writer.u8(small)?,
                    Err(_) => writer.u16(delta as u16)?,
                }
            }
            Ok(())
        })?;
        Ok(covered)
    }
}

/// The delta of each packet, `None` for a missing one; ends before the first delta that no message can carry.
#[derive(Clone)]
struct Symbols<'a> {
    arrivals: &'a [Option<ArrivalTick>],
    tick: i64,
}

impl Iterator for Symbols<'_> {
    type Item = Option<i16>;

    fn next(&mut self) -> Option<Self::Item> {
        let (arrival, rest) = self.arrivals.split_first()?;
        let delta = match arrival {
            Some(ArrivalTick(tick)) => Some(i16::try_from(tick - self.tick).ok()?),
            None => None,
        };
        self.arrivals = rest;
        self.tick += i64::from(delta.unwrap_or(0));
        Some(delta)
    }
}

fn symbol(delta: Option<i16>) -> u16 {
    match delta {
        None => 0,
        Some(0..=255) => 1,
        Some(_) => 2,
    }
}

fn write_chunks(writer: &mut Writer<'_>, symbols: Symbols<'_>) -> Result<(), BufferTooSmall> {
    let mut symbols = symbols.map(symbol);
    while let Some(first) = symbols.clone().next() {
        let run = symbols.clone().take(0x1fff).take_while(|symbol| *symbol == first).count();
        let small = symbols.clone().take(14).take_while(|symbol| *symbol < 2).count();
        let ends_small = symbols.clone().take(14).count() == small;
        // A run must be longer than what the vector in its place would hold, unless nothing follows it.
        let (chunk, covered) = if run >= 14 || (run >= 7 && !ends_small) {
            (first << 13 | run as u16, run)
        } else if ends_small {
            let bits = symbols.clone().take(14).fold((0, 13), |(bits, shift), symbol| {
                (bits | symbol << shift, shift - i32::from(shift > 0))
            });
            (0x8000 | bits.0, 14)
        } else {
            let bits = symbols.clone().take(7).fold((0, 12), |(bits, shift), symbol| {
                (bits | symbol << shift, if shift > 0 { shift - 2 } else { 0 })
            });
            (0xc000 | bits.0, 7)
        };
        writer.u16(chunk)?;
        symbols.nth(covered - 1);
    }
    Ok(())
}
