//! Typed values -> text: the m-lines of our offers and answers.

use chappe_proto::node::v1 as node;
use sdp_types::{Attribute, Connection, Media, Origin, Session, Time};

use super::{
    SdpError, SendTrack,
    codec::{Codec, CodecKind, parameter},
    extension::ExtensionKind,
};

/// Largest data message the node takes, bytes; the wire protocol's clients stay below 64,000.
pub(super) const MAX_MESSAGE_SIZE: u32 = 65_536;

/// Attributes of the node's transport, ready to be written on each m-line.
pub(super) struct LocalSide {
    common: Vec<Attribute>,
    candidates: Vec<Attribute>,
}

impl LocalSide {
    pub(super) fn new(local: &node::LocalTransport, setup: &str) -> Result<Self, SdpError> {
        let ice = local.ice.as_ref().filter(|ice| !ice.ufrag.is_empty());
        let (Some(ice), Some(fingerprint)) = (ice, &local.fingerprint) else {
            return Err(SdpError::NoLocalTransport);
        };
        let digest: Vec<String> =
            fingerprint.digest.iter().map(|byte| format!("{byte:02X}")).collect();
        let common = vec![
            Attribute::with_value("ice-ufrag", &ice.ufrag),
            Attribute::with_value("ice-pwd", &ice.pwd),
            Attribute::with_value(
                "fingerprint",
                format!("{} {}", fingerprint.algorithm, digest.join(":")),
            ),
            Attribute::with_value("setup", setup),
        ];
        let mut candidates: Vec<Attribute> = local.candidates.iter().map(candidate).collect();
        candidates.push(Attribute::new("end-of-candidates"));
        Ok(Self { common, candidates })
    }
}

fn candidate(candidate: &node::Candidate) -> Attribute {
    let (protocol, suffix) = match candidate.protocol() {
        node::candidate::Protocol::Tcp => ("tcp", " tcptype passive"),
        _ => ("udp", ""),
    };
    let kind = match candidate.r#type() {
        node::candidate::Type::ServerReflexive => "srflx raddr 0.0.0.0 rport 0",
        _ => "host",
    };
    let node::Candidate { foundation, priority, address, port, .. } = candidate;
    Attribute::with_value(
        "candidate",
        format!("{foundation} 1 {protocol} {priority} {address} {port} typ {kind}{suffix}"),
    )
}

/// A description in the making.
pub(super) struct Writer {
    session: Session,
    bundle: Vec<String>,
    local: LocalSide,
}

impl Writer {
    pub(super) fn new(session_id: u64, version: u64, allow_mixed: bool, local: LocalSide) -> Self {
        let origin = Origin::with_ip_addr(session_id, version, std::net::Ipv4Addr::LOCALHOST);
        let mut session = Session::new(origin, "-");
        session.times.push(Time::new(0, 0));
        session.attributes.push(Attribute::new("ice-lite"));
        if allow_mixed {
            session.attributes.push(Attribute::new("extmap-allow-mixed"));
        }
        Self { session, bundle: Vec::new(), local }
    }

    /// An m-line that is not used: port 0, outside of the bundle.
    pub(super) fn rejected(&mut self, media: &str, proto: &str, format: &str, mid: &str) {
        let mut media = line(media, 0, proto, format);
        if !mid.is_empty() {
            media.attributes.push(Attribute::with_value("mid", mid));
        }
        media.attributes.push(Attribute::new("inactive"));
        self.session.medias.push(media);
    }

    pub(super) fn data(&mut self, proto: &str, format: &str, mid: &str) {
        let mut media = line("application", 9, proto, format);
        self.open(&mut media, mid);
        media.attributes.push(Attribute::with_value("sctp-port", 5000));
        media.attributes.push(Attribute::with_value("max-message-size", MAX_MESSAGE_SIZE));
        self.session.medias.push(media);
    }

    pub(super) fn media(&mut self, section: &MediaLine<'_>) {
        let formats: Vec<String> = section
            .codecs
            .iter()
            .flat_map(|codec| [Some(codec.payload_type), codec.rtx])
            .flatten()
            .map(|payload_type| payload_type.to_string())
            .collect();
        let kind = if section.audio { "audio" } else { "video" };
        let mut media = line(kind, 9, section.proto, &formats.join(" "));
        self.open(&mut media, section.mid);
        let attributes = &mut media.attributes;
        attributes.push(Attribute::new(section.direction));
        attributes.push(Attribute::new("rtcp-mux"));
        attributes.push(Attribute::new("rtcp-rsize"));
        for (id, kind, way) in section.extensions {
            let way = way.map(|way| format!("/{way}")).unwrap_or_default();
            attributes.push(Attribute::with_value("extmap", format!("{id}{way} {}", kind.uri())));
        }
        // Of the whole transport, so that no payload type is named (RFC 8888 section 6).
        if section.codecs.iter().any(|codec| codec.feedback.ccfb) {
            attributes.push(Attribute::with_value("rtcp-fb", "* ack ccfb"));
        }
        for codec in section.codecs {
            describe_codec(attributes, codec, section);
        }
        for rid in section.rids {
            attributes.push(Attribute::with_value("rid", format!("{rid} recv")));
        }
        if section.rids.len() > 1 {
            let list = format!("recv {}", section.rids.join(";"));
            attributes.push(Attribute::with_value("simulcast", list));
        }
        if let Some(track) = section.track {
            let repaired = section.codecs.iter().any(|codec| codec.kind == CodecKind::FlexFec);
            describe_track(attributes, track, if repaired { track.fec_ssrc } else { 0 });
        }
        self.session.medias.push(media);
    }

