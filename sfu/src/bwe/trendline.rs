//! Does the delay grow? (draft-ietf-rmcat-gcc-02 section 5, with the trendline filter that libwebrtc has in the place of
//! the draft's Kalman filter.)

use super::{Usage, arrival_group::GroupDelta};
use crate::prefetch::prefetch;

/// Slope of the delay over the last groups, against a threshold that follows the path's own unrest.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Trendline {
    usage: Usage,
    len: usize,
    next: usize,
    /// Groups so far, at most [`Self::MAX_DELTAS`].
    deltas: u32,
    first_at_ms: f64,
    accumulated_ms: f64,
    smoothed_ms: f64,
    threshold_ms: f64,
    /// Arrival of the group that last moved the threshold.
    threshold_at_ms: Option<f64>,
    over_for_ms: f64,
    over_count: u32,
    previous_trend: f64,
    /// (arrival, smoothed accumulated delay) in milliseconds, a ring; empty before the first.
    samples: Box<[(f64, f64)]>,
}

impl Trendline {
    /// Groups in the regression: fewer react faster, more stand more jitter.
    const WINDOW: usize = 20;
    /// Weight of the old value when delays are smoothed.
    const SMOOTHING: f64 = 0.9;
    /// Makes a slope comparable with the threshold in milliseconds.
    const GAIN: f64 = 4.0;
    /// The slope counts in full from so many groups on.
    const MAX_DELTAS: u32 = 60;
    /// How long the slope must stand over the threshold.
    const OVERUSE_MS: f64 = 10.0;
    const FIRST_THRESHOLD_MS: f64 = 12.5;
    const THRESHOLD_RANGE_MS: (f64, f64) = (6.0, 600.0);
    /// Per millisecond: the threshold rises slowly, so that a standing queue of ours is seen, yet falls fast.
    const RISE: f64 = 0.008_7;
    const FALL: f64 = 0.039;
    /// A slope further than this over the threshold is a spike and moves nothing.
    const SPIKE_MS: f64 = 15.0;
    /// Longest step of the threshold, whatever the gap between groups.
    const MAX_STEP_MS: f64 = 100.0;

    pub(super) fn new() -> Self {
        Self {
            samples: Box::default(),
            len: 0,
            next: 0,
            deltas: 0,
            first_at_ms: 0.0,
            accumulated_ms: 0.0,
            smoothed_ms: 0.0,
            threshold_ms: Self::FIRST_THRESHOLD_MS,
            threshold_at_ms: None,
            over_for_ms: 0.0,
            over_count: 0,
            previous_trend: 0.0,
            usage: Usage::Normal,
        }
    }

    /// What [`Self::add`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.usage);
        prefetch(&self.over_for_ms);
        // A line has four of them.
        for sample in self.samples.iter().step_by(4) {
            prefetch(sample);
        }
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    pub(super) fn add(&mut self, delta: GroupDelta) {
        if self.deltas == 0 {
            self.first_at_ms = delta.at_ms;
        }
        self.deltas = (self.deltas + 1).min(Self::MAX_DELTAS);
        self.accumulated_ms += delta.arrived_ms - delta.sent_ms;
        self.smoothed_ms =
            Self::SMOOTHING * self.smoothed_ms + (1.0 - Self::SMOOTHING) * self.accumulated_ms;
        if self.samples.is_empty() {
            self.samples = vec![(0.0, 0.0); Self::WINDOW].into();
        }
        self.samples[self.next] = (delta.at_ms - self.first_at_ms, self.smoothed_ms);
        self.next = (self.next + 1) % Self::WINDOW;
        self.len = (self.len + 1).min(Self::WINDOW);

        let slope = if self.len == Self::WINDOW { self.slope() } else { Some(0.0) };
        let slope = slope.unwrap_or(self.previous_trend);
        self.judge(slope, delta);
    }

