//! What the node tells of the paths of its peers.

use std::time::Duration;

use chappe_sfu::{
    rtp::MediaKind,
    shard::{Event, PathStats},
};

use super::{
    media::Source,
    world::{SECOND, World},
};

/// What was told of a client's path, from some event on.
fn told(world: &World, from: usize, client: usize) -> Vec<PathStats> {
    let of_client = |event: &Event| match event {
        Event::PeerStats { peer, stats, .. } if *peer == world.clients[client].peer => Some(*stats),
        _ => None,
    };
    world.events[from..].iter().filter_map(of_client).collect()
}

#[test]
fn round_trip_loss_and_bitrate_are_told_every_two_seconds() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("video", &[Source::Video { packets: 3 }]);
    world.clients[b].subscribe("video", MediaKind::Video);
    world.connect_all();
    world.run_for(6 * SECOND);
    let from = world.events.len();
    world.run_for(10 * SECOND);
    let good = told(&world, from, b);
    assert!((3..=5).contains(&good.len()), "{} events in 10 s", good.len());
    for stats in &good {
        let rtt = stats.rtt.unwrap_or_default();
        assert!((15..40).contains(&rtt.as_millis()), "20 ms of links: {rtt:?}");
        assert_eq!(stats.egress.loss, Some(0));
        // 75 packets of 1,000 bytes a second.
        assert!((500..900).contains(&(stats.egress_bitrate.bps() / 1_000)), "{stats:?}");
        assert_eq!((stats.layers_wanted, stats.layers_given), (1, 1));
        assert!(stats.silent < Duration::from_secs(2), "{stats:?}");
    }
    let publisher = told(&world, from, a);
    assert!(publisher.iter().all(|stats| stats.ingress.loss == Some(0)), "{publisher:?}");
}

#[test]
fn loss_is_told_for_its_direction() {
    for towards_the_node in [false, true] {
        let mut world = World::new(1);
        let (a, b) = (world.client("room", 0), world.client("room", 0));
        // Audio: nothing is sent again.
        world.clients[a].publish("mic", &[Source::Audio]);
        world.clients[b].subscribe("mic", MediaKind::Audio);
        world.connect_all();
        let link = if towards_the_node { &mut world.up[a] } else { &mut world.down[b] };
        link.loss = 8;
        world.run_for(4 * SECOND);
        let from = world.events.len();
        world.run_for(20 * SECOND);
        let mean = |losses: Vec<Option<u16>>| {
            let losses: Vec<u32> = losses.into_iter().flatten().map(u32::from).collect();
            losses.iter().sum::<u32>() / losses.len().max(1) as u32
        };
        let ingress = mean(told(&world, from, a).iter().map(|stats| stats.ingress.loss).collect());
        let egress = mean(told(&world, from, b).iter().map(|stats| stats.egress.loss).collect());
        let lossy = if towards_the_node { ingress } else { egress };
        assert!((50..120).contains(&lossy), "8 % are lost: {ingress} {egress}");
        // A subscriber misses what the publisher lost, and its own path is not to blame.
        let other = if towards_the_node { egress } else { ingress };
        assert!(other < 10, "{ingress} {egress}");
    }
}

#[test]
fn silence_is_told_while_the_peer_is_not_lost_yet() {
    let mut world = World::new(1);
    let a = world.client("room", 0);
    world.clients[a].publish("mic", &[Source::Audio]);
    world.connect_all();
    world.run_for(4 * SECOND);
    world.clients[a].silent = true;
    let from = world.events.len();
    world.run_for(12 * SECOND);
    let longest = told(&world, from, a).iter().map(|stats| stats.silent).max().unwrap_or_default();
    assert!(longest > Duration::from_secs(8), "{longest:?}");
}

#[test]
fn who_has_nothing_to_send_is_not_silent() {
    let mut world = World::new(1);
    let a = world.client("room", 0);
    world.connect_all();
    world.run_for(30 * SECOND);
    let told = told(&world, 0, a);
    assert!(told.len() > 10);
    // Checks of consent are heard.
    assert!(told.iter().all(|stats| stats.silent < Duration::from_secs(7)), "{told:?}");
}

#[test]
fn a_client_that_moves_to_a_path_of_lower_priority_has_its_media_back_within_a_second() {
    let mut world = World::new(1);
    let (a, b) = (world.client("room", 0), world.client("room", 0));
    for (client, track, other) in [(a, "a", "b"), (b, "b", "a")] {
        world.clients[client].publish(track, &[Source::Video { packets: 3 }]);
        world.clients[client].subscribe(other, MediaKind::Video);
    }
    world.connect_all();
    world.run_for(3 * SECOND);
    let count = |world: &World, client: usize| world.clients[client].received.len();
    assert!(count(&world, a) > 100 && count(&world, b) > 100);
    // The old path was the best that the node knew, and it is never told that it is gone.
    let (of_a, of_b) = (count(&world, a), count(&world, b));
    world.move_to_tcp(b);
    let moved = world.now;
    world.run_until("media both ways over ICE-TCP", SECOND, |world| {
        count(world, b) > of_b + 3 && count(world, a) > of_a + 3
    });
    let last = world.clients[b].received.last().map(|packet| packet.at).unwrap_or(moved);
    assert!(last > moved && last - moved < SECOND);
    world.run_for(SECOND);
    assert!(count(&world, b) > of_b + 50, "and it stays there");
}
