//! What left and what came of it, put together into one rate.

mod lines;

use std::time::{Duration, Instant};

use super::{
    Usage,
    aimd::{Observed, RateControl, Step},
    arrival_group::{Arrival, ArrivalGroups},
    competition::Competition,
    fallback::Fallback,
    feedback_clock::FeedbackClock,
    history::History,
    loss::LossBound,
    path_delay::PathDelay,
    probing::{Outcome, Prober, Situation},
    throughput::Throughput,
    trendline::Trendline,
};
use crate::{
    rtp::{Bitrate, DataSize, Probe, ProbeId, Seq16, Ssrc},
    wire::rtcp::{CongestionFeedback, TransportFeedback},
};

/// Bounds of the estimate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EstimatorConfig {
    /// It never falls below: an audio stream with its overhead.
    pub min: Bitrate,
    /// Before anything is known.
    pub start: Bitrate,
    /// It never grows above.
    pub max: Bitrate,
    /// Fixed for one transport, another one for each that may share a path: those whose estimates are equal do not probe at
    /// the same moments.
    pub salt: u32,
}

impl Default for EstimatorConfig {
    fn default() -> Self {
        Self {
            min: Bitrate::from_kbps(50),
            start: Bitrate::from_kbps(800),
            max: Bitrate::from_kbps(30_000),
            salt: 0,
        }
    }
}

/// What holds the estimate where it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Limit {
    /// Nothing is known yet.
    Start,
    /// The delay grows with more, or has not been seen to stand more.
    Delay,
    /// More would be lost.
    Loss,
    /// The receiver said so, and says nothing better.
    Remb,
    /// The receiver fell silent.
    Silence,
    /// The configured maximum.
    Max,
}

/// A look inside, for telemetry.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct EstimatorStats {
    /// See [`SendSideEstimator::estimate`].
    pub estimate: Bitrate,
    /// See [`SendSideEstimator::acknowledged`].
    pub acknowledged: Option<Bitrate>,
    /// At which rate packets that feedback may tell of left in the last half second.
    pub sent: Option<Bitrate>,
    /// What the delay says.
    pub usage: Usage,
    /// What holds the estimate.
    pub limit: Limit,
    /// How long packets wait in the path beyond the shortest time of late.
    pub queue: Duration,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Fraction of packets lost lately.
    pub loss: f32,
    /// Probes asked for.
    pub probes: u32,
}

/// Estimates what one transport takes.
///
/// After each `handle_*` ask [`Self::estimate`], [`Self::poll_probe`] and [`Self::poll_timeout`]. Costs 5 to 19 KiB.
///
/// In this order: what each packet that leaves looks at comes first, then all that counts before there is feedback, then what each feedback
/// looks at. Each of them has the lines of its own that are used most at its beginning or at its end.
#[derive(Debug)]
#[repr(C)]
pub struct SendSideEstimator {
    /// Times inside count from here.
    origin: Instant,
    /// The latest moment at which something was told, and how long after the origin that is: packets that leave together share it.
    told_at: (Instant, Duration),
    feedback_at: Option<Duration>,
    /// When a packet last left, and the first one that left since the latest feedback.
    sent_at: Option<Duration>,
    unanswered_since: Option<Duration>,
    /// When the rate was last cut because the receiver is silent.
    silent_at: Option<Duration>,
    /// What counts until feedback by packet comes.
    fallback: Fallback,
    config: EstimatorConfig,
    history: History,
    /// The last that left.
    latest_number: u16,
    sent: Throughput,
    arrived: Throughput,
    clock: FeedbackClock,
    groups: ArrivalGroups,
    trendline: Trendline,
    rate: RateControl,
    path: PathDelay,
    competition: Competition,
    wanted: Bitrate,
    /// See [`Self::set_held`].
    held: bool,
    limit: Limit,
    /// When a probe was last asked for.
    polled_at: Duration,
    loss: LossBound,
    prober: Prober,
    /// Of RFC 8888 reports that are not complete: number, and arrival in microseconds.
    collected: Vec<(u16, Option<i64>)>,
}

