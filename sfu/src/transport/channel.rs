//! What can be asked of data channels, and why it may be refused.

/// How a data channel that we open behaves (RFC 8831 section 6.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelOptions {
    /// Name that the peer sees.
    pub label: String,
    /// Messages are delivered in order.
    pub ordered: bool,
    /// Retransmissions before a message is given up; absent: reliable.
    pub max_retransmits: Option<u16>,
}

/// Why a data channel was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChannelError {
    /// No SCTP was negotiated, DTLS is not up yet, or the association is gone.
    #[error("no SCTP association")]
    NoAssociation,
    /// The peer has as many channels as it may have.
    #[error("too many data channels")]
    TooMany,
    /// The label is longer than DCEP can say or we accept.
    #[error("label too long")]
    Label,
}

/// Why a message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The channel is unknown, not open yet, or closing.
    #[error("channel is not open")]
    NotOpen,
    /// Longer than the peer takes.
    #[error("message too large")]
    TooLarge,
    /// The channel holds as much as it may.
    #[error("channel buffer is full")]
    Full,
}
