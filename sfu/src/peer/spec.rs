//! What the control plane wants of a peer: plain values, already checked for form.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    rtp::{Bitrate, CodecMap, ExtensionMap, MediaKind, Mid, Pt, Rid, Ssrc, TrackId},
    transport::TransportParams,
};

/// The whole desired state of one peer (one PeerConnection of a client).
#[derive(Clone, PartialEq, Debug)]
pub struct PeerSpec {
    /// The client's side of the transport, as far as it is known.
    pub transport: TransportParams,
    /// Payload types of the BUNDLE, both directions.
    pub codecs: CodecMap,
    /// Payload type of repair packets (FlexFEC), both directions.
    pub fec: Option<Pt>,
    /// Feedback as of RFC 8888 was negotiated, both ways. Where transport-wide numbers are negotiated too, the peer gets
    /// feedback by those.
    pub ccfb: bool,
    /// Header extensions that the node may send to this peer.
    pub send_extensions: ExtensionMap,
    /// Header extensions that the peer may send to the node.
    pub receive_extensions: ExtensionMap,
    /// What it publishes.
    pub tracks: Vec<TrackSpec>,
    /// What it receives.
    pub subscriptions: Vec<SubscriptionSpec>,
    /// Absent: no data from or to this peer.
    pub data: Option<DataSpec>,
    /// Caps.
    pub limits: Limits,
    /// Media and repair to the peer get no more, whatever its path carries.
    pub max_egress_bitrate: Option<Bitrate>,
}

/// Media that a peer sends. A track published in two codecs is two tracks here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrackSpec {
    /// Unique on the node.
    pub id: TrackId,
    /// Audio or video.
    pub kind: MediaKind,
    /// The m-line it arrives on.
    pub mid: Mid,
    /// Lowest quality first; the position is the spatial layer. Never empty: without simulcast one encoding that has no
    /// rid. More than [`TrackSpec::MAX_ENCODINGS`] are refused.
    pub encodings: Vec<EncodingSpec>,
    /// Packets of a muted track are counted and dropped.
    pub muted: bool,
}

impl TrackSpec {
    /// Simulcast in the field has three; SVC is one encoding.
    pub const MAX_ENCODINGS: usize = 4;
}

/// One encoding of a track.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EncodingSpec {
    /// RFC 8851; absent without simulcast.
    pub rid: Option<Rid>,
    /// Absent where the description signalled none: then MID and RID bind it.
    pub ssrc: Option<Ssrc>,
    /// From a=ssrc-group:FID.
    pub rtx_ssrc: Option<Ssrc>,
}

/// Media that a peer receives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionSpec {
    /// A track of some peer of the same room; it may not be published yet.
    pub track: TrackId,
    /// The m-line it leaves on.
    pub mid: Mid,
    /// SSRC of the outgoing stream, unique within the peer.
    pub ssrc: Ssrc,
    /// SSRC of its retransmissions; absent: none.
    pub rtx_ssrc: Option<Ssrc>,
    /// SSRC of its repair packets, of video; absent: none are made.
    pub fec_ssrc: Option<Ssrc>,
    /// No packets while true.
    pub paused: bool,
    /// Highest spatial layer wanted; absent is no bound. 0 is the lowest.
    pub max_spatial: Option<u8>,
    /// Highest temporal layer wanted; absent is no bound.
    pub max_temporal: Option<u8>,
    /// Temporal layers that make the picture change more often than this are left out, where the track has any; absent is no
    /// bound. Frames per second.
    pub max_fps: Option<u32>,
    /// Larger is more important.
    pub priority: u32,
    /// Audio that its publisher calls silent (RFC 6464, level 127) is left out after a few packets.
    pub suppress_silence: bool,
    /// Audio without redundancy gets some (RFC 2198) while the peer reports loss. Not for what is encrypted end to end: there
    /// receivers decrypt a payload as a whole.
    pub add_redundancy: bool,
    /// Where bandwidth is short, pictures come less often rather than smaller. Otherwise temporal layers are left out of
    /// the lowest spatial layer only.
    pub maintain_resolution: bool,
}

impl SubscriptionSpec {
    /// Everything that it leaves on.
    pub fn ssrcs(&self) -> impl Iterator<Item = Ssrc> + use<> {
        [Some(self.ssrc), self.rtx_ssrc, self.fec_ssrc].into_iter().flatten()
    }
}

/// Data packets of a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataSpec {
    /// Compared with the packets' destinations. Packets from one address are never sent back to it.
    pub address: Arc<str>,
    /// Appended to each packet from this peer, after its sender fields were dropped.
    pub stamp: Bytes,
    /// Packets from this peer are passed on.
    pub may_send: bool,
    /// Packets are sent to this peer.
    pub may_receive: bool,
    /// The node opens `_reliable` and `_lossy`; otherwise it answers on those that the client opens.
    pub node_opens: bool,
}

/// Caps of a peer; what is over them is dropped and counted. `None` is the shard's default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Media from the peer.
    pub ingress_bitrate: Option<Bitrate>,
    /// Streams (SSRCs, RTX included) from the peer.
    pub ingress_ssrcs: Option<u32>,
    /// Data from the peer.
    pub data_rate: Option<Bitrate>,
}
