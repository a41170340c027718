//! The way into a room: a cheap handle whose calls become messages to the room's actor.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use chappe_proto::node::v1 as node;
use livekit_protocol as proto;
use tokio::sync::{mpsc, oneshot};

use super::types::*;
use crate::{auth::Permissions, node::Node};

/// Which session of a participant speaks: a resume makes a new one, and the older is not heard any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Attachment(pub(super) u64);

/// Where an answer goes.
pub(super) type Reply<T, E = RequestError> = oneshot::Sender<Result<T, E>>;

/// Who asks for a change to a participant.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// The participant itself.
    Own(ParticipantSid),
    /// An API call with the admin grant, about the participant of this identity.
    Admin(String),
}

/// A change to one participant.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Publish { track: TrackSid, info: PublishedInfo },
    Unpublish(TrackSid),
    Mute { track: TrackSid, muted: bool },
    Subscribe { tracks: Vec<TrackSid>, subscribe: bool },
    NeedCodec { track: TrackSid, mime_types: Vec<String> },
    Profile(ProfileUpdate),
    SubscriptionPermission(proto::SubscriptionPermission),
    LocalAudio(proto::UpdateLocalAudioTrack),
    LocalVideo(proto::UpdateLocalVideoTrack),
    ForceTcp(bool),
    Permissions(Permissions),
    Remove,
}

/// What reaches the actor.
#[derive(Debug)]
pub(super) enum Message {
    Join {
        request: Box<JoinRequest>,
        // Boxed: a queue has room for 32 from the start, 10 KiB for each participant otherwise.
        events: mpsc::Sender<Box<RoomEvent>>,
        reply: Reply<(Joined, Attachment), JoinError>,
    },
    Resume {
        sid: ParticipantSid,
        identity: String,
        events: mpsc::Sender<Box<RoomEvent>>,
        reply: Reply<(Resumed, Attachment), JoinError>,
    },
    Leave {
        sid: ParticipantSid,
        attachment: Attachment,
        reason: proto::DisconnectReason,
    },
    SignalLost {
        sid: ParticipantSid,
        attachment: Attachment,
    },
    ApplyPeer {
        sid: ParticipantSid,
        role: PeerRole,
        delta: Box<node::PeerDelta>,
        reply: Reply<node::LocalTransport>,
    },
    AddTrack {
        sid: ParticipantSid,
        request: Box<proto::AddTrackRequest>,
        reply: Reply<proto::TrackInfo>,
    },
    Change {
        who: Who,
        change: Box<Change>,
        reply: Reply<()>,
    },
    Room {
        reply: Reply<proto::Room>,
    },
    SetRoomMetadata {
        metadata: String,
        reply: Reply<proto::Room>,
    },
    Report {
        identity: String,
        reply: Reply<ParticipantReport>,
    },
    Participants {
        reply: Reply<Vec<proto::ParticipantInfo>>,
    },
    SendData {
        packet: Box<proto::DataPacket>,
        reliable: bool,
        destinations: Vec<String>,
        reply: Reply<()>,
    },
    End {
        reason: proto::DisconnectReason,
        action: proto::leave_request::Action,
    },
    /// The room ends here and goes on under the next control plane.
    HandOver,
    Node(Box<NodeNotice>),
}

/// What the room's node said.
#[derive(Clone, Debug)]
pub(super) enum NodeNotice {
    /// An event about this room.
    Event(node::event::Event),
    /// Every peer of this room that is on a node now.
    Peers(Node, Vec<node::PeerSnapshot>),
    /// A node and every peer on it are gone.
    Lost(Node),
    /// The room has another owner by now.
    Fenced,
}

/// A live room, as sessions and APIs hold it.
#[derive(Clone, Debug)]
pub struct RoomHandle {
    sid: Arc<str>,
    name: Arc<str>,
    messages: mpsc::Sender<Message>,
    attachment: Attachment,
    count: Arc<Count>,
}

