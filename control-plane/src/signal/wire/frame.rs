use bytes::Bytes;
use livekit_protocol as proto;
use prost::Message;

/// Largest frame that is taken or sent, bytes.
pub const MAX_FRAME: usize = 2 << 20;

/// How messages are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// Protobuf.
    Binary,
    /// Proto3 JSON.
    Text,
}

/// One frame of the WebSocket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Protobuf.
    Binary(Bytes),
    /// Proto3 JSON.
    Text(String),
}

/// Why a frame was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Over [`MAX_FRAME`].
    #[error("the message has {0} bytes, at most {MAX_FRAME} are taken")]
    TooLarge(usize),
    /// Not a SignalRequest in protobuf.
    #[error("not a protobuf signal request: {0}")]
    Protobuf(String),
    /// Not a SignalRequest in JSON.
    #[error("not a JSON signal request: {0}")]
    Json(String),
}

impl Frame {
    /// How it is written.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        match self {
            Self::Binary(_) => FrameKind::Binary,
            Self::Text(_) => FrameKind::Text,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Binary(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
        }
    }
}

/// Reads a request. Unknown fields are ignored; a message of an unknown kind comes back without one.
pub fn decode(frame: &Frame) -> Result<proto::SignalRequest, WireError> {
    if frame.len() > MAX_FRAME {
        return Err(WireError::TooLarge(frame.len()));
    }
    match frame {
        Frame::Binary(bytes) => proto::SignalRequest::decode(bytes.as_ref())
            .map_err(|error| WireError::Protobuf(bounded(&error))),
        Frame::Text(text) => {
            serde_json::from_str(text).map_err(|error| WireError::Json(bounded(&error)))
        }
    }
}

/// Writes a response.
#[must_use]
pub fn encode(response: &proto::SignalResponse, kind: FrameKind) -> Frame {
    match kind {
        FrameKind::Binary => Frame::Binary(response.encode_to_vec().into()),
        // Only an enum number without a name has no JSON, and we send none.
        FrameKind::Text => Frame::Text(serde_json::to_string(response).unwrap_or_default()),
    }
}

/// Errors may quote what was sent: not all of it.
fn bounded(error: &dyn std::fmt::Display) -> String {
    error.to_string().chars().take(160).collect()
}
