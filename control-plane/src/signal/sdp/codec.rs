//! Codecs: which of those offered are forwarded, and in which normal form the node compares them.

use std::collections::HashSet;

use chappe_proto::node::v1 as node;
use serde::{Deserialize, Serialize};

use super::parse::{RemoteCodec, RemoteSection};

/// A codec that the node forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum CodecKind {
    Opus,
    Red,
    Pcmu,
    Pcma,
    G722,
    Vp8,
    Vp9,
    H264,
    H265,
    Av1,
    /// Repair packets: no track has it.
    FlexFec,
}

impl CodecKind {
    /// As TrackInfo and AddTrack spell it.
    pub(super) fn mime_type(self) -> &'static str {
        match self {
            Self::Opus => "audio/opus",
            Self::Red => "audio/red",
            Self::Pcmu => "audio/PCMU",
            Self::Pcma => "audio/PCMA",
            Self::G722 => "audio/G722",
            Self::Vp8 => "video/VP8",
            Self::Vp9 => "video/VP9",
            Self::H264 => "video/H264",
            Self::H265 => "video/H265",
            Self::Av1 => "video/AV1",
            Self::FlexFec => "video/flexfec-03",
        }
    }

    /// Takes "video/VP8" as well as "vp8".
    pub(super) fn from_mime(mime: &str) -> Option<Self> {
        let name = mime.rsplit('/').next().unwrap_or(mime);
        Self::from_name(name)
    }

    /// Whether a track of this codec can be sent as the other: the node unwraps RED for who does not take it.
    pub(super) fn can_be_sent_as(self, other: Self) -> bool {
        self == other || (self == Self::Red && other == Self::Opus)
    }

    pub(super) fn is_audio(self) -> bool {
        matches!(self, Self::Opus | Self::Red | Self::Pcmu | Self::Pcma | Self::G722)
    }

    fn from_name(name: &str) -> Option<Self> {
        const NAMES: &[(&str, CodecKind)] = &[
            ("opus", CodecKind::Opus),
            ("red", CodecKind::Red),
            ("pcmu", CodecKind::Pcmu),
            ("pcma", CodecKind::Pcma),
            ("g722", CodecKind::G722),
            ("vp8", CodecKind::Vp8),
            ("vp9", CodecKind::Vp9),
            ("h264", CodecKind::H264),
            ("h265", CodecKind::H265),
            ("hevc", CodecKind::H265),
            ("av1", CodecKind::Av1),
            ("flexfec-03", CodecKind::FlexFec),
        ];
        NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, kind)| *kind)
    }

    fn of(remote: &RemoteCodec, audio: bool) -> Option<Self> {
        let kind = Self::from_name(&remote.name).filter(|kind| kind.is_audio() == audio)?;
        let fits = match kind {
            Self::Opus | Self::Red => remote.clock_rate == 48_000 && remote.channels == 2,
            Self::Pcmu | Self::Pcma | Self::G722 => {
                remote.clock_rate == 8_000 && remote.channels == 1
            }
            _ => remote.clock_rate == 90_000,
        };
        fits.then_some(kind)
    }

    fn to_node(self) -> node::CodecKind {
        match self {
            Self::Opus => node::CodecKind::Opus,
            Self::Red => node::CodecKind::Red,
            Self::Pcmu => node::CodecKind::Pcmu,
            Self::Pcma => node::CodecKind::Pcma,
            Self::G722 => node::CodecKind::G722,
            Self::Vp8 => node::CodecKind::Vp8,
            Self::Vp9 => node::CodecKind::Vp9,
            Self::H264 => node::CodecKind::H264,
            Self::H265 => node::CodecKind::H265,
            Self::Av1 => node::CodecKind::Av1,
            Self::FlexFec => node::CodecKind::Flexfec03,
        }
    }
}

/// Feedback messages (a=rtcp-fb, RFC 4585) of one payload type.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Feedback {
    pub(super) nack: bool,
    pub(super) pli: bool,
    pub(super) fir: bool,
    pub(super) transport_cc: bool,
    pub(super) remb: bool,
    /// RFC 8888: for the whole transport, whatever the payload type.
    #[serde(default)]
    pub(super) ccfb: bool,
}

