//! VP9 (RFC 9628 section 4.2), flexible and not.

use super::{CodecDescriptor, Descriptor, PayloadError, Reader, read_picture_id};

/// Pictures referred to in flexible mode, each as a distance back: at most three.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vp9PictureDiffs {
    count: u8,
    diffs: [u8; 3],
}

impl Vp9PictureDiffs {
    /// The distances, 1..=127.
    pub fn as_slice(&self) -> &[u8] {
        self.diffs.get(..usize::from(self.count)).unwrap_or(&[])
    }
}

/// What is read of a scalability structure: the sizes of the spatial layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vp9Structure {
    /// Spatial layers, 1..=8.
    pub spatial_layers: u8,
    /// Width and height of each; zero where they are not given.
    pub sizes: [(u16, u16); 8],
}

/// VP9 payload descriptor. The picture id, where it exists, stands at byte 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vp9Descriptor {
    /// Counts pictures.
    pub picture_id: Option<u16>,
    /// The picture id has 15 bits, else 7.
    pub long_picture_id: bool,
    /// P: depends on another picture.
    pub inter_picture_predicted: bool,
    /// F: names the pictures that it refers to.
    pub flexible: bool,
    /// B: first packet of a layer's frame.
    pub starts_frame: bool,
    /// E: last packet of a layer's frame.
    pub ends_frame: bool,
    /// Z: no higher spatial layer of this picture depends on this frame.
    pub not_for_upper_layers: bool,
    /// Temporal layer.
    pub tid: Option<u8>,
    /// Spatial layer.
    pub sid: Option<u8>,
    /// U: switching up to this temporal layer is possible from here on.
    pub switching_up: bool,
    /// D: depends on the spatial layer below.
    pub inter_layer_predicted: bool,
    /// Counts frames of temporal layer 0; non-flexible mode with layers only.
    pub tl0_pic_idx: Option<u8>,
    /// Flexible mode: pictures referred to.
    pub picture_diffs: Vp9PictureDiffs,
    /// The layers that exist, where the packet says so.
    pub structure: Option<Vp9Structure>,
    /// Bytes of the descriptor: the VP9 bitstream stands behind.
    pub len: usize,
}

impl Vp9Descriptor {
    /// Offset of the picture id.
    pub const PICTURE_ID_AT: usize = 1;

    /// Reads the descriptor at the front of a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(payload);
        let (mut vp9, flags) = Self::read_layers(&mut reader).ok_or(PayloadError::Short)?;
        if vp9.flexible && vp9.inter_picture_predicted {
            vp9.picture_diffs = read_picture_diffs(&mut reader)?;
        }
        if flags & 0x02 != 0 {
            vp9.structure = Some(read_structure(&mut reader).ok_or(PayloadError::Short)?);
        }
        vp9.len = payload.len() - reader.rest().len();
        Ok(vp9)
    }

    /// Everything up to TL0PICIDX, and the flags of the first byte.
    fn read_layers(reader: &mut Reader<'_>) -> Option<(Self, u8)> {
        let flags = reader.u8()?;
        let flexible = flags & 0x10 != 0;
        let picture_id = if flags & 0x80 != 0 { Some(read_picture_id(reader)?) } else { None };
        let layers = if flags & 0x20 != 0 { Some(reader.u8()?) } else { None };
        let tl0_pic_idx = if layers.is_some() && !flexible { Some(reader.u8()?) } else { None };
        let vp9 = Self {
            picture_id: picture_id.map(|(id, _)| id),
            long_picture_id: picture_id.is_some_and(|(_, long)| long),
            inter_picture_predicted: flags & 0x40 != 0,
            flexible,
            starts_frame: flags & 0x08 != 0,
            ends_frame: flags & 0x04 != 0,
            not_for_upper_layers: flags & 0x01 != 0,
            tid: layers.map(|byte| byte >> 5),
            sid: layers.map(|byte| byte >> 1 & 7),
            switching_up: layers.is_some_and(|byte| byte & 0x10 != 0),
            inter_layer_predicted: layers.is_some_and(|byte| byte & 1 != 0),
            tl0_pic_idx,
            picture_diffs: Vp9PictureDiffs::default(),
            structure: None,
            len: 0,
        };
        Some((vp9, flags))
    }
}

fn read_picture_diffs(reader: &mut Reader<'_>) -> Result<Vp9PictureDiffs, PayloadError> {
    let mut diffs = Vp9PictureDiffs::default();
    loop {
        let byte = reader.u8().ok_or(PayloadError::Short)?;
        // A fourth reference is forbidden; a distance of zero would be the picture itself.
        let slot = diffs.diffs.get_mut(usize::from(diffs.count)).ok_or(PayloadError::Malformed)?;
        *slot = byte >> 1;
        diffs.count += 1;
        if byte & 1 == 0 {
            return Ok(diffs);
        }
    }
}

fn read_structure(reader: &mut Reader<'_>) -> Option<Vp9Structure> {
    let flags = reader.u8()?;
    let spatial_layers = (flags >> 5) + 1;
    let mut sizes = [(0, 0); 8];
    if flags & 0x10 != 0 {
        for size in sizes.iter_mut().take(spatial_layers.into()) {
            *size = (reader.u16()?, reader.u16()?);
        }
    }
    if flags & 0x08 != 0 {
        // The picture group only repeats what each packet's own layers and U bit say.
        for _ in 0..reader.u8()? {
            let references = reader.u8()? >> 2 & 3;
            reader.take(references.into())?;
        }
    }
    Some(Vp9Structure { spatial_layers, sizes })
}

pub(super) fn describe(payload: &[u8]) -> Result<Descriptor, PayloadError> {
    let vp9 = Vp9Descriptor::parse(payload)?;
    if payload.len() == vp9.len {
        return Err(PayloadError::Short);
    }
    Ok(Descriptor {
        keyframe: vp9.starts_frame && !vp9.inter_picture_predicted && vp9.sid.unwrap_or(0) == 0,
        starts_frame: vp9.starts_frame,
        ends_frame: vp9.ends_frame,
        temporal: vp9.tid,
        spatial: vp9.sid,
        switch_up: vp9.switching_up,
        codec: CodecDescriptor::Vp9(vp9),
    })
}
