//! How many bits arrived of late.

use std::time::{Duration, Instant};

use crate::rtp::Bitrate;

/// Bitrate over the last second, in steps of 100 ms.
#[derive(Clone, Debug, Default)]
pub struct RateMeter {
    /// Bytes by interval; `buckets[at]` is still being filled.
    buckets: [u32; BUCKETS],
    at: usize,
    /// Start of the interval that is being filled.
    since: Option<Instant>,
    /// Intervals that passed since the first byte, as far as they are kept.
    passed: u8,
}

const BUCKETS: usize = 11;
const INTERVAL: Duration = Duration::from_millis(100);

impl RateMeter {
    /// Counts bytes.
    pub fn add(&mut self, now: Instant, bytes: usize) {
        self.advance(now);
        self.buckets[self.at] = self.buckets[self.at].saturating_add(bytes as u32);
    }

    /// Over the ten intervals before the current one, or as many as there were; zero in the first 100 ms.
    pub fn rate(&mut self, now: Instant) -> Bitrate {
        self.advance(now);
        let bytes: u64 = self.buckets.iter().map(|bytes| u64::from(*bytes)).sum();
        let past = bytes - u64::from(self.buckets[self.at]);
        let span = INTERVAL.as_millis() as u64 * u64::from(self.passed.max(1));
        Bitrate::from_bps(past * 8 * 1_000 / span)
    }

    fn advance(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let steps = now.saturating_duration_since(since).as_millis() / INTERVAL.as_millis();
        if steps == 0 {
            return;
        }
        for _ in 0..steps.min(BUCKETS as u128) {
            self.at = (self.at + 1) % BUCKETS;
            self.buckets[self.at] = 0;
        }
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.passed = (u32::from(self.passed).saturating_add(steps)).min(BUCKETS as u32 - 1) as u8;
        self.since = Some(since + INTERVAL.saturating_mul(steps));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn a_steady_stream_is_measured_and_forgotten() {
        let mut meter = RateMeter::default();
        let start = Instant::now();
        for n in 0..200 {
            meter.add(start + Duration::from_millis(10) * n, 1_000);
        }
        let now = start + Duration::from_millis(2_000);
        assert_eq!(meter.rate(now), Bitrate::from_kbps(800));
        assert_eq!(meter.rate(now + Duration::from_millis(500)), Bitrate::from_kbps(400));
        assert_eq!(meter.rate(now + Duration::from_secs(3_600)), Bitrate::ZERO);
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn a_young_stream_is_measured_over_its_own_life() {
        let mut meter = RateMeter::default();
        let start = Instant::now();
        for n in 0..30 {
            meter.add(start + Duration::from_millis(10) * n, 1_000);
        }
        assert_eq!(meter.rate(start + Duration::from_millis(300)), Bitrate::from_kbps(800));
    }
}
