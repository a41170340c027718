//! The task around one session: executes its effects and brings it what happens. No rules live here.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use livekit_protocol::{self as proto, signal_response::Message};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

use super::{
    LiveSession, SignalState,
    session::{Effect, Reply, RoomCommand, Session},
    ws::{Connection, Incoming, Outgoing},
};
use crate::{
    auth::Grants,
    room::{ParticipantSid, Resumed, RoomEvent, RoomHandle},
};

/// Resumes that wait for a session, at most.
const INBOX: usize = 4;

/// Commands that wait for the room, at most: beyond, the client is not read.
const MAX_COMMANDS: usize = 64;

/// A session that the room dropped as too slow waits this long for its client to resume: longer than the room does.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(70);

/// The room's events go on while a WebSocket is away, for as long as the client may resume. Their end means that the
/// participant is gone, or that a resume is on its way here: it comes within this time.
const DETACHED_ORPHAN_TIMEOUT: Duration = Duration::from_secs(2);

/// A new WebSocket for a session.
#[derive(Debug)]
pub(super) struct Attach {
    pub(super) connection: Connection,
    /// Speaks for the session from now on: what an older handle says of lost signalling is not heard any more.
    pub(super) room: RoomHandle,
    pub(super) resumed: Resumed,
    pub(super) events: mpsc::Receiver<Box<RoomEvent>>,
    pub(super) grants: Grants,
    /// What came along in the request itself.
    pub(super) requests: Vec<proto::SignalRequest>,
}

type Running = Pin<Box<dyn Future<Output = Option<Reply>> + Send>>;

/// One session and its surroundings.
pub(super) struct Driver {
    state: SignalState,
    session: Session,
    sid: ParticipantSid,
    room: RoomHandle,
    grants: Grants,
    connection: Option<Connection>,
    events: Option<mpsc::Receiver<Box<RoomEvent>>>,
    /// Boxed: a queue has room for 32 from the start.
    inbox: mpsc::Receiver<Box<Attach>>,
    /// Executed in order, one at a time.
    commands: VecDeque<RoomCommand>,
    running: Option<Running>,
    orphan_until: Option<Instant>,
    ended: bool,
    /// For who counts sessions.
    connected: Arc<AtomicBool>,
}

/// What a driver is made of.
pub(super) struct Parts {
    pub(super) session: Session,
    pub(super) room: RoomHandle,
    pub(super) grants: Grants,
    pub(super) connection: Connection,
    pub(super) events: mpsc::Receiver<Box<RoomEvent>>,
    pub(super) two_peers: bool,
}

impl Driver {
    /// Starts the task and makes the session known to clients that come back. What the session has to say already is
    /// queued when this returns.
    pub(super) fn spawn(state: SignalState, parts: Parts) {
        let (inbox_in, inbox) = mpsc::channel(INBOX);
        let sid = parts.session.sid().clone();
        let connected = Arc::new(AtomicBool::new(true));
        let live = LiveSession {
            inbox: inbox_in,
            two_peers: parts.two_peers,
            connected: connected.clone(),
        };
        state.shared.sessions.insert(sid.clone(), live);
        // Boxed: a task that is given its state by value has room for it twice.
        let mut driver = Box::new(Self {
            state,
            session: parts.session,
            sid,
            room: parts.room,
            grants: parts.grants,
            connection: Some(parts.connection),
            events: Some(parts.events),
            inbox,
            commands: VecDeque::new(),
            running: None,
            orphan_until: None,
            ended: false,
            connected,
        });
        driver.execute_effects();
        tokio::spawn(driver.run());
    }

    async fn run(mut self: Box<Self>) {
        while !self.is_done() {
            self.start_command();
            self.step().await;
            self.execute_effects();
            self.connected.store(self.connection.is_some(), Ordering::Relaxed);
        }
    }

    fn is_done(&self) -> bool {
        self.ended && self.running.is_none() && self.commands.is_empty()
    }

    fn start_command(&mut self) {
        if self.running.is_none()
            && let Some(command) = self.commands.pop_front()
        {
            self.running = Some(Box::pin(execute(self.room.clone(), self.sid.clone(), command)));
        }
    }

    fn hears_client(&self) -> bool {
        !self.ended && self.commands.len() <= MAX_COMMANDS
    }

