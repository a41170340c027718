//! The signalling of one participant as a pure state machine.
//!
//! The world comes in by `handle_*` with the time of the call; what follows from it is drained with
//! [`Session::poll_effect`] until it is `None`, before the next call. [`Session::poll_timeout`] says when
//! [`Session::handle_timeout`] is due. Room commands are executed in order, one after the other, and their outcomes
//! come back through [`Session::handle_reply`].

mod deadline;
mod events;
mod negotiate;
mod peer;
mod publish;
mod requests;
mod resume;
mod subscribe;
mod welcome;

#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_proto::node::v1 as node;
use livekit_protocol::{self as proto, signal_response::Message};
use prost::Message as _;
use rand::{Rng, SeedableRng, rngs::StdRng};

pub use self::welcome::Welcome;
use self::{
    deadline::{Deadline, Deadlines},
    negotiate::Renegotiation,
    peer::Peer,
    publish::Publications,
    subscribe::{SsrcSource, Subscriptions},
};
use super::sdp::Negotiator;
use crate::{
    auth::Permissions,
    room::{
        Joined, News, ParticipantSid, PeerRole, ProfileUpdate, PublishedInfo, RequestError,
        TrackSid,
    },
};

/// What a session knows from its join or resume request.
#[derive(Clone, Debug)]
pub struct SessionFacts {
    /// Its id in the room.
    pub sid: ParticipantSid,
    /// Unique in the room; also the address of its data packets.
    pub identity: String,
    /// Two PeerConnections (`/rtc`) instead of one (`/rtc/v1`).
    pub two_peers: bool,
    /// Its browser plays tracks of one MediaStream in step, and tells them apart by m-line.
    pub syncs_streams: bool,
    /// Repair packets may be described to it before it has said that it takes any.
    pub may_be_offered_repair: bool,
    /// What it may do.
    pub permissions: Permissions,
    /// Unix time in milliseconds at `started`.
    pub unix_ms: i64,
    /// When the facts were taken.
    pub started: Instant,
    /// Seed of SSRCs and session ids.
    pub seed: u64,
}

/// What all sessions of a server have in common.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// How often clients ping.
    pub ping_interval: Duration,
    /// Silence after which a client resumes.
    pub ping_timeout: Duration,
    /// A participant whose media is not connected by then is dropped.
    pub join_timeout: Duration,
    /// How often the client gets a fresh token.
    pub token_refresh: Duration,
    /// An offer of ours (or a request for one) that stays unanswered for this long ends in a reconnect.
    pub answer_timeout: Duration,
    /// Tracks announced and not yet sent, at most.
    pub max_pending_tracks: usize,
    /// Audio that its publisher calls silent is not sent to anybody.
    pub suppress_silence: bool,
    /// STUN and TURN servers for the clients.
    pub ice_servers: Vec<proto::IceServer>,
    /// For people to read.
    pub region: String,
    /// `ND_` and 12 characters.
    pub node_id: String,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(15),
            join_timeout: Duration::from_secs(60),
            token_refresh: Duration::from_secs(300),
            answer_timeout: Duration::from_secs(15),
            max_pending_tracks: 64,
            suppress_silence: false,
            ice_servers: Vec::new(),
            region: String::new(),
            node_id: String::new(),
        }
    }
}

/// What a session wants done.
#[derive(Debug)]
pub enum Effect {
    /// To the client.
    Send(Box<Message>),
    /// To the client, before everything else.
    Welcome(Box<Welcome>),
    /// To the client, as it is.
    Announce(Arc<News>),
    /// To the room; its outcome comes back by [`Session::handle_reply`].
    Room(RoomCommand),
    /// A fresh token is due.
    RefreshToken(Permissions),
    /// Close the WebSocket once everything before it is sent; the session goes on.
    CloseSignal,
    /// The session is over: close the WebSocket once everything before it is sent.
    End,
}

/// What a session asks of its room.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each is the method of RoomHandle with the same name")]
pub enum RoomCommand {
    ApplyPeer { role: PeerRole, delta: Box<node::PeerDelta> },
    AddTrack(Box<proto::AddTrackRequest>),
    PublishTrack { track: TrackSid, info: PublishedInfo },
    UnpublishTrack(TrackSid),
    MuteTrack { track: TrackSid, muted: bool },
    UpdateSubscription { tracks: Vec<TrackSid>, subscribe: bool },
    NeedCodec { track: TrackSid, mime_types: Vec<String> },
    UpdateMetadata { request: Box<proto::UpdateParticipantMetadata>, update: ProfileUpdate },
    SubscriptionPermission(proto::SubscriptionPermission),
    UpdateLocalAudioTrack(proto::UpdateLocalAudioTrack),
    UpdateLocalVideoTrack(proto::UpdateLocalVideoTrack),
    ForceTcp(bool),
    SignalLost,
    Leave(proto::DisconnectReason),
}

