//! Who takes which track: what a participant wants, what it may take, and what follows.

use std::collections::BTreeSet;

use livekit_protocol as proto;

use super::{
    Effect, Now, RoomState, audience::Audience, participant::Participant, quality::codec_name,
    track::Track,
};
use crate::room::types::*;

/// Most tracks that one participant may name, present or not.
const MAX_WISHES: usize = 4_096;
/// Longest name of a track that may exist one day, bytes: ours are shorter.
const MAX_TRACK_SID: usize = 64;

impl RoomState {
    /// A participant takes or leaves tracks by name. Names of unknown tracks count once they appear.
    pub(in crate::room) fn subscribe(
        &mut self,
        sid: &ParticipantSid,
        tracks: Vec<TrackSid>,
        subscribe: bool,
    ) -> Result<(), RequestError> {
        let participant = self.participants.get_mut(sid).ok_or(RequestError::Closed)?;
        if subscribe && !participant.permissions.can_subscribe {
            return Err(RequestError::NotAllowed("taking tracks".to_owned()));
        }
        if tracks.iter().any(|track| track.0.len() > MAX_TRACK_SID) {
            return Err(RequestError::Invalid(format!("a track sid over {MAX_TRACK_SID} bytes")));
        }
        let named: BTreeSet<_> = tracks.iter().collect();
        let unknown = named.iter().filter(|track| !participant.wishes.contains_key(**track));
        if participant.wishes.len() + unknown.count() > MAX_WISHES {
            return Err(RequestError::LimitExceeded(format!("{MAX_WISHES} tracks named")));
        }
        participant.wishes.extend(tracks.iter().map(|track| (track.clone(), subscribe)));
        for track in &tracks {
            let Some(publisher) = self.publisher_of(track) else { continue };
            if subscribe && !self.admitted(sid, &publisher, track) {
                let (publisher, track) = (publisher.clone(), track.clone());
                let refused =
                    RoomEvent::SubscriptionPermission { publisher, track, allowed: false };
                self.tell(sid, refused);
            }
            self.settle(sid, &publisher, track, false);
        }
        self.effects.push_back(Effect::Save);
        Ok(())
    }

    /// A publisher says who may take its tracks.
    pub(in crate::room) fn set_audience(
        &mut self,
        sid: &ParticipantSid,
        said: proto::SubscriptionPermission,
    ) -> Result<(), RequestError> {
        let publisher = self.participants.get(sid).ok_or(RequestError::Closed)?;
        let audience = Audience::new(said)?;
        let tracks: Vec<_> = publisher.published().map(|track| track.sid.clone()).collect();
        let others: Vec<_> =
            self.participants.keys().filter(|other| *other != sid).cloned().collect();
        let pairs =
            || others.iter().flat_map(|other| tracks.iter().map(move |track| (other, track)));
        let before: Vec<_> =
            pairs().map(|(other, track)| self.admitted(other, sid, track)).collect();
        if let Some(publisher) = self.participants.get_mut(sid) {
            publisher.audience = Some(audience);
        }
        for ((other, track), before) in pairs().zip(before) {
            let allowed = self.admitted(other, sid, track);
            if allowed == before {
                continue;
            }
            if self.participants.get(other).is_some_and(|other| other.wants(track)) {
                let (publisher, track) = (sid.clone(), track.clone());
                self.tell(other, RoomEvent::SubscriptionPermission { publisher, track, allowed });
            }
            self.settle(other, sid, track, !allowed);
        }
        self.effects.push_back(Effect::Save);
        Ok(())
    }

    /// A subscriber can decode none of a track's variants: asks its publisher for an announced one.
    pub(in crate::room) fn need_codec(
        &mut self,
        sid: &ParticipantSid,
        track_sid: &TrackSid,
        mime_types: &[String],
        now: Now,
    ) -> Result<(), RequestError> {
        let missing = || RequestError::NotFound(format!("a usable codec of track {track_sid}"));
        let publisher = self.publisher_of(track_sid).ok_or_else(missing)?;
        if !self.takes(sid, &publisher, track_sid) {
            return Err(RequestError::NotFound(format!("track {track_sid}")));
        }
        let track = self.own_track(&publisher, track_sid)?;
        let usable = |codec: &&proto::SimulcastCodecInfo| {
            mime_types.iter().any(|usable| usable.eq_ignore_ascii_case(&codec.mime_type))
        };
        let codec = track.info.codecs.iter().find(usable).ok_or_else(missing)?;
        let name = codec_name(&codec.mime_type);
        let published = track
            .variants
            .iter()
            .any(|variant| variant.mime_type.eq_ignore_ascii_case(&codec.mime_type));
        if !published && track.quality.need(&name, now.mono) {
            let demand = track.tell_demand();
            self.tell(&publisher, demand);
        }
        Ok(())
    }

    pub(super) fn publisher_of(&self, track: &TrackSid) -> Option<ParticipantSid> {
        let mut all = self.participants.values();
        all.find(|publisher| publisher.tracks.contains_key(track)).map(|found| found.sid.clone())
    }

