//! The attributes of one audio or video m-line.

use std::collections::{HashMap, HashSet};

use sdp_types::Media;

use super::{
    error::SdpError,
    parse::{RemoteCodec, RemoteExtension, direction, is_id, within},
};

const MAX_FORMATS: usize = 128;
const MAX_EXTENSIONS: usize = 64;
const MAX_RIDS: usize = 8;
const MAX_SSRCS: usize = 64;
const MAX_FMTP: usize = 512;

/// All `a=NAME:...` values of an m-line.
fn values<'a>(media: &'a Media, name: &'a str) -> impl Iterator<Item = &'a str> {
    media
        .attributes
        .iter()
        .filter(move |attribute| attribute.attribute == name)
        .filter_map(|attribute| attribute.value.as_deref())
}

pub(super) fn codecs(index: usize, media: &Media) -> Result<Vec<RemoteCodec>, SdpError> {
    let malformed = |what: &'static str| SdpError::Malformed { section: index, what };
    let mut formats = Vec::new();
    for format in media.fmt.split_ascii_whitespace() {
        within("formats of one m-line", formats.len() + 1, MAX_FORMATS)?;
        let payload_type =
            format.parse::<u8>().ok().filter(|pt| *pt < 128).ok_or(malformed("format"))?;
        if formats.contains(&payload_type) {
            return Err(SdpError::Contradiction(format!(
                "m-line {index} lists format {payload_type} twice"
            )));
        }
        formats.push(payload_type);
    }
    let mut maps: HashMap<u8, (&str, u32, u32)> = HashMap::new();
    for map in values(media, "rtpmap") {
        let (payload_type, codec) = numbered(map).ok_or(malformed("rtpmap"))?;
        let mut parts = codec.split('/');
        let name = parts.next().filter(|name| is_id(name)).ok_or(malformed("rtpmap"))?;
        let clock =
            parts.next().and_then(|rate| rate.trim().parse().ok()).ok_or(malformed("rtpmap"))?;
        let channels =
            parts.next().map_or(Ok(1), |n| n.trim().parse().map_err(|_| malformed("rtpmap")))?;
        if maps
            .insert(payload_type, (name, clock, channels))
            .is_some_and(|old| old != (name, clock, channels))
        {
            return Err(SdpError::Contradiction(format!(
                "m-line {index} maps format {payload_type} to two codecs"
            )));
        }
    }
    let mut parameters: HashMap<u8, &str> = HashMap::new();
    for fmtp in values(media, "fmtp") {
        let (payload_type, text) = numbered(fmtp).ok_or(malformed("fmtp"))?;
        parameters.entry(payload_type).or_insert(text);
    }
    let mut feedback: HashMap<Option<u8>, Vec<String>> = HashMap::new();
    for line in values(media, "rtcp-fb") {
        let (format, text) = line.trim().split_once(' ').ok_or(malformed("rtcp-fb"))?;
        let format = match format {
            "*" => None,
            number => Some(number.parse::<u8>().map_err(|_| malformed("rtcp-fb"))?),
        };
        feedback.entry(format).or_default().push(text.trim().to_ascii_lowercase());
    }
    let codec = |payload_type: u8| {
        let (name, clock_rate, channels) =
            maps.get(&payload_type).copied().or_else(|| static_format(payload_type))?;
        let fmtp = parameters.get(&payload_type).copied().unwrap_or_default();
        let own = feedback.get(&Some(payload_type)).into_iter().flatten();
        let all = feedback.get(&None).into_iter().flatten();
        // 64..=95 would be taken for RTCP on a shared port (RFC 5761 section 4).
        (fmtp.len() <= MAX_FMTP && !(64..96).contains(&payload_type)).then(|| RemoteCodec {
            payload_type,
            name: name.to_owned(),
            clock_rate,
            channels,
            fmtp: fmtp.to_owned(),
            feedback: own.chain(all).cloned().collect(),
        })
    };
    Ok(formats.into_iter().filter_map(codec).collect())
}

/// RFC 3551 section 6, as far as it is forwarded.
fn static_format(payload_type: u8) -> Option<(&'static str, u32, u32)> {
    match payload_type {
        0 => Some(("PCMU", 8_000, 1)),
        8 => Some(("PCMA", 8_000, 1)),
        9 => Some(("G722", 8_000, 1)),
        _ => None,
    }
}

/// "96 rest"
fn numbered(text: &str) -> Option<(u8, &str)> {
    let (number, rest) = text.trim().split_once(' ')?;
    Some((number.parse().ok().filter(|pt| *pt < 128)?, rest.trim()))
}

pub(super) fn extensions(index: usize, media: &Media) -> Result<Vec<RemoteExtension>, SdpError> {
    let malformed = || SdpError::Malformed { section: index, what: "extmap" };
    let mut extensions: Vec<RemoteExtension> = Vec::new();
    for line in values(media, "extmap") {
        within("header extensions of one m-line", extensions.len() + 1, MAX_EXTENSIONS)?;
        let mut words = line.split_ascii_whitespace();
        let (id, way) = words
            .next()
            .map(|w| w.split_once('/').unwrap_or((w, "sendrecv")))
            .ok_or_else(malformed)?;
        let id: u16 = id.parse().map_err(|_| malformed())?;
        let direction = direction(way).ok_or_else(malformed)?;
        let uri = words.next().ok_or_else(malformed)?.to_owned();
        // Ids from 4096 are placeholders that need renumbering (RFC 8285 section 7): never used with WebRTC.
        let Some(id) = u8::try_from(id).ok().filter(|id| *id != 0) else { continue };
        if extensions.iter().any(|known| known.id == id && known.uri != uri) {
            return Err(SdpError::Contradiction(format!(
                "m-line {index} gives extension id {id} to two extensions"
            )));
        }
        if !extensions.iter().any(|known| known.uri == uri) {
            extensions.push(RemoteExtension { id, uri, direction });
        }
    }
    Ok(extensions)
}

