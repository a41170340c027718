//! Text -> a typed description: what WebRTC (RFC 9429) says in SDP (RFC 8866), bounded and checked for
//! contradictions within itself.

use std::collections::HashSet;

use sdp_types::{Media, Session};
use serde::{Deserialize, Serialize};

use super::{
    attributes::{codecs, extensions, msid, rids, ssrcs},
    error::{MAX_SDP_BYTES, MAX_SECTIONS, SdpError},
};

const MAX_ATTRIBUTES: usize = 1024;
const MAX_FINGERPRINTS: usize = 8;
const MAX_ID: usize = 64;
/// RFC 8839 section 5.4.
const MAX_CREDENTIAL: usize = 256;

/// What an m-line is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum SectionKind {
    Audio,
    Video,
    Data,
    /// Something else: always rejected.
    Unknown,
}

/// From the client's point of view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Direction {
    pub(super) send: bool,
    pub(super) receive: bool,
}

/// RFC 8842.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Setup {
    ActPass,
    Active,
    Passive,
}

/// The client's side of the transport.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RemoteTransport {
    pub(super) ufrag: String,
    pub(super) pwd: String,
    /// Algorithm in lower case, digest.
    pub(super) fingerprints: Vec<(String, Vec<u8>)>,
    pub(super) setup: Option<Setup>,
}

/// One payload type as the client states it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RemoteCodec {
    pub(super) payload_type: u8,
    pub(super) name: String,
    pub(super) clock_rate: u32,
    pub(super) channels: u32,
    pub(super) fmtp: String,
    pub(super) feedback: Vec<String>,
}

/// One a=extmap line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RemoteExtension {
    pub(super) id: u8,
    pub(super) uri: String,
    pub(super) direction: Direction,
}

/// One m-line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RemoteSection {
    /// Empty only where the m-line is rejected.
    pub(super) mid: String,
    pub(super) kind: SectionKind,
    pub(super) media: String,
    pub(super) proto: String,
    pub(super) format: String,
    pub(super) rejected: bool,
    pub(super) direction: Direction,
    pub(super) rtcp_mux: bool,
    pub(super) codecs: Vec<RemoteCodec>,
    pub(super) extensions: Vec<RemoteExtension>,
    /// Stream and track id.
    pub(super) msid: Option<(String, String)>,
    /// Encodings that the client sends, in its order.
    pub(super) rids: Vec<String>,
    /// Media SSRCs in order (those that only repair are not among them), each with its RTX.
    pub(super) ssrcs: Vec<(u32, Option<u32>)>,
    pub(super) sctp_port: Option<u16>,
    pub(super) max_message_size: Option<u32>,
}

/// A whole description of the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RemoteDescription {
    pub(super) sections: Vec<RemoteSection>,
    /// Mids of the BUNDLE group, if there is one.
    pub(super) bundle: Option<Vec<String>>,
    pub(super) allow_mixed: bool,
    session: Session,
}

impl RemoteDescription {
    pub(super) fn parse(text: &str) -> Result<Self, SdpError> {
        if text.trim().is_empty() {
            return Err(SdpError::Empty);
        }
        if text.len() > MAX_SDP_BYTES {
            return Err(SdpError::TooLarge(text.len()));
        }
        // Counted before the parser allocates for them.
        let sections = text.lines().filter(|line| line.starts_with("m=")).count();
        within("m-lines", sections, MAX_SECTIONS)?;
        let session = Session::parse(text.as_bytes())
            .map_err(|error| SdpError::Syntax(error.to_string().chars().take(160).collect()))?;
        if session.medias.is_empty() {
            return Err(SdpError::Syntax("there is no m-line".to_owned()));
        }
        within("session attributes", session.attributes.len(), MAX_ATTRIBUTES)?;
        let default_direction = direction_of(&session.attributes);
        let sections = session
            .medias
            .iter()
            .enumerate()
            .map(|(index, media)| section(index, media, default_direction))
            .collect::<Result<Vec<_>, _>>()?;
        let mut mids = HashSet::new();
        for section in sections.iter().filter(|section| !section.mid.is_empty()) {
            if !mids.insert(section.mid.as_str()) {
                return Err(SdpError::Contradiction(format!(
                    "two m-lines are called {:?}",
                    section.mid
                )));
            }
        }
        let bundle = session
            .attributes
            .iter()
            .filter(|attribute| attribute.attribute == "group")
            .filter_map(|attribute| attribute.value.as_deref())
            .find_map(|value| {
                let mut words = value.split_ascii_whitespace();
                (words.next() == Some("BUNDLE")).then(|| words.map(str::to_owned).collect())
            });
        let allow_mixed =
            session.attributes.iter().any(|attribute| attribute.attribute == "extmap-allow-mixed");
        Ok(Self { sections, bundle, allow_mixed, session })
    }

