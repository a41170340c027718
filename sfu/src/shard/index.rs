//! Which peer a datagram belongs to. A lookup is a decision; the shard acts on it.

use std::{cell::Cell, collections::HashMap};

use crate::{room::PeerKey, transport::FiveTuple};

/// Two maps. Both keys are chosen by the world (a peer chooses its addresses, anybody writes a user name): the standard
/// library's keyed hasher stays.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_path: HashMap<FiveTuple, PeerKey>,
    by_ufrag: HashMap<Box<str>, PeerKey>,
    /// What was found by five-tuple last: datagrams of one come in runs, and comparing costs less than hashing.
    latest: Cell<Option<(FiveTuple, PeerKey)>>,
    /// The same from the other side, so that a peer can be forgotten without a search.
    of_peer: HashMap<PeerKey, Names>,
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
        let peer = self.by_path.get(path).copied()?;
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
        self.of_peer.entry(peer).or_default().paths.push(path);
    }

    /// The five-tuple is no longer `peer`'s. It may already be another's.
    pub(super) fn remove_path(&mut self, path: &FiveTuple, peer: PeerKey) {
        if self.by_path.get(path) != Some(&peer) {
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
    use crate::transport::Protocol;

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
