//! How many bits arrived of late.

use std::time::Instant;

use super::recent::Recent;
use crate::rtp::{Bitrate, DataSize};

/// Bitrate over the last second, in steps of 100 ms.
#[derive(Clone, Debug, Default)]
pub struct RateMeter {
    bytes: Recent<u32>,
}

impl RateMeter {
    /// Counts bytes.
    pub fn add(&mut self, now: Instant, bytes: usize) {
        let current = self.bytes.current(now);
        *current = current.saturating_add(bytes as u32);
    }

    /// Over the ten intervals before the current one, or as many as there were; zero in the first 100 ms.
    pub fn rate(&mut self, now: Instant) -> Bitrate {
        let (past, span) = self.bytes.past(now);
        let bytes = past.map(|bytes| u64::from(*bytes)).sum();
        DataSize::from_bytes(bytes).per(span).unwrap_or(Bitrate::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
