//! Clock, links and shards.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use chappe_sfu::{
    shard::{
        ApplyError, Command, Counters, DefaultLimits, DropReason, Event, FiveTuple, LocalTransport,
        RelayMessage, Reply, Shard, ShardConfig, ShardId, TransportContext,
    },
    transport::DtlsVersions,
};

use super::client::Client;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What a path does to media and reports beside delay and queue. Handshakes and checks pass.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Faults {
    pub(crate) loss: Loss,
    /// Delay varies by up to this, without overtaking.
    pub(crate) jitter: Duration,
    /// Part of the datagrams that is up to 30 ms late, so that others overtake it.
    pub(crate) reorder: f64,
    /// Part that arrives twice.
    pub(crate) duplicate: f64,
}

/// Which datagrams are lost.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) enum Loss {
    #[default]
    None,
    Random(f64),
    /// Gilbert and Elliott: everything while the state is bad; the chances to enter and to leave it at each datagram.
    Bursts {
        enter: f64,
        leave: f64,
    },
}

/// One way of a client's link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) delay: Duration,
    /// Percentage of media packets that are lost. Handshakes and checks pass.
    pub(crate) loss: u32,
    /// Bits per second; `None` is no limit.
    pub(crate) rate: Option<u64>,
    /// What the queue before the link holds, in time: more is dropped at its end.
    pub(crate) queue: Duration,
    pub(crate) faults: Faults,
    /// The state that loses everything.
    bad: bool,
    /// When everything that waits has left, and when the last one arrives that was not reordered.
    free_at: Option<Instant>,
    latest: Option<Instant>,
    /// The longest wait since this was last taken.
    pub(crate) longest_wait: Duration,
    pub(crate) overflowed: u64,
}

impl Link {
    fn new(delay: Duration) -> Self {
        Self {
            delay,
            loss: 0,
            rate: None,
            queue: Duration::from_millis(300),
            faults: Faults::default(),
            bad: false,
            free_at: None,
            latest: None,
            longest_wait: Duration::ZERO,
            overflowed: 0,
        }
    }

    /// When a datagram that comes now is at the other end, and when once more; `None`: it is lost.
    fn carry(
        &mut self,
        now: Instant,
        bytes: &[u8],
        dice: &mut Dice,
    ) -> Option<[Option<Instant>; 2]> {
        let faulty = bytes.len() > 12 && (128..192).contains(&bytes[0]);
        if faulty && self.loses(dice) {
            return None;
        }
        let mut at = self.pass(now, bytes.len())?;
        if !faulty {
            return Some([Some(at), None]);
        }
        at += self.faults.jitter.mul_f64(dice.share());
        if self.faults.reorder > 0.0 && dice.share() < self.faults.reorder {
            at += Duration::from_millis(30).mul_f64(dice.share());
        } else {
            at = self.latest.map_or(at, |latest| latest.max(at));
            self.latest = Some(at);
        }
        let twice = self.faults.duplicate > 0.0 && dice.share() < self.faults.duplicate;
        Some([Some(at), twice.then_some(at + Duration::from_millis(3))])
    }

    fn loses(&mut self, dice: &mut Dice) -> bool {
        match self.faults.loss {
            Loss::None => false,
            Loss::Random(share) => dice.share() < share,
            Loss::Bursts { enter, leave } => {
                self.bad ^= dice.share() < if self.bad { leave } else { enter };
                self.bad
            }
        }
    }

    /// When a datagram that comes now is at the other end; `None`: the queue is full.
    fn pass(&mut self, now: Instant, len: usize) -> Option<Instant> {
        let Some(rate) = self.rate else { return Some(now + self.delay) };
        let begins = self.free_at.map_or(now, |free| free.max(now));
        if begins - now > self.queue {
            self.overflowed += 1;
            return None;
        }
        self.longest_wait = self.longest_wait.max(begins - now);
        // With IP and UDP.
        let wire = (len + 28) as u64 * 8 * 1_000_000 / rate;
        let free = begins + Duration::from_micros(wire);
        self.free_at = Some(free);
        Some(free + self.delay)
    }
}

/// Randomness that repeats itself.
pub(crate) struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// From zero to one.
    fn share(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 31) as f64
    }
}

struct Flight {
    at: Instant,
    client: usize,
    bytes: Vec<u8>,
}

pub(crate) type AtCuts = Box<dyn FnMut(Instant, &mut Shard)>;

