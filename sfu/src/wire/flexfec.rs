//! FlexFEC as browsers speak it: draft-ietf-payload-flexible-fec-scheme-03 ("flexfec-03"), flexible masks, one protected
//! stream. RFC 8627 is its successor, with another header; nobody sends that.

use super::cursor::{BufferTooSmall, Reader, Writer};
use crate::rtp::{Seq16, Ssrc};

/// The payload of a repair packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlexFec<'a> {
    /// The stream that it protects.
    pub ssrc: Ssrc,
    /// Number from which the mask counts.
    pub base: Seq16,
    /// Bit n, from the highest on: the packet with number `base` + n is protected.
    mask: u128,
    /// First two bytes of the RTP header, exclusive or of all that are protected.
    flags: [u8; 2],
    /// The same of the lengths behind the fixed header.
    len: u16,
    /// The same of the timestamps.
    time: u32,
    /// The same of everything behind the fixed header, the shorter ones filled up with zeros.
    body: &'a [u8],
}

/// Bytes of the fixed RTP header.
const FIXED: usize = 12;

impl<'a> FlexFec<'a> {
    /// Numbers that a mask covers.
    pub const MAX_SPAN: u16 = 109;

    /// `None` where it is cut, protects nothing or several streams, or has a form that browsers do not send (fixed masks,
    /// retransmissions).
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(payload);
        let flags: [u8; 2] = reader.array()?;
        if flags[0] & 0xc0 != 0 {
            return None;
        }
        let (len, time) = (reader.u16()?, reader.u32()?);
        if reader.u8()? != 1 {
            return None;
        }
        reader.u24()?;
        let (ssrc, base) = (Ssrc(reader.u32()?), Seq16(reader.u16()?));
        let mask = read_mask(&mut reader)?;
        (mask != 0).then_some(Self { ssrc, base, mask, flags, len, time, body: reader.rest() })
    }

    /// The numbers that it protects.
    pub fn protected(&self) -> impl Iterator<Item = Seq16> + use<> {
        let Self { mask, base, .. } = *self;
        (0..Self::MAX_SPAN)
            .filter(move |bit| mask << bit >> 127 != 0)
            .map(move |bit| Seq16(base.0.wrapping_add(bit)))
    }

    /// Makes the packet with number `missing` from all the others that are protected. `None` where they contradict each
    /// other, or the packet would not fit into `out`, which is what was sent without its extensions that change on the way.
    pub fn recover<'p>(
        &self,
        missing: Seq16,
        others: impl Iterator<Item = &'p [u8]>,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let (mut flags, mut len, mut time) = (self.flags, self.len, self.time);
        out.clear();
        out.resize(FIXED, 0);
        out.extend_from_slice(self.body);
        for other in others {
            let (head, body) = other.split_first_chunk::<FIXED>()?;
            flags[0] ^= head[0];
            flags[1] ^= head[1];
            len ^= u16::try_from(body.len()).ok()?;
            time ^= u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            // Longer than the repair packet: it does not protect this one.
            let place = out.get_mut(FIXED..FIXED + body.len())?;
            place.iter_mut().zip(body).for_each(|(byte, other)| *byte ^= other);
        }
        let end = FIXED + usize::from(len);
        if end > out.len() {
            return None;
        }
        out.truncate(end);
        let [s0, s1] = missing.0.to_be_bytes();
        let [t0, t1, t2, t3] = time.to_be_bytes();
        let [i0, i1, i2, i3] = self.ssrc.0.to_be_bytes();
        let head = [0x80 | flags[0] & 0x3f, flags[1], s0, s1, t0, t1, t2, t3, i0, i1, i2, i3];
        out.get_mut(..FIXED)?.copy_from_slice(&head);
        Some(())
    }
}

/// 15 bits, 31 more and 63 more; each part begins with a bit that says whether it is the last.
fn read_mask(reader: &mut Reader<'_>) -> Option<u128> {
    let first = reader.u16()?;
    let mut mask = u128::from(first & 0x7fff) << 113;
    if first & 0x8000 != 0 {
        return Some(mask);
    }
    let second = reader.u32()?;
    mask |= u128::from(second & 0x7fff_ffff) << 82;
    if second >> 31 != 0 {
        return Some(mask);
    }
    let third = reader.u64()?;
    mask |= u128::from(third & (u64::MAX >> 1)) << 19;
    (third >> 63 != 0).then_some(mask)
}

/// A repair packet in the making: the sum of some packets of one stream.
#[derive(Clone, Debug)]
pub struct RepairSum {
    base: Seq16,
    /// As that of [`FlexFec`].
    mask: u128,
    flags: [u8; 2],
    len: u16,
    time: u32,
    /// Bytes of the longest body so far; behind them `body` is zero.
    longest: usize,
    body: [u8; RepairSum::MAX_PACKET - FIXED],
}

impl RepairSum {
    /// Longer packets are not protected: the repair packet is longer still, by up to 70 bytes with header, extensions and SRTP,
    /// and has to fit an Ethernet frame of 1,500 bytes with IPv6 and UDP.
    pub const MAX_PACKET: usize = 1_360;

