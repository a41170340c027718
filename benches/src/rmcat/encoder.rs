//! A video encoder as its traffic looks (RFC 8593 section 5, the synthetic model), and a publisher of simulcast layers.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Frames whose sizes follow a target rate.
#[derive(Debug)]
pub struct Encoder {
    random: SmallRng,
    /// The rate it works at, in bits per second.
    rate: f64,
    /// When it last took a new target.
    changed_at: Option<Instant>,
    next_frame: Instant,
    /// Frames left of the transient after a large change, and what each of them has, as a multiple.
    transient: u32,
}

impl Encoder {
    /// RFC 8593 table 1: frames in a second.
    const FPS: f64 = 30.0;
    /// Least time between two changes of the rate: how long it takes to react.
    const REACTION: Duration = Duration::from_millis(200);
    /// Scale of the Laplace distribution of frame intervals and of frame sizes.
    const SPREAD: f64 = 0.15;
    /// What it can do, in bits per second.
    pub const RANGE: (f64, f64) = (150e3, 6e6);
    /// A change by this factor begins with a large frame, paid back by those after it.
    const LARGE_CHANGE: f64 = 1.5;
    const TRANSIENT: u32 = 10;
    const LARGE_FRAME: f64 = 3.0;

    /// Starts at `start` with `rate` bits per second.
    pub fn new(seed: u64, start: Instant, rate: f64) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            rate,
            changed_at: None,
            next_frame: start,
            transient: 0,
        }
    }

    /// When the next frame is ready.
    pub fn next_frame(&self) -> Instant {
        self.next_frame
    }

    /// The application has nothing to show until `at`.
    pub fn pause_until(&mut self, at: Instant) {
        self.next_frame = self.next_frame.max(at);
    }

    /// Bytes of the frame that is ready, if one is; `target` is what the estimate allows.
    pub fn poll_frame(&mut self, now: Instant, target: f64) -> Option<u32> {
        if now < self.next_frame {
            return None;
        }
        let due = self.changed_at.is_none_or(|at| now >= at + Self::REACTION);
        if due {
            let (low, high) = Self::RANGE;
            let target = target.clamp(low, high);
            let change = (target / self.rate).max(self.rate / target);
            if change >= Self::LARGE_CHANGE {
                self.transient = Self::TRANSIENT;
            }
            self.rate = target;
            self.changed_at = Some(now);
        }
        let interval = 1.0 / Self::FPS;
        let mean = self.rate * interval / 8.0;
        let scale = match self.transient {
            0 => 1.0,
            Self::TRANSIENT => Self::LARGE_FRAME,
            _ => 1.0 - (Self::LARGE_FRAME - 1.0) / f64::from(Self::TRANSIENT - 1),
        };
        self.transient = self.transient.saturating_sub(1);
        let size = mean * scale * (1.0 + self.laplace()).clamp(0.3, 2.0);
        let step = interval * (1.0 + self.laplace()).clamp(0.3, 2.0);
        self.next_frame += Duration::from_secs_f64(step);
        Some(size.max(100.0) as u32)
    }

    fn laplace(&mut self) -> f64 {
        let u: f64 = self.random.random::<f64>() - 0.5;
        // A scale of b has a deviation of b times the root of two.
        -Self::SPREAD * u.signum() * (1.0 - 2.0 * u.abs()).max(1e-9).ln() / std::f64::consts::SQRT_2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_sum_up_to_the_rate() {
        let start = Instant::now();
        let mut encoder = Encoder::new(3, start, 1e6);
        let mut bytes = 0u64;
        for ms in 0..60_000 {
            let now = start + Duration::from_millis(ms);
            // A large change in the middle.
            let target = if ms < 30_000 { 1e6 } else { 2e6 };
            bytes += encoder.poll_frame(now, target).map_or(0, u64::from);
        }
        let kbps = bytes as f64 * 8.0 / 60.0 / 1e3;
        assert!((1_425.0..1_575.0).contains(&kbps), "{kbps}");
    }
}
