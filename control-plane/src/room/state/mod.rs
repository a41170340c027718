//! The rules of a room, without I/O: who is here, who may do what, who takes which track.
//!
//! Plain methods are commands; what follows from them is drained with [`RoomState::poll_effect`] after each call, in
//! order. Deadlines are asked with [`RoomState::poll_timeout`].

mod audience;
mod connection;
mod media;
mod news;
mod participant;
mod people;
mod quality;
mod saved;
mod speakers;
mod subscriptions;
#[cfg(test)]
mod tests;
mod track;
mod tracks;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use livekit_protocol as proto;

pub(crate) use self::participant::permissions_of;
pub(super) use self::saved::{MAX_SAVED, Written};
use self::{participant::Participant, people::People};
use super::types::*;
use crate::auth::Permissions;

/// A participant whose media is not connected by then is dropped.
const CONNECT_WITHIN: Duration = Duration::from_secs(60);
/// How long a participant without signalling is kept while its media lives: clients retry for about 45 s.
const RESUME_WITHIN: Duration = Duration::from_secs(60);
/// How long a session has to end a participant whose peer is lost.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Longest metadata of a room or participant, bytes.
pub(crate) const MAX_METADATA: usize = 512 * 1024;
/// Most bytes of all attribute keys and values of a participant.
const MAX_ATTRIBUTES: usize = 64 * 1024;
/// Most attributes of a participant.
const MAX_ATTRIBUTE_COUNT: usize = 1_024;
/// Longest name of a participant or room, bytes.
pub(crate) const MAX_NAME: usize = 256;

/// One reading of the clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// For deadlines.
    pub(super) mono: Instant,
    /// For people, milliseconds since 1970.
    pub(super) unix_ms: i64,
}

/// What follows from a command.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::large_enum_variant)] // nearly all are the large one, and live briefly
pub(super) enum Effect {
    /// Tell a participant's session, if there is one.
    Tell(ParticipantSid, RoomEvent),
    /// A participant without a session must not receive these tracks of the node any more.
    Withdraw(ParticipantSid, Vec<String>),
    /// The participant is out: its session ends and its peers leave the node.
    Gone(ParticipantSid),
    /// What outlives the control plane changed.
    Save,
    /// The room is over.
    End,
}

/// Identities that are remembered for ICE-TCP, at most.
const MAX_FORCED_TCP: usize = 64;

#[derive(Debug)]
pub(super) struct RoomState {
    sid: String,
    name: String,
    options: RoomOptions,
    created_ms: i64,
    participants: People,
    by_identity: HashMap<String, ParticipantSid>,
    /// Who left lately, for those that resume.
    departed: VecDeque<(Instant, proto::ParticipantInfo)>,
    /// Identities of those who left lately and had asked for ICE-TCP: clients join anew to change over.
    forced_tcp: VecDeque<(Instant, String)>,
    /// Nobody is here: the room ends then.
    end_at: Option<Instant>,
    /// What everybody is told of together.
    waiting: news::Waiting,
    speaking: speakers::Speaking,
    /// APIs may unmute tracks.
    remote_unmute: bool,
    effects: VecDeque<Effect>,
}

impl RoomState {
    pub(super) fn new(sid: String, name: String, options: RoomOptions, now: Now) -> Self {
        // Beyond what the clock can say: never.
        let end_at = now.mono.checked_add(options.empty_timeout);
        Self {
            sid,
            name,
            options,
            created_ms: now.unix_ms,
            participants: People::default(),
            by_identity: HashMap::new(),
            departed: VecDeque::new(),
            forced_tcp: VecDeque::new(),
            end_at,
            waiting: news::Waiting::new(now.mono),
            speaking: speakers::Speaking::new(),
            remote_unmute: false,
            effects: VecDeque::from([Effect::Save]),
        }
    }

    pub(super) fn allow_remote_unmute(&mut self, allow: bool) {
        self.remote_unmute = allow;
    }

