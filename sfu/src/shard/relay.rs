//! The shard's side of the relay: lanes to the other shards and what their messages mean here.

use std::collections::{HashMap, hash_map::Entry};

use super::{
    DropReason, Event, PeerId, RelayMessage, RoomId, Shard, ShardId,
    track::{Demand, Owner, Remote, Track},
};
use crate::{
    ingress::{PublishedTrack, TrackSource},
    relay::{DataMessage, Lane as RelayLane, LaneFull, Nacked, RelayPacket},
    room::{RoomKey, RouteKey, Source},
    rtp::TrackId,
};

/// Lanes to all other shards, and who of them is in which room.
#[derive(Debug)]
pub(super) struct Relays {
    own: ShardId,
    /// By shard; the own one stays empty.
    lanes: Vec<RelayLane>,
    /// Other shards with members in a room where this one has some too.
    present: HashMap<RoomId, Vec<ShardId>>,
    /// Tracks of other shards, by their numbers there.
    routes: HashMap<(ShardId, u32), RouteKey>,
    /// Tracks of this shard, by the numbers that the others know.
    published: HashMap<u32, RouteKey>,
    next_number: u32,
}

impl Relays {
    pub(super) fn new(own: ShardId, shards: u16) -> Self {
        Self {
            own,
            lanes: (0..shards).map(|_| RelayLane::default()).collect(),
            present: HashMap::new(),
            routes: HashMap::new(),
            published: HashMap::new(),
            next_number: 0,
        }
    }

    /// A number for a track of this shard. It comes again after four billion others, and not while it is in use.
    pub(super) fn number(&mut self, route: RouteKey) -> u32 {
        loop {
            let number = self.next_number;
            self.next_number = number.wrapping_add(1);
            if let Entry::Vacant(vacant) = self.published.entry(number) {
                vacant.insert(route);
                return number;
            }
        }
    }

    /// A track of this shard is gone.
    pub(super) fn forget_number(&mut self, number: u32) {
        self.published.remove(&number);
    }

    pub(super) fn pop(&mut self, to: ShardId) -> Option<RelayMessage> {
        self.lane(to)?.pop()
    }

    /// Messages that wait for another shard.
    #[cfg(any(test, fuzzing))]
    pub(super) fn waiting(&self, to: ShardId) -> usize {
        self.lanes.get(usize::from(to.0)).map_or(0, RelayLane::len)
    }

    /// The lane to another shard.
    pub(super) fn lane(&mut self, to: ShardId) -> Option<&mut RelayLane> {
        if to == self.own {
            return None;
        }
        self.lanes.get_mut(usize::from(to.0))
    }

    /// The shard that elects a room's speakers, where it is not this one.
    pub(super) fn home(&self, room: &RoomId) -> Option<ShardId> {
        self.present(room).iter().copied().min().filter(|lowest| *lowest < self.own)
    }

    /// Shards that have members in the room too.
    pub(super) fn present(&self, room: &RoomId) -> &[ShardId] {
        self.present.get(room).map_or(&[], Vec::as_slice)
    }

    /// Rooms that have members on other shards too.
    pub(super) fn shared_rooms(&self) -> usize {
        self.present.len()
    }

    /// Tracks of other shards.
    pub(super) fn relayed_tracks(&self) -> usize {
        self.routes.len()
    }

    /// Whether no room is shared, no track relayed and no message waits.
    pub(super) fn is_idle(&self) -> bool {
        self.present.is_empty()
            && self.routes.is_empty()
            && self.published.is_empty()
            && self.lanes.iter().all(RelayLane::is_empty)
    }

    /// All shards but this one.
    pub(super) fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        let own = self.own;
        (0..self.lanes.len() as u16).map(ShardId).filter(move |shard| *shard != own)
    }
}

impl Shard {
    /// The first member of a room is here: the others shall tell what they have.
    pub(super) fn enter_relay(&mut self, room: &RoomId) {
        for shard in self.relays.others() {
            if let Some(lane) = self.relays.lane(shard) {
                lane.push_table(RelayMessage::Enter { room: room.clone(), answer: false });
            }
        }
    }

