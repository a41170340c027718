//! Offers, answers and what the node is told between them.
//!
//! Uplink (and the only peer of `/rtc/v1`): the client offers, one offer at a time is answered, the latest one counts.
//! Its answer goes out once the node has the state that it describes. Downlink of `/rtc`: we offer, one offer is
//! outstanding at a time. On `/rtc/v1` a change to what is sent asks the client for an offer instead
//! (`media_sections_requirement`, which may ask for no section at all).

use std::time::{Duration, Instant};

use chappe_proto::node::v1 as node;
use livekit_protocol::{self as proto, signal_response::Message};
use prost::Message as _;

use super::{
    RoomCommand, Session,
    deadline::Deadline,
    peer::{Answering, Peer},
};
use crate::{
    room::{PeerRole, PublishedInfo, RequestError, TrackSid},
    signal::sdp::{Description, MAX_SECTIONS, MediaKind, PublishedSection, SdpError},
};

/// Changes that come together are described together: wait this long for the first...
const DEBOUNCE_IDLE: Duration = Duration::from_millis(10);
/// ...and this long when a description was made within this time.
const DEBOUNCE_BUSY: Duration = Duration::from_millis(150);
/// ...and this long where the PeerConnection has as many m-lines as it may: some tracks wait for others to go.
const DEBOUNCE_CROWDED: Duration = Duration::from_secs(5);

/// How often an offer is asked for before the client is told to start anew.
const MAX_REQUESTS_FOR_OFFER: u32 = 3;

/// What a subscriber may be able to decode, asked for where it knows none of a track's codecs.
const VIDEO_MIME_TYPES: [&str; 5] =
    ["video/VP8", "video/H264", "video/VP9", "video/AV1", "video/H265"];
const AUDIO_MIME_TYPES: [&str; 1] = ["audio/opus"];

/// Where the talk about what is sent to the client stands.
#[derive(Debug, Default)]
pub(super) struct Renegotiation {
    last: Option<Instant>,
    /// `/rtc/v1`: the client made an offer, so its codecs are known.
    offer_seen: bool,
    /// `/rtc/v1`: an offer was asked for and has not come.
    asked: bool,
    /// Sections asked for that no offer has shown yet: (audio, video).
    asked_sections: (u32, u32),
    /// Sections that the client does not send on, in its last offer.
    sections: (u32, u32),
    requests: u32,
    crowded: bool,
}

impl Session {
    /// The client offers on its uplink. A newer offer replaces one that waits.
    pub(super) fn handle_offer(&mut self, offer: proto::SessionDescription, now: Instant) {
        self.next_offer = Some(offer);
        self.advance_uplink(now);
    }

    /// Takes the next offer if its turn has come, and tells the node what is new.
    pub(super) fn advance_uplink(&mut self, now: Instant) {
        if self.uplink.is_busy() || self.ended {
            return;
        }
        let is_turn =
            self.grants_in_flight == 0 && matches!(self.uplink.answering, Answering::Idle);
        if is_turn && let Some(offer) = self.next_offer.take() {
            self.take_offer(&offer);
        }
        if !self.uplink.is_created() && matches!(self.uplink.answering, Answering::Idle) {
            // Nothing is known of this PeerConnection yet.
            return;
        }
        self.match_tracks();
        self.apply(self.uplink.role);
        self.settle_uplink(now);
    }

    fn take_offer(&mut self, offer: &proto::SessionDescription) {
        let summary = match self.uplink.negotiator.handle_offer(offer.id, &offer.sdp) {
            Ok(summary) => summary,
            Err(error) => {
                return self.refuse(0, &RequestError::Invalid(format!("offer: {error}")), None);
            }
        };
        self.match_tracks();
        self.publications.configure(&mut self.uplink.negotiator);
        if self.downlink.is_none() {
            self.note_sections(&offer.sdp);
            self.subscriptions.displace(&summary.displaced);
            self.place();
        }
        self.uplink.answering = Answering::NeedsTransport;
        if !summary.ice_restart {
            // The node's side stays as it is: the answer can be written first, and the node hears it all at once.
            if let Some(Ok(answer)) =
                self.uplink.local.as_ref().map(|local| self.uplink.negotiator.answer(local))
            {
                self.uplink.answering = Answering::Ready(answer);
            }
        }
    }

