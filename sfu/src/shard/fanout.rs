//! From the tracks' caches to everybody who takes them, destination by destination.
//!
//! A walk has two phases. It gathers: takes what arrived (`fresh`) of each track and notes per subscriber which of its
//! subscriptions have something. Then each subscriber is visited once and gets everything in one run. Both phases are a
//! cursor that moves a bounded number of visits per step and may stand still between any two of them: what arrives
//! meanwhile waits for the next walk, and who leaves meanwhile makes nobody else be passed over.

use std::collections::VecDeque;

use super::{
    DropReason, RelayMessage, Shard, find_peer,
    rtcp::UNKNOWN_RTT,
    timer::{Sleeper, Timer},
    track::{Demand, News, Owner},
};
use crate::{
    cache::EncodingSet,
    peer::{Arrived, Peer, Subscription},
    relay::{LaneFull, Nacked, RelayPacket},
    room::{PeerKey, RouteKey},
    rtp::SeqNo,
};

/// The cursor.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    /// Tracks with packets for the next walk.
    dirty: VecDeque<RouteKey>,
    /// Tracks of the current walk whose takers are not gathered yet.
    walked: VecDeque<RouteKey>,
    /// The track whose takers are being gathered, and how many of them are.
    gathering: Option<(RouteKey, usize)>,
    /// The track whose packets are the whole walk, and how many of its takers were visited: nobody needs to be gathered.
    alone: Option<(RouteKey, usize)>,
    /// Subscribers that are left to visit.
    destinations: VecDeque<PeerKey>,
    /// Subscribers that wait for resends.
    resends: VecDeque<PeerKey>,
    /// Subscribers whose pacers have room for what waits.
    releases: VecDeque<PeerKey>,
    /// Keyframes that subscribers wait for.
    pub(super) keyframes: Vec<(RouteKey, u8)>,
    /// Tracks of which a taker wants something else now; what it wanted before may have been more.
    pub(super) demands: Vec<(RouteKey, Demand)>,
    /// Tracks whose takers are to be told something.
    news: VecDeque<RouteKey>,
    /// The track whose takers are being told.
    telling: Option<Telling>,
    /// Tracks of which nobody may want as much any more.
    recounts: VecDeque<RouteKey>,
    /// The track whose takers are being asked.
    recounting: Option<Recount>,
    /// Packets that are in no cache here: they are asked for at their publishers' shards.
    missed: Vec<(RouteKey, u8, SeqNo)>,
}

/// Some takers know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Telling {
    route: RouteKey,
    /// Takers that were told.
    done: usize,
    news: News,
}

/// A sum that is not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Recount {
    route: RouteKey,
    /// Takers that were asked.
    done: usize,
    /// What they want, and what others came to want meanwhile.
    sum: Demand,
}

/// Bytes that wait before a step ends: a run or two, which are sent from the nearest cache, where they were written.
pub(super) const STEP: usize = 8 * 1024;

/// Bytes that wait before a subscriber that is being served gives way: beyond it a run is too long for a turn that has to be cut
/// in time.
pub(super) const RUN: usize = 32 * 1024;

// A walk looks at what waits before a visit: beyond a run a visit would send nothing, and its packets were lost.
const _: () = assert!(STEP < RUN);

/// Takers gathered and subscriptions served in one step, together: some 10 us. More makes slices longer than they are
/// meant to be, fewer spends the time on looking at the clock.
const VISITS: usize = 128;

impl Fanout {
    pub(super) fn is_idle(&self) -> bool {
        self.dirty.is_empty()
            && !self.is_gathering()
            && self.alone.is_none()
            && self.destinations.is_empty()
            && self.resends.is_empty()
            && self.releases.is_empty()
            && !self.is_telling()
            && !self.is_recounting()
    }

    /// For so many of each, all of them in one walk: media does not wait for memory then.
    pub(super) fn make_room(&mut self, peers: usize, tracks: usize) {
        let Self { dirty, walked, news, destinations, resends, releases, .. } = self;
        for tracks_in_turn in [dirty, walked, news] {
            tracks_in_turn.reserve(tracks);
        }
        for peers_in_turn in [destinations, resends, releases] {
            peers_in_turn.reserve(peers);
        }
    }

