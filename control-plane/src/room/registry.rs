//! Live rooms by name: found, made, rebuilt from what the nodes kept, ended.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chappe_proto::node::v1 as node;
use dashmap::{DashMap, Entry};
use livekit_protocol as proto;
use tokio::sync::{mpsc, watch};

use super::{
    actor::{RoomActor, Surroundings, now},
    handle::{Message, NodeNotice, RoomHandle},
    ids,
    state::{MAX_METADATA, MAX_NAME, RoomState},
    types::*,
};
use crate::{
    node::{Node, NodeChange, NodeEvent, Nodes},
    store::Store,
};

/// After a start, clients wait so long for the nodes to say which rooms live.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);
/// A room may end while it is joined; then it is made again.
const ATTEMPTS: usize = 5;
/// How long a stopping server waits for its rooms to end.
const END_WITHIN: Duration = Duration::from_secs(3);

/// What rooms are like unless they say otherwise.
#[derive(Clone, Debug)]
pub struct RoomPolicy {
    /// Joining makes the room.
    pub auto_create: bool,
    /// Of rooms made by joining; their timeouts also of those made by an API that names none.
    pub defaults: RoomOptions,
    /// APIs may unmute the tracks of others.
    pub remote_unmute: bool,
}

impl Default for RoomPolicy {
    fn default() -> Self {
        Self { auto_create: true, defaults: RoomOptions::default(), remote_unmute: false }
    }
}

/// What becomes of the media when the control plane stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// The media nodes stop too: clients join anew.
    Reconnect,
    /// The media nodes go on: clients resume at the next control plane, on the same PeerConnections.
    Resume,
}

/// Why a room was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// Empty or too long.
    #[error("{0}")]
    Invalid(String),
    /// No media node takes the room, or the server is stopping.
    #[error(transparent)]
    Unavailable(#[from] JoinError),
}

/// What rooms hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Population {
    /// Live rooms.
    pub rooms: usize,
    /// Participants in them.
    pub participants: usize,
    /// Tracks that these publish.
    pub tracks: usize,
    /// Participants by level of their connections, those of whom nothing is known left out: lost, poor, good,
    /// excellent.
    pub levels: [usize; 4],
}

/// Live rooms, by name for clients and by sid for nodes.
#[derive(Debug, Default)]
pub(super) struct LiveRooms {
    by_name: DashMap<String, RoomHandle>,
    by_sid: DashMap<String, RoomHandle>,
}

impl LiveRooms {
    pub(super) fn remove(&self, name: &str, sid: &str) {
        self.by_name.remove_if(name, |_, room| room.sid() == sid);
        self.by_sid.remove(sid);
    }

    fn by_name(&self, name: &str) -> Option<RoomHandle> {
        self.by_name.get(name).map(|room| room.value().clone()).filter(|room| !room.is_closed())
    }

    fn by_sid(&self, sid: &str) -> Option<RoomHandle> {
        self.by_sid.get(sid).map(|room| room.value().clone())
    }

    fn all(&self) -> Vec<RoomHandle> {
        self.by_name.iter().map(|room| room.value().clone()).collect()
    }
}

/// The rooms of this control plane; cheap to clone.
#[derive(Clone)]
pub struct RoomRegistry(Arc<Inner>);

struct Inner {
    live: Arc<LiveRooms>,
    nodes: Nodes,
    store: Arc<dyn Store>,
    policy: RoomPolicy,
    settled: watch::Receiver<bool>,
    stopping: AtomicBool,
}

impl RoomRegistry {
    /// Starts to follow the nodes: `events` is what [`Nodes::new`] gave. Nodes that were added before are waited for
    /// when the first clients come.
    pub fn start(
        nodes: Nodes,
        events: mpsc::Receiver<NodeEvent>,
        store: Arc<dyn Store>,
        policy: RoomPolicy,
    ) -> Self {
        let awaited = nodes.names();
        let (settle, settled) = watch::channel(awaited.is_empty());
        let stopping = AtomicBool::new(false);
        let live = Arc::default();
        let registry = Self(Arc::new(Inner { live, nodes, store, policy, settled, stopping }));
        tokio::spawn(registry.clone().follow(events, awaited, settle));
        registry
    }

