//! Media nodes: a client of the node API, the nodes that are known, which one takes a new room.

mod client;
mod link;
mod nodes;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use client::{CallError, Node};
pub use nodes::{NoNode, NodeChange, NodeEvent, Nodes};
