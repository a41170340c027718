//! No address, user name, password, token, secret or metadata of a client may reach a log line, whatever the level.
//! Alone in its process: it captures all that is said there, by the control plane, the media node and libraries.

#[allow(dead_code)] // shared with other tests
mod split;

use std::{
    io,
    sync::{Arc, mpsc},
};

use chappe_sfu::telemetry::log;
use livekit_protocol::{
    self as proto, signal_request::Message as Request, signal_response::Message as Response,
};
use split::{API_SECRET, Client, Deployment, NODE_SECRET, http};
use tracing_subscriber::{fmt::MakeWriter, util::SubscriberInitExt};

#[derive(Clone)]
struct Lines(Arc<mpsc::SyncSender<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// What only the client and its server may know.
const UFRAG: &str = "UfragOfTheClient";
const PASSWORD: &str = "PasswordOfTheClient0123";
const FINGERPRINT: &str = "A0:07:0E:15:1C:23:2A:31:38:3F:46:4D:54:5B:62:69:70:77:7E:85:8C:93:9A:A1:A8:AF:B6:BD:C4:CB:D2:D9";
const ADDRESS: &str = "203.0.113.77";
const ADDRESS_V6: &str = "2001:db8::77";
const METADATA: &str = "metadata-of-the-identity";
const ATTRIBUTE: &str = "attribute-of-the-identity";
const IDENTITY: &str = "ada.lovelace@example.org";
const NAME: &str = "Ada Augusta Lovelace";

fn offer() -> proto::SessionDescription {
    let sdp = include_str!("fixtures/sdp/chromium-join.sdp");
    let mut own = String::new();
    for line in sdp.lines() {
        let line = match line.split_once(':').map(|(name, _)| name) {
            Some("a=ice-ufrag") => format!("a=ice-ufrag:{UFRAG}"),
            Some("a=ice-pwd") => format!("a=ice-pwd:{PASSWORD}"),
            Some("a=fingerprint") => format!("a=fingerprint:sha-256 {FINGERPRINT}"),
            _ => line.to_owned(),
        };
        own.push_str(&line);
        own.push_str("\r\n");
    }
    proto::SessionDescription { r#type: "offer".into(), sdp: own, id: 1, ..Default::default() }
}

/// Values of an SDP attribute.
fn values<'a>(sdp: &'a str, name: &str) -> Vec<&'a str> {
    sdp.lines().filter_map(|line| line.strip_prefix(name)).map(str::trim).collect()
}

fn candidate(address: &str) -> Request {
    let candidate =
        format!("candidate:1 1 udp 2122260223 {address} 50000 typ host generation 0 ufrag {UFRAG}");
    let init = format!(r#"{{"candidate":"{candidate}","sdpMid":"0","sdpMLineIndex":0}}"#);
    Request::Trickle(proto::TrickleRequest { candidate_init: init, ..Default::default() })
}

/// Everything that a client can send which is refused, and so may be told of.
async fn provoke(client: &mut Client) {
    for address in [ADDRESS, ADDRESS_V6, "not an address 203.0.113.77"] {
        client.send(candidate(address)).await;
    }
    let update = proto::UpdateParticipantMetadata {
        metadata: METADATA.into(),
        name: NAME.into(),
        attributes: [(ATTRIBUTE.to_owned(), ATTRIBUTE.to_owned())].into(),
        request_id: 7,
    };
    client.send(Request::UpdateMetadata(update)).await;
    client.send_text(&format!(r#"{{"updateMetadata": {{"metadata": {METADATA}}}}}"#)).await;
    for sdp in [
        format!("v=0\r\na=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PASSWORD}\r\nm=nonsense"),
        offer().sdp.replace("a=setup:actpass", "a=setup:nonsense"),
        offer().sdp.replace("sha-256 A0", "sha-256 zz"),
    ] {
        let broken = proto::SessionDescription { sdp, id: 2, ..offer() };
        client.send(Request::Offer(broken)).await;
    }
    let permission = proto::SubscriptionPermission {
        all_participants: false,
        track_permissions: vec![proto::TrackPermission {
            participant_identity: IDENTITY.into(),
            track_sids: vec!["TR_unknown".into()],
            ..Default::default()
        }],
    };
    client.send(Request::SubscriptionPermission(permission)).await;
    client.send(Request::Ping(1)).await;
    client.expect("pong", |message| matches!(message, Response::Pong(_)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_identifies_a_client_is_logged() {
    let (sender, lines) = mpsc::sync_channel(1_000_000);
    let log = log::log_to("trace", false, false, Lines(Arc::new(sender))).unwrap();
    log.try_init().unwrap();
    let deployment = Deployment::start("redaction").await;
    let token = deployment.token(|grants| {
        grants.identity = IDENTITY.into();
        grants.name = NAME.into();
        grants.metadata = METADATA.into();
        grants.attributes = [("key".to_owned(), ATTRIBUTE.to_owned())].into();
    });
    let mut secrets: Vec<String> = [
        UFRAG,
        PASSWORD,
        FINGERPRINT,
        ADDRESS,
        ADDRESS_V6,
        "203.0.113.99",
        METADATA,
        ATTRIBUTE,
        IDENTITY,
        NAME,
        NODE_SECRET,
        API_SECRET,
        &token,
    ]
    .map(ToOwned::to_owned)
    .into();
    secrets.extend(token.split('.').map(ToOwned::to_owned));

    let request = proto::JoinRequest { publisher_offer: Some(offer()), ..Default::default() };
    let mut ada = Client::join(&deployment, &token, request.clone()).await.unwrap();
    let answer = ada
        .expect("answer", |message| match message {
            Response::Answer(answer) => Some(answer.sdp),
            _ => None,
        })
        .await;
    // The server's own side lets others into the session just as well.
    for name in ["a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:sha-256 "] {
        let found = values(&answer, name);
        assert!(!found.is_empty(), "{name} is missing in {answer}");
        secrets.extend(found.into_iter().map(ToOwned::to_owned));
    }
    provoke(&mut ada).await;
    let rejoin = proto::JoinRequest {
        reconnect: true,
        participant_sid: "PA_unknown".into(),
        ..request.clone()
    };
    let mut lost = Client::join(&deployment, &token, rejoin).await.unwrap();
    lost.expect("leave", |message| matches!(message, Response::Leave(_)).then_some(())).await;
    let forged = format!("{}x", token);
    assert_eq!(Client::join(&deployment, &forged, request).await.err(), Some(401));
    let bearer = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    for path in ["UpdateParticipant", "CreateRoom", "RemoveParticipant"] {
        let body = format!(r#"{{"room":"room","identity":"{IDENTITY}","metadata":"{METADATA}"}}"#);
        let path = format!("/twirp/livekit.RoomService/{path}");
        let answer = http(deployment.address, "POST", &path, &bearer, &body).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    deployment.stop().await;

    let text: Vec<u8> = lines.try_iter().flatten().collect();
    let text = String::from_utf8_lossy(&text);
    for said in ["room started", "UDP socket", "cannot resume", "DEBUG", "room ended"] {
        assert!(text.contains(said), "{said:?} is not captured in:\n{text}");
    }
    let line_of = |secret: &str| text.lines().find(|line| line.contains(secret));
    for secret in secrets {
        assert!(secret.len() >= 4, "{secret:?} is no secret");
        assert_eq!(line_of(&secret), None, "{secret:?} was logged");
    }
}
