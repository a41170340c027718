//! Packets that left together, and how much later than that they arrived (draft-ietf-rmcat-gcc-02 section 5.2).

use std::time::Duration;

use crate::prefetch::prefetch;

/// One packet by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// On our clock, from the estimator's origin.
    pub(super) sent: Duration,
    /// Microseconds on the receiver's clock, from any origin.
    pub(super) arrived_us: i64,
}

/// From one group to the next.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct GroupDelta {
    /// Milliseconds between departures.
    pub(super) sent_ms: f64,
    /// Milliseconds between arrivals.
    pub(super) arrived_ms: f64,
    /// When the later group had arrived: milliseconds on the receiver's clock.
    pub(super) at_ms: f64,
}

/// Gathers packets into groups.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct ArrivalGroups {
    previous: Option<Group>,
    current: Option<Group>,
    /// Groups in a row that arrived in the wrong order.
    reordered: u8,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent: Duration,
    last_sent: Duration,
    first_arrived_us: i64,
    last_arrived_us: i64,
}

impl ArrivalGroups {
    /// Packets that leave within this time are one group: a burst of the pacer.
    const SEND_SPAN: Duration = Duration::from_millis(5);
    /// Packets that come this close together, faster than they were sent, were held up somewhere and belong together.
    const BURST_GAP_US: i64 = 5_000;
    /// Longest such burst; without an end a queue that drains would be one group.
    const BURST_SPAN_US: i64 = 100_000;
    /// A difference of both clocks' steps beyond this is a jump of the receiver's clock.
    const CLOCK_JUMP_US: i64 = 3_000_000;
    /// Groups in the wrong order after which the receiver's clock is taken to have been set back.
    const REORDERED_RESET: u8 = 3;

    /// What [`Self::add`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.previous);
        prefetch(&self.current);
        prefetch(&self.reordered);
    }

    /// Takes a packet, in the order of departure. Gives the step between the two latest complete groups when this packet
    /// opens a new one.
    pub(super) fn add(&mut self, packet: Arrival) -> Option<GroupDelta> {
        let Some(mut current) = self.current else {
            self.current = Some(Group::of(packet));
            return None;
        };
        if packet.sent < current.first_sent {
            return None;
        }
        if current.takes(packet) {
            current.last_sent = current.last_sent.max(packet.sent);
            current.last_arrived_us = current.last_arrived_us.max(packet.arrived_us);
            self.current = Some(current);
            return None;
        }
        let delta = self.previous.and_then(|previous| self.delta(previous, current));
        if delta.is_some() || self.previous.is_none() {
            self.previous = Some(current);
        }
        self.current = Some(Group::of(packet));
        delta
    }

    /// Starts afresh: the next packet has nothing to be compared with.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    fn delta(&mut self, previous: Group, current: Group) -> Option<GroupDelta> {
        let sent = current.last_sent.saturating_sub(previous.last_sent);
        let arrived_us = current.last_arrived_us.saturating_sub(previous.last_arrived_us);
        if arrived_us.saturating_sub(sent.as_micros() as i64).saturating_abs()
            >= Self::CLOCK_JUMP_US
        {
            self.reset();
            return None;
        }
        if arrived_us < 0 {
            self.reordered += 1;
            if self.reordered >= Self::REORDERED_RESET {
                self.reset();
            }
            return None;
        }
        self.reordered = 0;
        Some(GroupDelta {
            sent_ms: sent.as_secs_f64() * 1e3,
            arrived_ms: arrived_us as f64 / 1e3,
            at_ms: current.last_arrived_us as f64 / 1e3,
        })
    }
}

impl Group {
    fn of(packet: Arrival) -> Self {
        Self {
            first_sent: packet.sent,
            last_sent: packet.sent,
            first_arrived_us: packet.arrived_us,
            last_arrived_us: packet.arrived_us,
        }
    }

    fn takes(&self, packet: Arrival) -> bool {
        if packet.sent.saturating_sub(self.first_sent) <= ArrivalGroups::SEND_SPAN {
            return true;
        }
        let gap_us = packet.arrived_us.saturating_sub(self.last_arrived_us);
        let sent_us = packet.sent.saturating_sub(self.last_sent).as_micros() as i64;
        (0..=ArrivalGroups::BURST_GAP_US).contains(&gap_us)
            && gap_us < sent_us
            && packet.arrived_us.saturating_sub(self.first_arrived_us)
                < ArrivalGroups::BURST_SPAN_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sent_ms: u64, arrived_ms: i64) -> Arrival {
        Arrival { sent: Duration::from_millis(sent_ms), arrived_us: arrived_ms * 1_000 }
    }

    #[test]
    fn packets_of_a_burst_are_one_group() {
        let mut groups = ArrivalGroups::default();
        // Sent at 0-4, 20-24 and 40 ms; the second burst takes 3 ms longer.
        for (sent, arrived) in [(0, 50), (4, 55), (20, 70), (24, 78)] {
            assert_eq!(groups.add(packet(sent, arrived)), None);
        }
        let delta = groups.add(packet(40, 90)).expect("two groups are complete");
        assert_eq!(delta, GroupDelta { sent_ms: 20.0, arrived_ms: 23.0, at_ms: 78.0 });
    }

    #[test]
    fn packets_that_were_held_up_together_are_one_group() {
        let mut groups = ArrivalGroups::default();
        for sent in [0, 20, 40, 60] {
            assert_eq!(groups.add(packet(sent, 100 + sent as i64 / 20)), None);
        }
        // The hold-up is over: 80 ms is a group of its own, compared with nothing yet.
        assert_eq!(groups.add(packet(80, 130)), None);
        assert!(groups.add(packet(100, 150)).is_some());
    }

    #[test]
    fn a_jump_of_the_receivers_clock_is_no_delay() {
        let mut groups = ArrivalGroups::default();
        for n in 0..5u64 {
            groups.add(packet(n * 20, n as i64 * 20));
        }
        for n in 5..7u64 {
            let delta = groups.add(packet(n * 20, 10_000_000 + n as i64 * 20));
            assert!(delta.is_none_or(|delta| delta.arrived_ms < 21.0), "{delta:?}");
        }
    }
}