    /// Lets a participant into a room, which is made where that is allowed.
    pub async fn join(
        &self,
        room_name: &str,
        request: JoinRequest,
        events: mpsc::Sender<Box<RoomEvent>>,
    ) -> Result<(RoomHandle, Joined), JoinError> {
        self.ready().await?;
        for _ in 0..ATTEMPTS {
            let room = match self.get(room_name) {
                Some(room) => room,
                None if self.0.policy.auto_create => {
                    self.open(room_name, self.0.policy.defaults.clone()).await?
                }
                None => return Err(JoinError::RoomNotFound),
            };
            if let Some(joined) = room.join(request.clone(), events.clone()).await {
                return joined;
            }
            tokio::task::yield_now().await;
        }
        Err(JoinError::NoNode("the room ends again and again".to_owned()))
    }

    /// Gives a client that lost its signalling its participant back.
    pub async fn resume(
        &self,
        room_name: &str,
        sid: &ParticipantSid,
        identity: &str,
        events: mpsc::Sender<Box<RoomEvent>>,
    ) -> Result<(RoomHandle, Resumed), JoinError> {
        self.ready().await?;
        let room = self.get(room_name).ok_or(JoinError::UnknownParticipant)?;
        let resumed = room.resume(sid.clone(), identity.to_owned(), events).await;
        resumed.unwrap_or(Err(JoinError::UnknownParticipant))
    }

    /// Is there a room of this name now, or would joining make it?
    pub async fn room_exists(&self, room_name: &str) -> bool {
        let _ = self.ready().await;
        self.0.policy.auto_create || self.get(room_name).is_some()
    }

