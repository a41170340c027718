//! The way from a shard to the control side, bounded: a control side that does not read costs a shard neither memory nor
//! time.
//!
//! Nothing may be lost on it, since the node's snapshots are made from what arrives. So what finds no room waits here, and
//! of what can happen again and again the newest replaces the older: an encoding starts, the demand for a track changes,
//! a subscription pauses and goes on. The rest happens once in a peer's life, and peers are made by commands, of which no more are taken meanwhile.

use std::collections::{HashMap, VecDeque};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::worker::Output;
use crate::{
    room::{PeerId, RoomId},
    rtp::TrackId,
    shard::Event,
};

/// Outputs that wait on their way, of all shards together.
pub(super) const CAPACITY: usize = 1_024;

/// With so many waiting in a shard it takes no commands.
const MAX_BACKLOG: usize = 1_024;

/// Replaced places that are kept until the backlog is packed.
const SLACK: usize = 256;

/// One shard's end.
#[derive(Debug)]
pub(super) struct Outputs {
    sender: mpsc::Sender<Output>,
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
    pub(super) fn new(sender: mpsc::Sender<Output>) -> Self {
        Self {
            sender,
            backlog: VecDeque::new(),
            first: 0,
            places: HashMap::new(),
            waiting: 0,
            merged: 0,
        }
    }

    /// Sends something, behind everything that was sent before.
    pub(super) fn send(&mut self, output: Output) {
        if !self.backlog.is_empty() {
            self.wait(output);
            return;
        }
        match self.sender.try_send(output) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(output)) => self.wait(output),
        }
    }

    /// Sends of what waits as much as there is room for.
    pub(super) fn flush(&mut self) {
        while let Some(place) = self.backlog.pop_front() {
            let number = self.first;
            self.first += 1;
            let Some(output) = place else { continue };
            let key = Key::of(&output);
            if let Err(TrySendError::Full(output)) = self.sender.try_send(output) {
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

    /// Waits until there may be room.
    pub(super) async fn ready(&self) {
        // With an error the reader is gone, and flushing drops what waits.
        let _ = self.sender.reserve().await;
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
    use super::*;
    use crate::shard::{LostReason, Reply};

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

    fn drain(outputs: &mut Outputs, reader: &mut mpsc::Receiver<Output>) -> Vec<String> {
        let mut seen = Vec::new();
        while let Ok(output) = reader.try_recv() {
            seen.push(text(&output));
            outputs.flush();
        }
        seen
    }

    #[test]
    fn what_waits_keeps_its_order_and_the_newest_stands_for_the_older() {
        let (sender, mut reader) = mpsc::channel(1);
        let mut outputs = Outputs::new(sender);
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
        let (sender, mut reader) = mpsc::channel(1);
        let mut outputs = Outputs::new(sender);
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
        let (sender, mut reader) = mpsc::channel(1);
        let mut outputs = Outputs::new(sender);
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
}
