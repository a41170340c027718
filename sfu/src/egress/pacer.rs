//! Spreads what leaves over time, so that frames and repairs do not fill the queue of the narrowest link.

use std::time::{Duration, Instant};

use crate::{
    prefetch::prefetch,
    rtp::{Bitrate, DataSize, Probe, ProbeId},
};

/// Says when a packet may leave. It holds none: whoever has a queue asks [`Self::can_send`] before each packet of it and
/// tells [`Self::handle_sent`] of every packet that left. Audio is not asked for, only told.
#[derive(Debug)]
pub struct Pacer {
    estimate: Bitrate,
    /// When what was sent so far has passed at the pacing rate.
    busy_until: Instant,
    /// Start of the present burst; it may last [`Self::BURST`].
    burst_since: Instant,
    probe: Option<ActiveProbe>,
    resends: Resends,
    relaxed: bool,
}

#[derive(Clone, Copy, Debug)]
struct ActiveProbe {
    probe: Probe,
    since: Instant,
    sent: u64,
    packets: u16,
}

/// What may be sent again: a token bucket of bytes.
#[derive(Debug)]
struct Resends {
    tokens: f64,
    filled_at: Instant,
}

impl Pacer {
    /// A burst is what passes in this time: few enough bytes for any queue, enough packets to share a system call
    /// at high rates.
    pub const BURST: Duration = Duration::from_millis(5);
    /// The same while the path takes far more than there is to send: a whole frame at once, since one system call for
    /// four packets costs a third of four, and there is no queue that it could fill.
    pub const RELAXED_BURST: Duration = Duration::from_millis(40);
    /// Over the estimate. Higher takes less of a frame's time; lower lets the path drain although much is queued here, after
    /// a fall to 0.7 of what arrived even with a backlog.
    pub const FACTOR: f64 = 1.25;
    /// Share of the estimate that retransmissions may take. Less leaves frames broken at high loss, more takes from media
    /// just when the path is full.
    const RESEND_SHARE: f64 = 0.25;
    /// How much of that share can be saved up: a burst loss is repaired at once.
    const RESEND_SAVED: Duration = Duration::from_millis(500);
    /// A few packets are always affordable.
    const RESEND_LEAST: f64 = 6_000.0;
    /// Paces at this rate at least, so that an estimate near zero holds nothing for long.
    const LEAST: Bitrate = Bitrate::from_kbps(50);
    /// A debt longer than this, left by what does not ask, is forgiven.
    const MAX_DEBT: Duration = Duration::from_millis(500);
    /// A probe that could not be sent in this time, for want of packets, is over.
    const PROBE_LIFE: Duration = Duration::from_millis(250);
    /// Largest packet of padding.
    const PADDING: u64 = 1_200;
    /// Smallest one worth sending.
    const LEAST_PADDING: u64 = 64;

    /// Paces for this estimate.
    pub fn new(now: Instant, estimate: Bitrate) -> Self {
        Self {
            estimate,
            busy_until: now,
            burst_since: now,
            probe: None,
            resends: Resends { tokens: Self::RESEND_LEAST, filled_at: now },
            relaxed: false,
        }
    }

