//! Media between two clients of webrtc-rs, which shares neither ICE, DTLS nor SRTP with the node, and can be held to one
//! SRTP profile. str0m, the client of the other tests, always ends on AEAD_AES_256_GCM.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use chappe_proto::node::v1 as pb;
use rtc::{
    dtls::extension::extension_use_srtp::SrtpProtectionProfile,
    media_stream::MediaStreamTrack,
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        configuration::{media_engine::MediaEngine, setting_engine::SettingEngineBuilder},
        event::RTCPeerConnectionEvent,
        message::{RTCMessage, TaggedRTCMessage},
        sdp::RTCSessionDescription,
        state::RTCPeerConnectionState,
        transport::{CandidateConfig, CandidateHostConfig, RTCIceCandidate},
    },
    rtp::{Header, Packet},
    rtp_transceiver::{
        RTCRtpSenderId,
        rtp_sender::{RTCRtpCodec, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind},
    },
    sansio::Protocol as _,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol},
};

use super::client::{Api, OPUS, PATIENCE, VP8, config, node, now, state, vp8_keyframe};

/// Bytes of a VP8 payload descriptor that the node may write anew: picture ids go on across layers.
const VP8_DESCRIPTOR: usize = 4;

/// Packets of each kind that have to arrive.
const WANTED: usize = 50;

/// One direction of one kind of media.
struct Leg {
    kind: RtpCodecKind,
    pt: u8,
    /// Of the publisher.
    from: u32,
    /// Of the subscriber.
    to: u32,
}

const LEGS: [Leg; 2] = [
    Leg { kind: RtpCodecKind::Audio, pt: OPUS, from: 1_000, to: 3_000 },
    Leg { kind: RtpCodecKind::Video, pt: VP8, from: 1_100, to: 3_100 },
];

impl Leg {
    fn name(&self) -> &'static str {
        if self.kind == RtpCodecKind::Audio { "audio" } else { "video" }
    }

    fn media_kind(&self) -> pb::MediaKind {
        if self.kind == RtpCodecKind::Audio { pb::MediaKind::Audio } else { pb::MediaKind::Video }
    }

    fn codec(&self) -> (&'static str, u32, &'static str) {
        match self.kind {
            RtpCodecKind::Audio => ("audio/opus", 48_000, "opus/48000/2"),
            _ => ("video/VP8", 90_000, "VP8/90000"),
        }
    }

    /// What is sent under a number: of many lengths, and never twice the same.
    fn payload(&self, number: u16) -> Vec<u8> {
        let mut payload = if self.pt == VP8 { vp8_keyframe(number.into()) } else { Vec::new() };
        let mut random = u32::from(number).wrapping_mul(2_654_435_761) ^ u32::from(self.pt);
        for _ in 0..20 + usize::from(number) * 37 % 1_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            payload.push((random >> 24) as u8);
        }
        payload.extend(number.to_be_bytes());
        payload
    }

    /// The part of a payload that has to arrive as it was.
    fn kept<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        if self.pt == VP8 { &payload[VP8_DESCRIPTOR..] } else { payload }
    }
}

struct Client {
    pc: RTCPeerConnection,
    socket: UdpSocket,
    local: SocketAddr,
    senders: Vec<RTCRtpSenderId>,
    connected: bool,
    /// Payloads by SSRC.
    received: BTreeMap<u32, Vec<Vec<u8>>>,
}

fn attribute<'a>(sdp: &'a str, name: &str) -> &'a str {
    sdp.lines().find_map(|line| line.strip_prefix(&format!("a={name}:"))).unwrap().trim()
}

/// The m-lines' mids, in order.
fn mids(sdp: &str) -> Vec<&str> {
    sdp.lines().filter_map(|line| line.strip_prefix("a=mid:")).map(str::trim).collect()
}

