//! The way from the shards to the control side, bounded: a control side that does not read costs a shard neither memory nor
//! time.
//!
//! Nothing may be lost on it, since the node's snapshots are made from what arrives. So what finds no room waits here, and
//! of what can happen again and again the newest replaces the older: an encoding starts, the demand for a track changes,
//! a subscription pauses and goes on. The rest happens once in a peer's life, and peers are made by commands, of which no more are taken meanwhile.
//!
//! Waking another thread is a system call, and under steady load a shard makes none: statistics and speakers go into the ring
//! without a word. The reader, once it has read anything, looks for more each [`LOOK`] until nothing has come for [`REST`];
//! only then does the first word of a shard have to wake it. Everything else wakes it at once. Order is kept in any case.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, fence},
    },
    time::Duration,
};

use rtrb::{Consumer, Producer, PushError, RingBuffer};
use tokio::sync::Notify;

use super::{doorbell::Doorbell, worker::Output};
use crate::{
    room::{PeerId, RoomId},
    rtp::TrackId,
    shard::Event,
};

/// Outputs of one shard that wait on their way.
pub(super) const CAPACITY: usize = 512;

/// With so many waiting in a shard it takes no commands.
pub(super) const MAX_BACKLOG: usize = 1_024;

/// Replaced places that are kept until the backlog is packed.
const SLACK: usize = 256;

/// Between two looks of the reader, for what does not wake it. Longer is seen as lag of who speaks (elected each 300 ms),
/// shorter costs a turn of the control side each.
const LOOK: Duration = Duration::from_millis(50);

/// After so many looks that found nothing the reader sleeps until it is woken: 5 s, longer than from one statistics of a peer
/// to the next.
const REST: u32 = 100;

/// The ways of the shards with these doorbells, with room for `capacity` outputs each, and who reads them all.
pub(crate) fn ways(doorbells: &[Arc<Doorbell>], capacity: usize) -> (Vec<Outputs>, OutputReader) {
    let bell = Arc::new(Bell { notify: Notify::new(), looks: AtomicBool::new(false) });
    let (mut ends, mut rings) = (Vec::new(), Vec::new());
    for doorbell in doorbells {
        let (producer, consumer) = RingBuffer::new(capacity);
        let (doorbell, wanted) = (Arc::clone(doorbell), AtomicBool::new(false));
        let room = Arc::new(Room { doorbell, wanted });
        ends.push(Outputs::new(producer, Ringer(Arc::clone(&bell)), Arc::clone(&room)));
        rings.push(Ring { consumer, room: RoomMaker(room) });
    }
    (ends, OutputReader { rings, bell, next: 0, idle: 0 })
}

/// Wakes the reader.
#[derive(Debug)]
struct Bell {
    notify: Notify,
    /// The reader looks by itself: it need not be woken for what can wait for a moment.
    looks: AtomicBool,
}

/// A shard's hand on the bell. The reader learns of its end.
#[derive(Debug)]
struct Ringer(Arc<Bell>);

impl Drop for Ringer {
    fn drop(&mut self) {
        self.0.notify.notify_one();
    }
}

/// Wakes a shard that waits for room in its ring.
#[derive(Debug)]
struct Room {
    doorbell: Arc<Doorbell>,
    wanted: AtomicBool,
}

/// The reader's side of it. The shard learns of its end.
#[derive(Debug)]
struct RoomMaker(Arc<Room>);

impl Drop for RoomMaker {
    fn drop(&mut self) {
        self.0.doorbell.ring();
    }
}

/// What one shard says. Fields go in this order: who is woken by the end of `room` finds the ring abandoned.
struct Ring {
    consumer: Consumer<Output>,
    room: RoomMaker,
}

/// Reads what the shards say, each shard's words in their order.
pub(crate) struct OutputReader {
    rings: Vec<Ring>,
    bell: Arc<Bell>,
    /// The ring to look at first: each has its turn.
    next: usize,
    /// Looks since anything came.
    idle: u32,
}

impl std::fmt::Debug for OutputReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputReader").field("shards", &self.rings.len()).finish_non_exhaustive()
    }
}

impl OutputReader {
    /// The next word. `None`: all shards have ended and everything was read.
    pub(crate) async fn recv(&mut self) -> Option<Output> {
        loop {
            // However much comes, other tasks of this thread have their turn.
            tokio::task::coop::consume_budget().await;
            // Asked first: what a shard said last is in its ring by then.
            let ended = self.rings.iter().all(|ring| ring.consumer.is_abandoned());
            match self.try_recv() {
                None if !ended => self.wait().await,
                read => return read,
            }
        }
    }

