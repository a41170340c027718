//! A media thread allocates nothing for a packet, a report, a retransmission or a timer.

use chappe_benches::{
    alloc::{self, CountingAllocator},
    rig::{Rig, Setup},
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Turns in which things are used for the first time: caches grow to what a track needs, and each subscriber is repaired once.
const WARM_UP: usize = 300;
const TURNS: usize = 300;

#[test]
fn forwarding_allocates_nothing() {
    // What is counted are the threads of this name.
    let shard = std::thread::Builder::new().name("shard-0".to_owned());
    shard.spawn(forward).expect("a thread").join().expect("nothing is wrong");
}

fn forward() {
    assert_eq!(counted(|| drop(std::hint::black_box(Box::new(1)))), 1, "allocations are seen");
    let many = Setup { publishers: 10, subscribers: 20, ..Setup::default() };
    let calls = Setup { feedback: true, nack_percent: 1.0, ..many };
    let voices = Setup { audio: true, frame_packets: 1, payload: 120, rate: 50.0, ..many };
    for (name, setup) in [("video", many), ("with feedback and NACK", calls), ("audio", voices)] {
        let mut rig = Rig::new(setup).expect("everybody joins");
        for _ in 0..WARM_UP {
            let inputs = rig.prepare();
            rig.turn(inputs);
        }
        let mut allocations = 0;
        let before = rig.output();
        for _ in 0..TURNS {
            let inputs = rig.prepare();
            allocations += counted(|| rig.turn(inputs));
        }
        let packets = rig.output().since(before).packets;
        assert!(packets >= TURNS as u64 * rig.packets_per_turn(), "{name}: {packets} packets");
        assert_eq!(allocations, 0, "{name}: for {packets} packets");
    }
}

/// Allocations of this thread meanwhile.
fn counted(work: impl FnOnce()) -> u64 {
    let before = alloc::shard_allocations();
    alloc::arm(true);
    work();
    alloc::arm(false);
    alloc::shard_allocations() - before
}
