//! What one client sends: its loops, packet by packet, in the layers that somebody wants.

use std::{
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use livekit_protocol as proto;
use rand::Rng;
use str0m::{
    media::{MediaKind, Mid, Rid},
    rtp::{AbsCaptureTime, ExtensionValues, RtpWrite, Vp8Descriptor, Vp8Patch},
};

use super::{
    Context,
    incoming::Incoming,
    peer::{NewTrack, Payload, Peer, RIDS},
};
use crate::{
    measure::Stats,
    media::{AUDIO_INTERVAL, CLIPS, Stamp, Stream, VIDEO_INTERVAL, VideoCodec, stamped_opus},
    scenario::Scenario,
};

/// A frame that is later than this is left out: the tester does not make up for its own pauses with bursts.
const MAX_LATE: Duration = Duration::from_millis(200);

/// What is kept of a layer to be sent again, while somebody wants it: a large part of what a client holds in memory. Long enough
/// for three NACKs in a row, to which the round trip of the scenario's worst network is added.
const RESEND_PACKETS: usize = 256;
const RESEND_FOR: Duration = Duration::from_millis(200);

/// One encoding of a track.
#[derive(Debug)]
struct Encoding {
    rid: Option<Rid>,
    /// 0 to 2; audio has one encoding, 0.
    layer: u8,
    /// Somebody wants it.
    active: bool,
    wants_keyframe: bool,
    position: usize,
    seq: u64,
    /// What is kept to be sent again has its bounds.
    bounded: bool,
}

#[derive(Debug)]
pub(crate) struct Publication {
    kind: MediaKind,
    codec: VideoCodec,
    pub(crate) cid: String,
    /// Given by the server.
    pub(crate) sid: String,
    mid: Option<Mid>,
    encodings: Vec<Encoding>,
    next: Option<Instant>,
    number: u32,
    /// RTP time of the first frame.
    base_time: u32,
}

#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) tracks: Vec<Publication>,
    pub(crate) paused: bool,
    muted: bool,
    client: u32,
}

impl Publisher {
    pub(crate) fn new(client: u32, scenario: &Scenario) -> Self {
        let mut random = rand::rng();
        let mut track = |kind: MediaKind, name: &str, layers: u8| Publication {
            kind,
            codec: scenario.video_codec,
            cid: format!("{name}-{client}-{:08x}", random.random::<u32>()),
            sid: String::new(),
            mid: None,
            encodings: (0..layers)
                .map(|layer| Encoding {
                    rid: (layers > 1).then(|| RIDS[usize::from(layer)].into()),
                    layer,
                    active: true,
                    wants_keyframe: true,
                    // Clients are in different places of the loop.
                    position: client as usize * 7,
                    seq: u64::from(random.random_range(1..30_000_u16)),
                    bounded: false,
                })
                .collect(),
            next: None,
            number: 0,
            base_time: random.random::<u32>() >> 1,
        };
        let mut tracks = Vec::new();
        if scenario.audio {
            tracks.push(track(MediaKind::Audio, "sound", 1));
        }
        if scenario.video {
            tracks.push(track(MediaKind::Video, "camera", scenario.layers));
        }
        Self { tracks, paused: false, muted: scenario.muted, client }
    }

    pub(crate) fn new_tracks(&self) -> Vec<NewTrack> {
        let new = |track: &Publication| NewTrack {
            kind: track.kind,
            cid: track.cid.clone(),
            layers: track.encodings.len(),
        };
        self.tracks.iter().map(new).collect()
    }

    pub(crate) fn take_mids(&mut self, mids: &[Mid]) {
        for (track, mid) in self.tracks.iter_mut().zip(mids) {
            track.mid = Some(*mid);
        }
    }

    /// What the server is told of each track before its media.
    pub(crate) fn requests(&self) -> Vec<proto::AddTrackRequest> {
        let muted = self.muted;
        let request = |track| proto::AddTrackRequest { muted, ..Publication::request(track) };
        self.tracks.iter().map(request).collect()
    }

    /// The server tells which qualities somebody wants.
    pub(crate) fn handle_demand(&mut self, update: &proto::SubscribedQualityUpdate) {
        let Some(track) = self.tracks.iter_mut().find(|track| track.sid == update.track_sid) else {
            return;
        };
        let own = track.codec.name();
        let wanted = update
            .subscribed_codecs
            .iter()
            .find(|codec| codec.codec.eq_ignore_ascii_case(own) || codec.codec.is_empty())
            .or(update.subscribed_codecs.first());
        let Some(wanted) = wanted else { return };
        for quality in &wanted.qualities {
            let layer = match quality.quality() {
                proto::VideoQuality::Low => 0,
                proto::VideoQuality::Medium => 1,
                proto::VideoQuality::High => 2,
                proto::VideoQuality::Off => continue,
            };
            for encoding in track.encodings.iter_mut().filter(|encoding| encoding.layer == layer) {
                encoding.wants_keyframe |= quality.enabled && !encoding.active;
                encoding.active = quality.enabled;
            }
        }
    }

