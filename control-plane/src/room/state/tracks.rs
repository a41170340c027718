//! What participants publish.

use livekit_protocol as proto;

use super::{Effect, RoomState, participant::Participant, track::Track};
use crate::room::types::*;

/// Most tracks of one participant, announced or published.
const MAX_TRACKS: usize = 64;
/// Most codecs of one track, layers of one codec, or features.
pub(super) const MAX_LAYERS: usize = 16;
/// Longest name, stream, client's id or codec of a track, bytes.
const MAX_TEXT: usize = 256;

impl RoomState {
    /// Announces a track, or a backup codec of one.
    pub(in crate::room) fn add_track(
        &mut self,
        sid: &ParticipantSid,
        request: proto::AddTrackRequest,
    ) -> Result<proto::TrackInfo, RequestError> {
        let participant = self.participants.get_mut(sid).ok_or(RequestError::Closed)?;
        if !participant.may_publish(request.source()) {
            let what = format!("publishing from {}", request.source().as_str_name());
            return Err(RequestError::NotAllowed(what));
        }
        check_announcement(&request)?;
        if request.r#type() == proto::TrackType::Data {
            return Err(RequestError::Invalid("only audio and video tracks are added".to_owned()));
        }
        if !request.sid.is_empty() {
            let known = TrackSid(request.sid.as_str().into());
            let track = participant.tracks.get_mut(&known);
            let track = track.ok_or_else(|| RequestError::NotFound(format!("track {known}")))?;
            track.add_codecs(request.simulcast_codecs)?;
            let info = track.info.clone();
            self.effects.push_back(Effect::Save);
            return Ok(info);
        }
        let again = participant.tracks.values().find(|track| {
            !track.is_published() && !track.cid.is_empty() && track.cid == request.cid
        });
        if let Some(again) = again {
            return Ok(again.info.clone());
        }
        if participant.tracks.len() >= MAX_TRACKS {
            return Err(RequestError::LimitExceeded(format!("{MAX_TRACKS} tracks")));
        }
        let track = Track::announced(request);
        let info = track.info.clone();
        participant.tracks.insert(track.sid.clone(), track);
        self.effects.push_back(Effect::Save);
        Ok(info)
    }

    /// The track's media sections are negotiated.
    pub(in crate::room) fn publish(
        &mut self,
        sid: &ParticipantSid,
        track_sid: &TrackSid,
        info: PublishedInfo,
    ) -> Result<(), RequestError> {
        let was_publisher = self.participants.get(sid).is_some_and(Participant::is_publisher);
        let track = self.own_track(sid, track_sid)?;
        let was_published = track.is_published();
        if !track.publish(info)? {
            return Ok(());
        }
        let taken_by: Vec<_> = track.subscribers.iter().cloned().collect();
        let renewed = track.for_subscriber(sid);
        self.changed(sid, false);
        for subscriber in taken_by {
            self.tell(&subscriber, RoomEvent::Subscribe(renewed.clone()));
        }
        if let Some(publisher) = self.participants.get(sid).filter(|_| !was_publisher) {
            let permissions = publisher.permissions.clone();
            self.counts_changed(&permissions);
            // In a crowd nobody else was told of a viewer's.
            self.quality_changed(sid);
        }
        if !was_published {
            self.settle_track(sid, track_sid);
        }
        Ok(())
    }

    /// Ends a track, published or announced.
    pub(in crate::room) fn unpublish(
        &mut self,
        sid: &ParticipantSid,
        track: &TrackSid,
    ) -> Result<(), RequestError> {
        self.own_track(sid, track)?;
        if self.remove_track(sid, track) {
            self.changed_from(sid, false, true);
        }
        Ok(())
    }

    /// True where it was published.
    pub(super) fn remove_track(&mut self, sid: &ParticipantSid, track_sid: &TrackSid) -> bool {
        let Some(participant) = self.participants.get_mut(sid) else { return false };
        let Some(track) = participant.tracks.remove(track_sid) else { return false };
        let permissions = participant.permissions.clone();
        let is_publisher = participant.is_publisher();
        self.withdraw(sid, &track);
        for wishes in self.participants.wishes_mut() {
            wishes.remove(track_sid);
        }
        if track.is_published() && !is_publisher {
            self.counts_changed(&permissions);
        }
        self.effects.push_back(Effect::Save);
        track.is_published()
    }

    /// The publisher or an API mutes or unmutes a track.
    pub(in crate::room) fn mute(
        &mut self,
        sid: &ParticipantSid,
        track_sid: &TrackSid,
        muted: bool,
        by_itself: bool,
    ) -> Result<(), RequestError> {
        let remote_unmute = self.remote_unmute;
        let track = self.own_track(sid, track_sid)?;
        if track.info.muted == muted {
            return Ok(());
        }
        if !by_itself && !muted && !remote_unmute {
            let refused = "the server does not unmute the tracks of others".to_owned();
            return Err(RequestError::NotAllowed(refused));
        }
        track.info.muted = muted;
        let published = track.is_published();
        if !by_itself {
            self.tell(sid, RoomEvent::Muted { track: track_sid.clone(), muted });
        }
        if published {
            self.changed(sid, false);
        } else {
            self.effects.push_back(Effect::Save);
        }
        Ok(())
    }

    pub(in crate::room) fn update_local_audio(
        &mut self,
        sid: &ParticipantSid,
        update: proto::UpdateLocalAudioTrack,
    ) -> Result<(), RequestError> {
        let mut features = update.features;
        features.truncate(MAX_LAYERS);
        self.edit_track(sid, &update.track_sid, |info| info.audio_features = features)
    }

    pub(in crate::room) fn update_local_video(
        &mut self,
        sid: &ParticipantSid,
        update: proto::UpdateLocalVideoTrack,
    ) -> Result<(), RequestError> {
        self.edit_track(sid, &update.track_sid, |info| {
            (info.width, info.height) = (update.width, update.height);
        })
    }

    fn edit_track(
        &mut self,
        sid: &ParticipantSid,
        track: &str,
        edit: impl FnOnce(&mut proto::TrackInfo),
    ) -> Result<(), RequestError> {
        let track = self.own_track(sid, &TrackSid(track.into()))?;
        let before = track.info.clone();
        edit(&mut track.info);
        if track.info != before && track.is_published() {
            self.changed(sid, false);
        }
        Ok(())
    }

    pub(super) fn own_track(
        &mut self,
        sid: &ParticipantSid,
        track: &TrackSid,
    ) -> Result<&mut Track, RequestError> {
        let participant = self.participants.get_mut(sid).ok_or(RequestError::Closed)?;
        let found = participant.tracks.get_mut(track);
        found.ok_or_else(|| RequestError::NotFound(format!("track {track}")))
    }
}

