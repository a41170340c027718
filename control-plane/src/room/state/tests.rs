//! Rules of a room as tables and invariants.

mod news;

use std::collections::{BTreeMap, BTreeSet};

use chappe_proto::node::v1 as node;
use livekit_protocol as proto;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::room::tests::{camera, request, vp8};

fn at(seconds: u64) -> Now {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    Now {
        mono: start + Duration::from_secs(seconds),
        unix_ms: 1_700_000_000_000 + 1_000 * seconds as i64,
    }
}

fn room() -> RoomState {
    RoomState::new("RM_test".to_owned(), "test".to_owned(), RoomOptions::default(), at(0))
}

fn join(room: &mut RoomState, identity: &str) -> ParticipantSid {
    room.join(request(identity), at(1)).unwrap().sid
}

fn publish(room: &mut RoomState, sid: &ParticipantSid, cid: &str) -> TrackSid {
    let info = room.add_track(sid, camera(cid)).unwrap();
    let track = TrackSid(info.sid.as_str().into());
    room.publish(sid, &track, vp8(&info.sid)).unwrap();
    track
}

fn publish_audio(room: &mut RoomState, sid: &ParticipantSid, cid: &str) -> TrackSid {
    let request = proto::AddTrackRequest {
        r#type: proto::TrackType::Audio as i32,
        source: proto::TrackSource::Microphone as i32,
        ..camera(cid)
    };
    let info = room.add_track(sid, request).unwrap();
    let track = TrackSid(info.sid.as_str().into());
    let mut published = vp8(&info.sid);
    published.variants[0].mime_type = "audio/opus".to_owned();
    room.publish(sid, &track, published).unwrap();
    track
}

fn drain(room: &mut RoomState) -> Vec<Effect> {
    std::iter::from_fn(|| room.poll_effect()).collect()
}

fn told(effects: &[Effect], sid: &ParticipantSid) -> Vec<RoomEvent> {
    let own = effects.iter().filter_map(|effect| match effect {
        Effect::Tell(to, event) if to == sid => Some(event.clone()),
        _ => None,
    });
    own.collect()
}

fn takes(room: &RoomState, sid: &ParticipantSid) -> BTreeSet<TrackSid> {
    room.participants[sid].taken.keys().cloned().collect()
}

#[test]
fn who_takes_a_track() {
    struct Case {
        name: &'static str,
        auto_subscribe: bool,
        can_subscribe: bool,
        publisher_hidden: bool,
        audience: Option<proto::SubscriptionPermission>,
        wish: Option<bool>,
        taken: bool,
    }
    let plain = || Case {
        name: "by itself",
        auto_subscribe: true,
        can_subscribe: true,
        publisher_hidden: false,
        audience: None,
        wish: None,
        taken: true,
    };
    let only = |identity: &str| {
        let rule = proto::TrackPermission {
            participant_identity: identity.to_owned(),
            all_tracks: true,
            ..Default::default()
        };
        Some(proto::SubscriptionPermission {
            all_participants: false,
            track_permissions: vec![rule],
        })
    };
    let cases = [
        plain(),
        Case { name: "not asked", auto_subscribe: false, taken: false, ..plain() },
        Case { name: "asked", auto_subscribe: false, wish: Some(true), ..plain() },
        Case { name: "turned down", wish: Some(false), taken: false, ..plain() },
        Case { name: "not granted", can_subscribe: false, taken: false, ..plain() },
        Case { name: "hidden publisher", publisher_hidden: true, taken: false, ..plain() },
        Case { name: "for another", audience: only("carl"), taken: false, ..plain() },
        Case {
            name: "asked, for another",
            audience: only("carl"),
            wish: Some(true),
            taken: false,
            ..plain()
        },
        Case { name: "for this one", audience: only("ben"), ..plain() },
    ];
    for case in cases {
        let mut room = room();
        let mut publisher = request("anna");
        publisher.permissions.hidden = case.publisher_hidden;
        let anna = room.join(publisher, at(1)).unwrap().sid;
        if let Some(audience) = case.audience.clone() {
            room.set_audience(&anna, audience).unwrap();
        }
        let mut subscriber = request("ben");
        subscriber.auto_subscribe = case.auto_subscribe;
        subscriber.permissions.can_subscribe = case.can_subscribe;
        let ben = room.join(subscriber, at(1)).unwrap().sid;
        drain(&mut room);
        let track = publish(&mut room, &anna, "cam");
        if let Some(wish) = case.wish {
            room.subscribe(&ben, vec![track.clone()], wish).unwrap();
        }
        assert_eq!(takes(&room, &ben).contains(&track), case.taken, "{}", case.name);
    }
}

#[test]
fn a_subscriber_knows_the_track_before_it_is_told_to_take_it() {
    let mut room = room();
    let (anna, ben) = (join(&mut room, "anna"), join(&mut room, "ben"));
    drain(&mut room);
    let info = room.add_track(&anna, camera("cam")).unwrap();
    assert!(told(&drain(&mut room), &ben).is_empty(), "announced is not published");
    let track = TrackSid(info.sid.as_str().into());
    room.publish(&anna, &track, vp8(&info.sid)).unwrap();
    let effects = drain(&mut room);
    let events = told(&effects, &ben);
    let knows = events.iter().position(
        |event| matches!(event, RoomEvent::Participants(people) if people[0].tracks.len() == 1),
    );
    let takes = events.iter().position(|event| matches!(event, RoomEvent::Subscribe(_)));
    assert!(knows.unwrap() < takes.unwrap(), "{events:?}");
    assert_eq!(told(&effects, &anna), [RoomEvent::TrackSubscribed(track)]);
}

