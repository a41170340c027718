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
    /// Rooms whose readers are to be told that they missed something, each once.
    losses: VecDeque<Loss>,
}

/// A walk over those who missed something.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Loss {
    room: RoomId,
    /// Members that were told.
    told: usize,
    /// Members there were at the loss: who came later missed nothing.
    until: usize,
    /// Members there were when something was lost during the walk; it starts once more for them. 0: nothing was.
    again: usize,
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

    /// Everybody in the room, so many members, missed something.
    fn lose(&mut self, room: &RoomId, members: usize) {
        // A walk that began goes on: were it begun anew with each loss, it would never end while losses go on.
        match self.losses.iter_mut().find(|loss| loss.room == *room) {
            Some(loss) if loss.told == 0 => loss.until = members,
            Some(loss) => loss.again = members,
            None => {
                let room = room.clone();
                self.losses.push_back(Loss { room, told: 0, until: members, again: 0 });
            }
        }
    }

    /// The next room with somebody to be told, and the place of that member.
    fn tell(&mut self) -> Option<(RoomId, usize)> {
        loop {
            let loss = self.losses.front_mut()?;
            if loss.told < loss.until {
                loss.told += 1;
                return Some((loss.room.clone(), loss.told - 1));
            }
            let mut done = self.losses.pop_front()?;
            if done.again > 0 {
                (done.told, done.until, done.again) = (0, done.again, 0);
                self.losses.push_back(done);
            }
        }
    }

    /// The member at this place is gone, and those behind it moved up.
    pub(super) fn member_left(&mut self, room: &RoomId, place: usize) {
        for loss in self.losses.iter_mut().filter(|loss| loss.room == *room) {
            for count in [&mut loss.told, &mut loss.until, &mut loss.again] {
                *count -= usize::from(place < *count);
            }
        }
        if let Some(waiting) = self.rooms.get_mut(room).filter(|waiting| place < waiting.reached) {
            waiting.reached -= 1;
        }
    }

    /// Nobody is left in the room.
    pub(super) fn forget(&mut self, room: &RoomId) {
        self.losses.retain(|loss| loss.room != *room);
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
                self.data_lost(&room);
            }
        }
    }

    /// Hands out a bounded part of what waits. False when there was nothing.
    pub(super) fn step_broadcasts(&mut self) -> bool {
        if self.broadcasts.is_idle() {
            return false;
        }
        // Losses leave the other half to what was not lost.
        let mut visits = VISITS / 2 + self.tell_losses(VISITS / 2);
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
        if let Some(known) = self.rooms.find(room) {
            self.broadcasts.lose(room, self.rooms.members(known).len());
        }
    }

    /// Tells readers of losses, within so many visits; how many are left.
    fn tell_losses(&mut self, mut visits: usize) -> usize {
        while visits > 0
            && let Some((room, place)) = self.broadcasts.tell()
        {
            visits -= 1;
            self.counters.visits += 1;
            let members = self.rooms.find(&room).map_or(&[][..], |room| self.rooms.members(room));
            let Some(key) = members.get(place).copied() else { continue };
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
        waiting.lose(&RoomId::new("a"), 8);
        waiting.losses[0].told = 5;
        for (place, told, until) in [(5, 5, 7), (0, 4, 6), (9, 4, 6)] {
            waiting.member_left(&RoomId::new("a"), place);
            let loss = &waiting.losses[0];
            assert_eq!((loss.told, loss.until, loss.again), (told, until, 0), "place {place}");
        }
        waiting.forget(&RoomId::new("a"));
        assert!(waiting.is_idle() && waiting.take().is_none());
    }

    #[test]
    fn a_walk_over_a_loss_ends_while_losses_go_on() {
        let mut waiting = Broadcasts::default();
        let (a, b) = (RoomId::new("a"), RoomId::new("b"));
        waiting.lose(&a, 3);
        waiting.lose(&b, 1);
        // A loss with each member that is told, and two members more with it.
        let mut told = Vec::new();
        for members in 4..8 {
            told.push(waiting.tell().unwrap());
            waiting.lose(&a, members);
        }
        assert_eq!(told, [(a.clone(), 0), (a.clone(), 1), (a.clone(), 2), (b, 0)]);
        let again: Vec<_> = std::iter::from_fn(|| waiting.tell()).map(|(_, place)| place).collect();
        assert_eq!(again, (0..7).collect::<Vec<_>>(), "once more, for all who were there");
        assert!(waiting.is_idle());
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
