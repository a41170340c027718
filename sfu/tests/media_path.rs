//! A simulcast publisher, a lossy path, a track, a subscriber behind another lossy path: what the subscriber gets must
//! look like one sound stream, whatever was lost, reordered, switched, dropped by choice or paused. Virtual time, seeded.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chappe_sfu::{
    egress::{EgressConfig, EgressStream},
    forward::{Forwarder, Layers},
    ingress::{PublishedTrack, TrackSource},
    rtp::{
        Codec, CodecKind, CodecMap, ExtensionMap, MediaKind, Mid, PayloadMeaning, Pt, RtpTs32,
        Seq16, SeqNo, Ssrc,
    },
    wire::{
        ExtensionValues, RtpHeaderFields, RtpPacket,
        payload::Vp8Descriptor,
        rtcp::{CompoundWriter, Message, messages},
    },
};

const RTT: Duration = Duration::from_millis(40);
const TICK: Duration = Duration::from_millis(1);

/// Enough randomness for a network.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Datagrams on their way: lost, delayed, and so reordered.
struct Path<T> {
    loss_percent: u64,
    jitter_ms: u64,
    flying: BTreeMap<(Instant, u64), T>,
    count: u64,
}

impl<T> Path<T> {
    fn new(loss_percent: u64, jitter_ms: u64) -> Self {
        Self { loss_percent, jitter_ms, flying: BTreeMap::new(), count: 0 }
    }

    fn send(&mut self, now: Instant, dice: &mut Dice, datagram: T) {
        if dice.roll(100) >= self.loss_percent {
            // Most packets keep their order; one in eight is overtaken.
            let jitter = if dice.roll(8) == 0 { dice.roll(self.jitter_ms + 1) } else { 0 };
            self.count += 1;
            let due = now + RTT / 2 + TICK * jitter as u32;
            self.flying.insert((due, self.count), datagram);
        }
    }

    fn receive(&mut self, now: Instant) -> Option<T> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

fn codec(pt: u8, rtx: u8) -> Codec {
    Codec {
        pt: Pt::new(pt).unwrap(),
        rtx: Pt::new(rtx),
        kind: CodecKind::Vp8,
        clock_rate: 90_000,
        channels: 0,
        profile: "".into(),
        red_block: None,
        nack: true,
        pli: true,
        fir: true,
        transport_cc: true,
        remb: false,
    }
}

fn write(pt: u8, seq: u16, time: u32, ssrc: u32, marker: bool, payload: &[u8]) -> Vec<u8> {
    let fields = RtpHeaderFields {
        marker,
        pt: Pt::new(pt).unwrap(),
        seq: Seq16(seq),
        timestamp: RtpTs32(time),
        ssrc: Ssrc(ssrc),
    };
    let mut bytes = vec![0; 12];
    let _ = fields.write(&mut bytes, &ExtensionValues::default(), &ExtensionMap::default());
    bytes.extend_from_slice(payload);
    bytes
}

/// One encoding at the publisher: VP8 with three temporal layers, 30 frames per second.
struct Encoder {
    ssrc: u32,
    seq: u16,
    rtx_seq: u16,
    time: u32,
    picture_id: u16,
    tl0: u8,
    key_idx: u8,
    frame: u32,
    keyframe_wanted: bool,
    sent: BTreeMap<u16, (u32, Vec<u8>)>,
}

impl Encoder {
    fn new(index: u32, dice: &mut Dice) -> Self {
        Self {
            ssrc: 1_000 + index,
            seq: 65_000 + dice.roll(500) as u16,
            rtx_seq: dice.roll(60_000) as u16,
            time: u32::MAX - dice.roll(900_000) as u32,
            picture_id: 32_600 + dice.roll(100) as u16,
            tl0: dice.roll(256) as u8,
            key_idx: dice.roll(32) as u8,
            frame: 0,
            keyframe_wanted: true,
            sent: BTreeMap::new(),
        }
    }

