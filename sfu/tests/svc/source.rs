//! An encoder with spatial and temporal layers: which frames it makes and which each of them needs, after the scalability
//! modes of W3C's webrtc-svc, and how they look on the wire.

use chappe_sfu::rtp::CodecKind;

use crate::Dice;

/// How spatial layers depend on each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Inter {
    /// `L`: on the layer below, in each picture.
    Always,
    /// `L*_KEY`: in key pictures only.
    Key,
    /// `S`: never.
    Never,
}

/// A scalability mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mode {
    pub(crate) name: &'static str,
    pub(crate) spatial: u8,
    pub(crate) temporal: u8,
    pub(crate) inter: Inter,
}

impl Mode {
    pub(crate) const L1T1: Self =
        Self { name: "L1T1", spatial: 1, temporal: 1, inter: Inter::Always };
    pub(crate) const L1T2: Self =
        Self { name: "L1T2", spatial: 1, temporal: 2, inter: Inter::Always };
    pub(crate) const L1T3: Self =
        Self { name: "L1T3", spatial: 1, temporal: 3, inter: Inter::Always };
    pub(crate) const L2T2: Self =
        Self { name: "L2T2", spatial: 2, temporal: 2, inter: Inter::Always };
    pub(crate) const L3T1: Self =
        Self { name: "L3T1", spatial: 3, temporal: 1, inter: Inter::Always };
    pub(crate) const L3T3: Self =
        Self { name: "L3T3", spatial: 3, temporal: 3, inter: Inter::Always };
    pub(crate) const L2T2_KEY: Self =
        Self { name: "L2T2_KEY", spatial: 2, temporal: 2, inter: Inter::Key };
    pub(crate) const L3T3_KEY: Self =
        Self { name: "L3T3_KEY", spatial: 3, temporal: 3, inter: Inter::Key };
    pub(crate) const S2T1: Self =
        Self { name: "S2T1", spatial: 2, temporal: 1, inter: Inter::Never };
    pub(crate) const S3T3: Self =
        Self { name: "S3T3", spatial: 3, temporal: 3, inter: Inter::Never };

    /// Temporal layers of successive pictures.
    fn pattern(&self) -> &'static [u8] {
        match self.temporal {
            1 => &[0],
            2 => &[0, 1],
            _ => &[0, 2, 1, 2],
        }
    }

    fn targets(&self) -> impl Iterator<Item = (u8, u8)> {
        let temporal = self.temporal;
        (0..self.spatial).flat_map(move |s| (0..temporal).map(move |t| (s, t)))
    }

    /// The indication of a frame for a target, as browsers give it.
    fn indication(&self, frame: &Frame, target: (u8, u8)) -> u32 {
        const NOT_PRESENT: u32 = 0;
        const DISCARDABLE: u32 = 1;
        const SWITCH: u32 = 2;
        const REQUIRED: u32 = 3;
        let (s, t) = target;
        if t < frame.temporal || s < frame.spatial {
            return NOT_PRESENT;
        }
        if s > frame.spatial {
            return match self.inter {
                Inter::Always if frame.key => SWITCH,
                Inter::Always => REQUIRED,
                Inter::Key if frame.key => SWITCH,
                Inter::Key | Inter::Never => NOT_PRESENT,
            };
        }
        match t {
            _ if frame.temporal == 0 || t > frame.temporal => SWITCH,
            _ => DISCARDABLE,
        }
    }

    /// Whether somebody on a target gets the frame.
    pub(crate) fn includes(&self, target: (u8, u8), frame: &Frame) -> bool {
        self.indication(frame, target) != 0
    }
}

/// How frames look on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carriage {
    /// Dependency descriptor; the payload tells nothing, as if encrypted.
    Descriptor,
    /// VP9 payload descriptor that names its references.
    Vp9Flexible,
    /// VP9 payload descriptor without.
    Vp9,
    /// VP8 payload descriptor: one spatial layer.
    Vp8,
    /// Dependency descriptor beside OBUs that are not encrypted.
    Av1,
    /// OBUs alone: no layers are told.
    Av1Bare,
    /// NAL units: no layers are told.
    H264,
}

impl Carriage {
    pub(crate) fn codec(self) -> CodecKind {
        match self {
            Self::Descriptor | Self::Av1 | Self::Av1Bare => CodecKind::Av1,
            Self::H264 => CodecKind::H264,
            Self::Vp9Flexible | Self::Vp9 => CodecKind::Vp9,
            Self::Vp8 => CodecKind::Vp8,
        }
    }
}

/// A frame of one spatial layer.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) number: u64,
    pub(crate) picture: u64,
    pub(crate) key: bool,
    pub(crate) spatial: u8,
    pub(crate) temporal: u8,
    /// Numbers of the frames it needs.
    pub(crate) needs: Vec<u64>,
    /// Numbers of its packets.
    pub(crate) packets: Vec<u64>,
    sync: bool,
}