    /// Whether an m-line shares the one transport.
    pub(super) fn bundles(&self, mid: &str) -> bool {
        self.bundle.as_ref().is_none_or(|mids| mids.iter().any(|bundled| bundled == mid))
    }

    /// Transport attributes of the m-line at `index`, each looked up at the session where the m-line has none.
    pub(super) fn transport(&self, index: usize) -> Result<RemoteTransport, SdpError> {
        let media = self.session.medias.get(index).map_or(&[][..], |media| &media.attributes);
        let values = |name: &'static str| {
            let of = |attributes: &'_ [sdp_types::Attribute]| {
                attributes
                    .iter()
                    .filter(|attribute| attribute.attribute == name)
                    .filter_map(|attribute| attribute.value.clone())
                    .take(MAX_FINGERPRINTS)
                    .collect::<Vec<_>>()
            };
            let own = of(media);
            if own.is_empty() { of(&self.session.attributes) } else { own }
        };
        let credential = |name: &'static str, least: usize| {
            let value = values(name)
                .into_iter()
                .next()
                .ok_or(SdpError::Missing { section: index, what: name })?;
            let fits = (least..=MAX_CREDENTIAL).contains(&value.len())
                && value.bytes().all(|b| {
                    b.is_ascii_alphanumeric() || b == b'+' || b == b'/' || b == b'-' || b == b'_'
                });
            if fits { Ok(value) } else { Err(SdpError::Malformed { section: index, what: name }) }
        };
        let ufrag = credential("ice-ufrag", 4)?;
        let pwd = credential("ice-pwd", 22)?;
        let lines = values("fingerprint");
        if lines.is_empty() {
            return Err(SdpError::Missing { section: index, what: "fingerprint" });
        }
        let fingerprints = lines
            .iter()
            .map(|line| {
                fingerprint(line).ok_or(SdpError::Malformed { section: index, what: "fingerprint" })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let setup = match values("setup").first().map(String::as_str) {
            None => None,
            Some("actpass") => Some(Setup::ActPass),
            Some("active") => Some(Setup::Active),
            Some("passive") => Some(Setup::Passive),
            Some(_) => return Err(SdpError::Malformed { section: index, what: "setup" }),
        };
        Ok(RemoteTransport { ufrag, pwd, fingerprints, setup })
    }
}

pub(super) fn within(what: &'static str, count: usize, limit: usize) -> Result<(), SdpError> {
    if count > limit { Err(SdpError::TooMany { what, count, limit }) } else { Ok(()) }
}

/// "sha-256 AB:CD:..."
fn fingerprint(line: &str) -> Option<(String, Vec<u8>)> {
    let (algorithm, digest) = line.trim().split_once(' ')?;
    let digest = digest
        .trim()
        .split(':')
        .map(|byte| if byte.len() == 2 { u8::from_str_radix(byte, 16).ok() } else { None })
        .collect::<Option<Vec<u8>>>()?;
    let algorithm = algorithm.to_ascii_lowercase();
    let expected = match algorithm.as_str() {
        "sha-1" => 20,
        "sha-224" => 28,
        "sha-256" => 32,
        "sha-384" => 48,
        "sha-512" => 64,
        _ => return (digest.len() <= 64).then_some((algorithm, digest)),
    };
    (digest.len() == expected).then_some((algorithm, digest))
}