    /// The last member of a room is gone.
    pub(super) fn leave_relay(&mut self, room: RoomKey, id: &RoomId) {
        self.relays.present.remove(id);
        // To all: one whose answer is still on its way is not known to be present.
        for shard in self.relays.others() {
            if let Some(lane) = self.relays.lane(shard) {
                lane.push_table(RelayMessage::Leave { room: id.clone() });
            }
        }
        for (number, route) in self.relayed_routes(room, None) {
            self.relays.routes.remove(&number);
            self.remove_track(route);
        }
    }

    /// Tells the other shards in the room of a track.
    pub(super) fn announce(&mut self, route: RouteKey, room: &RoomId) {
        for index in 0..self.relays.present(room).len() {
            let Some(shard) = self.relays.present(room).get(index).copied() else { break };
            self.announce_to(route, room, shard);
        }
    }

    fn announce_to(&mut self, route: RouteKey, room: &RoomId, shard: ShardId) {
        let Some(name) = self.rooms.route(route).map(|known| known.track.clone()) else { return };
        let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        if track.publisher().is_none() || track.remotes.iter().any(|known| known.shard == shard) {
            return;
        }
        track.remotes.push(Remote::new(shard));
        let Some(lane) = self.relays.lane(shard) else { return };
        let number = track.number;
        lane.push_table(RelayMessage::Publish {
            route: number,
            room: room.clone(),
            track: name,
            kind: track.published.kind(),
            encodings: track.published.encoding_count(),
            publisher: track.publisher_id.clone(),
        });
        if !track.live.is_empty() {
            lane.push_table(RelayMessage::Live { route: number, encodings: track.live });
        }
    }

    /// Tells whoever feeds a track what is wanted of it, where that changed.
    pub(super) fn tell_demand(&mut self, route: RouteKey) {
        let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        let highest = track.published.encoding_count().saturating_sub(1);
        let mut demand =
            track.remotes.iter().fold(track.local, |sum, remote| sum.union(remote.demand));
        demand.max_spatial = demand.max_spatial.map(|spatial| match highest {
            // One encoding: its spatial layers, if it has any, are its own affair.
            0 => spatial,
            _ => spatial.min(highest),
        });
        if track.told == demand {
            return;
        }
        let before = std::mem::replace(&mut track.told, demand);
        if !track.attaching {
            track.published.set_demanded(demand.encodings);
        }
        match track.owner {
            Owner::Relay(shard) => {
                let Some(lane) = self.relays.lane(shard) else { return };
                lane.push_table(RelayMessage::Demand {
                    route: track.number,
                    encodings: demand.encodings,
                    max_spatial: demand.max_spatial,
                });
            }
            Owner::Peer(publisher) if before.max_spatial != demand.max_spatial => {
                let Some(peer) = self.peers.get(publisher.index()) else { return };
                let Some(known) = self.rooms.route(route) else { return };
                self.events.push_back(Event::LayerDemand {
                    room: peer.identity.room_id.clone(),
                    peer: peer.identity.id.clone(),
                    track: known.track.clone(),
                    max_spatial: demand.max_spatial,
                });
            }
            Owner::Peer(_) => {}
        }
    }

    /// Queues what may be lost.
    pub(super) fn relay_media(&mut self, to: ShardId, message: RelayMessage) {
        let Some(lane) = self.relays.lane(to) else { return };
        if lane.push_media(message) == Err(LaneFull) {
            self.counters.drop(DropReason::RelayLane);
        }
    }

    /// A data packet for the other shards' members.
    pub(super) fn relay_data(&mut self, message: &DataMessage) {
        for index in 0..self.relays.present(&message.room).len() {
            let Some(shard) = self.relays.present(&message.room).get(index).copied() else { break };
            let Some(lane) = self.relays.lane(shard) else { continue };
            if lane.push_data(message.clone()) == Err(LaneFull) {
                self.counters.drop(DropReason::RelayLane);
                if message.reliable {
                    lane.push_table(RelayMessage::DataLost { room: message.room.clone() });
                }
            }
        }
    }

