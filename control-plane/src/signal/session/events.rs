//! What the room says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_proto::node::v1 as node;
use livekit_protocol::{self as proto, signal_response::Message};

use super::{Effect, Known, Session, deadline::Deadline};
use crate::room::{CROWD, News, PeerRole, RoomEvent, TrackSid};

impl Session {
    /// The room has news.
    pub fn handle_room(&mut self, event: RoomEvent, now: Instant) {
        if self.ended {
            return;
        }
        match event {
            RoomEvent::Participants(participants) => self.handle_participants(participants),
            RoomEvent::News(news) => self.handle_news(news),
            RoomEvent::Room(room) => {
                self.send(Message::RoomUpdate(proto::RoomUpdate { room: Some(room) }))
            }
            RoomEvent::Subscribe(track) => {
                let peer = self.downlink.as_mut().unwrap_or(&mut self.uplink);
                self.subscriptions.put(track, &mut peer.negotiator);
                self.update_downlink(now);
            }
            RoomEvent::Unsubscribe { track, .. } => {
                let peer = self.downlink.as_mut().unwrap_or(&mut self.uplink);
                if self.subscriptions.remove(&track, &mut peer.negotiator) {
                    self.update_downlink(now);
                }
            }
            RoomEvent::SubscriptionPermission { publisher, track, allowed } => {
                let (participant_sid, track_sid) = (publisher.to_string(), track.to_string());
                let update =
                    proto::SubscriptionPermissionUpdate { participant_sid, track_sid, allowed };
                self.send(Message::SubscriptionPermissionUpdate(update));
            }
            RoomEvent::TrackSubscribed(track) => {
                self.send(Message::TrackSubscribed(proto::TrackSubscribed {
                    track_sid: track.to_string(),
                }));
            }
            RoomEvent::TrackUnpublished(track) => self.handle_unpublished(&track, now),
            RoomEvent::Muted { track, muted } => {
                self.publications.mute(&track.0, muted);
                self.send(Message::Mute(proto::MuteTrackRequest { sid: track.to_string(), muted }));
                self.advance_uplink(now);
            }
            RoomEvent::SubscribedQuality(update) => {
                let track = update.track_sid.clone();
                self.demand(track, Message::SubscribedQualityUpdate(update));
            }
            RoomEvent::SubscribedAudioCodecs(update) => {
                let track = update.track_sid.clone();
                self.demand(track, Message::SubscribedAudioCodecUpdate(update));
            }
            RoomEvent::StreamStates(update) => self.send(Message::StreamStateUpdate(update)),
            RoomEvent::ConnectionQuality(update) => {
                self.send(Message::ConnectionQuality(update));
            }
            RoomEvent::Speakers(speakers) => self.send(Message::SpeakersChanged(speakers)),
            RoomEvent::Permissions(permissions) => {
                self.facts.permissions = permissions;
                self.refresh_token(now);
                self.advance_uplink(now);
                self.begin_downlink();
            }
            RoomEvent::PeerConnected(_) => {
                self.active = true;
                self.deadlines.clear(Deadline::Join);
            }
            RoomEvent::DataReady(_) => {}
            RoomEvent::PeerLost { role, reason } => self.handle_peer_lost(role, reason),
            RoomEvent::DataOverflow(_) => {
                self.finish(
                    proto::DisconnectReason::StateMismatch,
                    proto::leave_request::Action::Reconnect,
                );
            }
            RoomEvent::Closed { reason, action } => {
                self.send(super::leave_message(reason, action));
                self.end();
            }
        }
    }

    /// Tells the client what is wanted of its track.
    fn demand(&mut self, track: String, message: Message) {
        self.demands.insert(track, message.clone());
        self.send(message);
    }

    /// The room has a track of this client no more.
    pub(super) fn handle_unpublished(&mut self, track: &TrackSid, now: Instant) {
        self.publications.remove(track);
        self.demands.remove(&*track.0);
        let track_sid = track.to_string();
        self.send(Message::TrackUnpublished(proto::TrackUnpublishedResponse { track_sid }));
        self.advance_uplink(now);
    }

    /// A client with two PeerConnections that may take tracks gets an offer, even with nothing to take: it waits for
    /// that PeerConnection.
    pub(super) fn begin_downlink(&mut self) {
        let wanted = self.facts.permissions.can_subscribe;
        if wanted
            && self
                .downlink
                .as_ref()
                .is_some_and(|downlink| !downlink.is_created() && !downlink.is_busy())
        {
            self.apply(PeerRole::Subscriber);
        }
    }

    /// Viewers of a crowd are not remembered: which of them left while a client was away is what the room says it is.
    fn handle_news(&mut self, news: Arc<News>) {
        for participant in &news.participants {
            let gone = participant.state == proto::participant_info::State::Disconnected as i32;
            let sid = &participant.sid;
            if !gone && (self.known.len() < CROWD || self.known.contains_key(sid)) {
                self.known.insert(sid.clone(), Known::of(participant));
            } else {
                self.known.remove(sid);
            }
        }
        if self.attached {
            self.effects.push_back(Effect::Announce(news));
        }
    }

    fn handle_participants(&mut self, participants: Vec<proto::ParticipantInfo>) {
        for participant in &participants {
            if participant.state == proto::participant_info::State::Disconnected as i32 {
                self.known.remove(&participant.sid);
                continue;
            }
            for track in &participant.tracks {
                self.subscriptions.update_info(track);
            }
            self.known.insert(participant.sid.clone(), Known::of(participant));
        }
        self.send_participants(participants);
    }

    /// The node forgot a peer: its keys are gone, so only a new PeerConnection helps.
    fn handle_peer_lost(&mut self, role: PeerRole, reason: node::LostReason) {
        tracing::info!(participant = %self.facts.sid, ?role, ?reason, "media connection lost");
        let reason = match reason {
            node::LostReason::Closed => proto::DisconnectReason::ClientInitiated,
            node::LostReason::DtlsFailed if !self.active => proto::DisconnectReason::JoinFailure,
            _ => proto::DisconnectReason::ConnectionTimeout,
        };
        self.finish(reason, proto::leave_request::Action::Reconnect);
    }

    /// Says that this participant speaks, or (after the time) that it stopped.
    pub(super) fn simulate_speaker(&mut self, duration: Option<Duration>, now: Instant) {
        let active = duration.is_some();
        let sid = self.facts.sid.to_string();
        let level = if active { 0.9 } else { 0.0 };
        let speakers = vec![proto::SpeakerInfo { sid, level, active }];
        self.send(Message::SpeakersChanged(proto::SpeakersChanged { speakers }));
        if let Some(duration) = duration {
            self.deadlines.set(Deadline::SpeakerEnd, now + duration);
        }
    }

    pub(super) fn close_signal(&mut self) {
        self.effects.push_back(Effect::CloseSignal);
    }
}
