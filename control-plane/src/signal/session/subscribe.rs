//! Tracks that the client takes: which codec, which m-line, which quality.

use std::collections::BTreeMap;

use chappe_proto::node::v1 as node;
use livekit_protocol as proto;
use rand::{Rng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::SessionFacts;
use crate::{
    room::{SubscribedTrack, TrackSid, TrackVariant},
    signal::sdp::{Assignment, MediaKind, Negotiator, SendTrack},
};

/// Priority at the node of what a client pinned, by its places 1 to this, and of a screen share above them.
const PINNED: u32 = 1_000;
const SCREEN_SHARE: u32 = 10_000;

/// What the client asked of a track (`track_setting`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    disabled: bool,
    /// Used where no size is named; `None` is the best.
    quality: Option<i32>,
    width: u32,
    height: u32,
    /// Frames per second at most; 0 is no bound.
    #[serde(default)]
    fps: u32,
    priority: u32,
}

impl Settings {
    pub(super) fn from_request(request: &proto::UpdateTrackSettings) -> Self {
        Self {
            disabled: request.disabled,
            quality: Some(request.quality),
            width: request.width,
            height: request.height,
            fps: request.fps,
            priority: request.priority,
        }
    }

    /// Highest spatial layer that these settings want of a track with such layers; `None` is no bound.
    fn max_spatial_layer(&self, layers: &[proto::VideoLayer]) -> Option<u32> {
        let mut layers: Vec<_> = layers
            .iter()
            .filter(|layer| layer.quality != proto::VideoQuality::Off as i32)
            .collect();
        layers.sort_by_key(|layer| (layer.quality, layer.width * layer.height));
        let highest = layers.len().checked_sub(1)?;
        let index = if self.width > 0 && self.height > 0 {
            // The shorter side decides: a portrait tile of a landscape track wants no more than it can show.
            let wanted = self.width.min(self.height);
            layers
                .iter()
                .position(|layer| layer.width.min(layer.height) >= wanted)
                .unwrap_or(highest)
        } else {
            let wanted = self.quality?;
            layers.iter().rposition(|layer| layer.quality <= wanted).unwrap_or(0)
        };
        (index < highest).then(|| u32::try_from(index).unwrap_or(u32::MAX))
    }
}

/// A codec variant on its way to the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Chosen {
    node_track_id: String,
    mime_type: String,
    ssrc: u32,
    rtx_ssrc: u32,
    #[serde(default)]
    fec_ssrc: u32,
    /// It has an m-line.
    placed: bool,
}

/// A track that the room gives to this participant.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Subscription {
    publisher: String,
    info: proto::TrackInfo,
    /// Node track id and MIME type, in order of preference.
    variants: Vec<(String, String)>,
    chosen: Option<Chosen>,
    settings: Settings,
    /// The room was asked for a codec that this client knows.
    codec_asked: bool,
}

impl Subscription {
    fn kind(&self) -> MediaKind {
        if self.info.r#type == proto::TrackType::Audio as i32 {
            MediaKind::Audio
        } else {
            MediaKind::Video
        }
    }

    /// Browsers play the tracks of one stream in step: a camera with its microphone, a screen with its sound. Others
    /// have a stream of their own.
    fn stream_id(&self, sid: &TrackSid, syncs_streams: bool) -> String {
        use proto::TrackSource::{Camera, Microphone, ScreenShare, ScreenShareAudio};
        let publisher = &self.publisher;
        match self.info.source() {
            Camera | Microphone if syncs_streams => format!("{publisher}|camera"),
            ScreenShare | ScreenShareAudio if syncs_streams => format!("{publisher}|screen_share"),
            _ => format!("{publisher}|{sid}"),
        }
    }

    /// As the node has it, where larger is more important. On the wire 1 is the highest and 0 is unset.
    fn node_priority(&self) -> u32 {
        let asked = match self.settings.priority {
            0 => 0,
            place => PINNED + PINNED.saturating_sub(place),
        };
        match self.info.source() {
            proto::TrackSource::ScreenShare => SCREEN_SHARE + asked,
            _ => asked,
        }
    }

    fn choose(&mut self, negotiator: &Negotiator, ssrcs: &mut SsrcSource) -> bool {
        let supported = self.variants.iter().find_map(|(node_track_id, mime_type)| {
            let mime_type = decodable(mime_type, negotiator)?;
            Some((node_track_id.clone(), mime_type.to_owned()))
        });
        let Some((node_track_id, mime_type)) = supported else { return false };
        let [ssrc, rtx_ssrc, fec_ssrc] = ssrcs.draw(self.kind());
        self.chosen =
            Some(Chosen { node_track_id, mime_type, ssrc, rtx_ssrc, fec_ssrc, placed: false });
        true
    }
}

