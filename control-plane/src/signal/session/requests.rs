//! What the client says.

use std::time::{Duration, Instant};

use livekit_protocol::{
    self as proto, request_response::Reason, request_response::Request as Subject,
    signal_request::Message as Request, signal_response::Message,
};

use super::{CutOnResume, RoomCommand, Session, subscribe::Settings};
use crate::room::{PeerRole, ProfileUpdate, RequestError, TrackSid};

/// Simulated speech lasts this long at most.
const MAX_SIMULATED_SPEECH: Duration = Duration::from_secs(60);

/// Tracks named in one request, at most.
const MAX_TRACKS_PER_REQUEST: usize = 4096;

impl Session {
    /// The client sent a message. Messages without a known content are ignored, as newer clients may send them.
    pub fn handle_request(&mut self, request: proto::SignalRequest, now: Instant) {
        let Some(message) = request.message.filter(|_| !self.ended) else { return };
        match message {
            Request::Offer(offer) => self.handle_offer(offer, now),
            Request::Answer(answer) => self.handle_answer(&answer, now),
            Request::Trickle(trickle) => self.handle_trickle(trickle),
            Request::AddTrack(request) => self.handle_add_track(request),
            Request::Mute(mute) => self.handle_mute(mute, now),
            Request::Subscription(update) => self.handle_subscription(update),
            Request::TrackSetting(settings) => self.handle_track_settings(&settings),
            Request::Leave(_) => {
                self.command(RoomCommand::Leave(proto::DisconnectReason::ClientInitiated));
                self.end();
            }
            Request::SubscriptionPermission(permission) => {
                let named = permission.track_permissions.iter();
                let named = named.map(|subscriber| 1 + subscriber.track_sids.len()).sum();
                if self.is_bounded(named) {
                    self.command(RoomCommand::SubscriptionPermission(permission));
                }
            }
            Request::SyncState(sync) => self.handle_sync_state(sync, now),
            Request::Simulate(simulate) => self.handle_simulate(simulate, now),
            Request::Ping(_) => {
                let pong = self.unix_ms(now);
                self.send(Message::Pong(pong));
            }
            Request::PingReq(ping) => {
                let pong = proto::Pong {
                    last_ping_timestamp: ping.timestamp,
                    timestamp: self.unix_ms(now),
                };
                self.send(Message::PongResp(pong));
            }
            Request::UpdateMetadata(request) => self.handle_update_metadata(request),
            Request::UpdateAudioTrack(request) => {
                self.command(RoomCommand::UpdateLocalAudioTrack(request))
            }
            Request::UpdateVideoTrack(request) => {
                self.command(RoomCommand::UpdateLocalVideoTrack(request))
            }
            Request::PublishDataTrackRequest(request) => {
                self.unsupported(0, "data tracks", Some(Subject::PublishDataTrack(request)));
            }
            Request::UnpublishDataTrackRequest(request) => {
                self.unsupported(0, "data tracks", Some(Subject::UnpublishDataTrack(request)));
            }
            Request::UpdateDataSubscription(_) => self.unsupported(0, "data tracks", None),
            Request::StoreDataBlobRequest(request) => {
                self.unsupported(request.request_id, "data blobs", None)
            }
            Request::GetDataBlobRequest(request) => {
                self.unsupported(request.request_id, "data blobs", None)
            }
            #[expect(deprecated, reason = "older clients send it; the layers come with the offer")]
            Request::UpdateLayers(_) => {}
        }
    }

    fn unsupported(&mut self, request_id: u32, what: &str, subject: Option<Subject>) {
        let message = format!("{what} are not supported by this server");
        self.respond(request_id, Reason::UnsupportedType, message, subject);
    }

    /// The node is ICE-lite and learns addresses from checks: candidates are passed on for diagnosis only.
    fn handle_trickle(&mut self, trickle: proto::TrickleRequest) {
        #[derive(serde::Deserialize)]
        struct CandidateInit {
            #[serde(default)]
            candidate: String,
        }
        let Ok(init) = serde_json::from_str::<CandidateInit>(&trickle.candidate_init) else {
            return self.refuse(
                0,
                &RequestError::Invalid(
                    "trickle: candidateInit is not the JSON of a candidate".into(),
                ),
                None,
            );
        };
        if init.candidate.is_empty() {
            return;
        }
        let role = if trickle.target == proto::SignalTarget::Subscriber as i32 {
            PeerRole::Subscriber
        } else {
            self.uplink.role
        };
        if let Some(peer) = self.peer_mut(role) {
            peer.add_candidate(init.candidate);
        }
    }

    pub(super) fn handle_add_track(&mut self, request: proto::AddTrackRequest) {
        let pending = self.publications.pending() + self.grants_in_flight;
        if pending >= self.config.max_pending_tracks {
            let limit = format!("{pending} tracks are announced and not yet sent");
            return self.refuse(
                0,
                &RequestError::LimitExceeded(limit),
                Some(Subject::AddTrack(request)),
            );
        }
        self.grants_in_flight += 1;
        self.command(RoomCommand::AddTrack(Box::new(request)));
    }

    fn handle_mute(&mut self, mute: proto::MuteTrackRequest, now: Instant) {
        if !self.publications.mute(&mute.sid, mute.muted) {
            let error = RequestError::NotFound(format!("track {}", mute.sid));
            return self.refuse(0, &error, Some(Subject::Mute(mute)));
        }
        self.command(RoomCommand::MuteTrack { track: TrackSid::from(mute.sid), muted: mute.muted });
        self.advance_uplink(now);
    }

