//! Caps on what a peer may send.

use std::time::{Duration, Instant};

use crate::rtp::{Bitrate, DataSize};

/// A token bucket: `rate` on average, one `burst` at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: Bitrate,
    burst: Duration,
    /// Bits that may be spent now.
    tokens: u64,
    filled_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(now: Instant, rate: Bitrate, burst: Duration) -> Self {
        let mut bucket = Self { rate, burst, tokens: 0, filled_at: now };
        bucket.tokens = bucket.capacity();
        bucket
    }

    /// Bits that come in per second.
    pub(crate) fn rate(&self) -> Bitrate {
        self.rate
    }

    /// Another rate from now on.
    pub(crate) fn set_rate(&mut self, rate: Bitrate) {
        self.rate = rate;
        self.tokens = self.tokens.min(self.capacity());
    }

    /// Spends `size`; `false` and nothing spent where that is over the cap.
    pub(crate) fn take(&mut self, now: Instant, size: DataSize) -> bool {
        let elapsed = now.saturating_duration_since(self.filled_at);
        // Below a millisecond the rounding would eat the rate of a slow bucket.
        if elapsed >= Duration::from_millis(1) {
            let earned = self.rate.over(elapsed).bytes().saturating_mul(8);
            self.tokens = self.tokens.saturating_add(earned).min(self.capacity());
            self.filled_at = now;
        }
        match self.tokens.checked_sub(size.bytes().saturating_mul(8)) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }

    fn capacity(&self) -> u64 {
        self.rate.over(self.burst).bytes().saturating_mul(8)
    }
}

/// A token bucket for things of one kind rather than for bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    per_second: u32,
    burst: u32,
    left: u32,
    filled_at: Instant,
}

impl Budget {
    /// Full: `burst` at once, `per_second` on average.
    pub(crate) fn new(now: Instant, per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, left: burst, filled_at: now }
    }

    /// Spends one; `false` where none is left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled_at).as_micros();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let per_second = u64::from(self.per_second);
        let earned = elapsed.saturating_mul(per_second) / 1_000_000;
        if earned > 0 {
            self.left = (u64::from(self.left) + earned).min(self.burst.into()) as u32;
            // What is less than one is earned further on.
            self.filled_at += Duration::from_micros(earned * 1_000_000 / per_second);
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }

    /// Spends `count` more, as far as there are any.
    pub(crate) fn spend(&mut self, count: u32) {
        self.left = self.left.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn the_average_is_capped_and_a_burst_passes() {
        let t0 = Instant::now();
        let kilobyte = DataSize::from_bytes(1_000);
        let mut bucket = Bucket::new(t0, Bitrate::from_kbps(80), Duration::from_millis(500));
        let burst = (0..20).filter(|_| bucket.take(t0, kilobyte)).count();
        assert_eq!(burst, 5, "500 ms of 10 kB/s");
        let second =
            (1..=1_000).filter(|ms| bucket.take(t0 + Duration::from_millis(*ms), kilobyte)).count();
        assert_eq!(second, 10);
        bucket.set_rate(Bitrate::ZERO);
        assert!(!bucket.take(t0 + Duration::from_secs(5), kilobyte));
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn a_budget_fills_however_often_it_is_asked() {
        let t0 = Instant::now();
        let at = |micros| t0 + Duration::from_micros(micros);
        let mut budget = Budget::new(t0, 20, 5);
        assert_eq!((0..20).filter(|_| budget.take(t0)).count(), 5);
        // Every 100 us for ten seconds.
        let taken = (1..=100_000).filter(|n| budget.take(at(n * 100))).count();
        assert_eq!(taken, 200);
        let later = at(3_600_000_000);
        assert_eq!((0..20).filter(|_| budget.take(later)).count(), 5, "no more than a burst");
        let again = later + Duration::from_secs(1);
        assert!(budget.take(again));
        budget.spend(1_000);
        assert!(!budget.take(again));
    }
}
