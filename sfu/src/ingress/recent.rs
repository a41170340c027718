//! What happened over the last second, in intervals of 100 ms.

use std::time::{Duration, Instant};

/// Ten intervals that are over and the one that is being filled.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent<T> {
    /// `buckets[at]` is still being filled.
    buckets: [T; BUCKETS],
    at: usize,
    /// Start of the interval that is being filled.
    since: Option<Instant>,
    /// Intervals over since the beginning, or since a silence longer than all of them.
    over: u8,
}

const BUCKETS: usize = 11;
const INTERVAL: Duration = Duration::from_millis(100);

impl<T: Copy + Default> Recent<T> {
    /// The interval that `now` is in.
    pub(super) fn current(&mut self, now: Instant) -> &mut T {
        self.advance(now);
        &mut self.buckets[self.at]
    }

    /// The intervals that are over, and how long they lasted together: what is younger than a second is measured over its
    /// own life.
    pub(super) fn past(&mut self, now: Instant) -> (impl Iterator<Item = &T>, Duration) {
        self.advance(now);
        let at = self.at;
        let others = self.buckets.iter().enumerate().filter(move |(index, _)| *index != at);
        (others.map(|(_, bucket)| bucket), INTERVAL * u32::from(self.over.max(1)))
    }

    fn advance(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let steps = now.saturating_duration_since(since).as_millis() / INTERVAL.as_millis();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        if steps == 0 {
            return;
        }
        if steps as usize >= BUCKETS {
            *self = Self { since: Some(now), ..Self::default() };
            return;
        }
        for _ in 0..steps {
            self.at = (self.at + 1) % BUCKETS;
            self.buckets[self.at] = T::default();
        }
        self.over = (self.over + steps as u8).min(BUCKETS as u8 - 1);
        self.since = Some(since + INTERVAL * steps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn intervals_pass_and_silence_begins_anew() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut recent = Recent::<u32>::default();
        let sum = |recent: &mut Recent<u32>, now| {
            let (past, span) = recent.past(now);
            (past.sum::<u32>(), span.as_millis())
        };
        *recent.current(at(0)) += 1;
        *recent.current(at(90)) += 1;
        assert_eq!(sum(&mut recent, at(99)), (0, 100), "not over yet");
        *recent.current(at(110)) += 5;
        assert_eq!(sum(&mut recent, at(200)), (7, 200));
        assert_eq!(sum(&mut recent, at(1_050)), (7, 1_000));
        assert_eq!(sum(&mut recent, at(1_150)), (5, 1_000), "the oldest is forgotten");
        assert_eq!(sum(&mut recent, at(9_000)), (0, 100), "young again");
    }
}
