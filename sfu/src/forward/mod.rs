//! The decision per (track, subscriber): which packets pass, and under which numbers.
//!
//! Four objects, each testable alone: [`LayerSelector`] passes or drops, [`RtpRewriter`] keeps sequence numbers and
//! timestamps continuous, [`CodecRewriter`] does the same for fields of the payload descriptor and [`DescriptorRewriter`]
//! for the dependency descriptor. [`Forwarder`] holds one of each. Nothing here knows a transport or touches a packet: what
//! changes is written down as [`Rewritten`](crate::cache::Rewritten) and applied when `egress` copies the packet.

mod codec_rewriter;
mod counter;
mod descriptor_rewriter;
mod forwarder;
mod layer_gate;
mod layer_selector;
mod renumber;
mod rtp_rewriter;
mod silence;

pub use crate::cache::Layers;
pub use codec_rewriter::CodecRewriter;
pub use descriptor_rewriter::DescriptorRewriter;
pub use forwarder::Forwarder;
pub use layer_selector::{Decision, LayerSelector};
pub use rtp_rewriter::RtpRewriter;
