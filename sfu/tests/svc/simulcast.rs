//! Simulcast encodings in each format, from the publisher's bytes to the subscriber's: a switch begins with a keyframe, leaves
//! no gap, and what comes out can be decoded.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chappe_sfu::{
    egress::{EgressConfig, EgressStream},
    forward::{Forwarder, Layers},
    ingress::{PublishedTrack, TrackSource},
    rtp::{CodecMap, Extension, ExtensionMap, MediaKind, Mid, Pt, RtpTs32, Seq16, SeqNo, Ssrc},
    wire::{
        DependencyDescriptor, DependencyStructure, ExtensionValues, RtpHeaderFields, RtpPacket,
        payload::{Vp8Descriptor, Vp9Descriptor, describe},
    },
};

use super::{
    CALM, Dice, Network, codec,
    source::{Carriage, Mode, Sent, Source},
};

const ENCODINGS: usize = 3;

/// A packet as the subscriber got it.
struct Got {
    encoding: usize,
    /// At the publisher.
    seq: u64,
    frame: u64,
    time: u32,
    /// The payload says that a keyframe begins; `None` where it cannot be read.
    begins: Option<bool>,
    /// The dependency descriptor's number.
    frame_number: Option<u16>,
    /// VP8 and VP9.
    picture_id: Option<u16>,
    /// How many packets had reached the node.
    at: usize,
}

