//! One track: announced, then published once its media section is negotiated.

use std::collections::BTreeSet;

use livekit_protocol as proto;
use serde::{Deserialize, Serialize};

use super::{quality::Quality, tracks::MAX_LAYERS};
use crate::room::{
    ids,
    types::{
        ParticipantSid, PublishedInfo, PublishedVariant, RequestError, SubscribedTrack, TrackSid,
        TrackVariant,
    },
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Track {
    pub(super) sid: TrackSid,
    /// The client's id, to give a repeated announcement the same answer.
    pub(super) cid: String,
    pub(super) info: proto::TrackInfo,
    /// Empty while pending.
    pub(super) variants: Vec<PublishedVariant>,
    /// The publisher was told of a first subscriber.
    pub(super) told_subscribed: bool,
    #[serde(skip)]
    pub(super) subscribers: BTreeSet<ParticipantSid>,
    #[serde(skip)]
    pub(super) quality: Quality,
}

impl Track {
    pub(super) fn announced(request: proto::AddTrackRequest) -> Self {
        let sid = ids::track_sid(request.r#type(), request.source());
        let cid = request.cid.clone();
        let info = announced_info(&sid, request);
        Self {
            sid,
            cid,
            info,
            variants: Vec::new(),
            told_subscribed: false,
            subscribers: BTreeSet::new(),
            quality: Quality::default(),
        }
    }

    pub(super) fn is_published(&self) -> bool {
        !self.variants.is_empty()
    }

    /// Announces a backup codec of this track.
    pub(super) fn add_codecs(
        &mut self,
        codecs: Vec<proto::SimulcastCodec>,
    ) -> Result<(), RequestError> {
        let before = self.info.codecs.len();
        for codec in codecs {
            let announced = announced_codec(self.info.r#type(), codec);
            let same = |known: &&mut proto::SimulcastCodecInfo| {
                known.mime_type.eq_ignore_ascii_case(&announced.mime_type)
            };
            let full = self.info.codecs.len() >= MAX_LAYERS;
            match self.info.codecs.iter_mut().find(same) {
                Some(known) => *known = announced,
                None if !full => self.info.codecs.push(announced),
                None => {
                    self.info.codecs.truncate(before);
                    let most = format!("more than {MAX_LAYERS} codecs of a track");
                    return Err(RequestError::LimitExceeded(most));
                }
            }
        }
        Ok(())
    }

    /// Takes over what was negotiated. True where anything changed.
    pub(super) fn publish(&mut self, info: PublishedInfo) -> Result<bool, RequestError> {
        let Some(first) = info.variants.first() else {
            return Err(RequestError::Invalid("a published track needs a variant".to_owned()));
        };
        if info.variants.iter().any(|variant| ids::track_of(&variant.node_track_id) != self.sid) {
            return Err(RequestError::Invalid(
                "a variant's id belongs to another track".to_owned(),
            ));
        }
        if info.variants == self.variants {
            return Ok(false);
        }
        self.info.mime_type.clone_from(&first.mime_type);
        self.info.mid.clone_from(&first.mid);
        #[allow(deprecated)] // clients of some age still read `layers`
        if !first.layers.is_empty() {
            self.info.layers.clone_from(&first.layers);
        }
        for (index, variant) in info.variants.iter().enumerate() {
            self.put_codec(index, variant);
        }
        self.variants = info.variants;
        Ok(true)
    }

    /// The codec list says what is negotiated; codecs that are only announced keep their place.
    fn put_codec(&mut self, index: usize, variant: &PublishedVariant) {
        let codecs = &mut self.info.codecs;
        let by_mime = codecs
            .iter()
            .position(|codec| codec.mime_type.eq_ignore_ascii_case(&variant.mime_type));
        // A client that named no codec announced one entry without a type.
        let unnamed = || codecs.iter().position(|codec| codec.mime_type.is_empty());
        // A browser may refuse the announced codec and send another in its place.
        let place = by_mime.or_else(unnamed).or((index < codecs.len() && index == 0).then_some(0));
        let place = place.unwrap_or_else(|| {
            codecs.push(proto::SimulcastCodecInfo::default());
            codecs.len() - 1
        });
        let Some(codec) = codecs.get_mut(place) else { return };
        codec.mime_type.clone_from(&variant.mime_type);
        codec.mid.clone_from(&variant.mid);
        if !variant.cid.is_empty() {
            codec.cid.clone_from(&variant.cid);
        }
        if !variant.layers.is_empty() {
            codec.layers.clone_from(&variant.layers);
        }
    }

    /// As a subscriber is told.
    pub(super) fn for_subscriber(&self, publisher: &ParticipantSid) -> SubscribedTrack {
        let variants = self.variants.iter().map(|variant| TrackVariant {
            node_track_id: variant.node_track_id.clone(),
            mime_type: variant.mime_type.clone(),
        });
        SubscribedTrack {
            info: self.info.clone(),
            publisher: publisher.clone(),
            variants: variants.collect(),
        }
    }
}

fn mime_type(kind: proto::TrackType, codec: &str) -> String {
    let family = if kind == proto::TrackType::Audio { "audio" } else { "video" };
    if codec.is_empty() || codec.contains('/') {
        return codec.to_owned();
    }
    let name = match codec.to_ascii_lowercase().as_str() {
        "opus" => "opus".to_owned(),
        "red" => "red".to_owned(),
        other => other.to_ascii_uppercase(),
    };
    format!("{family}/{name}")
}

fn announced_codec(
    kind: proto::TrackType,
    codec: proto::SimulcastCodec,
) -> proto::SimulcastCodecInfo {
    proto::SimulcastCodecInfo {
        mime_type: mime_type(kind, &codec.codec),
        cid: codec.cid,
        layers: codec.layers,
        video_layer_mode: codec.video_layer_mode,
        ..Default::default()
    }
}

#[allow(deprecated)] // clients of some age still read the fields that `codecs` replaces
fn announced_info(sid: &TrackSid, request: proto::AddTrackRequest) -> proto::TrackInfo {
    let kind = request.r#type();
    let mut codecs: Vec<_> =
        request.simulcast_codecs.into_iter().map(|codec| announced_codec(kind, codec)).collect();
    if codecs.is_empty() {
        let codec = proto::SimulcastCodecInfo {
            cid: request.cid,
            layers: request.layers.clone(),
            ..Default::default()
        };
        codecs.push(codec);
    }
    for codec in &mut codecs {
        if codec.layers.is_empty() {
            codec.layers.clone_from(&request.layers);
        }
    }
    let most_layers = codecs.iter().map(|codec| codec.layers.len()).max().unwrap_or(0);
    proto::TrackInfo {
        sid: sid.to_string(),
        r#type: request.r#type,
        name: request.name,
        muted: request.muted,
        width: request.width,
        height: request.height,
        simulcast: kind == proto::TrackType::Video && most_layers > 1,
        disable_dtx: request.disable_dtx,
        source: request.source,
        layers: request.layers,
        mime_type: codecs.first().map(|codec| codec.mime_type.clone()).unwrap_or_default(),
        codecs,
        stereo: request.stereo,
        disable_red: request.disable_red,
        encryption: request.encryption,
        stream: request.stream,
        audio_features: request.audio_features,
        backup_codec_policy: request.backup_codec_policy,
        packet_trailer_features: request.packet_trailer_features,
        ..Default::default()
    }
}
