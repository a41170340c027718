//! The m-line table of one PeerConnection: what both directions have in common.

use std::collections::{BTreeMap, HashMap};

use chappe_proto::node::v1 as node;
use serde::{Deserialize, Serialize};

use super::{
    Assignment, MAX_SECTIONS, MediaKind, PublishOptions, PublishedSection, SdpError, SendTrack,
    answering::PendingOffer,
    codec::{self, Codec, CodecKind},
    extension::Extension,
    parse::{RemoteSection, SectionKind},
    section::{Downlink, Section},
    transport::TransportState,
};

/// Who makes the offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Role {
    Answering,
    Offering,
}

/// An offer of ours without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Outstanding {
    pub(super) id: u32,
    /// M-lines in it.
    pub(super) sections: usize,
}

/// One PeerConnection's m-line table and what was negotiated on it.
///
/// It is stored with the peer on the node (serde) and works on after a restart. An offer that was read but not yet
/// answered is not stored: the client repeats it when it resumes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Negotiator {
    pub(super) role: Role,
    /// Of the o= line.
    pub(super) session_id: u64,
    /// Of the o= line: grows with each description.
    pub(super) version: u64,
    /// Of the last offer, whoever made it.
    pub(super) offer_id: u32,
    /// Of the last offer of ours that was answered.
    pub(super) answered_id: u32,
    pub(super) sections: Vec<Section>,
    pub(super) codecs: Vec<Codec>,
    pub(super) extensions: Vec<Extension>,
    pub(super) transport: TransportState,
    pub(super) data: bool,
    /// Tracks that found no m-line.
    pub(super) waiting: BTreeMap<String, MediaKind>,
    pub(super) outstanding: Option<Outstanding>,
    /// M-lines that the outstanding offer, or the last answer, makes `inactive`.
    pub(super) drained: Vec<String>,
    /// A description is due for another reason than tracks (ICE restart).
    pub(super) due: bool,
    #[serde(skip)]
    pub(super) pending: Option<PendingOffer>,
}

impl Negotiator {
    /// The client offers: the only PeerConnection of `/rtc/v1`, the publisher one of `/rtc`. `session_id` is any
    /// random number.
    #[must_use]
    pub fn answering(session_id: u64) -> Self {
        Self::new(Role::Answering, session_id)
    }

    /// We offer: the subscriber PeerConnection of `/rtc`. Its first m-line carries the data channels, which the node
    /// opens.
    #[must_use]
    pub fn offering(session_id: u64) -> Self {
        let mut negotiator = Self::new(Role::Offering, session_id);
        negotiator.sections.push(Section::new("0".to_owned(), SectionKind::Data));
        negotiator.due = true;
        negotiator
    }

    fn new(role: Role, session_id: u64) -> Self {
        Self {
            role,
            // RFC 8866 takes any number; JSEP wants 63 bits, and some parsers read them as signed.
            session_id: session_id & (u64::MAX >> 1),
            version: 0,
            offer_id: 0,
            answered_id: 0,
            sections: Vec::new(),
            codecs: Vec::new(),
            extensions: Vec::new(),
            transport: TransportState::default(),
            data: false,
            waiting: BTreeMap::new(),
            outstanding: None,
            drained: Vec::new(),
            due: false,
            pending: None,
        }
    }

    /// The client's side of the transport after its last description.
    #[must_use]
    pub fn transport(&self) -> node::Transport {
        self.transport.to_node()
    }

    /// Payload types of the BUNDLE.
    #[must_use]
    pub fn codecs(&self) -> Vec<node::Codec> {
        self.codecs.iter().map(Codec::to_node).collect()
    }

    /// Header extensions of the BUNDLE.
    #[must_use]
    pub fn extensions(&self) -> Vec<node::HeaderExtension> {
        self.extensions.iter().map(Extension::to_node).collect()
    }

    /// Whether data channels are negotiated.
    #[must_use]
    pub fn wants_data(&self) -> bool {
        self.data
    }

