//! Payload descriptors: what a forwarder must know of a payload that it never decodes.

mod av1;
mod h264;
mod h265;
mod opus;
mod red;
mod vp8;
mod vp9;

#[cfg(test)]
mod tests;

pub use av1::{Av1Aggregation, Av1Obu, Av1Obus, ObuType};
pub use opus::OpusPacket;
pub use red::{RedBlock, RedBlocks, RedPrimary, write_red};
pub use vp8::Vp8Descriptor;
pub use vp9::{Vp9Descriptor, Vp9PictureDiffs, Vp9Structure};

use super::cursor::Reader;
use crate::rtp::CodecKind;

/// Why a payload cannot be described. It may still be forwarded: an end-to-end encrypted payload looks like this.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum PayloadError {
    /// Ends before its own fields do.
    #[error("payload cut short")]
    Short,
    /// A field has a value that the format forbids.
    #[error("payload malformed")]
    Malformed,
}

/// A payload in the terms that all formats share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// A frame that needs no older one starts in this packet. Later packets of that frame do not say so.
    pub keyframe: bool,
    /// A frame starts in this packet, a layer's frame with spatial layers. May be true for several packets of one
    /// H.264 or H.265 frame, whose parameter sets come in packets of their own.
    pub starts_frame: bool,
    /// The payload says that it ends a frame, a layer's frame with spatial layers. In most formats only the marker
    /// bit does.
    pub ends_frame: bool,
    /// Temporal layer, where the payload tells.
    pub temporal: Option<u8>,
    /// Spatial layer, where the payload tells.
    pub spatial: Option<u8>,
    /// From this frame on, its temporal layer can be decoded by somebody who had only the layers below.
    pub switch_up: bool,
    /// What only this format has.
    pub codec: CodecDescriptor,
}

impl Descriptor {
    /// Audio: each packet is a frame of its own.
    const AUDIO: Self = Self {
        keyframe: true,
        starts_frame: true,
        ends_frame: true,
        temporal: None,
        spatial: None,
        switch_up: false,
        codec: CodecDescriptor::None,
    };
}

/// What only one format has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodecDescriptor {
    /// Nothing to rewrite or to select by.
    None,
    /// RFC 7741.
    Vp8(Vp8Descriptor),
    /// RFC 9628.
    Vp9(Vp9Descriptor),
    /// RTP Payload Format For AV1.
    Av1(Av1Aggregation),
}

/// Describes a payload without its padding. The payload of a packet that is padding only has no description.
pub fn describe(kind: CodecKind, payload: &[u8]) -> Result<Descriptor, PayloadError> {
    match kind {
        CodecKind::Vp8 => vp8::describe(payload),
        CodecKind::Vp9 => vp9::describe(payload),
        CodecKind::H264 => h264::describe(payload),
        CodecKind::H265 => h265::describe(payload),
        CodecKind::Av1 => av1::describe(payload),
        CodecKind::Red => RedBlocks::parse(payload).map(|_| Descriptor::AUDIO),
        CodecKind::Opus | CodecKind::Pcmu | CodecKind::Pcma | CodecKind::G722 => {
            if payload.is_empty() {
                return Err(PayloadError::Short);
            }
            Ok(Descriptor::AUDIO)
        }
    }
}

/// A picture id of 7 or 15 bits, as VP8 and VP9 write it.
fn read_picture_id(reader: &mut Reader<'_>) -> Option<(u16, bool)> {
    let first = reader.u8()?;
    if first & 0x80 == 0 {
        return Some((first.into(), false));
    }
    Some((u16::from(first & 0x7f) << 8 | u16::from(reader.u8()?), true))
}