/// The codec in which the client would receive a variant, as far as its descriptions say. A client that has described no
/// m-line of the kind is given one first.
fn decodable<'a>(mime_type: &'a str, negotiator: &Negotiator) -> Option<&'a str> {
    let is_video = mime_type.starts_with("video/");
    let known = |codec: node::Codec| (codec.kind >= node::CodecKind::Vp8 as i32) == is_video;
    let undescribed = !negotiator.codecs().into_iter().any(known);
    if undescribed || negotiator.supports(mime_type, None) {
        return Some(mime_type);
    }
    // The node unwraps redundant audio for who cannot.
    let plain = mime_type.eq_ignore_ascii_case("audio/red").then_some("audio/opus")?;
    negotiator.supports(plain, None).then_some(plain)
}

/// Draws SSRCs that no other stream to this client has.
#[derive(Debug)]
pub(super) struct SsrcSource {
    rng: StdRng,
}

impl SsrcSource {
    pub(super) fn new(rng: StdRng) -> Self {
        Self { rng }
    }

    /// Of media, retransmissions and repair packets; 0 where there are none.
    fn draw(&mut self, kind: MediaKind) -> [u32; 3] {
        // 0 and all ones have meanings of their own; among a few hundred streams of one client 2^32 does not collide,
        // and those of one track differ by construction.
        let ssrc = self.rng.random_range(1..u32::MAX - 2);
        if kind == MediaKind::Video { [ssrc, ssrc + 1, ssrc + 2] } else { [ssrc, 0, 0] }
    }
}

/// What could not be given an m-line.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Placement {
    /// The client can decode none of the track's variants.
    pub(super) unsupported: Vec<TrackSid>,
}

/// The tracks of one client, by id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Subscriptions {
    // Boxed: a map has room for eleven from the start, and most take one or two.
    list: BTreeMap<TrackSid, Box<Subscription>>,
}

impl Subscriptions {
    /// Takes a track, or takes it as it is now. A variant in use that is gone frees its m-line.
    pub(super) fn put(&mut self, track: SubscribedTrack, negotiator: &mut Negotiator) {
        let sid = TrackSid::from(track.info.sid.clone());
        let variants: Vec<_> = track
            .variants
            .into_iter()
            .map(|TrackVariant { node_track_id, mime_type }| (node_track_id, mime_type))
            .collect();
        let Some(known) = self.list.get_mut(&sid) else {
            let subscription = Subscription {
                publisher: track.publisher.to_string(),
                info: track.info,
                variants,
                chosen: None,
                settings: Settings::default(),
                codec_asked: false,
            };
            self.list.insert(sid, Box::new(subscription));
            return;
        };
        known.publisher = track.publisher.to_string();
        known.info = track.info;
        known.variants = variants;
        known.codec_asked = false;
        let still_there = |chosen: &Chosen| {
            known.variants.iter().any(|(id, mime_type)| {
                let plain = decodable(mime_type, negotiator);
                *id == chosen.node_track_id && plain == Some(chosen.mime_type.as_str())
            })
        };
        if known.chosen.as_ref().is_some_and(|chosen| !still_there(chosen)) {
            known.chosen = None;
            negotiator.release(&sid.0);
        }
    }

    /// Stops taking a track; `false` where it was not taken.
    pub(super) fn remove(&mut self, sid: &TrackSid, negotiator: &mut Negotiator) -> bool {
        let removed = self.list.remove(sid);
        if removed.is_some() {
            negotiator.release(&sid.0);
        }
        removed.is_some()
    }

