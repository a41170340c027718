//! Why packets of a publisher go nowhere.

use crate::cache::Refused;

/// Why a packet was not taken. Counted by the caller; nothing is allocated for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum DropReason {
    /// The same sequence number again.
    #[error("duplicate")]
    Duplicate,
    /// Behind the window in which packets are told apart.
    #[error("too old")]
    TooOld,
    /// Larger than a cache takes.
    #[error("too large")]
    TooLarge,
    /// The payload type was not negotiated.
    #[error("unknown payload type")]
    UnknownPayloadType,
    /// The track had more formats than it may have.
    #[error("too many payload formats")]
    TooManyFormats,
    /// The payload does not start as its format demands.
    #[error("malformed payload")]
    Malformed,
    /// A retransmission of nothing: probing.
    #[error("padding")]
    Padding,
    /// The track is muted.
    #[error("muted")]
    Muted,
    /// The track has no such encoding, or does not get its packets this way.
    #[error("no such encoding")]
    NoEncoding,
    /// A retransmission for a stream that was never seen.
    #[error("retransmission without stream")]
    OrphanRtx,
    /// Belongs to no track, or did not say to which in time.
    #[error("unbound SSRC")]
    Unbound,
    /// The peer uses more SSRCs than it may.
    #[error("too many SSRCs")]
    TooManySsrcs,
}

impl From<Refused> for DropReason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Duplicate => Self::Duplicate,
            Refused::TooOld => Self::TooOld,
            Refused::TooLarge => Self::TooLarge,
        }
    }
}
