//! Making a peer what the control plane wants it to be.

use rand::Rng;

use super::{
    ApplyError, LocalTransport, PeerId, PeerSpec, RelayMessage, RoomId, Shard, SubscriptionSpec,
    TrackSpec,
    timer::{Sleeper, Timer},
    track::{Demand, News, Owner, Track},
    ufrag::{self, Ufrag},
};
use crate::{
    cache::EncodingSet,
    ingress::{PublishedTrack, TrackSource},
    peer::{Birth, Cadence, FirstNumbers, Identity, Peer, PeerTrack, Subscription, Told},
    room::{PeerKey, RouteKey, Source, Taker},
    rtp::{Extension, SeqNo, Ssrc},
    transport::IceCredentials,
};

/// Tracks of one peer, and subscriptions of one peer. More is a mistake of the control plane.
const MAX_TRACKS: usize = 64;
const MAX_SUBSCRIPTIONS: usize = 2_048;

impl Shard {
    pub(super) fn apply_peer(
        &mut self,
        room: RoomId,
        id: PeerId,
        spec: PeerSpec,
    ) -> Result<LocalTransport, ApplyError> {
        let known = self.rooms.find(&room).and_then(|room| self.rooms.peer(room, &id));
        self.check(&room, known, &spec)?;
        let key = match known {
            Some(key) => {
                self.change_peer(key, spec);
                key
            }
            None => self.make_peer(&room, id, spec)?,
        };
        self.settle(key);
        let Some(peer) = self.peer_mut(key) else {
            // Its transport ended in this very moment: the event that follows says so.
            return Err(ApplyError::Invalid("the peer's transport has ended"));
        };
        Ok(LocalTransport {
            ufrag: peer.ice.ufrag.clone(),
            pwd: peer.ice.pwd.clone(),
            ice_generation: peer.ice_generation,
        })
    }

