//! H.265 (RFC 7798 section 4.4): single NAL units, aggregation packets and fragments, without decoding order numbers
//! (`sprop-max-don-diff` is 0).

use super::{CodecDescriptor, Descriptor, PayloadError, Reader};

/// Types below are slices of a picture.
const FIRST_NON_VCL: u8 = 32;
const VPS: u8 = 32;
const PREFIX_SEI: u8 = 39;
const AGGREGATION: u8 = 48;
const FRAGMENT: u8 = 49;

/// The NAL unit header (section 1.1.4).
#[derive(Clone, Copy)]
struct NalHeader {
    nal_type: u8,
    temporal: u8,
}

impl NalHeader {
    fn read(reader: &mut Reader<'_>) -> Result<Self, PayloadError> {
        let [first, second] = reader.array().ok_or(PayloadError::Short)?;
        // nuh_temporal_id_plus1 is never zero.
        let temporal = (second & 7).checked_sub(1).ok_or(PayloadError::Malformed)?;
        Ok(Self { nal_type: first >> 1 & 0x3f, temporal })
    }
}

#[derive(Default)]
struct Found {
    keyframe: bool,
    starts_frame: bool,
    switch_up: bool,
}

impl Found {
    fn add(&mut self, nal_type: u8, slice_header: Option<u8>) {
        match nal_type {
            0..FIRST_NON_VCL => {
                // `first_slice_segment_in_pic_flag` is the first bit of the slice header.
                let first_slice = slice_header.is_some_and(|byte| byte & 0x80 != 0);
                self.starts_frame |= first_slice;
                // 16..=23 are intra random access points; 2..=5 are temporal sub-layer access pictures.
                self.keyframe |= first_slice && (16..=23).contains(&nal_type);
                self.switch_up |= (2..=5).contains(&nal_type);
            }
            // Parameter sets come before intra pictures only; a picture parameter set alone may not.
            VPS | 33 => {
                self.starts_frame = true;
                self.keyframe = true;
            }
            34 | 35 | PREFIX_SEI => self.starts_frame = true,
            _ => {}
        }
    }
}

pub(super) fn describe(payload: &[u8]) -> Result<Descriptor, PayloadError> {
    let mut found = Found::default();
    let mut reader = Reader::new(payload);
    let header = NalHeader::read(&mut reader)?;
    match header.nal_type {
        AGGREGATION => {
            while !reader.rest().is_empty() {
                let len = reader.u16().ok_or(PayloadError::Short)?;
                let nal = reader.take(len.into()).ok_or(PayloadError::Short)?;
                let inner = NalHeader::read(&mut Reader::new(nal))?;
                found.add(inner.nal_type, nal.get(2).copied());
            }
        }
        FRAGMENT => {
            let fragment = reader.u8().ok_or(PayloadError::Short)?;
            if fragment & 0x80 != 0 {
                found.add(fragment & 0x3f, reader.u8());
            }
        }
        0..AGGREGATION => found.add(header.nal_type, reader.u8()),
        _ => return Err(PayloadError::Malformed),
    }
    Ok(Descriptor {
        keyframe: found.keyframe,
        starts_frame: found.starts_frame,
        ends_frame: false,
        temporal: Some(header.temporal),
        spatial: None,
        switch_up: found.switch_up,
        codec: CodecDescriptor::None,
    })
}
