//! TCP with CUBIC (RFC 9438) and loss recovery by selective acknowledgement (RFC 6675 in short: a segment is lost when three
//! sent after it were acknowledged; one window reduction a round trip; RFC 6298 timeouts).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::world::{Endpoint, Packet, Payload};

const SEGMENT: u32 = 1_500;
const ACKNOWLEDGEMENT: u32 = 52;

/// What a source has to send.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Without end, from this moment on.
    Long(Duration),
    /// Files of 100 to 1,000 kB, exponential pauses of this mean in between (RFC 8867 section 5.7).
    Short(Duration),
}

/// The sending side.
#[derive(Debug)]
pub struct TcpSender {
    load: Load,
    random: SmallRng,
    /// When it may send; set again after each file.
    starts_at: Instant,
    /// Segments left of the file.
    left: u64,
    next: u64,
    /// Number of the transmission and its time, by segment.
    flying: BTreeMap<u64, (u64, Instant)>,
    /// Segments by number of their last transmission.
    order: BTreeMap<u64, u64>,
    lost: BTreeSet<u64>,
    sent_count: u64,
    cubic: Cubic,
    /// Losses of what was sent before this count belong to the last reduction.
    recovery: u64,
    srtt: Option<Duration>,
    rttvar: Duration,
    rto_backoff: u32,
    heard_at: Instant,
    outbox: VecDeque<Packet>,
}

/// The window in segments.
#[derive(Debug)]
struct Cubic {
    window: f64,
    threshold: f64,
    max: f64,
    epoch: Option<Instant>,
    /// Seconds to the old maximum.
    k: f64,
    /// The window that Reno would have.
    reno: f64,
}

impl Cubic {
    const C: f64 = 0.4;
    const BETA: f64 = 0.7;
    const FIRST: f64 = 10.0;

    fn new() -> Self {
        Self {
            window: Self::FIRST,
            threshold: f64::INFINITY,
            max: 0.0,
            epoch: None,
            k: 0.0,
            reno: 0.0,
        }
    }

    fn handle_ack(&mut self, now: Instant, srtt: Duration) {
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let epoch = *self.epoch.get_or_insert_with(|| {
            self.max = self.max.max(self.window);
            self.k = ((self.max - self.window) / Self::C).cbrt();
            self.reno = self.window;
            now
        });
        let t = now.saturating_duration_since(epoch).as_secs_f64() + srtt.as_secs_f64();
        let target = Self::C * (t - self.k).powi(3) + self.max;
        let target = target.clamp(self.window, 1.5 * self.window);
        // Section 4.3: as fast as Reno at least.
        self.reno += 3.0 * (1.0 - Self::BETA) / (1.0 + Self::BETA) / self.window;
        self.window += (target - self.window) / self.window;
        self.window = self.window.max(self.reno);
    }

    fn reduce(&mut self) {
        // Section 4.7: fast convergence.
        self.max = if self.window < self.max {
            self.window * (1.0 + Self::BETA) / 2.0
        } else {
            self.window
        };
        self.window = (self.window * Self::BETA).max(2.0);
        self.threshold = self.window;
        self.epoch = None;
    }

    fn collapse(&mut self) {
        self.reduce();
        self.window = 1.0;
    }
}

