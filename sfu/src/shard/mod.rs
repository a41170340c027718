//! The deterministic heart: from datagram to datagram, as a function of its inputs.
//!
//! A shard owns its peers, rooms and tracks, and nothing else does. It has no clock, no randomness of its own and no
//! socket.
//!
//! **Drain rule.** Feed any number of inputs (`handle_*`, all with one `now` that never goes back). Then call
//! [`Shard::poll_transmit`] until `None` and [`Shard::step`], again and again until that says `false`;
//! [`Shard::poll_relay`] per other shard until `None` or until the way there is full, and [`Shard::poll_event`] until
//! `None`; only then does [`Shard::poll_timeout`] say when to come back. All fan-out happens in steps, each a bounded
//! amount of work: a turn may be cut between any two calls and inputs be fed in between.

mod apply;
mod broadcast;
mod command;
mod config;
mod congestion;
mod data;
mod fanout;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod index;
mod lists;
mod media;
mod relay;
mod report;
mod rtcp;
mod speakers;
#[cfg(test)]
mod tests;
mod timer;
mod track;
mod ufrag;
mod wheel;

use std::{collections::VecDeque, time::Instant};

use rand::{SeedableRng, rngs::StdRng};
use slab::Slab;

pub use command::{ApplyError, Command, Event, LocalTransport, LostReason, Reply, SpeakerLevel};
pub use config::{DefaultLimits, ShardConfig};
pub use report::Gauges;
pub use timer::Timer;
pub use ufrag::Ufrag;

pub(crate) use crate::wire::{DatagramClass, classify};
pub use crate::{
    peer::{
        Counters, DataSpec, DirectionStats, DropReason, EgressCounters, EncodingSpec, Estimate,
        EstimateLimit, EstimateReport, Limits, PathReport, PathStats, PeerReport, PeerSpec,
        SubscriptionReport, SubscriptionSpec, TrackReport, TrackSpec, Transmit,
    },
    relay::RelayMessage,
    room::{PeerId, RoomId, ShardId},
    transport::{
        DtlsRole, Fingerprint, FiveTuple, IceCredentials, Protocol, SctpParams, TransportContext,
        TransportParams,
    },
};

use self::{
    broadcast::Broadcasts,
    fanout::Fanout,
    index::Index,
    lists::Lists,
    relay::Relays,
    timer::{Sleeper, TimerQueue},
    track::Track,
};
use crate::{
    cache::LadderStep,
    peer::{Lane, Outbox, Peer, Sharing},
    relay::DataMessage,
    room::{PeerKey, Rooms, RouteKey},
    rtp::DataSize,
    transport::{FailReason, TransportEvent},
    wire::{AbsSendTime, rtcp::ReportBlock},
};

/// How much of a shard's rooms lies elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    /// Rooms with members here.
    pub rooms: usize,
    /// Of these, rooms with members on other shards too.
    pub shared: usize,
    /// Tracks of other shards.
    pub relayed_tracks: usize,
}

/// One single-threaded owner of peers. See the module for how to drive it.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    context: TransportContext,
    random: StdRng,
    /// Of the current slice.
    now: Instant,
    /// The same, for packets that tell it.
    send_time: AbsSendTime,
    /// Boxed: who is next can be asked for without a look at it, and a new one moves nobody.
    peers: Slab<Box<Peer>>,
    next_serial: u32,
    rooms: Rooms,
    index: Index,
    /// By route.
    tracks: Vec<Option<Track>>,
    fanout: Fanout,
    broadcasts: Broadcasts,
    timers: TimerQueue,
    outbox: Outbox,
    /// Peers whose transports have something to take: data was sent to them.
    touched: VecDeque<PeerKey>,
    /// For datagrams that a transport builds.
    scratch: Vec<u8>,
    events: VecDeque<Event>,
    told_speakers: Lists<SpeakerLevel>,
    told_publishers: Lists<PeerId>,
    told_ladders: Lists<LadderStep>,
    relays: Relays,
    /// Buffers for packets to other shards.
    spare: Vec<Vec<u8>>,
    /// For reports.
    blocks: Vec<ReportBlock>,
    /// For sharing out estimates.
    sharing: Sharing,
    counters: Counters,
    gauges: Gauges,
}

