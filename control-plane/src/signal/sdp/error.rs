/// Longest description that is taken, bytes (a signalling message is bounded the same way).
pub const MAX_SDP_BYTES: usize = 2 << 20;
/// Most m-lines of one PeerConnection.
pub const MAX_SECTIONS: usize = 512;

/// Why a description was refused. Nothing of the negotiation has changed then.
///
/// The texts are meant for the client: they name lines and fields, never addresses or credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// No text at all.
    #[error("the description is empty")]
    Empty,
    /// Over [`MAX_SDP_BYTES`].
    #[error("the description has {0} bytes, at most {MAX_SDP_BYTES} are taken")]
    TooLarge(usize),
    /// Not SDP (RFC 8866), or cut in the middle.
    #[error("not a session description: {0}")]
    Syntax(String),
    /// A bound was reached.
    #[error("too many {what}: {count}, at most {limit} are taken")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many are taken.
        limit: usize,
    },
    /// An attribute that WebRTC needs (RFC 9429) is not there.
    #[error("m-line {section}: {what} is missing")]
    Missing {
        /// Index of the m-line.
        section: usize,
        /// Name of the attribute.
        what: &'static str,
    },
    /// An attribute cannot be read.
    #[error("m-line {section}: {what} is malformed")]
    Malformed {
        /// Index of the m-line.
        section: usize,
        /// Name of the attribute.
        what: &'static str,
    },
    /// The description contradicts itself or what was negotiated before.
    #[error("contradiction: {0}")]
    Contradiction(String),
    /// Valid, but nothing that can be negotiated here.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
    /// An answer was to be written, but there is no offer to answer.
    #[error("there is no offer to answer")]
    NoOffer,
    /// An offer was to be written while the one before has no answer yet.
    #[error("offer {0} is not answered yet")]
    OfferOutstanding(u32),
    /// An answer to an offer that is not outstanding.
    #[error("answer to offer {got}, which is not the outstanding one")]
    StaleAnswer {
        /// The id in the answer.
        got: u32,
    },
    /// An offer where we offer, or an answer where the client offers.
    #[error("the other side makes the offers on this PeerConnection")]
    WrongRole,
    /// The node's side of the transport is incomplete.
    #[error("the media node gave no credentials or fingerprint")]
    NoLocalTransport,
}