    /// The sum of nothing.
    pub const fn new() -> Self {
        let body = [0; Self::MAX_PACKET - FIXED];
        Self { base: Seq16(0), mask: 0, flags: [0; 2], len: 0, time: 0, longest: 0, body }
    }

    /// Whether nothing is protected.
    pub const fn is_empty(&self) -> bool {
        self.mask == 0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if let Some(used) = self.body.get_mut(..self.longest) {
            used.fill(0);
        }
        (self.mask, self.flags, self.len, self.time, self.longest) = (0, [0; 2], 0, 0, 0);
    }

    /// Adds a packet as its receiver takes it: what changes on the way (transport-wide number, send time) is zero. `false`:
    /// it is not protected, since it is too long, is there already, or its number is too far from the others'.
    #[must_use]
    pub fn add(&mut self, packet: &[u8]) -> bool {
        let Some((head, body)) = packet.split_first_chunk::<FIXED>() else { return false };
        let [flags, payload_type, s0, s1, t0, t1, t2, t3, ..] = *head;
        let seq = Seq16(u16::from_be_bytes([s0, s1]));
        let Some((base, mask)) = self.with(seq) else { return false };
        let Some(place) = self.body.get_mut(..body.len()) else { return false };
        (self.base, self.mask) = (base, mask);
        place.iter_mut().zip(body).for_each(|(sum, byte)| *sum ^= byte);
        self.longest = self.longest.max(body.len());
        self.flags[0] ^= flags;
        self.flags[1] ^= payload_type;
        self.len ^= body.len() as u16;
        self.time ^= u32::from_be_bytes([t0, t1, t2, t3]);
        true
    }

    /// Takes over what another sum protects. `false`: nothing has changed, since they have a packet in common, or their
    /// numbers are too far apart.
    #[must_use]
    pub fn merge(&mut self, other: &Self) -> bool {
        if other.is_empty() {
            return true;
        }
        let shifted = |sum: &Self, base: Seq16| {
            let shift = sum.base.0.wrapping_sub(base.0);
            let reach = shift.saturating_add(128 - sum.mask.trailing_zeros() as u16);
            (reach <= FlexFec::MAX_SPAN).then(|| sum.mask >> shift)
        };
        let base = if self.is_empty() || other.base.0.wrapping_sub(self.base.0) >= 1 << 15 {
            other.base
        } else {
            self.base
        };
        let own = if self.is_empty() { Some(0) } else { shifted(self, base) };
        let (Some(own), Some(others)) = (own, shifted(other, base)) else { return false };
        if own & others != 0 {
            return false;
        }
        (self.base, self.mask) = (base, own | others);
        let bodies = self.body.iter_mut().zip(&other.body);
        bodies.take(other.longest).for_each(|(sum, byte)| *sum ^= byte);
        self.longest = self.longest.max(other.longest);
        self.flags[0] ^= other.flags[0];
        self.flags[1] ^= other.flags[1];
        self.len ^= other.len;
        self.time ^= other.time;
        true
    }

    /// Writes the payload of the repair packet for the stream `ssrc`. Its length.
    pub fn write(&self, ssrc: Ssrc, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let [b0, b1] = self.flags;
        let body = self.body.get(..self.longest).unwrap_or_default();
        let mut writer = Writer::new(out);
        // Neither a retransmission nor of a fixed mask.
        writer.put(&[b0 & 0x3f, b1])?;
        writer.u16(self.len)?;
        writer.u32(self.time)?;
        // One stream, and three reserved bytes.
        writer.u32(1 << 24)?;
        writer.u32(ssrc.0)?;
        writer.u16(self.base.0)?;
        write_mask(self.mask, &mut writer)?;
        writer.put(body)?;
        Ok(writer.len())
    }

    /// First number and mask with one more packet.
    fn with(&self, seq: Seq16) -> Option<(Seq16, u128)> {
        const FIRST: u128 = 1 << 127;
        if self.mask == 0 {
            return Some((seq, FIRST));
        }
        let ahead = seq.0.wrapping_sub(self.base.0);
        if ahead < 1 << 15 {
            let bit = (ahead < FlexFec::MAX_SPAN).then(|| FIRST >> ahead)?;
            return (self.mask & bit == 0).then_some((self.base, self.mask | bit));
        }
        // It was overtaken.
        let behind = ahead.wrapping_neg();
        let reach = behind.saturating_add(128 - self.mask.trailing_zeros() as u16);
        (reach <= FlexFec::MAX_SPAN).then(|| (seq, FIRST | self.mask >> behind))
    }
}

impl Default for RepairSum {
    fn default() -> Self {
        Self::new()
    }
}

/// The opposite of [`read_mask`], in as few parts as do.
fn write_mask(mask: u128, writer: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
    let first = (mask >> 113) as u16;
    let second = (mask >> 82) as u32 & 0x7fff_ffff;
    let third = (mask >> 19) as u64 & (u64::MAX >> 1);
    if (second, third) == (0, 0) {
        return writer.u16(first | 0x8000);
    }
    writer.u16(first)?;
    if third == 0 {
        return writer.u32(second | 1 << 31);
    }
    writer.u32(second)?;
    writer.u64(third | 1 << 63)
}

#[cfg(test)]
pub(crate) mod tests;
