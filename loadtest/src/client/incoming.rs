//! What arrives at one client, stream by stream.

use std::{
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use str0m::{Event, Rtc, media::KeyframeRequestKind, rtp::RtpPacket};

use super::{
    Context,
    link::Arrival,
    peer::{Happened, Payload},
    receive::{Packet, Reception},
};
use crate::{
    measure::{Header, HeaderStream},
    media::{Stamp, Stream, VideoCodec, unix_now},
};

/// Hertz of RTP time.
const AUDIO_CLOCK: u32 = 48_000;
const VIDEO_CLOCK: u32 = 90_000;

#[derive(Debug)]
pub(crate) struct Incoming {
    context: Rc<Context>,
    /// When the client began to join.
    since: Instant,
    headers: HashMap<u32, HeaderStream>,
    receptions: HashMap<u32, Reception>,
    /// When the kernel had the last datagram.
    pub(crate) at: Duration,
    /// For the session: what is not media.
    pub(crate) events: Vec<Event>,
    got_packet: bool,
    got_frame: bool,
    window: u32,
    /// Whose large picture is awaited, and since when.
    pub(crate) awaited: Option<(u32, Instant)>,
}

impl Incoming {
    pub(crate) fn new(context: Rc<Context>, since: Instant) -> Self {
        let window = context.recorder.borrow().window;
        Self {
            context,
            since,
            headers: HashMap::new(),
            receptions: HashMap::new(),
            at: Duration::ZERO,
            events: Vec::new(),
            got_packet: false,
            got_frame: false,
            window,
            awaited: None,
        }
    }

    pub(crate) fn handle(&mut self, rtc: &mut Rtc, happened: Happened<'_>, now: Instant) {
        match happened {
            Happened::Arrived(arrival) => self.handle_arrival(arrival, now),
            Happened::Event(Event::RtpPacket(packet)) => self.handle_packet(rtc, &packet, now),
            Happened::Event(event) => self.events.push(event),
        }
    }

    fn handle_arrival(&mut self, arrival: Arrival<'_>, now: Instant) {
        self.at = arrival.at;
        let Some(header) = Header::parse(arrival.bytes) else { return };
        self.follow_window();
        let mut recorder = self.context.recorder.borrow_mut();
        if !self.got_packet {
            self.got_packet = true;
            recorder.stats.first_packet.record(now.saturating_duration_since(self.since));
        }
        let payload = Payload::of(header.payload_type);
        let repair = payload == Payload::Repair;
        if let Some(stats) = recorder.window() {
            let bytes = arrival.bytes.len() as u64;
            stats.count_arrival(arrival.bytes.len(), header, repair, arrival.late);
            let reception = self.receptions.get(&header.ssrc);
            match reception.map(|reception| (reception.is_video(), reception.layer())) {
                Some((false, _)) => stats.count.audio_bytes_received += bytes,
                Some((true, Some(0))) => stats.count.layer_low_bytes_received += bytes,
                Some((true, Some(1))) => stats.count.layer_mid_bytes_received += bytes,
                Some((true, Some(_))) => stats.count.layer_high_bytes_received += bytes,
                _ => {}
            }
        }
        if !repair {
            let clock = if payload == Payload::Audio { AUDIO_CLOCK } else { VIDEO_CLOCK };
            let stream = self.headers.entry(header.ssrc);
            stream.or_insert_with(|| HeaderStream::new(header, clock)).handle(header, arrival.at);
        }
    }

    fn handle_packet(&mut self, rtc: &mut Rtc, packet: &RtpPacket, now: Instant) {
        let payload = Payload::of(*packet.header.payload_type);
        let video = payload != Payload::Audio;
        let ssrc = *packet.header.ssrc;
        let reception = self.receptions.entry(ssrc).or_insert_with(|| Reception::new(video));
        let captured = packet.header.ext_vals.abs_capture_time;
        let captured = captured.and_then(|at| at.capture_time.duration_since(UNIX_EPOCH).ok());
        let stamp = Stamp::at_end_of(&packet.payload).filter(|stamp| stamp.run == self.context.run);
        let stamp = stamp.map(|stamp| self.context.received(stamp, captured));
        let mut recorder = self.context.recorder.borrow_mut();
        let arrived = Packet {
            seq: *packet.seq_no,
            marker: packet.header.marker,
            codec: if let Payload::Video(codec) = payload { codec } else { VideoCodec::Vp8 },
            payload: &packet.payload,
            stamp,
            now,
            at: self.at,
        };
        if let Some(seen) = reception.handle(arrived, &mut recorder) {
            if !self.got_frame && (video || !self.context.scenario.video) {
                self.got_frame = true;
                recorder.stats.first_frame.record(now.saturating_duration_since(self.since));
            }
            if let (Some((publisher, since)), Some(stamp)) = (self.awaited, seen.stamp)
                && publisher == stamp.publisher
                && stamp.stream == Stream::Video(2)
            {
                self.awaited = None;
                if let Some(stats) = recorder.window() {
                    stats.switch.record(now.saturating_duration_since(since));
                }
            }
        }
        if reception.wants_keyframe(now)
            && let Some(stream) = rtc.direct_api().stream_rx(&packet.header.ssrc)
        {
            stream.request_keyframe(KeyframeRequestKind::Pli);
            if let Some(stats) = recorder.window() {
                stats.count.keyframe_requests_sent += 1;
            }
        }
    }

    /// A publisher has left.
    pub(crate) fn rest(&mut self, publisher: u32) {
        for reception in self.receptions.values_mut() {
            reception.rest(publisher);
        }
    }

    /// Forgets what was counted for an older window.
    fn follow_window(&mut self) {
        let window = self.context.recorder.borrow().window;
        if window != self.window {
            self.window = window;
            let at = unix_now();
            self.headers.values_mut().for_each(HeaderStream::restart);
            self.receptions.values_mut().for_each(|reception| reception.restart(at));
        }
    }

    /// Counts what became certain; at the end of the window also what is still open.
    pub(crate) fn flush(&mut self, now: Instant, end: bool) {
        self.follow_window();
        let mut recorder = self.context.recorder.borrow_mut();
        for stream in self.headers.values_mut() {
            stream.flush(&mut recorder);
        }
        let at = unix_now();
        for reception in self.receptions.values_mut() {
            reception.flush(now, at, &mut recorder);
            if end {
                reception.finish(at, &mut recorder);
            }
        }
    }
}
