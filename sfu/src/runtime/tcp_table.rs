//! The TCP connections of one shard: how many there may be, and which of them have no reason to stay.
//!
//! Whoever has seen a ufrag can open connections with it. Only a valid check makes one a peer's path; what is none soon
//! after it came, or is none any more, is closed.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use slab::Slab;

use crate::shard::FiveTuple;

/// Connections by their paths.
#[derive(Debug)]
pub(super) struct TcpTable<C> {
    connections: HashMap<FiveTuple, Held<C>>,
    /// Their paths by token, the poller's name for them.
    paths: Slab<FiveTuple>,
    /// Those that have something to be read or written, by token.
    ready: VecDeque<u32>,
    /// How many come from one place.
    of_site: HashMap<IpAddr, usize>,
    next_sweep: Option<Instant>,
}

#[derive(Debug)]
struct Held<C> {
    connection: C,
    token: u32,
    /// It stands in the queue of those that are ready.
    ready: bool,
    since: Instant,
    /// It was a peer's path at the latest sweep.
    known: bool,
}

impl<C> Default for TcpTable<C> {
    fn default() -> Self {
        Self {
            connections: HashMap::new(),
            paths: Slab::new(),
            ready: VecDeque::new(),
            of_site: HashMap::new(),
            next_sweep: None,
        }
    }
}

impl<C> TcpTable<C> {
    /// Connections at most: some times the peers that a shard serves over TCP, far below the usual limit of descriptors.
    pub(super) const MAX: usize = 4_096;
    /// Connections at most from one address, or one IPv6 network of 64 bits. Fewer would turn away an office behind one
    /// address, more let a single host take what all share.
    pub(super) const MAX_OF_SITE: usize = 64;
    /// Time for a first valid check. The client may still wait for the other side's description.
    pub(super) const UNKNOWN_FOR: Duration = Duration::from_secs(10);
    /// How often connections are looked through. Nothing is urgent about it.
    const SWEEP: Duration = Duration::from_secs(1);

    /// Whether a connection with this path may come.
    pub(super) fn has_room(&self, path: &FiveTuple) -> bool {
        let of_site = self.of_site.get(&site(path)).copied().unwrap_or(0);
        // The same path again takes the place of the one before.
        self.connections.contains_key(path)
            || (self.connections.len() < Self::MAX && of_site < Self::MAX_OF_SITE)
    }

    /// Holds the connection that `make` makes with the token it is given, until it is removed or swept away. It is ready.
    pub(super) fn insert<E>(
        &mut self,
        now: Instant,
        path: FiveTuple,
        make: impl FnOnce(u32) -> Result<C, E>,
    ) -> Result<(), E> {
        self.remove(&path);
        let token = self.paths.vacant_key() as u32;
        let connection = make(token)?;
        self.paths.insert(path);
        let held = Held { connection, token, ready: false, since: now, known: false };
        self.connections.insert(path, held);
        *self.of_site.entry(site(&path)).or_default() += 1;
        self.next_sweep.get_or_insert(now + Self::SWEEP);
        self.heard(token);
        Ok(())
    }

    /// The connection with this path.
    pub(super) fn get_mut(&mut self, path: &FiveTuple) -> Option<&mut C> {
        self.connections.get_mut(path).map(|held| &mut held.connection)
    }

    /// The connection with this token has something to be read or written.
    pub(super) fn heard(&mut self, token: u32) {
        // One that was closed meanwhile may still be reported.
        let held = self.paths.get(token as usize).and_then(|path| self.connections.get_mut(path));
        if let Some(held) = held
            && !std::mem::replace(&mut held.ready, true)
        {
            self.ready.push_back(token);
        }
    }

    /// Whether some are ready.
    pub(super) fn is_any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next one that is ready, and no longer is from now on.
    pub(super) fn next_ready(&mut self) -> Option<(FiveTuple, &mut C)> {
        let token = self.ready.pop_front()?;
        let path = *self.paths.get(token as usize)?;
        let held = self.connections.get_mut(&path)?;
        held.ready = false;
        Some((path, &mut held.connection))
    }

    /// Closes a connection.
    pub(super) fn remove(&mut self, path: &FiveTuple) {
        if let Some(held) = self.connections.remove(path) {
            leave(&mut self.of_site, path);
            self.paths.remove(held.token as usize);
            self.ready.retain(|token| *token != held.token);
        }
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// When to sweep; never while there are none.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next_sweep.filter(|_| !self.connections.is_empty())
    }

    /// Closes connections that are no peer's path and had their time, or were one and are none any more. Returns how
    /// many.
    pub(super) fn sweep(&mut self, now: Instant, known: impl Fn(&FiveTuple) -> bool) -> usize {
        let Self { connections, paths, ready, of_site, .. } = self;
        let before = connections.len();
        connections.retain(|path, held| {
            let was_known = std::mem::replace(&mut held.known, known(path));
            let in_time = now.saturating_duration_since(held.since) < Self::UNKNOWN_FOR;
            let stays = held.known || (!was_known && in_time);
            if !stays {
                leave(of_site, path);
                paths.remove(held.token as usize);
                ready.retain(|token| *token != held.token);
            }
            stays
        });
        self.next_sweep = (!self.connections.is_empty()).then(|| now + Self::SWEEP);
        before - self.connections.len()
    }
}