    /// Of the lists that [`Self::make_room`] is about.
    #[cfg(test)]
    pub(super) fn capacities(&self) -> [usize; 6] {
        let Self { dirty, walked, news, destinations, resends, releases, .. } = self;
        let tracks = [dirty, walked, news].map(VecDeque::capacity);
        let peers = [destinations, resends, releases].map(VecDeque::capacity);
        [tracks[0], tracks[1], tracks[2], peers[0], peers[1], peers[2]]
    }

    pub(super) fn mark(&mut self, route: RouteKey) {
        self.dirty.push_back(route);
    }

    /// The track of a route is gone: another may take its place before the next walk, and is marked by itself.
    pub(super) fn forget(&mut self, route: RouteKey) {
        self.dirty.retain(|marked| *marked != route);
        self.walked.retain(|marked| *marked != route);
        self.gathering = self.gathering.filter(|(gathered, _)| *gathered != route);
        self.alone = self.alone.filter(|(walked, _)| *walked != route);
        self.news.retain(|marked| *marked != route);
        self.telling = self.telling.filter(|telling| telling.route != route);
        self.recounts.retain(|marked| *marked != route);
        self.recounting = self.recounting.filter(|recount| recount.route != route);
    }

    /// The taker at this place of a route's list is gone, and those behind it moved up.
    pub(super) fn taker_left(&mut self, route: RouteKey, place: usize) {
        let gathering = self.gathering.iter_mut().chain(&mut self.alone);
        let gathering = gathering.map(|(route, done)| (*route, done));
        let telling = self.telling.iter_mut().map(|telling| (telling.route, &mut telling.done));
        let recounting =
            self.recounting.iter_mut().map(|recount| (recount.route, &mut recount.done));
        for (walked, done) in gathering.chain(telling).chain(recounting) {
            if walked == route && place < *done {
                *done -= 1;
            }
        }
    }

    /// Has the takers of a track told its news, all from the first on.
    pub(super) fn tell(&mut self, route: RouteKey) {
        self.news.push_back(route);
    }

    pub(super) fn resend(&mut self, peer: PeerKey) {
        self.resends.push_back(peer);
    }

    pub(super) fn release(&mut self, peer: PeerKey) {
        self.releases.push_back(peer);
    }

    /// Keeps what a subscription wants after packets reached it; before, it demanded `demanded`.
    #[inline(always)]
    pub(super) fn note(&mut self, subscription: &Subscription, demanded: EncodingSet) {
        if let Some(encoding) = subscription.wants_keyframe() {
            self.keyframes.push((subscription.route, encoding));
        }
        if subscription.demanded() != demanded {
            self.demands.push((subscription.route, Demand::of(subscription)));
        }
    }

    fn is_telling(&self) -> bool {
        self.telling.is_some() || !self.news.is_empty()
    }

    fn is_recounting(&self) -> bool {
        self.recounting.is_some() || !self.recounts.is_empty()
    }

    fn is_gathering(&self) -> bool {
        self.gathering.is_some() || !self.walked.is_empty()
    }
}

impl Shard {
    /// One step of the walk. False when there was nothing to do.
    pub(super) fn step_fanout(&mut self) -> bool {
        if self.fanout.is_idle() {
            return false;
        }
        let mut visits = VISITS;
        while visits > 0 && self.outbox.pending() < STEP {
            let made = if self.fanout.is_telling() {
                // Before any packet is handed out: it may be the keyframe of an encoding that has just come to life.
                self.tell_takers(visits)
            } else if let Some(key) = self.fanout.resends.pop_front() {
                self.serve_resends(key);
                1
            } else if let Some(key) = self.fanout.releases.pop_front() {
                self.serve_release(key, visits)
            } else if let Some((route, done)) = self.fanout.alone {
                self.serve_taker(route, done)
            } else if self.fanout.is_gathering() {
                self.gather(visits)
            } else if let Some(key) = self.fanout.destinations.pop_front() {
                self.serve(key, visits)
            } else if self.fanout.is_recounting() {
                // Once in a walk at most: visits are what changes demand.
                self.recount(visits)
            } else if !self.begin_walk() {
                break;
            } else {
                1
            };
            self.counters.visits += made as u64;
            visits = visits.saturating_sub(made);
        }
        true
    }

