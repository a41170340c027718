//! The receiver's clock, of which feedback shows only the low bits.

use std::time::Duration;

use crate::wire::rtcp::{ArrivalTick, CcfbArrival};

/// Extends the receiver's times into microseconds that do not wrap.
#[derive(Debug, Default)]
pub(super) struct FeedbackClock {
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    /// As it was told.
    raw: i32,
    extended_us: i64,
}

impl FeedbackClock {
    /// Of transport-wide feedback: 2^32 ticks of 250 us are 12 days.
    pub(super) fn extend_tick(&mut self, tick: ArrivalTick) -> i64 {
        self.extend(tick.0 as i32, |steps| steps * ArrivalTick::MICROS)
    }

    /// Of an RFC 8888 report written at `timestamp`: 2^32 units of 1/65536 s are 18 hours.
    pub(super) fn extend_report(&mut self, timestamp: u32, arrival: CcfbArrival) -> Option<i64> {
        let before = arrival.before?;
        let written_us = self.extend(timestamp as i32, |steps| (steps * 1_000_000) >> 16);
        Some(written_us.saturating_sub(micros(before)))
    }

    fn extend(&mut self, raw: i32, to_micros: impl Fn(i64) -> i64) -> i64 {
        let extended_us = self.last.map_or(0, |last| {
            last.extended_us.saturating_add(to_micros(i64::from(raw.wrapping_sub(last.raw))))
        });
        self.last = Some(Last { raw, extended_us });
        extended_us
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_on_over_the_wrap_and_backwards() {
        let mut clock = FeedbackClock::default();
        assert_eq!(clock.extend_tick(ArrivalTick((1 << 31) - 2)), 0);
        assert_eq!(clock.extend_tick(ArrivalTick(-(1 << 31))), 500);
        assert_eq!(clock.extend_tick(ArrivalTick((1 << 31) - 4)), -500);
    }

    #[test]
    fn reports_count_back_from_their_timestamp() {
        let mut clock = FeedbackClock::default();
        let before = |ms| CcfbArrival { ecn: 0, before: Some(Duration::from_millis(ms)) };
        assert_eq!(clock.extend_report(u32::MAX, before(100)), Some(-100_000));
        assert_eq!(clock.extend_report(65_535, before(100)), Some(900_000));
        assert_eq!(clock.extend_report(0, CcfbArrival { ecn: 0, before: None }), None);
    }
}
