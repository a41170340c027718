//! Words of the contract <-> words of the core. Every refusal names the field.

use std::fmt::Display;

use chappe_proto::node::v1 as pb;
use tonic::Status;

use super::report;
use crate::{
    rtp::{
        Bitrate, Codec, CodecKind, CodecMap, Extension, ExtensionMap, MediaKind, Mid, Pt, Rid,
        Ssrc, TrackId,
    },
    runtime::{Candidate, CandidateKind},
    shard::{
        DataSpec, DtlsRole, EncodingSpec, Event, Fingerprint, IceCredentials, Limits, LostReason,
        PeerSpec, Protocol, SctpParams, SpeakerLevel, SubscriptionSpec, TrackSpec, TransportParams,
    },
};

/// Bytes of an id.
const MAX_ID: usize = 128;
/// Bytes of an address of data packets: identities may be long.
const MAX_ADDRESS: usize = 1_024;
/// Bytes appended to each data packet.
const MAX_STAMP: usize = 4_096;
/// Bytes of a peer's `owner_state`.
const MAX_PEER_OWNER_STATE: usize = 256 * 1_024;
/// Bytes of a room's `owner_state`.
pub(super) const MAX_ROOM_OWNER_STATE: usize = 1_024 * 1_024;
/// Bytes of one data packet.
pub(super) const MAX_DATA_PACKET: usize = 64_000;
/// Codecs of one peer: payload types have seven bits.
const MAX_CODECS: usize = 128;
/// Tracks that one peer publishes, each codec apart.
const MAX_TRACKS: usize = 64;
/// Tracks that one peer receives.
const MAX_SUBSCRIPTIONS: usize = 2_048;
/// Candidates of a client, kept for diagnosis.
const MAX_REMOTE_CANDIDATES: usize = 64;
/// Bytes of one of them.
const MAX_REMOTE_CANDIDATE: usize = 512;
/// Fingerprints of a client.
const MAX_FINGERPRINTS: usize = 8;

/// A field that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FieldError(String);

impl FieldError {
    pub(super) fn new(field: impl Display, reason: impl Display) -> Self {
        Self(format!("{field}: {reason}"))
    }

    fn inside(self, parent: impl Display) -> Self {
        Self(format!("{parent}.{}", self.0))
    }
}

impl From<FieldError> for Status {
    fn from(error: FieldError) -> Self {
        Self::invalid_argument(error.0)
    }
}

type Checked<T> = Result<T, FieldError>;

/// An id of 1 to 128 bytes without control characters.
pub(super) fn check_id(field: &str, id: &str) -> Checked<()> {
    if id.is_empty() || id.len() > MAX_ID {
        return Err(FieldError::new(
            field,
            format_args!("expected 1 to {MAX_ID} bytes, got {}", id.len()),
        ));
    }
    if id.chars().any(char::is_control) {
        return Err(FieldError::new(field, "expected no control characters"));
    }
    Ok(())
}

/// At most `max` of something.
pub(super) fn check_len(field: &str, len: usize, max: usize) -> Checked<()> {
    if len > max {
        return Err(FieldError::new(field, format_args!("expected at most {max}, got {len}")));
    }
    Ok(())
}

/// A state with the changes of `delta`.
pub(super) fn apply_delta(mut state: pb::PeerState, delta: pb::PeerDelta) -> pb::PeerState {
    if let Some(owner_state) = delta.owner_state {
        state.owner_state = owner_state;
    }
    if delta.transport.is_some() {
        state.transport = delta.transport;
    }
    if let Some(codecs) = delta.codecs {
        state.codecs = codecs.codecs;
    }
    if let Some(extensions) = delta.extensions {
        state.extensions = extensions.extensions;
    }
    state.tracks.retain(|track| !delta.remove_track_ids.contains(&track.track_id));
    for track in delta.put_tracks {
        match state.tracks.iter_mut().find(|known| known.track_id == track.track_id) {
            Some(known) => *known = track,
            None => state.tracks.push(track),
        }
    }
    let removed = &delta.remove_subscription_track_ids;
    state.subscriptions.retain(|subscription| !removed.contains(&subscription.track_id));
    for subscription in delta.put_subscriptions {
        let mut known = state.subscriptions.iter_mut();
        match known.find(|known| known.track_id == subscription.track_id) {
            Some(known) => *known = subscription,
            None => state.subscriptions.push(subscription),
        }
    }
    if delta.data.is_some() {
        state.data = delta.data;
    }
    if let Some(cap) = delta.max_egress_bitrate {
        state.max_egress_bitrate = cap;
    }
    state
}

