//! The rate by the delay: up while the path takes it, down to what arrived when a queue grows
//! (draft-ietf-rmcat-gcc-02 section 5.5; the near-maximum rule by a link-capacity estimate is libwebrtc's).

use std::time::Duration;

use super::{Usage, competition::Contest};
use crate::{prefetch::prefetch, rtp::Bitrate};

/// What an update goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed {
    pub(super) now: Duration,
    pub(super) usage: Usage,
    /// What arrived in the last moments.
    pub(super) acknowledged: Option<Bitrate>,
    /// What arrived over a longer time, in which single frames do not matter.
    pub(super) steady: Option<Bitrate>,
    pub(super) rtt: Duration,
    /// How long packets wait in the path, as far as can be told.
    pub(super) queue: Duration,
    /// The sender has less to send than it may: what arrives says nothing about the path.
    pub(super) app_limited: bool,
    /// What leaves is about what the rate allows.
    pub(super) filled: bool,
    /// Whether others hold the queue up.
    pub(super) contest: Contest,
    /// Fraction of packets lost lately.
    pub(super) loss: f64,
}

/// Additive increase, multiplicative decrease.
#[derive(Debug)]
pub(super) struct RateControl {
    rate_bps: f64,
    phase: Phase,
    capacity: LinkCapacity,
    updated_at: Option<Duration>,
    decreased_at: Option<Duration>,
    /// The rate before the falls since the last time it was surpassed.
    peak_bps: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Hold,
    Increase,
}

/// What an update did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Held,
    Increased,
    Decreased,
    /// Increased beyond what the path was known to take: there may be much more.
    BeyondKnown,
}

impl RateControl {
    /// The share of what arrived that is sent after an overuse, by the queue in milliseconds: the rest drains the queue.
    /// 0.85 is the draft's. A short queue needs less, and utilisation gains; a long one is drained in a second.
    const BACKOFF: [(f64, f64); 3] = [(20.0, 0.92), (60.0, 0.85), (240.0, 0.7)];
    /// An overuse with less queue than this is jitter: at 2.5 % too much the trendline takes as long to see it.
    const MIN_QUEUE: Duration = Duration::from_millis(15);
    /// With less queue than this the first cut of a rate that is not used up goes to what arrives.
    const UNFILLED_QUEUE: Duration = Duration::from_millis(60);
    /// A cut shows after a round trip, and another waits for it, unless less than this share of the rate arrives.
    const CUT_WAIT: (Duration, Duration) =
        (Duration::from_millis(10), Duration::from_millis(1_200));
    const CUT_AGAIN: f64 = 0.75;
    /// Growth in a second while the path's capacity is unknown: the logarithm of 1.08.
    const LN_GROWTH: f64 = 0.076_961_041_136_128_4;
    /// Growth near the known capacity, in bits per second each second: the same at every rate, because flows that grow by a
    /// share of their rate and fall by a share of it keep their proportions for good (Chiu and Jain, 1989). More shares out
    /// faster and fills the queue oftener; the draft's half packet in a response time is a third of this and leaves those
    /// behind who are far away.
    const NEAR_GROWTH_BPS: f64 = 80_000.0;
    /// The same as a share of the rate, at least and at most: low rates would overshoot, high ones take minutes.
    const NEAR_GROWTH: (f64, f64) = (0.02, 0.15);
    /// The rate grows to this multiple of what arrives and no further: more is not proven.
    const UNPROVEN: f64 = 1.5;
    /// And a little more, for rates near zero.
    const UNPROVEN_BPS: f64 = 10_000.0;
    /// A packet, in bits: what an increase while competing adds in a round trip.
    const PACKET_BITS: f64 = 1_200.0 * 8.0;
    /// While competing: up to the first loss the rate grows, from the second on it falls, by this, so often at most. The
    /// draft's second is 0.1: beside many short TCP flows 6 % are lost then, in place of 5, and they get less than they would leave us.
    const COMPETE_LOSS: (f64, f64) = (0.02, 0.07);
    const COMPETE_BACKOFF: f64 = 0.9;
    /// In bits per second each second at least: with a second of queue, TCP's packet in a round trip is next to nothing.
    const COMPETE_GROWTH: f64 = 30_000.0;
    const YIELD_BACKOFF: f64 = 0.9;
    const COMPETE_WAIT: Duration = Duration::from_millis(500);
    /// Longest step of an increase.
    const MAX_STEP: Duration = Duration::from_secs(1);

    pub(super) fn new(start: Bitrate) -> Self {
        Self {
            rate_bps: start.bps() as f64,
            phase: Phase::Increase,
            capacity: LinkCapacity::default(),
            updated_at: None,
            decreased_at: None,
            peak_bps: 0.0,
        }
    }

