//! What sessions and APIs say to a room, and what a room tells its sessions.
//!
//! A room actor is the single owner of its room. A signal session asks through [`super::RoomHandle`] and hears
//! [`RoomEvent`]s; it owns the negotiation (SDP, mids, SSRCs) of its participant, the room owns who may do what, who
//! is told what, and who takes which track.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use chappe_proto::node::v1 as node;
use livekit_protocol as proto;

use crate::auth::Permissions;

/// `PA_` and 12 characters: one join of a participant.
#[derive(
    Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(from = "String", into = "String")]
pub struct ParticipantSid(pub Arc<str>);

/// `TR_` and 14 characters: one published track.
#[derive(
    Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(from = "String", into = "String")]
pub struct TrackSid(pub Arc<str>);

impl From<String> for ParticipantSid {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<ParticipantSid> for String {
    fn from(sid: ParticipantSid) -> Self {
        sid.0.as_ref().to_owned()
    }
}

impl From<String> for TrackSid {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<TrackSid> for String {
    fn from(sid: TrackSid) -> Self {
        sid.0.as_ref().to_owned()
    }
}

impl fmt::Display for ParticipantSid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TrackSid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which PeerConnection of a participant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum PeerRole {
    /// The only one, both directions (`/rtc/v1`).
    Single,
    /// The client's uplink of two (`/rtc`).
    Publisher,
    /// The client's downlink of two (`/rtc`).
    Subscriber,
}

/// A participant as it asks to join.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Unique in the room; an older participant of the same identity is evicted.
    pub identity: String,
    /// For people to read.
    pub name: String,
    /// Application data.
    pub metadata: String,
    /// Application data by key.
    pub attributes: HashMap<String, String>,
    /// What it may do.
    pub permissions: Permissions,
    /// Standard, agent, ...
    pub kind: proto::participant_info::Kind,
    /// Takes every track without asking.
    pub auto_subscribe: bool,
    /// Two PeerConnections (`/rtc`) instead of one (`/rtc/v1`).
    pub two_peers: bool,
    /// Protocol version of the client.
    pub protocol: u32,
    /// RPC and data-stream capabilities, told to the others.
    pub client_protocol: i32,
}

/// What others see of a participant. Made and encoded once for all who hear of it: of a room of a thousand, everybody who joins
/// does of each.
#[derive(Debug)]
pub struct Presence {
    info: proto::ParticipantInfo,
    encoded: bytes::Bytes,
}

impl Presence {
    /// What these facts are to others.
    #[must_use]
    pub fn new(info: proto::ParticipantInfo) -> Self {
        let encoded = prost::Message::encode_to_vec(&info).into();
        Self { info, encoded }
    }

    /// The message in protobuf.
    #[must_use]
    pub fn encoded(&self) -> &bytes::Bytes {
        &self.encoded
    }
}

impl std::ops::Deref for Presence {
    type Target = proto::ParticipantInfo;

    fn deref(&self) -> &proto::ParticipantInfo {
        &self.info
    }
}

/// Answer to a join.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The new participant.
    pub sid: ParticipantSid,
    /// The room as the wire protocol states it.
    pub room: proto::Room,
    /// The new participant as the others see it.
    pub participant: proto::ParticipantInfo,
    /// The others, tracks included.
    pub others: Vec<Arc<Presence>>,
    /// Its identity was here lately and asked for ICE-TCP.
    pub force_tcp: bool,
}

/// Answer to a resume: the PeerConnections live on.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The room as the wire protocol states it.
    pub room: proto::Room,
    /// The participant itself.
    pub participant: proto::ParticipantInfo,
    /// The others, tracks included.
    pub others: Vec<Arc<Presence>>,
    /// What it may do.
    pub permissions: Permissions,
    /// What the session had stored in its peers' `owner_state`, with the peers' revision: enough to rebuild a session
    /// after a restart of the control plane.
    pub peers: Vec<(PeerRole, node::PeerSnapshot)>,
    /// Tracks that this participant takes now, whatever was told before.
    pub subscriptions: Vec<SubscribedTrack>,
    /// Who left lately (state DISCONNECTED) and may have been missed; tell the client first.
    pub departed: Vec<proto::ParticipantInfo>,
}

/// Why a join or resume was refused. The session turns it into a status and a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Rooms are not made by joining and nobody made this one.
    #[error("requested room does not exist")]
    RoomNotFound,
    /// `max_participants` reached.
    #[error("the room is full: it takes {0} participants")]
    RoomFull(u32),
    /// The participant to resume is gone: it has to join anew.
    #[error("the participant to resume is not here any more")]
    UnknownParticipant,
    /// Name, metadata or attributes are over their bounds.
    #[error("{0}")]
    Invalid(String),
    /// No media node takes the participant now.
    #[error("no media node is available: {0}")]
    NoNode(String),
    /// The server is stopping.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// One codec variant of a track as the node knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct TrackVariant {
    /// Id of the track on the node.
    pub node_track_id: String,
    /// For example "video/VP8".
    pub mime_type: String,
}

/// One codec of a published track, as its media section was negotiated.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct PublishedVariant {
    /// Id of the track on the node: the track's sid, or `<sid>/<codec>` for a backup codec.
    pub node_track_id: String,
    /// For example "video/VP8".
    pub mime_type: String,
    /// The m-line it arrives on.
    pub mid: String,
    /// The client's id of it, as AddTrackRequest named it; empty where unknown.
    pub cid: String,
    /// Lowest quality first. Empty: those of the AddTrackRequest stay.
    pub layers: Vec<proto::VideoLayer>,
}

