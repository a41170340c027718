//! What the feedback of subscribers changes: their estimates, what waits for their pacers, and who gets which layers.

use super::{
    DropReason, Event, Shard,
    fanout::RUN,
    find_peer,
    timer::{Sleeper, Timer},
    track::Demand,
};
use crate::{
    peer::{Arrived, Grant, Peer, Sharing, Subscription, Waiting},
    room::PeerKey,
    rtp::Bitrate,
    wire::rtcp::{CongestionFeedback, TransportFeedback},
};

impl Shard {
    pub(super) fn transport_feedback(&mut self, key: PeerKey, feedback: &TransportFeedback<'_>) {
        let now = self.now;
        self.counters.transport_feedback += 1;
        let Some(peer) = self.peer_mut(key) else { return };
        if !peer.congestion.handle_transport_cc(now, feedback) {
            self.counters.drop(DropReason::Malformed);
            return;
        }
        peer.rtt = peer.congestion.estimator().rtt().or(peer.rtt);
        self.estimate_changed(key);
    }

    /// One message of feedback by stream and number. Whether [`Self::congestion_feedback_ends`] has to follow.
    pub(super) fn congestion_feedback(
        &mut self,
        key: PeerKey,
        feedback: &CongestionFeedback<'_>,
    ) -> bool {
        self.counters.transport_feedback += 1;
        let Some(peer) = self.peer_mut(key) else { return false };
        let taken = peer.congestion.handle_ccfb(feedback);
        if !taken {
            self.counters.drop(DropReason::Malformed);
        }
        taken
    }

    /// A datagram with feedback by stream and number has been read: it may have a message for each stream.
    pub(super) fn congestion_feedback_ends(&mut self, key: PeerKey) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        peer.congestion.conclude_ccfb(now);
        peer.rtt = peer.congestion.estimator().rtt().or(peer.rtt);
        self.estimate_changed(key);
    }

    pub(super) fn receiver_estimate(&mut self, key: PeerKey, rate: Bitrate) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        peer.congestion.handle_remb(now, rate);
        self.estimate_changed(key);
    }

    pub(super) fn wake_estimator(&mut self, key: PeerKey) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        peer.congestion.handle_timeout(now);
        self.estimate_changed(key);
    }

    /// The estimate may be another one, a probe may have begun, the pacer may have more room.
    pub(super) fn estimate_changed(&mut self, key: PeerKey) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        let deadline = peer.congestion.poll_timeout();
        let due = peer.congestion.is_allocation_due(now);
        let release = peer.congestion.poll_release(now);
        self.timers.set(Sleeper::Peer(key), Timer::Estimator, deadline);
        self.timers.set(Sleeper::Peer(key), Timer::PacerRelease, release);
        if due {
            self.allocate(key);
        }
    }

    /// Has a peer's estimate shared out anew before the turn after this one.
    pub(super) fn reallocate(&mut self, key: PeerKey) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        // Without an estimate too: there may have been one, and its grants stand.
        let _ = peer.congestion.invalidate();
        self.timers.set(Sleeper::Peer(key), Timer::Allocation, Some(now));
    }

    /// Shares a peer's estimate out among what it receives.
    pub(super) fn allocate(&mut self, key: PeerKey) {
        let now = self.now;
        let Self { peers, tracks, rooms, fanout, events, sharing, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return };
        let identity = &peer.identity;
        let changed = |subscription: &Subscription, before| {
            let route = subscription.route;
            fanout.demands.push((route, Demand::of(subscription)));
            if let Some(encoding) = subscription.wants_keyframe() {
                fanout.keyframes.push((route, encoding));
            }
            let paused = subscription.granted() == Grant::Nothing;
            if paused == (before == Grant::Nothing) {
                return;
            }
            let Some(known) = rooms.route(route) else { return };
            events.push_back(Event::StreamState {
                room: identity.room_id.clone(),
                peer: identity.id.clone(),
                track: known.track.clone(),
                paused,
            });
        };
        let next = if peer.congestion.is_controlled() {
            sharing.begin();
            for (slot, subscription) in peer.subscriptions.iter() {
                let track = tracks.get_mut(subscription.route.0).and_then(Option::as_mut);
                let Some(track) = track else { continue };
                sharing.add(now, slot as u32, subscription, &mut track.published, track.speaks);
            }
            let Peer { congestion, subscriptions, .. } = peer;
            Some(sharing.settle(now, congestion, subscriptions, changed))
        } else {
            Sharing::end(&mut peer.subscriptions, changed);
            None
        };
        let deadlines = [
            (Timer::Allocation, next),
            // Packets may have left since the latest feedback: silence is noticed by its deadline.
            (Timer::Estimator, peer.congestion.poll_timeout()),
            (Timer::PacerRelease, peer.congestion.poll_release(now)),
        ];
        for (timer, deadline) in deadlines {
            self.timers.set(Sleeper::Peer(key), timer, deadline);
        }
        self.follow_up();
    }

    /// The pacer of a peer has room again.
    pub(super) fn wake_pacer(&mut self, key: PeerKey) {
        let Some(peer) = self.peer_mut(key) else { return };
        if !std::mem::replace(&mut peer.releasing, true) {
            self.fanout.release(key);
        }
    }

    /// Sends what waited for its turn, at most `limit` packets at once, and what a probe needs beside it. Returns how
    /// many were looked at.
    pub(super) fn serve_release(&mut self, key: PeerKey, limit: usize) -> usize {
        let (now, send_time) = (self.now, self.send_time);
        let Self { peers, tracks, outbox, counters, fanout, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return 1 };
        peer.releasing = false;
        let reports = peer.cadence.may_ride(now);
        outbox.close_run();
        let Some((subscriptions, _, mut link)) = peer.sending(now, send_time, outbox, counters)
        else {
            return 1;
        };
        let (mut served, before) = (0, link.waiting());
        while served < limit
            && link.waiting() < RUN
            && let Some(waiting) = link.congestion.poll_waiting(now)
        {
            served += 1;
            let Waiting { slot, encoding, seq, .. } = waiting;
            let Some(subscription) = subscriptions.get_mut(slot as usize) else { continue };
            let route = subscription.route;
            let Some(track) = tracks.get(route.0).and_then(Option::as_ref) else { continue };
            let demanded = subscription.demanded();
            let arrived = [Arrived { encoding, seq, padding: 0, follows: false }];
            subscription.release(slot, &arrived, &track.published, &mut link);
            fanout.note(subscription, demanded);
        }
        'probe: while link.waiting() < RUN
            && let Some(missing) = link.congestion.poll_padding(now)
        {
            served += 1;
            // What is in play comes first: a repeat of it may repair something.
            for in_play in [true, false] {
                for (_, subscription) in subscriptions.iter_mut() {
                    let track = tracks.get(subscription.route.0).and_then(Option::as_ref);
                    let Some(track) = track.filter(|_| subscription.is_in_play() == in_play) else {
                        continue;
                    };
                    if subscription.pad(&track.published, missing, &mut link).is_some() {
                        link.congestion.set_unable(false);
                        continue 'probe;
                    }
                }
            }
            // No stream has retransmissions: media alone has to do.
            link.congestion.set_unable(true);
            break;
        }
        let release = link.congestion.poll_release(now);
        let reports = reports && link.waiting() > before;
        self.timers.set(Sleeper::Peer(key), Timer::PacerRelease, release);
        if reports {
            self.ride_reports(key);
        }
        self.follow_up();
        served.max(1)
    }
}
