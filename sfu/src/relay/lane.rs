//! What waits for another shard.
//!
//! No lane ever blocks its producer: media that finds its lane full is dropped and later repaired by NACK or a
//! keyframe request; data has a lane of its own, bounded in bytes; what keeps the two shards' tables equal is bounded by
//! the size of those tables and is never dropped.

use std::collections::VecDeque;

use super::{DataMessage, RelayMessage};

/// Media messages that may wait: about 100 ms of 25 video tracks. More only adds delay, fewer drops bursts of keyframes.
const MEDIA_CAPACITY: usize = 2_048;

/// Messages of each kind that there is room for once the shards share a room: what follows a few frames.
const FIRST_MESSAGES: usize = 64;

/// Bytes of data messages that may wait: as much as one slow reader may be behind.
const DATA_CAPACITY: usize = 1 << 20;

/// Accounted for each data message beside its bytes.
const DATA_OVERHEAD: usize = 128;

/// Demands further back than this are not searched for an older one of the same track.
const DEMAND_SEARCH: usize = 64;

/// The message was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LaneFull;

/// Everything that waits for one other shard.
#[derive(Debug)]
pub(crate) struct Lane {
    tables: VecDeque<RelayMessage>,
    media: VecDeque<RelayMessage>,
    media_capacity: usize,
    data: VecDeque<DataMessage>,
    data_bytes: usize,
    /// Data is next where media waits too.
    data_turn: bool,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            tables: VecDeque::new(),
            media: VecDeque::new(),
            media_capacity: MEDIA_CAPACITY,
            data: VecDeque::new(),
            data_bytes: 0,
            data_turn: false,
        }
    }
}

impl Lane {
    /// Queues what must arrive: membership, tracks, formats, demand.
    pub(crate) fn push_table(&mut self, message: RelayMessage) {
        if let RelayMessage::Enter { .. } = message {
            self.tables.reserve(FIRST_MESSAGES);
            self.media.reserve(FIRST_MESSAGES);
        }
        if let RelayMessage::Demand { route, .. } = message {
            let recent = self.tables.iter_mut().rev().take(DEMAND_SEARCH);
            for waiting in recent {
                match waiting {
                    RelayMessage::Demand { route: known, .. } if *known == route => {
                        *waiting = message;
                        return;
                    }
                    // The track may have been announced anew: do not reach over it.
                    RelayMessage::Leave { .. } | RelayMessage::Enter { .. } => break,
                    _ => {}
                }
            }
        }
        if let RelayMessage::DataLost { room } = &message {
            let known = |waiting: &RelayMessage| match waiting {
                RelayMessage::DataLost { room: known } => known == room,
                _ => false,
            };
            // Told once is enough, unless its readers may have changed since.
            let changed = |waiting: &RelayMessage| match waiting {
                RelayMessage::Enter { room: entered, .. }
                | RelayMessage::Leave { room: entered } => entered == room,
                _ => false,
            };
            if self.tables.iter().rev().take_while(|waiting| !changed(waiting)).any(known) {
                return;
            }
        }
        self.tables.push_back(message);
    }

    /// Queues a packet or what repairs one.
    pub(crate) fn push_media(&mut self, message: RelayMessage) -> Result<(), LaneFull> {
        if self.media.len() >= self.media_capacity {
            return Err(LaneFull);
        }
        self.media.push_back(message);
        Ok(())
    }

    /// Whether [`Self::push_media`] would refuse.
    pub(crate) fn is_media_full(&self) -> bool {
        self.media.len() >= self.media_capacity
    }

    /// Queues a data message.
    pub(crate) fn push_data(&mut self, message: DataMessage) -> Result<(), LaneFull> {
        let size = Self::data_size(&message);
        if self.data_bytes + size > DATA_CAPACITY {
            return Err(LaneFull);
        }
        self.data_bytes += size;
        self.data.push_back(message);
        Ok(())
    }

