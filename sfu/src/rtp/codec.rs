//! Codecs and header extensions, as a peer negotiated them.

use std::sync::Arc;

use super::Pt;

/// Audio or video.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MediaKind {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
}

/// Payload formats that Chappe names. Payloads are forwarded, never decoded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // the names of the codecs say it all
pub enum CodecKind {
    Opus,
    /// Redundant audio (RFC 2198).
    Red,
    Pcmu,
    Pcma,
    G722,
    Vp8,
    Vp9,
    H264,
    H265,
    Av1,
}

impl CodecKind {
    /// Audio or video.
    pub const fn media_kind(self) -> MediaKind {
        match self {
            Self::Opus | Self::Red | Self::Pcmu | Self::Pcma | Self::G722 => MediaKind::Audio,
            Self::Vp8 | Self::Vp9 | Self::H264 | Self::H265 | Self::Av1 => MediaKind::Video,
        }
    }
}

/// One negotiated codec of a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Codec {
    /// Payload type of the media.
    pub pt: Pt,
    /// Payload type of its retransmissions (RFC 4588).
    pub rtx: Option<Pt>,
    /// Payload format.
    pub kind: CodecKind,
    /// Hertz.
    pub clock_rate: u32,
    /// Audio channels; 0 for video.
    pub channels: u8,
    /// Normalised profile text: equal text is the same profile.
    pub profile: Arc<str>,
    /// RED only: payload type of its blocks.
    pub red_block: Option<Pt>,
    /// Generic NACK was negotiated (RFC 4585).
    pub nack: bool,
    /// Picture loss indication was negotiated (RFC 4585).
    pub pli: bool,
    /// Full intra request was negotiated (RFC 5104).
    pub fir: bool,
    /// Transport-wide congestion control feedback was negotiated.
    pub transport_cc: bool,
    /// Receiver estimated maximum bitrate was negotiated.
    pub remb: bool,
}

impl Codec {
    /// Whether a payload of `other` may leave as this codec.
    pub fn same_format(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.clock_rate == other.clock_rate
            && self.channels == other.channels
            && self.profile == other.profile
    }
}

/// What a payload type of a peer stands for.
#[derive(Clone, Copy, Debug)]
pub enum PayloadMeaning<'a> {
    /// Media of this codec.
    Media(&'a Codec),
    /// Retransmission of this codec (RFC 4588).
    Rtx(&'a Codec),
}

/// The payload types of one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CodecMap {
    codecs: Vec<Codec>,
    /// By payload type: index into `codecs` and whether it is the RTX type; 255 is unknown.
    by_pt: Box<[(u8, bool); 128]>,
}

impl CodecMap {
    /// Later codecs win where payload types collide. At most 250 codecs are kept.
    pub fn new(mut codecs: Vec<Codec>) -> Self {
        codecs.truncate(250);
        let mut by_pt = Box::new([(255, false); 128]);
        for (index, codec) in codecs.iter().enumerate() {
            by_pt[usize::from(codec.pt.value())] = (index as u8, false);
            if let Some(rtx) = codec.rtx {
                by_pt[usize::from(rtx.value())] = (index as u8, true);
            }
        }
        Self { codecs, by_pt }
    }

    /// What `pt` stands for; `None` when it was not negotiated.
    pub fn meaning(&self, pt: Pt) -> Option<PayloadMeaning<'_>> {
        let (index, rtx) = self.by_pt[usize::from(pt.value())];
        let codec = self.codecs.get(usize::from(index))?;
        Some(if rtx { PayloadMeaning::Rtx(codec) } else { PayloadMeaning::Media(codec) })
    }

    /// The codec of this peer that carries payloads of `format`.
    pub fn matching(&self, format: &Codec) -> Option<&Codec> {
        self.codecs.iter().find(|codec| codec.same_format(format))
    }

    /// All codecs in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &Codec> {
        self.codecs.iter()
    }
}