impl RoomCommand {
    /// For logs.
    fn name(&self) -> &'static str {
        match self {
            Self::ApplyPeer { .. } => "ApplyPeer",
            Self::AddTrack(_) => "AddTrack",
            Self::PublishTrack { .. } => "PublishTrack",
            Self::UnpublishTrack(_) => "UnpublishTrack",
            Self::MuteTrack { .. } => "MuteTrack",
            Self::UpdateSubscription { .. } => "UpdateSubscription",
            Self::NeedCodec { .. } => "NeedCodec",
            Self::UpdateMetadata { .. } => "UpdateMetadata",
            Self::SubscriptionPermission(_) => "SubscriptionPermission",
            Self::UpdateLocalAudioTrack(_) => "UpdateLocalAudioTrack",
            Self::UpdateLocalVideoTrack(_) => "UpdateLocalVideoTrack",
            Self::ForceTcp(_) => "ForceTcp",
            Self::SignalLost => "SignalLost",
            Self::Leave(_) => "Leave",
        }
    }
}

/// How a room command ended.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Of [`RoomCommand::ApplyPeer`].
    Peer {
        /// Which peer.
        role: PeerRole,
        /// The node's side of the transport.
        outcome: Result<node::LocalTransport, RequestError>,
    },
    /// Of [`RoomCommand::AddTrack`].
    Track {
        /// As it was asked.
        request: Box<proto::AddTrackRequest>,
        /// The track with its id.
        outcome: Result<proto::TrackInfo, RequestError>,
    },
    /// Of any other command.
    Done {
        /// As it was asked.
        command: RoomCommand,
        /// Refused or not.
        outcome: Result<(), RequestError>,
    },
}

/// One participant's signalling.
#[derive(Debug)]
pub struct Session {
    facts: SessionFacts,
    config: SessionConfig,
    /// The client's only PeerConnection, or the uplink of two.
    uplink: Peer,
    /// The downlink of two.
    downlink: Option<Peer>,
    publications: Publications,
    subscriptions: Subscriptions,
    ssrcs: SsrcSource,
    /// The client's offer that waits for its turn: the latest counts.
    next_offer: Option<proto::SessionDescription>,
    /// AddTrack commands on their way: an offer after them needs their ids.
    grants_in_flight: usize,
    renegotiation: Renegotiation,
    deadlines: Deadlines,
    effects: VecDeque<Effect>,
    /// A WebSocket is there.
    attached: bool,
    /// Media is connected.
    active: bool,
    ended: bool,
    /// What the client must still hear when it comes back, in order.
    missed: Vec<Message>,
    /// Whom the client knows of.
    known: BTreeMap<String, Known>,
    /// What was wanted last of each track, told again after a resume.
    demands: HashMap<String, Message>,
    /// The client asked to be cut off when it resumes (a simulated failure).
    cut_on_resume: Option<CutOnResume>,
}

/// What it takes to tell a client that somebody it knows is gone.
#[derive(Debug)]
struct Known {
    identity: Box<str>,
    /// The latest that was told.
    version: u32,
}

impl Known {
    fn of(participant: &proto::ParticipantInfo) -> Self {
        Self { identity: participant.identity.as_str().into(), version: participant.version }
    }
}

/// When a simulated failure cuts the WebSocket of a client that comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CutOnResume {
    /// The client gets nothing at all.
    BeforeMessages,
    /// The client got what says that it is back.
    AfterMessages,
}

/// Messages kept for a client whose WebSocket is away, at most.
const MAX_MISSED: usize = 64;

/// Size of one participant update on the wire, at most: 128 KiB.
const MAX_UPDATE_BYTES: usize = 128 * 1024;

impl Session {
    /// A participant that joined: the first effect is its JoinResponse.
    #[must_use]
    pub fn join(facts: SessionFacts, config: SessionConfig, joined: Joined, now: Instant) -> Self {
        let mut rng = StdRng::seed_from_u64(facts.seed);
        let role = if facts.two_peers { PeerRole::Publisher } else { PeerRole::Single };
        let uplink = Peer::new(role, Negotiator::answering(rng.random::<u64>() >> 2));
        let downlink = facts.two_peers.then(|| {
            Peer::new(PeerRole::Subscriber, Negotiator::offering(rng.random::<u64>() >> 2))
        });
        let mut session = Self::with_peers(facts, config, uplink, downlink, rng);
        session.deadlines.set(Deadline::Join, now + session.config.join_timeout);
        session.welcome(joined, now);
        session
    }

    fn with_peers(
        facts: SessionFacts,
        config: SessionConfig,
        uplink: Peer,
        downlink: Option<Peer>,
        rng: StdRng,
    ) -> Self {
        Self {
            facts,
            config,
            uplink,
            downlink,
            publications: Publications::default(),
            subscriptions: Subscriptions::default(),
            ssrcs: SsrcSource::new(rng),
            next_offer: None,
            grants_in_flight: 0,
            renegotiation: Renegotiation::default(),
            deadlines: Deadlines::default(),
            effects: VecDeque::new(),
            attached: true,
            active: false,
            ended: false,
            missed: Vec::new(),
            known: BTreeMap::new(),
            demands: HashMap::new(),
            cut_on_resume: None,
        }
    }

