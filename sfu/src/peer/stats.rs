//! What the path to a peer was like of late, for whoever judges the quality of its connection.

use std::time::{Duration, Instant};

use crate::{bwe::Limit, rtp::Bitrate};

/// How often the control plane hears of a peer.
const INTERVAL: Duration = Duration::from_secs(2);

/// One direction of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DirectionStats {
    /// Share of packets lost before repair, 1/1,000; `None` where nobody reported.
    pub loss: Option<u16>,
    /// Interarrival jitter (RFC 3550 section 6.4.1), the worst of all streams.
    pub jitter: Duration,
}

/// What a path is thought to take, and why not more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Estimate {
    /// Of everything that may leave.
    pub rate: Bitrate,
    /// What holds it.
    pub limit: EstimateLimit,
}

/// What holds an estimate where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EstimateLimit {
    /// The path, or what is known of it.
    Path(Limit),
    /// The control plane's cap is below it.
    Cap,
}

impl EstimateLimit {
    /// All of them, each with its name in metrics.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Path(Limit::Start), "start"),
        (Self::Path(Limit::Delay), "delay"),
        (Self::Path(Limit::Loss), "loss"),
        (Self::Path(Limit::Remb), "remb"),
        (Self::Path(Limit::Silence), "silence"),
        (Self::Path(Limit::Max), "max"),
        (Self::Cap, "cap"),
    ];

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|(limit, _)| *limit == self).unwrap_or(0)
    }
}

/// What a peer adds to its shard's sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Told {
    pub(crate) estimate: Option<Estimate>,
    pub(crate) subscriptions: u64,
    pub(crate) starved: u64,
}

/// What a path was like between two events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PathStats {
    /// Round trip, as receiver reports tell it.
    pub rtt: Option<Duration>,
    /// From the peer to the node.
    pub ingress: DirectionStats,
    /// From the node to the peer.
    pub egress: DirectionStats,
    /// Media and retransmissions to the peer.
    pub egress_bitrate: Bitrate,
    /// Since anything of the peer's came: media, feedback, or a check, which consent (RFC 7675) takes each five seconds
    /// or so from who has nothing else to send.
    pub silent: Duration,
    /// Spatial layers of video that the peer wants and that exist, the lowest of each track included.
    pub layers_wanted: u32,
    /// Of these, how many it gets.
    pub layers_given: u32,
    /// `None` while the peer gives no feedback from which to estimate.
    pub estimate: Option<Estimate>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Direction {
    /// Sum of fractions in 1/256, and how many there are.
    lost: u32,
    reports: u32,
    jitter: Duration,
}

impl Direction {
    fn add(&mut self, fraction_lost: u8, jitter: Duration) {
        self.lost += u32::from(fraction_lost);
        self.reports += 1;
        self.jitter = self.jitter.max(jitter);
    }

    fn stats(self) -> DirectionStats {
        let loss = (self.lost * 1_000).checked_div(self.reports * 256);
        DirectionStats { loss: loss.map(|loss| loss.min(1_000) as u16), jitter: self.jitter }
    }
}

/// Collects reports of one peer. In this order: what a listener's reports look at comes first.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct PathRecorder {
    /// Something of the peer's came then.
    pub(crate) heard_at: Instant,
    egress: Direction,
    since: Instant,
    ingress: Direction,
    /// Bytes to the peer when the interval began.
    sent: u64,
    /// Of the last whole interval.
    last: PathStats,
}

impl PathRecorder {
    pub(crate) fn new(now: Instant) -> Self {
        let nothing = Direction::default();
        Self {
            since: now,
            heard_at: now,
            ingress: nothing,
            egress: nothing,
            sent: 0,
            last: PathStats::default(),
        }
    }

    /// What we report of a stream of the peer.
    pub(crate) fn add_ingress(&mut self, fraction_lost: u8, jitter: Duration) {
        self.ingress.add(fraction_lost, jitter);
    }

    /// What the peer reports of a stream of ours.
    pub(crate) fn add_egress(&mut self, fraction_lost: u8, jitter: Duration) {
        self.egress.add(fraction_lost, jitter);
    }

    /// What there is to say, where it is time, and about how long an interval. `sent` is all bytes that went to the peer.
    pub(crate) fn poll(&mut self, now: Instant, sent: u64) -> Option<(PathStats, Duration)> {
        let passed = now.saturating_duration_since(self.since);
        if passed < INTERVAL {
            return None;
        }
        let before =
            std::mem::replace(self, Self { sent, heard_at: self.heard_at, ..Self::new(now) });
        let bits = u128::from(sent.saturating_sub(before.sent)) * 8_000;
        let rate = bits / passed.as_millis().max(1);
        let stats = PathStats {
            ingress: before.ingress.stats(),
            egress: before.egress.stats(),
            egress_bitrate: Bitrate::from_bps(u64::try_from(rate).unwrap_or(u64::MAX)),
            silent: now.saturating_duration_since(before.heard_at),
            ..PathStats::default()
        };
        self.last = stats;
        Some((stats, passed))
    }

    /// The last whole interval's numbers.
    pub(crate) fn last(&self) -> &PathStats {
        &self.last
    }
}

/// Jitter in a clock's units. Audio other than Opus is so rare that its clock is not looked up.
pub(crate) fn jitter_time(units: u32, audio: bool) -> Duration {
    let rate = if audio { 48_000 } else { 90_000 };
    // 32 bits times a million fit.
    Duration::from_micros(u64::from(units) * 1_000_000 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn reports_of_an_interval_are_averaged_and_then_forgotten() {
        let start = Instant::now();
        let mut recorder = PathRecorder::new(start);
        recorder.add_egress(0, jitter_time(480, true));
        recorder.add_egress(64, jitter_time(1_800, false));
        assert_eq!(recorder.poll(start + Duration::from_secs(1), 1_000), None, "too early");
        recorder.heard_at = start + Duration::from_secs(1);
        let (stats, passed) = recorder.poll(start + Duration::from_secs(2), 250_000).unwrap();
        assert_eq!((passed, recorder.last()), (Duration::from_secs(2), &stats));
        assert_eq!(stats.egress.loss, Some(125), "an eighth of the packets");
        assert_eq!(stats.egress.jitter, Duration::from_millis(20));
        assert_eq!((stats.ingress.loss, stats.silent), (None, Duration::from_secs(1)));
        assert_eq!(stats.egress_bitrate, Bitrate::from_kbps(1_000));
        let (next, _) = recorder.poll(start + Duration::from_secs(4), 250_000).unwrap();
        assert_eq!((next.egress.loss, next.egress_bitrate), (None, Bitrate::ZERO));
    }
}
