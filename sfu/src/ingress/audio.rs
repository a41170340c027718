//! How loud a track was since somebody asked.

use std::time::{Duration, Instant};

use crate::{room::LevelWindow, wire::AudioLevel};

const SLOT: Duration = Duration::from_millis(crate::room::SLOT_MS);

/// Packets further apart left silence between them; others stand for the time in between (60 ms is the longest usual
/// packet, and the network adds some).
const NO_SILENCE: Duration = Duration::from_millis(80);

/// The levels since the last look, by arrival time, for the election of speakers.
#[derive(Clone, Copy, Debug)]
pub(super) struct AudioActivity {
    /// Where the window begins; `None` before the first packet.
    since: Option<Instant>,
    /// The latest packet.
    last: Option<Instant>,
    window: LevelWindow,
}

impl Default for AudioActivity {
    fn default() -> Self {
        Self { since: None, last: None, window: LevelWindow::silent(0) }
    }
}

impl AudioActivity {
    pub(super) fn add(&mut self, now: Instant, level: AudioLevel) {
        let since = *self.since.get_or_insert(now);
        let slot = slots(since, now);
        let gap = self.last.map(|last| now.saturating_duration_since(last));
        let from = match (self.last, gap) {
            (Some(last), Some(gap)) if gap <= NO_SILENCE && last >= since => slots(since, last) + 1,
            (Some(_), Some(gap)) if gap <= NO_SILENCE => 0,
            _ => slot,
        };
        self.window.note(from.min(slot), slot, level.level);
        self.last = Some(now);
    }

    /// The levels since the last call; `None` where nothing was heard.
    pub(super) fn take(&mut self, now: Instant) -> Option<LevelWindow> {
        let since = self.since?;
        let last = self.last.filter(|last| *last >= since);
        // The packet of the last slots may only be late.
        let end = last.filter(|last| now.saturating_duration_since(*last) <= NO_SILENCE);
        let len = end.map_or_else(|| slots(since, now), |last| slots(since, last) + 1);
        let window = std::mem::replace(&mut self.window, LevelWindow::silent(0));
        self.since = Some(if end.is_some() { since + SLOT * len as u32 } else { now });
        last.map(|_| window.with_len(len))
    }
}

fn slots(from: Instant, to: Instant) -> usize {
    // Longer than any window already.
    let most = SLOT * 1_000;
    let passed = to.saturating_duration_since(from).min(most);
    (passed.as_millis() / SLOT.as_millis()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn origin() -> Instant {
        Instant::now()
    }

    /// Levels of windows taken each 300 ms while packets arrive at these times.
    fn taken(arrivals: &[u64]) -> Vec<Option<Vec<u8>>> {
        let start = origin();
        let at = |ms| start + Duration::from_millis(ms);
        let mut activity = AudioActivity::default();
        let mut arrivals = arrivals.iter().peekable();
        let mut windows = Vec::new();
        for end in [300, 600] {
            while let Some(ms) = arrivals.next_if(|ms| **ms < end) {
                activity.add(at(*ms), AudioLevel { level: 30, voice: true });
            }
            windows.push(activity.take(at(end)).map(|window| window.levels().to_vec()));
        }
        windows
    }

    #[test]
    fn packets_fill_the_slots_they_stand_for() {
        struct Case {
            name: &'static str,
            every: u64,
            jitter: u64,
        }
        let cases = [
            Case { name: "20 ms", every: 20, jitter: 0 },
            Case { name: "20 ms with jitter", every: 20, jitter: 15 },
            Case { name: "60 ms", every: 60, jitter: 5 },
            Case { name: "10 ms", every: 10, jitter: 0 },
        ];
        for case in cases {
            let late = |n: u64| if n.is_multiple_of(2) { 0 } else { case.jitter };
            let arrivals: Vec<_> =
                (0..600 / case.every).map(|n| n * case.every + late(n)).collect();
            for window in taken(&arrivals) {
                let window = window.unwrap_or_default();
                let loud = window.iter().filter(|level| **level == 30).count();
                assert!(loud >= 11 && loud == window.len(), "{}: {window:?}", case.name);
            }
        }
    }

    #[test]
    fn pauses_are_silence() {
        let windows = taken(&[0, 20, 40, 200, 220]);
        let first = windows[0].clone().unwrap_or_default();
        assert_eq!(first[..3], [30, 30, 30]);
        assert!(first[3..10].iter().all(|level| *level == 127), "{first:?}");
        assert_eq!(first[10..], [30, 30]);
        assert_eq!(windows[1], None, "nothing came");
    }
}