/// What a room holds, for who counts: written by its actor.
#[derive(Debug, Default)]
pub(super) struct Count {
    participants: AtomicUsize,
    tracks: AtomicUsize,
    /// Participants by level of their connections: see `RoomState::levels`.
    levels: [AtomicUsize; 4],
}

impl Count {
    pub(super) fn set(&self, participants: usize, tracks: usize, levels: [usize; 4]) {
        self.participants.store(participants, Ordering::Relaxed);
        self.tracks.store(tracks, Ordering::Relaxed);
        for (place, count) in self.levels.iter().zip(levels) {
            place.store(count, Ordering::Relaxed);
        }
    }
}

impl RoomHandle {
    pub(super) fn new(sid: Arc<str>, name: Arc<str>, messages: mpsc::Sender<Message>) -> Self {
        let (attachment, count) = (Attachment::default(), Arc::default());
        Self { sid, name, messages, attachment, count }
    }

    pub(super) fn count(&self) -> &Arc<Count> {
        &self.count
    }

    /// Participants and published tracks now, and participants by level of their connections.
    pub(super) fn population(&self) -> (usize, usize, [usize; 4]) {
        let count = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        let Count { participants, tracks, levels } = &*self.count;
        (count(participants), count(tracks), levels.each_ref().map(count))
    }

    /// `RM_` and 12 characters.
    #[must_use]
    pub fn sid(&self) -> &str {
        &self.sid
    }

    /// The name under which clients join.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }

    /// Waits until the room is over.
    pub(super) async fn closed(&self) {
        self.messages.closed().await;
    }

    pub(super) async fn send(&self, message: Message) -> bool {
        self.messages.send(message).await.is_ok()
    }