impl Feedback {
    fn of(remote: &RemoteCodec, audio: bool) -> Self {
        let has = |name: &str| remote.feedback.iter().any(|offered| offered == name);
        let transport_cc = has("transport-cc");
        Self {
            nack: has("nack"),
            pli: !audio && has("nack pli"),
            fir: !audio && has("ccm fir"),
            transport_cc,
            // Two estimators on one transport fight: REMB only where there is nothing better.
            remb: has("goog-remb") && !transport_cc,
            ccfb: has("ack ccfb"),
        }
    }

    pub(super) fn lines(self) -> impl Iterator<Item = &'static str> {
        [
            (self.remb, "goog-remb"),
            (self.transport_cc, "transport-cc"),
            (self.fir, "ccm fir"),
            (self.nack, "nack"),
            (self.pli, "nack pli"),
        ]
        .into_iter()
        .filter_map(|(on, line)| on.then_some(line))
    }

    fn merge(&mut self, other: Self) {
        self.nack |= other.nack;
        self.pli |= other.pli;
        self.fir |= other.fir;
        self.transport_cc |= other.transport_cc;
        self.remb |= other.remb;
        self.ccfb |= other.ccfb;
    }
}

/// One negotiated payload type.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Codec {
    pub(super) payload_type: u8,
    pub(super) rtx: Option<u8>,
    pub(super) kind: CodecKind,
    pub(super) clock_rate: u32,
    /// Audio only, else 0.
    pub(super) channels: u32,
    /// Normal form, see `profile` of `Codec` in node.proto.
    pub(super) profile: String,
    pub(super) red_block: Option<u8>,
    pub(super) fmtp: String,
    pub(super) feedback: Feedback,
}

impl Codec {
    /// The same stream could be decoded as either.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.clock_rate == other.clock_rate
            && self.channels == other.channels
            && self.profile == other.profile
    }

    /// Merges what another m-line says of the same payload type; `None` where it says something else.
    pub(super) fn merge(&mut self, other: &Self) -> Option<()> {
        if !self.is_same(other)
            || (self.rtx.is_some() && other.rtx.is_some_and(|rtx| Some(rtx) != self.rtx))
        {
            return None;
        }
        self.rtx = self.rtx.or(other.rtx);
        self.red_block = self.red_block.or(other.red_block);
        self.feedback.merge(other.feedback);
        Some(())
    }

    pub(super) fn to_node(&self) -> node::Codec {
        node::Codec {
            payload_type: u32::from(self.payload_type),
            rtx_payload_type: self.rtx.map(u32::from),
            kind: self.kind.to_node() as i32,
            clock_rate: self.clock_rate,
            channels: self.channels,
            profile: self.profile.clone(),
            red_block_payload_type: self.red_block.map(u32::from),
            nack: self.feedback.nack,
            pli: self.feedback.pli,
            fir: self.feedback.fir,
            transport_cc: self.feedback.transport_cc,
            remb: self.feedback.remb,
            ccfb: self.feedback.ccfb,
        }
    }

    pub(super) fn rtpmap(&self) -> String {
        let name = self.kind.mime_type().rsplit('/').next().unwrap_or_default();
        match self.channels {
            0 | 1 => format!("{} {name}/{}", self.payload_type, self.clock_rate),
            n => format!("{} {name}/{}/{n}", self.payload_type, self.clock_rate),
        }
    }
}

