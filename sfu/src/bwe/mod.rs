//! How much a subscriber's transport takes: send-side bandwidth estimation (Google congestion control,
//! draft-ietf-rmcat-gcc-02; docs/bwe.md has the pipeline, the differences and the constants).
//!
//! A [`SendSideEstimator`] is told what left and what the receiver says about it, and gives a rate to stay below. It asks
//! for probes; the pacer sends them. Owned by a peer; it knows no clock and sends nothing itself.

mod aimd;
mod arrival_group;
mod competition;
mod estimator;
mod fallback;
mod feedback_clock;
mod history;
mod loss;
mod path_delay;
mod probing;
mod throughput;
mod trendline;

pub use estimator::{EstimatorConfig, EstimatorStats, Limit, SendSideEstimator};

/// What the delay says about the path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Usage {
    /// The delay stands still.
    #[default]
    Normal,
    /// The delay grows: a queue fills.
    Overuse,
    /// The delay shrinks: a queue drains.
    Underuse,
}
