//! The bound that loss sets: which rate explains the losses seen at the rates sent?
//!
//! A path loses packets by its nature (radio) or because more is sent than it takes. The model has a rate and an inherent
//! loss; of a few candidates for the rate the one wins under which the observed losses are likeliest, with a small
//! preference for the higher. The idea is that of libwebrtc's second loss-based estimator: ten percent of loss at whatever
//! rate costs nothing, ten percent above some rate brings the bound down to it.

use std::time::Duration;

use crate::prefetch::prefetch;

/// Losses over the last seconds and the bound that follows from them.
#[derive(Debug)]
#[repr(C)]
pub(super) struct LossBound {
    /// Packets and losses so far.
    packets: u64,
    lost: u64,
    current: Current,
    /// `None`: loss says nothing against any rate.
    bound_bps: Option<f64>,
    opened_at: Option<Duration>,
    /// Fraction lost lately, smoothed.
    recent: f64,
    inherent: f64,
    decreased_at: Option<Duration>,
    len: usize,
    next: usize,
    /// Observations with losses, of those kept.
    lossy: usize,
    /// Complete observations, a ring; empty before the first.
    observations: Box<[Observation]>,
}

/// The observation that is being made.
#[derive(Clone, Copy, Default, Debug)]
struct Current {
    packets: u32,
    lost: u32,
    bytes: u64,
}

#[derive(Clone, Copy, Default, Debug)]
struct Observation {
    packets: u32,
    lost: u32,
    kbps: f64,
}

impl LossBound {
    /// Observations kept: five seconds or more.
    const WINDOW: usize = 20;
    /// An observation lasts at least this long and has at least so many packets.
    const SPAN: Duration = Duration::from_millis(250);
    const PACKETS: u32 = 10;
    /// Weight of an observation against the next later one.
    const AGEING: f64 = 0.9;
    const INHERENT_RANGE: (f64, f64) = (0.001, 0.5);
    const FIRST_INHERENT: f64 = 0.01;
    /// Candidates by the present bound.
    const CANDIDATES: [f64; 3] = [1.02, 1.0, 0.95];
    /// Candidate by what arrives.
    const BACKOFF: f64 = 0.85;
    /// Preference for a higher rate: per kb/s, and per its logarithm.
    const PREFER: f64 = 0.000_2;
    const PREFER_LOG: f64 = 0.02;
    /// Above this loss the rate is bound whatever the model says: 500 kb/s at 20 % of loss, 75 at 100 %.
    const BALANCE_BPS: f64 = 75_000.0;
    const BALANCE_OFFSET: f64 = 0.05;
    /// The bound grows in an observation by this at most, and not at all for a moment after it fell.
    const RECOVERY: f64 = 1.08;
    const HOLD: Duration = Duration::from_millis(500);
    /// Weight of a new observation in the loss that is told.
    const RECENT: f64 = 0.25;

    /// The bound never falls below: Opus in its narrowest form.
    const LEAST_BPS: f64 = 10_000.0;

    pub(super) fn new() -> Self {
        Self {
            observations: Box::default(),
            len: 0,
            next: 0,
            lossy: 0,
            current: Current::default(),
            opened_at: None,
            inherent: Self::FIRST_INHERENT,
            bound_bps: None,
            decreased_at: None,
            recent: 0.0,
            packets: 0,
            lost: 0,
        }
    }

