//! What the outside asks over HTTP and gRPC: request -> room command -> reply, no rules.

mod access;
mod grpc;
pub mod page;
mod stats;
#[cfg(test)]
mod tests;
mod twirp;

pub use access::ApiState;
pub use grpc::grpc_routes;
pub use stats::own_stats_routes;
pub use twirp::routes;