    async fn step(&mut self) {
        let hears_client = self.hears_client();
        let orphan_end = self.orphan_until;
        let deadline = self.session.poll_timeout().map(Instant::from_std);
        let wake = deadline.into_iter().chain(orphan_end).min();
        tokio::select! {
            reply = wait(&mut self.running) => {
                self.running = None;
                if let Some(reply) = reply {
                    self.session.handle_reply(reply, now());
                }
            }
            event = recv_event(&mut self.events), if !self.ended => match event {
                Some(event) => self.session.handle_room(*event, now()),
                None => self.lose_room(),
            },
            incoming = recv_incoming(&mut self.connection), if hears_client => match incoming {
                Some(Incoming::Request(request)) => {
                    self.state.shared.metrics.requests.inc();
                    self.session.handle_request(*request, now());
                }
                Some(Incoming::Garbage(error)) => self.answer_garbage(error),
                None => self.lose_signal(),
            },
            Some(attach) = self.inbox.recv(), if !self.ended => self.attach(*attach),
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                if orphan_end.is_some_and(|end| end <= Instant::now()) {
                    self.orphan_until = None;
                    self.ended = true;
                    self.commands.push_back(RoomCommand::Leave(proto::DisconnectReason::ConnectionTimeout));
                }
                self.session.handle_timeout(now());
            }
        }
    }

    /// Too slow for the room, which counts the signal as lost already; or the participant is gone.
    fn lose_room(&mut self) {
        self.events = None;
        let patience = match self.connection {
            Some(_) => ORPHAN_TIMEOUT,
            None => DETACHED_ORPHAN_TIMEOUT,
        };
        self.orphan_until = Some(Instant::now() + patience);
        self.lose_signal();
    }

    fn lose_signal(&mut self) {
        self.connection = None;
        self.session.handle_signal_lost();
    }

    fn attach(&mut self, attach: Attach) {
        let Attach { connection, room, resumed, events, grants, requests } = attach;
        if let Some(old) = self.connection.replace(connection) {
            old.abort();
        }
        self.events = Some(events);
        self.orphan_until = None;
        // What was lost is back before the room heard of it.
        self.commands.retain(|command| !matches!(command, RoomCommand::SignalLost));
        self.room = room;
        self.grants = grants;
        self.session.handle_resume(resumed, now());
        for request in requests {
            self.session.handle_request(request, now());
        }
    }

    fn execute_effects(&mut self) {
        while let Some(effect) = self.session.poll_effect() {
            match effect {
                Effect::Send(message) => {
                    if let Message::RequestResponse(response) = &*message {
                        self.state.shared.metrics.refuse_request(response.reason());
                    }
                    self.send(Outgoing::Message(message));
                }
                Effect::Welcome(welcome) => self.send(Outgoing::Welcome(welcome)),
                Effect::Announce(news) => {
                    for message in &news.encoded {
                        self.send(Outgoing::Encoded(message.clone()));
                    }
                }
                Effect::Room(command) => self.commands.push_back(command),
                Effect::RefreshToken(permissions) => {
                    let keys = &self.state.shared.keys;
                    // `None` where the operator took the key away: the client keeps what it has.
                    if let Some(token) = keys.refresh(&self.grants, &permissions, SystemTime::now())
                    {
                        self.send(Outgoing::Message(Message::RefreshToken(token).into()));
                    }
                }
                Effect::CloseSignal => self.lose_signal(),
                Effect::End => {
                    self.ended = true;
                    self.connection = None;
                }
            }
        }
    }

    fn send(&mut self, message: Outgoing) {
        let Some(connection) = self.connection.take() else { return };
        if connection.send(message) {
            self.state.shared.metrics.responses.inc();
            self.connection = Some(connection);
            return;
        }
        self.state.shared.metrics.deaf.inc();
        tracing::info!(participant = %self.sid, "client does not read: its WebSocket is closed");
        connection.abort();
        self.session.handle_signal_lost();
    }

    fn answer_garbage(&mut self, message: String) {
        self.state.shared.metrics.garbage.inc();
        let response = Message::RequestResponse(proto::RequestResponse {
            request_id: 0,
            reason: proto::request_response::Reason::InvalidRequest as i32,
            message,
            request: None,
        });
        self.send(Outgoing::Message(response.into()));
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.inbox.close();
        self.state.shared.sessions.remove_if(&self.sid, |_, live| live.inbox.is_closed());
        self.state.shared.ended.notify_waiters();
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn wait(running: &mut Option<Running>) -> Option<Reply> {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

async fn recv_event(events: &mut Option<mpsc::Receiver<Box<RoomEvent>>>) -> Option<Box<RoomEvent>> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

async fn recv_incoming(connection: &mut Option<Connection>) -> Option<Incoming> {
    match connection {
        Some(connection) => connection.recv().await,
        None => std::future::pending().await,
    }
}

async fn execute(room: RoomHandle, sid: ParticipantSid, command: RoomCommand) -> Option<Reply> {
    let again = command.clone();
    let outcome = match command {
        RoomCommand::ApplyPeer { role, delta } => {
            let outcome = room.apply_peer(&sid, role, *delta).await;
            return Some(Reply::Peer { role, outcome });
        }
        RoomCommand::AddTrack(request) => {
            let outcome = room.add_track(&sid, (*request).clone()).await;
            return Some(Reply::Track { request, outcome });
        }
        RoomCommand::Leave(reason) => {
            room.leave(&sid, reason).await;
            return None;
        }
        RoomCommand::SignalLost => {
            room.signal_lost(&sid).await;
            return None;
        }
        RoomCommand::PublishTrack { track, info } => room.publish_track(&sid, &track, info).await,
        RoomCommand::UnpublishTrack(track) => room.unpublish_track(&sid, &track).await,
        RoomCommand::MuteTrack { track, muted } => room.mute_track(&sid, &track, muted).await,
        RoomCommand::UpdateSubscription { tracks, subscribe } => {
            room.update_subscription(&sid, tracks, subscribe).await
        }
        RoomCommand::NeedCodec { track, mime_types } => {
            room.need_codec(&sid, &track, mime_types).await
        }
        RoomCommand::UpdateMetadata { update, .. } => room.update_metadata(&sid, update).await,
        RoomCommand::SubscriptionPermission(permission) => {
            room.subscription_permission(&sid, permission).await
        }
        RoomCommand::UpdateLocalAudioTrack(update) => {
            room.update_local_audio_track(&sid, update).await
        }
        RoomCommand::UpdateLocalVideoTrack(update) => {
            room.update_local_video_track(&sid, update).await
        }
        RoomCommand::ForceTcp(forced) => room.force_tcp(&sid, forced).await,
    };
    Some(Reply::Done { command: again, outcome })
}