/// What one feedback said, while it is read.
#[derive(Default)]
struct Digest {
    /// Of the packet that arrived last: when it left.
    latest_sent: Option<Duration>,
    /// Least one-way delay in it, in microseconds.
    least_us: Option<i64>,
    /// On the receiver's clock.
    latest_us: Option<i64>,
}

impl SendSideEstimator {
    /// The rate at which packets arrive is taken over this many times 10 ms: a shorter window reacts faster and is less
    /// exact.
    const ARRIVED_WINDOW: usize = 20;
    /// The same where single frames must not matter.
    const STEADY_WINDOW: usize = 60;
    /// The rate at which they leave: over half a second, so that frames do not matter.
    const SENT_WINDOW: usize = 50;
    /// Sending less than this share of the estimate is the application's choice.
    const APP_LIMITED: f64 = 0.65;
    /// And at this share it is used up.
    const FILLED: f64 = 0.85;
    /// An estimate is in use when this share of it arrives.
    const IN_USE: f64 = 0.6;
    /// A queue below this is calm enough for a probe.
    const CALM_QUEUE: Duration = Duration::from_millis(40);
    /// A queue that is long already and longer by this than at the last feedback is an overuse, whatever the trendline
    /// says: at low rates it takes half a second to see its twenty groups.
    const LONG_QUEUE: Duration = Duration::from_millis(50);
    const QUEUE_STEP: Duration = Duration::from_millis(20);
    /// The path has fallen when less than this share of what is sent arrives: nobody else takes so much at once.
    const FELL: f64 = 0.5;
    /// Loss above this is more than an accident.
    const LOSSY: f64 = 0.005;
    /// What a probe that found the path full may add at most.
    const SATURATED_GAIN: f64 = 1.05;
    /// How far beyond what is wanted a probe may go: layers change their rate.
    const USEFUL: f64 = 1.2;
    /// Without feedback for this long while packets leave, the path is taken to be broken.
    const SILENCE: Duration = Duration::from_millis(1_500);
    /// Then the rate is cut by this, each half second.
    const SILENCE_CUT: f64 = 0.7;
    const SILENCE_STEP: Duration = Duration::from_millis(500);
    /// Between two looks at a probe that is due and held back, when nothing else happens.
    const POLL: Duration = Duration::from_millis(250);
    /// Fates that room is kept for between two reports.
    const KEPT_COLLECTED: usize = 256;
    /// Fates that are collected at most: twice as many as a datagram has room for.
    const MAX_COLLECTED: usize = 1_500;
    /// Round-trip time until one is measured.
    const FIRST_RTT: Duration = Duration::from_millis(200);

    /// Starts at `config.start`.
    pub fn new(now: Instant, config: EstimatorConfig) -> Self {
        Self {
            config,
            origin: now,
            told_at: (now, Duration::ZERO),
            history: History::new(),
            clock: FeedbackClock::default(),
            collected: Vec::new(),
            latest_number: 0,
            groups: ArrivalGroups::default(),
            trendline: Trendline::new(),
            rate: RateControl::new(config.start),
            loss: LossBound::new(),
            prober: Prober::new(config.salt),
            arrived: Throughput::new(),
            sent: Throughput::new(),
            path: PathDelay::default(),
            competition: Competition::default(),
            wanted: Bitrate::ZERO,
            held: false,
            fallback: Fallback::new(config.salt),
            feedback_at: None,
            silent_at: None,
            sent_at: None,
            unanswered_since: None,
            limit: Limit::Start,
            polled_at: Duration::ZERO,
        }
    }

    /// What may be sent now, in all: media, retransmissions, padding.
    pub fn estimate(&self) -> Bitrate {
        let (bps, _) = self.bounded();
        Bitrate::from_bps(bps as u64)
    }

    /// What holds it.
    pub fn limit(&self) -> Limit {
        self.bounded().1
    }

    /// At which rate packets arrived of late.
    pub fn acknowledged(&self) -> Option<Bitrate> {
        self.arrived.rate(Self::ARRIVED_WINDOW)
    }

    /// Smoothed round-trip time, without the time for which the receiver held feedback back.
    pub fn rtt(&self) -> Option<Duration> {
        self.path.rtt
    }

