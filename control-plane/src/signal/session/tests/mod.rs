//! The state machine against a client, a room and a node in memory.

pub(in crate::signal) mod client;
mod random;
mod simulate;
mod token;
mod world;

use std::{sync::Arc, time::Duration};

use livekit_protocol::{
    self as proto, leave_request::Action, participant_info::State,
    signal_request::Message as Request, signal_response::Message as Response,
};

pub(in crate::signal) use self::world::kind;
use self::{
    client::OfferingClient,
    world::{World, add_track, participant, track, track_in},
};
use super::RoomCommand;
use crate::room::{CROWD, News, PeerRole, RequestError, RoomEvent, TrackSid};

fn subscribe(world: &mut World, sid: &str, video: bool) {
    world.room(RoomEvent::Subscribe(track(sid, video)));
}

fn unsubscribe(world: &mut World, sid: &str) {
    let track = TrackSid::from(sid.to_owned());
    world.room(RoomEvent::Unsubscribe { track, permission_lost: false });
}

fn assert_receives(world: &World, expected: &[&str]) {
    let mut client: Vec<_> = world.receiving().values().map(String::as_str).collect();
    client.sort_unstable();
    assert_eq!(client, expected, "described to the client");
    let sent = world.sent();
    let node: Vec<_> = sent.keys().map(String::as_str).collect();
    assert_eq!(node, expected, "sent by the node");
    for (mid, track) in world.receiving() {
        assert_eq!(&sent[track].mid, mid);
    }
}

#[test]
fn a_single_peer_joins_and_its_offer_is_answered_with_what_it_takes() {
    let mut world = World::single();
    assert_eq!(world.kinds(), ["join", "refresh_token"]);
    let Response::Join(join) = &world.inbox[0] else { panic!("{:?}", world.inbox[0]) };
    assert!(!join.subscriber_primary);
    let info = join.server_info.as_ref().expect("a server says what it is");
    // SDKs go by it: from 18 of the protocol on, or at "0.15.1", they expect another server.
    assert_eq!((info.version.as_str(), info.protocol), ("1.13.7", 17));
    assert!(info.debug_info.starts_with("chappe "), "{info:?}");
    assert!(join.enabled_publish_codecs[0].mime == "video/VP8");
    assert_eq!((join.ping_interval, join.ping_timeout), (5, 15));

    subscribe(&mut world, "TR_a", false);
    subscribe(&mut world, "TR_v", true);
    world.offer();
    world.settle();
    assert_receives(&world, &["TR_a", "TR_v"]);
    let Some(Response::Answer(answer)) =
        world.inbox.iter().find(|message| matches!(message, Response::Answer(_)))
    else {
        panic!("no answer in {:?}", world.kinds())
    };
    assert_eq!(answer.id, 1);
    assert_eq!(answer.mid_to_track_id.len(), 2);
    assert!(!world.kinds().contains(&"media_sections_requirement"), "one answer was enough");
}

#[test]
fn two_peers_get_an_offer_with_nothing_to_take() {
    let mut world = World::dual();
    world.settle();
    let Response::Join(join) = &world.inbox[0] else { panic!("{:?}", world.inbox[0]) };
    assert!(join.subscriber_primary && join.fast_publish);
    assert!(world.kinds().contains(&"offer"));
    assert!(world.answering.has_data);
    let downlink = &world.node[&PeerRole::Subscriber].state;
    let data = downlink.data.as_ref().expect("data goes down");
    assert!(data.node_opens && data.may_receive && !data.may_send);
    assert!(downlink.transport.as_ref().is_some_and(|transport| transport.remote_ice.is_some()));

    subscribe(&mut world, "TR_a", false);
    subscribe(&mut world, "TR_v", true);
    world.settle();
    assert_receives(&world, &["TR_a", "TR_v"]);
}

#[test]
fn a_track_is_published_once_its_section_is_negotiated() {
    for mut world in [World::single(), World::dual()] {
        world.request(Request::AddTrack(add_track("cam", true)));
        world.offering.publish("video", "cam", &["q", "h", "f"]);
        world.offer();
        assert!(world.published.is_empty());
        world.settle();
        let kinds = world.kinds();
        assert!(kinds.contains(&"track_published") && kinds.contains(&"answer"), "{kinds:?}");
        let info = world.published.values().next().expect("published");
        assert_eq!(info.variants.len(), 1);
        assert_eq!(
            (info.variants[0].cid.as_str(), info.variants[0].mime_type.as_str()),
            ("cam", "video/VP8")
        );
        let uplink =
            world.node.iter().find(|(role, _)| **role != PeerRole::Subscriber).expect("uplink").1;
        let rids: Vec<_> =
            uplink.state.tracks[0].encodings.iter().map(|encoding| encoding.rid.as_str()).collect();
        assert_eq!(rids, ["q", "h", "f"]);

        world.offering.unpublish("cam");
        world.offer();
        world.settle();
        assert!(world.published.is_empty(), "the sender is gone, so is the track");
    }
}

