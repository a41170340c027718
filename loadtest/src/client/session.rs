//! A client from its join on: what happens is handled, then what is due is sent, in turns.

use std::{
    future::pending,
    rc::Rc,
    time::{Duration, Instant},
};

use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use str0m::Event;
use tokio::sync::mpsc;

use super::{
    Command, Context, Report,
    data::Data,
    incoming::Incoming,
    kept::Kept,
    line::{self, Heard, Line},
    peer::Peer,
    publish::Publisher,
    signalling,
    view::View,
    ws::{ConnectError, Ws},
};
use crate::scenario::{ClientPlan, Reconnect};

/// Between two looks at what is missing.
const LOOK: Duration = Duration::from_millis(200);
/// Looks between two countings.
const LOOKS_PER_FLUSH: u32 = 5;
/// Reads of one socket in a turn at most.
const MAX_READS: usize = 16;

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// As told.
    Left,
    /// It never was in.
    Failed(ConnectError),
    /// It begins anew; its connection was lost at this time.
    Rejoin(Instant),
    /// Against its will.
    Lost(String),
}

pub(crate) struct Session {
    pub(super) context: Rc<Context>,
    pub(super) plan: ClientPlan,
    since: Instant,
    /// Since when it is on its way back.
    pub(super) back_since: Option<Instant>,
    line: Line,
    /// The PeerConnection that sends; with one PeerConnection, the only one.
    pub(super) uplink: Peer,
    /// Boxed: with one PeerConnection it is not there, and it is large.
    pub(super) downlink: Option<Box<Peer>>,
    pub(super) publisher: Publisher,
    pub(super) view: View,
    pub(super) incoming: Incoming,
    data: Data,
    pub(super) outbox: Vec<Request>,
    /// Own participant id.
    pub(super) sid: String,
    pub(super) ping_interval: Duration,
    /// Last description of each side, for a resume.
    pub(super) last_offer: Kept,
    pub(super) last_answer: Kept,
    pub(super) end: Option<End>,
    joined: bool,
    next_look: Instant,
    looks: u32,
    next_ping: Instant,
}

impl Session {
    /// Dials, and waits for the first message.
    pub(crate) async fn join(context: Rc<Context>, plan: ClientPlan) -> Result<Self, ConnectError> {
        let since = Instant::now();
        let mut publisher = Publisher::new(plan.number, &context.scenario);
        if !plan.publishes() {
            publisher.tracks.clear();
        }
        let local = context.target.local;
        let seed = u64::from(context.run) << 32 | u64::from(plan.number);
        let peer = |seed| {
            Peer::new(local, plan.impairment, seed, context.scenario.bandwidth_feedback)
                .map_err(|error| ConnectError::Unreachable(format!("no socket: {error}")))
        };
        let mut uplink = peer(seed)?;
        let single = context.scenario.peer_connections == 1;
        let receive = if single && plan.subscribes { (3, 3) } else { (0, 0) };
        let offer = uplink.first_offer(&publisher.new_tracks(), receive);
        let (id, sdp, mids) =
            offer.ok_or_else(|| ConnectError::Protocol("no offer to make".to_owned()))?;
        publisher.take_mids(&mids);
        let offer = signalling::description("offer", id, sdp);
        let path =
            signalling::join_path(&context, &plan, &publisher, single.then(|| offer.clone()))?;
        let mut ws = Ws::connect(&context.target, &path).await?;
        let first = ws.next().await;
        let Some(proto::signal_response::Message::Join(join)) = first else {
            return Err(ConnectError::Protocol("no JoinResponse".to_owned()));
        };
        let now = Instant::now();
        let mut session = Self {
            since,
            back_since: None,
            line: Line::Open(ws),
            uplink,
            downlink: if single || !plan.subscribes { None } else { Some(Box::new(peer(!seed)?)) },
            publisher,
            view: View::new(plan.place, context.scenario.publishers, &context.scenario),
            incoming: Incoming::new(Rc::clone(&context), since),
            data: Data::new(Rc::clone(&context), &plan),
            outbox: Vec::new(),
            sid: String::new(),
            ping_interval: Duration::from_secs(5),
            last_offer: Kept::Fresh(offer.clone()),
            last_answer: Kept::default(),
            end: None,
            joined: false,
            next_look: now,
            looks: 0,
            next_ping: now,
            context,
            plan,
        };
        session.handle_join(join);
        if !single {
            session.outbox.extend(session.publisher.requests().into_iter().map(Request::AddTrack));
            session.outbox.push(Request::Offer(offer));
        }
        Ok(session)
    }

