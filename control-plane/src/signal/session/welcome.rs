//! The first messages to a client.

use std::{sync::Arc, time::Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use livekit_protocol::{self as proto, signal_response::Message};
use prost::{Message as _, encode_length_delimiter, length_delimiter_len};

use super::{Effect, Known, Session, SessionConfig};
use crate::room::{CROWD, Joined, Presence};

/// Version of the wire protocol that is spoken: from 18 on, clients expect data channels that are negotiated out of
/// band.
const PROTOCOL: i32 = 17;

/// Clients hold back features by the version of the server whose protocol this is: calls of methods (RPC) come with 1.8.0, VP9 and AV1 in
/// several streams behind 1.13.6. This says what they may count on; Chappe's own version is in `debug_info`.
const FEATURE_LEVEL: &str = "1.13.7";

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

/// A JoinResponse, whose others are put in as they are encoded already.
#[derive(Debug)]
pub struct Welcome {
    /// Without the others.
    response: proto::JoinResponse,
    others: Vec<Arc<Presence>>,
}

/// `SignalResponse.join` and `JoinResponse.other_participants`: number, and 2 for what has a length.
const JOIN: u8 = 1 << 3 | 2;
const OTHER: u8 = 3 << 3 | 2;

impl Welcome {
    /// Bytes of the JoinResponse.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let lengths = self.others.iter().map(|other| other.encoded().len());
        self.response.encoded_len()
            + lengths.map(|length| 1 + length_delimiter_len(length) + length).sum::<usize>()
    }

    /// As it goes out in a binary frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let length = self.encoded_len();
        let mut bytes = BytesMut::with_capacity(1 + length_delimiter_len(length) + length);
        bytes.put_u8(JOIN);
        put_length(length, &mut bytes);
        // Fields may stand in any order.
        bytes.put_slice(&self.response.encode_to_vec());
        for other in &self.others {
            bytes.put_u8(OTHER);
            put_length(other.encoded().len(), &mut bytes);
            bytes.put_slice(other.encoded());
        }
        bytes.freeze()
    }

    /// The same as a message.
    #[must_use]
    pub fn into_message(self) -> Message {
        let other_participants = self.others.iter().map(|other| (***other).clone()).collect();
        Message::Join(proto::JoinResponse { other_participants, ..self.response })
    }
}

fn put_length(length: usize, bytes: &mut BytesMut) {
    // A buffer that grows has room.
    let _ = encode_length_delimiter(length, bytes);
}

impl Session {
    /// The JoinResponse and what follows it at once.
    pub(super) fn welcome(&mut self, joined: Joined, now: Instant) {
        self.remember(&joined.others);
        self.force_tcp(joined.force_tcp);
        let can_subscribe = self.facts.permissions.can_subscribe;
        let seconds =
            |duration: std::time::Duration| i32::try_from(duration.as_secs()).unwrap_or(i32::MAX);
        let server_info = server_info(&self.config);
        let response = proto::JoinResponse {
            room: Some(joined.room),
            participant: Some(joined.participant),
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
        self.effects
            .push_back(Effect::Welcome(Box::new(Welcome { response, others: joined.others })));
        self.refresh_token(now);
        self.begin_downlink();
    }
}

impl Session {
    /// Who is here now. Of a crowd, those who publish: everybody would be as many entries as the square of the room.
    pub(super) fn remember(&mut self, others: &[Arc<Presence>]) {
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
        version: FEATURE_LEVEL.to_owned(),
        protocol: PROTOCOL,
        region: config.region.clone(),
        node_id: config.node_id.clone(),
        debug_info: concat!("chappe ", env!("CARGO_PKG_VERSION")).to_owned(),
        ..proto::ServerInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_from_pieces_is_the_message() {
        let person = |number: usize| proto::ParticipantInfo {
            sid: format!("PA_{number}"),
            metadata: "m".repeat(number),
            ..Default::default()
        };
        for others in [0, 1, 3, 200] {
            let response = proto::JoinResponse {
                server_version: "1".into(),
                fast_publish: true,
                ..Default::default()
            };
            let others = (0..others).map(|number| Presence::new(person(number)).into()).collect();
            let welcome = Welcome { response, others };
            let (length, encoded) = (welcome.encoded_len(), welcome.encode());
            let message = Some(welcome.into_message());
            let decoded = proto::SignalResponse::decode(encoded).unwrap();
            assert_eq!(
                message.as_ref().map(Message::encoded_len),
                Some(1 + length_delimiter_len(length) + length)
            );
            assert_eq!(decoded.message, message);
        }
    }
}
