//! One peer on the media node: its desired state, revision by revision, in the order of the calls.
//!
//! A task per peer speaks to the node, so that a slow call holds up nobody else. Dropping the [`PeerLink`] removes the
//! peer, unless the room goes on without us.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use chappe_proto::node::v1 as node;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    handle::{Message, NodeNotice, Reply},
    types::RequestError,
};
use crate::node::{CallError, Node};

/// Calls that wait for one peer.
const QUEUE: usize = 64;
/// Added to the revision when the node's is not known: it is at most a few calls ahead of ours.
const RESYNC_LEAP: u64 = 1_000;

#[derive(Debug)]
enum Job {
    Apply { delta: Box<node::PeerDelta>, reply: Reply<node::LocalTransport> },
    Snapshot(oneshot::Sender<node::PeerSnapshot>),
    Probe,
}

/// Where a peer lives and who commands it.
#[derive(Clone, Debug)]
pub(super) struct PeerPlace {
    pub(super) node: Node,
    pub(super) room_id: String,
    pub(super) peer_id: String,
    pub(super) epoch: u64,
    /// True once the node knows the room.
    pub(super) room_ready: watch::Receiver<bool>,
    /// The room goes on under another control plane: its peers stay.
    pub(super) kept: Arc<AtomicBool>,
    /// Hears when the node does not know the peer any more.
    pub(super) actor: mpsc::WeakSender<Message>,
}

/// The actor's end of a peer.
#[derive(Debug)]
pub(super) struct PeerLink {
    jobs: mpsc::Sender<Job>,
    pub(super) connected: bool,
    pub(super) data_ready: bool,
}

impl PeerLink {
    /// A peer that the node does not know yet.
    pub(super) fn new(place: PeerPlace) -> Self {
        Self::start(place, Known::default(), false, false)
    }

    /// A peer that lives on the node since before this control plane.
    pub(super) fn restored(place: PeerPlace, snapshot: node::PeerSnapshot) -> Self {
        let (connected, data_ready) = (snapshot.connected, snapshot.data_ready);
        let known = Known {
            revision: snapshot.revision,
            state: Some(snapshot.state.unwrap_or_default()),
            transport: snapshot.transport.unwrap_or_default(),
            in_doubt: false,
        };
        Self::start(place, known, connected, data_ready)
    }

    fn start(place: PeerPlace, known: Known, connected: bool, data_ready: bool) -> Self {
        let (jobs, todo) = mpsc::channel(QUEUE);
        tokio::spawn(Box::new(Driver { place, known }).run(todo));
        Self { jobs, connected, data_ready }
    }

    pub(super) fn apply(&self, delta: Box<node::PeerDelta>, reply: Reply<node::LocalTransport>) {
        if let Err(refused) = self.jobs.try_send(Job::Apply { delta, reply }) {
            let (mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) =
                refused;
            if let Job::Apply { reply, .. } = job {
                let busy = "too many changes wait for the node".to_owned();
                let _ = reply.send(Err(RequestError::Node(busy)));
            }
        }
    }

    /// The state after all changes that were asked before.
    pub(super) fn snapshot(&self) -> impl Future<Output = Option<node::PeerSnapshot>> + use<> {
        let jobs = self.jobs.clone();
        let (connected, data_ready) = (self.connected, self.data_ready);
        async move {
            let (reply, answer) = oneshot::channel();
            jobs.send(Job::Snapshot(reply)).await.ok()?;
            drop(jobs);
            let snapshot = answer.await.ok()?;
            Some(node::PeerSnapshot { connected, data_ready, ..snapshot })
        }
    }

    /// Asks the node whether it still has the peer; the actor hears PeerLost if not.
    pub(super) fn probe(&self) {
        // A full queue asks the node soon enough.
        let _ = self.jobs.try_send(Job::Probe);
    }
}

#[derive(Debug, Default)]
struct Known {
    revision: u64,
    /// `None` until the node has the peer.
    state: Option<node::PeerState>,
    transport: node::LocalTransport,
    /// A call failed half way: the node may be ahead of us.
    in_doubt: bool,
}

