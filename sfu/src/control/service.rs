//! `chappe.node.v1.NodeService`: checks a request, hands it to a shard, waits for the answer.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use chappe_proto::node::v1 as pb;
use pb::node_service_server::NodeService;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    convert::{self, MAX_DATA_PACKET, MAX_ROOM_OWNER_STATE, check_id, check_len},
    node::Shared,
    report,
    state::{Change, PeerName, Plan},
    watch::Next,
};
use crate::{
    room::{PeerId, RoomId},
    runtime::MailboxError,
    shard::{ApplyError, Command, LocalTransport, Reply},
};

/// Rooms are told apart by so many gates; two rooms that share one only wait for each other.
const GATES: usize = 256;

/// Writes of one room take turns: a revision is judged against what the one before came to.
#[derive(Debug)]
pub(super) struct Gates {
    gates: Vec<Arc<tokio::sync::Mutex<()>>>,
    hasher: RandomState,
}

impl Gates {
    pub(super) fn new() -> Self {
        Self { gates: (0..GATES).map(|_| Arc::default()).collect(), hasher: RandomState::new() }
    }

    async fn enter(&self, room: &str) -> Option<OwnedMutexGuard<()>> {
        let index = self.hasher.hash_one(room) as usize % GATES;
        Some(Arc::clone(self.gates.get(index)?).lock_owned().await)
    }
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeApi {
    pub(super) shared: Arc<Shared>,
}

impl NodeApi {
    /// Runs `command` on a shard; `then` is run with the reply, in order with the shard's events, even when the caller
    /// has gone away by then.
    fn send<T: Send + 'static>(
        &self,
        shard: usize,
        command: Command,
        then: impl FnOnce(Reply) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, Status> {
        let (sender, receiver) = oneshot::channel();
        let mailbox =
            self.shared.runtime.mailbox(shard).ok_or_else(|| Status::internal("no such shard"))?;
        mailbox
            .send(command, move |reply| {
                let _ = sender.send(then(reply));
            })
            .map_err(|error| match error {
                MailboxError::Full => Status::resource_exhausted(error.to_string()),
                MailboxError::Stopped => Status::unavailable(error.to_string()),
            })?;
        Ok(receiver)
    }

    async fn apply(
        &self,
        change: Change,
        gate: Option<OwnedMutexGuard<()>>,
    ) -> Result<pb::ApplyPeerResponse, Status> {
        let spec = match convert::peer_spec(&change.state) {
            Ok(spec) => Box::new(spec),
            Err(error) => {
                self.shared.state().forget_unused_room(&change.name.room);
                return Err(error.into());
            }
        };
        let lost = || Status::not_found("the peer was lost in the meantime");
        if change.owner_state_only {
            return self.shared.state().commit_peer(change, None).ok_or_else(lost);
        }
        let (shard, name) = (change.shard, change.name.clone());
        let room = name.room.clone();
        let command = Command::ApplyPeer { room: name.room.clone(), peer: name.peer.clone(), spec };
        let api = self.clone();
        let answer = self.send(shard, command, move |reply| {
            let _gate = gate;
            match reply {
                Reply::Applied(Ok(local)) => {
                    let transport = api.shared.transport(shard, local);
                    let answer = api.shared.state().commit_peer(change, Some(transport));
                    answer.ok_or_else(|| {
                        // The shard took the old name for a new peer, which nobody asked for.
                        let PeerName { room, peer } = name;
                        drop(api.send(shard, Command::RemovePeer { room, peer }, |_| ()));
                        lost()
                    })
                }
                Reply::Applied(Err(error)) => {
                    api.shared.state().forget_unused_room(&change.name.room);
                    Err(refusal(&error))
                }
                Reply::Report(_) | Reply::Done => Err(wrong_answer()),
            }
        });
        let answer = answer.inspect_err(|_| self.shared.state().forget_unused_room(&room))?;
        stopped(answer.await)?
    }

