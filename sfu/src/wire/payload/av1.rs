//! AV1 (RTP Payload Format For AV1, version 1.0.0, section 4; OBUs by the AV1 bitstream specification section 5.3).

use super::{CodecDescriptor, Descriptor, PayloadError, Reader};

/// Aggregation header (section 4.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Av1Aggregation {
    /// Z: the first OBU continues the last one of the packet before.
    pub continues: bool,
    /// Y: the last OBU goes on in the next packet.
    pub continued: bool,
    /// N: first packet of a coded video sequence.
    pub new_sequence: bool,
    /// W: OBU elements in the packet, the last of them without a length; 0 when all have one.
    count: u8,
}

impl Av1Aggregation {
    /// Reads the header at the front of a payload and returns the OBUs behind it.
    pub fn parse(payload: &[u8]) -> Result<(Self, Av1Obus<'_>), PayloadError> {
        let (header, rest) = payload.split_first().ok_or(PayloadError::Short)?;
        let aggregation = Self {
            continues: header & 0x80 != 0,
            continued: header & 0x40 != 0,
            new_sequence: header & 0x08 != 0,
            count: header >> 4 & 3,
        };
        // A new coded video sequence starts with an OBU of its own.
        if aggregation.continues && aggregation.new_sequence {
            return Err(PayloadError::Malformed);
        }
        let obus = Av1Obus {
            continues: aggregation.continues,
            left: (aggregation.count > 0).then_some(aggregation.count),
            reader: Reader::new(rest),
        };
        Ok((aggregation, obus))
    }
}

/// Kinds of OBU that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // named as in the AV1 specification
pub enum ObuType {
    SequenceHeader,
    TemporalDelimiter,
    FrameHeader,
    TileGroup,
    Metadata,
    Frame,
    Other(u8),
}

/// One OBU element of a packet, or the part of it that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Av1Obu {
    /// Kind.
    pub kind: ObuType,
    /// Temporal and spatial layer, where the OBU has an extension header.
    pub layers: Option<(u8, u8)>,
}

/// Iterates the OBUs that start in a packet.
#[derive(Clone, Copy, Debug)]
pub struct Av1Obus<'a> {
    /// The next element is the rest of an OBU: it has no header.
    continues: bool,
    /// Elements left, where they are counted.
    left: Option<u8>,
    reader: Reader<'a>,
}

impl Av1Obus<'_> {
    fn step(&mut self) -> Result<Option<Av1Obu>, PayloadError> {
        loop {
            if self.left == Some(0) || (self.left.is_none() && self.reader.rest().is_empty()) {
                return Ok(None);
            }
            let element = if self.left == Some(1) {
                std::mem::replace(&mut self.reader, Reader::new(&[])).rest()
            } else {
                let len = read_leb128(&mut self.reader)?;
                self.reader.take(len).ok_or(PayloadError::Short)?
            };
            self.left = self.left.map(|left| left - 1);
            if std::mem::take(&mut self.continues) {
                continue;
            }
            return read_obu_header(element).map(Some);
        }
    }
}

impl Iterator for Av1Obus<'_> {
    type Item = Result<Av1Obu, PayloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let obu = self.step().transpose();
        if matches!(obu, Some(Err(_))) {
            self.left = Some(0);
        }
        obu
    }
}

fn read_obu_header(element: &[u8]) -> Result<Av1Obu, PayloadError> {
    let mut reader = Reader::new(element);
    let header = reader.u8().ok_or(PayloadError::Short)?;
    if header & 0x80 != 0 {
        return Err(PayloadError::Malformed);
    }
    let kind = match header >> 3 & 0xf {
        1 => ObuType::SequenceHeader,
        2 => ObuType::TemporalDelimiter,
        3 => ObuType::FrameHeader,
        4 => ObuType::TileGroup,
        5 => ObuType::Metadata,
        6 => ObuType::Frame,
        other => ObuType::Other(other),
    };
    let layers = if header & 0x04 != 0 {
        let extension = reader.u8().ok_or(PayloadError::Short)?;
        Some((extension >> 5, extension >> 3 & 3))
    } else {
        None
    };
    Ok(Av1Obu { kind, layers })
}

/// Lengths of up to four bytes: a datagram needs no more.
fn read_leb128(reader: &mut Reader<'_>) -> Result<usize, PayloadError> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = reader.u8().ok_or(PayloadError::Short)?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(PayloadError::Malformed)
}

pub(super) fn describe(payload: &[u8]) -> Result<Descriptor, PayloadError> {
    let (aggregation, obus) = Av1Aggregation::parse(payload)?;
    let mut keyframe = aggregation.new_sequence;
    let mut starts_frame = aggregation.new_sequence;
    let mut layers = None;
    for obu in obus {
        let obu = obu?;
        match obu.kind {
            // Encoders repeat the sequence header with each key frame, and only there.
            ObuType::SequenceHeader => {
                keyframe = true;
                starts_frame = true;
            }
            ObuType::Frame | ObuType::FrameHeader | ObuType::TemporalDelimiter => {
                starts_frame = true;
            }
            ObuType::TileGroup | ObuType::Metadata | ObuType::Other(_) => {}
        }
        layers = layers.or(obu.layers);
    }
    Ok(Descriptor {
        keyframe,
        starts_frame,
        ends_frame: false,
        temporal: layers.map(|(temporal, _)| temporal),
        spatial: layers.map(|(_, spatial)| spatial),
        switch_up: false,
        codec: CodecDescriptor::Av1(aggregation),
    })
}
