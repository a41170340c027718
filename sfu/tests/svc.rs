//! Spatial and temporal layers of one encoding, from the publisher's bytes to the subscriber's: whatever is lost, late,
//! wanted or left out, no frame passes without those that it needs, and what was left out by choice leaves no trace.

#[path = "svc/simulcast.rs"]
mod simulcast;
#[path = "svc/source.rs"]
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chappe_sfu::{
    cache::LadderStep,
    egress::{EgressConfig, EgressStream},
    forward::{Forwarder, Layers},
    ingress::{PublishedTrack, TrackSource},
    rtp::{
        Codec, CodecMap, Extension, ExtensionMap, FrameRate, MediaKind, Mid, Pt, RtpTs32, Seq16,
        SeqNo, Ssrc,
    },
    wire::{
        DependencyDescriptor, DependencyStructure, ExtensionValues, RtpHeaderFields, RtpPacket,
        payload::Vp9Descriptor,
    },
};
use source::{Carriage, Inter, Mode, Sent, Source};

/// Enough randomness for a network.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A path between publisher and node, in packets: nothing here depends on time.
#[derive(Clone, Copy)]
struct Network {
    loss_percent: u64,
    /// One packet in eight is overtaken by so many at most.
    reorder: u64,
    /// Of the lost, so many percent are repaired, 20 to 60 packets later.
    repaired_percent: u64,
}

const CALM: Network = Network { loss_percent: 0, reorder: 0, repaired_percent: 0 };

/// A packet as the subscriber got it.
#[derive(Clone, Debug)]
struct Got {
    /// At the publisher.
    seq: u64,
    frame: u64,
    marker: bool,
    time: u32,
    frame_number: Option<u16>,
    active: Option<u32>,
    /// VP9: picture id and distances to what it refers to.
    picture: Option<(u16, Vec<u8>)>,
}

struct Room {
    name: String,
    now: Instant,
    dice: Dice,
    network: Network,
    source: Source,
    codecs: CodecMap,
    extensions: ExtensionMap,
    track: PublishedTrack,
    forwarder: Forwarder,
    egress: EgressStream,
    structure: Option<DependencyStructure>,
    /// In the order in which they reach the node.
    flying: BTreeMap<(u64, u64), Sent>,
    clock: u64,
    key_in: Option<u32>,
    keyframes: u32,
    /// Everything that was sent, by number.
    sent: BTreeMap<u64, Sent>,
    /// That reached the node; true: after a later one.
    arrived: BTreeMap<u64, bool>,
    got: BTreeMap<u64, Got>,
    opened_at: Option<u64>,
}