    /// The next word that is there.
    pub(crate) fn try_recv(&mut self) -> Option<Output> {
        let count = self.rings.len();
        for index in (0..count).map(|n| (self.next + n) % count) {
            if let Some(output) = self.rings.get_mut(index).and_then(Ring::pop) {
                self.next = (index + 1) % count;
                self.idle = 0;
                return Some(output);
            }
        }
        None
    }

    async fn wait(&mut self) {
        if self.idle < REST {
            self.bell.looks.store(true, Ordering::Relaxed);
            self.idle += 1;
            tokio::select! {
                () = self.bell.notify.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            return;
        }
        // Either a shard sees that nobody looks, or what it said is seen here: see `Outputs::ring`.
        self.bell.looks.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.rings.iter().all(|ring| ring.consumer.is_empty()) {
            self.bell.notify.notified().await;
        }
        self.idle = 0;
    }
}

impl Ring {
    fn pop(&mut self) -> Option<Output> {
        let output = self.consumer.pop().ok()?;
        // Not for each place that is free: a shard comes to fill half a ring.
        if self.consumer.slots() <= self.consumer.buffer().capacity() / 2 {
            // Either the shard sees this place, or its wish is seen here: see `Outputs::may_flush`.
            fence(Ordering::SeqCst);
            if self.room.0.wanted.load(Ordering::Relaxed) {
                self.room.0.wanted.store(false, Ordering::Relaxed);
                self.room.0.doorbell.ring();
            }
        }
        Some(output)
    }
}

/// One shard's end. Fields go in this order: who is woken by the end of `bell` finds the ring abandoned.
pub(crate) struct Outputs {
    producer: Producer<Output>,
    bell: Ringer,
    room: Arc<Room>,
    /// Something was put in since the reader was last woken, and something that has to wake it.
    put: bool,
    put_urgent: bool,
    /// Oldest first; a place is empty where a newer event stands for it.
    backlog: VecDeque<Option<Output>>,
    /// Number of the backlog's first place, counted from the start.
    first: u64,
    /// Where the newest of what repeats waits.
    places: HashMap<Key, u64>,
    waiting: usize,
    /// Events that were replaced by newer ones.
    pub(super) merged: u64,
}

impl std::fmt::Debug for Outputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outputs").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

/// Comes again and again, and may wait for the reader's next look.
fn can_wait(output: &Output) -> bool {
    matches!(output, Output::Event(Event::PeerStats { .. } | Event::SpeakersChanged { .. }))
}

/// What the newest event stands for all about.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Key {
    Started(RoomId, PeerId, TrackId, u8),
    Demand(RoomId, PeerId, TrackId),
    Speakers(RoomId),
    Path(RoomId, PeerId),
    Stream(RoomId, PeerId, TrackId),
}

impl Key {
    fn of(output: &Output) -> Option<Self> {
        match output {
            Output::Event(Event::TrackStarted { room, peer, track, encoding, .. }) => {
                Some(Self::Started(room.clone(), peer.clone(), track.clone(), *encoding))
            }
            Output::Event(Event::LayerDemand { room, peer, track, .. }) => {
                Some(Self::Demand(room.clone(), peer.clone(), track.clone()))
            }
            Output::Event(Event::StreamState { room, peer, track, .. }) => {
                Some(Self::Stream(room.clone(), peer.clone(), track.clone()))
            }
            Output::Event(Event::PeerStats { room, peer, .. }) => {
                Some(Self::Path(room.clone(), peer.clone()))
            }
            Output::Event(Event::SpeakersChanged { room, .. }) => {
                Some(Self::Speakers(room.clone()))
            }
            _ => None,
        }
    }
}

impl Outputs {
    fn new(producer: Producer<Output>, bell: Ringer, room: Arc<Room>) -> Self {
        Self {
            producer,
            bell,
            room,
            put: false,
            put_urgent: false,
            backlog: VecDeque::new(),
            first: 0,
            places: HashMap::new(),
            waiting: 0,
            merged: 0,
        }
    }

    /// Says something, behind everything that was said before. The reader learns of it by [`Self::ring`].
    pub(super) fn send(&mut self, output: Output) {
        if !self.backlog.is_empty() {
            self.wait(output);
        } else if let Some(output) = self.put(output) {
            self.wait(output);
        }
    }

    /// Puts of what waits as much into the ring as there is room for.
    pub(super) fn flush(&mut self) {
        while let Some(place) = self.backlog.pop_front() {
            let number = self.first;
            self.first += 1;
            let Some(output) = place else { continue };
            let key = Key::of(&output);
            if let Some(output) = self.put(output) {
                self.first = number;
                self.backlog.push_front(Some(output));
                return;
            }
            self.waiting -= 1;
            // The newest of its kind: older ones left their places.
            if let Some(key) = key {
                self.places.remove(&key);
            }
        }
    }

