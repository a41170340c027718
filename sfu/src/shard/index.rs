//! Which peer a datagram belongs to. A lookup is a decision; the shard acts on it.

use std::{cell::Cell, collections::HashMap, net::SocketAddr};

use crate::{
    room::PeerKey,
    transport::{FiveTuple, Protocol},
};

/// Maps. Keys are chosen by the world (a peer chooses its addresses, anybody writes a user name): the standard library's keyed
/// hasher stays.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_path: Paths,
    by_ufrag: HashMap<Box<str>, PeerKey>,
    /// What was found by five-tuple last: datagrams of one come in runs, and comparing costs less than hashing.
    latest: Cell<Option<(FiveTuple, PeerKey)>>,
    /// The same from the other side, so that a peer can be forgotten without a search.
    of_peer: HashMap<PeerKey, Names>,
}

/// Who has which five-tuple. Those of IPv4, of which most packets are, are kept apart, in 24 bytes each with their peer instead of 76: each
/// packet of somebody else asks for one that is not near.
#[derive(Debug, Default)]
struct Paths {
    v4: HashMap<PathV4, PeerKey>,
    others: HashMap<FiveTuple, PeerKey>,
}

/// A five-tuple of IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PathV4 {
    addresses: u64,
    /// Ports and protocol: two words are hashed in half the time that the fields take.
    rest: u64,
}

impl std::fmt::Debug for PathV4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PathV4(redacted)")
    }
}

impl PathV4 {
    fn new(path: &FiveTuple) -> Option<Self> {
        let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (path.local, path.remote) else {
            return None;
        };
        let both = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        Some(Self {
            addresses: both(local.ip().to_bits(), remote.ip().to_bits()),
            rest: both(u32::from(path.protocol == Protocol::Tcp), 0)
                | u64::from(local.port()) << 16
                | u64::from(remote.port()),
        })
    }
}

impl Paths {
    fn get(&self, path: &FiveTuple) -> Option<PeerKey> {
        let found = match PathV4::new(path) {
            Some(path) => self.v4.get(&path),
            None => self.others.get(path),
        };
        found.copied()
    }

    /// Who had it before.
    fn insert(&mut self, path: FiveTuple, peer: PeerKey) -> Option<PeerKey> {
        match PathV4::new(&path) {
            Some(path) => self.v4.insert(path, peer),
            None => self.others.insert(path, peer),
        }
    }

    fn remove(&mut self, path: &FiveTuple) {
        match PathV4::new(path) {
            Some(path) => self.v4.remove(&path),
            None => self.others.remove(path),
        };
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.others.is_empty()
    }
}

#[derive(Debug, Default)]
struct Names {
    paths: Vec<FiveTuple>,
    ufrags: Vec<Box<str>>,
}

impl Index {
    /// The peer that has this five-tuple.
    pub(super) fn by_path(&self, path: &FiveTuple) -> Option<PeerKey> {
        if let Some((known, peer)) = self.latest.get()
            && known == *path
        {
            return Some(peer);
        }
        let peer = self.by_path.get(path)?;
        self.latest.set(Some((*path, peer)));
        Some(peer)
    }

    /// The peer that has this local user name.
    pub(super) fn by_ufrag(&self, ufrag: &[u8]) -> Option<PeerKey> {
        self.by_ufrag.get(std::str::from_utf8(ufrag).ok()?).copied()
    }

    /// The five-tuple passed a check of `peer`: from now on it is this peer's alone.
    pub(super) fn insert_path(&mut self, path: FiveTuple, peer: PeerKey) {
        self.latest.set(None);
        let before = self.by_path.insert(path, peer);
        if before == Some(peer) {
            return;
        }
        if let Some(names) = before.and_then(|other| self.of_peer.get_mut(&other)) {
            names.paths.retain(|known| *known != path);
        }
        let paths = &mut self.of_peer.entry(peer).or_default().paths;
        if paths.is_empty() {
            // Most have one.
            paths.reserve_exact(1);
        }
        paths.push(path);
    }

    /// The five-tuple is no longer `peer`'s. It may already be another's.
    pub(super) fn remove_path(&mut self, path: &FiveTuple, peer: PeerKey) {
        if self.by_path.get(path) != Some(peer) {
            return;
        }
        self.by_path.remove(path);
        self.latest.set(None);
        if let Some(names) = self.of_peer.get_mut(&peer) {
            names.paths.retain(|known| known != path);
        }
    }

