//! The client's side of the signalling protocol.

use std::time::{Duration, Instant};

use livekit_protocol as proto;
use proto::{
    leave_request::Action, signal_request::Message as Request, signal_response::Message as Response,
};

use super::{
    Context,
    kept::Kept,
    publish::Publisher,
    session::{End, Session},
    view::Wishes,
    ws::{ConnectError, join_query},
};
use crate::{media::unix_now, scenario::ClientPlan};

/// Version of the protocol that the clients speak.
const PROTOCOL: i32 = 16;

pub(super) fn description(kind: &str, id: u32, sdp: String) -> proto::SessionDescription {
    proto::SessionDescription { r#type: kind.to_owned(), sdp, id, ..Default::default() }
}

pub(super) fn leave() -> Request {
    Request::Leave(proto::LeaveRequest {
        reason: proto::DisconnectReason::ClientInitiated.into(),
        action: Action::Disconnect.into(),
        ..Default::default()
    })
}

fn client_info() -> proto::ClientInfo {
    proto::ClientInfo {
        sdk: proto::client_info::Sdk::Rust.into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
        os: std::env::consts::OS.to_owned(),
        ..Default::default()
    }
}

fn token(context: &Context, plan: &ClientPlan) -> Result<String, ConnectError> {
    context.target.token(&plan.room, &plan.identity, plan.publishes(), plan.subscribes)
}

/// Where a client joins: `/rtc/v1` when it brings its first offer, else `/rtc`.
pub(super) fn join_path(
    context: &Context,
    plan: &ClientPlan,
    publisher: &Publisher,
    offer: Option<proto::SessionDescription>,
) -> Result<String, ConnectError> {
    let token = token(context, plan)?;
    let auto_subscribe = context.scenario.grid == 0;
    if offer.is_none() {
        let auto = u8::from(auto_subscribe);
        return Ok(format!(
            "/rtc?access_token={token}&auto_subscribe={auto}&adaptive_stream=1&sdk=rust&version={}&protocol={PROTOCOL}",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let request = proto::JoinRequest {
        client_info: Some(client_info()),
        connection_settings: Some(proto::ConnectionSettings {
            auto_subscribe,
            adaptive_stream: true,
            ..Default::default()
        }),
        add_track_requests: publisher.requests(),
        publisher_offer: offer,
        ..Default::default()
    };
    Ok(format!("/rtc/v1?{}", join_query(&token, &request)))
}

/// Where a client comes back that was in as `sid`.
pub(super) fn resume_path(
    context: &Context,
    plan: &ClientPlan,
    sid: &str,
) -> Result<String, ConnectError> {
    let token = token(context, plan)?;
    let reason = proto::ReconnectReason::RrSignalDisconnected;
    if context.scenario.peer_connections == 2 {
        let reason = i32::from(reason);
        return Ok(format!(
            "/rtc?access_token={token}&reconnect=1&reconnect_reason={reason}&sid={sid}&auto_subscribe=1&sdk=rust&version={}&protocol={PROTOCOL}",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let request = proto::JoinRequest {
        client_info: Some(client_info()),
        connection_settings: Some(proto::ConnectionSettings {
            auto_subscribe: context.scenario.grid == 0,
            adaptive_stream: true,
            ..Default::default()
        }),
        reconnect: true,
        reconnect_reason: reason.into(),
        participant_sid: sid.to_owned(),
        ..Default::default()
    };
    Ok(format!("/rtc/v1?{}", join_query(&token, &request)))
}

/// Both kinds of ping, as the JavaScript SDK sends them.
pub(super) fn pings() -> [Request; 2] {
    let timestamp = i64::try_from(unix_now().as_millis()).unwrap_or(0);
    [Request::Ping(timestamp), Request::PingReq(proto::Ping { timestamp, rtt: 0 })]
}

/// What the server is told of a view.
pub(super) fn requests_of(wishes: Wishes) -> Vec<Request> {
    let mut requests = Vec::new();
    if !wishes.subscribe.is_empty() {
        let tracks = |(participant, track): (String, String)| proto::ParticipantTracks {
            participant_sid: participant,
            track_sids: vec![track],
        };
        requests.push(Request::Subscription(proto::UpdateSubscription {
            track_sids: wishes.subscribe.iter().map(|(_, track)| track.clone()).collect(),
            subscribe: true,
            participant_tracks: wishes.subscribe.into_iter().map(tracks).collect(),
        }));
    }
    for (track, quality) in wishes.settings {
        let (width, height) = quality.size();
        let quality = match quality.layer() {
            0 => proto::VideoQuality::Low,
            1 => proto::VideoQuality::Medium,
            _ => proto::VideoQuality::High,
        };
        requests.push(Request::TrackSetting(proto::UpdateTrackSettings {
            track_sids: vec![track],
            quality: quality.into(),
            width,
            height,
            ..Default::default()
        }));
    }
    requests
}

impl Session {
    pub(super) fn handle_join(&mut self, join: proto::JoinResponse) {
        self.sid = join.participant.map(|participant| participant.sid).unwrap_or_default();
        self.ping_interval = Duration::from_secs(u64::try_from(join.ping_interval).unwrap_or(0));
        for other in &join.other_participants {
            self.view.handle(other);
        }
    }

    pub(super) fn handle_signal(&mut self, message: Response, now: Instant) {
        match message {
            Response::Answer(answer) => self.handle_answer(answer),
            Response::Offer(offer) => self.handle_offer(&offer),
            Response::Trickle(trickle) => {
                let subscriber = trickle.target() == proto::SignalTarget::Subscriber;
                match self.downlink.as_mut().filter(|_| subscriber) {
                    Some(downlink) => downlink.handle_candidate(&trickle.candidate_init),
                    None => self.uplink.handle_candidate(&trickle.candidate_init),
                }
            }
            Response::Update(update) => self.handle_update(&update),
            Response::TrackPublished(published) => {
                let sid = published.track.map(|track| track.sid).unwrap_or_default();
                let mut tracks = self.publisher.tracks.iter_mut();
                if let Some(track) = tracks.find(|track| track.cid == published.cid) {
                    track.sid = sid;
                }
            }
            Response::MediaSectionsRequirement(more) => {
                self.uplink.want_sections(more.num_audios, more.num_videos);
            }
            Response::SubscribedQualityUpdate(update) => self.publisher.handle_demand(&update),
            Response::Reconnect(_) => self.handle_resumed(now),
            Response::Leave(leave) => self.handle_leave(&leave, now),
            _ => {}
        }
    }

    fn handle_answer(&mut self, answer: proto::SessionDescription) {
        match self.uplink.handle_answer(answer.id, &answer.sdp) {
            Ok(true) => {
                self.view.described(answer.mid_to_track_id.values());
                self.last_answer = Kept::Fresh(answer);
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "answer");
                self.end = Some(End::Lost("cannot take the server's answer".to_owned()));
            }
        }
    }

    fn handle_offer(&mut self, offer: &proto::SessionDescription) {
        let Some(downlink) = &mut self.downlink else { return };
        let sections = offer.mid_to_track_id.keys().map(String::as_str);
        match downlink.handle_offer(&offer.sdp, sections) {
            Ok(sdp) => {
                self.view.described(offer.mid_to_track_id.values());
                let answer = description("answer", offer.id, sdp);
                self.last_answer = Kept::Fresh(answer.clone());
                self.outbox.push(Request::Answer(answer));
            }
            Err(error) => {
                tracing::warn!(%error, "offer");
                self.end = Some(End::Lost("cannot take the server's offer".to_owned()));
            }
        }
    }

    fn handle_update(&mut self, update: &proto::ParticipantUpdate) {
        for participant in update.participants.iter().filter(|other| other.sid != self.sid) {
            let gone = participant.state() == proto::participant_info::State::Disconnected;
            let ours = participant.identity.strip_prefix("load-");
            let number = ours.and_then(|text| text.split('-').next()?.parse().ok());
            if let (true, Some(number)) = (gone, number) {
                self.incoming.rest(number);
            }
            self.view.handle(participant);
        }
    }

    /// What the view wants and the server does not know yet.
    pub(super) fn wish(&mut self) {
        if !self.plan.subscribes {
            return;
        }
        let wishes = self.view.poll();
        self.outbox.extend(requests_of(wishes));
    }

    pub(super) fn ping(&mut self) {
        self.outbox.extend(pings());
    }

    /// The server knows us: tell it where we are, and look for a path anew.
    fn handle_resumed(&mut self, now: Instant) {
        if let Some(since) = self.back_since.take() {
            let time = now.saturating_duration_since(since);
            self.context.recorder.borrow_mut().stats.reconnect.record(time);
        }
        let published = |track: &super::publish::Publication| proto::TrackPublishedResponse {
            cid: track.cid.clone(),
            track: Some(proto::TrackInfo { sid: track.sid.clone(), ..Default::default() }),
        };
        let state = proto::SyncState {
            answer: self.last_answer.open(),
            offer: self.last_offer.open(),
            subscription: Some(proto::UpdateSubscription {
                subscribe: self.view.chooses(),
                track_sids: self.view.taken().to_vec(),
                ..Default::default()
            }),
            publish_tracks: self.publisher.tracks.iter().map(published).collect(),
            ..Default::default()
        };
        self.outbox.push(Request::SyncState(state));
        if let Some((id, sdp)) = self.uplink.restart_ice() {
            let offer = description("offer", id, sdp);
            self.last_offer = Kept::Fresh(offer.clone());
            self.outbox.push(Request::Offer(offer));
        }
    }

    fn handle_leave(&mut self, leave: &proto::LeaveRequest, now: Instant) {
        match leave.action() {
            Action::Resume => self.resume(now, 0),
            Action::Reconnect => {
                let since = self.back_since.unwrap_or(now);
                self.end = Some(End::Rejoin(since));
            }
            Action::Disconnect => {
                let reason = leave.reason().as_str_name().to_lowercase();
                self.end = Some(End::Lost(format!("told to leave: {reason}")));
            }
        }
    }
}