fn direction_of(attributes: &[sdp_types::Attribute]) -> Option<Direction> {
    attributes.iter().find_map(|attribute| direction(&attribute.attribute))
}

pub(super) fn direction(name: &str) -> Option<Direction> {
    let (send, receive) = match name {
        "sendrecv" => (true, true),
        "sendonly" => (true, false),
        "recvonly" => (false, true),
        "inactive" => (false, false),
        _ => return None,
    };
    Some(Direction { send, receive })
}

/// RFC 8866 token characters, bounded: ids that are written back verbatim.
pub(super) fn is_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_ID
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]".contains(&b))
}

fn section(
    index: usize,
    media: &Media,
    default: Option<Direction>,
) -> Result<RemoteSection, SdpError> {
    within("attributes of one m-line", media.attributes.len(), MAX_ATTRIBUTES)?;
    let value = |name: &'static str| {
        media
            .attributes
            .iter()
            .find(|attribute| attribute.attribute == name)
            .and_then(|attribute| attribute.value.as_deref())
    };
    let has = |name: &str| media.attributes.iter().any(|attribute| attribute.attribute == name);
    let malformed = |what: &'static str| SdpError::Malformed { section: index, what };
    let kind = kind(media);
    // Port 0 rejects, unless it only means that the m-line rides on the bundle (RFC 9143 section 6).
    let rejected = media.port == 0 && !has("bundle-only");
    let mid = match value("mid") {
        Some(mid) if is_id(mid) => mid.to_owned(),
        Some(_) => return Err(malformed("mid")),
        None if rejected => String::new(),
        None => return Err(SdpError::Missing { section: index, what: "mid" }),
    };
    let direction = direction_of(&media.attributes)
        .or(default)
        .unwrap_or(Direction { send: true, receive: true });
    let rtp = matches!(kind, SectionKind::Audio | SectionKind::Video);
    let mut section = RemoteSection {
        mid,
        kind,
        media: media.media.clone(),
        proto: media.proto.clone(),
        format: media.fmt.clone(),
        rejected,
        direction,
        rtcp_mux: has("rtcp-mux"),
        codecs: Vec::new(),
        extensions: Vec::new(),
        msid: None,
        rids: Vec::new(),
        ssrcs: Vec::new(),
        sctp_port: None,
        max_message_size: None,
    };
    if rejected {
        return Ok(section);
    }
    if kind == SectionKind::Data {
        section.sctp_port = value("sctp-port").and_then(|port| port.trim().parse().ok());
        section.max_message_size =
            value("max-message-size").and_then(|size| size.trim().parse().ok());
    }
    if rtp {
        section.codecs = codecs(index, media)?;
        section.extensions = extensions(index, media)?;
        section.rids = rids(index, media)?;
        section.ssrcs = ssrcs(index, media)?;
        section.msid = msid(media);
    }
    Ok(section)
}

fn kind(media: &Media) -> SectionKind {
    let rtp = matches!(
        media.proto.as_str(),
        "UDP/TLS/RTP/SAVPF"
            | "UDP/TLS/RTP/SAVP"
            | "TCP/DTLS/RTP/SAVPF"
            | "TCP/DTLS/RTP/SAVP"
            | "RTP/SAVPF"
            | "RTP/SAVP"
    );
    match media.media.as_str() {
        "audio" if rtp => SectionKind::Audio,
        "video" if rtp => SectionKind::Video,
        "application" if matches!(media.proto.as_str(), "UDP/DTLS/SCTP" | "TCP/DTLS/SCTP") => {
            SectionKind::Data
        }
        _ => SectionKind::Unknown,
    }
}
