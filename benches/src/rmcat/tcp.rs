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
