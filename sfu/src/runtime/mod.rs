//! What the deterministic core is driven by: threads, clock, entropy, mailboxes, rings, a budget of work, placement.
//!
//! One OS thread per shard, which sleeps on the shard's sockets and its doorbell. Other threads reach it by its bounded mailbox;
//! what each says comes out of a ring of its own, in the order it happened.

mod candidates;
mod doorbell;
mod heap;
mod node;
mod outputs;
mod placement;
mod ring;
mod stats;
mod steering;
mod tcp_table;
mod worker;

pub(crate) use candidates::{Candidate, CandidateKind};
pub(crate) use node::Runtime;
pub use node::StartError;
pub(crate) use outputs::OutputReader;
pub(crate) use placement::Placer;
pub(crate) use worker::{MailboxError, Output};
