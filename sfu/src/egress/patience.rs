//! Holding on to what goes out while a lower estimate may be due to somebody else's probe.
//!
//! Subscribers behind one link do not know of each other. A probe of one fills the queue that all share for some tenths of
//! a second; the estimates of the others fall, and it takes seconds until they are up again. Who gives a layer away for
//! that has it taken by the one who probed, and takes it back by a probe of his own, for ever.

use std::time::{Duration, Instant};

use crate::rtp::Bitrate;

/// What one subscriber keeps in spite of a lower estimate, and for how long. A link that has become too narrow loses
/// packets, or its queue is long and does not drain: then patience is over at once, and until the estimate is enough again.
#[derive(Debug, Default)]
pub struct Patience {
    /// What keeping everything takes.
    needs: Bitrate,
    /// At the last feedback.
    queue: Duration,
    /// Since when the estimate has been too low.
    short_since: Option<Instant>,
    /// Feedback comes: without any there is nothing that patience could go by.
    observed: bool,
    over: bool,
}

impl Patience {
    /// Of what is needed: no probe of others takes an estimate lower. Less holds on in vain, more gives way to probes.
    const LEAST_SHARE: f64 = 0.6;
    /// A queue that is longer than a probe of others makes it. Longer keeps more, and a link that has narrowed slowly is
    /// obeyed later by that much.
    const LONG_QUEUE: Duration = Duration::from_millis(100);
    /// It drains when it is shorter than this multiple of what it was at the feedback before.
    const DRAINING: f64 = 0.97;
    /// What makes no queue fits, whatever the estimate; but the estimate has to come to the same in this time.
    const LONGEST: Duration = Duration::from_secs(6);

    /// Feedback came, after which the estimate is this; `queue`: how long packets wait in the path; `held_down`: by
    /// anything but delay.
    pub fn observe(&mut self, now: Instant, estimate: Bitrate, queue: Duration, held_down: bool) {
        let drains = queue < self.queue.mul_f64(Self::DRAINING);
        self.queue = queue;
        self.observed = true;
        if estimate >= self.needs {
            (self.short_since, self.over) = (None, false);
            return;
        }
        let since = *self.short_since.get_or_insert(now);
        self.over |= held_down
            || estimate < self.needs.mul_f64(Self::LEAST_SHARE)
            || (queue >= Self::LONG_QUEUE && !drains)
            || now.saturating_duration_since(since) >= Self::LONGEST;
    }

    /// The estimate was shared out: to keep all of it takes so much.
    pub fn note(&mut self, needs: Bitrate) {
        self.needs = needs;
    }

    /// What is sent on in spite of a lower estimate, or of a price that a keyframe has raised; zero: nothing is.
    pub fn kept(&self) -> Bitrate {
        if self.observed && !self.over { self.needs } else { Bitrate::ZERO }
    }

    /// It is over, whatever feedback said last.
    pub fn end(&mut self) {
        self.over = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn what_is_kept_is_given_up_on_evidence() {
        struct Feedback {
            at_ms: u64,
            kbps: u64,
            queue_ms: u64,
            held_down: bool,
        }
        let of = |at_ms, kbps, queue_ms| Feedback { at_ms, kbps, queue_ms, held_down: false };
        let cases = [
            ("no feedback", vec![], 0),
            ("enough", vec![of(0, 1_000, 0)], 1_000),
            ("a probe of others", vec![of(0, 900, 60), of(100, 800, 50)], 1_000),
            ("a long queue", vec![of(0, 900, 60), of(100, 800, 120)], 0),
            ("one that drains", vec![of(0, 900, 140), of(100, 800, 120)], 0),
            ("which was there before", vec![of(0, 1_000, 140), of(100, 800, 120)], 1_000),
            ("far too low", vec![of(0, 590, 10)], 0),
            ("and then not", vec![of(0, 590, 10), of(100, 900, 0)], 0),
            ("enough again", vec![of(0, 590, 10), of(100, 1_000, 0), of(200, 900, 0)], 1_000),
            ("too low for long", vec![of(0, 900, 0), of(5_900, 900, 0)], 1_000),
            ("for too long", vec![of(0, 900, 0), of(6_000, 900, 0)], 0),
            ("loss", vec![Feedback { held_down: true, ..of(0, 900, 0) }, of(100, 900, 0)], 0),
        ];
        let start = Instant::now();
        for (name, feedbacks, kept) in cases {
            let mut patience = Patience::default();
            patience.note(Bitrate::from_kbps(1_000));
            for Feedback { at_ms, kbps, queue_ms, held_down } in feedbacks {
                let now = start + Duration::from_millis(at_ms);
                let queue = Duration::from_millis(queue_ms);
                patience.observe(now, Bitrate::from_kbps(kbps), queue, held_down);
            }
            assert_eq!(patience.kept(), Bitrate::from_kbps(kept), "{name}");
            patience.end();
            assert_eq!(patience.kept(), Bitrate::ZERO, "{name}");
        }
    }
}
