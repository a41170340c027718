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
        DependencyDescriptor, DependencyHeader, DependencyStructure, ExtensionValues, Indication,
        RtpHeaderFields, RtpPacket,
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
    /// Number of its frame at the publisher.
    frame: u16,
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
            fec: None,
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
        let frame = DependencyHeader::parse(packet.dependency_descriptor);
        let read = RtpPacket::parse(&out[..written.len]).unwrap();
        let descriptor = read.extension_values(&self.extensions).dependency_descriptor;
        let got = Got {
            frame: frame.unwrap().frame_number,
            time: read.header.timestamp.0,
            marker: read.header.marker,
            descriptor: descriptor.unwrap_or_default().to_vec(),
            payload: read.payload.to_vec(),
        };
        self.got.insert(written.seq.0, got);
        rewritten.awaited
    }

    /// What a receiver decodes: whole frames of which all that they need was decoded too, by their descriptors.
    fn received(&self) -> Received {
        let mut received = Received::default();
        let mut structure: Option<DependencyStructure> = None;
        let mut decoded: BTreeSet<u16> = BTreeSet::new();
        let mut frame: Vec<(u64, &Got)> = Vec::new();
        for (seq, got) in &self.got {
            let mut read = match DependencyDescriptor::parse(&got.descriptor, structure.as_ref()) {
                Ok(read) => read,
                Err(_) => continue,
            };
            received.got.insert(got.frame);
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
            received.decoded.insert(got.frame);
            let payloads = frame.iter().map(|(_, got)| got.payload.clone()).collect();
            let size = structure.as_ref().unwrap().resolution(read.spatial).unwrap();
            match received.pictures.last_mut().filter(|picture| picture.time == got.time) {
                Some(picture) => {
                    picture.frames.push(payloads);
                    picture.size = size;
                }
                None => {
                    let frames = vec![payloads];
                    received.pictures.push(Picture { time: got.time, size, frames });
                }
            }
        }
        received
    }
}

/// What a receiver makes of a replay. Frames by their numbers in the capture.
#[derive(Default)]
struct Received {
    pictures: Vec<Picture>,
    got: BTreeSet<u16>,
    decoded: BTreeSet<u16>,
}

/// What happens to packets on their way to the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Network {
    Calm,
    /// One in eight is overtaken, one in twelve lost and repaired 10 to 30 packets later.
    Repaired,
    /// One in eight is overtaken, one in fifty never comes.
    Lost,
}

impl Network {
    const ALL: [Self; 3] = [Self::Calm, Self::Repaired, Self::Lost];

    /// The packets in the order in which they come.
    fn carry(self, count: usize, dice: &mut Dice) -> Vec<usize> {
        let mut flying: Vec<(u64, usize)> = Vec::new();
        for index in 0..count {
            let mut delay = 0;
            if self != Self::Calm && dice.roll(8) == 0 {
                delay = dice.roll(6);
            }
            match self {
                Self::Repaired if dice.roll(12) == 0 => delay = 10 + dice.roll(20),
                Self::Lost if dice.roll(50) == 0 => continue,
                _ => {}
            }
            flying.push((index as u64 + delay, index));
        }
        flying.sort_unstable();
        flying.into_iter().map(|(_, index)| index).collect()
    }
}

/// A frame of a capture.
struct Frame {
    /// Spatial and temporal layers of the targets that it belongs to.
    targets: Vec<(u8, u8)>,
    /// All of it came, and all of what it needs.
    whole: bool,
}

