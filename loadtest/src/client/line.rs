//! The signalling connection of a session: open, on its way again, or gone.

use std::{
    future::{Future, pending},
    pin::Pin,
    time::Duration,
};

use livekit_protocol::signal_response::Message;

use super::ws::{ConnectError, Target, Ws};

/// Pauses before each attempt to resume, as the JavaScript SDK makes them.
const DELAYS: [Duration; ATTEMPTS] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_millis(1_200),
    Duration::from_millis(2_700),
];
pub(super) const ATTEMPTS: usize = 4;

/// A WebSocket on its way.
type Opening = Pin<Box<dyn Future<Output = Result<Ws, ConnectError>>>>;

#[allow(clippy::large_enum_variant)] // One per client.
pub(super) enum Line {
    Open(Ws),
    Opening {
        opening: Opening,
        attempt: usize,
    },
    /// The session is over.
    Gone,
}

#[allow(clippy::large_enum_variant)] // It lives on the stack.
pub(super) enum Heard {
    Message(Message),
    Gone,
    Opened(Ws),
    Refused(ConnectError),
}

impl Line {
    /// Dials again, after the pause before this attempt.
    pub(super) fn open(target: Target, path: Result<String, ConnectError>, attempt: usize) -> Self {
        let delay = DELAYS[attempt.min(ATTEMPTS - 1)];
        let opening = Box::pin(async move {
            tokio::time::sleep(delay).await;
            Ws::connect(&target, &path?).await
        });
        Self::Opening { opening, attempt }
    }

    pub(super) async fn next(&mut self) -> Heard {
        match self {
            Self::Open(ws) => ws.next().await.map_or(Heard::Gone, Heard::Message),
            Self::Opening { opening, .. } => match opening.as_mut().await {
                Ok(ws) => Heard::Opened(ws),
                Err(error) => Heard::Refused(error),
            },
            Self::Gone => pending().await,
        }
    }
}