    /// What each feedback looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.packets);
        prefetch(&self.opened_at);
        prefetch(&self.len);
    }

    pub(super) fn bound_bps(&self) -> Option<f64> {
        self.bound_bps
    }

    /// Fraction of packets lost lately.
    pub(super) fn recent(&self) -> f64 {
        self.recent
    }

    /// Packets of which was told, and how many of them were lost.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.packets, self.lost)
    }

    pub(super) fn add_arrived(&mut self, size: u16) {
        self.packets += 1;
        self.current.packets += 1;
        self.current.bytes += u64::from(size);
    }

    pub(super) fn add_lost(&mut self, size: u16) {
        self.add_arrived(size);
        self.lost += 1;
        self.current.lost += 1;
    }

    /// A packet that was counted as lost came after all.
    pub(super) fn add_found(&mut self) {
        self.lost = self.lost.saturating_sub(1);
        self.current.lost = self.current.lost.saturating_sub(1);
    }

    /// The path was shown to take a rate without loss: what was seen before counts no more.
    pub(super) fn reset(&mut self) {
        self.len = 0;
        self.next = 0;
        self.lossy = 0;
        self.bound_bps = None;
    }

    /// After each feedback. `rate_bps` is the estimate by delay, `acknowledged_bps` what arrives.
    pub(super) fn update(&mut self, now: Duration, rate_bps: f64, acknowledged_bps: Option<f64>) {
        let opened_at = *self.opened_at.get_or_insert(now);
        let span = now.saturating_sub(opened_at);
        if span < Self::SPAN || self.current.packets < Self::PACKETS {
            return;
        }
        let Current { packets, lost, bytes } = std::mem::take(&mut self.current);
        let kbps = bytes as f64 * 8.0 / 1e3 / span.as_secs_f64();
        let observation = Observation { packets, lost, kbps };
        if self.observations.is_empty() {
            self.observations = vec![Observation::default(); Self::WINDOW].into();
        }
        let oldest = std::mem::replace(&mut self.observations[self.next], observation);
        self.lossy += usize::from(lost > 0);
        self.lossy -= usize::from(self.len == Self::WINDOW && oldest.lost > 0);
        self.next = (self.next + 1) % Self::WINDOW;
        self.len = (self.len + 1).min(Self::WINDOW);
        self.opened_at = Some(now);
        let fraction = f64::from(lost) / f64::from(packets);
        self.recent += Self::RECENT * (fraction - self.recent);

        let Some(acknowledged_bps) = acknowledged_bps else { return };
        if self.lossy == 0 {
            self.bound_bps = None;
            self.inherent = (self.inherent * Self::AGEING).max(Self::INHERENT_RANGE.0);
            return;
        }
        self.decide(now, rate_bps, acknowledged_bps);
    }

    fn decide(&mut self, now: Duration, rate_bps: f64, acknowledged_bps: f64) {
        let before = self.bound_bps.unwrap_or(rate_bps).min(rate_bps);
        let average = self.average_loss();
        let candidates = Self::CANDIDATES
            .map(|factor| before * factor)
            .into_iter()
            .chain([acknowledged_bps * Self::BACKOFF, rate_bps]);
        let mut best = (f64::NEG_INFINITY, before, self.inherent);
        for candidate in candidates {
            let kbps = candidate.min(rate_bps) / 1e3;
            let inherent = self.likeliest_inherent(kbps);
            let score = self.score(kbps, inherent, average);
            if score > best.0 {
                best = (score, kbps * 1e3, inherent);
            }
        }
        let (_, mut chosen, inherent) = best;
        self.inherent = inherent;
        if average > Self::BALANCE_OFFSET {
            chosen = chosen.min(Self::BALANCE_BPS / (average - Self::BALANCE_OFFSET));
        }
        // From nothing, no factor leads back up.
        chosen = chosen.max(Self::LEAST_BPS);
        if chosen > before {
            let held = self.decreased_at.is_some_and(|at| now.saturating_sub(at) < Self::HOLD);
            chosen = if held { before } else { chosen.min(before * Self::RECOVERY) };
        } else if chosen < before {
            self.decreased_at = Some(now);
        }
        self.bound_bps = (chosen < rate_bps).then_some(chosen);
    }

    /// From the latest back, with their weights.
    fn observations(&self) -> impl Iterator<Item = (&Observation, f64)> {
        (0..self.len).map(|age| {
            let index = (self.next + Self::WINDOW - 1 - age) % Self::WINDOW;
            (&self.observations[index], Self::AGEING.powi(age as i32))
        })
    }

    fn average_loss(&self) -> f64 {
        let (lost, packets) = self.observations().fold((0.0, 0.0), |sum, (seen, weight)| {
            (sum.0 + weight * f64::from(seen.lost), sum.1 + weight * f64::from(seen.packets))
        });
        if packets > 0.0 { lost / packets } else { 0.0 }
    }

    /// One damped Newton step towards the inherent loss under which the losses are likeliest.
    fn likeliest_inherent(&self, kbps: f64) -> f64 {
        const STEP: f64 = 0.75;
        let (mut first, mut second) = (0.0, 0.0);
        for (seen, weight) in self.observations() {
            let p = loss_probability(self.inherent, kbps, seen.kbps);
            let (lost, packets) = (f64::from(seen.lost), f64::from(seen.packets));
            first += weight * (lost / p - (packets - lost) / (1.0 - p));
            second -= weight * (lost / (p * p) + (packets - lost) / ((1.0 - p) * (1.0 - p)));
        }
        let (low, high) = Self::INHERENT_RANGE;
        let moved =
            if second < 0.0 { self.inherent - STEP * first / second } else { self.inherent };
        moved.clamp(low, high)
    }

    fn score(&self, kbps: f64, inherent: f64, average: f64) -> f64 {
        let prefer = Self::preference(kbps, average);
        self.observations().fold(0.0, |sum, (seen, weight)| {
            let p = loss_probability(inherent, kbps, seen.kbps);
            let (lost, packets) = (f64::from(seen.lost), f64::from(seen.packets));
            let likelihood = lost * p.ln() + (packets - lost) * (1.0 - p).ln();
            sum + weight * (likelihood + prefer * packets)
        })
    }

    /// Fades where loss is heavy.
    fn preference(kbps: f64, average: f64) -> f64 {
        let fade = (1.0 - average / 0.2).clamp(0.0, 1.0);
        fade * (Self::PREFER * kbps + Self::PREFER_LOG * kbps.ln_1p()) * 0.01
    }
}