    /// Takes what arrived into a walk. False when nothing did.
    fn begin_walk(&mut self) -> bool {
        let Fanout { dirty, walked, alone, .. } = &mut self.fanout;
        std::mem::swap(dirty, walked);
        // Mostly it is one frame of one track.
        if walked.len() == 1
            && let Some(route) = walked.pop_front()
        {
            *alone = Some((route, 0));
            self.take_batch(route);
            return true;
        }
        !walked.is_empty()
    }

    /// Notes who gets what arrived of one track: at most `limit` of its takers. Returns how many visits that was; a track
    /// counts as one.
    fn gather(&mut self, limit: usize) -> usize {
        let begun = self.fanout.gathering.take();
        let Some((route, done)) = begun.or_else(|| Some((self.fanout.walked.pop_front()?, 0)))
        else {
            return 0;
        };
        if begun.is_none() {
            self.take_batch(route);
        }
        let Self { rooms, peers, fanout, .. } = self;
        let takers = rooms.route(route).map_or(&[][..], |known| &known.takers);
        let rest = takers.get(done..).unwrap_or(&[]);
        let (part, later) = rest.split_at(rest.len().min(limit));
        for taker in part {
            let Some(peer) = find_peer(peers, taker.peer) else { continue };
            if peer.pending.is_empty() {
                fanout.destinations.push_back(taker.peer);
            }
            peer.pending.push_back((route, taker.subscription));
        }
        if !later.is_empty() {
            fanout.gathering = Some((route, done + part.len()));
        }
        part.len() + usize::from(begun.is_none())
    }

    /// Takes what arrived of a track into the walk, and gives it to other shards.
    fn take_batch(&mut self, route: RouteKey) {
        let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        track.take_batch();
        self.relay_batch(route);
        self.settle_track(route);
    }

    /// One subscriber gets everything of the walk, `limit` subscriptions of it at once; it comes again for the rest. Returns
    /// how many subscriptions were looked at.
    fn serve(&mut self, key: PeerKey, limit: usize) -> usize {
        self.prefetch(|ahead| Some((*self.fanout.destinations.get(ahead)?, None)));
        let Some(peer) = find_peer(&mut self.peers, key) else { return 1 };
        let mut pending = std::mem::take(&mut peer.pending);
        let mut served = 0;
        let next = || {
            let next = if served < limit { pending.pop_front() } else { None };
            served += usize::from(next.is_some());
            next
        };
        if !self.visit(key, next) {
            pending.clear();
        }
        let Some(peer) = find_peer(&mut self.peers, key) else { return 1 };
        if !pending.is_empty() {
            self.fanout.destinations.push_front(key);
        }
        peer.pending = pending;
        served.max(1)
    }

    /// One taker of the only track of a walk gets its packets. Returns how many visits that was.
    fn serve_taker(&mut self, route: RouteKey, done: usize) -> usize {
        let takers = self.rooms.route(route).map_or(&[][..], |known| &known.takers);
        let rest = takers.get(done..).unwrap_or(&[]);
        let Some((taker, behind)) = rest.split_first() else {
            self.fanout.alone = None;
            return 0;
        };
        self.prefetch(|ahead| {
            let next = behind.get(ahead)?;
            Some((next.peer, Some(next.subscription)))
        });
        self.fanout.alone = Some((route, done + 1));
        let mut next = Some((route, taker.subscription));
        self.visit(taker.peer, || next.take());
        1
    }

    /// Sends a peer what is there for its subscriptions that `next` names, each by its route and slot, until a run is full. False
    /// where nothing can be sent to it.
    #[inline(always)]
    fn visit(&mut self, key: PeerKey, mut next: impl FnMut() -> Option<(RouteKey, u32)>) -> bool {
        let (now, send_time) = (self.now, self.send_time);
        let Self { peers, tracks, outbox, counters, fanout, timers, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return false };
        let reports = peer.cadence.may_ride(now);
        outbox.close_run();
        let Some((subscriptions, spec, mut link)) = peer.sending(now, send_time, outbox, counters)
        else {
            return false;
        };
        let waited = link.congestion.is_waiting();
        let before = link.waiting();
        while link.waiting() < RUN
            && let Some((route, slot)) = next()
        {
            let Some(track) = tracks.get(route.0).and_then(Option::as_ref) else { continue };
            let Some(subscription) = subscriptions.get_mut(slot as usize) else { continue };
            let demanded = subscription.demanded();
            let (published, batch) = (&track.published, &track.batch);
            subscription.forward(slot, published, batch, spec, &mut link);
            fanout.note(subscription, demanded);
        }
        if !waited && link.congestion.is_waiting() {
            let release = link.congestion.poll_release(now);
            timers.set(Sleeper::Peer(key), Timer::PacerRelease, release);
        }
        if reports && link.waiting() > before {
            self.ride_reports(key);
        }
        self.follow_up();
        true
    }

