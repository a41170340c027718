//! VP8 (RFC 7741 section 4.2).

use super::{CodecDescriptor, Descriptor, PayloadError, Reader, read_picture_id};

/// VP8 payload descriptor. Where they exist, picture id, TL0PICIDX and the byte of TID, Y and KEYIDX stand in this
/// order from [`Self::FIELDS_AT`] on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vp8Descriptor {
    /// Nobody refers to this frame.
    pub non_reference: bool,
    /// First packet of a partition.
    pub partition_start: bool,
    /// Partition, 0..=7.
    pub partition: u8,
    /// Counts frames.
    pub picture_id: Option<u16>,
    /// The picture id has 15 bits, else 7.
    pub long_picture_id: bool,
    /// Counts frames of temporal layer 0.
    pub tl0_pic_idx: Option<u8>,
    /// Temporal layer.
    pub tid: Option<u8>,
    /// Layer sync: depends on frames of temporal layer 0 only.
    pub layer_sync: bool,
    /// Counts keyframes, 0..=31.
    pub key_idx: Option<u8>,
    /// Bytes of the descriptor: the VP8 bitstream stands behind.
    pub len: usize,
}

impl Vp8Descriptor {
    /// Offset of the first optional field.
    pub const FIELDS_AT: usize = 2;

    /// Reads the descriptor at the front of a payload; `None` when it is cut.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(payload);
        let first = reader.u8()?;
        let extended = if first & 0x80 != 0 { reader.u8()? } else { 0 };
        let picture_id =
            if extended & 0x80 != 0 { Some(read_picture_id(&mut reader)?) } else { None };
        let tl0_pic_idx = if extended & 0x40 != 0 { Some(reader.u8()?) } else { None };
        let has_tid = extended & 0x20 != 0;
        let has_key_idx = extended & 0x10 != 0;
        let layers = if has_tid || has_key_idx { reader.u8()? } else { 0 };
        Some(Self {
            non_reference: first & 0x20 != 0,
            partition_start: first & 0x10 != 0,
            partition: first & 7,
            picture_id: picture_id.map(|(id, _)| id),
            long_picture_id: picture_id.is_some_and(|(_, long)| long),
            tl0_pic_idx,
            tid: has_tid.then_some(layers >> 6),
            layer_sync: has_tid && layers & 0x20 != 0,
            key_idx: has_key_idx.then_some(layers & 0x1f),
            len: payload.len() - reader.rest().len(),
        })
    }

    /// First packet of a frame.
    pub const fn starts_frame(&self) -> bool {
        self.partition_start && self.partition == 0
    }
}

pub(super) fn describe(payload: &[u8]) -> Result<Descriptor, PayloadError> {
    let vp8 = Vp8Descriptor::parse(payload).ok_or(PayloadError::Short)?;
    let frame_tag = *payload.get(vp8.len).ok_or(PayloadError::Short)?;
    Ok(Descriptor {
        // The P bit of the frame tag is inverted: 0 is a key frame.
        keyframe: vp8.starts_frame() && frame_tag & 1 == 0,
        starts_frame: vp8.starts_frame(),
        ends_frame: false,
        temporal: vp8.tid,
        spatial: None,
        switch_up: vp8.layer_sync,
        codec: CodecDescriptor::Vp8(vp8),
    })
}
