//! One queue of named deadlines for all peers of a shard.

use std::time::{Duration, Instant};

use super::wheel::Wheel;
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
    /// The tick of the entry in the wheel that counts, by timer; others are stale.
    queued: [Option<u64>; Timer::COUNT],
}

/// The queue. An entry is never searched for: a deadline that moved later is put back when its entry comes up, one that
/// moved earlier gets a second entry, and the first is skipped as stale.
#[derive(Debug)]
pub(crate) struct TimerQueue {
    /// Tick 0.
    origin: Instant,
    wheel: Wheel<(Sleeper, Timer)>,
    /// When sleepers were woken last.
    woken: u64,
    /// The latest moment that is known to have come: of input, mostly behind `woken`.
    seen: Instant,
    /// By index of the peer.
    peers: Vec<Option<Box<Deadlines>>>,
    /// By index of the route.
    routes: Vec<Option<Box<Deadlines>>>,
    /// By index of the room.
    rooms: Vec<Option<Box<Deadlines>>>,
    wakeups: [u64; Timer::COUNT],
}

/// Deadlines are put off to the next multiple of a power of two, by an eighth of the time until then and this many ticks at
/// most: those of many peers then share a wake-up, which costs more than what is done in it.
const COARSEST: u64 = 32;

impl TimerQueue {
    /// Empty; no deadline is before `origin`.
    pub(crate) fn new(origin: Instant) -> Self {
        Self {
            origin,
            wheel: Wheel::default(),
            woken: 0,
            seen: origin,
            peers: Vec::new(),
            routes: Vec::new(),
            rooms: Vec::new(),
            wakeups: [0; Timer::COUNT],
        }
    }