    fn encode(&mut self, dice: &mut Dice) -> Vec<Vec<u8>> {
        let keyframe = std::mem::take(&mut self.keyframe_wanted);
        if keyframe {
            self.frame = 0;
            self.key_idx = (self.key_idx + 1) % 32;
        }
        let tid: u8 = [0, 2, 1, 2][self.frame as usize % 4];
        // The first frames of the upper layers after a frame of layer 0 refer to that one only.
        let sync = u8::from(self.frame % 4 == 1 || tid == 1);
        self.frame += 1;
        if tid == 0 {
            self.tl0 = self.tl0.wrapping_add(1);
        }
        self.picture_id = (self.picture_id + 1) % 0x8000;
        self.time = self.time.wrapping_add(3_000);
        let count = 1 + dice.roll(if keyframe { 6 } else { 3 });
        (0..count)
            .map(|part| {
                let [high, low] = (0x8000 | self.picture_id).to_be_bytes();
                let start = if part == 0 { 0x90 } else { 0x80 };
                let layers = tid << 6 | sync << 5 | self.key_idx;
                // The bitstream: frame tag, then what a decoder would want to check.
                let payload = [
                    start,
                    0xf0,
                    high,
                    low,
                    self.tl0,
                    layers,
                    u8::from(!keyframe),
                    part as u8,
                    count as u8,
                ];
                let packet = write(96, self.seq, self.time, self.ssrc, part + 1 == count, &payload);
                self.sent.insert(self.seq, (self.time, payload.to_vec()));
                self.seq = self.seq.wrapping_add(1);
                packet
            })
            .collect()
    }

    fn resend(&mut self, seq: u16) -> Option<Vec<u8>> {
        let (time, payload) = self.sent.get(&seq)?;
        let payload = [&seq.to_be_bytes()[..], payload].concat();
        self.rtx_seq = self.rtx_seq.wrapping_add(1);
        Some(write(97, self.rtx_seq, *time, self.ssrc + 500, false, &payload))
    }
}

/// What the subscriber has, by extended sequence number.
#[derive(Default)]
struct Subscriber {
    packets: BTreeMap<u64, Received>,
    asked: BTreeMap<u64, Instant>,
}

#[derive(Clone, PartialEq, Debug)]
struct Received {
    time: u32,
    vp8: Vp8Descriptor,
    keyframe: bool,
    part: u8,
    parts: u8,
}

impl Subscriber {
    fn handle(&mut self, bytes: &[u8]) {
        let packet = RtpPacket::parse(bytes).unwrap();
        let (seq, payload) = match packet.header.pt.value() {
            120 => (packet.header.seq, packet.payload),
            121 => {
                let (seq, payload) = packet.payload.split_first_chunk().unwrap();
                (Seq16(u16::from_be_bytes(*seq)), payload)
            }
            other => panic!("payload type {other}"),
        };
        let highest = self.packets.last_key_value().map_or(u64::from(seq.0), |(seq, _)| *seq);
        let delta = seq.0.wrapping_sub(highest as u16) as i16;
        let seq = highest.saturating_add_signed(delta.into());
        let vp8 = Vp8Descriptor::parse(payload).unwrap();
        let [tag, part, parts] = payload[vp8.len..] else { panic!("{payload:?}") };
        let time = packet.header.timestamp.0;
        let received = Received { time, vp8, keyframe: tag == 0, part, parts };
        if let Some(before) = self.packets.insert(seq, received.clone()) {
            assert_eq!(before, received, "two packets under number {seq}");
        }
    }

    fn missing(&mut self, now: Instant) -> Vec<Seq16> {
        let (Some((first, _)), Some((last, _))) =
            (self.packets.first_key_value(), self.packets.last_key_value())
        else {
            return Vec::new();
        };
        let mut lost = Vec::new();
        for seq in (*first).max(last.saturating_sub(200))..last.saturating_sub(3) {
            let asked = self.asked.get(&seq).is_some_and(|at| now < *at + RTT + TICK * 5);
            if !self.packets.contains_key(&seq) && !asked {
                self.asked.insert(seq, now);
                lost.push(Seq16(seq as u16));
            }
        }
        lost
    }

