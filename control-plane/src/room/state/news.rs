//! What a crowd is told of its viewers: who came, changed and left in a second, in one message that is encoded once.
//!
//! Told one by one, each viewer that joins a room of a thousand costs two thousand messages. Publishers are told at once
//! in rooms of any size, and so is everybody in a small room.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use livekit_protocol as proto;
use prost::Message as _;

use super::{Now, Participant, RoomState};
use crate::room::types::*;

/// Between two messages to a crowd. The wire protocol's own server waits three seconds; one is seen as at once.
const NEWS_EVERY: Duration = Duration::from_secs(1);
/// Bytes of participants in one message: below the 128 KiB that clients are sent at most.
const MAX_BYTES: usize = 120 << 10;

/// News of viewers that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    changed: BTreeSet<ParticipantSid>,
    gone: Vec<proto::ParticipantInfo>,
    told: Instant,
}

impl Waiting {
    pub(super) fn new(now: Instant) -> Self {
        Self { changed: BTreeSet::new(), gone: Vec::new(), told: now }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let waits = !self.changed.is_empty() || !self.gone.is_empty();
        waits.then(|| self.told + NEWS_EVERY)
    }
}

impl RoomState {
    /// Whether news of this participant wait for others'.
    pub(super) fn is_one_of_a_crowd(&self, participant: &Participant) -> bool {
        self.participants.len() > CROWD && participant.tracks.is_empty()
    }

    pub(super) fn put_off(&mut self, sid: &ParticipantSid) {
        self.waiting.changed.insert(sid.clone());
    }

    pub(super) fn put_off_departure(&mut self, sid: &ParticipantSid, info: proto::ParticipantInfo) {
        self.waiting.changed.remove(sid);
        self.waiting.gone.push(info);
    }

    /// Takes out what nothing that is told at once may be followed by: changes of `sid`, and departures of its identity,
    /// which clients go by. Those departures are told first.
    pub(super) fn overtake(
        &mut self,
        sid: &ParticipantSid,
        identity: &str,
    ) -> Vec<proto::ParticipantInfo> {
        self.waiting.changed.remove(sid);
        self.waiting.gone.extract_if(.., |info| info.identity == identity).collect()
    }

    /// Tells everybody but `sid` at once what it is now, after what waits of it.
    pub(super) fn tell_at_once(&mut self, sid: &ParticipantSid, info: proto::ParticipantInfo) {
        let mut people = self.overtake(sid, &info.identity);
        people.push(info);
        self.broadcast(&RoomEvent::Participants(people), Some(sid));
    }

    /// Tells everybody what waits.
    pub(super) fn tell_news(&mut self, now: Now) {
        self.waiting.told = now.mono;
        let gone = std::mem::take(&mut self.waiting.gone);
        let changed = std::mem::take(&mut self.waiting.changed);
        let changed = changed.iter().filter_map(|sid| self.participants.get(sid));
        let shown = changed.filter(|participant| !participant.permissions.hidden);
        let everything: Vec<_> = gone.into_iter().chain(shown.map(Participant::info)).collect();
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for info in everything {
            let size = info.encoded_len();
            if bytes + size > MAX_BYTES && !chunk.is_empty() {
                let news = News::new(std::mem::take(&mut chunk));
                self.broadcast(&RoomEvent::News(Arc::new(news)), None);
                bytes = 0;
            }
            bytes += size;
            chunk.push(info);
        }
        if !chunk.is_empty() {
            self.broadcast(&RoomEvent::News(Arc::new(News::new(chunk))), None);
        }
    }
}