    /// Takes exactly these tracks.
    pub(super) fn reconcile(&mut self, tracks: Vec<SubscribedTrack>, negotiator: &mut Negotiator) {
        let gone: Vec<_> = self
            .list
            .keys()
            .filter(|sid| tracks.iter().all(|track| track.info.sid != *sid.0))
            .cloned()
            .collect();
        for sid in gone {
            self.remove(&sid, negotiator);
        }
        for track in tracks {
            self.put(track, negotiator);
        }
    }

    /// The publisher's description of a track may have changed (its layers, for example).
    pub(super) fn update_info(&mut self, info: &proto::TrackInfo) {
        if let Some(subscription) = self.list.get_mut(&TrackSid::from(info.sid.clone())) {
            subscription.info = info.clone();
        }
    }

    pub(super) fn set(&mut self, sid: &str, settings: Settings) {
        if let Some(subscription) = self.list.get_mut(&TrackSid::from(sid.to_owned())) {
            subscription.settings = settings;
        }
    }

    pub(super) fn set_disabled(&mut self, sids: &[String]) {
        for (sid, subscription) in &mut self.list {
            if sids.iter().any(|disabled| *disabled == *sid.0) {
                subscription.settings.disabled = true;
            }
        }
    }

    /// The client took the m-lines of these tracks away.
    pub(super) fn displace(&mut self, sids: &[String]) {
        for sid in sids {
            if let Some(subscription) = self.list.get_mut(&TrackSid::from(sid.clone())) {
                subscription.chosen = None;
            }
        }
    }

    /// Gives every track without m-line one, as far as there are any.
    pub(super) fn place(
        &mut self,
        negotiator: &mut Negotiator,
        ssrcs: &mut SsrcSource,
        facts: &SessionFacts,
    ) -> Placement {
        let mut placement = Placement::default();
        for (sid, subscription) in &mut self.list {
            let unplaced = subscription.chosen.as_ref().filter(|chosen| !chosen.placed);
            if unplaced.is_some_and(|chosen| decodable(&chosen.mime_type, negotiator).is_none()) {
                negotiator.release(&sid.0);
                subscription.chosen = None;
            }
            if subscription.chosen.is_none() && !subscription.choose(negotiator, ssrcs) {
                if !subscription.variants.is_empty() && !subscription.codec_asked {
                    subscription.codec_asked = true;
                    placement.unsupported.push(sid.clone());
                }
                continue;
            }
            let kind = subscription.kind();
            let stream_id = subscription.stream_id(sid, facts.syncs_streams);
            let Some(chosen) = subscription.chosen.as_mut().filter(|chosen| !chosen.placed) else {
                continue;
            };
            if !facts.may_be_offered_repair {
                chosen.fec_ssrc = 0;
            }
            let assignment = negotiator.assign(SendTrack {
                kind,
                track_sid: sid.to_string(),
                stream_id,
                mime_type: chosen.mime_type.clone(),
                ssrc: chosen.ssrc,
                rtx_ssrc: chosen.rtx_ssrc,
                fec_ssrc: chosen.fec_ssrc,
                stereo: is_stereo(&subscription.info),
            });
            chosen.placed = matches!(assignment, Assignment::Assigned { .. });
        }
        placement
    }

    /// What the node is to send: tracks whose m-line the client knows of.
    /// `suppress_silence`: silent audio shall be left out.
    pub(super) fn node_subscriptions(
        &self,
        negotiator: &Negotiator,
        suppress_silence: bool,
    ) -> Vec<node::Subscription> {
        let mut subscriptions = Vec::new();
        for (sid, subscription) in &self.list {
            let Some(chosen) = subscription.chosen.as_ref().filter(|chosen| chosen.placed) else {
                continue;
            };
            let Some(mid) = negotiator.assignment(&sid.0).filter(|_| negotiator.described(&sid.0))
            else {
                continue;
            };
            let is_audio = subscription.kind() == MediaKind::Audio;
            let settings = &subscription.settings;
            let layers = layers_of(&subscription.info, &chosen.mime_type);
            subscriptions.push(node::Subscription {
                track_id: chosen.node_track_id.clone(),
                mid: mid.to_owned(),
                ssrc: chosen.ssrc,
                rtx_ssrc: chosen.rtx_ssrc,
                fec_ssrc: if negotiator.takes_repair(&sid.0) { chosen.fec_ssrc } else { 0 },
                paused: subscription.settings.disabled,
                max_spatial_layer: settings.max_spatial_layer(layers).filter(|_| !is_audio),
                max_temporal_layer: None,
                priority: subscription.node_priority(),
                max_fps: Some(settings.fps).filter(|fps| *fps > 0 && !is_audio),
                suppress_silence: is_audio && suppress_silence,
                add_redundancy: is_audio && may_add_redundancy(&subscription.info),
                maintain_resolution: subscription.info.source() == proto::TrackSource::ScreenShare,
            });
        }
        subscriptions
    }

