//! Speakers are elected from what str0m clients send, on one shard and on two.

use chappe_sfu::shard::Event;

use super::{
    media::Source,
    world::{SECOND, World},
};

const TALKING: i8 = -20;
const QUIET: i8 = -90;

/// Peers heard, the dominant one first, as told from some event on.
fn told(world: &World, from: usize) -> Vec<Vec<(String, bool)>> {
    let list = |event: &Event| match event {
        Event::SpeakersChanged { speakers, .. } => {
            Some(speakers.iter().map(|one| (one.track.to_string(), one.dominant)).collect())
        }
        _ => None,
    };
    world.events[from..].iter().filter_map(list).collect()
}

#[test]
fn who_speaks_is_told_by_the_home_shard_on_changes_only() {
    for shards in [[0, 0, 0], [1, 0, 1], [1, 1, 0]] {
        let mut world = World::new(2);
        for (index, shard) in shards.into_iter().enumerate() {
            let client = world.client("room", shard);
            let track = format!("mic{index}");
            world.clients[client].publish(&track, &[Source::Audio]);
            world.clients[client].sender(&track, 0).level = Some(QUIET);
        }
        world.connect_all();
        world.run_for(2 * SECOND);
        assert_eq!(told(&world, 0).concat(), [], "nobody speaks: {shards:?}");

        let mut from = world.events.len();
        for (index, dominant) in [(0, "mic0"), (1, "mic1"), (2, "mic2")] {
            let track = format!("mic{index}");
            world.clients[index].sender(&track, 0).level = Some(TALKING);
            world.run_for(3 * SECOND);
            let lists = told(&world, from);
            assert!((1..=8).contains(&lists.len()), "{shards:?}: {lists:?}");
            assert_eq!(lists.last(), Some(&vec![(dominant.to_owned(), true)]), "{shards:?}");
            from = world.events.len();
            world.clients[index].sender(&track, 0).level = Some(QUIET);
        }
        world.run_for(2 * SECOND);
        assert_eq!(told(&world, from).last(), Some(&Vec::new()), "silence is told: {shards:?}");
        let quiet = world.events.len();
        world.run_for(3 * SECOND);
        assert_eq!(told(&world, quiet), Vec::<Vec<_>>::new(), "and only once");
    }
}

#[test]
fn who_vanishes_while_speaking_does_not_speak_on() {
    let mut world = World::new(2);
    let (anna, _ben) = (world.client("room", 1), world.client("room", 0));
    world.clients[anna].publish("mic", &[Source::Audio]);
    world.clients[anna].sender("mic", 0).level = Some(TALKING);
    world.connect_all();
    world.run_for(2 * SECOND);
    assert_eq!(told(&world, 0).last(), Some(&vec![("mic".to_owned(), true)]));
    let from = world.events.len();
    world.clients[anna].spec.tracks.clear();
    world.apply(anna);
    world.run_for(SECOND);
    assert_eq!(told(&world, from), [Vec::new()]);
}
