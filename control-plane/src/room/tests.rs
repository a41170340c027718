//! Rooms over a node that keeps what it is told: actor, registry, restart.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_proto::node::v1 as node;
use livekit_protocol as proto;
use tokio::sync::mpsc;

use super::*;
use crate::{
    auth::Permissions,
    node::{Node, Nodes, testing::TestNode},
    store::MemoryStore,
};

const QUEUE: usize = 256;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn registry(test_node: &TestNode) -> RoomRegistry {
    registry_on(Node::embedded("test", test_node.service()))
}

fn registry_on(node: Node) -> RoomRegistry {
    let (nodes, events) = Nodes::new();
    nodes.add(node);
    RoomRegistry::start(nodes, events, Arc::new(MemoryStore::default()), RoomPolicy::default())
}

pub(crate) fn request(identity: &str) -> JoinRequest {
    JoinRequest {
        identity: identity.to_owned(),
        name: identity.to_uppercase(),
        metadata: String::new(),
        attributes: Default::default(),
        permissions: Permissions::default(),
        kind: proto::participant_info::Kind::Standard,
        auto_subscribe: true,
        two_peers: false,
        protocol: 16,
        client_protocol: 0,
    }
}

/// The first of those whose departure is told.
fn who_left(event: &RoomEvent) -> Option<String> {
    let people = match event {
        RoomEvent::Participants(people) => people,
        RoomEvent::News(news) => &news.participants,
        _ => return None,
    };
    let gone = proto::participant_info::State::Disconnected;
    people.iter().find(|info| info.state() == gone).map(|info| info.identity.clone())
}

pub(crate) fn camera(cid: &str) -> proto::AddTrackRequest {
    proto::AddTrackRequest {
        cid: cid.to_owned(),
        r#type: proto::TrackType::Video as i32,
        source: proto::TrackSource::Camera as i32,
        ..Default::default()
    }
}

pub(crate) fn vp8(track: &str) -> PublishedInfo {
    let variant = PublishedVariant {
        node_track_id: track.to_owned(),
        mime_type: "video/VP8".to_owned(),
        mid: "1".to_owned(),
        cid: String::new(),
        layers: Vec::new(),
    };
    PublishedInfo { variants: vec![variant] }
}

struct Guest {
    room: RoomHandle,
    sid: ParticipantSid,
    joined: Joined,
    events: mpsc::Receiver<Box<RoomEvent>>,
}

impl Guest {
    async fn join(rooms: &RoomRegistry, room: &str, identity: &str) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let (room, joined) = rooms.join(room, request(identity), sender).await.unwrap();
        Self { room, sid: joined.sid.clone(), joined, events }
    }

    async fn with_media(self, test_node: &TestNode) -> Self {
        let delta =
            node::PeerDelta { owner_state: Some(b"session".to_vec()), ..Default::default() };
        self.room.apply_peer(&self.sid, PeerRole::Single, delta).await.unwrap();
        test_node.connect(&self.sid.0);
        self.until_active().await
    }

    async fn until_active(mut self) -> Self {
        let connected = RoomEvent::PeerConnected(PeerRole::Single);
        self.hear(|event| (*event == connected).then_some(())).await;
        self
    }

    async fn publish(&self, cid: &str) -> TrackSid {
        let info = self.room.add_track(&self.sid, camera(cid)).await.unwrap();
        let track = TrackSid(info.sid.as_str().into());
        self.room.publish_track(&self.sid, &track, vp8(&info.sid)).await.unwrap();
        track
    }

    /// Reads events until one fits.
    async fn hear<T>(&mut self, mut fits: impl FnMut(&RoomEvent) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the event comes before the end");
                if let Some(found) = fits(&event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the event comes")
    }

    async fn hear_subscribe(&mut self) -> SubscribedTrack {
        self.hear(|event| match event {
            RoomEvent::Subscribe(track) => Some(track.clone()),
            _ => None,
        })
        .await
    }

    async fn hear_closed(&mut self) -> proto::DisconnectReason {
        self.hear_end().await.0
    }

    async fn hear_end(&mut self) -> (proto::DisconnectReason, proto::leave_request::Action) {
        self.hear(|event| match event {
            RoomEvent::Closed { reason, action } => Some((*reason, *action)),
            _ => None,
        })
        .await
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn two_people_see_and_take_each_others_tracks() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let mut anna = Guest::join(&rooms, "r", "anna").await.with_media(&test_node).await;
    let track = anna.publish("cam").await;

    // Who comes later takes what is there; who is there hears who comes.
    let mut ben = Guest::join(&rooms, "r", "ben").await;
    assert_eq!(ben.joined.others.len(), 1);
    assert_eq!(ben.joined.others[0].tracks[0].sid, *track.0);
    let taken = ben.hear_subscribe().await;
    assert_eq!(taken.publisher, anna.sid);
    assert_eq!(taken.variants[0].node_track_id, *track.0);
    anna.hear(|event| (*event == RoomEvent::TrackSubscribed(track.clone())).then_some(())).await;

    let second = anna.publish("screen").await;
    assert_eq!(ben.hear_subscribe().await.info.sid, *second.0);

    // Leaving withdraws the tracks and removes the peer from the node.
    anna.room.leave(&anna.sid, proto::DisconnectReason::ClientInitiated).await;
    for _ in 0..2 {
        ben.hear(|event| matches!(event, RoomEvent::Unsubscribe { .. }).then_some(())).await;
    }
    until("anna's peer leaves the node", || test_node.held().peers.is_empty()).await;
    assert_eq!(rooms.list().await[0].num_participants, 1);
}

#[tokio::test]
async fn a_peer_is_made_whole_then_changed_by_deltas_then_made_whole_again_when_out_of_step() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let anna = Guest::join(&rooms, "r", "anna").await;
    let apply = |text: &str| {
        let delta =
            node::PeerDelta { owner_state: Some(text.as_bytes().to_vec()), ..Default::default() };
        anna.room.apply_peer(&anna.sid, PeerRole::Single, delta)
    };
    let transport = apply("one").await.unwrap();
    assert_eq!(transport.ice.unwrap().ufrag, format!("ufrag-{}", anna.sid));
    apply("two").await.unwrap();
    assert_eq!(test_node.counts(), (1, 1));
    // The node lost a change, or has one that we never heard of.
    test_node.held().peers.get_mut(&*anna.sid.0).unwrap().revision += 7;
    apply("three").await.unwrap();
    apply("four").await.unwrap();
    assert_eq!(test_node.counts(), (2, 2));
    let held = test_node.held();
    assert_eq!(held.peers[&*anna.sid.0].state.as_ref().unwrap().owner_state, b"four");
}