#[test]
fn an_offer_that_overtakes_the_grant_waits_for_it() {
    let mut world = World::single();
    world.request(Request::AddTrack(add_track("mic", false)));
    world.offering.publish("audio", "mic", &[]);
    world.offer();
    assert!(!world.commands.iter().any(|command| matches!(command, RoomCommand::ApplyPeer { .. })));
    world.settle();
    assert_eq!(world.published.len(), 1);
}

#[test]
fn a_parked_section_is_published_when_its_announcement_comes() {
    let mut world = World::single();
    world.offering.publish("video", "cam", &[]);
    world.offer();
    world.settle();
    assert!(world.published.is_empty());
    world.request(Request::AddTrack(add_track("cam", true)));
    world.settle();
    assert_eq!(world.published.len(), 1);
}

#[test]
fn a_renamed_track_is_matched_by_kind() {
    let mut world = World::single();
    world.request(Request::AddTrack(add_track("mic", false)));
    world.request(Request::AddTrack(add_track("cam", true)));
    world.offering.publish("video", "{another-name}", &[]);
    world.offer();
    world.settle();
    let cids: Vec<_> =
        world.published.values().flat_map(|info| &info.variants).map(|v| v.cid.as_str()).collect();
    assert_eq!(cids, ["cam"]);
}

#[test]
fn a_backup_codec_joins_its_track() {
    let mut world = World::single();
    world.offering.with_vp9 = true;
    let codec = |codec: &str, cid: &str| proto::SimulcastCodec {
        codec: codec.into(),
        cid: cid.into(),
        ..Default::default()
    };
    let request = proto::AddTrackRequest {
        simulcast_codecs: vec![codec("vp9", "cam"), codec("vp8", "")],
        ..add_track("cam", true)
    };
    world.request(Request::AddTrack(request));
    world.offering.publish("video", "cam", &[]);
    world.offer();
    world.settle();
    let sid = world.published.keys().next().expect("published").clone();
    assert_eq!(world.published[&sid].variants[0].mime_type, "video/VP9");

    let backup = proto::AddTrackRequest {
        sid: sid.to_string(),
        simulcast_codecs: vec![codec("vp8", "cam-backup")],
        ..add_track("cam-backup", true)
    };
    world.request(Request::AddTrack(backup));
    world.offering.publish("video", "cam-backup", &["q", "h", "f"]);
    world.offer();
    world.settle();
    let variants = &world.published[&sid].variants;
    assert_eq!(variants.len(), 2);
    assert_eq!(
        (variants[1].mime_type.as_str(), variants[1].node_track_id.contains('/')),
        ("video/VP8", true)
    );
}

#[test]
fn sections_are_asked_for_when_there_are_none() {
    let mut world = World::new(false, OfferingClient::new(1, 0));
    subscribe(&mut world, "TR_1", true);
    subscribe(&mut world, "TR_2", true);
    world.offer();
    world.settle();
    assert_receives(&world, &["TR_1", "TR_2"]);
    let asked: Vec<_> = world
        .inbox
        .iter()
        .filter_map(|message| match message {
            Response::MediaSectionsRequirement(needed) => {
                Some((needed.num_audios, needed.num_videos))
            }
            _ => None,
        })
        .collect();
    assert_eq!(asked, [(0, 2)]);
}

#[test]
fn a_reused_section_passes_through_inactive() {
    for mut world in [World::new(false, OfferingClient::new(0, 1)), World::dual()] {
        world.offer();
        subscribe(&mut world, "TR_1", true);
        world.settle();
        assert_receives(&world, &["TR_1"]);
        unsubscribe(&mut world, "TR_1");
        subscribe(&mut world, "TR_2", true);
        world.settle();
        // The client's model fails on an m-line whose track changes without a pause.
        assert_receives(&world, &["TR_2"]);
        unsubscribe(&mut world, "TR_2");
        world.settle();
        assert_receives(&world, &[]);
    }
}

#[test]
fn the_node_stops_at_once_when_a_track_is_not_taken_any_more() {
    let mut world = World::single();
    subscribe(&mut world, "TR_1", true);
    world.offer();
    world.settle();
    unsubscribe(&mut world, "TR_1");
    while world.step_room() {}
    assert!(world.sent().is_empty());
}

