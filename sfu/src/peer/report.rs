//! A peer's media in numbers, for whoever looks closer than [`super::PathStats`] does: plain mirrors of `PeerReport` in
//! `node.proto`.

use std::{ops::AddAssign, time::Duration};

use super::{DirectionStats, Estimate};
use crate::{
    cache::{LadderStep, Layers},
    ingress::EncodingStats,
    rtp::{Bitrate, MediaKind, TrackId},
};

/// What left for a subscriber, counted. In this order: what each packet changes comes last, beside what a subscription has behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct EgressCounters {
    /// Packets sent again on request.
    pub resent_packets: u64,
    /// Their bytes, SRTP included.
    pub resent_bytes: u64,
    /// Packets that were asked for by NACK.
    pub nacked: u64,
    /// Of these, what was in no cache.
    pub resends_missed: u64,
    /// Of these, what had no room in the share of retransmissions.
    pub resends_over_budget: u64,
    /// Packets sent to fill probes.
    pub padding_packets: u64,
    /// PLI and FIR of the subscriber.
    pub keyframe_requests: u64,
    /// Repair packets (FlexFEC).
    pub fec_packets: u64,
    /// Their bytes, SRTP included.
    pub fec_bytes: u64,
    /// Packets of media, retransmissions apart.
    pub packets: u64,
    /// Their bytes, SRTP included.
    pub bytes: u64,
}

impl AddAssign for EgressCounters {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.resent_packets += other.resent_packets;
        self.resent_bytes += other.resent_bytes;
        self.nacked += other.nacked;
        self.resends_missed += other.resends_missed;
        self.resends_over_budget += other.resends_over_budget;
        self.padding_packets += other.padding_packets;
        self.keyframe_requests += other.keyframe_requests;
        self.fec_packets += other.fec_packets;
        self.fec_bytes += other.fec_bytes;
    }
}

/// Everything about one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerReport {
    /// ICE has a path and DTLS is complete.
    pub connected: bool,
    /// The way to it.
    pub path: PathReport,
    /// What it publishes.
    pub tracks: Vec<TrackReport>,
    /// What it receives.
    pub subscriptions: Vec<SubscriptionReport>,
}

/// The way between the node and a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathReport {
    /// Round trip, once it is known.
    pub rtt: Option<Duration>,
    /// From the peer, in the last whole interval.
    pub ingress: DirectionStats,
    /// To the peer, in the last whole interval.
    pub egress: DirectionStats,
    /// Since media or feedback came.
    pub silent: Duration,
    /// `None` while the peer gives no feedback from which to estimate.
    pub estimate: Option<EstimateReport>,
    /// Packets that wait for the pacer.
    pub pacer_packets: usize,
    /// By all present and former subscriptions.
    pub sent: EgressCounters,
    /// Media, retransmissions and padding, SRTP included.
    pub bytes_sent: u64,
    /// The same in the last whole interval.
    pub egress_bitrate: Bitrate,
}

/// What a path takes, and what it is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EstimateReport {
    /// The estimate and what holds it.
    pub estimate: Estimate,
    /// What is shared out.
    pub budget: Bitrate,
    /// At which rate packets arrived of late.
    pub acknowledged: Option<Bitrate>,
    /// What all video would cost as it is wished for.
    pub video_wanted: Bitrate,
    /// What it costs as it is granted.
    pub video_granted: Bitrate,
    /// How long packets wait in the path.
    pub queue: Duration,
    /// Packets lost of late, 1/1,000.
    pub loss: u16,
    /// Probes asked for.
    pub probes: u32,
}

/// A published track.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrackReport {
    /// The track.
    pub track: TrackId,
    /// Audio or video.
    pub kind: MediaKind,
    /// Its packets are dropped.
    pub muted: bool,
    /// Lowest quality first.
    pub encodings: Vec<EncodingStats>,
    /// What subscribers can be put on, lowest first; empty for audio.
    pub ladder: Vec<LadderStep>,
    /// Bytes of its packets in caches of this shard.
    pub cached: usize,
}

/// A track on its way to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionReport {
    /// The track.
    pub track: TrackId,
    /// `None` while it is not published.
    pub kind: Option<MediaKind>,
    /// What the peer asks for.
    pub wanted: Option<Layers>,
    /// What its bandwidth allows of that.
    pub target: Option<Layers>,
    /// What passes.
    pub current: Option<Layers>,
    /// The bandwidth has no room for the lowest layer.
    pub starved: bool,
    /// A keyframe is waited for.
    pub waits_for_keyframe: bool,
    /// Since media of it left.
    pub idle: Option<Duration>,
    /// Times that another encoding or stream began to pass.
    pub switches: u64,
    /// What left.
    pub sent: EgressCounters,
    /// Media in the last whole interval.
    pub bitrate: Bitrate,
    /// Lost before repair, as the peer reported last, in 1/256.
    pub fraction_lost: u8,
    /// Jitter at the peer, as it reported last.
    pub jitter: Duration,
}
