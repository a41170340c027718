//! From the tracks' caches to everybody who takes them, destination by destination.
//!
//! A walk begins by taking what arrived (`fresh`) of all tracks at once and noting per subscriber which of its
//! subscriptions have something. Then each subscriber is visited once and gets everything in one run. A walk can be cut
//! after any subscriber: what arrives meanwhile waits for the next one.

use std::collections::VecDeque;

use super::{
    DropReason, RelayMessage, Shard,
    rtcp::UNKNOWN_RTT,
    timer::{Sleeper, Timer},
    track::Owner,
};
use crate::{
    relay::{LaneFull, Nacked, RelayPacket},
    room::{PeerKey, RouteKey},
    rtp::SeqNo,
    wire::AbsSendTime,
};

/// The cursor.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    /// Tracks with packets for the next walk.
    dirty: Vec<RouteKey>,
    /// Tracks of the current walk.
    walked: Vec<RouteKey>,
    /// Subscribers that are left to visit.
    destinations: VecDeque<PeerKey>,
    /// Subscribers that wait for resends.
    resends: VecDeque<PeerKey>,
    /// Keyframes that subscribers wait for.
    pub(super) keyframes: Vec<(RouteKey, u8)>,
    /// Tracks of which something else is wanted now.
    pub(super) demands: Vec<RouteKey>,
    /// Packets that are in no cache here: they are asked for at their publishers' shards.
    missed: Vec<(RouteKey, u8, SeqNo)>,
}

/// Bytes that wait before a step ends: a few runs, so that a turn can be cut in time.
const STEP: usize = 32 * 1024;

impl Fanout {
    pub(super) fn is_idle(&self) -> bool {
        self.dirty.is_empty() && self.destinations.is_empty() && self.resends.is_empty()
    }

    pub(super) fn mark(&mut self, route: RouteKey) {
        self.dirty.push(route);
    }

    /// The track of a route is gone: another may take its place before the next walk, and is marked by itself.
    pub(super) fn forget(&mut self, route: RouteKey) {
        self.dirty.retain(|marked| *marked != route);
    }

    pub(super) fn resend(&mut self, peer: PeerKey) {
        self.resends.push_back(peer);
    }
}

impl Shard {
    /// One step of the walk. False when there is nothing left to do.
    pub(super) fn step_fanout(&mut self) -> bool {
        if self.fanout.is_idle() {
            return false;
        }
        while let Some(key) = self.fanout.resends.pop_front() {
            self.serve_resends(key);
            if self.outbox.pending() >= STEP {
                return true;
            }
        }
        if self.fanout.destinations.is_empty() {
            self.begin_walk();
        }
        while let Some(key) = self.fanout.destinations.pop_front() {
            self.serve(key);
            if self.outbox.pending() >= STEP {
                break;
            }
        }
        true
    }

    /// Takes what arrived and finds out who gets it.
    fn begin_walk(&mut self) {
        std::mem::swap(&mut self.fanout.dirty, &mut self.fanout.walked);
        for index in 0..self.fanout.walked.len() {
            let route = self.fanout.walked[index];
            let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else {
                continue;
            };
            track.dirty = false;
            std::mem::swap(&mut track.fresh, &mut track.batch);
            track.fresh.clear();
            let takers = self.rooms.route(route).map_or(&[][..], |known| &known.takers);
            for taker in takers {
                let Some(peer) = self.peers.get_mut(taker.peer.index()) else { continue };
                if peer.pending.is_empty() {
                    self.fanout.destinations.push_back(taker.peer);
                }
                peer.pending.push((route, taker.subscription));
            }
            self.relay_batch(route);
            self.settle_track(route);
        }
        self.fanout.walked.clear();
    }

    /// One subscriber gets everything of the walk.
    fn serve(&mut self, key: PeerKey) {
        let (now, send_time) = (self.now, self.send_time());
        let Self { peers, tracks, outbox, counters, fanout, .. } = self;
        let Some(peer) = peers.get_mut(key.index()).filter(|peer| peer.identity.key == key) else {
            return;
        };
        let mut pending = std::mem::take(&mut peer.pending);
        outbox.close_run();
        if let Some((subscriptions, spec, mut link)) = peer.sending(send_time, outbox, counters) {
            for (route, slot) in pending.iter().copied() {
                let Some(track) = tracks.get(route.0).and_then(Option::as_ref) else { continue };
                let Some(subscription) = subscriptions.get_mut(slot as usize) else { continue };
                let demanded = subscription.demanded();
                let (published, batch) = (&track.published, &track.batch);
                subscription.forward(now, published, batch, spec, &mut link);
                if let Some(encoding) = subscription.wants_keyframe() {
                    fanout.keyframes.push((route, encoding));
                }
                if subscription.demanded() != demanded {
                    fanout.demands.push(route);
                }
            }
        }
        pending.clear();
        peer.pending = pending;
        self.follow_up();
    }

