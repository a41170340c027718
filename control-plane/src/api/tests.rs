//! The APIs over a real socket: tonic's client, and livekit-api's as one that is not ours.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use api::{
    participant_service_client::ParticipantServiceClient, room_service_client::RoomServiceClient,
};
use chappe_proto::v1 as api;
use livekit_api::services::{
    ServerError, ServiceError,
    room::{CreateRoomOptions, RoomClient, SendDataOptions, UpdateParticipantOptions},
};
use livekit_protocol as proto;
use prost::Message;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request, transport::Channel};

use super::*;
use crate::{
    auth::{Grants, Keys, VideoGrants},
    node::testing::TestNode,
    room::{
        ParticipantSid, PeerRole, RoomEvent, RoomHandle, RoomRegistry, TrackSid,
        tests::{camera, registry, request, vp8},
    },
};

const KEY: &str = "key";
const SECRET: &str = "a secret that is long enough";

struct Server {
    address: SocketAddr,
    rooms: RoomRegistry,
    node: TestNode,
    keys: Arc<Keys>,
    _stop: DropGuard,
}

impl Server {
    async fn start() -> Self {
        let node = TestNode::new();
        let rooms = registry(&node).await;
        let keys = Arc::new(Keys::new([(KEY.to_owned(), SECRET.to_owned())]).unwrap());
        let state = ApiState { rooms: rooms.clone(), keys: keys.clone() };
        let app =
            routes(state.clone()).merge(own_stats_routes(state.clone())).merge(grpc_routes(state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served =
            crate::server::serve(listener, None, app, stop.clone(), Duration::from_millis(100));
        tokio::spawn(served);
        Self { address, rooms, node, keys, _stop: stop.drop_guard() }
    }

    async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.address);
        Channel::from_shared(url).unwrap().connect().await.unwrap()
    }

    fn token(&self, video: VideoGrants) -> String {
        let grants = Grants { video, ..Grants::to_join("", "backend") };
        self.keys.mint(&grants, Duration::from_secs(60), SystemTime::now()).unwrap()
    }

    fn asks<T>(&self, video: VideoGrants, message: T) -> Request<T> {
        with_token(message, &self.token(video))
    }

    fn twirp(&self) -> RoomClient {
        RoomClient::with_api_key(&format!("http://{}", self.address), KEY, SECRET)
    }