    /// It is `now`: how far a deadline may be put off counts from here.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.seen = self.seen.max(now);
    }

    /// Wakes `sleeper` for `timer` at `at` or a little later; `None` lets it sleep.
    pub(crate) fn set(&mut self, sleeper: Sleeper, timer: Timer, at: Option<Instant>) {
        let tick = at.map(|at| self.tick_of(at));
        let (places, index) = self.places(sleeper);
        if places.len() <= index {
            places.resize_with(index + 1, || None);
        }
        let place = &mut places[index];
        let deadlines = match place {
            Some(known) if known.sleeper == sleeper => known,
            // Another lived at this index before: its entries in the wheel are stale.
            _ => place.insert(Box::new(Deadlines {
                sleeper,
                wanted: Default::default(),
                queued: Default::default(),
            })),
        };
        let slot = timer as usize;
        deadlines.wanted[slot] = at;
        let Some(tick) = tick else { return };
        if deadlines.queued[slot].is_none_or(|queued| tick < queued) {
            deadlines.queued[slot] = Some(tick);
            self.wheel.insert(tick, (sleeper, timer));
        }
    }

    /// Forgets a sleeper.
    pub(crate) fn remove(&mut self, sleeper: Sleeper) {
        let (places, index) = self.places(sleeper);
        if let Some(place) = places.get_mut(index)
            && place.as_ref().is_some_and(|known| known.sleeper == sleeper)
        {
            *place = None;
        }
    }

    /// The next one to wake.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(Sleeper, Timer)> {
        let until = now.saturating_duration_since(self.origin).as_millis() as u64;
        self.woken = until;
        while let Some((tick, (sleeper, timer))) = self.wheel.pop(until) {
            let slot = timer as usize;
            let (places, index) = self.places(sleeper);
            let place = places.get_mut(index).and_then(Option::as_mut);
            let Some(deadlines) = place.filter(|known| known.sleeper == sleeper) else { continue };
            if deadlines.queued[slot] != Some(tick) {
                continue;
            }
            deadlines.queued[slot] = None;
            match deadlines.wanted[slot] {
                None => {}
                Some(wanted) if wanted > now => self.set(sleeper, timer, Some(wanted)),
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
        Some(self.origin + Duration::from_millis(self.wheel.next()?))
    }

    /// Wake-ups so far, by timer in declaration order.
    pub(crate) fn wakeups(&self) -> [u64; Timer::COUNT] {
        self.wakeups
    }

    /// The first tick (millisecond) at or behind `at` that is as coarse as it may be. One to come: whoever asks to be woken
    /// for a moment that has passed cannot keep the shard in a loop.
    fn tick_of(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin);
        let exact = since.as_micros().div_ceil(1_000) as u64;
        let exact = exact.max(self.woken + 1);
        let seen = self.seen.saturating_duration_since(self.origin).as_millis() as u64;
        let eighth = exact.saturating_sub(seen.max(self.woken)) / 8;
        let step = if eighth < 2 { 1 } else { (1 << eighth.ilog2()).min(COARSEST) };
        exact.next_multiple_of(step)
    }

    fn places(&mut self, sleeper: Sleeper) -> (&mut Vec<Option<Box<Deadlines>>>, usize) {
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
        let mut queue = TimerQueue::new(t0);
        queue.set(a, Timer::TrackFeedback, Some(t0 + ms(20)));
        queue.set(b, Timer::Reports, Some(t0 + ms(10)));
        assert_eq!(queue.next(), Some(t0 + ms(10)));
        assert_eq!(queue.expired(t0 + ms(9)), None);
        assert_eq!(queue.expired(t0 + ms(30)), Some((b, Timer::Reports)));
        assert_eq!(queue.expired(t0 + ms(30)), Some((a, Timer::TrackFeedback)));
        assert_eq!(queue.expired(t0 + ms(30)), None);
        assert_eq!(queue.wakeups()[Timer::TrackFeedback as usize], 1);
    }

    #[test]
    fn deadlines_move_both_ways_and_vanish() {
        let (t0, a) = (origin(), peer(0, 1));
        let mut queue = TimerQueue::new(t0);
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
    fn those_of_many_share_a_wake_up_and_none_is_early() {
        let t0 = origin();
        let mut queue = TimerQueue::new(t0);
        assert_eq!(queue.expired(t0), None);
        for n in 0..1_000_u32 {
            let at = t0 + ms(1_000) + Duration::from_micros(500) * n;
            queue.set(peer(n as usize, 1), Timer::Reports, Some(at));
        }
        let (mut woken, mut wakes) = (0, 0);
        while let Some(now) = queue.next() {
            let before = woken;
            while let Some((Sleeper::Peer(peer), _)) = queue.expired(now) {
                let at = t0 + ms(1_000) + Duration::from_micros(500) * peer.index() as u32;
                assert!(at <= now && now - at <= ms(COARSEST), "{:?}", now - t0);
                woken += 1;
            }
            wakes += usize::from(woken > before);
        }
        assert_eq!(woken, 1_000);
        assert!(wakes <= 18, "{wakes} wake-ups");
    }

    #[test]
    fn after_a_quiet_gap_a_near_deadline_is_not_put_off_by_the_gap() {
        let (t0, a) = (origin(), peer(0, 1));
        for late in [250, 252, 260] {
            let mut queue = TimerQueue::new(t0);
            assert_eq!(queue.expired(t0), None);
            let now = t0 + ms(late);
            queue.begin(now);
            queue.set(a, Timer::PacerRelease, Some(now + ms(5)));
            let mut wakes = std::iter::from_fn(|| {
                let at = queue.next()?;
                Some((at, queue.expired(at)))
            });
            let fired = wakes.find(|(_, woken)| woken.is_some()).unwrap().0;
            assert!(fired >= now + ms(5) && fired <= now + ms(6), "{:?}", fired - now);
        }
    }

    #[test]
    fn who_wants_to_be_woken_in_the_past_waits_a_little() {
        let (t0, a) = (origin(), peer(0, 1));
        let mut queue = TimerQueue::new(t0);
        queue.set(a, Timer::TrackFeedback, Some(t0));
        assert_eq!(queue.expired(t0 + ms(5)), Some((a, Timer::TrackFeedback)));
        queue.set(a, Timer::TrackFeedback, Some(t0));
        assert_eq!(queue.expired(t0 + ms(5)), None);
        assert_eq!(queue.next(), Some(t0 + ms(6)));
    }

    #[test]
    fn a_peer_does_not_wake_for_the_one_that_lived_at_its_index() {
        let (t0, old, new) = (origin(), peer(0, 1), peer(0, 2));
        let mut queue = TimerQueue::new(t0);
        queue.set(old, Timer::Reports, Some(t0 + ms(5)));
        queue.remove(old);
        queue.set(new, Timer::Reports, Some(t0 + ms(50)));
        assert_eq!(queue.expired(t0 + ms(20)), None);
        assert_eq!(queue.expired(t0 + ms(60)), Some((new, Timer::Reports)));
    }
}