/// A ring between two shards.
#[derive(Default)]
struct Ring(VecDeque<RelayMessage>);

pub(crate) struct World {
    begin: Instant,
    pub(crate) now: Instant,
    pub(crate) shards: Vec<Shard>,
    pub(crate) clients: Vec<Client>,
    /// From the node, by client.
    pub(crate) down: Vec<Link>,
    /// To the node, by client.
    pub(crate) up: Vec<Link>,
    pub(crate) events: Vec<Event>,
    /// Messages that a ring takes; 0 stops the relay.
    pub(crate) ring_capacity: usize,
    /// Of messages that crossed a ring, by kind.
    pub(crate) relayed_media: u64,
    /// Subscribers and readers that a shard looked at in its longest step.
    pub(crate) most_visits: u64,
    /// Runs between any two steps of a shard: where a slice may be cut and inputs be fed.
    pub(crate) at_cuts: Option<AtCuts>,
    pub(crate) runs: u64,
    pub(crate) sent: u64,
    context: TransportContext,
    rings: Vec<Vec<Ring>>,
    flights: VecDeque<Flight>,
    returning: VecDeque<Flight>,
    timeouts: Vec<Instant>,
    dice: Dice,
    /// Of every datagram since the seed: when, whose, which way, how long.
    pub(crate) digest: u64,
    /// Publishers stop encodings that nobody takes.
    pub(crate) obey_demand: bool,
    told_demand: usize,
    /// Steps without time passing.
    idle: u32,
}

impl World {
    pub(crate) fn new(shards: u16) -> Self {
        #[allow(clippy::disallowed_methods, reason = "a virtual clock has to start somewhere")]
        let now = Instant::now();
        let context = TransportContext::generate(DtlsVersions::Dtls12).unwrap();
        let shard = |id| {
            let config = ShardConfig {
                id: ShardId(id),
                shards,
                node_generation: 7,
                max_peers: 2_000,
                limits: DefaultLimits::default(),
                epoch: now,
            };
            Shard::new(config, context.clone(), [id as u8 + 1; 32])
        };
        Self {
            begin: now,
            now,
            shards: (0..shards).map(shard).collect(),
            clients: Vec::new(),
            down: Vec::new(),
            up: Vec::new(),
            events: Vec::new(),
            ring_capacity: 256,
            relayed_media: 0,
            most_visits: 0,
            at_cuts: None,
            runs: 0,
            sent: 0,
            rings: (0..shards).map(|_| (0..shards).map(|_| Ring::default()).collect()).collect(),
            context,
            flights: VecDeque::new(),
            returning: VecDeque::new(),
            timeouts: Vec::new(),
            dice: Dice(1),
            digest: 0,
            obey_demand: false,
            told_demand: 0,
            idle: 0,
        }
    }

    /// From now on with this luck. Handshakes before do not count: they are never the same twice.
    pub(crate) fn seed(&mut self, seed: u64) {
        self.dice = Dice(seed);
        self.digest = 0;
    }

    /// A client that is not known to the node yet. Returns its number.
    pub(crate) fn client(&mut self, room: &str, shard: usize) -> usize {
        let number = self.clients.len();
        self.clients.push(Client::new(self.now, number as u16 + 1, room, shard));
        let link = Link::new(Duration::from_millis(10));
        self.down.push(link);
        self.up.push(link);
        self.timeouts.push(self.now);
        number
    }

    /// Makes the node's peer what the client's spec says.
    pub(crate) fn try_apply(&mut self, client: usize) -> Result<LocalTransport, ApplyError> {
        let it = &self.clients[client];
        let command = Command::ApplyPeer {
            room: it.room.clone(),
            peer: it.peer.clone(),
            spec: Box::new(it.spec.clone()),
        };
        let shard = it.shard;
        match self.command(shard, command) {
            Reply::Applied(result) => result,
            Reply::Report(_) | Reply::Done => panic!("wrong reply"),
        }
    }

    pub(crate) fn apply(&mut self, client: usize) {
        self.try_apply(client).unwrap();
    }

    /// The first apply, with the answer given to the client.
    pub(crate) fn join(&mut self, client: usize) {
        let local = self.try_apply(client).unwrap();
        let node = node_address(self.clients[client].shard);
        self.clients[client].greet(&local, self.context.fingerprint(), node);
        self.timeouts[client] = self.now;
    }

