//! Rooms: pure rules in `state`, one actor task per room, a registry of live rooms.

mod types;

pub use types::*;
