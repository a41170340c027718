//! What came of a case: the figures of RFC 8868 and whether they reach the goal.

use std::time::Duration;

use serde::Serialize;

use super::{
    cases::{Case, Goal, Traffic},
    encoder::Encoder,
    media::Schedule,
    world::Record,
};

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Section of RFC 8867.
    pub case: String,
    /// Media that arrived over the capacity; the lower of both ways. Without the first 10 s and the 5 s after each change.
    pub utilisation: f64,
    /// The same over the share that media would have if all flows, TCP too, had the same all the time.
    #[serde(skip)]
    pub of_fair_share: f64,
    /// The 95th percentile of the time that media waited in the bottleneck, over the whole run.
    pub p95_queue_ms: f64,
    /// Fraction of media packets dropped, over the whole run.
    pub loss: f64,
    /// Jain's index of media flows while all are there.
    pub fairness: f64,
    /// The longest time to 80 % of a risen capacity or of a resumed share, in seconds; where flows join, until they
    /// share fairly.
    pub converge_s: Option<f64>,
    /// The longest time until less is sent than a fallen capacity takes, in seconds.
    #[serde(skip)]
    pub fall_s: Option<f64>,
    /// The least that arrived of a flow in five seconds while it had something to send, in kb/s.
    #[serde(skip)]
    pub lowest_kbps: f64,
    /// Padding over media.
    pub probing: f64,
    /// Every goal is reached.
    pub pass: bool,
}

const WARM_UP: Duration = Duration::from_secs(10);
const AFTER_CHANGE: Duration = Duration::from_secs(5);
/// Rates are looked at over this time when they rise.
const RISE_WINDOW: Duration = Duration::from_secs(1);
/// And over this when they fall.
const FALL_WINDOW: Duration = Duration::from_millis(400);
/// Limits for both.
const RISE_S: f64 = 10.0;
const FALL_S: f64 = 1.5;

impl Figures {
    /// The worst of both, figure by figure.
    pub fn worst(self, other: &Self) -> Self {
        let most = |a: Option<f64>, b: Option<f64>| [a, b].into_iter().flatten().reduce(f64::max);
        Self {
            case: self.case,
            utilisation: self.utilisation.min(other.utilisation),
            of_fair_share: self.of_fair_share.min(other.of_fair_share),
            p95_queue_ms: self.p95_queue_ms.max(other.p95_queue_ms),
            loss: self.loss.max(other.loss),
            fairness: self.fairness.min(other.fairness),
            converge_s: most(self.converge_s, other.converge_s),
            fall_s: most(self.fall_s, other.fall_s),
            lowest_kbps: self.lowest_kbps.min(other.lowest_kbps),
            probing: self.probing.max(other.probing),
            pass: self.pass && other.pass,
        }
    }
}

/// One row of the table of layers.
#[derive(Clone, Debug, Serialize)]
pub struct LayerFigures {
    /// All that the other table has; whether it passes is decided by `chosen`.
    #[serde(flatten)]
    pub flows: Figures,
    /// The sum of the layers sent over the best sum that fits the capacity, averaged over time; what is too much counts
    /// like what is missing. Without the first 10 s and the 5 s after each change.
    pub chosen: f64,
    /// Changes of layer in a minute, of all flows.
    #[serde(rename = "switches_per_min")]
    pub switches: f64,
}

impl LayerFigures {
    /// The worst of both, figure by figure.
    pub fn worst(self, other: &Self) -> Self {
        Self {
            flows: self.flows.worst(&other.flows),
            chosen: self.chosen.min(other.chosen),
            switches: self.switches.max(other.switches),
        }
    }
}

/// Of the best sum.
const CHOSEN_GOAL: f64 = 0.95;

/// Measures a run of flows that send one of `layers` each, in bits per second.
pub fn measure_layers(case: &Case, records: &[Record], layers: &[u64]) -> LayerFigures {
    let run = Run { case, records };
    let (mut sum, mut count) = (0.0, 0u32);
    for (from, to) in run.measured(0) {
        let capacity = case.links[0].rate_at(from);
        let best = best_sum(layers, capacity, records.len());
        let index = (from.as_micros() / Record::BIN.as_micros()) as usize;
        let chosen: u64 = records
            .iter()
            .filter_map(|record| record.bins.get(index).and_then(|bin| bin.chosen))
            .sum();
        sum += score(chosen, best) * (to - from).as_secs_f64();
        count += 1;
    }
    let switches: usize = records
        .iter()
        .map(|record| {
            record.bins.windows(2).filter(|pair| pair[0].chosen != pair[1].chosen).count()
        })
        .sum();
    let chosen = sum / (f64::from(count) * Record::BIN.as_secs_f64());
    let mut flows = measure(case, records);
    flows.case = format!("{}-layers", case.name);
    flows.pass = chosen >= CHOSEN_GOAL;
    let switches = switches as f64 * 60.0 / case.length.as_secs_f64();
    LayerFigures { flows, chosen, switches }
}

