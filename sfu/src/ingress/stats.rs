//! What is known of an encoding, for people.

use crate::rtp::{Bitrate, Ssrc};

/// One encoding in numbers. Counters count from the track's start, `lost` from that of the present stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EncodingStats {
    /// Of its media, once a packet came.
    pub ssrc: Option<Ssrc>,
    /// See [`super::PublishedTrack::live`].
    pub live: bool,
    /// Somebody gets it or waits for it.
    pub demanded: bool,
    /// Of the last second, headers included.
    pub bitrate: Bitrate,
    /// Packets taken, repaired ones included.
    pub packets: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Pictures whose last packet came; of audio, spurts of talk.
    pub frames: u64,
    /// Keyframes that began.
    pub keyframes: u64,
    /// Packets that did not come as media.
    pub lost: u64,
    /// Packets that retransmissions brought.
    pub repaired: u64,
    /// Lost between the last two reports, in 1/256.
    pub fraction_lost: u8,
    /// In units of the codec's clock.
    pub jitter: u32,
    /// Packets that the publisher was asked for again, each time counted.
    pub nacks: u64,
    /// Keyframes that it was asked for.
    pub keyframe_requests: u64,
}
