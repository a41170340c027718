//! The tables. Keys are small numbers, so that the packet path never hashes an id.

use std::collections::HashMap;

use slab::Slab;

use super::{PeerId, RoomId, ShardId, Speakers, Speaking};
use crate::rtp::TrackId;

/// A peer of this shard. Never given twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct PeerKey {
    index: u32,
    serial: u32,
}

impl PeerKey {
    /// `index` is the place in a slab, `serial` tells those apart who had it one after the other.
    pub(crate) const fn new(index: usize, serial: u32) -> Self {
        Self { index: index as u32, serial }
    }

    /// Place in a slab.
    pub(crate) const fn index(self) -> usize {
        self.index as usize
    }

    /// Who had the place before had another.
    pub(crate) const fn serial(self) -> u32 {
        self.serial
    }
}

/// A room of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct RoomKey(usize);

impl RoomKey {
    /// Place among the rooms.
    pub(crate) const fn index(self) -> usize {
        self.0
    }
}

/// One track of one room, published or only wanted yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct RouteKey(pub(crate) usize);

/// Where the packets of a route come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// A peer of this shard.
    Peer(PeerKey),
    /// Another shard, which calls the track by this number.
    Relay(ShardId, u32),
}

/// Who takes a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taker {
    /// The subscriber.
    pub(crate) peer: PeerKey,
    /// Which of its subscriptions.
    pub(crate) subscription: u32,
}

/// One track and its takers.
#[derive(Debug)]
pub(crate) struct Route {
    /// Where it belongs.
    pub(crate) room: RoomKey,
    /// Its name.
    pub(crate) track: TrackId,
    /// `None`: nobody publishes it now.
    pub(crate) source: Option<Source>,
    /// Subscriptions of this shard.
    pub(crate) takers: Vec<Taker>,
}

#[derive(Debug)]
struct Room {
    id: RoomId,
    peers: HashMap<PeerId, PeerKey>,
    /// The same in the order of joining, for walks.
    members: Vec<PeerKey>,
    routes: HashMap<TrackId, RouteKey>,
    speakers: Speakers,
}

impl Room {
    fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.routes.is_empty()
    }
}

/// All rooms of a shard. A room lives while it has a member or a route.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    rooms: Slab<Room>,
    by_id: HashMap<RoomId, RoomKey>,
    routes: Slab<Route>,
}

impl Rooms {
    /// The room of this name.
    pub(crate) fn find(&self, id: &RoomId) -> Option<RoomKey> {
        self.by_id.get(id).copied()
    }

    /// The name of a room.
    pub(crate) fn id(&self, room: RoomKey) -> Option<&RoomId> {
        Some(&self.rooms.get(room.0)?.id)
    }

