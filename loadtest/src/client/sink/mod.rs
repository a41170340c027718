//! A sink: a subscriber for very large audiences. ICE and DTLS are done, headers are counted, feedback is answered; only a
//! sample of the packets is decrypted, no frame is put together and nothing is repaired.

mod feedback;
mod path;
mod sdp;

use std::{
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use livekit_protocol as proto;
use proto::{signal_request::Message as Request, signal_response::Message as Response};
use tokio::sync::mpsc;

use super::{
    Command, Context, Report,
    link::Arrival,
    peer::Payload,
    publish::Publisher,
    session::End,
    signalling,
    view::View,
    ws::{ConnectError, Ws},
};
use crate::{
    measure::{Header, HeaderStream},
    media::{Stamp, Stream, unix_now},
    scenario::ClientPlan,
};
use feedback::Arrivals;
use path::Path;
use sdp::Description;

/// Of packets that end a frame (or are sound) one in so many is decrypted. A prime: sound
/// and pictures alternate in a short pattern, of which 16 would always meet the same place.
const SAMPLE: u32 = 17;
/// Between two transport-wide feedbacks. Browsers send one in 50 to 250 ms.
const FEEDBACK: Duration = Duration::from_millis(200);
/// Feedbacks between two receiver reports, and two countings.
const FEEDBACKS_PER_REPORT: u32 = 5;
/// Reads of the socket in a turn at most.
const MAX_READS: usize = 8;

#[derive(Debug)]
struct Received {
    headers: HeaderStream,
    audio: bool,
    layer: u8,
}

pub(crate) struct Sink {
    context: Rc<Context>,
    plan: ClientPlan,
    since: Instant,
    ws: Ws,
    path: Path,
    view: View,
    streams: HashMap<u32, Received>,
    arrivals: Arrivals,
    outbox: Vec<Request>,
    description: Description,
    own: String,
    joined: bool,
    got_packet: bool,
    /// Packets that could have been decrypted.
    candidates: u32,
    window: u32,
    next_feedback: Instant,
    feedbacks: u32,
    ping_interval: Duration,
    next_ping: Instant,
    end: Option<End>,
}

impl Sink {
    /// Dials, and waits for the first message.
    pub(crate) async fn join(context: Rc<Context>, plan: ClientPlan) -> Result<Self, ConnectError> {
        let since = Instant::now();
        let path = Path::new(context.target.local, plan.impairment, plan.number)
            .map_err(|error| ConnectError::Unreachable(format!("no socket: {error}")))?;
        let mut publisher = Publisher::new(plan.number, context.run, &context.scenario);
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
        let window = context.recorder.borrow().window;
        Ok(Self {
            context,
            plan,
            since,
            ws,
            path,
            view,
            streams: HashMap::new(),
            arrivals: Arrivals::default(),
            outbox: Vec::new(),
            description,
            own: join.participant.map(|participant| participant.sid).unwrap_or_default(),
            joined: false,
            got_packet: false,
            candidates: 0,
            window,
            next_feedback: now,
            feedbacks: 0,
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
            let wake = self.next_feedback.min(self.path.timeout());
            tokio::select! {
                () = self.path.readable() => self.receive(),
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
            Command::Flush => self.flush(),
            Command::Reconnect => self.end = Some(End::Rejoin(Instant::now())),
            Command::Spotlight(turn) => self.view.turn(turn),
            Command::Pause(_) => {}
        }
    }

    fn handle_signal(&mut self, message: Response) {
        match message {
            Response::Answer(answer) if self.description.is_current(answer.id) => {
                let remote = sdp::Remote::read(&answer.sdp);
                self.path.set_remote(&remote, Instant::now());
                self.view.described(answer.mid_to_track_id.values());
                self.offer_if_wanted(true);
            }
            Response::Trickle(trickle) => {
                let init: serde_json::Value =
                    serde_json::from_str(&trickle.candidate_init).unwrap_or_default();
                if let Some(text) = init.get("candidate").and_then(|value| value.as_str()) {
                    self.path.add_candidate(text);
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

    fn receive(&mut self) {
        let now = Instant::now();
        for _ in 0..MAX_READS {
            let Self { path, streams, arrivals, context, candidates, .. } = self;
            let mut first = false;
            let window = context.recorder.borrow().window;
            if window != self.window {
                self.window = window;
                streams.values_mut().for_each(|stream| stream.headers.restart());
            }
            let more = path.receive(now, |keys, arrival, header| {
                first = true;
                arrivals.handle(&arrival);
                count(context, streams, &arrival, header);
                let marker = arrival.bytes[1] & 0x80 != 0;
                let payload = Payload::of(header.payload_type);
                if payload == Payload::Audio || (marker && payload != Payload::Repair) {
                    *candidates += 1;
                    if candidates.is_multiple_of(SAMPLE)
                        && let Some(stamp) = keys.and_then(|keys| keys.stamp(arrival.bytes))
                    {
                        sample(context, streams, &arrival, header, stamp);
                    }
                }
            });
            if first && !self.got_packet {
                self.got_packet = true;
                let stats = &mut self.context.recorder.borrow_mut().stats;
                stats.first_packet.record(now.saturating_duration_since(self.since));
            }
            if !more {
                break;
            }
        }
    }

    fn advance(&mut self, now: Instant) {
        self.path.handle_timeout(now);
        if self.path.failed() {
            self.end = Some(End::Failed(ConnectError::Protocol("DTLS failed".to_owned())));
        }
        if self.path.connected() && !self.joined {
            self.joined = true;
            let stats = &mut self.context.recorder.borrow_mut().stats;
            stats.join.record(now.saturating_duration_since(self.since));
            let _ = self.context.reports.send(Report::Joined(self.plan.number));
        }
        let timeout = self.context.scenario.join_timeout.0;
        if !self.joined && now.saturating_duration_since(self.since) > timeout {
            let error = ConnectError::Timeout("waiting for the media path".into());
            self.end = Some(End::Failed(error));
        }
        if now >= self.next_feedback {
            self.next_feedback = now + FEEDBACK;
            self.feedbacks += 1;
            self.answer(now);
        }
        if now >= self.next_ping && !self.ping_interval.is_zero() {
            self.next_ping = now + self.ping_interval;
            self.outbox.extend(signalling::pings());
        }
        self.outbox.extend(signalling::requests_of(self.view.poll()));
    }

    /// RTCP: what arrived when, and once a second what was lost.
    fn answer(&mut self, now: Instant) {
        let mut compound = Vec::new();
        if self.feedbacks.is_multiple_of(FEEDBACKS_PER_REPORT) {
            let reports = self.streams.iter_mut();
            let reports: Vec<_> =
                reports.map(|(ssrc, stream)| (*ssrc, stream.headers.report())).collect();
            compound.extend(feedback::receiver_report(self.plan.number, &reports));
            self.flush();
        }
        let media = self.streams.keys().next().copied().unwrap_or(0);
        compound.extend(self.arrivals.feedback(self.plan.number, media));
        if !compound.is_empty() {
            self.path.send_rtcp(now, &compound);
        }
    }

    fn flush(&mut self) {
        let mut recorder = self.context.recorder.borrow_mut();
        let window = recorder.window;
        if window != self.window {
            self.window = window;
            self.streams.values_mut().for_each(|stream| stream.headers.restart());
        }
        for stream in self.streams.values_mut() {
            let lost = recorder.window().map(|stats| stats.count.lost_before_repair);
            stream.headers.flush(&mut recorder);
            // A sink repairs nothing: what was lost stays lost.
            if let (Some(before), Some(stats)) = (lost, recorder.window()) {
                stats.count.lost_after_repair += stats.count.lost_before_repair - before;
            }
        }
        let impaired = self.path.take_impaired();
        if let Some(stats) = recorder.window() {
            stats.count.datagrams_impaired += impaired;
        }
    }
}

fn count(
    context: &Context,
    streams: &mut HashMap<u32, Received>,
    arrival: &Arrival<'_>,
    header: Header,
) {
    let payload = Payload::of(header.payload_type);
    let repair = payload == Payload::Repair;
    let bytes = arrival.bytes.len() as u64;
    let mut recorder = context.recorder.borrow_mut();
    if let Some(stats) = recorder.window() {
        stats.count.packets_received += 1;
        stats.count.bytes_received += bytes;
        stats.count.repair_packets += u64::from(repair);
        if !repair {
            let payload = arrival.bytes.len().saturating_sub(header.size);
            stats.count.payload_bytes_received += payload as u64;
        }
        stats.tester_delay.record(unix_now().saturating_sub(arrival.at));
    }
    if repair {
        return;
    }
    let audio = payload == Payload::Audio;
    let clock = if audio { 48_000 } else { 90_000 };
    let new = || Received { headers: HeaderStream::new(header, clock), audio, layer: 2 };
    let stream = streams.entry(header.ssrc).or_insert_with(new);
    stream.headers.handle(header, arrival.at);
    if let Some(stats) = recorder.window() {
        match (stream.audio, stream.layer) {
            (true, _) => stats.count.audio_bytes_received += bytes,
            (false, 0) => stats.count.layer_low_bytes_received += bytes,
            (false, 1) => stats.count.layer_mid_bytes_received += bytes,
            (false, _) => stats.count.layer_high_bytes_received += bytes,
        }
    }
}

/// A packet that was decrypted.
fn sample(
    context: &Context,
    streams: &mut HashMap<u32, Received>,
    arrival: &Arrival<'_>,
    header: Header,
    stamp: Stamp,
) {
    if stamp.run != context.run {
        return;
    }
    let stamp = context.received(stamp, feedback::capture_time(arrival.bytes));
    let taken = arrival.at.saturating_sub(stamp.sent);
    let mut recorder = context.recorder.borrow_mut();
    if let Some(stats) = recorder.window() {
        stats.count.sink_packets_decrypted += 1;
        match stamp.stream {
            Stream::Audio => stats.latency_audio.record(taken),
            Stream::Video(_) => stats.latency_video.record(taken),
            Stream::Data { .. } => {}
        }
    }
    if let (Stream::Video(layer), Some(stream)) = (stamp.stream, streams.get_mut(&header.ssrc)) {
        let switched = std::mem::replace(&mut stream.layer, layer) != layer;
        if let Some(stats) = recorder.window() {
            stats.count.layer_switches += u64::from(switched);
        }
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("number", &self.plan.number).finish_non_exhaustive()
    }
}
