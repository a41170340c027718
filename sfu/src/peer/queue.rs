//! Packets of pictures that wait for the pacer: first come, first served, but a large frame lets others that matter as much pass.

use std::collections::VecDeque;

use crate::rtp::SeqNo;

/// A packet whose turn has not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waiting {
    /// The subscription.
    pub(crate) slot: u32,
    /// Index into the track's encodings.
    pub(crate) encoding: u8,
    /// How much the subscription matters beside the peer's others: more is more.
    pub(crate) priority: u16,
    /// Its number at ingress.
    pub(crate) seq: SeqNo,
}

/// What waits of one peer. Packets of one subscription stay in order.
#[derive(Default, Debug)]
pub(crate) struct WaitingQueue {
    packets: VecDeque<Waiting>,
    /// Whose packets left last, how much that one matters, and how many of them left one after the other.
    slot: u32,
    priority: u16,
    in_a_row: usize,
    /// That one gives way to so many packets, from the first on, where they are those of others that matter as much.
    yielding: usize,
}

impl WaitingQueue {
    /// Packets at most: a second of 20 Mb/s. What is over is not sent; its subscribers ask for it again.
    const CAPACITY: usize = 2_048;
    /// So many packets of a picture leave one after the other before it lets others pass: a frame between two keyframes, or a quarter of
    /// a large keyframe. More has the others stand for longer while one rises, fewer has frames wait for everybody's.
    const TURN: usize = 8;
    /// It lets pass whatever is among so many packets by then, each in the order it came: bounds what looking for them costs.
    const LOOK: usize = 128;

    /// Puts a packet behind all others. `false`: there is no room.
    pub(crate) fn push(&mut self, packet: Waiting) -> bool {
        let fits = self.packets.len() < Self::CAPACITY;
        if fits {
            self.packets.push_back(packet);
        }
        fits
    }

    /// Half of the room that there is is taken.
    pub(crate) fn is_half_full(&self) -> bool {
        self.packets.len() >= Self::CAPACITY / 2
    }

    /// The packet whose turn it is. `in_order`: whichever came first. Of several keyframes that wait after a fall none would be
    /// whole before the last in turns.
    pub(crate) fn pop(&mut self, in_order: bool) -> Option<Waiting> {
        if in_order {
            self.yielding = 0;
        }
        if self.yielding > 0 {
            let mut among = self.packets.iter().take(self.yielding);
            let goes_first =
                |packet: &&Waiting| packet.slot != self.slot && packet.priority >= self.priority;
            if let Some(Waiting { slot, .. }) = among.find(goes_first).copied() {
                self.yielding -= 1;
                // One that waits from before its subscription mattered as much goes ahead of it.
                let place = self.packets.iter().position(|packet| packet.slot == slot)?;
                return self.packets.remove(place);
            }
            self.yielding = 0;
        }
        let packet = self.packets.pop_front()?;
        if packet.slot != self.slot {
            (self.slot, self.in_a_row) = (packet.slot, 0);
        }
        self.priority = packet.priority;
        self.in_a_row += 1;
        if self.in_a_row >= Self::TURN {
            (self.in_a_row, self.yielding) = (0, self.packets.len().min(Self::LOOK));
        }
        Some(packet)
    }

    /// A subscription is gone: what comes at its place is another.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.packets.retain(|packet| packet.slot != slot);
        (self.in_a_row, self.yielding) = (0, 0);
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(slot: u32, seq: u64) -> Waiting {
        // What is far down the list matters more.
        Waiting { slot, encoding: 0, priority: u16::from(slot == 3), seq: SeqNo(seq) }
    }

    /// What leaves, by subscription: `(slot, packets one after the other)`.
    fn runs(queue: &mut WaitingQueue) -> Vec<(u32, usize)> {
        let mut runs: Vec<(u32, usize)> = Vec::new();
        let mut next = [0; 4];
        while let Some(Waiting { slot, seq, .. }) = queue.pop(false) {
            assert_eq!(seq.0, std::mem::replace(&mut next[slot as usize], seq.0 + 1), "in order");
            match runs.last_mut().filter(|(of, _)| *of == slot) {
                Some((_, count)) => *count += 1,
                None => runs.push((slot, 1)),
            }
        }
        assert!(queue.is_empty());
        runs
    }