    /// M-lines on which the client publishes, those that are paused included.
    pub fn published(&self) -> impl Iterator<Item = PublishedSection> + '_ {
        self.sections.iter().filter_map(|section| self.published_section(section))
    }

    /// Says what AddTrack told of the track on an m-line. It takes effect with the next answer.
    pub fn configure(&mut self, mid: &str, options: PublishOptions) {
        if let Some(section) = self.sections.iter_mut().find(|section| section.mid == mid) {
            section.options = Some(options);
        }
    }

    /// Puts a track on an m-line; a track that has one keeps it.
    pub fn assign(&mut self, track: SendTrack) -> Assignment {
        if let Some(mid) = self.assignment(&track.track_sid) {
            return Assignment::Assigned { mid: mid.to_owned() };
        }
        match self.place(&track) {
            Some(index) => {
                self.waiting.remove(&track.track_sid);
                let section = &mut self.sections[index];
                let mid = section.mid.clone();
                section.downlink = Downlink::Sending { track, described: None };
                Assignment::Assigned { mid }
            }
            None => {
                self.waiting.insert(track.track_sid, track.kind);
                Assignment::NeedsSections
            }
        }
    }

    /// The m-line of a track that is being sent.
    #[must_use]
    pub fn assignment(&self, track_sid: &str) -> Option<&str> {
        self.sending(track_sid).map(|section| section.mid.as_str())
    }

    /// Whether the client takes repair packets (FlexFEC) on the m-line of a track.
    #[must_use]
    pub fn takes_repair(&self, track_sid: &str) -> bool {
        let Some(section) = self.sending(track_sid) else { return false };
        // One payload type on all m-lines: the node has room for no other.
        let fec = self.codecs.iter().find(|codec| codec.kind == CodecKind::FlexFec);
        fec.is_some_and(|fec| section.formats.contains(&fec.payload_type))
    }

    /// Whether the client knows of a track: its m-line was in an answer of ours, or in an offer that was answered.
    #[must_use]
    pub fn described(&self, track_sid: &str) -> bool {
        let Some(section) = self.sending(track_sid) else { return false };
        let Downlink::Sending { described: Some(id), .. } = section.downlink else { return false };
        self.role == Role::Answering || id <= self.answered_id
    }

    /// Takes a track off its m-line, which the next description makes `inactive`.
    pub fn release(&mut self, track_sid: &str) {
        self.waiting.remove(track_sid);
        for section in &mut self.sections {
            let Downlink::Sending { track, described } = &section.downlink else { continue };
            if track.track_sid == track_sid {
                section.downlink =
                    if described.is_some() { Downlink::Draining } else { Downlink::Idle };
            }
        }
    }

    /// M-lines (audio, video) that the client should add for the tracks that found none. M-lines that become free
    /// with the next description count as there.
    #[must_use]
    pub fn missing_sections(&self) -> (u32, u32) {
        let missing = |kind: MediaKind| {
            let waiting = self.waiting.values().filter(|waiting| **waiting == kind).count();
            let coming = self
                .sections
                .iter()
                .filter(|section| section.media_kind() == Some(kind) && section.client_receives)
                .filter(|section| section.downlink != Downlink::Idle && section.sending().is_none())
                .count();
            waiting.saturating_sub(coming)
        };
        let room = MAX_SECTIONS.saturating_sub(self.sections.len());
        let audios = missing(MediaKind::Audio).min(room);
        let videos = missing(MediaKind::Video).min(room - audios);
        (u32::try_from(audios).unwrap_or(0), u32::try_from(videos).unwrap_or(0))
    }

    /// Whether the client has to be told something: tracks that came or went, or that wait for m-lines.
    #[must_use]
    pub fn needs_description(&self) -> bool {
        self.due
            || !self.waiting.is_empty()
            || self.sections.iter().any(|section| {
                matches!(
                    section.downlink,
                    Downlink::Draining | Downlink::Sending { described: None, .. }
                )
            })
    }

    /// Whether the client takes a codec, as far as is known: `profile` in the node's normal form, `None` for any.
    #[must_use]
    pub fn supports(&self, mime: &str, profile: Option<&str>) -> bool {
        let Some(kind) = CodecKind::from_mime(mime) else { return false };
        let fits = |codec: &Codec| {
            kind.can_be_sent_as(codec.kind)
                && profile.is_none_or(|profile| profile == codec.profile)
        };
        let known = self.codecs.iter().any(|codec| codec.kind.is_audio() == kind.is_audio());
        if self.role == Role::Offering && !known {
            return codec::offered(kind.is_audio()).iter().any(fits);
        }
        self.codecs.iter().any(fits)
    }

    pub(super) fn sending(&self, track_sid: &str) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.sending().is_some_and(|track| track.track_sid == track_sid))
    }

    /// Every m-line that sends, with its track.
    pub(super) fn mid_to_track_id(&self) -> HashMap<String, String> {
        self.sections
            .iter()
            .filter_map(|section| {
                section.sending().map(|track| (section.mid.clone(), track.track_sid.clone()))
            })
            .collect()
    }

    /// The m-line for a track: one that only receives before one that also publishes.
    fn place(&mut self, track: &SendTrack) -> Option<usize> {
        if self.role == Role::Offering {
            return self.place_offered(track);
        }
        let free = |sends: bool| {
            self.sections
                .iter()
                .position(|section| section.client_sends == sends && self.takes(section, track))
        };
        free(false).or_else(|| free(true))
    }

    /// Whether a section is free for a track and takes its codec.
    pub(super) fn takes(&self, section: &Section, track: &SendTrack) -> bool {
        let Some(kind) = CodecKind::from_mime(&track.mime_type) else { return false };
        section.is_free(track.kind)
            && self.codecs.iter().any(|codec| {
                kind.can_be_sent_as(codec.kind) && section.formats.contains(&codec.payload_type)
            })
    }

    fn published_section(&self, section: &Section) -> Option<PublishedSection> {
        let uplink = section.uplink.as_ref()?;
        let mut codecs = self.codecs_of(section);
        section.prefer(&mut codecs);
        codecs.retain(|codec| codec.kind != CodecKind::FlexFec);
        let encoding =
            |rid: &str, ssrc, rtx_ssrc| node::Encoding { rid: rid.to_owned(), ssrc, rtx_ssrc };
        // Packets name their rid (RFC 8852). SSRCs that stand beside are not taken: nothing says which rid is whose, and
        // str0m puts them in another order in each offer.
        let by_rid = uplink.rids.iter().map(|rid| encoding(rid, 0, 0));
        let by_ssrc = uplink.ssrcs.iter().map(|(ssrc, rtx)| encoding("", *ssrc, rtx.unwrap_or(0)));
        let mut encodings: Vec<_> =
            if uplink.rids.is_empty() { by_ssrc.collect() } else { by_rid.collect() };
        if encodings.is_empty() {
            encodings.push(encoding("", 0, 0));
        }
        Some(PublishedSection {
            mid: section.mid.clone(),
            kind: section.media_kind()?,
            cid: uplink.cid.clone(),
            stream: uplink.stream.clone(),
            mime_types: codecs.iter().map(|codec| codec.kind.mime_type().to_owned()).fold(
                Vec::new(),
                |mut unique, mime| {
                    if !unique.contains(&mime) {
                        unique.push(mime);
                    }
                    unique
                },
            ),
            encodings,
            active: uplink.active && !section.rejected,
        })
    }

    /// The codecs of an m-line, as the client ordered them.
    fn codecs_of(&self, section: &Section) -> Vec<Codec> {
        section
            .formats
            .iter()
            .filter_map(|format| self.codecs.iter().find(|codec| codec.payload_type == *format))
            .cloned()
            .collect()
    }
}

