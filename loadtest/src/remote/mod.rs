//! Several machines play one run: an agent on each, and a coordinator that leads them as it would lead its own threads.
//!
//! One TCP connection per agent, opened by the coordinator. Both prove that they hold the same secret and seal each message
//! (`seal`); messages are JSON (`message`). The run's clock is the coordinator's: agents learn theirs against it.

mod agent;
mod link;
mod message;
mod seal;

pub(crate) use agent::serve;
pub(crate) use link::{AgentLink, ClockState, Setting};
pub(crate) use seal::Secret;
