//! Packets for tests of the modules that stand on the cache.

use std::time::{Duration, Instant};

use super::{CodecFields, FormatId, FrameFacts, PacketMeta};
use crate::rtp::{Codec, CodecKind, MediaTime, Pt, SeqNo};

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
