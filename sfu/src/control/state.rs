//! What the contract promises to remember: rooms with epochs, peers with revisions and whole states, and who watches.

use std::collections::{HashMap, HashSet};

use chappe_proto::node::v1 as pb;
use tonic::Status;

use super::{convert, packed::Packed, watch::Watchers};
use crate::{
    room::{PeerId, RoomId},
    runtime::Placer,
    shard::Event,
};

/// A peer's full name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct PeerName {
    pub(super) room: RoomId,
    pub(super) peer: PeerId,
}

/// A room.
#[derive(Debug, Default)]
struct Room {
    epoch: u64,
    revision: u64,
    owner_state: Vec<u8>,
    /// The owner stated it; otherwise it goes with its last peer.
    applied: bool,
    /// Where its first peer went.
    home: Option<usize>,
    peers: HashSet<PeerId>,
}

/// A peer.
#[derive(Debug)]
struct Peer {
    /// Tells lives of one name apart.
    life: u64,
    shard: usize,
    revision: u64,
    state: Packed<pb::PeerState>,
    transport: Packed<pb::LocalTransport>,
    connected: bool,
    data_ready: bool,
    started: Vec<pb::StartedTrack>,
    demands: Vec<pb::LayerDemand>,
    paused: Vec<String>,
}

/// What is to be done for an ApplyPeer.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing: answer this.
    Answer(pb::ApplyPeerResponse),
    /// Have the shard make it so, then [`State::commit_peer`].
    Apply(Box<Change>),
}

/// A peer's state on its way to a shard.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) name: PeerName,
    pub(super) shard: usize,
    pub(super) revision: u64,
    pub(super) state: pb::PeerState,
    /// Only `owner_state` differs: the shard need not be asked.
    pub(super) owner_state_only: bool,
    /// The life it was made against; `None` makes a peer.
    base: Option<u64>,
}

/// The bookkeeping of the node.
#[derive(Debug)]
pub(super) struct State {
    rooms: HashMap<RoomId, Room>,
    peers: HashMap<PeerName, Peer>,
    /// Who publishes a track: ids are unique on the node.
    publishers: HashMap<String, PeerName>,
    /// Peers by shard.
    loads: Vec<usize>,
    placer: Placer,
    lives: u64,
    pub(super) watchers: Watchers,
    draining: bool,
}

impl State {
    pub(super) fn new(shards: usize, placer: Placer, watchers: Watchers) -> Self {
        Self {
            rooms: HashMap::new(),
            peers: HashMap::new(),
            publishers: HashMap::new(),
            loads: vec![0; shards],
            placer,
            lives: 0,
            watchers,
            draining: false,
        }
    }

    /// Refuses writes of owners that were followed by another.
    pub(super) fn fence(&mut self, room: &RoomId, epoch: u64) -> Result<(), Status> {
        let Some(known) = self.rooms.get_mut(room) else { return Ok(()) };
        if epoch < known.epoch {
            return Err(Status::failed_precondition(format!(
                "epoch: {epoch} is older than {}, another owner has taken over",
                known.epoch
            )));
        }
        known.epoch = epoch;
        Ok(())
    }

    /// New peers are refused from now on.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// The rules of revisions; what is then to be done.
    pub(super) fn plan_peer(&mut self, request: pb::ApplyPeerRequest) -> Result<Plan, Status> {
        let name =
            PeerName { room: RoomId::new(&request.room_id), peer: PeerId::new(&request.peer_id) };
        self.fence(&name.room, request.epoch)?;
        let revision = request.revision;
        let known = self.peers.get(&name);
        if let Some(peer) = known {
            if revision == peer.revision {
                return Ok(Plan::Answer(peer.answer()));
            }
            if revision < peer.revision {
                return Err(stale("revision", revision, peer.revision));
            }
        }
        let before = known.map(|peer| peer.state.unpack());
        let state = match (request.change, known) {
            (None, _) => return Err(Status::invalid_argument("change: expected state or delta")),
            (Some(pb::apply_peer_request::Change::State(state)), _) => state,
            (Some(pb::apply_peer_request::Change::Delta(_)), None) => {
                return Err(Status::not_found("a delta for a peer that is not here"));
            }
            (Some(pb::apply_peer_request::Change::Delta(delta)), Some(peer)) => {
                if delta.base_revision != peer.revision {
                    return Err(stale("delta.base_revision", delta.base_revision, peer.revision));
                }
                convert::apply_delta(before.clone().unwrap_or_default(), delta)
            }
        };
        self.check_tracks(&name, &state)?;
        let owner_state_only = before.is_some_and(|before| {
            pb::PeerState { owner_state: state.owner_state.clone(), ..before } == state
        });
        let (base, shard) = match known {
            Some(peer) => (Some(peer.life), peer.shard),
            None if self.draining => return Err(Status::unavailable("the node is stopping")),
            None => {
                let home = self.rooms.get(&name.room).and_then(|room| room.home);
                (None, self.placer.place(&self.loads, home))
            }
        };
        // The epoch counts from the first write on, even if the shard then refuses the peer.
        let room = self.rooms.entry(name.room.clone()).or_default();
        room.epoch = request.epoch;
        Ok(Plan::Apply(Box::new(Change { name, shard, revision, state, owner_state_only, base })))
    }

