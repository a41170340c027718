//! Rooms across shards: what they tell each other, and the lanes it waits in.
//!
//! A published packet crosses once per destination shard, into that shard's own packet cache, and is fanned out there.
//! Only demanded encodings cross. Nothing here knows where the other shard is: today a ring on this node, later QUIC.

mod lane;
mod message;

pub(crate) use lane::{Lane, LaneFull};
pub use message::{DataMessage, Nacked, RelayMessage, RelayPacket};
