//! One queue of named deadlines for all peers of a shard.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::{Duration, Instant},
};

use super::wheel::Wheel;
use crate::{
    prefetch::prefetch,
    room::{PeerKey, RoomKey, RouteKey},
};

/// What a peer or a track can be woken for. Those of subscribers come first: they share a line of memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// The transport's own: ICE consent, DTLS and SCTP retransmissions.
    Transport,
    /// Sender and receiver reports (RFC 3550 section 6).
    Reports,
    /// A subscriber's estimate of its bandwidth.
    Estimator,
    /// Packets that a subscriber's pacer held back, or a probe of it.
    PacerRelease,
    /// A subscriber's estimate is shared out again.
    Allocation,
    /// A track's: NACK first or again, keyframe requests that were held back or stayed without effect.
    TrackFeedback,
    /// Layers of a track that went silent or came back.
    Layers,
    /// Transport-wide congestion control feedback towards a publisher.
    TwccFeedback,
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
        Self::Estimator,
        Self::PacerRelease,
        Self::Allocation,
        Self::TrackFeedback,
        Self::Layers,
        Self::TwccFeedback,
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

impl Sleeper {
    /// Tells those apart who had a place one after the other.
    fn serial(self) -> u32 {
        match self {
            Self::Peer(peer) => peer.serial(),
            // A track's are forgotten before another has the place; a room's only wake the next one there for nothing.
            Self::Route(_) | Self::Room(_) => 0,
        }
    }
}

/// The deadlines of one sleeper: the first five and whose they are in one line of memory, since a line costs more than all
/// that is done with it.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C, align(64))]
struct Deadlines {
    /// See [`Sleeper::serial`].
    serial: u32,
    timers: [Deadline; Timer::COUNT],
}

#[derive(Clone, Copy, Default, Debug)]
#[repr(C, packed(4))]
struct Deadline {
    /// When to wake: nanoseconds from the queue's origin.
    wanted: Option<NonZeroU64>,
    /// The tick of the entry in the wheel that counts, others are stale: its lower half, which is never zero. None is
    /// further ahead than [`FARTHEST`], so that halves can be compared.
    queued: Option<NonZeroU32>,
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
    /// The latest moment that is known to have come, of input, mostly behind `woken`; and its tick.
    seen: (Instant, u64),
    /// By index of the peer.
    peers: Vec<Deadlines>,
    /// By index of the route.
    routes: Vec<Deadlines>,
    /// By index of the room.
    rooms: Vec<Deadlines>,
    wakeups: [u64; Timer::COUNT],
}

/// Of a tick.
const NANOS: u64 = 1_000_000;

/// Ticks that an entry is ahead at most: 12 days, a quarter of what the lower half of a tick counts.
const FARTHEST: u64 = 1 << 30;

/// Deadlines are put off to the next multiple of a power of two, by an eighth of the time until then and this many ticks at
/// most: those of many peers then share a wake-up, which costs more than what is done in it.
const COARSEST: u64 = 32;

/// Ticks from which on a deadline is far ahead: further than a report that leaves by itself (1.25 s). Mostly it is that of consent, or of
/// reports that are expected to leave with media: it moves on all the time, and nothing is done when its entry comes up.
const FAR: u64 = 1_280;

/// The most ticks by which those are put off. More spares little, and has more of them leave at once where media stops.
const COARSEST_FAR: u64 = 128;

/// So many entries before its own a sleeper's deadlines are asked for: one takes a quarter of the time in which they come.
const AHEAD: usize = 3;

impl TimerQueue {
    /// Empty; no deadline is before `origin`.
    pub(crate) fn new(origin: Instant) -> Self {
        Self {
            origin,
            wheel: Wheel::default(),
            woken: 0,
            seen: (origin, 0),
            peers: Vec::new(),
            routes: Vec::new(),
            rooms: Vec::new(),
            wakeups: [0; Timer::COUNT],
        }
    }

    /// It is `now`: how far a deadline may be put off counts from here.
    pub(crate) fn begin(&mut self, now: Instant) {
        if now > self.seen.0 {
            self.seen = (now, self.nanos(now) / NANOS);
        }
    }

