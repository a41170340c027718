//! How much passes: the rate at which packets arrived, and the rate at which they left.

use crate::{prefetch::prefetch, rtp::Bitrate};

/// Bytes by 10 ms of some clock, over the last second.
#[derive(Debug)]
pub(super) struct Throughput {
    buckets: [u32; Self::BUCKETS],
    packets: [u16; Self::BUCKETS],
    /// Bucket that is being filled, counted from the clock's origin.
    at: i64,
    /// Bucket of the first packet since the last silence.
    since: Option<i64>,
}

impl Throughput {
    const BUCKETS: usize = 100;
    const BUCKET_US: i64 = 10_000;
    /// Packets that make a rate; fewer are noise.
    const PACKETS: u32 = 12;

    pub(super) fn new() -> Self {
        Self { buckets: [0; Self::BUCKETS], packets: [0; Self::BUCKETS], at: 0, since: None }
    }

    /// What [`Self::add`] changes, about that time.
    #[inline(always)]
    pub(super) fn prefetch(&self, at_us: i64) {
        let index = at_us.div_euclid(Self::BUCKET_US).rem_euclid(Self::BUCKETS as i64) as usize;
        prefetch(&self.buckets[index]);
        prefetch(&self.packets[index]);
        prefetch(&self.at);
    }

    pub(super) fn add(&mut self, at_us: i64, size: u16) {
        let at = at_us.div_euclid(Self::BUCKET_US);
        let since = self.since.get_or_insert(at);
        if *since == at {
            self.at = at;
        }
        if at > self.at.saturating_add(Self::BUCKETS as i64)
            || at < self.at.saturating_sub(Self::BUCKETS as i64)
        {
            // Silence, or the clock was set.
            *self = Self { at, since: Some(at), ..Self::new() };
        }
        while self.at < at {
            self.at += 1;
            let index = self.index(0);
            (self.buckets[index], self.packets[index]) = (0, 0);
        }
        // What comes late counts where it would have come.
        let index = self.index((self.at - at) as usize);
        self.buckets[index] = self.buckets[index].saturating_add(size.into());
        self.packets[index] = self.packets[index].saturating_add(1);
    }

    /// Over the last `window` buckets, or as many more as it takes to see enough packets. `None` in the first moments.
    pub(super) fn rate(&self, window: usize) -> Option<Bitrate> {
        let known = (self.at - self.since?) as usize;
        // The bucket being filled is left out.
        let known = known.min(Self::BUCKETS - 1);
        let (mut bytes, mut packets, mut buckets) = (0u64, 0u32, 0usize);
        for back in 1..=known {
            let index = self.index(back);
            bytes += u64::from(self.buckets[index]);
            packets += u32::from(self.packets[index]);
            buckets = back;
            if back >= window && packets >= Self::PACKETS {
                break;
            }
        }
        let enough = buckets >= window && (packets >= Self::PACKETS || known + 1 == Self::BUCKETS);
        let bps = bytes * 8 * 1_000_000 / (buckets.max(1) as u64 * Self::BUCKET_US as u64);
        enough.then(|| Bitrate::from_bps(bps))
    }

    /// Moves on to `at_us` without a packet: what is silent falls to zero.
    pub(super) fn advance(&mut self, at_us: i64) {
        let at = at_us.div_euclid(Self::BUCKET_US);
        if self.since.is_none() || at <= self.at {
            return;
        }
        if at - self.at > Self::BUCKETS as i64 {
            self.buckets.fill(0);
            self.packets.fill(0);
            self.at = at;
        }
        while self.at < at {
            self.at += 1;
            let index = self.index(0);
            (self.buckets[index], self.packets[index]) = (0, 0);
        }
    }

    fn index(&self, back: usize) -> usize {
        self.at.saturating_sub(back as i64).rem_euclid(Self::BUCKETS as i64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(throughput: &mut Throughput, from_ms: i64, to_ms: i64, each_ms: i64, size: u16) {
        for at_ms in (from_ms..to_ms).step_by(each_ms as usize) {
            throughput.add(at_ms * 1_000, size);
        }
    }

    #[test]
    fn a_steady_stream_is_measured() {
        let mut throughput = Throughput::new();
        assert_eq!(throughput.rate(20), None);
        feed(&mut throughput, 50_000, 50_100, 10, 1_000);
        assert_eq!(throughput.rate(20), None, "too early");
        feed(&mut throughput, 50_100, 51_000, 10, 1_000);
        assert_eq!(throughput.rate(20), Some(Bitrate::from_kbps(800)));
        feed(&mut throughput, 51_000, 51_210, 10, 500);
        assert_eq!(throughput.rate(20), Some(Bitrate::from_kbps(400)), "200 ms later");
        throughput.advance(51_210_000 + 5_000_000);
        assert_eq!(throughput.rate(20), Some(Bitrate::ZERO));
    }

    #[test]
    fn few_packets_are_measured_over_a_longer_time() {
        let mut throughput = Throughput::new();
        feed(&mut throughput, 0, 3_000, 40, 200);
        let rate = throughput.rate(20).expect("a second has passed").bps();
        assert!((38_000..=42_000).contains(&rate), "{rate}");
    }

    #[test]
    fn clocks_that_jump_start_afresh() {
        let mut throughput = Throughput::new();
        feed(&mut throughput, 0, 1_000, 10, 1_000);
        for at_us in [i64::MAX, i64::MIN, 0, i64::MAX / 2] {
            throughput.add(at_us, 1_000);
            assert_eq!(throughput.rate(20), None);
        }
    }
}
