//! Messages between two shards. Each fits a QUIC datagram, except data, which would take a stream.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    cache::{CachedPacket, EncodingSet, FormatId, LadderStep, PacketMeta, SenderClock},
    room::{LevelWindow, PeerId, RoomId},
    rtp::{Codec, MediaKind, SeqNo, TrackId},
};

/// One message. `route` is a number by which the publisher's shard calls a publication; it counts for
/// that shard only, and is not given to another one for billions of publications.
#[derive(Clone, Debug)]
pub enum RelayMessage {
    /// The sender has members in this room: tell it what is published there.
    Enter {
        /// The room.
        room: RoomId,
        /// It answers an `Enter`: no answer is wanted.
        answer: bool,
    },
    /// The sender has no more members in this room, and takes and gives nothing there.
    Leave {
        /// The room.
        room: RoomId,
    },
    /// A peer of the sender publishes a track.
    Publish {
        /// Its number from now on.
        route: u32,
        /// Its room.
        room: RoomId,
        /// Its name.
        track: TrackId,
        /// Audio or video.
        kind: MediaKind,
        /// How many encodings it has.
        encodings: u8,
        /// Who publishes it.
        publisher: PeerId,
    },
    /// Who is heard in a room, from its home shard; replaces who was.
    Speaking {
        /// The room.
        room: RoomId,
        /// Peers with voices.
        publishers: Arc<Vec<PeerId>>,
    },
    /// The track is gone.
    Unpublish {
        /// Its number until now.
        route: u32,
    },
    /// Packets of this format may follow.
    Format {
        /// Which track.
        route: u32,
        /// Its number in the packets' meta.
        id: FormatId,
        /// What it is.
        codec: Box<Codec>,
    },
    /// The encodings that have packets at the publisher's shard.
    Live {
        /// Which track.
        route: u32,
        /// Which encodings.
        encodings: EncodingSet,
    },
    /// What the publisher's shard measured: not all encodings cross.
    Ladder {
        /// Which track.
        route: u32,
        /// Its choices and their bitrates, lowest first.
        steps: Arc<Vec<LadderStep>>,
    },
    /// A media packet.
    Media(RelayPacket),
    /// Where an encoding's media time stands on its sender's clock.
    Clock {
        /// Which track.
        route: u32,
        /// Which encoding.
        encoding: u8,
        /// From the last sender report.
        clock: SenderClock,
    },
    /// How loud an audio track was of late, for the room's home, which elects speakers.
    Levels {
        /// Which track.
        route: u32,
        /// Its levels since the last message.
        window: LevelWindow,
    },
    /// A data packet.
    Data(DataMessage),
    /// Reliable data for this room was lost on its way: its readers have to reconnect.
    DataLost {
        /// The room.
        room: RoomId,
    },
    /// What the sender wants of a track; replaces what it wanted before.
    Demand {
        /// Which track.
        route: u32,
        /// Encodings that have to cross.
        encodings: EncodingSet,
        /// Highest spatial layer that any of its subscribers asks for; `None`: nobody.
        max_spatial: Option<u8>,
    },
    /// The sender's subscribers need a keyframe.
    Keyframe {
        /// Which track.
        route: u32,
        /// Which encoding.
        encoding: u8,
    },
    /// Packets that are not in the sender's cache.
    Nack {
        /// Which track.
        route: u32,
        /// Which encoding.
        encoding: u8,
        /// The missing.
        seqs: Nacked,
    },
    /// The buffer of a [`RelayPacket`] goes back to the shard that filled it.
    Spent(Vec<u8>),
}

/// A packet on its way into another shard's cache.
#[derive(Clone, Debug)]
pub struct RelayPacket {
    /// Which track.
    pub route: u32,
    meta: PacketMeta,
    descriptor_len: u16,
    bytes: Vec<u8>,
}

impl RelayPacket {
    /// Copies `packet` into `buffer`, which keeps its capacity.
    pub fn new(route: u32, packet: CachedPacket<'_>, mut buffer: Vec<u8>) -> Self {
        // A descriptor comes from a header extension element: at most 255 bytes.
        let descriptor =
            packet.dependency_descriptor.get(..255).unwrap_or(packet.dependency_descriptor);
        buffer.clear();
        buffer.extend_from_slice(descriptor);
        buffer.extend_from_slice(packet.payload);
        Self { route, meta: *packet.meta, descriptor_len: descriptor.len() as u16, bytes: buffer }
    }

    /// The packet as it was in the other cache.
    pub fn packet(&self) -> CachedPacket<'_> {
        let at = usize::from(self.descriptor_len).min(self.bytes.len());
        let (dependency_descriptor, payload) = self.bytes.split_at(at);
        CachedPacket { meta: &self.meta, dependency_descriptor, payload }
    }

    /// The buffer, to be used again.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

/// A data packet for the members of a room.
#[derive(Clone, Debug)]
pub struct DataMessage {
    /// The room.
    pub room: RoomId,
    /// Address of the sender, who does not get it back; `None`: it comes from the control plane.
    pub from: Option<Arc<str>>,
    /// By the reliable channel.
    pub reliable: bool,
    /// Addresses that get it; empty: everybody.
    pub destinations: Vec<Arc<str>>,
    /// As it will leave.
    pub packet: Bytes,
}

/// A few sequence numbers, kept inline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nacked {
    len: u8,
    seqs: [SeqNo; Self::MAX],
}

impl Nacked {
    /// What one message carries: two generic NACK blocks' worth.
    pub const MAX: usize = 34;

    /// None.
    pub const fn new() -> Self {
        Self { len: 0, seqs: [SeqNo(0); Self::MAX] }
    }

    /// Adds one. `false` when there is no room.
    pub fn push(&mut self, seq: SeqNo) -> bool {
        let Some(place) = self.seqs.get_mut(usize::from(self.len)) else { return false };
        *place = seq;
        self.len += 1;
        true
    }

    /// Nothing was added.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = SeqNo> + '_ {
        self.seqs.iter().take(usize::from(self.len)).copied()
    }
}

impl Default for Nacked {
    fn default() -> Self {
        Self::new()
    }
}
