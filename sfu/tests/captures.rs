//! Streams of a real browser through selector, rewriters and egress into real decoders.

#[path = "captures/decode.rs"]
mod decode;
#[path = "captures/recorded.rs"]
mod recorded;
#[path = "captures/repair.rs"]
mod repair;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use chappe_sfu::{
    egress::{EgressConfig, EgressStream},
    forward::{Forwarder, Layers},
    ingress::{PublishedTrack, TrackSource},
    rtp::{
        Codec, CodecKind, CodecMap, Extension, ExtensionMap, MediaKind, Mid, Pt, RtpTs32, Seq16,
        SeqNo, Ssrc,
    },
    wire::{
        DependencyDescriptor, DependencyStructure, ExtensionValues, RtpHeaderFields, RtpPacket,
    },
};
use decode::{Picture, decode};
use recorded::{CAPTURES, Recorded, place};

fn read_all(mut bytes: &[u8]) -> Vec<Recorded> {
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<16>() {
        let payload_len = usize::from(u16::from_be_bytes([head[0], head[1]]));
        let (descriptor, rest) = rest.split_at(head[15].into());
        let (payload, rest) = rest.split_at(payload_len);
        all.push(Recorded {
            seq: u64::from_be_bytes(head[2..10].try_into().unwrap()),
            time: u32::from_be_bytes(head[10..14].try_into().unwrap()),
            marker: head[14] != 0,
            descriptor: descriptor.to_vec(),
            payload: payload.to_vec(),
        });
        bytes = rest;
    }
    all
}

/// Enough randomness for a network.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A packet as a subscriber got it.
struct Got {
    time: u32,
    marker: bool,
    descriptor: Vec<u8>,
    payload: Vec<u8>,
}

struct Replay {
    codecs: CodecMap,
    extensions: ExtensionMap,
    track: PublishedTrack,
    forwarder: Forwarder,
    egress: EgressStream,
    now: Instant,
    got: BTreeMap<u64, Got>,
}

impl Replay {
    fn new(kind: CodecKind) -> Self {
        #[allow(clippy::disallowed_methods)] // any instant will do
        let now = Instant::now();
        let mut extensions = ExtensionMap::default();
        extensions.set(Extension::DependencyDescriptor, 12);
        let config = EgressConfig {
            ssrc: Ssrc(9),
            rtx_ssrc: None,
            mid: Mid::new(b"0").unwrap(),
            extensions: extensions.clone(),
        };
        let codec = Codec {
            pt: Pt::new(98).unwrap(),
            rtx: None,
            kind,
            clock_rate: 90_000,
            channels: 0,
            profile: "".into(),
            red_block: None,
            nack: true,
            pli: true,
            fir: true,
            transport_cc: true,
            remb: false,
        };
        Self {
            codecs: CodecMap::new(vec![codec]),
            extensions,
            track: PublishedTrack::new(MediaKind::Video, TrackSource::Peer, 1),
            forwarder: Forwarder::new(MediaKind::Video, SeqNo(32_000)),
            egress: EgressStream::new(now, config, SeqNo(1)),
            now,
            got: BTreeMap::new(),
        }
    }

    fn take(&mut self, recorded: &Recorded) {
        let fields = RtpHeaderFields {
            marker: recorded.marker,
            pt: Pt::new(98).unwrap(),
            seq: Seq16(recorded.seq as u16),
            timestamp: RtpTs32(recorded.time),
            ssrc: Ssrc(1),
        };
        let values = ExtensionValues {
            dependency_descriptor: Some(&recorded.descriptor[..]).filter(|raw| !raw.is_empty()),
            ..ExtensionValues::default()
        };
        let mut bytes = [0; 2_000];
        let header = fields.write(&mut bytes, &values, &self.extensions).unwrap();
        let len = header.len + recorded.payload.len();
        bytes[header.len..len].copy_from_slice(&recorded.payload);
        let packet = RtpPacket::parse(&bytes[..len]).unwrap();
        let values = packet.extension_values(&self.extensions);
        let accepted = self.track.handle_rtp(self.now, 0, &packet, &values, &self.codecs).unwrap();
        if accepted.started {
            self.egress.set_codecs(self.track.formats(), &self.codecs);
            self.forwarder.set_live(self.track.live());
        }
        if self.forward(accepted.seq) {
            for seq in accepted.seq.0 + 1..=self.track.highest(0).unwrap().0 {
                self.forward(SeqNo(seq));
            }
        }
    }

    /// True when packets may have waited for this one.
    fn forward(&mut self, seq: SeqNo) -> bool {
        let Some(packet) = self.track.packet(0, seq) else { return false };
        let Some(rewritten) = self.forwarder.forward(packet.meta, &self.track.timing()) else {
            return false;
        };
        let mut out = [0; 2_000];
        let Ok(written) = self.egress.write(self.now, packet, &rewritten, &mut out) else {
            return false;
        };
        let read = RtpPacket::parse(&out[..written.len]).unwrap();
        let descriptor = read.extension_values(&self.extensions).dependency_descriptor;
        let got = Got {
            time: read.header.timestamp.0,
            marker: read.header.marker,
            descriptor: descriptor.unwrap_or_default().to_vec(),
            payload: read.payload.to_vec(),
        };
        self.got.insert(written.seq.0, got);
        rewritten.awaited
    }

