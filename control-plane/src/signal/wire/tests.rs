use std::io::Write;

use base64::{Engine, engine::general_purpose::URL_SAFE};
use flate2::{Compression as Level, write::GzEncoder};
use http::StatusCode;
use livekit_protocol as proto;
use proptest::prelude::*;
use prost::Message;
use proto::{signal_request, signal_response, wrapped_join_request::Compression};

use super::*;

fn ping() -> proto::SignalRequest {
    proto::SignalRequest { message: Some(signal_request::Message::Ping(7)) }
}

#[test]
fn both_kinds_say_the_same() {
    let binary = Frame::Binary(ping().encode_to_vec().into());
    let text = Frame::Text(r#"{"ping":"7","somethingNew":{"a":[1]}}"#.to_owned());
    for frame in [binary, text] {
        assert_eq!(decode(&frame), Ok(ping()), "{:?}", frame.kind());
    }
    let response =
        proto::SignalResponse { message: Some(signal_response::Message::Pong(1_700_000_000_000)) };
    assert_eq!(
        encode(&response, FrameKind::Text),
        Frame::Text(r#"{"pong":"1700000000000"}"#.to_owned())
    );
    let Frame::Binary(bytes) = encode(&response, FrameKind::Binary) else { panic!("binary") };
    assert_eq!(proto::SignalResponse::decode(bytes), Ok(response));
}

#[test]
fn unknown_messages_come_back_empty() {
    // Field 99, length-delimited.
    let frame = Frame::Binary(vec![0x9a, 0x06, 0x02, 0x08, 0x01].into());
    assert_eq!(decode(&frame), Ok(proto::SignalRequest { message: None }));
    assert_eq!(decode(&Frame::Text("{}".to_owned())).map(|r| r.message), Ok(None));
}

/// A field that no message has, in each wire type of protobuf.
fn unknown_fields() -> Vec<u8> {
    const NUMBER: u32 = 19_000;
    let mut bytes = Vec::new();
    for (kind, value) in [
        (0, &b"\xff\xff\x01"[..]),
        (1, b"8 bytes."),
        (2, b"\x04text"),
        // A group of one field, and its end.
        (3, b"\x08\x01"),
        (4, b""),
        (5, b"four"),
    ] {
        prost::encoding::encode_varint(u64::from(NUMBER << 3 | kind), &mut bytes);
        bytes.extend_from_slice(value);
    }
    bytes
}

/// `inner` as field `number`, between unknown fields.
fn among_unknown(number: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = unknown_fields();
    bytes.push(number << 3 | 2);
    prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
    bytes.extend_from_slice(inner);
    bytes.extend(unknown_fields());
    bytes
}

#[test]
fn fields_of_later_versions_are_ignored() {
    let layer = proto::VideoLayer { width: 640, height: 360, ..Default::default() };
    let track = proto::AddTrackRequest {
        cid: "cam".to_owned(),
        r#type: proto::TrackType::Video as i32,
        layers: vec![layer.clone()],
        ..Default::default()
    };
    let expected =
        proto::SignalRequest { message: Some(signal_request::Message::AddTrack(track.clone())) };

    let mut bytes = proto::AddTrackRequest { layers: Vec::new(), ..track }.encode_to_vec();
    bytes.extend(among_unknown(9, &[unknown_fields(), layer.encode_to_vec()].concat()));
    let binary = Frame::Binary(among_unknown(4, &bytes).into());
    assert_eq!(decode(&binary), Ok(expected.clone()));

    let later = r#""later":{"a":[1,null,{"b":"c"}]},"later_too":-1.5e3,"more":true"#;
    let text = format!(
        r#"{{{later},"addTrack":{{{later},"cid":"cam","type":"VIDEO",
        "layers":[{{{later},"width":640,"height":360}}]}}}}"#
    );
    assert_eq!(decode(&Frame::Text(text)), Ok(expected));

    // The same in the request that opens a connection.
    let plain = [unknown_fields(), request().encode_to_vec(), unknown_fields()].concat();
    let wrapped = [among_unknown(2, &plain), unknown_fields()].concat();
    let query = format!("access_token=t&later=1&join_request={}", URL_SAFE.encode(wrapped));
    let params = ConnectParams::from_query(Endpoint::RtcV1, &query).expect("a join request");
    assert_eq!(params.client.protocol, 16);
    assert_eq!(params.offer, request().publisher_offer);
    assert!(params.auto_subscribe);
}

