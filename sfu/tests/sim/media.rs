//! What a simulated publisher sends, and what a subscriber can tell about it.

use std::time::Duration;

use chappe_sfu::rtp::MediaKind;

/// Payload types and extension ids of str0m.
pub(crate) const OPUS: u8 = 111;
pub(crate) const RED: u8 = 63;
pub(crate) const VP8: u8 = 96;
pub(crate) const VP8_RTX: u8 = 97;
pub(crate) const VP9: u8 = 98;
pub(crate) const VP9_RTX: u8 = 99;

/// Written at the end of each payload: says which packet of which stream it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Tag {
    pub(crate) stream: u8,
    pub(crate) frame: u32,
    pub(crate) part: u8,
    pub(crate) parts: u8,
    pub(crate) keyframe: bool,
}

const TAG_LEN: usize = 8;

impl Tag {
    fn append(self, payload: &mut Vec<u8>) {
        payload.push(self.stream);
        payload.extend_from_slice(&self.frame.to_be_bytes());
        payload.extend_from_slice(&[self.part, self.parts, u8::from(self.keyframe)]);
    }

    pub(crate) fn of(payload: &[u8]) -> Self {
        let tag: [u8; TAG_LEN] = payload[payload.len() - TAG_LEN..].try_into().unwrap();
        Self {
            stream: tag[0],
            frame: u32::from_be_bytes(tag[1..5].try_into().unwrap()),
            part: tag[5],
            parts: tag[6],
            keyframe: tag[7] == 1,
        }
    }
}

/// What kind of stream it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// A frame each 20 ms.
    Audio,
    /// Nobody speaks: a packet each 400 ms.
    Dtx,
    /// 25 frames a second of so many packets, keyframes on request.
    Video { packets: u8 },
    /// The same with three temporal layers: 6, 12 and 25 frames a second. One packet each.
    Layered,
    /// 25 frames a second of so many bytes on average, as an encoder makes them: no two alike, keyframes four times as
    /// large.
    Camera { bytes: u16 },
    /// The same in VP9 with three spatial layers, of which each has twice as much as the one below.
    Spatial { bytes: u16 },
}

/// A packet's payload has so much at most.
const PART: usize = 1_000;

impl Source {
    pub(crate) fn kind(self) -> MediaKind {
        match self {
            Self::Audio | Self::Dtx => MediaKind::Audio,
            Self::Video { .. } | Self::Layered | Self::Camera { .. } | Self::Spatial { .. } => {
                MediaKind::Video
            }
        }
    }

    pub(crate) fn payload_type(self) -> u8 {
        match self {
            Self::Audio | Self::Dtx => OPUS,
            Self::Video { .. } | Self::Layered | Self::Camera { .. } => VP8,
            Self::Spatial { .. } => VP9,
        }
    }

    pub(crate) fn interval(self) -> Duration {
        match self {
            Self::Audio => Duration::from_millis(20),
            Self::Dtx => Duration::from_millis(400),
            _ => Duration::from_millis(40),
        }
    }

    pub(crate) fn ticks(self) -> u32 {
        let milliseconds = self.interval().as_millis() as u32;
        milliseconds * if self.kind() == MediaKind::Audio { 48 } else { 90 }
    }

