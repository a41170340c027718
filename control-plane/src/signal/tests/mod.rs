//! The whole signalling server on real sockets, over a node that keeps what it is told.

mod sdk;
mod server;

use std::time::Duration;

use livekit_protocol::{
    self as proto, leave_request::Action, signal_request::Message as Request,
    signal_response::Message as Response,
};
use prost::Message as _;

use self::server::{Client, Server, add_track, kinds_until};
use super::{SignalConfig, session::tests::client::OfferingClient};
use crate::room::{ParticipantSid, RoomOptions, RoomPolicy};

#[tokio::test]
async fn who_may_not_join_is_told_why_before_the_upgrade() {
    struct Case {
        name: &'static str,
        path: String,
        status: u16,
        reason: &'static str,
    }
    let policy = RoomPolicy { auto_create: false, ..RoomPolicy::default() };
    let server = Server::start(policy, SignalConfig::default()).await;
    let full = RoomOptions { max_participants: 1, ..RoomOptions::default() };
    server.rooms.create("full", full).await.expect("room");
    let _first = Client::join_v0(&server, "full", "first").await;
    let token = |room| server.token(room, "ada");
    let other =
        crate::auth::Keys::new([("devkey".to_owned(), "another secret".to_owned())]).expect("keys");
    let forged = server.sign(&other, "r", "ada");
    let cases = [
        Case { name: "no token", path: "/rtc".into(), status: 401, reason: "no access token" },
        Case {
            name: "forged token",
            path: format!("/rtc?access_token={forged}"),
            status: 401,
            reason: "signature",
        },
        Case {
            name: "v1 without join request",
            path: format!("/rtc/v1?access_token={}", token("full")),
            status: 400,
            reason: "join_request",
        },
        Case {
            name: "no such room",
            path: format!("/rtc?access_token={}", token("nowhere")),
            status: 404,
            reason: "requested room does not exist",
        },
        Case {
            name: "full room",
            path: format!("/rtc?access_token={}", token("full")),
            status: 403,
            reason: "full",
        },
    ];
    for case in cases {
        let refused = Client::connect(&server, &case.path).await.err();
        assert_eq!(refused.as_ref().map(|refused| refused.0), Some(case.status), "{}", case.name);
        let (path, query) = case.path.split_once('?').unwrap_or((&case.path, ""));
        let (status, body) = server.get(&format!("{path}/validate?{query}")).await;
        assert_eq!(status, case.status, "{}", case.name);
        assert!(body.contains(case.reason), "{}: {body}", case.name);
    }
    let (status, body) =
        server.get(&format!("/rtc/validate?access_token={}", server.token("full", "first"))).await;
    assert_eq!((status, body.as_str()), (200, "success"), "who is in may come back");
}

#[tokio::test]
async fn what_asks_for_no_websocket_of_ours_is_told_so() {
    let server = Server::start(RoomPolicy::default(), SignalConfig::default()).await;
    let path = format!("/rtc?access_token={}", server.token("r", "ada"));
    let asked = "Connection: close, Upgrade\r\nUpgrade: WebSocket\r\n";
    let cases = [
        ("a page", "Connection: close\r\n".to_owned(), 400, "WebSocket"),
        ("another version", format!("{asked}Sec-WebSocket-Version: 8\r\n"), 426, "13"),
        ("no key", format!("{asked}Sec-WebSocket-Version: 13\r\n"), 400, "Sec-WebSocket-Key"),
    ];
    for (name, headers, status, reason) in cases {
        let (told, body) = server.get_with(&path, &headers).await;
        assert_eq!((told, body.contains(reason)), (status, true), "{name}: {body}");
    }
    assert_eq!(server.signal.sessions(), 0, "nobody joined");
}

#[tokio::test]
async fn a_profile_over_its_bounds_is_refused_before_the_upgrade() {
    let server = Server::default().await;
    let many = |count: usize| (0..count).map(|index| (index.to_string(), String::new())).collect();
    let cases = [
        ("a long name", server.token_with(|grants| grants.name = "x".repeat(257)), Some(400)),
        ("a name that fits", server.token_with(|grants| grants.name = "x".repeat(256)), None),
        ("many attributes", server.token_with(|grants| grants.attributes = many(1_025)), Some(400)),
        ("attributes that fit", server.token_with(|grants| grants.attributes = many(1_024)), None),
    ];
    for (name, token, status) in cases {
        let refused = Client::connect(&server, &format!("/rtc?access_token={token}")).await.err();
        assert_eq!(refused.map(|refused| refused.0), status, "{name}");
    }
    // Nobody stays of who was refused.
    server.until_sessions(0).await;
}

