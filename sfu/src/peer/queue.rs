//! Packets of pictures that wait for the pacer: first come, first served, but no picture holds up the others for more than an
//! ordinary frame.

use std::collections::VecDeque;

use crate::rtp::SeqNo;

/// A packet whose turn has not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waiting {
    /// The subscription.
    pub(crate) slot: u32,
    /// Index into the track's encodings.
    pub(crate) encoding: u8,
    /// Its number at ingress.
    pub(crate) seq: SeqNo,
}

/// What waits of one peer. Packets of one subscription stay in order.
#[derive(Default, Debug)]
pub(crate) struct WaitingQueue {
    packets: VecDeque<Waiting>,
    /// Whose packets left last, and how many of them one after the other.
    slot: u32,
    in_a_row: usize,
    /// That one gives way to so many packets, from the first on, where they are others'.
    yielding: usize,
}

impl WaitingQueue {
    /// Packets at most: a second of 20 Mb/s. What is over is not sent; its subscribers ask for it again.
    const CAPACITY: usize = 2_048;
    /// So many packets of a picture leave one after the other, while others wait: a frame between two keyframes, or a quarter of a large
    /// keyframe. More has the others stand for longer while one rises, fewer has frames wait for everybody's.
    const TURN: usize = 8;
    /// It gives way to whatever is among so many packets: bounds what looking for them costs.
    const LOOK: usize = 128;

    /// Puts a packet behind all others. `false`: there is no room.
    pub(crate) fn push(&mut self, packet: Waiting) -> bool {
        let fits = self.packets.len() < Self::CAPACITY;
        if fits {
            self.packets.push_back(packet);
        }
        fits
    }

    /// The packet whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        if self.yielding > 0 {
            let mut among = self.packets.iter().take(self.yielding);
            if let Some(place) = among.position(|packet| packet.slot != self.slot) {
                self.yielding -= 1;
                return self.packets.remove(place);
            }
            self.yielding = 0;
        }
        let packet = self.packets.pop_front()?;
        if packet.slot != self.slot {
            (self.slot, self.in_a_row) = (packet.slot, 0);
        }
        self.in_a_row += 1;
        if self.in_a_row >= Self::TURN {
            (self.in_a_row, self.yielding) = (0, self.packets.len().min(Self::LOOK));
        }
        Some(packet)
    }

    /// A subscription is gone: what comes at its place is another.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.packets.retain(|packet| packet.slot != slot);
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
        Waiting { slot, encoding: 0, seq: SeqNo(seq) }
    }

    /// What leaves, by subscription: `(slot, packets one after the other)`.
    fn runs(queue: &mut WaitingQueue) -> Vec<(u32, usize)> {
        let mut runs: Vec<(u32, usize)> = Vec::new();
        let mut next = [0; 4];
        while let Some(Waiting { slot, seq, .. }) = queue.pop() {
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
            assert_eq!(queue.pop(), Some(packet(1, n)));
        }
        assert!((0..2).all(|seq| queue.push(packet(2, seq))));
        for n in 9..16 {
            assert_eq!(queue.pop(), Some(packet(1, n)));
        }
        assert_eq!([queue.pop(), queue.pop()], [Some(packet(2, 0)), Some(packet(2, 1))]);
        assert_eq!(queue.pop(), Some(packet(1, 16)));
    }

    #[test]
    fn two_keyframes_share_and_neither_starves() {
        let frames = [(1, 0..24), (2, 0..24), (3, 0..1)];
        let runs = runs(&mut queue(&frames));
        let place = |slot| runs.iter().position(|(of, _)| *of == slot).unwrap();
        let before = |slot| runs[..place(slot)].iter().map(|(_, count)| count).sum::<usize>();
        assert!(before(2) <= 8 && before(3) <= 32, "{runs:?}");
    }

    #[test]
    fn what_is_over_is_refused_and_what_is_gone_forgotten() {
        let mut queue = WaitingQueue::default();
        let pushed = (0..3_000).filter(|n| queue.push(packet((n % 2) as u32, *n))).count();
        assert_eq!(pushed, WaitingQueue::CAPACITY);
        for _ in 0..20 {
            queue.pop();
        }
        queue.forget(1);
        assert!(!queue.is_empty());
        while let Some(packet) = queue.pop() {
            assert_eq!(packet.slot, 0);
        }
        assert_eq!(queue.len(), 0);
    }
}
