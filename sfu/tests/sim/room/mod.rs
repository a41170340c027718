//! Rooms on links that change, as data: what happens when, and what must come of it, for any seed.
//!
//! `SIM_SEEDS=200` runs so many seeds of each (fewer of long ones), `SIM_SEED=17` that one; a failure names the seed, and the seed is the
//! whole run: every packet at the same moment, with the same length. `SIM_TRACE=500` prints each 500 ms how things are.

use std::time::Duration;

use chappe_sfu::{
    cache::Layers,
    rtp::MediaKind,
    shard::{Command, Event, PeerReport, Reply},
};

use self::{
    judge::Report,
    scenario::{Change, MS, Scenario},
};
use crate::{
    luck,
    media::Source,
    screen::Screen,
    world::{SECOND, World},
};

mod judge;
mod scenario;

struct Room {
    scenario: Scenario,
    world: World,
    subscriber: usize,
    voices: Vec<u32>,
    /// Spatial layers that passed when this was looked at last, and how often one was added.
    seen: Vec<Option<u8>>,
    rises: u32,
    pictures: Vec<Picture>,
}

/// A picture on the subscriber's screen.
struct Picture {
    ssrc: u32,
    track: String,
    /// From when on it was paused (true) or went on.
    states: Vec<(Duration, bool)>,
}

