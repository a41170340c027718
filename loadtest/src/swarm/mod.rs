//! The swarm: clients on worker threads, here or on agents, led through the phases of a run.

mod crew;
mod lead;
mod run;
mod worker;

pub(crate) use crew::Crew;
pub(crate) use lead::Lead;
pub(crate) use run::{Phase, Point, Progress, Run, TesterRun};
pub(crate) use worker::{Order, Worker};
