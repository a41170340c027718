//! The cases of RFC 8867 sections 5.1 to 5.8, as data.

use std::time::{Duration, Instant};

use super::{
    link::{Jitter, LinkPlan, Loss},
    media::{FrameSource, MediaReceiver, MediaSender, Schedule, Source},
    str0m,
    tcp::{Load, TcpReceiver, TcpSender},
    world::{Flow, Record, World},
};

/// What a case must reach.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Follows the capacity: utilisation, queue, loss, times to fall and to rise.
    Follow {
        /// Of the capacity, in each direction.
        utilisation: f64,
        /// The 95th percentile of queueing delay at most, in milliseconds.
        p95_queue_ms: f64,
        /// Fraction of packets lost at most.
        loss: f64,
    },
    /// Uses at least this share of the capacity, whatever the queue.
    Use(f64),
    /// Jain's index while all flows are there.
    Fair(f64),
    /// Of the fair share that all flows, TCP and media, would have each.
    ShareWithTcp(f64),
    /// The estimate never asks for less than the encoder's minimum.
    AboveMinimum,
    /// The paused flow has this part of its share within ten seconds.
    Resume(f64),
}

/// Who sends.
#[derive(Clone, Debug)]
pub enum Traffic {
    /// A media flow.
    Media(Schedule),
    /// A TCP flow.
    Tcp(Load),
}

/// One flow of a case.
#[derive(Clone, Debug)]
pub struct FlowPlan {
    /// What it sends.
    pub traffic: Traffic,
    /// Index of the link it goes over.
    pub forward: usize,
    /// Index of the link its feedback goes over; `None`: free.
    pub back: Option<usize>,
    /// One-way delay.
    pub delay: Duration,
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Section of RFC 8867, with a letter for variants.
    pub name: &'static str,
    /// Of the whole run.
    pub length: Duration,
    /// Bottlenecks.
    pub links: Vec<LinkPlan>,
    /// Who sends over them.
    pub flows: Vec<FlowPlan>,
    /// What it must reach.
    pub goal: Goal,
    /// Deviation of every path's delay, in milliseconds.
    pub jitter_ms: f64,
}

const FOLLOW: Goal = Goal::Follow { utilisation: 0.85, p95_queue_ms: 80.0, loss: 0.005 };
const SECOND: Duration = Duration::from_secs(1);
const DELAY: Duration = Duration::from_millis(50);
const QUEUE: Duration = Duration::from_millis(300);

fn link(queue: Duration, rates: &[(u32, f64)]) -> LinkPlan {
    let rates = rates.iter().map(|(at, mbps)| (SECOND * *at, (mbps * 1e6) as u64)).collect();
    LinkPlan { rates, queue, loss: Loss::None }
}

fn media(start: u32) -> FlowPlan {
    let schedule = Schedule { start: SECOND * start, pause: None };
    FlowPlan { traffic: Traffic::Media(schedule), forward: 0, back: None, delay: DELAY }
}

fn tcp(load: Load) -> FlowPlan {
    FlowPlan { traffic: Traffic::Tcp(load), forward: 0, back: None, delay: DELAY }
}

fn with_delay(mut flow: FlowPlan, ms: u64) -> FlowPlan {
    flow.delay = Duration::from_millis(ms);
    flow
}

/// All cases, in order.
pub fn all() -> Vec<Case> {
    let mut both_ways = [media(0), media(0)];
    both_ways[0].back = Some(1);
    (both_ways[1].forward, both_ways[1].back) = (1, Some(0));
    let mut paused = media(0);
    paused.traffic =
        Traffic::Media(Schedule { start: Duration::ZERO, pause: Some((SECOND * 40, SECOND * 60)) });
    let against_tcp = |name, queue_ms, goal| Case {
        name,
        length: SECOND * 120,
        links: vec![link(Duration::from_millis(queue_ms), &[(0, 2.0)])],
        flows: vec![media(5), tcp(Load::Long(Duration::ZERO))],
        goal,
        jitter_ms: Jitter::DEVIATION_MS,
    };
    let mut short_tcp = vec![media(0), media(0)];
    short_tcp.extend((0..10).map(|_| tcp(Load::Short(SECOND * 10))));
    vec![
        Case {
            name: "5.1",
            length: SECOND * 100,
            links: vec![link(QUEUE, &[(0, 1.0), (40, 2.5), (60, 0.6), (80, 1.0)])],
            flows: vec![media(0)],
            goal: FOLLOW,
            jitter_ms: Jitter::DEVIATION_MS,
        },
        Case {
            name: "5.2",
            length: SECOND * 125,
            links: vec![link(QUEUE, &[(0, 4.0), (25, 2.0), (50, 3.5), (75, 1.0), (100, 2.0)])],
            flows: vec![media(0), media(0)],
            goal: FOLLOW,
            jitter_ms: Jitter::DEVIATION_MS,
        },
        Case {
            name: "5.3",
            length: SECOND * 100,
            links: vec![
                link(QUEUE, &[(0, 2.0), (20, 1.0), (40, 0.5), (60, 2.0)]),
                link(QUEUE, &[(0, 2.0), (35, 0.8), (70, 2.0)]),
            ],
            flows: both_ways.to_vec(),
            goal: Goal::Use(0.75),
            jitter_ms: Jitter::DEVIATION_MS,
        },
        Case {
            name: "5.4",
            length: SECOND * 120,
            links: vec![link(QUEUE, &[(0, 3.5)])],
            flows: vec![media(0), media(20), media(40)],
            goal: Goal::Fair(0.9),
            jitter_ms: Jitter::DEVIATION_MS,
        },
        Case {
            name: "5.5",
            length: SECOND * 300,
            links: vec![link(QUEUE, &[(0, 4.0)])],
            flows: [(0, 10), (10, 25), (20, 50), (30, 100), (40, 150)]
                .map(|(start, ms)| with_delay(media(start), ms))
                .to_vec(),
            goal: Goal::Fair(0.8),
            jitter_ms: Jitter::DEVIATION_MS,
        },
        against_tcp("5.6", 300, Goal::ShareWithTcp(0.25)),
        against_tcp("5.6b", 1_000, Goal::AboveMinimum),
        Case {
            name: "5.7",
            length: SECOND * 300,
            links: vec![link(QUEUE, &[(0, 2.0)])],
            flows: short_tcp,
            goal: Goal::Use(0.5),
            jitter_ms: Jitter::DEVIATION_MS,
        },
        Case {
            name: "5.8",
            length: SECOND * 120,
            links: vec![link(QUEUE, &[(0, 3.5)])],
            flows: vec![media(0), paused, media(0)],
            goal: Goal::Resume(0.8),
            jitter_ms: Jitter::DEVIATION_MS,
        },
    ]
}

