//! What a simulated publisher sends, and what a subscriber can tell about it.

use std::time::Duration;

/// Payload types and extension ids of str0m.
pub(crate) const OPUS: u8 = 111;
pub(crate) const RED: u8 = 63;
pub(crate) const VP8: u8 = 96;
pub(crate) const VP8_RTX: u8 = 97;

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
    /// 25 frames a second of so many packets, keyframes on request.
    Video { packets: u8 },
    /// The same with three temporal layers: 6, 12 and 25 frames a second. One packet each.
    Layered,
}

impl Source {
    pub(crate) fn interval(self) -> Duration {
        match self {
            Self::Audio => Duration::from_millis(20),
            Self::Video { .. } | Self::Layered => Duration::from_millis(40),
        }
    }

    pub(crate) fn ticks(self) -> u32 {
        match self {
            Self::Audio => 960,
            Self::Video { .. } | Self::Layered => 3_600,
        }
    }

    /// The payloads of one frame.
    pub(crate) fn frame(self, stream: u8, frame: u32, keyframe: bool) -> Vec<Vec<u8>> {
        let (packets, layered) = match self {
            Self::Video { packets } => (packets, false),
            Self::Layered => (1, true),
            Self::Audio => {
                let mut payload = vec![0xfc; 80];
                Tag { stream, frame, part: 0, parts: 1, keyframe: false }.append(&mut payload);
                return vec![payload];
            }
        };
        (0..packets)
            .map(|part| {
                let tag = Tag { stream, frame, part, parts: packets, keyframe };
                let mut payload = vp8(frame, part == 0, keyframe);
                if layered {
                    layer(&mut payload, frame, keyframe);
                }
                payload.resize(1_000, stream);
                tag.append(&mut payload);
                payload
            })
            .collect()
    }
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
