//! A hierarchical timing wheel (Varghese and Lauck, 1987): inserting and taking out cost the same however many wait.

use crate::prefetch::prefetch;

/// Slots of a level: as many as a word has bits.
const SLOTS: usize = 64;
/// Six bits of the tick each: with milliseconds 2 years, more than anybody sleeps.
const LEVELS: usize = 6;

/// No node.
const NONE: u32 = u32::MAX;

/// Entries by tick. Those of one tick come out in the order in which they went in, unless they came from afar.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    /// Everything up to here has come out or is due.
    now: u64,
    /// All entries, and places for more: the steady state allocates nothing.
    nodes: Vec<Node<T>>,
    /// The place that became free last, linked with those before it: the next entry finds it near.
    free: u32,
    due: List,
    levels: [Level; LEVELS],
}

#[derive(Debug)]
struct Node<T> {
    tick: u64,
    entry: T,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Slots that are not empty.
    occupied: u64,
    slots: [List; SLOTS],
}

/// Nodes, first in, first out.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

impl List {
    const EMPTY: Self = Self { first: NONE, last: NONE };

    fn push<T>(&mut self, nodes: &mut [Node<T>], node: u32) {
        if let Some(added) = nodes.get_mut(node as usize) {
            added.next = NONE;
        }
        match nodes.get_mut(self.last as usize) {
            Some(last) if self.first != NONE => last.next = node,
            _ => self.first = node,
        }
        self.last = node;
    }

    fn pop<T>(&mut self, nodes: &[Node<T>]) -> Option<u32> {
        let first = self.first;
        self.first = nodes.get(first as usize)?.next;
        Some(first)
    }
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        let level = Level { occupied: 0, slots: [List::EMPTY; SLOTS] };
        Self { now: 0, nodes: Vec::new(), free: NONE, due: List::EMPTY, levels: [level; LEVELS] }
    }
}

impl<T: Copy> Wheel<T> {
    /// Puts an entry in. One for a tick that has passed comes out at once.
    pub(super) fn insert(&mut self, tick: u64, entry: T) {
        let added = Node { tick, entry, next: NONE };
        let node = match self.nodes.get_mut(self.free as usize) {
            Some(place) => {
                let next = std::mem::replace(place, added).next;
                std::mem::replace(&mut self.free, next)
            }
            None => {
                self.nodes.push(added);
                (self.nodes.len() - 1) as u32
            }
        };
        self.link(tick, node);
    }

    fn link(&mut self, tick: u64, node: u32) {
        if tick <= self.now {
            self.due.push(&mut self.nodes, node);
            return;
        }
        let (level, slot) = self.place(tick);
        let level = &mut self.levels[level];
        level.occupied |= 1 << slot;
        level.slots[slot].push(&mut self.nodes, node);
    }

    /// The next entry whose tick is `until` or before.
    pub(super) fn pop(&mut self, until: u64) -> Option<(u64, T)> {
        loop {
            if let Some(node) = self.due.pop(&self.nodes) {
                let place = self.nodes.get_mut(node as usize)?;
                place.next = std::mem::replace(&mut self.free, node);
                return Some((place.tick, place.entry));
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

    /// What comes out next, where that is known.
    pub(super) fn peek(&self) -> Option<T> {
        let node = self.nodes.get(self.due.first as usize)?;
        if let Some(behind) = self.nodes.get(node.next as usize) {
            prefetch(behind);
        }
        Some(node.entry)
    }

    /// A tick before which nothing comes out.
    pub(super) fn next(&self) -> Option<u64> {
        if self.due.first != NONE {
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
        while let Some(node) = list.pop(&self.nodes) {
            let tick = self.nodes[node as usize].tick;
            self.link(tick, node);
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
        let nodes = wheel.nodes.capacity();
        for now in 1..100_000 {
            let out: Vec<_> = std::iter::from_fn(|| wheel.pop(now)).collect();
            for (tick, n) in out {
                wheel.insert(tick + 1 + n * 37, n);
            }
        }
        assert_eq!((wheel.nodes.len(), wheel.nodes.capacity()), (100, nodes));
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