/// The frames of a capture by their numbers, where only the packets in `came` reach the node.
fn frames_of(recorded: &[Recorded], came: &BTreeSet<usize>) -> BTreeMap<u16, Frame> {
    let mut frames: BTreeMap<u16, Frame> = BTreeMap::new();
    let mut structure: Option<DependencyStructure> = None;
    // Whether all packets of the frame came so far.
    let mut begun = false;
    for (index, packet) in recorded.iter().enumerate() {
        // Padding has none.
        if packet.descriptor.is_empty() {
            continue;
        }
        let mut read = DependencyDescriptor::parse(&packet.descriptor, structure.as_ref()).unwrap();
        if let Some(new) = read.structure.take() {
            structure = Some(new);
        }
        let structure = structure.as_ref().unwrap();
        begun = (begun || read.header.start_of_frame) && came.contains(&index);
        let number = read.header.frame_number;
        let needs = (0..64).filter(|n| read.frame_diffs.near & 1 << n != 0);
        let fed = needs.map(|n| number.wrapping_sub(n + 1)).all(|need| frames[&need].whole);
        let targets = (0..structure.decode_targets())
            .filter(|target| read.indications.of(*target) != Indication::NotPresent)
            .map(|target| structure.layers_of(target))
            .collect();
        // Chromium throws away what it has not sent yet before a keyframe: a frame may lack its end.
        let whole = begun && fed && read.header.end_of_frame;
        frames.insert(number, Frame { targets, whole });
        begun &= !read.header.end_of_frame;
    }
    frames
}

const SIZES: [(u16, u16); 3] = [(320, 180), (640, 360), (1_280, 720)];

fn load(codec: &str, mode: &str) -> (CodecKind, Vec<Recorded>) {
    let kind = if codec == "vp9" { CodecKind::Vp9 } else { CodecKind::Av1 };
    (kind, read_all(&std::fs::read(place(codec, mode)).unwrap()))
}

#[test]
fn each_target_layer_of_a_browsers_stream_decodes_in_its_size_through_loss_and_reordering() {
    for (codec, mode) in CAPTURES {
        let (kind, recorded) = load(codec, mode);
        let sent: BTreeSet<u32> = recorded.iter().map(|packet| packet.time).collect();
        for (spatial, temporal) in (0..3).flat_map(|s| (0..3).map(move |t| (s, t))) {
            let mut pictures = Vec::new();
            for network in Network::ALL {
                let name = format!("{codec} {mode}, target ({spatial}, {temporal}), {network:?}");
                let mut dice = Dice(1 + u64::from(3 * spatial + temporal));
                let order = network.carry(recorded.len(), &mut dice);
                let came = order.iter().copied().collect();
                let mut replay = Replay::new(kind);
                replay.forwarder.set_wanted(Some(Layers { spatial, temporal }));
                order.into_iter().for_each(|index| replay.take(&recorded[index]));
                let received = replay.received();

                // Whatever can be decoded of the target is.
                check_use(&name, &recorded, &came, &received);
                let due: BTreeSet<u16> = frames_of(&recorded, &came)
                    .into_iter()
                    .filter(|(_, frame)| {
                        frame.whole && frame.targets.contains(&(spatial, temporal))
                    })
                    .map(|(number, _)| number)
                    .collect();
                let missing: Vec<_> = due.difference(&received.decoded).collect();
                assert!(missing.is_empty(), "{name}: {missing:?} of {}", due.len());

                let (count, share) = (received.pictures.len(), sent.len() >> (2 - temporal));
                if network == Network::Lost {
                    assert!(count * 3 >= share, "{name}: {count} of {share} are left");
                } else {
                    check_undisturbed(
                        &name,
                        network,
                        &replay,
                        &received,
                        SIZES[usize::from(spatial)],
                    );
                    // One, two and four of four.
                    assert!(count.abs_diff(share) <= 6, "{name}: {count} of {share}");
                }
                pictures.extend(received.pictures);
            }
            let name = format!("{codec} {mode}, target ({spatial}, {temporal})");
            decode(&name, kind, &pictures);
        }
    }
}

/// Nothing is missing for good.
fn check_undisturbed(
    name: &str,
    network: Network,
    replay: &Replay,
    received: &Received,
    size: (u16, u16),
) {
    let seqs: Vec<u64> = replay.got.keys().copied().collect();
    if network == Network::Calm {
        let (first, last) = (seqs[0], seqs[seqs.len() - 1]);
        assert_eq!(last - first + 1, seqs.len() as u64, "{name}: numbers closed up");
    }
    let pictures = &received.pictures;
    // Before a keyframe Chromium throws away what it has not sent yet: a frame may lack its end.
    let in_size = pictures.iter().filter(|picture| picture.size == size).count();
    assert!(in_size * 10 >= pictures.len() * 8, "{name}: {in_size} of {}", pictures.len());
    let markers = replay.got.values().filter(|got| got.marker).count();
    assert!((in_size..=pictures.len()).contains(&markers), "{name}: {markers} markers");
}

