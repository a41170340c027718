//! Everybody in a room. What follows from a participant alone is kept until somebody may have changed it: in a room of a
//! thousand, each join and each report would otherwise cost a walk past all of them.

use std::{collections::BTreeMap, ops::Deref, sync::Arc, time::Instant};

use super::Participant;
use crate::room::types::{ParticipantSid, Presence, TrackSid};

/// Participants by id. Whoever borrows one to change it has changed it, as far as is known here.
#[derive(Debug, Default)]
pub(super) struct People {
    all: BTreeMap<ParticipantSid, Participant>,
    /// Of all deadlines, those of `touched` apart.
    earliest: Option<Instant>,
    /// Whose deadlines may be earlier by now.
    touched: Vec<ParticipantSid>,
    /// The earliest may be gone: only a walk tells.
    all_touched: bool,
}

/// Beyond, a walk past everybody costs no more.
const MAX_TOUCHED: usize = 64;

impl Deref for People {
    type Target = BTreeMap<ParticipantSid, Participant>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl People {
    pub(super) fn get_mut(&mut self, sid: &ParticipantSid) -> Option<&mut Participant> {
        let participant = self.all.get_mut(sid)?;
        participant.presence.take();
        let was_next = self.earliest.is_some() && participant.next_deadline() == self.earliest;
        if was_next || self.touched.len() >= MAX_TOUCHED {
            self.all_touched = true;
        } else if self.touched.last() != Some(sid) {
            self.touched.push(sid.clone());
        }
        Some(participant)
    }

    /// What each asked for or turned down. Nobody else sees it, and nothing is due for it.
    pub(super) fn wishes_mut(&mut self) -> impl Iterator<Item = &mut BTreeMap<TrackSid, bool>> {
        self.all.values_mut().map(|participant| &mut participant.wishes)
    }

    pub(super) fn insert(&mut self, sid: ParticipantSid, participant: Participant) {
        self.all.insert(sid.clone(), participant);
        // As if it had been changed.
        self.get_mut(&sid);
    }

    pub(super) fn remove(&mut self, sid: &ParticipantSid) -> Option<Participant> {
        let removed = self.all.remove(sid)?;
        self.all_touched |= removed.next_deadline() == self.earliest;
        Some(removed)
    }

    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.all_touched = true;
    }

    /// What others see of those that `shown` admits, in order of joining.
    pub(super) fn presences(&self, shown: impl Fn(&Participant) -> bool) -> Vec<Arc<Presence>> {
        let shown = self.all.values().filter(|participant| shown(participant));
        let mut people: Vec<_> = shown.map(|one| (one.order, Arc::clone(presence(one)))).collect();
        people.sort_unstable_by_key(|(order, _)| *order);
        people.into_iter().map(|(_, presence)| presence).collect()
    }

    /// When something is due of anybody.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        if std::mem::take(&mut self.all_touched) {
            self.touched.clear();
            self.earliest = self.all.values().filter_map(Participant::next_deadline).min();
        }
        for sid in self.touched.drain(..) {
            let due = self.all.get(&sid).and_then(Participant::next_deadline);
            self.earliest = self.earliest.into_iter().chain(due).min();
        }
        self.earliest
    }
}

fn presence(participant: &Participant) -> &Arc<Presence> {
    participant.presence.get_or_init(|| Arc::new(Presence::new(participant.info())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::room::tests::request;

    proptest! {
        #[test]
        fn the_next_deadline_is_the_earliest_of_all(
            steps in prop::collection::vec((0..6_usize, 0..3_u8, prop::option::of(0..5_u64), any::<bool>()), 1..60),
        ) {
            let start = Instant::now();
            let sids: Vec<_> = (0..6).map(|number| ParticipantSid::from(format!("PA_{number}"))).collect();
            let mut people = People::default();
            for (who, what, due, ask) in steps {
                let due = due.map(|seconds| start + Duration::from_secs(seconds));
                match (what, people.get_mut(&sids[who])) {
                    (0, _) => drop(people.remove(&sids[who])),
                    (1, Some(participant)) => participant.resume_by = due,
                    (_, Some(participant)) => participant.end_by = due,
                    (_, None) => {
                        let mut participant = Participant::new(request("x"), 0, 0);
                        participant.connect_by = due;
                        people.insert(sids[who].clone(), participant);
                    }
                }
                let walked = people.values().filter_map(Participant::next_deadline).min();
                if ask {
                    prop_assert_eq!(people.next_deadline(), walked);
                }
            }
        }
    }

    #[test]
    fn who_was_changed_is_described_anew() {
        let mut people = People::default();
        let sid = ParticipantSid::from("PA_a".to_owned());
        people.insert(sid.clone(), Participant::new(request("a"), 0, 0));
        let before = people.presences(|_| true);
        assert!(Arc::ptr_eq(&before[0], &people.presences(|_| true)[0]), "made once");
        people.get_mut(&sid).unwrap().name = "new".into();
        assert_eq!(people.presences(|_| true)[0].name, "new");
        assert!(people.presences(|one| one.name != "new").is_empty());
    }
}
