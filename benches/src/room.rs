//! Peers of a room, described to the node through its gRPC face as a control plane does it.

use std::net::{Ipv4Addr, SocketAddr};

use chappe_proto::node::v1::{
    self as pb, node_service_client::NodeServiceClient, node_service_server::NodeServiceServer,
};
use chappe_sfu::control::{NodeApi, NodeHandle};

use crate::packet::{AUDIO, AUDIO_LEVEL, MID, TRANSPORT_CC, VIDEO, VIDEO_RTX};

type Api = NodeServiceClient<NodeServiceServer<NodeApi>>;

/// SSRC of a publisher's stream, at the publisher and (the same) at each subscriber; the next is its RTX.
pub fn ssrc(publisher: usize) -> u32 {
    SSRC + 2 * publisher as u32
}

/// Which publisher a stream is of, and whether it is the RTX.
pub fn of_ssrc(ssrc: u32) -> Option<(usize, bool)> {
    let behind = ssrc.checked_sub(SSRC).filter(|behind| *behind < 1 << 16)?;
    Some((behind as usize / 2, behind % 2 == 1))
}

const SSRC: u32 = 10_000;

/// What a client needs to know of the node.
#[derive(Clone, Debug)]
pub struct Described {
    /// The client's own address.
    pub ip: Ipv4Addr,
    /// Where it reaches the node.
    pub node: SocketAddr,
    /// Of its checks.
    pub username: String,
    /// The node's.
    pub password: String,
}

/// How the room is negotiated.
#[derive(Clone, Copy, Debug)]
pub struct Negotiation {
    /// One Opus track a publisher instead of one VP8 track.
    pub audio: bool,
    /// Transport-wide numbers and feedback.
    pub transport_cc: bool,
    /// How many publish.
    pub publishers: usize,
}

/// A room on a node.
#[derive(Debug)]
pub struct Room {
    api: Api,
    negotiation: Negotiation,
    fingerprint: Vec<u8>,
}

impl Room {
    /// Needs a tokio runtime.
    pub fn new(node: &NodeHandle, negotiation: Negotiation, fingerprint: Vec<u8>) -> Self {
        Self { api: Api::new(node.service()), negotiation, fingerprint }
    }

    /// Describes a peer that publishes (its number) or subscribes to all publishers.
    pub async fn join(
        &mut self,
        ip: Ipv4Addr,
        publishes: Option<usize>,
    ) -> Result<Described, String> {
        let name = u32::from(ip);
        let ufrag = format!("c{name:x}");
        let mut state = self.state();
        match publishes {
            Some(publisher) => {
                state.tracks.push(self.track(publisher));
                if self.negotiation.audio {
                    state.extensions.push(extension(pb::ExtensionKind::AudioLevel, AUDIO_LEVEL));
                }
            }
            None => {
                state.subscriptions =
                    (0..self.negotiation.publishers).map(|n| self.subscription(n)).collect();
            }
        }
        state.transport = Some(pb::Transport {
            remote_ice: Some(pb::IceCredentials {
                ufrag: ufrag.clone(),
                pwd: "a-password-of-24-letters".into(),
            }),
            dtls_role: pb::DtlsRole::Passive.into(),
            remote_fingerprints: vec![pb::Fingerprint {
                algorithm: "sha-256".into(),
                digest: self.fingerprint.clone(),
            }],
            ..pb::Transport::default()
        });
        let request = pb::ApplyPeerRequest {
            room_id: "RM_bench".into(),
            peer_id: format!("PA_{name:x}"),
            epoch: 1,
            revision: 1,
            change: Some(pb::apply_peer_request::Change::State(state)),
        };
        let answer = self.api.apply_peer(request).await.map_err(|status| status.to_string())?;
        let transport = answer.into_inner().transport.ok_or("no transport")?;
        let candidate = transport
            .candidates
            .iter()
            .find(|c| c.protocol() == pb::candidate::Protocol::Udp && c.address == "127.0.0.1")
            .ok_or("no loopback candidate")?;
        let ice = transport.ice.ok_or("no ICE credentials")?;
        Ok(Described {
            ip,
            node: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), candidate.port as u16),
            username: format!("{}:{ufrag}", ice.ufrag),
            password: ice.pwd,
        })
    }

    fn state(&self) -> pb::PeerState {
        let transport_cc = self.negotiation.transport_cc;
        let video = pb::Codec {
            payload_type: VIDEO.into(),
            rtx_payload_type: Some(VIDEO_RTX.into()),
            kind: pb::CodecKind::Vp8.into(),
            clock_rate: 90_000,
            nack: true,
            pli: true,
            transport_cc,
            ..pb::Codec::default()
        };
        let audio = pb::Codec {
            payload_type: AUDIO.into(),
            kind: pb::CodecKind::Opus.into(),
            clock_rate: 48_000,
            channels: 2,
            transport_cc,
            ..pb::Codec::default()
        };
        let mut extensions = vec![extension(pb::ExtensionKind::Mid, MID)];
        if transport_cc {
            extensions.push(extension(pb::ExtensionKind::TransportCc, TRANSPORT_CC));
        }
        pb::PeerState { codecs: vec![video, audio], extensions, ..pb::PeerState::default() }
    }

    fn track(&self, publisher: usize) -> pb::Track {
        let audio = self.negotiation.audio;
        let kind = if audio { pb::MediaKind::Audio } else { pb::MediaKind::Video };
        let ssrc = ssrc(publisher);
        let rtx_ssrc = if audio { 0 } else { ssrc + 1 };
        pb::Track {
            track_id: format!("TR_{publisher}"),
            kind: kind.into(),
            mid: "0".into(),
            encodings: vec![pb::Encoding { ssrc, rtx_ssrc, ..pb::Encoding::default() }],
            muted: false,
        }
    }

    fn subscription(&self, publisher: usize) -> pb::Subscription {
        let ssrc = ssrc(publisher);
        pb::Subscription {
            track_id: format!("TR_{publisher}"),
            mid: publisher.to_string(),
            ssrc,
            rtx_ssrc: if self.negotiation.audio { 0 } else { ssrc + 1 },
            fec_ssrc: 0,
            ..pb::Subscription::default()
        }
    }
}

fn extension(kind: pb::ExtensionKind, id: u8) -> pb::HeaderExtension {
    pb::HeaderExtension { kind: kind.into(), id: id.into(), send: true, receive: true }
}

/// Adds up the numbers of the metrics with this name (and label) over the shards.
pub fn metric(node: &NodeHandle, name: &str, label: &str) -> u64 {
    let text = node.metrics();
    let lines = text.lines().filter(|line| line.contains(label));
    let of_line = |line: &str| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<u64>().ok();
    lines.filter_map(of_line).sum()
}
