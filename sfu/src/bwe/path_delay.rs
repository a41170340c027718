//! Round-trip time, and how long packets wait on the way.

use std::time::Duration;

use crate::prefetch::prefetch;

/// Both as feedback tells them.
#[derive(Debug, Default)]
pub(super) struct PathDelay {
    pub(super) rtt: Option<Duration>,
    /// Least one-way delays (on clocks with different origins) of this and the last interval, in microseconds.
    least_us: [Option<i64>; 2],
    since: Duration,
    pub(super) queue: Duration,
}

impl PathDelay {
    /// For how long the least delay counts: a change of route, or of the clocks' drift, is followed in twice this.
    const INTERVAL: Duration = Duration::from_secs(30);
    /// Weight of a new round-trip time (RFC 6298).
    const RTT_WEIGHT: u32 = 8;

    /// What [`Self::update`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.rtt);
        prefetch(&self.least_us);
        prefetch(&self.queue);
    }

    /// A feedback came: when the packet had left that arrived last, and the least one-way delay in it, in microseconds.
    pub(super) fn update(&mut self, now: Duration, sent: Option<Duration>, least_us: Option<i64>) {
        if let Some(sent) = sent {
            let sample = now.saturating_sub(sent);
            self.rtt =
                Some(self.rtt.map_or(sample, |rtt| {
                    (rtt * (Self::RTT_WEIGHT - 1) + sample) / Self::RTT_WEIGHT
                }));
        }
        let Some(delay_us) = least_us else { return };
        if now.saturating_sub(self.since) > Self::INTERVAL {
            self.least_us = [None, self.least_us[0]];
            self.since = now;
        }
        let least = self.least_us[0].get_or_insert(delay_us);
        *least = (*least).min(delay_us);
        let base = self.least_us.iter().flatten().min().copied().unwrap_or(delay_us);
        self.queue = Duration::from_micros(delay_us.saturating_sub(base).max(0) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_what_is_over_the_least_delay_of_two_intervals() {
        let mut path = PathDelay::default();
        let mut queue_ms = |at_s: u64, delay_ms: i64| {
            // Clocks have different origins: delays may be negative.
            path.update(Duration::from_secs(at_s), None, Some(delay_ms * 1_000 - 5_000_000));
            path.queue.as_millis()
        };
        assert_eq!([queue_ms(1, 40), queue_ms(2, 70), queue_ms(3, 40)], [0, 30, 0]);
        // The route is longer by 60 ms from now on.
        assert_eq!([queue_ms(20, 100), queue_ms(40, 100), queue_ms(60, 110)], [60, 60, 70]);
        assert_eq!(queue_ms(75, 100), 0, "the old route is forgotten");
    }

    #[test]
    fn the_round_trip_time_is_smoothed() {
        let mut path = PathDelay::default();
        let ms = Duration::from_millis;
        path.update(ms(1_100), Some(ms(1_000)), None);
        path.update(ms(1_380), Some(ms(1_200)), None);
        assert_eq!(path.rtt, Some(ms(110)));
    }
}
