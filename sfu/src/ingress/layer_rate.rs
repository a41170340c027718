//! What each layer of an encoding costs.

use std::time::Instant;

use super::recent::Recent;
use crate::{
    cache::{FrameFacts, LadderStep, LayerSet, Layers},
    rtp::{Bitrate, DataSize, FrameRate},
};

/// Bit and frame rates over the last second, in steps of 100 ms, of what somebody on each target of the grid gets.
#[derive(Clone, Debug, Default)]
pub(super) struct LayerMeter {
    intervals: Recent<Interval>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Interval {
    /// By target.
    bytes: [u32; 16],
    /// By target: frames of its own spatial layer, which are the pictures that are shown.
    frames: [u16; 16],
    /// Layers that had frames of their own.
    layers: LayerSet,
}

impl LayerMeter {
    /// Counts a packet.
    pub(super) fn add(&mut self, now: Instant, bytes: usize, frame: &FrameFacts) {
        let interval = self.intervals.current(now);
        let Some(layers) = frame.layers else { return };
        let own = Layers { spatial: frame.spatial, temporal: frame.temporal };
        interval.layers = interval.layers.with(own);
        for target in layers.uses.targets().iter() {
            let sum = &mut interval.bytes[target.cell()];
            *sum = sum.saturating_add(bytes as u32);
            if frame.start && target.spatial == frame.spatial {
                let frames = &mut interval.frames[target.cell()];
                *frames = frames.saturating_add(1);
            }
        }
    }

    /// The layers of late, what each costs and shows.
    pub(super) fn rates(&mut self, now: Instant) -> impl Iterator<Item = LadderStep> {
        let mut seen = self.intervals.current(now).layers;
        let (mut bytes, mut frames) = ([0; 16], [0; 16]);
        let (past, span) = self.intervals.past(now);
        for interval in past {
            seen = seen.union(interval.layers);
            for (sum, more) in bytes.iter_mut().zip(interval.bytes) {
                *sum += u64::from(more);
            }
            for (sum, more) in frames.iter_mut().zip(interval.frames) {
                *sum += u32::from(more);
            }
        }
        seen.iter().map(move |layers| {
            let rate = DataSize::from_bytes(bytes[layers.cell()]).per(span);
            let frame_rate = FrameRate::measured(frames[layers.cell()], span);
            LadderStep {
                layers,
                bitrate: rate.unwrap_or(Bitrate::ZERO),
                frame_rate: frame_rate.unwrap_or(FrameRate::ZERO),
            }
        })
    }
}