impl Shard {
    /// A shard without peers. `seed` is secret and never used twice: passwords are drawn from it.
    pub fn new(config: ShardConfig, context: TransportContext, seed: [u8; 32]) -> Self {
        Self {
            now: config.epoch,
            send_time: AbsSendTime::from_bits(0),
            relays: Relays::new(config.id, config.shards),
            timers: TimerQueue::new(config.epoch),
            config,
            context,
            random: StdRng::from_seed(seed),
            peers: Slab::new(),
            next_serial: 0,
            rooms: Rooms::default(),
            index: Index::default(),
            tracks: Vec::new(),
            fanout: Fanout::default(),
            broadcasts: Broadcasts::default(),
            outbox: Outbox::default(),
            touched: VecDeque::new(),
            scratch: Vec::new(),
            events: VecDeque::new(),
            told_speakers: Lists::default(),
            told_publishers: Lists::default(),
            told_ladders: Lists::default(),
            spare: Vec::new(),
            blocks: Vec::new(),
            sharing: Sharing::default(),
            counters: Counters::default(),
            gauges: Gauges::default(),
        }
    }

    /// One datagram, or one RFC 4571 packet of a TCP connection. It is decrypted in place.
    pub fn handle_datagram(&mut self, now: Instant, path: FiveTuple, datagram: &mut [u8]) {
        self.begin(now);
        self.counters.datagram(DataSize::from_bytes(datagram.len() as u64));
        if let Err(reason) = self.route(path, datagram) {
            self.counters.drop(reason);
        }
    }

    /// One command; it is true when this returns.
    pub fn handle_command(&mut self, now: Instant, command: Command) -> Reply {
        self.begin(now);
        match command {
            Command::ApplyPeer { room, peer, spec } => {
                Reply::Applied(self.apply_peer(room, peer, *spec))
            }
            Command::RemovePeer { room, peer } => {
                let room = self.rooms.find(&room);
                if let Some(key) = room.and_then(|room| self.rooms.peer(room, &peer)) {
                    self.remove_peer(key);
                }
                Reply::Done
            }
            Command::RemoveRoom { room } => {
                let members = self.rooms.find(&room).map(|room| self.rooms.members(room).to_vec());
                for key in members.into_iter().flatten() {
                    self.remove_peer(key);
                }
                Reply::Done
            }
            Command::ReportPeer { room, peer } => {
                Reply::Report(self.report(&room, &peer).map(Box::new))
            }
            Command::SendData { room, packet, reliable, destinations } => {
                self.broadcast(DataMessage { room, from: None, reliable, destinations, packet });
                Reply::Done
            }
        }
    }

    /// One message of another shard.
    pub fn handle_relay(&mut self, now: Instant, from: ShardId, message: RelayMessage) {
        self.begin(now);
        self.take_relay(from, message);
    }

