//! The client offers, we answer.

use chappe_proto::node::v1 as node;

use super::{
    Description, MediaKind, OfferSummary, SdpError, SendTrack,
    codec::{self, Codec, CodecKind},
    describe::{LocalSide, MediaLine, Writer, opus_fmtp},
    extension::ExtensionKind,
    negotiator::{Negotiator, Role, merge_bundle, taken_extensions},
    parse::{RemoteDescription, RemoteSection, SectionKind},
    section::{Downlink, Section},
    transport::DtlsRole,
};

/// RFC 8841 section 6.
const DEFAULT_MAX_MESSAGE_SIZE: u32 = 65_536;
const DEFAULT_SCTP_PORT: u16 = 5000;

/// An offer that waits for its answer, and which of its m-lines are taken with which codecs.
#[derive(Clone, Debug)]
pub(super) struct PendingOffer {
    id: u32,
    remote: RemoteDescription,
    accepted: Vec<Option<Vec<Codec>>>,
}

impl Negotiator {
    /// Takes an offer of the client. On an error nothing has changed.
    pub fn handle_offer(&mut self, id: u32, sdp: &str) -> Result<OfferSummary, SdpError> {
        if self.role != Role::Answering {
            return Err(SdpError::WrongRole);
        }
        let remote = RemoteDescription::parse(sdp)?;
        self.check_table(&remote)?;
        let accepted: Vec<_> =
            remote.sections.iter().map(|section| accept(&remote, section)).collect();
        let active = || accepted.iter().filter(|codecs| codecs.is_some()).count();
        if remote.bundle.is_none() && active() > 1 {
            return Err(SdpError::Unsupported("several m-lines without a BUNDLE group"));
        }
        let tagged = tagged_section(&remote, &accepted)?;
        let media = remote
            .sections
            .iter()
            .zip(&accepted)
            .filter_map(|(section, codecs)| codecs.as_deref().map(|codecs| (section, codecs)));
        let (codecs, extensions) = merge_bundle(media)?;
        let mut transport = self.transport.clone();
        let ice_restart = transport.offered(&remote.transport(tagged)?)?;
        let data = remote
            .sections
            .iter()
            .zip(&accepted)
            .find(|(section, codecs)| section.kind == SectionKind::Data && codecs.is_some())
            .map(|(section, _)| section);
        transport.sctp = data.map(sctp_of);

        // Everything is checked: from here on nothing fails.
        self.transport = transport;
        self.codecs = codecs;
        self.extensions = extensions;
        self.data = data.is_some();
        self.offer_id = id;
        let mut summary =
            OfferSummary { ice_restart, wants_data: self.data, ..OfferSummary::default() };
        for (index, (section, codecs)) in remote.sections.iter().zip(&accepted).enumerate() {
            self.update_section(index, section, codecs.as_deref(), &mut summary);
        }
        let free = |kind: MediaKind| {
            u32::try_from(self.sections.iter().filter(|section| section.is_free(kind)).count())
                .unwrap_or(0)
        };
        summary.free_audios = free(MediaKind::Audio);
        summary.free_videos = free(MediaKind::Video);
        self.pending = Some(PendingOffer { id, remote, accepted });
        Ok(summary)
    }

    /// Answers the last offer. M-lines of tracks that were released pass through `inactive` here.
    pub fn answer(&mut self, local: &node::LocalTransport) -> Result<Description, SdpError> {
        if self.role != Role::Answering {
            return Err(SdpError::WrongRole);
        }
        let Some(pending) = self.pending.as_ref() else { return Err(SdpError::NoOffer) };
        let setup = match self.transport.role() {
            Some(DtlsRole::Active) => "active",
            Some(DtlsRole::Passive) | None => "passive",
        };
        let local = LocalSide::new(local, setup)?;
        let mut writer =
            Writer::new(self.session_id, self.version, pending.remote.allow_mixed, local);
        let opus = self.shared_opus();
        let rows = self.sections.iter().zip(&pending.remote.sections).zip(&pending.accepted);
        for ((section, remote), accepted) in rows {
            answer_section(&mut writer, section, remote, accepted.as_deref(), opus.as_deref());
        }
        let id = pending.id;
        self.pending = None;
        self.version += 1;
        let draining =
            self.sections.iter().filter(|section| section.downlink == Downlink::Draining);
        self.drained = draining.map(|section| section.mid.clone()).collect();
        for section in &mut self.sections {
            match &mut section.downlink {
                Downlink::Sending { described, .. } => *described = described.or(Some(id)),
                Downlink::Draining => section.downlink = Downlink::Idle,
                Downlink::Idle => {}
            }
        }
        Ok(Description { sdp: writer.finish(), id, mid_to_track_id: self.mid_to_track_id() })
    }