    /// What [`Self::update`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.rate_bps);
        prefetch(&self.capacity);
        prefetch(&self.updated_at);
        prefetch(&self.peak_bps);
    }

    pub(super) fn rate_bps(&self) -> f64 {
        self.rate_bps
    }

    pub(super) fn decreased_at(&self) -> Option<Duration> {
        self.decreased_at
    }

    /// The rate before the latest falls.
    pub(super) fn peak_bps(&self) -> f64 {
        self.peak_bps
    }

    /// The fall was probed for: whatever was before counts no more.
    pub(super) fn forget_peak(&mut self) {
        self.peak_bps = 0.0;
    }

    /// A probe measured this.
    pub(super) fn set_rate(&mut self, now: Duration, bps: f64) {
        if self.capacity.is_below(bps) {
            self.capacity.forget();
        }
        self.rate_bps = bps;
        self.updated_at = Some(now);
    }

    /// Keeps the rate within what the owner allows.
    pub(super) fn clamp(&mut self, min_bps: f64, max_bps: f64) {
        self.rate_bps = self.rate_bps.clamp(min_bps, max_bps);
    }

    pub(super) fn update(&mut self, observed: Observed) -> Step {
        let step = match observed.usage {
            _ if observed.contest == Contest::Compete => self.compete(observed),
            Usage::Overuse => self.decrease(observed),
            Usage::Underuse => {
                self.phase = Phase::Hold;
                Step::Held
            }
            Usage::Normal => match self.phase {
                Phase::Hold => {
                    self.phase = Phase::Increase;
                    Step::Held
                }
                Phase::Increase => self.increase(observed),
            },
        };
        self.updated_at = Some(observed.now);
        step
    }

    /// Whether the path has been seen full and not been seen to take more since.
    pub(super) fn knows_capacity(&self) -> bool {
        self.capacity.is_known()
    }

    fn backoff(queue: Duration) -> f64 {
        let ms = queue.as_secs_f64() * 1e3;
        let [low, middle, high] = Self::BACKOFF;
        let between = |a: (f64, f64), b: (f64, f64)| {
            a.1 + (b.1 - a.1) * ((ms - a.0) / (b.0 - a.0)).clamp(0.0, 1.0)
        };
        if ms < middle.0 { between(low, middle) } else { between(middle, high) }
    }

    /// In at most [`Self::MAX_STEP`], by the series of the exponential function: the tables of the library's are far away
    /// whenever they are needed, and what the series leaves out is less than the last place.
    fn growth(seconds: f64) -> f64 {
        /// From the last.
        const TERMS: [f64; 10] = [
            1.0 / 362_880.0,
            1.0 / 40_320.0,
            1.0 / 5_040.0,
            1.0 / 720.0,
            1.0 / 120.0,
            1.0 / 24.0,
            1.0 / 6.0,
            1.0 / 2.0,
            1.0,
            1.0,
        ];
        let x = Self::LN_GROWTH * seconds;
        TERMS.into_iter().fold(0.0, |sum, term| sum * x + term)
    }

    fn increase(&mut self, observed: Observed) -> Step {
        let Some(acknowledged) = observed.steady else { return Step::Held };
        let acknowledged = acknowledged.bps() as f64;
        let since = self.updated_at.map_or(Duration::ZERO, |at| observed.now.saturating_sub(at));
        let seconds = since.min(Self::MAX_STEP).as_secs_f64();
        let beyond = self.capacity.is_below(acknowledged);
        if beyond {
            self.capacity.forget();
        }
        let grown = if self.capacity.is_known() {
            let (least, most) = Self::NEAR_GROWTH;
            let growth = Self::NEAR_GROWTH_BPS.clamp(self.rate_bps * least, self.rate_bps * most);
            self.rate_bps + growth * seconds
        } else {
            self.rate_bps * Self::growth(seconds) + 1_000.0 * seconds
        };
        let proven = acknowledged * Self::UNPROVEN + Self::UNPROVEN_BPS;
        let before = self.rate_bps;
        self.rate_bps = grown.min(proven).max(before);
        match (beyond, self.rate_bps > before) {
            (true, _) => Step::BeyondKnown,
            (false, true) => Step::Increased,
            (false, false) => Step::Held,
        }
    }

    /// As TCP does, and gentler than it when loss is small: up by a packet in a round trip, down when much is lost.
    fn compete(&mut self, observed: Observed) -> Step {
        let Some(acknowledged) = observed.steady else { return Step::Held };
        let acknowledged = acknowledged.bps() as f64;
        let since = self.updated_at.map_or(Duration::ZERO, |at| observed.now.saturating_sub(at));
        let seconds = since.min(Self::MAX_STEP).as_secs_f64();
        if observed.loss > Self::COMPETE_LOSS.1 {
            let wait = observed.rtt.max(Self::COMPETE_WAIT);
            if self.decreased_at.is_some_and(|at| observed.now < at + wait) {
                return Step::Held;
            }
            self.rate_bps = self.rate_bps.min(acknowledged * Self::COMPETE_BACKOFF);
            self.decreased_at = Some(observed.now);
            return Step::Decreased;
        }
        if observed.loss > Self::COMPETE_LOSS.0 {
            return Step::Held;
        }
        let rtt = observed.rtt.as_secs_f64().max(0.05);
        let proven = acknowledged * Self::UNPROVEN + Self::UNPROVEN_BPS;
        let growth = (Self::PACKET_BITS / (rtt * rtt)).max(Self::COMPETE_GROWTH);
        let grown = self.rate_bps + growth * seconds;
        let before = self.rate_bps;
        self.rate_bps = grown.min(proven).max(before);
        if self.rate_bps > before { Step::Increased } else { Step::Held }
    }

    fn decrease(&mut self, observed: Observed) -> Step {
        let Some(acknowledged) = observed.acknowledged else { return Step::Held };
        let acknowledged = acknowledged.bps() as f64;
        if observed.queue < Self::MIN_QUEUE {
            return Step::Held;
        }
        let (least, most) = Self::CUT_WAIT;
        let wait = observed.rtt.clamp(least, most);
        let too_soon = self.decreased_at.is_some_and(|at| observed.now < at + wait);
        if too_soon && acknowledged >= self.rate_bps * Self::CUT_AGAIN {
            return Step::Held;
        }
        let backoff = match observed.contest {
            // What others keep full cannot be drained.
            Contest::Yield => Self::YIELD_BACKOFF,
            // More was allowed than was sent: what is sent may well fit, and a layer that pauses for somebody's probe is
            // a pity.
            _ if !observed.filled && observed.queue < Self::UNFILLED_QUEUE => 1.0,
            _ => Self::backoff(observed.queue),
        };
        let mut target = acknowledged * backoff;
        if target > self.rate_bps {
            // More arrives than we allow ourselves: what was queued before.
            target = target.min(self.capacity.mean_bps().unwrap_or(target) * backoff);
        }
        self.peak_bps = self.peak_bps.max(self.rate_bps);
        if !observed.app_limited {
            self.capacity.observe(acknowledged);
        }
        self.rate_bps = self.rate_bps.min(target);
        self.decreased_at = Some(observed.now);
        self.phase = Phase::Hold;
        Step::Decreased
    }
}

