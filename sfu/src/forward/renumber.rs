//! Growing numbers of a source onto numbers without the ones that we chose to leave out.

/// How far back numbers can still be told apart: this many runs of skipped numbers. At 30 frames per second with
/// every second frame dropped it is two seconds; more memory per subscriber buys nothing, since later repairs come
/// too late.
const RUNS: usize = 32;

/// Maps growing numbers so that skipped ones leave no gap, while lost ones do: a late number keeps its place.
///
/// A number is skipped the moment it is seen at the front; everything above moves down by one. A number behind the front
/// can no longer be closed up, since others were handed out above it: it stays a gap.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Renumber {
    /// The mapping at the front, apart from the others since nearly every number asks for it.
    newest: Run,
    /// Highest number seen, skipped or mapped.
    front: u64,
    /// One above the highest number handed out.
    next_out: u64,
    /// Elsewhere: who gets everything has none.
    older: Option<Box<Older>>,
}

/// The runs before the newest.
#[derive(Clone, Debug, Default)]
struct Older {
    runs: [Run; RUNS],
    /// So many of them are known.
    len: u8,
    /// Where the next one goes.
    next: u8,
}

impl Older {
    fn push(&mut self, run: Run) {
        if let Some(oldest) = self.runs.get_mut(usize::from(self.next)) {
            *oldest = run;
        }
        self.len = (self.len + 1).min(RUNS as u8);
        self.next = (self.next + 1) % RUNS as u8;
    }

    /// The latest first.
    fn iter(&self) -> impl Iterator<Item = &Run> {
        let places =
            (1..=usize::from(self.len)).map(|back| (usize::from(self.next) + RUNS - back) % RUNS);
        places.filter_map(|place| self.runs.get(place))
    }
}

/// From `from` on, `offset` (modulo 2^64) is added.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    from: u64,
    offset: u64,
}

impl Run {
    const fn map(self, number: u64) -> u64 {
        number.wrapping_add(self.offset)
    }
}

impl Renumber {
    /// The first number that [`Self::start`] gets becomes `first_out`.
    pub(super) const fn new(first_out: u64) -> Self {
        Self {
            newest: Run { from: u64::MAX, offset: 0 },
            older: None,
            front: 0,
            next_out: first_out,
        }
    }

    /// A new source begins at `first`; what was before it is dropped. It continues where the last one ended.
    pub(super) fn start(&mut self, first: u64) {
        self.newest = Run { from: first, offset: self.next_out.wrapping_sub(first) };
        if let Some(older) = &mut self.older {
            older.len = 0;
        }
        // Nothing is seen yet: `first` itself may be skipped.
        self.front = first.saturating_sub(1);
    }

    /// Leaves out `number`. False when it is too late to close the gap.
    pub(super) fn skip(&mut self, number: u64) -> bool {
        if number <= self.front {
            return false;
        }
        self.front = number;
        if self.newest.from != number {
            self.older.get_or_insert_default().push(self.newest);
        }
        self.newest = Run { from: number + 1, offset: self.newest.offset.wrapping_sub(1) };
        true
    }

    /// One above the highest number seen, skipped or mapped.
    pub(super) const fn next(&self) -> u64 {
        self.front + 1
    }

    /// The new number that `number` has or would get; `None` when it lies before the source, was skipped, or is older than
    /// the memory.
    pub(super) fn of(&self, number: u64) -> Option<u64> {
        if number >= self.newest.from {
            Some(self.newest.map(number))
        } else {
            self.map_older(number)
        }
    }

    /// The same, and it counts as seen.
    pub(super) fn map(&mut self, number: u64) -> Option<u64> {
        let out = self.of(number)?;
        self.front = self.front.max(number);
        self.next_out = self.next_out.max(out + 1);
        Some(out)
    }

    /// The next `count` numbers are mapped as well: one that is at the front was before.
    pub(super) const fn follow(&mut self, count: u64) {
        self.front += count;
        self.next_out += count;
    }

