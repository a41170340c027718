//! Data packets on their way to the members of their rooms.
//!
//! Each room has a queue, and its first message a cursor over the members: handing out stands still between any two of
//! them. Rooms take turns, so that a large or busy one delays itself only; within a room everything keeps the order in
//! which it came.

use std::collections::{HashMap, VecDeque};

use super::{DropReason, Event, Lane, RoomId, Shard};
use crate::{
    peer::Queued,
    relay::{DataMessage, LaneFull},
    room::PeerKey,
};

/// Bytes of messages that may wait in one room: as much as may wait for another shard, or for one slow reader.
const CAPACITY: usize = 1 << 20;

/// Accounted for each message beside its bytes.
const OVERHEAD: usize = 128;

/// Members looked at in one step.
const VISITS: usize = 64;

/// Visits that giving a message to a reader costs: SCTP takes a copy.
const DELIVERY: usize = 4;

/// Destinations that are compared with a member's address in the time of one visit.
const DESTINATIONS_PER_VISIT: usize = 16;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    rooms: HashMap<RoomId, Waiting>,
    /// Rooms where something waits, each once. One that is gone is skipped.
    turns: VecDeque<RoomId>,
    /// Rooms whose readers are to be told that they missed something, and how many of them were.
    losses: VecDeque<(RoomId, usize)>,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<DataMessage>,
    bytes: usize,
    /// Members that the first message is done with.
    reached: usize,
}

impl Broadcasts {
    fn push(&mut self, message: DataMessage) -> Result<(), LaneFull> {
        let size = size(&message);
        let waiting = match self.rooms.get_mut(&message.room) {
            Some(waiting) => waiting,
            None => {
                self.turns.push_back(message.room.clone());
                self.rooms.entry(message.room.clone()).or_default()
            }
        };
        if waiting.bytes + size > CAPACITY {
            return Err(LaneFull);
        }
        waiting.bytes += size;
        waiting.messages.push_back(message);
        Ok(())
    }

    /// The next message and how many members have it already.
    fn take(&mut self) -> Option<(DataMessage, usize)> {
        loop {
            let room = self.turns.pop_front()?;
            let Some(waiting) = self.rooms.get_mut(&room) else { continue };
            if let Some(message) = waiting.messages.pop_front() {
                waiting.bytes -= size(&message);
                return Some((message, std::mem::take(&mut waiting.reached)));
            }
            self.rooms.remove(&room);
        }
    }

    /// What [`Self::take`] gave has reached so many members; `None`: all of them.
    fn put_back(&mut self, message: DataMessage, reached: Option<usize>) {
        let Some(waiting) = self.rooms.get_mut(&message.room) else { return };
        let room = message.room.clone();
        if let Some(reached) = reached {
            waiting.reached = reached;
            waiting.bytes += size(&message);
            waiting.messages.push_front(message);
        }
        if waiting.messages.is_empty() {
            self.rooms.remove(&room);
        } else {
            self.turns.push_back(room);
        }
    }

    /// Everybody in the room missed something.
    fn lose(&mut self, room: &RoomId) {
        // Those who were told need not be told again, but others may have come since.
        self.losses.retain(|(lost, _)| lost != room);
        self.losses.push_back((room.clone(), 0));
    }

    /// The member at this place is gone, and those behind it moved up.
    pub(super) fn member_left(&mut self, room: &RoomId, place: usize) {
        for (_, told) in self.losses.iter_mut().filter(|(lost, told)| lost == room && place < *told)
        {
            *told -= 1;
        }
        if let Some(waiting) = self.rooms.get_mut(room).filter(|waiting| place < waiting.reached) {
            waiting.reached -= 1;
        }
    }

    /// Nobody is left in the room.
    pub(super) fn forget(&mut self, room: &RoomId) {
        self.losses.retain(|(lost, _)| lost != room);
        if self.rooms.remove(room).is_some() {
            self.turns.retain(|waiting| waiting != room);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.rooms.is_empty() && self.losses.is_empty()
    }
}

fn size(message: &DataMessage) -> usize {
    let destinations = message.destinations.iter().map(|to| to.len() + size_of_val(to));
    message.packet.len() + OVERHEAD + destinations.sum::<usize>()
}

impl Shard {
    /// Has a message handed to the members of its room that live here.
    pub(super) fn broadcast(&mut self, message: DataMessage) {
        let members = self.rooms.find(&message.room).map(|room| self.rooms.members(room));
        if members.is_none_or(<[_]>::is_empty) {
            return;
        }
        let (room, reliable) = (message.room.clone(), message.reliable);
        if self.broadcasts.push(message) == Err(LaneFull) {
            self.counters.drop(DropReason::DataBacklog);
            if reliable {
                self.broadcasts.lose(&room);
            }
        }
    }

    /// Hands out a bounded part of what waits. False when there was nothing.
    pub(super) fn step_broadcasts(&mut self) -> bool {
        if self.broadcasts.is_idle() {
            return false;
        }
        let mut visits = self.tell_losses(VISITS);
        while visits > 0
            && let Some((message, mut reached)) = self.broadcasts.take()
        {
            let look = 1 + message.destinations.len() / DESTINATIONS_PER_VISIT;
            let room = self.rooms.find(&message.room);
            let rest = loop {
                let members = room.map_or(&[][..], |room| self.rooms.members(room));
                let Some(key) = members.get(reached).copied() else { break None };
                if visits == 0 {
                    break Some(reached);
                }
                reached += 1;
                self.counters.visits += 1;
                let cost = if self.deliver(key, &message) { look + DELIVERY } else { look };
                visits = visits.saturating_sub(cost);
            };
            self.broadcasts.put_back(message, rest);
        }
        true
    }