/// What the path took when it was full: mean and spread.
#[derive(Debug, Default)]
struct LinkCapacity {
    /// In kb/s.
    mean: Option<f64>,
    /// Variance over the mean, in kb/s.
    spread: f64,
}

impl LinkCapacity {
    /// Weight of a new observation.
    const WEIGHT: f64 = 0.05;
    const SPREAD_RANGE: (f64, f64) = (0.4, 2.5);

    fn is_known(&self) -> bool {
        self.mean.is_some()
    }

    fn mean_bps(&self) -> Option<f64> {
        self.mean.map(|mean| mean * 1e3)
    }

    fn observe(&mut self, bps: f64) {
        let sample = bps / 1e3;
        let Some(mean) = self.mean.filter(|mean| sample >= mean - self.deviation(*mean)) else {
            // The first, or far less than it was: the path changed.
            *self = Self { mean: Some(sample), spread: Self::SPREAD_RANGE.0 };
            return;
        };
        let mean = (1.0 - Self::WEIGHT) * mean + Self::WEIGHT * sample;
        let error = mean - sample;
        let spread =
            (1.0 - Self::WEIGHT) * self.spread + Self::WEIGHT * error * error / mean.max(1.0);
        self.spread = spread.clamp(Self::SPREAD_RANGE.0, Self::SPREAD_RANGE.1);
        self.mean = Some(mean);
    }

    /// Three standard deviations.
    fn deviation(&self, mean: f64) -> f64 {
        3.0 * (self.spread * mean).sqrt()
    }

    fn is_below(&self, bps: f64) -> bool {
        self.mean.is_some_and(|mean| bps / 1e3 > mean + self.deviation(mean))
    }