struct Driver {
    place: PeerPlace,
    known: Known,
}

impl Driver {
    async fn run(mut self: Box<Self>, mut todo: mpsc::Receiver<Job>) {
        // What is boxed here and below: a task has room for what it was given twice, and for all that it ever does. A call
        // to the node takes 10 KiB, and the task is there as long as the peer.
        let _counted = self.place.node.count_peer();
        while let Some(job) = todo.recv().await {
            match job {
                Job::Apply { delta, reply } => {
                    let _ = reply.send(Box::pin(self.apply(*delta)).await);
                }
                Job::Snapshot(reply) => {
                    let _ = reply.send(self.snapshot());
                }
                Job::Probe => Box::pin(self.probe()).await,
            }
        }
        let unknown = self.known.state.is_none() && !self.known.in_doubt;
        if unknown || self.place.kept.load(Ordering::Acquire) {
            return;
        }
        let request = node::RemovePeerRequest {
            room_id: self.place.room_id.clone(),
            peer_id: self.place.peer_id.clone(),
            epoch: self.place.epoch,
        };
        if let Err(error) = Box::pin(self.place.node.remove_peer(&request)).await {
            tracing::warn!(peer = self.place.peer_id, %error, "the peer stays until its media ends");
        }
    }

    fn request(
        &self,
        revision: u64,
        change: node::apply_peer_request::Change,
    ) -> node::ApplyPeerRequest {
        node::ApplyPeerRequest {
            room_id: self.place.room_id.clone(),
            peer_id: self.place.peer_id.clone(),
            epoch: self.place.epoch,
            revision,
            change: Some(change),
        }
    }

    async fn apply(
        &mut self,
        mut delta: node::PeerDelta,
    ) -> Result<node::LocalTransport, RequestError> {
        use node::apply_peer_request::Change;
        if self.place.room_ready.wait_for(|ready| *ready).await.is_err() {
            return Err(RequestError::Closed);
        }
        let mut next = self.known.state.clone().unwrap_or_default();
        merge(&mut next, &delta);
        let revision = self.known.revision + 1;
        delta.base_revision = self.known.revision;
        let first = match (&self.known.state, self.known.in_doubt) {
            (Some(_), false) => self.request(revision, Change::Delta(delta)),
            (None, false) => self.request(revision, Change::State(next.clone())),
            (_, true) => self.request(revision + RESYNC_LEAP, Change::State(next.clone())),
        };
        let mut applied = self.place.node.apply_peer(&first).await;
        if matches!(applied, Err(CallError::Stale(_))) {
            tracing::info!(peer = self.place.peer_id, "out of step with the node: whole state");
            let whole = self.request(first.revision + RESYNC_LEAP, Change::State(next.clone()));
            applied = self.place.node.apply_peer(&whole).await;
        }
        match applied {
            Ok(answer) => {
                let transport = answer.transport.unwrap_or_default();
                self.known = Known {
                    revision: answer.revision,
                    state: Some(next),
                    transport: transport.clone(),
                    in_doubt: false,
                };
                Ok(transport)
            }
            Err(error) => {
                match error {
                    CallError::Fenced(_) => {
                        self.fenced().await;
                        return Err(RequestError::Closed);
                    }
                    CallError::Unavailable(_) => self.known.in_doubt = true,
                    CallError::NotFound(_) => self.lost().await,
                    CallError::Stale(_) | CallError::Invalid(_) => {}
                }
                Err(RequestError::Node(error.to_string()))
            }
        }
    }

    /// A repeated revision changes nothing, but an unknown peer is told.
    async fn probe(&mut self) {
        if self.known.state.is_none() || self.known.in_doubt {
            return;
        }
        let nothing = node::PeerDelta { base_revision: self.known.revision, ..Default::default() };
        let request =
            self.request(self.known.revision, node::apply_peer_request::Change::Delta(nothing));
        match self.place.node.apply_peer(&request).await {
            Err(CallError::NotFound(_)) => self.lost().await,
            Err(CallError::Fenced(_)) => self.fenced().await,
            _ => {}
        }
    }

