//! Which transport-wide number a packet left under, by stream and number: feedback as of RFC 8888 names packets so.

use std::collections::HashMap;

use crate::rtp::{Seq16, Ssrc};

/// The latest packets of each stream that left to one peer.
#[derive(Debug, Default)]
pub(super) struct SentNumbers {
    /// Rings by the low bits of the stream's number; the whole of it is kept beside. A ring is made with the first packet
    /// of its stream.
    streams: HashMap<Ssrc, Vec<Option<(Seq16, u16)>>>,
}

/// Packets of one stream: over a second of 8 Mb/s, where feedback comes each 100 ms.
const RING: usize = 1_024;

impl SentNumbers {
    pub(super) fn insert(&mut self, ssrc: Ssrc, seq: Seq16, number: u16) {
        let ring = self.streams.entry(ssrc).or_insert_with(|| vec![None; RING]);
        if let Some(slot) = ring.get_mut(usize::from(seq.0) % RING) {
            *slot = Some((seq, number));
        }
    }

    /// `None`: not sent, or long ago.
    pub(super) fn number_of(&self, ssrc: Ssrc, seq: Seq16) -> Option<u16> {
        let slot = self.streams.get(&ssrc)?.get(usize::from(seq.0) % RING)?;
        slot.filter(|(sent, _)| *sent == seq).map(|(_, number)| number)
    }

    /// The stream has ended.
    pub(super) fn forget(&mut self, ssrc: Ssrc) {
        self.streams.remove(&ssrc);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_packets_of_each_stream_are_known() {
        let mut sent = SentNumbers::default();
        for n in 0..2_000_u16 {
            sent.insert(Ssrc(1), Seq16(65_000_u16.wrapping_add(n)), n);
        }
        sent.insert(Ssrc(2), Seq16(65_000), 7);
        let of = |ssrc, seq: u16| sent.number_of(Ssrc(ssrc), Seq16(seq));
        assert_eq!(of(1, 65_000_u16.wrapping_add(1_999)), Some(1_999));
        assert_eq!(of(1, 65_000_u16.wrapping_add(1_000)), Some(1_000));
        assert_eq!(of(1, 65_000), None, "long ago");
        assert_eq!(of(1, 3_000), None, "not sent");
        assert_eq!((of(2, 65_000), of(2, 65_001), of(3, 1)), (Some(7), None, None));
        sent.forget(Ssrc(2));
        assert_eq!(sent.number_of(Ssrc(2), Seq16(65_000)), None);
    }
}