    /// Compares the sections that can carry our tracks with those that were asked for.
    fn note_sections(&mut self, sdp: &str) {
        let sending = |kind| {
            self.uplink.negotiator.published().filter(|section| section.kind == kind).count()
        };
        let receiving = |line: &str, kind| {
            let all = sdp.lines().filter(|text| text.starts_with(line)).count();
            u32::try_from(all.saturating_sub(sending(kind))).unwrap_or(u32::MAX)
        };
        let sections =
            (receiving("m=audio", MediaKind::Audio), receiving("m=video", MediaKind::Video));
        let state = &mut self.renegotiation;
        let still_asked = |asked: u32, before: u32, after: u32| {
            asked.saturating_sub(after.saturating_sub(before))
        };
        state.asked_sections = (
            still_asked(state.asked_sections.0, state.sections.0, sections.0),
            still_asked(state.asked_sections.1, state.sections.1, sections.1),
        );
        state.sections = sections;
        state.crowded = sdp.lines().filter(|line| line.starts_with("m=")).count() >= MAX_SECTIONS;
        state.offer_seen = true;
        // An offer that lacks what was asked for was made before the client heard of it: another one follows.
        state.asked = state.asked_sections != (0, 0);
        if !state.asked {
            state.requests = 0;
            self.deadlines.clear(Deadline::Answer);
        }
    }

    fn sections(&self) -> Vec<PublishedSection> {
        self.uplink.negotiator.published().filter(|section| section.active).collect()
    }

    fn match_tracks(&mut self) {
        let sections = self.sections();
        for track in self.publications.match_sections(&sections).ended {
            self.demands.remove(&*track.0);
            self.command(RoomCommand::UnpublishTrack(track));
        }
    }

    /// Gives the tracks that the client takes their m-lines.
    pub(super) fn place(&mut self) {
        if self.downlink.is_none() && !self.renegotiation.offer_seen {
            return;
        }
        let peer = self.downlink.as_mut().unwrap_or(&mut self.uplink);
        let placement =
            self.subscriptions.place(&mut peer.negotiator, &mut self.ssrcs, &self.facts);
        let known = |mime_types: &[&str]| {
            let known =
                mime_types.iter().filter(|mime_type| peer.negotiator.supports(mime_type, None));
            known.map(|mime_type| (*mime_type).to_owned()).collect::<Vec<_>>()
        };
        let commands: Vec<_> = placement
            .unsupported
            .into_iter()
            .map(|track| {
                let mime_types = match self.subscriptions.is_audio(&track) {
                    true => known(&AUDIO_MIME_TYPES),
                    false => known(&VIDEO_MIME_TYPES),
                };
                RoomCommand::NeedCodec { track, mime_types }
            })
            .collect();
        for command in commands {
            self.command(command);
        }
    }

    /// What the client is sent changed: places what is new, tells the node, describes it soon.
    pub(super) fn update_downlink(&mut self, now: Instant) {
        self.place();
        if self.sending_peer().is_created() {
            let role = self.sending_peer().role;
            self.apply(role);
        }
        self.schedule_negotiation(now);
    }

    /// Sends the node what changed, unless a command is on its way: its reply comes back here.
    pub(super) fn apply(&mut self, role: PeerRole) {
        let desired = self.desired(role);
        let Some(peer) = self.peer_mut(role) else { return };
        if let Some(delta) = peer.begin(desired) {
            self.command(RoomCommand::ApplyPeer { role, delta: Box::new(delta) });
        }
    }

    fn desired(&self, role: PeerRole) -> node::PeerState {
        let carries_tracks = role != PeerRole::Subscriber;
        let carries_subscriptions = role != PeerRole::Publisher;
        let peer: &Peer = match &self.downlink {
            Some(downlink) if !carries_tracks => downlink,
            _ => &self.uplink,
        };
        let negotiator = &peer.negotiator;
        let data = (negotiator.wants_data() || !carries_tracks).then(|| node::Data {
            address: self.facts.identity.clone(),
            stamp: self.stamp(),
            may_send: carries_tracks && self.facts.permissions.can_publish_data,
            may_receive: carries_subscriptions,
            node_opens: !carries_tracks,
        });
        let tracks = if carries_tracks {
            self.publications.node_tracks(&self.sections())
        } else {
            Vec::new()
        };
        let subscriptions = if carries_subscriptions {
            self.subscriptions.node_subscriptions(negotiator, self.config.suppress_silence)
        } else {
            Vec::new()
        };
        node::PeerState {
            owner_state: self.owner_state(peer),
            transport: Some(peer.transport()),
            codecs: negotiator.codecs(),
            extensions: negotiator.extensions(),
            tracks,
            subscriptions,
            data,
            limits: None,
            max_egress_bitrate: peer.max_egress_bitrate,
        }
    }