    /// Neighbours in number must be neighbours in everything else. Returns how many numbers are missing.
    fn check(&self, name: &str) -> u64 {
        for ((seq, a), (next, b)) in self.packets.iter().zip(self.packets.iter().skip(1)) {
            let at = format!("{name}: {seq} {a:?}, {next} {b:?}");
            let step = b.time.wrapping_sub(a.time) as i32;
            if next - seq > 1 {
                assert!(step >= 0, "{at}");
                continue;
            }
            let pictures =
                b.vp8.picture_id.unwrap().wrapping_sub(a.vp8.picture_id.unwrap()) & 0x7fff;
            let layer0 = b.vp8.tl0_pic_idx.unwrap().wrapping_sub(a.vp8.tl0_pic_idx.unwrap());
            let keys = b.vp8.key_idx.unwrap().wrapping_sub(a.vp8.key_idx.unwrap()) & 0x1f;
            // A switch may cut a frame of the encoding before it: nobody decodes that one, nobody waits for it.
            let cut = a.part + 1 < a.parts && b.keyframe && b.part == 0;
            if a.part + 1 < a.parts && !cut {
                assert_eq!((step, pictures, layer0, keys), (0, 0, 0, 0), "{at}");
                assert_eq!((b.part, b.parts), (a.part + 1, a.parts), "{at}");
            } else {
                assert!((1..=900_000).contains(&step), "{at}");
                assert_eq!((pictures, b.part), (1, 0), "{at}");
                assert_eq!(layer0, u8::from(b.vp8.tid == Some(0)), "{at}");
                assert_eq!(keys, u8::from(b.keyframe), "{at}");
            }
        }
        let (first, last) = (self.packets.first_key_value(), self.packets.last_key_value());
        let (Some((first, packet)), Some((last, _))) = (first, last) else {
            panic!("{name}: nothing")
        };
        assert!(packet.keyframe || packet.part > 0, "{name}: {packet:?}");
        last - first + 1 - self.packets.len() as u64
    }
}

struct Room {
    now: Instant,
    dice: Dice,
    codecs: CodecMap,
    encoders: Vec<Encoder>,
    uplink: Path<(u8, Vec<u8>)>,
    uplink_feedback: Path<Vec<u8>>,
    track: PublishedTrack,
    forwarder: Forwarder,
    egress: EgressStream,
    downlink: Path<Vec<u8>>,
    downlink_feedback: Path<Vec<Seq16>>,
    subscriber: Subscriber,
    /// Encodings that passed, without repetitions.
    passed: Vec<u8>,
}

impl Room {
    fn new(seed: u64, loss_percent: u64, jitter_ms: u64) -> Self {
        let mut dice = Dice(seed);
        #[allow(clippy::disallowed_methods)] // any instant will do
        let now = Instant::now();
        let config = EgressConfig {
            ssrc: Ssrc(7_000),
            rtx_ssrc: Some(Ssrc(7_001)),
            fec: None,
            mid: Mid::new(b"0").unwrap(),
            extensions: ExtensionMap::default(),
        };
        Self {
            now,
            encoders: (0..2).map(|index| Encoder::new(index, &mut dice)).collect(),
            dice,
            codecs: CodecMap::new(vec![codec(96, 97)]),
            uplink: Path::new(loss_percent, jitter_ms),
            uplink_feedback: Path::new(loss_percent, 0),
            track: PublishedTrack::new(MediaKind::Video, TrackSource::Peer, 2),
            forwarder: Forwarder::new(MediaKind::Video, SeqNo(32_700)),
            egress: EgressStream::new(now, config, SeqNo(5)),
            downlink: Path::new(loss_percent, jitter_ms),
            downlink_feedback: Path::new(loss_percent, 0),
            subscriber: Subscriber::default(),
            passed: Vec::new(),
        }
    }

    fn want(&mut self, wanted: Option<(u8, u8)>) {
        let wanted = wanted.map(|(spatial, temporal)| Layers { spatial, temporal });
        self.forwarder.set_wanted(wanted);
    }

    fn run(&mut self, seconds: u64) {
        for tick in 0..seconds * 1_000 {
            self.now += TICK;
            if tick % 33 == 0 {
                for (index, encoder) in self.encoders.iter_mut().enumerate() {
                    for packet in encoder.encode(&mut self.dice) {
                        self.uplink.send(self.now, &mut self.dice, (index as u8, packet));
                    }
                }
            }
            while let Some((encoding, bytes)) = self.uplink.receive(self.now) {
                self.take(encoding, &bytes);
            }
            self.ask_publisher();
            while let Some(lost) = self.downlink_feedback.receive(self.now) {
                self.egress.handle_nack(self.now, lost);
            }
            self.resend();
            while let Some(bytes) = self.downlink.receive(self.now) {
                self.subscriber.handle(&bytes);
            }
            if tick % 20 == 0 {
                let lost = self.subscriber.missing(self.now);
                self.downlink_feedback.send(self.now, &mut self.dice, lost);
            }
        }
    }

    fn take(&mut self, encoding: u8, bytes: &[u8]) {
        let packet = RtpPacket::parse(bytes).unwrap();
        let extensions = ExtensionValues::default();
        let rtx = matches!(self.codecs.meaning(packet.header.pt), Some(PayloadMeaning::Rtx(_)));
        let accepted = if rtx {
            self.track.handle_rtx(self.now, encoding, &packet, &extensions, &self.codecs)
        } else {
            self.track.handle_rtp(self.now, encoding, &packet, &extensions, &self.codecs)
        };
        let Ok(accepted) = accepted else { return };
        if accepted.started {
            self.egress.set_codecs(self.track.formats(), &CodecMap::new(vec![codec(120, 121)]));
        }
        self.forwarder.set_live(self.track.live());
        if self.forward(encoding, accepted.seq) {
            // Packets that overtook the one that opens the stream.
            let highest = self.track.highest(encoding).unwrap();
            for seq in accepted.seq.0 + 1..=highest.0 {
                self.forward(encoding, SeqNo(seq));
            }
        }
        if let Some(encoding) = self.forwarder.wants_keyframe() {
            self.track.request_keyframe(self.now, encoding);
        }
    }

