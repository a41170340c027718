//! Who is here, what is published and where, who takes what: membership and routing tables of one shard.
//!
//! Derived from commands and from what other shards announce; never a source of truth. Nothing here knows packets.

mod id;
mod speakers;
mod table;

pub use id::{PeerId, RoomId, ShardId};
pub use speakers::{LevelWindow, SLOT_MS};
pub(crate) use speakers::{Speakers, Speaking};
pub(crate) use table::{PeerKey, RoomKey, Rooms, RouteKey, Source, Taker};
