//! Random steps with offers in flight: whatever their order, in the end every wanted track is described and sent.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::{
    assert_receives,
    client::OfferingClient,
    subscribe, unsubscribe,
    world::{World, add_track},
};
use livekit_protocol::signal_request::Message as Request;

#[derive(Clone, Debug)]
enum Step {
    Subscribe(u8),
    Unsubscribe(u8),
    Publish,
    Unpublish,
    /// The room and the node do one thing.
    Room,
    /// The client reads one message.
    Client,
    Time(u16),
    Resume,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..12).prop_map(Step::Subscribe),
        5 => (0u8..12).prop_map(Step::Unsubscribe),
        2 => Just(Step::Publish),
        1 => Just(Step::Unpublish),
        6 => Just(Step::Room),
        6 => Just(Step::Client),
        5 => (1u16..400).prop_map(Step::Time),
        1 => Just(Step::Resume),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 100)
}

fn name(track: u8) -> String {
    format!("TR_x{track:02}")
}

fn is_video(track: u8) -> bool {
    !track.is_multiple_of(3)
}

fn run(two_peers: bool, steps: &[Step]) {
    let mut world =
        if two_peers { World::dual() } else { World::new(false, OfferingClient::new(1, 1)) };
    world.offer();
    world.settle();
    let mut wanted = BTreeSet::new();
    let mut published: Vec<String> = Vec::new();
    let mut count = 0;
    let taken = |wanted: &BTreeSet<u8>| -> Vec<_> {
        wanted.iter().map(|track| super::track(&name(*track), is_video(*track))).collect()
    };
    for step in steps {
        match step {
            Step::Subscribe(track) => {
                wanted.insert(*track);
                subscribe(&mut world, &name(*track), is_video(*track));
            }
            Step::Unsubscribe(track) => {
                wanted.remove(track);
                unsubscribe(&mut world, &name(*track));
            }
            Step::Publish => {
                count += 1;
                let cid = format!("cid{count}");
                world.request(Request::AddTrack(add_track(&cid, count % 2 == 0)));
                world.offering.publish(if count % 2 == 0 { "video" } else { "audio" }, &cid, &[]);
                world.offer();
                published.push(cid);
            }
            Step::Unpublish => {
                if let Some(cid) = published.pop() {
                    world.offering.unpublish(&cid);
                    world.offer();
                }
            }
            Step::Room => {
                world.step_room();
            }
            Step::Client => {
                world.step_client();
            }
            Step::Time(milliseconds) => {
                world.step_time(Duration::from_millis(u64::from(*milliseconds)));
            }
            Step::Resume => {
                // Commands on their way are not lost with a WebSocket.
                while world.step_room() {}
                world.lose_signal();
                while world.step_room() {}
                let resumed = world.resumed(taken(&wanted));
                world.resume(resumed);
                world.offering.ice_generation += 1;
                world.offer();
            }
            Step::Restart => {
                world.settle();
                world.restart(two_peers, taken(&wanted));
                world.offering.ice_generation += 1;
                world.offer();
            }
        }
    }
    world.settle();
    assert!(!world.ended, "{:?}", world.kinds());
    let expected: Vec<_> = wanted.iter().map(|track| name(*track)).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    assert_receives(&world, &expected);
    let mut cids: Vec<_> = world
        .published
        .values()
        .flat_map(|info| &info.variants)
        .map(|variant| variant.cid.clone())
        .collect();
    cids.sort();
    published.sort();
    assert_eq!(cids, published);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_wanted_track_arrives_on_one_peer(steps in steps()) {
        run(false, &steps);
    }

    #[test]
    fn every_wanted_track_arrives_on_two_peers(steps in steps()) {
        run(true, &steps);
    }
}