    async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(reply)).await.map_err(|_| RequestError::Closed)?;
        answer.await.map_err(|_| RequestError::Closed)?
    }

    async fn change(&self, who: Who, change: Change) -> Result<(), RequestError> {
        self.ask(|reply| Message::Change { who, change: Box::new(change), reply }).await
    }

    async fn change_own(&self, sid: &ParticipantSid, change: Change) -> Result<(), RequestError> {
        self.change(Who::Own(sid.clone()), change).await
    }

    /// `None` when the room ended meanwhile. The handle in the answer speaks for the new session.
    pub(super) async fn join(
        &self,
        request: JoinRequest,
        events: mpsc::Sender<Box<RoomEvent>>,
    ) -> Option<Result<(Self, Joined), JoinError>> {
        let (reply, answer) = oneshot::channel();
        let request = Box::new(request);
        self.messages.send(Message::Join { request, events, reply }).await.ok()?;
        let joined = answer.await.ok()?;
        Some(joined.map(|(joined, attachment)| (self.speaking(attachment), joined)))
    }

    /// `None` when the room ended meanwhile. The handle in the answer speaks for the new session.
    pub(super) async fn resume(
        &self,
        sid: ParticipantSid,
        identity: String,
        events: mpsc::Sender<Box<RoomEvent>>,
    ) -> Option<Result<(Self, Resumed), JoinError>> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Resume { sid, identity, events, reply }).await.ok()?;
        let resumed = answer.await.ok()?;
        Some(resumed.map(|(resumed, attachment)| (self.speaking(attachment), resumed)))
    }

    fn speaking(&self, attachment: Attachment) -> Self {
        Self { attachment, ..self.clone() }
    }

    /// Changes one of the participant's peers on the media node. The room fills in ids, epoch and revisions
    /// (`delta.base_revision` is ignored) and creates the peer on first use; peers go together with their participant.
    /// Calls for one peer keep their order.
    pub async fn apply_peer(
        &self,
        sid: &ParticipantSid,
        role: PeerRole,
        delta: node::PeerDelta,
    ) -> Result<node::LocalTransport, RequestError> {
        let (sid, delta) = (sid.clone(), Box::new(delta));
        self.ask(|reply| Message::ApplyPeer { sid, role, delta, reply }).await
    }

    /// Grants a track id. The others see the track once it is published. With `request.sid` set it adds a backup codec
    /// to that track. The same `cid` asked twice while pending gives the same answer.
    pub async fn add_track(
        &self,
        sid: &ParticipantSid,
        request: proto::AddTrackRequest,
    ) -> Result<proto::TrackInfo, RequestError> {
        let (sid, request) = (sid.clone(), Box::new(request));
        self.ask(|reply| Message::AddTrack { sid, request, reply }).await
    }

    /// The track's media section is negotiated: the others see it and subscriptions start. Called again with other
    /// variants it replaces them, and subscribers hear [`RoomEvent::Subscribe`] again.
    pub async fn publish_track(
        &self,
        sid: &ParticipantSid,
        track: &TrackSid,
        info: PublishedInfo,
    ) -> Result<(), RequestError> {
        self.change_own(sid, Change::Publish { track: track.clone(), info }).await
    }

    /// The client withdrew the track, published or pending.
    pub async fn unpublish_track(
        &self,
        sid: &ParticipantSid,
        track: &TrackSid,
    ) -> Result<(), RequestError> {
        self.change_own(sid, Change::Unpublish(track.clone())).await
    }

    /// The client muted or unmuted its track.
    pub async fn mute_track(
        &self,
        sid: &ParticipantSid,
        track: &TrackSid,
        muted: bool,
    ) -> Result<(), RequestError> {
        self.change_own(sid, Change::Mute { track: track.clone(), muted }).await
    }

    /// The client takes or leaves tracks, whatever `auto_subscribe` says.
    pub async fn update_subscription(
        &self,
        sid: &ParticipantSid,
        tracks: Vec<TrackSid>,
        subscribe: bool,
    ) -> Result<(), RequestError> {
        self.change_own(sid, Change::Subscribe { tracks, subscribe }).await
    }

    /// The participant can decode none of the track's variants, but these: asks the publisher for a backup codec that
    /// it announced. `NotFound` where it announced none of them.
    pub async fn need_codec(
        &self,
        sid: &ParticipantSid,
        track: &TrackSid,
        mime_types: Vec<String>,
    ) -> Result<(), RequestError> {
        self.change_own(sid, Change::NeedCodec { track: track.clone(), mime_types }).await
    }

    /// The participant changes its own name, metadata or attributes.
    pub async fn update_metadata(
        &self,
        sid: &ParticipantSid,
        update: ProfileUpdate,
    ) -> Result<(), RequestError> {
        self.change_own(sid, Change::Profile(update)).await
    }

    /// The participant says who may take its tracks.
    pub async fn subscription_permission(
        &self,
        sid: &ParticipantSid,
        permission: proto::SubscriptionPermission,
    ) -> Result<(), RequestError> {
        self.change_own(sid, Change::SubscriptionPermission(permission)).await
    }

    /// The participant changes the features of its audio track.
    pub async fn update_local_audio_track(
        &self,
        sid: &ParticipantSid,
        update: proto::UpdateLocalAudioTrack,
    ) -> Result<(), RequestError> {
        self.change_own(sid, Change::LocalAudio(update)).await
    }

    /// The participant changes the size of its video track.
    pub async fn update_local_video_track(
        &self,
        sid: &ParticipantSid,
        update: proto::UpdateLocalVideoTrack,
    ) -> Result<(), RequestError> {
        self.change_own(sid, Change::LocalVideo(update)).await
    }

    /// The participant wants its media over ICE-TCP, also when it joins anew soon; or over any path again.
    pub async fn force_tcp(&self, sid: &ParticipantSid, forced: bool) -> Result<(), RequestError> {
        self.change_own(sid, Change::ForceTcp(forced)).await
    }

    /// The participant is gone, peers and tracks with it. Its session hears nothing more. Not heard where a resume gave
    /// the participant to another session meanwhile.
    pub async fn leave(&self, sid: &ParticipantSid, reason: proto::DisconnectReason) {
        let attachment = self.attachment;
        self.send(Message::Leave { sid: sid.clone(), attachment, reason }).await;
    }

    /// The WebSocket is gone. Without media the participant goes too, else it has a while to resume.
    pub async fn signal_lost(&self, sid: &ParticipantSid) {
        self.send(Message::SignalLost { sid: sid.clone(), attachment: self.attachment }).await;
    }

    /// The room as the wire protocol states it.
    pub async fn room(&self) -> Result<proto::Room, RequestError> {
        self.ask(|reply| Message::Room { reply }).await
    }

    /// Replaces the room's metadata (at most 512 KiB).
    pub async fn set_room_metadata(&self, metadata: String) -> Result<proto::Room, RequestError> {
        self.ask(|reply| Message::SetRoomMetadata { metadata, reply }).await
    }

    /// Everybody, hidden participants too, in order of joining.
    pub async fn participants(&self) -> Result<Vec<proto::ParticipantInfo>, RequestError> {
        self.ask(|reply| Message::Participants { reply }).await
    }

    /// One participant.
    pub async fn participant(
        &self,
        identity: &str,
    ) -> Result<proto::ParticipantInfo, RequestError> {
        let everybody = self.participants().await?;
        let found = everybody.into_iter().find(|participant| participant.identity == identity);
        found.ok_or_else(|| RequestError::NotFound(format!("participant {identity}")))
    }

    /// A participant's media in numbers, asked of its node now.
    pub async fn report(&self, identity: &str) -> Result<ParticipantReport, RequestError> {
        let identity = identity.to_owned();
        self.ask(|reply| Message::Report { identity, reply }).await
    }

    /// Ends a participant's session for an API.
    pub async fn remove_participant(&self, identity: &str) -> Result<(), RequestError> {
        self.change(Who::Admin(identity.to_owned()), Change::Remove).await
    }

    /// Mutes (or, where allowed, unmutes) a participant's track for an API.
    pub async fn mute_published_track(
        &self,
        identity: &str,
        track: &TrackSid,
        muted: bool,
    ) -> Result<proto::TrackInfo, RequestError> {
        self.change(Who::Admin(identity.to_owned()), Change::Mute { track: track.clone(), muted })
            .await?;
        let participant = self.participant(identity).await?;
        let found = participant.tracks.into_iter().find(|info| info.sid == *track.0);
        found.ok_or_else(|| RequestError::NotFound(format!("track {track}")))
    }

    /// Changes a participant for an API, whatever it may do itself.
    pub async fn update_participant(
        &self,
        identity: &str,
        profile: ProfileUpdate,
        permissions: Option<Permissions>,
    ) -> Result<proto::ParticipantInfo, RequestError> {
        self.change(Who::Admin(identity.to_owned()), Change::Profile(profile)).await?;
        if let Some(permissions) = permissions {
            self.change(Who::Admin(identity.to_owned()), Change::Permissions(permissions)).await?;
        }
        self.participant(identity).await
    }

    /// Makes a participant take or leave tracks for an API.
    pub async fn update_subscriptions_of(
        &self,
        identity: &str,
        tracks: Vec<TrackSid>,
        subscribe: bool,
    ) -> Result<(), RequestError> {
        self.change(Who::Admin(identity.to_owned()), Change::Subscribe { tracks, subscribe }).await
    }

    /// Sends a data packet to participants by identity; nobody named is everybody.
    pub async fn send_data(
        &self,
        packet: proto::DataPacket,
        reliable: bool,
        destinations: Vec<String>,
    ) -> Result<(), RequestError> {
        let packet = Box::new(packet);
        self.ask(|reply| Message::SendData { packet, reliable, destinations, reply }).await
    }
}
