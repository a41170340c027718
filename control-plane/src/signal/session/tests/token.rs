//! Fresh tokens: after the start, every five minutes, on a change of permissions, and after a resume.

use std::time::{Duration, Instant};

use super::world::World;
use crate::{
    auth::Permissions,
    room::{PeerRole, RoomEvent},
};

const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// Time goes on, and with it everything that is due.
fn pass(world: &mut World, time: Duration) {
    let until = world.now + time;
    while world.step_room() || world.step_client() || world.step_time(until - world.now) {}
    world.now = until;
}

/// Tokens since the last call, each with the time since `start`.
fn pushed(world: &mut World, start: Instant) -> Vec<(u64, Permissions)> {
    let since = |(at, permissions): (Instant, Permissions)| ((at - start).as_secs(), permissions);
    std::mem::take(&mut world.tokens).into_iter().map(since).collect()
}

#[test]
fn a_fresh_token_comes_after_the_start_and_every_five_minutes() {
    for mut world in [World::single(), World::dual()] {
        let start = world.now;
        let granted = Permissions::default();
        assert_eq!(pushed(&mut world, start), [(0, granted.clone())], "right after the start");
        world.offer();
        world.settle();
        for role in [PeerRole::Single, PeerRole::Publisher, PeerRole::Subscriber] {
            world.room(RoomEvent::PeerConnected(role));
        }
        let remaining = start + 3 * FIVE_MINUTES - world.now;
        pass(&mut world, remaining);
        let expected = [300, 600, 900].map(|at| (at, granted.clone()));
        assert_eq!(pushed(&mut world, start), expected);

        // A change is told at once, and lasts.
        pass(&mut world, Duration::from_secs(100));
        let fewer = Permissions {
            can_publish: false,
            can_publish_sources: vec!["camera".to_owned()],
            hidden: true,
            ..granted
        };
        world.room(RoomEvent::Permissions(fewer.clone()));
        pass(&mut world, FIVE_MINUTES);
        let expected = [1_000, 1_300].map(|at| (at, fewer.clone()));
        assert_eq!(pushed(&mut world, start), expected, "and the five minutes begin anew");

        // Nobody is there to take it.
        world.lose_signal();
        pass(&mut world, 2 * FIVE_MINUTES);
        assert_eq!(pushed(&mut world, start), []);
        let mut resumed = world.resumed(Vec::new());
        resumed.permissions = fewer.clone();
        world.resume(resumed);
        pass(&mut world, FIVE_MINUTES);
        let expected = [1_900, 2_200].map(|at| (at, fewer.clone()));
        assert_eq!(pushed(&mut world, start), expected, "who comes back gets one at once");
        assert!(!world.ended);
    }
}
