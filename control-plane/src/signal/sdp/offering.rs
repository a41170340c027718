//! We offer, the client answers.

use chappe_proto::node::v1 as node;

use super::{
    AnswerSummary, Description, MAX_SECTIONS, MediaKind, SdpError, SendTrack,
    answering::{sctp_of, tagged_section},
    codec::{self, Codec, CodecKind},
    describe::{LocalSide, MediaLine, Writer},
    extension,
    negotiator::{Negotiator, Outstanding, Role, merge_bundle},
    parse::{RemoteDescription, RemoteSection, SectionKind},
    section::{Downlink, Section},
};

const MEDIA_PROTO: &str = "UDP/TLS/RTP/SAVPF";
const DATA_PROTO: &str = "UDP/DTLS/SCTP";
const DATA_FORMAT: &str = "webrtc-datachannel";

impl Negotiator {
    /// Offers what is to be sent. One offer at a time: the next one after its answer, or after
    /// [`Self::abandon_offer`].
    pub fn offer(&mut self, local: &node::LocalTransport) -> Result<Description, SdpError> {
        if self.role != Role::Offering {
            return Err(SdpError::WrongRole);
        }
        if let Some(outstanding) = self.outstanding {
            return Err(SdpError::OfferOutstanding(outstanding.id));
        }
        let local = LocalSide::new(local, "actpass")?;
        let mut writer = Writer::new(self.session_id, self.version, true, local);
        for section in &self.sections {
            offer_section(&mut writer, section);
        }
        self.version += 1;
        self.offer_id = self.offer_id.wrapping_add(1);
        let id = self.offer_id;
        self.due = false;
        for section in &mut self.sections {
            if let Downlink::Sending { described, .. } = &mut section.downlink {
                *described = described.or(Some(id));
            }
        }
        self.outstanding = Some(Outstanding { id, sections: self.sections.len() });
        let draining = self.sections.iter().filter(|s| s.downlink == Downlink::Draining);
        self.drained = draining.map(|section| section.mid.clone()).collect();
        Ok(Description { sdp: writer.finish(), id, mid_to_track_id: self.mid_to_track_id() })
    }

    /// Takes the client's answer to the outstanding offer. On an error nothing has changed.
    pub fn handle_answer(&mut self, id: u32, sdp: &str) -> Result<AnswerSummary, SdpError> {
        if self.role != Role::Offering {
            return Err(SdpError::WrongRole);
        }
        let outstanding = self
            .outstanding
            .filter(|outstanding| outstanding.id == id)
            .ok_or(SdpError::StaleAnswer { got: id })?;
        let remote = RemoteDescription::parse(sdp)?;
        if remote.sections.len() != outstanding.sections {
            return Err(SdpError::Contradiction(format!(
                "{} m-lines answer {}",
                remote.sections.len(),
                outstanding.sections
            )));
        }
        let accepted: Vec<_> = self
            .sections
            .iter()
            .zip(&remote.sections)
            .map(|(section, answer)| accept(section, answer))
            .collect::<Result<_, _>>()?;
        let media = remote
            .sections
            .iter()
            .zip(&accepted)
            .filter_map(|(section, codecs)| codecs.as_deref().map(|codecs| (section, codecs)));
        let (codecs, extensions) = merge_bundle(media)?;
        let mut transport = self.transport.clone();
        transport.answered(&remote.transport(tagged_section(&remote, &accepted)?)?)?;
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
        self.outstanding = None;
        self.answered_id = id;
        let drained = std::mem::take(&mut self.drained);
        let mut summary = AnswerSummary::default();
        for (section, codecs) in self.sections.iter_mut().zip(&accepted) {
            section.rejected = codecs.is_none();
            section.client_receives = codecs.is_some();
            section.formats = codecs.iter().flatten().map(|codec| codec.payload_type).collect();
            if section.downlink == Downlink::Draining && drained.contains(&section.mid) {
                section.downlink = Downlink::Idle;
            }
            if section.rejected
                && let Downlink::Sending { track, .. } =
                    std::mem::replace(&mut section.downlink, Downlink::Idle)
            {
                summary.displaced.push(track.track_sid);
            }
        }
        Ok(summary)
    }

