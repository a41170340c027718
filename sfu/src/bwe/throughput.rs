//! How much passes: the rate at which packets arrived, and the rate at which they left.

use crate::{prefetch::prefetch, rtp::Bitrate};

/// Sums by 10 ms of some clock, over the last second: what passed between two moments is a difference, whatever lies between
/// them.
///
/// In this order: what each packet changes comes first.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Throughput {
    /// Bucket that is being filled, counted from the clock's origin.
    at: i64,
    /// Bucket of the first packet since the last silence.
    since: Option<i64>,
    /// Everything so far.
    total: Sum,
    /// The same at the beginning of each of the last buckets; none before the first packet.
    starts: Box<[Packed]>,
}

/// Bytes and packets from some beginning on. They wrap; no second has as many.
#[derive(Clone, Copy, Default, Debug)]
struct Sum {
    bytes: u32,
    packets: u16,
}

/// A [`Sum`] without the two bytes that would fill it up.
#[derive(Clone, Copy, Default, Debug)]
struct Packed([u8; 6]);

impl Sum {
    fn plus(self, size: u16) -> Self {
        Self { bytes: self.bytes.wrapping_add(size.into()), packets: self.packets.wrapping_add(1) }
    }

    fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.wrapping_sub(before.bytes),
            packets: self.packets.wrapping_sub(before.packets),
        }
    }
}

impl From<Sum> for Packed {
    fn from(Sum { bytes, packets }: Sum) -> Self {
        let ([a, b, c, d], [e, f]) = (bytes.to_le_bytes(), packets.to_le_bytes());
        Self([a, b, c, d, e, f])
    }
}

impl From<Packed> for Sum {
    fn from(Packed([a, b, c, d, e, f]): Packed) -> Self {
        Self { bytes: u32::from_le_bytes([a, b, c, d]), packets: u16::from_le_bytes([e, f]) }
    }
}

impl Throughput {
    const BUCKETS: usize = 100;
    const BUCKET_US: i64 = 10_000;
    /// Packets that make a rate; fewer are noise.
    const PACKETS: u16 = 12;

    pub(super) fn new() -> Self {
        Self { at: 0, since: None, total: Sum::default(), starts: Box::default() }
    }