/// What is forwarded of an m-line's codecs, in its order of preference. One payload type for each codec: a second
/// one for the same codec and profile is not answered.
pub(super) fn select(remote: &[RemoteCodec], audio: bool) -> Vec<Codec> {
    let mut selected: Vec<Codec> = Vec::new();
    for offered in remote {
        let Some(kind) = CodecKind::of(offered, audio) else { continue };
        let codec = Codec {
            payload_type: offered.payload_type,
            rtx: None,
            kind,
            clock_rate: offered.clock_rate,
            channels: if audio { offered.channels } else { 0 },
            profile: profile(kind, &offered.fmtp),
            red_block: None,
            fmtp: offered.fmtp.clone(),
            feedback: Feedback::of(offered, audio),
        };
        if !selected.iter().any(|known| known.is_same(&codec)) {
            selected.push(codec);
        }
    }
    bind_rtx(&mut selected, remote);
    bind_red(&mut selected);
    // Offered for all payload types, RFC 8888 is there also for those without transport-cc: one kind for the section.
    if selected.iter().any(|codec| codec.feedback.transport_cc) {
        selected.iter_mut().for_each(|codec| codec.feedback.ccfb = false);
    }
    // Nothing but repair packets repairs nothing.
    if selected.iter().all(|codec| codec.kind == CodecKind::FlexFec) {
        selected.clear();
    }
    selected
}

/// Whether an m-line knows feedback of RFC 8888, and none by transport-wide numbers.
pub(super) fn gives_only_ccfb(remote: &RemoteSection) -> bool {
    // aiortc takes what stands for all payload types for RTX alone.
    let media = || remote.codecs.iter().filter(|codec| !codec.name.eq_ignore_ascii_case("rtx"));
    let any = |name: &str| media().any(|codec| codec.feedback.iter().any(|given| given == name));
    any("ack ccfb") && !any("transport-cc")
}

/// RTX (RFC 4588) names the payload type it repairs.
fn bind_rtx(selected: &mut [Codec], remote: &[RemoteCodec]) {
    for rtx in remote.iter().filter(|codec| codec.name.eq_ignore_ascii_case("rtx")) {
        let Some(apt) = parameter(&rtx.fmtp, "apt").and_then(|apt| apt.parse::<u8>().ok()) else {
            continue;
        };
        if let Some(codec) = selected.iter_mut().find(|codec| codec.payload_type == apt)
            && codec.rtx.is_none()
            && codec.clock_rate == rtx.clock_rate
        {
            codec.rtx = Some(rtx.payload_type);
        }
    }
}

/// RED (RFC 2198) is only of use when its blocks are of a codec that was taken.
fn bind_red(selected: &mut Vec<Codec>) {
    let opus: HashSet<u8> = selected
        .iter()
        .filter(|codec| codec.kind == CodecKind::Opus)
        .map(|codec| codec.payload_type)
        .collect();
    selected.retain_mut(|codec| {
        if codec.kind != CodecKind::Red {
            return true;
        }
        let mut blocks = codec.fmtp.split('/').map(|block| block.trim().parse::<u8>().ok());
        let Some(first) = blocks.next().flatten().filter(|first| opus.contains(first)) else {
            return false;
        };
        codec.red_block = Some(first);
        blocks.all(|block| block == Some(first))
    });
}

/// The value of one `name=value` of an fmtp line.
pub(super) fn parameter<'a>(fmtp: &'a str, name: &str) -> Option<&'a str> {
    fmtp.split(';').find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn profile(kind: CodecKind, fmtp: &str) -> String {
    let number = |name: &str, default: u32| {
        parameter(fmtp, name)
            .and_then(|text| text.parse::<u32>().ok())
            .unwrap_or(default)
            .to_string()
    };
    match kind {
        CodecKind::H264 => h264_profile(fmtp),
        CodecKind::Vp9 => number("profile-id", 0),
        CodecKind::H265 => number("profile-id", 1),
        CodecKind::Av1 => number("profile", 0),
        _ => String::new(),
    }
}

/// The constraint bits that decide which decoder is needed, as RFC 6184 section 8.1 lists them: sets of bits with
/// one meaning get one spelling.
fn h264_profile(fmtp: &str) -> String {
    // (profile_idc, mask of the bits that count, their value, normal form)
    const PATTERNS: &[(u8, u8, u8, &str)] = &[
        (0x42, 0x4f, 0x40, "42e0"),
        (0x4d, 0x8f, 0x80, "42e0"),
        (0x58, 0xcf, 0xc0, "42e0"),
        (0x42, 0x4f, 0x00, "4200"),
        (0x58, 0xcf, 0x80, "4200"),
        (0x4d, 0xaf, 0x00, "4d00"),
    ];
    let mode = match parameter(fmtp, "packetization-mode") {
        Some("1") => 1,
        Some("2") => 2,
        _ => 0,
    };
    // Without a profile-level-id it is what every decoder takes.
    let id = parameter(fmtp, "profile-level-id")
        .filter(|text| text.len() == 6)
        .and_then(|text| u32::from_str_radix(text, 16).ok())
        .unwrap_or(0x42_e01f);
    let [_, idc, iop, _] = id.to_be_bytes();
    let known = PATTERNS
        .iter()
        .find(|(pattern, mask, value, _)| *pattern == idc && iop & mask == *value)
        .map(|(.., name)| (*name).to_owned());
    format!("{}/{mode}", known.unwrap_or_else(|| format!("{idc:02x}{iop:02x}")))
}