#[test]
fn track_settings_reach_the_node() {
    let mut world = World::single();
    let mut taken = track("TR_1", true);
    let layer =
        |quality, width, height| proto::VideoLayer { quality, width, height, ..Default::default() };
    #[expect(deprecated, reason = "what publishers without simulcast codecs fill")]
    taken.info.layers.extend([layer(0, 320, 180), layer(1, 640, 360), layer(2, 1280, 720)]);
    world.room(RoomEvent::Subscribe(taken));
    world.offer();
    world.settle();
    let settings = proto::UpdateTrackSettings {
        track_sids: vec!["TR_1".into(), "TR_unknown".into()],
        width: 640,
        height: 360,
        fps: 15,
        priority: 3,
        ..Default::default()
    };
    world.request(Request::TrackSetting(settings.clone()));
    world.settle();
    let sent = world.sent();
    assert_eq!(sent["TR_1"].max_fps, Some(15));
    assert!(!sent["TR_1"].add_redundancy, "of sound only");
    assert!(!sent["TR_1"].maintain_resolution, "of screens only");
    assert_eq!(
        (sent["TR_1"].max_spatial_layer, sent["TR_1"].priority, sent["TR_1"].paused),
        (Some(1), 1_997, false),
        "the third of those that the client pinned"
    );
    world.request(Request::TrackSetting(proto::UpdateTrackSettings { disabled: true, ..settings }));
    world.settle();
    assert!(world.sent()["TR_1"].paused);
}

#[test]
fn a_shared_screen_keeps_its_resolution() {
    let mut world = World::single();
    let mut screen = track("TR_1", true);
    screen.info.set_source(proto::TrackSource::ScreenShare);
    world.room(RoomEvent::Subscribe(screen));
    world.offer();
    world.settle();
    assert!(world.sent()["TR_1"].maintain_resolution);
}

#[test]
fn what_the_node_may_do_with_sound() {
    struct Case {
        name: &'static str,
        encryption: proto::encryption::Type,
        disable_red: bool,
        suppress_silence: bool,
        /// Redundancy, silence left out.
        expect: (bool, bool),
    }
    use proto::encryption::Type;
    let plain = Case {
        name: "by itself",
        encryption: Type::None,
        disable_red: false,
        suppress_silence: false,
        expect: (true, false),
    };
    let cases = [
        Case { name: "encrypted", encryption: Type::Gcm, expect: (false, false), ..plain },
        Case { name: "no RED", disable_red: true, expect: (false, false), ..plain },
        Case { name: "no silence", suppress_silence: true, expect: (true, true), ..plain },
        plain,
    ];
    for case in cases {
        let mut world = World::single();
        world.session.config.suppress_silence = case.suppress_silence;
        let mut taken = track("TR_1", false);
        taken.info.encryption = case.encryption as i32;
        taken.info.disable_red = case.disable_red;
        world.room(RoomEvent::Subscribe(taken));
        world.offer();
        world.settle();
        let sent = world.sent();
        let sent = (sent["TR_1"].add_redundancy, sent["TR_1"].suppress_silence);
        assert_eq!(sent, case.expect, "{}", case.name);
    }
}

#[test]
fn a_track_in_a_codec_that_the_client_lacks_is_asked_for_in_another() {
    let mut world = World::single();
    world.offer();
    world.settle();
    world.room(RoomEvent::Subscribe(track_in("TR_1", true, &["video/AV1"])));
    world.settle();
    let asked = world.done.iter().find_map(|command| match command {
        RoomCommand::NeedCodec { mime_types, .. } => Some(mime_types.clone()),
        _ => None,
    });
    assert_eq!(asked.as_deref(), Some(&["video/VP8".to_owned()][..]));
    assert_receives(&world, &[]);
    // The publisher adds it.
    world.room(RoomEvent::Subscribe(track_in("TR_1", true, &["video/AV1", "video/VP8"])));
    world.settle();
    assert_eq!(world.sent().keys().collect::<Vec<_>>(), ["TR_1/1"]);
}

#[test]
fn nobody_has_a_codec_for_it() {
    let mut world = World::single();
    world.offer();
    world.settle();
    let track = TrackSid::from("TR_1".to_owned());
    let command = RoomCommand::NeedCodec { track, mime_types: Vec::new() };
    let outcome = Err(RequestError::NotFound("codec".into()));
    world.session.handle_reply(super::Reply::Done { command, outcome }, world.now);
    let Some(super::Effect::Send(message)) = world.session.poll_effect() else {
        panic!("nothing is said")
    };
    let Response::SubscriptionResponse(response) = *message else { panic!("{message:?}") };
    assert_eq!(response.err(), proto::SubscriptionError::SeCodecUnsupported);
}

#[test]
fn redundant_audio_goes_to_a_client_without_it() {
    let mut world = World::single();
    world.offer();
    world.room(RoomEvent::Subscribe(track_in("TR_1", false, &["audio/red"])));
    world.settle();
    assert_receives(&world, &["TR_1"]);
}

#[test]
fn participants_are_told_before_the_description_that_carries_their_tracks() {
    let mut world = World::dual();
    world.settle();
    world.inbox.clear();
    world.room(RoomEvent::Participants(vec![participant("PA_new", Vec::new())]));
    subscribe(&mut world, "TR_1", true);
    world.settle();
    let kinds = world.kinds();
    let at = |kind| {
        kinds
            .iter()
            .position(|other| *other == kind)
            .unwrap_or_else(|| panic!("no {kind} in {kinds:?}"))
    };
    assert!(at("update") < at("offer"));
}

