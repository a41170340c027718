//! When to probe and what a probe tells (the reasons are libwebrtc's, the measure is a regression over all packets of the
//! cluster instead of first and last, since probes are short and paths jitter).

use std::time::Duration;

use crate::{
    prefetch::prefetch,
    rtp::{Bitrate, DataSize, Probe, ProbeId},
};

/// What decides on a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    pub(super) now: Duration,
    pub(super) estimate_bps: f64,
    /// No probe goes beyond what could be used, or is allowed.
    pub(super) useful_bps: f64,
    /// Less is sent than the estimate allows.
    pub(super) app_limited: bool,
    /// The path has been seen full.
    pub(super) capacity_known: bool,
    /// What was found last is in use, or nobody uses it anyway.
    pub(super) verified: bool,
    /// No queue grows, and the last fall is over.
    pub(super) calm: bool,
    /// The rate before the latest falls, until it is probed for.
    pub(super) peak_bps: f64,
    /// How long ago the latest fall was.
    pub(super) since_fall: Option<Duration>,
}

/// Asks for probes and measures them, one at a time.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Prober {
    /// Probe at once: the last one went through, or more than was known fits.
    eager: Option<Duration>,
    probed_at: Option<Duration>,
    /// Probes that were measured so far.
    measured: u32,
    /// Probes asked for so far.
    asked: u32,
    wanted_rose: bool,
    /// Of the latest probe's estimate: see [`Self::interval`].
    stagger: f64,
    salt: u32,
    last_id: ProbeId,
    cluster: Option<Cluster>,
}

/// What came of a probe.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Outcome {
    /// It passed at the rate it was sent with: the path takes this much.
    Passed(f64),
    /// It arrived slower than it was sent: at this rate.
    Saturated(f64),
}

#[derive(Debug)]
#[repr(C)]
struct Cluster {
    /// First: by this it is told whether there is a cluster.
    asked_at: Duration,
    probe: Probe,
    sent: Line,
    arrived: Line,
    first_sent: Option<Duration>,
    first_arrived_us: i64,
    packets_sent: u32,
    packets_known: u32,
    packets_arrived: u32,
    bytes_sent: u64,
    bytes_arrived: u64,
    lost: u32,
}

impl Prober {
    /// How long a probe lasts. Longer measures better and fills the queue more: at twice the capacity it adds as much
    /// delay as it lasts, halved.
    const SPAN: Duration = Duration::from_millis(50);
    /// The first ones, when nothing is known.
    const FIRST_SPAN: Duration = Duration::from_millis(40);
    /// Packets a regression needs.
    const PACKETS: u16 = 6;
    /// Over the estimate: at start, while nobody would fill it at once, and while the encoder follows.
    const FIRST_SCALE: f64 = 3.0;
    const IDLE_SCALE: f64 = 2.0;
    const SCALE: f64 = 1.5;
    /// After a fall: of the rate before it.
    const RECOVERY_SCALE: f64 = 0.95;
    /// A fall below this share of the peak is probed for.
    const LARGE_FALL: f64 = 0.66;
    /// Between probes for growth: while the application is the limit, and otherwise.
    const IDLE_INTERVAL: Duration = Duration::from_secs(3);
    const INTERVAL: Duration = Duration::from_secs(8);
    /// The same while the path has never been seen full.
    const UNKNOWN_INTERVAL: Duration = Duration::from_secs(3);
    /// Least time between any two but the follow-ups of one that passed.
    const MIN_INTERVAL: Duration = Duration::from_secs(2);
    /// After a fall: time for queues to drain.
    const AFTER_FALL: Duration = Duration::from_secs(2);
    /// A probe that would gain less is not sent.
    const WORTH: f64 = 1.1;
    /// A cluster without enough feedback after this is given up.
    const TIMEOUT: Duration = Duration::from_secs(1);
    /// Share of its packets that must be reported on.
    const KNOWN: f64 = 0.8;
    /// It passed when it arrived at this share of the rate it was sent at.
    const PASSED: f64 = 0.8;
    /// Safety on the rate at which a saturated path delivered.
    const SATURATED: f64 = 0.95;
    /// Arrival faster than this times the departure is an artefact of jitter.
    const SQUEEZED: f64 = 3.0;