    /// Forgets the delays, keeps the threshold: after silence, or when the path changed.
    pub(super) fn reset(&mut self) {
        let (threshold_ms, samples) = (self.threshold_ms, std::mem::take(&mut self.samples));
        *self = Self { threshold_ms, samples, ..Self::new() };
    }

    fn slope(&self) -> Option<f64> {
        let samples = &self.samples[..self.len];
        let n = samples.len() as f64;
        let (x, y) = samples.iter().fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x, sum.1 + y));
        let (x, y) = (x / n, y / n);
        let (over, under) = samples.iter().fold((0.0, 0.0), |sum, sample| {
            let dx = sample.0 - x;
            (sum.0 + dx * (sample.1 - y), sum.1 + dx * dx)
        });
        (under > 0.0).then(|| over / under)
    }

    fn judge(&mut self, slope: f64, delta: GroupDelta) {
        let trend_ms = f64::from(self.deltas) * slope * Self::GAIN;
        if trend_ms > self.threshold_ms {
            // Half a step: the threshold was passed somewhere between the groups.
            self.over_for_ms +=
                if self.over_count == 0 { delta.sent_ms / 2.0 } else { delta.sent_ms };
            self.over_count += 1;
            if self.over_for_ms > Self::OVERUSE_MS
                && self.over_count > 1
                && slope >= self.previous_trend
            {
                (self.over_for_ms, self.over_count) = (0.0, 0);
                self.usage = Usage::Overuse;
            }
        } else {
            (self.over_for_ms, self.over_count) = (0.0, 0);
            self.usage =
                if trend_ms < -self.threshold_ms { Usage::Underuse } else { Usage::Normal };
        }
        self.previous_trend = slope;
        self.adapt(trend_ms, delta.at_ms);
    }

    fn adapt(&mut self, trend_ms: f64, at_ms: f64) {
        let step_ms = at_ms - self.threshold_at_ms.unwrap_or(at_ms);
        self.threshold_at_ms = Some(at_ms);
        let distance = trend_ms.abs() - self.threshold_ms;
        if distance > Self::SPIKE_MS {
            return;
        }
        let pull = if distance < 0.0 { Self::FALL } else { Self::RISE };
        self.threshold_ms += pull * distance * step_ms.clamp(0.0, Self::MAX_STEP_MS);
        let (low, high) = Self::THRESHOLD_RANGE_MS;
        self.threshold_ms = self.threshold_ms.clamp(low, high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds groups 10 ms apart, each `extra_ms` later than it should be.
    fn feed(trendline: &mut Trendline, from: u32, count: u32, extra_ms: impl Fn(u32) -> f64) {
        let mut at_ms = f64::from(from) * 10.0;
        for n in from..from + count {
            let arrived_ms = 10.0 + extra_ms(n);
            at_ms += arrived_ms;
            trendline.add(GroupDelta { sent_ms: 10.0, arrived_ms, at_ms });
        }
    }

    #[test]
    fn growing_delay_is_overuse_and_falling_delay_underuse() {
        let mut trendline = Trendline::new();
        feed(&mut trendline, 0, 60, |_| 0.0);
        assert_eq!(trendline.usage(), Usage::Normal);
        feed(&mut trendline, 60, 30, |_| 1.0);
        assert_eq!(trendline.usage(), Usage::Overuse, "10 % over capacity for 300 ms");
        feed(&mut trendline, 90, 60, |_| -1.0);
        assert_eq!(trendline.usage(), Usage::Underuse);
        feed(&mut trendline, 150, 60, |_| 0.0);
        assert_eq!(trendline.usage(), Usage::Normal);
    }

    #[test]
    fn jitter_without_a_trend_is_no_overuse() {
        let mut trendline = Trendline::new();
        for round in 0..300 {
            // 0, +8, -8, +5, -5 ...: no sum.
            feed(&mut trendline, round * 4, 4, |n| [8.0, -8.0, 5.0, -5.0][n as usize % 4]);
            assert_ne!(trendline.usage(), Usage::Overuse, "round {round}");
        }
    }
}