/// A whole state in words of the core.
pub(super) fn peer_spec(state: &pb::PeerState) -> Checked<PeerSpec> {
    check_len("owner_state", state.owner_state.len(), MAX_PEER_OWNER_STATE)?;
    check_len("codecs", state.codecs.len(), MAX_CODECS)?;
    check_len("tracks", state.tracks.len(), MAX_TRACKS)?;
    check_len("subscriptions", state.subscriptions.len(), MAX_SUBSCRIPTIONS)?;
    let transport = state.transport.as_ref().map(transport).transpose();
    // Repair packets are no format that a track could have.
    let is_fec = |codec: &&pb::Codec| codec.kind == pb::CodecKind::Flexfec03 as i32;
    let fec = state.codecs.iter().find(is_fec).map(|fec| fec.payload_type);
    let codecs: Vec<_> = state.codecs.iter().filter(|codec| !is_fec(codec)).cloned().collect();
    let (send_extensions, receive_extensions) = extensions(&state.extensions)?;
    Ok(PeerSpec {
        transport: transport.map_err(|e| e.inside("transport"))?.unwrap_or_default(),
        codecs: CodecMap::new(each("codecs", &codecs, codec)?),
        fec: fec.map(|fec| payload_type("codecs.payload_type", fec)).transpose()?,
        ccfb: state.codecs.iter().any(|codec| codec.ccfb),
        send_extensions,
        receive_extensions,
        tracks: each("tracks", &state.tracks, track)?,
        subscriptions: each("subscriptions", &state.subscriptions, subscription)?,
        data: state.data.as_ref().map(data).transpose().map_err(|e| e.inside("data"))?,
        limits: state.limits.as_ref().map(limits).unwrap_or_default(),
        max_egress_bitrate: rate(state.max_egress_bitrate),
    })
}

fn each<T, U>(field: &str, list: &[T], convert: impl Fn(&T) -> Checked<U>) -> Checked<Vec<U>> {
    let convert =
        |(index, item)| convert(item).map_err(|e| e.inside(format_args!("{field}[{index}]")));
    list.iter().enumerate().map(convert).collect()
}

fn transport(transport: &pb::Transport) -> Checked<TransportParams> {
    check_len("remote_fingerprints", transport.remote_fingerprints.len(), MAX_FINGERPRINTS)?;
    check_len("remote_candidates", transport.remote_candidates.len(), MAX_REMOTE_CANDIDATES)?;
    for candidate in &transport.remote_candidates {
        check_len("remote_candidates", candidate.len(), MAX_REMOTE_CANDIDATE)?;
    }
    let remote_ice = transport.remote_ice.as_ref().map(credentials).transpose();
    let dtls_role = match pb::DtlsRole::try_from(transport.dtls_role) {
        Ok(pb::DtlsRole::Unspecified) => None,
        Ok(pb::DtlsRole::Active) => Some(DtlsRole::Active),
        Ok(pb::DtlsRole::Passive) => Some(DtlsRole::Passive),
        Err(_) => return Err(FieldError::new("dtls_role", "unknown value")),
    };
    Ok(TransportParams {
        remote_ice: remote_ice.map_err(|e| e.inside("remote_ice"))?,
        ice_generation: transport.ice_generation,
        dtls_role,
        remote_fingerprints: each(
            "remote_fingerprints",
            &transport.remote_fingerprints,
            fingerprint,
        )?,
        sctp: transport.sctp.as_ref().map(sctp).transpose()?,
        force_tcp: transport.force_tcp,
    })
}

fn credentials(ice: &pb::IceCredentials) -> Checked<IceCredentials> {
    let ice_chars =
        |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric() || b"+/-_=#".contains(&c));
    // RFC 8839 section 5.4; some clients stray from its alphabet a little.
    for (field, text, least) in [("ufrag", &ice.ufrag, 4), ("pwd", &ice.pwd, 22)] {
        if !(least..=256).contains(&text.len()) || !ice_chars(text) {
            return Err(FieldError::new(field, format_args!("expected {least} to 256 ice-chars")));
        }
    }
    Ok(IceCredentials { ufrag: ice.ufrag.clone(), pwd: ice.pwd.clone() })
}

