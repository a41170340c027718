//! A sink: a subscriber for very large audiences. ICE and DTLS are done, headers are counted, feedback is answered; only a
//! sample of the packets is decrypted, no frame is put together and nothing is repaired.

mod feedback;
mod media;
mod path;
mod sdp;
mod tally;

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use livekit_protocol as proto;
use proto::{signal_request::Message as Request, signal_response::Message as Response};
use tokio::sync::mpsc;

use super::{
    Command, Context, Report,
    publish::Publisher,
    session::End,
    signalling,
    view::View,
    ws::{ConnectError, Ws},
};
use crate::{media::unix_now, scenario::ClientPlan};
pub(crate) use media::Media;
use path::Path;
use sdp::Description;

/// Until a sink in a round does something of its own accord, when the server wants no pings.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) struct Sink {
    context: Rc<Context>,
    plan: ClientPlan,
    since: Instant,
    ws: Ws,
    media: Rc<RefCell<Media>>,
    /// The worker's round looks after the media; until then this task does.
    in_round: bool,
    view: View,
    outbox: Vec<Request>,
    description: Description,
    own: String,
    joined: bool,
    ping_interval: Duration,
    next_ping: Instant,
    end: Option<End>,
}

impl Sink {
    /// Dials, and waits for the first message.
    pub(crate) async fn join(context: Rc<Context>, plan: ClientPlan) -> Result<Self, ConnectError> {
        let (since, since_unix) = (Instant::now(), unix_now());
        let path = Path::new(context.target.local, plan.impairment, plan.number)
            .map_err(|error| ConnectError::Unreachable(format!("no socket: {error}")))?;
        let mut publisher = Publisher::new(plan.number, &context.scenario);
        publisher.tracks.clear();
        let mut description =
            Description::new(path.credentials(), (3, 3), context.scenario.bandwidth_feedback);
        let offer = signalling::description("offer", 1, description.offer());
        let query = signalling::join_path(&context, &plan, &publisher, Some(offer))?;
        let mut ws = Ws::connect(&context.target, &query).await?;
        let Some(Response::Join(join)) = ws.next().await else {
            return Err(ConnectError::Protocol("no JoinResponse".to_owned()));
        };
        let now = Instant::now();
        let mut view = View::new(plan.place, context.scenario.publishers, &context.scenario);
        for other in &join.other_participants {
            view.handle(other);
        }
        let media = Media::new(&context, plan.number, path, since_unix, now);
        Ok(Self {
            media: Rc::new(RefCell::new(media)),
            in_round: false,
            context,
            plan,
            since,
            ws,
            view,
            outbox: Vec::new(),
            description,
            own: join.participant.map(|participant| participant.sid).unwrap_or_default(),
            joined: false,
            ping_interval: Duration::from_secs(u64::try_from(join.ping_interval).unwrap_or(0)),
            next_ping: now,
            end: None,
        })
    }

