//! Rooms: pure rules in `state`, one actor task per room, a registry of live rooms.

#[allow(dead_code)] // until the actor reads the messages
mod handle;
mod types;

pub use handle::RoomHandle;
pub use types::*;
