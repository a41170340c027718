//! What the fuzzer and tests may do beside driving a shard by its inputs: stand in for DTLS and SCTP, and look at what waits.

use std::time::Instant;

use super::{PeerId, RoomId, Shard};
use crate::{
    room::PeerKey,
    transport::{SrtpKeys, TransportEvent},
};

impl Shard {
    /// As if DTLS had completed with these keys. The peer needs a path before.
    pub fn fuzz_connect(&mut self, now: Instant, room: &RoomId, peer: &PeerId, keys: &SrtpKeys) {
        self.begin(now);
        let Some(key) = self.fuzz_key(room, peer) else { return };
        if let Some(peer) = self.peer_mut(key).filter(|peer| !peer.transport.is_connected()) {
            peer.transport.fuzz_connect(keys);
        }
        self.settle(key);
    }

    /// As if the peer's transport had said this.
    pub fn fuzz_event(
        &mut self,
        now: Instant,
        room: &RoomId,
        peer: &PeerId,
        event: TransportEvent,
    ) {
        self.begin(now);
        let Some(key) = self.fuzz_key(room, peer) else { return };
        self.handle_transport_event(key, event);
        self.settle(key);
    }

    /// Panics where something waits that a drained shard has no reason to keep, or more than its bound.
    pub fn fuzz_check(&self) {
        assert!(self.outbox.is_empty() && self.touched.is_empty() && self.events.is_empty());
        assert!(self.fanout.is_idle() && self.broadcasts.is_idle());
        for (_, peer) in &self.peers {
            assert!(peer.pending.is_empty(), "nobody waits for a walk that is over");
        }
        for track in self.tracks.iter().flatten() {
            assert!(!track.dirty && track.fresh.is_empty(), "no packet waits for a walk");
        }
        for shard in self.relays.others() {
            assert!(self.relays.waiting(shard) < 20_000, "tables, a full media lane, data");
        }
    }

    fn fuzz_key(&self, room: &RoomId, peer: &PeerId) -> Option<PeerKey> {
        self.rooms.peer(self.rooms.find(room)?, peer)
    }
}