    /// The last answer may never have reached the client (a signalling connection that broke): the m-lines that it made
    /// `inactive` do so again. Returns the tracks that were put on them meanwhile: they need another m-line.
    pub fn answer_lost(&mut self) -> Vec<String> {
        let mut displaced = Vec::new();
        if self.role != Role::Answering {
            return displaced;
        }
        for mid in std::mem::take(&mut self.drained) {
            let Some(section) = self.sections.iter_mut().find(|section| section.mid == mid) else {
                continue;
            };
            let before = std::mem::replace(&mut section.downlink, Downlink::Draining);
            if let Downlink::Sending { track, .. } = before {
                displaced.push(track.track_sid);
            }
        }
        displaced
    }

    /// M-lines never move and never vanish (RFC 3264 section 8); a rejected one may be used for another.
    fn check_table(&self, remote: &RemoteDescription) -> Result<(), SdpError> {
        if remote.sections.len() < self.sections.len() {
            return Err(SdpError::Contradiction(format!(
                "{} m-lines after {}",
                remote.sections.len(),
                self.sections.len()
            )));
        }
        for (index, (known, section)) in self.sections.iter().zip(&remote.sections).enumerate() {
            if known.rejected || section.rejected {
                continue;
            }
            if known.mid != section.mid || known.kind != section.kind {
                return Err(SdpError::Contradiction(format!(
                    "m-line {index} is another than before"
                )));
            }
        }
        Ok(())
    }

    fn update_section(
        &mut self,
        index: usize,
        remote: &RemoteSection,
        accepted: Option<&[Codec]>,
        summary: &mut OfferSummary,
    ) {
        if index >= self.sections.len() {
            self.sections.push(Section::new(remote.mid.clone(), remote.kind));
        }
        let section = &mut self.sections[index];
        let another = section.mid != remote.mid || section.kind != remote.kind;
        if section.rejected && accepted.is_some() && another {
            *section = Section::new(remote.mid.clone(), remote.kind);
        }
        let before = section.uplink.clone().filter(|uplink| uplink.active);
        section.update(remote, accepted);
        let after = section.uplink.as_ref().filter(|uplink| uplink.active);
        match (before, after) {
            (None, Some(_)) => summary.added.push(section.mid.clone()),
            (Some(_), None) => {
                // What AddTrack said was of the track that is gone.
                section.options = None;
                summary.removed.push(section.mid.clone());
            }
            (Some(before), Some(after)) if before != *after => {
                summary.changed.push(section.mid.clone());
            }
            _ => {}
        }
        if section.client_receives {
            return;
        }
        let taken = std::mem::replace(&mut section.downlink, Downlink::Idle);
        if let Downlink::Sending { track, .. } = taken {
            summary.displaced.push(track.track_sid);
        }
    }

    /// Opus parameters of m-lines that do not publish. Libwebrtc wants one set for each payload type of a BUNDLE, so
    /// they follow the first that publishes.
    fn shared_opus(&self) -> Option<String> {
        let publishing = self.sections.iter().find(|section| {
            section.kind == SectionKind::Audio && section.uplink.as_ref().is_some_and(|u| u.active)
        })?;
        let codec = self.codecs.iter().find(|codec| {
            codec.kind == CodecKind::Opus && publishing.formats.contains(&codec.payload_type)
        })?;
        let options = publishing.options.clone().unwrap_or_default();
        Some(opus_fmtp(&codec.fmtp, options.stereo, options.dtx))
    }
}