    pub(super) fn take_relay(&mut self, from: ShardId, message: RelayMessage) {
        match message {
            RelayMessage::Enter { room, answer } => self.shard_entered(from, room, answer),
            RelayMessage::Leave { room } => self.shard_left(from, &room),
            RelayMessage::Data(data) => self.broadcast(data),
            RelayMessage::DataLost { room } => self.data_lost(&room),
            RelayMessage::Publish { route, room, track, kind, encodings, publisher } => {
                let published =
                    PublishedTrack::new(kind, TrackSource::Relay, usize::from(encodings));
                self.relayed_track(from, route, &room, &track, published, publisher);
            }
            RelayMessage::Speaking { room, publishers } => {
                if let Some(room) = self.rooms.find(&room) {
                    self.heard(room, &publishers);
                }
            }
            RelayMessage::Unpublish { route } => {
                if let Some(route) = self.relays.routes.remove(&(from, route)) {
                    self.remove_track(route);
                }
            }
            RelayMessage::Format { route, id, codec } => {
                if let Some((_, track)) = self.relayed(from, route) {
                    track.published.set_format(id, &codec);
                }
            }
            RelayMessage::Live { route, encodings } => {
                if let Some((route, track)) = self.relayed(from, route) {
                    track.published.set_live(encodings);
                    self.set_live(route, encodings);
                }
            }
            RelayMessage::Ladder { route, steps } => {
                if let Some((route, track)) = self.relayed(from, route) {
                    track.published.set_ladder(&steps);
                    self.measure_layers(route);
                }
            }
            RelayMessage::Media(packet) => self.relayed_packet(from, packet),
            RelayMessage::Clock { route, encoding, clock } => {
                if let Some((_, track)) = self.relayed(from, route) {
                    track.published.set_sender_clock(encoding, clock);
                }
            }
            RelayMessage::Demand { route, encodings, max_spatial } => {
                self.remote_demand(from, route, Demand { encodings, max_spatial });
            }
            RelayMessage::Keyframe { route, encoding } => {
                if let Some((route, ..)) = self.own_track(from, route) {
                    self.fanout.keyframes.push((route, encoding));
                    self.follow_up();
                }
            }
            RelayMessage::Nack { route, encoding, seqs } => {
                self.answer_nack(from, route, encoding, &seqs);
            }
            RelayMessage::Levels { route, window } => {
                if let Some((route, _)) = self.relayed(from, route) {
                    self.relayed_levels(route, &window);
                }
            }
            RelayMessage::Spent(buffer) => self.spare.push(buffer),
        }
    }

    fn relayed_track(
        &mut self,
        from: ShardId,
        number: u32,
        room: &RoomId,
        name: &TrackId,
        published: PublishedTrack,
        publisher: PeerId,
    ) {
        // It may come after the last member here has left.
        let here = self.rooms.find(room).is_some_and(|room| !self.rooms.members(room).is_empty());
        let source = Source::Relay(from, number);
        let route = here.then(|| self.rooms.publish(room, name, source).ok()).flatten();
        let Some(route) = route else {
            self.counters.drop(DropReason::RelayStale);
            return;
        };
        self.relays.routes.insert((from, number), route);
        self.add_track(route, Track::new(published, Owner::Relay(from), publisher, number));
        self.follow_up();
    }

    fn relayed_packet(&mut self, from: ShardId, packet: RelayPacket) {
        let now = self.now;
        match self.relayed(from, packet.route) {
            None => self.counters.drop(DropReason::RelayStale),
            Some((route, track)) => match track.published.handle_relayed(now, packet.packet()) {
                Ok(accepted) => {
                    if track.arrived(accepted.encoding, accepted.seq) {
                        self.fanout.mark(route);
                    }
                }
                Err(reason) => self.counters.drop(reason.into()),
            },
        }
        if let Some(lane) = self.relays.lane(from) {
            // Without room the buffer is freed here and made anew there.
            let _ = lane.push_media(RelayMessage::Spent(packet.into_buffer()));
        }
    }