    #[cold]
    fn map_older(&self, number: u64) -> Option<u64> {
        let mut above = self.newest;
        for run in self.older.iter().flat_map(|older| older.iter()).copied() {
            if number >= run.from {
                let out = run.map(number);
                // Skipped numbers at the end of a run would land on those of the next.
                return (out < above.map(above.from)).then_some(out);
            }
            above = run;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn skipped_numbers_close_up_and_lost_ones_stay() {
        let mut numbers = Renumber::new(100);
        numbers.start(10);
        assert_eq!(numbers.map(10), Some(100));
        assert!(numbers.skip(11));
        assert!(numbers.skip(12));
        assert_eq!(numbers.map(13), Some(101));
        assert_eq!(numbers.map(16), Some(104), "14 and 15 are lost");
        assert!(numbers.skip(17));
        assert_eq!(numbers.map(18), Some(105));
        assert_eq!(numbers.map(15), Some(103), "late, before a skip");
        assert!(!numbers.skip(14), "too late to close up");
        assert_eq!(numbers.map(12), None, "was skipped");
        assert_eq!(numbers.map(9), None, "before the source");
    }

    #[test]
    fn what_follows_the_front_is_mapped_along() {
        let mut numbers = Renumber::new(100);
        numbers.start(10);
        assert_eq!(numbers.map(10), Some(100));
        numbers.follow(3);
        assert_eq!(numbers.next(), 14);
        assert!(!numbers.skip(13), "it has a number");
        assert_eq!((numbers.of(13), numbers.map(14)), (Some(103), Some(104)));
        numbers.follow(2);
        numbers.start(7);
        assert_eq!(numbers.map(7), Some(107), "behind what was mapped along");
    }

    #[test]
    fn a_new_source_goes_on_where_the_last_one_ended() {
        let mut numbers = Renumber::new(1);
        numbers.start(500);
        assert_eq!(numbers.map(500), Some(1));
        assert_eq!(numbers.map(503), Some(4));
        numbers.start(70_000);
        assert_eq!(numbers.map(69_999), None);
        assert_eq!(numbers.map(70_000), Some(5));
        numbers.start(20);
        assert!(numbers.skip(20));
        assert_eq!(numbers.map(21), Some(6));
    }

    #[test]
    fn beyond_the_memory_numbers_are_refused_rather_than_guessed() {
        let mut numbers = Renumber::new(0);
        numbers.start(0);
        for n in 0..100 {
            assert_eq!(numbers.map(n * 2), Some(n));
            assert!(numbers.skip(n * 2 + 1));
        }
        assert_eq!(numbers.map(200), Some(100));
        assert_eq!(numbers.map(198), Some(99));
        assert_eq!(numbers.map(2), None);
    }

    proptest! {
        /// Any order of arrival, any losses, any choice of what to skip: no number twice, order kept, and no gap
        /// but for lost packets and those skipped too late.
        #[test]
        fn numbers_are_unique_and_in_order(
            packets in prop::collection::vec((any::<u16>(), 0u8..3, 0u8..10), 1..400),
        ) {
            let mut order: Vec<(u64, u64, bool)> = packets
                .iter()
                .enumerate()
                .filter(|(_, (_, _, loss))| *loss != 0)
                .map(|(n, (jitter, class, _))| {
                    let delay = if *class == 0 { u64::from(*jitter % 20) } else { 0 };
                    (n as u64 + delay, n as u64, *class == 1)
                })
                .collect();
            order.sort_unstable();
            let mut numbers = Renumber::new(7);
            numbers.start(0);
            let mut given = BTreeMap::new();
            let mut closed = BTreeSet::new();
            for (_, n, skip) in order {
                if skip {
                    if numbers.skip(n) {
                        closed.insert(n);
                    }
                } else if let Some(out) = numbers.map(n) {
                    given.insert(n, out);
                }
            }
            let outs: Vec<u64> = given.values().copied().collect();
            prop_assert!(outs.is_sorted_by(|a, b| a < b), "{given:?}");
            for (n, out) in given {
                let expected = 7 + n - closed.range(..n).count() as u64;
                prop_assert_eq!(out, expected);
            }
        }
    }
}
