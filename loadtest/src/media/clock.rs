//! The clock of a run that several machines play: the coordinator's.

use std::{cell::Cell, time::Duration};

use super::unix_now;

/// This process's clock against that of the run. Alone, they are the same.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// Nanoseconds to add to this machine's clock.
    ahead: Cell<i64>,
}

impl Clock {
    /// The run's clock is so many nanoseconds ahead of this machine's.
    pub(crate) fn set(&self, ahead: i64) {
        self.ahead.set(ahead);
    }

    /// The run's time, since the Unix epoch.
    pub(crate) fn now(&self) -> Duration {
        self.at(unix_now())
    }

    /// The run's time when this machine's clock shows `local`.
    fn at(&self, local: Duration) -> Duration {
        shifted(local, self.ahead.get())
    }

    /// A time of the run as this machine's clock shows it.
    pub(crate) fn local(&self, time: Duration) -> Duration {
        shifted(time, self.ahead.get().saturating_neg())
    }
}

fn shifted(time: Duration, nanos: i64) -> Duration {
    let by = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 { time.saturating_sub(by) } else { time.saturating_add(by) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_run_is_read_on_this_machine() {
        let clock = Clock::default();
        for ahead in [0, 5_000_000_000, -5_000_000_000] {
            clock.set(ahead);
            let before = unix_now();
            let read = clock.local(clock.now());
            assert!(read >= before && read <= unix_now(), "{ahead}");
        }
        assert_eq!(shifted(Duration::from_secs(1), i64::MIN), Duration::ZERO);
    }

    #[test]
    fn latency_between_machines_whose_clocks_are_off_is_that_of_the_path() {
        // Ahead of true time: the coordinator by 1 s, the publisher's machine by 5 s, the subscriber's by -3 s.
        let nanos = |seconds: i64| seconds * 1_000_000_000;
        let (publisher, subscriber) = (Clock::default(), Clock::default());
        publisher.set(nanos(1 - 5));
        subscriber.set(nanos(1 + 3));
        let sent_at = Duration::from_secs(1_000);
        let path = Duration::from_millis(40);
        let stamp = publisher.at(sent_at + Duration::from_secs(5));
        let kernel = sent_at + path - Duration::from_secs(3);
        assert_eq!(kernel.saturating_sub(subscriber.local(stamp)), path);
    }
}