    fn remote_demand(&mut self, from: ShardId, number: u32, demand: Demand) {
        let now = self.now;
        let Some((route, _, index)) = self.own_track(from, number) else {
            self.counters.drop(DropReason::RelayStale);
            return;
        };
        let Self { tracks, relays, .. } = self;
        let Some(track) = tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        let Some(remote) = track.remotes.get_mut(index) else { return };
        let before = std::mem::replace(&mut remote.demand, demand).encodings;
        for (encoding, clock) in (0_u8..).zip(track.published.timing().clocks) {
            let Some(clock) = clock.filter(|_| !before.contains(encoding)) else { continue };
            // What sender reports said so far: nobody need wait for the next. One that finds no room comes with it.
            if remote.takes_clock(now, encoding)
                && let Some(lane) = relays.lane(from)
            {
                let _ = lane.push_media(RelayMessage::Clock { route: number, encoding, clock });
            }
        }
        self.tell_demand(route);
    }

    /// Sends packets again that got lost on the way to another shard.
    fn answer_nack(&mut self, from: ShardId, number: u32, encoding: u8, seqs: &Nacked) {
        let Some((route, ..)) = self.own_track(from, number) else {
            self.counters.drop(DropReason::RelayStale);
            return;
        };
        for seq in seqs.iter() {
            let Some(track) = self.tracks.get(route.0).and_then(Option::as_ref) else { return };
            let Some(packet) = track.published.packet(encoding, seq) else {
                self.counters.nack_misses += 1;
                continue;
            };
            let buffer = self.spare.pop().unwrap_or_default();
            let message = RelayMessage::Media(RelayPacket::new(number, packet, buffer));
            self.relay_media(from, message);
        }
    }

    /// A track of another shard, by that shard's number.
    fn relayed(&mut self, from: ShardId, number: u32) -> Option<(RouteKey, &mut Track)> {
        let route = *self.relays.routes.get(&(from, number))?;
        let track = self.tracks.get_mut(route.0).and_then(Option::as_mut)?;
        let same = track.owner == Owner::Relay(from) && track.number == number;
        same.then_some((route, track))
    }

    /// A track of ours that another shard knows, and that shard's place among its remotes.
    fn own_track(&mut self, from: ShardId, number: u32) -> Option<(RouteKey, &mut Track, usize)> {
        let route = *self.relays.published.get(&number)?;
        let track = self.tracks.get_mut(route.0).and_then(Option::as_mut)?;
        track.publisher()?;
        let index = track.remotes.iter().position(|remote| remote.shard == from)?;
        Some((route, track, index))
    }

    /// Routes of a room that other shards (or one of them) feed, with their numbers there.
    fn relayed_routes(
        &self,
        room: RoomKey,
        from: Option<ShardId>,
    ) -> Vec<((ShardId, u32), RouteKey)> {
        let of_room = |(number, route): (&(ShardId, u32), &RouteKey)| {
            let known = self.rooms.route(*route)?;
            let wanted = known.room == room && from.is_none_or(|from| from == number.0);
            wanted.then_some((*number, *route))
        };
        self.relays.routes.iter().filter_map(of_room).collect()
    }

    fn shard_entered(&mut self, from: ShardId, room: RoomId, answer: bool) {
        let Some(key) = self.rooms.find(&room).filter(|key| !self.rooms.members(*key).is_empty())
        else {
            return;
        };
        let present = self.relays.present.entry(room.clone()).or_default();
        if !present.contains(&from) {
            present.push(from);
        }
        if let Some(lane) = self.relays.lane(from).filter(|_| !answer) {
            lane.push_table(RelayMessage::Enter { room: room.clone(), answer: true });
        }
        let own: Vec<RouteKey> = self
            .rooms
            .routes()
            .filter(|(_, route)| route.room == key && matches!(route.source, Some(Source::Peer(_))))
            .map(|(route, _)| route)
            .collect();
        for route in own {
            self.announce_to(route, &room, from);
        }
    }

    fn shard_left(&mut self, from: ShardId, room: &RoomId) {
        if let Some(present) = self.relays.present.get_mut(room) {
            present.retain(|shard| *shard != from);
        }
        let Some(key) = self.rooms.find(room) else { return };
        for (number, route) in self.relayed_routes(key, Some(from)) {
            self.relays.routes.remove(&number);
            self.remove_track(route);
        }
        let of_room: Vec<RouteKey> = self
            .rooms
            .routes()
            .filter(|(_, route)| route.room == key)
            .map(|(route, _)| route)
            .collect();
        for route in of_room {
            if let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) {
                track.remotes.retain(|remote| remote.shard != from);
            }
            self.tell_demand(route);
        }
    }
}