    pub(crate) fn handle_keyframe_request(&mut self, mid: Mid, rid: Option<Rid>) {
        for track in self.tracks.iter_mut().filter(|track| track.mid == Some(mid)) {
            for encoding in &mut track.encodings {
                encoding.wants_keyframe |= rid.is_none() || encoding.rid == rid;
            }
        }
    }

    /// When the next frame is due.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        self.tracks.iter().filter_map(|track| track.next).min()
    }

    /// Hands frames that are due to str0m. True when there were some.
    pub(crate) fn produce(
        &mut self,
        peer: &mut Peer,
        now: Instant,
        incoming: &mut Incoming,
        context: &Context,
    ) -> bool {
        let mut wrote = false;
        for track in &mut self.tracks {
            let interval = track.interval();
            // Clients are spread over an interval: a thousand cameras do not look at once.
            let phase = interval * (self.client % 16) / 16;
            let due = *track.next.get_or_insert(now + phase);
            if now < due {
                continue;
            }
            let late = now - due;
            track.next = Some(if late > MAX_LATE { now + interval } else { due + interval });
            track.number += 1;
            if self.paused || self.muted {
                continue;
            }
            if let Some(stats) = context.recorder.borrow_mut().window() {
                stats.tester_lateness.record(late);
            }
            wrote = true;
            track.send(peer, now, self.client, incoming, context);
        }
        wrote
    }
}

impl Publication {
    fn interval(&self) -> Duration {
        if self.kind == MediaKind::Audio { AUDIO_INTERVAL } else { VIDEO_INTERVAL }
    }

    fn request(&self) -> proto::AddTrackRequest {
        let video = self.kind == MediaKind::Video;
        let layer = |layer: u8| {
            let (width, height, bitrate, quality) = match layer {
                0 => (320, 180, 120_000, proto::VideoQuality::Low),
                1 => (640, 360, 450_000, proto::VideoQuality::Medium),
                _ => (1_280, 720, 1_500_000, proto::VideoQuality::High),
            };
            let rid = RIDS[usize::from(layer.min(2))].to_owned();
            proto::VideoLayer {
                quality: quality.into(),
                width,
                height,
                bitrate,
                rid,
                ..proto::VideoLayer::default()
            }
        };
        let count = if video { self.encodings.len() as u8 } else { 0 };
        let layers: Vec<_> = (0..count).map(layer).collect();
        let top = layers.last().cloned().unwrap_or_default();
        let source =
            if video { proto::TrackSource::Camera } else { proto::TrackSource::Microphone };
        let kind = if video { proto::TrackType::Video } else { proto::TrackType::Audio };
        let codec = proto::SimulcastCodec {
            codec: self.codec.name().to_owned(),
            cid: self.cid.clone(),
            layers: layers.clone(),
            ..proto::SimulcastCodec::default()
        };
        proto::AddTrackRequest {
            cid: self.cid.clone(),
            name: self.cid.split('-').next().unwrap_or_default().to_owned(),
            r#type: kind.into(),
            source: source.into(),
            width: top.width,
            height: top.height,
            layers,
            simulcast_codecs: if video { vec![codec] } else { Vec::new() },
            disable_red: true,
            ..proto::AddTrackRequest::default()
        }
    }

