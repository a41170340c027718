//! The report: one JSON object (described in docs/loadtest.md), and what people see of it.

mod build;
mod compare;
mod condition;
mod html;
mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{measure::Times, scenario::Scenario};

pub(crate) use build::{LATE_MS, build, figure_names};
pub(crate) use compare::compare;
pub(crate) use condition::Condition;
pub(crate) use html::html;
pub(crate) use table::table;

/// Version of the schema: raised when a field changes its meaning.
pub(crate) const SCHEMA: u32 = 1;

/// What a run brought.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    pub(crate) tool: String,
    /// Seconds since the Unix epoch.
    pub(crate) finished_at: u64,
    pub(crate) scenario: Scenario,
    /// Ended before its time.
    pub(crate) interrupted: bool,
    /// Length of the measured window.
    pub(crate) window_seconds: f64,
    pub(crate) clients: Clients,
    /// Values by name: what `--fail-if`, `find-capacity` and `compare` speak of.
    pub(crate) figures: BTreeMap<String, f64>,
    /// How latency was measured.
    pub(crate) latency_method: String,
    /// Distributions by name, in milliseconds.
    pub(crate) times: BTreeMap<String, Summary>,
    pub(crate) server: Option<Server>,
    pub(crate) tester: Tester,
    /// The machines that played, when several did.
    #[serde(default)]
    pub(crate) agents: Vec<AgentShare>,
    pub(crate) series: Vec<Second>,
    /// What the reader must know before believing the figures.
    pub(crate) warnings: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Clients {
    pub(crate) planned: u64,
    pub(crate) joined: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    pub(crate) in_room_at_end: u64,
    /// Of the planned ones, played whole.
    pub(crate) full: u64,
    /// Of the planned ones, counted by headers.
    pub(crate) sinks: u64,
    pub(crate) failed_by_reason: BTreeMap<String, u64>,
    pub(crate) lost_by_reason: BTreeMap<String, u64>,
}

/// A distribution, in milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    /// Steps of the distribution: milliseconds, share at or below.
    pub(crate) steps: Vec<(f64, f64)>,
}

impl Summary {
    /// `None` without a sample.
    pub(crate) fn of(times: &Times) -> Option<Self> {
        let quantile = |quantile| times.quantile_ms(quantile).unwrap_or_default();
        (times.count() > 0).then(|| Self {
            count: times.count(),
            mean: round(times.mean_ms().unwrap_or_default()),
            p50: round(quantile(0.5)),
            p90: round(quantile(0.9)),
            p99: round(quantile(0.99)),
            p999: round(quantile(0.999)),
            max: round(times.max_ms().unwrap_or_default()),
            steps: times.steps().into_iter().map(|(ms, share)| (round(ms), share)).collect(),
        })
    }
}

/// The server's side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Server {
    pub(crate) pid: Option<u32>,
    /// Of one core, over the window.
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) system_cpu_percent: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
    /// Growth of the counters in its `/metrics` over the window, summed over labels.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Between the two readings of the metrics.
    #[serde(default)]
    pub(crate) metrics_seconds: f64,
}

/// The tester's own share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tester {
    pub(crate) workers: usize,
    /// Of one core, over the window.
    pub(crate) cpu_percent: f64,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_bytes_per_client: u64,
    /// It could not keep up: latency, jitter and loss are partly its own.
    pub(crate) is_bottleneck: bool,
}

/// One of several machines.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AgentShare {
    /// Its address, as the coordinator was told.
    pub(crate) name: String,
    /// Planned for it.
    pub(crate) clients: u64,
    pub(crate) workers: usize,
    /// Of one core, over the window.
    pub(crate) cpu_percent: f64,
    pub(crate) memory_bytes: u64,
    /// Of its clock against the coordinator's, taken out of all latencies.
    pub(crate) clock_ahead_ms: f64,
    /// What may be left of that.
    pub(crate) clock_error_ms: f64,
}

/// One second of the run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Second {
    pub(crate) at_seconds: f64,
    pub(crate) in_room: u32,
    pub(crate) received_mbps: f64,
    pub(crate) packets_per_second: f64,
    pub(crate) p50_latency_ms: Option<f64>,
    pub(crate) p99_latency_ms: Option<f64>,
    pub(crate) loss_before_repair_percent: Option<f64>,
    pub(crate) loss_percent: Option<f64>,
    pub(crate) freezes: u64,
}

/// Three digits behind the point.
fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
pub(crate) mod tests;
