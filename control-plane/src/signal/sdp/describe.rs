//! Typed values -> text: the m-lines of our offers and answers.

use std::fmt::{self, Write as _};

use chappe_proto::node::v1 as node;

use super::{
    SdpError, SendTrack,
    codec::{Codec, CodecKind, parameter},
    extension::ExtensionKind,
};

/// Largest data message the node takes, bytes; the wire protocol's clients stay below 64,000.
pub(super) const MAX_MESSAGE_SIZE: u32 = 65_536;

/// Lines of a description (RFC 8866 section 5), as they are sent. The library that reads descriptions writes them too, one character
/// at a time, from a copy of everything: an answer cost three times as much.
#[derive(Default)]
struct Lines(String);

impl Lines {
    /// Adds one. Nothing in its value ends it: some are the clients' own words.
    fn push(&mut self, kind: char, value: fmt::Arguments<'_>) {
        self.0.push(kind);
        self.0.push('=');
        let start = self.0.len();
        // Writing into memory does not fail.
        let _ = self.0.write_fmt(value);
        const ENDS: [char; 3] = ['\0', '\r', '\n'];
        if self.0.bytes().skip(start).any(|byte| ENDS.contains(&byte.into())) {
            let clean = self.0.split_off(start).replace(ENDS, "");
            self.0.push_str(&clean);
        }
        self.0.push_str("\r\n");
    }

    fn attribute(&mut self, value: fmt::Arguments<'_>) {
        self.push('a', value);
    }

    fn append(&mut self, lines: &Self) {
        self.0.push_str(&lines.0);
    }
}

/// Attributes of the node's transport, ready to be written on each m-line.
pub(super) struct LocalSide {
    common: Lines,
    candidates: Lines,
}

impl LocalSide {
    pub(super) fn new(local: &node::LocalTransport, setup: &str) -> Result<Self, SdpError> {
        let ice = local.ice.as_ref().filter(|ice| !ice.ufrag.is_empty());
        let (Some(ice), Some(fingerprint)) = (ice, &local.fingerprint) else {
            return Err(SdpError::NoLocalTransport);
        };
        let digest: Vec<String> =
            fingerprint.digest.iter().map(|byte| format!("{byte:02X}")).collect();
        let (mut common, mut candidates) = (Lines::default(), Lines::default());
        common.attribute(format_args!("ice-ufrag:{}", ice.ufrag));
        common.attribute(format_args!("ice-pwd:{}", ice.pwd));
        let (algorithm, digest) = (&fingerprint.algorithm, digest.join(":"));
        common.attribute(format_args!("fingerprint:{algorithm} {digest}"));
        common.attribute(format_args!("setup:{setup}"));
        local
            .candidates
            .iter()
            .for_each(|candidate| describe_candidate(&mut candidates, candidate));
        candidates.attribute(format_args!("end-of-candidates"));
        Ok(Self { common, candidates })
    }
}

fn describe_candidate(lines: &mut Lines, candidate: &node::Candidate) {
    let (protocol, suffix) = match candidate.protocol() {
        node::candidate::Protocol::Tcp => ("tcp", " tcptype passive"),
        _ => ("udp", ""),
    };
    let kind = match candidate.r#type() {
        node::candidate::Type::ServerReflexive => "srflx raddr 0.0.0.0 rport 0",
        _ => "host",
    };
    let node::Candidate { foundation, priority, address, port, .. } = candidate;
    lines.attribute(format_args!(
        "candidate:{foundation} 1 {protocol} {priority} {address} {port} typ {kind}{suffix}"
    ));
}

/// A description in the making.
pub(super) struct Writer {
    session_id: u64,
    version: u64,
    allow_mixed: bool,
    /// m-lines, each with its attributes.
    sections: Lines,
    /// Their mids, a blank before each.
    bundle: String,
    local: LocalSide,
}

impl Writer {
    pub(super) fn new(session_id: u64, version: u64, allow_mixed: bool, local: LocalSide) -> Self {
        let (sections, bundle) = (Lines::default(), String::new());
        Self { session_id, version, allow_mixed, sections, bundle, local }
    }

    /// An m-line that is not used: port 0, outside of the bundle.
    pub(super) fn rejected(&mut self, media: &str, proto: &str, format: &str, mid: &str) {
        self.line(media, 0, proto, format);
        if !mid.is_empty() {
            self.sections.attribute(format_args!("mid:{mid}"));
        }
        self.sections.attribute(format_args!("inactive"));
    }

