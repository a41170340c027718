//! Bad and excessive input: counted drops, and nobody else notices.

use chappe_sfu::{
    rtp::{Bitrate, MediaKind},
    shard::{ApplyError, DropReason, FiveTuple, Protocol},
};

use super::{
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
