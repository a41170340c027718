//! A published track on this shard, whoever publishes it.

use crate::{
    cache::EncodingSet,
    ingress::PublishedTrack,
    room::{PeerKey, ShardId},
    rtp::SeqNo,
};

/// Packets of a track and who else wants them.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) published: PublishedTrack,
    pub(super) owner: Owner,
    /// Arrived since the last walk began.
    pub(super) fresh: Vec<(u8, SeqNo)>,
    /// What the current walk hands out.
    pub(super) batch: Vec<(u8, SeqNo)>,
    /// It waits for the next walk.
    pub(super) dirty: bool,
    /// Encodings that have packets, as subscribers were told.
    pub(super) live: EncodingSet,
    /// Other shards that know the track.
    pub(super) remotes: Vec<Remote>,
    /// What the control plane or the publisher's shard was told last.
    pub(super) told: Demand,
}

/// Who feeds a track.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A peer of this shard.
    Peer(PeerKey),
    /// Another shard, which calls the track by this number.
    Relay(ShardId, u32),
}

/// Another shard that knows a track of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Remote {
    pub(super) shard: ShardId,
    pub(super) demand: Demand,
    /// Formats it was told.
    pub(super) formats: usize,
}

/// What is wanted of a track.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Demand {
    /// Encodings whose packets have an effect.
    pub(super) encodings: EncodingSet,
    /// Highest spatial layer that is asked for; `None`: nobody asks.
    pub(super) max_spatial: Option<u8>,
}

impl Demand {
    /// What both want.
    pub(super) fn union(self, other: Self) -> Self {
        Self {
            encodings: self.encodings.union(other.encodings),
            max_spatial: self.max_spatial.max(other.max_spatial),
        }
    }
}

impl Track {
    pub(super) fn new(published: PublishedTrack, owner: Owner) -> Self {
        Self {
            published,
            owner,
            fresh: Vec::new(),
            batch: Vec::new(),
            dirty: false,
            live: EncodingSet::EMPTY,
            remotes: Vec::new(),
            told: Demand::default(),
        }
    }

    /// The peer of this shard that publishes it.
    pub(super) fn publisher(&self) -> Option<PeerKey> {
        match self.owner {
            Owner::Peer(peer) => Some(peer),
            Owner::Relay(..) => None,
        }
    }
}