    /// Removes a peer with a goodbye.
    pub(super) fn remove_peer(&mut self, key: PeerKey) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(key.index()) else { return };
        peer.transport.close(now);
        while let Some(path) = peer.transport.poll_transmit(&mut self.scratch) {
            self.outbox.push(path, &self.scratch);
        }
        self.forget_peer(key);
    }

    /// Removes every trace of a peer.
    pub(super) fn forget_peer(&mut self, key: PeerKey) {
        self.tell_gauges(key, Told::default());
        let Some(peer) = self.peer_mut(key) else { return };
        let slots: Vec<u32> = peer.subscriptions.iter().map(|(slot, _)| slot as u32).collect();
        for slot in slots {
            self.unsubscribe(key, slot);
        }
        let Some(peer) = self.peer_mut(key) else { return };
        for route in peer.remove_tracks(|_| false) {
            self.unpublish(route);
        }
        let peer = self.peers.remove(key.index());
        self.index.remove_peer(key);
        self.timers.remove(Sleeper::Peer(key));
        let identity = peer.identity;
        let last = self.rooms.members(identity.room).len() == 1;
        if last {
            // Before the room goes: its relayed tracks go with it.
            self.leave_relay(identity.room, &identity.room_id);
            self.broadcasts.forget(&identity.room_id);
        }
        if let Some(place) = self.rooms.leave(identity.room, &identity.id) {
            self.broadcasts.member_left(&identity.room_id, place);
        }
    }

    fn check(
        &self,
        room: &RoomId,
        known: Option<PeerKey>,
        spec: &PeerSpec,
    ) -> Result<(), ApplyError> {
        if spec.tracks.len() > MAX_TRACKS {
            return Err(ApplyError::Invalid("too many tracks"));
        }
        if spec.subscriptions.len() > MAX_SUBSCRIPTIONS {
            return Err(ApplyError::Invalid("too many subscriptions"));
        }
        for (index, track) in spec.tracks.iter().enumerate() {
            if !(1..=TrackSpec::MAX_ENCODINGS).contains(&track.encodings.len()) {
                return Err(ApplyError::Invalid("a track has 1 to 4 encodings"));
            }
            if spec.tracks[..index].iter().any(|other| other.id == track.id) {
                return Err(ApplyError::Invalid("a track is named twice"));
            }
            let route = self.rooms.find(room).and_then(|room| self.rooms.route_of(room, &track.id));
            let source = route.and_then(|route| self.rooms.route(route)).and_then(|r| r.source);
            match source {
                Some(Source::Peer(owner)) if Some(owner) == known => {}
                None => {}
                Some(_) => return Err(ApplyError::TrackTaken(track.id.clone())),
            }
        }
        let peer = known.and_then(|key| self.peers.get(key.index()));
        if peer.is_some_and(|peer| !peer.remembers_all(&spec.subscriptions)) {
            return Err(ApplyError::Invalid(
                "the peer has used too many SSRCs, it has to reconnect",
            ));
        }
        let mut names = std::collections::HashSet::new();
        let mut ssrcs = std::collections::HashSet::new();
        for subscription in &spec.subscriptions {
            if !names.insert(&subscription.track) {
                return Err(ApplyError::Invalid("a track is subscribed to twice"));
            }
            if !subscription.ssrcs().all(|ssrc| ssrcs.insert(ssrc)) {
                return Err(ApplyError::Invalid("an SSRC is used twice"));
            }
        }
        Ok(())
    }

    fn make_peer(
        &mut self,
        room: &RoomId,
        id: PeerId,
        spec: PeerSpec,
    ) -> Result<PeerKey, ApplyError> {
        if self.peers.len() >= self.config.max_peers {
            return Err(ApplyError::Full);
        }
        let key = PeerKey::new(self.peers.vacant_key(), self.next_serial);
        self.next_serial = self.next_serial.wrapping_add(1);
        let ice = self.new_credentials(key);
        let first = self.rooms.find(room).is_none_or(|room| self.rooms.members(room).is_empty());
        let room_key = self.rooms.join(room, id.clone(), key);
        let room_id = self.rooms.id(room_key).unwrap_or(room).clone();
        let max_ssrcs = spec.limits.ingress_ssrcs.unwrap_or(self.config.limits.ingress_ssrcs);
        let cadence = Cadence::alone(self.now, self.report_interval());
        let birth = Birth {
            key,
            identity: Identity { id, room: room_key, room_id },
            ice,
            feedback_ssrc: Ssrc(self.random.random()),
            cname: ufrag::generate_name(&mut self.random),
            cadence,
            max_ssrcs: max_ssrcs as usize,
        };
        let bare = PeerSpec { tracks: Vec::new(), subscriptions: Vec::new(), ..spec.clone() };
        self.peers.insert(Box::new(Peer::new(self.now, birth, &self.context, bare)));
        self.make_room();
        if first {
            self.enter_relay(room);
        }
        self.timers.set(Sleeper::Peer(key), Timer::Reports, Some(cadence.deadline()));
        self.change_peer(key, spec);
        Ok(key)
    }

    fn change_peer(&mut self, key: PeerKey, spec: PeerSpec) {
        self.change_transport(key, &spec);
        let now = self.now;
        let limits = self.config.limits;
        let Some(peer) = self.peer_mut(key) else { return };
        peer.data.set_rate(now, spec.limits.data_rate.unwrap_or(limits.data_rate));
        peer.set_ingress_rate(now, spec.limits.ingress_bitrate.unwrap_or(limits.ingress_bitrate));
        let controlled = spec.send_extensions.id(Extension::TransportCc).is_some();
        peer.congestion.configure(now, controlled, spec.ccfb, spec.max_egress_bitrate);
        let before = std::mem::replace(&mut peer.spec, spec.clone());
        let renegotiated =
            before.codecs != spec.codecs || before.send_extensions != spec.send_extensions;
        if renegotiated {
            for (_, subscription) in peer.subscriptions.iter_mut() {
                subscription.renegotiate(&spec);
            }
        }
        let bounded_anew = before.limits.ingress_ssrcs != spec.limits.ingress_ssrcs;
        if bounded_anew {
            let max_ssrcs = spec.limits.ingress_ssrcs.unwrap_or(limits.ingress_ssrcs);
            peer.binder.set_max_ssrcs(max_ssrcs as usize);
        }
        if before.tracks != spec.tracks {
            self.change_tracks(key, &spec);
        } else if before.codecs != spec.codecs || bounded_anew {
            // Payload types decide what an SSRC may be bound to, the cap how many are.
            peer.bind_tracks();
        }
        if before.subscriptions != spec.subscriptions {
            self.change_subscriptions(key, &spec);
        }
        self.replay_parked(key);
        self.open_channels(key);
        self.follow_up();
        self.reallocate(key);
    }

    fn change_tracks(&mut self, key: PeerKey, spec: &PeerSpec) {
        let Some(peer) = self.peer_mut(key) else { return };
        let listened = peer.routes().next().is_none();
        // Another number of encodings, or another kind, is another track.
        let gone = peer.remove_tracks(|track| {
            spec.tracks.iter().any(|wanted| {
                wanted.id == track.spec.id
                    && wanted.kind == track.spec.kind
                    && wanted.encodings.len() == track.spec.encodings.len()
            })
        });
        for route in gone {
            self.unpublish(route);
        }
        for wanted in &spec.tracks {
            let Some(peer) = self.peer_mut(key) else { return };
            let route = match peer.track(&wanted.id).map(|track| track.route) {
                Some(route) => {
                    peer.change_track(wanted.clone());
                    route
                }
                None => {
                    let Some(route) = self.publish(key, wanted) else { continue };
                    route
                }
            };
            if let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) {
                track.published.set_muted(wanted.muted);
            }
        }
        let Some(peer) = self.peer_mut(key) else { return };
        peer.bind_tracks();
        if listened && peer.connected && peer.routes().next().is_some() {
            self.report_sooner(key);
        }
    }

    fn publish(&mut self, key: PeerKey, wanted: &TrackSpec) -> Option<RouteKey> {
        let Identity { id, room_id: room, .. } = self.peer_mut(key)?.identity.clone();
        let route = self.rooms.publish(&room, &wanted.id, Source::Peer(key)).ok()?;
        let peer = self.peer_mut(key)?;
        peer.add_track(PeerTrack { spec: wanted.clone(), route });
        let published = PublishedTrack::new(wanted.kind, TrackSource::Peer, wanted.encodings.len());
        let number = self.relays.number(route);
        self.add_track(route, Track::new(published, Owner::Peer(key), id, number));
        self.announce(route, &room);
        Some(route)
    }

    /// A route has packets to come.
    pub(super) fn add_track(&mut self, route: RouteKey, track: Track) {
        if self.tracks.len() <= route.0 {
            self.tracks.resize_with(route.0 + 1, || None);
        }
        self.make_room();
        let track = self.tracks[route.0].insert(track);
        let known = self.rooms.route(route);
        if known.is_some_and(|known| !known.takers.is_empty()) {
            // They are told in steps. What comes before is kept, whatever they will ask for.
            let all =
                (0..track.published.encoding_count()).fold(EncodingSet::EMPTY, EncodingSet::with);
            track.published.set_demanded(all);
            track.attaching = true;
            if track.tell(News { attach: true, ..News::NONE }) {
                self.fanout.tell(route);
            }
        } else {
            // Nothing, until somebody asks.
            track.published.set_demanded(track.told.encodings);
        }
        self.add_voice(route);
    }

    /// The source of a route is gone; its takers wait for another, which they are attached to anew.
    pub(super) fn remove_track(&mut self, route: RouteKey) -> Option<Track> {
        let track = self.tracks.get_mut(route.0).and_then(Option::take)?;
        self.timers.remove(Sleeper::Route(route));
        self.remove_voice(route);
        self.fanout.forget(route);
        self.rooms.withdraw(route);
        Some(track)
    }

    fn unpublish(&mut self, route: RouteKey) {
        let Some(track) = self.remove_track(route) else { return };
        self.relays.forget_number(track.number);
        for remote in &track.remotes {
            if let Some(lane) = self.relays.lane(remote.shard) {
                lane.push_table(RelayMessage::Unpublish { route: track.number });
            }
        }
    }

    fn change_subscriptions(&mut self, key: PeerKey, spec: &PeerSpec) {
        let Some(peer) = self.peer_mut(key) else { return };
        let same_stream = |known: &SubscriptionSpec, wanted: &SubscriptionSpec| {
            let of = |spec: &SubscriptionSpec| (spec.mid, spec.ssrc, spec.rtx_ssrc, spec.fec_ssrc);
            of(known) == of(wanted)
        };
        let mut gone = Vec::new();
        for (slot, known) in peer.subscriptions.iter() {
            let wanted = spec.subscriptions.iter().find(|wanted| wanted.track == known.spec.track);
            if !wanted.is_some_and(|wanted| same_stream(&known.spec, wanted)) {
                gone.push(slot as u32);
            }
        }
        for slot in gone {
            self.unsubscribe(key, slot);
        }
        for wanted in &spec.subscriptions {
            self.subscribe(key, wanted);
        }
    }

    fn subscribe(&mut self, key: PeerKey, wanted: &SubscriptionSpec) {
        let Some(peer) = self.peer_mut(key) else { return };
        let known = peer.subscriptions.iter().find(|(_, known)| known.spec.track == wanted.track);
        let slot = match known.map(|(slot, _)| slot) {
            Some(slot) => {
                let Some(subscription) = peer.subscriptions.get_mut(slot) else { return };
                if subscription.spec == *wanted {
                    return;
                }
                subscription.change(wanted.clone());
                slot
            }
            None => {
                let slot = peer.subscriptions.vacant();
                let room = peer.identity.room;
                let taker = Taker { peer: key, subscription: slot as u32 };
                let route = self.rooms.take(room, &wanted.track, taker);
                let mut random = || SeqNo(self.random.random_range(1..1 << 15));
                let (media, rtx) = (random(), random());
                let fec = wanted.fec_ssrc.map_or(SeqNo(0), |_| random());
                let now = self.now;
                let track = self.tracks.get(route.0).and_then(Option::as_ref);
                let Some(peer) = self.peers.get_mut(key.index()) else { return };
                let first = FirstNumbers {
                    media: peer.number_after(wanted.ssrc).unwrap_or(media),
                    rtx: wanted.rtx_ssrc.and_then(|ssrc| peer.number_after(ssrc)).unwrap_or(rtx),
                    fec: wanted.fec_ssrc.and_then(|ssrc| peer.number_after(ssrc)).unwrap_or(fec),
                };
                let mut subscription =
                    Subscription::new(now, wanted.clone(), route, &peer.spec, first);
                if let Some(track) = track {
                    subscription.attach(&track.published, track.live);
                }
                peer.add_subscription(subscription);
                slot
            }
        };
        let Some(subscription) =
            self.peers.get(key.index()).and_then(|p| p.subscriptions.get(slot))
        else {
            return;
        };
        let route = subscription.route;
        if let Some(encoding) = subscription.wants_keyframe() {
            self.fanout.keyframes.push((route, encoding));
        }
        self.fanout.demands.push((route, Demand::of(subscription)));
        if subscription.bounds_frames()
            && let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut)
        {
            track.bounding = true;
        }
    }

    fn unsubscribe(&mut self, key: PeerKey, slot: u32) {
        let Some(peer) = self.peer_mut(key) else { return };
        let Some(subscription) = peer.remove_subscription(slot) else { return };
        let taker = Taker { peer: key, subscription: slot };
        if let Some(place) = self.rooms.release(subscription.route, taker) {
            self.fanout.taker_left(subscription.route, place);
        }
        self.fanout.demands.push((subscription.route, Demand::default()));
        self.follow_up();
    }

    fn change_transport(&mut self, key: PeerKey, spec: &PeerSpec) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        let restart = peer.ice_generation != spec.transport.ice_generation;
        if restart {
            let ice = self.new_credentials(key);
            let Some(peer) = self.peer_mut(key) else { return };
            peer.transport.restart_ice(&ice);
            peer.ice = ice;
            peer.ice_generation = spec.transport.ice_generation;
        }
        let Some(peer) = self.peer_mut(key) else { return };
        if restart || peer.spec.transport != spec.transport {
            peer.transport.set_remote(now, &spec.transport);
        }
    }

    /// New credentials, whose name belongs to `key` from now on.
    fn new_credentials(&mut self, key: PeerKey) -> IceCredentials {
        let meaning = Ufrag { node_generation: self.config.node_generation, shard: self.config.id };
        loop {
            let ufrag = meaning.generate(&mut self.random);
            if self.index.insert_ufrag(&ufrag, key) {
                let pwd = ufrag::generate_password(&mut self.random);
                return IceCredentials { ufrag, pwd };
            }
        }
    }
}
