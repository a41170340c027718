//! Signalling: one participant's session over its WebSocket.

pub mod sdp;
pub mod wire;