#[test]
fn each_switch_between_spatial_layers_of_a_browsers_stream_decodes() {
    for (codec, mode) in CAPTURES {
        let (kind, recorded) = load(codec, mode);
        let sent: BTreeSet<u32> = recorded.iter().map(|packet| packet.time).collect();
        let pairs = (0..3).flat_map(|from| (0..3).map(move |to| (from, to)));
        let mut all = Vec::new();
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            for network in Network::ALL {
                let name = format!("{codec} {mode}, from {from} to {to}, {network:?}");
                let mut dice = Dice(1 + u64::from(3 * from + to));
                let order = network.carry(recorded.len(), &mut dice);
                let came = order.iter().copied().collect();
                let mut replay = Replay::new(kind);
                replay.forwarder.set_wanted(Some(Layers { spatial: from, temporal: 2 }));
                for (at, index) in order.into_iter().enumerate() {
                    // In the middle of the pictures between the first two of three or four keyframes.
                    if at == recorded.len() / 5 {
                        replay.forwarder.set_wanted(Some(Layers { spatial: to, temporal: 2 }));
                    }
                    replay.take(&recorded[index]);
                }
                let received = replay.received();
                check_use(&name, &recorded, &came, &received);
                let pictures = received.pictures;
                let is = |layer: u8, picture: &&Picture| picture.size == SIZES[usize::from(layer)];
                let count = pictures.len();
                if network == Network::Lost {
                    assert!(count * 3 >= sent.len(), "{name}: {count} of {} are left", sent.len());
                } else {
                    // One of the pictures before a keyframe may lack its upper end.
                    let before = pictures.iter().take_while(|picture| !is(to, picture)).count();
                    let back =
                        pictures[before..].iter().filter(|picture| is(from, picture)).count();
                    let behind = pictures.iter().filter(|picture| is(to, picture)).count();
                    let of =
                        format!("{before}, {behind} and {back} of {count}, sent {}", sent.len());
                    assert!(count * 10 >= sent.len() * 9, "{name}: {of}");
                    assert!(before >= 4 && behind * 2 >= sent.len() && back <= 1, "{name}: {of}");
                }
                all.extend(pictures);
            }
        }
        decode(&format!("{codec} {mode}, switches"), kind, &all);
    }
}

#[test]
fn switches_at_any_moment_decode_without_error() {
    for (codec, mode) in CAPTURES {
        let (kind, recorded) = load(codec, mode);
        let sent: BTreeSet<u32> = recorded.iter().map(|packet| packet.time).collect();
        let mut pictures = Vec::new();
        for seed in 1..=6 {
            let mut dice = Dice(seed);
            let network = Network::ALL[seed as usize % 3];
            let order = network.carry(recorded.len(), &mut dice);
            let came = order.iter().copied().collect();
            let mut replay = Replay::new(kind);
            for (at, index) in order.into_iter().enumerate() {
                if at % 40 == 0 {
                    let wanted =
                        Layers { spatial: dice.roll(3) as u8, temporal: dice.roll(3) as u8 };
                    replay.forwarder.set_wanted(Some(wanted));
                }
                replay.take(&recorded[index]);
            }
            let name = format!("{codec} {mode}, seed {seed}, {network:?}");
            let received = replay.received();
            check_use(&name, &recorded, &came, &received);
            // A quarter has the lowest temporal layer alone.
            let count = received.pictures.len();
            assert!(count * 4 >= sent.len(), "{name}: {count} of {}", sent.len());
            pictures.extend(received.pictures);
        }
        let sizes: BTreeSet<_> = pictures.iter().map(|picture| picture.size).collect();
        assert_eq!(sizes.len(), SIZES.len(), "{codec} {mode}: {sizes:?}");
        decode(&format!("{codec} {mode}, any switches"), kind, &pictures);
    }
}

/// Of what came, all that could be decoded was: nothing passed for which something else was left out by choice.
fn check_use(name: &str, recorded: &[Recorded], came: &BTreeSet<usize>, received: &Received) {
    for (number, frame) in frames_of(recorded, came) {
        let useless = received.got.contains(&number) && !received.decoded.contains(&number);
        assert!(!useless || !frame.whole, "{name}: frame {number} is of no use");
    }
}
