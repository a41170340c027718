//! What a sink counts from the headers of its packets, and from the few that it decrypts.

use std::{rc::Rc, time::Duration};

use super::{
    feedback::{self, Arrivals},
    path::Keys,
};
use crate::{
    client::{Context, link::Arrival, peer::Payload},
    measure::{Header, HeaderStream, Recorder},
    media::{Stamp, Stream},
};

/// Of packets that end a frame (or are sound) one in so many is decrypted. A prime: sound
/// and pictures alternate in a short pattern, of which 16 would always meet the same place.
const SAMPLE: u32 = 17;
/// Hertz of RTP time.
const AUDIO_CLOCK: u32 = 48_000;
const VIDEO_CLOCK: u32 = 90_000;

#[derive(Debug)]
struct Received {
    ssrc: u32,
    headers: HeaderStream,
    audio: bool,
    layer: u8,
}

#[derive(Debug)]
pub(super) struct Tally {
    context: Rc<Context>,
    /// SSRC of its reports.
    own: u32,
    /// When the client began to join, since the Unix epoch: the clock of the arrivals.
    since: Duration,
    /// A handful: looked through from the front.
    streams: Vec<Received>,
    arrivals: Arrivals,
    got_packet: bool,
    /// Packets that could have been decrypted.
    candidates: u32,
    window: u32,
}

impl Tally {
    /// `since` is when the client began to join, since the Unix epoch.
    pub(super) fn new(context: Rc<Context>, own: u32, since: Duration) -> Self {
        let window = context.recorder.borrow().window;
        Self {
            context,
            own,
            since,
            streams: Vec::new(),
            arrivals: Arrivals::default(),
            got_packet: false,
            candidates: 0,
            window,
        }
    }

    pub(super) fn handle(
        &mut self,
        keys: Option<&mut Keys>,
        arrival: &Arrival<'_>,
        header: Header,
    ) {
        self.arrivals.handle(arrival);
        self.count(arrival, header);
        let marker = arrival.bytes[1] & 0x80 != 0;
        let payload = Payload::of(header.payload_type);
        if payload == Payload::Audio || (marker && payload != Payload::Repair) {
            self.candidates += 1;
            if self.candidates.is_multiple_of(SAMPLE)
                && let Some(stamp) = keys.and_then(|keys| keys.stamp(arrival.bytes))
            {
                self.sample(arrival, header, stamp);
            }
        }
    }

    fn count(&mut self, arrival: &Arrival<'_>, header: Header) {
        let payload = Payload::of(header.payload_type);
        let repair = payload == Payload::Repair;
        let bytes = arrival.bytes.len() as u64;
        let mut recorder = self.context.recorder.borrow_mut();
        follow(&mut self.window, &mut self.streams, &recorder);
        if !self.got_packet {
            self.got_packet = true;
            recorder.stats.first_packet.record(arrival.at.saturating_sub(self.since));
        }
        if let Some(stats) = recorder.window() {
            stats.count_arrival(arrival.bytes.len(), header, repair, arrival.late);
        }
        if repair {
            return;
        }
        let audio = payload == Payload::Audio;
        let known = self.streams.iter().position(|stream| stream.ssrc == header.ssrc);
        let place = known.unwrap_or_else(|| {
            let headers = HeaderStream::new(header, if audio { AUDIO_CLOCK } else { VIDEO_CLOCK });
            self.streams.push(Received { ssrc: header.ssrc, headers, audio, layer: 2 });
            self.streams.len() - 1
        });
        let stream = &mut self.streams[place];
        stream.headers.handle(header, arrival.at);
        if let Some(stats) = recorder.window() {
            match (stream.audio, stream.layer) {
                (true, _) => stats.count.audio_bytes_received += bytes,
                (false, 0) => stats.count.layer_low_bytes_received += bytes,
                (false, 1) => stats.count.layer_mid_bytes_received += bytes,
                (false, _) => stats.count.layer_high_bytes_received += bytes,
            }
        }
    }

    /// A packet that was decrypted.
    fn sample(&mut self, arrival: &Arrival<'_>, header: Header, stamp: Stamp) {
        if stamp.run != self.context.run {
            return;
        }
        let stamp = self.context.received(stamp, feedback::capture_time(arrival.bytes));
        let taken = arrival.at.saturating_sub(stamp.sent);
        let mut recorder = self.context.recorder.borrow_mut();
        if let Some(stats) = recorder.window() {
            stats.count.sink_packets_decrypted += 1;
            match stamp.stream {
                Stream::Audio => stats.latency_audio.record(taken),
                Stream::Video(_) => stats.latency_video.record(taken),
                Stream::Data { .. } => {}
            }
        }
        let mut streams = self.streams.iter_mut();
        if let (Stream::Video(layer), Some(stream)) =
            (stamp.stream, streams.find(|stream| stream.ssrc == header.ssrc))
        {
            let switched = std::mem::replace(&mut stream.layer, layer) != layer;
            if let Some(stats) = recorder.window() {
                stats.count.layer_switches += u64::from(switched);
            }
        }
    }

    /// Appends RTCP to send: what arrived when, and what was lost if that is asked for.
    pub(super) fn feedback(&mut self, with_report: bool, compound: &mut Vec<u8>) {
        if with_report {
            let streams = self.streams.iter_mut();
            let reports: Vec<_> =
                streams.map(|stream| (stream.ssrc, stream.headers.report())).collect();
            feedback::receiver_report(self.own, &reports, compound);
        }
        let media = self.streams.first().map_or(0, |stream| stream.ssrc);
        self.arrivals.feedback(self.own, media, compound);
    }

    /// Moves what became certain to the window. `impaired` datagrams were lost by the scenario's network.
    pub(super) fn flush(&mut self, impaired: u64) {
        let mut recorder = self.context.recorder.borrow_mut();
        follow(&mut self.window, &mut self.streams, &recorder);
        for stream in &mut self.streams {
            let lost = recorder.window().map(|stats| stats.count.lost_before_repair);
            stream.headers.flush(&mut recorder);
            // A sink repairs nothing: what was lost stays lost.
            if let (Some(before), Some(stats)) = (lost, recorder.window()) {
                stats.count.lost_after_repair += stats.count.lost_before_repair - before;
            }
        }
        if let Some(stats) = recorder.window() {
            stats.count.datagrams_impaired += impaired;
        }
    }
}

/// Forgets what was counted for an older window.
fn follow(window: &mut u32, streams: &mut [Received], recorder: &Recorder) {
    if *window != recorder.window {
        *window = recorder.window;
        streams.iter_mut().for_each(|stream| stream.headers.restart());
    }
}
