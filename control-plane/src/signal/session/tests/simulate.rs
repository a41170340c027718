//! Failures that a client asks for, and what it must see of each.

use std::time::Duration;

use livekit_protocol::{
    self as proto, DisconnectReason, leave_request::Action, signal_request::Message as Request,
    signal_response::Message as Response, simulate_scenario::Scenario,
};

use super::{
    World, add_track,
    world::{participant, track},
};
use crate::room::{PeerRole, RoomEvent};

/// What says to a client that it is back.
const BACK: [&str; 3] = ["reconnect", "update", "room_update"];

struct Case {
    scenario: Scenario,
    /// Messages at once.
    says: &'static [&'static str],
    leave: Option<(DisconnectReason, Action)>,
    /// The WebSocket is closed and the session waits.
    closes: bool,
    /// The session is over.
    ends: bool,
    /// What a resume brings before the WebSocket is closed again; `None`: the resume lasts.
    cut_resume: Option<&'static [&'static str]>,
    /// What the node was told.
    node: (u64, bool),
}

impl Case {
    /// A scenario of which nothing is seen.
    fn of(scenario: Scenario) -> Self {
        Self {
            scenario,
            says: &[],
            leave: None,
            closes: false,
            ends: false,
            cut_resume: None,
            node: (0, false),
        }
    }
}

fn cases() -> Vec<Case> {
    let ends = |scenario, reason, action| Case {
        says: &["leave"],
        leave: Some((reason, action)),
        ends: true,
        ..Case::of(scenario)
    };
    let switch = |protocol: proto::CandidateProtocol, force_tcp| Case {
        says: &["leave"],
        leave: Some((DisconnectReason::UnknownReason, Action::Resume)),
        closes: true,
        node: (0, force_tcp),
        ..Case::of(Scenario::SwitchCandidateProtocol(protocol as i32))
    };
    vec![
        ends(Scenario::NodeFailure(true), DisconnectReason::StateMismatch, Action::Reconnect),
        ends(
            Scenario::LeaveRequestFullReconnect(true),
            DisconnectReason::StateMismatch,
            Action::Reconnect,
        ),
        ends(Scenario::ServerLeave(true), DisconnectReason::ServerShutdown, Action::Disconnect),
        Case { closes: true, ..Case::of(Scenario::Migration(true)) },
        switch(proto::CandidateProtocol::Tcp, true),
        switch(proto::CandidateProtocol::Tls, true),
        switch(proto::CandidateProtocol::Udp, false),
        Case { says: &["speakers_changed"], ..Case::of(Scenario::SpeakerUpdate(3)) },
        Case { node: (250_000, false), ..Case::of(Scenario::SubscriberBandwidth(250_000)) },
        Case { says: &["request_response"], ..Case::of(Scenario::SubscriberBandwidth(-1)) },
        Case {
            closes: true,
            cut_resume: Some(&BACK),
            ..Case::of(Scenario::DisconnectSignalOnResume(true))
        },
        Case {
            closes: true,
            cut_resume: Some(&[]),
            ..Case::of(Scenario::DisconnectSignalOnResumeNoMessages(true))
        },
    ]
}

/// The client comes back; says what it got and whether it was cut off again.
fn come_back(world: &mut World) -> (Vec<&'static str>, bool) {
    world.lose_signal();
    world.settle();
    world.signal_closed = false;
    let mut resumed = world.resumed(vec![track("TR_a", true)]);
    // The room still has it.
    resumed.participant.tracks =
        vec![proto::TrackInfo { sid: "TR_1".into(), ..Default::default() }];
    world.resume(resumed);
    let got = world.kinds();
    (got, world.signal_closed)
}

#[test]
fn each_scenario_shows_the_client_what_its_name_says() {
    for case in cases() {
        let name = format!("{:?}", case.scenario);
        let mut world = World::single();
        world.request(Request::AddTrack(add_track("cam", true)));
        world.offering.publish("video", "cam", &[]);
        world.offer();
        super::subscribe(&mut world, "TR_a", true);
        world.settle();
        world.room(RoomEvent::PeerConnected(PeerRole::Single));
        world.inbox.clear();

        let scenario = Some(case.scenario);
        world.request(Request::Simulate(proto::SimulateScenario { scenario }));
        assert_eq!(world.kinds(), case.says, "{name}");
        let leave = world.leave().map(|leave| (leave.reason(), leave.action()));
        assert_eq!(leave, case.leave, "{name}");
        assert_eq!((world.signal_closed, world.ended), (case.closes, case.ends), "{name}");
        if case.ends {
            continue;
        }

        // Something happens while the client is away, and may not be lost with a resume that is cut.
        if case.closes {
            world.lose_signal();
            world.room(RoomEvent::Muted { track: "TR_1".to_owned().into(), muted: true });
        }
        if let Some(expected) = case.cut_resume {
            let (got, cut) = come_back(&mut world);
            assert_eq!(got, expected, "{name}: the first resume");
            assert!(cut && !world.ended, "{name}: cut once more");
        }
        if case.closes {
            let (got, cut) = come_back(&mut world);
            assert_eq!(got[..3], BACK, "{name}: the resume that lasts");
            assert!(got.contains(&"mute") && got.contains(&"refresh_token"), "{name}: {got:?}");
            assert!(!cut, "{name}: cut again");
            world.offering.ice_generation += 1;
            world.offer();
        }
        world.settle();
        super::assert_receives(&world, &["TR_a"]);
        assert_eq!(world.published.len(), 1, "{name}: what it publishes goes on");
        let state = &world.node[&PeerRole::Single].state;
        let force_tcp = state.transport.as_ref().is_some_and(|transport| transport.force_tcp);
        assert_eq!((state.max_egress_bitrate, force_tcp), case.node, "{name}");
    }
}

#[test]
fn who_leaves_between_two_resumes_is_told() {
    let mut world = World::single();
    world.offer();
    world.settle();
    world.room(RoomEvent::Participants(vec![participant("PA_gone", Vec::new())]));
    let scenario = Some(Scenario::DisconnectSignalOnResumeNoMessages(true));
    world.request(Request::Simulate(proto::SimulateScenario { scenario }));
    for last in [false, true] {
        let (_, cut) = come_back(&mut world);
        assert_eq!(cut, !last);
        let updates = world.inbox.iter().filter_map(|message| match message {
            Response::Update(update) => Some(&update.participants),
            _ => None,
        });
        let is_gone = |one: &proto::ParticipantInfo| {
            one.sid == "PA_gone" && one.state() == proto::participant_info::State::Disconnected
        };
        assert_eq!(updates.flatten().any(is_gone), last);
    }
    world.step_time(Duration::from_secs(1));
    assert!(!world.ended);
}