#[tokio::test]
async fn two_people_publish_and_take_over_one_connection_each() {
    let server = Server::default().await;
    let mut ada = Client::join_v1(&server, "r", "ada").await;
    let mut ben = Client::join_v1(&server, "r", "ben").await;
    ada.settle_answer().await;
    ben.settle_answer().await;

    ada.send(Request::AddTrack(add_track("cam"))).await;
    ada.peer.publish("video", "cam", &["q", "h", "f"]);
    ada.offer().await;
    let published = ada.expect("track_published", |message| match message {
        Response::TrackPublished(published) => Some(published.clone()),
        _ => None,
    });
    let sid = published.await.track.expect("track").sid;
    ada.settle_answer().await;

    let told = ben
        .expect("update with the track", |message| match message {
            Response::Update(update) => update
                .participants
                .iter()
                .find(|p| p.identity == "ada" && !p.tracks.is_empty())
                .cloned(),
            _ => None,
        })
        .await;
    assert_eq!(told.tracks[0].sid, sid);
    ben.expect("a reason to offer", |message| {
        matches!(message, Response::MediaSectionsRequirement(_)).then_some(())
    })
    .await;
    ben.offer().await;
    let answer = ben.settle_answer().await;
    assert!(
        answer.mid_to_track_id.values().any(|track| *track == sid),
        "{:?}",
        answer.mid_to_track_id
    );
    assert!(answer.sdp.contains(&format!("|{sid} {sid}")));
    server
        .until("the node sends it", |node| {
            node.peers.values().any(|peer| {
                peer.state.as_ref().is_some_and(|state| {
                    state.subscriptions.iter().any(|taken| taken.track_id == sid)
                })
            })
        })
        .await;
}

