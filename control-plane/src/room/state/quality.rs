//! Which qualities of a track anybody wants: more is told at once, less after a while.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use livekit_protocol as proto;

use super::track::Track;
use crate::room::types::RoomEvent;

/// How long less must be wanted before the publisher hears it: short spells of disinterest (a page flipped through)
/// should not cost a keyframe each.
const LOWER_AFTER: Duration = Duration::from_secs(5);

/// Highest spatial layer wanted, by codec name ("vp8"); `None` is nobody.
type Levels = BTreeMap<String, Option<u32>>;

#[derive(Clone, Debug, Default)]
pub(super) struct Quality {
    /// As the node says.
    demand: Levels,
    /// Backup codecs that a subscriber needs and nobody publishes yet.
    needed: Vec<String>,
    /// What the publisher was told last.
    told: Levels,
    /// When a pure decrease is told.
    pub(super) due: Option<Instant>,
}

impl Quality {
    /// The node says what is wanted of one codec. True: tell the publisher now.
    pub(super) fn demand(&mut self, codec: &str, max_layer: Option<u32>, now: Instant) -> bool {
        self.demand.insert(codec.to_owned(), max_layer);
        self.needed.retain(|needed| needed != codec);
        self.review(now)
    }

    /// A subscriber can decode this codec only. True: tell the publisher now.
    pub(super) fn need(&mut self, codec: &str, now: Instant) -> bool {
        if !self.needed.iter().any(|needed| needed == codec) {
            self.needed.push(codec.to_owned());
        }
        self.review(now)
    }

    fn wanted(&self) -> Levels {
        let mut wanted = self.demand.clone();
        wanted.extend(self.needed.iter().map(|codec| (codec.clone(), Some(u32::MAX))));
        wanted
    }

    fn review(&mut self, now: Instant) -> bool {
        let (mut more, mut less) = (false, false);
        for (codec, wanted) in self.wanted() {
            // Until told otherwise a client sends everything of what it publishes, and no backup codec.
            let unasked = if self.needed.contains(&codec) { None } else { Some(u32::MAX) };
            let told = self.told.get(&codec).copied().unwrap_or(unasked);
            more |= wanted > told;
            less |= wanted < told;
        }
        if more {
            return true;
        }
        self.due = less.then(|| self.due.unwrap_or(now + LOWER_AFTER));
        false
    }

    /// Says all that is wanted, and that it was said.
    pub(super) fn tell(&mut self) -> Levels {
        self.due = None;
        self.told = self.wanted();
        self.told.clone()
    }
}

/// "vp8" of "video/VP8".
pub(super) fn codec_name(mime_type: &str) -> String {
    mime_type.rsplit('/').next().unwrap_or_default().to_ascii_lowercase()
}

fn qualities(max_layer: Option<u32>) -> Vec<proto::SubscribedQuality> {
    let all = [proto::VideoQuality::Low, proto::VideoQuality::Medium, proto::VideoQuality::High];
    let enabled = |index: usize| max_layer.is_some_and(|max| index as u64 <= u64::from(max));
    let each = all.into_iter().enumerate().map(|(index, quality)| proto::SubscribedQuality {
        quality: quality as i32,
        enabled: enabled(index),
    });
    each.collect()
}

impl Track {
    /// What its publisher is to hear of all that is wanted; codecs nobody spoke of are left out.
    pub(super) fn tell_demand(&mut self) -> RoomEvent {
        match self.info.r#type() {
            proto::TrackType::Audio => RoomEvent::SubscribedAudioCodecs(self.tell_audio_codecs()),
            _ => RoomEvent::SubscribedQuality(self.tell_quality()),
        }
    }

    fn tell_audio_codecs(&mut self) -> proto::SubscribedAudioCodecUpdate {
        let levels = self.quality.tell().into_iter();
        let each = levels.map(|(codec, max)| {
            let enabled = max.is_some();
            proto::SubscribedAudioCodec { codec, enabled }
        });
        proto::SubscribedAudioCodecUpdate {
            track_sid: self.sid.to_string(),
            subscribed_audio_codecs: each.collect(),
        }
    }

    fn tell_quality(&mut self) -> proto::SubscribedQualityUpdate {
        let levels = self.quality.tell();
        let first = self.variants.first().map(|variant| codec_name(&variant.mime_type));
        let primary = first.and_then(|codec| levels.get(&codec).copied());
        let codecs = levels
            .into_iter()
            .map(|(codec, max)| proto::SubscribedCodec { codec, qualities: qualities(max) });
        #[allow(deprecated)] // clients of some age know one codec only
        proto::SubscribedQualityUpdate {
            track_sid: self.sid.to_string(),
            subscribed_qualities: primary.map(qualities).unwrap_or_default(),
            subscribed_codecs: codecs.collect(),
        }
    }
}