    fn send(
        &mut self,
        peer: &mut Peer,
        now: Instant,
        client: u32,
        incoming: &mut Incoming,
        context: &Context,
    ) {
        let Some(mid) = self.mid else { return };
        let audio = self.kind == MediaKind::Audio;
        let ticks = if audio { 960 } else { 3_000 };
        let time = self.base_time.wrapping_add(self.number.wrapping_mul(ticks));
        let (number, codec) = (self.number, self.codec);
        let sent = context.clock.now();
        let mut extensions = ExtensionValues::default();
        if audio {
            extensions.audio_level = Some(-30);
            extensions.voice_activity = Some(true);
        }
        extensions.abs_capture_time =
            Some(AbsCaptureTime { capture_time: UNIX_EPOCH + sent, clock_offset: None });
        let kind = if audio { Payload::Audio } else { Payload::Video(codec) };
        let resend_for = RESEND_FOR + 2 * context.scenario.longest_delay();
        for encoding in self.encodings.iter_mut().filter(|it| !it.active && it.bounded) {
            encoding.bounded = false;
            if let Some(tx) = peer.rtc.direct_api().stream_tx_by_mid(mid, encoding.rid) {
                tx.set_rtx_cache(0, Duration::ZERO, None);
            }
        }
        for encoding in self.encodings.iter_mut().filter(|encoding| encoding.active) {
            let video = &CLIPS.of(codec)[usize::from(encoding.layer)];
            let clip = if audio { &CLIPS.audio } else { video };
            if std::mem::take(&mut encoding.wants_keyframe) {
                encoding.position = clip.next_keyframe(encoding.position);
            }
            let frame = clip.frame(encoding.position);
            encoding.position += 1;
            let stream = if audio { Stream::Audio } else { Stream::Video(encoding.layer) };
            let stamp = Stamp { run: context.run, publisher: client, stream, number, sent };
            let mut write = |payload: Arc<[u8]>, last: bool| {
                encoding.seq += 1;
                count(payload.len(), stream, context.recorder.borrow_mut().window());
                let patch = (kind == Payload::Video(VideoCodec::Vp8))
                    .then(|| picture_id(&payload, number))
                    .flatten();
                let (payload_type, seq) = (kind.payload_type().into(), encoding.seq.into());
                let mut rtp = RtpWrite::new(payload_type, seq, time, now, payload)
                    .marker(last && !audio)
                    .ext_vals(extensions.clone())
                    .nackable(!audio);
                if let Some(patch) = patch {
                    rtp = rtp.vp8_patch(patch);
                }
                if let Some(tx) = peer.rtc.direct_api().stream_tx_by_mid(mid, encoding.rid) {
                    if !std::mem::replace(&mut encoding.bounded, true) {
                        tx.set_rtx_cache(RESEND_PACKETS, resend_for, None);
                    }
                    tx.write_rtp(rtp);
                }
                peer.drive(now, |rtc, happened| incoming.handle(rtc, happened, now));
            };
            if audio {
                write(stamped_opus(frame.bytes, stamp).into(), true);
            } else {
                codec.packetize(frame, stamp, write);
            }
            if let Some(stats) = context.recorder.borrow_mut().window() {
                stats.count.frames_sent += 1;
            }
        }
    }
}

/// The picture id of a VP8 payload, which is the frame's number and the same in all layers.
fn picture_id(payload: &[u8], number: u32) -> Option<Vp8Patch> {
    let descriptor = Vp8Descriptor::parse(payload).ok()?;
    descriptor.patch().picture_id((number & 0x7fff) as u16).build().ok()
}

fn count(payload: usize, stream: Stream, stats: Option<&mut Stats>) {
    let Some(stats) = stats else { return };
    let bytes = payload as u64;
    stats.count.packets_sent += 1;
    stats.count.bytes_sent += bytes;
    match stream {
        Stream::Video(0) => stats.count.layer_low_bytes_sent += bytes,
        Stream::Video(1) => stats.count.layer_mid_bytes_sent += bytes,
        Stream::Video(_) => stats.count.layer_high_bytes_sent += bytes,
        Stream::Audio | Stream::Data { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::load;

    #[test]
    fn layers_nobody_wants_stop_and_come_back_with_a_keyframe() {
        let scenario = load("meeting", &[]).unwrap();
        let mut publisher = Publisher::new(1, &scenario);
        publisher.tracks[1].sid = "TR_1".to_owned();
        for encoding in &mut publisher.tracks[1].encodings {
            encoding.wants_keyframe = false;
        }
        let mut demand = |high: bool| {
            let quality = |quality: proto::VideoQuality, enabled| proto::SubscribedQuality {
                quality: quality.into(),
                enabled,
            };
            let qualities = vec![
                quality(proto::VideoQuality::Low, true),
                quality(proto::VideoQuality::High, high),
            ];
            let codec = proto::SubscribedCodec { codec: "VP8".to_owned(), qualities };
            publisher.handle_demand(&proto::SubscribedQualityUpdate {
                track_sid: "TR_1".to_owned(),
                subscribed_codecs: vec![codec],
                ..Default::default()
            });
            let encodings = &publisher.tracks[1].encodings;
            encodings.iter().map(|e| (e.active, e.wants_keyframe)).collect::<Vec<_>>()
        };
        assert_eq!(demand(false), [(true, false), (true, false), (false, false)]);
        assert_eq!(demand(true), [(true, false), (true, false), (true, true)]);
    }
}