/// Of a packet sent at `sent_kbps` over a path that takes `kbps` and loses `inherent` of everything.
fn loss_probability(inherent: f64, kbps: f64, sent_kbps: f64) -> f64 {
    let excess = if sent_kbps > kbps { (sent_kbps - kbps) / sent_kbps } else { 0.0 };
    (inherent + (1.0 - inherent) * excess).clamp(1e-4, 1.0 - 1e-4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends at `min(bound, 2,000 kb/s)` for `seconds` over a path that loses `inherent` and, above `capacity_kbps`, the
    /// rest. Gives the rate at the end in kb/s.
    fn run(inherent: f64, capacity_kbps: f64, seconds: u32) -> f64 {
        let rate = 2_000_000.0;
        let mut loss = LossBound::new();
        let (mut arrived, mut lost) = (0.0, 0.0);
        for n in 0..seconds * 20 {
            let sending = loss.bound_bps().unwrap_or(rate).min(rate);
            let p = loss_probability(inherent, capacity_kbps, sending / 1e3);
            // Fractions of packets of 1,000 bytes in 50 ms.
            let packets = sending / 8_000.0 * 0.05;
            arrived += packets * (1.0 - p);
            lost += packets * p;
            while arrived >= 1.0 {
                loss.add_arrived(1_000);
                arrived -= 1.0;
            }
            while lost >= 1.0 {
                loss.add_lost(1_000);
                lost -= 1.0;
            }
            let now = Duration::from_millis(50 * u64::from(n));
            loss.update(now, rate, Some(sending * (1.0 - p)));
        }
        loss.bound_bps().unwrap_or(rate) / 1e3
    }

    #[test]
    fn loss_by_nature_costs_little_and_loss_by_excess_binds() {
        struct Case {
            name: &'static str,
            inherent: f64,
            capacity_kbps: f64,
            expect_kbps: std::ops::RangeInclusive<f64>,
        }
        let cases = [
            Case {
                name: "clean",
                inherent: 0.0,
                capacity_kbps: 9e9,
                expect_kbps: 2_000.0..=2_000.0,
            },
            Case {
                name: "2 %",
                inherent: 0.02,
                capacity_kbps: 9e9,
                expect_kbps: 1_900.0..=2_000.0,
            },
            Case {
                name: "5 %",
                inherent: 0.05,
                capacity_kbps: 9e9,
                expect_kbps: 1_500.0..=2_000.0,
            },
            Case { name: "20 %", inherent: 0.2, capacity_kbps: 9e9, expect_kbps: 400.0..=700.0 },
            Case {
                name: "half fits",
                inherent: 0.0,
                capacity_kbps: 1_000.0,
                expect_kbps: 700.0..=1_100.0,
            },
        ];
        for case in cases {
            let kbps = run(case.inherent, case.capacity_kbps, 30);
            assert!(case.expect_kbps.contains(&kbps), "{}: {kbps}", case.name);
        }
    }
}
