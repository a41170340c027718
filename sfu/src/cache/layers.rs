//! Layers of a stream, and what they cost.

use crate::rtp::Bitrate;

/// A quality that a subscriber may get at most.
///
/// For a whole track `spatial` is the index of an encoding where the track has several (simulcast), and the spatial
/// layer within its only one otherwise (SVC): whoever compares steps of a ladder need not know which.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Layers {
    /// Index of an encoding, lowest quality first, or spatial layer.
    pub spatial: u8,
    /// Temporal layer within it.
    pub temporal: u8,
}

impl Layers {
    /// No bound.
    pub const MAX: Self = Self { spatial: u8::MAX, temporal: u8::MAX };
}

/// One choice of a subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LadderStep {
    /// Everything up to these.
    pub layers: Layers,
    /// What all of it costs, headers included; zero while it is not known.
    pub bitrate: Bitrate,
}
