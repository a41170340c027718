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
mod metrics;
pub mod sdp;
pub mod session;
mod upgrade;
pub mod wire;
mod ws;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use dashmap::DashMap;
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
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
    metrics: metrics::SignalMetrics,
    /// WebSockets that may still have something to say.
    sockets: TaskTracker,
}

/// The way to a session that lives in this process.
#[derive(Clone)]
struct LiveSession {
    inbox: mpsc::Sender<Box<driver::Attach>>,
    two_peers: bool,
    /// It has a WebSocket now.
    connected: Arc<AtomicBool>,
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
            metrics: metrics::SignalMetrics::default(),
            sockets: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sessions that live in this process.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.sessions.len()
    }

    /// Adds the sessions by state, and what was counted since the start.
    pub fn register_metrics(&self, registry: &mut Registry) {
        let sessions = Family::<[(&str, &str); 1], Gauge>::default();
        for state in ["connected", "awaiting_resume"] {
            sessions.get_or_create(&[("state", state)]).set(0);
        }
        for session in &self.shared.sessions {
            let connected = session.connected.load(Ordering::Relaxed);
            let state = if connected { "connected" } else { "awaiting_resume" };
            sessions.get_or_create(&[("state", state)]).inc();
        }
        registry.register("sessions", "Signalling sessions now, by state", sessions);
        self.shared.metrics.register(registry);
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