    /// What a receiver would decode: whole frames of which all that they need was decoded too, by their descriptors.
    fn pictures(&self) -> Vec<Picture> {
        let mut structure: Option<DependencyStructure> = None;
        let mut decoded: BTreeSet<u16> = BTreeSet::new();
        let mut pictures: Vec<Picture> = Vec::new();
        let mut frame: Vec<(u64, &Got)> = Vec::new();
        for (seq, got) in &self.got {
            let mut read = match DependencyDescriptor::parse(&got.descriptor, structure.as_ref()) {
                Ok(read) => read,
                Err(_) => continue,
            };
            if let Some(new) = read.structure.take() {
                structure = Some(new);
            }
            if read.header.start_of_frame {
                frame.clear();
            }
            if frame.last().is_some_and(|(before, _)| before + 1 != *seq) {
                frame.clear();
                continue;
            }
            frame.push((*seq, got));
            let first = DependencyDescriptor::parse(&frame[0].1.descriptor, structure.as_ref());
            let begun = first.is_ok_and(|first| first.header.start_of_frame);
            if !read.header.end_of_frame || !begun {
                continue;
            }
            let number = read.header.frame_number;
            let needs = (0..64).filter(|n| read.frame_diffs.near & 1 << n != 0);
            let complete =
                needs.map(|n| number.wrapping_sub(n + 1)).all(|need| decoded.contains(&need));
            if !complete {
                continue;
            }
            decoded.insert(number);
            let payloads = frame.iter().map(|(_, got)| got.payload.clone()).collect();
            let size = structure.as_ref().unwrap().resolution(read.spatial).unwrap();
            match pictures.last_mut().filter(|picture| picture.time == got.time) {
                Some(picture) => {
                    picture.frames.push(payloads);
                    picture.size = size;
                }
                None => pictures.push(Picture { time: got.time, size, frames: vec![payloads] }),
            }
        }
        pictures
    }
}

fn load(codec: &str, mode: &str) -> (CodecKind, Vec<Recorded>) {
    let kind = if codec == "vp9" { CodecKind::Vp9 } else { CodecKind::Av1 };
    (kind, read_all(&std::fs::read(place(codec, mode)).unwrap()))
}

#[test]
fn each_target_layer_of_a_browsers_stream_decodes_in_its_size() {
    for (codec, mode) in CAPTURES {
        let (kind, recorded) = load(codec, mode);
        let sent: BTreeSet<u32> = recorded.iter().map(|packet| packet.time).collect();
        for (spatial, temporal) in [(0, 0), (0, 2), (1, 0), (1, 1), (2, 0), (2, 2)] {
            let name = format!("{codec} {mode}, target ({spatial}, {temporal})");
            let mut replay = Replay::new(kind);
            replay.forwarder.set_wanted(Some(Layers { spatial, temporal }));
            recorded.iter().for_each(|packet| replay.take(packet));
            let seqs: Vec<u64> = replay.got.keys().copied().collect();
            let (first, last) = (seqs[0], seqs[seqs.len() - 1]);
            assert_eq!(last - first + 1, seqs.len() as u64, "{name}: numbers closed up");
            let pictures = replay.pictures();
            let size = [(320, 180), (640, 360), (1_280, 720)][usize::from(spatial)];
            // Before a keyframe Chromium throws away what it has not sent yet: a frame may lack its end.
            let in_size = pictures.iter().filter(|picture| picture.size == size).count();
            assert!(in_size * 10 >= pictures.len() * 8, "{name}: {in_size} of {}", pictures.len());
            let markers = replay.got.values().filter(|got| got.marker).count();
            assert!((in_size..=pictures.len()).contains(&markers), "{name}: {markers} markers");
            // One, two and four of four.
            let share = sent.len() >> (2 - temporal);
            assert!(pictures.len().abs_diff(share) <= 6, "{name}: {} of {share}", pictures.len());
            decode(&name, kind, &pictures);
        }
    }
}

#[test]
fn switches_under_loss_and_reordering_decode_without_error() {
    for (codec, mode) in CAPTURES {
        let (kind, recorded) = load(codec, mode);
        for seed in 1..=6 {
            let mut dice = Dice(seed);
            let loss_percent = [0, 2, 8][seed as usize % 3];
            let repaired_percent = if seed % 2 == 0 { 100 } else { 50 };
            let mut flying: Vec<(u64, usize)> = Vec::new();
            for index in 0..recorded.len() {
                let mut delay = if dice.roll(8) == 0 { dice.roll(6) } else { 0 };
                if dice.roll(100) < loss_percent {
                    if dice.roll(100) >= repaired_percent {
                        continue;
                    }
                    delay = 10 + dice.roll(20);
                }
                flying.push((index as u64 + delay, index));
            }
            flying.sort_unstable();
            let name = format!("{codec} {mode}, seed {seed}");
            let mut replay = Replay::new(kind);
            for (at, (_, index)) in flying.into_iter().enumerate() {
                if at % 40 == 0 {
                    let wanted =
                        Layers { spatial: dice.roll(3) as u8, temporal: dice.roll(3) as u8 };
                    replay.forwarder.set_wanted(Some(wanted));
                }
                replay.take(&recorded[index]);
            }
            let pictures = replay.pictures();
            let sizes: BTreeSet<_> = pictures.iter().map(|picture| picture.size).collect();
            let switched = sizes.len() > 1 || (loss_percent > 0 && repaired_percent < 100);
            assert!(switched, "{name}: {sizes:?}");
            decode(&name, kind, &pictures);
        }
    }
}
