//! The task that owns a room: messages in, events to sessions and calls to the media node out.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use chappe_proto::node::v1 as node;
use livekit_protocol::{DisconnectReason, leave_request::Action};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    handle::{Attachment, Change, Count, Message, NodeNotice, Reply, RoomHandle, Who},
    home::{Fenced, Home},
    ids,
    peer::{PeerLink, PeerPlace},
    registry::LiveRooms,
    report,
    state::{Effect, MAX_SAVED, Now, RoomState},
    types::*,
};
use crate::{
    node::{CallError, Node},
    store::Store,
};

/// Messages that wait for the actor; senders wait beyond.
const MAILBOX: usize = 1_024;

/// A session's place in the room. A session that was replaced by a resume holds an older number.
struct Session {
    attachment: Attachment,
    events: mpsc::Sender<Box<RoomEvent>>,
}

/// What the node is told of a room that ends here.
enum Closing {
    /// To forget it.
    Remove,
    /// To keep it, in this state, for the next control plane.
    HandOver(Vec<u8>),
    /// Nothing: another control plane commands it.
    Fenced,
}

/// What a room's task needs besides the room.
pub(super) struct Surroundings {
    pub(super) live: Arc<LiveRooms>,
    pub(super) store: Arc<dyn Store>,
    pub(super) epoch: u64,
}

pub(super) struct RoomActor {
    state: RoomState,
    around: Surroundings,
    count: Arc<Count>,
    mailbox: mpsc::Receiver<Message>,
    own: mpsc::WeakSender<Message>,
    sessions: HashMap<ParticipantSid, Session>,
    attachments: u64,
    peers: HashMap<(ParticipantSid, PeerRole), PeerLink>,
    home: Home,
    ended: bool,
    closing: Closing,
    /// Peers stay on the node when the room ends.
    kept: Arc<AtomicBool>,
}

impl RoomActor {
    /// A room that starts now.
    pub(super) fn open(state: RoomState, node: Node, around: Surroundings) -> (RoomHandle, Self) {
        Self::new(state, Home::new(node), around)
    }

    fn new(state: RoomState, home: Home, around: Surroundings) -> (RoomHandle, Self) {
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let (sid, name) = (state.sid().into(), state.name().into());
        let own = sender.downgrade();
        let handle = RoomHandle::new(sid, name, sender);
        let actor = Self {
            state,
            around,
            count: handle.count().clone(),
            mailbox,
            own,
            sessions: HashMap::new(),
            attachments: 0,
            peers: HashMap::new(),
            home,
            ended: false,
            closing: Closing::Remove,
            kept: Arc::default(),
        };
        (handle, actor)
    }

    /// A room that the node kept while no control plane was there.
    pub(super) fn take_over(
        state: RoomState,
        node: Node,
        revision: u64,
        peers: Vec<node::PeerSnapshot>,
        around: Surroundings,
    ) -> (RoomHandle, Self) {
        let (handle, mut actor) = Self::new(state, Home::taken_over(node, revision), around);
        let now = now();
        for mut snapshot in peers {
            let owner = ids::peer_of(&snapshot.peer_id);
            let Some((sid, role)) = owner.filter(|(sid, _)| actor.state.has(sid)) else {
                actor.remove_stray(snapshot.peer_id);
                continue;
            };
            let connected = snapshot.connected;
            actor.demanded(std::mem::take(&mut snapshot.layer_demands), now);
            let link = PeerLink::restored(actor.place(&sid, role), snapshot);
            actor.peers.insert((sid.clone(), role), link);
            if connected {
                actor.state.peer_connected(&sid, role);
            }
        }
        for (sid, primary) in actor.state.restored_participants() {
            let media = actor.peers.get(&(sid.clone(), primary)).is_some_and(|peer| peer.connected);
            if !media || !actor.state.is_active(&sid) {
                let reason = DisconnectReason::ConnectionTimeout;
                actor.state.leave(&sid, reason, now);
            }
        }
        (handle, actor)
    }