impl TcpSender {
    /// `start` is where time begins.
    pub fn new(seed: u64, start: Instant, load: Load) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let starts_at = match load {
            Load::Long(at) => start + at,
            Load::Short(mean) => start + exponential(&mut random, mean),
        };
        let mut sender = Self {
            load,
            random,
            starts_at,
            left: 0,
            next: 0,
            flying: BTreeMap::new(),
            order: BTreeMap::new(),
            lost: BTreeSet::new(),
            sent_count: 0,
            cubic: Cubic::new(),
            recovery: 0,
            srtt: None,
            rttvar: Duration::ZERO,
            rto_backoff: 0,
            heard_at: start,
            outbox: VecDeque::new(),
        };
        sender.open_file();
        sender
    }

    fn open_file(&mut self) {
        self.left = match self.load {
            Load::Long(_) => u64::MAX,
            Load::Short(_) => self.random.random_range(100_000..1_000_000u64) / 1_460,
        };
    }

    fn rto(&self) -> Duration {
        let base = self.srtt.map_or(Duration::from_secs(1), |srtt| srtt + self.rttvar * 4);
        // Linux: 200 ms at least.
        base.max(Duration::from_millis(200)) * 2u32.pow(self.rto_backoff.min(6))
    }

    fn fill(&mut self, now: Instant) {
        if now < self.starts_at {
            return;
        }
        while (self.flying.len() as f64) < self.cubic.window.floor() {
            let seq = if let Some(seq) = self.lost.pop_first() {
                seq
            } else if self.left > 0 {
                self.left -= 1;
                self.next += 1;
                self.next - 1
            } else {
                break;
            };
            if self.flying.is_empty() {
                self.heard_at = now;
            }
            self.flying.insert(seq, (self.sent_count, now));
            self.order.insert(self.sent_count, seq);
            self.sent_count += 1;
            self.outbox.push_back(Packet {
                size: SEGMENT,
                media: false,
                payload: Payload::Tcp(seq),
            });
        }
        if self.left == 0
            && self.flying.is_empty()
            && self.lost.is_empty()
            && let Load::Short(mean) = self.load
        {
            self.starts_at = now + exponential(&mut self.random, mean);
            self.cubic = Cubic::new();
            self.open_file();
        }
    }

    fn handle_ack(&mut self, now: Instant, seq: u64) {
        self.heard_at = now;
        self.rto_backoff = 0;
        if self.lost.remove(&seq) {
            return;
        }
        let Some((count, sent_at)) = self.flying.remove(&seq) else { return };
        self.order.remove(&count);
        let sample = now.saturating_duration_since(sent_at);
        match self.srtt {
            None => (self.srtt, self.rttvar) = (Some(sample), sample / 2),
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(sample)) / 4;
                self.srtt = Some((srtt * 7 + sample) / 8);
            }
        }
        let late: Vec<_> = self
            .order
            .range(..count.saturating_sub(2))
            .map(|(count, seq)| (*count, *seq))
            .collect();
        if late.is_empty() {
            // Grows only when the window is used.
            if self.flying.len() as f64 + 2.0 >= self.cubic.window {
                self.cubic.handle_ack(now, self.srtt.unwrap_or(sample));
            }
            return;
        }
        for (count, seq) in late {
            self.order.remove(&count);
            self.flying.remove(&seq);
            self.lost.insert(seq);
            if count >= self.recovery {
                self.recovery = self.sent_count;
                self.cubic.reduce();
            }
        }
    }
}

fn exponential(random: &mut SmallRng, mean: Duration) -> Duration {
    mean.mul_f64(-(1.0 - random.random::<f64>()).ln())
}