#[test]
fn garbage_is_refused_in_few_words() {
    let deep = "[".repeat(100_000);
    for text in ["", "null", "[]", "{", r#"{"offer":5}"#, deep.as_str()] {
        let error = decode(&Frame::Text(text.to_owned())).expect_err(text);
        assert!(matches!(error, WireError::Json(_)) && error.to_string().len() < 250, "{error}");
    }
    let error = decode(&Frame::Binary(vec![0x0a, 0xff].into())).expect_err("cut");
    assert!(matches!(error, WireError::Protobuf(_)), "{error}");
    let large = Frame::Text(" ".repeat(MAX_FRAME + 1));
    assert_eq!(decode(&large), Err(WireError::TooLarge(MAX_FRAME + 1)));
}

fn request() -> proto::JoinRequest {
    proto::JoinRequest {
        client_info: Some(proto::ClientInfo {
            protocol: 16,
            sdk: proto::client_info::Sdk::Js as i32,
            ..proto::ClientInfo::default()
        }),
        connection_settings: Some(proto::ConnectionSettings {
            auto_subscribe: true,
            adaptive_stream: true,
            ..proto::ConnectionSettings::default()
        }),
        publisher_offer: Some(proto::SessionDescription {
            r#type: "offer".to_owned(),
            sdp: "v=0".to_owned(),
            id: 1,
            ..proto::SessionDescription::default()
        }),
        ..proto::JoinRequest::default()
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

fn wrap(compression: i32, join_request: Vec<u8>) -> String {
    let wrapped = proto::WrappedJoinRequest { compression, join_request };
    URL_SAFE.encode(wrapped.encode_to_vec())
}

#[test]
fn a_join_request_is_unwrapped() {
    let plain = request().encode_to_vec();
    let padded = wrap(Compression::Gzip as i32, gzip(&plain));
    let cases = [
        ("plain", wrap(Compression::None as i32, plain.clone())),
        ("gzip", padded.clone()),
        ("without padding", padded.trim_end_matches('=').to_owned()),
        ("escaped padding", padded.replace('=', "%3D")),
        ("the other alphabet", padded.replace('-', "%2B").replace('_', "/")),
    ];
    for (name, text) in cases {
        let query = format!("access_token=t&join_request={text}");
        let params = ConnectParams::from_query(Endpoint::RtcV1, &query).expect(name);
        assert!(params.single_peer && params.auto_subscribe, "{name}");
        assert_eq!(params.client.protocol, 16, "{name}");
        assert_eq!(params.offer.as_ref().map(|offer| offer.id), Some(1), "{name}");
        assert!(params.reconnect.is_none() && params.metadata.is_none(), "{name}");
        // The older path takes it too.
        assert_eq!(ConnectParams::from_query(Endpoint::Rtc, &query), Ok(params), "{name}");
    }
}

#[test]
fn who_plays_streams_in_step() {
    use proto::client_info::Sdk;
    struct Case {
        name: &'static str,
        sdk: Sdk,
        os: &'static str,
        version: &'static str,
        protocol: i32,
        single_peer: bool,
        syncs: bool,
    }
    let page = Case {
        name: "a page",
        sdk: Sdk::Js,
        os: "",
        version: "2.15.7",
        protocol: 16,
        single_peer: true,
        syncs: true,
    };
    let cases = [
        Case { name: "an old client", protocol: 9, syncs: false, ..page },
        Case { name: "two PeerConnections", version: "2.16.0", single_peer: false, ..page },
        Case { name: "two, newer", version: "3.0.0-rc.1", single_peer: false, ..page },
        Case { name: "two, older", single_peer: false, syncs: false, ..page },
        Case { name: "two, unknown", version: "2", single_peer: false, syncs: false, ..page },
        Case { name: "React Native", os: "ios", syncs: false, ..page },
        Case { name: "another SDK", sdk: Sdk::Rust, syncs: false, ..page },
        page,
    ];
    for case in cases {
        let endpoint = if case.single_peer { Endpoint::RtcV1 } else { Endpoint::Rtc };
        let client_info = proto::ClientInfo {
            sdk: case.sdk as i32,
            os: case.os.into(),
            version: case.version.into(),
            protocol: case.protocol,
            ..Default::default()
        };
        let request = proto::JoinRequest { client_info: Some(client_info), ..Default::default() };
        let query = format!("join_request={}", wrap(0, request.encode_to_vec()));
        let mut params = ConnectParams::from_query(endpoint, &query).unwrap();
        params.single_peer = case.single_peer;
        assert_eq!(params.syncs_streams(), case.syncs, "{}", case.name);
    }
}

#[test]
fn a_join_request_can_resume() {
    let request = proto::JoinRequest {
        reconnect: true,
        reconnect_reason: 1,
        participant_sid: "PA_1".to_owned(),
        publisher_offer: None,
        sync_state: Some(proto::SyncState::default()),
        connection_settings: None,
        ..request()
    };
    let text = wrap(0, request.encode_to_vec());
    let params = ConnectParams::from_query(Endpoint::RtcV1, &format!("join_request={text}"))
        .expect("a join request");
    let reconnect = Reconnect { participant_sid: Some("PA_1".to_owned()), reason: 1 };
    assert_eq!(params.reconnect, Some(reconnect));
    assert!(params.sync_state.is_some() && params.auto_subscribe && params.offer.is_none());
}

#[test]
fn a_bad_join_request_is_refused_with_its_reason() {
    let bomb = gzip(&vec![0; 8 << 20]);
    let cases = [
        ("", "missing"),
        ("join_request=", "missing"),
        ("join_request=!!!", "base64url"),
        ("join_request=_____w", "WrappedJoinRequest"),
        (&format!("join_request={}", wrap(9, Vec::new())), "compression"),
        (&format!("join_request={}", wrap(1, vec![1, 2, 3])), "gzip"),
        (&format!("join_request={}", wrap(1, bomb)), "too large"),
        (&format!("join_request={}", wrap(0, vec![0x0a, 0xff])), "not a JoinRequest"),
    ];
    for (query, reason) in cases {
        let error = ConnectParams::from_query(Endpoint::RtcV1, query).expect_err(reason);
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn query_parameters_are_read() {
    let attributes = URL_SAFE.encode(r#"{"k":"v"}"#);
    let query = format!(
        "access_token=t&auto_subscribe=0&sdk=ios&version=2.1&protocol=15&os=iOS&adaptive_stream=1\
         &reconnect=1&reconnect_reason=2&sid=PA_1&client_protocol=1&attributes={attributes}\
         &capabilities=CAP_PACKET_TRAILER,unknown"
    );
    let params = ConnectParams::from_query(Endpoint::Rtc, &query).expect("parameters");
    assert!(!params.auto_subscribe && !params.single_peer);
    assert_eq!(params.client.sdk(), proto::client_info::Sdk::Swift);
    assert_eq!((params.client.protocol, params.client.client_protocol), (15, 1));
    assert_eq!(params.client.capabilities.len(), 1);
    assert_eq!(params.attributes.get("k").map(String::as_str), Some("v"));
    let reconnect = Reconnect { participant_sid: Some("PA_1".to_owned()), reason: 2 };
    assert_eq!(params.reconnect, Some(reconnect));

    let params = ConnectParams::from_query(Endpoint::Rtc, "").expect("defaults");
    assert!(params.auto_subscribe && params.reconnect.is_none() && params.publish.is_none());
    for (query, name) in [("protocol=x", "protocol"), ("attributes=e30x", "attributes")] {
        let error = ConnectParams::from_query(Endpoint::Rtc, query).expect_err(name);
        assert_eq!(error, ConnectError::Parameter(name));
    }
}

proptest! {
    #[test]
    fn frames_of_noise_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&Frame::Text(String::from_utf8_lossy(&bytes).into_owned()));
        let _ = decode(&Frame::Binary(bytes.into()));
    }

    #[test]
    fn queries_of_noise_never_panic(query in "[ -~]{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ConnectParams::from_query(Endpoint::Rtc, &query);
        for compression in 0..3 {
            let text = wrap(compression, bytes.clone());
            let _ = ConnectParams::from_query(Endpoint::RtcV1, &format!("join_request={text}"));
        }
    }
}
