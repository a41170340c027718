//! How much may leave to a peer, when, and in which quality: estimator, pacer and allocator of one transport.
//!
//! The pacer holds no packets. What has to wait is noted here by subscription and number at ingress; nothing is decided
//! or written before its turn comes, so that a packet which nobody wants any more by then costs no bandwidth.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    bwe::{EstimatorConfig, Limit, SendSideEstimator},
    egress::Pacer,
    rtp::{Bitrate, DataSize, SeqNo},
    wire::rtcp::TransportFeedback,
};

/// A packet whose turn has not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waiting {
    /// The subscription.
    pub(crate) slot: u32,
    /// Index into the track's encodings.
    pub(crate) encoding: u8,
    /// Its number at ingress.
    pub(crate) seq: SeqNo,
}

/// Congestion control of what leaves to one peer.
#[derive(Debug)]
pub(crate) struct Congestion {
    estimator: SendSideEstimator,
    pacer: Pacer,
    waiting: VecDeque<Waiting>,
    /// The peer says how its packets fare. Without that nothing is held back and nothing shared out.
    controlled: bool,
    /// Everything that left.
    sent: DataSize,
    /// The control plane's cap.
    cap: Option<Bitrate>,
    /// When the estimate was shared out last, and how much that was.
    allocated: Option<(Instant, Bitrate)>,
}

/// Waiting packets at most: a second of 20 Mb/s. What is over is not sent; its subscribers ask for it again.
const MAX_WAITING: usize = 2_048;

/// The estimate is shared out again at the latest after this time: ladders are measured and change.
const ALLOCATION_INTERVAL: Duration = Duration::from_millis(500);

/// Nor is it sooner than this, where it rises.
const MIN_ALLOCATION_INTERVAL: Duration = Duration::from_millis(100);

/// An estimate below this share of what was shared out is shared out at once.
const FALL: f64 = 0.95;

/// One above this multiple of it may raise somebody.
const RISE: f64 = 1.05;

/// Probes look for this multiple of what is wanted: layers change their rates, and a path that takes more than enough
/// needs no careful pacing.
const HEADROOM: f64 = 1.5;

/// An estimate of this multiple of what goes out is more than enough.
const AMPLE: f64 = 1.4;

impl Congestion {
    pub(crate) fn new(now: Instant) -> Self {
        let config = EstimatorConfig::default();
        let estimator = SendSideEstimator::new(now, config);
        Self {
            pacer: Pacer::new(now, estimator.estimate()),
            estimator,
            waiting: VecDeque::new(),
            controlled: false,
            sent: DataSize::from_bytes(0),
            cap: None,
            allocated: None,
        }
    }

    /// Whether the peer gives transport-wide feedback, and the most that it may get.
    pub(crate) fn configure(&mut self, controlled: bool, cap: Option<Bitrate>) {
        if (self.controlled, self.cap) != (controlled, cap) {
            self.allocated = None;
        }
        self.controlled = controlled;
        self.cap = cap;
    }

    /// Whether there is an estimate to keep to.
    pub(crate) fn is_controlled(&self) -> bool {
        self.controlled
    }

    /// Transport-wide feedback about what left.
    pub(crate) fn handle_transport_cc(&mut self, now: Instant, feedback: &TransportFeedback<'_>) {
        self.estimator.handle_transport_cc(now, feedback);
        self.follow(now);
    }

    /// The receiver's own estimate. Counts while there is no other feedback.
    pub(crate) fn handle_remb(&mut self, now: Instant, rate: Bitrate) {
        self.estimator.handle_remb(now, rate);
        self.follow(now);
    }

    /// The estimator's deadline.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.estimator.handle_timeout(now);
        self.follow(now);
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.estimator.poll_timeout().filter(|_| self.controlled)
    }

    fn follow(&mut self, now: Instant) {
        self.pacer.set_estimate(now, self.estimator.estimate());
        if let Some(probe) = self.estimator.poll_probe(now).filter(|_| self.controlled) {
            self.pacer.start_probe(now, probe);
        }
    }

    /// A packet with this transport-wide number leaves. Audio and retransmissions too.
    pub(crate) fn handle_sent(&mut self, now: Instant, number: Option<u16>, size: DataSize) {
        self.sent = DataSize::from_bytes(self.sent.bytes() + size.bytes());
        if !self.controlled {
            return;
        }
        let probe = self.pacer.handle_sent(now, size);
        if let Some(number) = number {
            self.estimator.handle_sent(now, number, size, probe);
        }
    }

    /// Everything that left so far: media, retransmissions, padding.
    pub(crate) fn sent(&self) -> DataSize {
        self.sent
    }

    /// Whether video may leave at once: nothing waits before it, and the pacer has room.
    pub(crate) fn may_send(&self, now: Instant) -> bool {
        !self.controlled || (self.waiting.is_empty() && self.pacer.can_send(now))
    }

    /// Whether a retransmission fits into its share. `true` counts it.
    pub(crate) fn may_resend(&mut self, now: Instant, size: DataSize) -> bool {
        !self.controlled || self.pacer.may_resend(now, size)
    }

    /// Puts a packet behind those that wait. `false`: too many do.
    pub(crate) fn defer(&mut self, waiting: Waiting) -> bool {
        if self.waiting.len() >= MAX_WAITING {
            return false;
        }
        self.waiting.push_back(waiting);
        true
    }

    /// A packet whose turn has come.
    pub(crate) fn poll_waiting(&mut self, now: Instant) -> Option<Waiting> {
        let free = !self.controlled || self.pacer.can_send(now);
        if free { self.waiting.pop_front() } else { None }
    }

    /// Bytes that a probe needs beside the media, where none waits.
    pub(crate) fn poll_padding(&mut self, now: Instant) -> Option<DataSize> {
        if !self.controlled || !self.waiting.is_empty() {
            return None;
        }
        self.pacer.poll_padding(now)
    }

    /// When something waiting, or a probe, has its turn.
    pub(crate) fn poll_release(&self, now: Instant) -> Option<Instant> {
        let busy = self.controlled && (!self.waiting.is_empty() || self.pacer.is_probing());
        busy.then(|| self.pacer.poll_timeout().unwrap_or(now))
    }

    /// Whether packets wait.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A subscription is gone: what comes at its place is another.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.waiting.retain(|waiting| waiting.slot != slot);
    }

    /// What can be shared out, audio included.
    pub(crate) fn budget(&self) -> Bitrate {
        let estimate = self.estimator.estimate();
        self.cap.map_or(estimate, |cap| cap.min(estimate))
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

    /// What there is was shared out: `used` of it goes out now, the peer could use `wanted`. The deadline for the next
    /// time.
    pub(crate) fn allocated(&mut self, now: Instant, used: Bitrate, wanted: Bitrate) -> Instant {
        self.allocated = Some((now, self.budget()));
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
        self.controlled
    }

    /// For statistics.
    pub(crate) fn estimator(&self) -> &SendSideEstimator {
        &self.estimator
    }
}
