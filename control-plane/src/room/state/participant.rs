//! One participant: what it is, may do, publishes and takes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
    time::Instant,
};

use livekit_protocol as proto;
use serde::{Deserialize, Serialize};

use super::{audience::Audience, connection::Connection, track::Track};
use crate::{
    auth::Permissions,
    room::{
        ids,
        types::{JoinRequest, ParticipantSid, PeerRole, Presence, TrackSid},
    },
};

/// How far a participant has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Signalling is connected.
    Joined,
    /// Media is connected.
    Active,
}

/// Names of sources as tokens spell them.
const SOURCES: [(&str, proto::TrackSource); 4] = [
    ("camera", proto::TrackSource::Camera),
    ("microphone", proto::TrackSource::Microphone),
    ("screen_share", proto::TrackSource::ScreenShare),
    ("screen_share_audio", proto::TrackSource::ScreenShareAudio),
];

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Participant {
    pub(super) sid: ParticipantSid,
    pub(super) identity: String,
    pub(super) name: String,
    pub(super) metadata: String,
    pub(super) attributes: HashMap<String, String>,
    pub(super) permissions: Permissions,
    /// [`proto::participant_info::Kind`] as its number.
    kind: i32,
    pub(super) stage: Stage,
    /// Grows with each change that others see.
    pub(super) version: u32,
    joined_ms: i64,
    /// Order of joining.
    pub(super) order: u64,
    pub(super) two_peers: bool,
    client_protocol: i32,
    pub(super) auto_subscribe: bool,
    pub(super) tracks: BTreeMap<TrackSid, Track>,
    /// Tracks it asked for or turned down by name.
    pub(super) wishes: BTreeMap<TrackSid, bool>,
    /// Who may take its tracks; `None` is everybody.
    pub(super) audience: Option<Audience>,

    /// Tracks it takes, and their publishers. Follows from the rest.
    #[serde(skip)]
    pub(super) taken: BTreeMap<TrackSid, ParticipantSid>,
    /// A signal session is there.
    #[serde(skip)]
    pub(super) attached: bool,
    /// Asked for ICE-TCP.
    #[serde(skip)]
    pub(super) force_tcp: bool,
    /// Media has to be connected by then.
    #[serde(skip)]
    pub(super) connect_by: Option<Instant>,
    /// Signalling has to be back by then.
    #[serde(skip)]
    pub(super) resume_by: Option<Instant>,
    /// A peer is lost: the session has to have ended it by then.
    #[serde(skip)]
    pub(super) end_by: Option<Instant>,
    /// How good its paths are.
    #[serde(skip)]
    pub(super) connection: Connection,
    /// What [`Self::info`] says, as long as that stays: see [`super::people`].
    #[serde(skip)]
    pub(super) presence: OnceLock<Arc<Presence>>,
}

impl Participant {
    pub(super) fn new(request: JoinRequest, joined_ms: i64, order: u64) -> Self {
        Self {
            sid: ids::participant_sid(),
            identity: request.identity,
            name: request.name,
            metadata: request.metadata,
            attributes: request.attributes,
            permissions: request.permissions,
            kind: request.kind as i32,
            stage: Stage::Joined,
            version: 1,
            joined_ms,
            order,
            two_peers: request.two_peers,
            client_protocol: request.client_protocol,
            auto_subscribe: request.auto_subscribe,
            tracks: BTreeMap::new(),
            wishes: BTreeMap::new(),
            audience: None,
            taken: BTreeMap::new(),
            attached: true,
            force_tcp: false,
            connect_by: None,
            resume_by: None,
            end_by: None,
            connection: Connection::default(),
            presence: OnceLock::new(),
        }
    }

    /// The peer whose connection makes the participant active.
    pub(super) fn primary_peer(&self) -> PeerRole {
        match (self.two_peers, self.permissions.can_subscribe) {
            (false, _) => PeerRole::Single,
            (true, true) => PeerRole::Subscriber,
            (true, false) => PeerRole::Publisher,
        }
    }

    pub(super) fn is_publisher(&self) -> bool {
        self.tracks.values().any(Track::is_published)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let own = [self.connect_by, self.resume_by, self.end_by];
        let tracks = self.tracks.values().filter_map(|track| track.quality.due);
        own.into_iter().flatten().chain(tracks).min()
    }

    /// What others see, with published tracks only.
    pub(super) fn info(&self) -> proto::ParticipantInfo {
        let state = match self.stage {
            Stage::Joined => proto::participant_info::State::Joined,
            Stage::Active => proto::participant_info::State::Active,
        };
        proto::ParticipantInfo {
            sid: self.sid.to_string(),
            identity: self.identity.clone(),
            state: state as i32,
            tracks: self.published().map(|track| track.info.clone()).collect(),
            metadata: self.metadata.clone(),
            joined_at: self.joined_ms / 1000,
            joined_at_ms: self.joined_ms,
            name: self.name.clone(),
            version: self.version,
            permission: Some(permission_info(&self.permissions)),
            is_publisher: self.is_publisher(),
            kind: self.kind,
            attributes: self.attributes.clone(),
            client_protocol: self.client_protocol,
            ..Default::default()
        }
    }

    pub(super) fn published(&self) -> impl Iterator<Item = &Track> {
        self.tracks.values().filter(|track| track.is_published())
    }

    /// May it publish from this source?
    pub(super) fn may_publish(&self, source: proto::TrackSource) -> bool {
        let sources = &self.permissions.can_publish_sources;
        let listed = |(name, known): &(&str, proto::TrackSource)| {
            *known == source && sources.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
        };
        self.permissions.can_publish && (sources.is_empty() || SOURCES.iter().any(listed))
    }

    /// Does its publisher's audience let `subscriber` take `track`?
    pub(super) fn admits(&self, subscriber: &Participant, track: &TrackSid) -> bool {
        self.audience.as_ref().is_none_or(|audience| audience.admits(subscriber, track))
    }

    /// Does it want `track`, whether it may take it or not?
    pub(super) fn wants(&self, track: &TrackSid) -> bool {
        self.wishes.get(track).copied().unwrap_or(self.auto_subscribe)
    }
}

/// Permissions as the wire protocol states them.
pub(crate) fn permission_info(permissions: &Permissions) -> proto::ParticipantPermission {
    let sources = permissions.can_publish_sources.iter().filter_map(|name| {
        let found = SOURCES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, source)| *source as i32)
    });
    #[allow(deprecated)] // clients of some age still read `recorder`
    proto::ParticipantPermission {
        can_subscribe: permissions.can_subscribe,
        can_publish: permissions.can_publish,
        can_publish_data: permissions.can_publish_data,
        can_publish_sources: sources.collect(),
        hidden: permissions.hidden,
        recorder: permissions.recorder,
        can_update_metadata: permissions.can_update_own_metadata,
        ..Default::default()
    }
}

/// Reads [`permission_info`] back.
pub(crate) fn permissions_of(info: &proto::ParticipantPermission) -> Permissions {
    let name = |source: &i32| {
        SOURCES
            .iter()
            .find(|(_, known)| *known as i32 == *source)
            .map(|(name, _)| (*name).to_owned())
    };
    #[allow(deprecated)]
    Permissions {
        can_publish: info.can_publish,
        can_subscribe: info.can_subscribe,
        can_publish_data: info.can_publish_data,
        can_publish_sources: info.can_publish_sources.iter().filter_map(name).collect(),
        can_update_own_metadata: info.can_update_metadata,
        hidden: info.hidden,
        recorder: info.recorder,
    }
}