struct Room {
    name: String,
    now: Instant,
    dice: Dice,
    network: Network,
    sources: [Source; ENCODINGS],
    codecs: CodecMap,
    extensions: ExtensionMap,
    track: PublishedTrack,
    forwarder: Forwarder,
    egress: EgressStream,
    structure: Option<DependencyStructure>,
    flying: BTreeMap<(u64, usize, u64), Sent>,
    clock: u64,
    /// Pictures until the encoder makes the keyframe that it was asked for.
    key_in: [Option<u32>; ENCODINGS],
    keyframes: u32,
    sent: BTreeMap<(usize, u64), Sent>,
    /// Which reached the node, and as the how manyth.
    arrived: BTreeMap<(usize, u64), usize>,
    got: BTreeMap<u64, Got>,
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
            name: format!("simulcast of {} by {carriage:?}, seed {seed}", mode.name),
            now,
            dice: Dice(seed),
            network,
            sources: [0, 1, 2].map(|index| Source::encoding(mode, carriage, index)),
            codecs: CodecMap::new(vec![codec(carriage)]),
            extensions,
            track: PublishedTrack::new(MediaKind::Video, TrackSource::Peer, ENCODINGS),
            forwarder: Forwarder::new(MediaKind::Video, SeqNo(32_000)),
            egress: EgressStream::new(now, config, SeqNo(1)),
            structure: None,
            flying: BTreeMap::new(),
            clock: 0,
            key_in: [None; ENCODINGS],
            keyframes: 0,
            sent: BTreeMap::new(),
            arrived: BTreeMap::new(),
            got: BTreeMap::new(),
        }
    }

    fn want(&mut self, encoding: u8) {
        self.forwarder.set_wanted(Some(Layers { spatial: encoding, temporal: 2 }));
    }

    /// So many pictures of all encodings.
    fn run(&mut self, pictures: u64) {
        for _ in 0..pictures {
            self.now += Duration::from_millis(33);
            for encoding in 0..ENCODINGS {
                let key = self.key_in[encoding] == Some(0);
                self.key_in[encoding] = self.key_in[encoding].and_then(|left| left.checked_sub(1));
                self.keyframes += u32::from(key);
                for packet in self.sources[encoding].picture(key, &mut self.dice) {
                    self.send(encoding, packet);
                }
            }
            while let Some(first) = self.flying.first_entry() {
                if first.key().0 > self.clock {
                    break;
                }
                let ((_, encoding, _), packet) = first.remove_entry();
                self.take(encoding, &packet);
            }
            if let Some(wanted) = self.forwarder.wants_keyframe() {
                self.key_in[usize::from(wanted)].get_or_insert(3);
            }
        }
    }

    fn send(&mut self, encoding: usize, packet: Sent) {
        self.clock += 1;
        let Network { loss_percent, reorder, repaired_percent } = self.network;
        let mut delay = 0;
        if reorder > 0 && self.dice.roll(8) == 0 {
            delay = self.dice.roll(reorder + 1);
        }
        self.sent.insert((encoding, packet.seq), packet.clone());
        if self.dice.roll(100) < loss_percent {
            if self.dice.roll(100) >= repaired_percent {
                return;
            }
            delay = 20 + self.dice.roll(40);
        }
        self.flying.insert((self.clock + delay, encoding, packet.seq), packet);
    }

    fn take(&mut self, encoding: usize, sent: &Sent) {
        self.arrived.insert((encoding, sent.seq), self.arrived.len());
        let fields = RtpHeaderFields {
            marker: sent.marker,
            pt: Pt::new(98).unwrap(),
            seq: Seq16(sent.seq as u16),
            timestamp: RtpTs32(sent.time),
            ssrc: Ssrc(1 + encoding as u32),
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
        let accepted = self
            .track
            .handle_rtp(self.now, encoding as u8, &packet, &values, &self.codecs)
            .unwrap();
        if accepted.started {
            self.egress.set_codecs(self.track.formats(), &self.codecs);
            self.forwarder.set_live(self.track.live());
        }
        if self.forward(encoding, accepted.seq) {
            for seq in accepted.seq.0 + 1..=self.track.highest(encoding as u8).unwrap().0 {
                self.forward(encoding, SeqNo(seq));
            }
        }
    }

    /// True when packets may have waited for this one.
    fn forward(&mut self, encoding: usize, seq: SeqNo) -> bool {
        let Some(packet) = self.track.packet(encoding as u8, seq) else { return false };
        let Some(rewritten) = self.forwarder.forward(packet.meta, &self.track.timing()) else {
            return false;
        };
        let mut out = [0; 1_500];
        let Ok(written) = self.egress.write(self.now, packet, &rewritten, &mut out) else {
            return false;
        };
        let read = RtpPacket::parse(&out[..written.len]).unwrap();
        let ingress = u64::from_be_bytes(*read.payload.last_chunk::<8>().unwrap());
        let descriptor = read.extension_values(&self.extensions).dependency_descriptor;
        let frame_number = descriptor.map(|bytes| {
            let mut read = DependencyDescriptor::parse(bytes, self.structure.as_ref())
                .unwrap_or_else(|error| panic!("{}: {error}", self.name));
            if let Some(structure) = read.structure.take() {
                self.structure = Some(structure);
            }
            read.header.frame_number
        });
        let carriage = self.sources[encoding].carriage;
        let picture_id = match carriage {
            Carriage::Vp8 => Vp8Descriptor::parse(read.payload).unwrap().picture_id,
            Carriage::Vp9 | Carriage::Vp9Flexible => {
                Vp9Descriptor::parse(read.payload).unwrap().picture_id
            }
            _ => None,
        };
        let described = describe(carriage.codec(), read.payload).ok();
        let got = Got {
            encoding,
            seq: ingress,
            frame: self.sent[&(encoding, ingress)].frame,
            time: read.header.timestamp.0,
            begins: described.map(|descriptor| descriptor.starts_frame && descriptor.keyframe),
            frame_number,
            picture_id,
            at: self.arrived.len(),
        };
        assert!(self.got.insert(written.seq.0, got).is_none(), "{}: number used twice", self.name);
        rewritten.awaited
    }

    /// Everything between two packets that passed is what was lost on the way; streams follow each other at keyframes.
    fn check_numbers(&self) {
        let packets: Vec<(&u64, &Got)> = self.got.iter().collect();
        assert!(self.begins_keyframe(packets[0].1), "{}: it begins with a keyframe", self.name);
        for pair in packets.windows(2) {
            let ((out, before), (next_out, next)) = (pair[0], pair[1]);
            let at = format!(
                "{}: from {} of {} to {} of {}",
                self.name, before.seq, before.encoding, next.seq, next.encoding
            );
            let step = next_out - out;
            let ticks = next.time.wrapping_sub(before.time);
            if before.encoding == next.encoding {
                assert!(before.seq < next.seq, "{at}: order kept");
                assert_eq!(step, next.seq - before.seq, "{at}: a gap for what was lost alone");
                let pictures = next.frame - before.frame;
                assert_eq!(u64::from(ticks), 3_000 * pictures, "{at}: its own clock");
                self.check_fields(&at, before, next, pictures as u16);
                continue;
            }
            assert!(self.begins_keyframe(next), "{at}: a switch is at a keyframe");
            assert!((1..90_000).contains(&ticks), "{at}: time goes on by {ticks}");
            if self.network.loss_percent == 0 && self.network.reorder == 0 {
                assert_eq!(step, 1, "{at}: no gap");
                self.check_fields(&at, before, next, 1);
            }
        }
    }

    fn begins_keyframe(&self, got: &Got) -> bool {
        let frame = self.sources[got.encoding].frame(got.frame);
        // By what the encoder did, and by what the subscriber reads.
        frame.key && frame.packets[0] == got.seq && got.begins.unwrap_or(true)
    }

    /// Numbers of frames and pictures go on by so many.
    fn check_fields(&self, at: &str, before: &Got, next: &Got, by: u16) {
        if let (Some(number), Some(next)) = (before.frame_number, next.frame_number) {
            assert_eq!(next.wrapping_sub(number), by, "{at}: frame numbers");
        }
        if let (Some(id), Some(next)) = (before.picture_id, next.picture_id) {
            assert_eq!(next.wrapping_sub(id) & 0x7fff, by, "{at}: picture ids");
        }
    }

    /// Whatever was here in time of a frame that passed, and of those that it needs, passed too: before the subscriber went on
    /// to another encoding.
    fn check_dependencies(&self) {
        let mut stays: Vec<(usize, Vec<&Got>)> = Vec::new();
        for got in self.got.values() {
            match stays.last_mut().filter(|(encoding, _)| *encoding == got.encoding) {
                Some((_, stay)) => stay.push(got),
                None => stays.push((got.encoding, vec![got])),
            }
        }
        for (index, (encoding, stay)) in stays.iter().enumerate() {
            let source = &self.sources[*encoding];
            let end = stays.get(index + 1).map_or(usize::MAX, |(_, next)| next[0].at - 1);
            let passed: BTreeSet<u64> = stay.iter().map(|got| got.seq).collect();
            let frames: BTreeSet<u64> = stay.iter().map(|got| got.frame).collect();
            for number in frames {
                for needed in source.frame(number).needs.iter().chain([&number]) {
                    for seq in &source.frame(*needed).packets {
                        let in_time =
                            self.arrived.get(&(*encoding, *seq)).is_some_and(|at| *at < end);
                        assert!(
                            passed.contains(seq) || !in_time,
                            "{}: frame {number} of {encoding} needs {needed}, whose packet {seq} was left out",
                            self.name,
                        );
                    }
                }
            }
        }
    }

    fn current(&self) -> Option<usize> {
        self.got.last_key_value().map(|(_, got)| got.encoding)
    }
}