/// Of a sum of layers against the best one: one at most, and as much less above it as below it.
fn score(chosen: u64, best: u64) -> f64 {
    1.0 - (chosen.abs_diff(best) as f64 / best as f64).min(1.0)
}

/// The largest sum of one layer per flow that a capacity takes, headers included.
fn best_sum(layers: &[u64], capacity: u64, flows: usize) -> u64 {
    let mut sums = vec![0];
    for _ in 0..flows {
        sums = sums.iter().flat_map(|sum| layers.iter().map(move |layer| sum + layer)).collect();
    }
    let lowest = layers.first().map_or(0, |lowest| lowest * flows as u64);
    sums.into_iter().filter(|sum| *sum <= capacity).max().unwrap_or(lowest).max(lowest)
}

/// Measures a run.
pub fn measure(case: &Case, records: &[Record]) -> Figures {
    let run = Run { case, records };
    let waits = run.waits();
    let (packets, dropped) = run
        .media()
        .fold((0, 0), |sum, (_, record)| (sum.0 + record.packets, sum.1 + record.dropped));
    let bins = || run.media().flat_map(|(_, record)| &record.bins);
    let received: u64 = bins().map(|bin| bin.received).sum();
    let padding: u64 = bins().map(|bin| bin.padding).sum();
    let mut figures = Figures {
        case: case.name.to_string(),
        utilisation: run.utilisation(|_, _| 1.0),
        of_fair_share: run.utilisation(|media, all| media as f64 / all as f64),
        p95_queue_ms: percentile(&waits, 0.95),
        loss: dropped as f64 / packets.max(1) as f64,
        fairness: run.fairness(run.all_there() + WARM_UP, case.length),
        converge_s: run.converge_s(),
        fall_s: run.fall_s(),
        lowest_kbps: run.lowest_bps() / 1e3,
        probing: padding as f64 / received.max(1) as f64,
        pass: false,
    };
    figures.pass = passes(case.goal, &figures);
    figures
}

fn passes(goal: Goal, figures: &Figures) -> bool {
    let rose = figures.converge_s.is_none_or(|seconds| seconds <= RISE_S);
    let fell = figures.fall_s.is_none_or(|seconds| seconds <= FALL_S);
    match goal {
        Goal::Follow { utilisation, p95_queue_ms, loss } => {
            figures.utilisation >= utilisation
                && figures.p95_queue_ms <= p95_queue_ms
                && figures.loss <= loss
                && rose
                && fell
        }
        Goal::Use(share) => figures.utilisation >= share,
        Goal::ShareWithTcp(share) => figures.of_fair_share >= share,
        Goal::Fair(index) => figures.fairness >= index,
        Goal::AboveMinimum => figures.lowest_kbps * 1e3 >= Encoder::RANGE.0,
        Goal::Resume(_) => rose,
    }
}

struct Run<'a> {
    case: &'a Case,
    records: &'a [Record],
}

