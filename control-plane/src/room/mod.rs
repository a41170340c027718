//! Rooms: pure rules in `state`, one actor task per room, a registry of live rooms.

mod actor;
mod handle;
mod home;
mod ids;
mod news;
mod peer;
mod registry;
mod report;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod types;

pub use handle::RoomHandle;
pub use news::News;
pub use registry::{CreateError, Population, RoomPolicy, RoomRegistry, Shutdown};
pub(crate) use state::permissions_of;
pub use types::*;
