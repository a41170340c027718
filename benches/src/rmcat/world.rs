//! Virtual time: endpoints send, links delay, and everything is counted.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use super::link::{Jitter, Link, LinkPlan};

/// What travels.
#[derive(Debug)]
pub struct Packet {
    /// On the wire, with IP and UDP or TCP headers.
    pub size: u32,
    /// Counts as media: no padding, no feedback, no TCP.
    pub media: bool,
    /// What the other side reads.
    pub payload: Payload,
}

/// What the other side reads.
#[derive(Debug)]
pub enum Payload {
    /// A packet of media or padding by its transport-wide number.
    Media(u16),
    /// A datagram.
    Bytes(Vec<u8>),
    /// A TCP segment or acknowledgement by its number.
    Tcp(u64),
}

/// One end of a flow.
pub trait Endpoint: std::fmt::Debug {
    /// A packet came.
    fn handle_packet(&mut self, now: Instant, packet: Packet);
    /// A deadline may have passed.
    fn handle_timeout(&mut self, now: Instant);
    /// What it has to send.
    fn poll_transmit(&mut self, now: Instant) -> Option<Packet>;
    /// When it wants to be woken.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Bits per second that it believes in, if it does.
    fn estimate(&self) -> Option<u64> {
        None
    }
    /// Rate of the layer that it sends, if it sends layers.
    fn chosen(&self) -> Option<u64> {
        None
    }
}

/// Two ends and the paths between them.
#[derive(Debug)]
pub struct Flow {
    /// For tables and plots.
    pub name: String,
    /// Sends media or TCP data.
    pub sender: Box<dyn Endpoint>,
    /// Answers.
    pub receiver: Box<dyn Endpoint>,
    /// Index of the bottleneck on the way there; `None`: none.
    pub forward: Option<usize>,
    /// And on the way back.
    pub back: Option<usize>,
    /// One-way delay without queues.
    pub delay: Duration,
}

/// What was seen of a flow in a bin of [`Record::BIN`].
#[derive(Clone, Copy, Default, Debug)]
pub struct Bin {
    /// Bytes that left the sender.
    pub sent: u64,
    /// Bytes of media (or TCP data) that arrived.
    pub received: u64,
    /// Bytes of padding that arrived.
    pub padding: u64,
    /// The sender's estimate at the end, in bits per second.
    pub estimate: Option<u64>,
    /// The layer it sends, in bits per second.
    pub chosen: Option<u64>,
}

/// What was seen of a flow.
#[derive(Default, Debug)]
pub struct Record {
    /// For tables and plots.
    pub name: String,
    /// In order.
    pub bins: Vec<Bin>,
    /// (when it came to the bottleneck, how long it waited) by packet of media.
    pub waits: Vec<(Duration, Duration)>,
    /// Packets that left the sender.
    pub packets: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

impl Record {
    /// RFC 8868 section 3.1.
    pub const BIN: Duration = Duration::from_millis(200);

    fn bin(&mut self, at: Duration) -> &mut Bin {
        let index = (at.as_micros() / Self::BIN.as_micros()) as usize;
        if self.bins.len() <= index {
            self.bins.resize(index + 1, Bin::default());
        }
        &mut self.bins[index]
    }

    /// Bits per second of media that arrived between two moments.
    pub fn received_bps(&self, from: Duration, to: Duration) -> f64 {
        let range = bins(from)..bins(to).min(self.bins.len());
        let bytes: u64 = self.bins.get(range).unwrap_or_default().iter().map(|b| b.received).sum();
        bytes as f64 * 8.0 / (to - from).as_secs_f64()
    }

    /// Bits per second that left the sender between two moments.
    pub fn sent_bps(&self, from: Duration, to: Duration) -> f64 {
        let range = bins(from)..bins(to).min(self.bins.len());
        let bytes: u64 = self.bins.get(range).unwrap_or_default().iter().map(|b| b.sent).sum();
        bytes as f64 * 8.0 / (to - from).as_secs_f64()
    }
}

fn bins(at: Duration) -> usize {
    (at.as_micros() / Record::BIN.as_micros()) as usize
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Side {
    Sender,
    Receiver,
}

/// In the order in which they happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Event {
    at: Duration,
    /// Of two at the same time the first that was planned.
    order: u64,
    flow: usize,
    side: Side,
    /// Index into `travelling`; `None`: a deadline.
    packet: Option<usize>,
}

/// Runs flows over links.
#[derive(Debug)]
pub struct World {
    start: Instant,
    links: Vec<Link>,
    flows: Vec<Flow>,
    jitters: Vec<[Jitter; 2]>,
    records: Vec<Record>,
    events: BinaryHeap<Reverse<Event>>,
    travelling: Vec<Option<Packet>>,
    free: Vec<usize>,
    /// The earliest deadline that is in `events`, by flow and side.
    armed: Vec<[Option<Duration>; 2]>,
    order: u64,
}

impl World {
    /// `start` is where the endpoints' clock begins.
    /// `jitter_ms` is the deviation of every path's delay.
    pub fn new(
        start: Instant,
        links: Vec<LinkPlan>,
        flows: Vec<Flow>,
        jitter_ms: f64,
        seed: u64,
    ) -> Self {
        let count = flows.len();
        let record = |flow: &Flow| Record { name: flow.name.clone(), ..Record::default() };
        Self {
            start,
            links: links
                .into_iter()
                .zip(0u64..)
                .map(|(plan, n)| Link::new(plan, seed * 10 + n))
                .collect(),
            records: flows.iter().map(record).collect(),
            jitters: (0..count as u64)
                .map(|n| [0, 1].map(|side| Jitter::new(seed * 1_000 + n * 2 + side, jitter_ms)))
                .collect(),
            flows,
            events: BinaryHeap::new(),
            travelling: Vec::new(),
            free: Vec::new(),
            armed: vec![[None; 2]; count],
            order: 0,
        }
    }

