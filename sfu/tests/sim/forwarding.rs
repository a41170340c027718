//! One shard: audio and video from one peer to others.

use std::{collections::HashSet, time::Duration};

use chappe_sfu::{
    rtp::MediaKind,
    shard::{Event, LostReason},
};

use super::{
    client::Received,
    media::{Source, picture_id},
    world::{SECOND, World},
};

const VIDEO: Source = Source::Video { packets: 3 };

/// Numbers without gaps or repetitions, in order.
fn assert_continuous(packets: &[&Received]) {
    for pair in packets.windows(2) {
        assert_eq!(pair[1].seq, pair[0].seq + 1, "after {:?}", pair[0].tag());
    }
}

fn complete_frames(packets: &[&Received]) -> usize {
    let mut parts: HashSet<_> = HashSet::new();
    let mut complete = 0;
    for packet in packets {
        let tag = packet.tag();
        parts.insert((tag.stream, tag.frame, tag.part));
        if tag.part + 1 == tag.parts {
            let all = (0..tag.parts).all(|part| parts.contains(&(tag.stream, tag.frame, part)));
            complete += usize::from(all);
        }
    }
    complete
}

#[test]
fn two_peers_see_and_hear_each_other() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    for (who, name) in [(a, "a"), (b, "b")] {
        world.clients[who].publish(&format!("{name}-audio"), &[Source::Audio]);
        world.clients[who].publish(&format!("{name}-video"), &[VIDEO]);
    }
    let mut wanted = Vec::new();
    for (who, other) in [(a, "b"), (b, "a")] {
        let audio = world.clients[who].subscribe(&format!("{other}-audio"), MediaKind::Audio);
        let video = world.clients[who].subscribe(&format!("{other}-video"), MediaKind::Video);
        wanted.push((who, audio, video));
    }
    world.connect_all();
    world.run_for(4 * SECOND);

    for (who, audio, video) in wanted {
        let audio: Vec<_> = world.clients[who].packets(audio).collect();
        assert!(audio.len() > 150, "{} audio packets, {:?}", audio.len(), world.all_drops());
        assert_continuous(&audio);
        let video: Vec<_> = world.clients[who].packets(video).collect();
        assert!(video.len() > 250, "{} video packets", video.len());
        assert_continuous(&video);
        assert!(video[0].tag().keyframe && video[0].tag().part == 0, "begins with a keyframe");
        assert!(video.iter().all(|packet| packet.marker == (packet.tag().part == 2)));
        for pair in video.windows(2) {
            let (before, after) = (pair[0].tag().frame, pair[1].tag().frame);
            let ticks = pair[1].time.wrapping_sub(pair[0].time);
            assert_eq!(ticks, (after - before) * 3_600);
        }
    }
    let started = world.events.iter().filter(|e| matches!(e, Event::TrackStarted { .. })).count();
    assert_eq!(started, 4);
    assert!(
        world.runs * 3 < world.sent * 2,
        "frames leave as runs: {} of {}",
        world.runs,
        world.sent
    );
}

#[test]
fn lost_packets_are_sent_again_in_both_directions() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("video", &[VIDEO]);
    let ssrc = world.clients[b].subscribe("video", MediaKind::Video);
    world.up[a].loss = 5;
    world.down[b].loss = 5;
    world.connect_all();
    world.run_for(10 * SECOND);

    let packets: Vec<_> = world.clients[b].packets(ssrc).collect();
    let seqs: HashSet<u64> = packets.iter().map(|packet| packet.seq).collect();
    let (first, last) = (seqs.iter().min().unwrap(), seqs.iter().max().unwrap());
    let expected = last - first + 1;
    // Those of the last moments may still be on their way.
    assert!(expected > 600, "{expected}");
    let missing = expected - seqs.len() as u64;
    assert!(missing * 200 < expected, "{missing} of {expected} never came");
    assert!(world.count(|counters| counters.retransmitted) > 10);
}