    /// Fraction of packets lost lately, 0 to 1.
    pub fn loss(&self) -> f32 {
        let by_packet = self.feedback_at.is_some();
        let loss = if by_packet { self.loss.recent() } else { self.fallback.loss() };
        loss as f32
    }

    /// There is no feedback by packet, and what there is bounds the estimate.
    pub fn is_fallback(&self) -> bool {
        self.fallback_bound().is_some()
    }

    /// Packets of which feedback told so far, and how many of them were lost.
    pub fn loss_counts(&self) -> (u64, u64) {
        self.loss.counts()
    }

    /// A look inside.
    pub fn stats(&self) -> EstimatorStats {
        EstimatorStats {
            estimate: self.estimate(),
            acknowledged: self.acknowledged(),
            sent: self.sent.rate(Self::SENT_WINDOW),
            usage: self.trendline.usage(),
            limit: self.limit(),
            queue: self.path.queue,
            rtt: self.path.rtt,
            loss: self.loss(),
            probes: self.prober.asked(),
        }
    }

    /// A packet left with this transport-wide number, which counts up by one from packet to packet.
    pub fn handle_sent(
        &mut self,
        now: Instant,
        number: u16,
        size: DataSize,
        probe: Option<ProbeId>,
    ) {
        let now = self.told(now);
        let size = u16::try_from(size.bytes()).unwrap_or(u16::MAX);
        self.history.insert(now, number, size, probe);
        self.latest_number = number;
        self.sent.add(now.as_micros() as i64, size);
        self.note_sent(now);
        if let Some(id) = probe {
            self.prober.handle_sent(now, id, size);
        }
    }

    /// Packets left from one moment to another of which no feedback tells, `size` together.
    pub fn handle_sent_unnumbered(
        &mut self,
        (first, last): (Instant, Instant),
        packets: u32,
        size: DataSize,
    ) {
        let (first, now) = (self.since_origin(first), self.told(last));
        self.fallback.handle_sent((first, now), packets, size.bytes() as f64);
        self.note_sent(now);
    }

    fn note_sent(&mut self, now: Duration) {
        self.sent_at = Some(now);
        self.unanswered_since.get_or_insert(now);
    }

    /// Transport-wide feedback came.
    pub fn handle_transport_cc(&mut self, now: Instant, feedback: &TransportFeedback<'_>) {
        self.prefetch_fates(feedback.base_seq);
        let now = self.told(now);
        let mut digest = Digest::default();
        for (number, tick) in feedback.arrivals() {
            let arrived_us = tick.map(|tick| self.clock.extend_tick(tick));
            self.handle_fate(now, number, arrived_us, &mut digest);
        }
        self.conclude(now, &digest);
    }

    /// Feedback as of RFC 8888 came, in one message: see [`Self::collect_congestion_feedback`].
    pub fn handle_congestion_feedback(
        &mut self,
        now: Instant,
        feedback: &CongestionFeedback<'_>,
        number_of: impl FnMut(Ssrc, Seq16) -> Option<u16>,
    ) {
        self.collect_congestion_feedback(feedback, number_of);
        self.conclude_congestion_feedback(now);
    }

    /// Takes a message of feedback as of RFC 8888, which counts with [`Self::conclude_congestion_feedback`]. It names packets
    /// by stream and number: `number_of` gives the transport-wide number under which [`Self::handle_sent`] knew them. Its
    /// times have a resolution of a millisecond, and ECN marks are not used.
    pub fn collect_congestion_feedback(
        &mut self,
        feedback: &CongestionFeedback<'_>,
        mut number_of: impl FnMut(Ssrc, Seq16) -> Option<u16>,
    ) {
        for report in feedback.reports() {
            let Some(number) = number_of(report.ssrc, report.seq) else { continue };
            let arrived_us = match report.arrival {
                None => None,
                Some(arrival) => match self.clock.extend_report(feedback.timestamp, arrival) {
                    Some(at) => Some(at),
                    // It came, nobody knows when.
                    None => continue,
                },
            };
            if self.collected.len() < Self::MAX_COLLECTED {
                self.collected.push((number, arrived_us));
            }
        }
    }