#[tokio::test]
async fn a_session_that_does_not_read_is_closed_and_nobody_else() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let (sender, mut deaf) = mpsc::channel(1);
    rooms.join("r", request("deaf"), sender).await.unwrap();
    let mut anna = Guest::join(&rooms, "r", "anna").await;
    let mut ben = Guest::join(&rooms, "r", "ben").await;
    let track = ben.publish("cam").await;
    assert_eq!(anna.hear_subscribe().await.info.sid, *track.0);
    assert_eq!(ben.hear(who_left).await, "deaf");
    while deaf.recv().await.is_some() {}
}

#[tokio::test]
async fn the_younger_of_one_identity_stays() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let mut older = Guest::join(&rooms, "r", "anna").await.with_media(&test_node).await;
    let younger = Guest::join(&rooms, "r", "anna").await;
    assert_eq!(older.hear_closed().await, proto::DisconnectReason::DuplicateIdentity);
    assert!(younger.joined.others.is_empty());
    until("the older's peer leaves the node", || test_node.held().peers.is_empty()).await;
    // A late word of the older's session does not hurt the younger.
    older.room.leave(&older.sid, proto::DisconnectReason::ClientInitiated).await;
    assert_eq!(younger.room.participants().await.unwrap()[0].sid, *younger.sid.0);
}

