//! The search for the largest load that still meets an objective: doubled until it breaks, then halved in between.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::report::{Condition, Report};

/// One load that was tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Value of the field.
    pub(crate) load: u64,
    /// All objectives were met, and everybody was in.
    pub(crate) held: bool,
    /// What broke, in words; empty when nothing did.
    pub(crate) broke: Vec<String>,
    pub(crate) figures: std::collections::BTreeMap<String, f64>,
}

/// What the search found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Capacity {
    /// Field of the scenario that was raised.
    pub(crate) field: String,
    pub(crate) objective: String,
    /// Last load that held; none when the first one did not.
    pub(crate) capacity: Option<u64>,
    /// The search ended at its own limit: the server could take more.
    pub(crate) at_limit: bool,
    /// The tester was the bottleneck at a load that broke.
    pub(crate) tester_was_bottleneck: bool,
    pub(crate) steps: Vec<Step>,
}

/// For people: the last lines of a search.
impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.capacity {
            Some(held) if self.at_limit => {
                writeln!(f, "capacity: at least {} = {held} (--limit)", self.field)?;
            }
            Some(held) => writeln!(f, "capacity: {} = {held}", self.field)?,
            None => writeln!(f, "capacity: not even the first load held")?,
        }
        if self.tester_was_bottleneck {
            writeln!(f, "warning: the tester itself was the bottleneck at a load that broke")?;
        }
        Ok(())
    }
}

/// Decides which load comes next. Knows nothing of how a load is run.
#[derive(Debug)]
pub(crate) struct Search {
    held: Option<u64>,
    broke: Option<u64>,
    next: u64,
    limit: u64,
}

impl Search {
    pub(crate) fn new(from: u64, limit: u64) -> Self {
        Self { held: None, broke: None, next: from.clamp(1, limit.max(1)), limit: limit.max(1) }
    }

    /// The next load to try; `None` when the answer is known well enough: within a tenth.
    pub(crate) fn poll(&self) -> Option<u64> {
        match (self.held, self.broke) {
            (Some(held), _) if held >= self.limit => None,
            (None, Some(1)) => None,
            (Some(held), Some(broke)) if broke <= held + (held / 10).max(1) => None,
            _ => Some(self.next),
        }
    }

    pub(crate) fn handle(&mut self, load: u64, held: bool) {
        if held {
            self.held = Some(load);
        } else {
            self.broke = Some(load);
        }
        self.next = match (self.held, self.broke) {
            (Some(held), None) => held.saturating_mul(2).min(self.limit),
            (Some(held), Some(broke)) => held.midpoint(broke),
            (None, Some(broke)) => (broke / 2).max(1),
            (None, None) => self.next,
        };
    }

    pub(crate) fn held(&self) -> Option<u64> {
        self.held
    }

    pub(crate) fn at_limit(&self) -> bool {
        self.held == Some(self.limit)
    }
}

/// Judges a run: which objectives it broke, in words.
pub(crate) fn broken(report: &Report, objectives: &[Condition]) -> Vec<String> {
    let mut broken = Vec::new();
    for objective in objectives {
        match objective.check(&report.figures) {
            Some((_, true)) => {}
            Some((value, false)) => broken.push(format!("{objective}: it was {value}")),
            None => broken.push(format!("{objective}: nothing was measured")),
        }
    }
    let clients = &report.clients;
    if clients.failed + clients.lost > 0 {
        broken.push(format!("{} clients failed, {} were lost", clients.failed, clients.lost));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that takes so much.
    fn search(capacity: u64, from: u64, limit: u64) -> (Option<u64>, usize, bool) {
        let mut search = Search::new(from, limit);
        let mut tried = 0;
        while let Some(load) = search.poll() {
            tried += 1;
            assert!(tried < 40 && (1..=limit).contains(&load), "{load}");
            search.handle(load, load <= capacity);
        }
        (search.held(), tried, search.at_limit())
    }

    #[test]
    fn the_last_load_that_held_is_found_within_a_tenth() {
        for (capacity, from, limit) in
            [(1_000, 10, 100_000), (37, 10, 100_000), (5, 100, 1_000), (1, 1, 10), (64, 64, 4_096)]
        {
            let (held, tried, at_limit) = search(capacity, from, limit);
            let held = held.unwrap();
            assert!(
                held <= capacity && held + (held / 10).max(1) >= capacity,
                "{held} of {capacity}"
            );
            assert!(tried <= 16 && !at_limit, "{tried} runs for {capacity}");
        }
    }

    #[test]
    fn the_search_ends_at_its_limit_and_when_nothing_holds() {
        assert_eq!(search(1_000_000, 10, 500), (Some(500), 7, true));
        assert_eq!(search(0, 8, 500).0, None);
    }
}
