//! The media side of a sink: its path, what it counts, and the RTCP that it answers. Until the path is up the sink's own task
//! drives it; then, without a bad network, the worker's round.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{path::Path, tally::Tally};
use crate::client::{
    Context,
    rounds::{Looked, ROUND},
};

/// Between two transport-wide feedbacks: two rounds. Browsers send one in 50 to 250 ms.
const FEEDBACK: Duration = Duration::from_millis(200);
const _: () = assert!(FEEDBACK.as_millis().is_multiple_of(ROUND.as_millis()));
/// Feedbacks between two receiver reports, and two countings.
const FEEDBACKS_PER_REPORT: u32 = 5;
/// Reads of the socket in a turn at most.
const MAX_READS: usize = 8;

thread_local! {
    /// What the worker's sink at hand is about to send.
    static COMPOUND: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct Media {
    pub(super) path: Path,
    tally: Tally,
    next_feedback: Instant,
    feedbacks: u32,
}

impl Media {
    /// `since` is when the client began to join, since the Unix epoch.
    pub(super) fn new(
        context: &Rc<Context>,
        number: u32,
        path: Path,
        since: Duration,
        now: Instant,
    ) -> Self {
        let tally = Tally::new(Rc::clone(context), number, since);
        Self { path, tally, next_feedback: now, feedbacks: 0 }
    }

    /// Takes what has arrived.
    pub(super) fn receive(&mut self, now: Instant) {
        let Self { path, tally, .. } = self;
        for _ in 0..MAX_READS {
            let more = path.receive(now, |keys, arrival, header| {
                tally.handle(keys, arrival, header);
            });
            if !more {
                break;
            }
        }
    }

    /// Timers, and RTCP when it is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let Self { path, tally, .. } = self;
        path.handle_timeout(now, |keys, arrival, header| tally.handle(keys, arrival, header));
        if now >= self.next_feedback {
            self.next_feedback = now + FEEDBACK;
            self.answer(now);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn timeout(&self) -> Instant {
        self.next_feedback.min(self.path.timeout())
    }

    /// RTCP: what arrived when, and once a second what was lost.
    fn answer(&mut self, now: Instant) {
        self.feedbacks += 1;
        let with_report = self.feedbacks.is_multiple_of(FEEDBACKS_PER_REPORT);
        if with_report {
            self.tally.flush(self.path.take_impaired());
        }
        COMPOUND.with_borrow_mut(|compound| {
            compound.clear();
            self.tally.feedback(with_report, compound);
            if !compound.is_empty() {
                self.path.send_rtcp(now, compound);
            }
        });
    }

    /// Counts what there is up to now.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.path.is_looked_at() {
            self.receive(now);
        }
        self.tally.flush(self.path.take_impaired());
    }
}

impl Looked for Media {
    /// Feedback leaves right after the packets that it tells of were taken.
    fn look(&mut self, now: Instant) {
        self.receive(now);
        self.path.end_look(now);
        // Every second round, however late that is.
        if self.next_feedback.saturating_duration_since(now) < ROUND / 2 {
            self.next_feedback = now;
        }
        self.handle_timeout(now);
    }
}

impl std::fmt::Debug for Media {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Media").field("tally", &self.tally).finish_non_exhaustive()
    }
}
