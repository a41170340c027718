//! How much may leave to a peer, when, and in which quality: estimator, pacer and allocator of one transport.
//!
//! The pacer holds no packets. What has to wait is noted here by subscription and number at ingress; nothing is decided
//! or written before its turn comes, so that a packet which nobody wants any more by then costs no bandwidth.

use std::time::{Duration, Instant};

use super::{
    Estimate, EstimateLimit,
    queue::{Waiting, WaitingQueue},
    sent_numbers::SentNumbers,
};
use crate::{
    bwe::{EstimatorConfig, Limit, SendSideEstimator},
    egress::{Evidence, LossCount, Pacer, Patience, Raises, RepairNeed, Seen},
    prefetch::prefetch,
    rtp::{Bitrate, DataSize, Seq16, Ssrc},
    wire::rtcp::{CongestionFeedback, TransportFeedback},
};

/// How a peer's estimate was shared out, audio included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    /// Goes out whatever happens.
    pub(crate) least: Bitrate,
    /// What went out before, at the prices of now.
    pub(crate) before: Bitrate,
    /// Goes out now, and what it takes to keep that.
    pub(crate) used: Bitrate,
    pub(crate) keeps: Bitrate,
    /// The peer could use so much.
    pub(crate) wanted: Bitrate,
}

/// What repair packets for a peer have to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repair {
    /// Share of its packets that is lost, 0 to 1.
    pub(crate) loss: f64,
    pub(crate) rtt: Duration,
}

/// Congestion control of what leaves to one peer.
///
/// In this order: what each packet that leaves looks at comes first.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Congestion {
    /// What left lately while there was no estimate.
    quiet: Quiet,
    /// Everything that left.
    sent: DataSize,
    /// There is an estimate to keep to: see [`Self::is_controlled`].
    controlled: bool,
    /// The peer negotiated transport-wide feedback.
    transport_cc: bool,
    waiting: WaitingQueue,
    /// It negotiated feedback by stream and number (RFC 8888), which is translated by this.
    by_stream: Option<Box<SentNumbers>>,
    /// Packets that feedback may still tell of: what is over was made up.
    reportable: u32,
    pacer: Pacer,
    estimator: SendSideEstimator,
    /// Nothing that is sent can fill a probe: no stream has retransmissions.
    unable: bool,
    /// Since when no picture fits, and the end of a try with one all the same.
    starved_since: Option<Instant>,
    /// What voices and the lowest layers of what is not paused take, with some room.
    least: Bitrate,
    evidence: Evidence,
    raises: Raises,
    patience: Patience,
    repair_need: RepairNeed,
    trying_until: Option<Instant>,
    /// The control plane's cap.
    cap: Option<Bitrate>,
    /// When the estimate was shared out last, and how much that was.
    allocated: Option<(Instant, Bitrate)>,
}

