//! Tracks that the client announced, and the m-lines that carry them.

use chappe_proto::node::v1 as node;
use livekit_protocol as proto;
use serde::{Deserialize, Serialize};

use crate::{
    room::{PublishedVariant, TrackSid},
    signal::sdp::{MediaKind, Negotiator, PublishOptions, PublishedSection},
};

/// One codec of a track on its m-line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Variant {
    mid: String,
    /// The msid's track part: a change of it is another track on the same m-line.
    section_cid: String,
    node_track_id: String,
    mime_type: String,
    /// As AddTrackRequest named it.
    cid: String,
    layers: Vec<proto::VideoLayer>,
}

/// A track that AddTrackRequest announced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Publication {
    pub(super) sid: TrackSid,
    pub(super) muted: bool,
    kind: MediaKind,
    /// The first request, and one for each backup codec that joined later.
    requests: Vec<proto::AddTrackRequest>,
    variants: Vec<Variant>,
    /// What the room was told.
    told: Vec<PublishedVariant>,
    /// The room took it, in the life of this session.
    #[serde(skip)]
    confirmed: bool,
}

impl Publication {
    /// The codec and layers that were announced under this cid.
    fn announced(&self, cid: &str) -> Option<Announced<'_>> {
        self.requests.iter().find_map(|request| {
            let codec =
                request.simulcast_codecs.iter().find(|codec| codec.cid == cid && !cid.is_empty());
            let first = request.simulcast_codecs.iter().find(|codec| codec.cid == request.cid);
            match codec.or(first.filter(|_| request.cid == cid)) {
                Some(codec) => Some(Announced::of_codec(request, codec)),
                None if request.cid == cid => Some(Announced::of_request(request)),
                None => None,
            }
        })
    }

    fn is_free_for(&self, cid: &str) -> bool {
        self.variants.iter().all(|variant| variant.cid != cid)
    }

    fn free_node_track_id(&self, mime_type: &str) -> String {
        let sid = self.sid.to_string();
        if self.variants.iter().all(|variant| variant.node_track_id != sid) {
            return sid;
        }
        let codec = mime_type.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let id = format!("{sid}/{codec}");
        if self.variants.iter().all(|variant| variant.node_track_id != id) {
            return id;
        }
        format!("{id}/{}", self.variants.len())
    }

    fn add_variant(&mut self, section: &PublishedSection, cid: &str) {
        let announced = self.announced(cid);
        let wanted = announced.as_ref().and_then(|announced| announced.mime_type.clone());
        let layers = announced.map(|announced| announced.layers.to_vec()).unwrap_or_default();
        let is_wanted = |mime: &&String| {
            wanted.as_ref().is_some_and(|wanted| mime.eq_ignore_ascii_case(wanted))
        };
        let mime_type = section.mime_types.iter().find(is_wanted).or(section.mime_types.first());
        let mime_type = mime_type.cloned().unwrap_or_default();
        let node_track_id = self.free_node_track_id(&mime_type);
        self.variants.push(Variant {
            mid: section.mid.clone(),
            section_cid: section.cid.clone(),
            node_track_id,
            mime_type,
            cid: cid.to_owned(),
            layers,
        });
    }

    fn told_now(&self) -> Vec<PublishedVariant> {
        let told = |variant: &Variant| PublishedVariant {
            node_track_id: variant.node_track_id.clone(),
            mime_type: variant.mime_type.clone(),
            mid: variant.mid.clone(),
            cid: variant.cid.clone(),
            layers: variant.layers.clone(),
        };
        self.variants.iter().map(told).collect()
    }
}

/// What an AddTrackRequest says of one codec.
struct Announced<'a> {
    mime_type: Option<String>,
    layers: &'a [proto::VideoLayer],
}

impl<'a> Announced<'a> {
    fn of_request(request: &'a proto::AddTrackRequest) -> Self {
        Self { mime_type: None, layers: &request.layers }
    }

    fn of_codec(request: &'a proto::AddTrackRequest, codec: &'a proto::SimulcastCodec) -> Self {
        let kind = if request.r#type == proto::TrackType::Audio as i32 { "audio" } else { "video" };
        let mime_type = (!codec.codec.is_empty()).then(|| {
            if codec.codec.contains('/') {
                codec.codec.clone()
            } else {
                format!("{kind}/{}", codec.codec)
            }
        });
        let layers = if codec.layers.is_empty() { &request.layers } else { &codec.layers };
        Self { mime_type, layers }
    }
}

/// What changed when m-lines were compared with announcements.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Matched {
    /// Published before and not sent any more.
    pub(super) ended: Vec<TrackSid>,
}

/// The client's tracks, in the order of their announcements.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Publications {
    list: Vec<Publication>,
}

impl Publications {
    /// Announced and not yet on any m-line.
    pub(super) fn pending(&self) -> usize {
        self.list.iter().filter(|publication| publication.variants.is_empty()).count()
    }

    pub(super) fn contains(&self, sid: &str) -> bool {
        self.list.iter().any(|publication| *publication.sid.0 == *sid)
    }

