//! A worker's rounds: it goes past its sinks in a fixed time and looks at the socket of each, on a single timer. A task and
//! a timer for each look would cost more than the packets that it finds: what they need of a sink has left the cache since.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    time::{Duration, Instant},
};

/// Length of a round: between two looks at one socket. Short enough for its buffer (a sink at 720p gets 20 KB in that time,
/// a keyframe is some 60 KB) and for the feedback that browsers send in 50 to 250 ms; longer is fewer calls a packet.
pub(crate) const ROUND: Duration = Duration::from_millis(100);
/// Steps of a round. Each looks at its share of the sockets, so that none of them takes long.
const STEPS: usize = 25;

/// Something to look at.
pub(crate) trait Looked {
    /// Its turn has come.
    fn look(&mut self, now: Instant);
}

/// Who is looked at, by the step of the round.
#[derive(Debug)]
pub(crate) struct Rounds<T> {
    steps: RefCell<[Vec<Weak<RefCell<T>>>; STEPS]>,
    /// All that ever came: deals them out evenly.
    came: Cell<usize>,
    walking: Cell<bool>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        let steps = RefCell::new(std::array::from_fn(|_| Vec::new()));
        Self { steps, came: Cell::new(0), walking: Cell::new(false) }
    }
}

impl<T: Looked> Rounds<T> {
    /// Looks at this one from now on, once a round, for as long as somebody holds it. True when nobody walks: the caller
    /// then starts [`Self::walk`].
    #[must_use]
    pub(crate) fn join(&self, who: &Rc<RefCell<T>>) -> bool {
        let number = self.came.replace(self.came.get().wrapping_add(1));
        self.steps.borrow_mut()[number % STEPS].push(Rc::downgrade(who));
        !self.walking.replace(true)
    }

    /// Goes round until nobody is left.
    pub(crate) async fn walk(&self) {
        let mut due = Instant::now();
        while self.steps.borrow().iter().any(|step| !step.is_empty()) {
            for step in 0..STEPS {
                due = next(due, Instant::now());
                tokio::time::sleep_until(due.into()).await;
                self.step(step);
                // Others have their turn even when this is late.
                tokio::task::yield_now().await;
            }
        }
        self.walking.set(false);
    }

    fn step(&self, step: usize) {
        self.steps.borrow_mut()[step].retain(|who| {
            let Some(who) = who.upgrade() else { return false };
            who.borrow_mut().look(Instant::now());
            true
        });
    }
}

/// When the step after the one at `due` is. Late ones catch up, unless they are a whole round behind.
fn next(due: Instant, now: Instant) -> Instant {
    let next = due + ROUND / STEPS as u32;
    if now.saturating_duration_since(next) > ROUND { now } else { next }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counted(Vec<Instant>);

    impl Looked for Counted {
        fn look(&mut self, now: Instant) {
            self.0.push(now);
        }
    }

    #[tokio::test]
    async fn each_is_looked_at_once_a_round_until_it_goes() {
        let rounds = Rounds::default();
        let mut all: Vec<_> =
            (0..3 * STEPS).map(|_| Rc::new(RefCell::new(Counted(Vec::new())))).collect();
        let starts = all.iter().filter(|one| rounds.join(one)).count();
        assert_eq!(starts, 1, "the first one starts the walk");
        let short = rounds.steps.borrow().iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(short, [3; STEPS], "dealt out evenly");
        let go = async {
            while all.iter().any(|one| one.borrow().0.len() < 3) {
                tokio::time::sleep(ROUND / 4).await;
            }
            let looks = |one: &Rc<RefCell<Counted>>| one.borrow().0.len();
            let (least, most) = (all.iter().map(looks).min(), all.iter().map(looks).max());
            assert!(most <= least.map(|least| least + 1), "{least:?} to {most:?}");
            all.clear();
        };
        // The walk ends when all are gone.
        tokio::join!(rounds.walk(), go);
        assert!(rounds.join(&Rc::new(RefCell::new(Counted(Vec::new())))), "it can begin again");
    }

    #[test]
    fn a_late_round_catches_up_unless_it_is_a_round_behind() {
        let start = Instant::now();
        let step = ROUND / STEPS as u32;
        assert_eq!(next(start, start), start + step);
        assert_eq!(next(start, start + ROUND), start + step, "at once, and the next ones too");
        let late = start + ROUND * 2;
        assert_eq!(next(start, late), late, "no more than there is to make up for");
    }
}
