//! Rising with care: what one peer gets in all, after a rise that did not last.

use std::time::{Duration, Instant};

use crate::rtp::Bitrate;

/// Keeps from rising again and again to what does not fit. A rise that is followed by a fall failed: until some time has
/// passed, each time twice as much, nothing is won that would take more in all. Within that, who speaks still gets what others
/// lose; what is kept is kept, also where its rate rises by itself; and an estimate far above, which a probe has shown, ends it.
#[derive(Debug, Default)]
pub struct Raises {
    /// See [`Bitrate::stagger`].
    salt: u32,
    /// When, and by which estimate.
    raised: Option<(Instant, Bitrate)>,
    failures: u32,
    barred: Option<Barred>,
}

#[derive(Clone, Copy, Debug)]
struct Barred {
    until: Instant,
    /// What was too much in all, and what was left of it.
    failed: Bitrate,
    kept: Bitrate,
}

impl Barred {
    /// Such an estimate shows another path.
    fn is_disproved(self, estimate: Bitrate) -> bool {
        estimate >= self.failed.mul_f64(Raises::PROVEN)
    }
}

impl Raises {
    /// What has been kept for so long has not failed. Longer flaps less, and waits longer on a path that changes.
    const SETTLED: Duration = Duration::from_secs(8);
    /// After the first failure, a quarter more or less: two who failed together shall not try together.
    const WAIT: Duration = Duration::from_secs(3);
    const MAX_DOUBLINGS: u32 = 2;
    /// Of what was too much: such an estimate shows another path.
    const PROVEN: f64 = 1.3;
    /// Steps that are worth less than this of everything are neither rise nor fall.
    const CHANGE: f64 = 1.1;

    /// Waits are staggered by `salt`, which others behind the same link do not have.
    pub fn new(salt: u32) -> Self {
        Self { salt, ..Self::default() }
    }

    /// This estimate was shared out: what went out cost `before`, what goes out now costs `after`, at the same prices. Who
    /// mutes or leaves, and rates that waver, are in neither.
    pub fn note(&mut self, now: Instant, estimate: Bitrate, before: Bitrate, after: Bitrate) {
        let settled = |(at, _)| now.saturating_duration_since(at) >= Self::SETTLED;
        if self.raised.is_some_and(settled) {
            self.raised = None;
            self.failures = 0;
        }
        if self.barred.is_some_and(|barred| barred.is_disproved(estimate)) {
            self.barred = None;
            self.failures = 0;
        }
        if after > before.mul_f64(Self::CHANGE) {
            self.raised = Some((now, estimate));
            return;
        }
        let falls = after.mul_f64(Self::CHANGE) < before;
        // By an estimate that has not fallen it is only dearer than it seemed: new layers have their rates yet to be measured.
        let failed = |(_, by)| estimate < by;
        if falls && self.raised.take().is_some_and(failed) {
            let wait = Self::WAIT * 2u32.pow(self.failures.min(Self::MAX_DOUBLINGS));
            let wait = wait.mul_f64(estimate.stagger(self.salt));
            self.failures += 1;
            self.barred = Some(Barred { until: now + wait, failed: before, kept: after });
        }
    }

    /// The most that may go out in all, where keeping what goes out costs `kept`; `None`: what the estimate allows.
    pub fn ceiling(&self, now: Instant, estimate: Bitrate, kept: Bitrate) -> Option<Bitrate> {
        let barred = self.barred?;
        let holds = now < barred.until && !barred.is_disproved(estimate);
        holds.then(|| barred.kept.max(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn a_rise_that_failed_is_not_tried_again_at_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs_f64(seconds);
        let kbps = Bitrate::from_kbps;
        // The dice's lowest number: a quarter less.
        let (low, high) = (Bitrate::from_bps(997_000), Bitrate::from_bps(1_100_000));
        let mut raises = Raises::default();
        raises.note(at(0.0), low, Bitrate::ZERO, kbps(500));
        raises.note(at(10.0), low, kbps(500), kbps(520));
        assert_eq!(raises.ceiling(at(10.0), kbps(600), kbps(500)), None);
        let mut now = 20.0;
        for wait in [2.25, 4.5, 9.0, 9.0] {
            raises.note(at(now), high, kbps(500), kbps(1_000));
            now += 1.0;
            raises.note(at(now), low, kbps(1_000), kbps(500));
            let last = at(now + wait - 0.001);
            assert_eq!(raises.ceiling(last, kbps(1_100), kbps(500)), Some(kbps(500)));
            assert_eq!(raises.ceiling(last, kbps(1_100), kbps(600)), Some(kbps(600)), "dearer");
            assert_eq!(raises.ceiling(last, kbps(1_400), kbps(500)), None, "another path");
            now += wait;
            assert_eq!(raises.ceiling(at(now), kbps(1_100), kbps(500)), None);
        }
        // What was kept for long falls for another reason.
        raises.note(at(now), high, kbps(500), kbps(1_000));
        raises.note(at(now + 9.0), low, kbps(1_000), kbps(500));
        assert_eq!(raises.ceiling(at(now + 9.0), kbps(1_100), kbps(500)), None);
        // What is only dearer than it seemed has not failed.
        now += 20.0;
        raises.note(at(now), high, kbps(500), kbps(1_000));
        raises.note(at(now + 1.0), high, kbps(1_300), kbps(500));
        assert_eq!(raises.ceiling(at(now + 1.0), kbps(1_100), kbps(500)), None);
        // On a path that proves to be another the waits begin anew.
        now += 20.0;
        for _ in 0..2 {
            raises.note(at(now), high, kbps(500), kbps(1_000));
            raises.note(at(now), low, kbps(1_000), kbps(500));
        }
        assert!(raises.ceiling(at(now + 4.0), kbps(1_100), kbps(500)).is_some());
        raises.note(at(now + 4.0), kbps(1_400), kbps(500), kbps(500));
        raises.note(at(now + 4.0), high, kbps(500), kbps(1_000));
        raises.note(at(now + 5.0), low, kbps(1_000), kbps(500));
        assert!(raises.ceiling(at(now + 7.2), kbps(1_100), kbps(500)).is_some());
        assert_eq!(raises.ceiling(at(now + 7.3), kbps(1_100), kbps(500)), None);
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn two_who_failed_together_do_not_try_together() {
        let start = Instant::now();
        let kbps = Bitrate::from_kbps;
        let wait = |estimate: u64, salt: u32| {
            let mut raises = Raises::new(salt);
            raises.note(start, kbps(1_100), kbps(500), kbps(1_000));
            raises.note(start, Bitrate::from_bps(estimate), kbps(1_000), kbps(500));
            let at = |ms: &u64| start + Duration::from_millis(*ms);
            (0..5_000).find(|ms| raises.ceiling(at(ms), kbps(1_100), kbps(500)).is_none())
        };
        assert_eq!((wait(997_000, 0), wait(997_996, 0)), (Some(2_250), Some(3_749)));
        // Nor do they where their estimates are equal.
        assert_eq!((wait(997_000, 996), wait(997_000, 498)), (Some(3_749), Some(3_000)));
    }
}
