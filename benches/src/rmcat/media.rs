//! A media flow: the shipped estimator and pacer behind an encoder or a chooser of layers, and a receiver that answers
//! with the shipped recorder's transport-wide feedback, as bytes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use chappe_sfu::{
    bwe::{EstimatorConfig, EstimatorStats, Limit, SendSideEstimator},
    egress::{BitrateAllocator, Claim, Evidence, Pacer, Patience, Raises, Seen},
    ingress::TwccRecorder,
    rtp::{Bitrate, DataSize, Ssrc},
    wire::rtcp::{CompoundWriter, Message, messages},
};

use super::{
    encoder::Encoder,
    world::{Endpoint, Packet, Payload},
};

/// IPv4 and UDP.
pub const UDP_OVERHEAD: u32 = 28;
/// RTP header with extensions, and the tag of SRTP.
const RTP_OVERHEAD: u32 = 12 + 12 + 16;
const PAYLOAD: u32 = 1_100;

/// When a flow is there.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// It starts here.
    pub start: Duration,
    /// It has nothing to send in between.
    pub pause: Option<(Duration, Duration)>,
}

/// What the encoder is.
#[derive(Clone, Debug)]
pub enum Source {
    /// Follows the estimate at any rate.
    Encoder,
    /// One of these rates is chosen, in bits per second, the lowest first.
    Layers(Vec<u64>),
    /// The same, and all of them wander by [`FrameSource::WANDER`] around that, up and down in [`FrameSource::WAVE`].
    Wandering(Vec<u64>),
}

/// Frames by an estimate: shared with the flows of other stacks.
#[derive(Debug)]
pub struct FrameSource {
    encoder: Encoder,
    start: Instant,
    schedule: Schedule,
    layers: Vec<u64>,
    /// Where its wave begins, where rates wander.
    wave: Option<f64>,
    allocator: BitrateAllocator,
    claims: Vec<Claim>,
    evidence: Evidence,
    patience: Patience,
    raises: Raises,
    chosen: Option<u64>,
}

impl FrameSource {
    /// Encoders follow their target, not more exactly than this.
    pub const WANDER: f64 = 0.2;
    /// About as long as somebody moves, and then does not.
    pub const WAVE: Duration = Duration::from_secs(9);

    /// `start` is where time begins.
    pub fn new(seed: u64, start: Instant, schedule: Schedule, source: &Source) -> Self {
        let first = start + schedule.start;
        let rate = EstimatorConfig::default().start.bps() as f64;
        let layers = match source {
            Source::Encoder => Vec::new(),
            Source::Layers(layers) | Source::Wandering(layers) => layers.clone(),
        };
        let wanders = matches!(source, Source::Wandering(_));
        Self {
            encoder: Encoder::new(seed, first, layers.first().map_or(rate, |rate| *rate as f64)),
            start,
            schedule,
            layers,
            wave: wanders.then(|| f64::from(salt(seed))),
            allocator: BitrateAllocator::default(),
            claims: vec![Claim::default()],
            evidence: Evidence::new(start),
            patience: Patience::default(),
            raises: Raises::new(salt(seed)),
            chosen: None,
        }
    }

    /// The most that it could send at a moment, in bits per second.
    pub fn wanted(&self, now: Instant) -> u64 {
        if self.paused_until(now).is_some() || now < self.start + self.schedule.start {
            return 0;
        }
        // As the peer does: layers change their rates.
        self.layers.last().map_or(Encoder::RANGE.1 as u64, |top| top * 3 / 2)
    }

    /// The layer it sends.
    pub fn chosen(&self) -> Option<u64> {
        self.chosen
    }

    /// The rate of the layer above, if there is one.
    pub fn next_layer(&self) -> Option<u64> {
        self.layers.iter().copied().find(|layer| Some(*layer) > self.chosen)
    }

    /// Feedback came.
    pub fn observe(&mut self, now: Instant, stats: &EstimatorStats) {
        let (queue, loss) = (stats.queue, stats.loss);
        let seen = Seen { queue, loss, sent: stats.sent, arrived: stats.acknowledged };
        self.evidence.note(now, seen);
        let held_down = self.evidence.is_there() || stats.limit != Limit::Delay;
        self.patience.observe(now, stats.estimate, stats.queue, held_down);
    }

