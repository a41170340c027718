//! Many random changes, then everything that is wanted has to flow, and nothing may be left at the end.

use std::time::Duration;

use chappe_sfu::{
    rtp::MediaKind,
    shard::{Command, RoomId},
};

use super::{
    media::Source,
    world::{SECOND, World},
};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % sides
    }
}

/// Who watches whom: subscriber, track, SSRC.
type Watched = Vec<(usize, String, u32)>;

fn change(world: &mut World, dice: &mut Dice, watched: &mut Watched) {
    let client = dice.roll(world.clients.len());
    match dice.roll(5) {
        0 if world.clients[client].spec.tracks.len() < 3 => {
            let count = world.clients[client].senders.len();
            let name = format!("{client}-{count}");
            let layers = [1, 2].map(|packets| Source::Video { packets });
            let sources: &[Source] = match dice.roll(3) {
                0 => &[Source::Audio],
                1 => &layers,
                _ => &[Source::Video { packets: 2 }],
            };
            world.clients[client].publish(&name, sources);
        }
        1 if world.clients[client].spec.tracks.len() > 1 => {
            let spec = &mut world.clients[client].spec;
            let gone = spec.tracks.remove(dice.roll(spec.tracks.len()));
            for sender in &mut world.clients[client].senders {
                sender.active &= sender.track != gone.id;
            }
        }
        2 => {
            let other = dice.roll(world.clients.len());
            let tracks = &world.clients[other].spec.tracks;
            if tracks.is_empty() {
                return;
            }
            let track = &tracks[dice.roll(tracks.len())];
            let (name, kind) = (track.id.as_str().to_owned(), track.kind);
            if watched.iter().any(|(who, known, _)| *who == client && *known == name) {
                return;
            }
            let ssrc = world.clients[client].subscribe(&name, kind);
            watched.push((client, name, ssrc));
        }
        3 => {
            let spec = &mut world.clients[client].spec;
            if spec.subscriptions.is_empty() {
                return;
            }
            let gone = spec.subscriptions.remove(dice.roll(spec.subscriptions.len()));
            watched.retain(|(_, _, ssrc)| *ssrc != gone.ssrc.0);
        }
        _ => {
            for subscription in &mut world.clients[client].spec.subscriptions {
                subscription.paused = dice.roll(4) == 0;
                subscription.max_spatial = [None, Some(0), Some(1)][dice.roll(3)];
            }
        }
    }
    world.apply(client);
}

fn churn(seed: u64) {
    let mut dice = Dice(seed);
    let mut world = World::new(2);
    for number in 0..5 {
        let client = world.client("room", number % 2);
        world.clients[client].publish(&format!("{client}-0"), &[Source::Audio]);
    }
    world.connect_all();
    let mut watched = Watched::new();
    for _ in 0..150 {
        change(&mut world, &mut dice, &mut watched);
        world.run_for(Duration::from_millis(dice.roll(200) as u64));
    }
    for client in 0..world.clients.len() {
        for subscription in &mut world.clients[client].spec.subscriptions {
            subscription.paused = false;
            subscription.max_spatial = None;
        }
        world.apply(client);
    }
    // Let what is on its way arrive, and keyframes come.
    world.run_for(4 * SECOND);
    let count = |world: &World, who: usize, ssrc| world.clients[who].packets(ssrc).count();
    let before: Vec<usize> =
        watched.iter().map(|(who, _, ssrc)| count(&world, *who, *ssrc)).collect();
    world.run_for(2 * SECOND);
    for ((who, name, ssrc), before) in watched.iter().zip(before) {
        let published = world
            .clients
            .iter()
            .flat_map(|client| &client.spec.tracks)
            .find(|track| track.id.as_str() == name);
        let more = count(&world, *who, *ssrc) - before;
        match published {
            Some(track) => assert!(
                more > 45,
                "seed {seed}: {who} got {more} packets of {name} ({:?}, {} encodings)",
                track.kind,
                track.encodings.len()
            ),
            None => assert_eq!(more, 0, "seed {seed}: {who} got packets of {name}"),
        }
        let packets: Vec<_> = world.clients[*who].packets(*ssrc).collect();
        let video = published.is_some_and(|track| track.kind == MediaKind::Video);
        if video {
            assert!(packets[0].tag().keyframe, "seed {seed}: {name} begins with a keyframe");
        }
    }
    let room = RoomId::new("room");
    for shard in 0..2 {
        world.command(shard, Command::RemoveRoom { room: room.clone() });
    }
    world.run_for(SECOND);
    for shard in &world.shards {
        assert_eq!(shard.peers(), 0, "seed {seed}");
        assert!(shard.is_idle(), "seed {seed}: something is left");
    }
}

#[test]
fn random_changes_leave_what_is_wanted() {
    for seed in 1..=4 {
        churn(seed);
    }
}