    /// Wakes `sleeper` for `timer` at `at` or a little later; `None` lets it sleep.
    #[inline]
    pub(crate) fn set(&mut self, sleeper: Sleeper, timer: Timer, at: Option<Instant>) {
        let wanted = at.map(|at| NonZeroU64::new(self.nanos(at)).unwrap_or(NonZeroU64::MIN));
        self.set_nanos(sleeper, timer, wanted);
    }

    fn set_nanos(&mut self, sleeper: Sleeper, timer: Timer, wanted: Option<NonZeroU64>) {
        let (places, index) = self.places(sleeper);
        if places.len() <= index {
            places.resize_with(index + 1, Deadlines::default);
        }
        let deadlines = &mut places[index];
        if deadlines.serial != sleeper.serial() {
            // Another lived at this index before: its entries in the wheel are stale.
            *deadlines = Deadlines { serial: sleeper.serial(), ..Deadlines::default() };
        }
        let deadline = &mut deadlines.timers[timer as usize];
        deadline.wanted = wanted;
        let Some(wanted) = wanted else { return };
        let queued = deadline.queued;
        // Most deadlines move later all the time, and have an entry that comes up before them.
        let exact = self.exact_tick(wanted);
        if queued.is_some_and(|queued| !is_before(exact, queued)) {
            return;
        }
        let (tick, half) = self.coarse_tick(exact);
        if queued.is_none_or(|queued| is_before(tick, queued)) {
            let (places, index) = self.places(sleeper);
            places[index].timers[timer as usize].queued = Some(half);
            self.wheel.insert(tick, (sleeper, timer));
        }
    }

    /// Forgets a sleeper.
    pub(crate) fn remove(&mut self, sleeper: Sleeper) {
        if let Some(known) = self.known(sleeper) {
            *known = Deadlines { serial: sleeper.serial(), ..Deadlines::default() };
        }
    }

    /// The next one to wake.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(Sleeper, Timer)> {
        let now = self.nanos(now);
        let until = now / NANOS;
        self.woken = until;
        loop {
            let first = self.wheel.begins_block();
            let (tick, (sleeper, timer)) = self.wheel.pop(until)?;
            self.prefetch_next(first);
            let Some(deadlines) = self.known(sleeper) else { continue };
            let deadline = &mut deadlines.timers[timer as usize];
            if deadline.queued != NonZeroU32::new(tick as u32) {
                continue;
            }
            deadline.queued = None;
            let wanted = deadline.wanted;
            match wanted {
                None => {}
                Some(wanted) if wanted.get() > now => self.set_nanos(sleeper, timer, Some(wanted)),
                Some(_) => {
                    deadline.wanted = None;
                    self.wakeups[timer as usize] += 1;
                    return Some((sleeper, timer));
                }
            }
        }
    }

    /// Asks for the deadlines of a sleeper.
    #[inline(always)]
    pub(crate) fn prefetch(&self, sleeper: Sleeper) {
        let place = match sleeper {
            Sleeper::Peer(peer) => self.peers.get(peer.index()),
            Sleeper::Route(route) => self.routes.get(route.0),
            Sleeper::Room(room) => self.rooms.get(room.index()),
        };
        if let Some(place) = place {
            prefetch(place);
        }
    }

    /// For those of who comes [`AHEAD`] entries later; behind the first of a block, of all until then.
    fn prefetch_next(&self, first: bool) {
        for behind in if first { 0 } else { AHEAD }..=AHEAD {
            if let Some((sleeper, _)) = self.wheel.peek(behind) {
                self.prefetch(sleeper);
            }
        }
    }

    /// When to look again. It may be early (a deadline that has moved later), never late.
    pub(crate) fn next(&self) -> Option<Instant> {
        Some(self.origin + Duration::from_millis(self.wheel.next()?))
    }

    /// Wake-ups so far, by timer in declaration order.
    pub(crate) fn wakeups(&self) -> [u64; Timer::COUNT] {
        self.wakeups
    }

    /// The first tick (millisecond) at or behind a moment, and one to come: whoever asks to be woken for a moment that has
    /// passed cannot keep the shard in a loop. An entry that comes up before its deadline is put back.
    fn exact_tick(&self, wanted: NonZeroU64) -> u64 {
        let tick = (wanted.get() / 1_000).div_ceil(1_000);
        tick.clamp(self.woken + 1, self.woken + FARTHEST)
    }

    /// The first tick at or behind `exact` that is as coarse as it may be, and its lower half.
    fn coarse_tick(&self, exact: u64) -> (u64, NonZeroU32) {
        let ahead = exact.saturating_sub(self.seen.1.max(self.woken));
        let step = match ahead {
            ..16 => 1,
            16..FAR => (1 << (ahead / 8).ilog2()).min(COARSEST),
            FAR.. => COARSEST_FAR,
        };
        let tick = exact.next_multiple_of(step);
        match NonZeroU32::new(tick as u32) {
            Some(half) => (tick, half),
            None => (tick + 1, NonZeroU32::MIN),
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_nanos() as u64
    }

    fn known(&mut self, sleeper: Sleeper) -> Option<&mut Deadlines> {
        let (places, index) = self.places(sleeper);
        places.get_mut(index).filter(|known| known.serial == sleeper.serial())
    }

    fn places(&mut self, sleeper: Sleeper) -> (&mut Vec<Deadlines>, usize) {
        match sleeper {
            Sleeper::Peer(peer) => (&mut self.peers, peer.index()),
            Sleeper::Route(route) => (&mut self.routes, route.0),
            Sleeper::Room(room) => (&mut self.rooms, room.index()),
        }
    }
}

