//! The first messages to a client.

use std::time::Instant;

use livekit_protocol::{self as proto, signal_response::Message};

use super::{Known, Session, SessionConfig};
use crate::room::{CROWD, Joined};

/// Version of the wire protocol that is spoken: from 18 on, clients expect data channels that are negotiated out of
/// band.
const PROTOCOL: i32 = 17;

/// Codecs that clients may publish, in order of preference. VP8 comes first: it is what every client decodes.
const PUBLISH_CODECS: [&str; 8] = [
    "video/VP8",
    "video/H264",
    "video/VP9",
    "video/AV1",
    "video/H265",
    "audio/opus",
    "audio/red",
    "audio/PCMU",
];

impl Session {
    /// The JoinResponse and what follows it at once.
    pub(super) fn welcome(&mut self, joined: Joined, now: Instant) {
        self.remember(&joined.others);
        self.force_tcp(joined.force_tcp);
        let can_subscribe = self.facts.permissions.can_subscribe;
        let seconds =
            |duration: std::time::Duration| i32::try_from(duration.as_secs()).unwrap_or(i32::MAX);
        let server_info = server_info(&self.config);
        let join = proto::JoinResponse {
            room: Some(joined.room),
            participant: Some(joined.participant),
            other_participants: joined.others,
            server_version: server_info.version.clone(),
            ice_servers: self.config.ice_servers.clone(),
            subscriber_primary: self.facts.two_peers && can_subscribe,
            server_region: self.config.region.clone(),
            ping_timeout: seconds(self.config.ping_timeout),
            ping_interval: seconds(self.config.ping_interval),
            server_info: Some(server_info),
            enabled_publish_codecs: publish_codecs(),
            fast_publish: self.facts.permissions.can_publish,
            ..proto::JoinResponse::default()
        };
        self.send(Message::Join(join));
        self.refresh_token(now);
        self.begin_downlink();
    }
}

impl Session {
    /// Who is here now. Of a crowd, those who publish: everybody would be as many entries as the square of the room.
    pub(super) fn remember(&mut self, others: &[proto::ParticipantInfo]) {
        let all = others.len() <= CROWD;
        let kept = others.iter().filter(|other| all || !other.tracks.is_empty());
        self.known = kept.map(|other| (other.sid.clone(), Known::of(other))).collect();
    }
}

fn publish_codecs() -> Vec<proto::Codec> {
    let codec = |mime: &&str| proto::Codec { mime: (*mime).to_owned(), fmtp_line: String::new() };
    PUBLISH_CODECS.iter().map(codec).collect()
}

/// What this server is.
pub(super) fn server_info(config: &SessionConfig) -> proto::ServerInfo {
    proto::ServerInfo {
        edition: proto::server_info::Edition::Standard as i32,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
        region: config.region.clone(),
        node_id: config.node_id.clone(),
        ..proto::ServerInfo::default()
    }
}