fn codec(carriage: Carriage) -> Codec {
    Codec {
        pt: Pt::new(98).unwrap(),
        rtx: None,
        kind: carriage.codec(),
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

impl Room {
    fn new(mode: Mode, carriage: Carriage, seed: u64, network: Network) -> Self {
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
        Self {
            name: format!("{} by {carriage:?}, seed {seed}", mode.name),
            now,
            dice: Dice(seed),
            network,
            source: Source::new(mode, carriage),
            codecs: CodecMap::new(vec![codec(carriage)]),
            extensions,
            track: PublishedTrack::new(MediaKind::Video, TrackSource::Peer, 1),
            forwarder: Forwarder::new(MediaKind::Video, SeqNo(32_000)),
            egress: EgressStream::new(now, config, SeqNo(1)),
            structure: None,
            flying: BTreeMap::new(),
            clock: 0,
            key_in: None,
            keyframes: 0,
            sent: BTreeMap::new(),
            arrived: BTreeMap::new(),
            got: BTreeMap::new(),
            opened_at: None,
        }
    }

    fn want(&mut self, spatial: u8, temporal: u8) {
        self.forwarder.set_wanted(Some(Layers { spatial, temporal }));
    }

    fn run(&mut self, pictures: u64) {
        for _ in 0..pictures {
            self.now += Duration::from_millis(33);
            let key = match &mut self.key_in {
                Some(0) => self.key_in.take().is_some(),
                Some(left) => {
                    *left -= 1;
                    false
                }
                None => false,
            };
            self.keyframes += u32::from(key);
            for packet in self.source.picture(key, &mut self.dice) {
                self.send(packet);
            }
            while let Some(first) = self.flying.first_entry() {
                if first.key().0 > self.clock {
                    break;
                }
                let packet = first.remove();
                self.take(&packet);
            }
            if self.forwarder.wants_keyframe().is_some() && self.key_in.is_none() {
                self.key_in = Some(3);
            }
        }
    }

    fn send(&mut self, packet: Sent) {
        self.clock += 1;
        let Network { loss_percent, reorder, repaired_percent } = self.network;
        let mut delay = 0;
        if reorder > 0 && self.dice.roll(8) == 0 {
            delay = self.dice.roll(reorder + 1);
        }
        self.sent.insert(packet.seq, packet.clone());
        if self.dice.roll(100) < loss_percent {
            if self.dice.roll(100) >= repaired_percent {
                return;
            }
            delay = 20 + self.dice.roll(40);
        }
        self.flying.insert((self.clock + delay, packet.seq), packet);
    }

    fn take(&mut self, sent: &Sent) {
        let late = self.arrived.last_key_value().is_some_and(|(highest, _)| *highest > sent.seq);
        self.arrived.insert(sent.seq, late);
        let fields = RtpHeaderFields {
            marker: sent.marker,
            pt: Pt::new(98).unwrap(),
            seq: Seq16(sent.seq as u16),
            timestamp: RtpTs32(sent.time),
            ssrc: Ssrc(1),
        };
        let values = ExtensionValues {
            dependency_descriptor: Some(&sent.descriptor[..]).filter(|bytes| !bytes.is_empty()),
            ..ExtensionValues::default()
        };
        let mut bytes = [0; 1_500];
        let header = fields.write(&mut bytes, &values, &self.extensions).unwrap();
        let len = header.len + sent.payload.len();
        bytes[header.len..len].copy_from_slice(&sent.payload);
        let packet = RtpPacket::parse(&bytes[..len]).unwrap();
        let values = packet.extension_values(&self.extensions);
        let accepted = self.track.handle_rtp(self.now, 0, &packet, &values, &self.codecs).unwrap();
        if accepted.started {
            self.egress.set_codecs(self.track.formats(), &self.codecs);
            self.forwarder.set_live(self.track.live());
        }
        if self.forward(accepted.seq) {
            self.opened_at = Some(sent.seq);
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
        let mut out = [0; 1_500];
        let Ok(written) = self.egress.write(self.now, packet, &rewritten, &mut out) else {
            return false;
        };
        let read = RtpPacket::parse(&out[..written.len]).unwrap();
        let identity = read.payload.last_chunk::<8>().unwrap();
        let ingress = u64::from_be_bytes(*identity);
        let descriptor = read.extension_values(&self.extensions).dependency_descriptor;
        let descriptor = descriptor.map(|bytes| {
            let mut read = DependencyDescriptor::parse(bytes, self.structure.as_ref())
                .unwrap_or_else(|error| panic!("{}: {error}", self.name));
            if let Some(structure) = read.structure.take() {
                self.structure = Some(structure);
            }
            (read.header.frame_number, read.active_decode_targets)
        });
        let got = Got {
            seq: ingress,
            frame: self.sent[&ingress].frame,
            marker: read.header.marker,
            time: read.header.timestamp.0,
            frame_number: descriptor.map(|(number, _)| number),
            active: descriptor.and_then(|(_, active)| active),
            picture: matches!(self.source.carriage, Carriage::Vp9 | Carriage::Vp9Flexible).then(
                || {
                    let vp9 = Vp9Descriptor::parse(read.payload).unwrap();
                    assert_eq!(read.payload.len(), vp9.len + 8, "{}: its length holds", self.name);
                    (vp9.picture_id.unwrap(), vp9.picture_diffs.as_slice().to_vec())
                },
            ),
        };
        assert!(self.got.insert(written.seq.0, got).is_none(), "{}: number used twice", self.name);
        rewritten.awaited
    }

    fn forwarded(&self) -> BTreeSet<u64> {
        self.got.values().map(|got| got.seq).collect()
    }

    /// No frame passed of which a part, or a frame that it needs, was here and did not pass.
    fn check_dependencies(&self) {
        let forwarded = self.forwarded();
        let frames: BTreeSet<u64> = self.got.values().map(|got| got.frame).collect();
        for number in frames {
            let frame = self.source.frame(number);
            for needed in frame.needs.iter().chain([&number]) {
                for seq in &self.source.frame(*needed).packets {
                    assert!(
                        forwarded.contains(seq) || !self.arrived.contains_key(seq),
                        "{}: frame {number} ({}, {}) needs {needed}, whose packet {seq} was left out",
                        self.name,
                        frame.spatial,
                        frame.temporal,
                    );
                }
            }
        }
    }

    /// Between two packets that passed, numbers are missing for those only that were lost or came late.
    fn check_numbers(&self) {
        let packets: Vec<(&u64, &Got)> = self.got.iter().collect();
        for pair in packets.windows(2) {
            let ((out, before), (next_out, next)) = (pair[0], pair[1]);
            assert!(before.seq < next.seq, "{}: order kept", self.name);
            let missing = (before.seq + 1..next.seq)
                .filter(|seq| self.arrived.get(seq).is_none_or(|late| *late))
                .count() as u64;
            let gap = next_out - out - 1;
            let at = format!("{}: between {} and {}", self.name, before.seq, next.seq);
            if self.network.reorder == 0 && self.network.repaired_percent == 0 {
                assert_eq!(gap, missing, "{at}");
            }
            assert!(gap <= missing, "{at}: {gap} missing, of which lost or late {missing}");
            if let (Some(number), Some(next_number)) = (before.frame_number, next.frame_number) {
                let step = next_number.wrapping_sub(number);
                assert_eq!(u64::from(step), next.frame - before.frame, "{at}: frame numbers");
            }
        }
    }

    /// VP9 picture ids: what is left out by choice leaves no gap in flexible mode, and references by distance still mean
    /// the same pictures. Where distances say which place in its group a picture has, they stay.
    fn check_pictures(&self) {
        let flexible = self.source.carriage == Carriage::Vp9Flexible;
        let mut ids: BTreeMap<u64, u16> = BTreeMap::new();
        for got in self.got.values() {
            let Some((id, _)) = &got.picture else { return };
            let picture = self.source.frame(got.frame).picture;
            assert_eq!(ids.insert(picture, *id).unwrap_or(*id), *id, "{}: {picture}", self.name);
        }
        let distance = |from: u16, to: u16| u64::from(to.wrapping_sub(from) & 0x7fff);
        let given: Vec<_> = ids.iter().collect();
        for pair in given.windows(2) {
            let ((picture, id), (next, next_id)) = (pair[0], pair[1]);
            let step = distance(*id, *next_id);
            let arrived = |picture: &u64| {
                let frames = self.source.frames.iter().filter(|frame| frame.picture == *picture);
                frames.flat_map(|frame| &frame.packets).any(|seq| self.arrived.contains_key(seq))
            };
            let lost = (picture + 1..*next).filter(|picture| !arrived(picture)).count() as u64;
            let at = format!("{}: from picture {picture} to {next}", self.name);
            match flexible {
                // What lacks a lost picture is left out too, and waits for nobody.
                true => {
                    let least = 1 + if self.network.reorder == 0 { lost } else { 0 };
                    let Network { loss_percent, reorder, .. } = self.network;
                    let calm = loss_percent == 0 && reorder == 0;
                    let most = if calm { least } else { next - picture };
                    assert!((least..=most).contains(&step), "{at}: {step}");
                }
                false => assert_eq!(step, next - picture, "{at}"),
            }
        }
        for got in self.got.values().filter(|_| flexible) {
            let frame = self.source.frame(got.frame);
            let Some((id, diffs)) = &got.picture else { return };
            let older = frame.needs.iter().map(|need| self.source.frame(*need).picture);
            let older: Vec<u64> = older.filter(|picture| *picture < frame.picture).collect();
            assert_eq!(diffs.len(), older.len(), "{}", self.name);
            for (diff, picture) in diffs.iter().zip(&older) {
                let Some(referred) = ids.get(picture) else { continue };
                let at = format!("{}: frame {} needs picture {picture}", self.name, got.frame);
                assert_eq!(distance(*referred, *id), u64::from(*diff), "{at}");
            }
        }
    }

    /// Exactly the last packet of each picture has the marker, where all of the picture was there.
    fn check_markers(&self) {
        let mut pictures: BTreeMap<u64, Vec<&Got>> = BTreeMap::new();
        for got in self.got.values() {
            pictures.entry(self.source.frame(got.frame).picture).or_default().push(got);
        }
        let frames = &self.source.frames;
        let whole = |picture: u64| {
            let first = frames.partition_point(|frame| frame.picture < picture);
            frames[first..]
                .iter()
                .take_while(|frame| frame.picture == picture)
                .flat_map(|frame| &frame.packets)
                .all(|seq| self.arrived.get(seq) == Some(&false))
        };
        let last_sent = self.source.frames.last().unwrap().picture;
        for (picture, packets) in pictures {
            let (last, others) = packets.split_last().unwrap();
            assert!(others.iter().all(|got| got.time == last.time), "{}", self.name);
            // Whoever joins another of several independent layers gets two pictures of one time.
            let joins = self.source.mode.inter == Inter::Never && self.source.frame(last.frame).key;
            if picture == last_sent || !whole(picture) || joins {
                continue;
            }
            assert!(last.marker, "{}: picture {picture} without a marker", self.name);
            let early = others.iter().any(|got| got.marker);
            assert!(!early, "{}: picture {picture} goes on behind its marker", self.name);
        }
    }

    /// The latest pictures are those of a target, all of them and nothing else.
    fn check_target(&self, spatial: u8, temporal: u8) {
        let mode = self.source.mode;
        let target = (spatial.min(mode.spatial - 1), temporal.min(mode.temporal - 1));
        let forwarded: BTreeSet<u64> = self.got.values().map(|got| got.frame).collect();
        let last = self.source.frames.last().unwrap().picture;
        // A payload descriptor does not tell that lower layers are not needed.
        let nested = self.source.carriage != Carriage::Descriptor;
        for frame in self.source.frames.iter().rev().take_while(|f| f.picture + 8 > last) {
            let expected = match nested {
                true => frame.spatial <= target.0 && frame.temporal <= target.1,
                false => mode.includes(target, frame) || (frame.key && frame.spatial == 0),
            };
            let at = format!("{}, target {target:?}", self.name);
            let (number, layer) = (frame.number, (frame.spatial, frame.temporal));
            assert_eq!(forwarded.contains(&number), expected, "{at}: frame {number} of {layer:?}");
        }
    }
}

const MODES: [Mode; 9] = [
    Mode::L1T2,
    Mode::L1T3,
    Mode::L2T2,
    Mode::L3T1,
    Mode::L3T3,
    Mode::L2T2_KEY,
    Mode::L3T3_KEY,
    Mode::S2T1,
    Mode::S3T3,
];

/// What is proven of each way to carry layers.
fn cases() -> Vec<(Mode, Carriage)> {
    let mut cases: Vec<_> = MODES.map(|mode| (mode, Carriage::Descriptor)).into();
    for carriage in [Carriage::Vp9, Carriage::Vp9Flexible] {
        let modes = [Mode::L1T2, Mode::L1T3, Mode::L3T3, Mode::L3T3_KEY];
        cases.extend(modes.map(|mode| (mode, carriage)));
    }
    cases.extend([(Mode::L1T2, Carriage::Vp8), (Mode::L1T3, Carriage::Vp8)]);
    cases
}

#[test]
fn each_target_is_reached_and_left_on_a_calm_network() {
    for (mode, carriage) in cases() {
        let mut room = Room::new(mode, carriage, 1, CALM);
        let steps =
            [(2, 2), (0, 0), (2, 0), (1, 2), (0, 2), (2, 2), (0, 1), (1, 1), (2, 1), (0, 2)];
        for (spatial, temporal) in steps {
            room.want(spatial, temporal);
            room.run(60);
            room.check_target(spatial, temporal);
        }
        room.check_dependencies();
        room.check_numbers();
        room.check_pictures();
        room.check_markers();
    }
}

#[test]
fn no_broken_frame_whatever_is_lost_late_or_wanted() {
    for (mode, carriage) in cases() {
        for seed in 1..=16 {
            let mut dice = Dice(seed * 7_919);
            let network = Network {
                loss_percent: [0, 1, 5, 20][dice.roll(4) as usize],
                reorder: [0, 3, 12][dice.roll(3) as usize],
                repaired_percent: [0, 80, 100][dice.roll(3) as usize],
            };
            let mut room = Room::new(mode, carriage, seed, network);
            for _ in 0..12 {
                room.source.produces = [mode.spatial, mode.spatial, 1, 2][dice.roll(4) as usize];
                room.want(dice.roll(3) as u8, dice.roll(3) as u8);
                room.run(1 + dice.roll(40));
            }
            room.check_dependencies();
            room.check_numbers();
            room.check_pictures();
            room.check_markers();
        }
    }
}

#[test]
fn one_keyframe_per_switch_that_needs_one_and_none_for_the_others() {
    struct Case {
        name: &'static str,
        mode: Mode,
        from: (u8, u8),
        to: (u8, u8),
        keyframes: u32,
    }
    let cases = [
        Case { name: "temporal down", mode: Mode::L3T3, from: (2, 2), to: (2, 0), keyframes: 0 },
        Case { name: "temporal up", mode: Mode::L3T3, from: (2, 0), to: (2, 2), keyframes: 0 },
        Case { name: "spatial down", mode: Mode::L3T3, from: (2, 2), to: (0, 2), keyframes: 0 },
        Case { name: "spatial up", mode: Mode::L3T3, from: (0, 2), to: (2, 2), keyframes: 1 },
        Case { name: "KEY up", mode: Mode::L3T3_KEY, from: (0, 2), to: (1, 2), keyframes: 1 },
        Case { name: "KEY down", mode: Mode::L3T3_KEY, from: (2, 2), to: (1, 2), keyframes: 1 },
        Case { name: "KEY temporal", mode: Mode::L3T3_KEY, from: (1, 0), to: (1, 2), keyframes: 0 },
        Case { name: "S up", mode: Mode::S3T3, from: (0, 0), to: (2, 1), keyframes: 1 },
    ];
    for case in cases {
        let mut room = Room::new(case.mode, Carriage::Descriptor, 3, CALM);
        room.want(case.from.0, case.from.1);
        room.run(50);
        room.check_target(case.from.0, case.from.1);
        let before = room.keyframes;
        room.want(case.to.0, case.to.1);
        room.run(50);
        room.check_target(case.to.0, case.to.1);
        assert_eq!(room.keyframes - before, case.keyframes, "{}", case.name);
    }
}

#[test]
fn layers_that_the_sender_stops_are_not_waited_for_and_come_back() {
    for mode in [Mode::L3T3, Mode::L3T3_KEY, Mode::S3T3] {
        let mut room = Room::new(mode, Carriage::Descriptor, 4, CALM);
        room.source.produces = 2;
        room.want(2, 2);
        room.run(40);
        room.check_target(1, 2);
        for (produces, reached) in [(3, 2), (1, 0), (3, 2), (2, 1)] {
            room.source.produces = produces;
            room.key_in = Some(0);
            room.run(40);
            room.check_target(reached, 2);
            assert_eq!(room.forwarder.wants_keyframe(), None, "{}", room.name);
        }
        room.check_dependencies();
        room.check_numbers();
        room.check_pictures();
        room.check_markers();
    }
}

#[test]
fn decode_targets_that_are_left_are_told() {
    let mut room = Room::new(Mode::L2T2, Carriage::Descriptor, 5, CALM);
    let masks = |room: &Room, from: usize| -> Vec<u32> {
        let mut masks: Vec<u32> =
            room.got.values().skip(from).filter_map(|got| got.active).collect();
        masks.dedup();
        masks
    };
    // Decode targets: (0, 0), (0, 1), (1, 0), (1, 1).
    room.want(0, 1);
    room.run(30);
    assert_eq!(masks(&room, 0), [0b0011], "from the first packet on");
    let before = room.got.len();
    room.want(0, 0);
    room.run(30);
    assert_eq!(masks(&room, before), [0b0001]);
    let before = room.got.len();
    room.want(1, 1);
    room.run(30);
    assert_eq!(masks(&room, before), [0b1111 & 0b0011, 0b1111], "temporal first, then a keyframe");
}

#[test]
fn the_ladder_says_what_each_step_costs() {
    let mut room = Room::new(Mode::L3T3_KEY, Carriage::Descriptor, 5, CALM);
    room.want(2, 2);
    room.run(120);
    let mut steps: Vec<LadderStep> = Vec::new();
    room.track.ladder(room.now, &mut steps);
    let layers: Vec<(u8, u8)> =
        steps.iter().map(|s| (s.layers.spatial, s.layers.temporal)).collect();
    let expected = (0..3).flat_map(|s| (0..3).map(move |t| (s, t))).collect::<Vec<_>>();
    assert_eq!(layers, expected);
    for rung in steps.chunks(3) {
        let rates: Vec<f64> = rung.iter().map(|step| step.bitrate.bps() as f64).collect();
        // One, two and four pictures of four.
        assert!((rates[0] / rates[2] - 0.25).abs() < 0.15, "{rates:?}");
        assert!((rates[1] / rates[2] - 0.5).abs() < 0.15, "{rates:?}");
        // Thirty pictures a second, 33 ms apart.
        let wanted = [8, 16, 31].map(FrameRate::from_fps);
        for (step, wanted) in rung.iter().zip(wanted) {
            let near = wanted.percent(85)..=wanted.percent(115);
            assert!(near.contains(&step.frame_rate), "{step:?}");
        }
    }
}
