//! Datagrams that arrive at the port of a shard which is not their peer's.
//!
//! A STUN message names its shard in the user name, so each finds its way by itself. Whatever else the five-tuple brings
//! follows only after that shard said that the five-tuple belongs to a peer of its: nobody who has not passed a check
//! takes a place in the table. Answers leave by the socket that the request came to, straight from the peer's shard.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::ring::Rings;
use crate::shard::{DatagramClass, FiveTuple, Shard, ShardId, Ufrag, classify};

/// What two shards tell each other about such datagrams.
#[derive(Debug)]
pub(super) enum Handed {
    /// It came to the sender's port and is for the receiver.
    Datagram { path: FiveTuple, bytes: Vec<u8> },
    /// The five-tuple belongs to a peer of the sender.
    Known(FiveTuple),
    /// It does not (any more).
    Unknown(FiveTuple),
    /// The buffer of a datagram goes back.
    Spent(Vec<u8>),
}

/// Messages that wait from one shard to another. Media at 100 Mbit/s brings 10 in a millisecond.
pub(super) const CAPACITY: usize = 128;

/// Larger datagrams are not handed over: no path that media takes carries them.
const MAX_DATAGRAM: usize = 2_048;

/// Five-tuples at most, all of them of connected peers. One more is not steered.
const MAX_KNOWN: usize = 16_384;

/// How long the other shard's word counts. It is renewed by each check, and a peer without checks is lost after 15 s.
const KNOWN_FOR: Duration = Duration::from_secs(30);

/// How often the table is looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// One shard's part in it.
#[derive(Debug)]
pub(super) struct Steering {
    own: ShardId,
    node_generation: u16,
    rings: Rings<Handed>,
    known: HashMap<FiveTuple, Known>,
    next_sweep: Option<Instant>,
    spare: Vec<Vec<u8>>,
    /// Datagrams handed over.
    pub(super) handed_over: u64,
    /// Datagrams that were to be handed over and found no room, or were too large.
    pub(super) dropped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    shard: ShardId,
    until: Instant,
}

impl Steering {
    pub(super) fn new(own: ShardId, node_generation: u16, rings: Rings<Handed>) -> Self {
        Self {
            own,
            node_generation,
            rings,
            known: HashMap::new(),
            next_sweep: None,
            spare: Vec::new(),
            handed_over: 0,
            dropped: 0,
        }
    }

