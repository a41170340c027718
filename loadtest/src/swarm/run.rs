//! What a run shows while it goes on, and what it brought.

use std::{collections::BTreeMap, time::Duration};

use super::crew::Player;
use crate::{
    client::ws::ConnectError,
    measure::{Cores, Counters, Stats, Usage},
};

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Joining,
    WarmingUp,
    Measuring,
    Leaving,
}

/// One second of a run. Its distributions are not kept: they are some hundred kilobytes each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Point {
    /// Since the start.
    pub(crate) at: Duration,
    pub(crate) in_room: u32,
    pub(crate) count: Counters,
    pub(crate) freezes: u64,
    /// Of latency, in milliseconds: p50 and p99.
    pub(crate) latency_ms: Option<(f64, f64)>,
    /// Of the tester's own delay, p99.
    pub(crate) tester_delay_ms: Option<f64>,
}

impl Point {
    pub(crate) fn of(at: Duration, in_room: u32, stats: &Stats) -> Self {
        let latency = stats.latency();
        Self {
            at,
            in_room,
            count: stats.count.clone(),
            freezes: stats.freezes.count(),
            latency_ms: latency.quantile_ms(0.5).zip(latency.quantile_ms(0.99)),
            tester_delay_ms: stats.tester_delay.quantile_ms(0.99),
        }
    }
}

/// What a live view shows.
#[derive(Clone, Debug)]
pub(crate) struct Progress<'a> {
    pub(crate) phase: Phase,
    pub(crate) planned: u64,
    pub(crate) joined: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    /// Share of the run that is over.
    pub(crate) done: f64,
    /// The last whole second.
    pub(crate) last: Option<&'a Point>,
}

/// What a run brought.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) stats: Stats,
    pub(crate) series: Vec<Point>,
    pub(crate) window: Duration,
    pub(crate) interrupted: bool,
    pub(crate) planned: u64,
    pub(crate) joined: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    pub(crate) left: u64,
    /// Clients in the room when the window closed.
    pub(crate) in_room: u64,
    pub(crate) full_clients: u64,
    pub(crate) sinks: u64,
    pub(crate) testers: Vec<TesterRun>,
    /// Before and after the window.
    pub(crate) server: Option<(Usage, Usage)>,
    /// Of this machine, before and after the window.
    pub(crate) cores: Option<(Cores, Cores)>,
    /// Counters of the server's metrics, over the window.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Between the two readings of the metrics: a little more than the window.
    pub(crate) metrics_span: Duration,
    /// A sentence for each.
    pub(crate) agents_lost: Vec<String>,
    /// Joins that failed, the first of each category.
    pub(crate) errors: BTreeMap<String, (ConnectError, u64)>,
}

/// A process that played clients: before the first of them, and before and after the window.
#[derive(Clone, Debug, Default)]
pub(crate) struct TesterRun {
    pub(crate) at_start: Player,
    pub(crate) before: Player,
    pub(crate) after: Player,
    /// Planned for it.
    pub(crate) clients: u64,
}