/// The axes of RFC 8868 (section 4), one at a time around one flow over 2 Mb/s for a minute, whose other parameters are
/// the defaults.
pub fn sweep() -> Vec<Case> {
    let case = |name| Case {
        name,
        length: SECOND * 60,
        links: vec![link(QUEUE, &[(0, 2.0)])],
        flows: vec![media(0)],
        goal: Goal::Use(0.0),
        jitter_ms: Jitter::DEVIATION_MS,
    };
    let mut cases = Vec::new();
    for (name, ms) in
        [("delay 0 ms", 0), ("delay 50 ms", 50), ("delay 150 ms", 150), ("delay 300 ms", 300)]
    {
        cases.push(Case { flows: vec![with_delay(media(0), ms)], ..case(name) });
    }
    let bursts = Loss::Bursts { enter: 0.01, leave: 0.2 };
    for (name, loss) in [
        ("loss 1 %", Loss::Random(0.01)),
        ("loss 5 %", Loss::Random(0.05)),
        ("loss 10 %", Loss::Random(0.1)),
        ("loss 20 %", Loss::Random(0.2)),
        ("loss 5 % in bursts of 5", bursts),
    ] {
        let mut lossy = case(name);
        lossy.links[0].loss = loss;
        cases.push(lossy);
    }
    for (name, ms) in [
        ("queue 70 ms", 70),
        ("queue 500 ms", 500),
        ("queue 1,000 ms", 1_000),
        ("queue 2,000 ms", 2_000),
    ] {
        let mut queued = case(name);
        queued.links[0].queue = Duration::from_millis(ms);
        cases.push(queued);
    }
    for (name, jitter_ms) in [("jitter 0 ms", 0.0), ("jitter 10 ms", 10.0), ("jitter 20 ms", 20.0)]
    {
        cases.push(Case { jitter_ms, ..case(name) });
    }
    cases
}

/// Which stack sends the media.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stack {
    /// The shipped estimator and pacer.
    Chappe,
    /// str0m's, in a whole peer connection.
    Str0m,
}

impl Stack {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chappe => "chappe",
            Self::Str0m => "str0m",
        }
    }
}

impl Case {
    /// Runs it in virtual time.
    pub fn run(&self, stack: Stack, source: &Source, seed: u64) -> Vec<Record> {
        // Only differences count: any instant is a beginning.
        let start = Instant::now();
        let flows = self.flows.iter().zip(0u64..).map(|(plan, index)| {
            let seed = seed * 100 + index;
            let (name, sender, receiver): (_, Box<dyn super::world::Endpoint>, Box<_>) = match &plan
                .traffic
            {
                Traffic::Tcp(load) => (
                    format!("TCP {index}"),
                    Box::new(TcpSender::new(seed, start, *load)),
                    Box::new(TcpReceiver::default()) as Box<dyn super::world::Endpoint>,
                ),
                Traffic::Media(schedule) => {
                    let frames = FrameSource::new(seed, start, schedule.clone(), source);
                    match stack {
                        Stack::Chappe => (
                            format!("media {index}"),
                            Box::new(MediaSender::new(seed, start + schedule.start, frames)),
                            Box::new(MediaReceiver::new(start)),
                        ),
                        Stack::Str0m => {
                            let (sender, receiver) = str0m::pair(start + schedule.start, frames);
                            (format!("str0m {index}"), Box::new(sender), Box::new(receiver))
                        }
                    }
                }
            };
            Flow {
                name,
                sender,
                receiver,
                forward: Some(plan.forward),
                back: plan.back,
                delay: plan.delay,
            }
        });
        World::new(start, self.links.clone(), flows.collect(), self.jitter_ms, seed)
            .run(self.length)
    }
}