    /// Asks for what the turns of the next subscribers will need, step by step: the nearer a turn, the further along its pointers.
    /// `next` names them by how many come before, each with its subscription where that is known.
    #[inline(always)]
    fn prefetch(&self, next: impl Fn(usize) -> Option<(PeerKey, Option<u32>)>) {
        for ahead in 0..Peer::PREFETCHES {
            let Some((key, slot)) = next(ahead) else { return };
            if let Some(peer) = self.peers.get(key.index()) {
                let step = Peer::PREFETCHES - 1 - ahead;
                peer.prefetch(self.now, step, slot);
                if step == Peer::REPORT_STEP && peer.cadence.may_ride(self.now) {
                    self.timers.prefetch(Sleeper::Peer(key));
                }
            }
        }
    }

    /// Sends again what a subscriber asked for.
    fn serve_resends(&mut self, key: PeerKey) {
        let (now, send_time) = (self.now, self.send_time);
        let Self { peers, tracks, outbox, counters, fanout, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return };
        peer.resending = false;
        outbox.close_run();
        let Some((subscriptions, _, mut link)) = peer.sending(now, send_time, outbox, counters)
        else {
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
    #[inline(always)]
    pub(super) fn follow_up(&mut self) {
        if !(self.fanout.demands.is_empty() && self.fanout.keyframes.is_empty()) {
            self.follow_up_on_all();
        }
    }

    fn follow_up_on_all(&mut self) {
        while let Some((route, demand)) = self.fanout.demands.pop() {
            self.demand_changed(route, demand);
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

    /// A taker wants this now. More than all others is told at once; whether it was the last who wanted what it wanted
    /// before is found out by asking all of them, in steps.
    fn demand_changed(&mut self, route: RouteKey, demand: Demand) {
        let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        if let Some(recount) = &mut self.fanout.recounting
            && recount.route == route
        {
            recount.sum = recount.sum.union(demand);
        }
        if demand.covers(track.local) {
            // Nothing is left that only others may want.
            if track.local != demand {
                track.local = demand;
                self.tell_demand(route);
            }
            return;
        }
        if !std::mem::replace(&mut track.recounting, true) {
            self.fanout.recounts.push_back(route);
        }
        let sum = track.local.union(demand);
        if track.local != sum {
            track.local = sum;
            self.tell_demand(route);
        }
    }

    /// Asks at most `limit` takers of a track what they want. Returns how many visits that was.
    fn recount(&mut self, limit: usize) -> usize {
        let Self { tracks, rooms, peers, fanout, .. } = self;
        let begun = fanout.recounting.take();
        let first = || {
            let route = fanout.recounts.pop_front()?;
            Some(Recount { route, done: 0, sum: Demand::default() })
        };
        let Some(mut recount) = begun.or_else(first) else { return 0 };
        let Some(track) = tracks.get_mut(recount.route.0).and_then(Option::as_mut) else {
            return 1;
        };
        if begun.is_none() {
            // Who changes their mind from now on is asked again.
            track.recounting = false;
        }
        let takers = rooms.route(recount.route).map_or(&[][..], |known| &known.takers);
        let rest = takers.get(recount.done..).unwrap_or(&[]);
        let (part, later) = rest.split_at(rest.len().min(limit));
        for taker in part {
            let peer = peers.get(taker.peer.index());
            let subscription =
                peer.and_then(|peer| peer.subscriptions.get(taker.subscription as usize));
            if let Some(subscription) = subscription {
                recount.sum = recount.sum.union(Demand::of(subscription));
            }
        }
        recount.done += part.len();
        let visits = part.len() + usize::from(begun.is_none());
        if !later.is_empty() {
            fanout.recounting = Some(recount);
        } else if track.local != recount.sum {
            track.local = recount.sum;
            self.tell_demand(recount.route);
        }
        visits
    }

    /// Tells at most `limit` takers of a track its news. Returns how many visits that was.
    fn tell_takers(&mut self, limit: usize) -> usize {
        let Self { tracks, rooms, peers, fanout, timers, now, .. } = self;
        let begun = fanout.telling.take();
        let first = || Some(Telling { route: fanout.news.pop_front()?, done: 0, news: News::NONE });
        let Some(mut telling) = begun.or_else(first) else { return 0 };
        let route = telling.route;
        let Some(track) = tracks.get_mut(route.0).and_then(Option::as_mut) else { return 1 };
        if begun.is_none() {
            telling.news = std::mem::take(&mut track.news);
            // Until some are met.
            track.bounding = false;
        }
        let News { attach, live, frames } = telling.news;
        let takers = rooms.route(route).map_or(&[][..], |known| &known.takers);
        let rest = takers.get(telling.done..).unwrap_or(&[]);
        let (part, later) = rest.split_at(rest.len().min(limit));
        for taker in part {
            let Some(peer) = find_peer(peers, taker.peer) else { continue };
            let Some(subscription) = peer.subscriptions.get_mut(taker.subscription as usize) else {
                continue;
            };
            let demanded = subscription.demanded();
            if attach {
                subscription.attach(&track.published, track.live);
            } else if live {
                subscription.set_live(track.live);
            }
            let bounds = subscription.bounds_frames();
            track.bounding |= bounds;
            let bounded = frames && bounds && subscription.bound_frames(&track.ladder);
            if !(attach || live || bounded) {
                continue;
            }
            fanout.note(subscription, demanded);
            let demand = Demand::of(subscription);
            if attach && !track.local.covers(demand) {
                fanout.demands.push((route, demand));
            }
            if peer.congestion.invalidate() {
                timers.set(Sleeper::Peer(taker.peer), Timer::Allocation, Some(*now));
            }
        }
        telling.done += part.len();
        let visits = part.len() + usize::from(begun.is_none());
        let over = later.is_empty();
        if !over {
            fanout.telling = Some(telling);
        }
        self.follow_up();
        if over
            && attach
            && let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut)
        {
            track.attaching = false;
            track.published.set_demanded(track.told.encodings);
        }
        visits
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
            for Arrived { encoding, seq, .. } in track.batch.iter().copied() {
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
        std::mem::swap(&mut fanout.dirty, &mut fanout.walked);
        fanout.gathering = Some((RouteKey(3), 5));
        fanout.alone = Some((RouteKey(4), 5));
        fanout.forget(RouteKey(2));
        fanout.forget(RouteKey(3));
        assert!(fanout.alone.is_some());
        fanout.forget(RouteKey(4));
        assert_eq!((&fanout.walked, fanout.gathering), (&[RouteKey(1)].into(), None));
        assert_eq!(fanout.alone, None);
    }

    #[test]
    fn who_leaves_moves_the_cursor_only_where_it_has_passed() {
        let mut fanout = Fanout { gathering: Some((RouteKey(1), 5)), ..Fanout::default() };
        fanout.taker_left(RouteKey(2), 0);
        fanout.taker_left(RouteKey(1), 5);
        assert_eq!(fanout.gathering, Some((RouteKey(1), 5)));
        fanout.telling = Some(Telling { route: RouteKey(1), done: 9, news: News::NONE });
        fanout.recounting = Some(Recount { route: RouteKey(1), done: 4, sum: Demand::default() });
        fanout.taker_left(RouteKey(1), 4);
        assert_eq!(fanout.gathering, Some((RouteKey(1), 4)));
        fanout.alone = Some((RouteKey(2), 1));
        fanout.taker_left(RouteKey(2), 0);
        fanout.taker_left(RouteKey(2), 0);
        assert_eq!(fanout.alone, Some((RouteKey(2), 0)));
        fanout.alone = None;
        assert_eq!(fanout.telling.map(|telling| telling.done), Some(8));
        assert_eq!(fanout.recounting.map(|recount| recount.done), Some(4));
        fanout.forget(RouteKey(1));
        assert!(fanout.is_idle());
    }
}
