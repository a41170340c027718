//! What a subscriber can ask for beyond layers: silence left out, fewer frames, redundancy.

use std::collections::BTreeSet;

use chappe_sfu::{rtp::MediaKind, shard::Event, wire::payload::RedBlocks};

use super::{
    client::Received,
    media::{OPUS, RED, Source, Tag, picture_id},
    world::{SECOND, World},
};

const SILENT: i8 = -127;
const TALKING: i8 = -20;

/// A publisher (0) and a subscriber (1), on the last shard, who takes its track.
fn pair(shards: u16, source: Source) -> (World, u32) {
    let mut world = World::new(shards);
    let publisher = world.client("room", 0);
    let subscriber = world.client("room", usize::from(shards) - 1);
    world.clients[publisher].publish("track", &[source]);
    let kind = if source == Source::Audio { MediaKind::Audio } else { MediaKind::Video };
    let ssrc = world.clients[subscriber].subscribe("track", kind);
    (world, ssrc)
}

fn assert_continuous(packets: &[&Received]) {
    for pair in packets.windows(2) {
        assert_eq!(pair[1].seq, pair[0].seq + 1, "after {:?}", pair[0].tag());
    }
}

#[test]
fn silence_is_left_out_on_request_and_speech_passes_at_once() {
    for shards in [1, 2] {
        let (mut world, ssrc) = pair(shards, Source::Audio);
        let other = world.client("room", 0);
        let all = world.clients[other].subscribe("track", MediaKind::Audio);
        world.clients[1].spec.subscriptions[0].suppress_silence = true;
        world.clients[0].sender("track", 0).level = Some(TALKING);
        world.connect_all();
        world.run_for(2 * SECOND);
        let spoken = world.clients[1].packets(ssrc).count();
        assert!(spoken > 50, "{spoken}");

        world.clients[0].sender("track", 0).level = Some(SILENT);
        world.run_for(3 * SECOND);
        let silent = world.clients[1].packets(ssrc).count() - spoken;
        // One or two were on their way.
        assert!((6..=8).contains(&silent), "{silent} silent packets passed");
        let from = world.events.len();
        world.clients[0].sender("track", 0).level = Some(TALKING);
        let first_spoken = world.clients[0].sender("track", 0).next_frame();
        world.run_for(SECOND);

        let packets: Vec<_> = world.clients[1].packets(ssrc).collect();
        assert_continuous(&packets);
        let (_, after) = packets.split_at(spoken + silent);
        let first = after.first().expect("it is heard again");
        assert!(first.tag().frame <= first_spoken, "{:?}, {first_spoken}", first.tag());
        assert!(first.marker, "a talkspurt begins");
        assert!(after.len() > 45 && !after[1].marker, "{} packets", after.len());
        let (before, tag) = (packets[spoken + silent - 1], first.tag());
        let frames = tag.frame - before.tag().frame;
        assert_eq!(first.time.wrapping_sub(before.time), frames * 960, "time went on");
        let heard = world.events[from..].iter().any(
            |event| matches!(event, Event::SpeakersChanged { speakers, .. } if speakers.len() == 1),
        );
        assert!(heard, "who speaks is elected by all packets");
        assert!(world.clients[other].packets(all).count() > 250, "who did not ask gets everything");
    }
}

#[test]
fn a_client_that_wants_fewer_frames_gets_fewer_temporal_layers() {
    for shards in [1, 2] {
        let (mut world, ssrc) = pair(shards, Source::Layered);
        world.clients[1].spec.subscriptions[0].max_fps = Some(13);
        world.connect_all();
        world.run_for(3 * SECOND);
        for (wanted, least, most) in [(Some(13), 12, 14), (Some(5), 6, 8), (None, 24, 26)] {
            world.clients[1].spec.subscriptions[0].max_fps = wanted;
            world.apply(1);
            world.run_for(3 * SECOND);
            let from = world.now;
            world.run_for(2 * SECOND);
            let frames = world.clients[1].packets(ssrc).filter(|packet| packet.at > from).count();
            let range = 2 * least..=2 * most;
            assert!(range.contains(&frames), "{frames} in 2 s where {wanted:?} are wanted");
        }
        let packets: Vec<_> = world.clients[1].packets(ssrc).collect();
        assert_continuous(&packets);
        for pair in packets.windows(2) {
            let (before, after) = (picture_id(&pair[0].payload), picture_id(&pair[1].payload));
            assert_eq!(after, (before + 1) & 0x7fff, "no gap where layers are left out");
        }
        assert!(world.clients[0].keyframe_requests <= 1, "temporal layers need no keyframe");
    }
}