    /// Runs to the end and gives what was seen, flow by flow.
    pub fn run(mut self, until: Duration) -> Vec<Record> {
        for flow in 0..self.flows.len() {
            for side in [Side::Sender, Side::Receiver] {
                self.turn(flow, side, Duration::ZERO);
            }
        }
        let mut sampled = Duration::ZERO;
        while let Some(Reverse(Event { at, flow, side, packet, .. })) = self.events.pop() {
            if at > until {
                break;
            }
            while sampled + Record::BIN <= at {
                self.sample(sampled);
                sampled += Record::BIN;
            }
            match packet {
                Some(index) => self.deliver(at, flow, side, index),
                None => {
                    let armed = &mut self.armed[flow][side as usize];
                    if *armed != Some(at) {
                        continue;
                    }
                    *armed = None;
                    let now = self.start + at;
                    self.end(flow, side).handle_timeout(now);
                }
            }
            self.turn(flow, side, at);
        }
        while sampled + Record::BIN <= until {
            self.sample(sampled);
            sampled += Record::BIN;
        }
        self.records
    }

    fn end(&mut self, flow: usize, side: Side) -> &mut dyn Endpoint {
        let flow = &mut self.flows[flow];
        match side {
            Side::Sender => flow.sender.as_mut(),
            Side::Receiver => flow.receiver.as_mut(),
        }
    }

    fn sample(&mut self, at: Duration) {
        for (flow, record) in self.flows.iter().zip(&mut self.records) {
            let bin = record.bin(at);
            bin.estimate = flow.sender.estimate();
            bin.chosen = flow.sender.chosen();
        }
    }

    fn deliver(&mut self, at: Duration, flow: usize, side: Side, index: usize) {
        let Some(packet) = self.travelling[index].take() else { return };
        self.free.push(index);
        if side == Side::Receiver {
            let media = packet.media || matches!(packet.payload, Payload::Tcp(_));
            let bin = self.records[flow].bin(at);
            *(if media { &mut bin.received } else { &mut bin.padding }) += u64::from(packet.size);
        }
        let now = self.start + at;
        self.end(flow, side).handle_packet(now, packet);
    }

    /// Sends what an endpoint has and arms its deadline.
    fn turn(&mut self, flow: usize, side: Side, at: Duration) {
        let now = self.start + at;
        while let Some(packet) = self.end(flow, side).poll_transmit(now) {
            self.transmit(flow, side, at, packet);
        }
        let Some(due) = self.end(flow, side).poll_timeout() else { return };
        // Time moves on whatever an endpoint says.
        let due = due.saturating_duration_since(self.start).max(at + Duration::from_micros(50));
        let armed = &mut self.armed[flow][side as usize];
        if armed.is_none_or(|armed| due < armed) {
            *armed = Some(due);
            self.push(due, flow, side, None);
        }
    }

    fn transmit(&mut self, flow: usize, from: Side, at: Duration, packet: Packet) {
        let (link, to) = match from {
            Side::Sender => (self.flows[flow].forward, Side::Receiver),
            Side::Receiver => (self.flows[flow].back, Side::Sender),
        };
        let record = &mut self.records[flow];
        if from == Side::Sender {
            record.bin(at).sent += u64::from(packet.size);
            record.packets += 1;
        }
        let mut left_at = at;
        if let Some(link) = link {
            let Some(passage) = self.links[link].enqueue(at, packet.size) else {
                if from == Side::Sender {
                    record.dropped += 1;
                }
                return;
            };
            left_at = passage.left_at;
            if from == Side::Sender {
                record.waits.push((at, passage.waited));
            }
        }
        let delay = self.flows[flow].delay;
        let arrival = self.jitters[flow][from as usize].arrival(left_at, delay);
        let index = self.free.pop().unwrap_or_else(|| {
            self.travelling.push(None);
            self.travelling.len() - 1
        });
        self.travelling[index] = Some(packet);
        self.push(arrival, flow, to, Some(index));
    }

    fn push(&mut self, at: Duration, flow: usize, side: Side, packet: Option<usize>) {
        self.order += 1;
        self.events.push(Reverse(Event { at, order: self.order, flow, side, packet }));
    }
}