    /// `salt`: see [`Bitrate::stagger`].
    pub(super) fn new(salt: u32) -> Self {
        Self {
            last_id: ProbeId(0),
            cluster: None,
            eager: None,
            probed_at: None,
            measured: 0,
            asked: 0,
            wanted_rose: false,
            stagger: 1.0,
            salt,
        }
    }

    /// What is looked at when there is no probe.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.eager);
        prefetch(&self.salt);
        prefetch(&self.cluster);
    }

    pub(super) fn asked(&self) -> u32 {
        self.asked
    }

    /// Nothing has been measured yet.
    pub(super) fn is_starting(&self) -> bool {
        self.measured == 0
    }

    /// More fits than was known: probe soon.
    pub(super) fn expect_more(&mut self, now: Duration) {
        self.eager.get_or_insert(now);
    }

    /// The application could use more than before.
    pub(super) fn handle_wanted_rose(&mut self) {
        self.wanted_rose = true;
    }

    /// When [`Self::poll`] may have something, if nothing else happens.
    pub(super) fn poll_timeout(&self, app_limited: bool, capacity_known: bool) -> Option<Duration> {
        if let Some(cluster) = &self.cluster {
            return Some(cluster.asked_at + Self::TIMEOUT);
        }
        Some(self.probed_at? + self.interval(app_limited, capacity_known))
    }

    /// While nobody fills what is found, a quarter more or less: two who share a path, and whose links fell at the same
    /// moment, would otherwise go on probing at the same moments, and each find the other's probe.
    fn interval(&self, app_limited: bool, capacity_known: bool) -> Duration {
        match (capacity_known, app_limited) {
            (_, true) => Self::IDLE_INTERVAL.mul_f64(self.stagger),
            (false, false) => Self::UNKNOWN_INTERVAL,
            (true, false) => Self::INTERVAL,
        }
    }

    /// The next probe, if it is time for one.
    pub(super) fn poll(&mut self, situation: Situation) -> Option<Probe> {
        let now = situation.now;
        if let Some(cluster) = &self.cluster {
            if now < cluster.asked_at + Self::TIMEOUT {
                return None;
            }
            self.cluster = None;
        }
        if !situation.calm || situation.useful_bps < situation.estimate_bps * Self::WORTH {
            return None;
        }
        let target = self.target(situation)?.min(situation.useful_bps);
        if target < situation.estimate_bps * Self::WORTH {
            return None;
        }
        let span = if self.is_starting() { Self::FIRST_SPAN } else { Self::SPAN };
        let rate = Bitrate::from_bps(target as u64);
        self.last_id = self.last_id.next();
        let probe = Probe { id: self.last_id, rate, size: rate.over(span), packets: Self::PACKETS };
        self.cluster = Some(Cluster::new(probe, now));
        self.probed_at = Some(now);
        self.stagger = Bitrate::from_bps(situation.estimate_bps as u64).stagger(self.salt);
        self.eager = None;
        self.wanted_rose = false;
        self.asked += 1;
        Some(probe)
    }

    /// The rate that the situation is worth.
    fn target(&mut self, situation: Situation) -> Option<f64> {
        let now = situation.now;
        let estimate = situation.estimate_bps;
        let Some(probed_at) = self.probed_at else { return Some(estimate * Self::FIRST_SCALE) };
        let growth = if situation.app_limited || !situation.capacity_known {
            Self::IDLE_SCALE
        } else {
            Self::SCALE
        };
        if self.eager.is_some() && situation.verified {
            return Some(estimate * growth);
        }
        let since = now.saturating_sub(probed_at);
        if since < Self::MIN_INTERVAL {
            return None;
        }
        if self.wanted_rose {
            return Some(estimate * Self::IDLE_SCALE);
        }
        let interval = self.interval(situation.app_limited, situation.capacity_known);
        if let Some(since_fall) = situation.since_fall {
            if since_fall < Self::AFTER_FALL {
                return None;
            }
            if estimate < situation.peak_bps * Self::LARGE_FALL {
                let peak = situation.peak_bps * Self::RECOVERY_SCALE;
                return Some(peak.min(estimate * Self::IDLE_SCALE));
            }
        }
        (since >= interval).then_some(estimate * growth)
    }

    pub(super) fn handle_sent(&mut self, now: Duration, id: ProbeId, size: u16) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.probe.id == id) else {
            return;
        };
        cluster.handle_sent(now, size);
    }

    pub(super) fn handle_arrived(&mut self, id: ProbeId, size: u16, arrived_us: i64) {
        if let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.probe.id == id) {
            cluster.handle_arrived(size, arrived_us);
        }
    }

    pub(super) fn handle_lost(&mut self, id: ProbeId) {
        if let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.probe.id == id) {
            cluster.packets_known += 1;
            cluster.lost += 1;
        }
    }

    /// After each feedback: what the probe measured, once enough of it is known.
    pub(super) fn poll_outcome(&mut self, now: Duration) -> Option<Outcome> {
        let cluster = self.cluster.as_ref()?;
        if !cluster.is_known() {
            return None;
        }
        let outcome = cluster.outcome();
        self.cluster = None;
        let outcome = outcome?;
        self.measured += 1;
        if let Outcome::Passed(_) = outcome {
            self.eager = Some(now);
        }
        Some(outcome)
    }
}