    /// Wakes the reader, where what was said since asks for it or the reader does not look by itself.
    pub(super) fn ring(&mut self) {
        if !std::mem::take(&mut self.put) {
            return;
        }
        let urgent = std::mem::take(&mut self.put_urgent);
        // Either the reader sees what was put, or it is seen here that it does not look: see `OutputReader::wait`.
        fence(Ordering::SeqCst);
        if urgent || !self.bell.0.looks.load(Ordering::Relaxed) {
            self.bell.0.notify.notify_one();
        }
    }

    /// Whether [`Self::flush`] would do something. Where that waits for room, the doorbell rings when there is some.
    pub(super) fn may_flush(&self) -> bool {
        if self.waiting == 0 {
            return false;
        }
        self.room.wanted.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // Where the reader is gone, flushing drops what waits.
        !self.producer.is_full() || self.producer.is_abandoned()
    }

    /// Gives it back where there is no room. Where nobody will read it, it is dropped.
    fn put(&mut self, output: Output) -> Option<Output> {
        if self.producer.is_abandoned() {
            return None;
        }
        let urgent = !can_wait(&output);
        match self.producer.push(output) {
            Ok(()) => {
                self.put = true;
                self.put_urgent |= urgent;
                None
            }
            Err(PushError::Full(output)) => Some(output),
        }
    }

    /// How many wait here.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// No more commands shall be taken: each has an answer.
    pub(super) fn is_full(&self) -> bool {
        self.waiting >= MAX_BACKLOG
    }

    fn wait(&mut self, output: Output) {
        if let Some(key) = Key::of(&output) {
            let number = self.first + self.backlog.len() as u64;
            if let Some(older) = self.places.insert(key, number)
                && let Some(place) = self.backlog.get_mut((older - self.first) as usize)
                && place.take().is_some()
            {
                self.merged += 1;
                self.waiting -= 1;
            }
        }
        self.waiting += 1;
        self.backlog.push_back(Some(output));
        if self.backlog.len() > 2 * self.waiting + SLACK {
            self.pack();
        }
    }

