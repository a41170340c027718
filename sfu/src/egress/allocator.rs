//! Who of a subscriber's tracks gets how much of the estimate.
//!
//! Audio is not shared out: it is always sent, and taken off the budget before. Video tracks are served by priority, those
//! of one priority in turns, one step of their ladders at a time. What is granted already is cheaper to keep than to win:
//! without that, tracks would change with every breath of the estimate, and each change upwards costs a keyframe.
//!
//! Several subscribers may share a link without knowing of each other. Then who has held a step for long keeps it through
//! short dips of the estimate, who has just won one gives it back at once, and asks again later each time.

use std::{
    cmp::{Ordering, Reverse},
    time::{Duration, Instant},
};

use crate::rtp::Bitrate;

/// What one track asks for, and what it got.
#[derive(Clone, PartialEq, Debug, Default)]
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
    /// A step that was won of late: since when, and what was held before.
    fresh: Option<Fresh>,
    /// Steps in a row that were taken back while they were fresh, and until when the next one has to wait.
    setbacks: u32,
    barred_until: Option<Instant>,
}

/// A step that may have to be given back.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Fresh {
    since: Instant,
    /// What was held before.
    before: Option<u8>,
    /// Zero to one.
    dice: f64,
}

impl Fresh {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn patience(&self, now: Instant) -> Duration {
        self.age(now).mul_f64(FRESH_PATIENCE) + FRESH_DICE.mul_f64(self.dice)
    }

    fn bearable(&self) -> Duration {
        let (low, high) = HOPELESS_QUEUE;
        low + (high - low).mul_f64(self.dice)
    }
}

impl Claim {
    /// Four encodings of four temporal layers.
    pub const MAX_STEPS: usize = 16;

    /// Has at least the lowest step, whether it fits or not.
    pub fn hold(&mut self) {
        if self.len > 0 {
            self.granted = self.granted.or(Some(0));
        }
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
        // The first picture of a paused track is worth more than calm.
        (self.may_rise(now) || won.is_none()).then(|| self.price(step).mul_f64(WIN))
    }

    fn may_rise(&self, now: Instant) -> bool {
        let rested =
            self.lowered_at.is_none_or(|at| now.saturating_duration_since(at) >= RAISE_AFTER);
        rested && self.barred_until.is_none_or(|until| now >= until)
    }

    /// Takes what this round gave it.
    fn take(&mut self, now: Instant, budget: Bitrate, won: Option<u8>) {
        match won.cmp(&self.granted) {
            Ordering::Less => {
                self.lowered_at = Some(now);
                // What falls below what was settled falls for another reason.
                if self.fresh.take().is_some_and(|fresh| won >= fresh.before) {
                    self.setbacks = (self.setbacks + 1).min(MAX_SETBACKS);
                    let wait = SETBACK * 2u32.pow(self.setbacks - 1);
                    // A quarter more or less: two who met shall not meet again.
                    self.barred_until = Some(now + wait.mul_f64(0.75 + dice(budget) / 2.0));
                }
            }
            Ordering::Greater => {
                let before = self.fresh.map_or(self.granted, |fresh| fresh.before);
                let dice = dice(budget);
                // The first picture of all is no risk that was taken.
                self.fresh = self.granted.map(|_| Fresh { since: now, before, dice });
            }
            Ordering::Equal => {}
        }
        self.granted = won;
    }

    fn settle(&mut self, now: Instant) {
        if self.fresh.is_some_and(|fresh| fresh.age(now) >= SETTLED) {
            self.fresh = None;
            self.setbacks = 0;
        }
    }
}

/// A step that is kept is charged with this share of its price. Lower holds on longer when the estimate dips, and
/// builds more queue meanwhile (mediasoup and Signal's SFU react below 0.9 of what they allocated).
const KEEP: f64 = 0.92;

/// A step that is won is charged with this share of its price. Higher flaps less, lower uses links better.
const WIN: f64 = 1.08;

/// A track that was lowered is raised after this time at the earliest. Longer flaps less, shorter recovers sooner.
const RAISE_AFTER: Duration = Duration::from_secs(2);

/// After this time what was won is settled. Longer protects others for longer, shorter lets two newcomers settle.
const SETTLED: Duration = Duration::from_secs(8);

/// What is settled is kept for this long under a queue at an estimate that is too low for it, if it is not below that
/// share of what keeping costs: somebody's probe, or somebody who tries a step, is gone by then. Longer fills the queue of
/// a link that has narrowed.
const PATIENCE: Duration = Duration::from_millis(1_500);
const PATIENT_SHARE: f64 = 0.6;

/// What is fresh is kept for this part of its age, and up to so much longer: of two who try at once one gives way first.
const FRESH_PATIENCE: f64 = 0.2;
const FRESH_DICE: Duration = Duration::from_millis(300);

/// Where what is kept makes no queue, it fits, whatever the estimate; but the estimate must follow in this time.
const PRESSING_QUEUE: Duration = Duration::from_millis(30);
const DRAINING: f64 = 0.97;
const MAX_SHORT: Duration = Duration::from_secs(4);

