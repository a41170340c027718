//! Fan-out stands still between any two visits: nobody is passed over, and no step is long.

use std::collections::HashSet;

use chappe_sfu::{
    rtp::MediaKind,
    shard::{Command, Event, PeerId, RoomId},
};

use super::{
    data::{packet, texts},
    media::Source,
    world::{AtCuts, SECOND, World},
};

/// What a step may look at. The shard's own bounds are lower, each for its kind of fan-out.
const MOST_VISITS: u64 = 256;

const CROWD: usize = 1_000;

/// Joins a thousand members who never connect, by names that start with `prefix`: they take part in every walk.
fn crowd(world: &mut World, prefix: &str, like: usize) {
    let (room, shard) = (world.clients[like].room.clone(), world.clients[like].shard);
    for number in 0..CROWD {
        let mut spec = world.clients[like].spec.clone();
        spec.tracks.clear();
        if let Some(data) = &mut spec.data {
            data.address = format!("{prefix}{number}").as_str().into();
        }
        let peer = PeerId::new(&format!("{prefix}{number}"));
        let command = Command::ApplyPeer { room: room.clone(), peer, spec: Box::new(spec) };
        world.command(shard, command);
    }
    assert!(world.shards[shard].peers() > CROWD);
}

/// At each cut so many of the crowd leave, those first who were visited first.
fn leave_at_cuts(room: RoomId, prefix: &'static str, at_once: usize) -> AtCuts {
    let mut names = 0..CROWD;
    Box::new(move |now, shard| {
        for number in names.by_ref().take(at_once) {
            let peer = PeerId::new(&format!("{prefix}{number}"));
            shard.handle_command(now, Command::RemovePeer { room: room.clone(), peer });
        }
    })
}

#[test]
fn a_track_with_a_thousand_takers_is_walked_in_short_steps() {
    let mut world = World::new(1);
    let (a, first, last) =
        (world.client("room", 0), world.client("room", 0), world.client("room", 0));
    world.clients[a].publish("video", &[Source::Video { packets: 3 }]);
    let watched = [first, last].map(|client| {
        let ssrc = world.clients[client].subscribe("video", MediaKind::Video);
        (client, ssrc)
    });
    world.join(a);
    world.join(first);
    // `last` takes the track behind the whole crowd.
    crowd(&mut world, "crowd", first);
    world.join(last);
    world.run_until("connected", 10 * SECOND, |world| {
        world.clients.iter().all(|client| client.connected)
    });
    world.run_for(SECOND);
    let before = world.count(|counters| counters.visits);
    world.run_for(SECOND);
    let visits = world.count(|counters| counters.visits) - before;
    assert!(visits > 20 * CROWD as u64, "{visits} visits in 25 frames");
    assert!(world.most_visits <= MOST_VISITS, "{} in one step", world.most_visits);

    let room = world.clients[a].room.clone();
    world.at_cuts = Some(leave_at_cuts(room, "crowd", 60));
    world.run_until("all have left", 60 * SECOND, |world| world.shards[0].peers() == 3);
    world.at_cuts = None;
    world.run_for(SECOND);
    for (client, ssrc) in watched {
        let packets: Vec<_> = world.clients[client].packets(ssrc).collect();
        assert!(packets.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
        let frames: HashSet<_> = packets.iter().map(|packet| packet.tag().frame).collect();
        let (low, high) = (frames.iter().min().unwrap(), frames.iter().max().unwrap());
        assert_eq!(frames.len() as u32, high - low + 1, "frames passed over, client {client}");
    }
}

#[test]
fn a_message_for_a_thousand_readers_is_handed_out_in_short_steps_and_in_order() {
    let mut world = World::new(1);
    let (a, first, last) =
        (world.client("room", 0), world.client("room", 0), world.client("room", 0));
    for client in [a, first, last] {
        world.clients[client].use_data();
    }
    let elsewhere = [world.client("other", 0), world.client("other", 0)];
    for client in elsewhere {
        world.clients[client].use_data();
    }
    for client in [a, first].into_iter().chain(elsewhere) {
        world.join(client);
    }
    crowd(&mut world, "crowd", first);
    world.join(last);
    world.run_until("channels", 10 * SECOND, |world| {
        world.clients.iter().all(|client| client.channels.len() == 2)
    });
    world.run_for(SECOND);
    let room = world.clients[a].room.clone();
    world.at_cuts = Some(leave_at_cuts(room, "crowd", 1));
    for number in 0..20 {
        world.send_data(a, "_reliable", &packet(&format!("number {number:02}"), &[]));
        world.send_data(elsewhere[0], "_reliable", &packet("elsewhere", &[]));
    }
    world.run_for(2 * SECOND);
    assert!(world.most_visits <= MOST_VISITS, "{} in one step", world.most_visits);
    assert!(world.count(|counters| counters.visits) > 2 * CROWD as u64);
    for client in [first, last] {
        let got: Vec<_> = world.clients[client].messages.iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(got.len(), 20, "client {client}");
        for (number, bytes) in got.into_iter().enumerate() {
            let text = format!("number {number:02}");
            assert!(bytes.windows(text.len()).any(|window| window == text.as_bytes()));
        }
    }
    assert_eq!(texts(&world, elsewhere[1], "elsewhere"), 20);
    let told = world.events.iter().filter(|event| matches!(event, Event::DataOverflow { .. }));
    assert_eq!(told.count(), 0);
}