/// What left to a peer without an estimate. Nothing hangs on when the estimator is told of which packet, and its lines are many.
#[derive(Clone, Copy, Debug, Default)]
struct Quiet {
    packets: u32,
    bytes: u64,
    /// Of the first and of the last of them.
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Quiet {
    /// What leaves now is told by itself.
    fn is_long(&self, now: Instant) -> bool {
        self.first.is_some_and(|first| first + QUIET <= now)
    }
}

/// What left longer apart is told by itself: rates are taken over as long.
const QUIET: Duration = Duration::from_millis(500);

/// Packets that are lost behind such a queue are lost because it is full. Shorter takes redundancy from paths that only waver.
const CROWDED_QUEUE: Duration = Duration::from_millis(100);

/// The estimate is at least so many times the sounds, where redundancy is added to them: two blocks make it three. Less leaves
/// pictures without room, more leaves voices without help on narrow paths.
const REDUNDANT: f64 = 5.0;

/// The estimate is shared out again at the latest after this time: ladders are measured and change.
const ALLOCATION_INTERVAL: Duration = Duration::from_millis(500);

/// Nor is it sooner than this, where it rises.
const MIN_ALLOCATION_INTERVAL: Duration = Duration::from_millis(100);

/// An estimate below this share of what was shared out is shared out at once.
const FALL: f64 = 0.95;

/// One above this multiple of it may raise somebody.
const RISE: f64 = 1.05;

/// A packet may be told of this often: as lost, as found, and again where a report got lost.
const REPORTS: u32 = 4;

/// Reports that may be saved up: four seconds of 2,000 packets.
const MAX_REPORTABLE: u32 = 32_768;

/// Of peers without feedback a quarter of this may be sent again.
const UNCONTROLLED: Bitrate = Bitrate::from_kbps(8_000);

/// Where no picture fits and no probe can be filled, one is tried after this time, for that long: nothing else would
/// show that the path has widened.
const STARVED: Duration = Duration::from_secs(5);
const TRY: Duration = Duration::from_secs(2);

/// A picture that comes back to a receiver which estimates for itself stays for so long. Longer gives the estimate more time to
/// follow, and fills a path longer that is too narrow.
const TRY_RESUMED: Duration = Duration::from_secs(4);

/// Pictures that wait longer for the pacer are late.
const BEHIND: Duration = Duration::from_millis(300);

/// What waits so long is given up though nothing better has come: a frame in three at most is still seen of it.
const FAR_BEHIND: Duration = Duration::from_secs(1);

/// Bytes of a packet of video.
const TYPICAL_PACKET: u64 = 1_000;

/// Room above voices and lowest layers, for keyframes.
const LEAST_ROOM: f64 = 1.3;

/// Probes look for this multiple of what is wanted: layers change their rates, and a path that takes more than enough
/// needs no careful pacing.
const HEADROOM: f64 = 1.5;

/// What goes out keeps to the estimate up to this multiple of it: keeping a step is cheaper than winning it.
const HELD: f64 = 1.1;

/// An estimate of this multiple of what goes out is more than enough.
const AMPLE: f64 = 1.4;

impl Congestion {
    /// `salt` is the peer's own: see [`Bitrate::stagger`].
    pub(crate) fn new(now: Instant, salt: u32) -> Self {
        let config = EstimatorConfig { salt, ..EstimatorConfig::default() };
        let estimator = SendSideEstimator::new(now, config);
        Self {
            pacer: Pacer::new(now, estimator.estimate()),
            estimator,
            waiting: WaitingQueue::default(),
            controlled: false,
            quiet: Quiet::default(),
            transport_cc: false,
            by_stream: None,
            reportable: 0,
            unable: false,
            starved_since: None,
            least: Bitrate::ZERO,
            evidence: Evidence::new(now),
            raises: Raises::new(salt),
            patience: Patience::default(),
            repair_need: RepairNeed::default(),
            trying_until: None,
            sent: DataSize::from_bytes(0),
            cap: None,
            allocated: None,
        }
    }

    /// What a packet that leaves looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.quiet);
        prefetch(&self.waiting);
    }

    /// What it looks at of the estimator and the pacer, once that is here.
    #[inline(always)]
    pub(super) fn prefetch_estimator(&self, now: Instant) {
        if self.controlled {
            self.pacer.prefetch();
        }
        if self.is_told() {
            self.estimator.prefetch();
        } else if self.controlled || self.quiet.is_long(now) {
            self.estimator.prefetch_unnumbered();
        }
    }

    /// What depends on that, once it is here.
    #[inline(always)]
    pub(super) fn prefetch_pointees(&self) {
        if self.controlled {
            self.estimator.prefetch_pointees();
        }
    }

    /// What [`Self::prefetch_feedback`] looks at.
    #[inline(always)]
    pub(super) fn prefetch_told(&self) {
        prefetch(&self.transport_cc);
        prefetch(&self.by_stream);
    }

    /// What feedback by packet looks at, or a report where there is none.
    #[inline(always)]
    pub(crate) fn prefetch_feedback(&self) {
        if !self.is_told() {
            return self.estimator.prefetch_unnumbered();
        }
        prefetch(&self.reportable);
        self.pacer.prefetch_rate();
        self.estimator.prefetch_feedback();
        prefetch(&self.least);
        prefetch(&self.evidence);
        prefetch(&self.patience);
        prefetch(&self.repair_need);
        prefetch(&self.cap);
        prefetch(&self.allocated);
    }

