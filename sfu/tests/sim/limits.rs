//! Bad and excessive input: counted drops, and nobody else notices.

use chappe_sfu::{
    rtp::{Bitrate, MediaKind},
    shard::{ApplyError, DropReason, FiveTuple, Protocol},
};

use super::{
    data::{contains, packet, texts},
    media::Source,
    world::{SECOND, World, node_address},
};

const VIDEO: Source = Source::Video { packets: 3 };

#[test]
fn a_peer_over_its_cap_is_cut_down_to_it() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("video", &[VIDEO]);
    world.clients[a].spec.limits.ingress_bitrate = Some(Bitrate::from_kbps(300));
    let ssrc = world.clients[b].subscribe("video", MediaKind::Video);
    world.connect_all();
    world.run_for(5 * SECOND);
    // The client sends 600 kb/s.
    let bytes: usize = world.clients[b].packets(ssrc).map(|packet| packet.payload.len()).sum();
    assert!(bytes * 8 < 300_000 * 7, "{bytes} bytes");
    assert!(world.drops(DropReason::OverIngressBitrate) > 50);
}

#[test]
fn feedback_counts_towards_the_cap() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("video", &[VIDEO]);
    world.clients[b].subscribe("video", MediaKind::Video);
    // It sends nothing but reports and transport-wide feedback.
    world.clients[b].spec.limits.ingress_bitrate = Some(Bitrate::from_kbps(1));
    world.connect_all();
    world.run_for(5 * SECOND);
    assert!(world.drops(DropReason::OverIngressBitrate) > 10, "{:?}", world.all_drops());
}

#[test]
fn a_peer_with_too_many_ssrcs_keeps_the_first() {
    let mut world = World::new(1);
    let a = world.client("room", 0);
    world.clients[a].publish("camera", &[1, 1, 1].map(|packets| Source::Video { packets }));
    world.clients[a].spec.limits.ingress_ssrcs = Some(2);
    world.connect_all();
    world.run_for(2 * SECOND);
    assert!(world.drops(DropReason::OverSsrcs) > 10, "{:?}", world.all_drops());
}

#[test]
fn a_cap_on_ssrcs_that_changes_later_is_obeyed() {
    let mut world = World::new(1);
    let a = world.client("room", 0);
    world.clients[a].publish("camera", &[1, 1, 1].map(|packets| Source::Video { packets }));
    world.connect_all();
    world.run_for(SECOND);
    assert_eq!(world.drops(DropReason::OverSsrcs), 0);
    world.clients[a].spec.limits.ingress_ssrcs = Some(1);
    world.apply(a);
    world.run_for(SECOND);
    let media = world.count(|counters| counters.media_in);
    world.run_for(SECOND);
    let one = world.count(|counters| counters.media_in) - media;
    assert!((20..=30).contains(&one), "{one} packets of one encoding, {:?}", world.all_drops());
}

#[test]
fn data_over_the_cap_of_its_sender_is_dropped_and_counted() {
    let mut world = World::new(1);
    let [a, b, c] = [0; 3].map(|shard| world.client("room", shard));
    for client in [a, b, c] {
        world.clients[client].use_data();
    }
    // 1,000 bytes a second, and two seconds of it at once.
    world.clients[a].spec.limits.data_rate = Some(Bitrate::from_kbps(8));
    world.connect_all();
    world.run_for(SECOND);
    let long = "x".repeat(200);
    for _ in 0..50 {
        world.send_data(a, "_reliable", &packet(&format!("over {long}"), &[]));
        world.send_data(b, "_reliable", &packet(&format!("under {long}"), &[]));
        world.run_for(SECOND / 100);
    }
    world.run_for(SECOND);
    let (passed, dropped) = (texts(&world, c, "over"), world.drops(DropReason::OverDataRate));
    assert_eq!(passed as u64 + dropped, 50, "{:?}", world.all_drops());
    // 2,500 bytes at most in the half second, of which each message takes 200 and its headers.
    assert!((5..=12).contains(&passed), "{passed}");
    assert_eq!(texts(&world, c, "under"), 50, "nobody else is held back");
    world.run_for(2 * SECOND);
    world.send_data(a, "_reliable", &packet("later", &[]));
    world.run_for(SECOND);
    assert_eq!(texts(&world, c, "later"), 1, "the cap is a rate");
}

