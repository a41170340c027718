//! What each layer of an encoding costs.

use std::time::{Duration, Instant};

use crate::{
    cache::{FrameFacts, LayerSet, Layers},
    rtp::Bitrate,
};

/// Bitrates over the last second, in steps of 100 ms, of what somebody on each target of the grid gets.
#[derive(Clone, Debug, Default)]
pub(super) struct LayerMeter {
    /// `buckets[at]` is still being filled.
    buckets: [Bucket; BUCKETS],
    at: usize,
    /// Start of the interval that is being filled.
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// By target.
    bytes: [u32; 16],
    /// Layers that had frames of their own.
    layers: LayerSet,
}

const BUCKETS: usize = 11;
const INTERVAL: Duration = Duration::from_millis(100);

impl LayerMeter {
    /// Counts a packet.
    pub(super) fn add(&mut self, now: Instant, bytes: usize, frame: &FrameFacts) {
        self.advance(now);
        let Some(layers) = frame.layers else { return };
        let bucket = &mut self.buckets[self.at];
        let own = Layers { spatial: frame.spatial, temporal: frame.temporal };
        bucket.layers = bucket.layers.with(own);
        for target in layers.uses.targets().iter() {
            let sum = &mut bucket.bytes[target.cell()];
            *sum = sum.saturating_add(bytes as u32);
        }
    }

    /// The layers of late, and what each costs.
    pub(super) fn rates(&mut self, now: Instant) -> impl Iterator<Item = (Layers, Bitrate)> {
        self.advance(now);
        let span = INTERVAL.as_millis() as u64 * (BUCKETS as u64 - 1);
        let (at, buckets) = (self.at, &self.buckets);
        let seen = buckets.iter().fold(LayerSet::EMPTY, |all, one| all.union(one.layers));
        seen.iter().map(move |layers| {
            let of = |bucket: &Bucket| u64::from(bucket.bytes[layers.cell()]);
            let bytes = buckets.iter().map(of).sum::<u64>() - of(&buckets[at]);
            (layers, Bitrate::from_bps(bytes * 8 * 1_000 / span))
        })
    }

    fn advance(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let steps = now.saturating_duration_since(since).as_millis() / INTERVAL.as_millis();
        for _ in 0..steps.min(BUCKETS as u128) {
            self.at = (self.at + 1) % BUCKETS;
            self.buckets[self.at] = Bucket::default();
        }
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.since = Some(since + INTERVAL.saturating_mul(steps));
    }
}