    fn queue(frames: &[(u32, std::ops::Range<u64>)]) -> WaitingQueue {
        let mut queue = WaitingQueue::default();
        for (slot, numbers) in frames {
            for seq in numbers.clone() {
                assert!(queue.push(packet(*slot, seq)));
            }
        }
        queue
    }

    #[test]
    fn ordinary_frames_leave_whole_in_the_order_they_came() {
        let frames = [(1, 0..6), (2, 0..1), (3, 0..7), (1, 6..10), (2, 1..3)];
        assert_eq!(runs(&mut queue(&frames)), [(1, 6), (2, 1), (3, 7), (1, 4), (2, 2)]);
    }

    #[test]
    fn a_keyframe_lets_others_pass_each_eight_packets() {
        let frames = [(1, 0..20), (2, 0..3), (3, 0..2)];
        assert_eq!(runs(&mut queue(&frames)), [(1, 8), (2, 3), (3, 2), (1, 12)]);
        // Whoever comes while it leaves waits for its next turn at most.
        let mut queue = queue(&[(1, 0..29)]);
        for n in 0..9 {
            assert_eq!(queue.pop(false), Some(packet(1, n)));
        }
        assert!((0..2).all(|seq| queue.push(packet(2, seq))));
        for n in 9..16 {
            assert_eq!(queue.pop(false), Some(packet(1, n)));
        }
        assert_eq!([queue.pop(false), queue.pop(false)], [Some(packet(2, 0)), Some(packet(2, 1))]);
        assert_eq!(queue.pop(false), Some(packet(1, 16)));
    }

    #[test]
    fn what_matters_more_waits_for_nobody() {
        let frames = [(3, 0..20), (1, 0..3), (2, 0..2)];
        assert_eq!(runs(&mut queue(&frames)), [(3, 20), (1, 3), (2, 2)]);
    }

    #[test]
    fn in_order_nobody_passes() {
        let mut queue = queue(&[(1, 0..20), (2, 0..1)]);
        for n in 0..20 {
            assert_eq!(queue.pop(true), Some(packet(1, n)));
        }
        assert_eq!(queue.pop(true), Some(packet(2, 0)));
    }

    #[test]
    fn a_keyframe_lets_another_pass_whole() {
        let frames = [(1, 0..24), (2, 0..24), (0, 0..1)];
        assert_eq!(runs(&mut queue(&frames)), [(1, 8), (2, 24), (0, 1), (1, 16)]);
    }

    #[test]
    fn what_comes_to_matter_more_stays_in_order() {
        let mut queue = queue(&[(3, 0..10), (1, 0..2)]);
        assert!(queue.push(Waiting { priority: 2, ..packet(1, 2) }));
        assert_eq!(runs(&mut queue), [(3, 8), (1, 3), (3, 2)]);
    }

    #[test]
    fn a_place_that_is_taken_anew_has_a_turn_of_its_own() {
        let mut queue = queue(&[(1, 0..20), (2, 0..3)]);
        for n in 0..8 {
            assert_eq!(queue.pop(false), Some(packet(1, n)));
        }
        queue.forget(1);
        assert!((0..9).all(|seq| queue.push(packet(1, seq))));
        assert_eq!(runs(&mut queue), [(2, 3), (1, 9)]);
    }

    #[test]
    fn what_is_over_is_refused_and_what_is_gone_forgotten() {
        let mut queue = WaitingQueue::default();
        let pushed = (0..3_000).filter(|n| queue.push(packet((n % 2) as u32, *n))).count();
        assert_eq!(pushed, WaitingQueue::CAPACITY);
        for _ in 0..20 {
            queue.pop(false);
        }
        queue.forget(1);
        assert!(!queue.is_empty());
        while let Some(packet) = queue.pop(false) {
            assert_eq!(packet.slot, 0);
        }
        assert_eq!(queue.len(), 0);
    }
}
