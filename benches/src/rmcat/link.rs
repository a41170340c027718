//! A bottleneck: a rate that changes by plan, a drop-tail queue, and a path behind it with jitter.

use std::{collections::VecDeque, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// What a link loses beside what its queue drops.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// Nothing.
    None,
    /// Each packet with this probability.
    Random(f64),
    /// Gilbert and Elliott: everything in the bad state, which is entered and left with these probabilities at each
    /// packet.
    Bursts {
        /// From good to bad.
        enter: f64,
        /// From bad to good.
        leave: f64,
    },
}

/// How a bottleneck behaves.
#[derive(Clone, Debug)]
pub struct LinkPlan {
    /// (from when on, bits per second); the first is at zero.
    pub rates: Vec<(Duration, u64)>,
    /// What the queue holds, as time at the present rate.
    pub queue: Duration,
    /// Lost before the queue.
    pub loss: Loss,
}

impl LinkPlan {
    /// Bits per second at a moment.
    pub fn rate_at(&self, at: Duration) -> u64 {
        self.rates.iter().rev().find(|(from, _)| *from <= at).map_or(1, |(_, rate)| *rate)
    }

    /// Bits that pass between two moments when the link is never idle.
    pub fn bits_between(&self, from: Duration, to: Duration) -> f64 {
        let mut bits = 0.0;
        for (index, (start, rate)) in self.rates.iter().enumerate() {
            let end = self.rates.get(index + 1).map_or(Duration::MAX, |(end, _)| *end);
            let span = end.min(to).saturating_sub((*start).max(from));
            bits += span.as_secs_f64() * *rate as f64;
        }
        bits
    }
}

/// The bottleneck itself.
#[derive(Debug)]
pub struct Link {
    plan: LinkPlan,
    /// (when it has left, bytes), the oldest first.
    queue: VecDeque<(Duration, u32)>,
    queued: u64,
    /// When the last packet has left.
    free_at: Duration,
    random: SmallRng,
    bad: bool,
}

/// A packet that was not dropped.
#[derive(Clone, Copy, Debug)]
pub struct Passage {
    /// When its last byte has left the bottleneck.
    pub left_at: Duration,
    /// How long it waited until its first byte left.
    pub waited: Duration,
}

impl Link {
    /// An idle bottleneck; what it loses repeats itself for a seed.
    pub fn new(plan: LinkPlan, seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self {
            plan,
            queue: VecDeque::new(),
            queued: 0,
            free_at: Duration::ZERO,
            random,
            bad: false,
        }
    }

    fn loses(&mut self) -> bool {
        match self.plan.loss {
            Loss::None => false,
            Loss::Random(share) => self.random.random::<f64>() < share,
            Loss::Bursts { enter, leave } => {
                let turn = if self.bad { leave } else { enter };
                self.bad ^= self.random.random::<f64>() < turn;
                self.bad
            }
        }
    }

    /// A packet of `size` bytes comes; `None`: it is lost, or the queue is full.
    pub fn enqueue(&mut self, now: Duration, size: u32) -> Option<Passage> {
        if self.loses() {
            return None;
        }
        while let Some((left_at, size)) = self.queue.front().copied()
            && left_at <= now
        {
            self.queue.pop_front();
            self.queued -= u64::from(size);
        }
        let rate = self.plan.rate_at(now) as f64;
        let limit = rate / 8.0 * self.plan.queue.as_secs_f64();
        if (self.queued + u64::from(size)) as f64 > limit {
            return None;
        }
        let starts_at = self.free_at.max(now);
        let left_at = self.after(starts_at, f64::from(size) * 8.0);
        self.free_at = left_at;
        self.queue.push_back((left_at, size));
        self.queued += u64::from(size);
        Some(Passage { left_at, waited: starts_at - now })
    }