    /// Runs to its end.
    pub(crate) async fn run(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> End {
        loop {
            self.advance(Instant::now());
            for message in std::mem::take(&mut self.outbox) {
                self.ws.send(message).await;
            }
            if let Some(end) = self.end.take() {
                if matches!(end, End::Left) {
                    self.ws.send(signalling::leave()).await;
                }
                return end;
            }
            let wake = self.timeout();
            tokio::select! {
                () = readable(&self.media), if !self.in_round => {
                    self.media.borrow_mut().receive(Instant::now());
                }
                message = self.ws.next() => match message {
                    Some(message) => self.handle_signal(message),
                    None => self.end = Some(self.gone()),
                },
                command = commands.recv() => self.handle_command(command.unwrap_or(Command::Leave)),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn gone(&self) -> End {
        if self.joined {
            return End::Lost("connection lost: a sink does not come back".to_owned());
        }
        End::Failed(ConnectError::Protocol("signalling closed during the join".to_owned()))
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Leave => self.end = Some(End::Left),
            Command::Flush => self.media.borrow_mut().flush(Instant::now()),
            Command::Reconnect => self.end = Some(End::Rejoin(Instant::now())),
            Command::Spotlight(turn) => self.view.turn(turn),
            Command::Pause(_) => {}
        }
    }

    fn handle_signal(&mut self, message: Response) {
        match message {
            Response::Answer(answer) if self.description.is_current(answer.id) => {
                let remote = sdp::Remote::read(&answer.sdp);
                self.media.borrow_mut().path.set_remote(&remote, Instant::now());
                self.view.described(answer.mid_to_track_id.values());
                self.offer_if_wanted(true);
            }
            Response::Trickle(trickle) => {
                let init: serde_json::Value =
                    serde_json::from_str(&trickle.candidate_init).unwrap_or_default();
                if let Some(text) = init.get("candidate").and_then(|value| value.as_str()) {
                    self.media.borrow_mut().path.add_candidate(text);
                }
            }
            Response::MediaSectionsRequirement(more) => {
                self.description.want(more.num_audios, more.num_videos);
                self.offer_if_wanted(false);
            }
            Response::Update(update) => {
                let others = update.participants.iter().filter(|other| other.sid != self.own);
                others.for_each(|other| self.view.handle(other));
            }
            Response::Leave(leave) => {
                let reason = leave.reason().as_str_name().to_lowercase();
                self.end = Some(match leave.action() {
                    proto::leave_request::Action::Disconnect => {
                        End::Lost(format!("told to leave: {reason}"))
                    }
                    _ => End::Rejoin(Instant::now()),
                });
            }
            _ => {}
        }
    }

    fn offer_if_wanted(&mut self, answered: bool) {
        if answered {
            self.description.answered();
        }
        if let Some((id, sdp)) = self.description.poll_offer() {
            self.outbox.push(Request::Offer(signalling::description("offer", id, sdp)));
        }
    }

    /// When [`Self::advance`] has something to do.
    fn timeout(&self) -> Instant {
        if !self.in_round {
            return self.media.borrow().timeout();
        }
        if self.ping_interval.is_zero() { Instant::now() + IDLE } else { self.next_ping }
    }

    fn advance(&mut self, now: Instant) {
        if !self.in_round {
            self.drive(now);
        }
        if now >= self.next_ping && !self.ping_interval.is_zero() {
            self.next_ping = now + self.ping_interval;
            self.outbox.extend(signalling::pings());
        }
        self.outbox.extend(signalling::requests_of(self.view.poll()));
    }

    /// The media while the worker's round does not look after it.
    fn drive(&mut self, now: Instant) {
        let mut media = self.media.borrow_mut();
        media.handle_timeout(now);
        if media.path.failed() {
            self.end = Some(End::Failed(ConnectError::Protocol("DTLS failed".to_owned())));
        }
        if media.path.connected() && !self.joined {
            self.joined = true;
            self.in_round = media.path.look_in_rounds(now);
            let stats = &mut self.context.recorder.borrow_mut().stats;
            stats.join.record(now.saturating_duration_since(self.since));
            let _ = self.context.reports.send(Report::Joined(self.plan.number));
        }
        if self.in_round && self.context.rounds.join(&self.media) {
            let context = Rc::clone(&self.context);
            tokio::task::spawn_local(async move { context.rounds.walk().await });
        }
        let timeout = self.context.scenario.join_timeout.0;
        if !self.joined && now.saturating_duration_since(self.since) > timeout {
            let error = ConnectError::Timeout("waiting for the media path".into());
            self.end = Some(End::Failed(error));
        }
    }
}

/// Waits until the socket can be read, and holds nothing meanwhile.
async fn readable(media: &RefCell<Media>) {
    std::future::poll_fn(|context| media.borrow().path.poll_readable(context)).await;
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("number", &self.plan.number).finish_non_exhaustive()
    }
}