/// Whether a tick is before another, of which the lower half is known: they are less than half a round apart.
fn is_before(tick: u64, other: NonZeroU32) -> bool {
    ((tick as u32).wrapping_sub(other.get()) as i32) < 0
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
        let at = |n: usize| t0 + ms(1_000) + Duration::from_micros(1_000) * n as u32;
        for n in 0..1_000 {
            let at = at(n);
            queue.set(peer(n, 1), Timer::Reports, Some(at));
        }
        let (mut woken, mut wakes) = (0, 0);
        while let Some(now) = queue.next() {
            let before = woken;
            while let Some((Sleeper::Peer(peer), _)) = queue.expired(now) {
                let at = at(peer.index());
                let put_off = if at - t0 < ms(FAR) { COARSEST } else { COARSEST_FAR };
                assert!(at <= now && now - at <= ms(put_off), "{:?}", now - t0);
                woken += 1;
            }
            wakes += usize::from(woken > before);
        }
        assert_eq!(woken, 1_000);
        // Of 280 ms and of 720.
        assert!(wakes <= 10 + 7, "{wakes} wake-ups");
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
    fn the_lower_half_of_a_tick_is_enough() {
        let (t0, a) = (origin(), peer(0, 1));
        let day = Duration::from_secs(86_400);
        let mut queue = TimerQueue::new(t0);
        queue.set(a, Timer::Reports, Some(t0 + day * 120));
        // Half a round and more before the first, and after the counter's turn.
        for days in [1, 30, 49, 50, 51, 99] {
            let at = t0 + day * days;
            queue.set(a, Timer::Estimator, Some(at));
            queue.set(a, Timer::PacerRelease, Some(t0 + ms((1 << 32) * u64::from(days / 50 + 1))));
            let woken = std::iter::from_fn(|| {
                let now = queue.next()?.max(t0);
                (now < at + ms(100)).then(|| queue.expired(now).map(|(_, timer)| (timer, now)))
            });
            let woken: Vec<_> = woken.flatten().collect();
            let late =
                woken.iter().find(|(timer, _)| *timer == Timer::Estimator).map(|it| it.1 - at);
            assert!(late.is_some_and(|late| late <= ms(COARSEST)), "day {days}: {woken:?}");
        }
        let mut last = None;
        while let Some(now) = queue.next() {
            last = queue.expired(now).map(|(_, timer)| (timer, now - t0)).or(last);
        }
        assert_eq!(last, Some((Timer::Reports, day * 120)));
    }

    #[test]
    fn deadlines_of_subscribers_are_one_line() {
        let known = Deadlines::default();
        let end = (&raw const known.timers[Timer::Allocation as usize + 1]).addr();
        assert_eq!((align_of_val(&known), end - (&raw const known).addr()), (64, 64));
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
