//! Evidence that a path is too narrow, beside a lower estimate.
//!
//! An estimate that fell by delay alone may be due to a probe of somebody else, or to a receiver that was busy: a path that is
//! too narrow loses, or has a queue that stands, or lets far less through than is sent.

use std::time::{Duration, Instant};

use crate::rtp::Bitrate;

/// What one feedback showed.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// How long packets wait in the path.
    pub queue: Duration,
    /// Fraction of packets lost lately.
    pub loss: f32,
    /// At which rate packets left.
    pub sent: Option<Bitrate>,
    /// And arrived.
    pub arrived: Option<Bitrate>,
}

/// Looks for it in each feedback.
#[derive(Debug)]
pub struct Evidence {
    loss: f32,
    standing: StandingQueue,
    /// Feedbacks in a row that showed far less arriving than was sent.
    overrun: u32,
}

impl Evidence {
    /// Loss above this share, or a queue that was never shorter than this for a second, says that even the lowest layers are
    /// too much.
    const LOSS: f32 = 0.02;
    const QUEUE: Duration = Duration::from_millis(100);
    /// So do this many feedbacks in a row under such a queue, if less than this share of what was sent arrived: a receiver
    /// that was busy for a moment tells of everything at once.
    const OVERRUNS: u32 = 2;
    const OVERRUN: f64 = 0.7;

    /// Nothing was seen yet.
    pub fn new(now: Instant) -> Self {
        Self { loss: 0.0, standing: StandingQueue::new(now), overrun: 0 }
    }

    /// Feedback came.
    pub fn note(&mut self, now: Instant, seen: Seen) {
        self.loss = seen.loss;
        self.standing.note(now, seen.queue);
        let both = seen.arrived.zip(seen.sent);
        let short = both.is_some_and(|(arrived, sent)| arrived < sent.mul_f64(Self::OVERRUN));
        let overrun = short && seen.queue >= Self::QUEUE;
        self.overrun = if overrun { self.overrun + 1 } else { 0 };
    }

    /// Whether there is some.
    pub fn is_there(&self) -> bool {
        self.loss > Self::LOSS
            || self.standing.least() > Self::QUEUE
            || self.overrun >= Self::OVERRUNS
    }
}

/// The shortest queue of the last one to two seconds.
#[derive(Debug)]
struct StandingQueue {
    since: Instant,
    /// Of this interval and of the one before.
    least: [Option<Duration>; 2],
}

impl StandingQueue {
    const INTERVAL: Duration = Duration::from_secs(1);

    fn new(now: Instant) -> Self {
        Self { since: now, least: [None; 2] }
    }

    fn note(&mut self, now: Instant, queue: Duration) {
        if now.saturating_duration_since(self.since) >= Self::INTERVAL {
            self.since = now;
            self.least = [None, self.least[0]];
        }
        let [current, _] = &mut self.least;
        *current = Some(current.map_or(queue, |least| least.min(queue)));
    }

    /// Zero before a whole interval is known.
    fn least(&self) -> Duration {
        let [current, before] = self.least;
        before.map_or(Duration::ZERO, |before| current.map_or(before, |now| now.min(before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn loss_a_queue_that_stands_and_an_overrun_are_evidence() {
        let start = Instant::now();
        /// After so many feedbacks, each 100 ms, there is evidence.
        type Case = (&'static str, u64, f32, u64, Option<u32>);
        let cases: [Case; 7] = [
            ("nothing", 20, 0.0, 1_000, None),
            ("loss", 20, 0.03, 1_000, Some(1)),
            ("little loss", 20, 0.02, 1_000, None),
            // The second interval of a second has begun.
            ("a queue that stands", 120, 0.0, 1_000, Some(11)),
            ("a short queue that stands", 90, 0.0, 1_000, None),
            ("an overrun", 120, 0.0, 600, Some(2)),
            ("less arrives, without a queue", 50, 0.0, 600, None),
        ];
        for (name, queue_ms, loss, arrived, expect) in cases {
            let mut evidence = Evidence::new(start);
            let seen = Seen {
                queue: Duration::from_millis(queue_ms),
                loss,
                sent: Some(Bitrate::from_kbps(1_000)),
                arrived: Some(Bitrate::from_kbps(arrived)),
            };
            let found = (1..40).find(|n| {
                evidence.note(start + Duration::from_millis(100) * (n - 1), seen);
                evidence.is_there()
            });
            assert_eq!(found, expect, "{name}");
        }
        // A queue that drains for a moment does not stand, and an overrun is two in a row.
        let mut evidence = Evidence::new(start);
        for n in 0..40 {
            let long = n % 8 != 0;
            let seen = Seen {
                queue: Duration::from_millis(if long { 150 } else { 20 }),
                loss: 0.0,
                sent: Some(Bitrate::from_kbps(1_000)),
                arrived: Some(Bitrate::from_kbps(if n % 2 == 0 { 600 } else { 900 })),
            };
            evidence.note(start + Duration::from_millis(100) * n, seen);
            assert!(!evidence.is_there(), "{n}");
        }
    }
}
