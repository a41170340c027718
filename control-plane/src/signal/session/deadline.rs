//! When a session wants to be woken, by name.

use std::time::Instant;

/// Why a session is woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deadline {
    /// Media must be connected.
    Join,
    /// A fresh token is due.
    TokenRefresh,
    /// What is sent to the client changed a moment ago: describe it.
    Negotiate,
    /// The client owes an answer, or an offer that was asked for.
    Answer,
    /// A simulated speaker falls silent.
    SpeakerEnd,
}

const ALL: [Deadline; 5] = [
    Deadline::Join,
    Deadline::TokenRefresh,
    Deadline::Negotiate,
    Deadline::Answer,
    Deadline::SpeakerEnd,
];

/// One slot per name.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    slots: [Option<Instant>; ALL.len()],
}

impl Deadlines {
    pub(super) fn set(&mut self, deadline: Deadline, at: Instant) {
        self.slots[deadline as usize] = Some(at);
    }

    /// Keeps an earlier one.
    pub(super) fn set_earliest(&mut self, deadline: Deadline, at: Instant) {
        let slot = &mut self.slots[deadline as usize];
        *slot = Some(slot.map_or(at, |set| set.min(at)));
    }

    pub(super) fn clear(&mut self, deadline: Deadline) {
        self.slots[deadline as usize] = None;
    }

    pub(super) fn is_set(&self, deadline: Deadline) -> bool {
        self.slots[deadline as usize].is_some()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.slots.iter().flatten().min().copied()
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Option<Deadline> {
        let due = ALL
            .into_iter()
            .find(|deadline| self.slots[*deadline as usize].is_some_and(|at| at <= now))?;
        self.clear(due);
        Some(due)
    }
}
