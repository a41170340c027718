//! Chappe's media node. It knows packets and opaque ids; never SDP, JSON, HTTP or users.
//!
//! The media core is a function of its inputs: everything from datagram to datagram is sans-IO, with one `now` per
//! slice of work. Clock, entropy, threads and sockets live in `runtime` and `net`. A module imports only to its
//! right (`tests/layering.rs` fails on a forbidden arrow):
//!
//! ```text
//! main -> control -> runtime -> shard -> peer -> { ingress, forward, egress, bwe, transport } -> { relay, cache } -> wire -> rtp
//! ```

pub mod bwe;
pub mod cache;
pub mod config;
pub mod control;
pub mod egress;
pub mod forward;
pub mod ingress;
mod net;
#[cfg(fuzzing)]
pub use net::fuzz_framing;
pub mod peer;
mod prefetch;
pub mod relay;
pub mod room;
pub mod rtp;
mod runtime;
pub mod shard;
pub mod telemetry;
pub mod transport;
pub mod wire;