    pub(super) fn data(&mut self, proto: &str, format: &str, mid: &str) {
        self.open("application", proto, format, mid);
        self.sections.attribute(format_args!("sctp-port:5000"));
        self.sections.attribute(format_args!("max-message-size:{MAX_MESSAGE_SIZE}"));
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
        self.open(kind, section.proto, &formats.join(" "), section.mid);
        let lines = &mut self.sections;
        lines.attribute(format_args!("{}", section.direction));
        lines.attribute(format_args!("rtcp-mux"));
        lines.attribute(format_args!("rtcp-rsize"));
        for (id, kind, way) in section.extensions {
            let (slash, way) = way.map_or(("", ""), |way| ("/", way));
            lines.attribute(format_args!("extmap:{id}{slash}{way} {}", kind.uri()));
        }
        // Of the whole transport, so that no payload type is named (RFC 8888 section 6).
        if section.codecs.iter().any(|codec| codec.feedback.ccfb) {
            lines.attribute(format_args!("rtcp-fb:* ack ccfb"));
        }
        for codec in section.codecs {
            describe_codec(lines, codec, section);
        }
        for rid in section.rids {
            lines.attribute(format_args!("rid:{rid} recv"));
        }
        if section.rids.len() > 1 {
            lines.attribute(format_args!("simulcast:recv {}", section.rids.join(";")));
        }
        if let Some(track) = section.track {
            let repaired = section.codecs.iter().any(|codec| codec.kind == CodecKind::FlexFec);
            describe_track(lines, track, if repaired { track.fec_ssrc } else { 0 });
        }
    }

    pub(super) fn finish(self) -> String {
        let Self { session_id, version, sections, bundle, .. } = self;
        let mut lines = Lines::default();
        lines.push('v', format_args!("0"));
        lines.push('o', format_args!("- {session_id} {version} IN IP4 127.0.0.1"));
        lines.push('s', format_args!("-"));
        lines.push('t', format_args!("0 0"));
        lines.attribute(format_args!("group:BUNDLE{bundle}"));
        lines.attribute(format_args!("ice-lite"));
        if self.allow_mixed {
            lines.attribute(format_args!("extmap-allow-mixed"));
        }
        lines.attribute(format_args!("msid-semantic: WMS *"));
        lines.append(&sections);
        lines.0
    }

    /// An m-line of the bundle with its transport's attributes; the candidates stand on the first only.
    fn open(&mut self, media: &str, proto: &str, format: &str, mid: &str) {
        self.line(media, 9, proto, format);
        self.sections.attribute(format_args!("mid:{mid}"));
        self.sections.append(&self.local.common);
        self.sections.append(&std::mem::take(&mut self.local.candidates));
        self.bundle.push(' ');
        self.bundle.push_str(mid);
    }

    fn line(&mut self, media: &str, port: u16, proto: &str, format: &str) {
        self.sections.push('m', format_args!("{media} {port} {proto} {format}"));
        self.sections.push('c', format_args!("IN IP4 0.0.0.0"));
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

fn describe_codec(lines: &mut Lines, codec: &Codec, section: &MediaLine<'_>) {
    let payload_type = codec.payload_type;
    lines.attribute(format_args!("rtpmap:{}", codec.rtpmap()));
    for feedback in codec.feedback.lines() {
        lines.attribute(format_args!("rtcp-fb:{payload_type} {feedback}"));
    }
    if !codec.fmtp.is_empty() {
        lines.attribute(format_args!("fmtp:{payload_type} {}", codec.fmtp));
    }
    if let (Some(rtx), false) = (codec.rtx, section.audio) {
        lines.attribute(format_args!("rtpmap:{rtx} rtx/{}", codec.clock_rate));
        lines.attribute(format_args!("fmtp:{rtx} apt={payload_type}"));
    }
}

/// The track we send (RFC 8830, RFC 5576, RFC 5956 section 4.3 for its repair packets; `fec_ssrc` is 0 where there are none).
fn describe_track(lines: &mut Lines, track: &SendTrack, fec_ssrc: u32) {
    let SendTrack { stream_id, ssrc, rtx_ssrc, .. } = track;
    lines.attribute(format_args!("msid:{stream_id} {}", track.msid_appdata()));
    if *rtx_ssrc != 0 {
        lines.attribute(format_args!("ssrc-group:FID {ssrc} {rtx_ssrc}"));
    }
    if fec_ssrc != 0 {
        lines.attribute(format_args!("ssrc-group:FEC-FR {ssrc} {fec_ssrc}"));
    }
    for ssrc in [*ssrc, *rtx_ssrc, fec_ssrc].into_iter().filter(|ssrc| *ssrc != 0) {
        lines.attribute(format_args!("ssrc:{ssrc} cname:{stream_id}"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_line_whatever_is_in_it() {
        let mut lines = Lines::default();
        lines.attribute(format_args!("mid:{}", "0\r\na=inactive\n\0é"));
        lines.attribute(format_args!("rtcp-mux"));
        assert_eq!(lines.0, "a=mid:0a=inactiveé\r\na=rtcp-mux\r\n");
    }
}
