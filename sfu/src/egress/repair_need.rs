//! Whether a path needs repair packets: it loses some although it is not full, and what is sent again comes late.

use std::time::{Duration, Instant};

/// Watches what one subscriber's path loses.
///
/// A retransmission comes a round trip after its gap was seen. Up to about 100 ms players hide that; libwebrtc's own senders
/// do without error correction below some tens of milliseconds and always use it above a hundred. Loss with a full queue is
/// congestion, and whatever is added makes it worse.
#[derive(Debug, Default)]
pub struct RepairNeed {
    /// Packets and losses when the present interval began, and when that was.
    began: Option<(Instant, LossCount)>,
    /// The longest queue of this interval and of the one before: a loss is heard of some time after its queue.
    queues: [Duration; 2],
    /// Smoothed, 0 to 1.
    loss: f64,
    /// Since when repair would be of use, or would not be any more.
    changed_since: Option<Instant>,
    congested_at: Option<Instant>,
    needed: bool,
}

/// Packets of which feedback told, so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LossCount {
    /// All of them.
    pub packets: u64,
    /// Of these, how many were lost.
    pub lost: u64,
}

impl RepairNeed {
    /// Losses are looked at in intervals of this length and at least so many packets.
    const INTERVAL: Duration = Duration::from_millis(500);
    const PACKETS: u64 = 20;
    /// Weight of an interval: two to three seconds count.
    const WEIGHT: f64 = 0.2;
    /// Loss from which on repair is worth its bandwidth, and below which it is not any more. At one percent a picture in
    /// thirty of three packets is incomplete: one each second.
    const LOSS: f64 = 0.01;
    const LOSS_LEFT: f64 = 0.005;
    /// Round trip from which on a retransmission is late, and below which it is not any more.
    const RTT: Duration = Duration::from_millis(100);
    const RTT_LEFT: Duration = Duration::from_millis(80);
    /// A loss while packets wait longer than this is taken for congestion. Shorter leaves out paths that jitter, longer
    /// protects on links with short queues.
    const QUEUE: Duration = Duration::from_millis(60);
    /// For so long after such a loss there is no repair.
    const REST: Duration = Duration::from_secs(5);
    /// It begins, and ends, after so long a time in which it would be of use, or would not be.
    const BEGINS: Duration = Duration::from_secs(2);
    const ENDS: Duration = Duration::from_secs(5);

    /// Feedback came. `queue`: how long packets wait in the path.
    pub fn observe(
        &mut self,
        now: Instant,
        count: LossCount,
        queue: Duration,
        rtt: Option<Duration>,
    ) {
        let [longest, before] = &mut self.queues;
        *longest = queue.max(*longest);
        let (at, began) = *self.began.get_or_insert((now, count));
        let packets = count.packets.saturating_sub(began.packets);
        if now.saturating_duration_since(at) < Self::INTERVAL || packets < Self::PACKETS {
            return;
        }
        // Something that was taken for lost may have come.
        let lost = count.lost.saturating_sub(began.lost) as f64 / packets as f64;
        let queue = queue.max(*longest).max(*before);
        self.queues = [Duration::ZERO, *longest];
        self.began = Some((now, count));
        if queue >= Self::QUEUE && lost >= Self::LOSS {
            *self = Self { began: self.began, queues: self.queues, ..Self::default() };
            self.congested_at = Some(now);
            return;
        }
        self.loss += Self::WEIGHT * (lost - self.loss);
        let (least, late) = match self.needed {
            true => (Self::LOSS_LEFT, Self::RTT_LEFT),
            false => (Self::LOSS, Self::RTT),
        };
        let rested = |at: Instant| now.saturating_duration_since(at) >= Self::REST;
        let useful = self.loss >= least
            && rtt.is_some_and(|rtt| rtt >= late)
            && self.congested_at.is_none_or(rested);
        if useful == self.needed {
            self.changed_since = None;
            return;
        }
        let since = *self.changed_since.get_or_insert(now);
        let after = if useful { Self::BEGINS } else { Self::ENDS };
        if now.saturating_duration_since(since) >= after {
            self.needed = useful;
            self.changed_since = None;
        }
    }

    /// The share that is lost, 0 to 1, where repair is of use.
    pub fn loss(&self) -> Option<f64> {
        self.needed.then_some(self.loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::test_packets::{ms, start};

    /// One part of a path's life.
    struct Part {
        seconds: u64,
        /// Packets lost of each hundred.
        lost: u64,
        queue: u64,
        rtt: u64,
        /// Whether repair is needed at its end.
        expect: bool,
    }

    #[test]
    fn it_is_needed_where_a_path_that_is_not_full_loses_and_is_long() {
        const fn part(seconds: u64, lost: u64, queue: u64, rtt: u64, expect: bool) -> Part {
            Part { seconds, lost, queue, rtt, expect }
        }
        let cases: [(&str, &[Part]); 8] = [
            ("no loss", &[part(20, 0, 5, 200, false)]),
            ("loss on a long path", &[part(2, 5, 5, 200, false), part(3, 5, 5, 200, true)]),
            ("loss on a short path", &[part(20, 5, 5, 70, false)]),
            ("one percent", &[part(20, 1, 5, 120, false), part(10, 2, 5, 120, true)]),
            ("a burst of a second", &[part(1, 5, 5, 200, false), part(9, 0, 5, 200, false)]),
            ("a full queue", &[part(30, 5, 200, 300, false)]),
            (
                "a queue fills, and drains",
                &[
                    part(6, 5, 5, 200, true),
                    part(1, 5, 150, 300, false),
                    part(4, 5, 5, 200, false),
                    part(6, 5, 5, 200, true),
                ],
            ),
            (
                "it ends late",
                &[
                    part(6, 5, 5, 200, true),
                    part(2, 5, 5, 90, true),
                    part(3, 0, 5, 200, true),
                    part(30, 0, 5, 200, false),
                ],
            ),
        ];
        for (name, parts) in cases {
            let (mut need, mut count, mut now) =
                (RepairNeed::default(), LossCount::default(), start());
            for (index, part) in parts.iter().enumerate() {
                for _ in 0..part.seconds * 10 {
                    // A hundred packets in each tenth of a second.
                    now += ms(100);
                    count.packets += 100;
                    count.lost += part.lost;
                    need.observe(now, count, ms(part.queue), Some(ms(part.rtt)));
                }
                assert_eq!(need.loss().is_some(), part.expect, "{name}, part {index}: {need:?}");
            }
        }
    }
}
