//! Rooms on links that change, as data: what happens when, and what must come of it, for any seed.
//!
//! `SIM_SEEDS=200` runs so many seeds of each (fewer of long ones), `SIM_SEED=17` that one; a failure names the seed to repeat it
//! with. A seed is the luck of the links and when cameras begin. SSRCs, keys and the order of hash maps inside str0m are drawn anew in each run, so that
//! figures differ a little. `SIM_TRACE=500` prints each 500 ms how things are.

use std::{fmt::Write as _, time::Duration};

use chappe_sfu::{
    cache::Layers,
    rtp::MediaKind,
    shard::{Command, Event, PeerReport, Reply},
};

use super::{
    media::Source,
    screen::Screen,
    world::{Faults, Loss, SECOND, World},
};

/// What changes on the way to the subscriber.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// Bits per second.
    Rate(u64),
    /// One way.
    Delay(Duration),
    Faults(Faults),
}

#[derive(Clone, Copy, Debug)]
struct Step {
    name: &'static str,
    /// Seconds after everybody is connected.
    at: u32,
    change: Change,
}

#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    publishers: usize,
    /// So many of them speak, the rest send silence.
    speakers: usize,
    sources: &'static [Source],
    seconds: u32,
    steps: &'static [Step],
    /// What must come of it.
    limits: Limits,
}

/// `None`: not asked for.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Part of the speakers' voices that never came.
    voice_lost: f64,
    /// Part of the video's packets that never came.
    video_lost: Option<f64>,
    /// Longest time without a new picture of a speaker while the link is steady, and in the seconds after it has changed.
    freeze: Option<(Duration, Duration)>,
    /// Whether speakers have the best layers that fit, at the end of each step.
    best_layers: bool,
    /// So long after a change a speaker's layer fits into the link.
    fits_after: Option<Duration>,
    /// Keyframe requests for each switch, of all streams.
    keyframes_a_switch: Option<f64>,
    /// Retransmissions for each packet.
    resends: Option<f64>,
    /// Keyframe requests in a second, of all streams.
    keyframes_a_second: Option<f64>,
}

const MS: Duration = Duration::from_millis(1);
/// A link is steady so long after a change.
const SETTLING: Duration = Duration::from_secs(8);
/// On the wire beside a payload: IP, UDP, RTP with extensions, tag.
const OVERHEAD: u64 = 28 + 12 + 16 + 16;
/// About 150, 350 and 850 kb/s.
const SIMULCAST: [Source; 3] = [
    Source::Camera { bytes: 700 },
    Source::Camera { bytes: 1_600 },
    Source::Camera { bytes: 4_000 },
];
const MEETING: Scenario = Scenario {
    name: "a meeting of 25 on a link that narrows twice and widens",
    publishers: 25,
    speakers: 3,
    sources: &SIMULCAST,
    seconds: 120,
    steps: &[
        Step { name: "8 Mb/s", at: 0, change: Change::Rate(8_000_000) },
        Step { name: "1.5 Mb/s", at: 30, change: Change::Rate(1_500_000) },
        Step { name: "0.4 Mb/s", at: 60, change: Change::Rate(400_000) },
        Step { name: "3 Mb/s", at: 90, change: Change::Rate(3_000_000) },
    ],
    limits: Limits {
        voice_lost: 0.005,
        video_lost: None,
        freeze: Some((MS_200, SECOND)),
        best_layers: true,
        fits_after: None,
        keyframes_a_switch: Some(1.0),
        resends: None,
        keyframes_a_second: None,
    },
};

const MS_200: Duration = Duration::from_millis(200);

