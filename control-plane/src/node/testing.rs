//! A node for tests of the control plane: keeps what it is told by the rules of node.proto, without any media.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use chappe_proto::node::v1 as node;
use node::{
    apply_peer_request::Change,
    event::Event as Body,
    node_service_server::{NodeService, NodeServiceServer},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status};

/// Largest request: 1 MiB of owner state, and what stands around it.
const MAX_REQUEST: usize = 8 << 20;

/// What the node holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) boot_id: String,
    pub(crate) rooms: BTreeMap<String, node::RoomSnapshot>,
    pub(crate) peers: BTreeMap<String, node::PeerSnapshot>,
    /// Peers that were created, ever.
    pub(crate) created: usize,
    /// Peers are changed later.
    pub(crate) stalled: bool,
    /// Calls that remove a room or a peer, refused ones too.
    pub(crate) removals: usize,
    states: usize,
    deltas: usize,
    pub(crate) sent: Vec<node::SendDataRequest>,
    /// What is said of peers when somebody asks.
    pub(crate) reports: BTreeMap<String, node::PeerReport>,
    watchers: Vec<(u64, mpsc::UnboundedSender<Result<node::Event, Status>>)>,
}

impl Held {
    fn fence(&self, room_id: &str, epoch: u64) -> Result<(), Status> {
        match self.rooms.get(room_id) {
            Some(room) if epoch < room.epoch => Err(Status::failed_precondition("epoch")),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_watched(&self) -> bool {
        !self.watchers.is_empty()
    }

    fn snapshot(&self) -> node::Snapshot {
        node::Snapshot {
            rooms: self.rooms.values().cloned().collect(),
            peers: self.peers.values().cloned().collect(),
        }
    }

    fn emit(&mut self, body: &Body) {
        let boot_id = self.boot_id.clone();
        self.watchers.retain_mut(|(sequence, watcher)| {
            let event = node::Event {
                boot_id: boot_id.clone(),
                sequence: *sequence,
                event: Some(body.clone()),
            };
            *sequence += 1;
            watcher.send(Ok(event)).is_ok()
        });
    }
}

/// Clones share what they hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestNode(Arc<Mutex<Held>>);

impl TestNode {
    pub(crate) fn new() -> Self {
        let held = Held { boot_id: "boot-1".to_owned(), ..Held::default() };
        Self(Arc::new(Mutex::new(held)))
    }

    pub(crate) fn service(&self) -> NodeServiceServer<Self> {
        NodeServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST)
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    /// Whole states and deltas that were taken.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let held = self.held();
        (held.states, held.deltas)
    }

    /// As if the client's ICE and DTLS were done.
    pub(crate) fn connect(&self, peer_id: &str) {
        let mut held = self.held();
        let peer = held.peers.get_mut(peer_id).expect("peer is on the node");
        peer.connected = true;
        let (room_id, peer_id) = (peer.room_id.clone(), peer_id.to_owned());
        held.emit(&Body::PeerConnected(node::PeerConnected { room_id, peer_id }));
    }

    pub(crate) fn say(&self, body: &Body) {
        self.held().emit(body);
    }

    pub(crate) fn lose(&self, peer_id: &str, reason: node::LostReason) {
        let mut held = self.held();
        let peer = held.peers.remove(peer_id).expect("peer is on the node");
        held.emit(&Body::PeerLost(node::PeerLost {
            room_id: peer.room_id,
            peer_id: peer.peer_id,
            reason: reason.into(),
        }));
    }

    /// The streams end; what is held stays.
    pub(crate) fn cut_streams(&self) {
        self.held().watchers.clear();
    }

    /// Everything is forgotten, as after a crash.
    pub(crate) fn restart(&self) {
        let mut held = self.held();
        *held = Held { boot_id: format!("{}+", held.boot_id), ..Held::default() };
    }
}

#[tonic::async_trait]
impl NodeService for TestNode {
    async fn get_node(
        &self,
        _: Request<node::GetNodeRequest>,
    ) -> Result<Response<node::GetNodeResponse>, Status> {
        let boot_id = self.held().boot_id.clone();
        Ok(Response::new(node::GetNodeResponse { boot_id, ..Default::default() }))
    }

    async fn get_peer_report(
        &self,
        request: Request<node::GetPeerReportRequest>,
    ) -> Result<Response<node::PeerReport>, Status> {
        let held = self.held();
        let report = held.reports.get(&request.get_ref().peer_id).cloned();
        report.map(Response::new).ok_or_else(|| Status::not_found("no such peer"))
    }

