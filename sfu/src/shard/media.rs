//! Media and feedback of a peer, from the datagram to the cache.

use std::sync::Arc;

use super::{
    DropReason, Event, Shard, find_peer,
    timer::{Sleeper, Timer},
    track::News,
};
use crate::{
    ingress::{Accepted, Binding, Role, Unbound},
    room::{PeerKey, RouteKey},
    rtp::{DataSize, MediaKind, Ssrc},
    wire::RtpPacket,
};

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// It is in its track's cache.
    Track,
    /// No track claims this SSRC yet.
    Nowhere(Ssrc),
}

/// How a packet came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    /// Just now, from the wire.
    Fresh,
    /// From the wire, before its track was known.
    Parked,
    /// From repair packets.
    Recovered,
}

impl Shard {
    /// An SRTP packet on a five-tuple of `key`.
    pub(super) fn handle_rtp(
        &mut self,
        key: PeerKey,
        datagram: &mut [u8],
    ) -> Result<(), DropReason> {
        let now = self.now;
        let peer = self.peer_mut(key).ok_or(DropReason::Closed)?;
        let len = peer.transport.unprotect_rtp(datagram)?;
        peer.path.heard_at = now;
        if !peer.ingress.take(now, DataSize::from_bytes(datagram.len() as u64)) {
            return Err(DropReason::OverIngressBitrate);
        }
        let packet = datagram.get(..len).ok_or(DropReason::Malformed)?;
        let outcome = self.ingest(key, packet, Origin::Fresh);
        if let Ok(Place::Nowhere(ssrc)) = outcome {
            self.park(key, ssrc, packet);
        }
        self.replay_parked(key);
        self.take_recovered(key);
        outcome.map(|_| ())
    }

    /// Takes packets that a publisher's repair packets brought back, as if they had come.
    fn take_recovered(&mut self, key: PeerKey) {
        while let Some(bytes) = self.peer_mut(key).and_then(|peer| peer.fec.poll_recovered()) {
            match self.ingest(key, &bytes, Origin::Recovered) {
                Ok(_) => self.counters.fec_recovered += 1,
                Err(reason) => self.counters.drop(reason),
            }
            if let Some(peer) = self.peer_mut(key) {
                peer.fec.reuse(bytes);
            }
        }
    }