#[test]
fn one_offer_is_outstanding_at_a_time_and_silence_ends_in_a_reconnect() {
    let mut world = World::dual();
    world.client_reacts = false;
    world.settle();
    subscribe(&mut world, "TR_1", true);
    subscribe(&mut world, "TR_2", true);
    world.settle();
    assert_eq!(world.kinds().iter().filter(|kind| **kind == "offer").count(), 1);
    assert!(world.leave().is_none());
    while !world.ended && world.step_time(Duration::from_secs(16)) {}
    let leave = world.leave().expect("told to reconnect");
    assert_eq!(leave.action(), Action::Reconnect);
}

#[test]
fn a_client_that_never_offers_when_asked_is_told_to_reconnect() {
    let mut world = World::single();
    world.offer();
    world.settle();
    world.client_reacts = false;
    subscribe(&mut world, "TR_1", true);
    while !world.ended && (world.step_room() || world.step_time(Duration::from_secs(16))) {}
    let asked = world.kinds().iter().filter(|kind| **kind == "media_sections_requirement").count();
    assert_eq!(asked, 3);
    assert_eq!(world.leave().map(proto::LeaveRequest::action), Some(Action::Reconnect));
}

#[test]
fn media_has_to_connect_within_a_minute() {
    let mut world = World::single();
    world.offer();
    world.settle();
    while !world.ended && (world.step_room() || world.step_time(Duration::from_secs(61))) {}
    let leave = world.leave().expect("dropped");
    assert_eq!(leave.reason(), proto::DisconnectReason::JoinFailure);

    let mut world = World::single();
    world.offer();
    world.settle();
    world.room(RoomEvent::PeerConnected(PeerRole::Single));
    let start = world.now;
    while world.now < start + Duration::from_secs(120)
        && (world.step_room() || world.step_time(Duration::from_secs(301)))
    {}
    assert!(!world.ended);
}

#[test]
fn bad_descriptions_are_refused_and_the_session_goes_on() {
    let mut world = World::single();
    subscribe(&mut world, "TR_1", true);
    for sdp in [
        "",
        "v=0",
        "garbage",
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 9 X 96\r\n",
    ] {
        let offer = proto::SessionDescription {
            r#type: "offer".into(),
            sdp: sdp.into(),
            id: 9,
            ..Default::default()
        };
        world.inbox.clear();
        world.request(Request::Offer(offer));
        assert_eq!(world.kinds(), ["request_response"], "{sdp:?}");
        let answer = proto::SessionDescription { sdp: sdp.into(), ..Default::default() };
        world.request(Request::Answer(answer));
    }
    world.offer();
    world.settle();
    assert_receives(&world, &["TR_1"]);
}

#[test]
fn requests_are_answered() {
    struct Case {
        name: &'static str,
        request: Request,
        expect: &'static str,
    }
    let cases = [
        Case { name: "ping", request: Request::Ping(1), expect: "pong" },
        Case {
            name: "ping with its time",
            request: Request::PingReq(proto::Ping::default()),
            expect: "pong_resp",
        },
        Case {
            name: "metadata",
            request: Request::UpdateMetadata(proto::UpdateParticipantMetadata::default()),
            expect: "request_response",
        },
        Case {
            name: "mute of an unknown track",
            request: Request::Mute(proto::MuteTrackRequest { sid: "TR_x".into(), muted: true }),
            expect: "request_response",
        },
        Case {
            name: "a candidate that is none",
            request: Request::Trickle(proto::TrickleRequest {
                candidate_init: "{".into(),
                ..Default::default()
            }),
            expect: "request_response",
        },
    ];
    for case in cases {
        let mut world = World::single();
        world.inbox.clear();
        world.request(case.request);
        world.settle();
        assert_eq!(world.kinds(), [case.expect], "{}", case.name);
    }
}

#[test]
fn what_is_not_supported_is_said_to_be_so() {
    use proto::request_response::{Reason, Request as Subject};
    struct Case {
        request: Request,
        id: u32,
        what: &'static str,
        subject: Option<Subject>,
    }
    let publish = proto::PublishDataTrackRequest { name: "d".into(), ..Default::default() };
    let unpublish = proto::UnpublishDataTrackRequest { pub_handle: 3 };
    let store = proto::StoreDataBlobRequest { request_id: 8, ..Default::default() };
    let fetch = proto::GetDataBlobRequest { request_id: 9, ..Default::default() };
    let cases = [
        Case {
            request: Request::PublishDataTrackRequest(publish.clone()),
            id: 0,
            what: "data tracks",
            subject: Some(Subject::PublishDataTrack(publish)),
        },
        Case {
            request: Request::UnpublishDataTrackRequest(unpublish),
            id: 0,
            what: "data tracks",
            subject: Some(Subject::UnpublishDataTrack(unpublish)),
        },
        Case {
            request: Request::UpdateDataSubscription(proto::UpdateDataSubscription::default()),
            id: 0,
            what: "data tracks",
            subject: None,
        },
        Case {
            request: Request::StoreDataBlobRequest(store),
            id: 8,
            what: "data blobs",
            subject: None,
        },
        Case {
            request: Request::GetDataBlobRequest(fetch),
            id: 9,
            what: "data blobs",
            subject: None,
        },
    ];
    for case in cases {
        let mut world = World::single();
        world.inbox.clear();
        let name = format!("{:?}", case.request);
        world.request(case.request);
        world.settle();
        let [Response::RequestResponse(response)] = &world.inbox[..] else {
            panic!("{name}: {:?}", world.kinds());
        };
        assert_eq!(response.reason(), Reason::UnsupportedType, "{name}");
        assert_eq!(response.request_id, case.id, "{name}");
        let text = format!("{} are not supported by this server", case.what);
        assert_eq!(response.message, text, "{name}");
        assert_eq!(response.request, case.subject, "{name}");
        assert!(!world.ended, "{name}");
    }
}