    /// The sender fields of this participant's data packets.
    fn stamp(&self) -> Vec<u8> {
        let stamp = proto::DataPacket {
            participant_identity: self.facts.identity.clone(),
            participant_sid: self.facts.sid.to_string(),
            ..proto::DataPacket::default()
        };
        stamp.encode_to_vec()
    }

    /// The node has what it was last told.
    pub(super) fn handle_applied(
        &mut self,
        role: PeerRole,
        local: node::LocalTransport,
        now: Instant,
    ) {
        let Some(peer) = self.peer_mut(role) else { return };
        peer.complete(local);
        if role == self.uplink.role {
            self.settle_uplink(now);
            self.advance_uplink(now);
        } else {
            self.apply(role);
            self.schedule_negotiation(now);
        }
    }

    pub(super) fn handle_not_applied(&mut self, role: PeerRole, error: &RequestError) {
        if let Some(peer) = self.peer_mut(role) {
            peer.fail();
        }
        if *error == RequestError::Closed {
            // The room says why by an event that is on its way.
            return;
        }
        tracing::warn!(%error, participant = %self.facts.sid, "media node did not take a change");
        self.finish(
            proto::DisconnectReason::StateMismatch,
            proto::leave_request::Action::Reconnect,
        );
    }

    /// With no command on its way: answers, publishes, and asks for what is missing.
    fn settle_uplink(&mut self, now: Instant) {
        if self.uplink.is_busy() {
            return;
        }
        match std::mem::replace(&mut self.uplink.answering, Answering::Idle) {
            Answering::Idle => {}
            Answering::Ready(answer) => self.send_answer(answer, now),
            Answering::NeedsTransport => {
                let Some(local) = self.uplink.local.as_ref() else {
                    self.uplink.answering = Answering::NeedsTransport;
                    return;
                };
                match self.uplink.negotiator.answer(local) {
                    Ok(answer) => self.send_answer(answer, now),
                    Err(error) => {
                        self.refuse(0, &RequestError::Invalid(format!("offer: {error}")), None)
                    }
                }
                // What the answer described is for the node to send now.
                self.apply(self.uplink.role);
            }
        }
        let uplink = &self.uplink;
        for (track, variants) in self.publications.take_untold(|id| uplink.has_track(id)) {
            self.command(RoomCommand::PublishTrack { track, info: PublishedInfo { variants } });
        }
        self.schedule_negotiation(now);
    }

    fn send_answer(&mut self, answer: Description, now: Instant) {
        if self.downlink.is_none() {
            self.renegotiation.last = Some(now);
        }
        self.send(Message::Answer(description_message("answer", answer)));
    }

