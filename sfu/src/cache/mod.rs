//! A track's packets on one shard: written once by `ingress` (or by a relay), read by every subscriber's egress.
//!
//! What a packet means was read out of it once, at the border: [`PacketMeta`] is all that selectors and rewriters
//! look at, so that fan-out touches neither headers nor payload descriptors again.

mod clock;
mod format;
mod layers;
mod meta;
mod packet_cache;
mod rewritten;
mod seq_window;
#[cfg(test)]
pub(crate) mod test_packets;

pub(crate) use clock::ticks_in;
pub use clock::{SenderClock, Timing};
pub use format::{FormatId, Formats};
pub use layers::{DecodeTargets, LadderStep, LayerFacts, LayerSet, LayerUses, Layers};
pub use meta::{
    CachedPacket, CodecFields, EncodingSet, FrameFacts, PacketMeta, Vp8Fields, Vp9Fields,
    Vp9Flexible,
};
pub use packet_cache::{PacketCache, Refused};
pub use rewritten::{CodecPatch, Rewritten};
pub(crate) use seq_window::{Seen, SeqWindow};
