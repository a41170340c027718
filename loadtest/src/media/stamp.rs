//! The stamp that rides in each published frame and data message.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a stamp on the wire.
pub(crate) const STAMP_LEN: usize = 24;

/// Tells a stamp from other bytes at the same place.
const MAGIC: [u8; 2] = [0xc4, 0xa7];

/// What a stamp was put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Audio,
    /// Video, with its layer: 0 low, 1 mid, 2 high.
    Video(u8),
    /// A data message; an echo is what its receiver sent back.
    Data {
        echo: bool,
    },
}

/// Who sent a frame, when, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Drawn at random for each run: stamps of other swarms in the same room are not ours.
    pub(crate) run: u32,
    /// Number of the client in the run.
    pub(crate) publisher: u32,
    pub(crate) stream: Stream,
    pub(crate) number: u32,
    /// When it left, since the Unix epoch: comparable with the kernel's receive time.
    pub(crate) sent: Duration,
}

impl Stamp {
    pub(crate) fn to_bytes(self) -> [u8; STAMP_LEN] {
        let stream = match self.stream {
            Stream::Audio => 0,
            Stream::Video(layer) => 1 + layer.min(15),
            Stream::Data { echo: false } => 32,
            Stream::Data { echo: true } => 33,
        };
        let mut bytes = [0; STAMP_LEN];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = stream;
        bytes[4..8].copy_from_slice(&self.run.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.publisher.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.number.to_be_bytes());
        let sent = u64::try_from(self.sent.as_nanos()).unwrap_or(u64::MAX);
        bytes[16..].copy_from_slice(&sent.to_be_bytes());
        bytes
    }

    /// Reads the stamp at the end of a payload.
    pub(crate) fn at_end_of(payload: &[u8]) -> Option<Self> {
        Self::from_bytes(payload.last_chunk()?).or_else(|| super::h264::stamp_at_end_of(payload))
    }

    pub(super) fn from_bytes(bytes: &[u8; STAMP_LEN]) -> Option<Self> {
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let stream = match bytes[2] {
            0 => Stream::Audio,
            layer @ 1..=16 => Stream::Video(layer - 1),
            32 => Stream::Data { echo: false },
            33 => Stream::Data { echo: true },
            _ => return None,
        };
        let nanos = u64::from(word(16)) << 32 | u64::from(word(20));
        (bytes[..2] == MAGIC).then_some(Self {
            run: word(4),
            publisher: word(8),
            stream,
            number: word(12),
            sent: Duration::from_nanos(nanos),
        })
    }
}

/// The wall clock, which is what the kernel stamps datagrams with.
pub(crate) fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_as_it_was() {
        for stream in [
            Stream::Audio,
            Stream::Video(0),
            Stream::Video(2),
            Stream::Data { echo: false },
            Stream::Data { echo: true },
        ] {
            let stamp =
                Stamp { run: 7, publisher: 3_000, stream, number: u32::MAX, sent: unix_now() };
            let mut payload = vec![9; 40];
            payload.extend_from_slice(&stamp.to_bytes());
            assert_eq!(Stamp::at_end_of(&payload), Some(stamp));
            payload.push(0);
            assert_eq!(Stamp::at_end_of(&payload), None, "only at the end");
        }
        assert_eq!(Stamp::at_end_of(&[0; 3]), None);
    }
}