    /// Whether an offer waits for its answer.
    #[must_use]
    pub fn offer_outstanding(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Gives up on the outstanding offer: the client may never have seen it (a signalling connection that broke).
    /// The next offer repeats it.
    pub fn abandon_offer(&mut self) {
        if self.outstanding.take().is_some() {
            self.drained.clear();
            self.due = true;
        }
    }

    /// Restarts ICE: [`Self::transport`] asks the node for new credentials, which the next offer carries. An
    /// outstanding offer is abandoned.
    pub fn restart_ice(&mut self) {
        if self.role == Role::Offering {
            self.abandon_offer();
            self.transport.restart();
            self.due = true;
        }
    }

    /// An idle m-line of the kind, or a new one.
    pub(super) fn place_offered(&mut self, track: &SendTrack) -> Option<usize> {
        let kind = match track.kind {
            MediaKind::Audio => SectionKind::Audio,
            MediaKind::Video => SectionKind::Video,
        };
        let reused = self.sections.iter().position(|section| self.takes(section, track));
        if reused.is_some() {
            return reused;
        }
        if self.sections.len() >= MAX_SECTIONS {
            return None;
        }
        let index = self.sections.len();
        self.sections.push(Section::new(index.to_string(), kind));
        Some(index)
    }
}

fn offer_section(writer: &mut Writer, section: &Section) {
    let audio = match section.kind {
        SectionKind::Audio => true,
        SectionKind::Video => false,
        SectionKind::Data if section.rejected => {
            return writer.rejected("application", DATA_PROTO, DATA_FORMAT, &section.mid);
        }
        SectionKind::Data => return writer.data(DATA_PROTO, DATA_FORMAT, &section.mid),
        SectionKind::Unknown => return,
    };
    if section.rejected {
        let media = if audio { "audio" } else { "video" };
        return writer.rejected(media, MEDIA_PROTO, "0", &section.mid);
    }
    let track = section.sending();
    let mut codecs = codec::offered(audio);
    if let Some(track) = track {
        let kind = CodecKind::from_mime(&track.mime_type);
        codecs.sort_by_key(|codec| Some(codec.kind) != kind);
        if track.stereo {
            // The client decodes two channels only where it is told that two come.
            for opus in codecs.iter_mut().filter(|codec| codec.kind == CodecKind::Opus) {
                opus.fmtp.push_str(";sprop-stereo=1");
            }
        }
    }
    let extensions: Vec<_> =
        extension::offered(audio).iter().map(|(id, kind)| (*id, *kind, None)).collect();
    writer.media(&MediaLine {
        audio,
        proto: MEDIA_PROTO,
        mid: &section.mid,
        direction: if track.is_some() { "sendonly" } else { "inactive" },
        codecs: &codecs,
        extensions: &extensions,
        rids: &[],
        track,
    });
}

/// The codecs of an answered m-line that we offered; `None` where the client rejects it.
fn accept(section: &Section, answer: &RemoteSection) -> Result<Option<Vec<Codec>>, SdpError> {
    if answer.rejected || section.rejected {
        return Ok(None);
    }
    if answer.mid != section.mid || answer.kind != section.kind {
        return Err(SdpError::Contradiction(format!("the answer moves m-line {:?}", section.mid)));
    }
    if section.kind == SectionKind::Data {
        return Ok(Some(Vec::new()));
    }
    let audio = section.kind == SectionKind::Audio;
    let offered = codec::offered(audio);
    let mut codecs = codec::select(&answer.codecs, audio);
    codecs.retain(|codec| offered.iter().any(|known| known.is_same(codec)));
    Ok((!codecs.is_empty()).then_some(codecs))
}