/// A packet as it leaves the publisher.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) seq: u64,
    pub(crate) time: u32,
    pub(crate) marker: bool,
    pub(crate) frame: u64,
    pub(crate) descriptor: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Source {
    pub(crate) mode: Mode,
    pub(crate) carriage: Carriage,
    pub(crate) frames: Vec<Frame>,
    /// Spatial layers that it produces, from the next key picture on.
    pub(crate) produces: u8,
    produced: u8,
    seq: u64,
    picture: u64,
    since_key: usize,
    /// By spatial and temporal layer: number of the latest frame.
    latest: [[Option<u64>; 3]; 3],
    /// Added to all numbers on the wire.
    offset: u64,
}

const FIRST_SEQ: u64 = 65_000;
const FIRST_FRAME: u64 = 65_400;
const FIRST_PICTURE: u64 = 32_700;

impl Source {
    pub(crate) fn new(mode: Mode, carriage: Carriage) -> Self {
        Self {
            mode,
            carriage,
            frames: Vec::new(),
            produces: mode.spatial,
            produced: mode.spatial,
            seq: FIRST_SEQ,
            picture: 0,
            since_key: 0,
            latest: [[None; 3]; 3],
            offset: 0,
        }
    }

    /// An encoding of several: all its numbers begin elsewhere.
    pub(crate) fn encoding(mode: Mode, carriage: Carriage, index: u8) -> Self {
        let offset = 7_777 * u64::from(index);
        Self { seq: FIRST_SEQ + offset, offset, ..Self::new(mode, carriage) }
    }

    pub(crate) fn frame(&self, number: u64) -> &Frame {
        &self.frames[number as usize]
    }

    /// The next picture, all layers.
    pub(crate) fn picture(&mut self, key: bool, dice: &mut Dice) -> Vec<Sent> {
        let key = key || self.frames.is_empty();
        if key {
            self.since_key = 0;
            self.produced = self.produces.min(self.mode.spatial);
            self.latest = [[None; 3]; 3];
        }
        let pattern = self.mode.pattern();
        let place = self.since_key % pattern.len();
        self.since_key += 1;
        let mut sent = Vec::new();
        for spatial in 0..self.produced {
            let frame = self.next_frame(key, spatial, pattern[place], place);
            self.send(frame, dice, &mut sent);
        }
        self.picture += 1;
        sent
    }

    fn next_frame(&mut self, key: bool, spatial: u8, temporal: u8, place: usize) -> Frame {
        let number = self.frames.len() as u64;
        let [base, middle, _] = self.latest[usize::from(spatial)];
        let mut needs = Vec::new();
        // The last picture of a group of four refers to the one in its middle, the others to the base layer.
        needs.extend(if place == 3 { middle } else { base });
        let inter_layer = match self.mode.inter {
            Inter::Always => true,
            Inter::Key => key,
            Inter::Never => false,
        };
        if spatial > 0 && inter_layer {
            needs.push(number - 1);
        }
        self.latest[usize::from(spatial)][usize::from(temporal)] = Some(number);
        let sync = temporal > 0 && place != 3;
        let picture = self.picture;
        Frame { number, picture, key, spatial, temporal, needs, packets: Vec::new(), sync }
    }

    fn send(&mut self, mut frame: Frame, dice: &mut Dice, sent: &mut Vec<Sent>) {
        let count = 1 + dice.roll(3);
        for index in 0..count {
            let (first, last) = (index == 0, index + 1 == count);
            let mut payload = self.payload_descriptor(&frame, first, last);
            payload.extend_from_slice(&self.seq.to_be_bytes());
            let descriptor = match self.carriage {
                Carriage::Descriptor | Carriage::Av1 => self.descriptor(&frame, first, last),
                _ => Vec::new(),
            };
            frame.packets.push(self.seq);
            sent.push(Sent {
                seq: self.seq,
                time: ((frame.picture + self.offset) as u32)
                    .wrapping_mul(3_000)
                    .wrapping_add(u32::MAX - 90_000),
                marker: last && frame.spatial + 1 == self.produced,
                frame: frame.number,
                descriptor,
                payload,
            });
            self.seq += 1;
        }
        self.frames.push(frame);
    }