    /// The payloads of one frame.
    pub(crate) fn frame(self, stream: u8, frame: u32, keyframe: bool) -> Vec<Vec<u8>> {
        let tag = Tag { stream, frame, part: 0, parts: 1, keyframe };
        match self {
            Self::Audio | Self::Dtx => {
                let mut payload = vec![0xfc; 80];
                tag.append(&mut payload);
                vec![payload]
            }
            Self::Video { packets } => {
                cut(tag, usize::from(packets) * PART, |start| vp8(frame, start, keyframe))
            }
            Self::Layered => cut(tag, PART, |start| {
                let mut head = vp8(frame, start, keyframe);
                layer(&mut head, frame, keyframe);
                head
            }),
            Self::Camera { bytes } => {
                let size = varied(bytes, stream, frame, keyframe);
                cut(tag, size, |start| vp8(frame, start, keyframe))
            }
            Self::Spatial { bytes } => {
                let size = varied(bytes, stream, frame, keyframe);
                let layers = [(0, size / 7), (1, size * 2 / 7), (2, size * 4 / 7)];
                let of_layer = |(layer, size)| {
                    // A layer of a picture is a frame of its own; its tag says which.
                    let tag = Tag { stream: layer, ..tag };
                    let count = usize::div_ceil(size, PART).max(1);
                    let mut parts = cut(tag, size, |start| vp9(frame, layer, start, keyframe));
                    if let Some(last) = parts.get_mut(count - 1) {
                        // E: the layer's end.
                        last[0] |= 0x04;
                    }
                    parts
                };
                layers.into_iter().flat_map(of_layer).collect()
            }
        }
    }
}

/// Half to one and a half of the mean, the same again for the same frame.
fn varied(mean: u16, stream: u8, frame: u32, keyframe: bool) -> usize {
    let hash =
        (u64::from(frame) << 8 | u64::from(stream)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let share = 0.5 + hash as f64 / (1u64 << 24) as f64;
    let times = if keyframe { 4.0 } else { 1.0 };
    (f64::from(mean) * share * times) as usize
}

/// Cuts a frame of `size` bytes; `head` gives a payload's begin, of the frame's first packet or of another.
fn cut(tag: Tag, size: usize, head: impl Fn(bool) -> Vec<u8>) -> Vec<Vec<u8>> {
    let parts = size.div_ceil(PART).max(1);
    let part = |part: usize| {
        let tag = Tag { part: part as u8, parts: parts as u8, ..tag };
        let mut payload = head(part == 0);
        payload.resize((size / parts).max(payload.len()), tag.stream);
        tag.append(&mut payload);
        payload
    };
    (0..parts).map(part).collect()
}

/// Descriptor without flexible mode: a 15-bit picture id and the layer (RFC 9628 section 4.2).
fn vp9(frame: u32, layer: u8, start: bool, keyframe: bool) -> Vec<u8> {
    let picture_id = (frame & 0x7fff) as u16 | 0x8000;
    // I, P for what refers to an earlier picture, L, B.
    let flags = 0xa0 | u8::from(!keyframe) << 6 | u8::from(start) << 3;
    let [high, low] = picture_id.to_be_bytes();
    // The layer refers to the one below; TL0PICIDX follows.
    vec![flags, high, low, layer << 1 | u8::from(layer > 0), frame as u8]
}

/// Descriptor with a 15-bit picture id, TL0PICIDX and TID (RFC 7741), then the frame's tag where it begins.
fn vp8(frame: u32, start: bool, keyframe: bool) -> Vec<u8> {
    let picture_id = (frame & 0x7fff) as u16;
    let mut payload = vec![if start { 0x90 } else { 0x80 }, 0xe0];
    payload.extend_from_slice(&(picture_id | 0x8000).to_be_bytes());
    payload.extend_from_slice(&[frame as u8, 0x20]);
    if start {
        payload.push(u8::from(!keyframe));
        payload.extend_from_slice(&[0, 0]);
        if keyframe {
            payload.extend_from_slice(&[0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00]);
        }
    }
    payload
}

/// Puts a frame into its temporal layer: 0, 2, 1, 2 and again. Those of layer 1, and of layer 2 before them, need the base
/// layer only.
fn layer(payload: &mut [u8], frame: u32, keyframe: bool) {
    let place = frame % 4;
    let tid = if keyframe { 0 } else { [0, 2, 1, 2][place as usize] };
    let sync = u8::from(place == 1 || place == 2);
    payload[4] = (frame / 4) as u8;
    payload[5] = tid << 6 | sync << 5;
}

/// The 15-bit picture id of a received payload.
pub(crate) fn picture_id(payload: &[u8]) -> u16 {
    assert_eq!(payload[1] & 0x80, 0x80, "a picture id");
    u16::from_be_bytes([payload[2], payload[3]]) & 0x7fff
}