    /// What [`Self::can_send`] and [`Self::handle_sent`] look at.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.probe);
        prefetch(&self.busy_until);
        prefetch(&self.relaxed);
    }

    /// What [`Self::set_estimate`] looks at.
    #[inline(always)]
    pub(crate) fn prefetch_rate(&self) {
        self.prefetch();
        prefetch(&self.estimate);
        prefetch(&self.resends);
    }

    /// The estimate changed.
    pub fn set_estimate(&mut self, now: Instant, estimate: Bitrate) {
        self.resends.fill(now, self.estimate);
        self.change_rate(now, |pacer| pacer.estimate = estimate);
    }

    /// Whether the path takes far more than there is to send.
    pub fn set_relaxed(&mut self, relaxed: bool) {
        self.relaxed = relaxed;
    }

    /// The next packet of the queue may leave now.
    pub fn can_send(&self, now: Instant) -> bool {
        self.busy_until <= now || self.busy_until < self.burst_since + self.burst()
    }

    /// When [`Self::can_send`] turns true; `None` while it is.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.busy_until >= self.burst_since + self.burst()).then_some(self.busy_until)
    }

    /// A packet of this size left: media, retransmission or padding, asked for or not. Gives the probe that it is
    /// part of.
    pub fn handle_sent(&mut self, now: Instant, size: DataSize) -> Option<ProbeId> {
        self.expire_probe(now);
        if self.busy_until <= now {
            // A late wake-up is made up for; after a pause nothing has been saved.
            let late = now.saturating_duration_since(self.busy_until) <= Self::BURST;
            self.burst_since = if late { self.busy_until } else { now };
            self.busy_until = self.burst_since;
        }
        self.busy_until += time_of(size, self.rate());
        self.busy_until = self.busy_until.min(now + Self::MAX_DEBT);

        let active = self.probe.as_mut()?;
        active.sent += size.bytes();
        active.packets = active.packets.saturating_add(1);
        let id = active.probe.id;
        if active.sent >= active.probe.size.bytes() && active.packets >= active.probe.packets {
            self.change_rate(now, |pacer| pacer.probe = None);
        }
        Some(id)
    }

    /// From now on packets leave at the probe's rate, until as much as it wants has left.
    pub fn start_probe(&mut self, now: Instant, probe: Probe) {
        self.change_rate(now, |pacer| {
            pacer.probe = Some(ActiveProbe { probe, since: now, sent: 0, packets: 0 });
        });
    }

    /// A probe is under way.
    pub fn is_probing(&self) -> bool {
        self.probe.is_some()
    }

    /// How large a packet of padding is due, given that the queue is empty.
    pub fn poll_padding(&mut self, now: Instant) -> Option<DataSize> {
        self.expire_probe(now);
        let active = self.probe.filter(|_| self.can_send(now))?;
        let missing = active.probe.size.bytes().saturating_sub(active.sent);
        let packets = u64::from(active.probe.packets.saturating_sub(active.packets)).max(1);
        let size = missing.div_ceil(packets).clamp(Self::LEAST_PADDING, Self::PADDING);
        Some(DataSize::from_bytes(size))
    }

    /// Books a retransmission of this size; false: the share is used up, and it must not be sent.
    pub fn may_resend(&mut self, now: Instant, size: DataSize) -> bool {
        self.resends.fill(now, self.estimate);
        let affordable = self.resends.tokens >= size.bytes() as f64;
        if affordable {
            self.resends.tokens -= size.bytes() as f64;
        }
        affordable
    }

    /// A probe measures a rate: it is never sent all at once.
    fn burst(&self) -> Duration {
        if self.relaxed && self.probe.is_none() { Self::RELAXED_BURST } else { Self::BURST }
    }

    fn rate(&self) -> Bitrate {
        match &self.probe {
            Some(active) => active.probe.rate.max(Self::LEAST),
            None => Bitrate::from_bps((self.estimate.bps() as f64 * Self::FACTOR) as u64)
                .max(Self::LEAST),
        }
    }

    /// What was sent and has not passed yet takes more or less time from now on.
    fn change_rate(&mut self, now: Instant, change: impl FnOnce(&mut Self)) {
        if self.busy_until <= now {
            change(self);
            return;
        }
        let before = self.rate().bps() as f64;
        change(self);
        let left = self.busy_until.saturating_duration_since(now).as_secs_f64();
        let left = Duration::from_secs_f64(left * before / self.rate().bps() as f64);
        if !left.is_zero() {
            self.busy_until = now + left.min(Self::MAX_DEBT);
        }
    }

    fn expire_probe(&mut self, now: Instant) {
        let life = |active: &ActiveProbe| now.saturating_duration_since(active.since);
        if self.probe.as_ref().is_some_and(|active| life(active) > Self::PROBE_LIFE) {
            self.change_rate(now, |pacer| pacer.probe = None);
        }
    }
}

/// How long this much takes, to the nearest nanosecond.
fn time_of(size: DataSize, rate: Bitrate) -> Duration {
    const NANOS: u64 = 8 * 1_000_000_000;
    let rate = rate.bps().max(1);
    Duration::from_nanos(size.bytes().saturating_mul(NANOS).saturating_add(rate / 2) / rate)
}

impl Resends {
    fn fill(&mut self, now: Instant, estimate: Bitrate) {
        let before = self.filled_at;
        self.filled_at = before.max(now);
        let per_second = estimate.bps() as f64 / 8.0 * Pacer::RESEND_SHARE;
        let most = (per_second * Pacer::RESEND_SAVED.as_secs_f64()).max(Pacer::RESEND_LEAST);
        if self.tokens < most {
            let since = now.saturating_duration_since(before).as_secs_f64();
            self.tokens += per_second * since;
        }
        self.tokens = self.tokens.min(most);
    }
}

#[cfg(test)]
mod tests;