const RANDOM_LOSS: Scenario = Scenario {
    name: "5 % of random loss at a round trip of 100 ms",
    publishers: 1,
    speakers: 1,
    sources: &SIMULCAST,
    seconds: 30,
    steps: &[
        Step { name: "50 ms", at: 0, change: Change::Delay(Duration::from_millis(40)) },
        Step { name: "5 Mb/s", at: 0, change: Change::Rate(5_000_000) },
        Step {
            name: "5 %",
            at: 5,
            change: Change::Faults(Faults { loss: Loss::Random(0.05), ..FAULTLESS }),
        },
    ],
    limits: Limits {
        voice_lost: 0.07,
        video_lost: Some(0.001),
        freeze: None,
        best_layers: false,
        fits_after: None,
        keyframes_a_switch: None,
        resends: Some(0.15),
        keyframes_a_second: Some(0.5),
    },
};

const FAULTLESS: Faults =
    Faults { loss: Loss::None, jitter: Duration::ZERO, reorder: 0.0, duplicate: 0.0 };

const BURSTS: Scenario = Scenario {
    name: "30 % lost in bursts of five",
    steps: &[
        Step { name: "5 Mb/s", at: 0, change: Change::Rate(5_000_000) },
        Step {
            name: "30 %",
            at: 5,
            change: Change::Faults(Faults {
                loss: Loss::Bursts { enter: 0.0857, leave: 0.2 },
                ..FAULTLESS
            }),
        },
    ],
    limits: Limits {
        voice_lost: 0.4,
        video_lost: None,
        resends: Some(0.6),
        keyframes_a_second: Some(2.0),
        ..RANDOM_LOSS.limits
    },
    ..RANDOM_LOSS
};

const DISORDER: Scenario = Scenario {
    name: "jitter, overtaking and doubles, but no loss",
    steps: &[
        Step { name: "5 Mb/s", at: 0, change: Change::Rate(5_000_000) },
        Step {
            name: "disorder",
            at: 5,
            change: Change::Faults(Faults {
                jitter: Duration::from_millis(10),
                reorder: 0.03,
                duplicate: 0.02,
                ..FAULTLESS
            }),
        },
    ],
    limits: Limits {
        voice_lost: 0.0,
        video_lost: Some(0.0),
        freeze: Some((MS_200, MS_200)),
        best_layers: true,
        fits_after: None,
        resends: Some(0.05),
        ..RANDOM_LOSS.limits
    },
    ..RANDOM_LOSS
};

/// About 150, 500 and 1,500 kb/s.
const NARROW: Scenario = Scenario {
    name: "a link that falls to a quarter",
    publishers: 1,
    speakers: 1,
    sources: &[
        Source::Camera { bytes: 700 },
        Source::Camera { bytes: 2_300 },
        Source::Camera { bytes: 7_000 },
    ],
    seconds: 60,
    steps: &[
        Step { name: "10 ms", at: 0, change: Change::Delay(Duration::from_millis(10)) },
        Step { name: "2 Mb/s", at: 0, change: Change::Rate(2_000_000) },
        Step { name: "0.5 Mb/s", at: 20, change: Change::Rate(500_000) },
        Step { name: "2 Mb/s", at: 40, change: Change::Rate(2_000_000) },
    ],
    limits: Limits { voice_lost: 0.01, fits_after: Some(Duration::from_secs(5)), ..MEETING.limits },
};

/// About 210, 640 and 1,500 kb/s, the lower ones included.
const NARROW_SVC: Scenario = Scenario { sources: &[Source::Spatial { bytes: 7_000 }], ..NARROW };

/// About 120, 370 and 850 kb/s, the lower ones included.
const MEETING_SVC: Scenario = Scenario {
    name: "three publishers of spatial layers on a link that narrows twice and widens",
    publishers: 3,
    sources: &[Source::Spatial { bytes: 4_000 }],
    ..MEETING
};

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

/// What came of a run.
#[derive(Default, Debug)]
struct Report {
    lines: String,
    missed: Vec<String>,
}

impl Report {
    fn check(&mut self, what: &str, value: f64, limit: f64) {
        let _ = writeln!(self.lines, "  {what}: {value:.4} (at most {limit})");
        if value > limit {
            self.missed.push(format!("{what}: {value:.4}, at most {limit}"));
        }
    }
}

