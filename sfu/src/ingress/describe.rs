//! Payload descriptors as the facts that selectors and rewriters need.

use super::layers::PayloadLayers;
use crate::{
    cache::{CodecFields, FrameFacts, Vp8Fields, Vp9Fields, Vp9Flexible},
    rtp::CodecKind,
    wire::payload::{self, CodecDescriptor, RedBlocks, Vp8Descriptor, Vp9Descriptor},
};

/// What one payload says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Described {
    pub(super) frame: FrameFacts,
    pub(super) codec: CodecFields,
    pub(super) layers: PayloadLayers,
    /// Where the primary block begins; 0 when the format is not RED.
    pub(super) red_primary: u16,
}

/// Reads a payload. One that cannot be read passes as it is, in the middle of a frame: it may be encrypted end to end.
pub(super) fn describe(kind: CodecKind, marker: bool, bytes: &[u8]) -> Described {
    let Ok(descriptor) = payload::describe(kind, bytes) else {
        return Described {
            frame: FrameFacts { end: marker, ..FrameFacts::default() },
            ..Described::default()
        };
    };
    let frame = FrameFacts {
        start: descriptor.starts_frame,
        end: marker || descriptor.ends_frame,
        keyframe: descriptor.keyframe,
        spatial: descriptor.spatial.unwrap_or(0),
        temporal: descriptor.temporal.unwrap_or(0),
        layers: None,
        overtook: false,
    };
    let layers = PayloadLayers::new(&descriptor.codec);
    let codec = match descriptor.codec {
        CodecDescriptor::Vp8(vp8) => CodecFields::Vp8(vp8_fields(&vp8)),
        CodecDescriptor::Vp9(vp9) => CodecFields::Vp9(vp9_fields(&vp9, bytes)),
        CodecDescriptor::None | CodecDescriptor::Av1(_) => CodecFields::None,
    };
    let red_primary = match kind {
        CodecKind::Red => RedBlocks::parse(bytes).map_or(0, |red| red.primary().offset as u16),
        _ => 0,
    };
    Described { frame, codec, layers, red_primary }
}

fn vp8_fields(vp8: &Vp8Descriptor) -> Vp8Fields {
    let has_layers = vp8.tid.is_some() || vp8.key_idx.is_some();
    let layers =
        vp8.tid.unwrap_or(0) << 6 | u8::from(vp8.layer_sync) << 5 | vp8.key_idx.unwrap_or(0);
    Vp8Fields {
        picture_id: vp8.picture_id,
        long_picture_id: vp8.long_picture_id,
        tl0_pic_idx: vp8.tl0_pic_idx,
        tid_key_idx: has_layers.then_some((layers, vp8.key_idx.is_some())),
    }
}

fn vp9_fields(vp9: &Vp9Descriptor, bytes: &[u8]) -> Vp9Fields {
    let layers_at = Vp9Descriptor::PICTURE_ID_AT + if vp9.long_picture_id { 2 } else { 1 };
    let layers = bytes.get(layers_at).copied().filter(|_| vp9.tid.is_some());
    // A distance of zero means nothing: what is written behind the picture id is left as it is then.
    let readable = vp9.flexible && !vp9.picture_diffs.as_slice().contains(&0);
    let flexible = readable.then(|| {
        let mut flexible = Vp9Flexible { layers, diffs: [0; 3] };
        for (place, diff) in flexible.diffs.iter_mut().zip(vp9.picture_diffs.as_slice()) {
            *place = *diff;
        }
        flexible
    });
    Vp9Fields {
        picture_id: vp9.picture_id,
        long_picture_id: vp9.long_picture_id,
        layers_tl0: layers.zip(vp9.tl0_pic_idx),
        flexible,
    }
}
