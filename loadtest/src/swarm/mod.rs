//! The swarm: clients on worker threads, led through the phases of a run.

mod lead;
mod worker;

pub(crate) use lead::{Lead, Phase, Point, Progress, Run};
