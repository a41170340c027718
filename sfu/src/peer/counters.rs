//! What happened, counted. One value per shard, written by its thread only.

use crate::{
    ingress,
    rtp::DataSize,
    transport::{self, SrtpError},
};

/// Why something was thrown away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropReason {
    /// Not STUN, from a five-tuple that no peer has.
    UnknownPath,
    /// STUN whose user name no peer of this shard has.
    UnknownUfrag,
    /// The first byte belongs to no protocol of RFC 7983.
    UnknownProtocol,
    /// A STUN message that is malformed or no binding request.
    Stun,
    /// STUN with a wrong user name or integrity.
    StunAuth,
    /// STUN from one five-tuple too many, or by a protocol that the peer may not use.
    StunRefused,
    /// STUN of a peer's name, more of it than checks need: nobody looks whether it is authentic.
    StunRate,
    /// From a five-tuple that passed no check.
    NotValidated,
    /// Not a DTLS record, or one that DTLS refused.
    Dtls,
    /// For a peer that is on its way out.
    Closed,
    /// Media or feedback before DTLS completed.
    NoKeys,
    /// Not authentic.
    SrtpAuth,
    /// Seen before, or too old to tell.
    SrtpReplay,
    /// A packet that contradicts its own lengths, or is larger than any that could be passed on.
    Malformed,
    /// No track claims the SSRC (or not within 500 ms).
    UnboundSsrc,
    /// A payload type that was never negotiated.
    UnknownPayloadType,
    /// The track is muted.
    Muted,
    /// A duplicate, or older than what is kept.
    Duplicate,
    /// A retransmission for a stream that was never seen.
    OrphanRtx,
    /// No payload: padding, by which senders probe for bandwidth.
    Padding,
    /// Over the peer's ingress bitrate.
    OverIngressBitrate,
    /// Feedback of a peer, more of it than any client sends.
    FeedbackRate,
    /// Over the peer's number of SSRCs.
    OverSsrcs,
    /// Over the peer's rate of data.
    OverDataRate,
    /// Data on a channel that has no meaning here.
    DataLabel,
    /// Data from a peer that may not send any.
    DataForbidden,
    /// Data that is no data packet.
    DataMalformed,
    /// Lossy data for a reader with 100 ms of it queued.
    DataLossyQueue,
    /// Reliable data for a reader that was told to reconnect.
    DataOverflow,
    /// Data for a room that is behind with handing out what came before.
    DataBacklog,
    /// A packet for another shard whose lane is full.
    RelayLane,
    /// A message about a track that is not known here (any more).
    RelayStale,
    /// A packet that a subscriber has no payload type or no number for.
    Unforwardable,
    /// Media for a subscriber for whom too much waits for the pacer.
    Pacer,
}

impl DropReason {
    /// All of them, in declaration order.
    pub const ALL: [Self; 34] = [
        Self::UnknownPath,
        Self::UnknownUfrag,
        Self::UnknownProtocol,
        Self::Stun,
        Self::StunAuth,
        Self::StunRefused,
        Self::StunRate,
        Self::NotValidated,
        Self::Dtls,
        Self::Closed,
        Self::NoKeys,
        Self::SrtpAuth,
        Self::SrtpReplay,
        Self::Malformed,
        Self::UnboundSsrc,
        Self::UnknownPayloadType,
        Self::Muted,
        Self::Duplicate,
        Self::OrphanRtx,
        Self::Padding,
        Self::OverIngressBitrate,
        Self::FeedbackRate,
        Self::OverSsrcs,
        Self::OverDataRate,
        Self::DataLabel,
        Self::DataForbidden,
        Self::DataMalformed,
        Self::DataLossyQueue,
        Self::DataOverflow,
        Self::DataBacklog,
        Self::RelayLane,
        Self::RelayStale,
        Self::Unforwardable,
        Self::Pacer,
    ];
}

impl From<transport::DropReason> for DropReason {
    fn from(reason: transport::DropReason) -> Self {
        use transport::DropReason as Why;
        match reason {
            Why::StunMalformed | Why::StunUnexpected => Self::Stun,
            Why::StunUsername | Why::StunIntegrity => Self::StunAuth,
            Why::TooManyTuples | Why::Protocol => Self::StunRefused,
            Why::NotValidated => Self::NotValidated,
            Why::Dtls => Self::Dtls,
            Why::Closed => Self::Closed,
        }
    }
}

impl From<ingress::DropReason> for DropReason {
    fn from(reason: ingress::DropReason) -> Self {
        use ingress::DropReason as Why;
        match reason {
            Why::Duplicate | Why::TooOld => Self::Duplicate,
            Why::TooLarge | Why::Malformed => Self::Malformed,
            Why::UnknownPayloadType | Why::TooManyFormats => Self::UnknownPayloadType,
            Why::Padding => Self::Padding,
            Why::Muted => Self::Muted,
            Why::NoEncoding | Why::Unbound => Self::UnboundSsrc,
            Why::OrphanRtx => Self::OrphanRtx,
            Why::TooManySsrcs => Self::OverSsrcs,
        }
    }
}

impl From<SrtpError> for DropReason {
    fn from(error: SrtpError) -> Self {
        match error {
            SrtpError::TooShort => Self::Malformed,
            SrtpError::Replayed | SrtpError::TooOld => Self::SrtpReplay,
            SrtpError::NoKeys => Self::NoKeys,
            SrtpError::Authentication | SrtpError::NotEncrypted | SrtpError::Exhausted => {
                Self::SrtpAuth
            }
        }
    }
}

/// Everything a shard counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Datagrams in.
    pub datagrams_in: u64,
    /// Bytes of datagrams in.
    pub bytes_in: u64,
    /// Media packets in that were authentic and belonged to a track.
    pub media_in: u64,
    /// Media packets out, retransmissions apart.
    pub media_out: u64,
    /// Bytes of media packets out.
    pub media_bytes_out: u64,
    /// Packets sent again on request.
    pub retransmitted: u64,
    /// Repair packets (FlexFEC) of publishers.
    pub fec_in: u64,
    /// Media packets that they brought back.
    pub fec_recovered: u64,
    /// Repair packets (FlexFEC) for subscribers.
    pub fec_out: u64,
    /// Retransmissions that were asked for and left out: their share of the estimate was used up.
    pub resends_over_budget: u64,
    /// Packets sent again to fill a probe for bandwidth.
    pub probe_padding: u64,
    /// Packets that subscribers asked for again, each time counted.
    pub nacked: u64,
    /// PLI and FIR of subscribers.
    pub keyframe_requests: u64,
    /// Packets asked for by a subscriber or another shard that were in no cache.
    pub nack_misses: u64,
    /// Times that a publisher was sent NACKs or keyframe requests.
    pub feedback_out: u64,
    /// Transport-wide feedback from subscribers.
    pub transport_feedback: u64,
    /// Packets given to other shards.
    pub relayed: u64,
    /// Data packets delivered.
    pub data_out: u64,
    /// Steps of fan-out: subscribers and readers that were looked at.
    pub visits: u64,
    drops: Drops,
}

/// By reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Counters {
    /// How often something was thrown away for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops.0[reason as usize]
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.drops.0[reason as usize] += 1;
    }

    pub(crate) fn datagram(&mut self, size: DataSize) {
        self.datagrams_in += 1;
        self.bytes_in += size.bytes();
    }
}