    /// The next message. Tables first: a packet means nothing before its track is known.
    pub(crate) fn pop(&mut self) -> Option<RelayMessage> {
        if let Some(message) = self.tables.pop_front() {
            return Some(message);
        }
        let take_data = self.data_turn || self.media.is_empty();
        self.data_turn = !take_data;
        if take_data && let Some(message) = self.data.pop_front() {
            self.data_bytes -= Self::data_size(&message);
            return Some(RelayMessage::Data(message));
        }
        self.media.pop_front()
    }

    /// How many messages wait.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn len(&self) -> usize {
        self.tables.len() + self.media.len() + self.data.len()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.media.is_empty() && self.data.is_empty()
    }

    fn data_size(message: &DataMessage) -> usize {
        message.packet.len() + DATA_OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{cache::EncodingSet, room::RoomId};

    fn demand(route: u32, bits: u8) -> RelayMessage {
        RelayMessage::Demand { route, encodings: EncodingSet::from_bits(bits), max_spatial: None }
    }

    fn keyframe(route: u32) -> RelayMessage {
        RelayMessage::Keyframe { route, encoding: 0 }
    }

    fn data(len: usize) -> DataMessage {
        DataMessage {
            room: RoomId::new("r"),
            from: None,
            reliable: true,
            destinations: Vec::new(),
            packet: Bytes::from(vec![0; len]),
        }
    }

    #[test]
    fn tables_pass_media_and_a_newer_demand_replaces_an_older() {
        let mut lane = Lane::default();
        lane.push_media(keyframe(1)).unwrap();
        lane.push_table(demand(1, 1));
        lane.push_table(demand(2, 1));
        lane.push_table(demand(1, 3));
        let first = lane.pop();
        assert!(
            matches!(first, Some(RelayMessage::Demand { route: 1, encodings, .. }) if encodings.bits() == 3)
        );
        assert!(matches!(lane.pop(), Some(RelayMessage::Demand { route: 2, .. })));
        assert!(matches!(lane.pop(), Some(RelayMessage::Keyframe { route: 1, .. })));
        assert!(lane.pop().is_none() && lane.is_empty());
    }

    #[test]
    fn lost_data_is_told_once_for_each_room() {
        let mut lane = Lane::default();
        for room in ["a", "b", "a", "a", "b"] {
            lane.push_table(RelayMessage::DataLost { room: RoomId::new(room) });
        }
        assert_eq!(lane.tables.len(), 2);
        assert!(lane.pop().is_some());
        lane.push_table(RelayMessage::DataLost { room: RoomId::new("a") });
        assert_eq!(lane.tables.len(), 2, "what was taken is told again");
    }

    #[test]
    fn a_full_media_lane_refuses_and_recovers() {
        let mut lane = Lane::default();
        for _ in 0..MEDIA_CAPACITY {
            lane.push_media(keyframe(1)).unwrap();
        }
        assert_eq!(lane.push_media(keyframe(1)), Err(LaneFull));
        lane.pop();
        assert_eq!(lane.push_media(keyframe(1)), Ok(()));
    }

    #[test]
    fn data_is_bounded_in_bytes_and_takes_turns_with_media() {
        let mut lane = Lane::default();
        for _ in 0..3 {
            lane.push_media(keyframe(1)).unwrap();
        }
        lane.push_data(data(DATA_CAPACITY / 2 - DATA_OVERHEAD)).unwrap();
        lane.push_data(data(DATA_CAPACITY / 2 - DATA_OVERHEAD)).unwrap();
        assert_eq!(lane.push_data(data(1)), Err(LaneFull));
        let is_data: Vec<bool> =
            std::iter::from_fn(|| lane.pop()).map(|m| matches!(m, RelayMessage::Data(_))).collect();
        assert_eq!(is_data, [false, true, false, true, false]);
        assert_eq!(lane.push_data(data(1)), Ok(()), "there is room again");
    }
}
