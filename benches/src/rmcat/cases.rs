//! The cases of RFC 8867 sections 5.1 to 5.8, as data.

use std::time::{Duration, Instant};

use super::{
    link::LinkPlan,
    media::{FrameSource, MediaReceiver, MediaSender, Schedule, Source},
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
    /// Of the share that TCP and media would have each.
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
}

const FOLLOW: Goal = Goal::Follow { utilisation: 0.85, p95_queue_ms: 80.0, loss: 0.005 };
const SECOND: Duration = Duration::from_secs(1);
const DELAY: Duration = Duration::from_millis(50);
const QUEUE: Duration = Duration::from_millis(300);

fn link(queue: Duration, rates: &[(u32, f64)]) -> LinkPlan {
    let rates = rates.iter().map(|(at, mbps)| (SECOND * *at, (mbps * 1e6) as u64)).collect();
    LinkPlan { rates, queue }
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
        },
        Case {
            name: "5.2",
            length: SECOND * 125,
            links: vec![link(QUEUE, &[(0, 4.0), (25, 2.0), (50, 3.5), (75, 1.0), (100, 2.0)])],
            flows: vec![media(0), media(0)],
            goal: FOLLOW,
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
        },
        Case {
            name: "5.4",
            length: SECOND * 120,
            links: vec![link(QUEUE, &[(0, 3.5)])],
            flows: vec![media(0), media(20), media(40)],
            goal: Goal::Fair(0.9),
        },
        Case {
            name: "5.5",
            length: SECOND * 300,
            links: vec![link(QUEUE, &[(0, 4.0)])],
            flows: [(0, 10), (10, 25), (20, 50), (30, 100), (40, 150)]
                .map(|(start, ms)| with_delay(media(start), ms))
                .to_vec(),
            goal: Goal::Fair(0.8),
        },
        against_tcp("5.6", 300, Goal::ShareWithTcp(0.25)),
        against_tcp("5.6b", 1_000, Goal::AboveMinimum),
        Case {
            name: "5.7",
            length: SECOND * 300,
            links: vec![link(QUEUE, &[(0, 2.0)])],
            flows: short_tcp,
            goal: Goal::ShareWithTcp(0.5),
        },
        Case {
            name: "5.8",
            length: SECOND * 120,
            links: vec![link(QUEUE, &[(0, 3.5)])],
            flows: vec![media(0), paused, media(0)],
            goal: Goal::Resume(0.8),
        },
    ]
}

/// Which stack sends the media.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stack {
    /// The shipped estimator and pacer.
    Chappe,
}

impl Case {
    /// Runs it in virtual time.
    pub fn run(&self, stack: Stack, source: &Source, seed: u64) -> Vec<Record> {
        // Only differences count: any instant is a beginning.
        let start = Instant::now();
        let flows = self.flows.iter().zip(0u64..).map(|(plan, index)| {
            let seed = seed * 100 + index;
            let (name, sender, receiver): (_, Box<dyn super::world::Endpoint>, Box<_>) =
                match &plan.traffic {
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
                                Box::new(MediaSender::new(start + schedule.start, frames)),
                                Box::new(MediaReceiver::new(start)),
                            ),
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
        World::new(start, self.links.clone(), flows.collect(), seed).run(self.length)
    }
}