    /// The next consequence of what was commanded. To be drained after every command.
    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        let people = self.participants.next_deadline();
        [self.end_at, self.waiting.due(), people].into_iter().flatten().min()
    }

    /// The room as the wire protocol states it.
    pub(super) fn info(&self) -> proto::Room {
        let shown = || self.participants.values().filter(|other| !other.permissions.hidden);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        proto::Room {
            sid: self.sid.clone(),
            name: self.name.clone(),
            empty_timeout: seconds(self.options.empty_timeout),
            departure_timeout: seconds(self.options.departure_timeout),
            max_participants: self.options.max_participants,
            creation_time: self.created_ms / 1000,
            creation_time_ms: self.created_ms,
            metadata: self.options.metadata.clone(),
            num_participants: count(shown().count()),
            num_publishers: count(shown().filter(|other| other.is_publisher()).count()),
            active_recording: self.participants.values().any(|other| other.permissions.recorder),
            ..Default::default()
        }
    }

    pub(super) fn participants(&self) -> usize {
        self.participants.len()
    }

    pub(super) fn published_tracks(&self) -> usize {
        self.participants.values().map(|one| one.published().count()).sum()
    }

    /// Everybody in order of joining.
    pub(super) fn everybody(&self) -> Vec<proto::ParticipantInfo> {
        let mut people: Vec<_> = self.participants.values().collect();
        people.sort_by_key(|participant| participant.order);
        people.into_iter().map(Participant::info).collect()
    }

    pub(super) fn sid_of(&self, identity: &str) -> Option<ParticipantSid> {
        self.by_identity.get(identity).cloned()
    }

    pub(super) fn has(&self, sid: &ParticipantSid) -> bool {
        self.participants.contains_key(sid)
    }

    fn others_of(&self, sid: &ParticipantSid) -> Vec<Arc<Presence>> {
        self.participants.presences(|other| other.sid != *sid && !other.permissions.hidden)
    }

    /// Lets a participant in; an older one of its identity goes.
    pub(super) fn join(&mut self, request: JoinRequest, now: Now) -> Result<Joined, JoinError> {
        check_profile(Some(&request.name), Some(&request.metadata), &request.attributes)
            .map_err(|error| JoinError::Invalid(error.to_string()))?;
        let older = self.sid_of(&request.identity);
        let max = self.options.max_participants;
        let others = self.participants.len() - usize::from(older.is_some());
        if max > 0 && others >= max as usize {
            return Err(JoinError::RoomFull(max));
        }
        let lately = self.forced_tcp.iter().any(|(at, identity)| {
            *identity == request.identity && now.mono - *at <= 2 * RESUME_WITHIN
        });
        let before = older.as_ref().and_then(|older| self.participants.get(older));
        let force_tcp = lately || before.is_some_and(|before| before.force_tcp);
        if let Some(older) = older {
            self.expel(
                &older,
                proto::DisconnectReason::DuplicateIdentity,
                proto::leave_request::Action::Disconnect,
                now,
            );
        }
        // Clients go by the identity: what waits of it would take the new one away again.
        let departed = self.take_departures(&request.identity);
        if !departed.is_empty() {
            self.broadcast(&RoomEvent::Participants(departed), None);
        }
        let order = self.participants.values().map(|other| other.order + 1).max().unwrap_or(0);
        let mut participant = Participant::new(request, now.unix_ms, order);
        participant.connect_by = Some(now.mono + CONNECT_WITHIN);
        participant.force_tcp = force_tcp;
        let sid = participant.sid.clone();
        self.by_identity.insert(participant.identity.clone(), sid.clone());
        self.counts_changed(&participant.permissions);
        self.participants.insert(sid.clone(), participant);
        self.effects.push_back(Effect::Save);
        self.end_at = None;
        self.tell_join(&sid, now);
        self.settle_subscriber(&sid);
        self.tell_speakers(&sid);
        self.tell_qualities(&sid);
        let participant = self.participants.get(&sid).map(Participant::info).unwrap_or_default();
        let others = self.others_of(&sid);
        Ok(Joined { room: self.info(), participant, others, sid, force_tcp })
    }

    /// The participant asked for ICE-TCP, or for any path again.
    pub(super) fn force_tcp(
        &mut self,
        sid: &ParticipantSid,
        forced: bool,
    ) -> Result<(), RequestError> {
        let missing = || RequestError::NotFound(format!("participant {sid}"));
        let participant = self.participants.get_mut(sid).ok_or_else(missing)?;
        participant.force_tcp = forced;
        self.forced_tcp.retain(|(_, identity)| *identity != participant.identity);
        Ok(())
    }

    /// A client is back with its PeerConnections. The peers are filled in by the caller.
    pub(super) fn resume(
        &mut self,
        sid: &ParticipantSid,
        identity: &str,
    ) -> Result<Resumed, JoinError> {
        let participant = self.participants.get_mut(sid);
        let Some(participant) = participant.filter(|found| found.identity == identity) else {
            return Err(JoinError::UnknownParticipant);
        };
        if participant.end_by.is_some() {
            return Err(JoinError::UnknownParticipant);
        }
        participant.attached = true;
        participant.resume_by = None;
        let own = participant.info();
        let permissions = participant.permissions.clone();
        let taken = participant.taken.clone();
        let subscriptions = taken.iter().filter_map(|(track, publisher)| {
            let found = self.participants.get(publisher)?.tracks.get(track)?;
            Some(found.for_subscriber(publisher))
        });
        let resumed = Resumed {
            room: self.info(),
            others: self.others_of(sid),
            participant: own,
            permissions,
            peers: Vec::new(),
            subscriptions: subscriptions.collect(),
            departed: self.departed_since_lately(sid),
        };
        self.retell_speakers(sid);
        self.tell_qualities(sid);
        Ok(resumed)
    }

    /// Those who left or hid lately, and whose identity nobody has now that `to` sees, itself included.
    fn departed_since_lately(&self, to: &ParticipantSid) -> Vec<proto::ParticipantInfo> {
        let is_seen = |info: &&proto::ParticipantInfo| {
            let heir = self.by_identity.get(&info.identity);
            let heir = heir.and_then(|sid| self.participants.get(sid));
            heir.is_some_and(|heir| heir.sid == *to || !heir.permissions.hidden)
        };
        let gone = self.departed.iter().map(|(_, info)| info);
        gone.filter(|info| !is_seen(info)).cloned().collect()
    }

    /// The WebSocket is gone.
    pub(super) fn signal_lost(&mut self, sid: &ParticipantSid, now: Now) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.attached = false;
        if participant.stage != participant::Stage::Active || participant.end_by.is_some() {
            self.leave(sid, proto::DisconnectReason::SignalClose, now);
            return;
        }
        participant.resume_by = Some(now.mono + RESUME_WITHIN);
    }

    /// The participant goes by itself.
    pub(super) fn leave(
        &mut self,
        sid: &ParticipantSid,
        reason: proto::DisconnectReason,
        now: Now,
    ) {
        let Some(mut gone) = self.participants.remove(sid) else { return };
        if self.by_identity.get(&gone.identity) == Some(sid) {
            self.by_identity.remove(&gone.identity);
        }
        for (track, publisher) in std::mem::take(&mut gone.taken) {
            self.forget_subscriber(&publisher, &track, sid);
        }
        if !gone.permissions.hidden {
            gone.version += 1;
            let info = departure(&gone, reason);
            if gone.tracks.is_empty() {
                self.put_off_departure(sid, info.clone());
            } else {
                self.tell_at_once(sid, info.clone());
            }
            self.departed.push_back((now.mono, info));
        }
        if gone.force_tcp {
            self.forced_tcp.retain(|(_, identity)| *identity != gone.identity);
            self.forced_tcp.push_back((now.mono, gone.identity.clone()));
            if self.forced_tcp.len() > MAX_FORCED_TCP {
                self.forced_tcp.pop_front();
            }
        }
        self.speaking.remove(sid);
        for track in gone.tracks.values() {
            self.withdraw(&gone.sid, track);
        }
        if !gone.tracks.is_empty() {
            for wishes in self.participants.wishes_mut() {
                wishes.retain(|track, _| !gone.tracks.contains_key(track));
            }
        }
        self.effects.push_back(Effect::Gone(sid.clone()));
        if self.participants.is_empty() {
            self.end_at = now.mono.checked_add(self.options.departure_timeout);
        }
        self.counts_changed(&gone.permissions);
        if self.participants.len() == CROWD {
            // A crowd no more: how viewers are connected, each was told alone.
            self.qualities_changed();
        }
        self.effects.push_back(Effect::Save);
    }

    /// The server ends a participant's session.
    pub(super) fn expel(
        &mut self,
        sid: &ParticipantSid,
        reason: proto::DisconnectReason,
        action: proto::leave_request::Action,
        now: Now,
    ) {
        self.tell(sid, RoomEvent::Closed { reason, action });
        self.leave(sid, reason, now);
    }

    /// Ends the room for everybody.
    pub(super) fn end(
        &mut self,
        reason: proto::DisconnectReason,
        action: proto::leave_request::Action,
        now: Now,
    ) {
        // Nobody needs to hear of the others any more.
        for sid in self.participants.keys() {
            let event = RoomEvent::Closed { reason, action };
            self.effects.push_back(Effect::Tell(sid.clone(), event));
            self.effects.push_back(Effect::Gone(sid.clone()));
        }
        self.participants.clear();
        self.by_identity.clear();
        self.end_at = Some(now.mono);
        self.effects.push_back(Effect::End);
    }

    pub(super) fn set_metadata(&mut self, metadata: String) -> Result<proto::Room, RequestError> {
        if metadata.len() > MAX_METADATA {
            return Err(RequestError::LimitExceeded(format!("metadata over {MAX_METADATA} bytes")));
        }
        self.options.metadata = metadata;
        let info = self.info();
        self.broadcast(&RoomEvent::Room(info.clone()), None);
        self.effects.push_back(Effect::Save);
        Ok(info)
    }

    /// A participant's name, metadata or attributes change; `by_itself` needs the permission.
    pub(super) fn update_profile(
        &mut self,
        sid: &ParticipantSid,
        update: ProfileUpdate,
        by_itself: bool,
    ) -> Result<(), RequestError> {
        let participant = self.participants.get_mut(sid).ok_or(RequestError::Closed)?;
        if by_itself && !participant.permissions.can_update_own_metadata {
            let missing = "the token has no grant to update its own metadata".to_owned();
            return Err(RequestError::NotAllowed(missing));
        }
        let mut attributes = participant.attributes.clone();
        for (key, value) in update.attributes {
            match value.is_empty() {
                true => attributes.remove(&key),
                false => attributes.insert(key, value),
            };
        }
        check_profile(update.name.as_deref(), update.metadata.as_deref(), &attributes)?;
        let name = update.name.unwrap_or_else(|| participant.name.clone());
        let metadata = update.metadata.unwrap_or_else(|| participant.metadata.clone());
        let before = (&participant.name, &participant.metadata, &participant.attributes);
        if before == (&name, &metadata, &attributes) {
            return Ok(());
        }
        (participant.name, participant.metadata, participant.attributes) =
            (name, metadata, attributes);
        self.changed(sid, true);
        Ok(())
    }

    /// An API changes what a participant may do.
    pub(super) fn set_permissions(
        &mut self,
        sid: &ParticipantSid,
        permissions: Permissions,
        now: Now,
    ) -> Result<(), RequestError> {
        let participant = self.participants.get_mut(sid).ok_or(RequestError::Closed)?;
        if participant.permissions == permissions {
            return Ok(());
        }
        let was_publisher = participant.is_publisher();
        let before = std::mem::replace(&mut participant.permissions, permissions.clone());
        let hides = permissions.hidden && !before.hidden;
        let forbidden: Vec<_> = participant
            .tracks
            .values()
            .filter(|track| !participant.may_publish(track.info.source()))
            .map(|track| track.sid.clone())
            .collect();
        if hides {
            participant.version += 1;
            let info = departure(participant, proto::DisconnectReason::UnknownReason);
            self.tell_at_once(sid, info.clone());
            self.departed.push_back((now.mono, info));
        } else if before.hidden && !permissions.hidden {
            self.quality_changed(sid);
        }
        self.tell(sid, RoomEvent::Permissions(permissions.clone()));
        for track in forbidden {
            self.tell(sid, RoomEvent::TrackUnpublished(track.clone()));
            self.remove_track(sid, &track);
        }
        self.changed_from(sid, true, was_publisher);
        self.settle_subscriber(sid);
        self.settle_publisher(sid);
        let shown = |permissions: &Permissions| (permissions.hidden, permissions.recorder);
        if shown(&before) != shown(&permissions) {
            self.counts_changed(&before);
            self.counts_changed(&permissions);
        }
        Ok(())
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        let due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now.mono);
        let late: Vec<_> = self
            .participants
            .values()
            .filter_map(|participant| {
                let reason = if due(participant.connect_by) {
                    proto::DisconnectReason::JoinFailure
                } else if due(participant.resume_by) {
                    proto::DisconnectReason::ConnectionTimeout
                } else if due(participant.end_by) {
                    proto::DisconnectReason::MediaFailure
                } else {
                    return None;
                };
                Some((participant.sid.clone(), reason))
            })
            .collect();
        for (sid, reason) in late {
            self.expel(&sid, reason, proto::leave_request::Action::Reconnect, now);
        }
        self.tell_due_qualities(now);
        if due(self.waiting.due()) {
            self.tell_news(now, None);
        }
        while self.departed.front().is_some_and(|(at, _)| now.mono - *at > 2 * RESUME_WITHIN) {
            self.departed.pop_front();
        }
        while self.forced_tcp.front().is_some_and(|(at, _)| now.mono - *at > 2 * RESUME_WITHIN) {
            self.forced_tcp.pop_front();
        }
        if due(self.end_at) {
            self.end_at = None;
            self.effects.push_back(Effect::End);
        }
    }

    /// A participant changed in a way that others see.
    fn changed(&mut self, sid: &ParticipantSid, tell_itself: bool) {
        self.changed_from(sid, tell_itself, false);
    }

    /// The same, of one that may have been a publisher until now.
    fn changed_from(&mut self, sid: &ParticipantSid, tell_itself: bool, was_publisher: bool) {
        // What a viewer says of itself others may act upon; in a crowd it waits.
        let at_once = was_publisher || self.participants.len() <= CROWD;
        self.tell_anew(sid, tell_itself, at_once);
        self.effects.push_back(Effect::Save);
    }

    /// Tells what a participant is now, of a viewer `at_once` or together with other news.
    fn tell_anew(&mut self, sid: &ParticipantSid, tell_itself: bool, at_once: bool) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.version += 1;
        if tell_itself {
            let info = participant.info();
            self.tell(sid, RoomEvent::Participants(vec![info]));
        }
        self.tell_others(sid, at_once);
    }

    fn tell(&mut self, sid: &ParticipantSid, event: RoomEvent) {
        if self.participants.get(sid).is_some_and(|participant| participant.attached) {
            self.effects.push_back(Effect::Tell(sid.clone(), event));
        }
    }

    /// Tells the others what `sid` is now, unless it is hidden; of a publisher always at once.
    fn tell_others(&mut self, sid: &ParticipantSid, at_once: bool) {
        let Some(participant) = self.participants.get(sid) else { return };
        if participant.permissions.hidden {
            return;
        }
        if participant.tracks.is_empty() && !at_once {
            self.put_off(sid);
        } else {
            let info = participant.info();
            self.tell_at_once(sid, info);
        }
    }

    /// True where anybody hears it.
    fn broadcast(&mut self, event: &RoomEvent, except: Option<&ParticipantSid>) -> bool {
        let before = self.effects.len();
        let hearers = self
            .participants
            .values()
            .filter(|participant| participant.attached && Some(&participant.sid) != except);
        let told = hearers.map(|participant| Effect::Tell(participant.sid.clone(), event.clone()));
        self.effects.extend(told);
        self.effects.len() > before
    }
}

