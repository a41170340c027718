//! Quantities with their unit.

use std::{fmt, time::Duration};

/// Bits per second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Bitrate(u64);

impl Bitrate {
    /// No bits at all.
    pub const ZERO: Self = Self(0);

    /// From bits per second.
    pub const fn from_bps(bps: u64) -> Self {
        Self(bps)
    }

    /// From kilobits (1,000 bits) per second.
    pub const fn from_kbps(kbps: u64) -> Self {
        Self(kbps * 1_000)
    }

    /// In bits per second.
    pub const fn bps(self) -> u64 {
        self.0
    }

    /// How much passes in `time`.
    pub fn over(self, time: Duration) -> DataSize {
        DataSize((u128::from(self.0) * time.as_micros() / 8_000_000) as u64)
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kb/s", self.0 / 1_000)
    }
}

/// Bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct DataSize(u64);

impl DataSize {
    /// From bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for DataSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitrate_over_time_is_bytes() {
        assert_eq!(Bitrate::from_kbps(800).over(Duration::from_millis(10)).bytes(), 1_000);
        assert_eq!(Bitrate::ZERO.over(Duration::from_secs(1)).bytes(), 0);
    }
}