    async fn remove_room_everywhere(
        &self,
        room: RoomId,
        gate: Option<OwnedMutexGuard<()>>,
    ) -> Result<(), Status> {
        let shards = self.shared.state().shards_of(&room);
        let gate = Arc::new(gate);
        let mut answers = Vec::new();
        let mut failed = Ok(());
        for shard in shards {
            let (api, id, gate) = (self.clone(), room.clone(), Arc::clone(&gate));
            let sent = self.send(shard, Command::RemoveRoom { room: room.clone() }, move |_| {
                api.shared.state().remove_peers_on(&id, shard);
                drop(gate);
            });
            match sent {
                Ok(answer) => answers.push(answer),
                Err(status) => failed = Err(status),
            }
        }
        for answer in answers {
            stopped(answer.await)?;
        }
        failed?;
        self.shared.state().remove_room(&room);
        Ok(())
    }

    /// Ends all peers, saying goodbye.
    pub(super) async fn remove_all(&self) {
        let rooms = self.shared.state().rooms();
        for room in rooms {
            let gate = self.shared.gates.enter(room.as_str()).await;
            if let Err(status) = self.remove_room_everywhere(room, gate).await {
                tracing::warn!(code = ?status.code(), "a room was not closed in order");
            }
        }
    }
}

fn refusal(error: &ApplyError) -> Status {
    match error {
        ApplyError::Full => Status::resource_exhausted(error.to_string()),
        ApplyError::Invalid(_) | ApplyError::TrackTaken(_) => {
            Status::invalid_argument(error.to_string())
        }
    }
}

fn wrong_answer() -> Status {
    Status::internal("the shard gave another command's answer")
}

fn stopped<T>(answer: Result<T, oneshot::error::RecvError>) -> Result<T, Status> {
    answer.map_err(|_| Status::unavailable("the node is stopping"))
}

impl Shared {
    /// The node's side of a transport, complete.
    fn transport(&self, shard: usize, local: LocalTransport) -> pb::LocalTransport {
        pb::LocalTransport {
            ice: Some(pb::IceCredentials { ufrag: local.ufrag, pwd: local.pwd }),
            candidates: self.runtime.candidates(shard).iter().map(convert::candidate).collect(),
            fingerprint: Some(convert::fingerprint_out(self.runtime.fingerprint())),
            ice_generation: local.ice_generation,
        }
    }
}

#[tonic::async_trait]
impl NodeService for NodeApi {
    type WatchStream = ReceiverStream<Result<pb::Event, Status>>;

    async fn get_node(
        &self,
        _: Request<pb::GetNodeRequest>,
    ) -> Result<Response<pb::GetNodeResponse>, Status> {
        let (_, peers) = self.shared.state().counts();
        Ok(Response::new(pb::GetNodeResponse {
            boot_id: self.shared.boot_id.clone(),
            node_id: self.shared.node_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shards: u32::try_from(self.shared.runtime.shards()).unwrap_or(u32::MAX),
            peers: u32::try_from(peers).unwrap_or(u32::MAX),
        }))
    }

    async fn apply_peer(
        &self,
        request: Request<pb::ApplyPeerRequest>,
    ) -> Result<Response<pb::ApplyPeerResponse>, Status> {
        let request = request.into_inner();
        check_id("room_id", &request.room_id)?;
        check_id("peer_id", &request.peer_id)?;
        let gate = self.shared.gates.enter(&request.room_id).await;
        let plan = self.shared.state().plan_peer(request)?;
        let answer = match plan {
            Plan::Answer(answer) => answer,
            Plan::Apply(change) => self.apply(*change, gate).await?,
        };
        Ok(Response::new(answer))
    }

    async fn remove_peer(
        &self,
        request: Request<pb::RemovePeerRequest>,
    ) -> Result<Response<pb::RemovePeerResponse>, Status> {
        let request = request.into_inner();
        check_id("room_id", &request.room_id)?;
        check_id("peer_id", &request.peer_id)?;
        let gate = self.shared.gates.enter(&request.room_id).await;
        let name =
            PeerName { room: RoomId::new(&request.room_id), peer: PeerId::new(&request.peer_id) };
        let shard = {
            let mut state = self.shared.state();
            state.fence(&name.room, request.epoch)?;
            state.shard_of(&name)
        };
        if let Some(shard) = shard {
            let command = Command::RemovePeer { room: name.room.clone(), peer: name.peer.clone() };
            let api = self.clone();
            let done = self.send(shard, command, move |_| {
                api.shared.state().remove_peer(&name);
                drop(gate);
            });
            stopped(done?.await)?;
        }
        Ok(Response::new(pb::RemovePeerResponse {}))
    }