fn departure(participant: &Participant, reason: proto::DisconnectReason) -> proto::ParticipantInfo {
    proto::ParticipantInfo {
        state: proto::participant_info::State::Disconnected as i32,
        disconnect_reason: reason as i32,
        tracks: Vec::new(),
        is_publisher: false,
        ..participant.info()
    }
}

fn check_profile(
    name: Option<&str>,
    metadata: Option<&str>,
    attributes: &HashMap<String, String>,
) -> Result<(), RequestError> {
    let size: usize = attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
    let over = |what: &str, most: usize| {
        Err(RequestError::LimitExceeded(format!("{what} over {most} bytes")))
    };
    if name.is_some_and(|name| name.len() > MAX_NAME) {
        return over("name", MAX_NAME);
    }
    if metadata.is_some_and(|metadata| metadata.len() > MAX_METADATA) {
        return over("metadata", MAX_METADATA);
    }
    if size > MAX_ATTRIBUTES {
        return over("attributes", MAX_ATTRIBUTES);
    }
    if attributes.len() > MAX_ATTRIBUTE_COUNT {
        let limit = format!("{} attributes, at most {MAX_ATTRIBUTE_COUNT}", attributes.len());
        return Err(RequestError::LimitExceeded(limit));
    }
    Ok(())
}