/// What the negotiation of a track's media sections led to: at least one variant, the preferred one first.
#[derive(Clone, PartialEq, Debug)]
pub struct PublishedInfo {
    /// Every variant that is negotiated now.
    pub variants: Vec<PublishedVariant>,
}

/// Changes to what a participant says about itself; absent fields stay.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ProfileUpdate {
    /// For people to read.
    pub name: Option<String>,
    /// Application data.
    pub metadata: Option<String>,
    /// Keys to set; an empty value removes the key.
    pub attributes: HashMap<String, String>,
}

/// A track that a participant is to receive.
#[derive(Clone, PartialEq, Debug)]
pub struct SubscribedTrack {
    /// The track as its publisher's ParticipantInfo states it.
    pub info: proto::TrackInfo,
    /// Who publishes it.
    pub publisher: ParticipantSid,
    /// In order of preference: the first, then backup codecs.
    pub variants: Vec<TrackVariant>,
}

/// Rooms of more people than this are crowds: nobody is told how each viewer is connected, and no session remembers each.
pub(crate) const CROWD: usize = 100;

/// What a room tells a session. A queue that ends without [`RoomEvent::Closed`] was not drained in time: the session
/// closes its socket and the client resumes.
#[derive(Clone, PartialEq, Debug)]
pub enum RoomEvent {
    /// Others (or the participant itself) changed, or left (state DISCONNECTED). Send before any description that
    /// carries their tracks.
    Participants(Vec<proto::ParticipantInfo>),
    /// What everybody is told together.
    News(Arc<super::News>),
    /// The room's metadata changed.
    Room(proto::Room),
    /// Take this track, or take it in other variants than before.
    Subscribe(SubscribedTrack),
    /// Stop taking this track.
    Unsubscribe {
        /// Which track.
        track: TrackSid,
        /// It was wanted and is now forbidden by its publisher.
        permission_lost: bool,
    },
    /// Somebody's permission to take a track changed.
    SubscriptionPermission {
        /// Who publishes it.
        publisher: ParticipantSid,
        /// Which track.
        track: TrackSid,
        /// May be taken now.
        allowed: bool,
    },
    /// The first subscriber takes this participant's track.
    TrackSubscribed(TrackSid),
    /// A track of this participant was ended by the server.
    TrackUnpublished(TrackSid),
    /// A track of this participant was muted or unmuted by the server.
    Muted {
        /// Which track.
        track: TrackSid,
        /// The new state.
        muted: bool,
    },
    /// Qualities of this participant's track that anybody wants.
    SubscribedQuality(proto::SubscribedQualityUpdate),
    /// Codecs of this participant's audio track that anybody wants.
    SubscribedAudioCodecs(proto::SubscribedAudioCodecUpdate),
    /// Tracks that have to pause for want of bandwidth to this participant, or go on.
    StreamStates(proto::StreamStateUpdate),
    /// How others are connected, for who is new here or was away; otherwise what nobody else is told.
    ConnectionQuality(proto::ConnectionQualityUpdate),
    /// Who speaks: changes only.
    Speakers(proto::SpeakersChanged),
    /// Permissions changed: a fresh token is due.
    Permissions(Permissions),
    /// The node connected one of this participant's peers.
    PeerConnected(PeerRole),
    /// Data channels of a peer are open.
    DataReady(PeerRole),
    /// The node lost one of this participant's peers.
    PeerLost {
        /// Which peer.
        role: PeerRole,
        /// As the node says it.
        reason: node::LostReason,
    },
    /// This participant reads reliable data too slowly: it should reconnect.
    DataOverflow(PeerRole),
    /// The session is over.
    Closed {
        /// Told to the client.
        reason: proto::DisconnectReason,
        /// Told to the client: disconnect, resume or reconnect.
        action: proto::leave_request::Action,
    },
}

/// A participant's media in numbers.
#[derive(Clone, PartialEq, Debug)]
pub struct ParticipantReport {
    /// Whose.
    pub sid: ParticipantSid,
    /// As everybody was told, or is within a second; `None` before anything was measured.
    pub quality: Option<proto::ConnectionQuality>,
    /// Mean opinion score; 0 before anything was measured.
    pub score: f32,
    /// Of each of its peers that the node knows.
    pub peers: Vec<(PeerRole, node::PeerReport)>,
    /// Who publishes a track of the room.
    pub publishers: HashMap<TrackSid, String>,
}

/// What a room is made with.
#[derive(Clone, PartialEq, Debug)]
pub struct RoomOptions {
    /// Application data.
    pub metadata: String,
    /// 0 is unlimited.
    pub max_participants: u32,
    /// An unused room ends after this long.
    pub empty_timeout: Duration,
    /// A room whose last participant left ends after this long.
    pub departure_timeout: Duration,
}

impl Default for RoomOptions {
    fn default() -> Self {
        Self {
            metadata: String::new(),
            max_participants: 0,
            empty_timeout: Duration::from_secs(300),
            departure_timeout: Duration::from_secs(20),
        }
    }
}

/// Why a request of a session was refused; becomes a `request_response`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The grants do not allow it.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// No such track or participant.
    #[error("not found: {0}")]
    NotFound(String),
    /// A bound was reached.
    #[error("limit exceeded: {0}")]
    LimitExceeded(String),
    /// The request contradicts itself.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The node refused or is away.
    #[error("media node: {0}")]
    Node(String),
    /// The room or the participant is gone.
    #[error("the session is over")]
    Closed,
}
