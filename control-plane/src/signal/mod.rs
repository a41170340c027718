//! Signalling: one WebSocket and one session per participant.
//!
//! ```text
//! http (upgrade, validate) -> ws (frames) <-> driver (task) <-> session (pure) ; sdp, wire
//!                                              driver -> room
//! ```
//!
//! The driver owns a participant's session for as long as the participant is in its room; WebSockets come and go.

mod driver;
mod http;
pub mod sdp;
pub mod session;
pub mod wire;
mod ws;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use axum::Router;
use dashmap::DashMap;
use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

pub use session::SessionConfig;

use crate::{
    auth::Keys,
    room::{ParticipantSid, RoomRegistry},
};

/// Settings of the signalling server.
#[derive(Clone, Debug)]
pub struct SignalConfig {
    /// What clients are told and how long they may take.
    pub session: SessionConfig,
    /// How often a WebSocket is pinged (RFC 6455 section 5.5.2).
    pub socket_ping: Duration,
    /// A WebSocket from which nothing came for this long, not even a pong, is closed.
    pub socket_silence: Duration,
    /// Messages that wait for a client to read them, at most; beyond, its WebSocket is closed and it may resume.
    pub queue_messages: usize,
    /// The same in bytes.
    pub queue_bytes: usize,
    /// Messages that a client may send at once; beyond, they are read at `requests_per_second`.
    pub request_burst: u32,
    /// Messages that a client may send in the long run.
    pub requests_per_second: u32,
}

impl Default for SignalConfig {
    fn default() -> Self {
        Self {
            session: SessionConfig::default(),
            socket_ping: Duration::from_secs(10),
            socket_silence: Duration::from_secs(30),
            queue_messages: 1024,
            queue_bytes: 8 * 1024 * 1024,
            request_burst: 500,
            requests_per_second: 100,
        }
    }
}

/// What all connections share. Cheap to clone.
#[derive(Clone)]
pub struct SignalState {
    shared: Arc<Shared>,
}

struct Shared {
    rooms: RoomRegistry,
    keys: Arc<Keys>,
    config: SignalConfig,
    /// Sessions that live in this process, for clients that come back.
    sessions: DashMap<ParticipantSid, LiveSession>,
    ended: Notify,
    /// WebSockets that may still have something to say.
    sockets: TaskTracker,
}

/// The way to a session that lives in this process.
#[derive(Clone)]
struct LiveSession {
    inbox: mpsc::Sender<driver::Attach>,
    two_peers: bool,
}

impl SignalState {
    /// Joins go to `rooms`, tokens are checked with `keys`.
    #[must_use]
    pub fn new(rooms: RoomRegistry, keys: Arc<Keys>, config: SignalConfig) -> Self {
        let shared = Shared {
            rooms,
            keys,
            config,
            sessions: DashMap::new(),
            ended: Notify::new(),
            sockets: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sessions that live in this process.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.sessions.len()
    }

    /// Returns once no session is left and the last words of each are with its client: after
    /// [`RoomRegistry::shutdown`], when every client was told.
    pub async fn drained(&self) {
        loop {
            let ended = self.shared.ended.notified();
            if self.sessions() == 0 {
                break;
            }
            // A session may end between the count and the wait: look again from time to time.
            let _ = tokio::time::timeout(Duration::from_millis(100), ended).await;
        }
        self.shared.sockets.close();
        self.shared.sockets.wait().await;
    }
}

impl fmt::Debug for SignalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalState").field("sessions", &self.sessions()).finish_non_exhaustive()
    }
}

/// `GET /rtc`, `/rtc/v1` (WebSocket), `/rtc/validate` and `/rtc/v1/validate` (plain).
pub fn routes(state: SignalState) -> Router {
    http::routes(state)
}
