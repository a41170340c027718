//! A hierarchical timing wheel (Varghese and Lauck, 1987): inserting and taking out cost the same however many wait.

use crate::prefetch::prefetch;

/// Slots of a level: as many as a word has bits.
const SLOTS: usize = 64;
/// Six bits of the tick each: with milliseconds 2 years, more than anybody sleeps.
const LEVELS: usize = 6;

/// No block.
const NONE: u32 = u32::MAX;

/// Entries by tick. Those of one tick come out in the order in which they went in, unless they came from afar.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    /// Everything up to here has come out or is due.
    now: u64,
    blocks: Blocks<T>,
    due: List,
    /// So many entries of the first block that is due have come out.
    taken: usize,
    levels: [Level; LEVELS],
}

/// Of all entries, and places for more: the steady state allocates nothing.
#[derive(Debug)]
struct Blocks<T> {
    all: Vec<Block<T>>,
    /// The block that became free last, linked with those before it.
    free: u32,
}

/// Entries beside each other, since what comes next is in no cache: one by one, each would be waited for before it says where the one
/// behind it is.
#[derive(Debug)]
#[repr(C, align(64))]
struct Block<T> {
    next: u32,
    len: u32,
    entries: [Entry<T>; BLOCK],
}

/// More of them in a block are waited for less often, and leave more places empty: each slot that has entries has a block that is not full.
const BLOCK: usize = 15;

/// Room for so many from the start, 64 KiB: what a hundred peers come to need.
const FIRST_BLOCKS: usize = 128;

#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    tick: u64,
    what: T,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Slots that are not empty.
    occupied: u64,
    slots: [List; SLOTS],
}

/// Blocks, first in, first out. None of them is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct List {
    first: u32,
    last: u32,
}

impl List {
    const EMPTY: Self = Self { first: NONE, last: NONE };
}

impl<T: Copy> Blocks<T> {
    fn get(&self, block: u32) -> Option<&Block<T>> {
        self.all.get(block as usize)
    }

    /// Puts an entry behind those of a list.
    fn push(&mut self, list: &mut List, entry: Entry<T>) {
        if let Some(last) = self.all.get_mut(list.last as usize)
            && let Some(place) = last.entries.get_mut(last.len as usize)
        {
            *place = entry;
            last.len += 1;
            return;
        }
        let added = match self.all.get_mut(self.free as usize) {
            Some(block) => {
                block.len = 1;
                block.entries[0] = entry;
                let next = std::mem::replace(&mut block.next, NONE);
                std::mem::replace(&mut self.free, next)
            }
            None => {
                self.all.push(Block { next: NONE, len: 1, entries: [entry; BLOCK] });
                (self.all.len() - 1) as u32
            }
        };
        self.append(list, List { first: added, last: added });
    }

    /// Puts the blocks of one list behind those of another.
    fn append(&mut self, list: &mut List, behind: List) {
        match self.all.get_mut(list.last as usize) {
            Some(last) => last.next = behind.first,
            None => list.first = behind.first,
        }
        list.last = behind.last;
    }

    /// The first block of a list is not used any more.
    fn pop(&mut self, list: &mut List) {
        let Some(block) = self.all.get_mut(list.first as usize) else { return };
        let next = std::mem::replace(&mut block.next, self.free);
        self.free = std::mem::replace(&mut list.first, next);
        if next == NONE {
            *list = List::EMPTY;
        }
    }
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        let level = Level { occupied: 0, slots: [List::EMPTY; SLOTS] };
        let blocks = Blocks { all: Vec::with_capacity(FIRST_BLOCKS), free: NONE };
        Self { now: 0, blocks, due: List::EMPTY, taken: 0, levels: [level; LEVELS] }
    }
}

impl<T: Copy> Wheel<T> {
    /// Puts an entry in. One for a tick that has passed comes out at once.
    pub(super) fn insert(&mut self, tick: u64, what: T) {
        self.link(Entry { tick, what });
    }

    fn link(&mut self, entry: Entry<T>) {
        if entry.tick <= self.now {
            self.blocks.push(&mut self.due, entry);
            return;
        }
        let (level, slot) = self.place(entry.tick);
        let level = &mut self.levels[level];
        level.occupied |= 1 << slot;
        self.blocks.push(&mut level.slots[slot], entry);
    }

    /// The next entry whose tick is `until` or before.
    pub(super) fn pop(&mut self, until: u64) -> Option<(u64, T)> {
        loop {
            if let Some(block) = self.blocks.get(self.due.first) {
                if self.taken == 0 {
                    self.prefetch_block(block.next);
                }
                let Entry { tick, what } = *block.entries.get(self.taken)?;
                self.taken += 1;
                if self.taken >= block.len as usize {
                    self.blocks.pop(&mut self.due);
                    self.taken = 0;
                }
                return Some((tick, what));
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

    /// What comes out next is the first of a block, or nothing.
    pub(super) fn begins_block(&self) -> bool {
        self.taken == 0
    }

    /// What comes out as so many entries have after the next one, where that is known.
    pub(super) fn peek(&self, behind: usize) -> Option<T> {
        let block = self.blocks.get(self.due.first)?;
        let at = self.taken + behind;
        let entry = match at.checked_sub(block.len as usize) {
            None => block.entries.get(at),
            Some(at) => {
                let next = self.blocks.get(block.next)?;
                next.entries.get(at).filter(|_| at < next.len as usize)
            }
        };
        Some(entry?.what)
    }

    fn prefetch_block(&self, block: u32) {
        if let Some(block) = self.blocks.get(block) {
            prefetch(block);
            block.entries.iter().for_each(prefetch);
        }
    }

    /// A tick before which nothing comes out.
    pub(super) fn next(&self) -> Option<u64> {
        if self.due != List::EMPTY {
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
        let mut list = std::mem::replace(&mut slots[slot], List::EMPTY);
        if level == 0 {
            // All of this tick.
            self.blocks.append(&mut self.due, list);
            return;
        }
        while let Some(block) = self.blocks.get(list.first) {
            self.prefetch_block(block.next);
            // One by one: a block is eight lines, of which the first is all there is where few sleep.
            for at in 0..block.len as usize {
                let entry = self.blocks.get(list.first).and_then(|block| block.entries.get(at));
                let Some(entry) = entry.copied() else { break };
                self.link(entry);
            }
            self.blocks.pop(&mut list);
        }
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
    fn the_steady_state_takes_no_memory() {
        let mut wheel = Wheel::default();
        for n in 0..100_u64 {
            wheel.insert(1 + n, n);
        }
        let mut most = 0;
        for now in 1..100_000 {
            let out: Vec<_> = std::iter::from_fn(|| wheel.pop(now)).collect();
            for (tick, n) in out {
                wheel.insert(tick + 1 + n * 37, n);
            }
            if now < 50_000 {
                most = wheel.blocks.all.len();
            }
            assert!(wheel.blocks.all.len() <= most.min(100));
        }
    }

    #[test]
    fn who_comes_next_is_known() {
        let mut wheel = Wheel::default();
        for n in 0..3 * BLOCK {
            wheel.insert(70 + n as u64 % 2, n);
        }
        let (mut told, mut out) = (Vec::new(), Vec::new());
        while let Some((_, n)) = wheel.pop(70) {
            out.push(n);
            told.push(wheel.peek(3));
        }
        assert_eq!(out.len(), 3 * BLOCK / 2 + 1);
        assert!(out.is_sorted());
        for (at, told) in told.into_iter().enumerate() {
            assert_eq!(told, out.get(at + 1 + 3).copied(), "behind {at}");
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
