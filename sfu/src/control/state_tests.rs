use tonic::Code;

use super::*;
use crate::{
    config::Placement,
    control::watch::Next,
    rtp::{CodecKind, Ssrc, TrackId},
    shard::LostReason,
};

fn state() -> State {
    State::new(2, Placer::new(Placement::Home), Watchers::new("boot".into()))
}

fn whole(
    room: &str,
    peer: &str,
    epoch: u64,
    revision: u64,
    state: pb::PeerState,
) -> pb::ApplyPeerRequest {
    let change = Some(pb::apply_peer_request::Change::State(state));
    pb::ApplyPeerRequest { room_id: room.into(), peer_id: peer.into(), epoch, revision, change }
}

fn delta(epoch: u64, revision: u64, delta: pb::PeerDelta) -> pb::ApplyPeerRequest {
    let change = Some(pb::apply_peer_request::Change::Delta(delta));
    pb::ApplyPeerRequest { room_id: "R".into(), peer_id: "P".into(), epoch, revision, change }
}

fn based_on(base_revision: u64) -> pb::PeerDelta {
    pb::PeerDelta { base_revision, owner_state: Some(vec![9]), ..pb::PeerDelta::default() }
}

fn publishing(track: &str) -> pb::PeerState {
    let track = pb::Track { track_id: track.into(), ..pb::Track::default() };
    pb::PeerState { tracks: vec![track], ..pb::PeerState::default() }
}

fn answered_by_shard() -> Option<pb::LocalTransport> {
    Some(pb::LocalTransport { ice_generation: 5, ..pb::LocalTransport::default() })
}