fn leave(of_site: &mut HashMap<IpAddr, usize>, path: &FiveTuple) {
    let site = site(path);
    if let Some(count) = of_site.get_mut(&site) {
        *count -= 1;
        if *count == 0 {
            of_site.remove(&site);
        }
    }
}

/// Where a client is: a host has a whole IPv6 network of 64 bits to choose addresses from.
fn site(path: &FiveTuple) -> IpAddr {
    match path.remote.ip() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Protocol;

    type Table = TcpTable<()>;

    fn path(host: u16, port: u16) -> FiveTuple {
        let [high, low] = host.to_be_bytes();
        FiveTuple {
            protocol: Protocol::Tcp,
            local: ([192, 0, 2, 1], 7881).into(),
            remote: ([10, 0, high, low], port).into(),
        }
    }

    #[allow(clippy::disallowed_methods)] // any instant will do
    fn start() -> Instant {
        Instant::now()
    }

    fn insert(table: &mut Table, now: Instant, path: FiveTuple) {
        table.insert(now, path, |_| Ok::<_, ()>(())).unwrap();
    }

    #[test]
    fn who_is_ready_stands_in_the_queue_once_and_a_closed_one_not_at_all() {
        let now = start();
        let mut table = TcpTable::<u32>::default();
        let add = |table: &mut TcpTable<u32>, port| {
            table.insert(now, path(1, port), Ok::<_, ()>).unwrap();
        };
        for port in 0..3 {
            add(&mut table, port);
        }
        table.heard(1);
        table.remove(&path(1, 2));
        table.heard(2);
        let order = |table: &mut TcpTable<u32>| -> Vec<(u16, u32)> {
            let next = || table.next_ready().map(|(path, token)| (path.remote.port(), *token));
            std::iter::from_fn(next).collect()
        };
        assert_eq!(order(&mut table), [(0, 0), (1, 1)], "what came with them is to be read");
        table.heard(1);
        table.heard(0);
        table.heard(1);
        table.heard(77);
        assert!(table.is_any_ready());
        assert_eq!(order(&mut table), [(1, 1), (0, 0)]);
        assert!(!table.is_any_ready());
        // The token of one that went is another's, and so is the path of one that comes again.
        add(&mut table, 9);
        table.heard(0);
        add(&mut table, 0);
        assert_eq!(order(&mut table), [(9, 2), (0, 0)]);
        assert_eq!(table.insert(now, path(1, 5), |_| Err("refused")), Err("refused"));
        assert_eq!((table.len(), table.paths.len()), (3, 3));
    }

    #[test]
    fn one_address_and_all_together_have_only_so_many_connections() {
        let now = start();
        let mut table = Table::default();
        for port in 0..Table::MAX_OF_SITE as u16 {
            assert!(table.has_room(&path(0, port)));
            insert(&mut table, now, path(0, port));
        }
        assert!(!table.has_room(&path(0, 999)));
        assert!(table.has_room(&path(0, 3)), "takes its own place");
        insert(&mut table, now, path(0, 3));
        table.remove(&path(0, 3));
        table.remove(&path(0, 3));
        assert!(table.has_room(&path(0, 999)));
        insert(&mut table, now, path(0, 999));
        assert!(!table.has_room(&path(0, 1_000)));

        let others = Table::MAX / Table::MAX_OF_SITE;
        for host in 1..others as u16 {
            for port in 0..Table::MAX_OF_SITE as u16 {
                insert(&mut table, now, path(host, port));
            }
        }
        assert_eq!(table.len(), Table::MAX);
        assert!(!table.has_room(&path(9_999, 1)));
        table.sweep(now + Table::UNKNOWN_FOR, |_| false);
        assert_eq!((table.len(), table.of_site.len()), (0, 0));
        assert_eq!(table.poll_timeout(), None);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_place() {
        let of = |text: &str| site(&FiveTuple { remote: text.parse().unwrap(), ..path(0, 0) });
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:1]:2"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
    }

    #[test]
    fn connections_are_closed_that_are_nobodys_path_or_no_longer_somebodys() {
        let now = start();
        let mut table = Table::default();
        let (stray, peers) = (path(1, 1), path(1, 2));
        insert(&mut table, now, stray);
        insert(&mut table, now, peers);
        assert_eq!(table.poll_timeout(), Some(now + Table::SWEEP));
        let known = |path: &FiveTuple| *path == peers;
        assert_eq!(table.sweep(now + Table::UNKNOWN_FOR - Table::SWEEP, known), 0, "in time");
        assert_eq!(table.sweep(now + Table::UNKNOWN_FOR, known), 1);
        assert!(table.get_mut(&stray).is_none() && table.get_mut(&peers).is_some());
        assert_eq!(table.sweep(now + Duration::from_secs(3_600), known), 0);
        assert_eq!(table.sweep(now + Duration::from_secs(3_601), |_| false), 1, "the peer went");

        insert(&mut table, now, peers);
        table.sweep(now + Table::SWEEP, known);
        assert_eq!(table.sweep(now + 2 * Table::SWEEP, |_| false), 1, "at once, however young");
    }
}