    /// Whether the peer gives transport-wide feedback, or such as of RFC 8888, and the most that it may get.
    pub(crate) fn configure(
        &mut self,
        now: Instant,
        transport_cc: bool,
        ccfb: bool,
        cap: Option<Bitrate>,
    ) {
        self.tell_quiet();
        let before = (self.transport_cc, self.by_stream.is_some(), self.cap);
        if before != (transport_cc, ccfb, cap) {
            self.allocated = None;
        }
        self.transport_cc = transport_cc;
        self.by_stream = ccfb.then(|| self.by_stream.take().unwrap_or_default());
        if (before.0 || before.1) && !self.is_told() {
            self.estimator.end_feedback();
            (self.patience, self.evidence) = (Patience::default(), Evidence::new(now));
            self.repair_need = RepairNeed::default();
        }
        self.cap = cap;
        self.follow(now);
    }

    /// Whether there is an estimate to keep to: the peer says how its packets fare, or which rate it takes, or reports
    /// much loss. Without that nothing is held back and nothing shared out.
    pub(crate) fn is_controlled(&self) -> bool {
        self.controlled
    }

    /// The peer negotiated feedback by packet.
    fn is_told(&self) -> bool {
        self.transport_cc || self.by_stream.is_some()
    }

    /// Whether packets need a transport-wide number, also where no extension carries it.
    pub(crate) fn numbers_all(&self) -> bool {
        self.by_stream.is_some()
    }

    /// A stream has ended.
    pub(crate) fn forget_stream(&mut self, ssrc: Ssrc) {
        if let Some(sent) = &mut self.by_stream {
            sent.forget(ssrc);
        }
    }

    /// Transport-wide feedback about what left.
    /// `false`: it tells of more than was ever sent, and is ignored.
    #[must_use]
    pub(crate) fn handle_transport_cc(
        &mut self,
        now: Instant,
        feedback: &TransportFeedback<'_>,
    ) -> bool {
        let Some(left) = self.reportable.checked_sub(feedback.status_count.into()) else {
            return false;
        };
        self.reportable = left;
        self.estimator.handle_transport_cc(now, feedback);
        self.judge(now);
        self.follow(now);
        true
    }

    /// A message of feedback by stream and number, which counts with [`Self::conclude_ccfb`]. `false`: it was not
    /// negotiated, or tells of more than was ever sent, and is ignored.
    #[must_use]
    pub(crate) fn handle_ccfb(&mut self, feedback: &CongestionFeedback<'_>) -> bool {
        let Some(sent) = &self.by_stream else { return false };
        let known = |ssrc, seq| sent.number_of(ssrc, seq);
        // Reports may overlap, and tell of what is not known any more.
        let told = feedback.reports().filter(|it| known(it.ssrc, it.seq).is_some()).count();
        let left = u32::try_from(told).ok().and_then(|told| self.reportable.checked_sub(told));
        let Some(left) = left else { return false };
        self.reportable = left;
        self.estimator.collect_congestion_feedback(feedback, known);
        true
    }

    /// All of it that came together has been taken.
    pub(crate) fn conclude_ccfb(&mut self, now: Instant) {
        self.estimator.conclude_congestion_feedback(now);
        self.judge(now);
        self.follow(now);
    }

    /// The receiver's own estimate. Counts while there is no other feedback.
    pub(crate) fn handle_remb(&mut self, now: Instant, rate: Bitrate) {
        self.tell_quiet();
        self.estimator.handle_remb(now, rate);
        if self.estimator.is_fallback() {
            self.patience.end();
        }
        self.follow(now);
    }

    /// Receiver reports told of so many packets, and how many of them were lost. Counts while there is no other feedback;
    /// whether it does.
    #[must_use]
    pub(crate) fn handle_report(&mut self, now: Instant, packets: f64, lost: f64) -> bool {
        self.tell_quiet();
        let before = self.estimator.is_fallback();
        self.estimator.handle_report(now, packets, lost);
        let counts = before || self.estimator.is_fallback();
        if counts {
            self.follow(now);
        }
        counts
    }

