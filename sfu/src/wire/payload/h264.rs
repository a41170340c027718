//! H.264 (RFC 6184 section 5): single NAL units, STAP-A and FU-A.

use super::{CodecDescriptor, Descriptor, PayloadError, Reader};

const SLICE: u8 = 1;
const IDR: u8 = 5;
const SEI: u8 = 6;
const SPS: u8 = 7;
const PPS: u8 = 8;
const DELIMITER: u8 = 9;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

#[derive(Default)]
struct Found {
    keyframe: bool,
    starts_frame: bool,
}

impl Found {
    /// Takes a NAL unit by its type and the first byte behind its header.
    fn add(&mut self, nal_type: u8, slice_header: Option<u8>) {
        match nal_type {
            SLICE | IDR => {
                // `first_mb_in_slice` is the first field of the slice header; as an Exp-Golomb code 0 is one set bit.
                let first_slice = slice_header.is_some_and(|byte| byte & 0x80 != 0);
                self.starts_frame |= first_slice;
                self.keyframe |= first_slice && nal_type == IDR;
            }
            SPS => {
                self.starts_frame = true;
                self.keyframe = true;
            }
            SEI | PPS | DELIMITER => self.starts_frame = true,
            _ => {}
        }
    }
}

pub(super) fn describe(payload: &[u8]) -> Result<Descriptor, PayloadError> {
    let mut found = Found::default();
    let mut reader = Reader::new(payload);
    let nal_type = reader.u8().ok_or(PayloadError::Short)? & 0x1f;
    match nal_type {
        1..=23 => found.add(nal_type, reader.u8()),
        STAP_A => {
            while !reader.rest().is_empty() {
                let len = reader.u16().ok_or(PayloadError::Short)?;
                let nal = reader.take(len.into()).ok_or(PayloadError::Short)?;
                let header = nal.first().ok_or(PayloadError::Malformed)?;
                found.add(header & 0x1f, nal.get(1).copied());
            }
        }
        FU_A => {
            let header = reader.u8().ok_or(PayloadError::Short)?;
            if header & 0x80 != 0 {
                found.add(header & 0x1f, reader.u8());
            }
            // The end of a slice need not be the end of its frame: only the marker bit tells.
        }
        // STAP-B, MTAP and FU-B belong to interleaved mode, which no browser has.
        _ => return Err(PayloadError::Malformed),
    }
    Ok(Descriptor {
        keyframe: found.keyframe,
        starts_frame: found.starts_frame,
        ends_frame: false,
        temporal: None,
        spatial: None,
        switch_up: false,
        codec: CodecDescriptor::None,
    })
}
