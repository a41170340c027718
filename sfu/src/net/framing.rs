//! RFC 4571: each packet on a TCP connection follows its length in two bytes, network order.

/// Longest packet that is taken, bytes: what fits a datagram on any path that browsers use, and some.
pub(crate) const MAX_FRAME: usize = 4_096;

/// A peer sent a length that no media packet has: the connection is beyond repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("framed packet is longer than {MAX_FRAME} bytes")]
pub(crate) struct FrameTooLong;

/// Cuts the bytes of one connection into packets.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    bytes: Vec<u8>,
    /// Bytes before it were handed out.
    start: usize,
}

impl FrameReader {
    /// Appends what the connection gave.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole packet. Empty packets (keepalives) are passed over.
    pub(crate) fn poll(&mut self) -> Result<Option<&mut [u8]>, FrameTooLong> {
        loop {
            let rest = self.bytes.get(self.start..).unwrap_or_default();
            let Some((length, body)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            let length = usize::from(u16::from_be_bytes(*length));
            if length > MAX_FRAME {
                return Err(FrameTooLong);
            }
            if body.len() < length {
                return Ok(None);
            }
            let from = self.start + 2;
            self.start = from + length;
            if length > 0 {
                return Ok(self.bytes.get_mut(from..from + length));
            }
        }
    }

    /// What was pushed and not handed out, framing included.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        self.bytes.get(self.start..).unwrap_or_default().to_vec()
    }
}

/// Appends `packet` with its length. `false`: it is empty or too long for the length field, and was left out.
pub(crate) fn push_frame(packet: &[u8], out: &mut Vec<u8>) -> bool {
    let Ok(length) = u16::try_from(packet.len()) else { return false };
    if length == 0 {
        return false;
    }
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(packet);
    true
}

/// For the fuzzer: however a stream is cut, the same packets come out, and no more is kept than one packet takes.
#[cfg(fuzzing)]
pub fn fuzz_framing(cuts: &[u8], stream: &[u8]) {
    let mut whole = FrameReader::default();
    whole.push(stream);
    let mut expected = Vec::new();
    let end = loop {
        match whole.poll() {
            Ok(Some(packet)) => expected.push(packet.to_vec()),
            Ok(None) => break Ok(whole.into_rest()),
            Err(error) => break Err(error),
        }
    };
    let (mut pieces, mut seen, mut rest) = (FrameReader::default(), Vec::new(), stream);
    let mut sizes = cuts.iter().map(|cut| usize::from(*cut) + 1).cycle();
    let outcome = 'stream: loop {
        loop {
            match pieces.poll() {
                Ok(Some(packet)) => seen.push(packet.to_vec()),
                Ok(None) => break,
                Err(error) => break 'stream Err(error),
            }
        }
        assert!(pieces.bytes.len() - pieces.start < 2 + MAX_FRAME);
        if rest.is_empty() {
            break Ok(pieces.into_rest());
        }
        let (piece, later) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        pieces.push(piece);
        rest = later;
    };
    assert_eq!((&seen, &outcome), (&expected, &end));
    let mut again = Vec::new();
    assert!(seen.iter().all(|packet| push_frame(packet, &mut again)));
    let mut reader = FrameReader::default();
    reader.push(&again);
    for packet in &expected {
        assert_eq!(reader.poll().ok().flatten().as_deref(), Some(&packet[..]));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packets() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..20)
    }

    proptest! {
        #[test]
        fn packets_survive_any_cutting(packets in packets(), cuts in prop::collection::vec(1..50_usize, 1..20)) {
            let mut stream = Vec::new();
            for packet in &packets {
                prop_assert!(push_frame(packet, &mut stream));
            }
            let (mut reader, mut got, mut rest) = (FrameReader::default(), Vec::new(), stream.as_slice());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                rest = tail;
                reader.push(piece);
                while let Some(packet) = reader.poll().unwrap() {
                    got.push(packet.to_vec());
                }
            }
            prop_assert_eq!(got, packets);
            prop_assert!(reader.into_rest().is_empty());
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let mut reader = FrameReader::default();
            reader.push(&noise);
            while let Ok(Some(packet)) = reader.poll() {
                prop_assert!(packet.len() <= MAX_FRAME);
            }
        }
    }

    #[test]
    fn lengths_are_bounded_in_both_directions() {
        let mut reader = FrameReader::default();
        reader.push(&[0xff, 0xff]);
        assert_eq!(reader.poll(), Err(FrameTooLong));
        let mut out = Vec::new();
        assert!(!push_frame(&[], &mut out));
        assert!(!push_frame(&vec![0; 65_536], &mut out));
        assert!(out.is_empty());
    }

    #[test]
    fn keepalives_are_passed_over() {
        let mut reader = FrameReader::default();
        reader.push(&[0, 0, 0, 0, 0, 1, 7]);
        assert_eq!(reader.poll().unwrap().map(|p| p.to_vec()), Some(vec![7]));
        assert_eq!(reader.poll(), Ok(None));
    }
}