    /// The estimator's deadline.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.estimator.handle_timeout(now);
        if self.estimator.limit() == Limit::Silence {
            self.patience.end();
        }
        self.follow(now);
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.estimator.poll_timeout().filter(|_| self.is_controlled())
    }

    fn follow(&mut self, now: Instant) {
        self.controlled = self.is_told() || self.estimator.is_fallback();
        let controlled = self.controlled;
        let estimate = if controlled { self.estimate() } else { UNCONTROLLED };
        self.pacer.set_estimate(now, estimate);
        if controlled && let Some(probe) = self.estimator.poll_probe(now) {
            // Something may have come that can fill it.
            self.unable = false;
            self.pacer.start_probe(now, probe);
        }
    }

    /// A packet of a stream leaves with this transport-wide number. Audio and retransmissions too.
    #[inline(always)]
    pub(crate) fn handle_sent(
        &mut self,
        now: Instant,
        stream: (Ssrc, Seq16),
        number: Option<u16>,
        size: DataSize,
    ) {
        self.sent = DataSize::from_bytes(self.sent.bytes() + size.bytes());
        if self.controlled {
            return self.handle_sent_controlled(now, stream, number, size);
        }
        // Packets of one slice have one time.
        if self.quiet.last != Some(now) {
            self.time_quiet(now);
        }
        self.quiet.packets += 1;
        self.quiet.bytes += size.bytes();
    }

    /// What follows leaves now, without an estimate.
    fn time_quiet(&mut self, now: Instant) {
        if self.quiet.is_long(now) {
            self.tell_quiet();
        }
        self.quiet.first.get_or_insert(now);
        self.quiet.last = Some(now);
    }

    fn handle_sent_controlled(
        &mut self,
        now: Instant,
        (ssrc, seq): (Ssrc, Seq16),
        number: Option<u16>,
        size: DataSize,
    ) {
        if !self.is_told() {
            // What a report says is lost, is lost of this.
            self.estimator.handle_sent_unnumbered((now, now), 1, size);
        }
        let probe = self.pacer.handle_sent(now, size);
        if let Some(number) = number {
            self.reportable = (self.reportable + REPORTS).min(MAX_REPORTABLE);
            self.estimator.handle_sent(now, number, size, probe);
            if let Some(sent) = &mut self.by_stream {
                sent.insert(ssrc, seq, number);
            }
        }
    }

    /// Tells the estimator what left without one: what a report says is lost, is lost of this.
    fn tell_quiet(&mut self) {
        let Quiet { packets, bytes, first, last } = std::mem::take(&mut self.quiet);
        if let Some(times) = first.zip(last) {
            let size = DataSize::from_bytes(bytes);
            self.estimator.handle_sent_unnumbered(times, packets, size);
        }
    }

    /// Everything that left so far: media, retransmissions, padding.
    pub(crate) fn sent(&self) -> DataSize {
        self.sent
    }

    /// Whether video may leave at once: nothing waits before it, and the pacer has room.
    #[inline(always)]
    pub(crate) fn may_send(&self, now: Instant) -> bool {
        !self.is_controlled() || (self.waiting.is_empty() && self.pacer.can_send(now))
    }

    /// Whether a retransmission fits into its share. `true` counts it.
    pub(crate) fn may_resend(&mut self, now: Instant, size: DataSize) -> bool {
        self.pacer.may_resend(now, size)
    }

    /// Puts a packet behind those that wait. `false`: too many do.
    pub(crate) fn defer(&mut self, waiting: Waiting) -> bool {
        self.waiting.push(waiting)
    }

    /// A packet whose turn has come.
    pub(crate) fn poll_waiting(&mut self, now: Instant) -> Option<Waiting> {
        let free = !self.is_controlled() || self.pacer.can_send(now);
        if free { self.waiting.pop(self.is_behind()) } else { None }
    }

    /// Bytes that a probe needs beside the media, where none waits.
    pub(crate) fn poll_padding(&mut self, now: Instant) -> Option<DataSize> {
        if !self.is_controlled() || !self.waiting.is_empty() {
            return None;
        }
        self.pacer.poll_padding(now)
    }

    /// When something waiting, or a probe, has its turn.
    pub(crate) fn poll_release(&self, now: Instant) -> Option<Instant> {
        if !self.is_controlled() {
            // Nothing waits without a reason any more.
            return (!self.waiting.is_empty()).then_some(now);
        }
        let probes = self.pacer.is_probing() && !self.unable;
        let busy = !self.waiting.is_empty() || probes;
        busy.then(|| self.pacer.poll_timeout().unwrap_or(now))
    }

    /// Whether packets wait.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A subscription is gone: what comes at its place is another.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.waiting.forget(slot);
    }

    /// What may leave. Without evidence that the path is too narrow for them, at least voices and lowest layers.
    fn estimate(&self) -> Bitrate {
        let estimate = self.estimator.estimate().max(self.patience.kept());
        if self.is_congested() { estimate } else { estimate.max(self.least) }
    }

    fn is_congested(&self) -> bool {
        // Without feedback by packet there is no other evidence than what bounds the estimate.
        self.estimator.is_fallback() || self.evidence.is_there()
    }

    /// The share of everything that the path lost lately.
    pub(crate) fn loss(&self) -> f32 {
        self.estimator.loss()
    }

    /// No redundancy is added to sounds of this rate: a queue stands, so that losses come of too much, or they would take too large a
    /// part of the estimate.
    pub(crate) fn is_crowded(&self, audio: Bitrate) -> bool {
        let stats = self.estimator.stats();
        stats.queue >= CROWDED_QUEUE || audio.mul_f64(REDUNDANT) > stats.estimate
    }

    /// What feedback says of the path, beside the estimate.
    fn judge(&mut self, now: Instant) {
        let stats = self.estimator.stats();
        let (queue, loss) = (stats.queue, stats.loss);
        let seen = Seen { queue, loss, sent: stats.sent, arrived: stats.acknowledged };
        self.evidence.note(now, seen);
        let held_down = self.is_congested() || stats.limit != Limit::Delay;
        self.patience.observe(now, stats.estimate, stats.queue, held_down);
        let (packets, lost) = self.estimator.loss_counts();
        self.repair_need.observe(now, LossCount { packets, lost }, stats.queue, stats.rtt);
    }

    /// What repair packets would have to do; `None`: there is nothing that they could do better than retransmissions.
    pub(crate) fn repair(&self) -> Option<Repair> {
        let loss = self.repair_need.loss().filter(|_| self.is_told())?;
        Some(Repair { loss, rtt: self.estimator.rtt()? })
    }

    /// What the path takes beside what goes out, audio included. Nothing counts that is only held on to.
    pub(crate) fn room(&self, used: Bitrate) -> Bitrate {
        let estimate = self.estimator.estimate();
        self.cap.map_or(estimate, |cap| cap.min(estimate)).saturating_sub(used)
    }

    /// To keep what goes out takes so much now: rates change between two feedbacks.
    pub(crate) fn reprice(&mut self, keeps: Bitrate) {
        self.patience.note(keeps);
    }

    /// What can be shared out, audio included.
    pub(crate) fn budget(&self) -> Bitrate {
        // Nothing is won by what goes out whatever happens: it would grow by what it lets in.
        let estimate = self.estimator.estimate().max(self.patience.kept());
        self.cap.map_or(estimate, |cap| cap.min(estimate))
    }

    /// The most that may go out in all, audio included: less than the budget while a rise that failed is not long ago, but
    /// never less than what is kept, which costs `kept` now.
    pub(crate) fn ceiling(&self, now: Instant, kept: Bitrate) -> Option<Bitrate> {
        self.raises.ceiling(now, self.estimator.estimate(), kept)
    }

    /// More waits for the pacer than leaves within [`BEHIND`].
    pub(crate) fn is_behind(&self) -> bool {
        self.waits_longer(BEHIND)
    }

    /// More waits for the pacer than leaves within [`FAR_BEHIND`], or than leaves room for a keyframe.
    pub(crate) fn is_far_behind(&self) -> bool {
        self.waits_longer(FAR_BEHIND) || self.waiting.is_half_full()
    }

    fn waits_longer(&self, span: Duration) -> bool {
        let waiting = DataSize::from_bytes(self.waiting.len() as u64 * TYPICAL_PACKET);
        self.is_controlled() && waiting > self.estimate().over(span)
    }

    /// Whether to share out what there is, and then when to look again.
    pub(crate) fn is_allocation_due(&self, now: Instant) -> bool {
        let Some((at, budget)) = self.allocated else { return true };
        let age = now.saturating_duration_since(at);
        let now_there = self.budget();
        age >= ALLOCATION_INTERVAL
            || now_there < budget.mul_f64(FALL)
            || (now_there > budget.mul_f64(RISE) && age >= MIN_ALLOCATION_INTERVAL)
    }

    /// Nothing is known of the path yet.
    pub(crate) fn is_untried(&self) -> bool {
        self.estimator.stats().limit == Limit::Start
    }

    /// Whether a picture may be taken away altogether. An estimate that fell by delay alone may be that of a busy
    /// receiver, whose delays come and go: a path that is too narrow loses, or has a queue that stands.
    pub(crate) fn may_pause(&self) -> bool {
        self.is_congested() || self.cap.is_some_and(|cap| cap < self.estimator.estimate())
    }

    /// A probe found nothing to be filled with, or did.
    pub(crate) fn set_unable(&mut self, unable: bool) {
        self.unable = unable;
    }

    /// A picture comes back. What a receiver estimates for itself is of the pause until pictures have come for a while.
    pub(crate) fn begin_try(&mut self, now: Instant) {
        if self.estimator.is_fallback() {
            self.trying_until = Some(now + TRY_RESUMED);
        }
    }

    /// Whether a picture shall be sent that does not fit; `starved`: none does.
    pub(crate) fn is_trying(&mut self, now: Instant, starved: bool) -> bool {
        if self.trying_until.is_some_and(|until| now < until) {
            return true;
        }
        self.trying_until = None;
        if !starved || !self.unable {
            self.starved_since = None;
            return false;
        }
        let since = *self.starved_since.get_or_insert(now);
        if now.saturating_duration_since(since) < STARVED {
            return false;
        }
        self.starved_since = None;
        self.trying_until = Some(now + TRY);
        true
    }

    /// What there is was shared out. The deadline for the next time.
    pub(crate) fn allocated(&mut self, now: Instant, shared: Shared) -> Instant {
        let Shared { least, before, used, keeps, wanted } = shared;
        self.least = least.mul_f64(LEAST_ROOM);
        self.allocated = Some((now, self.budget()));
        self.raises.note(now, self.estimator.estimate(), before, used);
        self.patience.note(keeps);
        self.estimator.set_held(used > self.estimator.estimate().mul_f64(HELD));
        let wanted = self.cap.map_or(wanted, |cap| cap.min(wanted));
        self.estimator.set_wanted(now, wanted.mul_f64(HEADROOM));
        self.pacer.set_relaxed(self.estimator.estimate() >= used.mul_f64(AMPLE));
        self.follow(now);
        now + ALLOCATION_INTERVAL
    }

    /// Something changed in what is wanted or there. Whether to share out anew, at once.
    #[must_use]
    pub(crate) fn invalidate(&mut self) -> bool {
        self.allocated = None;
        self.is_controlled()
    }

    /// The estimate and what holds it; `None` while there is none to keep to.
    pub(crate) fn stats(&self) -> Option<Estimate> {
        if !self.is_controlled() {
            return None;
        }
        let rate = self.estimator.estimate();
        let capped = self.cap.is_some_and(|cap| cap < rate);
        let limit =
            if capped { EstimateLimit::Cap } else { EstimateLimit::Path(self.estimator.limit()) };
        Some(Estimate { rate, limit })
    }

    /// Packets that wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// For statistics.
    pub(crate) fn estimator(&self) -> &SendSideEstimator {
        &self.estimator
    }
}

#[cfg(test)]
mod tests;
