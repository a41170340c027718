//! The shard's side of the relay: lanes to the other shards and what their messages mean here.

use std::collections::HashMap;

use super::{
    DropReason, Event, RelayMessage, RoomId, Shard, ShardId,
    track::{Demand, Owner, Remote, Track},
};
use crate::{
    ingress::{PublishedTrack, TrackSource},
    peer::Lane,
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
}

impl Relays {
    pub(super) fn new(own: ShardId, shards: u16) -> Self {
        Self {
            own,
            lanes: (0..shards).map(|_| RelayLane::default()).collect(),
            present: HashMap::new(),
            routes: HashMap::new(),
        }
    }

    pub(super) fn pop(&mut self, to: ShardId) -> Option<RelayMessage> {
        self.lane(to)?.pop()
    }

    /// The lane to another shard.
    pub(super) fn lane(&mut self, to: ShardId) -> Option<&mut RelayLane> {
        if to == self.own {
            return None;
        }
        self.lanes.get_mut(usize::from(to.0))
    }

    /// Shards that have members in the room too.
    pub(super) fn present(&self, room: &RoomId) -> &[ShardId] {
        self.present.get(room).map_or(&[], Vec::as_slice)
    }

    /// Whether no room is shared, no track relayed and no message waits.
    pub(super) fn is_idle(&self) -> bool {
        self.present.is_empty()
            && self.routes.is_empty()
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
        track.remotes.push(Remote { shard, demand: Demand::default(), formats: 0 });
        let Some(lane) = self.relays.lane(shard) else { return };
        let number = route.0 as u32;
        lane.push_table(RelayMessage::Publish {
            route: number,
            room: room.clone(),
            track: name,
            kind: track.published.kind(),
            encodings: track.published.encoding_count(),
        });
        if !track.live.is_empty() {
            lane.push_table(RelayMessage::Live { route: number, encodings: track.live });
        }
    }

    /// What all takers of a track here want of it.
    fn local_demand(&self, route: RouteKey) -> Demand {
        let takers = self.rooms.route(route).map_or(&[][..], |known| &known.takers);
        takers.iter().fold(Demand::default(), |demand, taker| {
            let subscription = self
                .peers
                .get(taker.peer.index())
                .and_then(|peer| peer.subscriptions.get(taker.subscription as usize));
            subscription.map_or(demand, |subscription| {
                demand.union(Demand {
                    encodings: subscription.demanded(),
                    max_spatial: subscription.max_spatial(),
                })
            })
        })
    }

    /// Tells whoever feeds a track what is wanted of it, where that changed.
    pub(super) fn tell_demand(&mut self, route: RouteKey) {
        let local = self.local_demand(route);
        let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        let highest = track.published.encoding_count().saturating_sub(1);
        let mut demand = track.remotes.iter().fold(local, |sum, remote| sum.union(remote.demand));
        demand.max_spatial = demand.max_spatial.map(|spatial| match highest {
            // One encoding: its spatial layers, if it has any, are its own affair.
            0 => spatial,
            _ => spatial.min(highest),
        });
        if track.told == demand {
            return;
        }
        let before = std::mem::replace(&mut track.told, demand);
        track.published.set_demanded(demand.encodings);
        match track.owner {
            Owner::Relay(shard, number) => {
                let Some(lane) = self.relays.lane(shard) else { return };
                lane.push_table(RelayMessage::Demand {
                    route: number,
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
            RelayMessage::Data(data) => {
                let lane = if data.reliable { Lane::Reliable } else { Lane::Lossy };
                let from = data.from.as_deref();
                self.deliver_data(&data.room, from, lane, &data.destinations, &data.packet);
            }
            RelayMessage::DataLost { room } => self.data_lost(&room),
            RelayMessage::Publish { route, room, track, kind, encodings } => {
                let published =
                    PublishedTrack::new(kind, TrackSource::Relay, usize::from(encodings));
                self.relayed_track(from, route, &room, &track, published);
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
                if self.own_track(from, route).is_some() {
                    self.fanout.keyframes.push((RouteKey(route as usize), encoding));
                    self.follow_up();
                }
            }
            RelayMessage::Nack { route, encoding, seqs } => {
                self.answer_nack(from, route, encoding, &seqs);
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
        self.add_track(route, Track::new(published, Owner::Relay(from, number)));
        self.follow_up();
    }

    fn relayed_packet(&mut self, from: ShardId, packet: RelayPacket) {
        let now = self.now;
        match self.relayed(from, packet.route) {
            None => self.counters.drop(DropReason::RelayStale),
            Some((route, track)) => match track.published.handle_relayed(now, packet.packet()) {
                Ok(accepted) => {
                    track.fresh.push((accepted.encoding, accepted.seq));
                    if !std::mem::replace(&mut track.dirty, true) {
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
        let Some(remote) = self.own_track(from, number) else {
            self.counters.drop(DropReason::RelayStale);
            return;
        };
        let first = remote.demand.encodings.is_empty() && !demand.encodings.is_empty();
        remote.demand = demand;
        if first {
            self.relay_clocks(from, number);
        }
        self.tell_demand(RouteKey(number as usize));
    }

    /// Tells another shard what sender reports said so far: it need not wait for the next.
    fn relay_clocks(&mut self, to: ShardId, number: u32) {
        let Self { tracks, relays, .. } = self;
        let Some(track) = tracks.get(number as usize).and_then(Option::as_ref) else { return };
        let Some(lane) = relays.lane(to) else { return };
        for (encoding, clock) in track.published.timing().clocks.iter().enumerate() {
            let Some(clock) = *clock else { continue };
            let encoding = encoding as u8;
            // One that finds no room comes with the next report.
            let _ = lane.push_media(RelayMessage::Clock { route: number, encoding, clock });
        }
    }

    /// Sends packets again that got lost on the way to another shard.
    fn answer_nack(&mut self, from: ShardId, number: u32, encoding: u8, seqs: &Nacked) {
        if self.own_track(from, number).is_none() {
            self.counters.drop(DropReason::RelayStale);
            return;
        }
        for seq in seqs.iter() {
            let Some(track) = self.tracks.get(number as usize).and_then(Option::as_ref) else {
                return;
            };
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
        (track.owner == Owner::Relay(from, number)).then_some((route, track))
    }

    /// What another shard wants of a track of ours that it knows.
    fn own_track(&mut self, from: ShardId, number: u32) -> Option<&mut Remote> {
        let track = self.tracks.get_mut(number as usize).and_then(Option::as_mut)?;
        track.publisher()?;
        track.remotes.iter_mut().find(|remote| remote.shard == from)
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

    fn data_lost(&mut self, room: &RoomId) {
        let Some(room_key) = self.rooms.find(room) else { return };
        for index in 0..self.rooms.members(room_key).len() {
            let Some(key) = self.rooms.members(room_key).get(index).copied() else { break };
            let Some(peer) = self.peer_mut(key) else { continue };
            let reads = peer.spec.data.as_ref().is_some_and(|data| data.may_receive);
            if reads && peer.data.give_up() {
                let peer = peer.identity.id.clone();
                self.events.push_back(Event::DataOverflow { room: room.clone(), peer });
            }
        }
    }
}