    async fn apply_peer(
        &self,
        request: Request<node::ApplyPeerRequest>,
    ) -> Result<Response<node::ApplyPeerResponse>, Status> {
        let request = request.into_inner();
        while self.held().stalled {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let mut held = self.held();
        held.fence(&request.room_id, request.epoch)?;
        let known = held.peers.get(&request.peer_id).cloned();
        let transport = node::LocalTransport {
            ice: Some(node::IceCredentials {
                ufrag: format!("ufrag-{}", request.peer_id),
                pwd: "password".to_owned(),
            }),
            fingerprint: Some(node::Fingerprint {
                algorithm: "sha-256".to_owned(),
                digest: vec![7; 32],
            }),
            ..Default::default()
        };
        if let Some(known) = &known {
            if request.revision == known.revision {
                let revision = known.revision;
                let transport = known.transport.clone();
                return Ok(Response::new(node::ApplyPeerResponse { revision, transport }));
            }
            if request.revision < known.revision {
                return Err(Status::failed_precondition("revision"));
            }
        }
        let mut next = known.clone().unwrap_or_default();
        match request.change {
            Some(Change::State(state)) => {
                next.state = Some(state);
                held.states += 1;
            }
            Some(Change::Delta(delta)) => {
                let known = known.as_ref().ok_or_else(|| Status::not_found("peer"))?;
                if delta.base_revision != known.revision {
                    return Err(Status::failed_precondition("base revision"));
                }
                let mut state = next.state.unwrap_or_default();
                if let Some(owner_state) = delta.owner_state {
                    state.owner_state = owner_state;
                }
                state.transport = delta.transport.or(state.transport);
                state.tracks.retain(|known| !delta.remove_track_ids.contains(&known.track_id));
                for put in delta.put_tracks {
                    state.tracks.retain(|known| known.track_id != put.track_id);
                    state.tracks.push(put);
                }
                let removed = delta.remove_subscription_track_ids;
                state.subscriptions.retain(|known| !removed.contains(&known.track_id));
                for put in delta.put_subscriptions {
                    state.subscriptions.retain(|known| known.track_id != put.track_id);
                    state.subscriptions.push(put);
                }
                next.state = Some(state);
                held.deltas += 1;
            }
            None => return Err(Status::invalid_argument("change")),
        }
        held.created += usize::from(known.is_none());
        next.room_id = request.room_id;
        next.peer_id.clone_from(&request.peer_id);
        next.revision = request.revision;
        next.transport = Some(transport.clone());
        held.peers.insert(request.peer_id, next);
        let answer =
            node::ApplyPeerResponse { revision: request.revision, transport: Some(transport) };
        Ok(Response::new(answer))
    }

    async fn remove_peer(
        &self,
        request: Request<node::RemovePeerRequest>,
    ) -> Result<Response<node::RemovePeerResponse>, Status> {
        let request = request.into_inner();
        let mut held = self.held();
        held.removals += 1;
        held.fence(&request.room_id, request.epoch)?;
        held.peers.remove(&request.peer_id);
        Ok(Response::new(node::RemovePeerResponse {}))
    }

    async fn apply_room(
        &self,
        request: Request<node::ApplyRoomRequest>,
    ) -> Result<Response<node::ApplyRoomResponse>, Status> {
        let request = request.into_inner();
        let mut held = self.held();
        held.fence(&request.room_id, request.epoch)?;
        if held.rooms.get(&request.room_id).is_some_and(|room| request.revision < room.revision) {
            return Err(Status::failed_precondition("revision"));
        }
        let room = node::RoomSnapshot {
            room_id: request.room_id.clone(),
            epoch: request.epoch,
            revision: request.revision,
            owner_state: request.owner_state,
        };
        held.rooms.insert(request.room_id, room);
        Ok(Response::new(node::ApplyRoomResponse { revision: request.revision }))
    }

    async fn remove_room(
        &self,
        request: Request<node::RemoveRoomRequest>,
    ) -> Result<Response<node::RemoveRoomResponse>, Status> {
        let request = request.into_inner();
        let mut held = self.held();
        held.removals += 1;
        held.fence(&request.room_id, request.epoch)?;
        held.rooms.remove(&request.room_id);
        held.peers.retain(|_, peer| peer.room_id != request.room_id);
        Ok(Response::new(node::RemoveRoomResponse {}))
    }

    async fn send_data(
        &self,
        request: Request<node::SendDataRequest>,
    ) -> Result<Response<node::SendDataResponse>, Status> {
        self.held().sent.push(request.into_inner());
        Ok(Response::new(node::SendDataResponse {}))
    }

    type WatchStream = UnboundedReceiverStream<Result<node::Event, Status>>;

    async fn watch(
        &self,
        _: Request<node::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (watcher, stream) = mpsc::unbounded_channel();
        let mut held = self.held();
        let event = node::Event {
            boot_id: held.boot_id.clone(),
            sequence: 1,
            event: Some(Body::Snapshot(held.snapshot())),
        };
        let _ = watcher.send(Ok(event));
        held.watchers.push((2, watcher));
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }
}
