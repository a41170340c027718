//! What a shard knows of a peer when it is asked.

use std::time::Duration;

use chappe_sfu::{
    bwe::Limit,
    cache::Layers,
    rtp::{Bitrate, MediaKind},
    shard::{Command, EstimateLimit, Event, Gauges, PeerId, PeerReport, Reply},
};

use super::{
    media::Source,
    world::{SECOND, World},
};

/// About 210, 420 and 840 kb/s on the wire.
const SIMULCAST: [Source; 3] =
    [Source::Video { packets: 1 }, Source::Video { packets: 2 }, Source::Video { packets: 4 }];

fn ask(world: &mut World, client: usize) -> Option<PeerReport> {
    let it = &world.clients[client];
    let (shard, room, peer) = (it.shard, it.room.clone(), it.peer.clone());
    match world.command(shard, Command::ReportPeer { room, peer }) {
        Reply::Report(report) => report.map(|report| *report),
        reply => panic!("wrong reply: {reply:?}"),
    }
}

/// A publisher (0) and a subscriber (1) of voice and camera.
fn call(shards: u16, rate: u64) -> World {
    let mut world = World::new(shards);
    world.client("room", 0);
    let subscriber = world.client("room", usize::from(shards) - 1);
    world.clients[0].publish("voice", &[Source::Audio]);
    world.clients[0].publish("camera", &SIMULCAST);
    world.clients[subscriber].subscribe("voice", MediaKind::Audio);
    world.clients[subscriber].subscribe("camera", MediaKind::Video);
    world.down[subscriber].rate = Some(rate);
    world.connect_all();
    world
}

fn near(rate: Bitrate, kbps: u64) -> bool {
    (kbps * 8 / 10..=kbps * 12 / 10).contains(&(rate.bps() / 1_000))
}

#[test]
fn a_report_says_what_is_sent_received_and_given() {
    for shards in [1, 2] {
        let mut world = call(shards, 3_000_000);
        world.run_for(15 * SECOND);

        let publisher = ask(&mut world, 0).unwrap();
        assert!(publisher.connected && publisher.subscriptions.is_empty());
        let [voice, camera] = &publisher.tracks[..] else { panic!("two tracks: {publisher:?}") };
        assert_eq!((voice.track.as_str(), voice.kind), ("voice", MediaKind::Audio));
        assert!(voice.ladder.is_empty());
        // 88 bytes of payload and a header, fifty times a second: each packet counts once.
        assert!(near(voice.encodings[0].bitrate, 42), "{voice:?}");
        assert_eq!(camera.encodings.len(), 3);
        for (index, encoding) in camera.encodings.iter().enumerate() {
            let packets = 1 << index;
            assert!(near(encoding.bitrate, 205 * packets), "{encoding:?}");
            assert!(encoding.live && encoding.ssrc.is_some(), "{encoding:?}");
            assert!((300..400).contains(&encoding.frames), "25 a second: {encoding:?}");
            assert_eq!(encoding.packets, encoding.frames * packets);
            assert!(encoding.keyframes >= 1, "{encoding:?}");
            assert_eq!((encoding.lost, encoding.nacks), (0, 0));
        }
        assert_eq!(camera.ladder.len(), 3);
        assert!(camera.encodings[2].demanded && !camera.encodings[0].demanded, "{camera:?}");
        assert!(publisher.path.silent < SECOND / 10);

        let subscriber = ask(&mut world, 1).unwrap();
        let [voice, camera] = &subscriber.subscriptions[..] else { panic!("two subscriptions") };
        assert!(near(voice.bitrate, 45) && near(camera.bitrate, 840), "{subscriber:?}");
        assert_eq!(camera.wanted, Some(Layers::MAX));
        assert_eq!(camera.current.map(|layers| layers.spatial), Some(2));
        assert_eq!(camera.target.map(|layers| layers.spatial), Some(2));
        assert!(!camera.starved && !camera.waits_for_keyframe, "{camera:?}");
        assert!(camera.idle.unwrap() < SECOND / 10 && camera.switches >= 1);
        let path = &subscriber.path;
        assert!((15..45).contains(&path.rtt.unwrap().as_millis()), "{path:?}");
        let estimate = path.estimate.expect("the peer gives feedback");
        assert!(estimate.estimate.rate > Bitrate::from_kbps(1_200), "{estimate:?}");
        assert!(near(estimate.video_wanted, 820), "{estimate:?}");
        assert_eq!(estimate.video_wanted, estimate.video_granted);
        let mut sum = voice.sent;
        sum += camera.sent;
        assert_eq!(path.sent, sum);
        assert!(path.bytes_sent >= sum.bytes + sum.resent_bytes);
    }
}