impl Room {
    fn new(scenario: Scenario, seed: u64) -> Self {
        const TALKING: i8 = -20;
        const QUIET: i8 = -90;
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
            voices.push(world.clients[subscriber].subscribe(&voice, MediaKind::Audio));
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
        let mut report = Report::default();
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
        self.judge_loss(&screens, &mut report);
        self.judge_freezes(&screens, &mut report);
        self.judge_layers(start, &screens, &mut report);
        self.judge_falls(&screens, &mut report);
        self.judge_repair(&mut report);
        report
    }

    fn ask(&mut self) -> PeerReport {
        let it = &self.world.clients[self.subscriber];
        let (shard, room, peer) = (it.shard, it.room.clone(), it.peer.clone());
        match self.world.command(shard, Command::ReportPeer { room, peer }) {
            Reply::Report(Some(report)) => *report,
            reply => panic!("the subscriber is gone: {reply:?}"),
        }
    }

    /// Counts spatial layers that were added within an encoding, and prints how things are, if that is wanted.
    fn look(&mut self, now: Duration, trace: Option<u64>) {
        let traced = trace.is_some_and(|trace| (now.as_millis() as u64).is_multiple_of(trace));
        let layered = matches!(self.scenario.sources, [Source::Spatial { .. }]);
        if !traced && !layered {
            return;
        }
        let report = self.ask();
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
            "{:6.1} s: estimate {:5} kb/s, {:3} packets wait, queue {:3} ms, {} dropped, layers {layers}",
            now.as_secs_f64(),
            report.path.estimate.map_or(0, |it| it.estimate.rate.bps() / 1_000),
            report.path.pacer_packets,
            std::mem::take(&mut link.longest_wait).as_millis(),
            link.overflowed,
        );
    }

    fn change(&mut self, change: Change) {
        let link = &mut self.world.down[self.subscriber];
        match change {
            Change::Rate(rate) => link.rate = Some(rate),
            Change::Faults(faults) => link.faults = faults,
            Change::Delay(delay) => {
                link.delay = delay;
                self.world.up[self.subscriber].delay = delay;
            }
        }
    }

    fn judge_loss(&self, screens: &[Screen], report: &mut Report) {
        let client = &self.world.clients[self.subscriber];
        let (mut heard, mut said) = (0, 0);
        for voice in &self.voices[..self.scenario.speakers] {
            let frames: std::collections::BTreeSet<u32> =
                client.packets(*voice).map(|packet| packet.tag().frame).collect();
            let span =
                frames.last().zip(frames.first()).map_or(0, |(last, first)| last - first + 1);
            heard += frames.len();
            said += span as usize;
        }
        let lost = 1.0 - heard as f64 / said.max(1) as f64;
        report.check("voices lost", lost, self.scenario.limits.voice_lost);
        if let Some(limit) = self.scenario.limits.video_lost {
            let (packets, missing) = screens
                .iter()
                .map(Screen::loss)
                .fold((0, 0), |sum, screen| (sum.0 + screen.0, sum.1 + screen.1));
            report.check("video packets lost", missing as f64 / packets.max(1) as f64, limit);
        }
    }

    fn changes(&self) -> impl Iterator<Item = Duration> + '_ {
        self.scenario.steps.iter().map(|step| SECOND * step.at)
    }

    fn judge_freezes(&self, screens: &[Screen], report: &mut Report) {
        let Some((steady, changing)) = self.scenario.limits.freeze else { return };
        let (mut longest_steady, mut longest_changing) = (Duration::ZERO, Duration::ZERO);
        for (picture, screen) in self.pictures.iter().zip(screens).take(self.scenario.speakers) {
            for (from, to) in screen.gaps() {
                // A paused picture does not freeze, nor does one that has just been paused or resumed.
                let is_paused = |(at, paused): &(Duration, bool)| *paused && *at <= to;
                let last = picture.states.iter().rev().find(|(at, _)| *at <= to);
                let changed =
                    picture.states.iter().any(|(at, _)| *at + MS * 200 >= from && *at <= to);
                if changed || last.is_some_and(is_paused) {
                    continue;
                }
                let unsteady =
                    self.changes().any(|change| to >= change && from <= change + SETTLING);
                let longest = if unsteady { &mut longest_changing } else { &mut longest_steady };
                *longest = (*longest).max(to - from);
            }
        }
        report.check("freeze, steady, s", longest_steady.as_secs_f64(), steady.as_secs_f64());
        report.check(
            "freeze, at changes, s",
            longest_changing.as_secs_f64(),
            changing.as_secs_f64(),
        );
    }

    /// At the end of each step no speaker could have a better layer within the link.
    fn judge_layers(&self, start: std::time::Instant, screens: &[Screen], report: &mut Report) {
        let ends = self.changes().skip(1).filter(|at| *at > Duration::ZERO);
        let ends: Vec<_> = ends.chain([SECOND * self.scenario.seconds]).collect();
        for end in ends {
            let rate = self.rate_at(end - MS);
            let since = start + end - SECOND * 4;
            let until = start + end;
            let client = &self.world.clients[self.subscriber];
            let bits = |ssrc: u32| -> u64 {
                let packets = client.packets(ssrc);
                let of_window = packets.filter(|packet| packet.at >= since && packet.at < until);
                of_window.map(|packet| (packet.payload.len() as u64 + OVERHEAD) * 8).sum()
            };
            let speakers = self.scenario.speakers;
            let voices: u64 = self.voices.iter().map(|ssrc| bits(*ssrc)).sum();
            let used: u64 =
                self.pictures[..speakers].iter().map(|picture| bits(picture.ssrc)).sum();
            let used = (voices + used) / 4;
            let layers: Vec<Option<u8>> =
                screens[..speakers].iter().map(|screen| screen.layer_at(end)).collect();
            let all: u64 = client
                .received
                .iter()
                .filter(|packet| packet.at >= since && packet.at < until)
                .map(|packet| (packet.payload.len() as u64 + OVERHEAD) * 8)
                .sum();
            let _ = writeln!(
                report.lines,
                "  {:>3} s: {} kb/s, {} used, {} by speakers, their layers {layers:?}",
                end.as_secs(),
                rate / 1_000,
                all / 4_000,
                used / 1_000,
            );
            if !self.scenario.limits.best_layers {
                continue;
            }
            for layer in layers {
                let next = layer.map_or(0, |layer| layer + 1);
                let Some(more) = self.step_up(layer, next) else { continue };
                if used + more < rate * 8 / 10 {
                    report.missed.push(format!(
                        "{} s: a speaker has layer {layer:?}, {more} more fit into {rate} with {used} used",
                        end.as_secs()
                    ));
                }
            }
        }
    }

    /// Some seconds after each change no speaker has a layer that is more than the link takes.
    fn judge_falls(&self, screens: &[Screen], report: &mut Report) {
        let Some(after) = self.scenario.limits.fits_after else { return };
        for at in self.changes().map(|change| change + after) {
            let rate = self.rate_at(at);
            for screen in &screens[..self.scenario.speakers] {
                let layer = screen.layer_at(at);
                let takes = layer.and_then(|layer| self.step_up(None, layer)).unwrap_or(0);
                if takes > rate {
                    let at = at.as_secs();
                    report.missed.push(format!("{at} s: layer {layer:?} takes {takes} of {rate}"));
                }
            }
        }
    }

    fn rate_at(&self, at: Duration) -> u64 {
        let before = self.scenario.steps.iter().filter(|step| SECOND * step.at <= at);
        let mut rates = before.filter_map(|step| match step.change {
            Change::Rate(rate) => Some(rate),
            Change::Delay(_) | Change::Faults(_) => None,
        });
        rates.next_back().unwrap_or(u64::MAX / 16)
    }

    /// Bits per second that a layer takes more than the one before; `None`: there is no such layer.
    fn step_up(&self, from: Option<u8>, to: u8) -> Option<u64> {
        let rate = |layer: u8| -> Option<u64> {
            let bytes = match *self.scenario.sources {
                [Source::Spatial { bytes }] => {
                    u64::from(bytes) * [1, 3, 7].get(usize::from(layer))? / 7
                }
                _ => match self.scenario.sources.get(usize::from(layer))? {
                    Source::Camera { bytes } => u64::from(*bytes),
                    _ => return None,
                },
            };
            Some((bytes + bytes.div_ceil(1_000) * OVERHEAD) * 8 * 25)
        };
        Some(rate(to)? - from.and_then(rate).unwrap_or(0))
    }

    fn judge_repair(&mut self, report: &mut Report) {
        let limits = self.scenario.limits;
        let asked: u32 = self.world.clients.iter().map(|client| client.keyframe_requests).sum();
        // Resumed pictures too: they begin anew.
        let opened: u64 = self.ask().subscriptions.iter().map(|of| of.switches).sum();
        let switches = opened + u64::from(self.rises);
        let _ = writeln!(report.lines, "  keyframe requests: {asked}, switches: {switches}");
        if let Some(limit) = limits.keyframes_a_switch {
            // One run among other tests wavers by its luck (0.95 of 1.0); `make sim` holds each of its runs to the limit.
            let slack = if number("SIM_SEEDS").is_some() { 1.0 } else { 1.15 };
            let each = f64::from(asked) / switches as f64;
            report.check("keyframe requests a switch", each, limit * slack);
        }
        let seconds = f64::from(self.scenario.seconds);
        if let Some(limit) = limits.keyframes_a_second {
            report.check("keyframe requests a second", f64::from(asked) / seconds, limit);
        }
        if let Some(limit) = limits.resends {
            let sent = self.world.count(|counters| counters.media_out) as f64;
            let resent = self.world.count(|counters| counters.retransmitted) as f64;
            report.check("resends a packet", resent / sent, limit);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a scenario with as many seeds as are wanted, or else with `few`.
fn run(scenario: Scenario, few: u64) {
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..=seed,
        // Of what takes long fewer, in proportion.
        None => 1..=number("SIM_SEEDS").map_or(few, |seeds| (seeds * few / 4).max(1)),
    };
    // What str0m draws is in no seed: among other tests a run that misses has one more try, `make sim` has none.
    let mut spare = u32::from(number("SIM_SEED").or(number("SIM_SEEDS")).is_none());
    for seed in seeds {
        let mut report = Room::new(scenario, seed).play();
        println!("{}, seed {seed}:\n{}", scenario.name, report.lines);
        if !report.missed.is_empty() && spare > 0 {
            spare -= 1;
            println!("missed, once more: {:#?}", report.missed);
            report = Room::new(scenario, seed).play();
            println!("{}", report.lines);
        }
        assert!(
            report.missed.is_empty(),
            "{}: seed {seed} (SIM_SEED={seed} repeats it): {:#?}\n{}",
            scenario.name,
            report.missed,
            report.lines
        );
    }
}

#[test]
fn a_meeting_on_a_link_that_changes() {
    run(MEETING, 1);
}

#[test]
fn a_picture_follows_a_link_down_at_once() {
    run(NARROW, 2);
}

#[test]
fn spatial_layers_follow_a_link_down_at_once() {
    run(NARROW_SVC, 2);
}

#[test]
fn a_meeting_of_spatial_layers_on_a_link_that_changes() {
    run(MEETING_SVC, 1);
}

#[test]
fn random_loss_is_repaired() {
    run(RANDOM_LOSS, 4);
}

#[test]
fn bursts_of_loss_start_no_storm() {
    run(BURSTS, 4);
}

#[test]
fn disorder_is_no_loss() {
    run(DISORDER, 4);
}
