//! Probe clusters: the estimator asks for them, the pacer sends them.

use super::{Bitrate, DataSize};

/// Names a probe cluster within one transport; wraps, and is never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProbeId(pub u8);

impl ProbeId {
    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(if self.0 == u8::MAX { 1 } else { self.0 + 1 })
    }
}

/// Packets to send at a rate above the estimate for a moment. Media in the queue counts; padding or retransmissions fill
/// up what is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Goes with every packet of it.
    pub id: ProbeId,
    /// At which rate they leave.
    pub rate: Bitrate,
    /// How much is sent at that rate at least; at most one packet more.
    pub size: DataSize,
    /// In how many packets at least.
    pub packets: u16,
}
