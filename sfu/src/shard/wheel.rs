//! A hierarchical timing wheel (Varghese and Lauck, 1987): inserting and taking out cost the same however many wait.

use std::collections::VecDeque;

/// Slots of a level: as many as a word has bits.
const SLOTS: usize = 64;
/// Six bits of the tick each: with milliseconds 2 years, more than anybody sleeps.
const LEVELS: usize = 6;

/// Entries by tick. Those of one tick come out in the order in which they went in, unless they came from afar.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    /// Everything up to here has come out or is in `due`.
    now: u64,
    /// What is due.
    due: VecDeque<(u64, T)>,
    levels: [Level<T>; LEVELS],
}

#[derive(Debug)]
struct Level<T> {
    /// Slots that are not empty.
    occupied: u64,
    /// Each keeps its memory.
    slots: [Vec<(u64, T)>; SLOTS],
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        let level = || Level { occupied: 0, slots: std::array::from_fn(|_| Vec::new()) };
        Self { now: 0, due: VecDeque::new(), levels: std::array::from_fn(|_| level()) }
    }
}

impl<T> Wheel<T> {
    /// Puts an entry in. One for a tick that has passed comes out at once.
    pub(super) fn insert(&mut self, tick: u64, entry: T) {
        if tick <= self.now {
            self.due.push_back((tick, entry));
            return;
        }
        let (level, slot) = self.place(tick);
        let level = &mut self.levels[level];
        level.occupied |= 1 << slot;
        level.slots[slot].push((tick, entry));
    }

    /// The next entry whose tick is `until` or before.
    pub(super) fn pop(&mut self, until: u64) -> Option<(u64, T)> {
        loop {
            if let Some(entry) = self.due.pop_front() {
                return Some(entry);
            }
            match self.first_slot() {
                Some((level, slot, from)) if from <= until => {
                    self.now = self.now.max(from);
                    self.take_slot(level, slot);
                }
                _ => {
                    self.now = self.now.max(until);
                    return None;
                }
            }
        }
    }

    /// A tick before which nothing comes out.
    pub(super) fn next(&self) -> Option<u64> {
        if !self.due.is_empty() {
            return Some(self.now);
        }
        self.first_slot().map(|(_, _, from)| from)
    }

    /// Level and slot of a tick to come: the level is that of the highest digit in which it differs from now.
    fn place(&self, tick: u64) -> (usize, usize) {
        let differing = (self.now ^ tick) | 1;
        let level = (differing.ilog2() / 6) as usize;
        if level >= LEVELS {
            // In another round of the last level: it is moved on from slot to slot.
            let slot = (self.now >> (6 * (LEVELS - 1))) as usize + 1;
            return (LEVELS - 1, slot % SLOTS);
        }
        (level, (tick >> (6 * level)) as usize % SLOTS)
    }

    /// The slot that is next to be emptied, and its first tick.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        // Lower levels are within the current slot of those above them.
        let (level, occupied) = self
            .levels
            .iter()
            .map(|level| level.occupied)
            .enumerate()
            .find(|(_, bits)| *bits != 0)?;
        let shift = 6 * level as u32;
        let current = (self.now >> shift) as usize % SLOTS;
        let ahead = occupied.rotate_right(current as u32).trailing_zeros() as usize;
        let from = ((self.now >> shift) + ahead as u64) << shift;
        Some((level, (current + ahead) % SLOTS, from))
    }

    /// Moves what is in a slot to where it belongs now.
    fn take_slot(&mut self, level: usize, slot: usize) {
        let Level { occupied, slots } = &mut self.levels[level];
        *occupied &= !(1 << slot);
        let mut entries = std::mem::take(&mut slots[slot]);
        for (tick, entry) in entries.drain(..) {
            self.insert(tick, entry);
        }
        self.levels[level].slots[slot] = entries;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a sorted map: everything comes out, never early, and with what was asked for.
        #[test]
        fn entries_come_out_on_their_tick(
            steps in prop::collection::vec((0u64..300_000, 0u64..5_000), 1..200),
        ) {
            let mut wheel = Wheel::default();
            let mut model: BTreeMap<(u64, usize), ()> = BTreeMap::new();
            let mut now = 0;
            for (n, (ahead, step)) in steps.into_iter().enumerate() {
                wheel.insert(now + 1 + ahead, n);
                model.insert((now + 1 + ahead, n), ());
                let next = wheel.next();
                prop_assert!(next.is_some_and(|next| model.keys().next().is_some_and(|k| next <= k.0)));
                now += step;
                let mut out = Vec::new();
                while let Some(entry) = wheel.pop(now) {
                    out.push(entry);
                }
                prop_assert!(out.is_sorted_by_key(|entry| entry.0), "{:?}", out);
                out.sort_unstable();
                let rest = model.split_off(&(now + 1, 0));
                let due: Vec<_> = std::mem::replace(&mut model, rest).into_keys().collect();
                prop_assert_eq!(out, due);
            }
        }
    }

    #[test]
    fn the_farthest_is_not_lost() {
        let mut wheel = Wheel::default();
        wheel.insert(u64::MAX, 'x');
        wheel.insert(1 << 40, 'y');
        assert!(wheel.pop(1_000).is_none());
        let mut steps = 0;
        while let Some(next) = wheel.next().filter(|next| *next < 1 << 41) {
            if let Some((_, entry)) = wheel.pop(next) {
                assert_eq!((entry, next), ('y', 1 << 40));
                break;
            }
            steps += 1;
            assert!(steps < 10_000);
        }
    }
}