    /// This is not its first session.
    pub(crate) fn came_back_since(&mut self, since: Option<Instant>) {
        self.back_since = since;
    }

    /// Runs to its end.
    pub(crate) async fn run(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> End {
        loop {
            self.advance(Instant::now());
            self.say().await;
            if let Some(end) = self.end.take() {
                self.finish(&end).await;
                return end;
            }
            let wake = tokio::time::Instant::from_std(self.timeout());
            tokio::select! {
                () = self.uplink.readable() => self.receive(false),
                () = readable(self.downlink.as_deref()) => self.receive(true),
                heard = self.line.next() => self.handle_line(heard),
                command = commands.recv() => self.handle_command(command.unwrap_or(Command::Leave)),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn receive(&mut self, downlink: bool) {
        let Self { uplink, downlink: down, incoming, .. } = self;
        let peer = if downlink { down.as_deref_mut() } else { Some(uplink) };
        let Some(peer) = peer else { return };
        let now = Instant::now();
        for _ in 0..MAX_READS {
            if !peer.receive(now, |rtc, happened| incoming.handle(rtc, happened, now)) {
                break;
            }
        }
        self.handle_events(downlink);
    }

    fn handle_events(&mut self, downlink: bool) {
        for event in std::mem::take(&mut self.incoming.events) {
            match event {
                Event::KeyframeRequest(request) => {
                    if let Some(stats) = self.context.recorder.borrow_mut().window() {
                        stats.count.keyframe_requests_received += 1;
                    }
                    self.publisher.handle_keyframe_request(request.mid, request.rid);
                }
                Event::ChannelOpen(id, label) if !downlink => self.data.opened(id, label),
                Event::ChannelData(data) => {
                    let now = Instant::now();
                    if self.data.handle(&mut self.uplink.rtc, &data.data, self.incoming.at) {
                        self.uplink.poke(now);
                    }
                }
                Event::IceConnectionStateChange(str0m::IceConnectionState::Disconnected) => {
                    if let Some(stats) = self.context.recorder.borrow_mut().window() {
                        stats.count.ice_disconnects += 1;
                    }
                }
                _ => {}
            }
        }
    }

    /// Does what is due.
    fn advance(&mut self, now: Instant) {
        let Self { publisher, uplink, incoming, context, .. } = self;
        if uplink.connected && publisher.produce(uplink, now, incoming, context) {
            uplink.poke(now);
        }
        if self.data.produce(&mut self.uplink.rtc, now) {
            self.uplink.poke(now);
        }
        for downlink in [false, true] {
            let Self { uplink, downlink: down, incoming, .. } = self;
            let peer = if downlink { down.as_deref_mut() } else { Some(uplink) };
            if let Some(peer) = peer.filter(|peer| peer.timeout() <= now) {
                peer.handle_timeout(now, |rtc, happened| incoming.handle(rtc, happened, now));
                self.handle_events(downlink);
            }
        }
        if let Some((id, sdp)) = self.uplink.poll_offer() {
            let offer = signalling::description("offer", id, sdp);
            self.last_offer = Kept::Fresh(offer.clone());
            self.outbox.push(Request::Offer(offer));
        }
        if now >= self.next_look {
            self.next_look = now + LOOK;
            self.look(now);
        }
        if now >= self.next_ping && !self.ping_interval.is_zero() {
            self.next_ping = now + self.ping_interval;
            self.ping();
        }
        self.wish();
    }

    /// Whether it is in by now; what is missing; what can be counted.
    fn look(&mut self, now: Instant) {
        let up = self.uplink.connected;
        let connected = match &self.downlink {
            // The one that receives is opened first; the other one only to send.
            Some(down) => down.connected && (up || !self.plan.publishes()),
            None => up,
        };
        if connected && !self.joined {
            self.joined = true;
            self.announce(now);
        }
        let timeout = self.context.scenario.join_timeout.0;
        if !self.joined && now.saturating_duration_since(self.since) > timeout {
            let error = ConnectError::Timeout("waiting for the media path".into());
            self.end = Some(End::Failed(error));
        }
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_PER_FLUSH) {
            self.incoming.flush(now, false);
            self.last_offer.pack();
            self.last_answer.pack();
            let mut impaired = self.uplink.take_impaired();
            impaired += self.downlink.as_deref_mut().map_or(0, Peer::take_impaired);
            if let Some(stats) = self.context.recorder.borrow_mut().window() {
                stats.count.datagrams_impaired += impaired;
            }
        }
    }

    fn announce(&mut self, now: Instant) {
        let stats = &mut self.context.recorder.borrow_mut().stats;
        match self.back_since.take() {
            Some(since) => stats.reconnect.record(now.saturating_duration_since(since)),
            None => {
                stats.join.record(now.saturating_duration_since(self.since));
                let _ = self.context.reports.send(Report::Joined(self.plan.number));
            }
        }
    }

    fn timeout(&self) -> Instant {
        let mut at = self.next_look.min(self.uplink.timeout());
        if let Some(downlink) = &self.downlink {
            at = at.min(downlink.timeout());
        }
        if self.uplink.connected {
            for due in [self.publisher.timeout(), self.data.timeout()].into_iter().flatten() {
                at = at.min(due);
            }
        }
        at
    }

    fn handle_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Leave => self.end = Some(End::Left),
            Command::Flush => self.incoming.flush(now, true),
            Command::Pause(paused) => self.publisher.paused = paused,
            Command::Reconnect if self.context.scenario.reconnect == Reconnect::Full => {
                self.end = Some(End::Rejoin(now));
            }
            Command::Reconnect => self.resume(now, 0),
            Command::Spotlight(turn) => {
                self.view.turn(turn);
                if let Some((_, Some(publisher))) = self.view.spotlit() {
                    self.incoming.awaited = Some((publisher, now));
                }
            }
        }
    }

    fn handle_line(&mut self, heard: Heard) {
        let now = Instant::now();
        match heard {
            Heard::Message(message) => self.handle_signal(message, now),
            Heard::Gone if !self.joined => {
                let error = ConnectError::Protocol("signalling closed during the join".to_owned());
                self.end = Some(End::Failed(error));
            }
            Heard::Gone => self.resume(now, 0),
            Heard::Opened(ws) => self.line = Line::Open(ws),
            Heard::Refused(error) => match &self.line {
                Line::Opening { attempt, .. } if attempt + 1 < line::ATTEMPTS => {
                    let next = attempt + 1;
                    self.resume(now, next);
                }
                _ => {
                    let reason = format!("connection lost: {}", error.category());
                    self.end = Some(End::Lost(reason));
                }
            },
        }
    }

    /// Opens the signalling connection again for the same participant.
    pub(super) fn resume(&mut self, now: Instant, attempt: usize) {
        self.back_since.get_or_insert(now);
        let path = signalling::resume_path(&self.context, &self.plan, &self.sid);
        self.line = Line::open(self.context.target.clone(), path, attempt);
    }

    /// Sends what waits; without a connection it is kept.
    async fn say(&mut self) {
        let Line::Open(ws) = &mut self.line else { return };
        // Its memory goes with it: there is seldom anything to say.
        for message in std::mem::take(&mut self.outbox) {
            ws.send(message).await;
        }
    }

    async fn finish(&mut self, end: &End) {
        self.incoming.flush(Instant::now(), false);
        if matches!(end, End::Left) {
            self.outbox.clear();
            self.outbox.push(signalling::leave());
            self.say().await;
        }
        // A connection that is lost is not closed in order.
        if let (Line::Open(ws), End::Left) = (std::mem::replace(&mut self.line, Line::Gone), end) {
            ws.close().await;
        }
    }
}

async fn readable(peer: Option<&Peer>) {
    match peer {
        Some(peer) => peer.readable().await,
        None => pending().await,
    }
}
