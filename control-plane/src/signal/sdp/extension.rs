//! Header extensions by URI (RFC 8285), as far as the node knows them.

use chappe_proto::node::v1 as node;
use serde::{Deserialize, Serialize};

/// A header extension that the node can read or write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum ExtensionKind {
    Mid,
    Rid,
    RepairedRid,
    AudioLevel,
    TransportCc,
    AbsSendTime,
    AbsCaptureTime,
    PlayoutDelay,
    VideoOrientation,
    DependencyDescriptor,
    VideoLayersAllocation,
}

/// What was negotiated for one extension id, over all m-lines of the BUNDLE.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Extension {
    pub(super) id: u8,
    pub(super) kind: ExtensionKind,
    /// The node may send it.
    pub(super) send: bool,
    /// The client may send it.
    pub(super) receive: bool,
}

const URIS: &[(ExtensionKind, &str)] = &[
    (ExtensionKind::Mid, "urn:ietf:params:rtp-hdrext:sdes:mid"),
    (ExtensionKind::Rid, "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"),
    (ExtensionKind::RepairedRid, "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"),
    (ExtensionKind::AudioLevel, "urn:ietf:params:rtp-hdrext:ssrc-audio-level"),
    (
        ExtensionKind::TransportCc,
        "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
    ),
    (ExtensionKind::AbsSendTime, "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"),
    (
        ExtensionKind::AbsCaptureTime,
        "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
    ),
    (ExtensionKind::PlayoutDelay, "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"),
    (ExtensionKind::VideoOrientation, "urn:3gpp:video-orientation"),
    (
        ExtensionKind::DependencyDescriptor,
        "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension",
    ),
    (
        ExtensionKind::VideoLayersAllocation,
        "http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00",
    ),
];

impl ExtensionKind {
    pub(super) fn from_uri(uri: &str) -> Option<Self> {
        URIS.iter().find(|(_, known)| *known == uri).map(|(kind, _)| *kind)
    }

    pub(super) fn uri(self) -> &'static str {
        URIS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, uri)| uri)
    }

    /// Whether the node ever writes it: encodings are merged into one stream on the way out, so their names and the
    /// publisher's layer plan mean nothing to a receiver.
    fn sendable(self) -> bool {
        !matches!(self, Self::Rid | Self::RepairedRid | Self::VideoLayersAllocation)
    }
}

impl Extension {
    /// From what the client states of its own directions.
    pub(super) fn new(
        id: u8,
        kind: ExtensionKind,
        client_sends: bool,
        client_receives: bool,
    ) -> Self {
        Self { id, kind, send: client_receives && kind.sendable(), receive: client_sends }
    }

    pub(super) fn to_node(&self) -> node::HeaderExtension {
        let kind = match self.kind {
            ExtensionKind::Mid => node::ExtensionKind::Mid,
            ExtensionKind::Rid => node::ExtensionKind::Rid,
            ExtensionKind::RepairedRid => node::ExtensionKind::RepairedRid,
            ExtensionKind::AudioLevel => node::ExtensionKind::AudioLevel,
            ExtensionKind::TransportCc => node::ExtensionKind::TransportCc,
            ExtensionKind::AbsSendTime => node::ExtensionKind::AbsSendTime,
            ExtensionKind::AbsCaptureTime => node::ExtensionKind::AbsCaptureTime,
            ExtensionKind::PlayoutDelay => node::ExtensionKind::PlayoutDelay,
            ExtensionKind::VideoOrientation => node::ExtensionKind::VideoOrientation,
            ExtensionKind::DependencyDescriptor => node::ExtensionKind::DependencyDescriptor,
            ExtensionKind::VideoLayersAllocation => node::ExtensionKind::VideoLayersAllocation,
        };
        node::HeaderExtension {
            kind: kind as i32,
            id: u32::from(self.id),
            send: self.send,
            receive: self.receive,
        }
    }
}

/// The ids of our own offers: all below 15, so that one-byte headers do.
pub(super) fn offered(audio: bool) -> &'static [(u8, ExtensionKind)] {
    if audio {
        &[
            (1, ExtensionKind::AudioLevel),
            (3, ExtensionKind::TransportCc),
            (4, ExtensionKind::Mid),
            (7, ExtensionKind::AbsCaptureTime),
        ]
    } else {
        &[
            // For receivers without transport-cc, whose REMB needs it; it is sent to no others.
            (2, ExtensionKind::AbsSendTime),
            (3, ExtensionKind::TransportCc),
            (4, ExtensionKind::Mid),
            (5, ExtensionKind::PlayoutDelay),
            (6, ExtensionKind::VideoOrientation),
            (7, ExtensionKind::AbsCaptureTime),
            (8, ExtensionKind::DependencyDescriptor),
        ]
    }
}
