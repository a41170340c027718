//! What a transport tells its owner.

use super::{FiveTuple, SrtpProfile};

/// Data channel of a transport: its SCTP stream id (RFC 8831 section 6.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ChannelId(pub u16);

/// Something that happened to a transport.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransportEvent {
    /// The five-tuple passed a connectivity check: packets from it belong to this transport.
    PathAdded(FiveTuple),
    /// The five-tuple no longer belongs to this transport.
    PathRemoved(FiveTuple),
    /// Media and DTLS now leave on this five-tuple.
    PathSelected(FiveTuple),
    /// Credentials of before an ICE restart are no longer answered; the ufrag can be forgotten.
    UfragRetired(String),
    /// DTLS is up, the peer's certificate matched and SRTP has its keys.
    Connected {
        /// The SRTP profile that DTLS agreed on.
        profile: SrtpProfile,
    },
    /// A data channel is open in both directions.
    ChannelOpen {
        /// Its id.
        channel: ChannelId,
        /// Label of the DCEP open message.
        label: String,
        /// Messages are delivered in order.
        ordered: bool,
        /// The peer opened it.
        by_peer: bool,
    },
    /// A data channel closed.
    ChannelClosed(ChannelId),
    /// A message arrived on a data channel.
    Message {
        /// The channel.
        channel: ChannelId,
        /// Binary, else text.
        binary: bool,
        /// The whole message.
        bytes: bytes::Bytes,
    },
    /// The SCTP association ended; media goes on.
    DataLost,
    /// The transport is of no further use.
    Failed(FailReason),
    /// The peer said goodbye (DTLS close_notify).
    Closed,
}

/// Why a transport failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum FailReason {
    /// No valid check for too long (RFC 7675).
    #[error("no valid connectivity check in time")]
    ConsentLost,
    /// The peer's certificate matches no signalled fingerprint.
    #[error("certificate matches no fingerprint")]
    Fingerprint,
    /// The DTLS handshake failed or ran out of time.
    #[error("DTLS handshake failed")]
    Dtls,
    /// DTLS agreed on no SRTP profile that we know.
    #[error("no SRTP profile agreed")]
    NoSrtpProfile,
}

/// Why a datagram was dropped; counted, never logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum DropReason {
    /// Not a STUN message that we understand.
    #[error("malformed STUN message")]
    StunMalformed,
    /// A STUN message that is no binding request.
    #[error("unexpected STUN message")]
    StunUnexpected,
    /// The username is not ours, or not the signalled peer's.
    #[error("unknown STUN username")]
    StunUsername,
    /// MESSAGE-INTEGRITY is missing or wrong.
    #[error("wrong STUN integrity")]
    StunIntegrity,
    /// The peer has as many five-tuples as it may have.
    #[error("too many five-tuples")]
    TooManyTuples,
    /// Only ICE-TCP is allowed for this peer.
    #[error("protocol is not allowed")]
    Protocol,
    /// The five-tuple passed no connectivity check.
    #[error("five-tuple without a valid check")]
    NotValidated,
    /// Not a DTLS record, or one that DTLS refused.
    #[error("DTLS refused the packet")]
    Dtls,
    /// The transport is closed or failed.
    #[error("transport is closed")]
    Closed,
}