    /// All messages of one report have been taken. They go stream by stream, what the delay says goes by departure: streams one
    /// after the other would hide all but the first.
    pub fn conclude_congestion_feedback(&mut self, now: Instant) {
        let now = self.told(now);
        let mut digest = Digest::default();
        let mut collected = std::mem::take(&mut self.collected);
        let oldest = self.latest_number.wrapping_add(1);
        collected.sort_unstable_by_key(|(number, _)| number.wrapping_sub(oldest));
        for (number, arrived_us) in collected.drain(..) {
            self.handle_fate(now, number, arrived_us, &mut digest);
        }
        // A report of hundreds is rare: its room is not kept.
        collected.shrink_to(Self::KEPT_COLLECTED);
        self.collected = collected;
        self.conclude(now, &digest);
    }

    /// The receiver's own estimate came; it counts until the first feedback by packet.
    pub fn handle_remb(&mut self, now: Instant, bitrate: Bitrate) {
        if self.feedback_at.is_some() {
            return;
        }
        let now = self.since_origin(now);
        self.hear();
        let (min, max) = (self.config.min.bps() as f64, self.config.max.bps() as f64);
        let bps = (bitrate.bps() as f64).clamp(min, max);
        self.fallback.handle_remb(now, bps);
        // Feedback by packet would go on from here.
        self.rate.set_rate(now, bps);
        self.limit = Limit::Remb;
    }

    /// Receiver reports told of so many `packets`, and how many of them were `lost`; it counts until the first feedback by
    /// packet.
    pub fn handle_report(&mut self, now: Instant, packets: f64, lost: f64) {
        if self.feedback_at.is_some() {
            return;
        }
        let now = self.since_origin(now);
        self.hear();
        let sent = || Some(self.sent.rate(Self::SENT_WINDOW)?.bps() as f64);
        self.fallback.handle_report(now, (packets, lost), sent, self.config.max.bps() as f64);
    }

    /// Feedback by packet ends; what came so far says nothing about what comes.
    pub fn end_feedback(&mut self) {
        self.feedback_at = None;
        self.fallback = Fallback::new(self.config.salt);
    }

    /// Something came that is no feedback by packet.
    fn hear(&mut self) {
        self.silent_at = None;
        self.unanswered_since = None;
    }

    /// The most that could be used, with everything wanted sent at its best. Nothing is probed for beyond it; zero stops
    /// probing.
    pub fn set_wanted(&mut self, now: Instant, wanted: Bitrate) {
        let estimate = self.estimate();
        if wanted > self.wanted && wanted > estimate && self.since_origin(now) > Duration::ZERO {
            self.prober.handle_wanted_rose();
        }
        self.wanted = wanted;
    }

    /// More is sent than the estimate allows, by choice: that a cut drains no queue then says nothing about other flows.
    pub fn set_held(&mut self, held: bool) {
        self.held = held;
    }

    /// A probe to send now, for the pacer.
    pub fn poll_probe(&mut self, now: Instant) -> Option<Probe> {
        let now = self.told(now);
        self.polled_at = now;
        // Before anything was sent there is nobody to answer.
        if self.sent_at.is_none() || self.silent_at.is_some() {
            return None;
        }
        if self.is_fallback() {
            return self.fallback.poll_climb(now, self.wanted.bps() as f64);
        }
        let starting = self.prober.is_starting();
        let calm = self.trendline.usage() != Usage::Overuse
            && (starting || self.path.queue < Self::CALM_QUEUE)
            && self.loss.recent() < 0.1;
        let since_fall = self.rate.decreased_at().map(|at| now.saturating_sub(at));
        let useful = (self.wanted.bps() as f64 * Self::USEFUL).min(self.config.max.bps() as f64);
        let (estimate_bps, _) = self.bounded();
        let app_limited = self.is_app_limited();
        let verified = app_limited
            || starting
            || self.steady().is_none_or(|rate| rate.bps() as f64 > estimate_bps * Self::IN_USE);
        let probe = self.prober.poll(Situation {
            now,
            estimate_bps,
            useful_bps: useful,
            app_limited,
            capacity_known: self.rate.knows_capacity(),
            verified,
            calm,
            peak_bps: self.rate.peak_bps(),
            since_fall,
        })?;
        self.rate.forget_peak();
        Some(probe)
    }