    /// What is sent in spite of a lower estimate.
    pub fn kept(&self) -> Bitrate {
        self.patience.kept()
    }

    /// When the next frame comes.
    pub fn next_frame(&self) -> Instant {
        self.encoder.next_frame()
    }

    /// Bytes of the frame that is ready, if one is.
    pub fn poll_frame(&mut self, now: Instant, estimate: u64) -> Option<u32> {
        if let Some(until) = self.paused_until(now) {
            self.encoder.pause_until(until);
        }
        if now < self.encoder.next_frame() {
            return None;
        }
        if self.layers.is_empty() {
            // The encoder's rate is that of its payloads; headers come on top.
            let share = f64::from(PAYLOAD) / f64::from(PAYLOAD + RTP_OVERHEAD);
            return self.encoder.poll_frame(now, estimate as f64 * share);
        }
        let kept = self.claims[0].granted();
        let factor = self.factor(now);
        let steps = self.layers.iter().map(|bps| Bitrate::from_bps(*bps).mul_f64(factor));
        self.claims[0].set_steps(steps, kept);
        // As the peer does it: what is kept has its price of now.
        self.patience.note(self.claims[0].keeps());
        let estimate = Bitrate::from_bps(estimate);
        let before = self.claims[0].cost();
        let mut budget = estimate.max(self.patience.kept());
        if let Some(ceiling) = self.raises.ceiling(now, estimate, before) {
            budget = budget.min(ceiling);
        }
        self.allocator.allocate(now, budget, &mut self.claims);
        self.raises.note(now, estimate, before, self.claims[0].cost());
        self.patience.note(self.claims[0].keeps());
        self.chosen = self.claims[0].granted().map(|step| self.layers[usize::from(step)]);
        // A layer that did not fit leaves the lowest: nobody looks at a black picture here.
        let rate = self.chosen.unwrap_or(self.layers[0]);
        // A layer's rate is that of its packets.
        let share = f64::from(PAYLOAD) / f64::from(PAYLOAD + RTP_OVERHEAD + UDP_OVERHEAD);
        self.encoder.poll_frame(now, rate as f64 * factor * share)
    }

    /// Of the rates that layers have in the mean.
    fn factor(&self, now: Instant) -> f64 {
        let Some(begin) = self.wave else { return 1.0 };
        let at = now.saturating_duration_since(self.start).as_secs_f64() / Self::WAVE.as_secs_f64();
        1.0 + Self::WANDER * (begin + at * std::f64::consts::TAU).sin()
    }

    fn paused_until(&self, now: Instant) -> Option<Instant> {
        let (from, to) = self.schedule.pause?;
        let at = now.saturating_duration_since(self.start);
        (at >= from && at < to).then_some(self.start + to)
    }
}

/// A flow's own number, as a node draws one for each peer.
fn salt(seed: u64) -> u32 {
    SmallRng::seed_from_u64(seed).random()
}

/// Cuts a frame into packets: their payloads' bytes.
pub fn packetize(frame: u32) -> impl Iterator<Item = u32> {
    let count = frame.div_ceil(PAYLOAD).max(1);
    (0..count).map(move |n| frame / count + u32::from(n < frame % count))
}

/// Sends media with the shipped estimator and pacer.
#[derive(Debug)]
pub struct MediaSender {
    source: FrameSource,
    estimator: SendSideEstimator,
    pacer: Pacer,
    /// RTP packets by size, and when they came.
    queue: VecDeque<(Instant, u32)>,
    number: u16,
    outbox: VecDeque<Packet>,
    wanted: u64,
}

impl MediaSender {
    /// The sender's own queue is not filled beyond this: frames are skipped instead.
    const MAX_WAIT: Duration = Duration::from_millis(500);

    /// With the estimator's default configuration; `seed` is the flow's own.
    pub fn new(seed: u64, start: Instant, source: FrameSource) -> Self {
        let config = EstimatorConfig { salt: salt(seed), ..EstimatorConfig::default() };
        Self {
            source,
            estimator: SendSideEstimator::new(start, config),
            pacer: Pacer::new(start, config.start),
            queue: VecDeque::new(),
            number: 0,
            outbox: VecDeque::new(),
            wanted: 0,
        }
    }