    /// When `bits` have passed, the first of them at `from`; the rate may change meanwhile.
    fn after(&self, from: Duration, mut bits: f64) -> Duration {
        let mut at = from;
        loop {
            let rate = self.plan.rate_at(at) as f64;
            let change = self.plan.rates.iter().map(|(from, _)| *from).find(|from| *from > at);
            let until = Duration::from_secs_f64(bits / rate);
            match change {
                Some(change) if at + until > change => {
                    bits -= (change - at).as_secs_f64() * rate;
                    at = change;
                }
                _ => return at + until,
            }
        }
    }
}

/// Bounded delay variation without reordering (RFC 8868 section 4.5: truncated Gaussian).
#[derive(Debug)]
pub struct Jitter {
    random: SmallRng,
    deviation_ms: f64,
    last: Duration,
}

impl Jitter {
    /// The standard deviation of the cases.
    pub const DEVIATION_MS: f64 = 5.0;
    /// Three deviations to each side: 30 ms from the least to the most.
    const CUT: f64 = 3.0;

    /// Repeats itself for a seed.
    pub fn new(seed: u64, deviation_ms: f64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), deviation_ms, last: Duration::ZERO }
    }

    /// When a packet that left at `at` arrives over a path of `delay`, which is the mean.
    pub fn arrival(&mut self, at: Duration, delay: Duration) -> Duration {
        let deviation = loop {
            let sample = gaussian(&mut self.random);
            if sample.abs() <= Self::CUT {
                break sample * self.deviation_ms;
            }
        };
        let delay_ms = (delay.as_secs_f64() * 1e3 + deviation).max(0.0);
        self.last = self.last.max(at + Duration::from_secs_f64(delay_ms / 1e3));
        self.last
    }
}

/// Box-Muller.
pub fn gaussian(random: &mut SmallRng) -> f64 {
    let (a, b): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    (-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn packets_wait_for_each_other_and_the_queue_is_bounded() {
        let plan = LinkPlan {
            rates: vec![(Duration::ZERO, 1_000_000), (MS * 100, 500_000)],
            queue: MS * 50,
            loss: Loss::None,
        };
        let mut link = Link::new(plan, 1);
        // 1,000 bytes take 8 ms; 50 ms hold six of them.
        let waited: Vec<_> = (0..8)
            .map(|_| link.enqueue(Duration::ZERO, 1_000).map(|passage| passage.waited))
            .collect();
        let expected: Vec<_> = (0..8).map(|n| (n < 6).then_some(MS * 8 * n)).collect();
        assert_eq!(waited, expected);
        // Half of it passes before the rate falls.
        let passage = link.enqueue(MS * 96, 1_000).expect("the queue is empty again");
        assert_eq!(passage.left_at, MS * 108);
    }

    #[test]
    fn jitter_is_bounded_and_keeps_the_order() {
        let mut jitter = Jitter::new(7, Jitter::DEVIATION_MS);
        let mut last = Duration::ZERO;
        for n in 0..10_000 {
            let at = jitter.arrival(MS * n, MS * 50);
            assert!(at >= last && at <= MS * (n + 65), "{at:?}");
            last = at;
        }
    }

    #[test]
    fn losses_have_the_share_and_the_length_that_were_asked_for() {
        let bursts = Loss::Bursts { enter: 0.1, leave: 0.25 };
        for (loss, share, mean) in [(Loss::Random(0.1), 0.1, 1.1), (bursts, 0.286, 4.0)] {
            let plan =
                LinkPlan { rates: vec![(Duration::ZERO, 1_000_000_000)], queue: MS * 50, loss };
            let mut link = Link::new(plan, 3);
            let lost: Vec<_> =
                (0..100_000).map(|n| link.enqueue(MS * n, 1_000).is_none()).collect();
            let count = lost.iter().filter(|lost| **lost).count() as f64;
            let runs = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
            assert!((count / 1e5 - share).abs() < 0.01, "{loss:?}: {count}");
            assert!((count / runs - mean).abs() < 0.2, "{loss:?}: {}", count / runs);
        }
    }
}
