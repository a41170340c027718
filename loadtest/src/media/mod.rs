//! What publishers send: short encoded loops, made by `loadtest/media/make.sh` and shipped in the binary. Each frame
//! leaves with a [`Stamp`] that no decoder minds, so that whoever receives it knows who sent it, when, and in which layer.

mod clock;
mod container;
mod h264;
mod opus;
mod stamp;
mod vp8;

use std::{
    sync::{Arc, LazyLock, OnceLock},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub(crate) use clock::Clock;
pub(crate) use opus::stamped_opus;
pub(crate) use stamp::{STAMP_LEN, Stamp, Stream, unix_now};

/// Time between two pictures.
pub(crate) const VIDEO_INTERVAL: Duration = Duration::from_micros(33_333);
/// Time between two Opus packets.
pub(crate) const AUDIO_INTERVAL: Duration = Duration::from_millis(20);

/// What cameras send.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VideoCodec {
    #[default]
    Vp8,
    H264,
}

impl VideoCodec {
    /// As the signalling protocol names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vp8 => "vp8",
            Self::H264 => "h264",
        }
    }

    /// Cuts a frame into payloads, the stamp at the end of the last one. `emit` gets each payload, and whether it is the last.
    /// All but the last ones are shared by everybody who sends the frame. VP8 has the picture id 0 everywhere.
    pub(crate) fn packetize(
        self,
        frame: &Frame,
        stamp: Stamp,
        mut emit: impl FnMut(Arc<[u8]>, bool),
    ) {
        let cut = match self {
            Self::Vp8 => vp8::shared,
            Self::H264 => h264::shared,
        };
        for payload in frame.shared.get_or_init(|| cut(frame.bytes)) {
            emit(Arc::clone(payload), false);
        }
        match self {
            Self::Vp8 => {
                let mut rest = vp8::stamped(frame.bytes, stamp).peekable();
                while let Some(payload) = rest.next() {
                    emit(payload, rest.peek().is_none());
                }
            }
            Self::H264 => emit(h264::stamped(frame.bytes, stamp), true),
        }
    }

    /// Reads a received payload.
    pub(crate) fn parse(self, payload: &[u8]) -> Option<VideoPacket> {
        match self {
            Self::Vp8 => vp8::parse(payload),
            Self::H264 => h264::parse(payload),
        }
    }
}

/// What a received payload says about its frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VideoPacket {
    /// It begins a frame, as far as it says.
    pub(crate) start: bool,
    /// It begins a keyframe.
    pub(crate) keyframe: bool,
}

/// One frame of a loop.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: &'static [u8],
    pub(crate) keyframe: bool,
    /// Its payloads without a stamp, cut when it is sent first.
    shared: OnceLock<Vec<Arc<[u8]>>>,
}

impl Frame {
    fn new(bytes: &'static [u8], keyframe: bool) -> Self {
        Self { bytes, keyframe, shared: OnceLock::new() }
    }
}

/// An encoded loop.
#[derive(Debug)]
pub(crate) struct Clip {
    frames: Vec<Frame>,
}

impl Clip {
    /// The frame at a position that only grows: the loop goes on for ever.
    pub(crate) fn frame(&self, position: usize) -> &Frame {
        &self.frames[position % self.frames.len()]
    }

    /// The first position from this one on that holds a keyframe.
    pub(crate) fn next_keyframe(&self, position: usize) -> usize {
        (position..position + self.frames.len())
            .find(|at| self.frame(*at).keyframe)
            .unwrap_or(position)
    }

    /// Frames in the loop.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }
}

/// The loops: video by layer (low, mid, high) and audio.
#[derive(Debug)]
pub(crate) struct Clips {
    vp8: [Clip; 3],
    h264: [Clip; 3],
    pub(crate) audio: Clip,
}

impl Clips {
    pub(crate) fn of(&self, codec: VideoCodec) -> &[Clip; 3] {
        match codec {
            VideoCodec::Vp8 => &self.vp8,
            VideoCodec::H264 => &self.h264,
        }
    }
}

/// Parsed once; the files are part of the binary and covered by a test.
pub(crate) static CLIPS: LazyLock<Clips> = LazyLock::new(|| {
    let clip = |frames: Vec<&'static [u8]>, keyframe: fn(&[u8]) -> bool| Clip {
        frames: frames.into_iter().map(|bytes| Frame::new(bytes, keyframe(bytes))).collect(),
    };
    let vp8 = |file: &'static [u8]| clip(container::ivf(file), vp8::is_keyframe);
    let h264 = |file: &'static [u8]| clip(h264::pictures(file), h264::is_keyframe);
    Clips {
        vp8: [
            vp8(include_bytes!("../../media/low.ivf")),
            vp8(include_bytes!("../../media/mid.ivf")),
            vp8(include_bytes!("../../media/high.ivf")),
        ],
        h264: [
            h264(include_bytes!("../../media/low.h264")),
            h264(include_bytes!("../../media/mid.h264")),
            h264(include_bytes!("../../media/high.h264")),
        ],
        audio: Clip {
            frames: container::ogg_packets(include_bytes!("../../media/tone.ogg"))
                .into_iter()
                .skip(2) // OpusHead and OpusTags
                .map(|bytes| Frame::new(bytes, true))
                .collect(),
        },
    }
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_loops_are_what_the_script_makes() {
        let seconds = |frames: usize| frames as f64 / 30.0;
        for codec in [VideoCodec::Vp8, VideoCodec::H264] {
            let kbps = [80.0..160.0, 350.0..550.0, 1_200.0..1_700.0];
            for ((clip, kbps), height) in CLIPS.of(codec).iter().zip(kbps).zip([180, 360, 720]) {
                let bytes: usize = (0..clip.len()).map(|at| clip.frame(at).bytes.len()).sum();
                let rate = bytes as f64 * 8.0 / 1_000.0 / seconds(clip.len());
                assert!(kbps.contains(&rate), "{codec:?}, {height}p: {rate} kb/s");
                assert!(clip.frame(0).keyframe && !clip.frame(1).keyframe);
                assert_eq!(clip.next_keyframe(1), 60);
                assert_eq!(clip.next_keyframe(clip.len() - 1), clip.len());
                if codec == VideoCodec::Vp8 {
                    assert_eq!(vp8::height(clip.frame(0).bytes), Some(height));
                }
            }
        }
        assert!(CLIPS.audio.len() >= 200, "{} packets of 20 ms", CLIPS.audio.len());
    }
}
