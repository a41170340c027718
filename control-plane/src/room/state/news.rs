//! What everybody is told of together: viewers that came and left, the counts, and how participants are connected. The
//! first of it in a while is told at once, what follows within a second in one go, encoded once.
//!
//! Told one by one, each viewer that joins a room of a thousand costs two thousand messages, and of the twenty messages of a
//! join into a room of ten, fourteen went to the others. Publishers are told at once in rooms of any size.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use livekit_protocol as proto;

use super::{CROWD, Now, Participant, RoomState};
use crate::{
    auth::Permissions,
    room::{News, types::*},
};

/// Between two rounds of news. The wire protocol's own server waits three seconds; one is seen as at once.
const NEWS_EVERY: Duration = Duration::from_secs(1);

/// News that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    changed: BTreeSet<ParticipantSid>,
    gone: Vec<proto::ParticipantInfo>,
    /// How many participants and publishers there are.
    counts: bool,
    /// Whose connection is not as others were told last, if they were.
    qualities: BTreeSet<ParticipantSid>,
    /// The next round, where there are news, is not before.
    not_before: Instant,
}

impl Waiting {
    pub(super) fn new(not_before: Instant) -> Self {
        Self {
            changed: BTreeSet::new(),
            gone: Vec::new(),
            counts: false,
            qualities: BTreeSet::new(),
            not_before,
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        (!self.changed.is_empty() || self.is_for_all()).then_some(self.not_before)
    }

    /// Some of it is for a participant who is alone, too: of what `changed` says of itself it was told at once.
    fn is_for_all(&self) -> bool {
        !self.gone.is_empty() || self.counts || !self.qualities.is_empty()
    }
}

impl RoomState {
    pub(super) fn put_off(&mut self, sid: &ParticipantSid) {
        self.waiting.changed.insert(sid.clone());
    }

    pub(super) fn put_off_departure(&mut self, sid: &ParticipantSid, info: proto::ParticipantInfo) {
        self.waiting.changed.remove(sid);
        self.waiting.gone.push(info);
    }

    /// Somebody with these permissions came, left, became a publisher or is none any more. Hidden people are not counted;
    /// that they record is shown.
    pub(super) fn counts_changed(&mut self, permissions: &Permissions) {
        self.waiting.counts |= !permissions.hidden || permissions.recorder;
    }

    pub(super) fn quality_changed(&mut self, sid: &ParticipantSid) {
        self.waiting.qualities.insert(sid.clone());
    }

    pub(super) fn qualities_changed(&mut self) {
        let rated =
            self.participants.values().filter(|one| one.connection.info(&one.sid).is_some());
        let rated = rated.filter(|one| !one.permissions.hidden).map(|one| one.sid.clone());
        self.waiting.qualities.extend(rated);
    }

    /// Departures of this identity, which wait no more.
    pub(super) fn take_departures(&mut self, identity: &str) -> Vec<proto::ParticipantInfo> {
        self.waiting.gone.extract_if(.., |info| info.identity == identity).collect()
    }

    /// Tells everybody but `sid` at once what it is now; an older state does not follow.
    pub(super) fn tell_at_once(&mut self, sid: &ParticipantSid, info: proto::ParticipantInfo) {
        self.waiting.changed.remove(sid);
        self.broadcast(&RoomEvent::Participants(vec![info]), Some(sid));
    }

    /// Who joins a quiet room is told of at once; it has all of that itself in its JoinResponse.
    pub(super) fn tell_join(&mut self, sid: &ParticipantSid, now: Now) {
        self.tell_others(sid, false);
        if self.waiting.due().is_some_and(|due| due <= now.mono) {
            self.tell_news(now, Some(sid));
        }
    }

    /// Tells everybody but `except` what waits.
    pub(super) fn tell_news(&mut self, now: Now, except: Option<&ParticipantSid>) {
        let next = Waiting::new(now.mono + NEWS_EVERY);
        let waiting = std::mem::replace(&mut self.waiting, next);
        let matters = waiting.is_for_all() || self.participants.len() > 1;
        let present = |sid: &ParticipantSid| self.participants.get(sid);
        let changed = waiting.changed.iter().filter_map(present);
        let changed = changed.filter(|one| !one.permissions.hidden).map(Participant::info);
        let participants = waiting.gone.into_iter().chain(changed).collect();
        let rated = waiting.qualities.iter().filter_map(present);
        let (hidden, shown): (Vec<_>, Vec<_>) = rated.partition(|one| one.permissions.hidden);
        let quality = |one: &Participant| one.connection.info(&one.sid);
        let qualities = shown.into_iter().filter_map(quality).collect();
        // Who is hidden hears of itself what nobody else does.
        let own: Vec<_> = hidden.into_iter().filter_map(quality).collect();
        let news = News::new(participants, waiting.counts.then(|| self.info()), qualities);
        let told = matters
            && !news.encoded.is_empty()
            && self.broadcast(&RoomEvent::News(Arc::new(news)), except);
        if !told {
            // What comes next is the first in a while.
            self.waiting.not_before = now.mono;
        }
        for info in own {
            let sid = ParticipantSid(info.participant_sid.as_str().into());
            let update = proto::ConnectionQualityUpdate { updates: vec![info] };
            self.tell(&sid, RoomEvent::ConnectionQuality(update));
        }
    }

    /// Whom nobody shows a connection of.
    pub(super) fn is_one_of_a_crowd(&self, participant: &Participant) -> bool {
        self.participants.len() > CROWD && participant.tracks.is_empty()
    }
}