    /// Keeps a packet that came before its track was signalled.
    fn park(&mut self, key: PeerKey, ssrc: Ssrc, packet: &[u8]) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        peer.binder.park(now, ssrc, packet);
        let deadline = peer.binder.poll_timeout();
        self.timers.set(Sleeper::Peer(key), Timer::Parked, deadline);
    }

    /// Takes packets whose SSRC has become known.
    pub(super) fn replay_parked(&mut self, key: PeerKey) {
        loop {
            let Some(peer) = self.peer_mut(key) else { return };
            let Some(parked) = peer.binder.poll_replay() else { break };
            match self.ingest(key, &parked.bytes, Origin::Parked) {
                Ok(Place::Track) => {}
                Ok(Place::Nowhere(_)) => {
                    if let Some(peer) = self.peer_mut(key) {
                        peer.binder.park_again(parked);
                    }
                }
                Err(reason) => self.counters.drop(reason),
            }
        }
    }

    /// A decrypted packet: to its track's cache and into the next walk.
    fn ingest(&mut self, key: PeerKey, bytes: &[u8], origin: Origin) -> Result<Place, DropReason> {
        let now = self.now;
        let Self { peers, tracks, fanout, counters, timers, .. } = self;
        let peer = find_peer(peers, key).ok_or(DropReason::Closed)?;
        let packet = RtpPacket::parse(bytes).map_err(|_| DropReason::Malformed)?;
        let values = packet.extension_values(&peer.spec.receive_extensions);
        let header = packet.header;
        if origin == Origin::Fresh
            && let Some(number) = values.transport_cc
        {
            peer.twcc.record(now, header.ssrc, number);
            timers.set(Sleeper::Peer(key), Timer::TwccFeedback, peer.twcc.poll_timeout());
        }
        // Repair packets too: to the sender's estimator, one that is left out is lost.
        if origin == Origin::Fresh && peer.spec.ccfb && values.transport_cc.is_none() {
            peer.ccfb.record(now, header.ssrc, header.seq);
            timers.set(Sleeper::Peer(key), Timer::TwccFeedback, peer.ccfb.poll_timeout());
        }
        if peer.spec.fec == Some(header.pt) {
            peer.fec.handle_repair(packet.payload);
            counters.fec_in += 1;
            return Ok(Place::Track);
        }
        let codecs = &peer.spec.codecs;
        let binding = match peer.binder.resolve(header.ssrc, header.pt, &values, codecs) {
            Ok(binding) => binding,
            Err(Unbound::Drop(reason)) => return Err(reason.into()),
            Err(Unbound::Park) => return Ok(Place::Nowhere(header.ssrc)),
        };
        let route = peer.route_of(binding.slot).ok_or(DropReason::UnboundSsrc)?;
        let track =
            tracks.get_mut(route.0).and_then(Option::as_mut).ok_or(DropReason::UnboundSsrc)?;
        let Binding { encoding, role, .. } = binding;
        // Repair packets protect video only: audio would push it out of what the decoder keeps.
        let video = track.published.kind() == MediaKind::Video;
        if peer.spec.fec.is_some() && role == Role::Media && video {
            peer.fec.handle_media(bytes, &packet, &peer.spec.receive_extensions);
        }
        let published = &mut track.published;
        let accepted = match role {
            Role::Media if origin == Origin::Recovered => {
                published.handle_recovered(now, encoding, &packet, &values, codecs)?
            }
            Role::Media => published.handle_rtp(now, encoding, &packet, &values, codecs)?,
            Role::Rtx => published.handle_rtx(now, encoding, &packet, &values, codecs)?,
        };
        counters.media_in += 1;
        if track.arrived(accepted.encoding, accepted.seq) {
            fanout.mark(route);
        }
        if accepted.started {
            self.encoding_started(route, accepted);
        }
        Ok(Place::Track)
    }

    /// The first packet of an encoding, or of a new stream in it.
    fn encoding_started(&mut self, route: RouteKey, accepted: Accepted) {
        self.refresh_live(route);
        if let Some(event) = self.started_event(route, accepted) {
            self.events.push_back(event);
        }
    }

    fn started_event(&self, route: RouteKey, accepted: Accepted) -> Option<Event> {
        let track = self.tracks.get(route.0)?.as_ref()?;
        let identity = &self.peers.get(track.publisher()?.index())?.identity;
        Some(Event::TrackStarted {
            room: identity.room_id.clone(),
            peer: identity.id.clone(),
            track: self.rooms.route(route)?.track.clone(),
            encoding: accepted.encoding,
            codec: track.published.formats().get(accepted.format)?.kind,
            ssrc: track.published.ssrc(accepted.encoding)?,
        })
    }

    /// Tells subscribers and other shards which encodings have packets, where that changed.
    fn refresh_live(&mut self, route: RouteKey) {
        let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        if track.publisher().is_none() {
            return;
        }
        let live = track.published.live();
        // Audio has one encoding that lives, or the whole track is silent: nothing to choose, nothing to share out.
        let video = track.published.kind() == MediaKind::Video;
        if video && !std::mem::replace(&mut track.watched, true) {
            let at = self.now + LIVE_INTERVAL;
            self.timers.set(Sleeper::Route(route), Timer::Layers, Some(at));
        }
        self.set_live(route, live);
    }

    /// Looks at a video's layers, by the clock: which have packets, and what they cost.
    pub(super) fn watch_layers(&mut self, route: RouteKey) {
        let at = self.now + LIVE_INTERVAL;
        self.timers.set(Sleeper::Route(route), Timer::Layers, Some(at));
        self.measure_layers(route);
        self.relay_ladder(route);
        self.refresh_live(route);
    }

    /// Measures a track's layers for whoever asks; takers that bound how often its picture changes follow, in steps.
    pub(super) fn measure_layers(&mut self, route: RouteKey) {
        let Some(track) = self.tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        track.measure(self.now);
        if track.bounding && track.tell(News { frames: true, ..News::NONE }) {
            self.fanout.tell(route);
        }
    }

    /// Tells the other shards what the choices of a track cost: not all of them cross.
    fn relay_ladder(&mut self, route: RouteKey) {
        let Self { tracks, relays, told_ladders, .. } = self;
        let Some(track) = tracks.get(route.0).and_then(Option::as_ref) else { return };
        if track.remotes.is_empty() {
            return;
        }
        let ladder = told_ladders.list(track.ladder.iter().copied());
        for remote in &track.remotes {
            let Some(lane) = relays.lane(remote.shard) else { continue };
            let steps = Arc::clone(&ladder);
            // One lost is made good by the next.
            let _ = lane.push_media(super::RelayMessage::Ladder { route: track.number, steps });
        }
    }

    /// Passes on which encodings have packets; takers here are told in steps, before the walk that hands the packets out.
    pub(super) fn set_live(&mut self, route: RouteKey, live: crate::cache::EncodingSet) {
        let Self { tracks, relays, fanout, .. } = self;
        let Some(track) = tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        if track.live == live {
            return;
        }
        track.live = live;
        for remote in &track.remotes {
            if let Some(lane) = relays.lane(remote.shard) {
                let route = track.number;
                lane.push_table(super::RelayMessage::Live { route, encodings: live });
            }
        }
        if track.tell(News { live: true, ..News::NONE }) {
            fanout.tell(route);
        }
    }
}

/// How often layers are looked at. Finer follows a publisher that stops a layer sooner.
const LIVE_INTERVAL: std::time::Duration = std::time::Duration::from_millis(500);