    async fn fenced(&self) {
        let Some(actor) = self.place.actor.upgrade() else { return };
        let _ = actor.send(Message::Node(Box::new(NodeNotice::Fenced))).await;
    }

    async fn lost(&mut self) {
        self.known.state = None;
        let Some(actor) = self.place.actor.upgrade() else { return };
        let event = node::event::Event::PeerLost(node::PeerLost {
            room_id: self.place.room_id.clone(),
            peer_id: self.place.peer_id.clone(),
            reason: node::LostReason::Unspecified.into(),
        });
        let _ = actor.send(Message::Node(Box::new(NodeNotice::Event(event)))).await;
    }

    fn snapshot(&self) -> node::PeerSnapshot {
        node::PeerSnapshot {
            room_id: self.place.room_id.clone(),
            peer_id: self.place.peer_id.clone(),
            revision: self.known.revision,
            state: self.known.state.clone(),
            transport: self.known.state.is_some().then(|| self.known.transport.clone()),
            ..Default::default()
        }
    }
}

/// A delta's effect on a whole state (node.proto, PeerDelta): removals first, then what is put.
fn merge(state: &mut node::PeerState, delta: &node::PeerDelta) {
    if let Some(owner_state) = &delta.owner_state {
        state.owner_state.clone_from(owner_state);
    }
    if let Some(transport) = &delta.transport {
        state.transport = Some(transport.clone());
    }
    if let Some(list) = &delta.codecs {
        state.codecs.clone_from(&list.codecs);
    }
    if let Some(list) = &delta.extensions {
        state.extensions.clone_from(&list.extensions);
    }
    state.tracks.retain(|track| !delta.remove_track_ids.contains(&track.track_id));
    for put in &delta.put_tracks {
        match state.tracks.iter_mut().find(|track| track.track_id == put.track_id) {
            Some(known) => known.clone_from(put),
            None => state.tracks.push(put.clone()),
        }
    }
    let subscriptions = &mut state.subscriptions;
    subscriptions.retain(|known| !delta.remove_subscription_track_ids.contains(&known.track_id));
    for put in &delta.put_subscriptions {
        match subscriptions.iter_mut().find(|known| known.track_id == put.track_id) {
            Some(known) => known.clone_from(put),
            None => subscriptions.push(put.clone()),
        }
    }
    if let Some(data) = &delta.data {
        state.data = Some(data.clone());
    }
    if let Some(cap) = delta.max_egress_bitrate {
        state.max_egress_bitrate = cap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(id: &str, mid: &str) -> node::Track {
        node::Track { track_id: id.to_owned(), mid: mid.to_owned(), ..Default::default() }
    }

    #[test]
    fn a_delta_changes_what_it_names_and_nothing_else() {
        let mut state = node::PeerState {
            owner_state: b"old".to_vec(),
            tracks: vec![track("a", "0"), track("b", "1")],
            codecs: vec![node::Codec { payload_type: 96, ..Default::default() }],
            ..Default::default()
        };
        let delta = node::PeerDelta {
            owner_state: Some(b"new".to_vec()),
            put_tracks: vec![track("b", "2"), track("c", "3")],
            remove_track_ids: vec!["a".to_owned()],
            ..Default::default()
        };
        merge(&mut state, &delta);
        assert_eq!(state.owner_state, b"new");
        assert_eq!(state.tracks, [track("b", "2"), track("c", "3")]);
        assert_eq!(state.codecs.len(), 1);
        // A track that is removed and put in one delta is put.
        let delta = node::PeerDelta {
            put_tracks: vec![track("b", "9")],
            remove_track_ids: vec!["b".to_owned()],
            codecs: Some(node::CodecList::default()),
            ..Default::default()
        };
        merge(&mut state, &delta);
        assert_eq!(state.tracks, [track("c", "3"), track("b", "9")]);
        assert!(state.codecs.is_empty());
    }
}
