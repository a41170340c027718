//! A published track on this shard, whoever publishes it.

use std::time::{Duration, Instant};

use crate::{
    cache::EncodingSet,
    ingress::PublishedTrack,
    peer::TrackSpec,
    room::{PeerId, PeerKey, ShardId},
    rtp::SeqNo,
};

/// Packets of a track and who else wants them.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) published: PublishedTrack,
    pub(super) owner: Owner,
    pub(super) publisher_id: PeerId,
    /// Its publisher is heard.
    pub(super) speaks: bool,
    /// What its publisher's shard calls it towards the others. Not the route, which is given anew at once: media and
    /// tables take different lanes, and what is still on its way must not reach another track.
    pub(super) number: u32,
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
    /// Another shard.
    Relay(ShardId),
}

/// Another shard that knows a track of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Remote {
    pub(super) shard: ShardId,
    pub(super) demand: Demand,
    /// Formats it was told.
    pub(super) formats: usize,
    /// When it was told an encoding's clock last, by encoding.
    pub(super) clocks_at: [Option<Instant>; TrackSpec::MAX_ENCODINGS],
}

impl Remote {
    /// It knows the track and wants nothing of it yet.
    pub(super) fn new(shard: ShardId) -> Self {
        let clocks_at = [None; TrackSpec::MAX_ENCODINGS];
        Self { shard, demand: Demand::default(), formats: 0, clocks_at }
    }

    /// Whether it shall be told an encoding's clock now: where it wants the encoding, and not more often than anybody
    /// sends reports in earnest.
    pub(super) fn takes_clock(&mut self, now: Instant, encoding: u8) -> bool {
        let Some(at) = self.clocks_at.get_mut(usize::from(encoding)) else { return false };
        let soon = at.is_some_and(|at| now.saturating_duration_since(at) < CLOCK_INTERVAL);
        if soon || !self.demand.encodings.contains(encoding) {
            return false;
        }
        *at = Some(now);
        true
    }
}

/// Browsers report each second. More clocks than four a second only cost the relay.
const CLOCK_INTERVAL: Duration = Duration::from_millis(250);

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
    pub(super) fn new(
        published: PublishedTrack,
        owner: Owner,
        publisher_id: PeerId,
        number: u32,
    ) -> Self {
        Self {
            published,
            owner,
            publisher_id,
            speaks: false,
            number,
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
            Owner::Relay(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn a_clock_crosses_only_where_it_is_wanted_and_a_few_times_a_second() {
        let start = Instant::now();
        let mut remote = Remote::new(ShardId(1));
        assert!(!remote.takes_clock(start, 0), "nobody wants it");
        remote.demand.encodings = EncodingSet::EMPTY.with(1);
        let taken = |remote: &mut Remote, encoding| {
            let at = |ms| start + Duration::from_millis(ms);
            (0..1_000).filter(|ms| remote.takes_clock(at(*ms), encoding)).count()
        };
        assert_eq!(taken(&mut remote, 0), 0);
        assert_eq!(taken(&mut remote, 1), 4);
    }
}
