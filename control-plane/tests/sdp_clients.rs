//! Negotiation against two other WebRTC stacks: what they offer is answered, and they take the answer; what we offer
//! they answer, and we take that.
#![allow(missing_docs)]

use std::time::Instant;

use chappe::signal::sdp::{Assignment, MediaKind, Negotiator, SendTrack};
use chappe_proto::node::v1 as node;
use rtc::{
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder, configuration::media_engine::MediaEngine,
        sdp::RTCSessionDescription,
    },
    rtp_transceiver::rtp_sender::RtpCodecKind,
};
use str0m::{
    Rtc,
    change::{SdpAnswer, SdpOffer},
    media::{Direction, MediaKind as Kind},
};

fn local() -> node::LocalTransport {
    node::LocalTransport {
        ice: Some(node::IceCredentials {
            ufrag: "node".to_owned(),
            pwd: "nodenodenodenodenodenode".to_owned(),
        }),
        candidates: vec![node::Candidate {
            protocol: node::candidate::Protocol::Udp as i32,
            address: "127.0.0.1".to_owned(),
            port: 7882,
            r#type: node::candidate::Type::Host as i32,
            priority: 2_130_706_431,
            foundation: "1".to_owned(),
        }],
        fingerprint: Some(node::Fingerprint {
            algorithm: "sha-256".to_owned(),
            digest: (0..32).collect(),
        }),
        ice_generation: 0,
    }
}

fn track(kind: MediaKind, sid: &str) -> SendTrack {
    SendTrack {
        kind,
        track_sid: sid.to_owned(),
        stream_id: format!("PA_alice|{sid}"),
        mime_type: if kind == MediaKind::Audio { "audio/opus" } else { "video/VP8" }.to_owned(),
        ssrc: 1_000,
        rtx_ssrc: if kind == MediaKind::Audio { 0 } else { 1_001 },
        fec_ssrc: if kind == MediaKind::Audio { 0 } else { 1_002 },
        stereo: false,
    }
}

fn check(negotiator: &Negotiator) {
    assert!(negotiator.wants_data());
    assert!(negotiator.supports("audio/opus", None) && negotiator.supports("video/VP8", None));
    let transport = negotiator.transport();
    assert!(transport.remote_ice.is_some() && !transport.remote_fingerprints.is_empty());
    let vp8 = |codec: &node::Codec| codec.kind() == node::CodecKind::Vp8;
    assert!(negotiator.codecs().iter().any(|codec| vp8(codec) && codec.rtx_payload_type.is_some()));
    let mid = |e: &node::HeaderExtension| e.kind() == node::ExtensionKind::Mid;
    assert!(negotiator.extensions().iter().any(mid));
}

fn webrtc_rs() -> RTCPeerConnection {
    let mut media = MediaEngine::default();
    media.register_default_codecs().expect("codecs");
    for kind in [RtpCodecKind::Audio, RtpCodecKind::Video] {
        let uri = "urn:ietf:params:rtp-hdrext:sdes:mid".to_owned();
        let extension = rtc::rtp_transceiver::rtp_sender::RTCRtpHeaderExtensionCapability { uri };
        media.register_header_extension(extension, kind, None).expect("extension");
    }
    RTCPeerConnectionBuilder::new().with_media_engine(media).build(Instant::now()).expect("build")
}

#[test]
fn str0m_offers() {
    let mut client = Rtc::new(Instant::now());
    let mut changes = client.sdp_api();
    changes.add_channel("_reliable".to_owned());
    let camera = changes.add_media(
        Kind::Video,
        Direction::SendOnly,
        Some("stream".to_owned()),
        Some("camera".to_owned()),
        None,
    );
    changes.add_media(Kind::Audio, Direction::RecvOnly, None, None, None);
    let (offer, pending) = changes.apply().expect("changes");

    let mut negotiator = Negotiator::answering(42);
    let summary = negotiator.handle_offer(1, &offer.to_sdp_string()).expect("offer");
    assert_eq!(summary.added, [camera.to_string()]);
    check(&negotiator);
    let published = negotiator.published().next().expect("camera");
    assert_eq!((published.cid.as_str(), published.stream.as_str()), ("camera", "stream"));
    let assignment = negotiator.assign(track(MediaKind::Audio, "TR_a"));
    assert!(matches!(assignment, Assignment::Assigned { .. }));
    let answer = negotiator.answer(&local()).expect("answer").sdp;
    let answer = SdpAnswer::from_sdp_string(&answer).expect("an answer that str0m reads");
    client.sdp_api().accept_answer(pending, answer).expect("an answer that str0m takes");
}

#[test]
fn str0m_answers() {
    let mut client = Rtc::new(Instant::now());
    let mut negotiator = Negotiator::offering(42);
    negotiator.assign(track(MediaKind::Audio, "TR_a"));
    negotiator.assign(track(MediaKind::Video, "TR_v"));
    let description = negotiator.offer(&local()).expect("offer");
    let offer = SdpOffer::from_sdp_string(&description.sdp).expect("an offer that str0m reads");
    let answer = client.sdp_api().accept_offer(offer).expect("an offer that str0m takes");
    let summary =
        negotiator.handle_answer(description.id, &answer.to_sdp_string()).expect("answer");
    assert!(summary.displaced.is_empty() && negotiator.described("TR_v"));
    check(&negotiator);
}

#[test]
fn webrtc_rs_offers() {
    let mut client = webrtc_rs();
    client.create_data_channel("_reliable", None).expect("channel");
    client.add_transceiver_from_kind(RtpCodecKind::Audio, None).expect("audio");
    client.add_transceiver_from_kind(RtpCodecKind::Video, None).expect("video");
    let offer = client.create_offer(None).expect("offer");
    client.set_local_description(Instant::now(), offer.clone()).expect("local description");

    let mut negotiator = Negotiator::answering(42);
    let summary = negotiator.handle_offer(1, &offer.sdp).expect("offer");
    assert_eq!((summary.free_audios, summary.free_videos), (1, 1));
    check(&negotiator);
    for (kind, sid) in [(MediaKind::Audio, "TR_a"), (MediaKind::Video, "TR_v")] {
        assert!(matches!(negotiator.assign(track(kind, sid)), Assignment::Assigned { .. }));
    }
    let answer = negotiator.answer(&local()).expect("answer").sdp;
    let answer = RTCSessionDescription::answer(answer).expect("an answer that webrtc-rs reads");
    client.set_remote_description(Instant::now(), answer).expect("an answer that webrtc-rs takes");
}

#[test]
fn webrtc_rs_answers() {
    let mut client = webrtc_rs();
    let mut negotiator = Negotiator::offering(42);
    negotiator.assign(track(MediaKind::Audio, "TR_a"));
    negotiator.assign(track(MediaKind::Video, "TR_v"));
    let description = negotiator.offer(&local()).expect("offer");
    let offer = RTCSessionDescription::offer(description.sdp).expect("an offer");
    client.set_remote_description(Instant::now(), offer).expect("an offer that webrtc-rs takes");
    let answer = client.create_answer(None).expect("answer");
    client.set_local_description(Instant::now(), answer.clone()).expect("local description");
    let summary = negotiator.handle_answer(description.id, &answer.sdp).expect("answer");
    assert!(summary.displaced.is_empty() && negotiator.described("TR_v"));
    check(&negotiator);
}