#[tokio::test]
async fn a_control_plane_that_starts_beside_a_living_node_takes_its_rooms_over() {
    let test_node = TestNode::new();
    let before = registry(&test_node).await;
    let anna = Guest::join(&before, "r", "anna").await.with_media(&test_node).await;
    let ben = Guest::join(&before, "r", "ben").await.with_media(&test_node).await;
    let dora = Guest::join(&before, "r", "dora").await;
    let never_connected = Guest::join(&before, "r", "carl").await;
    let track = anna.publish("cam").await;
    let state = serde_json::to_string(&track).unwrap();
    until("the room is saved with its track", || {
        let held = test_node.held();
        let Some(room) = held.rooms.values().next() else { return false };
        let text = String::from_utf8_lossy(&room.owner_state);
        text.contains(state.trim_matches('"'))
            && text.contains("carl")
            && text.contains("video/VP8")
    })
    .await;
    // Nothing is saved for that.
    dora.with_media(&test_node).await;
    let epoch = test_node.held().rooms.values().next().unwrap().epoch;
    // A peer of nobody, and a room that nobody can read.
    let stray = node::PeerSnapshot {
        room_id: anna.room.sid().to_owned(),
        peer_id: "PA_stray".to_owned(),
        ..Default::default()
    };
    test_node.held().peers.insert("PA_stray".to_owned(), stray);
    let unreadable =
        node::RoomSnapshot { room_id: "RM_noise".to_owned(), epoch: 5, ..Default::default() };
    test_node.held().rooms.insert("RM_noise".to_owned(), unreadable);

    let after = registry(&test_node).await;
    let (sender, events) = mpsc::channel(QUEUE);
    let (room, resumed) = after.resume("r", &anna.sid, "anna", sender).await.unwrap();
    assert_eq!(room.sid(), anna.room.sid());
    assert_eq!(resumed.participant.tracks[0].sid, *track.0);
    let [(PeerRole::Single, peer)] = resumed.peers.as_slice() else { panic!("one peer") };
    assert_eq!(peer.state.as_ref().unwrap().owner_state, b"session");
    assert!(peer.connected);
    let others: Vec<_> = resumed.others.iter().map(|other| &*other.identity).collect();
    assert_eq!(others, ["ben", "dora"], "carl had no media: he is gone");
    until("the room is fenced", || {
        test_node.held().rooms.get(anna.room.sid()).is_some_and(|room| room.epoch > epoch)
    })
    .await;
    until("strays are gone", || {
        let held = test_node.held();
        !held.peers.contains_key("PA_stray") && !held.rooms.contains_key("RM_noise")
    })
    .await;

    // The next change goes to the same peer.
    let delta = node::PeerDelta { owner_state: Some(b"later".to_vec()), ..Default::default() };
    room.apply_peer(&anna.sid, PeerRole::Single, delta).await.unwrap();
    assert_eq!(test_node.held().created, 3);
    let (sender, ben_events) = mpsc::channel(QUEUE);
    let (ben_room, resumed) = after.resume("r", &ben.sid, "ben", sender).await.unwrap();
    assert_eq!(resumed.subscriptions[0].info.sid, *track.0);
    let mut ben = Guest { room: ben_room, sid: ben.sid, joined: ben.joined, events: ben_events };
    let mut anna = Guest { room, sid: anna.sid, joined: anna.joined, events };
    let second = anna.publish("screen").await;
    assert_eq!(ben.hear_subscribe().await.info.sid, *second.0);
    anna.hear(|event| (*event == RoomEvent::TrackSubscribed(second.clone())).then_some(())).await;
    // Versions never go back: who resumed would drop what looks old.
    let version = ben.room.participant("anna").await.unwrap().version;
    assert!(version > never_connected.joined.others[0].version);
}

#[tokio::test]
async fn a_room_of_much_is_saved_deflated_and_every_change_of_it() {
    let test_node = TestNode::new();
    let before = registry(&test_node).await;
    let anna = Guest::join(&before, "r", "anna").await.with_media(&test_node).await;
    let saved = || test_node.held().rooms.values().next().map(|room| room.owner_state.clone());
    for letter in ["a", "b"] {
        let metadata = letter.repeat(100_000);
        anna.room.set_room_metadata(metadata.clone()).await.unwrap();
        until("the change is saved", || {
            let restored = state::RoomState::restore(&saved().unwrap(), actor::now()).unwrap();
            restored.info().metadata == metadata
        })
        .await;
        let size = saved().unwrap().len();
        assert!(size < 10_000, "{size} bytes");
    }
}

#[tokio::test]
async fn a_busy_room_is_saved_now_and_then() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let anna = Guest::join(&rooms, "r", "anna").await.with_media(&test_node).await;
    let revision = || test_node.held().rooms.values().next().unwrap().revision;
    let (before, started) = (revision(), Instant::now());
    for change in 0..50 {
        anna.room.set_room_metadata(format!("change {change}")).await.unwrap();
    }
    until("the last change is saved", || {
        let held = test_node.held();
        let room = held.rooms.values().next().unwrap();
        String::from_utf8_lossy(&room.owner_state).contains("change 49")
    })
    .await;
    let times = revision() - before;
    let most = 2 + started.elapsed().as_millis() as u64 / 50;
    assert!(times <= most && times < 50, "{times} times, at most {most}");
}

