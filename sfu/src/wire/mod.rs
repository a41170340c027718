//! Bytes <-> values: no state, no time, no allocation. Every parser checks its bounds and is fuzzed (`fuzz/`).
//!
//! Views borrow from the datagram; writers fill the caller's buffer and say how much they used. What arrives from
//! a peer is an error or a value, never a panic.

mod cursor;
mod data_packet;
mod demux;
mod dependency_descriptor;
mod extension;
mod flexfec;
mod ntp;
pub mod payload;
pub mod rtcp;
mod rtp_header;
mod rtp_packet;

pub use cursor::BufferTooSmall;
pub use data_packet::{DataPacket, DataPacketError};
pub use demux::{DatagramClass, classify};
pub use dependency_descriptor::{
    ActiveTargets, DependencyDescriptor, DependencyHeader, DependencyStructure, DescriptorError,
    DescriptorPatch, FrameDiffs, Indication, Indications,
};
pub use extension::{
    AbsCaptureTime, AbsSendTime, AudioLevel, ExtensionValues, PlayoutDelay, VideoOrientation,
};
#[cfg(test)]
pub(crate) use flexfec::tests as flexfec_tests;
pub use flexfec::{FlexFec, RepairSum};
pub use ntp::{NtpTime, compact_to_duration, duration_to_compact};
pub use rtp_header::{RtpHeaderFields, WrittenHeader, patch_abs_send_time, patch_transport_cc};
pub use rtp_packet::{ExtensionElements, RtpError, RtpHeader, RtpPacket};

#[cfg(test)]
mod rtp_tests;