    fn forget(&mut self) {
        self.mean = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMAL: Observed = Observed {
        now: Duration::ZERO,
        usage: Usage::Normal,
        acknowledged: Some(Bitrate::from_kbps(1_000)),
        steady: Some(Bitrate::from_kbps(1_000)),
        rtt: Duration::from_millis(100),
        queue: Duration::from_millis(30),
        app_limited: false,
        filled: true,
        contest: Contest::None,
        loss: 0.0,
    };

    fn kbps(control: &RateControl) -> u64 {
        (control.rate_bps() / 1e3).round() as u64
    }

    #[test]
    fn the_rate_grows_fast_until_the_capacity_is_known_and_slowly_after() {
        let mut control = RateControl::new(Bitrate::from_kbps(1_000));
        for n in 0..=10 {
            control.update(Observed { now: Duration::from_millis(100 * n), ..NORMAL });
        }
        assert_eq!(kbps(&control), 1_081, "8 % in a second");

        let now = Duration::from_millis(1_100);
        let step = control.update(Observed { now, usage: Usage::Overuse, ..NORMAL });
        assert_eq!((step, kbps(&control)), (Step::Decreased, 903));
        for n in 0..=11 {
            let acknowledged = Some(Bitrate::from_kbps(850));
            let now = now + Duration::from_millis(100 * n);
            control.update(Observed { now, acknowledged, ..NORMAL });
        }
        assert_eq!(kbps(&control), 991, "80 kb/s a second for 1.1 s");
    }

    #[test]
    fn the_series_of_growth_is_as_exact_as_the_library() {
        for ms in 0..=1_000 {
            let seconds = f64::from(ms) / 1e3;
            let exact = 1.08_f64.powf(seconds);
            assert!((RateControl::growth(seconds) / exact - 1.0).abs() < 5e-16, "{ms} ms");
        }
    }

    #[test]
    fn near_the_capacity_all_rates_grow_alike() {
        struct Case {
            kbps: u64,
            gained: u64,
        }
        for case in [
            Case { kbps: 200, gained: 30 },
            Case { kbps: 600, gained: 80 },
            Case { kbps: 1_200, gained: 80 },
            Case { kbps: 10_000, gained: 200 },
        ] {
            let mut control = RateControl::new(Bitrate::from_kbps(case.kbps));
            let arrives = Some(Bitrate::from_kbps(case.kbps));
            let observed = Observed { acknowledged: arrives, steady: arrives, ..NORMAL };
            control.update(Observed { usage: Usage::Overuse, ..observed });
            control.set_rate(Duration::ZERO, case.kbps as f64 * 1e3);
            control.update(observed);
            control.update(Observed { now: Duration::from_secs(1), ..observed });
            assert_eq!(kbps(&control) - case.kbps, case.gained, "at {} kb/s", case.kbps);
        }
    }

    #[test]
    fn a_second_cut_waits_until_the_first_can_show() {
        let mut control = RateControl::new(Bitrate::from_kbps(1_000));
        let overuse = Observed {
            usage: Usage::Overuse,
            acknowledged: Some(Bitrate::from_kbps(900)),
            rtt: Duration::from_millis(1_000),
            ..NORMAL
        };
        assert_eq!(control.update(overuse), Step::Decreased);
        let later = |ms| Observed { now: Duration::from_millis(ms), ..overuse };
        assert_eq!(control.update(later(900)), Step::Held, "a round trip is not over");
        assert_eq!(control.update(later(1_100)), Step::Decreased);
    }

    #[test]
    fn a_rate_is_not_believed_beyond_one_and_a_half_times_what_arrives() {
        let mut control = RateControl::new(Bitrate::from_kbps(1_000));
        for n in 0..100 {
            control.update(Observed { now: Duration::from_millis(500 * n), ..NORMAL });
        }
        assert_eq!(kbps(&control), 1_510);
        control.set_rate(Duration::from_secs(50), 3e6);
        control.update(Observed { now: Duration::from_secs(51), ..NORMAL });
        assert_eq!(kbps(&control), 3_000, "what a probe proved stays");
    }

    #[test]
    fn a_long_queue_is_drained_faster_and_jitter_is_not_obeyed() {
        struct Case {
            queue_ms: u64,
            kbps: u64,
        }
        for case in [
            Case { queue_ms: 5, kbps: 1_000 },
            Case { queue_ms: 20, kbps: 920 },
            Case { queue_ms: 60, kbps: 850 },
            Case { queue_ms: 150, kbps: 775 },
            Case { queue_ms: 400, kbps: 700 },
        ] {
            let mut control = RateControl::new(Bitrate::from_kbps(1_000));
            let queue = Duration::from_millis(case.queue_ms);
            control.update(Observed { usage: Usage::Overuse, queue, ..NORMAL });
            assert_eq!(kbps(&control), case.kbps, "{} ms", case.queue_ms);
        }
    }
}