    pub(super) fn is_audio(&self, sid: &TrackSid) -> bool {
        self.list.get(sid).is_some_and(|subscription| subscription.kind() == MediaKind::Audio)
    }
}

/// Receivers of what is encrypted end to end decrypt a payload as a whole: nothing can be put around it.
fn may_add_redundancy(info: &proto::TrackInfo) -> bool {
    info.encryption() == proto::encryption::Type::None && !info.disable_red
}

#[expect(deprecated, reason = "clients still read and write these fields")]
fn is_stereo(info: &proto::TrackInfo) -> bool {
    info.stereo || info.audio_features.contains(&(proto::AudioTrackFeature::TfStereo as i32))
}

#[expect(
    deprecated,
    reason = "publishers without simulcast codecs state their layers in this field only"
)]
fn layers_of<'a>(info: &'a proto::TrackInfo, mime_type: &str) -> &'a [proto::VideoLayer] {
    let codec = info.codecs.iter().find(|codec| codec.mime_type.eq_ignore_ascii_case(mime_type));
    match codec.map(|codec| codec.layers.as_slice()) {
        Some(layers) if !layers.is_empty() => layers,
        _ => &info.layers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_bound_the_spatial_layer() {
        struct Case {
            name: &'static str,
            layers: &'static [(i32, u32, u32)],
            settings: Settings,
            expect: Option<u32>,
        }
        const THREE: &[(i32, u32, u32)] = &[(0, 320, 180), (1, 640, 360), (2, 1280, 720)];
        let quality = |quality| Settings { quality: Some(quality), ..Settings::default() };
        let size =
            |width, height| Settings { quality: Some(0), width, height, ..Settings::default() };
        let cases = [
            Case {
                name: "nothing asked",
                layers: THREE,
                settings: Settings::default(),
                expect: None,
            },
            Case { name: "high", layers: THREE, settings: quality(2), expect: None },
            Case { name: "medium", layers: THREE, settings: quality(1), expect: Some(1) },
            Case { name: "low", layers: THREE, settings: quality(0), expect: Some(0) },
            Case { name: "small tile", layers: THREE, settings: size(160, 90), expect: Some(0) },
            Case { name: "exact size", layers: THREE, settings: size(640, 360), expect: Some(1) },
            Case { name: "a bit more", layers: THREE, settings: size(700, 400), expect: None },
            Case {
                name: "portrait tile",
                layers: THREE,
                settings: size(180, 400),
                expect: Some(0),
            },
            Case {
                name: "larger than all",
                layers: THREE,
                settings: size(3840, 2160),
                expect: None,
            },
            Case {
                name: "one layer",
                layers: &[(2, 1280, 720)],
                settings: quality(0),
                expect: None,
            },
            Case { name: "no layers known", layers: &[], settings: quality(0), expect: None },
            Case {
                name: "two layers, low and medium, medium asked",
                layers: &[(0, 320, 180), (1, 640, 360)],
                settings: quality(1),
                expect: None,
            },
            Case {
                name: "layers named from high to low",
                layers: &[(2, 1280, 720), (0, 320, 180)],
                settings: quality(1),
                expect: Some(0),
            },
        ];
        for case in cases {
            let layer = |&(quality, width, height): &(i32, u32, u32)| proto::VideoLayer {
                quality,
                width,
                height,
                ..proto::VideoLayer::default()
            };
            let layers: Vec<_> = case.layers.iter().map(layer).collect();
            assert_eq!(case.settings.max_spatial_layer(&layers), case.expect, "{}", case.name);
        }
    }
}