    fn payload_descriptor(&self, frame: &Frame, first: bool, last: bool) -> Vec<u8> {
        let id = ((FIRST_PICTURE + self.offset + frame.picture) % 32_768) as u16;
        let [high, low] = id.to_be_bytes();
        match self.carriage {
            // Reads as no OBU.
            Carriage::Descriptor => vec![0xff; 3],
            // One OBU element, to which what follows belongs: a frame, with a sequence header before it where a coded video
            // sequence begins (RTP Payload Format For AV1, section 4.4).
            Carriage::Av1 | Carriage::Av1Bare => match (frame.key && first, first) {
                (true, _) => vec![0x28 | u8::from(!last) << 6, 3, 0x08, 0, 0, 0x30, 0x10],
                (false, true) => vec![0x10 | u8::from(!last) << 6, 0x30, 0x30],
                (false, false) => vec![0x90 | u8::from(!last) << 6],
            },
            // Parameter sets and the first slice in one packet, else a slice for each (RFC 6184 section 5.7.1).
            Carriage::H264 => match (frame.key, first) {
                (true, true) => {
                    vec![0x78, 0, 4, 0x67, 0x42, 0xe0, 0x1f, 0, 2, 0x68, 0xce, 0, 10, 0x65, 0x88]
                }
                (true, false) => vec![0x65, 0x08],
                (false, true) => vec![0x41, 0x9a],
                (false, false) => vec![0x41, 0x1a],
            },
            Carriage::Vp8 => {
                let tid = frame.temporal << 6 | u8::from(frame.sync) << 5;
                let tag = u8::from(!(frame.key && first));
                vec![0x80 | u8::from(first) << 4, 0xf0, 0x80 | high, low, 7, tid, tag]
            }
            Carriage::Vp9 | Carriage::Vp9Flexible => {
                let flexible = self.carriage == Carriage::Vp9Flexible;
                let older: Vec<u64> = frame
                    .needs
                    .iter()
                    .map(|need| frame.picture - self.frame(*need).picture)
                    .filter(|back| *back > 0)
                    .collect();
                let inter_layer = older.len() < frame.needs.len();
                let flags = 0xa0
                    | u8::from(!older.is_empty()) << 6
                    | u8::from(flexible) << 4
                    | u8::from(first) << 3
                    | u8::from(last) << 2;
                // Above a picture of the base layer nothing refers to what was before it.
                let up = frame.temporal == 0;
                let layers = frame.temporal << 5
                    | u8::from(up) << 4
                    | frame.spatial << 1
                    | u8::from(inter_layer);
                let mut bytes = vec![flags, 0x80 | high, low, layers];
                if !flexible {
                    bytes.push(7);
                } else {
                    for (index, back) in older.iter().enumerate() {
                        bytes.push((*back as u8) << 1 | u8::from(index + 1 < older.len()));
                    }
                }
                bytes
            }
        }
    }

    /// The dependency descriptor: a template for each layer, with one more for key pictures; references are custom.
    fn descriptor(&self, frame: &Frame, first: bool, last: bool) -> Vec<u8> {
        let mut bits = BitWriter::default();
        bits.put(1, first.into());
        bits.put(1, last.into());
        bits.put(
            6,
            self.templates().position(|t| t == (frame.spatial, frame.temporal, frame.key)).unwrap()
                as u32,
        );
        bits.put(16, (FIRST_FRAME + self.offset + frame.number) as u32 & 0xffff);
        let structure = frame.key && frame.spatial == 0 && first;
        let fewer = structure && self.produced < self.mode.spatial;
        bits.put(5, u32::from(structure) << 4 | u32::from(fewer) << 3 | 0b00010);
        if structure {
            self.structure(&mut bits);
        }
        if fewer {
            let active = u32::from(self.produced * self.mode.temporal);
            bits.put(self.mode.targets().count() as u32, (1 << active) - 1);
        }
        for need in &frame.needs {
            bits.put(2, 2);
            bits.put(8, (frame.number - need - 1) as u32);
        }
        bits.put(2, 0);
        bits.bytes
    }

    /// Spatial and temporal layer, and whether it is of key pictures.
    fn templates(&self) -> impl Iterator<Item = (u8, u8, bool)> {
        self.mode.targets().flat_map(|(s, t)| {
            (if t == 0 { &[true, false][..] } else { &[false] }).iter().map(move |key| (s, t, *key))
        })
    }

    fn structure(&self, bits: &mut BitWriter) {
        bits.put(6, 0);
        bits.put(5, self.mode.targets().count() as u32 - 1);
        let templates: Vec<_> = self.templates().collect();
        for pair in templates.windows(2) {
            bits.put(
                2,
                match () {
                    () if pair[0].0 != pair[1].0 => 2,
                    () if pair[0].1 != pair[1].1 => 1,
                    () => 0,
                },
            );
        }
        bits.put(2, 3);
        for (spatial, temporal, key) in &templates {
            let frame = Frame {
                number: 0,
                picture: 0,
                key: *key,
                spatial: *spatial,
                temporal: *temporal,
                needs: Vec::new(),
                packets: Vec::new(),
                sync: false,
            };
            for target in self.mode.targets() {
                bits.put(2, self.mode.indication(&frame, target));
            }
        }
        for _ in &templates {
            bits.put(1, 0);
        }
        // No chains: `ns(n)` of zero takes the bits of its short form.
        bits.put((self.mode.targets().count() as u32 + 1).ilog2(), 0);
        bits.put(1, 0);
    }
}

/// Writes bits from the most significant on.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    at: usize,
}

impl BitWriter {
    fn put(&mut self, count: u32, value: u32) {
        for bit in (0..count).rev() {
            if self.at.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (7 - self.at % 8);
            self.at += 1;
        }
    }
}
