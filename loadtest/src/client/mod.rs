//! One client: signalling, one or two PeerConnections, what it sends and what it sees.

mod announced;
mod data;
mod incoming;
mod kept;
mod line;
mod link;
mod peer;
mod publish;
mod receive;
mod rounds;
mod session;
mod signalling;
mod sink;
mod view;
pub(crate) mod ws;

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use tokio::sync::mpsc;

use crate::{
    measure::Recorder,
    media::{Clock, Stamp},
    scenario::{ClientPlan, Mode, Scenario},
};
pub(crate) use rounds::Rounds;
use session::{End, Session};
use sink::{Media, Sink};
use ws::{ConnectError, Target};

/// What the clients of one worker share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) target: Target,
    pub(crate) scenario: Scenario,
    /// Number of the run, in each stamp.
    pub(crate) run: u32,
    /// Of this process against that of the whole run.
    pub(crate) clock: Clock,
    /// Which clients this process plays.
    pub(crate) share: Share,
    pub(crate) recorder: RefCell<Recorder>,
    pub(crate) reports: mpsc::UnboundedSender<Report>,
    /// Past the sinks whose media path is up.
    pub(crate) rounds: Rounds<Media>,
}

/// The clients that one process of several plays: every so many, from one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) index: u32,
    pub(crate) of: u32,
}

impl Share {
    /// All of them.
    pub(crate) const ALL: Self = Self { index: 0, of: 1 };

    pub(crate) fn holds(self, client: u32) -> bool {
        client % self.of.max(1) == self.index
    }
}

impl Context {
    /// A stamp with its send time on this machine's clock. From another process the send time is that of abs-capture-time
    /// (`captured`, on the run's clock) where the server passes it on.
    fn received(&self, stamp: Stamp, captured: Option<Duration>) -> Stamp {
        let mut sent = stamp.sent;
        if let Some(captured) = captured.filter(|_| !self.share.holds(stamp.publisher)) {
            sent = captured;
            if let Some(stats) = self.recorder.borrow_mut().window() {
                stats.count.frames_timed_by_capture_time += 1;
            }
        }
        Stamp { sent: self.clock.local(sent), ..stamp }
    }
}

/// What a client is told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Leave the room and end.
    Leave,
    /// Count what was received until now; the window is about to close.
    Flush,
    /// Stop or go on sending.
    Pause(bool),
    /// Lose the connection, and come back.
    Reconnect,
    /// The large view moves on: the number of the turn.
    Spotlight(u32),
}

/// What a client tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// It is in, and its media path is up.
    Joined(u32),
    /// It could not get in.
    Failed(u32, ConnectError),
    /// It was in and is out, against its will.
    Lost(u32, String),
    /// It left as told.
    Left(u32),
    /// An agent is gone, and all its clients with it: its number, and why.
    AgentLost(u32, String),
}

/// How often a client that was told to start anew does.
const MAX_REJOINS: u32 = 3;

/// Plays one client from join to leave.
pub(crate) async fn play(
    context: Rc<Context>,
    plan: ClientPlan,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let number = plan.number;
    // Since when a client that fell out is on its way back.
    let mut rejoining: Option<Instant> = None;
    let mut rejoins = 0;
    loop {
        let end = match live(&context, &plan, &mut rejoining, &mut commands).await {
            Ok(end) => end,
            Err(error) => {
                fail(&context, number, &error, rejoining.is_some());
                return;
            }
        };
        match end {
            End::Left => {
                let _ = context.reports.send(Report::Left(number));
                return;
            }
            End::Failed(error) => {
                fail(&context, number, &error, false);
                return;
            }
            End::Rejoin(since) if rejoins < MAX_REJOINS => {
                rejoins += 1;
                rejoining = Some(since);
            }
            End::Rejoin(_) => {
                lose(&context, number, "told to reconnect too often");
                return;
            }
            End::Lost(reason) => {
                lose(&context, number, &reason);
                return;
            }
        }
    }
}

/// One session, from its join to its end.
async fn live(
    context: &Rc<Context>,
    plan: &ClientPlan,
    rejoining: &mut Option<Instant>,
    commands: &mut mpsc::UnboundedReceiver<Command>,
) -> Result<End, ConnectError> {
    let limit = context.scenario.join_timeout.0;
    let late = |_| ConnectError::Timeout("connecting".into());
    if plan.mode == Mode::Sink {
        // On the heap, for as long as they are needed: the future of a whole client is many times larger than a sink's.
        let joining = Box::pin(Sink::join(Rc::clone(context), plan.clone()));
        let mut sink = Box::new(tokio::time::timeout(limit, joining).await.map_err(late)??);
        return Ok(Box::pin(sink.run(commands)).await);
    }
    let joining = Box::pin(Session::join(Rc::clone(context), plan.clone()));
    let mut session = Box::new(tokio::time::timeout(limit, joining).await.map_err(late)??);
    session.came_back_since(rejoining.take());
    Ok(Box::pin(session.run(commands)).await)
}

fn fail(context: &Context, number: u32, error: &ConnectError, was_in: bool) {
    if was_in {
        return lose(context, number, &format!("could not come back: {}", error.category()));
    }
    let failures = &mut context.recorder.borrow_mut().stats.failures;
    *failures.entry(error.category()).or_default() += 1;
    let _ = context.reports.send(Report::Failed(number, error.clone()));
}

fn lose(context: &Context, number: u32, reason: &str) {
    *context.recorder.borrow_mut().stats.lost.entry(reason.to_owned()).or_default() += 1;
    let _ = context.reports.send(Report::Lost(number, reason.to_owned()));
}