    /// The shard did it: `transport` is its side. `None`: the peer was lost in the meantime, and what the shard made is
    /// to be removed again.
    pub(super) fn commit_peer(
        &mut self,
        change: Change,
        transport: Option<pb::LocalTransport>,
    ) -> Option<pb::ApplyPeerResponse> {
        let Change { name, shard, revision, state, base, .. } = change;
        let known = self.peers.get(&name).map(|peer| peer.life);
        if known != base {
            self.forget_unused_room(&name.room);
            return None;
        }
        let peer = match self.peers.get_mut(&name) {
            Some(peer) => peer,
            None => {
                self.lives += 1;
                if let Some(load) = self.loads.get_mut(shard) {
                    *load += 1;
                }
                let room = self.rooms.entry(name.room.clone()).or_default();
                room.home.get_or_insert(shard);
                room.peers.insert(name.peer.clone());
                self.peers.entry(name.clone()).or_insert(Peer::new(self.lives, shard))
            }
        };
        let mut old_tracks = peer.published();
        let tracks: HashSet<&str> =
            state.tracks.iter().map(|track| track.track_id.as_str()).collect();
        peer.started.retain(|started| tracks.contains(started.track_id.as_str()));
        peer.demands.retain(|demand| tracks.contains(demand.track_id.as_str()));
        let taken = |track: &String| state.subscriptions.iter().any(|it| it.track_id == *track);
        peer.paused.retain(taken);
        old_tracks.retain(|track| !tracks.contains(track.as_str()));
        peer.revision = revision;
        peer.state = Packed::new(&state);
        if let Some(transport) = transport {
            peer.transport = Packed::new(&transport);
        }
        let answer = peer.answer();
        for track in old_tracks {
            self.publishers.remove(&track);
        }
        let now = state.tracks.into_iter().map(|track| track.track_id);
        self.publishers.extend(now.map(|track| (track, name.clone())));
        Some(answer)
    }

    /// Where a peer lives.
    pub(super) fn shard_of(&self, name: &PeerName) -> Option<usize> {
        self.peers.get(name).map(|peer| peer.shard)
    }

    /// The peer is gone.
    pub(super) fn remove_peer(&mut self, name: &PeerName) {
        let Some(peer) = self.peers.remove(name) else { return };
        if let Some(load) = self.loads.get_mut(peer.shard) {
            *load = load.saturating_sub(1);
        }
        for track in peer.published() {
            self.publishers.remove(&track);
        }
        if let Some(room) = self.rooms.get_mut(&name.room) {
            room.peers.remove(&name.peer);
            if room.peers.is_empty() {
                room.home = None;
            }
        }
        self.forget_unused_room(&name.room);
    }

    /// The rules of revisions for a room, and its new state.
    pub(super) fn apply_room(
        &mut self,
        request: pb::ApplyRoomRequest,
    ) -> Result<pb::ApplyRoomResponse, Status> {
        let id = RoomId::new(&request.room_id);
        self.fence(&id, request.epoch)?;
        let room = self.rooms.entry(id).or_default();
        if room.applied && request.revision < room.revision {
            return Err(stale("revision", request.revision, room.revision));
        }
        if !room.applied || request.revision > room.revision {
            room.revision = request.revision;
            room.owner_state = request.owner_state;
        }
        room.epoch = request.epoch;
        room.applied = true;
        Ok(pb::ApplyRoomResponse { revision: room.revision })
    }

    /// Peers of a room that live on a shard are gone.
    pub(super) fn remove_peers_on(&mut self, room: &RoomId, shard: usize) {
        for name in self.members(room) {
            if self.shard_of(&name) == Some(shard) {
                self.remove_peer(&name);
            }
        }
    }

    /// The room is over.
    pub(super) fn remove_room(&mut self, id: &RoomId) {
        if self.rooms.get(id).is_some_and(|room| room.peers.is_empty()) {
            self.rooms.remove(id);
        }
    }

    /// Shards with peers of a room.
    pub(super) fn shards_of(&self, room: &RoomId) -> HashSet<usize> {
        self.members(room).iter().filter_map(|name| self.shard_of(name)).collect()
    }

    /// All rooms.
    pub(super) fn rooms(&self) -> Vec<RoomId> {
        self.rooms.keys().cloned().collect()
    }

