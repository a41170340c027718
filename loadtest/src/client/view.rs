//! Which tracks a client takes, and how large: a grid that starts behind its own place, so that all are watched alike.

use std::collections::{BTreeMap, BTreeSet};

use livekit_protocol as proto;

use crate::scenario::{Quality, Scenario};

/// A track somebody else publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offered {
    /// Places from the client's own to its publisher's.
    distance: u32,
    /// Number of its publisher in the run, if it is one of ours.
    number: Option<u32>,
    video: bool,
    participant: String,
}

#[derive(Debug)]
pub(crate) struct View {
    own: u32,
    people: u32,
    grid: u32,
    quality: Quality,
    spotlight: bool,
    turn: u32,
    offered: BTreeMap<String, Offered>,
    /// Tracks subscribed to by us, when a grid is chosen.
    taken: Vec<String>,
    /// Size asked for.
    asked: BTreeMap<String, Quality>,
    /// Tracks that a description had a section for.
    described: BTreeSet<String>,
    /// Something happened since the last poll, which comes with every packet.
    stirred: bool,
}

/// What to tell the server.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Wishes {
    pub(crate) subscribe: Vec<(String, String)>,
    pub(crate) settings: Vec<(String, Quality)>,
}

impl View {
    /// `place` and the publishers' identities (`load-NUMBER-PLACE`) say who sits where.
    pub(crate) fn new(place: u32, people: u32, scenario: &Scenario) -> Self {
        Self {
            own: place,
            people: people.max(1),
            grid: scenario.grid,
            quality: scenario.view,
            spotlight: !scenario.switch_every.0.is_zero(),
            turn: 0,
            offered: BTreeMap::new(),
            taken: Vec::new(),
            asked: BTreeMap::new(),
            described: BTreeSet::new(),
            stirred: true,
        }
    }

    /// Subscriptions are ours to choose.
    pub(crate) fn chooses(&self) -> bool {
        self.grid > 0
    }

    /// Tracks that we subscribed to.
    pub(crate) fn taken(&self) -> &[String] {
        &self.taken
    }

    /// Takes news of a participant.
    pub(crate) fn handle(&mut self, info: &proto::ParticipantInfo) {
        self.stirred = true;
        let gone = info.state() == proto::participant_info::State::Disconnected;
        self.offered.retain(|_, offered| offered.participant != info.sid);
        if gone {
            return;
        }
        let ours = info.identity.strip_prefix("load-").and_then(|text| text.split_once('-'));
        let number = ours.and_then(|(number, _)| number.parse().ok());
        // Others than ours sit behind ours.
        let place: Option<u32> = ours.and_then(|(_, place)| place.parse().ok());
        let place = u64::from(place.unwrap_or(u32::MAX));
        let people = u64::from(self.people);
        let distance = ((place + people - u64::from(self.own) % people) % people) as u32;
        for track in &info.tracks {
            self.offered.insert(
                track.sid.clone(),
                Offered {
                    distance,
                    number,
                    video: track.r#type() == proto::TrackType::Video,
                    participant: info.sid.clone(),
                },
            );
        }
    }