/// From this queue on, unless it drains, an estimate that is too low is obeyed: at the dice's choice up to the second for
/// what is fresh.
const HOPELESS_QUEUE: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_millis(220));

/// How long a step that was taken back has to wait, the first time; each time in a row twice as long.
const SETBACK: Duration = Duration::from_secs(3);
const MAX_SETBACKS: u32 = 5;

/// Zero to one. The last digits of an estimate are as good as dice, and repeat themselves in a simulation.
fn dice(budget: Bitrate) -> f64 {
    (budget.bps() % 997) as f64 / 997.0
}

/// How long one subscriber's estimate has been too low for what it holds.
#[derive(Debug, Default)]
pub struct Patience {
    queue: Duration,
    lossy: bool,
    /// The queue at the last round.
    queue_before: Duration,
    /// Since when the estimate has been too low, and for how long of it there was a queue that did not drain.
    short_since: Option<Instant>,
    pressed: Duration,
    updated_at: Option<Instant>,
    kept: Bitrate,
}

impl Patience {
    /// What speaks for the estimate: how long packets wait in the path, and whether more is lost than by accident.
    pub fn observe(&mut self, queue: Duration, lossy: bool) {
        self.queue = queue;
        self.lossy = lossy;
    }

    /// What is sent on for a while, in spite of a lower estimate; zero: nothing is.
    pub fn kept(&self) -> Bitrate {
        self.kept
    }

    fn update(&mut self, now: Instant, budget: Bitrate, claims: &[Claim]) {
        let since_update =
            self.updated_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.updated_at = Some(now);
        self.kept = Bitrate::ZERO;
        let settled: Bitrate = claims.iter().map(|claim| claim.cost().mul_f64(KEEP)).sum();
        if budget >= settled {
            self.short_since = None;
            return;
        }
        if self.short_since.is_none() {
            self.short_since = Some(now);
            self.pressed = Duration::ZERO;
        }
        let drains = self.queue < self.queue_before.mul_f64(DRAINING);
        if self.queue >= PRESSING_QUEUE && !drains {
            self.pressed += since_update;
        }
        self.queue_before = self.queue;
        let short = self.short_since.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let fresh = || claims.iter().filter_map(|claim| claim.fresh);
        let limit = fresh().map(|fresh| fresh.patience(now)).fold(PATIENCE, Duration::min);
        let hopeless = fresh().map(|fresh| fresh.bearable()).fold(HOPELESS_QUEUE.1, Duration::min);
        let bearable = !self.lossy && (drains || self.queue < hopeless);
        if bearable
            && self.pressed < limit
            && short < MAX_SHORT
            && budget >= settled.mul_f64(PATIENT_SHARE)
        {
            self.kept = settled;
        }
    }
}

/// Shares a subscriber's estimate out.
#[derive(Debug, Default)]
pub struct BitrateAllocator {
    /// Indices of claims in the order in which they are served.
    order: Vec<u16>,
    /// What each claim has won in this round.
    won: Vec<Option<u8>>,
    goal: Option<Bitrate>,
}

impl BitrateAllocator {
    /// Grants each claim a step, so that the sum fits into `budget`. True when anything changed.
    ///
    /// `patience` is the subscriber's, kept from round to round; see [`Patience`].
    pub fn allocate(
        &mut self,
        now: Instant,
        budget: Bitrate,
        patience: &mut Patience,
        claims: &mut [Claim],
    ) -> bool {
        let Self { order, won, .. } = self;
        claims.iter_mut().for_each(|claim| claim.settle(now));
        patience.update(now, budget, claims);
        let budget = budget.max(patience.kept);
        order.clear();
        order.extend((0..claims.len()).map(|index| index as u16));
        // Who has more keeps it before equals may rise to it.
        order.sort_by_key(|index| {
            let claim = &claims[usize::from(*index)];
            Reverse((claim.priority, claim.granted.map_or(0, |step| step + 1)))
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
            claim.take(now, budget, *won);
        }
        self.goal = goal(now, &self.order, claims);
        changed
    }

    /// The least budget that would have raised somebody in the last round; `None`: all have what they want, or rest.
    pub fn goal(&self) -> Option<Bitrate> {
        self.goal
    }
}

/// See [`BitrateAllocator::goal`]: whoever is more important, and equals, keep what they have.
fn goal(now: Instant, order: &[u16], claims: &[Claim]) -> Option<Bitrate> {
    let of = |index: &u16| &claims[usize::from(*index)];
    let (mut kept, mut least) = (Bitrate::ZERO, None::<Bitrate>);
    for class in order.chunk_by(|a, b| of(a).priority == of(b).priority) {
        kept = kept + class.iter().map(|index| of(index).cost().mul_f64(KEEP)).sum();
        for claim in class.iter().map(of) {
            let next = claim.granted.map_or(0, |granted| granted + 1);
            if next < claim.len && claim.may_rise(now) {
                let others = kept.saturating_sub(claim.cost().mul_f64(KEEP));
                let needs = others + claim.price(next).mul_f64(WIN);
                least = Some(least.map_or(needs, |least| least.min(needs)));
            }
        }
    }
    least
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
