//! What a subscriber gets: packets of a cache under its own header, and what it says about them
//! (RFC 3550, 4585, 4588).
//!
//! An [`EgressStream`] writes packets into the caller's buffer; sealing and the transport-wide counter belong to whoever
//! sends them. Nothing is allocated per packet.

mod allocator;
mod evidence;
mod format_table;
mod header_template;
mod pacer;
mod patience;
mod protection;
mod raises;
mod records;
mod redundancy;
mod repair_need;
mod stream;

pub use allocator::{BitrateAllocator, Claim};
pub use evidence::{Evidence, Seen};
pub use pacer::Pacer;
pub use patience::Patience;
pub use protection::RepairShare;
pub use raises::Raises;
pub use repair_need::{LossCount, RepairNeed};
pub(crate) use stream::Leaving;
pub use stream::{EgressConfig, EgressStream, FecStream, Resend, WriteError, Written};
