//! The gRPC face of the node (`chappe.node.v1`): request -> checks -> command -> reply.
//!
//! It keeps what the contract promises and shards do not know: epochs, revisions, whole states, `owner_state`, snapshots.
//! It makes no decision about media. Nothing here is on the packet path: what several tasks share here stands behind one
//! short lock.

mod admin;
mod convert;
mod node;
mod packed;
mod report;
mod serve;
mod service;
mod state;
mod watch;

pub use admin::admin_routes;
pub use node::{Node, NodeHandle};
pub use serve::ServeError;
pub use service::NodeApi;

pub use crate::runtime::StartError;
