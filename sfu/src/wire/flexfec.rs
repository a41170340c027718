//! FlexFEC as browsers speak it: draft-ietf-payload-flexible-fec-scheme-03 ("flexfec-03"), flexible masks, one protected
//! stream. RFC 8627 is its successor, with another header; nobody sends that.

use super::cursor::Reader;
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A repair packet's payload over `packets`, the first of which has number `base`.
    pub(crate) fn protect(ssrc: u32, packets: &[Vec<u8>]) -> Vec<u8> {
        let base = u16::from_be_bytes([packets[0][2], packets[0][3]]);
        let (mut head, mut body) = ([0; 8], Vec::new());
        let mut mask = 0u128;
        for packet in packets {
            let seq = u16::from_be_bytes([packet[2], packet[3]]);
            mask |= 1 << (127 - seq.wrapping_sub(base));
            let len = ((packet.len() - 12) as u16).to_be_bytes();
            let fields =
                [packet[0], packet[1], len[0], len[1], packet[4], packet[5], packet[6], packet[7]];
            head.iter_mut().zip(fields).for_each(|(sum, byte)| *sum ^= byte);
            if body.len() < packet.len() - 12 {
                body.resize(packet.len() - 12, 0);
            }
            body.iter_mut().zip(&packet[12..]).for_each(|(sum, byte)| *sum ^= byte);
        }
        head[0] &= 0x3f;
        let mut payload = head.to_vec();
        payload.extend([1, 0, 0, 0]);
        payload.extend(ssrc.to_be_bytes());
        payload.extend(base.to_be_bytes());
        let parts = (
            (mask >> 113) as u16,
            (mask >> 82) as u32 & 0x7fff_ffff,
            (mask >> 19) as u64 & (u64::MAX >> 1),
        );
        match parts {
            (first, 0, 0) => payload.extend((first | 0x8000).to_be_bytes()),
            (first, second, 0) => {
                payload.extend(first.to_be_bytes());
                payload.extend((second | 1 << 31).to_be_bytes());
            }
            (first, second, third) => {
                payload.extend(first.to_be_bytes());
                payload.extend(second.to_be_bytes());
                payload.extend((third | 1 << 63).to_be_bytes());
            }
        }
        payload.extend(body);
        payload
    }

    /// A packet of the protected stream.
    pub(crate) fn packet(ssrc: u32, seq: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![0x80, 96 | if seq.is_multiple_of(3) { 0x80 } else { 0 }];
        bytes.extend(seq.to_be_bytes());
        bytes.extend((u32::from(seq) * 3_000).to_be_bytes());
        bytes.extend(ssrc.to_be_bytes());
        bytes.extend((0..len).map(|at| (at as u8).wrapping_mul(seq as u8 | 1)));
        bytes
    }

    #[test]
    fn any_one_of_the_protected_packets_comes_back() {
        struct Case {
            name: &'static str,
            /// Numbers behind the first, and lengths.
            packets: &'static [(u16, usize)],
        }
        let cases = [
            Case { name: "one", packets: &[(0, 100)] },
            Case { name: "short mask", packets: &[(0, 100), (1, 1_100), (14, 3)] },
            Case { name: "middle mask", packets: &[(0, 100), (15, 900), (45, 901)] },
            Case { name: "long mask", packets: &[(0, 700), (46, 1), (108, 1_000)] },
            Case { name: "an empty one", packets: &[(0, 0), (1, 40)] },
        ];
        for case in cases {
            let packets: Vec<_> = case
                .packets
                .iter()
                .map(|(n, len)| packet(7, 65_500u16.wrapping_add(*n), *len))
                .collect();
            let payload = protect(7, &packets);
            let fec = FlexFec::parse(&payload).unwrap();
            let numbers: Vec<_> = fec.protected().map(|seq| seq.0.wrapping_sub(65_500)).collect();
            let expected: Vec<_> = case.packets.iter().map(|(n, _)| *n).collect();
            assert_eq!(numbers, expected, "{}", case.name);
            for (index, missing) in packets.iter().enumerate() {
                let others = packets.iter().enumerate().filter(|(at, _)| *at != index);
                let mut out = Vec::new();
                let seq = Seq16(u16::from_be_bytes([missing[2], missing[3]]));
                fec.recover(seq, others.map(|(_, bytes)| &bytes[..]), &mut out).unwrap();
                assert_eq!(out, *missing, "{}: packet {index}", case.name);
            }
        }
    }

    #[test]
    fn what_is_cut_or_strange_is_refused() {
        let payload = protect(7, &[packet(7, 1, 10), packet(7, 100, 10)]);
        // Behind the longest mask the body may have any length.
        for len in 0..32 {
            assert_eq!(FlexFec::parse(&payload[..len]), None, "{len} bytes");
        }
        let with = |at: usize, byte: u8| {
            let mut changed = payload.clone();
            changed[at] = byte;
            FlexFec::parse(&changed).is_some()
        };
        assert!(with(0, payload[0]));
        assert!(!with(0, 0x80), "a retransmission");
        assert!(!with(0, 0x40), "a fixed mask");
        assert!(!with(8, 2), "two streams");
        let mut nothing = protect(7, &[packet(7, 1, 10)]);
        nothing[18] = 0x80;
        nothing[19] = 0;
        assert_eq!(FlexFec::parse(&nothing), None, "nothing is protected");

        let fec = FlexFec::parse(&payload).unwrap();
        let mut out = Vec::new();
        let longer = packet(7, 1, 11);
        assert_eq!(fec.recover(Seq16(100), [&longer[..]].into_iter(), &mut out), None);
        assert_eq!(fec.recover(Seq16(100), [&longer[..5]].into_iter(), &mut out), None);
    }
}