    /// Sends again what a subscriber asked for.
    fn serve_resends(&mut self, key: PeerKey) {
        let send_time = self.send_time();
        let Self { peers, tracks, outbox, counters, fanout, .. } = self;
        let Some(peer) = peers.get_mut(key.index()).filter(|peer| peer.identity.key == key) else {
            return;
        };
        peer.resending = false;
        outbox.close_run();
        let Some((subscriptions, _, mut link)) = peer.sending(send_time, outbox, counters) else {
            return;
        };
        for (_, subscription) in subscriptions.iter_mut() {
            let route = subscription.route;
            let track = tracks.get(route.0).and_then(Option::as_ref);
            let Some(track) = track.filter(|_| subscription.resending) else { continue };
            let missed = |encoding, seq| fanout.missed.push((route, encoding, seq));
            subscription.resend(&track.published, &mut link, missed);
        }
        self.ask_relays_again();
    }

    /// What a visit turned up: keyframes to ask for, other encodings to demand.
    pub(super) fn follow_up(&mut self) {
        while let Some(route) = self.fanout.demands.pop() {
            self.tell_demand(route);
        }
        let now = self.now;
        while let Some((route, encoding)) = self.fanout.keyframes.pop() {
            let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else {
                continue;
            };
            let before = track.published.poll_timeout();
            track.published.request_keyframe(now, encoding);
            if track.published.poll_timeout() != before {
                self.settle_track(route);
            }
        }
    }

    /// Lets a track say what it needs of its publisher, and when it will need something next.
    pub(super) fn settle_track(&mut self, route: RouteKey) {
        let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        let due = track.published.poll_timeout().is_some_and(|due| due <= self.now);
        if due {
            match track.owner {
                Owner::Peer(peer) => self.send_track_feedback(peer, route),
                Owner::Relay(shard) => {
                    let (number, now) = (track.number, self.now);
                    let missed = &mut self.fanout.missed;
                    track.published.poll_relay_nacks(now, UNKNOWN_RTT, |encoding, seq| {
                        missed.push((route, encoding, seq));
                        true
                    });
                    let wanted = track.published.poll_keyframe_requests(self.now);
                    for encoding in wanted.iter() {
                        let message = RelayMessage::Keyframe { route: number, encoding };
                        self.relay_media(shard, message);
                    }
                    self.ask_relays_again();
                }
            }
        }
        let Some(track) = self.tracks.get(route.0).and_then(Option::as_ref) else { return };
        let deadline = track.published.poll_timeout();
        self.timers.set(Sleeper::Route(route), Timer::TrackFeedback, deadline);
    }

    /// Gives a track's batch to the other shards that want it.
    fn relay_batch(&mut self, route: RouteKey) {
        let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        for remote in &mut track.remotes {
            if remote.demand.encodings.is_empty() {
                continue;
            }
            let Some(lane) = self.relays.lane(remote.shard) else { continue };
            let formats = track.published.formats();
            for (id, codec) in formats.iter().skip(remote.formats) {
                let codec = Box::new(codec.clone());
                lane.push_table(RelayMessage::Format { route: track.number, id, codec });
            }
            remote.formats = formats.len();
            for (encoding, seq) in track.batch.iter().copied() {
                if !remote.demand.encodings.contains(encoding) {
                    continue;
                }
                let Some(packet) = track.published.packet(encoding, seq) else { continue };
                if lane.is_media_full() {
                    self.counters.drop(DropReason::RelayLane);
                    continue;
                }
                let buffer = self.spare.pop().unwrap_or_default();
                let packet = RelayPacket::new(track.number, packet, buffer);
                match lane.push_media(RelayMessage::Media(packet)) {
                    Ok(()) => self.counters.relayed += 1,
                    Err(LaneFull) => self.counters.drop(DropReason::RelayLane),
                }
            }
        }
    }

    /// Asks the publishers' shards for what is in no cache here.
    fn ask_relays_again(&mut self) {
        let mut missed = std::mem::take(&mut self.fanout.missed);
        let mut rest = &missed[..];
        while let Some((route, encoding, _)) = rest.first().copied() {
            let mut seqs = Nacked::new();
            let same = rest
                .iter()
                .take_while(|(r, e, seq)| (*r, *e) == (route, encoding) && seqs.push(*seq))
                .count();
            rest = rest.get(same..).unwrap_or(&[]);
            let Some(track) = self.tracks.get(route.0).and_then(Option::as_ref) else { continue };
            if let Owner::Relay(shard) = track.owner {
                let route = track.number;
                self.relay_media(shard, RelayMessage::Nack { route, encoding, seqs });
            }
        }
        missed.clear();
        self.fanout.missed = missed;
    }

    pub(super) fn send_time(&self) -> AbsSendTime {
        AbsSendTime::from_duration(self.now.saturating_duration_since(self.config.epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_is_taken_anew_is_walked_once() {
        let mut fanout = Fanout::default();
        fanout.mark(RouteKey(1));
        fanout.mark(RouteKey(2));
        fanout.forget(RouteKey(1));
        fanout.mark(RouteKey(1));
        assert_eq!(fanout.dirty, [RouteKey(2), RouteKey(1)]);
    }
}