    /// Removes the empty places.
    fn pack(&mut self) {
        self.backlog.retain(Option::is_some);
        self.places.clear();
        for (number, output) in (self.first..).zip(self.backlog.iter().flatten()) {
            if let Some(key) = Key::of(output) {
                self.places.insert(key, number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::{
        runtime::doorbell::doorbells,
        shard::{LostReason, Reply},
    };

    fn demand(track: u32, max_spatial: u8) -> Output {
        Output::Event(Event::LayerDemand {
            room: RoomId::new("r"),
            peer: PeerId::new("p"),
            track: TrackId::new(&format!("t{track}")),
            max_spatial: Some(max_spatial),
        })
    }

    fn lost(peer: u32) -> Output {
        Output::Event(Event::PeerLost {
            room: RoomId::new("r"),
            peer: PeerId::new(&format!("p{peer}")),
            reason: LostReason::Closed,
        })
    }

    fn answer() -> Output {
        Output::Answer { reply: Reply::Done, then: Box::new(drop) }
    }

    fn text(output: &Output) -> String {
        match output {
            Output::Answer { .. } => "answer".to_owned(),
            Output::Event(Event::PeerLost { peer, .. }) => format!("lost {}", peer.as_str()),
            Output::Event(Event::LayerDemand { track, max_spatial, .. }) => {
                format!("{} {}", track.as_str(), max_spatial.unwrap())
            }
            Output::Event(other) => panic!("{other:?}"),
        }
    }

    fn way() -> (Outputs, OutputReader) {
        let (mut outputs, reader) = ways(&doorbells(1), 1);
        (outputs.pop().unwrap(), reader)
    }

    fn speakers() -> Output {
        Output::Event(Event::SpeakersChanged { room: RoomId::new("r"), speakers: Arc::default() })
    }

    fn drain(outputs: &mut Outputs, reader: &mut OutputReader) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(output) = reader.try_recv() {
            seen.push(text(&output));
            outputs.flush();
        }
        seen
    }

    #[test]
    fn what_waits_keeps_its_order_and_the_newest_stands_for_the_older() {
        let (mut outputs, mut reader) = way();
        let all = [
            demand(1, 0),
            demand(1, 1),
            lost(1),
            demand(2, 0),
            answer(),
            demand(1, 2),
            lost(2),
            demand(2, 1),
            answer(),
        ];
        for output in all {
            outputs.send(output);
        }
        assert_eq!((outputs.waiting(), outputs.merged), (6, 2));
        let seen = drain(&mut outputs, &mut reader);
        // The first was on its way already.
        assert_eq!(seen, ["t1 0", "lost p1", "answer", "t1 2", "lost p2", "t2 1", "answer"]);
        assert_eq!((outputs.waiting(), outputs.places.len()), (0, 0));
        outputs.send(demand(1, 3));
        assert_eq!(drain(&mut outputs, &mut reader), ["t1 3"], "it goes on without detours");
    }

    #[test]
    fn a_reader_that_stands_still_costs_no_more_than_there_is_to_know() {
        let (mut outputs, mut reader) = way();
        outputs.send(answer());
        let mut most = 0;
        for n in 0..100_000 {
            outputs.send(demand(n % 50, (n / 10_000) as u8));
            most = most.max(outputs.backlog.len());
            if n % 1_000 == 999 {
                // Some are read now and then.
                reader.try_recv().unwrap();
                outputs.flush();
            }
        }
        assert!(outputs.waiting() <= 50 && most <= 2 * 50 + SLACK + 1, "{most} places");
        let mut seen = drain(&mut outputs, &mut reader);
        let tail = seen.split_off(seen.len() - 49);
        assert!(tail.iter().all(|text| text.ends_with(" 9")), "{tail:?}");
    }

    #[test]
    fn with_too_many_answers_waiting_no_more_commands_are_taken() {
        let (mut outputs, mut reader) = way();
        let taken = (0..10_000).take_while(|_| {
            let room = !outputs.is_full();
            if room {
                outputs.send(answer());
            }
            room
        });
        assert_eq!(taken.count(), MAX_BACKLOG + 1);
        assert_eq!(drain(&mut outputs, &mut reader).len(), MAX_BACKLOG + 1);
        assert!(!outputs.is_full());
        drop(reader);
        outputs.send(answer());
        assert_eq!(outputs.waiting(), 0, "nobody will read it");
    }

    /// Whether the reader was woken since it was asked last.
    fn rung(bell: &Bell) -> bool {
        let notified = std::pin::pin!(bell.notify.notified());
        notified.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn what_comes_again_and_again_wakes_nobody_who_looks_by_himself() {
        let (mut outputs, reader) = ways(&doorbells(1), 8);
        let mut outputs = outputs.pop().unwrap();
        let bell = Arc::clone(&reader.bell);
        let mut woken_by = |output: fn() -> Output, looks: bool| {
            bell.looks.store(looks, Ordering::Relaxed);
            outputs.send(output());
            assert!(!rung(&bell), "once a turn");
            outputs.ring();
            let woken = rung(&bell);
            outputs.ring();
            assert!(!rung(&bell), "there is nothing new");
            woken
        };
        assert!(woken_by(answer, true) && woken_by(|| demand(1, 0), true));
        assert!(!woken_by(speakers, true), "it looks soon");
        assert!(woken_by(speakers, false), "it sleeps");
        assert!(woken_by(answer, false));
        drop(outputs);
        assert!(rung(&bell), "the end is news");
    }

    #[tokio::test]
    async fn a_reader_finds_what_did_not_wake_it_and_is_woken_where_it_sleeps() {
        let (mut outputs, mut reader) = ways(&doorbells(2), 8);
        for idle in [0, REST - 1, REST] {
            reader.idle = idle;
            let reads = tokio::spawn(async move {
                let read = reader.recv().await;
                (read, reader)
            });
            // It waits by now, whether it looks or sleeps.
            tokio::time::sleep(LOOK / 5).await;
            outputs[1].send(speakers());
            outputs[1].ring();
            let read = reads.await.unwrap();
            assert!(read.0.is_some());
            reader = read.1;
        }
        outputs[0].send(answer());
        drop(outputs);
        assert!(reader.recv().await.is_some(), "what was said before the end");
        assert!(reader.recv().await.is_none());
    }

    #[test]
    fn a_shard_that_waits_for_room_learns_of_it() {
        let bells = doorbells(1);
        let (mut outputs, mut reader) = ways(&bells, 4);
        let mut outputs = outputs.pop().unwrap();
        for _ in 0..6 {
            outputs.send(answer());
        }
        assert_eq!(outputs.waiting(), 2);
        assert!(!outputs.may_flush() && bells[0].fall_asleep());
        assert!(reader.try_recv().is_some());
        assert!(!bells[0].answer() && bells[0].fall_asleep(), "not for one place");
        assert_eq!(std::iter::from_fn(|| reader.try_recv()).count(), 3);
        assert!(bells[0].answer() && outputs.may_flush());
        outputs.flush();
        assert_eq!((std::iter::from_fn(|| reader.try_recv()).count(), outputs.waiting()), (2, 0));
        assert!(!outputs.may_flush());
        for _ in 0..6 {
            outputs.send(answer());
        }
        bells[0].answer();
        assert!(!outputs.may_flush() && bells[0].fall_asleep());
        drop(reader);
        assert!(bells[0].answer() && outputs.may_flush());
        outputs.flush();
        assert_eq!(outputs.waiting(), 0, "nobody will read it");
    }
}
