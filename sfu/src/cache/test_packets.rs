//! Packets for tests of the modules that stand on the cache.

use std::time::{Duration, Instant};

use super::{
    CodecFields, FormatId, FrameFacts, LayerFacts, LayerSet, LayerUses, Layers, PacketMeta,
};
use crate::{
    rtp::{Codec, CodecKind, MediaTime, Pt, SeqNo},
    wire::Indication,
};

/// A moment to count from.
#[allow(clippy::disallowed_methods)] // any instant will do
pub(crate) fn start() -> Instant {
    Instant::now()
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The first packet of a frame in the middle of a stream.
pub(crate) fn meta(encoding: u8, seq: u64, time: u64, received_at: Instant) -> PacketMeta {
    PacketMeta {
        seq: SeqNo(seq),
        time: MediaTime(time),
        received_at,
        encoding,
        generation: 0,
        format: FormatId(0),
        marker: false,
        padding: false,
        frame: FrameFacts { start: true, ..FrameFacts::default() },
        codec: CodecFields::None,
        frame_number: None,
        red_primary: 0,
        audio_level: None,
        video_orientation: None,
        playout_delay: None,
        abs_capture_time: None,
    }
}

pub(crate) fn keyframe(mut meta: PacketMeta) -> PacketMeta {
    meta.frame.keyframe = true;
    meta
}

/// In a temporal layer, as VP8 has them; a sync frame needs nothing but the frame in `sync`.
pub(crate) fn vp8_layer(
    mut meta: PacketMeta,
    frame: u64,
    temporal: u8,
    sync: Option<u64>,
) -> PacketMeta {
    let mut uses = LayerUses::default();
    let mut targets = LayerSet::EMPTY;
    for target in (0..Layers::GRID).map(|temporal| Layers { spatial: 0, temporal }) {
        targets = targets.with(target);
        if target.temporal == temporal && sync.is_some() {
            uses.set(target, Indication::Switch);
        } else if target.temporal >= temporal {
            uses.set(target, Indication::Required);
        }
    }
    meta.frame.temporal = temporal;
    meta.frame.layers = Some(LayerFacts {
        frame,
        needs: sync.map_or(0, |base| 1 << (frame - base - 1)),
        needs_more: sync.is_none(),
        uses,
        targets,
        nested: true,
        has_structure: false,
        structure: 0,
        active: 0,
        tells_active: false,
    });
    meta
}

pub(crate) fn codec(kind: CodecKind, pt: u8, rtx: Option<u8>) -> Codec {
    let audio = kind.media_kind() == crate::rtp::MediaKind::Audio;
    Codec {
        pt: Pt::new(pt).unwrap(),
        rtx: rtx.and_then(Pt::new),
        kind,
        clock_rate: if audio { 48_000 } else { 90_000 },
        channels: if audio { 2 } else { 0 },
        profile: "".into(),
        red_block: None,
        nack: rtx.is_some(),
        pli: !audio,
        fir: !audio,
        transport_cc: true,
        remb: false,
    }
}
