//! One room on two shards: nobody can tell.

use std::collections::HashSet;

use chappe_sfu::{
    rtp::MediaKind,
    shard::{Command, DropReason, Event},
};

use super::{
    data::{contains, packet},
    media::Source,
    world::{SECOND, World},
};

const VIDEO: Source = Source::Video { packets: 3 };

/// A publisher on shard 0, a subscriber on shard 1.
fn two_shards(sources: &[Source]) -> (World, u32) {
    let mut world = World::new(2);
    let (a, b) = (world.client("room", 0), world.client("room", 1));
    world.clients[a].publish("video", sources);
    let ssrc = world.clients[b].subscribe("video", MediaKind::Video);
    world.connect_all();
    (world, ssrc)
}

/// How far apart in seconds, on their publisher's clock, the latest packets of an audio and a video stream are.
fn apart(world: &World, client: usize, audio: u32, video: u32) -> f64 {
    let wall = |ssrc, rate: f64| {
        let packet = world.clients[client].packets(ssrc).last().unwrap();
        let (ntp, rtp) = packet.report.expect("a sender report");
        let ahead = f64::from(packet.time.wrapping_sub(rtp as u32) as i32) / rate;
        ntp.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64() + ahead
    };
    (wall(audio, 48_000.0) - wall(video, 90_000.0)).abs()
}

fn stream(world: &World, ssrc: u32) -> Option<u8> {
    world.clients[1].packets(ssrc).last().map(|packet| packet.tag().stream)
}