/// RFC 8851 and 8853: rids in the order of a=simulcast, which is the sender's order of preference.
pub(super) fn rids(index: usize, media: &Media) -> Result<Vec<String>, SdpError> {
    let malformed = |what: &'static str| SdpError::Malformed { section: index, what };
    let mut declared = Vec::new();
    for line in values(media, "rid") {
        let mut words = line.split_ascii_whitespace();
        let (Some(rid), Some(way)) = (words.next(), words.next()) else {
            return Err(malformed("rid"));
        };
        if way != "send" {
            continue;
        }
        within("rids of one m-line", declared.len() + 1, MAX_RIDS)?;
        if rid.len() > 16
            || !rid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Err(malformed("rid"));
        }
        if declared.iter().any(|known| known == rid) {
            return Err(SdpError::Contradiction(format!(
                "m-line {index} declares rid {rid:?} twice"
            )));
        }
        declared.push(rid.to_owned());
    }
    let Some(line) = values(media, "simulcast").next() else { return Ok(declared) };
    let mut words = line.split_ascii_whitespace();
    while let (Some(way), Some(list)) = (words.next(), words.next()) {
        if way != "send" {
            continue;
        }
        // Alternatives ("a,b") are formats of one encoding: the first is taken. "~" marks a paused one.
        let ordered: Vec<String> = list
            .split(';')
            .filter_map(|streams| streams.split(',').next())
            .map(|rid| rid.trim_start_matches('~').to_owned())
            .collect();
        within("simulcast streams of one m-line", ordered.len(), MAX_RIDS)?;
        if let Some(unknown) = ordered.iter().find(|rid| !declared.contains(rid)) {
            let rid: String = unknown.chars().take(16).collect();
            return Err(SdpError::Contradiction(format!(
                "m-line {index} sends rid {rid:?}, which it never declares"
            )));
        }
        if (1..ordered.len()).any(|at| ordered[..at].contains(&ordered[at])) {
            return Err(malformed("simulcast"));
        }
        return Ok(ordered);
    }
    Ok(declared)
}

/// a=ssrc with a=ssrc-group:FID (RFC 5576, RFC 4588) and SIM, which orders the encodings of older senders.
pub(super) fn ssrcs(index: usize, media: &Media) -> Result<Vec<(u32, Option<u32>)>, SdpError> {
    let malformed = |what: &'static str| SdpError::Malformed { section: index, what };
    let mut all: Vec<u32> = Vec::new();
    for line in values(media, "ssrc") {
        let ssrc = line
            .split_ascii_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .ok_or(malformed("ssrc"))?;
        if !all.contains(&ssrc) {
            within("SSRCs of one m-line", all.len() + 1, MAX_SSRCS)?;
            all.push(ssrc);
        }
    }
    let mut repairs: HashMap<u32, u32> = HashMap::new();
    let mut ordered: Option<Vec<u32>> = None;
    let mut protections: HashSet<u32> = HashSet::new();
    let mut contradiction = false;
    for line in values(media, "ssrc-group") {
        let mut words = line.split_ascii_whitespace();
        let semantics = words.next().ok_or(malformed("ssrc-group"))?;
        let group = words
            .take(MAX_SSRCS)
            .map(|n| n.parse::<u32>().map_err(|_| malformed("ssrc-group")))
            .collect::<Result<Vec<_>, _>>()?;
        match (semantics, group.as_slice()) {
            ("FID", [media, rtx]) => {
                let known = repairs.insert(*media, *rtx);
                contradiction |= known.is_some_and(|known| known != *rtx);
            }
            ("FEC-FR" | "FEC", [_, fec]) => {
                protections.insert(*fec);
            }
            ("SIM", group) if !group.is_empty() => ordered = Some(group.to_vec()),
            _ => {}
        }
    }
    if contradiction {
        let text = format!("m-line {index} repairs one SSRC with two");
        return Err(SdpError::Contradiction(text));
    }
    let repairing: HashSet<u32> = repairs.values().copied().chain(protections).collect();
    let media = ordered
        .unwrap_or_else(|| all.into_iter().filter(|ssrc| !repairing.contains(ssrc)).collect());
    within("encodings of one m-line", media.len(), MAX_SSRCS)?;
    Ok(media.into_iter().map(|ssrc| (ssrc, repairs.get(&ssrc).copied())).collect())
}

/// Stream and track (RFC 8830), from the m-line or, as older senders have it, from an SSRC.
pub(super) fn msid(media: &Media) -> Option<(String, String)> {
    let own = values(media, "msid").next();
    let of_ssrc =
        || values(media, "ssrc").find_map(|line| line.split_once(" msid:").map(|(_, msid)| msid));
    let mut words = own.or_else(of_ssrc)?.split_ascii_whitespace();
    let stream = words.next()?;
    let track = words.next().unwrap_or_default();
    let bounded = |text: &str| text.chars().take(128).collect::<String>();
    let stream = if stream == "-" { String::new() } else { bounded(stream) };
    Some((stream, bounded(track)))
}