/// How long repair packets may be apart from what they repair, microseconds: what browsers say. The node is far quicker.
const REPAIR_WINDOW: &str = "repair-window=10000000";

/// The codecs of our own offers (payload types as browsers commonly number them).
pub(super) fn offered(audio: bool) -> Vec<Codec> {
    if audio { offered_audio() } else { offered_video() }
}

fn offered_audio() -> Vec<Codec> {
    let feedback = Feedback { nack: true, transport_cc: true, ccfb: true, ..Feedback::default() };
    [
        (111, CodecKind::Opus, 48_000, 2, "minptime=10;useinbandfec=1", feedback),
        (63, CodecKind::Red, 48_000, 2, "111/111", Feedback::default()),
        (9, CodecKind::G722, 8_000, 1, "", Feedback::default()),
        (0, CodecKind::Pcmu, 8_000, 1, "", Feedback::default()),
        (8, CodecKind::Pcma, 8_000, 1, "", Feedback::default()),
    ]
    .into_iter()
    .map(|(payload_type, kind, clock_rate, channels, fmtp, feedback)| Codec {
        payload_type,
        rtx: None,
        kind,
        clock_rate,
        channels,
        profile: String::new(),
        red_block: (kind == CodecKind::Red).then_some(111),
        fmtp: fmtp.to_owned(),
        feedback,
    })
    .collect()
}

fn offered_video() -> Vec<Codec> {
    const H264: &str = "level-asymmetry-allowed=1;packetization-mode=";
    let h264 = |mode: u8, id: &str| format!("{H264}{mode};profile-level-id={id}");
    let feedback =
        Feedback { nack: true, pli: true, fir: true, transport_cc: true, remb: true, ccfb: true };
    [
        (96, Some(97), CodecKind::Vp8, String::new()),
        (98, Some(99), CodecKind::Vp9, "profile-id=0".to_owned()),
        (100, Some(101), CodecKind::Vp9, "profile-id=2".to_owned()),
        (125, Some(107), CodecKind::H264, h264(1, "42e01f")),
        (108, Some(109), CodecKind::H264, h264(0, "42e01f")),
        (102, Some(103), CodecKind::H264, h264(1, "42001f")),
        (104, Some(105), CodecKind::H264, h264(0, "42001f")),
        (127, Some(121), CodecKind::H264, h264(1, "4d001f")),
        (39, Some(40), CodecKind::H264, h264(0, "4d001f")),
        (112, Some(113), CodecKind::H264, h264(1, "64001f")),
        (123, Some(124), CodecKind::H264, h264(1, "640c1f")),
        (35, Some(36), CodecKind::Av1, "level-idx=5;profile=0;tier=0".to_owned()),
        (
            116,
            Some(117),
            CodecKind::H265,
            "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST".to_owned(),
        ),
        (49, None, CodecKind::FlexFec, REPAIR_WINDOW.to_owned()),
    ]
    .into_iter()
    .map(|(payload_type, rtx, kind, fmtp)| Codec {
        payload_type,
        rtx,
        kind,
        clock_rate: 90_000,
        channels: 0,
        profile: profile(kind, &fmtp),
        red_block: None,
        fmtp,
        // What repairs is not asked for again.
        feedback: if kind == CodecKind::FlexFec {
            Feedback { transport_cc: true, ..Feedback::default() }
        } else {
            feedback
        },
    })
    .collect()
}
