//! Who speaks, as the wire protocol tells it: changes only. The node elects, tracks become participants here.

use std::collections::BTreeMap;

use chappe_proto::node::v1 as node;
use livekit_protocol as proto;

use super::RoomState;
use crate::room::{ids, types::*};

/// Levels of those who speak now.
pub(super) type Speaking = BTreeMap<ParticipantSid, f32>;

impl RoomState {
    /// The node said who is heard now: everybody else is silent. Of several tracks of a participant the loudest counts.
    pub(in crate::room) fn speakers(&mut self, heard: &[node::Speaker]) {
        let mut now = Speaking::new();
        for speaker in heard {
            let Some(sid) = self.publisher_of(&ids::track_of(&speaker.track_id)) else { continue };
            if self.participants.get(&sid).is_none_or(|own| own.permissions.hidden) {
                continue;
            }
            let level = now.entry(sid).or_default();
            *level = level.max(speaker.level);
        }
        let silent = self.speaking.keys().filter(|sid| !now.contains_key(*sid));
        // Who left is known to be silent.
        let silent = silent.filter(|sid| self.participants.contains_key(*sid));
        let silent = silent.map(|sid| told(sid, 0.0, false));
        let others = now.iter().filter(|(sid, level)| self.speaking.get(*sid) != Some(*level));
        let others = others.map(|(sid, level)| told(sid, *level, true));
        let speakers: Vec<_> = others.chain(silent).collect();
        self.speaking = now;
        if !speakers.is_empty() {
            self.broadcast(&RoomEvent::Speakers(proto::SpeakersChanged { speakers }), None);
        }
    }

    /// Tells a participant who was away who speaks and who does not.
    pub(super) fn retell_speakers(&mut self, to: &ParticipantSid) {
        let shown = self.participants.values().filter(|one| !one.permissions.hidden);
        let speakers: Vec<_> = shown
            .map(|one| match self.speaking.get(&one.sid) {
                Some(level) => told(&one.sid, *level, true),
                None => told(&one.sid, 0.0, false),
            })
            .collect();
        self.tell(to, RoomEvent::Speakers(proto::SpeakersChanged { speakers }));
    }

    /// Tells a participant who is new here who speaks.
    pub(super) fn tell_speakers(&mut self, to: &ParticipantSid) {
        let speakers: Vec<_> =
            self.speaking.iter().map(|(sid, level)| told(sid, *level, true)).collect();
        if !speakers.is_empty() {
            self.tell(to, RoomEvent::Speakers(proto::SpeakersChanged { speakers }));
        }
    }
}

fn told(sid: &ParticipantSid, level: f32, active: bool) -> proto::SpeakerInfo {
    proto::SpeakerInfo { sid: sid.to_string(), level, active }
}