    /// Gives a datagram from the own port to the shard that it is for.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        path: FiveTuple,
        datagram: &mut [u8],
    ) {
        let stun = classify(datagram) == DatagramClass::Stun;
        let other = if stun { self.named(datagram) } else { self.owner(now, &path) };
        if let Some(other) = other {
            self.hand_over(other, path, datagram);
            return;
        }
        shard.handle_datagram(now, path, datagram);
        if stun && !self.known.is_empty() && shard.knows(&path) {
            // It was another shard's before.
            self.known.remove(&path);
        }
    }

    /// Forgets, where it is time, five-tuples of which the word counts no more.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_some_and(|due| due <= now) {
            self.known.retain(|_, known| known.until > now);
            self.next_sweep = (!self.known.is_empty()).then(|| now + SWEEP);
        }
    }

    /// Takes what other shards handed over. Whether some of it still waits.
    pub(super) fn receive(&mut self, now: Instant, shard: &mut Shard) -> bool {
        let mut more = false;
        for index in 0..self.rings.incoming.len() {
            for _ in 0..CAPACITY {
                let Some(ring) = self.rings.incoming.get_mut(index) else { break };
                let from = ring.from;
                let Some(message) = ring.pop() else { break };
                self.take(now, shard, from, message);
            }
            more |= self.rings.incoming.get(index).is_some_and(|ring| !ring.is_empty());
        }
        more
    }

    /// Wakes the shards that something was handed to.
    pub(super) fn flush(&mut self) {
        for ring in &mut self.rings.outgoing {
            ring.flush();
        }
    }

    /// The other shard that a check names.
    fn named(&self, check: &[u8]) -> Option<ShardId> {
        let ufrag = Ufrag::of_check(check)?;
        let elsewhere = ufrag.node_generation == self.node_generation && ufrag.shard != self.own;
        elsewhere.then_some(ufrag.shard)
    }

    /// The other shard whose peer has the five-tuple.
    fn owner(&self, now: Instant, path: &FiveTuple) -> Option<ShardId> {
        if self.known.is_empty() {
            return None;
        }
        self.known.get(path).filter(|known| known.until > now).map(|known| known.shard)
    }

    fn hand_over(&mut self, to: ShardId, path: FiveTuple, datagram: &[u8]) {
        if datagram.len() > MAX_DATAGRAM {
            self.dropped += 1;
            return;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(datagram);
        match self.push(to, Handed::Datagram { path, bytes }) {
            Ok(()) => self.handed_over += 1,
            Err(refused) => {
                self.dropped += 1;
                self.keep(refused);
            }
        }
    }

    fn take(&mut self, now: Instant, shard: &mut Shard, from: ShardId, message: Handed) {
        match message {
            Handed::Datagram { path, mut bytes } => {
                let stun = classify(&bytes) == DatagramClass::Stun;
                shard.handle_datagram(now, path, &mut bytes);
                // What finds no room is said again with the next datagram.
                let _ = match (stun, shard.knows(&path)) {
                    (true, true) => self.push(from, Handed::Known(path)),
                    (false, false) => self.push(from, Handed::Unknown(path)),
                    _ => Ok(()),
                };
                if let Err(refused) = self.push(from, Handed::Spent(bytes)) {
                    self.keep(refused);
                }
            }
            Handed::Known(path) => {
                if self.known.len() < MAX_KNOWN || self.known.contains_key(&path) {
                    self.known.insert(path, Known { shard: from, until: now + KNOWN_FOR });
                    self.next_sweep.get_or_insert(now + SWEEP);
                }
            }
            Handed::Unknown(path) => {
                if self.known.get(&path).is_some_and(|known| known.shard == from) {
                    self.known.remove(&path);
                }
            }
            spent @ Handed::Spent(_) => self.keep(spent),
        }
    }

    fn push(&mut self, to: ShardId, message: Handed) -> Result<(), Handed> {
        match self.rings.outgoing.iter_mut().find(|ring| ring.to == to) {
            Some(ring) => ring.push(message),
            None => Err(message),
        }
    }

    /// Keeps the buffer for the next datagram.
    fn keep(&mut self, message: Handed) {
        if let Handed::Datagram { bytes, .. } | Handed::Spent(bytes) = message
            && self.spare.len() < CAPACITY
        {
            self.spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        runtime::{doorbell::doorbells, ring::mesh},
        shard::{DefaultLimits, Protocol, ShardConfig, TransportContext},
        transport::DtlsVersions,
    };

    const GENERATION: u16 = 7;

    struct Node {
        now: Instant,
        shards: Vec<(Shard, Steering)>,
    }

    impl Node {
        #[allow(clippy::disallowed_methods)] // any instant will do
        fn new() -> Self {
            let now = Instant::now();
            let context = TransportContext::generate(DtlsVersions::Dtls12).unwrap();
            let shard = |(id, rings)| {
                let config = ShardConfig {
                    id: ShardId(id),
                    shards: 2,
                    node_generation: GENERATION,
                    max_peers: 10,
                    limits: DefaultLimits::default(),
                    epoch: now,
                };
                let shard = Shard::new(config, context.clone(), [id as u8; 32]);
                (shard, Steering::new(ShardId(id), GENERATION, rings))
            };
            Self { now, shards: (0..).zip(mesh(&doorbells(2), CAPACITY)).map(shard).collect() }
        }

        fn deliver(&mut self, at: usize, path: FiveTuple, datagram: &[u8]) {
            let (shard, steering) = &mut self.shards[at];
            steering.deliver(self.now, shard, path, &mut datagram.to_vec());
        }

        fn receive(&mut self, at: usize) {
            let (shard, steering) = &mut self.shards[at];
            steering.sweep(self.now);
            steering.receive(self.now, shard);
        }

        fn steering(&self, at: usize) -> &Steering {
            &self.shards[at].1
        }

        fn datagrams(&self, at: usize) -> u64 {
            self.shards[at].0.counters().datagrams_in
        }
    }

    fn path(port: u16) -> FiveTuple {
        FiveTuple {
            protocol: Protocol::Udp,
            local: ([192, 0, 2, 1], 7_882).into(),
            remote: ([198, 51, 100, 1], port).into(),
        }
    }

    /// A check for nobody, by a name of this generation and shard.
    fn check(generation: u8, shard: u8) -> Vec<u8> {
        const CHARS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let of = |n: u8| CHARS[usize::from(n)];
        let mut check = [&[0, 1, 0, 20, 0x21, 0x12, 0xa4, 0x42][..], &[0; 12]].concat();
        check.extend([0, 6, 0, 16, b'A', b'A', of(generation), b'A', b'A', of(shard)]);
        check.extend(b"xxxxxxxx:r");
        check
    }

    const MEDIA: [u8; 40] = [0x80; 40];

    #[test]
    fn a_check_goes_where_its_name_says_and_proves_nothing() {
        let mut node = Node::new();
        for (case, check, handed) in [
            ("ours", check(7, 0), 0),
            ("the other's", check(7, 1), 1),
            ("of another life", check(6, 1), 0),
            ("of no shard", check(7, 9), 0),
        ] {
            let before = node.steering(0).handed_over;
            node.deliver(0, path(1), &check);
            assert_eq!(node.steering(0).handed_over - before, handed, "{case}");
        }
        assert_eq!(node.steering(0).dropped, 1, "of no shard");
        node.receive(1);
        assert_eq!(node.datagrams(1), 1);
        node.receive(0);
        assert!(node.steering(0).known.is_empty(), "no peer has that name");
        node.deliver(0, path(1), &MEDIA);
        assert_eq!((node.datagrams(0), node.datagrams(1)), (3, 1), "media stays where it came");
        assert_eq!(node.steering(0).spare.len(), 2, "the buffer came back beside the unused one");
    }

    #[test]
    fn a_known_five_tuple_follows_until_it_is_forgotten_or_silent() {
        let mut node = Node::new();
        let now = node.now;
        let learn = |node: &mut Node, port, at| {
            let (shard, steering) = &mut node.shards[0];
            steering.take(at, shard, ShardId(1), Handed::Known(path(port)));
        };
        learn(&mut node, 1, now);
        node.deliver(0, path(1), &MEDIA);
        node.deliver(0, path(2), &MEDIA);
        assert_eq!((node.steering(0).handed_over, node.datagrams(0)), (1, 1));
        node.deliver(0, path(1), &[0x80; MAX_DATAGRAM + 1]);
        assert_eq!(node.steering(0).dropped, 1);
        // The other shard has no such peer.
        node.receive(1);
        node.receive(0);
        assert!(node.steering(0).known.is_empty());

        learn(&mut node, 1, now);
        learn(&mut node, 2, now + KNOWN_FOR / 2);
        node.now = now + KNOWN_FOR;
        node.deliver(0, path(1), &MEDIA);
        assert_eq!(node.steering(0).handed_over, 1, "silent for too long");
        node.receive(0);
        assert_eq!(node.steering(0).known.len(), 1, "swept");
    }

    #[test]
    fn a_shard_that_does_not_take_them_costs_a_bounded_number() {
        let mut node = Node::new();
        for _ in 0..CAPACITY + 10 {
            node.deliver(0, path(1), &check(7, 1));
        }
        assert_eq!(node.steering(0).handed_over, CAPACITY as u64);
        assert_eq!(node.steering(0).dropped, 10);
        for port in 0..MAX_KNOWN as u32 + 10 {
            let (shard, steering) = &mut node.shards[0];
            let remote = std::net::SocketAddr::from(([10, (port >> 8) as u8, port as u8, 1], 9));
            let path = FiveTuple { remote, ..path(1) };
            steering.take(node.now, shard, ShardId(1), Handed::Known(path));
        }
        assert_eq!(node.steering(0).known.len(), MAX_KNOWN);
    }
}