#[tokio::test]
async fn a_late_word_of_an_older_socket_does_not_detach_who_resumed() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let mut anna = Guest::join(&rooms, "r", "anna").await.with_media(&test_node).await;
    let ben = Guest::join(&rooms, "r", "ben").await;
    let (sender, events) = mpsc::channel(QUEUE);
    let (room, _) = rooms.resume("r", &anna.sid, "anna", sender).await.unwrap();
    // The older queue ends without a word; its session notices late.
    while anna.events.recv().await.is_some() {}
    anna.room.signal_lost(&anna.sid).await;
    let mut resumed = Guest { room, sid: anna.sid, joined: anna.joined, events };
    let track = ben.publish("cam").await;
    assert_eq!(resumed.hear_subscribe().await.info.sid, *track.0);
    resumed.room.signal_lost(&resumed.sid).await;
    resumed.room.room().await.unwrap();
    while resumed.events.try_recv().is_ok() {}
    ben.publish("screen").await;
    let told = resumed.events.try_recv();
    assert_eq!(told, Err(mpsc::error::TryRecvError::Empty), "told nothing, and not given up");
}

#[tokio::test]
async fn a_cut_event_stream_is_caught_up_by_snapshot() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let anna = Guest::join(&rooms, "r", "anna").await;
    let mut ben = Guest::join(&rooms, "r", "ben").await.with_media(&test_node).await;
    anna.room.apply_peer(&anna.sid, PeerRole::Single, Default::default()).await.unwrap();
    test_node.cut_streams();
    // Missed: anna connects, somebody wants ben's track no more, ben is lost.
    test_node.held().peers.get_mut(&*anna.sid.0).unwrap().connected = true;
    test_node.held().peers.remove(&*ben.sid.0);
    anna.until_active().await;
    ben.hear(|event| matches!(event, RoomEvent::PeerLost { .. }).then_some(())).await;
}

/// The media node itself, without sockets of clients.
#[tokio::test]
async fn rooms_on_a_real_node() {
    let config = chappe_sfu::config::NodeConfig {
        shards: 1,
        udp_port: 0,
        tcp_port: None,
        pin_threads: false,
        candidates: chappe_sfu::config::CandidateConfig {
            include_loopback: true,
            ..Default::default()
        },
        ..Default::default()
    };
    let media = chappe_sfu::control::Node::start(config).await.unwrap();
    let (nodes, events) = Nodes::new();
    nodes.add(Node::embedded("media", media.service()));
    let store = Arc::new(MemoryStore::default());
    let rooms = RoomRegistry::start(nodes, events, store, RoomPolicy::default());
    let anna = Guest::join(&rooms, "r", "anna").await;
    let apply = |text: &str| {
        let delta =
            node::PeerDelta { owner_state: Some(text.as_bytes().to_vec()), ..Default::default() };
        anna.room.apply_peer(&anna.sid, PeerRole::Single, delta)
    };
    let local = apply("one").await.unwrap();
    assert!(!local.candidates.is_empty());
    let ice = local.ice.unwrap();
    assert_eq!(apply("two").await.unwrap().ice.unwrap(), ice, "the same peer");

    // Another control plane takes the room over: nobody had media, so nobody is left, and the older is fenced.
    let (nodes, events) = Nodes::new();
    nodes.add(Node::embedded("media", media.service()));
    let store = Arc::new(MemoryStore::default());
    let successor = RoomRegistry::start(nodes, events, store, RoomPolicy::default());
    let room = successor.create("r", RoomOptions::default()).await.unwrap();
    assert_eq!(room.sid, anna.room.sid());
    assert_eq!(room.num_participants, 0);
    let (sender, _events) = mpsc::channel(QUEUE);
    let refused = successor.resume("r", &anna.sid, "anna", sender).await;
    assert_eq!(refused.unwrap_err(), JoinError::UnknownParticipant);
    let wait = async {
        while apply("three").await != Err(RequestError::Closed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the older owner is refused");
    assert!(successor.delete("r").await);
    media.stop().await;
}

#[tokio::test]
async fn a_restarted_node_sends_everybody_to_join_anew() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let mut anna = Guest::join(&rooms, "r", "anna").await.with_media(&test_node).await;
    test_node.restart();
    test_node.cut_streams();
    assert_eq!(anna.hear_closed().await, proto::DisconnectReason::MediaFailure);
    let again = Guest::join(&rooms, "r", "anna").await;
    assert_ne!(again.room.sid(), anna.room.sid());
}

#[tokio::test]
async fn shutdown_tells_everybody_to_reconnect_and_leaves_the_node_empty() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let mut anna = Guest::join(&rooms, "r", "anna").await.with_media(&test_node).await;
    rooms.shutdown().await;
    let action = anna.hear(|event| match event {
        RoomEvent::Closed { action, .. } => Some(*action),
        _ => None,
    });
    assert_eq!(action.await, proto::leave_request::Action::Reconnect);
    assert!(test_node.held().rooms.is_empty());
    let (sender, _events) = mpsc::channel(QUEUE);
    let refused = rooms.join("r", request("ben"), sender).await;
    assert_eq!(refused.unwrap_err(), JoinError::ShuttingDown);
}