/// The codecs with which an m-line is taken; `None` rejects it.
fn accept(remote: &RemoteDescription, section: &RemoteSection) -> Option<Vec<Codec>> {
    if section.rejected || !remote.bundles(&section.mid) {
        return None;
    }
    match section.kind {
        SectionKind::Unknown => None,
        SectionKind::Data => Some(Vec::new()),
        SectionKind::Audio | SectionKind::Video => {
            let codecs = codec::select(&section.codecs, section.kind == SectionKind::Audio);
            (section.rtcp_mux && !codecs.is_empty()).then_some(codecs)
        }
    }
}

/// Index of the m-line whose transport attributes count: the first of the BUNDLE that is taken.
pub(super) fn tagged_section<T>(
    remote: &RemoteDescription,
    accepted: &[Option<T>],
) -> Result<usize, SdpError> {
    let taken = |index: usize| accepted.get(index).is_some_and(Option::is_some);
    let by_mid = |mid: &String| remote.sections.iter().position(|section| section.mid == *mid);
    remote
        .bundle
        .iter()
        .flatten()
        .filter_map(by_mid)
        .chain(0..remote.sections.len())
        .find(|index| taken(*index))
        .ok_or(SdpError::Unsupported("none of the m-lines can be taken"))
}

pub(super) fn sctp_of(section: &RemoteSection) -> (u16, u32) {
    (
        section.sctp_port.unwrap_or(DEFAULT_SCTP_PORT),
        section.max_message_size.unwrap_or(DEFAULT_MAX_MESSAGE_SIZE),
    )
}

fn answer_section(
    writer: &mut Writer,
    section: &Section,
    remote: &RemoteSection,
    accepted: Option<&[Codec]>,
    opus: Option<&str>,
) {
    let Some(accepted) = accepted else {
        return writer.rejected(&remote.media, &remote.proto, &remote.format, &remote.mid);
    };
    if section.kind == SectionKind::Data {
        return writer.data(&remote.proto, &remote.format, &remote.mid);
    }
    let track = section.sending().filter(|_| section.client_receives);
    let publishes = section.client_sends;
    let mut codecs = accepted.to_vec();
    if publishes {
        section.prefer(&mut codecs);
    }
    for codec in codecs.iter_mut().filter(|codec| codec.kind == CodecKind::Opus) {
        codec.fmtp = match opus {
            Some(shared) if !publishes => shared.to_owned(),
            _ => {
                let options = section.options.clone().unwrap_or_default();
                opus_fmtp(&codec.fmtp, options.stereo, options.dtx)
            }
        };
    }
    let extensions = answered_extensions(remote);
    writer.media(&MediaLine {
        audio: section.kind == SectionKind::Audio,
        proto: &remote.proto,
        mid: &section.mid,
        direction: direction(track, publishes),
        codecs: &codecs,
        extensions: &extensions,
        rids: if publishes { &remote.rids } else { &[] },
        track,
    });
}

fn direction(track: Option<&SendTrack>, publishes: bool) -> &'static str {
    match (track.is_some(), publishes) {
        (true, true) => "sendrecv",
        (true, false) => "sendonly",
        (false, true) => "recvonly",
        (false, false) => "inactive",
    }
}

/// An extension is answered in the directions that the offer leaves open (RFC 8285 section 7).
fn answered_extensions(remote: &RemoteSection) -> Vec<(u8, ExtensionKind, Option<&'static str>)> {
    taken_extensions(remote)
        .into_iter()
        .filter_map(|extension| {
            let offered = remote.extensions.iter().find(|offered| offered.id == extension.id)?;
            let way = match (offered.direction.send, offered.direction.receive) {
                (true, true) => None,
                (true, false) => Some("recvonly"),
                (false, true) => Some("sendonly"),
                (false, false) => Some("inactive"),
            };
            Some((extension.id, extension.kind, way))
        })
        .collect()
}