/// What the node would be described as: it sends (or takes) one stream on each m-line.
fn answer(transport: &pb::LocalTransport, mids: &[&str], node_sends: bool) -> String {
    let ice = transport.ice.as_ref().unwrap();
    let digest = &transport.fingerprint.as_ref().unwrap().digest;
    let digest: Vec<_> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let direction = if node_sends { "sendonly" } else { "recvonly" };
    let mut sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE {}\r\n",
        mids.join(" ")
    );
    for (leg, mid) in LEGS.iter().zip(mids) {
        let (pt, name, (_, _, map)) = (leg.pt, leg.name(), leg.codec());
        sdp += &format!(
            "m={name} 9 UDP/TLS/RTP/SAVPF {pt}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\n\
             a=rtcp-mux\r\na={direction}\r\na=rtpmap:{pt} {map}\r\na=ice-ufrag:{}\r\n\
             a=ice-pwd:{}\r\na=fingerprint:sha-256 {}\r\na=setup:passive\r\n",
            ice.ufrag,
            ice.pwd,
            digest.join(":"),
        );
        if node_sends {
            let ssrc = leg.to;
            sdp += &format!("a=msid:stream {name}\r\na=ssrc:{ssrc} cname:node\r\n");
        }
        let udp = |c: &&pb::Candidate| c.protocol() == pb::candidate::Protocol::Udp;
        let loopback = transport.candidates.iter().filter(udp).find(|c| c.address == "127.0.0.1");
        let port = loopback.expect("a loopback candidate").port;
        sdp += &format!("a=candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host\r\n");
    }
    sdp
}

impl Client {
    /// Joins as somebody who publishes both legs, or takes them.
    async fn join(
        api: &mut Api,
        peer: &str,
        profile: SrtpProtectionProfile,
        publishes: bool,
    ) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let local = socket.local_addr().unwrap();
        let mut media = MediaEngine::default();
        media.register_default_codecs().unwrap();
        let engine =
            SettingEngineBuilder::new().with_srtp_protection_profiles(vec![profile]).build();
        let mut pc = RTCPeerConnectionBuilder::new()
            .with_setting_engine(engine)
            .with_media_engine(media)
            .build(now())
            .unwrap();
        let mut senders = Vec::new();
        for leg in &LEGS {
            if publishes {
                senders.push(pc.add_track(track(leg)).unwrap());
            } else {
                pc.add_transceiver_from_kind(leg.kind, None).unwrap();
            }
        }
        pc.add_local_candidate(candidate(local)).unwrap();
        let offer = pc.create_offer(None).unwrap();
        let sdp = offer.sdp.clone();
        pc.set_local_description(now(), offer).unwrap();

        let mids = mids(&sdp);
        let transport = join_node(api, peer, &sdp, &mids, publishes).await;
        let answer = answer(&transport, &mids, !publishes);
        let answer = RTCSessionDescription::answer(answer).unwrap();
        pc.set_remote_description(now(), answer).unwrap();
        Self { pc, socket, local, senders, connected: false, received: BTreeMap::new() }
    }

    fn send(&mut self, leg: usize, number: u16) {
        let Leg { pt, from, .. } = LEGS[leg];
        let ticks = LEGS[leg].codec().1 / 50;
        let header = Header {
            version: 2,
            marker: pt == VP8,
            payload_type: pt,
            // Wraps on the way.
            sequence_number: 65_500_u16.wrapping_add(number),
            timestamp: u32::from(number) * ticks,
            ssrc: from,
            ..Header::default()
        };
        let payload = Bytes::from(LEGS[leg].payload(number));
        let mut sender = self.pc.rtp_sender(self.senders[leg]).unwrap();
        sender.write_rtp(now(), Packet { header, payload }).unwrap();
    }

    fn pump(&mut self) {
        let mut buffer = [0; 2_000];
        while let Ok((len, peer_addr)) = self.socket.recv_from(&mut buffer) {
            let transport = TransportContext {
                local_addr: self.local,
                peer_addr,
                ecn: None,
                transport_protocol: TransportProtocol::UDP,
            };
            let message = BytesMut::from(&buffer[..len]);
            let _ = self.pc.handle_read(TaggedBytesMut { now: now(), transport, message });
        }
        if self.pc.poll_timeout().is_some_and(|at| at <= now()) {
            self.pc.handle_timeout(now()).unwrap();
        }
        while let Some(datagram) = self.pc.poll_write() {
            let _ = self.socket.send_to(&datagram.message, datagram.transport.peer_addr);
        }
        while let Some(event) = self.pc.poll_event() {
            if let RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) = event {
                self.connected |= state == RTCPeerConnectionState::Connected;
            }
        }
        while let Some(TaggedRTCMessage { message, .. }) = self.pc.poll_read() {
            if let RTCMessage::RtpPacket(_, packet) = message {
                let payloads = self.received.entry(packet.header.ssrc).or_default();
                payloads.push(packet.payload.to_vec());
            }
        }
    }
}