    /// How many rooms and peers there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.rooms.len(), self.peers.len())
    }

    /// Something happened on a shard: remembers and passes it on.
    pub(super) fn handle_event(&mut self, event: Event) {
        let event = convert::event(event);
        let known = match &event {
            pb::event::Event::PeerConnected(e) => {
                self.with_peer(&e.room_id, &e.peer_id, |p| p.connected = true)
            }
            pb::event::Event::DataReady(e) => {
                self.with_peer(&e.room_id, &e.peer_id, |p| p.data_ready = true)
            }
            pb::event::Event::TrackStarted(e) => {
                self.with_peer(&e.room_id, &e.peer_id, |p| p.started(e.track.clone()))
            }
            pb::event::Event::LayerDemand(e) => {
                self.with_peer(&e.room_id, &e.peer_id, |p| p.demanded(e.clone()))
            }
            pb::event::Event::StreamState(e) => {
                self.with_peer(&e.room_id, &e.peer_id, |p| p.paused(&e.track_id, e.paused))
            }
            pb::event::Event::PeerStats(e) => self.with_peer(&e.room_id, &e.peer_id, |_| {}),
            pb::event::Event::PeerLost(e) => {
                let name =
                    PeerName { room: RoomId::new(&e.room_id), peer: PeerId::new(&e.peer_id) };
                let known = self.peers.contains_key(&name);
                self.remove_peer(&name);
                known
            }
            _ => true,
        };
        if known {
            self.watchers.push(&event);
        }
    }

    /// Everything, for a watcher.
    pub(super) fn snapshot(&self) -> pb::Snapshot {
        let rooms = self.rooms.iter().map(|(id, room)| pb::RoomSnapshot {
            room_id: id.to_string(),
            epoch: room.epoch,
            revision: room.revision,
            owner_state: room.owner_state.clone(),
        });
        let peers = self.peers.iter().map(|(name, peer)| pb::PeerSnapshot {
            room_id: name.room.to_string(),
            peer_id: name.peer.to_string(),
            revision: peer.revision,
            state: Some(peer.state.unpack()),
            transport: Some(peer.transport.unpack()),
            connected: peer.connected,
            data_ready: peer.data_ready,
            started: peer.started.clone(),
            layer_demands: peer.demands.clone(),
            paused_track_ids: peer.paused_tracks(),
        });
        pb::Snapshot { rooms: rooms.collect(), peers: peers.collect() }
    }

    fn check_tracks(&self, name: &PeerName, state: &pb::PeerState) -> Result<(), Status> {
        let mut seen = HashSet::new();
        for (index, track) in state.tracks.iter().enumerate() {
            let taken =
                self.publishers.get(&track.track_id).is_some_and(|publisher| publisher != name);
            if taken || !seen.insert(&track.track_id) {
                return Err(Status::invalid_argument(format!(
                    "tracks[{index}].track_id: published already, ids are unique on the node"
                )));
            }
        }
        Ok(())
    }

    fn members(&self, room: &RoomId) -> Vec<PeerName> {
        let peers = self.rooms.get(room).into_iter().flat_map(|room| &room.peers);
        peers.map(|peer| PeerName { room: room.clone(), peer: peer.clone() }).collect()
    }

    fn with_peer(&mut self, room: &str, peer: &str, change: impl FnOnce(&mut Peer)) -> bool {
        let name = PeerName { room: RoomId::new(room), peer: PeerId::new(peer) };
        match self.peers.get_mut(&name) {
            Some(peer) => {
                change(peer);
                true
            }
            None => false,
        }
    }

    /// Nothing came of a peer: a room that was made for it goes again.
    pub(super) fn forget_unused_room(&mut self, id: &RoomId) {
        if self.rooms.get(id).is_some_and(|room| room.peers.is_empty() && !room.applied) {
            self.rooms.remove(id);
        }
    }
}

impl Peer {
    fn new(life: u64, shard: usize) -> Self {
        Self {
            life,
            shard,
            revision: 0,
            state: Packed::default(),
            transport: Packed::default(),
            connected: false,
            data_ready: false,
            started: Vec::new(),
            demands: Vec::new(),
            paused: Vec::new(),
        }
    }

    fn answer(&self) -> pb::ApplyPeerResponse {
        let transport = Some(self.transport.unpack());
        pb::ApplyPeerResponse { revision: self.revision, transport }
    }

    /// Ids of its tracks.
    fn published(&self) -> Vec<String> {
        self.state.unpack().tracks.into_iter().map(|track| track.track_id).collect()
    }

    fn started(&mut self, track: Option<pb::StartedTrack>) {
        let Some(track) = track else { return };
        self.started
            .retain(|known| (&known.track_id, known.encoding) != (&track.track_id, track.encoding));
        self.started.push(track);
    }

    fn demanded(&mut self, demand: pb::LayerDemand) {
        self.demands.retain(|known| known.track_id != demand.track_id);
        self.demands.push(demand);
    }

    /// Of those that it still subscribes to.
    fn paused_tracks(&self) -> Vec<String> {
        if self.paused.is_empty() {
            return Vec::new();
        }
        let subscriptions = self.state.unpack().subscriptions;
        let subscribed = |track: &&String| {
            subscriptions.iter().any(|subscription| subscription.track_id == **track)
        };
        self.paused.iter().filter(subscribed).cloned().collect()
    }

    fn paused(&mut self, track_id: &str, paused: bool) {
        self.paused.retain(|known| known != track_id);
        if paused {
            self.paused.push(track_id.to_owned());
        }
    }
}

fn stale(field: &str, got: u64, have: u64) -> Status {
    Status::failed_precondition(format!(
        "{field}: {got} does not fit, the current revision is {have}"
    ))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