    fn work(&mut self, now: Instant) {
        let wanted = self.source.wanted(now);
        if wanted != self.wanted {
            self.wanted = wanted;
            self.estimator.set_wanted(now, Bitrate::from_bps(wanted));
        }
        if self.estimator.poll_timeout().is_some_and(|due| due <= now) {
            self.estimator.handle_timeout(now);
        }
        let estimate = self.estimator.estimate();
        self.pacer.set_estimate(now, estimate.max(self.source.kept()));
        while let Some(frame) = self.source.poll_frame(now, estimate.bps()) {
            let behind = self.queue.front().is_some_and(|(since, _)| now > *since + Self::MAX_WAIT);
            if !behind {
                self.queue.extend(packetize(frame).map(|size| (now, size + RTP_OVERHEAD)));
            }
        }
        if let Some(probe) = self.estimator.poll_probe(now) {
            self.pacer.start_probe(now, probe);
        }
        while self.pacer.can_send(now) {
            let Some((_, size)) = self.queue.pop_front() else { break };
            self.send(now, size, true);
        }
        if self.queue.is_empty() {
            while let Some(padding) = self.pacer.poll_padding(now) {
                self.send(now, padding.bytes() as u32, false);
            }
        }
    }

    fn send(&mut self, now: Instant, size: u32, media: bool) {
        let bytes = DataSize::from_bytes(size.into());
        let probe = self.pacer.handle_sent(now, bytes);
        self.estimator.handle_sent(now, self.number, bytes, probe);
        let payload = Payload::Media(self.number);
        self.outbox.push_back(Packet { size: size + UDP_OVERHEAD, media, payload });
        self.number = self.number.wrapping_add(1);
    }
}

impl Endpoint for MediaSender {
    fn handle_packet(&mut self, now: Instant, packet: Packet) {
        if let Payload::Bytes(bytes) = packet.payload {
            for message in messages(&bytes).flatten() {
                if let Message::TransportCc(feedback) = message {
                    self.estimator.handle_transport_cc(now, &feedback);
                    self.source.observe(now, &self.estimator.stats());
                }
            }
        }
        self.work(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.work(now);
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<Packet> {
        self.outbox.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let paced = (!self.queue.is_empty() || self.pacer.is_probing())
            .then(|| self.pacer.poll_timeout())
            .flatten();
        let timers = [Some(self.source.next_frame()), paced, self.estimator.poll_timeout()];
        timers.into_iter().flatten().min()
    }

    fn estimate(&self) -> Option<u64> {
        Some(self.estimator.estimate().bps())
    }

    fn chosen(&self) -> Option<u64> {
        self.source.chosen()
    }
}

/// Answers with transport-wide feedback.
#[derive(Debug)]
pub struct MediaReceiver {
    recorder: TwccRecorder,
    outbox: VecDeque<Packet>,
}

impl MediaReceiver {
    /// `start` is where time begins.
    pub fn new(start: Instant) -> Self {
        Self { recorder: TwccRecorder::new(start), outbox: VecDeque::new() }
    }

    fn feed_back(&mut self, now: Instant) {
        loop {
            let mut buf = [0; 1_200];
            let mut writer = CompoundWriter::new(&mut buf);
            let done = self.recorder.poll_feedback(now, Ssrc(1), &mut writer);
            let len = writer.len();
            let bytes = buf[..len].to_vec();
            if !bytes.is_empty() {
                let size = bytes.len() as u32 + UDP_OVERHEAD + 14;
                self.outbox.push_back(Packet {
                    size,
                    media: false,
                    payload: Payload::Bytes(bytes),
                });
            }
            if done.is_ok() {
                return;
            }
        }
    }
}

impl Endpoint for MediaReceiver {
    fn handle_packet(&mut self, now: Instant, packet: Packet) {
        if let Payload::Media(number) = packet.payload {
            self.recorder.record(now, Ssrc(2), number);
        }
        self.feed_back(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.feed_back(now);
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<Packet> {
        self.outbox.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.recorder.poll_timeout()
    }
}
