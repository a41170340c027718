//! What a client says to the signalling server before anybody knows it, and after: the query of its connection, and WebSocket
//! frames in protobuf and in JSON. What was read is written and read again, in both forms.
//!
//! The module is taken in as source: the crate around it would bring the whole server along.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use livekit_protocol as proto;
use prost::Message;

#[path = "../../control-plane/src/signal/wire/connect.rs"]
#[allow(dead_code, unreachable_pub)]
mod connect;
#[path = "../../control-plane/src/signal/wire/frame.rs"]
#[allow(dead_code, unreachable_pub)]
mod frame;

#[path = "shared/seeds.rs"]
mod seeds;

use connect::{ConnectParams, Endpoint};
use frame::{Frame, FrameKind, WireError, decode, encode};

fn again(request: &proto::SignalRequest) {
    let binary = Frame::Binary(request.encode_to_vec().into());
    assert_eq!(decode(&binary).as_ref(), Ok(request));
    // JSON has no NaN of its own and no number for an enum's unknown value: what cannot be written is not.
    let Ok(text) = serde_json::to_string(request) else { return };
    let again = decode(&Frame::Text(text)).expect("our own message");
    assert_eq!(again.message.is_some(), request.message.is_some());
}

fn frames(bytes: &[u8]) {
    match decode(&Frame::Binary(Bytes::copy_from_slice(bytes))) {
        Ok(request) => again(&request),
        Err(WireError::Protobuf(said)) => assert!(said.chars().count() <= 160),
        Err(other) => panic!("of a binary frame: {other}"),
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    match decode(&Frame::Text(text.to_owned())) {
        Ok(request) => again(&request),
        Err(WireError::Json(said)) => assert!(said.chars().count() <= 160),
        Err(other) => panic!("of a text frame: {other}"),
    }
}

/// What the server says back is one message, whichever way it is written.
fn answers(bytes: &[u8]) {
    let Ok(response) = proto::SignalResponse::decode(bytes) else { return };
    for kind in [FrameKind::Binary, FrameKind::Text] {
        assert_eq!(encode(&response, kind).kind(), kind);
    }
}

/// Requests that clients make, in both forms, and queries as they come.
fn requests() -> Vec<Vec<u8>> {
    use proto::signal_request::Message;
    let messages = [
        Message::Offer(proto::SessionDescription {
            r#type: "offer".into(),
            sdp: "v=0\r\n".into(),
            id: 1,
            ..Default::default()
        }),
        Message::Trickle(proto::TrickleRequest {
            candidate_init: "{\"candidate\":\"\"}".into(),
            target: 1,
            r#final: true,
        }),
        Message::AddTrack(proto::AddTrackRequest {
            cid: "camera".into(),
            name: "camera".into(),
            r#type: 1,
            width: 1_280,
            height: 720,
            layers: vec![proto::VideoLayer { quality: 2, width: 1_280, ..Default::default() }],
            simulcast_codecs: vec![proto::SimulcastCodec {
                codec: "vp9".into(),
                cid: "camera".into(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        Message::TrackSetting(proto::UpdateTrackSettings {
            track_sids: vec!["TR_a".into()],
            disabled: true,
            width: 320,
            fps: 15,
            priority: 2,
            ..Default::default()
        }),
        Message::Subscription(proto::UpdateSubscription {
            track_sids: vec!["TR_a".into()],
            subscribe: true,
            ..Default::default()
        }),
        Message::UpdateMetadata(proto::UpdateParticipantMetadata {
            attributes: [("key".to_owned(), "value".to_owned())].into(),
            ..Default::default()
        }),
        Message::PingReq(proto::Ping { timestamp: i64::MAX, rtt: 20 }),
        Message::SyncState(proto::SyncState {
            track_sids_disabled: vec!["TR_b".into()],
            ..Default::default()
        }),
    ];
    let mut inputs = Vec::new();
    for message in messages {
        let request = proto::SignalRequest { message: Some(message) };
        let text = serde_json::to_string(&request).expect("it has JSON").into_bytes();
        for body in [request.encode_to_vec(), text] {
            inputs.push([&[0][..], &body].concat());
        }
    }
    for query in [
        "access_token=a.b.c&auto_subscribe=1&sdk=js&version=2.16.0&protocol=16&reconnect=1&sid=PA_a&attributes=e30",
        "join_request=CAASAA%3D%3D",
        "join_request=CAESFB-LCAAAAAAAAAMDAAAAAAAAAAAA",
    ] {
        inputs.push([&[3][..], query.as_bytes()].concat());
    }
    inputs
}

fuzz_target!(init: seeds::write(requests), |data: &[u8]| {
    let Some((what, rest)) = data.split_first() else { return };
    match what % 4 {
        0 | 1 => frames(rest),
        2 => answers(rest),
        _ => {
            let query = String::from_utf8_lossy(rest);
            for endpoint in [Endpoint::Rtc, Endpoint::RtcV1] {
                if let Ok(params) = ConnectParams::from_query(endpoint, &query) {
                    let _ = params.syncs_streams();
                    assert!(params.single_peer || endpoint == Endpoint::Rtc);
                }
            }
        }
    }
});
