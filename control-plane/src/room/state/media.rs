//! What the media node says.

use chappe_proto::node::v1 as node;
use livekit_protocol as proto;

use super::{END_WITHIN, Now, RoomState, participant::Stage, quality::codec_name, track::Track};
use crate::room::{ids, types::*};

impl RoomState {
    /// A peer of a participant has media now.
    pub(in crate::room) fn peer_connected(&mut self, sid: &ParticipantSid, role: PeerRole) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let activates = role == participant.primary_peer() && participant.stage == Stage::Joined;
        if activates {
            participant.stage = Stage::Active;
            participant.connect_by = None;
        }
        self.tell(sid, RoomEvent::PeerConnected(role));
        if activates {
            // Nothing to save: who takes the room over asks the node whose media is connected.
            self.tell_anew(sid, true, false);
        }
    }

    /// A peer of a participant is gone from the node. Its session says the last word, if it is there.
    pub(in crate::room) fn peer_lost(
        &mut self,
        sid: &ParticipantSid,
        role: PeerRole,
        reason: node::LostReason,
        now: Now,
    ) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if !participant.attached {
            let why = match reason {
                node::LostReason::Closed => proto::DisconnectReason::ClientInitiated,
                _ => proto::DisconnectReason::ConnectionTimeout,
            };
            self.leave(sid, why, now);
            return;
        }
        participant.end_by.get_or_insert(now.mono + END_WITHIN);
        self.tell(sid, RoomEvent::PeerLost { role, reason });
    }

    pub(in crate::room) fn data_ready(&mut self, sid: &ParticipantSid, role: PeerRole) {
        self.tell(sid, RoomEvent::DataReady(role));
    }

    pub(in crate::room) fn data_overflow(&mut self, sid: &ParticipantSid, role: PeerRole) {
        self.tell(sid, RoomEvent::DataOverflow(role));
    }

    /// Which tracks a subscriber's bandwidth has room for. Whoever knows it already is told again.
    pub(in crate::room) fn stream_states<'a>(
        &mut self,
        sid: &ParticipantSid,
        states: impl IntoIterator<Item = (&'a str, bool)>,
    ) {
        use proto::StreamState::{Active, Paused};
        let told = states.into_iter().filter_map(|(node_track_id, paused)| {
            let track = ids::track_of(node_track_id);
            let publisher = self.publisher_of(&track)?;
            Some(proto::StreamStateInfo {
                participant_sid: publisher.to_string(),
                track_sid: track.to_string(),
                state: if paused { Paused } else { Active }.into(),
            })
        });
        let stream_states: Vec<_> = told.collect();
        if !stream_states.is_empty() {
            self.tell(sid, RoomEvent::StreamStates(proto::StreamStateUpdate { stream_states }));
        }
    }

    /// What all subscribers of a track together want changed.
    pub(in crate::room) fn layer_demand(
        &mut self,
        node_track_id: &str,
        max_layer: Option<u32>,
        now: Now,
    ) {
        let track_sid = ids::track_of(node_track_id);
        let Some(publisher) = self.publisher_of(&track_sid) else { return };
        let Ok(track) = self.own_track(&publisher, &track_sid) else { return };
        let variant = track.variants.iter().find(|variant| variant.node_track_id == node_track_id);
        let Some(variant) = variant else { return };
        let codec = codec_name(&variant.mime_type);
        // Sound has no layers: it is wanted or not.
        let audio = track.info.r#type() == proto::TrackType::Audio;
        let max_layer = max_layer.map(|layer| if audio { u32::MAX } else { layer });
        if track.quality.demand(&codec, max_layer, now.mono) {
            let demand = track.tell_demand();
            self.tell(&publisher, demand);
        }
    }

    pub(super) fn tell_due_qualities(&mut self, now: Now) {
        let is_due = |track: &Track| track.quality.due.is_some_and(|due| due <= now.mono);
        let late = self.participants.values().filter(|one| one.tracks.values().any(is_due));
        let late: Vec<_> = late.map(|participant| participant.sid.clone()).collect();
        for publisher in late {
            let Some(participant) = self.participants.get_mut(&publisher) else { continue };
            let tracks = participant.tracks.values_mut().filter(|track| is_due(track));
            let demands: Vec<_> = tracks.map(Track::tell_demand).collect();
            for demand in demands {
                self.tell(&publisher, demand);
            }
        }
    }
}