#[tokio::test]
async fn a_stop_beside_nodes_that_live_on_leaves_media_to_the_next_control_plane() {
    let test_node = TestNode::new();
    let node = Node::embedded("test", test_node.service());
    let rooms = registry_on(node.clone());
    let mut anna = Guest::join(&rooms, "r", "anna").await.with_media(&test_node).await;
    let track = anna.publish("cam").await;
    // The last change is not saved yet when the stop comes.
    anna.room.set_room_metadata("last word".to_owned()).await.unwrap();
    rooms.shutdown_with(Shutdown::Resume).await;
    let resume = proto::leave_request::Action::Resume;
    assert_eq!(anna.hear_end().await, (proto::DisconnectReason::ServerShutdown, resume));
    // A session's late word removes nobody.
    anna.room.leave(&anna.sid, proto::DisconnectReason::ClientInitiated).await;
    until("the peers are let go", || node.peers() == 0).await;
    assert_eq!(test_node.held().removals, 0);
    // Nor does the stopping server take its rooms over again.
    test_node.cut_streams();
    until("the node is watched again", || test_node.held().is_watched()).await;
    assert!(rooms.get("r").is_none());

    let after = registry(&test_node).await;
    let (sender, _events) = mpsc::channel(QUEUE);
    let (_, resumed) = after.resume("r", &anna.sid, "anna", sender).await.unwrap();
    assert_eq!(resumed.participant.tracks[0].sid, *track.0);
    assert_eq!(resumed.room.metadata, "last word");
    assert_eq!(test_node.held().created, 1, "the same peer");
}

#[tokio::test]
async fn a_room_that_another_control_plane_owns_ends_here_and_stays_on_its_node() {
    for by_peer in [false, true] {
        let test_node = TestNode::new();
        let node = Node::embedded("test", test_node.service());
        let rooms = registry_on(node.clone());
        let mut anna = Guest::join(&rooms, "r", "anna").await.with_media(&test_node).await;
        test_node.held().rooms.get_mut(anna.room.sid()).unwrap().epoch += 1_000_000_000;
        if by_peer {
            let applied =
                anna.room.apply_peer(&anna.sid, PeerRole::Single, Default::default()).await;
            assert_eq!(applied, Err(RequestError::Closed));
        } else {
            anna.room.set_room_metadata("mine".to_owned()).await.unwrap();
        }
        let resume = proto::leave_request::Action::Resume;
        assert_eq!(anna.hear_end().await, (proto::DisconnectReason::Migration, resume));
        tokio::time::timeout(PATIENCE, anna.room.closed()).await.expect("the room ends here");
        until("the peers are let go", || node.peers() == 0).await;
        assert!(rooms.get("r").is_none());
        let held = test_node.held();
        assert_eq!((held.removals, held.rooms.len(), held.peers.len()), (0, 1, 1), "{by_peer}");
    }
}

#[tokio::test]
async fn a_room_whose_revision_is_stale_catches_up() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let anna = Guest::join(&rooms, "r", "anna").await.with_media(&test_node).await;
    let ahead = {
        let mut held = test_node.held();
        let room = held.rooms.get_mut(anna.room.sid()).unwrap();
        room.revision += 500;
        room.revision
    };
    anna.room.set_room_metadata("new".to_owned()).await.unwrap();
    let sid = anna.room.sid();
    until("the room is saved", || test_node.held().rooms[sid].revision > ahead).await;
    assert!(rooms.get("r").is_some());
}

#[tokio::test]
async fn media_lost_without_signalling_ends_a_participant_and_with_it_asks_the_session() {
    let test_node = TestNode::new();
    let rooms = registry(&test_node).await;
    let mut anna = Guest::join(&rooms, "r", "anna").await.with_media(&test_node).await;
    let ben = Guest::join(&rooms, "r", "ben").await.with_media(&test_node).await;
    ben.room.signal_lost(&ben.sid).await;
    assert_eq!(ben.room.participants().await.unwrap().len(), 2, "ben may resume");
    test_node.lose(&ben.sid.0, node::LostReason::IceTimeout);
    assert_eq!(anna.hear(who_left).await, "ben");
    test_node.lose(&anna.sid.0, node::LostReason::DtlsFailed);
    let lost = anna.hear(|event| match event {
        RoomEvent::PeerLost { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(lost.await, node::LostReason::DtlsFailed);
}