    /// Refuses a request that names too many tracks.
    fn is_bounded(&mut self, named: usize) -> bool {
        if named > MAX_TRACKS_PER_REQUEST {
            let limit = format!("{named} named, at most {MAX_TRACKS_PER_REQUEST} at once");
            self.refuse(0, &RequestError::LimitExceeded(limit), None);
        }
        named <= MAX_TRACKS_PER_REQUEST
    }

    fn handle_subscription(&mut self, update: proto::UpdateSubscription) {
        let by_participant =
            update.participant_tracks.into_iter().flat_map(|tracks| tracks.track_sids);
        let tracks: Vec<_> =
            update.track_sids.into_iter().chain(by_participant).map(TrackSid::from).collect();
        if self.is_bounded(tracks.len()) && !tracks.is_empty() {
            self.command(RoomCommand::UpdateSubscription { tracks, subscribe: update.subscribe });
        }
    }

    fn handle_track_settings(&mut self, request: &proto::UpdateTrackSettings) {
        if !self.is_bounded(request.track_sids.len()) {
            return;
        }
        let settings = Settings::from_request(request);
        for sid in &request.track_sids {
            self.subscriptions.set(sid, settings);
        }
        if self.sending_peer().is_created() {
            let role = self.sending_peer().role;
            self.apply(role);
        }
    }

    fn handle_update_metadata(&mut self, request: proto::UpdateParticipantMetadata) {
        let present = |text: &String| (!text.is_empty()).then(|| text.clone());
        let update = ProfileUpdate {
            name: present(&request.name),
            metadata: present(&request.metadata),
            attributes: request.attributes.clone(),
        };
        self.command(RoomCommand::UpdateMetadata { request: Box::new(request), update });
    }

    /// After a resume the client says what it believes.
    pub(super) fn handle_sync_state(&mut self, sync: proto::SyncState, now: Instant) {
        let known = |published: &proto::TrackPublishedResponse| {
            published.track.as_ref().is_none_or(|track| self.publications.contains(&track.sid))
        };
        if !sync.publish_tracks.iter().all(known) {
            tracing::info!(participant = %self.facts.sid, "resumed with a track that is unknown here");
            self.finish(
                proto::DisconnectReason::StateMismatch,
                proto::leave_request::Action::Reconnect,
            );
            return;
        }
        if let Some(subscription) = sync.subscription {
            self.handle_subscription(subscription);
        }
        if self.is_bounded(sync.track_sids_disabled.len()) {
            self.subscriptions.set_disabled(&sync.track_sids_disabled);
        }
        self.update_downlink(now);
    }

    fn handle_simulate(&mut self, simulate: proto::SimulateScenario, now: Instant) {
        use proto::{DisconnectReason, leave_request::Action, simulate_scenario::Scenario};
        let Some(scenario) = simulate.scenario else { return };
        match scenario {
            Scenario::SpeakerUpdate(seconds) => {
                let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
                    .min(MAX_SIMULATED_SPEECH);
                self.simulate_speaker(Some(duration), now);
            }
            Scenario::NodeFailure(_) | Scenario::LeaveRequestFullReconnect(_) => {
                self.finish(DisconnectReason::StateMismatch, Action::Reconnect);
            }
            Scenario::Migration(_) => self.close_signal(),
            Scenario::ServerLeave(_) => {
                self.finish(DisconnectReason::ServerShutdown, Action::Disconnect)
            }
            Scenario::SwitchCandidateProtocol(protocol) => {
                let force_tcp = protocol != proto::CandidateProtocol::Udp as i32;
                self.force_tcp(force_tcp);
                // SDKs join anew by themselves; the room remembers it for them.
                self.command(RoomCommand::ForceTcp(force_tcp));
                // Others restart ICE when they resume, and then find the other candidates.
                self.send(super::leave_message(DisconnectReason::UnknownReason, Action::Resume));
                self.close_signal();
            }
            Scenario::SubscriberBandwidth(bits_per_second) => {
                // 0 ends the scenario; less than nothing is no rate.
                let Ok(cap) = u64::try_from(bits_per_second) else {
                    let error = RequestError::Invalid("subscriberBandwidth: below 0".into());
                    return self.refuse(0, &error, None);
                };
                self.cap_downlink(cap);
            }
            Scenario::DisconnectSignalOnResume(_) => {
                self.cut_on_resume = Some(CutOnResume::AfterMessages);
                self.close_signal();
            }
            Scenario::DisconnectSignalOnResumeNoMessages(_) => {
                self.cut_on_resume = Some(CutOnResume::BeforeMessages);
                self.close_signal();
            }
        }
    }

    /// From the next description on, the client is told of ICE-TCP candidates alone.
    pub(super) fn force_tcp(&mut self, forced: bool) {
        self.uplink.force_tcp = forced;
        if let Some(downlink) = &mut self.downlink {
            downlink.force_tcp = forced;
        }
    }

    fn cap_downlink(&mut self, bits_per_second: u64) {
        let peer = self.downlink.as_mut().unwrap_or(&mut self.uplink);
        peer.max_egress_bitrate = bits_per_second;
        let (role, created) = (peer.role, peer.is_created());
        if created {
            self.apply(role);
        }
    }
}