    /// What [`Self::add`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.at);
        prefetch(&self.total);
    }

    /// What it changes when time passes, once that is here.
    #[inline(always)]
    pub(super) fn prefetch_next(&self) {
        if let Some(start) = self.starts.get(Self::index(self.at.saturating_add(1))) {
            prefetch(start);
        }
    }

    /// What [`Self::rate`] looks at.
    #[inline(always)]
    pub(super) fn prefetch_rate(&self, window: usize) {
        if let Some(start) = self.starts.get(Self::index(self.at.saturating_sub(window as i64))) {
            prefetch(start);
        }
    }

    pub(super) fn add(&mut self, at_us: i64, size: u16) {
        let at = at_us.div_euclid(Self::BUCKET_US);
        if at != self.at || self.since.is_none() {
            self.turn_to(at, size);
        }
        self.total = self.total.plus(size);
    }

    /// Makes `at` the bucket that is filled; what comes late counts where it would have come.
    fn turn_to(&mut self, at: i64, size: u16) {
        const BUCKETS: i64 = Throughput::BUCKETS as i64;
        if self.starts.is_empty() {
            self.starts = vec![Packed::default(); Self::BUCKETS].into();
        }
        let since = *self.since.get_or_insert(at);
        if since == at {
            if (1..BUCKETS).contains(&(self.at - at)) {
                // Late, of the first bucket: what came behind it counts no more.
                self.total = self.start_of(at + 1);
            } else {
                self.starts[Self::index(at)] = self.total.into();
            }
            self.at = at;
            return;
        }
        match at - self.at {
            ahead if !(-BUCKETS..=BUCKETS).contains(&ahead) => {
                // Silence, or the clock was set.
                let mut starts = std::mem::take(&mut self.starts);
                starts.fill(Packed::default());
                *self = Self { at, since: Some(at), starts, ..Self::new() };
            }
            ahead if ahead > 0 => self.fill(ahead as usize),
            behind => {
                // As old as the ring is long is as good as new.
                for back in 0..-behind % BUCKETS {
                    let start = &mut self.starts[Self::index(self.at - back)];
                    *start = Sum::from(*start).plus(size).into();
                }
            }
        }
    }

    /// Goes on by so many buckets, in which nothing came.
    fn fill(&mut self, buckets: usize) {
        let first = Self::index(self.at + 1);
        let empty = Packed::from(self.total);
        let ends = Self::BUCKETS.min(first + buckets);
        self.starts[first..ends].fill(empty);
        self.starts[..(first + buckets - ends).min(Self::BUCKETS)].fill(empty);
        self.at += buckets as i64;
    }

    /// Over the last `window` buckets, or as many more as it takes to see enough packets. `None` in the first moments.
    pub(super) fn rate(&self, window: usize) -> Option<Bitrate> {
        // The bucket being filled is left out.
        let known = ((self.at - self.since?) as usize).min(Self::BUCKETS - 1);
        if known < window {
            return None;
        }
        let end = self.start_of(self.at);
        let over = |buckets: usize| end.since(self.start_of(self.at - buckets as i64));
        let (mut buckets, mut passed) = (window, over(window));
        if passed.packets < Self::PACKETS && known > window {
            // Sums only grow: the shortest time that has enough is found by halves.
            let (mut short, mut enough) = (window, known);
            while enough - short > 1 {
                let middle = short.midpoint(enough);
                if over(middle).packets < Self::PACKETS { short = middle } else { enough = middle }
            }
            (buckets, passed) = (enough, over(enough));
        }
        if passed.packets < Self::PACKETS && known + 1 < Self::BUCKETS {
            return None;
        }
        const PER_SECOND: u64 = 8 * 1_000_000 / Throughput::BUCKET_US as u64;
        Some(Bitrate::from_bps(u64::from(passed.bytes) * PER_SECOND / buckets as u64))
    }

    /// Moves on to `at_us` without a packet: what is silent falls to zero.
    pub(super) fn advance(&mut self, at_us: i64) {
        let at = at_us.div_euclid(Self::BUCKET_US);
        if self.since.is_none() || at <= self.at {
            return;
        }
        if at - self.at > Self::BUCKETS as i64 {
            self.at = at - Self::BUCKETS as i64;
        }
        self.fill((at - self.at) as usize);
    }

    /// Everything before a bucket, one of the last.
    fn start_of(&self, bucket: i64) -> Sum {
        self.starts[Self::index(bucket)].into()
    }

    fn index(bucket: i64) -> usize {
        bucket.rem_euclid(Self::BUCKETS as i64) as usize
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
    fn what_comes_late_counts_where_it_would_have_come() {
        let mut throughput = Throughput::new();
        let mut packets = vec![(0_i64, 1_000_u16)];
        throughput.add(0, 1_000);
        for n in 1..2_000_i64 {
            // Every 3 ms, of which each fifth is up to 0.3 s late, but none belongs to the first moment.
            let late = if n % 5 == 0 && n > 200 { n * 7_919 % 300 } else { 0 };
            let (at_ms, size) = (n * 3 - late, (n * 31 % 1_200) as u16);
            throughput.add(at_ms * 1_000, size);
            packets.push((at_ms, size));
            let end = packets.iter().map(|packet| packet.0 / 10).max().unwrap_or(0);
            for window in [20, 50, 60].into_iter().filter(|window| *window < end) {
                let within =
                    packets.iter().filter(|packet| (end - window..end).contains(&(packet.0 / 10)));
                let bytes: u64 = within.map(|packet| u64::from(packet.1)).sum();
                let expected = Bitrate::from_bps(bytes * 800 / window as u64);
                assert_eq!(throughput.rate(window as usize), Some(expected), "{n}, {window}");
            }
        }
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
