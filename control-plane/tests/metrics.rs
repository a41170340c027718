//! `/metrics` of a control plane beside a media node, over HTTP.

#[allow(dead_code)] // shared with other tests
mod split;

use livekit_protocol::{
    self as proto, signal_request::Message as Request, signal_response::Message as Response,
};
use split::{Client, Deployment, http};

/// Tracks of a participant.
const MAX_TRACKS: usize = 64;

fn has(text: &str, lines: &[&str]) -> bool {
    lines.iter().all(|line| text.lines().any(|l| l == *line))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_sessions_joins_messages_and_nodes_are_counted() {
    let deployment = Deployment::start("metrics").await;
    let token =
        |identity: &str| deployment.token(|grants| identity.clone_into(&mut grants.identity));
    let join = async |identity: &str| {
        Client::join(&deployment, &token(identity), proto::JoinRequest::default()).await
    };
    let mut people = Vec::new();
    for identity in ["ada", "ben", "cid"] {
        people.push(join(identity).await.unwrap());
    }
    assert_eq!(join("one too many").await.err(), Some(403), "the room takes three");
    let refused = http(deployment.address, "GET", "/rtc", "", "").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let ada = &mut people[0];
    ada.send_text("no message at all").await;
    ada.send(Request::Ping(1)).await;
    ada.expect("pong", |message| matches!(message, Response::Pong(_)).then_some(())).await;
    // One more than a participant may have.
    for number in 0..=MAX_TRACKS {
        let (cid, source) = (format!("c{number}"), proto::TrackSource::Camera as i32);
        let r#type = proto::TrackType::Video as i32;
        ada.send(Request::AddTrack(proto::AddTrackRequest {
            cid,
            r#type,
            source,
            ..Default::default()
        }))
        .await;
    }
    let refused = ada.expect("a refusal", |message| match message {
        Response::RequestResponse(response) => Some(response),
        _ => None,
    });
    let refused = refused.await;
    assert_eq!(refused.reason(), proto::request_response::Reason::LimitExceeded);
    assert!(refused.message.contains("64 tracks"), "{refused:?}");
    let leave = Request::Leave(proto::LeaveRequest::default());
    people[2].send(leave).await;

    let text = deployment.until("/metrics", |text| has(text, &["chappe_participants 2"])).await;
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    let lines = [
        "chappe_rooms 1",
        "chappe_published_tracks 0",
        "chappe_participants_by_quality{quality=\"poor\"} 0",
        "chappe_sessions{state=\"awaiting_resume\"} 0",
        "chappe_joins_total 3",
        "chappe_joins_refused_total{reason=\"room_full\"} 1",
        "chappe_joins_refused_total{reason=\"token\"} 1",
        "chappe_signal_requests_total 67",
        "chappe_signal_requests_refused_total{reason=\"limit_exceeded\"} 1",
        "chappe_signal_garbage_total 1",
    ];
    for line in lines {
        assert!(has(&text, &[line]), "{line} is missing in\n{text}");
    }
    assert!(text.contains("chappe_node_attached{node=\"http://127.0.0.1:"), "{text}");
    let sent = text.lines().find_map(|line| line.strip_prefix("chappe_signal_responses_total "));
    assert!(sent.and_then(|sent| sent.parse().ok()).is_some_and(|sent: u64| sent > 3), "{text}");
    assert!(!text.contains("ada"), "no names");
    deployment
        .until("/metrics", |text| has(text, &["chappe_sessions{state=\"connected\"} 2"]))
        .await;
    deployment.stop().await;
}