    /// Something is to be described to the client: soon, together with what else changes.
    pub(super) fn schedule_negotiation(&mut self, now: Instant) {
        if !self.attached
            || self.ended
            || !self.has_news()
            || self.deadlines.is_set(Deadline::Negotiate)
        {
            return;
        }
        let busy = self
            .renegotiation
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < DEBOUNCE_BUSY);
        let delay = match (busy, self.renegotiation.crowded) {
            (false, _) => DEBOUNCE_IDLE,
            (true, false) => DEBOUNCE_BUSY,
            (true, true) => DEBOUNCE_CROWDED,
        };
        self.deadlines.set(Deadline::Negotiate, now + delay);
    }

    /// The client has to hear of something, and nothing that is on its way will carry it.
    fn has_news(&self) -> bool {
        if let Some(downlink) = &self.downlink {
            let can_offer = downlink.local.is_some()
                && !downlink.is_busy()
                && !downlink.negotiator.offer_outstanding();
            return can_offer && downlink.negotiator.needs_description();
        }
        let idle = matches!(self.uplink.answering, Answering::Idle) && self.next_offer.is_none();
        if !idle || !self.renegotiation.offer_seen {
            return false;
        }
        let more = self.more_sections();
        more != (0, 0) || (self.uplink.negotiator.needs_description() && !self.renegotiation.asked)
    }

    /// Sections that are missing beyond those already asked for.
    fn more_sections(&self) -> (u32, u32) {
        let (audios, videos) = self.uplink.negotiator.missing_sections();
        let asked = self.renegotiation.asked_sections;
        (audios.saturating_sub(asked.0), videos.saturating_sub(asked.1))
    }

    /// Describes what changed, if nothing that is under way does.
    pub(super) fn negotiate_downlink(&mut self, now: Instant) {
        if !self.attached || !self.has_news() {
            return;
        }
        self.renegotiation.last = Some(now);
        if self.downlink.is_some() {
            self.offer(now);
            return;
        }
        let more = self.more_sections();
        let state = &mut self.renegotiation;
        state.asked = true;
        state.asked_sections = (state.asked_sections.0 + more.0, state.asked_sections.1 + more.1);
        self.deadlines.set_earliest(
            Deadline::Answer,
            now + self.config.answer_timeout / MAX_REQUESTS_FOR_OFFER,
        );
        let requirement =
            proto::MediaSectionsRequirement { num_audios: more.0, num_videos: more.1 };
        self.send(Message::MediaSectionsRequirement(requirement));
    }

    fn offer(&mut self, now: Instant) {
        let Some(downlink) = self.downlink.as_mut() else { return };
        let Some(local) = downlink.local.as_ref() else { return };
        match downlink.negotiator.offer(local) {
            Ok(offer) => {
                self.deadlines.set(Deadline::Answer, now + self.config.answer_timeout);
                self.send(Message::Offer(description_message("offer", offer)));
                self.apply(PeerRole::Subscriber);
            }
            Err(error) => {
                tracing::error!(%error, participant = %self.facts.sid, "cannot write an offer")
            }
        }
    }

    /// The client answers an offer of ours.
    pub(super) fn handle_answer(&mut self, answer: &proto::SessionDescription, now: Instant) {
        let Some(downlink) = self.downlink.as_mut() else {
            return self.refuse(
                0,
                &RequestError::Invalid("nothing was offered on this connection".into()),
                None,
            );
        };
        match downlink.negotiator.handle_answer(answer.id, &answer.sdp) {
            Ok(summary) => {
                self.deadlines.clear(Deadline::Answer);
                self.subscriptions.displace(&summary.displaced);
                self.update_downlink(now);
            }
            Err(SdpError::StaleAnswer { .. }) => {}
            // The offer stays open: a client that cannot answer it ends at the answer's deadline.
            Err(error) => self.refuse(0, &RequestError::Invalid(format!("answer: {error}")), None),
        }
    }

    /// The client did not answer in time, or made no offer when asked.
    pub(super) fn handle_unanswered(&mut self, now: Instant) {
        self.renegotiation.requests += 1;
        if self.downlink.is_some() || self.renegotiation.requests >= MAX_REQUESTS_FOR_OFFER {
            self.finish(
                proto::DisconnectReason::StateMismatch,
                proto::leave_request::Action::Reconnect,
            );
            return;
        }
        self.forget_requests();
        self.schedule_negotiation(now);
    }

    /// What was asked for is not coming: ask anew.
    pub(super) fn forget_requests(&mut self) {
        self.renegotiation.asked = false;
        self.renegotiation.asked_sections = (0, 0);
    }

    /// A PeerConnection that lives on has made its offers.
    pub(super) fn assume_offer_seen(&mut self) {
        self.renegotiation.offer_seen = true;
    }

    /// Answers a request that could not be done.
    pub(super) fn refuse(
        &mut self,
        request_id: u32,
        error: &RequestError,
        request: Option<proto::request_response::Request>,
    ) {
        use proto::request_response::Reason;
        let reason = match error {
            RequestError::NotAllowed(_) => Reason::NotAllowed,
            RequestError::NotFound(_) => Reason::NotFound,
            RequestError::LimitExceeded(_) => Reason::LimitExceeded,
            RequestError::Invalid(_) => Reason::InvalidRequest,
            RequestError::Node(_) | RequestError::Closed => Reason::UnclassifiedError,
        };
        self.respond(request_id, reason, error.to_string(), request);
    }

    pub(super) fn respond(
        &mut self,
        request_id: u32,
        reason: proto::request_response::Reason,
        message: String,
        request: Option<proto::request_response::Request>,
    ) {
        self.send(Message::RequestResponse(proto::RequestResponse {
            request_id,
            reason: reason as i32,
            message,
            request,
        }));
    }

    /// A track id was granted, or not.
    pub(super) fn handle_granted(
        &mut self,
        request: proto::AddTrackRequest,
        outcome: Result<proto::TrackInfo, RequestError>,
        now: Instant,
    ) {
        self.grants_in_flight = self.grants_in_flight.saturating_sub(1);
        match outcome {
            Ok(track) => {
                let cid = request.cid.clone();
                self.publications.announce(TrackSid::from(track.sid.clone()), request);
                self.send(Message::TrackPublished(proto::TrackPublishedResponse {
                    cid,
                    track: Some(track),
                }));
            }
            Err(error) => {
                let request = proto::request_response::Request::AddTrack(request);
                self.refuse(0, &error, Some(request));
            }
        }
        self.advance_uplink(now);
    }

    pub(super) fn handle_done(
        &mut self,
        command: RoomCommand,
        outcome: Result<(), RequestError>,
        now: Instant,
    ) {
        use proto::request_response::{Reason, Request};
        match (command, outcome) {
            (RoomCommand::UpdateMetadata { request, .. }, Ok(())) => {
                self.respond(
                    request.request_id,
                    Reason::Ok,
                    String::new(),
                    Some(Request::UpdateMetadata(*request)),
                );
            }
            (RoomCommand::UpdateMetadata { request, .. }, Err(error)) => {
                self.refuse(request.request_id, &error, Some(Request::UpdateMetadata(*request)));
            }
            (RoomCommand::NeedCodec { track, .. }, Err(_)) => {
                let err = proto::SubscriptionError::SeCodecUnsupported as i32;
                let track_sid = track.to_string();
                self.send(Message::SubscriptionResponse(proto::SubscriptionResponse {
                    track_sid,
                    err,
                }));
            }
            (RoomCommand::UpdateLocalAudioTrack(request), Err(error)) => {
                self.refuse(0, &error, Some(Request::UpdateAudioTrack(request)));
            }
            (RoomCommand::UpdateLocalVideoTrack(request), Err(error)) => {
                self.refuse(0, &error, Some(Request::UpdateVideoTrack(request)));
            }
            // The room says why by an event that is on its way.
            (_, Err(RequestError::Closed)) => {}
            (RoomCommand::UpdateSubscription { tracks, .. }, Err(RequestError::NotFound(_))) => {
                let err = proto::SubscriptionError::SeTrackNotfound as i32;
                for track in tracks {
                    let track_sid = track.to_string();
                    self.send(Message::SubscriptionResponse(proto::SubscriptionResponse {
                        track_sid,
                        err,
                    }));
                }
            }
            (
                RoomCommand::UpdateSubscription { .. } | RoomCommand::SubscriptionPermission(_),
                Err(error),
            ) => self.refuse(0, &error, None),
            (RoomCommand::MuteTrack { track, muted }, Err(error)) => {
                let mute = proto::MuteTrackRequest { sid: track.to_string(), muted };
                self.refuse(0, &error, Some(Request::Mute(mute)));
            }
            (RoomCommand::PublishTrack { track, .. }, Ok(())) => self.publications.confirm(&track),
            (RoomCommand::PublishTrack { track, .. }, Err(RequestError::NotFound(_)))
                if self.publications.is_confirmed(&track) =>
            {
                // It ended while nobody was there to hear it.
                self.handle_unpublished(&track, now);
            }
            (RoomCommand::PublishTrack { track, .. }, Err(RequestError::NotFound(_)))
                if self.publications.contains(&track.0) =>
            {
                // The room forgot it (a restart in the moment before it is saved): the client publishes it anew.
                self.finish(
                    proto::DisconnectReason::StateMismatch,
                    proto::leave_request::Action::Reconnect,
                );
            }
            (command, Err(error)) => {
                // Not the command itself: it holds what the client said.
                let command = command.name();
                tracing::debug!(%error, command, participant = %self.facts.sid, "the room refused");
            }
            (_, Ok(())) => {}
        }
    }
}

fn description_message(kind: &str, description: Description) -> proto::SessionDescription {
    proto::SessionDescription {
        r#type: kind.to_owned(),
        sdp: description.sdp,
        id: description.id,
        mid_to_track_id: description.mid_to_track_id,
    }
}