    /// The room granted `sid` to this request.
    pub(super) fn announce(&mut self, sid: TrackSid, request: proto::AddTrackRequest) {
        if let Some(publication) = self.list.iter_mut().find(|publication| publication.sid == sid) {
            if publication.requests.iter().all(|known| known.cid != request.cid) {
                publication.requests.push(request);
            }
            return;
        }
        let kind = if request.r#type == proto::TrackType::Audio as i32 {
            MediaKind::Audio
        } else {
            MediaKind::Video
        };
        let muted = request.muted;
        self.list.push(Publication {
            sid,
            muted,
            kind,
            requests: vec![request],
            variants: Vec::new(),
            told: Vec::new(),
            confirmed: false,
        });
    }

    /// `false` where the track is unknown.
    pub(super) fn mute(&mut self, sid: &str, muted: bool) -> bool {
        let found = self.list.iter_mut().find(|publication| *publication.sid.0 == *sid);
        found.map(|publication| publication.muted = muted).is_some()
    }

    pub(super) fn remove(&mut self, sid: &TrackSid) {
        self.list.retain(|publication| publication.sid != *sid);
    }

    /// Compares what the client sends with what it announced: by cid first, then the first pending track of the kind
    /// (browsers may rename a track in its msid). M-lines without an announcement stay parked.
    pub(super) fn match_sections(&mut self, sections: &[PublishedSection]) -> Matched {
        let mut matched = Matched::default();
        self.list.retain_mut(|publication| {
            let had = publication.variants.len();
            publication.variants.retain(|variant| {
                sections
                    .iter()
                    .any(|section| section.mid == variant.mid && section.cid == variant.section_cid)
            });
            let ended = had > 0 && publication.variants.is_empty();
            if ended {
                matched.ended.push(publication.sid.clone());
            }
            !ended
        });
        for section in self.unmatched(sections) {
            let by_cid = self.list.iter_mut().find(|publication| {
                publication.kind == section.kind
                    && publication.announced(&section.cid).is_some()
                    && publication.is_free_for(&section.cid)
            });
            if let Some(publication) = by_cid {
                publication.add_variant(section, &section.cid);
            }
        }
        for section in self.unmatched(sections) {
            let pending = self.list.iter_mut().find(|publication| {
                publication.kind == section.kind && publication.variants.is_empty()
            });
            if let Some(publication) = pending {
                let cid = publication
                    .requests
                    .first()
                    .map(|request| request.cid.clone())
                    .unwrap_or_default();
                publication.add_variant(section, &cid);
            }
        }
        matched
    }

    fn unmatched<'a>(&self, sections: &'a [PublishedSection]) -> Vec<&'a PublishedSection> {
        let taken = |mid: &str| {
            self.list
                .iter()
                .flat_map(|publication| &publication.variants)
                .any(|variant| variant.mid == mid)
        };
        sections.iter().filter(|section| !taken(&section.mid)).collect()
    }

    /// Tells the negotiator what AddTrack said of the tracks on its m-lines, before the answer is written.
    pub(super) fn configure(&self, negotiator: &mut Negotiator) {
        for publication in &self.list {
            let Some(request) = publication.requests.first() else { continue };
            #[expect(deprecated, reason = "clients still say it in these fields")]
            let (mut stereo, mut dtx) = (request.stereo, !request.disable_dtx);
            let features = &request.audio_features;
            stereo |= features.contains(&(proto::AudioTrackFeature::TfStereo as i32));
            dtx &= !features.contains(&(proto::AudioTrackFeature::TfNoDtx as i32));
            for variant in &publication.variants {
                let preferred_mime = self.preferred_mime(publication, variant);
                let options =
                    PublishOptions { stereo, dtx, red: !request.disable_red, preferred_mime };
                negotiator.configure(&variant.mid, options);
            }
        }
    }

    fn preferred_mime(&self, publication: &Publication, variant: &Variant) -> Option<String> {
        publication.announced(&variant.cid).and_then(|announced| announced.mime_type)
    }

    /// What the node is told of them.
    pub(super) fn node_tracks(&self, sections: &[PublishedSection]) -> Vec<node::Track> {
        let mut tracks = Vec::new();
        for publication in &self.list {
            for variant in &publication.variants {
                let Some(section) = sections.iter().find(|section| section.mid == variant.mid)
                else {
                    continue;
                };
                let kind = match publication.kind {
                    MediaKind::Audio => node::MediaKind::Audio,
                    MediaKind::Video => node::MediaKind::Video,
                };
                tracks.push(node::Track {
                    track_id: variant.node_track_id.clone(),
                    kind: kind as i32,
                    mid: variant.mid.clone(),
                    encodings: section.encodings_for(&variant.layers),
                    muted: publication.muted,
                });
            }
        }
        tracks
    }

    /// The room may have lost the last of what it was told: tell it again.
    pub(super) fn forget_told(&mut self) {
        for publication in &mut self.list {
            publication.told.clear();
        }
    }

    /// The room took what it was told of this track.
    pub(super) fn confirm(&mut self, sid: &TrackSid) {
        if let Some(publication) = self.list.iter_mut().find(|known| known.sid == *sid) {
            publication.confirmed = true;
        }
    }

    pub(super) fn is_confirmed(&self, sid: &TrackSid) -> bool {
        self.list.iter().any(|known| known.sid == *sid && known.confirmed)
    }

    /// The room does not name every track that it took: tell it again of the others. What has ended while the client
    /// was away it refuses then; what is only on its way there it takes.
    pub(super) fn compare(&mut self, in_room: &[proto::TrackInfo]) {
        for publication in &mut self.list {
            if in_room.iter().all(|track| track.sid != *publication.sid.0) {
                publication.told.clear();
            }
        }
    }

    /// Tracks whose variants are on the node (as `on_node` says) and not yet told to the room.
    pub(super) fn take_untold(
        &mut self,
        on_node: impl Fn(&str) -> bool,
    ) -> Vec<(TrackSid, Vec<PublishedVariant>)> {
        let mut untold = Vec::new();
        for publication in &mut self.list {
            let now = publication.told_now();
            if now.is_empty()
                || now == publication.told
                || !now.iter().all(|told| on_node(&told.node_track_id))
            {
                continue;
            }
            publication.told.clone_from(&now);
            untold.push((publication.sid.clone(), now));
        }
        untold
    }
}
