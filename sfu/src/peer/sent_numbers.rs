//! Which transport-wide number a packet left under, by stream and number: feedback as of RFC 8888 names packets so.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use crate::rtp::{Seq16, Ssrc};

/// The latest packets of each stream that left to one peer.
#[derive(Debug, Default)]
pub(super) struct SentNumbers {
    /// Rings by the low bits of the stream's number; the whole of it is kept beside. A ring is made with the first packet
    /// of its stream.
    streams: HashMap<Ssrc, Ring, BuildHasherDefault<OwnSsrcHasher>>,
}

/// Of one stream: its number, and the transport-wide one.
type Ring = Vec<Option<(Seq16, u16)>>;

/// For keys that this side chose: nobody else can make them meet, so that two multiplications do. Who asks by other numbers
/// adds none.
#[derive(Clone, Copy, Debug, Default)]
struct OwnSsrcHasher(u64);

impl Hasher for OwnSsrcHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, value: u32) {
        // Tables look at the lowest and the highest bits of the hash, and a product's low bits know the low bits only.
        let product = (self.0 ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = (product ^ product >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.0 ^= self.0 >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
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
    use std::{collections::HashSet, hash::Hash};

    use super::*;

    #[test]
    fn numbers_that_are_given_in_any_pattern_are_spread() {
        let patterns: [fn(u32) -> u32; 5] =
            [|n| n, |n| 2 * n, |n| n << 16, |n| n << 21, |n| 0x8000_0000 | (n * 1_000)];
        for (which, pattern) in patterns.into_iter().enumerate() {
            let (mut low, mut high) = (HashSet::new(), HashSet::new());
            for n in 0..1_024 {
                let mut hasher = OwnSsrcHasher::default();
                Ssrc(pattern(n)).hash(&mut hasher);
                low.insert(hasher.finish() & 2_047);
                high.insert(hasher.finish() >> 57);
            }
            // Of 2,048 places chance leaves 806 taken.
            assert!(low.len() > 700 && high.len() > 100, "{which}: {} {}", low.len(), high.len());
        }
        assert_eq!(size_of::<BuildHasherDefault<OwnSsrcHasher>>(), 0, "no keys");
    }

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