fn fingerprint(fingerprint: &pb::Fingerprint) -> Checked<Fingerprint> {
    let len = match fingerprint.algorithm.as_str() {
        "sha-256" => 32,
        "sha-384" => 48,
        "sha-512" => 64,
        _ => return Err(FieldError::new("algorithm", "expected sha-256, sha-384 or sha-512")),
    };
    if fingerprint.digest.len() != len {
        return Err(FieldError::new("digest", format_args!("expected {len} bytes")));
    }
    Ok(Fingerprint {
        algorithm: fingerprint.algorithm.clone(),
        digest: fingerprint.digest.to_vec(),
    })
}

fn sctp(sctp: &pb::Sctp) -> Checked<SctpParams> {
    let remote_port = u16::try_from(sctp.remote_port).ok().filter(|port| *port != 0);
    let remote_port =
        remote_port.ok_or_else(|| FieldError::new("sctp.remote_port", "expected 1 to 65535"))?;
    Ok(SctpParams { remote_port, remote_max_message_size: sctp.remote_max_message_size })
}

fn payload_type(field: &str, value: u32) -> Checked<Pt> {
    let pt = u8::try_from(value).ok().and_then(Pt::new);
    pt.ok_or_else(|| FieldError::new(field, format_args!("expected 0 to 127, got {value}")))
}

fn codec(codec: &pb::Codec) -> Checked<Codec> {
    let optional =
        |field, value: Option<u32>| value.map(|value| payload_type(field, value)).transpose();
    let kind = pb::CodecKind::try_from(codec.kind).ok().and_then(codec_kind);
    if codec.clock_rate == 0 {
        return Err(FieldError::new("clock_rate", "expected more than 0 Hz"));
    }
    check_len("profile", codec.profile.len(), MAX_ID)?;
    Ok(Codec {
        pt: payload_type("payload_type", codec.payload_type)?,
        rtx: optional("rtx_payload_type", codec.rtx_payload_type)?,
        kind: kind.ok_or_else(|| FieldError::new("kind", "unknown value"))?,
        clock_rate: codec.clock_rate,
        channels: u8::try_from(codec.channels)
            .map_err(|_| FieldError::new("channels", "expected 0 to 255"))?,
        profile: codec.profile.as_str().into(),
        red_block: optional("red_block_payload_type", codec.red_block_payload_type)?,
        nack: codec.nack,
        pli: codec.pli,
        fir: codec.fir,
        transport_cc: codec.transport_cc,
        remb: codec.remb,
    })
}

fn codec_kind(kind: pb::CodecKind) -> Option<CodecKind> {
    Some(match kind {
        pb::CodecKind::Unspecified | pb::CodecKind::Flexfec03 => return None,
        pb::CodecKind::Opus => CodecKind::Opus,
        pb::CodecKind::Red => CodecKind::Red,
        pb::CodecKind::Pcmu => CodecKind::Pcmu,
        pb::CodecKind::Pcma => CodecKind::Pcma,
        pb::CodecKind::G722 => CodecKind::G722,
        pb::CodecKind::Vp8 => CodecKind::Vp8,
        pb::CodecKind::Vp9 => CodecKind::Vp9,
        pb::CodecKind::H264 => CodecKind::H264,
        pb::CodecKind::H265 => CodecKind::H265,
        pb::CodecKind::Av1 => CodecKind::Av1,
    })
}

fn codec_kind_out(kind: CodecKind) -> pb::CodecKind {
    match kind {
        CodecKind::Opus => pb::CodecKind::Opus,
        CodecKind::Red => pb::CodecKind::Red,
        CodecKind::Pcmu => pb::CodecKind::Pcmu,
        CodecKind::Pcma => pb::CodecKind::Pcma,
        CodecKind::G722 => pb::CodecKind::G722,
        CodecKind::Vp8 => pb::CodecKind::Vp8,
        CodecKind::Vp9 => pb::CodecKind::Vp9,
        CodecKind::H264 => pb::CodecKind::H264,
        CodecKind::H265 => pb::CodecKind::H265,
        CodecKind::Av1 => pb::CodecKind::Av1,
    }
}

/// What the node may send, and what it may receive.
fn extensions(list: &[pb::HeaderExtension]) -> Checked<(ExtensionMap, ExtensionMap)> {
    let (mut send, mut receive) = (ExtensionMap::default(), ExtensionMap::default());
    let pairs = each("extensions", list, |extension| {
        let kind = pb::ExtensionKind::try_from(extension.kind).ok().and_then(extension_kind);
        let kind = kind.ok_or_else(|| FieldError::new("kind", "unknown value"))?;
        let id = u8::try_from(extension.id).ok().filter(|id| *id != 0);
        Ok((kind, id.ok_or_else(|| FieldError::new("id", "expected 1 to 255"))?))
    })?;
    for ((kind, id), extension) in pairs.into_iter().zip(list) {
        if extension.send {
            send.set(kind, id);
        }
        if extension.receive {
            receive.set(kind, id);
        }
    }
    Ok((send, receive))
}