    pub(crate) fn command(&mut self, shard: usize, command: Command) -> Reply {
        let reply = self.shards[shard].handle_command(self.now, command);
        self.drain_shard(shard);
        reply
    }

    /// Joins everybody and waits until they are connected.
    pub(crate) fn connect_all(&mut self) {
        for client in 0..self.clients.len() {
            self.join(client);
        }
        self.run_until("all connected", 10 * SECOND, |world| {
            world.clients.iter().all(|client| client.connected)
        });
    }

    /// Sends a data message, at once.
    pub(crate) fn send_data(&mut self, client: usize, label: &str, message: &[u8]) {
        self.clients[client].send_data(label, message);
        self.clients[client].handle_timeout(self.now);
        self.drain_client(client);
    }

    pub(crate) fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// The client's network changes: what is under way to it is lost, and it reaches the node by ICE-TCP from now on.
    pub(crate) fn move_to_tcp(&mut self, client: usize) {
        let node = node_address(self.clients[client].shard);
        self.flights.retain(|flight| flight.client != client);
        self.clients[client].move_to_tcp(node);
        self.clients[client].handle_timeout(self.now);
        self.drain_client(client);
    }

    /// Runs until `condition` holds; panics when it does not in `limit`.
    pub(crate) fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Self) -> bool,
    ) {
        let end = self.now + limit;
        while !condition(self) {
            assert!(self.step(end), "not in {limit:?}: {what}");
        }
    }

    /// Sum over all shards.
    pub(crate) fn count(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(shard.counters())).sum()
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.count(|counters| counters.drops(reason))
    }

    /// Everything that was dropped, for messages.
    #[allow(dead_code)] // for whoever looks for a failure
    pub(crate) fn all_drops(&self) -> Vec<(DropReason, u64)> {
        let drops = DropReason::ALL.map(|reason| (reason, self.drops(reason)));
        drops.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    fn wakes(&self) -> String {
        let shards = self.shards.iter().map(|shard| shard.wakeups().collect::<Vec<_>>());
        format!("{:?}", shards.collect::<Vec<_>>())
    }

    /// The next thing that happens, not after `end`. False when nothing does.
    fn step(&mut self, end: Instant) -> bool {
        let mut next = end + Duration::from_nanos(1);
        for shard in &self.shards {
            next = shard.poll_timeout().map_or(next, |at| at.min(next));
        }
        for (client, timeout) in self.clients.iter().zip(&self.timeouts) {
            next = next.min(*timeout);
            next = client.deadline().map_or(next, |at| at.min(next));
        }
        for queue in [&self.flights, &self.returning] {
            next = queue.iter().map(|flight| flight.at).min().map_or(next, |at| at.min(next));
        }
        if next > end {
            return false;
        }
        self.idle = if next <= self.now { self.idle + 1 } else { 0 };
        assert!(self.idle < 10_000, "somebody wants to be woken again and again: {}", self.wakes());
        self.now = self.now.max(next);
        self.deliver_to_clients();
        self.deliver_to_node();
        for shard in 0..self.shards.len() {
            self.shards[shard].handle_timeout(self.now);
            self.drain_shard(shard);
        }
        for client in 0..self.clients.len() {
            let due = self.timeouts[client] <= self.now
                || self.clients[client].deadline().is_some_and(|at| at <= self.now);
            if due {
                self.clients[client].handle_timeout(self.now);
                self.clients[client].produce(self.now);
                self.drain_client(client);
            }
        }
        true
    }

    fn deliver_to_clients(&mut self) {
        while let Some(index) = self.flights.iter().position(|flight| flight.at <= self.now) {
            let flight = self.flights.remove(index).unwrap();
            let node = node_address(self.clients[flight.client].shard);
            self.clients[flight.client].handle(self.now, node, &flight.bytes);
            self.drain_client(flight.client);
        }
    }

    /// Everything that has arrived, then one drain: as a socket gives a batch.
    fn deliver_to_node(&mut self) {
        let mut touched = vec![false; self.shards.len()];
        while let Some(index) = self.returning.iter().position(|flight| flight.at <= self.now) {
            let mut flight = self.returning.remove(index).unwrap();
            let client = &self.clients[flight.client];
            let (shard, remote, protocol) = (client.shard, client.address, client.protocol);
            let path = FiveTuple { protocol, local: node_address(shard), remote };
            self.shards[shard].handle_datagram(self.now, path, &mut flight.bytes);
            touched[shard] = true;
        }
        for (shard, touched) in touched.into_iter().enumerate() {
            if touched {
                self.drain_shard(shard);
            }
        }
    }

    fn drain_client(&mut self, client: usize) {
        let mut out = Vec::new();
        let now = self.now;
        let timeout = self.clients[client].drain(now, &mut out);
        self.timeouts[client] = timeout.max(now + Duration::from_micros(100));
        for bytes in out {
            if self.lost(self.up[client], &bytes) {
                continue;
            }
            self.note(client, false, bytes.len());
            let arrivals = self.up[client].carry(now, &bytes, &mut self.dice);
            for at in arrivals.into_iter().flatten().flatten() {
                self.returning.push_back(Flight { at, client, bytes: bytes.clone() });
            }
        }
    }

    fn drain_shard(&mut self, shard: usize) {
        // Messages that arrive may have answers: go on until all are quiet.
        let mut busy = vec![shard];
        while let Some(shard) = busy.pop() {
            self.drain_transmits(shard);
            for to in 0..self.shards.len() {
                if to == shard {
                    continue;
                }
                let mut crossed = false;
                while self.rings[shard][to].0.len() < self.ring_capacity {
                    let Some(message) = self.shards[shard].poll_relay(ShardId(to as u16)) else {
                        break;
                    };
                    if matches!(message, RelayMessage::Media(_)) {
                        self.relayed_media += 1;
                    }
                    self.rings[shard][to].0.push_back(message);
                }
                while let Some(message) = self.rings[shard][to].0.pop_front() {
                    crossed = true;
                    self.shards[to].handle_relay(self.now, ShardId(shard as u16), message);
                }
                if crossed {
                    busy.push(to);
                    busy.push(shard);
                }
            }
            while let Some(event) = self.shards[shard].poll_event() {
                self.events.push(event);
            }
        }
        if self.obey_demand {
            self.follow_demand();
        }
    }

    fn follow_demand(&mut self) {
        let from = std::mem::replace(&mut self.told_demand, self.events.len());
        for event in &self.events[from..] {
            let Event::LayerDemand { peer, track, max_spatial, .. } = event else { continue };
            for client in self.clients.iter_mut().filter(|client| client.peer == *peer) {
                client.follow_demand(track, *max_spatial);
            }
        }
    }

    fn drain_transmits(&mut self, shard: usize) {
        let mut sent = Vec::new();
        loop {
            while let Some(transmit) = self.shards[shard].poll_transmit() {
                let remote = transmit.path.remote;
                let segment = transmit.segment.unwrap_or(transmit.bytes.len());
                self.runs += 1;
                for bytes in transmit.bytes.chunks(segment) {
                    sent.push((remote, bytes.to_vec()));
                }
            }
            let before = self.shards[shard].counters().visits;
            if !self.shards[shard].step() {
                break;
            }
            self.most_visits = self.most_visits.max(self.shards[shard].counters().visits - before);
            if let Some(mut cut) = self.at_cuts.take() {
                cut(self.now, &mut self.shards[shard]);
                self.at_cuts = Some(cut);
            }
        }
        for (remote, bytes) in sent {
            self.sent += 1;
            assert!(bytes.len() <= 1_472, "{} bytes do not fit an Ethernet frame", bytes.len());
            let Some(client) = self.clients.iter().position(|client| client.address == remote)
            else {
                continue;
            };
            if self.lost(self.down[client], &bytes) {
                continue;
            }
            self.note(client, true, bytes.len());
            let arrivals = self.down[client].carry(self.now, &bytes, &mut self.dice);
            for at in arrivals.into_iter().flatten().flatten() {
                self.flights.push_back(Flight { at, client, bytes: bytes.clone() });
            }
        }
    }

    fn note(&mut self, client: usize, down: bool, len: usize) {
        let at = (self.now - self.begin).as_nanos() as u64;
        for of in [at, client as u64, u64::from(down), len as u64] {
            self.digest = (self.digest ^ of).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    fn lost(&mut self, link: Link, bytes: &[u8]) -> bool {
        // Media only: the second byte tells RTP from RTCP.
        let media =
            bytes.len() > 12 && (128..192).contains(&bytes[0]) && !(192..224).contains(&bytes[1]);
        media && link.loss > 0 && self.dice.next() % 100 < u64::from(link.loss)
    }
}

pub(crate) fn node_address(shard: usize) -> SocketAddr {
    ([192, 0, 2, 1], 7_882 + shard as u16).into()
}