#[test]
fn a_backup_codec_is_asked_for_then_joins_the_track() {
    let mut room = room();
    let (anna, ben) = (join(&mut room, "anna"), join(&mut room, "ben"));
    let codec = |codec: &str, cid: &str| proto::SimulcastCodec {
        codec: codec.to_owned(),
        cid: cid.to_owned(),
        ..Default::default()
    };
    let mut announced = camera("cam");
    announced.simulcast_codecs = vec![codec("vp9", "cam"), codec("vp8", "")];
    let info = room.add_track(&anna, announced).unwrap();
    let track = TrackSid(info.sid.as_str().into());
    let vp9 = PublishedVariant {
        node_track_id: info.sid.clone(),
        mime_type: "video/VP9".to_owned(),
        mid: "1".to_owned(),
        cid: "cam".to_owned(),
        layers: Vec::new(),
    };
    room.publish(&anna, &track, PublishedInfo { variants: vec![vp9.clone()] }).unwrap();
    drain(&mut room);

    let unknown = room.need_codec(&ben, &track, &["video/H264".to_owned()], at(1));
    assert!(matches!(unknown, Err(RequestError::NotFound(_))));
    room.need_codec(&ben, &track, &["video/vp8".to_owned()], at(1)).unwrap();
    let events = told(&drain(&mut room), &anna);
    let [RoomEvent::SubscribedQuality(update)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(update.subscribed_codecs[0].codec, "vp8");
    assert!(update.subscribed_codecs[0].qualities.iter().all(|quality| quality.enabled));

    let mut again = camera("cam2");
    again.sid.clone_from(&info.sid);
    again.simulcast_codecs = vec![codec("vp8", "cam2")];
    assert_eq!(room.add_track(&anna, again).unwrap().sid, info.sid);
    let mut vp8 = vp9.clone();
    vp8.node_track_id = format!("{}/vp8", info.sid);
    vp8.mime_type = "video/VP8".to_owned();
    room.publish(&anna, &track, PublishedInfo { variants: vec![vp9, vp8] }).unwrap();
    let events = told(&drain(&mut room), &ben);
    let renewed = events.iter().find_map(|event| match event {
        RoomEvent::Subscribe(track) => Some(track.variants.len()),
        _ => None,
    });
    assert_eq!(renewed, Some(2));
    let tracks = &room.everybody()[0].tracks;
    assert_eq!(tracks[0].codecs.len(), 2);
    assert_eq!(tracks[0].mime_type, "video/VP9");
}

#[test]
fn more_quality_is_told_at_once_and_less_after_a_while() {
    let mut room = room();
    let anna = join(&mut room, "anna");
    let track = publish(&mut room, &anna, "cam");
    drain(&mut room);
    let enabled = |effects: &[Effect]| -> Vec<Vec<bool>> {
        let updates = told(effects, &anna).into_iter().filter_map(|event| match event {
            RoomEvent::SubscribedQuality(update) => Some(update),
            _ => None,
        });
        let flags = updates.map(|update| {
            let codec = &update.subscribed_codecs[0];
            assert_eq!(codec.codec, "vp8");
            codec.qualities.iter().map(|quality| quality.enabled).collect()
        });
        flags.collect()
    };
    struct Step {
        second: u64,
        demand: Option<Option<u32>>,
        told: &'static [[bool; 3]],
    }
    let steps = [
        Step { second: 10, demand: Some(Some(0)), told: &[] },
        Step { second: 14, demand: None, told: &[] },
        Step { second: 15, demand: None, told: &[[true, false, false]] },
        Step { second: 16, demand: Some(Some(2)), told: &[[true, true, true]] },
        Step { second: 17, demand: Some(None), told: &[] },
        // Wanted again before the time was over.
        Step { second: 18, demand: Some(Some(2)), told: &[] },
        Step { second: 30, demand: None, told: &[] },
        Step { second: 31, demand: Some(None), told: &[] },
        Step { second: 36, demand: None, told: &[[false, false, false]] },
        Step { second: 37, demand: Some(Some(1)), told: &[[true, true, false]] },
    ];
    for step in steps {
        if let Some(demand) = step.demand {
            room.layer_demand(&track.0, demand, at(step.second));
        }
        room.handle_timeout(at(step.second));
        assert_eq!(enabled(&drain(&mut room)), step.told, "at {} s", step.second);
    }
}

#[test]
fn codecs_of_audio_that_nobody_wants_are_told_too() {
    let mut room = room();
    let anna = join(&mut room, "anna");
    let track = publish_audio(&mut room, &anna, "mic");
    drain(&mut room);
    let enabled = |effects: &[Effect]| -> Vec<Vec<(String, bool)>> {
        let updates = told(effects, &anna).into_iter().filter_map(|event| match event {
            RoomEvent::SubscribedAudioCodecs(update) => Some(update),
            RoomEvent::SubscribedQuality(update) => panic!("qualities of sound: {update:?}"),
            _ => None,
        });
        let codecs = updates.map(|update| {
            assert_eq!(update.track_sid, track.to_string());
            let codecs = update.subscribed_audio_codecs.into_iter();
            codecs.map(|codec| (codec.codec, codec.enabled)).collect()
        });
        codecs.collect()
    };
    struct Step {
        second: u64,
        demand: Option<Option<u32>>,
        told: &'static [bool],
    }
    let steps = [
        Step { second: 10, demand: Some(None), told: &[] },
        Step { second: 15, demand: None, told: &[false] },
        Step { second: 16, demand: Some(Some(0)), told: &[true] },
        Step { second: 17, demand: Some(None), told: &[] },
        Step { second: 18, demand: Some(Some(255)), told: &[] },
        Step { second: 40, demand: None, told: &[] },
    ];
    for step in steps {
        if let Some(demand) = step.demand {
            room.layer_demand(&track.0, demand, at(step.second));
        }
        room.handle_timeout(at(step.second));
        let expected: Vec<_> =
            step.told.iter().map(|enabled| vec![("opus".to_owned(), *enabled)]).collect();
        assert_eq!(enabled(&drain(&mut room)), expected, "at {} s", step.second);
    }
}

#[test]
fn deadlines_of_people_and_rooms() {
    let mut room = room();
    // Never used: 300 s.
    assert_eq!(room.poll_timeout(), Some(at(300).mono));
    let anna = join(&mut room, "anna");
    drain(&mut room);
    // No media within 60 s of joining at 1 s.
    room.handle_timeout(at(60));
    assert!(room.has(&anna));
    room.handle_timeout(at(61));
    assert!(!room.has(&anna));
    let closed = told(&drain(&mut room), &anna);
    let expected = RoomEvent::Closed {
        reason: proto::DisconnectReason::JoinFailure,
        action: proto::leave_request::Action::Reconnect,
    };
    assert!(closed.contains(&expected), "{closed:?}");
    // Left: 20 s.
    room.handle_timeout(at(80));
    assert!(!drain(&mut room).contains(&Effect::End));
    room.handle_timeout(at(81));
    assert!(drain(&mut room).contains(&Effect::End));
}

#[test]
fn who_asked_for_tcp_gets_it_when_it_joins_anew() {
    let mut room = room();
    let forced = |room: &mut RoomState, identity: &str, now| {
        let joined = room.join(request(identity), now).unwrap();
        drain(room);
        (joined.sid, joined.force_tcp)
    };
    let (first, fresh) = forced(&mut room, "anna", at(0));
    assert!(!fresh);
    room.force_tcp(&first, true).unwrap();
    let (second, evicting) = forced(&mut room, "anna", at(1));
    room.leave(&second, proto::DisconnectReason::ClientInitiated, at(2));
    let (third, after) = forced(&mut room, "anna", at(3));
    assert_eq!((evicting, after), (true, true));
    assert!(!forced(&mut room, "ben", at(3)).1, "others as ever");
    room.force_tcp(&third, false).unwrap();
    room.leave(&third, proto::DisconnectReason::ClientInitiated, at(4));
    assert!(!forced(&mut room, "anna", at(5)).1, "any path again");
    let (late, _) = forced(&mut room, "cleo", at(5));
    room.force_tcp(&late, true).unwrap();
    room.leave(&late, proto::DisconnectReason::ClientInitiated, at(6));
    assert!(!forced(&mut room, "cleo", at(600)).1, "hours later");
    // Nothing is kept for long, nor for many.
    for n in 0..2 * MAX_FORCED_TCP {
        let (sid, _) = forced(&mut room, &format!("p{n}"), at(601));
        room.force_tcp(&sid, true).unwrap();
        room.leave(&sid, proto::DisconnectReason::ClientInitiated, at(601));
    }
    assert_eq!(room.forced_tcp.len(), MAX_FORCED_TCP);
    room.handle_timeout(at(1_200));
    assert!(room.forced_tcp.is_empty());
}

#[test]
fn signalling_may_be_away_for_a_while_if_media_lives() {
    let mut room = room();
    let (anna, ben) = (join(&mut room, "anna"), join(&mut room, "ben"));
    room.peer_connected(&anna, PeerRole::Single);
    room.signal_lost(&ben, at(10));
    assert!(!room.has(&ben), "no media, no reason to wait");
    room.signal_lost(&anna, at(10));
    let resumed = room.resume(&anna, "anna").unwrap();
    assert_eq!(resumed.departed[0].identity, "ben");
    assert_eq!(room.resume(&anna, "ben").unwrap_err(), JoinError::UnknownParticipant);
    room.signal_lost(&anna, at(20));
    room.handle_timeout(at(79));
    assert!(room.has(&anna));
    room.handle_timeout(at(80));
    assert!(!room.has(&anna));
}

#[test]
fn what_is_forbidden_meanwhile_is_withdrawn_without_a_session() {
    let mut room = room();
    let (anna, ben) = (join(&mut room, "anna"), join(&mut room, "ben"));
    room.peer_connected(&ben, PeerRole::Single);
    let track = publish(&mut room, &anna, "cam");
    room.signal_lost(&ben, at(2));
    drain(&mut room);
    let nobody = proto::SubscriptionPermission::default();
    room.set_audience(&anna, nobody).unwrap();
    let withdrawn = Effect::Withdraw(ben.clone(), vec![track.to_string()]);
    assert!(drain(&mut room).contains(&withdrawn));
    assert!(room.resume(&ben, "ben").unwrap().subscriptions.is_empty());
}

#[test]
fn an_audience_is_bounded() {
    struct Case {
        name: &'static str,
        rules: Vec<proto::TrackPermission>,
        refused: Option<&'static str>,
    }
    let rule = |sid: String, identity: String, tracks: Vec<String>| proto::TrackPermission {
        participant_sid: sid,
        participant_identity: identity,
        track_sids: tracks,
        ..Default::default()
    };
    let ben = |tracks| rule(String::new(), "ben".to_owned(), tracks);
    let cases = [
        Case { name: "as many as fit", rules: vec![ben(vec![]); 4_096], refused: None },
        Case { name: "too many", rules: vec![ben(vec![]); 4_097], refused: Some("4097") },
        Case {
            name: "too many tracks",
            rules: vec![ben(vec!["TR_x".to_owned(); 4_096])],
            refused: Some("4097"),
        },
        Case {
            name: "long track",
            rules: vec![ben(vec!["x".repeat(65)])],
            refused: Some("a sid over 64 bytes"),
        },
        Case {
            name: "long sid",
            rules: vec![rule("x".repeat(65), String::new(), vec![])],
            refused: Some("a sid over 64 bytes"),
        },
        Case {
            name: "long identity",
            rules: vec![rule(String::new(), "x".repeat(257), vec![])],
            refused: Some("an identity over 256 bytes"),
        },
    ];
    for case in cases {
        let mut room = room();
        let anna = join(&mut room, "anna");
        let said =
            proto::SubscriptionPermission { track_permissions: case.rules, ..Default::default() };
        let error = room.set_audience(&anna, said).err().map(|error| error.to_string());
        assert_eq!(error.is_some(), case.refused.is_some(), "{}: {error:?}", case.name);
        let why = case.refused.unwrap_or_default();
        assert!(error.is_none_or(|error| error.contains(why)), "{}", case.name);
    }
}

#[test]
fn what_participants_may_do() {
    let mut room = room();
    let mut limited = request("anna");
    limited.permissions.can_publish_sources = vec!["microphone".to_owned()];
    limited.permissions.can_subscribe = false;
    let anna = room.join(limited, at(1)).unwrap().sid;
    let not_allowed = |result: Result<(), RequestError>| {
        assert!(matches!(result, Err(RequestError::NotAllowed(_))), "{result:?}");
    };
    not_allowed(room.add_track(&anna, camera("cam")).map(drop));
    let mut microphone = camera("mic");
    microphone.source = proto::TrackSource::Microphone as i32;
    microphone.r#type = proto::TrackType::Audio as i32;
    let track = room.add_track(&anna, microphone).unwrap().sid;
    assert!(track.starts_with("TR_AM"), "{track}");
    not_allowed(room.subscribe(&anna, vec![TrackSid("TR_x".into())], true));
    let renamed = || ProfileUpdate { name: Some("Anna".to_owned()), ..Default::default() };
    not_allowed(room.update_profile(&anna, renamed(), true));
    room.update_profile(&anna, renamed(), false).unwrap();
    // Muting by an API is allowed, unmuting is not.
    let track = TrackSid(track.into());
    room.mute(&anna, &track, true, false).unwrap();
    not_allowed(room.mute(&anna, &track, false, false));
    room.mute(&anna, &track, false, true).unwrap();
    // A grant that is taken away ends the track.
    drain(&mut room);
    room.set_permissions(&anna, Permissions { can_publish: false, ..Default::default() }, at(2))
        .unwrap();
    assert!(told(&drain(&mut room), &anna).contains(&RoomEvent::TrackUnpublished(track)));
}

#[test]
fn bounds_of_what_participants_say() {
    let mut room = room();
    let mut able = request("anna");
    able.permissions.can_update_own_metadata = true;
    let anna = room.join(able, at(1)).unwrap().sid;
    let updates = [
        ProfileUpdate { name: Some("n".repeat(MAX_NAME + 1)), ..Default::default() },
        ProfileUpdate { metadata: Some("m".repeat(MAX_METADATA + 1)), ..Default::default() },
        ProfileUpdate {
            attributes: HashMap::from([("k".to_owned(), "v".repeat(MAX_ATTRIBUTES))]),
            ..Default::default()
        },
    ];
    for update in updates {
        let refused = room.update_profile(&anna, update, true);
        assert!(matches!(refused, Err(RequestError::LimitExceeded(_))), "{refused:?}");
    }
    let attributes = |pairs: &[(&str, &str)]| ProfileUpdate {
        attributes: pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Default::default()
    };
    room.update_profile(&anna, attributes(&[("a", "1"), ("b", "2")]), true).unwrap();
    room.update_profile(&anna, attributes(&[("a", "")]), true).unwrap();
    let left = &room.everybody()[0].attributes;
    assert_eq!(left.iter().collect::<Vec<_>>(), [(&"b".to_owned(), &"2".to_owned())]);
    for number in 0..64 {
        room.add_track(&anna, camera(&format!("c{number}"))).unwrap();
    }
    let refused = room.add_track(&anna, camera("one too many"));
    assert!(matches!(refused, Err(RequestError::LimitExceeded(ref what)) if what == "64 tracks"));
    assert!(room.add_track(&anna, camera("c7")).is_ok(), "asked again, not anew");
}

#[test]
fn an_announcement_is_bounded() {
    let long = || "x".repeat(257);
    let codec = |codec: String, cid: String, layers: usize| proto::SimulcastCodec {
        codec,
        cid,
        layers: vec![Default::default(); layers],
        ..Default::default()
    };
    let plain = || camera("cam");
    let with = |codec| proto::AddTrackRequest { simulcast_codecs: vec![codec], ..plain() };
    let rid = proto::VideoLayer { rid: long(), ..Default::default() };
    let text = String::new;
    let cases = [
        ("name", proto::AddTrackRequest { name: long(), ..plain() }),
        ("stream", proto::AddTrackRequest { stream: long(), ..plain() }),
        ("cid", camera(&long())),
        ("codec", with(codec(long(), text(), 0))),
        ("cid of a codec", with(codec(text(), long(), 0))),
        ("layers of a codec", with(codec(text(), text(), 17))),
        ("layers", proto::AddTrackRequest { layers: vec![Default::default(); 17], ..plain() }),
        ("rid", proto::AddTrackRequest { layers: vec![rid], ..plain() }),
        ("features", proto::AddTrackRequest { audio_features: vec![0; 17], ..plain() }),
        (
            "codecs",
            proto::AddTrackRequest { simulcast_codecs: vec![Default::default(); 17], ..plain() },
        ),
    ];
    let mut room = room();
    let anna = join(&mut room, "anna");
    for (name, request) in cases {
        let refused = room.add_track(&anna, request);
        assert!(matches!(refused, Err(RequestError::LimitExceeded(_))), "{name}: {refused:?}");
    }
    let fits = proto::AddTrackRequest { name: "n".repeat(256), ..plain() };
    room.add_track(&anna, fits).unwrap();
}

#[test]
fn repeated_announcements_of_a_track_do_not_grow_it_without_limit() {
    let mut room = room();
    let anna = join(&mut room, "anna");
    let track = publish(&mut room, &anna, "cam");
    let mut again = camera("backup");
    again.sid = track.to_string();
    let named = |number: usize| proto::SimulcastCodec {
        codec: format!("codec{number}"),
        ..Default::default()
    };
    let mut refusals = 0;
    for number in 0..100 {
        again.simulcast_codecs = vec![named(number)];
        let answer = room.add_track(&anna, again.clone());
        refusals += usize::from(matches!(answer, Err(RequestError::LimitExceeded(_))));
    }
    let codecs = room.everybody()[0].tracks[0].codecs.len();
    assert_eq!((codecs, refusals), (16, 85), "one negotiated, then 15 of 100");
    again.simulcast_codecs = vec![named(3)];
    assert!(room.add_track(&anna, again).is_ok(), "a known one is no growth");
}

#[test]
fn wishes_are_short_and_few() {
    let mut room = room();
    let anna = join(&mut room, "anna");
    let name = |number: usize| TrackSid(format!("TR_{number}").into());
    let long = TrackSid("T".repeat(65).into());
    let refused = room.subscribe(&anna, vec![name(0), long], true);
    assert!(matches!(refused, Err(RequestError::Invalid(_))), "{refused:?}");
    for number in 0..4_096 {
        room.subscribe(&anna, vec![name(number); 2], true).unwrap();
    }
    let refused = room.subscribe(&anna, vec![name(4_096)], true);
    assert!(matches!(refused, Err(RequestError::LimitExceeded(_))), "{refused:?}");
    room.subscribe(&anna, vec![name(7)], false).unwrap();
    assert_eq!(room.participants[&anna].wishes.len(), 4_096);
}

#[test]
fn a_join_says_no_more_than_an_update_may() {
    let pair = ("k".to_owned(), "v".repeat(MAX_ATTRIBUTES));
    let cases = [
        JoinRequest { name: "n".repeat(MAX_NAME + 1), ..request("anna") },
        JoinRequest { metadata: "m".repeat(MAX_METADATA + 1), ..request("anna") },
        JoinRequest { attributes: HashMap::from([pair]), ..request("anna") },
    ];
    let mut room = room();
    let older = join(&mut room, "anna");
    for request in cases {
        assert!(room.join(request, at(1)).is_err());
        assert!(room.has(&older), "a refused join evicts nobody");
    }
}

#[test]
fn a_short_room_is_saved_as_it_is_and_a_long_one_deflated() {
    let mut room = room();
    join(&mut room, "anna");
    for (metadata, plain) in [("short".to_owned(), true), ("long ".repeat(20_000), false)] {
        room.set_metadata(metadata).unwrap();
        let saved = room.save().unwrap();
        assert_eq!(saved.starts_with(b"{"), plain);
        assert!(saved.len() < 4_000, "{} bytes", saved.len());
        assert_eq!(RoomState::restore(&saved, at(3)).unwrap().info(), room.info());
    }
}

#[test]
fn timeouts_beyond_the_clock_are_never() {
    let options = RoomOptions {
        empty_timeout: Duration::MAX,
        departure_timeout: Duration::MAX,
        ..Default::default()
    };
    let mut room = RoomState::new("RM_test".to_owned(), "test".to_owned(), options, at(0));
    assert_eq!(room.poll_timeout(), None);
    let anna = join(&mut room, "anna");
    room.leave(&anna, proto::DisconnectReason::ClientInitiated, at(2));
    room.handle_timeout(at(1_000_000));
    assert!(!drain(&mut room).contains(&Effect::End));
    let restored = RoomState::restore(&room.save().unwrap(), at(3)).unwrap();
    assert_eq!(restored.info().empty_timeout, u32::MAX);
}

#[test]
fn a_full_room_takes_nobody_but_a_returning_identity() {
    let options = RoomOptions { max_participants: 1, ..Default::default() };
    let mut room = RoomState::new("RM_test".to_owned(), "test".to_owned(), options, at(0));
    let older = join(&mut room, "anna");
    assert_eq!(room.join(request("ben"), at(1)).unwrap_err(), JoinError::RoomFull(1));
    let younger = join(&mut room, "anna");
    assert!(room.has(&younger) && !room.has(&older));
}

#[test]
fn hidden_people_see_and_are_not_seen() {
    let mut room = room();
    let anna = join(&mut room, "anna");
    drain(&mut room);
    let mut ghost = request("ghost");
    ghost.permissions.hidden = true;
    let joined = room.join(ghost, at(1)).unwrap();
    assert_eq!(joined.others.len(), 1);
    assert_eq!(room.info().num_participants, 1);
    room.leave(&joined.sid, proto::DisconnectReason::ClientInitiated, at(2));
    assert!(told(&drain(&mut room), &anna).is_empty());
}

#[test]
fn the_loudest_track_speaks_for_its_participant() {
    let mut room = room();
    let anna = join(&mut room, "anna");
    let (one, two) = (publish(&mut room, &anna, "a"), publish(&mut room, &anna, "b"));
    drain(&mut room);
    room.speakers(&[heard(&one, 0.5), heard(&two, 0.1)]);
    assert_eq!(told(&drain(&mut room), &anna), [speaks(&anna, 0.5, true)]);
}

fn heard(track: &TrackSid, level: f32) -> node::Speaker {
    node::Speaker { track_id: track.to_string(), level, dominant: false }
}

fn speaks(sid: &ParticipantSid, level: f32, active: bool) -> RoomEvent {
    let speakers = vec![proto::SpeakerInfo { sid: sid.to_string(), level, active }];
    RoomEvent::Speakers(proto::SpeakersChanged { speakers })
}

#[test]
fn speakers_are_told_as_changes() {
    let mut room = room();
    let (anna, ben) = (join(&mut room, "anna"), join(&mut room, "ben"));
    let (one, two) = (publish(&mut room, &anna, "a"), publish(&mut room, &ben, "b"));
    drain(&mut room);
    let mut after = |heard: &[node::Speaker]| {
        room.speakers(heard);
        told(&drain(&mut room), &anna)
    };
    assert_eq!(after(&[]), [], "the first word of a node, in silence");
    assert_eq!(after(&[heard(&one, 0.5)]), [speaks(&anna, 0.5, true)]);
    assert_eq!(after(&[heard(&one, 0.5), heard(&two, 0.2)]), [speaks(&ben, 0.2, true)]);
    assert_eq!(after(&[heard(&two, 0.2)]), [speaks(&anna, 0.0, false)]);
    assert_eq!(after(&[heard(&two, 0.2)]), []);
    // Who comes later hears of it, who leaves is not told of.
    let carl = join(&mut room, "carl");
    assert!(told(&drain(&mut room), &carl).contains(&speaks(&ben, 0.2, true)));
    room.leave(&ben, proto::DisconnectReason::ClientInitiated, at(2));
    drain(&mut room);
    room.speakers(&[]);
    assert_eq!(told(&drain(&mut room), &anna), []);
}

/// One step of somebody, by small numbers: who, which of the existing tracks.
#[derive(Clone, Debug)]
enum Step {
    Join { who: u8, again: bool, hidden: bool, auto: bool, subscribes: bool },
    Leave(u8),
    Expel(u8),
    Connect(u8),
    SignalLost(u8),
    Resume(u8),
    Announce(u8),
    Publish(u8, u8),
    Unpublish(u8, u8),
    Mute(u8, u8),
    Subscribe(u8, u8, bool),
    Audience(u8, Option<u8>),
    Permissions { who: u8, publishes: bool, subscribes: bool, hidden: bool },
    Wait(u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..4_u8;
    let any = any::<bool>;
    prop_oneof![
        8 => (who(), 0..8_u8, any(), any(), any()).prop_map(|(who, again, hidden, auto, subscribes)| {
            let (hidden, subscribes) = (hidden && who == 3, subscribes || who < 2);
            Step::Join { who, again: again == 0, hidden, auto: auto || who == 0, subscribes }
        }),
        1 => who().prop_map(Step::Leave),
        1 => who().prop_map(Step::Expel),
        4 => who().prop_map(Step::Connect),
        1 => who().prop_map(Step::SignalLost),
        4 => who().prop_map(Step::Resume),
        2 => who().prop_map(Step::Announce),
        8 => (who(), 0..4_u8).prop_map(|(who, track)| Step::Publish(who, track)),
        2 => (who(), 0..4_u8).prop_map(|(who, track)| Step::Unpublish(who, track)),
        1 => (who(), 0..4_u8).prop_map(|(who, track)| Step::Mute(who, track)),
        4 => (who(), 0..8_u8, any()).prop_map(|(who, track, take)| Step::Subscribe(who, track, take)),
        2 => (who(), proptest::option::of(who())).prop_map(|(who, only)| Step::Audience(who, only)),
        2 => (who(), 0..4_u8, any(), any()).prop_map(|(who, publishes, subscribes, hidden)| {
            Step::Permissions { who, publishes: publishes > 0, subscribes, hidden }
        }),
        1 => (0..40_u8).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

fn counts(room: &proto::Room) -> (u32, u32, bool) {
    (room.num_participants, room.num_publishers, room.active_recording)
}

/// What the sessions of a room believe, from events alone.
#[derive(Default)]
struct Believed {
    taken: BTreeMap<ParticipantSid, BTreeSet<TrackSid>>,
    /// Identities and versions of the others.
    people: BTreeMap<ParticipantSid, BTreeMap<String, (String, u32)>>,
    /// Of those who listen.
    identities: BTreeMap<ParticipantSid, String>,
    /// Participants, publishers, whether somebody records.
    counts: BTreeMap<ParticipantSid, (u32, u32, bool)>,
    seconds: u64,
}

impl Believed {
    fn hear(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Tell(to, RoomEvent::Subscribe(track)) => {
                    let sid = TrackSid(track.info.sid.as_str().into());
                    assert!(!track.variants.is_empty());
                    self.taken.entry(to.clone()).or_default().insert(sid);
                }
                Effect::Tell(to, RoomEvent::Unsubscribe { track, .. }) => {
                    let had = self.taken.entry(to.clone()).or_default().remove(track);
                    assert!(had, "{to} hears the end of {track}, which it does not take");
                }
                Effect::Tell(to, RoomEvent::Participants(people)) => {
                    self.hear_of(to, people, |before, now| before < now);
                }
                Effect::Tell(to, RoomEvent::News(news)) => {
                    self.hear_of(to, &news.participants, |before, now| before <= now);
                    for message in &news.encoded {
                        use proto::signal_response::Message;
                        let response = proto::SignalResponse::decode(message.clone()).unwrap();
                        if let Some(Message::RoomUpdate(update)) = response.message {
                            self.counts.insert(to.clone(), counts(&update.room.unwrap()));
                        }
                    }
                }
                Effect::Gone(sid) => {
                    self.taken.remove(sid);
                    self.people.remove(sid);
                }
                _ => {}
            }
        }
    }

    fn meet(
        &mut self,
        own: &ParticipantSid,
        identity: &str,
        others: &[Arc<Presence>],
        room: &proto::Room,
    ) {
        self.counts.insert(own.clone(), counts(room));
        let others = others.iter();
        let others =
            others.map(|other| (other.sid.clone(), (other.identity.clone(), other.version)));
        self.people.insert(own.clone(), others.collect());
        self.identities.insert(own.clone(), identity.to_owned());
    }

    fn hear_of(
        &mut self,
        to: &ParticipantSid,
        people: &[proto::ParticipantInfo],
        is_news: fn(u32, u32) -> bool,
    ) {
        let known = self.people.entry(to.clone()).or_default();
        for info in people.iter().filter(|info| info.sid != *to.0) {
            let before = known.insert(info.sid.clone(), (info.identity.clone(), info.version));
            let before = before.map(|(_, version)| version);
            assert!(before.is_none_or(|before| is_news(before, info.version)), "{info:?}");
            if info.state() == proto::participant_info::State::Disconnected {
                known.remove(&info.sid);
                // Clients go by the identity: they would forget whoever has it now.
                let heir = known.values().find(|(identity, _)| *identity == info.identity);
                assert_eq!(heir, None, "{to} loses who is here to a departure that is late");
                assert_ne!(Some(&info.identity), self.identities.get(to), "{to} hears it left");
            }
        }
    }

    /// Nothing waits.
    fn check_news(&self, room: &RoomState) {
        for own in room.participants.values().filter(|own| own.attached) {
            let others = room.participants.values().filter(|other| other.sid != own.sid);
            let shown = others.filter(|other| !other.permissions.hidden);
            let shown =
                shown.map(|other| (other.sid.to_string(), (other.identity.clone(), other.version)));
            let shown: BTreeMap<_, _> = shown.collect();
            let known = self.people.get(&own.sid).cloned().unwrap_or_default();
            assert_eq!(known, shown, "{} knows who is here", own.identity);
            assert_eq!(self.counts.get(&own.sid), Some(&counts(&room.info())), "{}", own.identity);
        }
    }

    fn check(&self, room: &RoomState) {
        for own in room.participants.values() {
            let taken: BTreeSet<_> = own.taken.keys().cloned().collect();
            if own.attached {
                let believed = self.taken.get(&own.sid).cloned().unwrap_or_default();
                assert_eq!(believed, taken, "{} believes what is so", own.identity);
            }
            for (track, publisher) in &own.taken {
                let publisher = &room.participants[publisher];
                let found = &publisher.tracks[track];
                assert!(found.is_published(), "unpublished tracks are not taken");
                assert!(found.subscribers.contains(&own.sid));
                assert_ne!(publisher.sid, own.sid, "nobody takes its own");
                assert!(publisher.admits(own, track), "nobody takes what is forbidden");
                assert!(own.permissions.can_subscribe && !publisher.permissions.hidden);
            }
            for track in own.tracks.values() {
                let may = own.may_publish(track.info.source());
                assert!(may, "a track without its grant");
                for subscriber in &track.subscribers {
                    assert!(room.participants[subscriber].taken.contains_key(&track.sid));
                }
            }
            // And everybody takes what it wants and may have.
            for other in room.participants.values().filter(|other| other.sid != own.sid) {
                for track in other.published() {
                    let due = own.permissions.can_subscribe
                        && !other.permissions.hidden
                        && own.wants(&track.sid)
                        && other.admits(own, &track.sid);
                    assert_eq!(own.taken.contains_key(&track.sid), due);
                }
            }
        }
        assert_eq!(room.by_identity.len(), room.participants.len());
    }
}

fn perform(room: &mut RoomState, believed: &mut Believed, step: Step) {
    let now = at(believed.seconds);
    let people: Vec<_> = (0..4).map(|who| room.sid_of(&who.to_string())).collect();
    let sid = |who: u8| people[who as usize].clone();
    let own_track = |room: &RoomState, sid: &ParticipantSid, number: u8| {
        let tracks: Vec<_> = room.participants[sid].tracks.keys().collect();
        let index = (number as usize).checked_rem(tracks.len())?;
        tracks.get(index).map(|track| (*track).clone())
    };
    match step {
        Step::Join { who, again, hidden, auto, subscribes } => {
            if sid(who).is_some() && !again {
                return;
            }
            let mut request = request(&who.to_string());
            request.permissions.hidden = hidden;
            request.permissions.can_subscribe = subscribes;
            request.auto_subscribe = auto;
            let joined = room.join(request, now).unwrap();
            believed.meet(&joined.sid, &who.to_string(), &joined.others, &joined.room);
        }
        Step::Leave(who) => {
            let Some(sid) = sid(who) else { return };
            room.leave(&sid, proto::DisconnectReason::ClientInitiated, now);
        }
        Step::Expel(who) => {
            let Some(sid) = sid(who) else { return };
            let action = proto::leave_request::Action::Disconnect;
            room.expel(&sid, proto::DisconnectReason::ParticipantRemoved, action, now);
        }
        Step::Connect(who) => {
            let Some(sid) = sid(who) else { return };
            room.peer_connected(&sid, PeerRole::Single);
        }
        Step::SignalLost(who) => {
            let Some(sid) = sid(who) else { return };
            room.signal_lost(&sid, now);
        }
        Step::Resume(who) => {
            let Some(sid) = sid(who) else { return };
            if let Ok(resumed) = room.resume(&sid, &who.to_string()) {
                let taken = resumed.subscriptions.iter();
                let taken = taken.map(|track| TrackSid(track.info.sid.as_str().into())).collect();
                believed.taken.insert(sid.clone(), taken);
                believed.meet(&sid, &who.to_string(), &resumed.others, &resumed.room);
            }
        }
        Step::Announce(who) => {
            let Some(sid) = sid(who) else { return };
            let _ = room.add_track(&sid, camera(&format!("announced {}", believed.seconds)));
        }
        Step::Publish(who, number) => {
            let Some(sid) = sid(who) else { return };
            let _ = room.add_track(&sid, camera(&format!("c{number}")));
            let Some(track) = own_track(room, &sid, number) else { return };
            room.publish(&sid, &track, vp8(&track.0)).unwrap();
        }
        Step::Unpublish(who, number) => {
            let Some(sid) = sid(who) else { return };
            let Some(track) = own_track(room, &sid, number) else { return };
            room.unpublish(&sid, &track).unwrap();
        }
        Step::Mute(who, number) => {
            let Some(sid) = sid(who) else { return };
            let Some(track) = own_track(room, &sid, number) else { return };
            let muted = room.participants[&sid].tracks[&track].info.muted;
            room.mute(&sid, &track, !muted, true).unwrap();
        }
        Step::Subscribe(who, number, take) => {
            let Some(sid) = sid(who) else { return };
            let all = room.participants.values().filter(|other| other.sid != sid);
            let all: Vec<_> = all.flat_map(|other| other.tracks.keys().cloned()).collect();
            let Some(index) = (number as usize).checked_rem(all.len()) else { return };
            let track = all[index].clone();
            let _ = room.subscribe(&sid, vec![track], take);
        }
        Step::Audience(who, only) => {
            let Some(sid) = sid(who) else { return };
            let rule = only.map(|only| proto::TrackPermission {
                participant_identity: only.to_string(),
                all_tracks: true,
                ..Default::default()
            });
            let audience = proto::SubscriptionPermission {
                all_participants: rule.is_none(),
                track_permissions: rule.into_iter().collect(),
            };
            room.set_audience(&sid, audience).unwrap();
        }
        Step::Permissions { who, publishes, subscribes, hidden } => {
            let Some(sid) = sid(who) else { return };
            let permissions = Permissions {
                can_publish: publishes,
                can_subscribe: subscribes,
                hidden,
                ..Default::default()
            };
            room.set_permissions(&sid, permissions, now).unwrap();
        }
        Step::Wait(seconds) => {
            believed.seconds += u64::from(seconds);
            room.handle_timeout(at(believed.seconds));
        }
        Step::Restart => {
            let saved = room.save().unwrap();
            let before = room.everybody();
            *room = RoomState::restore(&saved, now).unwrap();
            for (before, after) in before.iter().zip(room.everybody()) {
                assert!(after.version > before.version);
                let same = proto::ParticipantInfo { version: before.version, ..after };
                assert_eq!(*before, same, "nothing is lost but the version");
            }
            believed.taken.clear();
            believed.people.clear();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_everybody_takes_what_it_may_and_hears_of_it(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut room = room();
        let mut believed = Believed::default();
        for step in steps {
            perform(&mut room, &mut believed, step);
            believed.hear(&drain(&mut room));
            believed.check(&room);
            if room.waiting.due().is_none() {
                believed.check_news(&room);
            }
        }
    }

    #[test]
    fn noise_is_no_room(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(RoomState::restore(&bytes, at(0)).is_err());
    }
}