    /// The routes of a room.
    pub(crate) fn routes_in(&self, room: RoomKey) -> impl Iterator<Item = RouteKey> + '_ {
        self.rooms.get(room.0).into_iter().flat_map(|room| room.routes.values().copied())
    }

    /// Who is heard in a room, as elected last.
    pub(crate) fn speaking(&self, room: RoomKey) -> &[Speaking] {
        self.rooms.get(room.0).map_or(&[], |room| room.speakers.speaking())
    }

    /// Who speaks in a room.
    pub(crate) fn speakers(&mut self, room: RoomKey) -> Option<&mut Speakers> {
        Some(&mut self.rooms.get_mut(room.0)?.speakers)
    }

    /// A member by its name.
    pub(crate) fn peer(&self, room: RoomKey, id: &PeerId) -> Option<PeerKey> {
        self.rooms.get(room.0)?.peers.get(id).copied()
    }

    /// Members in the order of joining.
    pub(crate) fn members(&self, room: RoomKey) -> &[PeerKey] {
        self.rooms.get(room.0).map_or(&[], |room| &room.members)
    }

    /// Adds a member; the room is made when it is not there.
    pub(crate) fn join(&mut self, id: &RoomId, peer: PeerId, key: PeerKey) -> RoomKey {
        let room_key = self.ensure(id);
        let room = &mut self.rooms[room_key.0];
        if let Some(old) = room.peers.insert(peer, key) {
            room.members.retain(|member| *member != old);
        }
        room.members.push(key);
        room_key
    }

    /// Removes a member; gives its place among the members. Its routes have to be withdrawn and released before.
    pub(crate) fn leave(&mut self, room_key: RoomKey, peer: &PeerId) -> Option<usize> {
        let room = self.rooms.get_mut(room_key.0)?;
        let key = room.peers.remove(peer);
        let place = room.members.iter().position(|member| Some(*member) == key);
        if let Some(place) = place {
            room.members.remove(place);
        }
        self.drop_if_empty(room_key);
        place
    }

    /// Names the source of a track. `Err` with the other source when it has one already.
    pub(crate) fn publish(
        &mut self,
        room: &RoomId,
        track: &TrackId,
        source: Source,
    ) -> Result<RouteKey, Source> {
        let room = self.ensure(room);
        let key = self.ensure_route(room, track);
        let route = &mut self.routes[key.0];
        match route.source {
            Some(other) if other != source => Err(other),
            _ => {
                route.source = Some(source);
                Ok(key)
            }
        }
    }

    /// The track has no source any more; its takers stay and wait.
    pub(crate) fn withdraw(&mut self, key: RouteKey) {
        if let Some(route) = self.routes.get_mut(key.0) {
            route.source = None;
            self.drop_route_if_unused(key);
        }
    }

    /// Adds a taker of a track, published or not.
    pub(crate) fn take(&mut self, room: RoomKey, track: &TrackId, taker: Taker) -> RouteKey {
        let key = self.ensure_route(room, track);
        let takers = &mut self.routes[key.0].takers;
        if !takers.contains(&taker) {
            takers.push(taker);
        }
        key
    }

    /// Removes a taker; gives its place among the takers.
    pub(crate) fn release(&mut self, key: RouteKey, taker: Taker) -> Option<usize> {
        let takers = &mut self.routes.get_mut(key.0)?.takers;
        let place = takers.iter().position(|known| *known == taker);
        if let Some(place) = place {
            takers.remove(place);
        }
        self.drop_route_if_unused(key);
        place
    }

    /// One route.
    pub(crate) fn route(&self, key: RouteKey) -> Option<&Route> {
        self.routes.get(key.0)
    }

    /// The route of a track.
    pub(crate) fn route_of(&self, room: RoomKey, track: &TrackId) -> Option<RouteKey> {
        self.rooms.get(room.0)?.routes.get(track).copied()
    }

    /// All routes.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (RouteKey, &Route)> {
        self.routes.iter().map(|(key, route)| (RouteKey(key), route))
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.by_id.is_empty() && self.routes.is_empty()
    }

    /// Rooms with members or routes.
    pub(crate) fn len(&self) -> usize {
        self.rooms.len()
    }

    fn ensure(&mut self, id: &RoomId) -> RoomKey {
        if let Some(key) = self.by_id.get(id) {
            return *key;
        }
        let key = RoomKey(self.rooms.insert(Room {
            id: id.clone(),
            peers: HashMap::new(),
            members: Vec::new(),
            routes: HashMap::new(),
            speakers: Speakers::default(),
        }));
        self.by_id.insert(id.clone(), key);
        key
    }

    fn ensure_route(&mut self, room: RoomKey, track: &TrackId) -> RouteKey {
        let routes = &mut self.rooms[room.0].routes;
        if let Some(key) = routes.get(track) {
            return *key;
        }
        let route = Route { room, track: track.clone(), source: None, takers: Vec::new() };
        let key = RouteKey(self.routes.insert(route));
        routes.insert(track.clone(), key);
        key
    }

    fn drop_route_if_unused(&mut self, key: RouteKey) {
        let Some(route) = self.routes.get(key.0) else { return };
        if route.source.is_some() || !route.takers.is_empty() {
            return;
        }
        let route = self.routes.remove(key.0);
        if let Some(room) = self.rooms.get_mut(route.room.0) {
            room.routes.remove(&route.track);
        }
        self.drop_if_empty(route.room);
    }

    fn drop_if_empty(&mut self, key: RoomKey) {
        if self.rooms.get(key.0).is_some_and(Room::is_empty) {
            let room = self.rooms.remove(key.0);
            self.by_id.remove(&room.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: usize) -> PeerKey {
        PeerKey::new(n, 1)
    }

    #[test]
    fn a_subscription_may_come_before_its_track_and_outlive_it() {
        let mut rooms = Rooms::default();
        let (id, track) = (RoomId::new("r"), TrackId::new("t"));
        let room = rooms.join(&id, PeerId::new("a"), peer(0));
        rooms.join(&id, PeerId::new("b"), peer(1));
        let taker = Taker { peer: peer(1), subscription: 3 };
        let route = rooms.take(room, &track, taker);
        assert_eq!(rooms.route(route).unwrap().source, None);
        assert_eq!(rooms.publish(&id, &track, Source::Peer(peer(0))), Ok(route));
        assert_eq!(rooms.route(route).unwrap().takers, [taker]);
        rooms.withdraw(route);
        assert_eq!(rooms.route_of(room, &track), Some(route), "the taker waits");
        assert_eq!(rooms.release(route, taker), Some(0));
        assert_eq!(rooms.release(route, taker), None);
        assert_eq!(rooms.route_of(room, &track), None);
    }

    #[test]
    fn a_track_has_one_source() {
        let mut rooms = Rooms::default();
        let (id, track) = (RoomId::new("r"), TrackId::new("t"));
        let own = Source::Peer(peer(0));
        let route = rooms.publish(&id, &track, own).unwrap();
        assert_eq!(rooms.publish(&id, &track, own), Ok(route), "said again");
        assert_eq!(rooms.publish(&id, &track, Source::Relay(ShardId(1), 7)), Err(own));
    }

    #[test]
    fn nothing_is_left_of_a_room_when_all_are_gone() {
        let mut rooms = Rooms::default();
        let (id, track) = (RoomId::new("r"), TrackId::new("t"));
        let room = rooms.join(&id, PeerId::new("a"), peer(0));
        let route = rooms.publish(&id, &track, Source::Peer(peer(0))).unwrap();
        let taker = Taker { peer: peer(0), subscription: 0 };
        rooms.take(room, &track, taker);
        rooms.release(route, taker);
        rooms.leave(room, &PeerId::new("a"));
        assert_eq!(rooms.find(&id), Some(room), "the track is still there");
        rooms.withdraw(route);
        assert!(rooms.is_empty());
    }

    #[test]
    fn a_peer_that_joins_again_is_one_member() {
        let mut rooms = Rooms::default();
        let id = RoomId::new("r");
        let room = rooms.join(&id, PeerId::new("a"), peer(0));
        rooms.join(&id, PeerId::new("a"), peer(5));
        assert_eq!(rooms.members(room), [peer(5)]);
        assert_eq!(rooms.peer(room, &PeerId::new("a")), Some(peer(5)));
    }
}
