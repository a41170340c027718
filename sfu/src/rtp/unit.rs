//! Quantities with their unit.

use std::{fmt, iter::Sum, ops::Add, time::Duration};

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
        let exact = u128::from(self.0) * time.as_micros();
        // Nearly always short: a division of what is long costs as much as a packet's header.
        DataSize(match u64::try_from(exact) {
            Ok(exact) => exact / 8_000_000,
            Err(_) => (exact / 8_000_000) as u64,
        })
    }

    /// How long `size` takes; for ever at no rate.
    pub fn time_for(self, size: DataSize) -> Duration {
        if self.0 == 0 {
            return Duration::MAX;
        }
        let nanos = u128::from(size.0) * 8 * 1_000_000_000 / u128::from(self.0);
        u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
    }

    /// 0.75 to 1.25, for times that must not be the same for all who share a path: the last digits of an estimate are as good as
    /// dice, and repeat themselves in a simulation. `salt` is one's own, for those whose estimates are equal.
    pub fn stagger(self, salt: u32) -> f64 {
        0.75 + ((self.bps() % 997 + u64::from(salt)) % 997) as f64 / 997.0 / 2.0
    }

    /// This rate times `factor`; a factor below zero, or none at all, gives zero.
    #[must_use]
    pub fn mul_f64(self, factor: f64) -> Self {
        Self((self.0 as f64 * factor) as u64)
    }

    /// Without `other`, at least zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Bitrate {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Bitrate {
    fn sum<I: Iterator<Item = Self>>(rates: I) -> Self {
        rates.fold(Self::ZERO, Self::add)
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

    /// The rate at which this much passes in `time`; `None` when no time passes.
    pub fn per(self, time: Duration) -> Option<Bitrate> {
        let bps = (u128::from(self.0) * 8 * 1_000_000_000).checked_div(time.as_nanos())?;
        Some(Bitrate(u64::try_from(bps).unwrap_or(u64::MAX)))
    }
}

impl Add for DataSize {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Pictures per second, in thousandths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct FrameRate(u32);

impl FrameRate {
    /// Nothing moves, or nobody knows.
    pub const ZERO: Self = Self(0);

    /// From pictures per second; beyond four million it is four million.
    pub const fn from_fps(fps: u32) -> Self {
        Self(fps.saturating_mul(1_000))
    }

    /// `frames` of them in `time`; `None` when no time passes.
    pub fn measured(frames: u32, time: Duration) -> Option<Self> {
        let millihertz = (u128::from(frames) * 1_000_000_000_000).checked_div(time.as_nanos())?;
        Some(Self(u32::try_from(millihertz).unwrap_or(u32::MAX)))
    }

    /// So many percent of this.
    #[must_use]
    pub const fn percent(self, percent: u32) -> Self {
        let millihertz = self.0 as u64 * percent as u64 / 100;
        Self(if millihertz > u32::MAX as u64 { u32::MAX } else { millihertz as u32 })
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
    fn frames_over_time_are_a_rate() {
        let rate = |frames, ms| FrameRate::measured(frames, Duration::from_millis(ms));
        assert_eq!(rate(15, 500), Some(FrameRate::from_fps(30)));
        assert_eq!(rate(15, 0), None);
        assert!(rate(7, 1_000) < rate(15, 2_000));
        assert_eq!(FrameRate::from_fps(20).percent(110), FrameRate::from_fps(22));
        assert_eq!(FrameRate::from_fps(u32::MAX).percent(200).percent(50), FrameRate(u32::MAX / 2));
    }

    #[test]
    fn bitrate_over_time_is_bytes() {
        assert_eq!(Bitrate::from_kbps(800).over(Duration::from_millis(10)).bytes(), 1_000);
        assert_eq!(Bitrate::ZERO.over(Duration::from_secs(1)).bytes(), 0);
    }

    #[test]
    fn rates_times_and_sizes_agree() {
        let (rate, size) = (Bitrate::from_kbps(800), DataSize::from_bytes(100_000));
        let second = Duration::from_secs(1);
        assert_eq!(rate.over(second), size);
        assert_eq!(rate.time_for(size), second);
        assert_eq!(size.per(second), Some(rate));
        assert_eq!(size.per(Duration::ZERO), None);
        assert_eq!(Bitrate::ZERO.time_for(size), Duration::MAX);
        assert_eq!(rate.mul_f64(0.5), Bitrate::from_kbps(400));
        assert_eq!(rate.mul_f64(f64::NAN), Bitrate::ZERO);
        assert_eq!(rate.saturating_sub(rate + rate), Bitrate::ZERO);
        assert_eq!([rate, rate].into_iter().sum::<Bitrate>(), Bitrate::from_kbps(1_600));
    }
}
