//! One queue of named deadlines for all peers of a shard.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use crate::room::{PeerKey, RoomKey, RouteKey};

/// What a peer or a track can be woken for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// The transport's own: ICE consent, DTLS and SCTP retransmissions.
    Transport,
    /// Sender and receiver reports (RFC 3550 section 6).
    Reports,
    /// A track's: NACK first or again, keyframe requests that were held back or stayed without effect.
    TrackFeedback,
    /// Layers of a track that went silent or came back.
    Layers,
    /// Transport-wide congestion control feedback towards a publisher.
    TwccFeedback,
    /// A subscriber's estimate of its bandwidth.
    Estimator,
    /// Packets that a subscriber's pacer held back, or a probe of it.
    PacerRelease,
    /// A subscriber's estimate is shared out again.
    Allocation,
    /// Packets without a track that waited long enough.
    Parked,
    /// A data reader that stands still.
    DataStall,
    /// A room's: who speaks.
    Speakers,
}

impl Timer {
    /// All of them, in declaration order.
    pub const ALL: [Self; 11] = [
        Self::Transport,
        Self::Reports,
        Self::TrackFeedback,
        Self::Layers,
        Self::TwccFeedback,
        Self::Estimator,
        Self::PacerRelease,
        Self::Allocation,
        Self::Parked,
        Self::DataStall,
        Self::Speakers,
    ];

    const COUNT: usize = Self::ALL.len();
}

/// Who sleeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Sleeper {
    /// A peer.
    Peer(PeerKey),
    /// A track.
    Route(RouteKey),
    /// A room.
    Room(RoomKey),
}

/// The deadlines of one sleeper.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    sleeper: Sleeper,
    /// When to wake, by timer.
    wanted: [Option<Instant>; Timer::COUNT],
    /// The entry in the queue that counts, by timer; others are stale.
    queued: [Option<Instant>; Timer::COUNT],
}

/// The queue. An entry is never searched for: a deadline that moved later is put back when its entry comes up, one that
/// moved earlier gets a second entry, and the first is skipped as stale.
#[derive(Debug, Default)]
pub(crate) struct TimerQueue {
    heap: BinaryHeap<Reverse<(Instant, Sleeper, Timer)>>,
    /// By index of the peer.
    peers: Vec<Option<Deadlines>>,
    /// By index of the route.
    routes: Vec<Option<Deadlines>>,
    /// By index of the room.
    rooms: Vec<Option<Deadlines>>,
    wakeups: [u64; Timer::COUNT],
    /// When sleepers were woken last.
    woken_at: Option<Instant>,
}

/// Whoever asks to be woken for a moment that has passed is woken this much after the last time: nobody can keep the
/// shard in a loop.
const RESOLUTION: Duration = Duration::from_millis(1);

impl TimerQueue {
    /// Wakes `sleeper` for `timer` at `at`; `None` lets it sleep.
    pub(crate) fn set(&mut self, sleeper: Sleeper, timer: Timer, at: Option<Instant>) {
        let earliest = self.woken_at.map(|woken| woken + RESOLUTION);
        let at = at.map(|at| earliest.map_or(at, |earliest| at.max(earliest)));
        let (places, index) = self.places(sleeper);
        if places.len() <= index {
            places.resize(index + 1, None);
        }
        let place = &mut places[index];
        let deadlines = match place {
            Some(known) if known.sleeper == sleeper => known,
            // Another lived at this index before: its entries in the heap are stale.
            _ => place.insert(Deadlines {
                sleeper,
                wanted: Default::default(),
                queued: Default::default(),
            }),
        };
        let slot = timer as usize;
        deadlines.wanted[slot] = at;
        let Some(at) = at else { return };
        if deadlines.queued[slot].is_none_or(|queued| at < queued) {
            deadlines.queued[slot] = Some(at);
            self.heap.push(Reverse((at, sleeper, timer)));
        }
    }

    /// Forgets a sleeper.
    pub(crate) fn remove(&mut self, sleeper: Sleeper) {
        let (places, index) = self.places(sleeper);
        if let Some(place) = places.get_mut(index)
            && place.is_some_and(|known| known.sleeper == sleeper)
        {
            *place = None;
        }
    }

