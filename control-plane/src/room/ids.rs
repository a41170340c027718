//! Ids of the wire protocol: a prefix and random letters and digits.

use livekit_protocol as proto;
use rand::{Rng, distr::Alphanumeric};

use super::types::{ParticipantSid, PeerRole, TrackSid};

fn random_text(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

pub(super) fn room_sid() -> String {
    format!("RM_{}", random_text(12))
}

pub(super) fn participant_sid() -> ParticipantSid {
    ParticipantSid(format!("PA_{}", random_text(12)).into())
}

/// Two letters say what the track is, as clients and logs expect it.
pub(super) fn track_sid(kind: proto::TrackType, source: proto::TrackSource) -> TrackSid {
    let kind = if kind == proto::TrackType::Audio { 'A' } else { 'V' };
    let source = match source {
        proto::TrackSource::Camera => 'C',
        proto::TrackSource::Microphone => 'M',
        proto::TrackSource::ScreenShare => 'S',
        proto::TrackSource::ScreenShareAudio => 's',
        proto::TrackSource::Unknown => 'U',
    };
    TrackSid(format!("TR_{kind}{source}{}", random_text(12)).into())
}

/// The track that a node's track id stands for: variants are "<sid>/<codec>".
pub(super) fn track_of(node_track_id: &str) -> TrackSid {
    let sid = node_track_id.split_once('/').map_or(node_track_id, |(sid, _)| sid);
    TrackSid(sid.into())
}

/// The node's id of a participant's peer.
pub(super) fn peer_id(sid: &ParticipantSid, role: PeerRole) -> String {
    match role {
        PeerRole::Single => sid.to_string(),
        PeerRole::Publisher => format!("{sid}/p"),
        PeerRole::Subscriber => format!("{sid}/s"),
    }
}

/// Reads [`peer_id`] back.
pub(super) fn peer_of(id: &str) -> Option<(ParticipantSid, PeerRole)> {
    let (sid, role) = match id.split_once('/') {
        None => (id, PeerRole::Single),
        Some((sid, "p")) => (sid, PeerRole::Publisher),
        Some((sid, "s")) => (sid, PeerRole::Subscriber),
        Some(_) => return None,
    };
    Some((ParticipantSid(sid.into()), role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_shape_of_the_wire_protocol() {
        let track = track_sid(proto::TrackType::Video, proto::TrackSource::ScreenShare);
        assert!(track.0.starts_with("TR_VS") && track.0.len() == 17, "{track}");
        let track = track_sid(proto::TrackType::Audio, proto::TrackSource::Microphone);
        assert!(track.0.starts_with("TR_AM"), "{track}");
        assert_eq!(room_sid().len(), 15);
        assert_ne!(participant_sid(), participant_sid());
    }

    #[test]
    fn peer_ids_read_back() {
        let sid = participant_sid();
        for role in [PeerRole::Single, PeerRole::Publisher, PeerRole::Subscriber] {
            let id = peer_id(&sid, role);
            assert!(id.len() <= 23, "the node keeps longer ones elsewhere: {id}");
            assert_eq!(peer_of(&id), Some((sid.clone(), role)));
        }
        assert_eq!(peer_of("PA_x/q"), None);
        assert_eq!(track_of("TR_VCabc/vp8"), TrackSid("TR_VCabc".into()));
    }
}
