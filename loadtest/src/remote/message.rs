//! What coordinator and agent say to each other.

use serde::{Deserialize, Serialize};

use crate::{
    client::{Report, Share},
    measure::{Stats, Usage},
    redacted::Redacted,
    scenario::Scenario,
    swarm::Order,
};

/// From the coordinator.
#[derive(Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // The large one is rare.
pub(super) enum ToAgent {
    /// First: what will be run. Answered with `Ready` or `Refused`.
    Setup(Setup),
    /// What time is it? Nanoseconds since the Unix epoch by the coordinator's clock.
    Clock(u64),
    Order(Order),
    /// Hand over what was measured since the last time.
    Take,
}

/// What will be run, and against which server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) url: String,
    pub(super) key: String,
    pub(super) secret: Redacted,
    /// Certificates to trust instead of the system's, as PEM.
    pub(super) certificates: Option<String>,
    pub(super) scenario: Scenario,
    pub(super) run: u32,
    pub(super) share: Share,
    /// Clients that this agent will play, those that churn brings left out.
    pub(super) clients: u64,
}

/// From an agent.
#[derive(Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // The large one is the usual one.
pub(super) enum FromAgent {
    Ready {
        workers: usize,
        usage: Usage,
    },
    /// One sentence.
    Refused(String),
    /// The question's time, and the agent's clock when it came and when the answer left.
    Clock {
        asked: u64,
        came: u64,
        left: u64,
    },
    Report(Report),
    Taken(Taken),
}

/// What an agent measured since it was asked last, and what it has used in all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) stats: Stats,
    pub(crate) usage: Option<Usage>,
}