fn track(leg: &Leg) -> MediaStreamTrack {
    let (mime_type, clock_rate, _) = leg.codec();
    let name = leg.name().to_owned();
    let encoding = RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters {
            ssrc: Some(leg.from),
            ..RTCRtpCodingParameters::default()
        },
        codec: RTCRtpCodec {
            mime_type: mime_type.to_owned(),
            clock_rate,
            channels: if leg.kind == RtpCodecKind::Audio { 2 } else { 0 },
            ..RTCRtpCodec::default()
        },
        ..RTCRtpEncodingParameters::default()
    };
    MediaStreamTrack::new("stream".to_owned(), name.clone(), name, leg.kind, vec![encoding])
}

fn candidate(local: SocketAddr) -> rtc::peer_connection::transport::RTCIceCandidateInit {
    let config = CandidateHostConfig {
        base_config: CandidateConfig {
            network: "udp".to_owned(),
            address: local.ip().to_string(),
            port: local.port(),
            component: 1,
            ..CandidateConfig::default()
        },
        ..CandidateHostConfig::default()
    };
    RTCIceCandidate::from(&config.new_candidate_host().unwrap()).to_json().unwrap()
}

/// Tells the node of a peer with this offer; returns the node's side.
async fn join_node(
    api: &mut Api,
    peer: &str,
    sdp: &str,
    mids: &[&str],
    publishes: bool,
) -> pb::LocalTransport {
    let (algorithm, digest) = attribute(sdp, "fingerprint").split_once(' ').unwrap();
    let digest = digest.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let mut state = state(peer);
    state.transport = Some(pb::Transport {
        remote_ice: Some(pb::IceCredentials {
            ufrag: attribute(sdp, "ice-ufrag").to_owned(),
            pwd: attribute(sdp, "ice-pwd").to_owned(),
        }),
        dtls_role: pb::DtlsRole::Passive.into(),
        remote_fingerprints: vec![pb::Fingerprint {
            algorithm: algorithm.to_ascii_lowercase(),
            digest,
        }],
        ..pb::Transport::default()
    });
    // Streams are known by their SSRCs alone.
    state.extensions.clear();
    for (leg, mid) in LEGS.iter().zip(mids) {
        let (track_id, mid) = (format!("TR_{}", leg.name()), (*mid).to_owned());
        if publishes {
            state.tracks.push(pb::Track {
                track_id,
                kind: leg.media_kind().into(),
                mid,
                encodings: vec![pb::Encoding { ssrc: leg.from, ..pb::Encoding::default() }],
                muted: false,
            });
        } else {
            let ssrc = leg.to;
            state.subscriptions.push(pb::Subscription {
                track_id,
                mid,
                ssrc,
                ..pb::Subscription::default()
            });
        }
    }
    let request = pb::ApplyPeerRequest {
        room_id: "RM_a".into(),
        peer_id: peer.into(),
        epoch: 1,
        revision: 1,
        change: Some(pb::apply_peer_request::Change::State(state)),
    };
    api.apply_peer(request).await.unwrap().into_inner().transport.unwrap()
}

/// Runs both until `done`.
async fn drive(
    clients: &mut [Client; 2],
    what: &str,
    mut done: impl FnMut(&mut [Client; 2]) -> bool,
) {
    let give_up = now() + PATIENCE;
    while !done(clients) {
        assert!(now() < give_up, "not in time: {what}");
        clients.iter_mut().for_each(Client::pump);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_srtp_profile_carries_media_of_an_independent_stack() {
    for profile in [
        SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
        SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
        SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
    ] {
        let (node, mut api) = node(config(1)).await;
        let publisher = Client::join(&mut api, "PA_anna", profile, true).await;
        let subscriber = Client::join(&mut api, "PA_bert", profile, false).await;
        let mut both = [publisher, subscriber];
        let what = format!("{profile:?}: both connect");
        drive(&mut both, &what, |c| c.iter().all(|client| client.connected)).await;

        let mut number = 0;
        let mut next_at = now();
        let what = format!("{profile:?}: audio and video arrive");
        drive(&mut both, &what, |[publisher, subscriber]| {
            if now() >= next_at && publisher.connected {
                next_at = now() + Duration::from_millis(5);
                (0..LEGS.len()).for_each(|leg| publisher.send(leg, number));
                number += 1;
            }
            let enough = |leg: &Leg| subscriber.received.get(&leg.to).map_or(0, Vec::len) >= WANTED;
            LEGS.iter().all(enough)
        })
        .await;
        for leg in &LEGS {
            for payload in &both[1].received[&leg.to] {
                let number = u16::from_be_bytes(*payload.last_chunk().unwrap());
                let sent = leg.payload(number);
                assert_eq!(leg.kept(payload), leg.kept(&sent), "{profile:?} {}", leg.name());
            }
        }
        node.stop().await;
    }
}