    /// The participant's id.
    #[must_use]
    pub fn sid(&self) -> &ParticipantSid {
        &self.facts.sid
    }

    /// Unique in the room.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.facts.identity
    }

    /// What is to be done next; to be drained after every other call.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Session::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ended { None } else { self.deadlines.next() }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(deadline) = self.deadlines.take_due(now).filter(|_| !self.ended) {
            match deadline {
                Deadline::Join => self.finish(
                    proto::DisconnectReason::JoinFailure,
                    proto::leave_request::Action::Disconnect,
                ),
                Deadline::TokenRefresh => self.refresh_token(now),
                Deadline::Negotiate => self.negotiate_downlink(now),
                Deadline::Answer => self.handle_unanswered(now),
                Deadline::SpeakerEnd => self.simulate_speaker(None, now),
            }
        }
    }

    /// A room command ended.
    pub fn handle_reply(&mut self, reply: Reply, now: Instant) {
        if self.ended {
            return;
        }
        match reply {
            Reply::Peer { role, outcome: Ok(local) } => self.handle_applied(role, local, now),
            Reply::Peer { role, outcome: Err(error) } => self.handle_not_applied(role, &error),
            Reply::Track { request, outcome } => self.handle_granted(*request, outcome, now),
            Reply::Done { command, outcome } => self.handle_done(command, outcome, now),
        }
    }

    /// The WebSocket is gone; media may live on and the client may come back.
    pub fn handle_signal_lost(&mut self) {
        if !self.attached || self.ended {
            return;
        }
        self.attached = false;
        self.deadlines.clear(Deadline::Answer);
        self.command(RoomCommand::SignalLost);
    }

    fn send(&mut self, message: Message) {
        if self.attached {
            self.effects.push_back(Effect::Send(Box::new(message)));
            return;
        }
        let worth_keeping = matches!(
            message,
            Message::TrackPublished(_)
                | Message::TrackUnpublished(_)
                | Message::RequestResponse(_)
                | Message::Mute(_)
        );
        if worth_keeping && self.missed.len() < MAX_MISSED {
            self.missed.push(message);
        }
    }

    fn command(&mut self, command: RoomCommand) {
        self.effects.push_back(Effect::Room(command));
    }

    fn refresh_token(&mut self, now: Instant) {
        if self.attached {
            self.effects.push_back(Effect::RefreshToken(self.facts.permissions.clone()));
        }
        self.deadlines.set(Deadline::TokenRefresh, now + self.config.token_refresh);
    }

    /// Ends the session: tells the client and the room.
    fn finish(&mut self, reason: proto::DisconnectReason, action: proto::leave_request::Action) {
        if self.ended {
            return;
        }
        self.send(leave_message(reason, action));
        self.command(RoomCommand::Leave(reason));
        self.end();
    }

    fn end(&mut self) {
        self.ended = true;
        self.effects.push_back(Effect::End);
    }

    /// Participants as the client should see them now, in messages of a bounded size.
    fn send_participants(&mut self, participants: Vec<proto::ParticipantInfo>) {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for participant in participants {
            let size = participant.encoded_len();
            if bytes + size > MAX_UPDATE_BYTES && !chunk.is_empty() {
                self.send(Message::Update(proto::ParticipantUpdate {
                    participants: std::mem::take(&mut chunk),
                }));
                bytes = 0;
            }
            bytes += size;
            chunk.push(participant);
        }
        if !chunk.is_empty() {
            self.send(Message::Update(proto::ParticipantUpdate { participants: chunk }));
        }
    }

    fn peer_mut(&mut self, role: PeerRole) -> Option<&mut Peer> {
        if self.uplink.role == role {
            return Some(&mut self.uplink);
        }
        self.downlink.as_mut().filter(|peer| peer.role == role)
    }

    /// The peer that carries what the client takes.
    fn sending_peer(&mut self) -> &mut Peer {
        self.downlink.as_mut().unwrap_or(&mut self.uplink)
    }

    fn unix_ms(&self, now: Instant) -> i64 {
        let elapsed = now.saturating_duration_since(self.facts.started).as_millis();
        self.facts.unix_ms.saturating_add(i64::try_from(elapsed).unwrap_or(i64::MAX))
    }
}

/// The message that ends a client's session, or its connection.
pub(super) fn leave_message(
    reason: proto::DisconnectReason,
    action: proto::leave_request::Action,
) -> Message {
    Message::Leave(proto::LeaveRequest {
        can_reconnect: action != proto::leave_request::Action::Disconnect,
        reason: reason as i32,
        action: action as i32,
        regions: None,
    })
}