    /// `false` when another peer has the name.
    #[must_use]
    pub(super) fn insert_ufrag(&mut self, ufrag: &str, peer: PeerKey) -> bool {
        if self.by_ufrag.contains_key(ufrag) {
            return false;
        }
        self.by_ufrag.insert(ufrag.into(), peer);
        self.of_peer.entry(peer).or_default().ufrags.push(ufrag.into());
        true
    }

    /// Checks by this name are no longer answered.
    pub(super) fn remove_ufrag(&mut self, ufrag: &str) {
        let Some(peer) = self.by_ufrag.remove(ufrag) else { return };
        if let Some(names) = self.of_peer.get_mut(&peer) {
            names.ufrags.retain(|known| **known != *ufrag);
        }
    }

    /// Whether no peer is known.
    pub(super) fn is_empty(&self) -> bool {
        self.by_path.is_empty() && self.by_ufrag.is_empty()
    }

    /// Forgets everything of a peer.
    pub(super) fn remove_peer(&mut self, peer: PeerKey) {
        let Some(names) = self.of_peer.remove(&peer) else { return };
        self.latest.set(None);
        for path in names.paths {
            self.by_path.remove(&path);
        }
        for ufrag in names.ufrags {
            self.by_ufrag.remove(&ufrag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_five_tuple_counts() {
        let (v4, v6) = ([192, 0, 2, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        let mut index = Index::default();
        let mut paths = Vec::new();
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            for port in [1, 2] {
                let ends = [
                    ((v4, 7_882).into(), ([192, 0, 2, 2], port).into()),
                    ((v4, 7_882).into(), ([192, 0, 2, 3], port).into()),
                    (([192, 0, 2, 9], 7_882).into(), ([192, 0, 2, 2], port).into()),
                    ((v4, 7_883).into(), ([192, 0, 2, 2], port).into()),
                    ((v6, 7_882).into(), (v6, port).into()),
                    ((v6, 7_882).into(), (v4, port).into()),
                ];
                paths.extend(ends.map(|(local, remote)| FiveTuple { protocol, local, remote }));
            }
        }
        let peer = |n: usize| PeerKey::new(n, 0);
        for (n, path) in paths.iter().enumerate() {
            assert_eq!(index.by_path(path), None);
            index.insert_path(*path, peer(n));
        }
        for (n, path) in paths.iter().enumerate() {
            assert_eq!(index.by_path(path), Some(peer(n)));
        }
        for (n, path) in paths.iter().enumerate() {
            index.remove_path(path, peer(n));
            assert_eq!(index.by_path(path), None);
        }
        assert!(index.is_empty());
    }

    #[test]
    fn a_five_tuple_has_one_owner_and_a_peer_is_forgotten_whole() {
        let mut index = Index::default();
        let (a, b) = (PeerKey::new(0, 1), PeerKey::new(1, 2));
        let path = FiveTuple {
            protocol: Protocol::Udp,
            local: ([192, 0, 2, 1], 7882).into(),
            remote: ([192, 0, 2, 2], 1).into(),
        };
        index.insert_path(path, a);
        assert_eq!(index.by_path(&path), Some(a));
        assert_eq!(index.by_path(&path), Some(a), "again");
        index.insert_path(path, b);
        assert_eq!(index.by_path(&path), Some(b), "whatever was found before");
        index.remove_path(&path, a);
        index.remove_peer(a);
        assert_eq!(index.by_path(&path), Some(b), "the newer check counts");
        assert!(index.insert_ufrag("abcd", b));
        assert!(!index.insert_ufrag("abcd", a));
        assert_eq!(index.by_ufrag(b"abcd"), Some(b));
        assert_eq!(index.by_ufrag(b"abc"), None);
        assert_eq!(index.by_ufrag(&[0xff]), None);
        index.remove_peer(b);
        assert_eq!(index.by_path(&path), None);
        assert_eq!(index.by_ufrag(b"abcd"), None);
        index.insert_path(path, a);
        assert_eq!(index.by_path(&path), Some(a));
        index.remove_path(&path, a);
        assert_eq!(index.by_path(&path), None);
    }
}
