//! Which of the latest sequence numbers were there before.

use crate::{prefetch::prefetch, rtp::SeqNo};

/// Remembers the numbers of the latest [`Self::LEN`].
#[derive(Clone, Debug, Default)]
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

    /// What a number near this one is noted in.
    #[inline(always)]
    pub(crate) fn prefetch(&self, seq: SeqNo) {
        prefetch(&self.bits[(seq.0 % Self::LEN / 64) as usize]);
        prefetch(&self.highest);
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
    }
}