    async fn apply_room(
        &self,
        request: Request<pb::ApplyRoomRequest>,
    ) -> Result<Response<pb::ApplyRoomResponse>, Status> {
        let request = request.into_inner();
        check_id("room_id", &request.room_id)?;
        check_len("owner_state", request.owner_state.len(), MAX_ROOM_OWNER_STATE)?;
        let _gate = self.shared.gates.enter(&request.room_id).await;
        Ok(Response::new(self.shared.state().apply_room(request)?))
    }

    async fn remove_room(
        &self,
        request: Request<pb::RemoveRoomRequest>,
    ) -> Result<Response<pb::RemoveRoomResponse>, Status> {
        let request = request.into_inner();
        check_id("room_id", &request.room_id)?;
        let gate = self.shared.gates.enter(&request.room_id).await;
        let room = RoomId::new(&request.room_id);
        self.shared.state().fence(&room, request.epoch)?;
        self.remove_room_everywhere(room, gate).await?;
        Ok(Response::new(pb::RemoveRoomResponse {}))
    }

    async fn send_data(
        &self,
        request: Request<pb::SendDataRequest>,
    ) -> Result<Response<pb::SendDataResponse>, Status> {
        let request = request.into_inner();
        check_id("room_id", &request.room_id)?;
        check_len("packet", request.packet.len(), MAX_DATA_PACKET)?;
        let room = RoomId::new(&request.room_id);
        let shards: HashSet<usize> = {
            let mut state = self.shared.state();
            state.fence(&room, request.epoch)?;
            state.shards_of(&room)
        };
        let packet = bytes::Bytes::from(request.packet);
        let destinations: Vec<Arc<str>> =
            request.destinations.iter().map(|d| d.as_str().into()).collect();
        let mut answers = Vec::new();
        for shard in shards {
            let command = Command::SendData {
                room: room.clone(),
                packet: packet.clone(),
                reliable: request.reliable,
                destinations: destinations.clone(),
            };
            answers.push(self.send(shard, command, |_| ())?);
        }
        for answer in answers {
            stopped(answer.await)?;
        }
        Ok(Response::new(pb::SendDataResponse {}))
    }

    async fn get_peer_report(
        &self,
        request: Request<pb::GetPeerReportRequest>,
    ) -> Result<Response<pb::PeerReport>, Status> {
        let request = request.into_inner();
        check_id("room_id", &request.room_id)?;
        check_id("peer_id", &request.peer_id)?;
        let name =
            PeerName { room: RoomId::new(&request.room_id), peer: PeerId::new(&request.peer_id) };
        let missing = || Status::not_found("no such peer on this node");
        let shard = self.shared.state().shard_of(&name).ok_or_else(missing)?;
        let PeerName { room, peer } = name;
        let answer =
            self.send(shard, Command::ReportPeer { room, peer }, move |reply| match reply {
                Reply::Report(report) => report.ok_or_else(missing),
                Reply::Applied(_) | Reply::Done => Err(wrong_answer()),
            })?;
        let report = stopped(answer.await)??;
        Ok(Response::new(report::peer_report(&report)))
    }

    async fn watch(
        &self,
        _: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let subscribed = self.shared.state().watchers.subscribe();
        let (id, wake) =
            subscribed.ok_or_else(|| Status::resource_exhausted("too many watchers"))?;
        // One event waits here, the rest where it is bounded.
        let (sender, receiver) = mpsc::channel(1);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            while let Some(event) = next_event(&shared, id, &wake, &sender).await {
                if sender.send(Ok(event)).await.is_err() {
                    break;
                }
            }
            shared.state().watchers.unsubscribe(id);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// `None`: the watcher is gone, or the node is.
async fn next_event(
    shared: &Shared,
    id: u64,
    wake: &tokio::sync::Notify,
    sender: &mpsc::Sender<Result<pb::Event, Status>>,
) -> Option<pb::Event> {
    loop {
        // A snapshot is made only for somebody who is there to take it.
        drop(sender.reserve().await.ok()?);
        let waited = wake.notified();
        {
            let mut state = shared.state();
            match state.watchers.poll(id) {
                Next::Event(event) => return Some(*event),
                Next::Snapshot => {
                    let snapshot = state.snapshot();
                    return state.watchers.stamp(id, snapshot);
                }
                Next::Closed => return None,
                Next::Wait => {}
            }
        }
        tokio::select! {
            () = waited => {}
            () = sender.closed() => return None,
        }
    }
}
