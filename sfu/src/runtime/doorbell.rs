//! How other threads tell a shard's thread that something waits for it.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
};

use crate::net::{BellRope, Poller};

/// The thread is at work and was told nothing since it last asked.
const AT_WORK: u8 = 0;
/// Somebody rang since.
const RUNG: u8 = 1;
/// The thread sleeps, or is about to: who rings has to wake it.
const ASLEEP: u8 = 2;

/// A shard's doorbell. Ringing it while the thread is at work is one atomic operation, waking it a system call.
#[derive(Debug)]
pub(crate) struct Doorbell {
    state: AtomicU8,
    stopped: AtomicBool,
    rope: BellRope,
}

impl Doorbell {
    /// For the thread that waits on `poller`.
    pub(crate) fn new(poller: &Poller) -> io::Result<Self> {
        let (state, stopped) = (AtomicU8::new(AT_WORK), AtomicBool::new(false));
        Ok(Self { state, stopped, rope: poller.bell()? })
    }

    /// To be called behind what was put where the thread finds it.
    pub(crate) fn ring(&self) {
        // All changes of one word have one order: either the thread asks later and sees what was put, or it is seen asleep here.
        if self.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            self.rope.pull();
        }
    }

    /// Has the thread end.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.ring();
    }

    /// The thread is to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether somebody rang since this was asked last. For the thread alone.
    pub(super) fn answer(&self) -> bool {
        self.state.load(Ordering::Relaxed) != AT_WORK
            && self.state.swap(AT_WORK, Ordering::AcqRel) == RUNG
    }

    /// The thread is about to sleep. `false`: somebody rang, it must not.
    pub(super) fn fall_asleep(&self) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.state.compare_exchange(AT_WORK, ASLEEP, success, failure).is_ok()
    }
}

/// Doorbells that nobody listens to.
#[cfg(test)]
pub(super) fn doorbells(count: usize) -> Vec<std::sync::Arc<Doorbell>> {
    let doorbell = || Doorbell::new(&Poller::new().unwrap()).unwrap();
    (0..count).map(|_| std::sync::Arc::new(doorbell())).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicU32},
        time::Duration,
    };

    use super::*;

    fn wait(poller: &Poller, timeout: Duration) -> usize {
        let mut count = 0;
        poller.wait(Some(timeout), |_| count += 1).unwrap();
        count
    }

    #[test]
    fn who_is_at_work_is_not_woken_and_who_was_told_does_not_sleep() {
        let poller = Poller::new().unwrap();
        let bell = Doorbell::new(&poller).unwrap();
        assert!(!bell.answer());
        bell.ring();
        bell.ring();
        assert_eq!(wait(&poller, Duration::ZERO), 0, "no system call");
        assert!(!bell.fall_asleep());
        assert!(bell.answer() && !bell.answer());
        assert!(bell.fall_asleep());
        bell.ring();
        assert_eq!(wait(&poller, Duration::from_secs(10)), 1);
        assert!(bell.answer() && !bell.is_stopped());
        assert!(bell.fall_asleep());
        assert!(!bell.answer(), "woken by something else");
        bell.stop();
        assert!(bell.answer() && bell.is_stopped());
    }

    #[test]
    fn nothing_that_was_put_is_slept_over() {
        const COUNT: u32 = 20_000;
        let poller = Poller::new().unwrap();
        let bell = Arc::new(Doorbell::new(&poller).unwrap());
        let put = Arc::new(AtomicU32::new(0));
        let puts = std::thread::spawn({
            let (bell, put) = (Arc::clone(&bell), Arc::clone(&put));
            move || {
                for n in 1..=COUNT {
                    put.store(n, Ordering::Relaxed);
                    bell.ring();
                    if n.is_multiple_of(7) {
                        std::thread::yield_now();
                    }
                }
            }
        });
        let mut seen = 0;
        while seen < COUNT {
            if bell.answer() {
                seen = put.load(Ordering::Relaxed);
            }
            if bell.fall_asleep() {
                let woken = seen == COUNT || wait(&poller, Duration::from_secs(10)) > 0;
                assert!(woken, "{seen} of {COUNT} seen");
            }
        }
        puts.join().unwrap();
    }
}