    pub(super) async fn run(mut self) {
        self.settle();
        while !self.ended {
            let due = self.state.poll_timeout().map(Instant::from_std);
            let due = due.into_iter().chain(self.home.due()).min();
            if due.is_some_and(|due| due <= Instant::now()) {
                // No timer for that, and no waiting behind a mailbox that is never empty.
                self.state.handle_timeout(now());
                self.settle();
                continue;
            }
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                saved = self.home.saved() => {
                    if let Err(Fenced) = saved {
                        self.fenced(now());
                    }
                }
                message = self.mailbox.recv() => match message {
                    Some(message) => self.handle(message),
                    None => break,
                },
                () = timer => continue,
            }
            self.settle();
        }
        self.close().await;
    }

    /// Nobody can reach the room any more; then the node forgets it, or keeps it for another.
    async fn close(mut self) {
        self.around.live.remove(self.state.name(), self.state.sid());
        self.sessions.clear();
        let fenced = matches!(self.closing, Closing::Fenced);
        let closing = std::mem::replace(&mut self.closing, Closing::Fenced);
        let (node, epoch) = (self.home.node().clone(), self.around.epoch);
        let (room_id, revision) = (self.state.sid().to_owned(), self.home.close());
        let last_word = async move {
            match closing {
                Closing::Remove => {
                    node.remove_room(&node::RemoveRoomRequest { room_id, epoch }).await
                }
                Closing::HandOver(owner_state) => {
                    let request = node::ApplyRoomRequest { room_id, epoch, revision, owner_state };
                    node.apply_room(&request).await
                }
                Closing::Fenced => Ok(()),
            }
        };
        tokio::pin!(last_word);
        let heard = loop {
            tokio::select! {
                heard = &mut last_word => break heard,
                // Dropped with its reply: the asker hears that the room is over.
                Some(_) = self.mailbox.recv() => {}
            }
        };
        if let Err(error) = heard {
            tracing::warn!(room = self.state.name(), %error, "the node did not hear of the end");
        }
        self.peers.clear();
        if fenced {
            // The claim is another's.
            return;
        }
        if let Err(error) = self.around.store.release(self.state.sid()).await {
            tracing::warn!(room = self.state.name(), %error, "the room stays claimed");
        }
        tracing::info!(room = self.state.name(), sid = self.state.sid(), "room ended");
    }

    fn handle(&mut self, message: Message) {
        let now = now();
        match message {
            Message::Join { request, events, reply } => self.join(*request, events, reply),
            Message::Resume { sid, identity, events, reply } => {
                self.resume(&sid, &identity, events, reply);
            }
            Message::Leave { sid, attachment, reason } => {
                if !self.is_superseded(&sid, attachment) {
                    self.sessions.remove(&sid);
                    self.state.leave(&sid, reason, now);
                }
            }
            Message::SignalLost { sid, attachment } => {
                if self.is_current(&sid, attachment) {
                    // The session stays: its events end when the participant's time to resume does.
                    self.state.signal_lost(&sid, now);
                }
            }
            Message::ApplyPeer { sid, role, delta, reply } => {
                self.apply_peer(sid, role, delta, reply);
            }
            Message::AddTrack { sid, request, reply } => {
                let _ = reply.send(self.state.add_track(&sid, *request));
            }
            Message::Change { who, change, reply } => {
                let changed = self.change(who, *change, now);
                // What follows is on its way to the others before the asker goes on.
                self.settle();
                let _ = reply.send(changed);
            }
            Message::Room { reply } => {
                let _ = reply.send(Ok(self.state.info()));
            }
            Message::SetRoomMetadata { metadata, reply } => {
                let _ = reply.send(self.state.set_metadata(metadata));
            }
            Message::Participants { reply } => {
                let _ = reply.send(Ok(self.state.everybody()));
            }
            Message::Report { identity, reply } => self.report(&identity, reply),
            Message::SendData { packet, reliable, destinations, reply } => {
                self.send_data(&packet, reliable, destinations, reply);
            }
            Message::End { reason, action } => self.state.end(reason, action, now),
            Message::HandOver => self.hand_over(now),
            Message::Node(notice) => self.notice(*notice, now),
        }
    }

    /// Ends the room here; the node keeps it, and clients resume at the next control plane.
    fn hand_over(&mut self, now: Now) {
        let mut action = Action::Reconnect;
        match self.state.save() {
            Ok(owner_state) if owner_state.len() <= MAX_SAVED => {
                self.closing = Closing::HandOver(owner_state);
                self.kept.store(true, Ordering::Release);
                action = Action::Resume;
            }
            _ => tracing::error!(room = self.state.name(), "cannot be handed over"),
        }
        self.state.end(DisconnectReason::ServerShutdown, action, now);
    }

    /// Another control plane commands the room: nothing here may touch it any more.
    fn fenced(&mut self, now: Now) {
        tracing::warn!(room = self.state.name(), "another control plane owns the room: ends here");
        self.closing = Closing::Fenced;
        self.kept.store(true, Ordering::Release);
        self.state.end(DisconnectReason::Migration, Action::Resume, now);
    }

    fn join(
        &mut self,
        request: JoinRequest,
        events: mpsc::Sender<Box<RoomEvent>>,
        reply: Reply<(Joined, Attachment), JoinError>,
    ) {
        let joined = self.state.join(request, now()).map(|joined| {
            let attachment = self.attach(&joined.sid, events);
            (joined, attachment)
        });
        let sid = joined.as_ref().ok().map(|(joined, _)| joined.sid.clone());
        if let (Err(_), Some(sid)) = (reply.send(joined), sid) {
            // The client went away meanwhile.
            let reason = DisconnectReason::ClientInitiated;
            self.state.leave(&sid, reason, now());
        }
    }

    fn resume(
        &mut self,
        sid: &ParticipantSid,
        identity: &str,
        events: mpsc::Sender<Box<RoomEvent>>,
        reply: Reply<(Resumed, Attachment), JoinError>,
    ) {
        let resumed = match self.state.resume(sid, identity) {
            Ok(resumed) => resumed,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let attachment = self.attach(sid, events);
        let own = self.peers.iter().filter(|((owner, _), _)| owner == sid);
        let snapshots: Vec<_> = own.map(|((_, role), peer)| (*role, peer.snapshot())).collect();
        // The snapshots wait for calls under way; the room does not.
        tokio::spawn(async move {
            let mut resumed = resumed;
            for (role, snapshot) in snapshots {
                resumed.peers.extend(snapshot.await.map(|snapshot| (role, snapshot)));
            }
            let _ = reply.send(Ok((resumed, attachment)));
        });
    }

    fn attach(&mut self, sid: &ParticipantSid, events: mpsc::Sender<Box<RoomEvent>>) -> Attachment {
        self.attachments += 1;
        let attachment = Attachment(self.attachments);
        self.sessions.insert(sid.clone(), Session { attachment, events });
        attachment
    }

    fn is_current(&self, sid: &ParticipantSid, attachment: Attachment) -> bool {
        self.sessions.get(sid).is_some_and(|session| session.attachment == attachment)
    }

    /// A resume gave the participant to a newer session.
    fn is_superseded(&self, sid: &ParticipantSid, attachment: Attachment) -> bool {
        self.sessions.get(sid).is_some_and(|session| session.attachment != attachment)
    }

    fn change(&mut self, who: Who, change: Change, now: Now) -> Result<(), RequestError> {
        let (sid, own) = match who {
            Who::Own(sid) => (sid, true),
            Who::Admin(identity) => {
                let found = self.state.sid_of(&identity);
                let missing = || RequestError::NotFound(format!("participant {identity}"));
                (found.ok_or_else(missing)?, false)
            }
        };
        let state = &mut self.state;
        match change {
            Change::Publish { track, info } => state.publish(&sid, &track, info),
            Change::Unpublish(track) => state.unpublish(&sid, &track),
            Change::Mute { track, muted } => state.mute(&sid, &track, muted, own),
            Change::Subscribe { tracks, subscribe } => state.subscribe(&sid, tracks, subscribe),
            Change::NeedCodec { track, mime_types } => {
                state.need_codec(&sid, &track, &mime_types, now)
            }
            Change::Profile(update) => state.update_profile(&sid, update, own),
            Change::SubscriptionPermission(audience) => state.set_audience(&sid, audience),
            Change::LocalAudio(update) => state.update_local_audio(&sid, update),
            Change::LocalVideo(update) => state.update_local_video(&sid, update),
            Change::ForceTcp(forced) => state.force_tcp(&sid, forced),
            Change::Permissions(permissions) => state.set_permissions(&sid, permissions, now),
            Change::Remove => {
                let reason = DisconnectReason::ParticipantRemoved;
                let action = Action::Disconnect;
                state.expel(&sid, reason, action, now);
                Ok(())
            }
        }
    }

    fn place(&self, sid: &ParticipantSid, role: PeerRole) -> PeerPlace {
        PeerPlace {
            node: self.home.node().clone(),
            room_id: self.state.sid().to_owned(),
            peer_id: ids::peer_id(sid, role),
            epoch: self.around.epoch,
            room_ready: self.home.ready(),
            kept: self.kept.clone(),
            actor: self.own.clone(),
        }
    }

    fn apply_peer(
        &mut self,
        sid: ParticipantSid,
        role: PeerRole,
        delta: Box<node::PeerDelta>,
        reply: Reply<node::LocalTransport>,
    ) {
        if !self.state.has(&sid) {
            let _ = reply.send(Err(RequestError::Closed));
            return;
        }
        let key = (sid, role);
        if !self.peers.contains_key(&key) {
            let link = PeerLink::new(self.place(&key.0, role));
            self.peers.insert(key.clone(), link);
        }
        if let Some(peer) = self.peers.get(&key) {
            peer.apply(delta, reply);
        }
    }

    fn send_data(
        &self,
        packet: &livekit_protocol::DataPacket,
        reliable: bool,
        destinations: Vec<String>,
        reply: Reply<()>,
    ) {
        let request = node::SendDataRequest {
            room_id: self.state.sid().to_owned(),
            epoch: self.around.epoch,
            packet: packet.encode_to_vec(),
            reliable,
            destinations,
        };
        let node = self.home.node().clone();
        tokio::spawn(async move {
            let sent = node.send_data(request).await.map_err(|error| match error {
                CallError::Invalid(why) => RequestError::Invalid(why),
                other => RequestError::Node(other.to_string()),
            });
            let _ = reply.send(sent);
        });
    }

    fn report(&self, identity: &str, reply: Reply<ParticipantReport>) {
        let Some(report) = self.state.report(identity) else {
            let _ = reply.send(Err(RequestError::NotFound(format!("participant {identity}"))));
            return;
        };
        let own = self.peers.keys().filter(|(owner, _)| *owner == report.sid);
        let roles = own.map(|(_, role)| *role).collect();
        report::ask(self.home.node().clone(), self.state.sid().to_owned(), roles, report, reply);
    }

    fn notice(&mut self, notice: NodeNotice, now: Now) {
        match notice {
            NodeNotice::Event(event) => self.node_event(event, now),
            NodeNotice::Peers(node, snapshots) if self.home.node().is(&node) => {
                // What was said meanwhile is lost.
                self.state.speakers(&[]);
                self.resynchronise(snapshots, now);
            }
            // Of a node that was given up and came back: the room lives elsewhere.
            NodeNotice::Peers(node, _) => self.forget_on(node),
            NodeNotice::Fenced => self.fenced(now),
            NodeNotice::Lost(node) => {
                if !self.home.node().is(&node) {
                    return;
                }
                tracing::warn!(room = self.state.name(), "the media node is gone");
                self.state.end(DisconnectReason::MediaFailure, Action::Reconnect, now);
            }
        }
    }

    fn node_event(&mut self, event: node::event::Event, now: Now) {
        use node::event::Event;
        match event {
            Event::PeerConnected(event) => {
                let Some((sid, role)) = ids::peer_of(&event.peer_id) else { return };
                self.connected(&sid, role);
            }
            Event::PeerLost(event) => {
                let Some((sid, role)) = ids::peer_of(&event.peer_id) else { return };
                let reason = event.reason();
                if self.peers.remove(&(sid.clone(), role)).is_some() {
                    self.state.peer_lost(&sid, role, reason, now);
                }
            }
            Event::DataReady(event) => {
                let Some((sid, role)) = ids::peer_of(&event.peer_id) else { return };
                self.data_ready(&sid, role);
            }
            Event::DataOverflow(event) => {
                let Some((sid, role)) = ids::peer_of(&event.peer_id) else { return };
                self.state.data_overflow(&sid, role);
            }
            Event::LayerDemand(event) => self.demanded(vec![event], now),
            Event::StreamState(event) => {
                let Some((sid, _)) = ids::peer_of(&event.peer_id) else { return };
                self.state.stream_states(&sid, [(&*event.track_id, event.paused)]);
            }
            Event::PeerStats(event) => {
                let Some((sid, role)) = ids::peer_of(&event.peer_id) else { return };
                self.state.path_stats(&sid, role, &event);
            }
            Event::SpeakersChanged(event) => self.state.speakers(&event.speakers),
            Event::TrackStarted(event) => {
                let track = event.track.unwrap_or_default().track_id;
                tracing::debug!(room = self.state.name(), track, "first packet");
            }
            Event::Snapshot(_) => {}
        }
    }

    fn demanded(&mut self, demands: Vec<node::LayerDemand>, now: Now) {
        for demand in demands {
            self.state.layer_demand(&demand.track_id, demand.max_spatial_layer, now);
        }
    }

    fn connected(&mut self, sid: &ParticipantSid, role: PeerRole) {
        if let Some(peer) = self.peers.get_mut(&(sid.clone(), role)) {
            peer.connected = true;
            self.state.peer_connected(sid, role);
        }
    }

    fn data_ready(&mut self, sid: &ParticipantSid, role: PeerRole) {
        if let Some(peer) = self.peers.get_mut(&(sid.clone(), role)) {
            peer.data_ready = true;
            self.state.data_ready(sid, role);
        }
    }

    /// Events were missed: what did they say?
    fn resynchronise(&mut self, snapshots: Vec<node::PeerSnapshot>, now: Now) {
        let mut silent: Vec<_> = self.peers.keys().cloned().collect();
        for snapshot in snapshots {
            let key = ids::peer_of(&snapshot.peer_id);
            let Some((key, peer)) = key.and_then(|key| Some((key.clone(), self.peers.get(&key)?)))
            else {
                self.remove_stray(snapshot.peer_id);
                continue;
            };
            let (was_connected, was_ready) = (peer.connected, peer.data_ready);
            silent.retain(|other| *other != key);
            self.demanded(snapshot.layer_demands, now);
            let subscribed = snapshot.state.iter().flat_map(|state| &state.subscriptions);
            let states = subscribed.map(|subscription| {
                let track = &subscription.track_id;
                (&**track, snapshot.paused_track_ids.contains(track))
            });
            self.state.stream_states(&key.0, states);
            if snapshot.connected && !was_connected {
                self.connected(&key.0, key.1);
            }
            if snapshot.data_ready && !was_ready {
                self.data_ready(&key.0, key.1);
            }
        }
        // Lost, or made after the snapshot was taken: the node knows.
        for key in silent {
            if let Some(peer) = self.peers.get(&key) {
                peer.probe();
            }
        }
    }

    fn forget_on(&self, node: Node) {
        let request = node::RemoveRoomRequest {
            room_id: self.state.sid().to_owned(),
            epoch: self.around.epoch,
        };
        tokio::spawn(async move { node.remove_room(&request).await });
    }

    /// A peer that belongs to nobody.
    fn remove_stray(&self, peer_id: String) {
        let request = node::RemovePeerRequest {
            room_id: self.state.sid().to_owned(),
            peer_id,
            epoch: self.around.epoch,
        };
        let node = self.home.node().clone();
        tokio::spawn(async move {
            if let Err(error) = node.remove_peer(&request).await {
                tracing::warn!(peer = request.peer_id, %error, "a stray peer stays");
            }
        });
    }

    /// Does what follows from the last message.
    fn settle(&mut self) {
        while let Some(effect) = self.state.poll_effect() {
            match effect {
                Effect::Tell(sid, event) => self.tell(&sid, event),
                Effect::Withdraw(sid, variants) => self.withdraw(&sid, &variants),
                Effect::Gone(sid) => {
                    self.sessions.remove(&sid);
                    self.peers.retain(|(owner, _), _| *owner != sid);
                }
                Effect::Save => self.home.outdate(),
                Effect::End => self.ended = true,
            }
        }
        if !self.ended {
            self.home.save(&self.state, self.around.epoch);
        }
        // A walk past everybody: with more to come, the last one tells.
        if self.mailbox.is_empty() {
            let state = &self.state;
            self.count.set(state.participants(), state.published_tracks(), state.levels());
        }
    }

    fn tell(&mut self, sid: &ParticipantSid, event: RoomEvent) {
        let Some(session) = self.sessions.get(sid) else { return };
        let Err(error) = session.events.try_send(Box::new(event)) else { return };
        if matches!(error, mpsc::error::TrySendError::Full(_)) {
            tracing::warn!(participant = %sid, "the session does not read its events: closed");
        }
        self.sessions.remove(sid);
        self.state.signal_lost(sid, now());
    }

    /// Nobody is there who would stop taking a track that is forbidden now.
    fn withdraw(&self, sid: &ParticipantSid, variants: &[String]) {
        for ((owner, role), peer) in &self.peers {
            if owner != sid || *role == PeerRole::Publisher || variants.is_empty() {
                continue;
            }
            let delta = node::PeerDelta {
                remove_subscription_track_ids: variants.to_vec(),
                ..Default::default()
            };
            let (reply, _) = oneshot::channel();
            peer.apply(Box::new(delta), reply);
        }
    }
}

pub(super) fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now {
        mono: Instant::now().into_std(),
        unix_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
    }
}
