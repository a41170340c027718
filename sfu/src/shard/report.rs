//! What is known of a peer, gathered when somebody asks; and sums over all peers for metrics.

use std::time::Instant;

use super::{Shard, find_peer, track::Track};
use crate::{
    peer::{EstimateLimit, EstimateReport, PathReport, Peer, PeerReport, Told, TrackReport},
    room::{PeerId, PeerKey, RoomId},
    rtp::{Bitrate, MediaKind},
};

/// Sums over the peers of a shard, as of the last time that each told its statistics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gauges {
    /// Of all estimates, bits per second.
    pub estimated: u64,
    /// Peers by what holds their estimates, in the order of [`EstimateLimit::ALL`].
    pub limits: [u64; EstimateLimit::ALL.len()],
    /// Tracks that peers receive.
    pub subscriptions: u64,
    /// Of these, how many are paused for want of bandwidth.
    pub starved: u64,
}

impl Gauges {
    /// A peer says something else than before. What it said before is in the sums, so that nothing falls below zero.
    fn replace(&mut self, before: Told, now: Told) {
        let rate = |told: &Told| told.estimate.map_or(0, |estimate| estimate.rate.bps());
        self.estimated = self.estimated - rate(&before) + rate(&now);
        let place = |told: &Told| told.estimate.map(|estimate| estimate.limit.index());
        for (index, peers) in self.limits.iter_mut().enumerate() {
            *peers -= u64::from(place(&before) == Some(index));
            *peers += u64::from(place(&now) == Some(index));
        }
        self.subscriptions = self.subscriptions - before.subscriptions + now.subscriptions;
        self.starved = self.starved - before.starved + now.starved;
    }
}

impl Shard {
    /// Sums over the peers.
    pub fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// What is known of a peer; `None` where it is not here. Its cost grows with the peer's tracks and subscriptions,
    /// whose numbers are bounded.
    pub(super) fn report(&mut self, room: &RoomId, peer: &PeerId) -> Option<PeerReport> {
        let now = self.now;
        let key = self.rooms.peer(self.rooms.find(room)?, peer)?;
        let Self { peers, tracks, .. } = self;
        let peer = find_peer(peers, key)?;
        let mut published = Vec::new();
        for (spec, route) in peer.published() {
            let track = tracks.get_mut(route.0).and_then(Option::as_mut);
            published.extend(track.map(|track| track_report(now, spec.id.clone(), track)));
        }
        let subscriptions = peer.subscriptions.iter().map(|(_, subscription)| {
            let track = tracks.get(subscription.route.0).and_then(Option::as_ref);
            subscription.report(now, track.map(|track| &track.published))
        });
        Some(PeerReport {
            connected: peer.connected,
            tracks: published,
            subscriptions: subscriptions.collect(),
            path: path_report(now, peer),
        })
    }

    /// What a peer has to say goes into the sums in place of what it said before.
    pub(super) fn tell_gauges(&mut self, key: PeerKey, told: Told) {
        let Self { peers, gauges, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return };
        if peer.told != told {
            gauges.replace(std::mem::replace(&mut peer.told, told), told);
        }
    }
}

fn path_report(now: Instant, peer: &Peer) -> PathReport {
    let last = peer.path.last();
    let claims = || peer.subscriptions.iter().map(|(_, subscription)| &subscription.claim);
    let estimate = peer.congestion.stats().map(|estimate| {
        let inside = peer.congestion.estimator().stats();
        EstimateReport {
            estimate,
            budget: peer.congestion.budget(),
            acknowledged: inside.acknowledged,
            video_wanted: claims().map(|claim| claim.top()).sum::<Bitrate>(),
            video_granted: claims().map(|claim| claim.cost()).sum::<Bitrate>(),
            queue: inside.queue,
            loss: (inside.loss * 1_000.0) as u16,
            probes: inside.probes,
        }
    });
    PathReport {
        rtt: peer.rtt,
        ingress: last.ingress,
        egress: last.egress,
        silent: now.saturating_duration_since(peer.path.heard_at),
        estimate,
        pacer_packets: peer.congestion.waiting(),
        sent: peer.sent(),
        bytes_sent: peer.congestion.sent().bytes(),
        egress_bitrate: last.egress_bitrate,
    }
}

fn track_report(now: Instant, id: crate::rtp::TrackId, track: &mut Track) -> TrackReport {
    let published = &mut track.published;
    let kind = published.kind();
    let mut ladder = Vec::new();
    if kind == MediaKind::Video {
        published.ladder(now, &mut ladder);
    }
    TrackReport {
        track: id,
        kind,
        muted: published.muted(),
        encodings: published.encoding_stats(now).collect(),
        ladder,
        cached: published.memory(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bwe::Limit, peer::Estimate};

    #[test]
    fn sums_follow_what_each_peer_said_last() {
        let told = |kbps, limit, starved| Told {
            estimate: Some(Estimate { rate: Bitrate::from_kbps(kbps), limit }),
            subscriptions: 3,
            starved,
        };
        let delay = EstimateLimit::Path(Limit::Delay);
        let (first, second) = (told(500, delay, 1), told(2_000, EstimateLimit::Cap, 0));
        let mut gauges = Gauges::default();
        gauges.replace(Told::default(), first);
        gauges.replace(Told::default(), second);
        assert_eq!((gauges.estimated, gauges.subscriptions, gauges.starved), (2_500_000, 6, 1));
        assert_eq!(gauges.limits[delay.index()], 1);
        gauges.replace(first, told(700, EstimateLimit::Cap, 0));
        assert_eq!((gauges.estimated, gauges.starved), (2_700_000, 0));
        assert_eq!(gauges.limits[EstimateLimit::Cap.index()], 2);
        gauges.replace(told(700, EstimateLimit::Cap, 0), Told::default());
        gauges.replace(second, Told::default());
        assert_eq!(gauges, Gauges::default());
    }
}