impl Run<'_> {
    fn media(&self) -> impl Iterator<Item = (usize, &Record)> {
        self.case
            .flows
            .iter()
            .zip(self.records)
            .filter(|(plan, _)| matches!(plan.traffic, Traffic::Media(_)))
            .map(|(plan, record)| (plan.forward, record))
    }

    fn waits(&self) -> Vec<f64> {
        let mut waits: Vec<_> = self
            .media()
            .flat_map(|(_, record)| record.waits.iter().map(|(_, wait)| wait.as_secs_f64() * 1e3))
            .collect();
        waits.sort_by(f64::total_cmp);
        waits
    }

    /// Moments of measuring, in steps of a bin, and whether they count.
    fn measured(&self, link: usize) -> impl Iterator<Item = (Duration, Duration)> {
        let changes: Vec<_> = self.case.links[link].rates.iter().map(|(at, _)| *at).collect();
        let count = (self.case.length.as_micros() / Record::BIN.as_micros()) as u32;
        (0..count).map(|n| Record::BIN * n).filter_map(move |from| {
            let settled = changes.iter().all(|change| {
                let wait = if change.is_zero() { WARM_UP } else { AFTER_CHANGE };
                from < *change || from >= *change + wait
            });
            settled.then_some((from, from + Record::BIN))
        })
    }

    /// Of the capacity, or of what `share` says of it by the number of media flows and of all.
    fn utilisation(&self, share: impl Fn(usize, usize) -> f64) -> f64 {
        let tcp = self.records.len() - self.media().count();
        let of_link = |link: usize| {
            let flows: Vec<_> = self.media().filter(|(forward, _)| *forward == link).collect();
            let share = share(flows.len(), flows.len() + tcp);
            let (mut bits, mut capacity) = (0.0, 0.0);
            for (from, to) in self.measured(link) {
                let bps: f64 = flows.iter().map(|(_, flow)| flow.received_bps(from, to)).sum();
                bits += bps * (to - from).as_secs_f64();
                capacity += self.case.links[link].bits_between(from, to) * share;
            }
            bits / capacity
        };
        (0..self.case.links.len()).map(of_link).fold(f64::INFINITY, f64::min)
    }

    /// When the last media flow starts.
    fn all_there(&self) -> Duration {
        self.case
            .flows
            .iter()
            .filter_map(|plan| match &plan.traffic {
                Traffic::Media(schedule) => Some(match schedule.pause {
                    Some((_, until)) => until,
                    None => schedule.start,
                }),
                Traffic::Tcp(_) => None,
            })
            .max()
            .unwrap_or_default()
    }

    fn lowest_bps(&self) -> f64 {
        let mut lowest = f64::INFINITY;
        for (plan, record) in self.case.flows.iter().zip(self.records) {
            let Traffic::Media(schedule) = &plan.traffic else { continue };
            let mut from = schedule.start + AFTER_CHANGE;
            while from + AFTER_CHANGE <= self.case.length {
                let to = from + AFTER_CHANGE;
                let silent = schedule.pause.is_some_and(|(pause, on)| from <= on && to >= pause);
                if !silent {
                    lowest = lowest.min(record.received_bps(from, to));
                }
                from += RISE_WINDOW;
            }
        }
        lowest
    }

    fn fairness(&self, from: Duration, to: Duration) -> f64 {
        let rates: Vec<_> = self.media().map(|(_, flow)| flow.received_bps(from, to)).collect();
        let sum: f64 = rates.iter().sum();
        let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
        if squares == 0.0 { 0.0 } else { sum * sum / (rates.len() as f64 * squares) }
    }

    /// (link, when, capacity before, capacity after, until when it holds).
    fn changes(&self) -> impl Iterator<Item = (usize, Duration, u64, u64, Duration)> + '_ {
        self.case.links.iter().enumerate().flat_map(move |(link, plan)| {
            plan.rates.windows(2).enumerate().map(move |(index, pair)| {
                let until = plan.rates.get(index + 2).map_or(self.case.length, |(at, _)| *at);
                (link, pair[1].0, pair[0].1, pair[1].1, until)
            })
        })
    }

    fn of_link(&self, link: usize, rate: impl Fn(&Record) -> f64) -> f64 {
        self.media().filter(|(forward, _)| *forward == link).map(|(_, flow)| rate(flow)).sum()
    }

    fn fall_s(&self) -> Option<f64> {
        self.changes()
            .filter(|(_, _, before, after, _)| after < before)
            .map(|(link, at, _, after, until)| {
                first(at, until, FALL_WINDOW, |from, to| {
                    self.of_link(link, |flow| flow.sent_bps(from, to)) <= after as f64
                })
            })
            .reduce(f64::max)
    }

    fn converge_s(&self) -> Option<f64> {
        match self.case.goal {
            Goal::Fair(goal) => {
                Some(first(self.all_there(), self.case.length, WARM_UP, |from, to| {
                    self.fairness(from, to) >= goal
                }))
            }
            Goal::Resume(part) => {
                let share = self.case.links[0].rates[0].1 as f64 / self.records.len() as f64;
                let paused = self.case.flows.iter().zip(self.records).find(|(plan, _)| {
                    matches!(&plan.traffic, Traffic::Media(Schedule { pause: Some(_), .. }))
                })?;
                Some(first(self.all_there(), self.case.length, RISE_WINDOW, |from, to| {
                    paused.1.received_bps(from, to) >= share * part
                }))
            }
            _ => self
                .changes()
                .filter(|(_, _, before, after, _)| after > before)
                .map(|(link, at, _, after, until)| {
                    first(at, until, RISE_WINDOW, |from, to| {
                        self.of_link(link, |flow| flow.received_bps(from, to)) >= after as f64 * 0.8
                    })
                })
                .reduce(f64::max),
        }
    }
}

/// Seconds from `at` to the end of the first window in which something holds; infinite when it never does.
fn first(
    at: Duration,
    until: Duration,
    window: Duration,
    holds: impl Fn(Duration, Duration) -> bool,
) -> f64 {
    let mut to = at + window;
    while to <= until {
        if holds(to - window, to) {
            return (to - at).as_secs_f64();
        }
        to += Record::BIN;
    }
    f64::INFINITY
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    let index = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_sum_that_fits_scores_best() {
        const LAYERS: [u64; 3] = [150, 450, 1_300];
        let best = best_sum(&LAYERS, 2_000, 2);
        assert_eq!(best, 1_750);
        assert_eq!(best_sum(&LAYERS, 100, 2), 300, "nothing fits");
        assert_eq!(score(1_750, best), 1.0);
        assert!((score(1_450, best) - 0.829).abs() < 0.001, "too little");
        assert!((score(2_600, best) - 0.514).abs() < 0.001, "too much");
        assert_eq!(score(9_000, best), 0.0);
    }
}