#[test]
fn a_subscriber_that_comes_late_gets_a_keyframe() {
    let mut world = World::new(1);
    let a = world.client("room", 0);
    world.clients[a].publish("video", &[VIDEO]);
    world.connect_all();
    world.run_for(3 * SECOND);
    let b = world.client("room", 0);
    let ssrc = world.clients[b].subscribe("video", MediaKind::Video);
    world.join(b);
    world.run_until("first packet", 5 * SECOND, |world| world.clients[b].packets(ssrc).count() > 0);
    assert!(world.clients[b].packets(ssrc).next().unwrap().tag().keyframe);
    world.run_for(2 * SECOND);
    let packets: Vec<_> = world.clients[b].packets(ssrc).collect();
    assert_continuous(&packets);
    assert!(complete_frames(&packets) > 40);
    assert!(world.clients[a].keyframe_requests <= 3, "requests are merged");
}

#[test]
fn simulcast_layers_switch_on_command_at_keyframes() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    let layers = [1, 2, 4].map(|packets| Source::Video { packets });
    world.clients[a].publish("camera", &layers);
    let ssrc = world.clients[b].subscribe("camera", MediaKind::Video);
    world.connect_all();

    for (wanted, stream) in [(None, 2), (Some(0), 0), (Some(1), 1), (Some(2), 2)] {
        world.clients[b].spec.subscriptions[0].max_spatial = wanted;
        world.apply(b);
        world.run_until("the layer", 5 * SECOND, |world| {
            let last = world.clients[b].packets(ssrc).last();
            last.is_some_and(|packet| packet.tag().stream == stream)
        });
        world.run_for(SECOND);
    }
    let packets: Vec<_> = world.clients[b].packets(ssrc).collect();
    assert_continuous(&packets);
    for pair in packets.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        if before.tag().stream != after.tag().stream {
            assert!(after.tag().keyframe, "a switch is at a keyframe");
        }
        if before.tag().frame != after.tag().frame || before.tag().stream != after.tag().stream {
            let (first, second) = (picture_id(&before.payload), picture_id(&after.payload));
            assert_eq!(second, (first + 1) & 0x7fff, "picture ids go on");
            let ticks = after.time.wrapping_sub(before.time);
            assert!((1..90_000).contains(&ticks), "time goes on by {ticks}");
        }
    }
    assert!(
        world
            .events
            .iter()
            .any(|event| { matches!(event, Event::LayerDemand { max_spatial: Some(0), .. }) })
    );
}

#[test]
fn a_layer_that_its_publisher_stops_is_left_and_found_again() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("camera", &[1, 2].map(|packets| Source::Video { packets }));
    let ssrc = world.clients[b].subscribe("camera", MediaKind::Video);
    world.connect_all();
    let stream = |world: &World| world.clients[b].packets(ssrc).last().map(|p| p.tag().stream);
    world.run_until("the upper layer", 5 * SECOND, |world| stream(world) == Some(1));
    world.clients[a].sender("camera", 1).active = false;
    world.run_until("the lower layer", 5 * SECOND, |world| stream(world) == Some(0));
    world.clients[a].sender("camera", 1).active = true;
    world.run_until("the upper layer", 5 * SECOND, |world| stream(world) == Some(1));
}

#[test]
fn paused_and_muted_are_silent_and_unpaused_begins_with_a_keyframe() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("video", &[VIDEO]);
    let ssrc = world.clients[b].subscribe("video", MediaKind::Video);
    world.connect_all();
    world.run_for(2 * SECOND);

    let count = |world: &World| world.clients[b].packets(ssrc).count();
    world.clients[b].spec.subscriptions[0].paused = true;
    world.apply(b);
    world.run_for(SECOND / 10);
    let at_pause = count(&world);
    world.run_for(SECOND);
    assert_eq!(count(&world), at_pause);

    world.clients[b].spec.subscriptions[0].paused = false;
    world.apply(b);
    world.run_for(2 * SECOND);
    let packets: Vec<_> = world.clients[b].packets(ssrc).collect();
    assert_continuous(&packets);
    assert!(packets[at_pause].tag().keyframe);

    world.clients[a].spec.tracks[0].muted = true;
    world.apply(a);
    world.run_for(SECOND / 10);
    let at_mute = count(&world);
    world.run_for(SECOND);
    assert_eq!(count(&world), at_mute);
    assert!(world.drops(chappe_sfu::shard::DropReason::Muted) > 50);
}

