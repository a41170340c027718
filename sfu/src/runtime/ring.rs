//! Rings between shards: bounded, one producer, one consumer, no lock.

use std::sync::Arc;

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use super::doorbell::Doorbell;
use crate::shard::ShardId;

/// Where a shard's messages to another one go in.
pub(crate) struct RingOut<T> {
    /// The other shard.
    pub(crate) to: ShardId,
    producer: Producer<T>,
    /// The other shard's.
    doorbell: Arc<Doorbell>,
    /// Something was pushed since the other side was woken.
    unflushed: bool,
}

impl<T> RingOut<T> {
    /// Puts one message in; gives it back when the ring is full. The other side learns of it by [`Self::flush`].
    pub(crate) fn push(&mut self, message: T) -> Result<(), T> {
        match self.producer.push(message) {
            Ok(()) => {
                self.unflushed = true;
                Ok(())
            }
            Err(PushError::Full(message)) => Err(message),
        }
    }

    /// Wakes the other side if it has something new.
    pub(crate) fn flush(&mut self) {
        if std::mem::take(&mut self.unflushed) {
            self.doorbell.ring();
        }
    }

    /// Moves what `next` gives into the ring until either ends, then wakes the other side once. `false`: the ring was full.
    pub(crate) fn fill(&mut self, mut next: impl FnMut(ShardId) -> Option<T>) -> bool {
        while !self.producer.is_full() {
            let Some(message) = next(self.to) else { break };
            let _ = self.push(message);
        }
        self.flush();
        !self.producer.is_full()
    }
}

impl<T> std::fmt::Debug for RingOut<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingOut").field("to", &self.to).finish_non_exhaustive()
    }
}

/// Where another shard's messages come out.
pub(crate) struct RingIn<T> {
    /// The other shard.
    pub(crate) from: ShardId,
    consumer: Consumer<T>,
}

impl<T> RingIn<T> {
    /// The next message.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.consumer.pop().ok()
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.consumer.is_empty()
    }
}

impl<T> std::fmt::Debug for RingIn<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingIn").field("from", &self.from).finish_non_exhaustive()
    }
}

/// One shard's ends of all rings.
#[derive(Debug)]
pub(crate) struct Rings<T> {
    /// To each other shard.
    pub(crate) outgoing: Vec<RingOut<T>>,
    /// From each other shard.
    pub(crate) incoming: Vec<RingIn<T>>,
}

impl<T> Default for Rings<T> {
    fn default() -> Self {
        Self { outgoing: Vec::new(), incoming: Vec::new() }
    }
}

/// Rings between all pairs of shards, whose doorbells these are.
pub(crate) fn mesh<T>(doorbells: &[Arc<Doorbell>], capacity: usize) -> Vec<Rings<T>> {
    let mut all: Vec<Rings<T>> = doorbells.iter().map(|_| Rings::default()).collect();
    for from in 0..doorbells.len() {
        for (to, doorbell) in doorbells.iter().enumerate() {
            if from == to {
                continue;
            }
            let (producer, consumer) = RingBuffer::new(capacity);
            let ids = (ShardId(from as u16), ShardId(to as u16));
            all[from].outgoing.push(RingOut {
                to: ids.1,
                producer,
                doorbell: Arc::clone(doorbell),
                unflushed: false,
            });
            all[to].incoming.push(RingIn { from: ids.0, consumer });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{room::RoomId, runtime::doorbell::doorbells, shard::RelayMessage};

    fn message() -> Option<RelayMessage> {
        Some(RelayMessage::Leave { room: RoomId::new("r") })
    }

    #[test]
    fn a_full_ring_takes_no_more_and_loses_nothing() {
        let mut rings = mesh(&doorbells(3), 4);
        let [a, b, _] = &mut rings[..] else { panic!("three shards") };
        let out = &mut a.outgoing[0];
        assert_eq!(out.to, ShardId(1));
        let mut asked = 0;
        let room_left = out.fill(|_| {
            asked += 1;
            message()
        });
        assert_eq!((room_left, asked), (false, 4), "not asked for what cannot be taken");
        let incoming = b.incoming.iter_mut().find(|ring| ring.from == ShardId(0)).unwrap();
        assert_eq!(std::iter::from_fn(|| incoming.pop()).count(), 4);
        assert!(incoming.is_empty() && out.fill(|_| None));
    }
}