    /// When to call [`Self::handle_timeout`], then [`Self::poll_probe`], if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let silence = self.silence_deadline();
        let climb = self
            .is_fallback()
            .then(|| self.fallback.poll_timeout(self.wanted.bps() as f64))
            .flatten()
            .filter(|_| self.silent_at.is_none());
        let measured = !self.is_fallback();
        let probe = (measured && self.wanted > self.estimate() && self.sent_at.is_some())
            .then(|| self.prober.poll_timeout(self.is_app_limited(), self.rate.knows_capacity()))
            .flatten()
            // One that is held back is looked at again with the next feedback, or if there is none, now and then.
            .map(|due| due.max(self.polled_at + Self::POLL));
        let due = [silence, climb, probe].into_iter().flatten().min()?;
        Some(self.origin + due)
    }

    /// Time passed: a receiver that fell silent costs rate.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.told(now);
        self.sent.advance(now.as_micros() as i64);
        if self.silence_deadline().is_some_and(|due| now >= due) {
            self.silent_at = Some(now);
            self.fallback.cut(Self::SILENCE_CUT);
            self.rate.set_rate(now, self.rate.rate_bps() * Self::SILENCE_CUT);
            self.limit = Limit::Silence;
            self.clamp();
        }
    }

    /// Only a receiver that has answered before can be missed, and only while it has something to answer to.
    fn silence_deadline(&self) -> Option<Duration> {
        let (heard_at, patience) = match self.feedback_at {
            Some(at) => (at, Self::SILENCE + self.path.rtt.unwrap_or(Self::FIRST_RTT)),
            None => (self.fallback.heard_at()?, self.fallback.patience()),
        };
        let since = heard_at.max(self.unanswered_since?);
        Some(match self.silent_at {
            None => since + patience,
            Some(at) => (at + Self::SILENCE_STEP).max(since + patience),
        })
        .filter(|due| self.sent_at.is_some_and(|sent| sent + patience > *due))
    }

    fn handle_fate(
        &mut self,
        now: Duration,
        number: u16,
        arrived_us: Option<i64>,
        digest: &mut Digest,
    ) {
        let Some(arrived_us) = arrived_us else {
            if let Some(packet) = self.history.take_lost(now, number) {
                self.loss.add_lost(packet.size);
                if let Some(id) = packet.probe {
                    self.prober.handle_lost(id);
                }
            }
            return;
        };
        let Some(packet) = self.history.take_arrived(now, number) else { return };
        if packet.was_lost {
            self.loss.add_found();
        } else {
            self.loss.add_arrived(packet.size);
        }
        self.arrived.add(arrived_us, packet.size);
        let delay_us = arrived_us.saturating_sub(packet.sent.as_micros() as i64);
        digest.least_us = Some(digest.least_us.map_or(delay_us, |least| least.min(delay_us)));
        if digest.latest_us.is_none_or(|latest| latest <= arrived_us) {
            digest.latest_us = Some(arrived_us);
            digest.latest_sent = Some(packet.sent);
        }
        if let Some(id) = packet.probe {
            // A probe makes a queue of its own: its delay is no sign of overuse.
            self.prober.handle_arrived(id, packet.size, arrived_us);
            self.groups.reset();
            return;
        }
        if let Some(delta) = self.groups.add(Arrival { sent: packet.sent, arrived_us }) {
            self.trendline.add(delta);
        }
    }

    /// Everything a feedback says has been read: the rate follows.
    fn conclude(&mut self, now: Duration, digest: &Digest) {
        if self.feedback_at.is_none_or(|at| now.saturating_sub(at) > Self::SILENCE) {
            self.trendline.reset();
            self.groups.reset();
        }
        self.feedback_at = Some(now);
        self.silent_at = None;
        self.unanswered_since = None;
        self.sent.advance(now.as_micros() as i64);
        let queue_before = self.path.queue;
        self.path.update(now, digest.latest_sent, digest.least_us);
        let rtt = self.path.rtt.unwrap_or(Self::FIRST_RTT);
        let lossy = self.loss.recent() > Self::LOSSY;
        let contest = self.competition.update(now, self.path.queue, rtt, lossy, !self.held);
        let usage = if self.path.queue >= Self::LONG_QUEUE
            && self.path.queue.saturating_sub(queue_before) >= Self::QUEUE_STEP
        {
            Usage::Overuse
        } else {
            self.trendline.usage()
        };
        let acknowledged = self.acknowledged();
        let app_limited = self.is_app_limited();
        let step = self.rate.update(Observed {
            now,
            usage,
            acknowledged,
            steady: self.steady(),
            rtt,
            queue: self.path.queue,
            app_limited,
            filled: self.sends_at_least(Self::FILLED),
            contest,
            loss: self.loss.recent(),
        });
        match step {
            Step::Held => {}
            Step::BeyondKnown => self.prober.expect_more(now),
            Step::Increased => self.limit = Limit::Delay,
            Step::Decreased => {
                self.limit = Limit::Delay;
                let sent = self.sent.rate(Self::SENT_WINDOW);
                let fell = acknowledged
                    .zip(sent)
                    .is_some_and(|(arrives, sent)| arrives < sent.mul_f64(Self::FELL));
                self.competition.handle_cut(now, self.path.queue, fell);
            }
        }
        if let Some(outcome) = self.prober.poll_outcome(now) {
            self.apply(now, outcome, app_limited);
        }
        self.clamp();
        self.loss.update(now, self.rate.rate_bps(), acknowledged.map(|rate| rate.bps() as f64));
    }

    fn apply(&mut self, now: Duration, outcome: Outcome, app_limited: bool) {
        let current = self.rate.rate_bps();
        let first = self.limit == Limit::Start;
        let bps = match outcome {
            Outcome::Passed(bps) => {
                self.loss.reset();
                // While it is filled at once, half of what was gained is enough until the next: others may have been
                // silent just then.
                let gained = (bps - current).max(0.0);
                current + if first || app_limited { gained } else { gained / 2.0 }
            }
            // The first one is the best knowledge there is, whatever the start was.
            Outcome::Saturated(bps) if first => bps,
            // Others may share the path: a probe's share of a full queue is more than it would keep.
            Outcome::Saturated(bps) if app_limited => current.max((bps + current) / 2.0),
            Outcome::Saturated(bps) => current.max(bps.min(current * Self::SATURATED_GAIN)),
        };
        self.limit = Limit::Delay;
        self.rate.set_rate(now, bps);
    }

    fn clamp(&mut self) {
        self.rate.clamp(self.config.min.bps() as f64, self.config.max.bps() as f64);
    }

    fn bounded(&self) -> (f64, Limit) {
        let (min, max) = (self.config.min.bps() as f64, self.config.max.bps() as f64);
        if let Some((bps, limit)) = self.fallback_bound() {
            return (bps.clamp(min, max), limit);
        }
        let rate = self.rate.rate_bps();
        match self.loss.bound_bps() {
            Some(bound) if bound < rate => (bound.max(min), Limit::Loss),
            _ if rate >= max => (max, Limit::Max),
            _ => (rate, self.limit),
        }
    }

    fn fallback_bound(&self) -> Option<(f64, Limit)> {
        self.feedback_at.is_none().then(|| self.fallback.bound()).flatten()
    }

    fn steady(&self) -> Option<Bitrate> {
        self.arrived.rate(Self::STEADY_WINDOW)
    }

    fn is_app_limited(&self) -> bool {
        !self.sends_at_least(Self::APP_LIMITED)
    }

    /// Whether this share of the estimate leaves; true while nobody knows.
    fn sends_at_least(&self, share: f64) -> bool {
        let sent = self.sent.rate(Self::SENT_WINDOW);
        sent.is_none_or(|sent| sent.bps() as f64 >= self.bounded().0 * share)
    }

    /// It is `now`: how long that is after the origin.
    fn told(&mut self, now: Instant) -> Duration {
        if self.told_at.0 != now {
            self.told_at = (now, self.since_origin(now));
        }
        self.told_at.1
    }

    fn since_origin(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }
}

#[cfg(test)]
mod tests;