/// Merges the codecs and extensions of the m-lines of one BUNDLE: a payload type or extension id means the same on
/// all of them (RFC 9143 section 10.1.2 and RFC 8285 section 7).
pub(super) fn merge_bundle<'a>(
    sections: impl Iterator<Item = (&'a RemoteSection, &'a [Codec])>,
) -> Result<(Vec<Codec>, Vec<Extension>), SdpError> {
    let mut codecs: BTreeMap<usize, Codec> = BTreeMap::new();
    let mut by_type: HashMap<u8, usize> = HashMap::new();
    let mut uris: HashMap<u8, &str> = HashMap::new();
    let mut extensions: Vec<Extension> = Vec::new();
    for (remote, accepted) in sections {
        for codec in accepted {
            let order = codecs.len();
            let known = *by_type.entry(codec.payload_type).or_insert(order);
            let merged = codecs.entry(known).or_insert_with(|| codec.clone());
            merged.merge(codec).ok_or_else(|| {
                SdpError::Contradiction(format!(
                    "payload type {} means two codecs in one bundle",
                    codec.payload_type
                ))
            })?;
        }
        for offered in &remote.extensions {
            if *uris.entry(offered.id).or_insert(&offered.uri) != offered.uri {
                return Err(SdpError::Contradiction(format!(
                    "extension id {} means two extensions in one bundle",
                    offered.id
                )));
            }
        }
        for extension in taken_extensions(remote) {
            match extensions.iter_mut().find(|known| known.id == extension.id) {
                Some(known) => {
                    known.send |= extension.send;
                    known.receive |= extension.receive;
                }
                None => extensions.push(extension),
            }
        }
    }
    Ok((codecs.into_values().collect(), extensions))
}

/// The extensions of one m-line that are answered.
pub(super) fn taken_extensions(remote: &RemoteSection) -> Vec<Extension> {
    use super::{codec::gives_only_ccfb, extension::ExtensionKind};
    let kinds: Vec<_> = remote
        .extensions
        .iter()
        .filter_map(|offered| Some((ExtensionKind::from_uri(&offered.uri)?, offered)))
        .collect();
    let transport_cc = kinds.iter().any(|(kind, _)| *kind == ExtensionKind::TransportCc);
    // Numbers without feedback by them serve nobody, and packets that carry them would get that feedback all the same.
    let by_stream = gives_only_ccfb(remote);
    kinds
        .into_iter()
        .filter(|(kind, _)| *kind != ExtensionKind::TransportCc || !by_stream)
        // It only serves REMB, and costs four bytes in each packet.
        .filter(|(kind, _)| *kind != ExtensionKind::AbsSendTime || !(transport_cc || by_stream))
        .map(|(kind, offered)| {
            Extension::new(offered.id, kind, offered.direction.send, offered.direction.receive)
        })
        .collect()
}
