//! Is the queue somebody else's?
//!
//! After a flow of ours has cut its rate because of the delay, the queue shrinks. If it does not, time and again, it is held
//! up by flows that obey loss only, as TCP does: to go on obeying the delay would be to yield until nothing is left. So for
//! some seconds loss counts instead, and then the delay again: two flows of ours must not hold up each other's queue for
//! good.

use std::time::Duration;

use crate::prefetch::prefetch;

/// Whose queue it is, and what counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contest {
    /// The queue is ours, as far as is known: delay counts.
    None,
    /// It is somebody else's: loss counts.
    Compete,
    /// It was somebody else's of late: delay counts, to see whether it drains now.
    Yield,
}

/// Watches what cuts do to the queue.
#[derive(Debug, Default)]
pub(super) struct Competition {
    /// The cut that is being watched: when, and the queue then.
    watched: Option<(Duration, Duration)>,
    /// Cuts in a row after which the queue did not shrink.
    futile: u32,
    competing_since: Option<Duration>,
    yielded_at: Option<Duration>,
    lost_at: Option<Duration>,
    /// When far less arrived than was sent, all of a sudden.
    fell_at: Option<Duration>,
}

impl Competition {
    /// After a cut to 0.85 of what arrived a queue of ours is shorter by a seventh of this, when a round trip has passed.
    const PATIENCE: Duration = Duration::from_millis(1_500);
    /// It has drained when this share is left.
    const DRAINED: f64 = 0.6;
    /// Of a queue below this nothing can be said.
    const SHORT: Duration = Duration::from_millis(30);
    /// Futile cuts that make a competitor. One may be a fall of the path, whose queue stays full for a while.
    const FUTILE: u32 = 2;
    /// Who obeys loss only makes some, sooner or later; flows that obey the delay do not.
    const LOSS_MEMORY: Duration = Duration::from_secs(15);
    /// What is lost for so long before and after a fall of the path is its doing, not that of others.
    const FALL: Duration = Duration::from_secs(5);
    /// Longest time to compete, and to see whether the queue drains before competing again.
    const COMPETE: Duration = Duration::from_secs(12);
    const YIELD: Duration = Duration::from_secs(4);

    /// What [`Self::update`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.watched);
        prefetch(&self.competing_since);
        prefetch(&self.fell_at);
    }

    /// The rate was cut because of the delay; `fell`: far less arrived than was sent.
    pub(super) fn handle_cut(&mut self, now: Duration, queue: Duration, fell: bool) {
        if fell && !self.is_falling(now) {
            self.fell_at = Some(now);
            // What was lost just before may be told first.
            self.lost_at = self.lost_at.filter(|at| now.saturating_sub(*at) > Self::FALL);
        }
        if queue > Self::SHORT {
            self.watched.get_or_insert((now, queue));
        }
    }

    fn is_falling(&self, now: Duration) -> bool {
        self.fell_at.is_some_and(|at| now.saturating_sub(at) < Self::FALL)
    }

    /// After each feedback; `lossy`: packets were lost of late, so that others may have cut, too; `obeyed`: what is
    /// sent keeps to the rate.
    pub(super) fn update(
        &mut self,
        now: Duration,
        queue: Duration,
        rtt: Duration,
        lossy: bool,
        obeyed: bool,
    ) -> Contest {
        if lossy && !self.is_falling(now) {
            self.lost_at = Some(now);
        }
        let loss_seen = self.lost_at.is_some_and(|at| now.saturating_sub(at) < Self::LOSS_MEMORY);
        if let Some((at, before)) = self.watched {
            if queue <= before.mul_f64(Self::DRAINED) {
                self.watched = None;
                if !lossy {
                    self.futile = 0;
                }
            } else if !obeyed {
                // What is sent in spite of a cut says nothing about others.
                self.watched = None;
            } else if now.saturating_sub(at) > Self::PATIENCE + rtt {
                self.watched = None;
                self.futile += 1;
            }
        }
        match (self.competing_since, self.yielded_at) {
            (Some(since), _) if now.saturating_sub(since) > Self::COMPETE => {
                self.competing_since = None;
                self.yielded_at = Some(now);
                // Once more is enough.
                self.futile = Self::FUTILE - 1;
                Contest::Yield
            }
            (Some(_), _) => Contest::Compete,
            (None, _) if self.futile >= Self::FUTILE && loss_seen => {
                self.competing_since = Some(now);
                Contest::Compete
            }
            (None, Some(at)) if now.saturating_sub(at) < Self::YIELD => Contest::Yield,
            (None, _) => Contest::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Seconds of competing in `seconds` seconds under a queue, with a cut each second in which it is long.
    fn run(seconds: u32, lossy: bool, queue_ms: impl Fn(u32) -> u32) -> f64 {
        run_obeying(seconds, lossy, true, queue_ms)
    }

    fn run_obeying(seconds: u32, lossy: bool, obeys: bool, queue_ms: impl Fn(u32) -> u32) -> f64 {
        let mut competition = Competition::default();
        let mut competing = 0;
        for n in 0..seconds * 10 {
            let (now, queue) = (MS * 100 * n, MS * queue_ms(n * 100));
            if competition.update(now, queue, MS * 100, lossy && n % 50 == 0, obeys)
                == Contest::Compete
            {
                competing += 1;
            } else if n % 10 == 0 && queue > MS * 50 {
                competition.handle_cut(now, queue, false);
            }
        }
        f64::from(competing) / 10.0
    }

    #[test]
    fn what_a_path_loses_when_it_falls_is_not_the_loss_of_others() {
        // Lost in the first second alone, then a queue that two cuts do not drain.
        let contest = |fell_at: Option<u32>| {
            let mut competition = Competition::default();
            let mut contests = (0..100).map(|n| {
                let now = MS * 100 * n;
                if n % 10 == 5 {
                    competition.handle_cut(now, MS * 200, fell_at == Some(n));
                }
                competition.update(now, MS * 200, MS * 100, n < 10, true)
            });
            contests.any(|contest| contest == Contest::Compete)
        };
        assert!(contest(None));
        assert!(!contest(Some(5)));
        assert!(!contest(Some(15)), "told after its losses");
        assert!(contest(Some(95)), "too late to be the reason");
    }

    #[test]
    fn only_a_queue_that_cuts_do_not_drain_is_competed_with() {
        assert_eq!(run(60, true, |_| 20), 0.0);
        assert_eq!(run(60, true, |ms| 250 - ms % 2_000 / 10), 0.0, "it drains");
        assert_eq!(run(60, false, |_| 200), 0.0, "nothing is lost");
        assert_eq!(run_obeying(60, true, false, |_| 200), 0.0, "it is sent in spite of the cuts");
        let competing = run(60, true, |_| 200);
        assert!((35.0..55.0).contains(&competing), "{competing}: not all the time");
    }
}
