//! One row of the m-line table: what stands in it between descriptions, and what is stored with the peer.

use serde::{Deserialize, Serialize};

use super::{
    MediaKind, PublishOptions, SendTrack,
    codec::{Codec, CodecKind},
    parse::{RemoteSection, SectionKind},
};

/// What we send on an m-line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Downlink {
    /// Nothing, and the last description said so.
    Idle,
    /// A track; `described` is the description that first carried it, once there is one.
    Sending { track: SendTrack, described: Option<u32> },
    /// Released, but the client still knows it as sending: it has to pass through `inactive` first.
    Draining,
}

/// What the client publishes on an m-line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Uplink {
    pub(super) stream: String,
    pub(super) cid: String,
    pub(super) rids: Vec<String>,
    pub(super) ssrcs: Vec<(u32, Option<u32>)>,
    /// The client's direction allows it to send now.
    pub(super) active: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Section {
    pub(super) mid: String,
    pub(super) kind: SectionKind,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) rejected: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) client_sends: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) client_receives: bool,
    /// Payload types in order of preference (without RTX).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) formats: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uplink: Option<Uplink>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) options: Option<PublishOptions>,
    pub(super) downlink: Downlink,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Section {
    pub(super) fn new(mid: String, kind: SectionKind) -> Self {
        Self {
            mid,
            kind,
            rejected: false,
            client_sends: false,
            client_receives: false,
            formats: Vec::new(),
            uplink: None,
            options: None,
            downlink: Downlink::Idle,
        }
    }

    pub(super) fn media_kind(&self) -> Option<MediaKind> {
        match self.kind {
            SectionKind::Audio => Some(MediaKind::Audio),
            SectionKind::Video => Some(MediaKind::Video),
            SectionKind::Data | SectionKind::Unknown => None,
        }
    }

    /// Takes what an offer says of this m-line; `formats` are those that will be answered.
    pub(super) fn update(&mut self, remote: &RemoteSection, accepted: Option<&[Codec]>) {
        self.rejected = accepted.is_none();
        self.client_sends = !self.rejected && remote.direction.send;
        self.client_receives = !self.rejected && remote.direction.receive;
        self.formats =
            accepted.unwrap_or_default().iter().map(|codec| codec.payload_type).collect();
        if !matches!(self.kind, SectionKind::Audio | SectionKind::Video) {
            return;
        }
        if self.client_sends {
            let (stream, cid) = remote.msid.clone().unwrap_or_default();
            self.uplink = Some(Uplink {
                stream,
                cid,
                rids: remote.rids.clone(),
                ssrcs: remote.ssrcs.clone(),
                active: true,
            });
        } else if let Some(uplink) = &mut self.uplink {
            uplink.active = false;
        }
    }

    pub(super) fn sending(&self) -> Option<&SendTrack> {
        match &self.downlink {
            Downlink::Sending { track, .. } => Some(track),
            Downlink::Idle | Downlink::Draining => None,
        }
    }

    /// An m-line that a track of this kind may be put on.
    pub(super) fn is_free(&self, kind: MediaKind) -> bool {
        !self.rejected
            && self.client_receives
            && self.media_kind() == Some(kind)
            && self.downlink == Downlink::Idle
    }

    /// Orders the codecs of a publishing m-line: the client sends the first that is answered.
    pub(super) fn prefer(&self, codecs: &mut [Codec]) {
        let Some(options) = &self.options else { return };
        if self.kind == SectionKind::Audio {
            // RED is only preferred for speech: it doubles what stereo music costs.
            let red = options.red && !options.stereo;
            codecs.sort_by_key(|codec| match codec.kind {
                CodecKind::Red if red => 0,
                CodecKind::Red => 2,
                _ => 1,
            });
        }
        let preferred = options.preferred_mime.as_deref().and_then(CodecKind::from_mime);
        if let Some(preferred) = preferred.filter(|kind| *kind != CodecKind::Opus) {
            codecs.sort_by_key(|codec| codec.kind != preferred);
        }
    }
}