fn extension_kind(kind: pb::ExtensionKind) -> Option<Extension> {
    Some(match kind {
        pb::ExtensionKind::Unspecified => return None,
        pb::ExtensionKind::Mid => Extension::Mid,
        pb::ExtensionKind::Rid => Extension::Rid,
        pb::ExtensionKind::RepairedRid => Extension::RepairedRid,
        pb::ExtensionKind::AudioLevel => Extension::AudioLevel,
        pb::ExtensionKind::TransportCc => Extension::TransportCc,
        pb::ExtensionKind::AbsSendTime => Extension::AbsSendTime,
        pb::ExtensionKind::AbsCaptureTime => Extension::AbsCaptureTime,
        pb::ExtensionKind::PlayoutDelay => Extension::PlayoutDelay,
        pb::ExtensionKind::VideoOrientation => Extension::VideoOrientation,
        pb::ExtensionKind::DependencyDescriptor => Extension::DependencyDescriptor,
        pb::ExtensionKind::VideoLayersAllocation => Extension::VideoLayersAllocation,
        pb::ExtensionKind::TransmissionOffset => Extension::TransmissionOffset,
    })
}

fn mid(text: &str) -> Checked<Mid> {
    Mid::new(text.as_bytes())
        .ok_or_else(|| FieldError::new("mid", "expected 1 to 16 printable ASCII characters"))
}

fn ssrc(value: u32) -> Option<Ssrc> {
    Some(Ssrc(value)).filter(|ssrc| ssrc.0 != 0)
}

fn track(track: &pb::Track) -> Checked<TrackSpec> {
    check_id("track_id", &track.track_id)?;
    let kind = match pb::MediaKind::try_from(track.kind) {
        Ok(pb::MediaKind::Audio) => MediaKind::Audio,
        Ok(pb::MediaKind::Video) => MediaKind::Video,
        Ok(pb::MediaKind::Unspecified) | Err(_) => {
            return Err(FieldError::new("kind", "expected audio or video"));
        }
    };
    check_len("encodings", track.encodings.len(), TrackSpec::MAX_ENCODINGS)?;
    let mut encodings = each("encodings", &track.encodings, |encoding| {
        let rid = match encoding.rid.as_str() {
            "" => None,
            rid => Some(Rid::new(rid.as_bytes()).ok_or_else(|| {
                FieldError::new("rid", "expected at most 16 printable ASCII characters")
            })?),
        };
        Ok(EncodingSpec { rid, ssrc: ssrc(encoding.ssrc), rtx_ssrc: ssrc(encoding.rtx_ssrc) })
    })?;
    if encodings.is_empty() {
        encodings.push(EncodingSpec::default());
    }
    Ok(TrackSpec {
        id: TrackId::new(&track.track_id),
        kind,
        mid: mid(&track.mid)?,
        encodings,
        muted: track.muted,
    })
}

fn subscription(subscription: &pb::Subscription) -> Checked<SubscriptionSpec> {
    check_id("track_id", &subscription.track_id)?;
    // Layers beyond any codec are no bound.
    let layer = |layer: Option<u32>| layer.map(|layer| u8::try_from(layer).unwrap_or(u8::MAX));
    Ok(SubscriptionSpec {
        track: TrackId::new(&subscription.track_id),
        mid: mid(&subscription.mid)?,
        ssrc: ssrc(subscription.ssrc)
            .ok_or_else(|| FieldError::new("ssrc", "expected more than 0"))?,
        rtx_ssrc: ssrc(subscription.rtx_ssrc),
        fec_ssrc: ssrc(subscription.fec_ssrc),
        paused: subscription.paused,
        max_spatial: layer(subscription.max_spatial_layer),
        max_temporal: layer(subscription.max_temporal_layer),
        max_fps: subscription.max_fps,
        priority: subscription.priority,
        suppress_silence: subscription.suppress_silence,
        add_redundancy: subscription.add_redundancy,
        maintain_resolution: subscription.maintain_resolution,
    })
}

fn data(data: &pb::Data) -> Checked<DataSpec> {
    check_len("address", data.address.len(), MAX_ADDRESS)?;
    check_len("stamp", data.stamp.len(), MAX_STAMP)?;
    Ok(DataSpec {
        address: data.address.as_str().into(),
        stamp: data.stamp.clone().into(),
        may_send: data.may_send,
        may_receive: data.may_receive,
        node_opens: data.node_opens,
    })
}

