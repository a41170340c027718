//! Who speaks in a room: each shard collects the levels of its own publishers, the room's home elects. Home is the lowest
//! of the shards with members in the room, which all of them know.

use std::time::Duration;

use super::{
    DropReason, Event, PeerId, RelayMessage, Shard, SpeakerLevel,
    timer::{Sleeper, Timer},
};
use crate::{
    room::{LevelWindow, RoomKey, RouteKey},
    rtp::MediaKind,
};

/// How often speakers are elected: sooner shows more flicker, later is seen as lag.
const INTERVAL: Duration = Duration::from_millis(300);

impl Shard {
    /// A track is there: an audio track takes part in elections.
    pub(super) fn add_voice(&mut self, route: RouteKey) {
        let audio = self
            .tracks
            .get(route.0)
            .and_then(Option::as_ref)
            .is_some_and(|track| track.published.kind() == MediaKind::Audio);
        let Some(room) = self.rooms.route(route).map(|known| known.room).filter(|_| audio) else {
            return;
        };
        let Some(speakers) = self.rooms.speakers(room) else { return };
        let first = speakers.is_empty();
        speakers.add(route);
        if first {
            self.timers.set(Sleeper::Room(room), Timer::Speakers, Some(self.now + INTERVAL));
        }
    }

    /// It is gone.
    pub(super) fn remove_voice(&mut self, route: RouteKey) {
        let Some(room) = self.rooms.route(route).map(|known| known.room) else { return };
        if let Some(speakers) = self.rooms.speakers(room) {
            speakers.remove(route);
        }
    }

    /// Levels that another shard collected.
    pub(super) fn relayed_levels(&mut self, route: RouteKey, window: &LevelWindow) {
        let Some(room) = self.rooms.route(route).map(|known| known.room) else { return };
        if let Some(speakers) = self.rooms.speakers(room) {
            speakers.feed(route, window);
        }
    }

    /// Collects, and elects where the room is at home here.
    pub(super) fn wake_room(&mut self, room: RoomKey) {
        let now = self.now;
        let Self { rooms, tracks, relays, counters, .. } = self;
        let Some(id) = rooms.id(room).cloned() else { return };
        let home = relays.home(&id);
        let Some(speakers) = rooms.speakers(room) else { return };
        for index in 0.. {
            let Some(route) = speakers.route_at(index) else { break };
            let Some(track) = tracks.get_mut(route.0).and_then(Option::as_mut) else { continue };
            if track.publisher().is_none() {
                continue;
            }
            let Some(window) = track.published.take_levels(now) else { continue };
            match home.and_then(|home| relays.lane(home)) {
                None => speakers.feed(route, &window),
                Some(lane) => {
                    let message = RelayMessage::Levels { route: track.number, window };
                    if lane.push_media(message).is_err() {
                        counters.drop(DropReason::RelayLane);
                    }
                }
            }
        }
        if !speakers.is_empty() {
            self.timers.set(Sleeper::Room(room), Timer::Speakers, Some(now + INTERVAL));
        }
        match home {
            None if speakers.elect() => self.tell_speakers(room),
            None => {}
            Some(_) => speakers.forget(),
        }
    }

    fn tell_speakers(&mut self, room: RoomKey) {
        let Self { rooms, tracks, told_speakers, told_publishers, .. } = self;
        let Some(id) = rooms.id(room).cloned() else { return };
        let elected = rooms.speaking(room);
        let level = |one: &crate::room::Speaking| {
            let track = rooms.route(one.route)?.track.clone();
            Some(SpeakerLevel { track, level: one.level, dominant: one.dominant })
        };
        let speakers = told_speakers.list(elected.iter().filter_map(level));
        let publisher = |one: &crate::room::Speaking| {
            Some(tracks.get(one.route.0)?.as_ref()?.publisher_id.clone())
        };
        let publishers = told_publishers.list(elected.iter().filter_map(publisher));
        self.heard(room, &publishers);
        let room = id;
        for index in 0..self.relays.present(&room).len() {
            let Some(shard) = self.relays.present(&room).get(index).copied() else { break };
            let publishers = publishers.clone();
            // One lost is made good by the next change.
            self.relay_media(shard, RelayMessage::Speaking { room: room.clone(), publishers });
        }
        self.events.push_back(Event::SpeakersChanged { room, speakers });
    }

    /// Who is heard is served before others of the same priority, from the next sharing on.
    pub(super) fn heard(&mut self, room: RoomKey, publishers: &[PeerId]) {
        for route in self.rooms.routes_in(room) {
            let track = self.tracks.get_mut(route.0).and_then(Option::as_mut);
            let Some(track) = track else { continue };
            track.speaks = publishers.contains(&track.publisher_id);
        }
    }
}