/// Plans and has the shard say yes.
fn apply(
    state: &mut State,
    request: pb::ApplyPeerRequest,
) -> Result<pb::ApplyPeerResponse, Status> {
    match state.plan_peer(request)? {
        Plan::Answer(answer) => Ok(answer),
        Plan::Apply(change) => {
            Ok(state.commit_peer(*change, answered_by_shard()).expect("not lost"))
        }
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

fn name(room: &str, peer: &str) -> PeerName {
    PeerName { room: RoomId::new(room), peer: PeerId::new(peer) }
}

#[test]
fn revisions_of_a_peer() {
    let mut state = state();
    assert_eq!(
        code(apply(&mut state, delta(1, 1, based_on(0)))),
        Code::NotFound,
        "a delta makes no peer"
    );
    assert_eq!(state.counts(), (0, 0), "and no room");
    assert_eq!(apply(&mut state, whole("R", "P", 1, 4, publishing("T"))).unwrap().revision, 4);
    let again = apply(&mut state, whole("R", "P", 1, 4, pb::PeerState::default())).unwrap();
    assert_eq!((again.revision, again.transport.unwrap().ice_generation), (4, 5));
    assert_eq!(
        state.snapshot().peers[0].state,
        Some(publishing("T")),
        "an equal revision changes nothing"
    );
    assert_eq!(
        code(apply(&mut state, whole("R", "P", 1, 3, pb::PeerState::default()))),
        Code::FailedPrecondition
    );
    assert_eq!(
        code(apply(&mut state, delta(1, 6, based_on(5)))),
        Code::FailedPrecondition,
        "another base"
    );
    assert_eq!(apply(&mut state, delta(1, 6, based_on(4))).unwrap().revision, 6);
    assert_eq!(apply(&mut state, delta(1, 6, based_on(4))).unwrap().revision, 6, "a retry");
    let snapshot = state.snapshot().peers.remove(0);
    assert_eq!(snapshot.state.unwrap(), pb::PeerState { owner_state: vec![9], ..publishing("T") });
    let nothing = pb::ApplyPeerRequest { change: None, ..delta(1, 7, based_on(6)) };
    assert_eq!(code(apply(&mut state, nothing)), Code::InvalidArgument);
}

#[test]
fn older_owners_are_fenced_off() {
    let mut state = state();
    apply(&mut state, whole("R", "P", 5, 1, pb::PeerState::default())).unwrap();
    let refused = apply(&mut state, whole("R", "P", 4, 2, pb::PeerState::default()));
    assert_eq!(code(refused), Code::FailedPrecondition);
    apply(&mut state, whole("R", "P", 6, 2, pb::PeerState::default())).unwrap();
    assert_eq!(code(state.fence(&RoomId::new("R"), 5)), Code::FailedPrecondition);
    let room = |epoch, revision| pb::ApplyRoomRequest {
        room_id: "R".into(),
        epoch,
        revision,
        owner_state: vec![7],
    };
    assert_eq!(code(state.apply_room(room(5, 1))), Code::FailedPrecondition);
    assert_eq!(state.apply_room(room(6, 1)).unwrap().revision, 1);
    state.fence(&RoomId::new("other"), 0).expect("rooms do not share epochs");
}

#[test]
fn a_refused_write_still_fences() {
    let mut state = state();
    apply(&mut state, whole("R", "P", 1, 1, pb::PeerState::default())).unwrap();
    assert!(apply(&mut state, whole("R", "P", 9, 0, pb::PeerState::default())).is_err());
    assert_eq!(
        code(apply(&mut state, whole("R", "P", 8, 2, pb::PeerState::default()))),
        Code::FailedPrecondition
    );
}

#[test]
fn revisions_of_a_room() {
    let mut state = state();
    let room = |revision, byte| pb::ApplyRoomRequest {
        room_id: "R".into(),
        epoch: 1,
        revision,
        owner_state: vec![byte],
    };
    for (revision, byte) in [(3, 1), (3, 2), (4, 3)] {
        assert_eq!(state.apply_room(room(revision, byte)).unwrap().revision, revision);
    }
    assert_eq!(code(state.apply_room(room(3, 4))), Code::FailedPrecondition);
    assert_eq!(state.snapshot().rooms[0].owner_state, [3], "an equal revision changed nothing");
}

#[test]
fn track_ids_are_unique_on_the_node() {
    let mut state = state();
    apply(&mut state, whole("R", "P", 1, 1, publishing("T"))).unwrap();
    let refused = apply(&mut state, whole("S", "Q", 1, 1, publishing("T"))).unwrap_err();
    assert!(refused.message().starts_with("tracks[0].track_id"), "{refused}");
    let mut twice = publishing("U");
    twice.tracks.push(twice.tracks[0].clone());
    assert_eq!(code(apply(&mut state, whole("S", "Q", 1, 1, twice))), Code::InvalidArgument);
    apply(&mut state, whole("R", "P", 1, 2, publishing("V"))).expect("a peer keeps its own");
    apply(&mut state, whole("S", "Q", 1, 1, publishing("T"))).expect("given up by the first");
    state.remove_peer(&name("S", "Q"));
    apply(&mut state, whole("R", "P", 1, 3, publishing("T"))).expect("gone with its publisher");
}

#[test]
fn rooms_go_with_their_last_peer_unless_stated() {
    let mut state = state();
    apply(&mut state, whole("R", "P", 1, 1, pb::PeerState::default())).unwrap();
    state.remove_peer(&name("R", "P"));
    assert_eq!(state.counts(), (0, 0));
    state
        .apply_room(pb::ApplyRoomRequest { room_id: "R".into(), ..pb::ApplyRoomRequest::default() })
        .unwrap();
    apply(&mut state, whole("R", "P", 1, 1, pb::PeerState::default())).unwrap();
    state.remove_peers_on(&RoomId::new("R"), 0);
    state.remove_peers_on(&RoomId::new("R"), 1);
    assert_eq!(state.counts(), (1, 0));
    state.remove_room(&RoomId::new("R"));
    assert_eq!(state.counts(), (0, 0));
}

#[test]
fn a_peer_lost_on_the_way_is_not_resurrected() {
    let mut state = state();
    apply(&mut state, whole("R", "P", 1, 1, publishing("T"))).unwrap();
    let Plan::Apply(change) = state
        .plan_peer(delta(1, 2, pb::PeerDelta { data: Some(pb::Data::default()), ..based_on(1) }))
        .unwrap()
    else {
        panic!("a change")
    };
    let lost = Event::PeerLost {
        room: RoomId::new("R"),
        peer: PeerId::new("P"),
        reason: LostReason::IceTimeout,
    };
    state.handle_event(lost);
    assert_eq!(state.commit_peer(*change, answered_by_shard()), None);
    assert_eq!(state.counts(), (0, 0));
    assert_eq!(state.loads, [0, 0]);
}

#[test]
fn the_shard_is_asked_only_where_media_changes() {
    let mut state = state();
    apply(&mut state, whole("R", "P", 1, 1, publishing("T"))).unwrap();
    let mut planned = |request| match state.plan_peer(request).unwrap() {
        Plan::Apply(change) => change.owner_state_only,
        Plan::Answer(_) => panic!("a change"),
    };
    assert!(planned(delta(1, 2, based_on(1))));
    assert!(!planned(whole("R", "P", 1, 2, publishing("U"))));
    let capped = pb::PeerState { max_egress_bitrate: 1, ..publishing("T") };
    assert!(!planned(whole("R", "P", 1, 2, capped)));
    assert!(!planned(whole("R", "Q", 1, 1, pb::PeerState::default())));
}

#[test]
fn peers_stay_where_they_are_and_loads_are_counted() {
    let mut state = State::new(2, Placer::new(Placement::RoundRobin), Watchers::new("boot".into()));
    for peer in ["A", "B", "C"] {
        apply(&mut state, whole("R", peer, 1, 1, pb::PeerState::default())).unwrap();
    }
    assert_eq!(state.loads, [2, 1]);
    let Plan::Apply(change) = state.plan_peer(whole("R", "B", 1, 2, publishing("T"))).unwrap()
    else {
        panic!()
    };
    assert_eq!(change.shard, 1);
    assert_eq!(state.shards_of(&RoomId::new("R")), HashSet::from([0, 1]));
    state.remove_peer(&name("R", "A"));
    assert_eq!(state.loads, [1, 1]);
}

#[test]
fn a_stopping_node_keeps_its_peers_and_takes_no_more() {
    let mut state = state();
    apply(&mut state, whole("R", "P", 1, 1, pb::PeerState::default())).unwrap();
    state.drain();
    assert_eq!(
        code(apply(&mut state, whole("R", "Q", 1, 1, pb::PeerState::default()))),
        Code::Unavailable
    );
    apply(&mut state, whole("R", "P", 1, 2, publishing("T"))).unwrap();
}

fn started(encoding: u8, ssrc: u32) -> Event {
    Event::TrackStarted {
        room: RoomId::new("R"),
        peer: PeerId::new("P"),
        track: TrackId::new("T"),
        encoding,
        codec: CodecKind::Vp8,
        ssrc: Ssrc(ssrc),
    }
}

fn demand(max_spatial: Option<u8>) -> Event {
    let (room, peer) = (RoomId::new("R"), PeerId::new("P"));
    Event::LayerDemand { room, peer, track: TrackId::new("T"), max_spatial }
}

#[test]
fn snapshots_tell_what_events_told() {
    let mut state = state();
    apply(&mut state, whole("R", "P", 1, 1, publishing("T"))).unwrap();
    let (room, peer) = (RoomId::new("R"), PeerId::new("P"));
    state.handle_event(Event::PeerConnected { room: room.clone(), peer: peer.clone() });
    state.handle_event(Event::DataReady { room, peer });
    for event in [started(0, 1), started(1, 2), started(0, 3), demand(Some(2)), demand(None)] {
        state.handle_event(event);
    }
    let snapshot = state.snapshot().peers.remove(0);
    assert!(snapshot.connected && snapshot.data_ready);
    let of_encodings: Vec<_> = snapshot.started.iter().map(|s| (s.encoding, s.ssrc)).collect();
    assert_eq!(of_encodings, [(1, 2), (0, 3)]);
    assert_eq!(snapshot.layer_demands.len(), 1);
    assert_eq!(snapshot.layer_demands[0].max_spatial_layer, None);
    apply(&mut state, whole("R", "P", 1, 2, pb::PeerState::default())).unwrap();
    let snapshot = state.snapshot().peers.remove(0);
    assert!(
        snapshot.started.is_empty() && snapshot.layer_demands.is_empty(),
        "gone with the track"
    );
}

#[test]
fn a_sleeping_watcher_costs_one_queue_and_wakes_to_a_snapshot() {
    let mut state = state();
    let (id, _wake) = state.watchers.subscribe().unwrap();
    let next = |state: &mut State| match state.watchers.poll(id) {
        Next::Snapshot => {
            let snapshot = state.snapshot();
            state.watchers.stamp(id, snapshot)
        }
        Next::Event(event) => Some(*event),
        Next::Wait | Next::Closed => None,
    };
    apply(&mut state, whole("R", "P", 1, 1, publishing("T"))).unwrap();
    let first = next(&mut state).unwrap();
    assert_eq!((first.sequence, first.boot_id.as_str()), (1, "boot"));
    assert!(matches!(first.event, Some(pb::event::Event::Snapshot(s)) if s.peers.len() == 1));
    state.handle_event(demand(Some(1)));
    assert_eq!(next(&mut state).unwrap().sequence, 2);
    assert_eq!(next(&mut state), None);
    let mut most = 0;
    for n in 0..100_000_u32 {
        state.handle_event(demand(Some(n as u8)));
        most = most.max(state.watchers.waiting());
    }
    assert!(most <= 1_024, "{most} events waited");
    state.handle_event(started(0, 77));
    let woken = next(&mut state).unwrap();
    assert_eq!(woken.sequence, 3, "no gap within a stream");
    let Some(pb::event::Event::Snapshot(snapshot)) = woken.event else {
        panic!("a snapshot was due")
    };
    assert_eq!(snapshot.peers[0].started[0].ssrc, 77);
    assert_eq!(snapshot.peers[0].layer_demands[0].max_spatial_layer, Some(99_999 % 256));
    state.handle_event(demand(None));
    assert!(matches!(next(&mut state).unwrap().event, Some(pb::event::Event::LayerDemand(_))));
}

#[test]
fn events_of_unknown_peers_are_not_told() {
    let mut state = state();
    let (id, _wake) = state.watchers.subscribe().unwrap();
    let snapshot = state.snapshot();
    state.watchers.stamp(id, snapshot);
    state.handle_event(demand(Some(1)));
    assert_eq!(state.watchers.poll(id), Next::Wait);
    state.watchers.close();
    assert_eq!(state.watchers.poll(id), Next::Closed);
}