/// Bits per second, where 0 says nothing.
fn rate(bits: u64) -> Option<Bitrate> {
    Some(Bitrate::from_bps(bits)).filter(|_| bits != 0)
}

fn limits(limits: &pb::Limits) -> Limits {
    Limits {
        ingress_bitrate: rate(limits.ingress_bitrate),
        ingress_ssrcs: Some(limits.ingress_ssrcs).filter(|n| *n != 0),
        data_rate: rate(limits.data_rate.saturating_mul(8)),
    }
}

/// A candidate as the contract has it.
pub(super) fn candidate(candidate: &Candidate) -> pb::Candidate {
    let protocol = match candidate.protocol {
        Protocol::Udp => pb::candidate::Protocol::Udp,
        Protocol::Tcp => pb::candidate::Protocol::Tcp,
    };
    let kind = match candidate.kind {
        CandidateKind::Host => pb::candidate::Type::Host,
        CandidateKind::ServerReflexive => pb::candidate::Type::ServerReflexive,
    };
    pb::Candidate {
        protocol: protocol.into(),
        address: candidate.address.ip().to_string(),
        port: candidate.address.port().into(),
        r#type: kind.into(),
        priority: candidate.priority,
        foundation: candidate.foundation.clone(),
    }
}

/// A fingerprint as the contract has it.
pub(super) fn fingerprint_out(fingerprint: &Fingerprint) -> pb::Fingerprint {
    pb::Fingerprint { algorithm: fingerprint.algorithm.clone(), digest: fingerprint.digest.clone() }
}

/// What happened, as the contract has it.
pub(super) fn event(event: Event) -> pb::event::Event {
    match event {
        Event::PeerConnected { room, peer } => pb::event::Event::PeerConnected(pb::PeerConnected {
            room_id: room.to_string(),
            peer_id: peer.to_string(),
        }),
        Event::PeerLost { room, peer, reason } => {
            let reason = match reason {
                LostReason::IceTimeout => pb::LostReason::IceTimeout,
                LostReason::DtlsFailed => pb::LostReason::DtlsFailed,
                LostReason::Closed => pb::LostReason::Closed,
            };
            pb::event::Event::PeerLost(pb::PeerLost {
                room_id: room.to_string(),
                peer_id: peer.to_string(),
                reason: reason.into(),
            })
        }
        Event::DataReady { room, peer } => pb::event::Event::DataReady(pb::DataReady {
            room_id: room.to_string(),
            peer_id: peer.to_string(),
        }),
        Event::TrackStarted { room, peer, track, encoding, codec, ssrc } => {
            pb::event::Event::TrackStarted(pb::TrackStarted {
                room_id: room.to_string(),
                peer_id: peer.to_string(),
                track: Some(pb::StartedTrack {
                    track_id: track.to_string(),
                    encoding: encoding.into(),
                    codec: codec_kind_out(codec).into(),
                    ssrc: ssrc.0,
                }),
            })
        }
        Event::LayerDemand { room, peer, track, max_spatial } => {
            pb::event::Event::LayerDemand(pb::LayerDemand {
                room_id: room.to_string(),
                peer_id: peer.to_string(),
                track_id: track.to_string(),
                max_spatial_layer: max_spatial.map(u32::from),
            })
        }
        Event::StreamState { room, peer, track, paused } => {
            pb::event::Event::StreamState(pb::StreamState {
                room_id: room.to_string(),
                peer_id: peer.to_string(),
                track_id: track.to_string(),
                paused,
            })
        }
        Event::SpeakersChanged { room, speakers } => {
            let speaker = |one: &SpeakerLevel| pb::Speaker {
                track_id: one.track.to_string(),
                level: f32::from(one.level) / f32::from(u16::MAX),
                dominant: one.dominant,
            };
            pb::event::Event::SpeakersChanged(pb::SpeakersChanged {
                room_id: room.to_string(),
                speakers: speakers.iter().map(speaker).collect(),
            })
        }
        Event::PeerStats { room, peer, stats } => {
            pb::event::Event::PeerStats(report::peer_stats(&room, &peer, &stats))
        }
        Event::DataOverflow { room, peer } => pb::event::Event::DataOverflow(pb::DataOverflow {
            room_id: room.to_string(),
            peer_id: peer.to_string(),
        }),
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
