use http::StatusCode;

/// Why a token, or what it grants, is not enough. The text is meant for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Neither `Authorization: Bearer` nor `access_token`.
    #[error("no access token was given")]
    Missing,
    /// Not a JWT, or claims of the wrong types.
    #[error("the access token is malformed: {0}")]
    Malformed(&'static str),
    /// Signed for a key that this server does not have.
    #[error("the access token's API key (iss) is not known here")]
    UnknownKey,
    /// Signed with another secret.
    #[error("the access token's signature is wrong: check the API secret")]
    BadSignature,
    /// Without `exp`.
    #[error("the access token has no expiry (exp)")]
    NoExpiry,
    /// `exp` is past.
    #[error("the access token has expired")]
    Expired,
    /// `nbf` is ahead.
    #[error("the access token is not valid yet (nbf): check the clocks")]
    NotYetValid,
    /// A grant that the request needs is not there.
    #[error("the access token lacks the grant {0}")]
    MissingGrant(&'static str),
    /// Granted, but for another room.
    #[error("the access token is for another room")]
    OtherRoom,
    /// `roomJoin` without `room`.
    #[error("the access token names no room")]
    NoRoom,
    /// `roomJoin` without `sub`.
    #[error("the access token names no identity (sub)")]
    NoIdentity,
    /// A name is over its bound.
    #[error("the {what} is too long: at most {limit} bytes are taken")]
    TooLong {
        /// Which name.
        what: &'static str,
        /// Bytes.
        limit: usize,
    },
}

impl AuthError {
    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoRoom | Self::NoIdentity | Self::TooLong { .. } => StatusCode::BAD_REQUEST,
            _ => StatusCode::UNAUTHORIZED,
        }
    }
}