    /// Makes a room, or returns the one of that name unchanged.
    pub async fn create(
        &self,
        name: &str,
        options: RoomOptions,
    ) -> Result<proto::Room, CreateError> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(CreateError::Invalid(format!("name: 1 to {MAX_NAME} bytes")));
        }
        if options.metadata.len() > MAX_METADATA {
            return Err(CreateError::Invalid(format!("metadata: at most {MAX_METADATA} bytes")));
        }
        self.ready().await?;
        for _ in 0..ATTEMPTS {
            let room = match self.get(name) {
                Some(room) => room,
                None => self.open(name, options.clone()).await?,
            };
            if let Ok(info) = room.room().await {
                return Ok(info);
            }
        }
        Err(JoinError::NoNode("the room ends again and again".to_owned()).into())
    }

    /// The defaults of rooms.
    #[must_use]
    pub fn policy(&self) -> &RoomPolicy {
        &self.0.policy
    }

    /// A live room.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<RoomHandle> {
        self.0.live.by_name(name)
    }

    /// All rooms, ordered by name.
    pub async fn list(&self) -> Vec<proto::Room> {
        let asked = self.0.live.all().into_iter().map(|room| async move { room.room().await.ok() });
        let mut rooms: Vec<_> =
            futures_util::future::join_all(asked).await.into_iter().flatten().collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        rooms
    }

    /// Ends a room: everybody is told to leave. False where there is none.
    pub async fn delete(&self, name: &str) -> bool {
        let Some(room) = self.get(name) else { return false };
        let reason = proto::DisconnectReason::RoomDeleted;
        let action = proto::leave_request::Action::Disconnect;
        let told = room.send(Message::End { reason, action }).await;
        // The name is free when this returns.
        let _ = tokio::time::timeout(END_WITHIN, room.closed()).await;
        told
    }

    /// What all rooms hold now, without asking them.
    #[must_use]
    pub fn population(&self) -> Population {
        let mut all = Population::default();
        for room in self.0.live.all() {
            let (participants, tracks, levels) = room.population();
            all.rooms += 1;
            all.participants += participants;
            all.tracks += tracks;
            for (sum, count) in all.levels.iter_mut().zip(levels) {
                *sum += count;
            }
        }
        all
    }

    /// Is any media node alive?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.0.stopping.load(Ordering::Acquire) && self.0.nodes.any_attached()
    }

    /// Ends everything: clients are told to reconnect, elsewhere or to this server's successor.
    pub async fn shutdown(&self) {
        self.shutdown_with(Shutdown::Reconnect).await;
    }

    /// Ends everything here: `how` says what clients are told, and whether the media nodes keep the rooms.
    pub async fn shutdown_with(&self, how: Shutdown) {
        self.0.stopping.store(true, Ordering::Release);
        let ended = self.0.live.all().into_iter().map(|room| async move {
            let reason = proto::DisconnectReason::ServerShutdown;
            let action = proto::leave_request::Action::Reconnect;
            room.send(match how {
                Shutdown::Reconnect => Message::End { reason, action },
                Shutdown::Resume => Message::HandOver,
            })
            .await;
            let _ = tokio::time::timeout(END_WITHIN, room.closed()).await;
        });
        futures_util::future::join_all(ended).await;
    }

    /// Waits until the nodes said which rooms live.
    async fn ready(&self) -> Result<(), JoinError> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(JoinError::ShuttingDown);
        }
        let mut settled = self.0.settled.clone();
        // A closed channel means that nothing is waited for any more.
        let _ = settled.wait_for(|settled| *settled).await;
        Ok(())
    }

    async fn open(&self, name: &str, options: RoomOptions) -> Result<RoomHandle, JoinError> {
        let unavailable = |error: &dyn fmt::Display| JoinError::NoNode(error.to_string());
        let node = self.0.nodes.place().await.map_err(|error| unavailable(&error))?;
        let sid = ids::room_sid();
        let lease = self.0.store.claim(&sid, 0).await.map_err(|error| unavailable(&error))?;
        let mut state = RoomState::new(sid, name.to_owned(), options, now());
        state.allow_remote_unmute(self.0.policy.remote_unmute);
        let (handle, actor) = RoomActor::open(state, node, self.surroundings(lease.epoch));
        Ok(self.admit(handle, actor))
    }

    fn surroundings(&self, epoch: u64) -> Surroundings {
        Surroundings { live: self.0.live.clone(), store: self.0.store.clone(), epoch }
    }

    /// Starts a room unless another of its name was faster; returns the one that lives.
    fn admit(&self, handle: RoomHandle, actor: RoomActor) -> RoomHandle {
        match self.0.live.by_name.entry(handle.name().to_owned()) {
            Entry::Occupied(faster) if !faster.get().is_closed() => faster.get().clone(),
            entry => {
                self.0.live.by_sid.insert(handle.sid().to_owned(), handle.clone());
                entry.insert(handle.clone());
                tracing::info!(room = handle.name(), sid = handle.sid(), "room started");
                tokio::spawn(actor.run());
                handle
            }
        }
    }

    async fn follow(
        self,
        mut events: mpsc::Receiver<NodeEvent>,
        mut awaited: Vec<String>,
        settle: watch::Sender<bool>,
    ) {
        let patience = tokio::time::sleep(SETTLE_WITHIN);
        tokio::pin!(patience);
        loop {
            let settled = *settle.borrow();
            let event = tokio::select! {
                event = events.recv() => event,
                () = &mut patience, if !settled => {
                    tracing::warn!(nodes = ?awaited, "going on without these media nodes");
                    settle.send_replace(true);
                    continue;
                }
            };
            let Some(NodeEvent { node, change }) = event else { return };
            match change {
                NodeChange::Snapshot(snapshot) => {
                    self.snapshot(&node, snapshot).await;
                    awaited.retain(|name| name != node.name());
                    if awaited.is_empty() && !settled {
                        settle.send_replace(true);
                    }
                }
                NodeChange::Event(event) => self.event(event).await,
                NodeChange::Lost => self.lost(&node).await,
            }
        }
    }

    async fn event(&self, event: node::event::Event) {
        use node::event::Event;
        let room_id = match &event {
            Event::PeerConnected(event) => &event.room_id,
            Event::PeerLost(event) => &event.room_id,
            Event::DataReady(event) => &event.room_id,
            Event::TrackStarted(event) => &event.room_id,
            Event::LayerDemand(event) => &event.room_id,
            Event::DataOverflow(event) => &event.room_id,
            Event::SpeakersChanged(event) => &event.room_id,
            Event::PeerStats(event) => &event.room_id,
            Event::StreamState(event) => &event.room_id,
            Event::Snapshot(_) => return,
        };
        if let Some(room) = self.0.live.by_sid(room_id) {
            room.send(Message::Node(Box::new(NodeNotice::Event(event)))).await;
        }
    }

    async fn lost(&self, node: &Node) {
        for room in self.0.live.all() {
            let notice = NodeNotice::Lost(node.clone());
            room.send(Message::Node(Box::new(notice))).await;
        }
    }

    /// Everything on a node: live rooms compare, unknown rooms are rebuilt, what nobody can rebuild is removed.
    async fn snapshot(&self, node: &Node, snapshot: node::Snapshot) {
        // What is on the nodes now is for the next control plane.
        if self.0.stopping.load(Ordering::Acquire) {
            return;
        }
        let mut peers: HashMap<String, Vec<node::PeerSnapshot>> = HashMap::new();
        for peer in snapshot.peers {
            peers.entry(peer.room_id.clone()).or_default().push(peer);
        }
        for room in snapshot.rooms {
            let own_peers = peers.remove(&room.room_id).unwrap_or_default();
            match self.0.live.by_sid(&room.room_id) {
                Some(live) => {
                    let notice = NodeNotice::Peers(node.clone(), own_peers);
                    live.send(Message::Node(Box::new(notice))).await;
                }
                None => self.take_over(node, room, own_peers).await,
            }
        }
        for (room_id, own_peers) in peers {
            match self.0.live.by_sid(&room_id) {
                Some(live) => {
                    let notice = NodeNotice::Peers(node.clone(), own_peers);
                    live.send(Message::Node(Box::new(notice))).await;
                }
                None => self.remove_room(node, room_id, 0),
            }
        }
    }

    async fn take_over(
        &self,
        node: &Node,
        room: node::RoomSnapshot,
        peers: Vec<node::PeerSnapshot>,
    ) {
        let mut state = match RoomState::restore(&room.owner_state, now()) {
            Ok(state) if state.sid() == room.room_id => state,
            Ok(_) => return self.remove_room(node, room.room_id, room.epoch),
            Err(error) => {
                tracing::warn!(sid = room.room_id, %error, "what the node kept is no room");
                return self.remove_room(node, room.room_id, room.epoch);
            }
        };
        state.allow_remote_unmute(self.0.policy.remote_unmute);
        if self.get(state.name()).is_some() {
            tracing::warn!(room = state.name(), sid = room.room_id, "superseded");
            return self.remove_room(node, room.room_id, room.epoch);
        }
        let lease = match self.0.store.claim(&room.room_id, room.epoch).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::error!(room = state.name(), %error, "cannot be taken over");
                return;
            }
        };
        let around = self.surroundings(lease.epoch);
        tracing::info!(room = state.name(), peers = peers.len(), "taken over from its node");
        let (handle, actor) =
            RoomActor::take_over(state, node.clone(), room.revision, peers, around);
        self.admit(handle, actor);
    }

    /// The node may be slow to answer: other nodes' events do not wait for it.
    fn remove_room(&self, node: &Node, room_id: String, above: u64) {
        let (node, store) = (node.clone(), self.0.store.clone());
        tokio::spawn(async move {
            let Ok(lease) = store.claim(&room_id, above).await else { return };
            let request = node::RemoveRoomRequest { room_id, epoch: lease.epoch };
            if let Err(error) = node.remove_room(&request).await {
                tracing::warn!(sid = request.room_id, %error, "a room of nobody stays");
            }
            let _ = store.release(&request.room_id).await;
        });
    }
}

impl fmt::Debug for RoomRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomRegistry").field("rooms", &self.0.live.by_name.len()).finish()
    }
}
