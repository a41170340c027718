//! What the world asks of a shard and what a shard tells the world: plain mirrors of `chappe.node.v1`.
//!
//! Revisions, epochs, deltas, `owner_state` and snapshots are `control`'s: a shard only sees whole states that it has
//! to make true.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    peer::{PathStats, PeerReport, PeerSpec},
    room::{PeerId, RoomId},
    rtp::{CodecKind, Ssrc, TrackId},
};

/// Something to do. Answered by exactly one [`Reply`].
#[derive(Clone, Debug)]
pub enum Command {
    /// Creates a peer or makes it match `spec`. Answer: [`Reply::Applied`].
    ApplyPeer {
        /// Its room; made when it is not there.
        room: RoomId,
        /// The peer.
        peer: PeerId,
        /// Everything that is wanted of it.
        spec: Box<PeerSpec>,
    },
    /// Ends a peer, with DTLS close_notify. An unknown one is fine. Answer: [`Reply::Done`].
    RemovePeer {
        /// Its room.
        room: RoomId,
        /// The peer.
        peer: PeerId,
    },
    /// Ends every peer of the room that lives on this shard: send it to all shards. Answer: [`Reply::Done`].
    RemoveRoom {
        /// The room.
        room: RoomId,
    },
    /// Tells what is known of a peer, and changes nothing. Answer: [`Reply::Report`].
    ReportPeer {
        /// Its room.
        room: RoomId,
        /// The peer.
        peer: PeerId,
    },
    /// Sends one data packet to the peers of the room that live on this shard: send it to all shards. Answer:
    /// [`Reply::Done`].
    SendData {
        /// The room.
        room: RoomId,
        /// One encoded packet, sender fields included; passed on as it is. At most 64,000 bytes.
        packet: Bytes,
        /// By `_reliable`, otherwise by `_lossy`.
        reliable: bool,
        /// Addresses; empty is everybody.
        destinations: Vec<Arc<str>>,
    },
}

/// Answer to a [`Command`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// To [`Command::ApplyPeer`].
    Applied(Result<LocalTransport, ApplyError>),
    /// To [`Command::ReportPeer`]; `None`: no such peer lives here.
    Report(Option<Box<PeerReport>>),
    /// To everything else: it is so now.
    Done,
}

/// The node's side of a peer's ICE. Candidates and the fingerprint are added by those who know the sockets and the
/// certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct LocalTransport {
    /// See [`super::Ufrag`].
    pub ufrag: String,
    /// 24 characters.
    pub pwd: String,
    /// Grows by one with each ICE restart.
    pub ice_generation: u32,
}

impl std::fmt::Debug for LocalTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Credentials stay out of logs.
        f.debug_struct("LocalTransport").field("ice_generation", &self.ice_generation).finish()
    }
}

/// Why a peer's state was refused. Nothing was changed then.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    /// The shard has as many peers as its configuration allows.
    #[error("this shard takes no more peers")]
    Full,
    /// A field contradicts another or is out of bounds.
    #[error("{0}")]
    Invalid(&'static str),
    /// A track id that another peer publishes.
    #[error("track {0} is published by another peer")]
    TrackTaken(TrackId),
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// ICE has a path and DTLS is complete.
    PeerConnected {
        /// Its room.
        room: RoomId,
        /// The peer.
        peer: PeerId,
    },
    /// The peer is gone from the shard.
    PeerLost {
        /// Its room.
        room: RoomId,
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: LostReason,
    },
    /// Both data channels are open.
    DataReady {
        /// Its room.
        room: RoomId,
        /// The peer.
        peer: PeerId,
    },
    /// The first packet of an encoding arrived.
    TrackStarted {
        /// Its room.
        room: RoomId,
        /// The publisher.
        peer: PeerId,
        /// The track.
        track: TrackId,
        /// Index into the track's encodings.
        encoding: u8,
        /// What it carries.
        codec: CodecKind,
        /// As the publisher sends it.
        ssrc: Ssrc,
    },
    /// What all subscribers of a track together want changed. Told by the publisher's shard only.
    LayerDemand {
        /// Its room.
        room: RoomId,
        /// The publisher.
        peer: PeerId,
        /// The track.
        track: TrackId,
        /// Highest spatial layer that anybody wants; `None`: nobody wants the track.
        max_spatial: Option<u8>,
    },
    /// A subscription has to pause because its peer's bandwidth has no room for its lowest layer, or goes on.
    StreamState {
        /// Its room.
        room: RoomId,
        /// The subscriber.
        peer: PeerId,
        /// The track.
        track: TrackId,
        /// No packets while true.
        paused: bool,
    },
    /// Other people speak than before, or at another loudness. Told by the room's home shard only.
    SpeakersChanged {
        /// The room.
        room: RoomId,
        /// Everybody who is heard now, the dominant speaker first.
        speakers: Arc<Vec<SpeakerLevel>>,
    },
    /// How a connected peer's path was of late.
    PeerStats {
        /// Its room.
        room: RoomId,
        /// The peer.
        peer: PeerId,
        /// Since the last event of the kind.
        stats: PathStats,
    },
    /// A reliable data reader fell 1 MiB or 5 s behind: it should reconnect. Told once.
    DataOverflow {
        /// Its room.
        room: RoomId,
        /// The reader.
        peer: PeerId,
    },
}

/// Somebody who is heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpeakerLevel {
    /// The audio track.
    pub track: TrackId,
    /// Linear amplitude: 65,535 is as loud as can be.
    pub level: u16,
    /// Leads the conversation.
    pub dominant: bool,
}

/// Why a peer is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LostReason {
    /// No valid connectivity check for 15 s (RFC 7675).
    IceTimeout,
    /// DTLS failed: wrong fingerprint, no common version, or no answer.
    DtlsFailed,
    /// The client closed DTLS.
    Closed,
}
