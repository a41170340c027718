//! What publishers send: short encoded loops, made by `loadtest/media/make.sh` and shipped in the binary. Each frame
//! leaves with a [`Stamp`] that no decoder minds, so that whoever receives it knows who sent it, when, and in which layer.

mod container;
mod opus;
mod stamp;
mod vp8;

use std::{sync::LazyLock, time::Duration};

pub(crate) use opus::stamped_opus;
pub(crate) use stamp::{STAMP_LEN, Stamp, Stream, unix_now};
pub(crate) use vp8::{Vp8Packet, packetize as packetize_vp8};

/// Time between two pictures.
pub(crate) const VIDEO_INTERVAL: Duration = Duration::from_micros(33_333);
/// Time between two Opus packets.
pub(crate) const AUDIO_INTERVAL: Duration = Duration::from_millis(20);

/// One frame of a loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: &'static [u8],
    pub(crate) keyframe: bool,
}

/// An encoded loop.
#[derive(Debug)]
pub(crate) struct Clip {
    frames: Vec<Frame>,
}

impl Clip {
    /// The frame at a position that only grows: the loop goes on for ever.
    pub(crate) fn frame(&self, position: usize) -> Frame {
        self.frames[position % self.frames.len()]
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
    pub(crate) video: [Clip; 3],
    pub(crate) audio: Clip,
}

/// Parsed once; the files are part of the binary and covered by a test.
pub(crate) static CLIPS: LazyLock<Clips> = LazyLock::new(|| {
    let video = |file: &'static [u8]| Clip {
        frames: container::ivf(file)
            .into_iter()
            .map(|bytes| Frame { bytes, keyframe: vp8::is_keyframe(bytes) })
            .collect(),
    };
    Clips {
        video: [
            video(include_bytes!("../../media/low.ivf")),
            video(include_bytes!("../../media/mid.ivf")),
            video(include_bytes!("../../media/high.ivf")),
        ],
        audio: Clip {
            frames: container::ogg_packets(include_bytes!("../../media/tone.ogg"))
                .into_iter()
                .skip(2) // OpusHead and OpusTags
                .map(|bytes| Frame { bytes, keyframe: true })
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
        for (clip, height, kbps) in [
            (&CLIPS.video[0], 180, 80.0..160.0),
            (&CLIPS.video[1], 360, 350.0..550.0),
            (&CLIPS.video[2], 720, 1_200.0..1_700.0),
        ] {
            let bytes: usize = (0..clip.len()).map(|at| clip.frame(at).bytes.len()).sum();
            let rate = bytes as f64 * 8.0 / 1_000.0 / seconds(clip.len());
            assert!(kbps.contains(&rate), "{height}p runs at {rate} kb/s");
            assert!(clip.frame(0).keyframe && !clip.frame(1).keyframe);
            assert_eq!(clip.next_keyframe(1), 60);
            assert_eq!(clip.next_keyframe(clip.len() - 1), clip.len());
            assert_eq!(vp8::height(clip.frame(0).bytes), Some(height));
        }
        assert!(CLIPS.audio.len() >= 200, "{} packets of 20 ms", CLIPS.audio.len());
    }
}