#[test]
fn what_the_room_refuses_is_answered() {
    struct Case {
        name: &'static str,
        request: Request,
        error: RequestError,
        expect: (&'static str, i32),
    }
    let not_allowed = proto::request_response::Reason::NotAllowed as i32;
    let too_much = proto::request_response::Reason::LimitExceeded as i32;
    let subscription = |count| {
        let track_sids = vec!["TR_x".to_owned(); count];
        Request::Subscription(proto::UpdateSubscription {
            track_sids,
            subscribe: true,
            ..Default::default()
        })
    };
    let permission = |count| {
        let track_sids = vec!["TR_x".to_owned(); count];
        let one = proto::TrackPermission { track_sids, ..Default::default() };
        Request::SubscriptionPermission(proto::SubscriptionPermission {
            all_participants: false,
            track_permissions: vec![one],
        })
    };
    let refusal = || RequestError::NotAllowed("this".into());
    let cases = [
        Case {
            name: "subscription without permission",
            request: subscription(1),
            error: refusal(),
            expect: ("request_response", not_allowed),
        },
        Case {
            name: "subscription to nothing",
            request: subscription(1),
            error: RequestError::NotFound("TR_x".into()),
            expect: ("subscription_response", proto::SubscriptionError::SeTrackNotfound as i32),
        },
        Case {
            name: "subscription permission",
            request: permission(1),
            error: refusal(),
            expect: ("request_response", not_allowed),
        },
        Case {
            name: "mute",
            request: Request::Mute(proto::MuteTrackRequest { sid: "TR_1".into(), muted: true }),
            error: refusal(),
            expect: ("request_response", not_allowed),
        },
        Case {
            name: "too many subscriptions",
            request: subscription(4097),
            error: refusal(),
            expect: ("request_response", too_much),
        },
        Case {
            name: "too many permissions",
            request: permission(4097),
            error: refusal(),
            expect: ("request_response", too_much),
        },
        Case {
            name: "too many settings",
            request: Request::TrackSetting(proto::UpdateTrackSettings {
                track_sids: vec!["TR_x".to_owned(); 4097],
                ..Default::default()
            }),
            error: refusal(),
            expect: ("request_response", too_much),
        },
    ];
    for case in cases {
        let mut world = World::single();
        world.request(Request::AddTrack(add_track("mic", false)));
        world.settle();
        world.inbox.clear();
        world.room_refuses = Some(case.error);
        world.request(case.request);
        world.settle();
        assert_eq!(world.kinds(), [case.expect.0], "{}", case.name);
        let reason = match &world.inbox[0] {
            Response::RequestResponse(response) => response.reason,
            Response::SubscriptionResponse(response) => response.err,
            other => panic!("{}: {other:?}", case.name),
        };
        assert_eq!(reason, case.expect.1, "{}", case.name);
    }
}

#[test]
fn pings_are_answered_with_the_wall_clock() {
    let mut world = World::single();
    world.now += Duration::from_millis(1500);
    world.request(Request::PingReq(proto::Ping { timestamp: 42, rtt: 3 }));
    let Some(Response::PongResp(pong)) = world.inbox.last() else { panic!("{:?}", world.kinds()) };
    assert_eq!((pong.last_ping_timestamp, pong.timestamp), (42, 1_700_000_001_500));
}

#[test]
fn announcements_without_media_are_bounded() {
    let mut world = World::single();
    for index in 0..70 {
        world.request(Request::AddTrack(add_track(&format!("cid{index}"), true)));
    }
    world.settle();
    let kinds = world.kinds();
    assert_eq!(kinds.iter().filter(|kind| **kind == "track_published").count(), 64);
    assert_eq!(kinds.iter().filter(|kind| **kind == "request_response").count(), 6);
}

#[test]
fn muting_reaches_node_and_room() {
    let mut world = World::single();
    world.request(Request::AddTrack(add_track("mic", false)));
    world.offering.publish("audio", "mic", &[]);
    world.offer();
    world.settle();
    world.request(Request::Mute(proto::MuteTrackRequest { sid: "TR_1".into(), muted: true }));
    world.settle();
    assert!(world.node[&PeerRole::Single].state.tracks[0].muted);
    assert!(
        world
            .done
            .iter()
            .any(|command| matches!(command, RoomCommand::MuteTrack { muted: true, .. }))
    );
    // And by the server.
    world.room(RoomEvent::Muted { track: TrackSid::from("TR_1".to_owned()), muted: false });
    world.settle();
    assert!(!world.node[&PeerRole::Single].state.tracks[0].muted);
    assert!(world.kinds().contains(&"mute"));
}

#[test]
fn a_resume_says_first_what_happened_meanwhile() {
    let mut world = World::dual();
    world.request(Request::AddTrack(add_track("mic", false)));
    world.offering.publish("audio", "mic", &[]);
    world.offer();
    subscribe(&mut world, "TR_a", true);
    world.settle();
    world.room(RoomEvent::PeerConnected(PeerRole::Subscriber));
    world.room(RoomEvent::Participants(vec![participant("PA_gone", Vec::new())]));
    world.lose_signal();
    world.settle();
    assert!(world.done.contains(&RoomCommand::SignalLost));

    let resumed = world.resumed(vec![track("TR_a", true), track("TR_b", true)]);
    world.resume(resumed);
    assert_eq!(world.kinds(), ["reconnect", "update", "update", "room_update", "refresh_token"]);
    let Response::Update(update) = &world.inbox[1] else { panic!() };
    assert_eq!(update.participants[0].sid, "PA_gone");
    assert_eq!(update.participants[0].state(), proto::participant_info::State::Disconnected);
    let Response::Update(update) = &world.inbox[2] else { panic!() };
    assert!(update.participants.iter().any(|participant| participant.sid == "PA_self"));

    world.settle();
    assert_receives(&world, &["TR_a", "TR_b"]);
    let generation =
        world.node[&PeerRole::Subscriber].state.transport.as_ref().map(|t| t.ice_generation);
    assert_eq!(generation, Some(1), "the downlink restarted ICE");
    // The uplink's restart is the client's.
    world.offering.ice_generation += 1;
    world.offer();
    world.settle();
    assert_eq!(world.published.len(), 1);
}

#[test]
fn news_of_a_crowd_do_not_make_a_publisher_forgotten() {
    let mut world = World::single();
    world.settle();
    world.room(RoomEvent::PeerConnected(PeerRole::Single));
    let people = ["PA_publisher", "PA_viewer"].map(|sid| participant(sid, Vec::new()));
    let others = (0..CROWD).map(|number| participant(&format!("PA_{number}"), Vec::new()));
    let [mut publisher, viewer] = people;
    world.room(RoomEvent::Participants(others.chain([publisher.clone()]).collect()));
    publisher.tracks.push(proto::TrackInfo { sid: "TR_a".to_owned(), ..Default::default() });
    world.room(RoomEvent::News(Arc::new(News::new(vec![publisher, viewer], None, Vec::new()))));
    world.lose_signal();
    world.settle();
    let resumed = world.resumed(Vec::new());
    world.resume(resumed);
    let updates = world.inbox.iter().filter_map(|message| match message {
        Response::Update(update) => Some(&update.participants),
        _ => None,
    });
    let gone = updates.flatten().filter(|one| one.state() == State::Disconnected);
    let gone: Vec<_> = gone.map(|one| one.sid.as_str()).collect();
    assert!(gone.contains(&"PA_publisher"));
    assert!(!gone.contains(&"PA_viewer"), "the room says what became of a crowd's viewers");
}

#[test]
fn a_viewer_that_is_hidden_meanwhile_is_taken_away_at_the_resume() {
    let mut world = World::single();
    world.settle();
    world.room(RoomEvent::PeerConnected(PeerRole::Single));
    let viewer = participant("PA_viewer", Vec::new());
    world.room(RoomEvent::News(Arc::new(News::new(vec![viewer], None, Vec::new()))));
    world.lose_signal();
    world.settle();
    let resumed = world.resumed(Vec::new());
    world.resume(resumed);
    let gone = world.inbox.iter().any(|message| {
        matches!(message, Response::Update(update)
        if update.participants.iter().any(|one| one.sid == "PA_viewer" && one.state() == State::Disconnected))
    });
    assert!(gone);
}

#[test]
fn a_resume_withdraws_what_the_room_has_no_more() {
    let mut world = World::single();
    for (cid, kind) in [("mic", "audio"), ("cam", "video")] {
        world.request(Request::AddTrack(add_track(cid, kind == "video")));
        world.offering.publish(kind, cid, &[]);
        world.offer();
        world.settle();
    }
    let on_node = |world: &World| {
        let tracks = &world.node[&PeerRole::Single].state.tracks;
        tracks.iter().map(|track| track.track_id.clone()).collect::<Vec<_>>()
    };
    let may_send = |world: &World| {
        world.node[&PeerRole::Single].state.data.as_ref().is_none_or(|data| data.may_send)
    };
    assert_eq!(on_node(&world), ["TR_1", "TR_2"]);
    assert!(may_send(&world));
    world.lose_signal();
    world.settle();
    // An API unpublished one and took a permission while nobody listened.
    world.forgotten = vec![TrackSid::from("TR_2".to_owned())];
    let mut resumed = world.resumed(Vec::new());
    resumed.participant.tracks =
        vec![proto::TrackInfo { sid: "TR_1".into(), ..Default::default() }];
    resumed.permissions.can_publish_data = false;
    world.done.clear();
    world.resume(resumed);
    world.settle();
    assert_eq!(on_node(&world), ["TR_1"]);
    assert!(!may_send(&world), "permissions are followed");
    let withdrawn: Vec<_> = world
        .inbox
        .iter()
        .filter_map(|message| match message {
            Response::TrackUnpublished(unpublished) => Some(unpublished.track_sid.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(withdrawn, ["TR_2"]);
    assert!(world.leave().is_none(), "the session goes on");
}

#[test]
fn a_resume_with_a_track_that_is_unknown_here_starts_anew() {
    let mut world = World::single();
    let published = proto::TrackPublishedResponse {
        cid: "x".into(),
        track: Some(proto::TrackInfo { sid: "TR_unknown".into(), ..Default::default() }),
    };
    world.request(Request::SyncState(proto::SyncState {
        publish_tracks: vec![published],
        ..Default::default()
    }));
    assert_eq!(world.leave().map(proto::LeaveRequest::action), Some(Action::Reconnect));
    assert!(world.ended);
}

#[test]
fn a_session_rebuilt_after_a_restart_goes_on_with_the_same_peers() {
    for two_peers in [false, true] {
        let mut world =
            if two_peers { World::dual() } else { World::new(false, OfferingClient::new(0, 1)) };
        world.request(Request::AddTrack(add_track("cam", true)));
        world.offering.publish("video", "cam", &["q", "h"]);
        world.offer();
        subscribe(&mut world, "TR_a", true);
        world.settle();
        assert_receives(&world, &["TR_a"]);
        let before = world.receiving().clone();
        let ssrc = world.sent()["TR_a"].ssrc;

        // What the room was told last may not have been saved.
        world.published.clear();
        world.restart(two_peers, vec![track("TR_a", true), track("TR_b", true)]);
        assert_eq!(world.kinds()[0], "reconnect");
        let known = proto::TrackPublishedResponse {
            cid: "cam".into(),
            track: Some(proto::TrackInfo { sid: "TR_1".into(), ..Default::default() }),
        };
        world.request(Request::SyncState(proto::SyncState {
            publish_tracks: vec![known],
            ..Default::default()
        }));
        world.offering.ice_generation += 1;
        world.offer();
        world.settle();
        assert!(!world.ended);
        assert_receives(&world, &["TR_a", "TR_b"]);
        assert_eq!(world.sent()["TR_a"].ssrc, ssrc, "what played goes on playing");
        assert!(before.iter().all(|(mid, track)| world.receiving().get(mid) == Some(track)));
        assert_eq!(world.published.len(), 1);
    }
}

#[test]
fn what_ends_a_session() {
    struct Case {
        name: &'static str,
        run: fn(&mut World),
        action: Option<Action>,
    }
    let cases = [
        Case {
            name: "the client leaves",
            run: |world| world.request(Request::Leave(proto::LeaveRequest::default())),
            action: None,
        },
        Case {
            name: "another of the same identity came",
            run: |world| {
                world.room(RoomEvent::Closed {
                    reason: proto::DisconnectReason::DuplicateIdentity,
                    action: Action::Disconnect,
                });
            },
            action: Some(Action::Disconnect),
        },
        Case {
            name: "media is gone",
            run: |world| {
                world.room(RoomEvent::PeerLost {
                    role: PeerRole::Single,
                    reason: chappe_proto::node::v1::LostReason::IceTimeout,
                });
            },
            action: Some(Action::Reconnect),
        },
        Case {
            name: "it reads data too slowly",
            run: |world| world.room(RoomEvent::DataOverflow(PeerRole::Single)),
            action: Some(Action::Reconnect),
        },
        Case {
            name: "the node refuses",
            run: |world| {
                world.node_fails = true;
                world.offer();
                world.settle();
            },
            action: Some(Action::Reconnect),
        },
        Case {
            name: "simulated failure of the node",
            run: |world| {
                let scenario = Some(proto::simulate_scenario::Scenario::NodeFailure(true));
                world.request(Request::Simulate(proto::SimulateScenario { scenario }));
            },
            action: Some(Action::Reconnect),
        },
        Case {
            name: "simulated leave",
            run: |world| {
                let scenario = Some(proto::simulate_scenario::Scenario::ServerLeave(true));
                world.request(Request::Simulate(proto::SimulateScenario { scenario }));
            },
            action: Some(Action::Disconnect),
        },
    ];
    for case in cases {
        let mut world = World::single();
        (case.run)(&mut world);
        assert!(world.ended, "{}", case.name);
        assert_eq!(world.leave().map(proto::LeaveRequest::action), case.action, "{}", case.name);
        // Nothing is said afterwards.
        let said = world.inbox.len();
        subscribe(&mut world, "TR_1", true);
        world.request(Request::Ping(1));
        assert_eq!(world.inbox.len(), said, "{}", case.name);
    }
}

#[test]
fn switching_to_tcp_closes_the_signal_and_forces_tcp_at_the_node() {
    let mut world = World::single();
    world.offer();
    world.settle();
    let scenario = Some(proto::simulate_scenario::Scenario::SwitchCandidateProtocol(
        proto::CandidateProtocol::Tcp as i32,
    ));
    world.request(Request::Simulate(proto::SimulateScenario { scenario }));
    assert!(world.signal_closed && !world.ended);
    assert_eq!(world.leave().map(proto::LeaveRequest::action), Some(Action::Resume));
    world.lose_signal();
    let resumed = world.resumed(Vec::new());
    world.resume(resumed);
    world.offering.ice_generation += 1;
    world.offer();
    world.settle();
    let transport = world.node[&PeerRole::Single].state.transport.clone().expect("transport");
    assert!(transport.force_tcp);
    assert_eq!(transport.ice_generation, 1);
}

#[test]
fn tracks_that_belong_together_share_a_stream_where_the_client_plays_it_in_step() {
    use proto::TrackSource::{Camera, Microphone, ScreenShare, ScreenShareAudio, Unknown};
    let tracks = [
        ("TR_mic", Microphone, false, "PA_other|camera"),
        ("TR_cam", Camera, true, "PA_other|camera"),
        ("TR_screen", ScreenShare, true, "PA_other|screen_share"),
        ("TR_sound", ScreenShareAudio, false, "PA_other|screen_share"),
        ("TR_else", Unknown, true, "PA_other|TR_else"),
    ];
    for syncs_streams in [true, false] {
        let mut world = World::single();
        world.session.facts.syncs_streams = syncs_streams;
        for (sid, source, video, _) in tracks {
            let mut track = track(sid, video);
            track.info.source = source as i32;
            world.room(RoomEvent::Subscribe(track));
        }
        world.offer();
        world.settle();
        let answer = world.inbox.iter().rev().find_map(|message| match message {
            Response::Answer(answer) => Some(answer),
            _ => None,
        });
        let answer = answer.expect("answer");
        for (sid, _, _, stream) in tracks {
            let own = format!("PA_other|{sid}");
            let stream = if syncs_streams { stream } else { own.as_str() };
            // A browser keeps the id that it reads first, and "TR" makes the SDK believe it.
            let id = if stream == own { sid } else { &sid[3..] };
            let line = format!("a=msid:{stream} {id}\r\n");
            assert!(answer.sdp.contains(&line), "{line} is missing in\n{}", answer.sdp);
            assert!(answer.mid_to_track_id.values().any(|track| track == sid));
        }
    }
}

#[test]
fn a_simulated_bandwidth_caps_the_downlink_until_zero() {
    for (mut world, role) in
        [(World::single(), PeerRole::Single), (World::dual(), PeerRole::Subscriber)]
    {
        world.offer();
        world.settle();
        for (said, cap) in [(250_000, 250_000), (-1, 250_000), (0, 0)] {
            let scenario = Some(proto::simulate_scenario::Scenario::SubscriberBandwidth(said));
            world.request(Request::Simulate(proto::SimulateScenario { scenario }));
            world.settle();
            assert_eq!(world.node[&role].state.max_egress_bitrate, cap, "after {said}");
        }
    }
}

#[test]
fn a_speaker_is_simulated_for_its_time() {
    let mut world = World::single();
    world.inbox.clear();
    let scenario = Some(proto::simulate_scenario::Scenario::SpeakerUpdate(3));
    world.request(Request::Simulate(proto::SimulateScenario { scenario }));
    while world.step_time(Duration::from_secs(4)) {}
    let active: Vec<_> = world
        .inbox
        .iter()
        .filter_map(|message| match message {
            Response::SpeakersChanged(changed) => Some(changed.speakers[0].active),
            _ => None,
        })
        .collect();
    assert_eq!(active, [true, false]);
}

#[test]
fn why_a_room_closed_is_told_by_its_event_and_not_by_a_command_that_failed() {
    let mut world = World::single();
    let outcome = Err(RequestError::Closed);
    world.session.handle_reply(super::Reply::Peer { role: PeerRole::Single, outcome }, world.now);
    assert!(world.session.poll_effect().is_none());
    let reason = proto::DisconnectReason::ServerShutdown;
    world.room(RoomEvent::Closed { reason, action: Action::Reconnect });
    assert_eq!(world.leave().map(proto::LeaveRequest::reason), Some(reason));
}