#[test]
fn data_on_a_channel_without_a_meaning_is_dropped_and_counted() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    for client in [a, b] {
        world.clients[client].use_data();
    }
    world.clients[a].open_channel("chat");
    world.connect_all();
    world.run_until("channels", 5 * SECOND, |world| world.clients[a].channels.len() == 3);
    world.run_for(SECOND);
    world.send_data(a, "chat", &packet("nowhere", &[]));
    world.send_data(a, "_reliable", &packet("there", &[]));
    world.run_for(SECOND);
    assert_eq!(world.drops(DropReason::DataLabel), 1, "{:?}", world.all_drops());
    let messages = &world.clients[b].messages;
    assert!(messages.len() == 1 && contains(&messages[0].1, "there"), "{messages:?}");
}

#[test]
fn an_ssrc_that_comes_back_goes_on_behind_its_last_number() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("video", &[VIDEO]);
    let ssrc = world.clients[b].subscribe("video", MediaKind::Video);
    world.connect_all();
    world.run_for(2 * SECOND);
    let subscription = world.clients[b].spec.subscriptions.remove(0);
    world.apply(b);
    world.run_for(SECOND / 5);
    let before = world.clients[b].packets(ssrc).count();
    assert!(before > 50);
    // The same number sealed twice under one key would use a nonce twice.
    world.clients[b].spec.subscriptions.push(subscription);
    world.apply(b);
    world.run_until("media again", 5 * SECOND, |world| {
        world.clients[b].packets(ssrc).count() > before + 50
    });
    let packets: Vec<_> = world.clients[b].packets(ssrc).collect();
    assert!(packets.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1), "numbers go on");
    assert!(packets[before].tag().keyframe);
}

#[test]
fn noise_from_strangers_and_members_is_dropped() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("video", &[VIDEO]);
    let ssrc = world.clients[b].subscribe("video", MediaKind::Video);
    world.connect_all();
    let member = world.clients[a].address;
    let stranger = ([203, 0, 113, 9], 9_999).into();
    let mut random = 1_u32;
    for round in 0..3_000_usize {
        let mut noise: Vec<u8> = (0..round % 120)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 24) as u8
            })
            .collect();
        if let Some(first) = noise.first_mut() {
            *first = [0x00, 0x16, 0x80, 0x90, 0xbf, 0xff][round % 6];
        }
        let remote = if round % 2 == 0 { stranger } else { member };
        let path = FiveTuple { protocol: Protocol::Udp, local: node_address(0), remote };
        let now = world.now;
        world.shards[0].handle_datagram(now, path, &mut noise);
        while world.shards[0].poll_transmit().is_some() || world.shards[0].step() {}
    }
    for reason in [
        DropReason::UnknownPath,
        DropReason::UnknownUfrag,
        DropReason::UnknownProtocol,
        DropReason::SrtpAuth,
    ] {
        assert!(world.drops(reason) > 0, "{reason:?}: {:?}", world.all_drops());
    }
    let before = world.clients[b].packets(ssrc).count();
    world.run_for(2 * SECOND);
    assert!(world.clients[b].packets(ssrc).count() > before + 100, "the room goes on");
}

#[test]
fn contradictory_states_are_refused_whole() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("video", &[VIDEO]);
    world.join(a);
    world.clients[b].publish("video", &[VIDEO]);
    assert!(
        matches!(world.try_apply(b), Err(ApplyError::TrackTaken(track)) if track.as_str() == "video")
    );
    world.clients[b].spec.tracks.clear();
    world.clients[b].subscribe("video", MediaKind::Video);
    let twice = world.clients[b].spec.subscriptions[0].clone();
    world.clients[b].spec.subscriptions.push(twice);
    assert!(matches!(world.try_apply(b), Err(ApplyError::Invalid(_))));
    assert_eq!(world.shards[0].peers(), 1, "nothing was changed");
}

#[test]
fn an_equal_state_changes_nothing() {
    let mut world = World::new(1);
    let a = world.client("room", 0);
    world.clients[a].publish("video", &[VIDEO]);
    let first = world.try_apply(a).unwrap();
    assert_eq!(world.try_apply(a).unwrap(), first);
    world.clients[a].spec.transport.ice_generation = 1;
    let restarted = world.try_apply(a).unwrap();
    assert_ne!(restarted.ufrag, first.ufrag);
    assert_eq!(restarted.ice_generation, 1);
}