impl Room {
    fn new(scenario: Scenario, seed: u64) -> Self {
        const TALKING: i8 = -20;
        const QUIET: i8 = -90;
        luck::seed(seed);
        let mut world = World::new(1);
        world.obey_demand = true;
        let subscriber = world.client("room", 0);
        let (mut voices, mut pictures) = (Vec::new(), Vec::new());
        for index in 0..scenario.publishers {
            let (voice, track) = (format!("voice{index}"), format!("camera{index}"));
            let publisher = world.client("room", 0);
            let speaks = index < scenario.speakers;
            let source = if speaks { Source::Audio } else { Source::Dtx };
            world.clients[publisher].publish(&voice, &[source]);
            world.clients[publisher].sender(&voice, 0).level =
                Some(if speaks { TALKING } else { QUIET });
            world.clients[publisher].publish(&track, scenario.sources);
            let listener = &mut world.clients[subscriber];
            voices.push(listener.subscribe(&voice, MediaKind::Audio));
            // As the control plane asks for it.
            listener.spec.subscriptions.last_mut().unwrap().add_redundancy = true;
            let ssrc = world.clients[subscriber].subscribe(&track, MediaKind::Video);
            pictures.push(Picture { ssrc, track, states: Vec::new() });
        }
        // Handshakes are never the same twice: what depends on the seed begins after them.
        let begin = world.now + SECOND * 3;
        // Nobody's pictures and packets of silence come in step with everybody's, nor as with another seed.
        for (client, n) in world.clients.iter_mut().zip(0..) {
            let luck = (seed.wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 40;
            client.begin_at(begin + MS * 17 * n as u32 + MS * luck as u32);
        }
        world.connect_all();
        world.run_for(begin - world.now);
        world.seed(seed);
        let seen = vec![None; pictures.len()];
        Self { scenario, world, subscriber, voices, seen, rises: 0, pictures }
    }

    /// Plays the scenario and says what came of it.
    fn play(mut self) -> Report {
        let start = self.world.now;
        let trace = number("SIM_TRACE");
        let mut steps = self.scenario.steps.iter().peekable();
        let mut seen = 0;
        let mut screens: Vec<Screen> = self.pictures.iter().map(|_| Screen::default()).collect();
        let mut fed = 0;
        while self.world.now < start + SECOND * self.scenario.seconds {
            let at = self.world.now - start;
            while let Some(step) = steps.next_if(|step| at >= SECOND * step.at) {
                println!("{} s: {}", at.as_secs(), step.name);
                self.change(step.change);
            }
            self.world.run_for(MS * 100);
            let now = self.world.now - start;
            let client = &mut self.world.clients[self.subscriber];
            for packet in &client.received[fed..] {
                let of_packet = |picture: &Picture| picture.ssrc == packet.ssrc;
                if let Some(index) = self.pictures.iter().position(of_packet) {
                    screens[index].push(start, packet);
                }
            }
            fed = client.received.len();
            for (picture, screen) in self.pictures.iter().zip(&mut screens) {
                if screen.is_stuck(now) {
                    client.request_keyframe(picture.ssrc);
                }
            }
            for event in &self.world.events[seen..] {
                let Event::StreamState { track, paused, .. } = event else { continue };
                let of_track = |picture: &&mut Picture| picture.track == track.as_str();
                if let Some(picture) = self.pictures.iter_mut().find(of_track) {
                    picture.states.push((now, *paused));
                }
            }
            seen = self.world.events.len();
            self.look(now, trace);
        }
        self.judge(start, &screens)
    }

    fn ask(&mut self, client: usize) -> PeerReport {
        let it = &self.world.clients[client];
        let (shard, room, peer) = (it.shard, it.room.clone(), it.peer.clone());
        match self.world.command(shard, Command::ReportPeer { room, peer }) {
            Reply::Report(Some(report)) => *report,
            reply => panic!("it is gone: {reply:?}"),
        }
    }

    /// Counts spatial layers that were added within an encoding, and prints how things are, if that is wanted.
    fn look(&mut self, now: Duration, trace: Option<u64>) {
        let traced = trace.is_some_and(|trace| (now.as_millis() as u64).is_multiple_of(trace));
        let layered = matches!(self.scenario.sources, [Source::Spatial { .. }]);
        if !traced && !layered {
            return;
        }
        let report = self.ask(self.subscriber);
        let cameras = report.subscriptions.iter().filter(|of| of.kind == Some(MediaKind::Video));
        if layered {
            for (before, of) in self.seen.iter_mut().zip(cameras.clone()) {
                let current = of.current.map(|layers| layers.spatial);
                self.rises += u32::from(before.is_some() && current > *before);
                *before = current;
            }
        }
        if !traced {
            return;
        }
        let layers = cameras.map(|of| {
            let name =
                |layers: Option<Layers>| layers.map_or("-".into(), |it| it.spatial.to_string());
            let (current, target) = (name(of.current), name(of.target));
            if current == target { current } else { format!("({current}>{target})") }
        });
        let layers: String = layers.collect();
        let link = &mut self.world.down[self.subscriber];
        println!(
            "{:6.1} s: estimate {:5} kb/s ({:?}), {:3} packets wait, queue {:3} ms, {} dropped, layers {layers}",
            now.as_secs_f64(),
            report.path.estimate.map_or(0, |it| it.estimate.rate.bps() / 1_000),
            report.path.estimate.map(|it| it.estimate.limit),
            report.path.pacer_packets,
            std::mem::take(&mut link.longest_wait).as_millis(),
            link.overflowed,
        );
    }

    fn change(&mut self, change: Change) {
        let world = &mut self.world;
        let subscriber = self.subscriber;
        match change {
            Change::Rate(rate) => world.down[subscriber].rate = Some(rate),
            Change::Delay(delay) => {
                world.down[subscriber].delay = delay;
                world.up[subscriber].delay = delay;
            }
            Change::Faults(faults) => {
                world.down[subscriber].faults = faults;
                world.up[subscriber].faults = faults;
            }
            Change::PublisherFaults(faults) => {
                for publisher in (0..world.clients.len()).filter(|client| *client != subscriber) {
                    world.down[publisher].faults = faults;
                    world.up[publisher].faults = faults;
                }
            }
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays a scenario with a seed, on a thread of its own: hash maps of a thread are keyed by how many came before.
fn play(scenario: Scenario, seed: u64) -> Report {
    let play = move || Room::new(scenario, seed).play();
    std::thread::spawn(play).join().unwrap()
}

/// Runs a scenario with as many seeds as are wanted, or else with `few`.
fn run(scenario: Scenario, few: u64) {
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..=seed,
        // Of what takes long fewer, in proportion.
        None => 1..=number("SIM_SEEDS").map_or(few, |seeds| (seeds * few / 4).max(1)),
    };
    let mut missed = Vec::new();
    for seed in seeds {
        let report = play(scenario, seed);
        println!("{}, seed {seed}:\n{}", scenario.name, report.lines);
        if !report.missed.is_empty() {
            println!("seed {seed} missed {:#?}", report.missed);
            missed.push((seed, report.missed));
        }
    }
    assert!(missed.is_empty(), "{}: (SIM_SEED=N repeats one) {missed:#?}", scenario.name);
}

#[test]
fn a_seed_is_the_whole_run() {
    let short = Scenario { seconds: 8, ..scenario::BURSTS };
    let (first, again, other) = (play(short, 7), play(short, 7), play(short, 8));
    assert_eq!(first.digest, again.digest, "{}\n{}", first.lines, again.lines);
    assert_ne!(first.digest, other.digest);
}

#[test]
fn a_meeting_on_a_link_that_changes() {
    run(scenario::MEETING, 1);
}

#[test]
fn a_picture_follows_a_link_down_at_once() {
    run(scenario::NARROW, 2);
}

#[test]
fn spatial_layers_follow_a_link_down_at_once() {
    run(scenario::NARROW_SVC, 2);
}

#[test]
fn a_meeting_of_spatial_layers_on_a_link_that_changes() {
    run(scenario::MEETING_SVC, 1);
}

#[test]
fn random_loss_is_repaired() {
    run(scenario::RANDOM_LOSS, 4);
}

#[test]
fn bursts_of_loss_start_no_storm() {
    run(scenario::BURSTS, 4);
}

#[test]
fn bursts_of_loss_before_the_node_start_no_storm() {
    run(scenario::BURSTS_OF_PUBLISHERS, 4);
}

#[test]
fn disorder_is_no_loss() {
    run(scenario::DISORDER, 4);
}
