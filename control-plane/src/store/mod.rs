//! Who owns which room. One control plane keeps it in memory; several share a store.
//!
//! No media and no signalling of a running room depends on the store: it is asked when a room starts or ends.

mod memory;

use std::{fmt, future::Future, pin::Pin};

pub use memory::MemoryStore;

/// The right to command a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Grows with each claim of the room: a node refuses commands with a smaller one.
    pub epoch: u64,
}

/// Why the store could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached.
    #[error("the store is out of reach: {0}")]
    Unavailable(String),
}

/// What a call to a store leads to.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where ownership of rooms is kept.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Claims a room, by its sid, with an epoch above `above` and above every one granted before.
    fn claim<'a>(&'a self, room_sid: &'a str, above: u64) -> StoreFuture<'a, Lease>;

    /// Gives a room up. Unknown rooms are none of its business.
    fn release<'a>(&'a self, room_sid: &'a str) -> StoreFuture<'a, ()>;
}