impl Cluster {
    fn new(probe: Probe, asked_at: Duration) -> Self {
        Self {
            probe,
            asked_at,
            sent: Line::default(),
            arrived: Line::default(),
            first_sent: None,
            first_arrived_us: 0,
            packets_sent: 0,
            packets_known: 0,
            packets_arrived: 0,
            bytes_sent: 0,
            bytes_arrived: 0,
            lost: 0,
        }
    }

    fn handle_sent(&mut self, now: Duration, size: u16) {
        let first = *self.first_sent.get_or_insert(now);
        self.packets_sent += 1;
        self.sent.add(self.bytes_sent as f64, now.saturating_sub(first).as_secs_f64() * 1e3);
        self.bytes_sent += u64::from(size);
    }

    fn handle_arrived(&mut self, size: u16, arrived_us: i64) {
        if self.packets_arrived == 0 {
            self.first_arrived_us = arrived_us;
        }
        self.packets_known += 1;
        self.packets_arrived += 1;
        let at_ms = arrived_us.saturating_sub(self.first_arrived_us) as f64 / 1e3;
        self.bytes_arrived += u64::from(size);
        // A packet has arrived when its last byte has: what it took in counts with it.
        self.arrived.add(self.bytes_arrived as f64, at_ms);
    }

    fn is_known(&self) -> bool {
        let complete = DataSize::from_bytes(self.bytes_sent) >= self.probe.size
            && self.packets_sent >= u32::from(self.probe.packets);
        complete && f64::from(self.packets_known) >= f64::from(self.packets_sent) * Prober::KNOWN
    }

    fn outcome(&self) -> Option<Outcome> {
        if self.packets_arrived < 4 {
            return None;
        }
        let sent = self.sent.rate_bps()?;
        // What arrives all at once arrived no slower than it was sent.
        let arrived = self.arrived.rate_bps().unwrap_or(sent);
        if arrived > sent * Prober::SQUEEZED {
            return None;
        }
        let lossy = self.lost * 10 > self.packets_known;
        if arrived >= sent * Prober::PASSED && !lossy {
            return Some(Outcome::Passed(sent.min(arrived)));
        }
        Some(Outcome::Saturated(sent.min(arrived) * Prober::SATURATED))
    }
}

/// A least-squares line of time (ms) over bytes.
#[derive(Default, Debug)]
struct Line {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Line {
    fn add(&mut self, bytes: f64, at_ms: f64) {
        self.n += 1.0;
        self.x += bytes;
        self.y += at_ms;
        self.xx += bytes * bytes;
        self.xy += bytes * at_ms;
    }

    /// `None`: no time passes, or it runs backwards.
    fn rate_bps(&self) -> Option<f64> {
        let under = self.n * self.xx - self.x * self.x;
        let over = self.n * self.xy - self.x * self.y;
        let bps = under / over * 8e3;
        (over > 0.0 && under > 0.0 && bps.is_finite()).then_some(bps)
    }
}

#[cfg(test)]
#[path = "probing_tests.rs"]
mod tests;