    /// Sections were described for these tracks. Servers forget wishes for tracks that they do not send yet: they are said again.
    pub(crate) fn described<'a>(&mut self, tracks: impl Iterator<Item = &'a String>) {
        self.stirred = true;
        for track in tracks {
            if self.described.insert(track.clone()) {
                self.asked.remove(track);
            }
        }
        self.described.retain(|track| self.offered.contains_key(track));
    }

    /// The large view moves on.
    pub(crate) fn turn(&mut self, turn: u32) {
        self.turn = turn;
        self.stirred = true;
    }

    /// The track in the large view, and the number of its publisher.
    pub(crate) fn spotlit(&self) -> Option<(&str, Option<u32>)> {
        if !self.spotlight {
            return None;
        }
        let mut videos: Vec<_> = self.offered.iter().filter(|(_, offered)| offered.video).collect();
        videos.sort_by_key(|(sid, offered)| (offered.distance, (*sid).clone()));
        let (sid, offered) = videos.get(self.turn as usize % videos.len().max(1))?;
        Some((sid.as_str(), offered.number))
    }

    /// What is to be told since the last time.
    pub(crate) fn poll(&mut self) -> Wishes {
        let mut wishes = Wishes::default();
        if !std::mem::take(&mut self.stirred) {
            return wishes;
        }
        let mut videos: Vec<_> = self
            .offered
            .iter()
            .filter(|(_, offered)| offered.video)
            .map(|(sid, offered)| (offered.distance, sid.clone()))
            .collect();
        videos.sort();
        if self.chooses() {
            self.taken.retain(|sid| self.offered.contains_key(sid));
            videos.truncate(self.grid as usize);
            let room = self.grid as usize;
            let taken_videos = self.taken.iter().filter(|sid| self.offered[*sid].video).count();
            let free = room.saturating_sub(taken_videos);
            let videos = videos.iter().map(|(_, sid)| sid.clone());
            let new_videos = videos.filter(|sid| !self.taken.contains(sid)).take(free);
            let sounds = self.offered.iter().filter(|(_, offered)| !offered.video);
            let sounds = sounds.map(|(sid, _)| sid.clone()).filter(|sid| !self.taken.contains(sid));
            let new: Vec<_> = new_videos.chain(sounds).collect();
            for sid in new {
                wishes.subscribe.push((self.offered[&sid].participant.clone(), sid.clone()));
                self.taken.push(sid);
            }
        }
        self.asked.retain(|sid, _| self.offered.contains_key(sid));
        let spotlit = self.spotlit().map(|(sid, _)| sid.to_owned());
        for (sid, offered) in &self.offered {
            if !offered.video || (self.chooses() && !self.taken.contains(sid)) {
                continue;
            }
            let quality = if spotlit.as_ref() == Some(sid) { Quality::High } else { self.quality };
            if self.asked.insert(sid.clone(), quality) != Some(quality) {
                wishes.settings.push((sid.clone(), quality));
            }
        }
        wishes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::load;

    fn person(number: u32, state: proto::participant_info::State) -> proto::ParticipantInfo {
        let track = |kind: proto::TrackType, sid: String| proto::TrackInfo {
            sid,
            r#type: kind.into(),
            ..Default::default()
        };
        proto::ParticipantInfo {
            sid: format!("PA_{number}"),
            identity: format!("load-{}-{number}", number + 100),
            state: state.into(),
            tracks: vec![
                track(proto::TrackType::Audio, format!("TR_A{number}")),
                track(proto::TrackType::Video, format!("TR_V{number}")),
            ],
            ..Default::default()
        }
    }

    fn view(set: &[&str]) -> View {
        let set: Vec<_> = set.iter().map(|text| (*text).to_owned()).collect();
        let scenario = load("meeting", &set).unwrap();
        let mut view = View::new(2, 5, &scenario);
        for number in [0, 1, 3, 4] {
            view.handle(&person(number, proto::participant_info::State::Active));
        }
        view
    }

    #[test]
    fn the_grid_begins_behind_the_own_place_and_all_sounds_are_taken() {
        let mut view = view(&["grid=2"]);
        let wishes = view.poll();
        let mut sids: Vec<_> = wishes.subscribe.iter().map(|(_, sid)| sid.as_str()).collect();
        sids.sort_unstable();
        assert_eq!(sids, ["TR_A0", "TR_A1", "TR_A3", "TR_A4", "TR_V3", "TR_V4"]);
        assert_eq!(wishes.settings.len(), 2);
        assert_eq!(view.poll(), Wishes::default(), "said once");
        view.described(["TR_V3".to_owned()].iter());
        assert_eq!(view.poll().settings.len(), 1, "said again once the track is there");
        view.described(["TR_V3".to_owned()].iter());
        assert_eq!(view.poll(), Wishes::default(), "not for each description");
        view.handle(&person(3, proto::participant_info::State::Disconnected));
        let next = view.poll().subscribe;
        assert_eq!(next, [("PA_0".to_owned(), "TR_V0".to_owned())], "a free place is filled");
    }

    #[test]
    fn the_large_view_moves_on() {
        let mut view = view(&["grid=0", "view=180p", "switch_every=1s"]);
        let first = view.poll();
        assert!(first.subscribe.is_empty(), "the server chooses");
        assert_eq!(view.spotlit(), Some(("TR_V3", Some(103))));
        view.turn(1);
        let mut settings = view.poll().settings;
        settings.sort_by_key(|(sid, _)| sid.clone());
        let expected = [("TR_V3".to_owned(), Quality::Low), ("TR_V4".to_owned(), Quality::High)];
        assert_eq!(settings, expected);
    }
}