    /// One request over a connection of its own: the whole answer.
    async fn http(&self, method: &str, path: &str, token: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Somebody who publishes a camera.
    async fn guest(&self, room: &str, identity: &str) -> Guest {
        let (sender, events) = mpsc::channel(256);
        let (room, joined) = self.rooms.join(room, request(identity), sender).await.unwrap();
        let info = room.add_track(&joined.sid, camera("cam")).await.unwrap();
        let track = TrackSid(info.sid.as_str().into());
        room.publish_track(&joined.sid, &track, vp8(&info.sid)).await.unwrap();
        Guest { room, sid: joined.sid, track, events }
    }
}

struct Guest {
    room: RoomHandle,
    sid: ParticipantSid,
    track: TrackSid,
    events: mpsc::Receiver<Box<RoomEvent>>,
}

impl Guest {
    async fn hears(&mut self, what: &str, fits: impl Fn(&RoomEvent) -> bool) {
        let wait = async {
            while !fits(&self.events.recv().await.expect("the event comes before the end")) {}
        };
        let heard = tokio::time::timeout(Duration::from_secs(10), wait).await;
        heard.unwrap_or_else(|_| panic!("never heard: {what}"));
    }
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn create() -> VideoGrants {
    VideoGrants { room_create: true, ..Default::default() }
}

fn list() -> VideoGrants {
    VideoGrants { room_list: true, ..Default::default() }
}

fn admin(room: &str) -> VideoGrants {
    VideoGrants { room_admin: true, room: room.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn a_huge_timeout_is_clamped_and_a_negative_one_refused() {
    let server = Server::start().await;
    let mut rooms = RoomServiceClient::new(server.channel().await);
    let wanted = |name: &str, seconds| api::CreateRoomRequest {
        name: name.to_owned(),
        empty_timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
        departure_timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    };
    let made = rooms.create_room(server.asks(create(), wanted("long", i64::MAX))).await.unwrap();
    let made = made.into_inner();
    for timeout in [made.empty_timeout, made.departure_timeout] {
        assert_eq!(timeout.unwrap().seconds, i64::from(u32::MAX));
    }
    for seconds in [-1, i64::MIN] {
        let refused = rooms.create_room(server.asks(create(), wanted("past", seconds))).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn rooms_over_grpc() {
    let server = Server::start().await;
    let mut rooms = RoomServiceClient::new(server.channel().await);
    let wanted = api::CreateRoomRequest {
        name: "r".to_owned(),
        metadata: "m".to_owned(),
        max_participants: 3,
        empty_timeout: Some(prost_types::Duration { seconds: 40, nanos: 0 }),
        departure_timeout: None,
    };
    let made = rooms.create_room(server.asks(create(), wanted.clone())).await.unwrap().into_inner();
    assert!(made.sid.starts_with("RM_"));
    assert_eq!((made.metadata.as_str(), made.max_participants), ("m", 3));
    assert_eq!(made.empty_timeout.unwrap().seconds, 40);
    assert_eq!(made.departure_timeout.unwrap().seconds, 20);
    let other = api::CreateRoomRequest { metadata: "n".to_owned(), ..wanted };
    let again = rooms.create_room(server.asks(create(), other)).await.unwrap().into_inner();
    assert_eq!(again, made, "the room of that name, unchanged");

    server.guest("r", "anna").await;
    server.guest("a", "ben").await;
    let named = |name: &str| api::GetRoomRequest { name: name.to_owned() };
    let got = rooms.get_room(server.asks(admin("r"), named("r"))).await.unwrap().into_inner();
    assert_eq!((got.num_participants, got.num_publishers), (1, 1));
    let all = api::ListRoomsRequest::default();
    let all = rooms.list_rooms(server.asks(list(), all)).await.unwrap().into_inner().rooms;
    assert_eq!(all.iter().map(|room| room.name.as_str()).collect::<Vec<_>>(), ["a", "r"]);
    let some = api::ListRoomsRequest { names: vec!["r".to_owned(), "x".to_owned()] };
    let some = rooms.list_rooms(server.asks(list(), some)).await.unwrap().into_inner().rooms;
    assert_eq!(some, [got]);

    let delete = || api::DeleteRoomRequest { name: "r".to_owned() };
    rooms.delete_room(server.asks(create(), delete())).await.unwrap();
    let gone = rooms.delete_room(server.asks(create(), delete())).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn a_participants_media_in_numbers() {
    use chappe_proto::node::v1 as node;
    let server = Server::start().await;
    let anna = server.guest("r", "anna").await;
    let ben = server.guest("r", "ben").await;
    let delta = node::PeerDelta::default();
    anna.room.apply_peer(&anna.sid, PeerRole::Single, delta).await.unwrap();
    let counters = node::EgressCounters { packets: 70, nacked: 3, ..Default::default() };
    let report = node::PeerReport {
        connected: true,
        path: Some(node::PathReport {
            rtt_us: Some(20_000),
            egress: Some(node::DirectionStats { loss_permille: Some(30), jitter_us: 4_000 }),
            estimate: Some(node::EstimateReport {
                estimate: 640_000,
                limit: node::EstimateLimit::Loss.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        tracks: vec![node::TrackReport {
            track_id: format!("{}/vp8", anna.track),
            encodings: vec![node::EncodingReport { live: true, frames: 9, ..Default::default() }],
            ..Default::default()
        }],
        subscriptions: vec![node::SubscriptionReport {
            track_id: ben.track.to_string(),
            wanted: Some(node::LayersReport::default()),
            current: Some(node::LayersReport { spatial_layer: Some(1), temporal_layer: Some(2) }),
            starved: true,
            sent: Some(counters),
            ..Default::default()
        }],
    };
    server.node.held().reports.insert(anna.sid.to_string(), report);
    let mut people = ParticipantServiceClient::new(server.channel().await);
    let one = |identity: &str| api::GetParticipantStatsRequest {
        room: "r".to_owned(),
        identity: identity.to_owned(),
    };
    let asked = people.get_participant_stats(server.asks(admin("r"), one("anna"))).await;
    let stats = asked.unwrap().into_inner();
    assert_eq!((&*stats.sid, &*stats.identity), (&*anna.sid.0, "anna"));
    assert_eq!(stats.quality(), api::participant_stats::Quality::Unspecified);
    let [path] = &stats.connections[..] else { panic!("one connection: {stats:?}") };
    assert_eq!(path.role(), api::connection_stats::Role::Both);
    assert_eq!(path.estimate_limit(), api::connection_stats::Limit::Loss);
    assert_eq!((path.round_trip_us, path.estimate), (Some(20_000), Some(640_000)));
    assert_eq!((path.downlink_loss_permille, path.uplink_loss_permille), (Some(30), None));
    assert_eq!(path.published[0].track_sid, *anna.track.0, "without the codec");
    assert_eq!(path.published[0].encodings[0].frames, 9);
    let taken = &path.subscribed[0];
    assert_eq!((&*taken.track_sid, &*taken.publisher_identity), (&*ben.track.0, "ben"));
    assert_eq!((taken.current_layer, taken.current_temporal_layer), (Some(1), Some(2)));
    assert!(taken.wanted && taken.paused);
    assert_eq!((taken.packets, taken.nacks), (70, 3));

    // The page asks with the token that it joined with, and hears of its own only.
    let path = "/page/stats";
    let ask = async |grants: &Grants| {
        let token = server.keys.mint(grants, Duration::from_secs(60), SystemTime::now()).unwrap();
        server.http("GET", path, &token).await
    };
    let own = ask(&Grants::to_join("r", "anna")).await;
    assert!(own.starts_with("HTTP/1.1 200") && own.contains("\"estimate\":640000"), "{own}");
    assert!(own.contains("\"limit\":\"loss\"") && own.contains("\"layer\":1"), "{own}");
    let other = ask(&Grants::to_join("r", "carl")).await;
    assert!(other.starts_with("HTTP/1.1 404"), "{other}");
    let no_guest = Grants { video: admin("r"), ..Grants::to_join("r", "anna") };
    assert!(ask(&no_guest).await.starts_with("HTTP/1.1 403"));
    assert!(server.http("GET", path, "nonsense").await.starts_with("HTTP/1.1 401"));

    // Without media there is nothing to tell; a stranger is an error; not everybody may ask.
    let asked = people.get_participant_stats(server.asks(admin("r"), one("ben"))).await;
    assert!(asked.unwrap().into_inner().connections.is_empty());
    let missing = people.get_participant_stats(server.asks(admin("r"), one("carl"))).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    let denied = people.get_participant_stats(server.asks(list(), one("anna"))).await;
    assert_eq!(denied.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn participants_over_grpc() {
    let server = Server::start().await;
    let mut anna = server.guest("r", "anna").await;
    server.guest("r", "ben").await;
    let mut people = ParticipantServiceClient::new(server.channel().await);
    let all = api::ListParticipantsRequest { room: "r".to_owned() };
    let all = people.list_participants(server.asks(admin("r"), all)).await.unwrap().into_inner();
    let identities: Vec<_> = all.participants.iter().map(|one| one.identity.as_str()).collect();
    assert_eq!(identities, ["anna", "ben"]);
    let one = |identity: &str| api::GetParticipantRequest {
        room: "r".to_owned(),
        identity: identity.to_owned(),
    };
    let got = people.get_participant(server.asks(admin("r"), one("anna"))).await.unwrap();
    let got = got.into_inner();
    assert_eq!(got.state(), api::participant::State::Joined);
    assert_eq!(got.sid, *anna.sid.0);
    assert_eq!(got.tracks[0].source(), api::track::Source::Camera);
    assert_eq!(got.tracks[0].mime_type, "video/VP8");
    let missing = people.get_participant(server.asks(admin("r"), one("carl"))).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    let remove =
        api::RemoveParticipantRequest { room: "r".to_owned(), identity: "anna".to_owned() };
    people.remove_participant(server.asks(admin("r"), remove)).await.unwrap();
    anna.hears("the end", |event| matches!(event, RoomEvent::Closed { .. })).await;
}

#[tokio::test]
async fn refusals_over_grpc() {
    let server = Server::start().await;
    server.guest("r", "anna").await;
    let mut rooms = RoomServiceClient::new(server.channel().await);
    struct Case {
        name: &'static str,
        request: api::CreateRoomRequest,
        token: Option<String>,
        code: Code,
    }
    let named = |name: &str| api::CreateRoomRequest { name: name.to_owned(), ..Default::default() };
    let stranger =
        Keys::new([("key".to_owned(), "another secret of a stranger".to_owned())]).unwrap();
    let forged = Grants { video: create(), ..Grants::to_join("", "x") };
    let forged = stranger.mint(&forged, Duration::from_secs(60), SystemTime::now());
    let late = Grants { video: create(), ..Grants::to_join("", "x") };
    let hour_ago = SystemTime::now() - Duration::from_secs(3_600);
    let late = server.keys.mint(&late, Duration::from_secs(60), hour_ago);
    let granted = || Some(server.token(create()));
    let cases = [
        Case { name: "no token", request: named("n"), token: None, code: Code::Unauthenticated },
        Case {
            name: "noise",
            request: named("n"),
            token: Some("x.y.z".into()),
            code: Code::Unauthenticated,
        },
        Case { name: "forged", request: named("n"), token: forged, code: Code::Unauthenticated },
        Case { name: "expired", request: named("n"), token: late, code: Code::Unauthenticated },
        Case {
            name: "other grant",
            request: named("n"),
            token: Some(server.token(list())),
            code: Code::PermissionDenied,
        },
        Case { name: "no name", request: named(""), token: granted(), code: Code::InvalidArgument },
        Case {
            name: "long name",
            request: named(&"n".repeat(257)),
            token: granted(),
            code: Code::InvalidArgument,
        },
        Case {
            name: "long metadata",
            request: api::CreateRoomRequest { metadata: "m".repeat(512 * 1024 + 1), ..named("n") },
            token: granted(),
            code: Code::InvalidArgument,
        },
        Case {
            name: "negative time",
            request: api::CreateRoomRequest {
                empty_timeout: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                ..named("n")
            },
            token: granted(),
            code: Code::InvalidArgument,
        },
    ];
    for case in cases {
        let request = match &case.token {
            Some(token) => with_token(case.request, token),
            None => Request::new(case.request),
        };
        let status = rooms.create_room(request).await.unwrap_err();
        assert_eq!(status.code(), case.code, "{}: {status:?}", case.name);
        assert!(!status.message().is_empty(), "{}", case.name);
    }
    // The admin of one room is nobody in another, even one that does not exist.
    let mut people = ParticipantServiceClient::new(server.channel().await);
    for room in ["r", "nowhere"] {
        let all = api::ListParticipantsRequest { room: room.to_owned() };
        let status = people.list_participants(server.asks(admin("s"), all)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    let all = api::ListParticipantsRequest { room: "nowhere".to_owned() };
    let status = people.list_participants(server.asks(admin("nowhere"), all)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn health_and_reflection() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = Server::start().await;
    let channel = server.channel().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    for service in ["", "chappe.v1.RoomService", "chappe.v1.ParticipantService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let asked = tokio_stream::once(request);
    let mut answers = reflection.server_reflection_info(asked).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else {
        panic!("{answer:?}")
    };
    assert!(services.service.iter().any(|service| service.name == "chappe.v1.RoomService"));
}

fn twirp_code(error: ServiceError) -> String {
    match error {
        ServiceError::Twirp(ServerError::Twirp(error)) => {
            assert!(!error.msg.is_empty());
            error.code
        }
        other => panic!("no Twirp error: {other:?}"),
    }
}

#[tokio::test]
async fn rooms_and_people_over_twirp() {
    let server = Server::start().await;
    let client = server.twirp();
    let options =
        CreateRoomOptions { metadata: "m".to_owned(), max_participants: 5, ..Default::default() };
    let made = client.create_room("r", options).await.unwrap();
    assert_eq!((made.name.as_str(), made.empty_timeout), ("r", 300));
    let mut anna = server.guest("r", "anna").await;
    let mut ben = server.guest("r", "ben").await;
    let rooms = client.list_rooms(vec!["r".to_owned()]).await.unwrap();
    assert_eq!((rooms[0].num_participants, rooms[0].max_participants), (2, 5));
    assert_eq!(client.list_participants("r").await.unwrap().len(), 2);
    assert_eq!(client.get_participant("r", "ben").await.unwrap().sid, *ben.sid.0);

    let muted = client.mute_published_track("r", "anna", &anna.track.0, true).await.unwrap();
    assert!(muted.muted);
    let track = anna.track.clone();
    anna.hears("muted", |event| *event == RoomEvent::Muted { track: track.clone(), muted: true })
        .await;

    let changes = UpdateParticipantOptions {
        name: "Anna".to_owned(),
        metadata: "here".to_owned(),
        attributes: HashMap::from([("k".to_owned(), "v".to_owned())]),
        permission: Some(proto::ParticipantPermission {
            can_subscribe: true,
            can_publish: false,
            ..Default::default()
        }),
    };
    let changed = client.update_participant("r", "anna", changes).await.unwrap();
    assert_eq!((changed.name.as_str(), changed.metadata.as_str()), ("Anna", "here"));
    assert!(changed.tracks.is_empty(), "what is not allowed any more is ended");
    anna.hears("permissions", |event| matches!(event, RoomEvent::Permissions(_))).await;

    client.update_subscriptions("r", "anna", vec![ben.track.to_string()], false).await.unwrap();
    anna.hears("unsubscribe", |event| matches!(event, RoomEvent::Unsubscribe { .. })).await;

    client.update_room_metadata("r", "new").await.unwrap();
    ben.hears("metadata", |event| matches!(event, RoomEvent::Room(room) if room.metadata == "new"))
        .await;

    let options = SendDataOptions {
        kind: proto::data_packet::Kind::Reliable,
        topic: Some("t".to_owned()),
        destination_identities: vec!["ben".to_owned()],
        ..Default::default()
    };
    client.send_data("r", b"hello".to_vec(), options).await.unwrap();
    let sent = server.node.held().sent.pop().unwrap();
    assert!(sent.reliable);
    assert_eq!(sent.destinations, ["ben"]);
    let packet = proto::DataPacket::decode(sent.packet.as_slice()).unwrap();
    let Some(proto::data_packet::Value::User(user)) = packet.value else { panic!("user packet") };
    assert_eq!((user.payload.as_slice(), user.topic.as_deref()), (&b"hello"[..], Some("t")));

    client.remove_participant("r", "ben").await.unwrap();
    ben.hears("the end", |event| matches!(event, RoomEvent::Closed { .. })).await;
    assert_eq!(twirp_code(client.get_participant("r", "ben").await.unwrap_err()), "not_found");
    assert_eq!(twirp_code(client.remove_participant("x", "ben").await.unwrap_err()), "not_found");
    let moved = client.move_participant("r", "anna", "s").await.unwrap_err();
    assert_eq!(twirp_code(moved), "unimplemented");
    client.delete_room("r").await.unwrap();
    assert_eq!(twirp_code(client.delete_room("r").await.unwrap_err()), "not_found");
    assert!(anna.room.room().await.is_err());
    let stranger = RoomClient::with_api_key(&format!("http://{}", server.address), KEY, "wrong");
    let refused = stranger.list_rooms(Vec::new()).await.unwrap_err();
    assert_eq!(twirp_code(refused), "unauthenticated");
}

/// One HTTP/1.1 exchange by hand: status and body.
async fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut text = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn twirp_in_json_and_what_it_refuses() {
    let server = Server::start().await;
    let bearer = format!("Bearer {}", server.token(create()));
    struct Case {
        name: &'static str,
        path: &'static str,
        content_type: &'static str,
        bearer: &'static str,
        body: &'static str,
        status: u16,
        has: &'static str,
    }
    const CREATE: &str = "/twirp/livekit.RoomService/CreateRoom";
    let plain = || Case {
        name: "by its camel case names",
        path: CREATE,
        content_type: "application/json",
        bearer: "",
        body: r#"{"name":"r","emptyTimeout":60,"unknown":1}"#,
        status: 200,
        has: r#""emptyTimeout":60"#,
    };
    let cases = [
        plain(),
        Case {
            name: "by its proto names",
            content_type: "application/json; charset=utf-8",
            body: r#"{"name":"s","max_participants":2}"#,
            has: r#""maxParticipants":2"#,
            ..plain()
        },
        Case { name: "cut", body: r#"{"name":"#, status: 400, has: "malformed", ..plain() },
        Case { name: "no name", body: "{}", status: 400, has: "invalid_argument", ..plain() },
        Case { name: "text", content_type: "text/plain", status: 404, has: "bad_route", ..plain() },
        Case {
            name: "garbage",
            content_type: "application/protobuf",
            body: "garbage",
            status: 400,
            has: "malformed",
            ..plain()
        },
        Case { name: "no key", bearer: "Bearer x", status: 401, has: "unauthenticated", ..plain() },
        Case {
            name: "no grant",
            path: "/twirp/livekit.RoomService/ListRooms",
            status: 403,
            has: "permission_denied",
            ..plain()
        },
        Case {
            name: "unknown method",
            path: "/twirp/livekit.RoomService/Dance",
            status: 501,
            has: "unimplemented",
            ..plain()
        },
        Case {
            name: "unknown service",
            path: "/twirp/livekit.Egress/StartEgress",
            status: 501,
            has: "unimplemented",
            ..plain()
        },
        Case { name: "unknown path", path: "/nowhere", status: 404, has: "", ..plain() },
    ];
    for case in cases {
        let bearer = if case.bearer.is_empty() { bearer.as_str() } else { case.bearer };
        let headers = [("Content-Type", case.content_type), ("Authorization", bearer)];
        let (status, body) = post(&server, case.path, &headers, case.body).await;
        assert_eq!(status, case.status, "{}: {body}", case.name);
        assert!(body.contains(case.has), "{}: {body}", case.name);
    }
}