impl Default for CodecMap {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// Header extensions that Chappe reads or writes (RFC 8285).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Extension {
    /// urn:ietf:params:rtp-hdrext:sdes:mid
    Mid,
    /// urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id
    Rid,
    /// urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id
    RepairedRid,
    /// urn:ietf:params:rtp-hdrext:ssrc-audio-level (RFC 6464)
    AudioLevel,
    /// draft-holmer-rmcat-transport-wide-cc-extensions-01
    TransportCc,
    /// abs-send-time
    AbsSendTime,
    /// abs-capture-time
    AbsCaptureTime,
    /// playout-delay
    PlayoutDelay,
    /// urn:3gpp:video-orientation
    VideoOrientation,
    /// AV1 dependency descriptor, for any codec
    DependencyDescriptor,
    /// video-layers-allocation00
    VideoLayersAllocation,
    /// urn:ietf:params:rtp-hdrext:toffset (RFC 5450)
    TransmissionOffset,
}

impl Extension {
    /// All of them, in declaration order.
    pub const ALL: [Self; 12] = [
        Self::Mid,
        Self::Rid,
        Self::RepairedRid,
        Self::AudioLevel,
        Self::TransportCc,
        Self::AbsSendTime,
        Self::AbsCaptureTime,
        Self::PlayoutDelay,
        Self::VideoOrientation,
        Self::DependencyDescriptor,
        Self::VideoLayersAllocation,
        Self::TransmissionOffset,
    ];
}

/// The header extension ids of one peer in one direction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExtensionMap {
    /// By extension in declaration order; 0 is not negotiated.
    ids: [u8; Extension::ALL.len()],
}

impl ExtensionMap {
    /// Sets the id of an extension; 0 removes it.
    pub fn set(&mut self, extension: Extension, id: u8) {
        self.ids[extension as usize] = id;
    }

    /// Its id, 1..=255.
    pub fn id(&self, extension: Extension) -> Option<u8> {
        Some(self.ids[extension as usize]).filter(|id| *id != 0)
    }

    /// What `id` stands for.
    pub fn extension(&self, id: u8) -> Option<Extension> {
        if id == 0 {
            return None;
        }
        let index = self.ids.iter().position(|known| *known == id)?;
        Some(Extension::ALL[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(pt: u8, rtx: Option<u8>, kind: CodecKind, profile: &str) -> Codec {
        Codec {
            pt: Pt::new(pt).unwrap(),
            rtx: rtx.and_then(Pt::new),
            kind,
            clock_rate: 90_000,
            channels: 0,
            profile: profile.into(),
            red_block: None,
            nack: true,
            pli: true,
            fir: true,
            transport_cc: true,
            remb: false,
        }
    }

    #[test]
    fn payload_types_are_looked_up_in_both_roles() {
        let map = CodecMap::new(vec![
            codec(96, Some(97), CodecKind::Vp8, ""),
            codec(102, Some(103), CodecKind::H264, "42e0/1"),
        ]);
        let media = map.meaning(Pt::new(102).unwrap());
        assert!(matches!(media, Some(PayloadMeaning::Media(c)) if c.kind == CodecKind::H264));
        let rtx = map.meaning(Pt::new(97).unwrap());
        assert!(matches!(rtx, Some(PayloadMeaning::Rtx(c)) if c.kind == CodecKind::Vp8));
        assert!(map.meaning(Pt::new(98).unwrap()).is_none());
    }

    #[test]
    fn formats_match_by_profile() {
        let map = CodecMap::new(vec![codec(102, None, CodecKind::H264, "42e0/1")]);
        assert!(map.matching(&codec(125, None, CodecKind::H264, "42e0/1")).is_some());
        assert!(map.matching(&codec(125, None, CodecKind::H264, "6400/1")).is_none());
    }

    #[test]
    fn extension_ids_map_both_ways() {
        let mut map = ExtensionMap::default();
        map.set(Extension::TransportCc, 3);
        assert_eq!(map.id(Extension::TransportCc), Some(3));
        assert_eq!(map.extension(3), Some(Extension::TransportCc));
        assert_eq!(map.extension(0), None);
        assert_eq!(map.id(Extension::Mid), None);
    }
}