#[test]
fn the_spatial_layers_that_anybody_wants_are_told_within_one_encoding_too() {
    for shards in [1, 2] {
        let (mut world, _) = pair(shards, Source::Video { packets: 1 });
        let other = world.client("room", 0);
        world.clients[other].subscribe("track", MediaKind::Video);
        for (client, layer) in [(1, 1), (other, 0)] {
            world.clients[client].spec.subscriptions[0].max_spatial = Some(layer);
        }
        world.connect_all();
        world.run_for(SECOND);
        let told = |world: &World, from: usize| -> Vec<Option<u8>> {
            let demand = |event: &Event| match event {
                Event::LayerDemand { max_spatial, .. } => Some(*max_spatial),
                _ => None,
            };
            world.events[from..].iter().filter_map(demand).collect()
        };
        assert_eq!(told(&world, 0).last(), Some(&Some(1)), "{shards} shards");
        let steps = [(1, Some(0), Some(0)), (other, Some(2), Some(2)), (1, None, Some(u8::MAX))];
        for (client, layer, expect) in steps {
            let from = world.events.len();
            world.clients[client].spec.subscriptions[0].max_spatial = layer;
            world.apply(client);
            world.run_for(SECOND);
            assert_eq!(told(&world, from), [expect], "{shards} shards");
        }
        let from = world.events.len();
        for client in [1, other] {
            world.clients[client].spec.subscriptions[0].paused = true;
            world.apply(client);
        }
        world.run_for(SECOND);
        assert_eq!(told(&world, from), [Some(2), None], "{shards} shards");
    }
}

#[test]
fn a_switch_costs_one_keyframe_request_however_many_take_it() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let publisher = world.client("room", 0);
        let layers = [Source::Video { packets: 1 }, Source::Video { packets: 2 }];
        world.clients[publisher].publish("track", &layers);
        let subscribers: Vec<_> = (0..6_usize)
            .map(|n| {
                let client = world.client("room", n % usize::from(shards));
                let ssrc = world.clients[client].subscribe("track", MediaKind::Video);
                world.clients[client].spec.subscriptions[0].max_spatial = Some(0);
                (client, ssrc)
            })
            .collect();
        world.connect_all();
        world.run_for(3 * SECOND);
        let stream = |world: &World, (client, ssrc): (usize, u32)| {
            world.clients[client].packets(ssrc).last().unwrap().tag().stream
        };
        let go = |world: &mut World, who: &[(usize, u32)], layer: u8| {
            let before = world.clients[publisher].keyframe_requests;
            for (client, _) in who {
                world.clients[*client].spec.subscriptions[0].max_spatial = Some(layer);
                world.apply(*client);
            }
            world.run_for(2 * SECOND);
            for one in who {
                assert_eq!(stream(world, *one), layer, "{one:?}, {shards} shards");
            }
            world.clients[publisher].keyframe_requests - before
        };
        assert_eq!(go(&mut world, &subscribers, 1), 1, "all at once, {shards} shards");
        for one in &subscribers {
            assert_eq!(go(&mut world, &[*one], 0), 1, "one by one, {shards} shards");
        }
        assert_eq!(go(&mut world, &subscribers, 0), 0, "nothing changes");
    }
}

#[test]
fn redundancy_is_added_while_packets_are_lost() {
    let heard = |allowed: bool| {
        let (mut world, ssrc) = pair(1, Source::Audio);
        world.clients[1].spec.subscriptions[0].add_redundancy = allowed;
        world.connect_all();
        world.run_for(3 * SECOND);
        let plain = world.clients[1].packets(ssrc).all(|packet| packet.pt == OPUS);
        assert!(plain, "nothing is lost");
        world.down[1].loss = 15;
        world.run_for(5 * SECOND);
        let from = world.now;
        world.run_for(10 * SECOND);
        let packets: Vec<_> =
            world.clients[1].packets(ssrc).filter(|packet| packet.at > from).collect();
        let mut heard = BTreeSet::new();
        for packet in &packets {
            if packet.pt == OPUS {
                heard.insert(packet.tag().frame);
                continue;
            }
            assert_eq!(packet.pt, RED);
            for block in RedBlocks::parse(&packet.payload).unwrap() {
                let tag = Tag::of(block.data);
                heard.insert(tag.frame);
                let older = u32::from(block.timestamp_offset) / 960;
                assert_eq!(tag.frame + older, packet.tag().frame, "each in its place");
            }
        }
        let (first, last) = (heard.first().unwrap(), heard.last().unwrap());
        let lost = 1.0 - heard.len() as f64 / f64::from(last - first + 1);
        let redundant = packets.iter().filter(|packet| packet.pt == RED).count();
        assert_eq!(redundant > packets.len() / 2, allowed, "{redundant} of {}", packets.len());

        // A switch of the payload type changes neither numbers nor time.
        let base = packets[0];
        for packet in &packets {
            let numbers = (packet.seq - base.seq) as u32;
            assert_eq!(packet.tag().frame - base.tag().frame, numbers);
            assert_eq!(packet.time.wrapping_sub(base.time), numbers * 960);
        }
        world.down[1].loss = 0;
        world.run_for(40 * SECOND);
        let last = world.clients[1].packets(ssrc).last().unwrap();
        assert_eq!(last.pt, OPUS, "no longer than it is needed");
        lost
    };
    let (with, without) = (heard(true), heard(false));
    assert!(without > 0.1, "{without}");
    assert!(
        with < 0.02,
        "{:.1} % lost with redundancy, {:.1} % without",
        with * 100.0,
        without * 100.0
    );
}