    /// Something was lost that all readers of a room should have got: they have to reconnect.
    pub(super) fn data_lost(&mut self, room: &RoomId) {
        if self.rooms.find(room).is_some() {
            self.broadcasts.lose(room);
        }
    }

    /// Tells readers of losses, within so many visits; how many are left.
    fn tell_losses(&mut self, mut visits: usize) -> usize {
        while visits > 0
            && let Some((room, told)) = self.broadcasts.losses.pop_front()
        {
            let members = self.rooms.find(&room).map_or(&[][..], |room| self.rooms.members(room));
            let Some(key) = members.get(told).copied() else { continue };
            self.broadcasts.losses.push_front((room.clone(), told + 1));
            visits -= 1;
            self.counters.visits += 1;
            let Some(peer) = self.peer_mut(key) else { continue };
            let reads = peer.spec.data.as_ref().is_some_and(|data| data.may_receive);
            if reads && peer.data.give_up() {
                let peer = peer.identity.id.clone();
                self.events.push_back(Event::DataOverflow { room, peer });
            }
        }
        visits
    }

    /// Gives a message to one member. Whether it was for that member.
    fn deliver(&mut self, key: PeerKey, message: &DataMessage) -> bool {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return false };
        let Some(data) = peer.spec.data.as_ref().filter(|data| data.may_receive) else {
            return false;
        };
        let addressed =
            message.destinations.is_empty() || message.destinations.contains(&data.address);
        if !addressed || message.from.as_deref() == Some(&*data.address) {
            return false;
        }
        let lane = if message.reliable { Lane::Reliable } else { Lane::Lossy };
        let outcome = peer.data.send(now, &mut peer.transport, lane, &message.packet);
        match outcome {
            Queued::Yes => self.counters.data_out += 1,
            Queued::NotOpen => {}
            Queued::Late => self.counters.drop(DropReason::DataLossyQueue),
            Queued::Lost => self.counters.drop(DropReason::DataOverflow),
            Queued::Overflow => {
                let (room, peer) = (message.room.clone(), peer.identity.id.clone());
                self.counters.drop(DropReason::DataOverflow);
                self.events.push_back(Event::DataOverflow { room, peer });
            }
        }
        self.touch(key);
        true
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(room: &str, number: u8) -> DataMessage {
        DataMessage {
            room: RoomId::new(room),
            from: None,
            reliable: true,
            destinations: Vec::new(),
            packet: Bytes::from(vec![number; 10]),
        }
    }

    #[test]
    fn rooms_take_turns_and_each_keeps_its_order() {
        let mut waiting = Broadcasts::default();
        for (room, number) in [("a", 1), ("a", 2), ("b", 3)] {
            waiting.push(message(room, number)).unwrap();
        }
        let mut seen = Vec::new();
        while let Some((message, reached)) = waiting.take() {
            seen.push((message.packet[0], reached));
            // The first takes three turns.
            let rest = (message.packet[0] == 1 && reached < 20).then_some(reached + 10);
            waiting.put_back(message, rest);
        }
        assert_eq!(seen, [(1, 0), (3, 0), (1, 10), (1, 20), (2, 0)]);
        assert!(waiting.is_idle() && waiting.turns.is_empty());
    }

    #[test]
    fn who_leaves_moves_the_cursor_only_where_it_has_passed() {
        let mut waiting = Broadcasts::default();
        waiting.push(message("a", 1)).unwrap();
        let (first, _) = waiting.take().unwrap();
        waiting.put_back(first, Some(5));
        for (place, reached) in [(5, 5), (9, 5), (4, 4), (0, 3)] {
            waiting.member_left(&RoomId::new("a"), place);
            waiting.member_left(&RoomId::new("b"), 0);
            assert_eq!(waiting.rooms[&RoomId::new("a")].reached, reached, "place {place}");
        }
        waiting.lose(&RoomId::new("a"));
        waiting.losses[0].1 = 5;
        waiting.member_left(&RoomId::new("a"), 5);
        assert_eq!(waiting.losses[0].1, 5);
        waiting.member_left(&RoomId::new("a"), 0);
        assert_eq!(waiting.losses[0].1, 4);
        waiting.lose(&RoomId::new("a"));
        assert_eq!(waiting.losses, [(RoomId::new("a"), 0)], "others may have come");
        waiting.forget(&RoomId::new("a"));
        assert!(waiting.is_idle() && waiting.take().is_none());
    }

    #[test]
    fn a_room_has_so_many_bytes_and_another_its_own() {
        let mut waiting = Broadcasts::default();
        let large = DataMessage { packet: vec![0; CAPACITY / 4].into(), ..message("a", 0) };
        let taken = (0..9).filter(|_| waiting.push(large.clone()).is_ok()).count();
        assert_eq!(taken, 3);
        waiting.push(message("b", 1)).unwrap();
        let (first, _) = waiting.take().unwrap();
        waiting.put_back(first, Some(1));
        assert_eq!(waiting.push(large.clone()), Err(LaneFull), "it is not done yet");
        waiting.take();
        let (first, _) = waiting.take().unwrap();
        waiting.put_back(first, None);
        assert_eq!(waiting.push(large), Ok(()));
    }
}
