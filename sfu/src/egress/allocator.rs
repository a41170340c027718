//! Who of a subscriber's tracks gets how much of the estimate.
//!
//! Audio is not shared out: it is always sent, and taken off the budget before. Video tracks are served by priority, those
//! of one priority in turns, one step of their ladders at a time. What is granted already is cheaper to keep than to win:
//! without that, tracks would change with every breath of the estimate, and each change upwards costs a keyframe.

use std::time::{Duration, Instant};

use super::RepairShare;
use crate::rtp::Bitrate;

/// What one track asks for, and what it got.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// Larger is served first.
    pub priority: u32,
    /// What each step of the ladder costs in all, the cheapest first. At most [`Claim::MAX_STEPS`].
    steps: [Bitrate; Claim::MAX_STEPS],
    len: u8,
    /// Index into the steps; `None` pauses the track.
    granted: Option<u8>,
    /// When a step was taken away last.
    lowered_at: Option<Instant>,
    /// When it came back from a pause last.
    resumed_at: Option<Instant>,
    /// What repair packets cost beside each step, as a part of it.
    repair: Option<RepairShare>,
}

impl Claim {
    /// Four encodings of four temporal layers.
    pub const MAX_STEPS: usize = 16;

    /// Has at least the lowest step, whether it fits or not. What came back from a pause a moment ago does not: that was
    /// too much.
    pub fn hold(&mut self, now: Instant) {
        let resumed = |at: Instant| now.saturating_duration_since(at) < RESUMED;
        if self.len > 0 && !self.resumed_at.is_some_and(resumed) {
            self.granted = self.granted.or(Some(0));
        }
    }

    /// It came back from a pause just now.
    pub fn resumes(&self, now: Instant) -> bool {
        self.resumed_at == Some(now)
    }

    /// What its steps cost now. `kept` is the step that what was granted has become; the ladder may be another one.
    pub fn set_steps(&mut self, steps: impl IntoIterator<Item = Bitrate>, kept: Option<u8>) {
        self.len = 0;
        let mut floor = Bitrate::ZERO;
        for (place, step) in self.steps.iter_mut().zip(steps) {
            // Measured rates waver; a better step never counts as cheaper.
            floor = floor.max(step);
            *place = floor;
            self.len += 1;
        }
        self.granted = kept.and_then(|kept| self.len.checked_sub(1).map(|top| kept.min(top)));
    }

    /// What its repair packets cost, as a part of each step. What is won has to have room for them; what is kept is kept
    /// without.
    pub fn set_repair(&mut self, share: Option<RepairShare>) {
        self.repair = share;
    }

    /// The step it may have; `None` while it is paused.
    pub fn granted(&self) -> Option<u8> {
        self.granted
    }

    /// What the highest step costs: all that the track could use.
    pub fn top(&self) -> Bitrate {
        self.steps().last().copied().unwrap_or(Bitrate::ZERO)
    }

    /// What the lowest step costs.
    pub fn least(&self) -> Bitrate {
        self.steps().first().copied().unwrap_or(Bitrate::ZERO)
    }

    /// What keeping the granted step takes.
    pub fn keeps(&self) -> Bitrate {
        self.cost().mul_f64(KEEP)
    }

    /// What the granted step costs.
    pub fn cost(&self) -> Bitrate {
        self.granted.map_or(Bitrate::ZERO, |step| self.price(step))
    }

    fn steps(&self) -> &[Bitrate] {
        self.steps.get(..usize::from(self.len)).unwrap_or(&[])
    }

    fn price(&self, step: u8) -> Bitrate {
        self.steps().get(usize::from(step)).copied().unwrap_or(Bitrate::ZERO)
    }

    /// What `step` is charged with, in place of its price.
    fn charge(&self, now: Instant, step: u8, won: Option<u8>) -> Option<Bitrate> {
        let kept = self.granted.is_some_and(|granted| step <= granted);
        if kept {
            return Some(self.price(step).mul_f64(KEEP));
        }
        let rested =
            self.lowered_at.is_none_or(|at| now.saturating_duration_since(at) >= RAISE_AFTER);
        let repair = self.repair.map_or(0.0, RepairShare::value);
        // The first picture of a paused track is worth more than calm.
        (rested || won.is_none()).then(|| self.price(step).mul_f64(WIN * (1.0 + repair)))
    }
}

/// A step that is kept is charged with this share of its price. Lower holds on longer when the estimate dips, and
/// builds more queue meanwhile (mediasoup and Signal's SFU react below 0.9 of what they allocated).
const KEEP: f64 = 0.92;

/// A step that is won is charged with this share of its price. Higher flaps less, lower uses links better.
const WIN: f64 = 1.08;

/// A track that was lowered is raised after this time at the earliest. Longer flaps less, shorter recovers sooner.
const RAISE_AFTER: Duration = Duration::from_secs(2);

/// A picture that came back from a pause is paused again, without other evidence than the estimate, within this time.
/// Longer gives back sooner what fills the queue, and pauses for a receiver that is busy.
const RESUMED: Duration = Duration::from_secs(8);

/// Shares a subscriber's estimate out.
#[derive(Debug, Default)]
pub struct BitrateAllocator {
    /// Indices of claims in the order in which they are served.
    order: Vec<u16>,
    /// What each claim has won in this round.
    won: Vec<Option<u8>>,
}

impl BitrateAllocator {
    /// Grants each claim a step, so that the sum fits into `budget`. True when anything changed.
    pub fn allocate(&mut self, now: Instant, budget: Bitrate, claims: &mut [Claim]) -> bool {
        let Self { order, won } = self;
        order.clear();
        order.extend((0..claims.len()).map(|index| index as u16));
        // Who has more keeps it before equals may rise to it.
        order.sort_by_key(|index| {
            let claim = &claims[usize::from(*index)];
            std::cmp::Reverse((claim.priority, claim.granted.map_or(0, |step| step + 1)))
        });
        won.clear();
        won.resize(claims.len(), None);

        let mut left = budget;
        let mut rest = &order[..];
        while let Some(first) = rest.first() {
            let priority = claims[usize::from(*first)].priority;
            let equals = rest
                .iter()
                .take_while(|index| claims[usize::from(**index)].priority == priority)
                .count();
            let (class, behind) = rest.split_at(equals);
            rest = behind;
            left = serve_class(now, left, class, claims, won);
        }

        let mut changed = false;
        for (claim, won) in claims.iter_mut().zip(won.iter()) {
            if *won == claim.granted {
                continue;
            }
            changed = true;
            if *won < claim.granted {
                claim.lowered_at = Some(now);
            } else if claim.granted.is_none() && claim.lowered_at.is_some() {
                claim.resumed_at = Some(now);
            }
            claim.granted = *won;
        }
        changed
    }
}

/// One step at a time for claims of one priority. What is left.
fn serve_class(
    now: Instant,
    mut left: Bitrate,
    class: &[u16],
    claims: &[Claim],
    won: &mut [Option<u8>],
) -> Bitrate {
    for step in 0..Claim::MAX_STEPS as u8 {
        for index in class.iter().map(|index| usize::from(*index)) {
            let (claim, won) = (&claims[index], &mut won[index]);
            let next = won.map_or(0, |won| won + 1);
            if step >= claim.len || next != step {
                continue;
            }
            let before = won.and_then(|won| claim.charge(now, won, None)).unwrap_or(Bitrate::ZERO);
            let Some(charge) = claim.charge(now, step, *won) else { continue };
            let more = charge.saturating_sub(before);
            if more <= left {
                left = left.saturating_sub(more);
                *won = Some(step);
            }
        }
    }
    left
}

#[cfg(test)]
mod tests;