/// Everything in an announcement is kept and told to others: it is bounded.
fn check_announcement(request: &proto::AddTrackRequest) -> Result<(), RequestError> {
    let codecs = &request.simulcast_codecs;
    let layers = || codecs.iter().flat_map(|codec| &codec.layers).chain(&request.layers);
    let named = [("name", &request.name), ("stream", &request.stream), ("cid", &request.cid)];
    let of_codecs = codecs.iter().flat_map(|codec| [("codec", &codec.codec), ("cid", &codec.cid)]);
    let of_layers = layers().map(|layer| ("rid", &layer.rid));
    for (what, text) in named.into_iter().chain(of_codecs).chain(of_layers) {
        if text.len() > MAX_TEXT {
            return Err(RequestError::LimitExceeded(format!("{what} over {MAX_TEXT} bytes")));
        }
    }
    let most_layers = codecs.iter().map(|codec| codec.layers.len()).max().unwrap_or(0);
    let counts = [
        ("simulcast_codecs", codecs.len()),
        ("layers", request.layers.len().max(most_layers)),
        ("audio_features", request.audio_features.len()),
        ("packet_trailer_features", request.packet_trailer_features.len()),
    ];
    match counts.into_iter().find(|(_, count)| *count > MAX_LAYERS) {
        Some((what, _)) => {
            Err(RequestError::LimitExceeded(format!("more than {MAX_LAYERS} {what}")))
        }
        None => Ok(()),
    }
}