    /// The next one to wake.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(Sleeper, Timer)> {
        self.woken_at = Some(now);
        while let Some(&Reverse((at, sleeper, timer))) = self.heap.peek() {
            if at > now {
                return None;
            }
            self.heap.pop();
            let slot = timer as usize;
            let (places, index) = self.places(sleeper);
            let place = places.get_mut(index).and_then(Option::as_mut);
            let Some(deadlines) = place.filter(|known| known.sleeper == sleeper) else { continue };
            if deadlines.queued[slot] != Some(at) {
                continue;
            }
            deadlines.queued[slot] = None;
            match deadlines.wanted[slot] {
                None => {}
                Some(wanted) if wanted > now => {
                    deadlines.queued[slot] = Some(wanted);
                    self.heap.push(Reverse((wanted, sleeper, timer)));
                }
                Some(_) => {
                    deadlines.wanted[slot] = None;
                    self.wakeups[slot] += 1;
                    return Some((sleeper, timer));
                }
            }
        }
        None
    }

    /// When to look again. It may be early (a deadline that has moved later), never late.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Wake-ups so far, by timer in declaration order.
    pub(crate) fn wakeups(&self) -> [u64; Timer::COUNT] {
        self.wakeups
    }

    fn places(&mut self, sleeper: Sleeper) -> (&mut Vec<Option<Deadlines>>, usize) {
        match sleeper {
            Sleeper::Peer(peer) => (&mut self.peers, peer.index()),
            Sleeper::Route(route) => (&mut self.routes, route.0),
            Sleeper::Room(room) => (&mut self.rooms, room.index()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn origin() -> Instant {
        Instant::now()
    }

    fn peer(index: usize, serial: u32) -> Sleeper {
        Sleeper::Peer(PeerKey::new(index, serial))
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_deadline_fires_once_and_in_order() {
        let (t0, a, b) = (origin(), peer(0, 1), Sleeper::Route(RouteKey(0)));
        let mut queue = TimerQueue::default();
        queue.set(a, Timer::TrackFeedback, Some(t0 + ms(20)));
        queue.set(b, Timer::Reports, Some(t0 + ms(10)));
        assert_eq!(queue.next(), Some(t0 + ms(10)));
        assert_eq!(queue.expired(t0 + ms(5)), None);
        assert_eq!(queue.expired(t0 + ms(30)), Some((b, Timer::Reports)));
        assert_eq!(queue.expired(t0 + ms(30)), Some((a, Timer::TrackFeedback)));
        assert_eq!(queue.expired(t0 + ms(30)), None);
        assert_eq!(queue.wakeups()[Timer::TrackFeedback as usize], 1);
    }

    #[test]
    fn deadlines_move_both_ways_and_vanish() {
        let (t0, a) = (origin(), peer(0, 1));
        let mut queue = TimerQueue::default();
        queue.set(a, Timer::TrackFeedback, Some(t0 + ms(20)));
        queue.set(a, Timer::TrackFeedback, Some(t0 + ms(40)));
        assert_eq!(queue.expired(t0 + ms(30)), None, "moved later");
        queue.set(a, Timer::TrackFeedback, Some(t0 + ms(35)));
        assert_eq!(queue.expired(t0 + ms(36)), Some((a, Timer::TrackFeedback)), "moved earlier");
        queue.set(a, Timer::TrackFeedback, Some(t0 + ms(38)));
        queue.set(a, Timer::TrackFeedback, None);
        assert_eq!(queue.expired(t0 + ms(100)), None, "taken back");
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn who_wants_to_be_woken_in_the_past_waits_a_little() {
        let (t0, a) = (origin(), peer(0, 1));
        let mut queue = TimerQueue::default();
        queue.set(a, Timer::TrackFeedback, Some(t0));
        assert_eq!(queue.expired(t0 + ms(5)), Some((a, Timer::TrackFeedback)));
        queue.set(a, Timer::TrackFeedback, Some(t0));
        assert_eq!(queue.expired(t0 + ms(5)), None);
        assert_eq!(queue.next(), Some(t0 + ms(6)));
    }

    #[test]
    fn a_peer_does_not_wake_for_the_one_that_lived_at_its_index() {
        let (t0, old, new) = (origin(), peer(0, 1), peer(0, 2));
        let mut queue = TimerQueue::default();
        queue.set(old, Timer::Reports, Some(t0 + ms(5)));
        queue.remove(old);
        queue.set(new, Timer::Reports, Some(t0 + ms(50)));
        assert_eq!(queue.expired(t0 + ms(20)), None);
        assert_eq!(queue.expired(t0 + ms(60)), Some((new, Timer::Reports)));
    }
}