#[test]
fn tracks_come_and_go_on_a_living_connection() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("first", &[Source::Audio]);
    let first = world.clients[b].subscribe("first", MediaKind::Audio);
    world.connect_all();
    world.run_for(SECOND);
    assert!(world.clients[b].packets(first).count() > 20);

    // The subscription is there before the track.
    let second = world.clients[b].subscribe("second", MediaKind::Video);
    world.apply(b);
    world.run_for(SECOND);
    world.clients[a].publish("second", &[VIDEO]);
    world.apply(a);
    world.run_until("the new track", 3 * SECOND, |world| {
        world.clients[b].packets(second).count() > 30
    });

    world.clients[b].spec.subscriptions.remove(0);
    world.apply(b);
    world.run_for(SECOND / 10);
    let before = world.clients[b].packets(first).count();
    world.run_for(SECOND);
    assert_eq!(world.clients[b].packets(first).count(), before);
}

#[test]
fn sender_reports_keep_lips_in_sync() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("audio", &[Source::Audio]);
    world.clients[a].publish("video", &[VIDEO]);
    let audio = world.clients[b].subscribe("audio", MediaKind::Audio);
    let video = world.clients[b].subscribe("video", MediaKind::Video);
    world.connect_all();
    world.run_for(8 * SECOND);

    // Both streams began in the same moment: by their reports, packets of one moment have one wall clock.
    let wall = |ssrc, rate: f64| {
        let packet = world.clients[b].packets(ssrc).last().unwrap();
        let (ntp, rtp) = packet.report.expect("a sender report");
        let ahead = f64::from(packet.time.wrapping_sub(rtp as u32) as i32) / rate;
        let ntp = ntp.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        ntp + ahead
    };
    let (heard, seen) = (wall(audio, 48_000.0), wall(video, 90_000.0));
    assert!((heard - seen).abs() < 0.06, "{} ms apart", (heard - seen) * 1_000.0);
}

#[test]
fn a_silent_peer_is_lost_and_a_removed_one_is_gone() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("audio", &[Source::Audio]);
    world.clients[b].subscribe("audio", MediaKind::Audio);
    world.connect_all();
    world.run_for(SECOND);
    world.clients[a].silent = true;
    let id = world.clients[a].peer.clone();
    world.run_until("the loss", 20 * SECOND, |world| {
        world.events.iter().any(|event| {
            matches!(event, Event::PeerLost { peer, reason: LostReason::IceTimeout, .. } if *peer == id)
        })
    });
    assert_eq!(world.shards[0].peers(), 1);
    let (room, peer) = (world.clients[b].room.clone(), world.clients[b].peer.clone());
    world.command(0, chappe_sfu::shard::Command::RemovePeer { room, peer });
    assert_eq!(world.shards[0].peers(), 0);
    world.run_for(Duration::from_secs(1));
}

#[test]
fn media_that_was_faster_than_signalling_outlives_other_signalling() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("video", &[Source::Video { packets: 2 }]);
    let video = world.clients[a].spec.tracks.remove(0);
    let ssrc = world.clients[b].subscribe("video", MediaKind::Video);
    world.connect_all();
    world.run_until("media without a track", 5 * SECOND, |world| {
        world.count(|counters| counters.datagrams_in) > 0
            && world.clients[a].senders[0].keyframes > 0
    });
    world.run_for(SECOND / 10);
    // Another track is signalled meanwhile, and goes again.
    world.clients[a].publish("audio", &[Source::Audio]);
    world.apply(a);
    world.run_for(SECOND / 10);
    world.clients[a].spec.tracks.clear();
    world.apply(a);
    world.run_for(SECOND / 10);
    world.clients[a].spec.tracks.push(video);
    world.apply(a);
    world.run_for(SECOND);
    let first = world.clients[b].packets(ssrc).next().expect("media").tag();
    assert!(first.keyframe && first.frame == 1_000, "the very first packet: {first:?}");
    let parts: Vec<_> = world.clients[b].packets(ssrc).map(|packet| packet.seq).collect();
    assert!(parts.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert!(parts.len() > 60, "{} packets", parts.len());
}