    fn admitted(&self, sid: &ParticipantSid, publisher: &ParticipantSid, track: &TrackSid) -> bool {
        let pair = self.participants.get(publisher).zip(self.participants.get(sid));
        pair.is_some_and(|(publisher, subscriber)| publisher.admits(subscriber, track))
    }

    /// The rule: may take, wants to take, and there is something to take.
    fn takes(&self, sid: &ParticipantSid, publisher: &ParticipantSid, track: &TrackSid) -> bool {
        let pair = self.participants.get(publisher).zip(self.participants.get(sid));
        let Some((publisher, subscriber)) = pair else { return false };
        publisher.sid != subscriber.sid
            && !publisher.permissions.hidden
            && publisher.tracks.get(track).is_some_and(Track::is_published)
            && subscriber.permissions.can_subscribe
            && subscriber.wants(track)
            && publisher.admits(subscriber, track)
    }

    /// Makes one subscription be as the rule says.
    pub(super) fn settle(
        &mut self,
        sid: &ParticipantSid,
        publisher: &ParticipantSid,
        track_sid: &TrackSid,
        permission_lost: bool,
    ) {
        let takes = self.takes(sid, publisher, track_sid);
        let had = self.participants.get(sid).is_some_and(|own| own.taken.contains_key(track_sid));
        if takes == had {
            return;
        }
        if !takes {
            let variants = self.forget_subscriber(publisher, track_sid, sid);
            self.drop_taken(sid, track_sid, variants, permission_lost);
            return;
        }
        if let Some(own) = self.participants.get_mut(sid) {
            own.taken.insert(track_sid.clone(), publisher.clone());
        }
        let Ok(track) = self.own_track(publisher, track_sid) else { return };
        track.subscribers.insert(sid.clone());
        let first = !std::mem::replace(&mut track.told_subscribed, true);
        let event = RoomEvent::Subscribe(track.for_subscriber(publisher));
        self.tell(sid, event);
        if first {
            self.tell(publisher, RoomEvent::TrackSubscribed(track_sid.clone()));
        }
    }

    /// Everything that this participant could take.
    pub(super) fn settle_subscriber(&mut self, sid: &ParticipantSid) {
        let others = self.participants.values().filter(|other| other.sid != *sid);
        let all: Vec<_> = others
            .flat_map(|other| other.published().map(|track| (other.sid.clone(), track.sid.clone())))
            .collect();
        for (publisher, track) in all {
            self.settle(sid, &publisher, &track, false);
        }
    }

    /// Everybody who could take this track.
    pub(super) fn settle_track(&mut self, publisher: &ParticipantSid, track: &TrackSid) {
        let others: Vec<_> = self.participants.keys().cloned().collect();
        for other in others {
            self.settle(&other, publisher, track, false);
        }
    }

    /// Everybody who could take a track of this participant.
    pub(super) fn settle_publisher(&mut self, publisher: &ParticipantSid) {
        let tracks: Vec<_> = self
            .participants
            .get(publisher)
            .map(|found| found.tracks.keys().cloned().collect())
            .unwrap_or_default();
        for track in tracks {
            self.settle_track(publisher, &track);
        }
    }

    /// A track is no more: everybody who takes it hears so.
    pub(super) fn withdraw(&mut self, publisher: &ParticipantSid, track: &Track) {
        debug_assert!(
            self.participants.get(publisher).is_none_or(|own| !own.tracks.contains_key(&track.sid))
        );
        let variants: Vec<_> =
            track.variants.iter().map(|variant| variant.node_track_id.clone()).collect();
        for subscriber in &track.subscribers {
            self.drop_taken(subscriber, &track.sid, variants.clone(), false);
        }
    }

    /// The publisher's side of an ended subscription. Returns the node's ids of the track.
    pub(super) fn forget_subscriber(
        &mut self,
        publisher: &ParticipantSid,
        track: &TrackSid,
        sid: &ParticipantSid,
    ) -> Vec<String> {
        let Ok(track) = self.own_track(publisher, track) else { return Vec::new() };
        track.subscribers.remove(sid);
        track.variants.iter().map(|variant| variant.node_track_id.clone()).collect()
    }

    /// The subscriber's side of an ended subscription.
    fn drop_taken(
        &mut self,
        sid: &ParticipantSid,
        track: &TrackSid,
        variants: Vec<String>,
        permission_lost: bool,
    ) {
        let Some(own) = self.participants.get_mut(sid) else { return };
        own.taken.remove(track);
        if own.attached {
            self.tell(sid, RoomEvent::Unsubscribe { track: track.clone(), permission_lost });
        } else {
            self.effects.push_back(Effect::Withdraw(sid.clone(), variants));
        }
    }

    /// Subscriptions follow from the rest: makes them anew after a rebuild.
    pub(super) fn settle_all(&mut self) {
        let all: Vec<_> =
            self.participants.values().map(|own: &Participant| own.sid.clone()).collect();
        for sid in all {
            self.settle_subscriber(&sid);
        }
    }
}
