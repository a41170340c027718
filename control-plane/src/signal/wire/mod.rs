//! Frames and requests of the wire protocol: bytes and text <-> messages, without state.
//!
//! A binary frame is one protobuf message, a text frame the same in proto3 JSON; an answer goes in the kind that was
//! last received. The messages themselves come from the crate `livekit-protocol`.

mod connect;
mod frame;

#[cfg(test)]
mod tests;

pub use connect::{ConnectError, ConnectParams, Endpoint, Reconnect};
pub use frame::{Frame, FrameKind, MAX_FRAME, WireError, decode, encode};