impl Endpoint for TcpSender {
    fn handle_packet(&mut self, now: Instant, packet: Packet) {
        if let Payload::Tcp(seq) = packet.payload {
            self.handle_ack(now, seq);
        }
        self.fill(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        if !self.flying.is_empty() && now >= self.heard_at + self.rto() {
            self.lost.extend(self.flying.keys());
            self.flying.clear();
            self.order.clear();
            self.recovery = self.sent_count;
            self.cubic.collapse();
            self.rto_backoff += 1;
            self.heard_at = now;
        }
        self.fill(now);
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<Packet> {
        self.outbox.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.flying.is_empty() {
            return Some(self.starts_at);
        }
        Some(self.heard_at + self.rto())
    }
}

/// The receiving side: acknowledges each segment by its number.
#[derive(Debug, Default)]
pub struct TcpReceiver {
    outbox: VecDeque<Packet>,
}

impl Endpoint for TcpReceiver {
    fn handle_packet(&mut self, _now: Instant, packet: Packet) {
        self.outbox.push_back(Packet {
            size: ACKNOWLEDGEMENT,
            media: false,
            payload: packet.payload,
        });
    }

    fn handle_timeout(&mut self, _now: Instant) {}

    fn poll_transmit(&mut self, _now: Instant) -> Option<Packet> {
        self.outbox.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const RTT: Duration = Duration::from_millis(100);

    /// Rounds of a window's acknowledgements each, from `from` on; the window after each.
    fn rounds(cubic: &mut Cubic, from: Instant, count: u32) -> Vec<f64> {
        (0..count)
            .map(|n| {
                for _ in 0..cubic.window as u32 {
                    cubic.handle_ack(from + RTT * n, RTT);
                }
                cubic.window
            })
            .collect()
    }

    /// RFC 9438 section 4.2: concave up to the old maximum, which is there after K = cbrt(Wmax (1 - beta) / C), convex after.
    #[test]
    fn the_window_grows_by_the_cubic_function() {
        let mut cubic = Cubic::new();
        cubic.window = 100.0;
        cubic.reduce();
        assert_eq!((cubic.window, cubic.threshold, cubic.max), (70.0, 70.0, 100.0));
        let windows = rounds(&mut cubic, Instant::now(), 90);
        let k = (30.0f64 / 0.4).cbrt();
        assert!((cubic.k - k).abs() < 1e-9);
        for (n, window) in windows.iter().enumerate() {
            let t = n as f64 * 0.1 + 0.1;
            let target = 0.4 * (t - k).powi(3) + 100.0;
            assert!((window - target).abs() < target * 0.02, "{window} at {t} s, not {target}");
        }
    }

    /// Section 4.3: where that is slow, as fast as Reno with the same reduction.
    #[test]
    fn small_windows_grow_as_fast_as_renos() {
        let mut cubic = Cubic::new();
        cubic.window = 10.0;
        cubic.reduce();
        let windows = rounds(&mut cubic, Instant::now(), 10);
        let alpha = 3.0 * 0.3 / 1.7;
        let reno = 7.0 + alpha * 10.0;
        assert!((windows[9] - reno).abs() < 1.0, "{windows:?}, not {reno}");
        let cubic_only = 0.4 * (1.0 - cubic.k).powi(3) + 10.0;
        assert!(windows[9] > cubic_only + 1.0, "{windows:?}, {cubic_only}");
    }

    /// Section 4.7: who loses below the old maximum makes room.
    #[test]
    fn a_second_loss_below_the_maximum_converges_fast() {
        let mut cubic = Cubic::new();
        cubic.window = 100.0;
        cubic.reduce();
        cubic.window = 80.0;
        cubic.reduce();
        assert_eq!(cubic.max, 80.0 * 0.85);
        assert_eq!(cubic.window, 80.0 * 0.7);
        cubic.collapse();
        assert_eq!((cubic.window, cubic.threshold), (1.0, 80.0 * 0.7 * 0.7));
    }

    fn segments(sender: &mut TcpSender, now: Instant) -> Vec<u64> {
        let sent = std::iter::from_fn(|| sender.poll_transmit(now));
        sent.filter_map(|packet| match packet.payload {
            Payload::Tcp(seq) => Some(seq),
            _ => None,
        })
        .collect()
    }

    fn acknowledge(sender: &mut TcpSender, now: Instant, seq: u64) {
        let payload = Payload::Tcp(seq);
        sender.handle_packet(now, Packet { size: ACKNOWLEDGEMENT, media: false, payload });
    }

    #[test]
    fn losses_of_one_round_trip_reduce_the_window_once_and_are_repaired() {
        let start = Instant::now();
        let mut sender = TcpSender::new(1, start, Load::Long(Duration::ZERO));
        sender.handle_timeout(start);
        assert_eq!(segments(&mut sender, start), (0..10).collect::<Vec<_>>());
        let now = start + RTT;
        for seq in (0..10).filter(|seq| *seq != 2 && *seq != 4) {
            acknowledge(&mut sender, now, seq);
        }
        // Slow start up to there; a segment is lost when three that were sent after it have come.
        assert_eq!(sender.cubic.threshold, 13.0 * Cubic::BETA, "once");
        assert!(sender.cubic.window < 10.0);
        let again: Vec<_> =
            segments(&mut sender, now).into_iter().filter(|seq| *seq < 10).collect();
        assert_eq!(again, [2, 4]);
        acknowledge(&mut sender, now + RTT, 2);
        acknowledge(&mut sender, now + RTT, 4);
        assert!(sender.lost.is_empty() && segments(&mut sender, now + RTT).iter().all(|n| *n > 9));
        // Silence is a timeout: everything again, from one segment on.
        let end = now + Duration::from_secs(5);
        sender.handle_timeout(end);
        assert_eq!(sender.cubic.window, 1.0);
        assert_eq!(segments(&mut sender, end).len(), 1);
        assert!(sender.rto() > MS * 200, "backed off");
    }
}