/// Each format with what it tells of layers.
const CASES: [(Mode, Carriage); 8] = [
    (Mode::L1T1, Carriage::H264),
    (Mode::L1T1, Carriage::Vp9),
    (Mode::L1T3, Carriage::Vp9),
    (Mode::L1T3, Carriage::Vp9Flexible),
    (Mode::L1T3, Carriage::Vp8),
    (Mode::L1T1, Carriage::Av1Bare),
    (Mode::L1T3, Carriage::Av1),
    // As if encrypted end to end.
    (Mode::L1T3, Carriage::Descriptor),
];

#[test]
fn each_format_switches_encodings_at_one_keyframe_and_without_a_gap() {
    for (mode, carriage) in CASES {
        let mut room = Room::new(mode, carriage, 1, CALM);
        room.want(2);
        room.run(20);
        for (wanted, keyframes) in [(0, 1), (2, 1), (1, 1), (0, 1), (1, 1), (2, 1), (2, 0)] {
            let before = room.keyframes;
            room.want(wanted);
            room.run(20);
            assert_eq!(room.current(), Some(wanted.into()), "{}: to {wanted}", room.name);
            assert_eq!(room.keyframes - before, keyframes, "{}: to {wanted}", room.name);
        }
        room.check_numbers();
        room.check_dependencies();
    }
}

#[test]
fn no_format_shows_a_broken_frame_whatever_is_lost_late_or_wanted() {
    for (mode, carriage) in CASES {
        for seed in 1..=16 {
            let mut dice = Dice(seed * 7_919);
            let network = Network {
                loss_percent: [0, 1, 5, 20][dice.roll(4) as usize],
                reorder: [0, 3, 12][dice.roll(3) as usize],
                repaired_percent: [0, 80, 100][dice.roll(3) as usize],
            };
            let mut room = Room::new(mode, carriage, seed, network);
            for _ in 0..12 {
                room.want(dice.roll(3) as u8);
                room.run(1 + dice.roll(40));
            }
            room.check_numbers();
            room.check_dependencies();
        }
    }
}
