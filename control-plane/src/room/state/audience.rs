//! Who may take a publisher's tracks, as the publisher said (`SubscriptionPermission`): looked up for every pair of track
//! and participant, so kept by name.

use std::collections::{BTreeMap, BTreeSet};

use livekit_protocol as proto;
use serde::{Deserialize, Serialize};

use super::{MAX_NAME, participant::Participant};
use crate::room::types::*;

/// Most participants and tracks that one permission names.
const MAX_NAMED: usize = 4_096;
/// Longest sid of a participant or track, bytes: ours are shorter.
const MAX_SID: usize = 64;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Audience {
    everybody: bool,
    by_sid: BTreeMap<String, Allowed>,
    by_identity: BTreeMap<String, Allowed>,
}

/// What one participant may take.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Allowed {
    all: bool,
    tracks: BTreeSet<String>,
}

impl Audience {
    /// Fails where it names too much, or what cannot be a name.
    pub(super) fn new(said: proto::SubscriptionPermission) -> Result<Self, RequestError> {
        let rules = &said.track_permissions;
        let named: usize = rules.iter().map(|rule| 1 + rule.track_sids.len()).sum();
        if named > MAX_NAMED {
            let limit = format!("{named} participants and tracks named, at most {MAX_NAMED}");
            return Err(RequestError::LimitExceeded(limit));
        }
        let sids =
            rules.iter().flat_map(|rule| rule.track_sids.iter().chain([&rule.participant_sid]));
        if sids.into_iter().any(|sid| sid.len() > MAX_SID) {
            return Err(RequestError::Invalid(format!("a sid over {MAX_SID} bytes")));
        }
        if rules.iter().any(|rule| rule.participant_identity.len() > MAX_NAME) {
            return Err(RequestError::Invalid(format!("an identity over {MAX_NAME} bytes")));
        }
        let mut audience = Self {
            everybody: said.all_participants,
            by_sid: BTreeMap::new(),
            by_identity: BTreeMap::new(),
        };
        for rule in said.track_permissions {
            let mut add = |name: String, list: fn(&mut Self) -> &mut BTreeMap<String, Allowed>| {
                if !name.is_empty() {
                    let allowed = list(&mut audience).entry(name).or_default();
                    allowed.all |= rule.all_tracks;
                    allowed.tracks.extend(rule.track_sids.iter().cloned());
                }
            };
            add(rule.participant_sid, |audience| &mut audience.by_sid);
            add(rule.participant_identity, |audience| &mut audience.by_identity);
        }
        Ok(audience)
    }

    pub(super) fn admits(&self, subscriber: &Participant, track: &TrackSid) -> bool {
        let of_sid = self.by_sid.get(&*subscriber.sid.0);
        let of_identity = self.by_identity.get(&subscriber.identity);
        let takes = |allowed: &Allowed| allowed.all || allowed.tracks.contains(&*track.0);
        self.everybody || of_sid.into_iter().chain(of_identity).any(takes)
    }
}