#[test]
fn media_crosses_once_however_many_watch() {
    let mut world = World::new(2);
    let a = world.client("room", 0);
    world.clients[a].publish("video", &[VIDEO]);
    let mut watched = Vec::new();
    for _ in 0..3 {
        let client = world.client("room", 1);
        watched.push((client, world.clients[client].subscribe("video", MediaKind::Video)));
    }
    world.connect_all();
    world.run_for(4 * SECOND);
    for (client, ssrc) in watched {
        let packets: Vec<_> = world.clients[client].packets(ssrc).collect();
        assert!(packets.len() > 200, "{} {:?}", packets.len(), world.all_drops());
        assert!(packets[0].tag().keyframe);
        assert!(packets.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
    }
    let sent = world.count(|counters| counters.media_in);
    assert!(world.relayed_media <= sent, "{} of {sent}", world.relayed_media);
    assert!(world.clients[a].keyframe_requests <= 3, "requests are merged");
}

#[test]
fn nothing_crosses_that_nobody_wants() {
    let (mut world, ssrc) = two_shards(&[VIDEO]);
    world.run_for(2 * SECOND);
    assert!(world.clients[1].packets(ssrc).count() > 50);
    world.clients[1].spec.subscriptions.clear();
    world.apply(1);
    world.run_for(SECOND / 10);
    let before = world.relayed_media;
    world.run_for(2 * SECOND);
    assert_eq!(world.relayed_media, before);
    let nobody = |event: &Event| matches!(event, Event::LayerDemand { max_spatial: None, .. });
    assert!(world.events.iter().any(nobody), "the publisher's shard says so");
}

#[test]
fn only_the_demanded_layer_crosses_and_it_can_change() {
    let (mut world, ssrc) = two_shards(&[1, 2, 4].map(|packets| Source::Video { packets }));
    for (wanted, number) in [(None, 2), (Some(0), 0), (Some(1), 1)] {
        world.clients[1].spec.subscriptions[0].max_spatial = wanted;
        world.apply(1);
        world.run_until("the layer", 5 * SECOND, |world| stream(world, ssrc) == Some(number));
        world.run_for(SECOND);
        let before = world.relayed_media;
        world.run_for(SECOND);
        let packets = [1, 2, 4][usize::from(number)] * 25;
        let crossed = world.relayed_media - before;
        assert!((packets - 4..=packets + 4).contains(&crossed), "{crossed} for {packets}");
    }
    let packets: Vec<_> = world.clients[1].packets(ssrc).collect();
    assert!(packets.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
}

#[test]
fn losses_are_repaired_on_both_sides() {
    let (mut world, ssrc) = two_shards(&[VIDEO]);
    world.up[0].loss = 5;
    world.down[1].loss = 5;
    world.run_for(10 * SECOND);
    let seqs: HashSet<u64> = world.clients[1].packets(ssrc).map(|packet| packet.seq).collect();
    let expected = seqs.iter().max().unwrap() - seqs.iter().min().unwrap() + 1;
    let missing = expected - seqs.len() as u64;
    assert!(expected > 600 && missing * 200 < expected, "{missing} of {expected}");
}

#[test]
fn what_a_full_ring_drops_is_repaired() {
    let (mut world, ssrc) = two_shards(&[Source::Video { packets: 40 }]);
    world.run_for(2 * SECOND);
    let last = |world: &World| world.clients[1].packets(ssrc).last().unwrap().tag().frame;
    let (before, asked) = (last(&world), world.clients[0].keyframe_requests);
    // The ring takes nothing for a little more than the lane holds (2,048 packets, 51 frames), then all goes on: what was
    // dropped is still in the cache of the publisher's shard.
    world.ring_capacity = 0;
    // str0m takes packets that are up to 100 late: one frame at most.
    let dropped = |world: &World| world.drops(DropReason::RelayLane);
    world.run_until("a full lane", 4 * SECOND, |world| dropped(world) > 5);
    assert!(dropped(&world) <= 80, "{:?}", world.all_drops());
    world.ring_capacity = 256;
    world.run_for(2 * SECOND);
    let parts: HashSet<_> =
        world.clients[1].packets(ssrc).map(|p| (p.tag().frame, p.tag().part)).collect();
    // The first dropped frame is the 52nd.
    assert!(last(&world) > before + 80);
    for frame in before + 50..before + 80 {
        let missing = (0..40).filter(|part| !parts.contains(&(frame, *part))).count();
        assert_eq!(missing, 0, "of frame {frame}, stopped at {before}");
    }
    assert_eq!(world.clients[0].keyframe_requests, asked, "no keyframe was needed");
}

#[test]
fn a_keyframe_helps_where_a_ring_was_full_for_too_long() {
    let (mut world, ssrc) = two_shards(&[Source::Video { packets: 40 }]);
    world.run_for(2 * SECOND);
    world.ring_capacity = 0;
    world.run_for(4 * SECOND);
    assert!(world.drops(DropReason::RelayLane) > 500, "{:?}", world.all_drops());
    let asked = world.clients[0].keyframe_requests;
    world.ring_capacity = 256;
    world.run_for(4 * SECOND);
    assert!(world.clients[0].keyframe_requests > asked);
    let packets: Vec<_> = world.clients[1].packets(ssrc).collect();
    let last = packets.last().unwrap().tag().frame;
    let keyframe = packets.iter().rev().find(|packet| packet.tag().keyframe).unwrap().tag().frame;
    assert!(keyframe > last - 100);
    let parts: HashSet<_> = packets.iter().map(|p| (p.tag().frame, p.tag().part)).collect();
    for frame in keyframe..last {
        let missing = (0..40).filter(|part| !parts.contains(&(frame, *part))).count();
        assert_eq!(missing, 0, "of frame {frame}, last {last}, keyframe {keyframe}");
    }
}

#[test]
fn lips_stay_in_sync_across_shards() {
    let mut world = World::new(2);
    let (a, b) = (world.client("room", 0), world.client("room", 1));
    world.clients[a].publish("audio", &[Source::Audio]);
    world.clients[a].publish("video", &[VIDEO]);
    let audio = world.clients[b].subscribe("audio", MediaKind::Audio);
    let video = world.clients[b].subscribe("video", MediaKind::Video);
    world.connect_all();
    world.run_for(8 * SECOND);
    let apart = apart(&world, b, audio, video);
    assert!(apart < 0.06, "{} ms apart", apart * 1_000.0);
}

#[test]
fn whatever_was_asked_while_a_ring_was_full_comes_true() {
    let mut world = World::new(2);
    let (a, b, c) = (world.client("room", 0), world.client("room", 1), world.client("room", 1));
    let layers = [10, 20, 40].map(|packets| Source::Video { packets });
    world.clients[a].publish("video", &layers);
    world.clients[a].publish("audio", &[Source::Audio]);
    let video = world.clients[b].subscribe("video", MediaKind::Video);
    let audio = world.clients[b].subscribe("audio", MediaKind::Audio);
    let left = world.clients[c].subscribe("audio", MediaKind::Audio);
    for client in [a, b, c] {
        world.clients[client].use_data();
    }
    world.connect_all();
    world.run_until("everything flows", 10 * SECOND, |world| {
        stream(world, video) == Some(2)
            && world.clients[b].packets(audio).count() > 10
            && world.clients[c].packets(left).count() > 10
            && [a, b, c].iter().all(|client| world.clients[*client].channels.len() == 2)
    });
    world.ring_capacity = 0;
    world.run_until("an overflow", 10 * SECOND, |world| world.drops(DropReason::RelayLane) > 100);
    // Another layer, no more audio for one, data to the other side.
    world.clients[b].spec.subscriptions[0].max_spatial = Some(0);
    world.apply(b);
    world.clients[c].spec.subscriptions.clear();
    world.apply(c);
    for text in ["one", "two", "three"] {
        world.send_data(a, "_reliable", &packet(text, &[]));
    }
    world.run_for(SECOND / 2);
    let silent = world.clients[c].packets(left).count();
    world.ring_capacity = 256;
    world.run_until("the lower layer", 5 * SECOND, |world| stream(world, video) == Some(0));
    world.run_for(4 * SECOND);
    assert_eq!(stream(&world, video), Some(0));
    assert_eq!(world.clients[c].packets(left).count(), silent, "unsubscribed");
    for client in [b, c] {
        let messages = &world.clients[client].messages;
        assert_eq!(messages.len(), 3, "reliable data waited for the ring");
        let texts = ["one", "two", "three"];
        assert!(messages.iter().zip(texts).all(|((_, bytes), text)| contains(bytes, text)));
    }
    let apart = apart(&world, b, audio, video);
    assert!(apart < 0.06, "lips are {} ms apart", apart * 1_000.0);
}

#[test]
fn rooms_end_on_all_shards_and_begin_again() {
    let (mut world, ssrc) = two_shards(&[VIDEO]);
    world.run_for(2 * SECOND);
    let (room, peer) = (world.clients[0].room.clone(), world.clients[0].peer.clone());
    // The publisher leaves; the subscriber waits for the track.
    world.command(0, Command::RemovePeer { room: room.clone(), peer });
    world.run_for(SECOND);
    let before = world.clients[1].packets(ssrc).count();
    // The same track comes back from another peer, on the subscriber's own shard.
    let c = world.client("room", 1);
    world.clients[c].publish("video", &[VIDEO]);
    world.join(c);
    world.run_until("the track again", 5 * SECOND, |world| {
        world.clients[1].packets(ssrc).count() > before + 50
    });
    let packets: Vec<_> = world.clients[1].packets(ssrc).collect();
    assert!(packets.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1), "numbers go on");
    assert!(packets[before].tag().keyframe);
    for shard in 0..2 {
        world.command(shard, Command::RemoveRoom { room: room.clone() });
        assert_eq!(world.shards[shard].peers(), 0);
    }
    world.run_for(SECOND);
}