    /// Timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.begin(now);
        while let Some((sleeper, timer)) = self.timers.expired(now) {
            match sleeper {
                Sleeper::Peer(peer) => self.wake_peer(peer, timer),
                Sleeper::Route(route) => self.wake_track(route, timer),
                Sleeper::Room(room) => self.wake_room(room),
            }
        }
    }

    /// Does a bounded part of what waits to be fanned out: some readers of data, some peers' transports, some subscribers
    /// of media. `false` when there was nothing.
    pub fn step(&mut self) -> bool {
        let handed = self.step_broadcasts();
        let settled = self.settle_touched();
        let walked = self.step_fanout();
        handed || settled || walked
    }

    /// The next datagrams to send. See the drain rule.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        self.outbox.pop()
    }

    /// The next message for another shard. Ask only while it can be taken there: what waits here is bounded, what was
    /// given out is the caller's.
    #[must_use]
    pub fn poll_relay(&mut self, to: ShardId) -> Option<RelayMessage> {
        self.relays.pop(to)
    }

    /// The next thing that happened.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest. See the drain rule.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sent = self.outbox.is_empty() && self.touched.is_empty() && self.events.is_empty();
        let fanned_out = self.fanout.is_idle() && self.broadcasts.is_idle();
        debug_assert!(sent && fanned_out, "drain rule");
        self.timers.next()
    }

    /// What happened so far, counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Wake-ups so far, by timer.
    pub fn wakeups(&self) -> impl Iterator<Item = (Timer, u64)> {
        Timer::ALL.into_iter().zip(self.timers.wakeups())
    }

    /// Whether a peer has this five-tuple: it passed a check and was not given up since.
    pub fn knows(&self, path: &FiveTuple) -> bool {
        self.index.by_path(path).is_some()
    }

    /// Peers that live here.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// How the rooms lie on the shards.
    pub fn spread(&self) -> Spread {
        Spread {
            rooms: self.rooms.len(),
            shared: self.relays.shared_rooms(),
            relayed_tracks: self.relays.relayed_tracks(),
        }
    }

    /// Whether no peer, room, track or deadline is left, of this shard's or of others'.
    pub fn is_idle(&self) -> bool {
        self.peers.is_empty()
            && self.rooms.is_empty()
            && self.index.is_empty()
            && self.tracks.iter().all(Option::is_none)
            && self.relays.is_idle()
    }

    fn begin(&mut self, now: Instant) {
        debug_assert!(now >= self.now, "time goes back");
        if self.now != now {
            self.now = now;
            let since = now.saturating_duration_since(self.config.epoch);
            self.send_time = AbsSendTime::from_duration(since);
        }
        self.timers.begin(now);
    }

    /// For a walk past all peers and tracks, and for what all peers tell in one turn: joins wait for memory, media does not.
    fn make_room(&mut self) {
        let (peers, tracks) = (self.peers.len(), self.tracks.len());
        self.fanout.make_room(peers, tracks);
        self.events.reserve(peers);
    }

    fn peer_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        find_peer(&mut self.peers, key)
    }

    fn route(&mut self, path: FiveTuple, datagram: &mut [u8]) -> Result<(), DropReason> {
        let class = classify(datagram);
        let key = match class {
            DatagramClass::Unknown => return Err(DropReason::UnknownProtocol),
            DatagramClass::Stun => ufrag::local_ufrag(datagram)
                .and_then(|ufrag| self.index.by_ufrag(ufrag))
                .ok_or(DropReason::UnknownUfrag)?,
            _ => self.index.by_path(&path).ok_or(DropReason::UnknownPath)?,
        };
        let now = self.now;
        let peer = self.peer_mut(key).ok_or(DropReason::UnknownPath)?;
        match class {
            DatagramClass::Stun => {
                // Before anything is computed. A known five-tuple may be forged too, by who could cut the path as well.
                let known = peer.transport.accepts(&path);
                let budget = if known { &mut peer.checks } else { &mut peer.strange_checks };
                if !budget.take(now) {
                    return Err(DropReason::StunRate);
                }
                // A refused one has changed nothing.
                peer.transport.handle_stun(now, path, datagram)?;
                peer.path.heard_at = now;
                self.settle(key);
            }
            DatagramClass::Dtls => {
                let outcome = peer.transport.handle_dtls(now, path, datagram);
                self.settle(key);
                outcome?;
            }
            DatagramClass::Rtp => self.handle_rtp(key, datagram)?,
            DatagramClass::Rtcp => self.handle_rtcp(key, datagram)?,
            DatagramClass::Unknown => {}
        }
        Ok(())
    }

    /// Takes what a transport has after it was touched: datagrams, events, its deadline.
    fn settle(&mut self, key: PeerKey) {
        loop {
            let Some(peer) = find_peer(&mut self.peers, key) else { return };
            while let Some(path) = peer.transport.poll_transmit(&mut self.scratch) {
                self.outbox.push(path, &self.scratch);
            }
            let Some(event) = peer.transport.poll_event() else { break };
            self.handle_transport_event(key, event);
        }
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        let deadline = peer.transport.poll_timeout();
        let stall = peer.data.observe(now, &mut peer.transport);
        self.timers.set(Sleeper::Peer(key), Timer::Transport, deadline);
        self.timers.set(Sleeper::Peer(key), Timer::DataStall, stall);
    }

    fn handle_transport_event(&mut self, key: PeerKey, event: TransportEvent) {
        match event {
            TransportEvent::PathAdded(path) => self.index.insert_path(path, key),
            TransportEvent::PathRemoved(path) => self.index.remove_path(&path, key),
            TransportEvent::PathSelected(_) => {}
            TransportEvent::UfragRetired(ufrag) => self.index.remove_ufrag(&ufrag),
            TransportEvent::Connected { .. } => self.peer_connected(key),
            TransportEvent::ChannelOpen { channel, label, .. } => {
                self.channel_open(key, channel, &label);
            }
            TransportEvent::ChannelClosed(channel) => {
                if let Some(peer) = self.peer_mut(key) {
                    peer.data.closed(channel);
                }
            }
            TransportEvent::Message { channel, bytes, .. } => {
                if let Err(reason) = self.handle_data(key, channel, &bytes) {
                    self.counters.drop(reason);
                }
            }
            TransportEvent::DataLost => {
                if let Some(peer) = self.peer_mut(key) {
                    peer.data.lost();
                }
            }
            TransportEvent::Failed(FailReason::ConsentLost) => {
                self.lose_peer(key, LostReason::IceTimeout);
            }
            TransportEvent::Failed(_) => self.lose_peer(key, LostReason::DtlsFailed),
            TransportEvent::Closed => self.lose_peer(key, LostReason::Closed),
        }
    }

    /// Settles peers that data was sent to, as many as fit a step. False when there were none.
    fn settle_touched(&mut self) -> bool {
        let mut any = false;
        while self.outbox.pending() < fanout::STEP
            && let Some(key) = self.touched.pop_front()
        {
            any = true;
            if let Some(peer) = self.peer_mut(key) {
                peer.touched = false;
                self.settle(key);
            }
        }
        any
    }

    /// Has a peer settled before the turn ends.
    fn touch(&mut self, key: PeerKey) {
        let Some(peer) = self.peer_mut(key) else { return };
        if !std::mem::replace(&mut peer.touched, true) {
            self.touched.push_back(key);
        }
    }

    fn peer_connected(&mut self, key: PeerKey) {
        let Some(peer) = self.peer_mut(key) else { return };
        peer.connected = true;
        let identity = &peer.identity;
        let event =
            Event::PeerConnected { room: identity.room_id.clone(), peer: identity.id.clone() };
        self.events.push_back(event);
        self.open_channels(key);
    }

    fn lose_peer(&mut self, key: PeerKey, reason: LostReason) {
        let Some(peer) = self.peer_mut(key) else { return };
        let identity = peer.identity.clone();
        self.forget_peer(key);
        self.events.push_back(Event::PeerLost {
            room: identity.room_id,
            peer: identity.id,
            reason,
        });
    }

    fn wake_peer(&mut self, key: PeerKey, timer: Timer) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        match timer {
            Timer::Transport => {
                peer.transport.handle_timeout(now);
                self.settle(key);
            }
            Timer::DataStall => self.check_stall(key),
            Timer::Reports => self.wake_reports(key),
            Timer::TwccFeedback => self.send_twcc(key),
            Timer::Estimator => self.wake_estimator(key),
            Timer::PacerRelease => self.wake_pacer(key),
            Timer::Allocation => self.allocate(key),
            Timer::Parked => {
                let dropped = peer.binder.handle_timeout(now);
                let deadline = peer.binder.poll_timeout();
                self.timers.set(Sleeper::Peer(key), Timer::Parked, deadline);
                for _ in 0..dropped {
                    self.counters.drop(DropReason::UnboundSsrc);
                }
            }
            Timer::TrackFeedback | Timer::Layers | Timer::Speakers => {}
        }
    }

    fn wake_track(&mut self, route: RouteKey, timer: Timer) {
        match timer {
            Timer::TrackFeedback => self.settle_track(route),
            Timer::Layers => self.watch_layers(route),
            _ => {}
        }
    }
}

/// The peer with this key, for where other parts of the shard are borrowed as well.
fn find_peer(peers: &mut Slab<Box<Peer>>, key: PeerKey) -> Option<&mut Peer> {
    peers.get_mut(key.index()).map(|peer| &mut **peer).filter(|peer| peer.key == key)
}