    /// True when packets may have waited for this one.
    fn forward(&mut self, encoding: u8, seq: SeqNo) -> bool {
        let Some(packet) = self.track.packet(encoding, seq) else { return false };
        let Some(rewritten) = self.forwarder.forward(packet.meta, &self.track.timing()) else {
            return false;
        };
        let mut out = [0; 1_500];
        let Ok(written) = self.egress.write(self.now, packet, &rewritten, &mut out) else {
            return false;
        };
        self.passed.push(encoding);
        self.passed.dedup();
        self.downlink.send(self.now, &mut self.dice, out[..written.len].to_vec());
        rewritten.awaited
    }

    fn ask_publisher(&mut self) {
        if self.track.poll_timeout().is_some_and(|due| due <= self.now) {
            let mut buf = [0; 1_200];
            let mut writer = CompoundWriter::new(&mut buf);
            self.track.poll_feedback(self.now, RTT, Ssrc(1), &mut writer).unwrap();
            let len = writer.len();
            self.uplink_feedback.send(self.now, &mut self.dice, buf[..len].to_vec());
        }
        while let Some(bytes) = self.uplink_feedback.receive(self.now) {
            for message in messages(&bytes) {
                match message.unwrap() {
                    Message::Pli(pli) => {
                        self.encoders[(pli.media.0 - 1_000) as usize].keyframe_wanted = true;
                    }
                    Message::Nack(nack) => {
                        let index = (nack.media.0 - 1_000) as usize;
                        for seq in nack.lost() {
                            let packet = self.encoders[index].resend(seq.0).unwrap();
                            self.uplink.send(self.now, &mut self.dice, (index as u8, packet));
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn resend(&mut self) {
        while let Some(resend) = self.egress.poll_resend() {
            let Some(packet) = self.track.packet(resend.encoding, resend.ingress_seq) else {
                continue;
            };
            let mut out = [0; 1_500];
            let written = self.egress.write_resend(&resend, packet, &mut out).unwrap();
            self.downlink.send(self.now, &mut self.dice, out[..written.len].to_vec());
        }
    }
}

#[test]
fn a_subscriber_sees_one_sound_stream() {
    for seed in 1..=12 {
        for (loss_percent, jitter_ms) in [(0, 0), (0, 15), (5, 5)] {
            let name = format!("seed {seed}, loss {loss_percent} %, jitter {jitter_ms} ms");
            let mut room = Room::new(seed, loss_percent, jitter_ms);
            room.want(Some((0, u8::MAX)));
            room.run(2);
            for wanted in [Some((1, 9)), Some((0, 9)), None, Some((1, 9))] {
                room.want(wanted);
                room.run(3);
            }
            // Before them, the only one that was alive so far.
            assert!(room.passed.ends_with(&[0, 1, 0, 1]), "{name}: {:?}", room.passed);
            let missing = room.subscriber.check(&name);
            let total = room.subscriber.packets.len();
            assert!(total > 600, "{name}: {total} packets");
            // Unrepaired numbers are those of the last moment, and what was lost ten times over.
            assert!(missing <= 2 + loss_percent * 4, "{name}: {missing} of {total} missing");
        }
    }
}

#[test]
fn frames_dropped_by_choice_leave_no_trace() {
    for seed in 1..=12 {
        for (loss_percent, jitter_ms) in [(0, 0), (0, 15), (5, 5)] {
            let name = format!("seed {seed}, loss {loss_percent} %, jitter {jitter_ms} ms");
            let mut room = Room::new(seed, loss_percent, jitter_ms);
            room.want(Some((1, 2)));
            room.run(2);
            for temporal in [0, 1, 2, 0] {
                room.want(Some((1, temporal)));
                room.run(2);
            }
            let missing = room.subscriber.check(&name);
            let tail = room.subscriber.packets.values().rev().take(20);
            assert!(tail.into_iter().all(|packet| packet.vp8.tid == Some(0)), "{name}");
            // A frame that is recognised as unwanted only when it comes late keeps its numbers.
            let bound = if loss_percent + jitter_ms == 0 { 0 } else { 120 };
            assert!(missing <= bound, "{name}: {missing} missing");
        }
    }
}
