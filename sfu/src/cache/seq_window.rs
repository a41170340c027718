//! Which of the latest sequence numbers were there before.

use crate::{prefetch::prefetch, rtp::SeqNo};

/// Remembers the numbers of the latest [`Self::LEN`]. In this order: the highest lies beside what its owner has behind it, the bits in two
/// lines of their own where they begin one.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub(crate) struct SeqWindow {
    bits: [u64; (Self::LEN / 64) as usize],
    highest: Option<u64>,
}

/// Whether a number was there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    No,
    Yes,
    /// Below the window: nobody knows.
    TooOld,
}

impl SeqWindow {
    /// Twice what a cache keeps: a repair from the time of the cache is always told from a duplicate.
    pub(crate) const LEN: u64 = 1_024;

    /// What [`Self::check`] looks at for a number above the highest.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.highest);
    }

    /// What a number near the highest is noted in, once that is here.
    #[inline(always)]
    pub(crate) fn prefetch_bits(&self) {
        let near = self.highest.unwrap_or_default();
        prefetch(&self.bits[(near % Self::LEN / 64) as usize]);
    }

    /// The highest number of all.
    pub(crate) fn highest(&self) -> Option<SeqNo> {
        self.highest.map(SeqNo)
    }

    pub(crate) fn check(&self, seq: SeqNo) -> Seen {
        match self.highest {
            Some(highest) if seq.0 + Self::LEN <= highest => Seen::TooOld,
            Some(highest) if seq.0 <= highest && self.bit(seq.0) => Seen::Yes,
            _ => Seen::No,
        }
    }

    /// Remembers a number that is not too old.
    #[inline(always)]
    pub(crate) fn insert(&mut self, seq: SeqNo) {
        let from = self.highest.map_or(seq.0, |highest| highest + 1);
        if seq.0 >= from {
            if seq.0 != from {
                self.skip(from, seq.0);
            }
            self.highest = Some(seq.0);
        }
        self.set(seq.0, true);
    }

    /// The same for `count` numbers in a row, fewer than [`Self::LEN`].
    #[inline(always)]
    pub(crate) fn insert_run(&mut self, first: SeqNo, count: u64) {
        self.insert(first);
        let last = first.0 + count.max(1) - 1;
        if self.highest != Some(first.0) {
            (first.0 + 1..=last).for_each(|seq| self.insert(SeqNo(seq)));
            return;
        }
        self.highest = Some(last);
        let mut from = first.0;
        while from <= last {
            let (at, word) = (from % 64, from % Self::LEN / 64);
            let len = (64 - at).min(last + 1 - from);
            self.bits[word as usize] |= u64::MAX >> (64 - len) << at;
            from += len;
        }
    }

    #[cold]
    fn skip(&mut self, from: u64, to: u64) {
        if to - from >= Self::LEN {
            self.bits = Default::default();
        } else {
            (from..to).for_each(|skipped| self.set(skipped, false));
        }
    }

    fn bit(&self, number: u64) -> bool {
        let at = number % Self::LEN;
        self.bits[(at / 64) as usize] & 1 << (at % 64) != 0
    }

    fn set(&mut self, number: u64, seen: bool) {
        let at = number % Self::LEN;
        let word = &mut self.bits[(at / 64) as usize];
        *word = *word & !(1 << (at % 64)) | u64::from(seen) << (at % 64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_number_in_the_window_is_new_once(
            steps in prop::collection::vec(-1_100i64..1_500, 1..300),
        ) {
            let mut window = SeqWindow::default();
            let mut highest = 100_000u64;
            window.insert(SeqNo(highest));
            let mut inserted = BTreeSet::from([highest]);
            for step in steps {
                let seq = highest.saturating_add_signed(step);
                let expected = match inserted.contains(&seq) {
                    _ if seq + SeqWindow::LEN <= highest => Seen::TooOld,
                    true => Seen::Yes,
                    false => Seen::No,
                };
                prop_assert_eq!(window.check(SeqNo(seq)), expected);
                if expected == Seen::No {
                    window.insert(SeqNo(seq));
                    inserted.insert(seq);
                    highest = highest.max(seq);
                }
            }
        }

        #[test]
        fn numbers_in_a_row_are_remembered_as_they_are_one_by_one(
            runs in prop::collection::vec((-1_000i64..1_500, 1u64..256), 1..60),
        ) {
            let (mut singly, mut together) = (SeqWindow::default(), SeqWindow::default());
            let mut highest = 100_000u64;
            for (step, count) in runs {
                let first = highest.saturating_add_signed(step);
                (first..first + count).for_each(|seq| singly.insert(SeqNo(seq)));
                together.insert_run(SeqNo(first), count);
                highest = highest.max(first + count - 1);
                prop_assert_eq!(&singly.bits, &together.bits);
                prop_assert_eq!(singly.highest, together.highest);
            }
        }
    }
}
