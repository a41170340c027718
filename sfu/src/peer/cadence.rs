//! When reports leave to a peer: with media where any does, for then they cost no send and no visit of their own.

use std::time::{Duration, Instant};

/// The report behind one that left with media is expected to do the same within this time of its own; where media stops, or comes more
/// seldom, it is so much late. Longer spares visits to those who wait for media, shorter tells sooner.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// The same of a peer that publishes: what it gets is a receiver report too, by which it judges its path.
const PATIENCE_PUBLISHER: Duration = Duration::from_millis(400);

/// So much before its time a report that is expected to leave by itself takes the chance: media that comes more often than this
/// never lets one wait.
const EARLY: Duration = Duration::from_millis(400);

/// For so long a report that may leave with media waits for a run that it fits into.
const FIT: Duration = Duration::from_millis(100);

/// The two moments between which a peer's next report leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cadence {
    from: Instant,
    by: Instant,
}

impl Cadence {
    /// Of a peer to which nothing has left, or nothing of late but the report of this moment: the next one leaves after `interval`
    /// by itself.
    pub(crate) fn alone(now: Instant, interval: Duration) -> Self {
        Self { from: now + interval.saturating_sub(EARLY), by: now + interval }
    }

    /// A report left with media: the next one is expected to do the same after `interval`.
    pub(crate) fn with_media(now: Instant, interval: Duration, publishes: bool) -> Self {
        let from = now + interval;
        let patience = if publishes { PATIENCE_PUBLISHER } else { PATIENCE };
        Self { from, by: from + patience }
    }

    /// Whether a report may leave with media that leaves now.
    #[inline(always)]
    pub(crate) fn may_ride(&self, now: Instant) -> bool {
        self.from <= now
    }

    /// Whether it does so even where it costs a send of its own.
    pub(crate) fn rides_at_any_cost(&self, now: Instant) -> bool {
        self.from + FIT <= now
    }

    /// The next one leaves at this moment at the latest.
    pub(crate) fn shorten(&mut self, by: Instant) {
        self.from = self.from.min(by);
        self.by = self.by.min(by);
    }

    /// When it leaves by itself at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.by
    }
}