#[tokio::test]
async fn what_the_node_measures_reaches_everybody() {
    use chappe_proto::node::v1::{
        DirectionStats, PeerStats, Speaker, SpeakersChanged, event::Event as Body,
    };
    let server = Server::default().await;
    let mut ada = Client::join_v1(&server, "r", "ada").await;
    ada.settle_answer().await;
    let mut ben = Client::join_v1(&server, "r", "ben").await;
    ben.settle_answer().await;
    let camera = ada.publish_camera().await;
    let room_id = server.node.held().peers[&ada.sid].room_id.clone();
    let sid = ada.sid.clone();
    let stats = |loss| {
        Body::PeerStats(PeerStats {
            room_id: room_id.clone(),
            peer_id: sid.clone(),
            rtt_us: Some(20_000),
            ingress: Some(DirectionStats { loss_permille: Some(loss), jitter_us: 1_000 }),
            ..PeerStats::default()
        })
    };
    let quality = |message: &Response| match message {
        Response::ConnectionQuality(update) => {
            let info = update.updates.iter().find(|info| info.participant_sid == sid)?;
            Some((info.quality(), info.score))
        }
        _ => None,
    };
    server.node.say(&stats(0));
    for client in [&mut ada, &mut ben] {
        let (level, score) = client.expect("quality", quality).await;
        assert_eq!(level, proto::ConnectionQuality::Excellent);
        assert!(score > 4.0, "{score}");
    }
    server.node.say(&stats(200));
    server.node.say(&stats(200));
    let (level, _) = ben.expect("worse quality", quality).await;
    assert_eq!(level, proto::ConnectionQuality::Poor);
    let counted = async {
        while server.rooms.population().levels != [0, 1, 0, 0] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(server::PATIENCE, counted).await.expect("one poor connection is counted");

    let heard =
        |speakers| Body::SpeakersChanged(SpeakersChanged { room_id: room_id.clone(), speakers });
    let speaks = Speaker { track_id: camera.clone(), level: 0.25, dominant: true };
    for (speakers, active) in [(vec![speaks], true), (vec![], false)] {
        server.node.say(&heard(speakers));
        let told = ben.expect("speakers", |message| match message {
            Response::SpeakersChanged(changed) => Some(changed.speakers.clone()),
            _ => None,
        });
        let told = told.await;
        assert_eq!((told.len(), told[0].active, &told[0].sid), (1, active, &sid));
    }
    // Who comes later is told how the others are connected.
    let mut carl = Client::join_v1(&server, "r", "carl").await;
    let (level, _) = carl.expect("quality", quality).await;
    assert_eq!(level, proto::ConnectionQuality::Poor);
}

#[tokio::test]
async fn two_connections_get_an_offer_at_once() {
    let server = Server::default().await;
    let mut ada = Client::join_v0(&server, "r", "ada").await;
    let kinds = kinds_until(&mut ada, "offer").await;
    assert_eq!(kinds[0], "join");
}

#[tokio::test]
async fn fresh_tokens_grant_what_the_first_did() {
    let mut config = SignalConfig::default();
    config.session.token_refresh = Duration::from_millis(20);
    let server = Server::start(RoomPolicy::default(), config).await;
    let token = server.token_with(|grants| {
        grants.metadata = "kept".into();
        grants.attributes = [("seat".to_owned(), "4".to_owned())].into();
        grants.video.hidden = true;
        grants.video.can_publish_sources = vec!["camera".into()];
        grants.video.can_publish_data = Some(false);
        grants.video.room_admin = true;
    });
    let first = server.verify(&token);
    let path = format!("/rtc?access_token={token}&protocol=16");
    let mut ada = Client::connect(&server, &path).await.expect("let in").welcomed("r", "ada").await;
    for _ in 0..3 {
        let fresh = ada.expect("refresh_token", |message| match message {
            Response::RefreshToken(token) => Some(token.clone()),
            _ => None,
        });
        let fresh = server.verify(&fresh.await);
        assert!(fresh.expires_at >= first.expires_at);
        assert_eq!(fresh.permissions(), first.permissions());
        // What was left to the defaults is written out.
        let mut expected = crate::auth::Grants { expires_at: fresh.expires_at, ..first.clone() };
        expected.video.can_publish = Some(true);
        expected.video.can_subscribe = Some(true);
        assert_eq!(fresh, expected);
    }
}

#[tokio::test]
async fn text_frames_are_answered_in_text() {
    let server = Server::default().await;
    let mut ada = Client::join_v0(&server, "r", "ada").await;
    ada.send_text(r#"{"ping":"1","somethingNew":{"a":1}}"#).await;
    let text = ada.expect_text("pong").await;
    assert!(text.contains("pong"), "{text}");
    // What is encoded once for everybody, too.
    let _ben = Client::join_v0(&server, "r", "ben").await;
    let text = ada.expect_text("participants").await;
    assert!(text.contains(r#""identity":"ben""#), "{text}");
}

#[tokio::test]
async fn garbage_is_answered_and_the_session_goes_on() {
    let server = Server::default().await;
    let mut ada = Client::join_v0(&server, "r", "ada").await;
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x0a\xff", b"not protobuf at all"] {
        ada.send_bytes(garbage.to_vec()).await;
        ada.expect("a refusal", |message| match message {
            Response::RequestResponse(response) => Some(response.reason()),
            _ => None,
        })
        .await;
    }
    ada.send_text("{\"offer\": 5").await;
    let text = ada.expect_text("requestResponse").await;
    assert!(text.contains("INVALID_REQUEST"), "{text}");
    // Unknown fields and messages are ignored.
    let mut bytes = proto::SignalRequest { message: Some(Request::Ping(1)) }.encode_to_vec();
    bytes.extend([0xfa, 0x3f, 0x01, 0x00]);
    ada.send_bytes(bytes).await;
    ada.expect("pong", |message| matches!(message, Response::Pong(_)).then_some(())).await;
}

#[tokio::test]
async fn oversized_messages_end_the_connection_only() {
    let server = Server::default().await;
    let mut ada = Client::join_v1(&server, "r", "ada").await;
    ada.settle_answer().await;
    server.node.connect(&ada.sid);
    ada.until_active().await;
    ada.send_bytes(vec![0; super::wire::MAX_FRAME + 1]).await;
    ada.expect_closed().await;
    let mut back = ada.resume(&server).await;
    assert_eq!(back.first, "reconnect");
    back.send(Request::Ping(1)).await;
    back.expect("pong", |message| matches!(message, Response::Pong(_)).then_some(())).await;
}

#[tokio::test]
async fn a_lost_signal_is_resumed_and_a_later_track_arrives() {
    let server = Server::default().await;
    let mut ada = Client::join_v1(&server, "r", "ada").await;
    ada.settle_answer().await;
    server.node.connect(&ada.sid);
    ada.until_active().await;
    let mut ada = ada.resume(&server).await;
    assert_eq!(ada.first, "reconnect");
    ada.expect("everybody", |message| match message {
        Response::Update(update) => {
            update.participants.iter().find(|p| p.identity == "ada").map(|_| ())
        }
        _ => None,
    })
    .await;
    let mut ben = Client::join_v1(&server, "r", "ben").await;
    ben.settle_answer().await;
    let sid = ben.publish_camera().await;
    assert!(ada.takes(&sid).await);
}

#[tokio::test]
async fn who_is_away_for_some_seconds_may_resume() {
    let server = Server::default().await;
    let mut ada = Client::join_v1(&server, "r", "ada").await;
    ada.settle_answer().await;
    server.node.connect(&ada.sid);
    ada.until_active().await;
    // Longer than any grace of the session itself: the room decides.
    let mut ada = ada.resume_after(&server, Duration::from_secs(4)).await;
    ada.send(Request::Ping(1)).await;
    ada.expect("pong", |message| matches!(message, Response::Pong(_)).then_some(())).await;
    assert_eq!(server.signal.sessions(), 1);
}

#[tokio::test]
async fn a_superseded_session_ends_nobody() {
    let server = Server::default().await;
    let mut ada = Client::join_v1(&server, "r", "ada").await;
    ada.settle_answer().await;
    server.node.connect(&ada.sid);
    ada.until_active().await;
    let sid = ParticipantSid::from(ada.sid.clone());
    let reason = proto::DisconnectReason::ConnectionTimeout;
    let (older_in, _older_events) = tokio::sync::mpsc::channel(16);
    let (newer_in, _newer_events) = tokio::sync::mpsc::channel(16);
    let (older, _) = server.rooms.resume("r", &sid, "ada", older_in).await.expect("resumed");
    let (newer, _) = server.rooms.resume("r", &sid, "ada", newer_in).await.expect("resumed");
    older.leave(&sid, reason).await;
    assert!(newer.participant("ada").await.is_ok(), "the newer session keeps the participant");
    newer.leave(&sid, reason).await;
    assert!(newer.participant("ada").await.is_err(), "and may end it");
}

#[tokio::test]
async fn a_restarted_control_plane_goes_on_with_the_same_peers() {
    let server = Server::default().await;
    let mut ada = Client::join_v1(&server, "r", "ada").await;
    ada.settle_answer().await;
    server.node.connect(&ada.sid);
    ada.until_active().await;
    let mine = ada.publish_camera().await;
    let ufrag = server.peer_ufrag(&ada.sid);
    // Rooms are saved a moment after they change; what is lost in that moment, the client publishes anew.
    server
        .until("the track is saved", |node| {
            node.rooms.values().any(|room| saved_text(room).contains(&mine))
        })
        .await;

    let server = server.restart().await;
    let mut ada = ada.resume(&server).await;
    assert_eq!(ada.first, "reconnect");
    let published = proto::TrackPublishedResponse {
        cid: "cam".into(),
        track: Some(proto::TrackInfo { sid: mine.clone(), ..Default::default() }),
    };
    ada.send(Request::SyncState(proto::SyncState {
        publish_tracks: vec![published],
        ..Default::default()
    }))
    .await;
    let mut ben = Client::join_v1(&server, "r", "ben").await;
    ben.settle_answer().await;
    let sid = ben.publish_camera().await;
    assert!(ada.takes(&sid).await);
    assert!(ben.takes(&mine).await, "what was published before is there");
    assert_eq!(server.peer_ufrag(&ada.sid), ufrag);
    assert_eq!(server.node.held().created, 2, "nobody made a new PeerConnection");
}

#[tokio::test]
async fn an_unknown_participant_is_told_to_start_anew() {
    let server = Server::default().await;
    let path = format!("/rtc?access_token={}&reconnect=1&sid=PA_unknown", server.token("r", "ada"));
    let mut ada = Client::connect(&server, &path).await.expect("the upgrade succeeds");
    let leave = ada
        .expect("leave", |message| match message {
            Response::Leave(leave) => Some(leave.clone()),
            _ => None,
        })
        .await;
    assert_eq!(
        (leave.reason(), leave.action()),
        (proto::DisconnectReason::StateMismatch, Action::Reconnect)
    );
    ada.expect_closed().await;
}

#[tokio::test]
async fn the_newer_of_two_with_one_identity_stays() {
    let server = Server::default().await;
    let mut old = Client::join_v0(&server, "r", "ada").await;
    let mut new = Client::join_v0(&server, "r", "ada").await;
    let leave = old
        .expect("leave", |message| match message {
            Response::Leave(leave) => Some(leave.clone()),
            _ => None,
        })
        .await;
    assert_eq!(
        (leave.reason(), leave.action()),
        (proto::DisconnectReason::DuplicateIdentity, Action::Disconnect)
    );
    old.expect_closed().await;
    new.send(Request::Ping(1)).await;
    new.expect("pong", |message| matches!(message, Response::Pong(_)).then_some(())).await;
    server.until_sessions(1).await;
}

#[tokio::test]
async fn a_stopping_server_tells_everybody_and_drains() {
    let server = Server::default().await;
    let mut ada = Client::join_v0(&server, "r", "ada").await;
    server.rooms.shutdown().await;
    let leave = ada
        .expect("leave", |message| match message {
            Response::Leave(leave) => Some(leave.clone()),
            _ => None,
        })
        .await;
    assert_eq!(
        (leave.reason(), leave.action()),
        (proto::DisconnectReason::ServerShutdown, Action::Reconnect)
    );
    ada.expect_closed().await;
    tokio::time::timeout(server::PATIENCE, server.signal.drained())
        .await
        .expect("no session is left");
}

#[tokio::test]
async fn a_drained_server_has_said_its_last_words() {
    let server = Server::default().await;
    let (socket, connection) =
        super::ws::pair(&SignalConfig::default(), server.signal.shared.sockets.token());
    drop(connection);
    let early = tokio::time::timeout(Duration::from_millis(300), server.signal.drained()).await;
    assert!(early.is_err(), "a socket has not flushed");
    drop(socket);
    tokio::time::timeout(server::PATIENCE, server.signal.drained()).await.expect("drained");
}

#[tokio::test]
async fn a_companion_keeps_its_identity_within_bounds() {
    let server = Server::default().await;
    for (length, allowed) in [(200, true), (256, false)] {
        let suffix = "x".repeat(length);
        let token = server.token("r", "ada");
        let (status, body) =
            server.get(&format!("/rtc/validate?access_token={token}&publish={suffix}")).await;
        assert_eq!(status, if allowed { 200 } else { 400 }, "{length}: {body}");
    }
}

#[tokio::test]
async fn a_client_is_not_read_while_its_commands_wait() {
    let server = Server::default().await;
    let mut ada = Client::join_v1(&server, "r", "ada").await;
    ada.settle_answer().await;
    server.node.held().stalled = true;
    ada.peer.publish("video", "cam", &[]);
    ada.send(Request::AddTrack(add_track("cam"))).await;
    ada.offer().await;
    for _ in 0..200 {
        ada.send(Request::SubscriptionPermission(proto::SubscriptionPermission::default())).await;
    }
    ada.send(Request::Ping(1)).await;
    let pong = |message: &Response| matches!(message, Response::Pong(_)).then_some(());
    let early = ada.pong_within(Duration::from_millis(500)).await;
    server.node.held().stalled = false;
    assert!(!early, "read on, with hundreds of commands waiting");
    ada.expect("pong", pong).await;
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_socket_and_nobody_else_does() {
    let config = SignalConfig { queue_bytes: 1 << 20, ..SignalConfig::default() };
    let server = Server::start(RoomPolicy::default(), config).await;
    let deaf = Client::join_v1(&server, "r", "deaf").await;
    let mut ada = Client::join_v1(&server, "r", "ada").await;
    ada.settle_answer().await;
    let room = server.rooms.get("r").expect("room");
    let mut round = 0u32;
    let refused = async {
        loop {
            round += 1;
            // The other one reads on and on.
            let _ = room.set_room_metadata(format!("{round}").repeat(100_000)).await;
            ada.send(Request::Ping(1)).await;
            ada.expect("pong", |message| matches!(message, Response::Pong(_)).then_some(())).await;
            if server.signal.sessions() < 2 {
                return;
            }
        }
    };
    // Without media a lost signal ends the participant.
    tokio::time::timeout(server::PATIENCE, refused).await.expect("its socket is closed");
    drop(deaf);
}

#[tokio::test]
async fn leaving_ends_the_session() {
    let server = Server::default().await;
    let mut ada = Client::join_v1(&server, "r", "ada").await;
    ada.send(Request::Leave(proto::LeaveRequest::default())).await;
    ada.expect_closed().await;
    server.until_sessions(0).await;
    server.until("its peers are gone", |node| node.peers.is_empty()).await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_media_is_forgotten() {
    let server = Server::default().await;
    let ada = Client::join_v1(&server, "r", "ada").await;
    drop(ada);
    server.until_sessions(0).await;
}

/// What a browser-like client offers first.
fn first_offer() -> OfferingClient {
    OfferingClient::new(3, 3)
}

/// What a small room keeps on the node: JSON.
fn saved_text(room: &chappe_proto::node::v1::RoomSnapshot) -> String {
    String::from_utf8_lossy(&room.owner_state).into_owned()
}