#[test]
fn a_report_says_why_there_is_no_picture() {
    let mut world = call(1, 130_000);
    world.run_until("the picture is paused", 10 * SECOND, |world| {
        let paused = |event: &Event| matches!(event, Event::StreamState { paused: true, .. });
        world.events.iter().any(paused)
    });
    // An interval in which it still came, and a whole one without it: three seconds and a half each at most.
    world.run_for(7 * SECOND);
    let report = ask(&mut world, 1).unwrap();
    let [voice, camera] = &report.subscriptions[..] else { panic!("two subscriptions") };
    assert!(camera.starved && camera.wanted.is_some(), "{camera:?}");
    assert_eq!((camera.target, camera.current, camera.bitrate), (None, None, Bitrate::ZERO));
    assert!(!voice.starved && voice.idle.unwrap() < SECOND / 10, "{voice:?}");
    let estimate = report.path.estimate.unwrap();
    assert!(estimate.estimate.rate < Bitrate::from_kbps(200), "{estimate:?}");
    assert_eq!(estimate.video_granted, Bitrate::ZERO);
    let unknown = EstimateLimit::Path(Limit::Start);
    assert_ne!(estimate.estimate.limit, unknown, "something is known by now");
    let gauges = *world.shards[0].gauges();
    assert_eq!((gauges.subscriptions, gauges.starved), (2, 1));

    // A cap below what the path takes is named as such.
    world.down[1].rate = None;
    world.clients[1].spec.max_egress_bitrate = Some(Bitrate::from_kbps(350));
    world.apply(1);
    world.run_for(30 * SECOND);
    let report = ask(&mut world, 1).unwrap();
    let estimate = report.path.estimate.unwrap();
    assert_eq!(estimate.estimate.limit, EstimateLimit::Cap, "{estimate:?}");
    assert_eq!(estimate.budget, Bitrate::from_kbps(350));
    assert_eq!(report.subscriptions[1].current.map(|layers| layers.spatial), Some(0));
    assert_eq!(world.shards[0].gauges().limits[EstimateLimit::Cap.index()], 1);
}

#[test]
fn loss_and_repair_are_counted_on_both_sides() {
    let mut world = call(1, 5_000_000);
    world.run_for(5 * SECOND);
    (world.down[1].loss, world.up[0].loss) = (5, 5);
    world.run_for(20 * SECOND);
    let publisher = ask(&mut world, 0).unwrap();
    let high = &publisher.tracks[1].encodings[2];
    assert!(high.lost > 30 && high.repaired > high.lost / 2, "{high:?}");
    assert!(high.nacks >= high.repaired, "{high:?}");
    assert!(publisher.path.ingress.loss.is_some_and(|loss| loss > 0));
    let subscriber = ask(&mut world, 1).unwrap();
    let sent = subscriber.subscriptions[1].sent;
    assert!(sent.nacked > 30 && sent.resent_packets > 30, "{sent:?}");
    assert!(sent.resent_bytes > sent.resent_packets * 900, "{sent:?}");
    assert!(sent.nacked >= sent.resent_packets, "{sent:?}");

    // What former subscriptions sent is kept in the path's sum.
    let before = subscriber.path.sent;
    world.clients[1].spec.subscriptions.truncate(1);
    world.apply(1);
    let after = ask(&mut world, 1).unwrap();
    assert_eq!(after.subscriptions.len(), 1);
    assert!(after.path.sent.bytes >= before.bytes);
}

#[test]
fn who_is_not_there_has_no_report_and_leaves_no_sums() {
    let mut world = call(1, 3_000_000);
    world.run_for(5 * SECOND);
    assert!(world.shards[0].gauges().estimated > 500_000);
    let room = world.clients[1].room.clone();
    let stranger = PeerId::new("PA_nobody");
    let asked = world.command(0, Command::ReportPeer { room: room.clone(), peer: stranger });
    assert_eq!(asked, Reply::Report(None));
    world.command(0, Command::RemoveRoom { room });
    assert_eq!(ask(&mut world, 1), None);
    assert_eq!(*world.shards[0].gauges(), Gauges::default());
    world.run_for(Duration::from_millis(10));
}