    pub(super) fn finish(mut self) -> String {
        let group = format!("BUNDLE {}", self.bundle.join(" "));
        self.session.attributes.insert(0, Attribute::with_value("group", group.trim_end()));
        self.session.attributes.push(Attribute::with_value("msid-semantic", " WMS *"));
        let mut text = Vec::new();
        // Writing into memory does not fail.
        let _ = self.session.write(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Transport attributes; the candidates stand on the first m-line of the bundle only.
    fn open(&mut self, media: &mut Media, mid: &str) {
        media.attributes.push(Attribute::with_value("mid", mid));
        media.attributes.extend(self.local.common.iter().cloned());
        media.attributes.append(&mut self.local.candidates);
        self.bundle.push(mid.to_owned());
    }
}

/// What is written of one audio or video m-line.
pub(super) struct MediaLine<'a> {
    pub(super) audio: bool,
    pub(super) proto: &'a str,
    pub(super) mid: &'a str,
    pub(super) direction: &'static str,
    pub(super) codecs: &'a [Codec],
    pub(super) extensions: &'a [(u8, ExtensionKind, Option<&'static str>)],
    /// Encodings of the client, as it ordered them.
    pub(super) rids: &'a [String],
    pub(super) track: Option<&'a SendTrack>,
}

fn line(media: &str, port: u16, proto: &str, format: &str) -> Media {
    Media {
        media: media.to_owned(),
        port,
        num_ports: None,
        proto: proto.to_owned(),
        fmt: format.to_owned(),
        media_title: None,
        connections: vec![Connection::from_ip_addr(std::net::Ipv4Addr::UNSPECIFIED)],
        bandwidths: Vec::new(),
        key: None,
        attributes: Vec::new(),
    }
}

fn describe_codec(attributes: &mut Vec<Attribute>, codec: &Codec, section: &MediaLine<'_>) {
    attributes.push(Attribute::with_value("rtpmap", codec.rtpmap()));
    for feedback in codec.feedback.lines() {
        let line = format!("{} {feedback}", codec.payload_type);
        attributes.push(Attribute::with_value("rtcp-fb", line));
    }
    if !codec.fmtp.is_empty() {
        let line = format!("{} {}", codec.payload_type, codec.fmtp);
        attributes.push(Attribute::with_value("fmtp", line));
    }
    if let (Some(rtx), false) = (codec.rtx, section.audio) {
        attributes.push(Attribute::with_value("rtpmap", format!("{rtx} rtx/{}", codec.clock_rate)));
        attributes.push(Attribute::with_value("fmtp", format!("{rtx} apt={}", codec.payload_type)));
    }
}

/// The track we send (RFC 8830, RFC 5576, RFC 5956 section 4.3 for its repair packets; `fec_ssrc` is 0 where there are none).
fn describe_track(attributes: &mut Vec<Attribute>, track: &SendTrack, fec_ssrc: u32) {
    let SendTrack { stream_id, ssrc, rtx_ssrc, .. } = track;
    attributes.push(Attribute::with_value("msid", format!("{stream_id} {}", track.msid_appdata())));
    if *rtx_ssrc != 0 {
        attributes.push(Attribute::with_value("ssrc-group", format!("FID {ssrc} {rtx_ssrc}")));
    }
    if fec_ssrc != 0 {
        attributes.push(Attribute::with_value("ssrc-group", format!("FEC-FR {ssrc} {fec_ssrc}")));
    }
    for ssrc in [*ssrc, *rtx_ssrc, fec_ssrc].into_iter().filter(|ssrc| *ssrc != 0) {
        attributes.push(Attribute::with_value("ssrc", format!("{ssrc} cname:{stream_id}")));
    }
}

/// Opus parameters that our side decides: what is offered without them, then ours.
pub(super) fn opus_fmtp(offered: &str, stereo: bool, dtx: bool) -> String {
    const DECIDED: [&str; 4] = ["stereo", "sprop-stereo", "maxaveragebitrate", "usedtx"];
    let mut parts: Vec<&str> = offered
        .split(';')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .filter(|part| !DECIDED.iter().any(|name| parameter(part, name).is_some()))
        .collect();
    if dtx {
        parts.push("usedtx=1");
    }
    if stereo {
        parts.push("stereo=1");
        // Music: what the wire protocol's servers ask for, the most Opus takes.
        parts.push("maxaveragebitrate=510000");
    }
    parts.join(";")
}
