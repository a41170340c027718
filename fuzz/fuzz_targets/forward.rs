//! Packets of any content through track, selector, rewriters and egress of one subscriber: numbers are never used twice and
//! keep their order, and what is written over is what the rewriters say they write over.
#![no_main]

#[path = "shared/captures.rs"]
mod captures;
#[path = "shared/seeds.rs"]
mod seeds;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
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
        payload::{Vp8Descriptor, Vp9Descriptor, Vp9PictureDiffs},
    },
};
use libfuzzer_sys::fuzz_target;

const KINDS: [CodecKind; 5] =
    [CodecKind::Vp8, CodecKind::Vp9, CodecKind::H264, CodecKind::Av1, CodecKind::H265];
/// What the wire's number of a packet is counted from, so that older ones exist too.
const FIRST_SEQ: u16 = 65_000;

struct Room {
    kind: CodecKind,
    codecs: CodecMap,
    extensions: ExtensionMap,
    track: PublishedTrack,
    forwarder: Forwarder,
    egress: EgressStream,
    now: Instant,
    /// By number: what it was at the publisher.
    sent: BTreeMap<u64, (u8, u64)>,
    /// What a subscriber knows by the packets that it got.
    structure: Option<DependencyStructure>,
    fronts: [u16; 3],
    time: u32,
}

impl Room {
    fn new(bits: u8) -> Self {
        let now = Instant::now();
        let kind = KINDS[usize::from(bits) % KINDS.len()];
        let mut extensions = ExtensionMap::default();
        extensions.set(Extension::DependencyDescriptor, 12);
        let config = EgressConfig {
            ssrc: Ssrc(9),
            rtx_ssrc: Some(Ssrc(10)),
            fec: None,
            mid: Mid::new(b"0").expect("short"),
            extensions: extensions.clone(),
        };
        let codec = Codec {
            pt: Pt::new(98).expect("seven bits"),
            rtx: Pt::new(99),
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
        let encodings = 1 + usize::from(bits >> 5 & 3) % 3;
        Self {
            kind,
            codecs: CodecMap::new(vec![codec]),
            extensions,
            track: PublishedTrack::new(MediaKind::Video, TrackSource::Peer, encodings),
            forwarder: Forwarder::new(MediaKind::Video, SeqNo(32_000)),
            egress: EgressStream::new(now, config, SeqNo(1)),
            now,
            sent: BTreeMap::new(),
            structure: None,
            fronts: [FIRST_SEQ; 3],
            time: 0,
        }
    }

    /// `at`: encoding, how far its number is from the front, whether its picture is a new one, marker bit.
    fn packet(&mut self, at: u8, descriptor: &[u8], payload: &[u8]) {
        let encoding = usize::from(at & 3) % usize::from(self.track.encoding_count());
        let step = [1, 1, 1, 2, 3, 0, 0xffff, 0xfffe][usize::from(at >> 2 & 7)];
        let seq = self.fronts[encoding].wrapping_add(step);
        if step < 0x8000 {
            self.fronts[encoding] = seq;
        }
        if at & 0x20 != 0 {
            self.time = self.time.wrapping_add(3_000);
            self.now += Duration::from_millis(33);
        }
        let fields = RtpHeaderFields {
            marker: at & 0x40 != 0,
            pt: Pt::new(98).expect("seven bits"),
            seq: Seq16(seq),
            timestamp: RtpTs32(self.time),
            // Another stream takes the place, now and then.
            ssrc: Ssrc(1 + encoding as u32 + if at & 0x80 != 0 { 4 } else { 0 }),
        };
        let values = ExtensionValues {
            dependency_descriptor: Some(descriptor).filter(|raw| !raw.is_empty()),
            ..ExtensionValues::default()
        };
        let mut bytes = [0; 1_024];
        let header = fields.write(&mut bytes, &values, &self.extensions).expect("it fits").len;
        let len = header + payload.len();
        bytes[header..len].copy_from_slice(payload);
        let packet = RtpPacket::parse(&bytes[..len]).expect("our own");
        let values = packet.extension_values(&self.extensions);
        let accepted =
            self.track.handle_rtp(self.now, encoding as u8, &packet, &values, &self.codecs);
        let Ok(accepted) = accepted else { return };
        if accepted.started {
            self.egress.set_codecs(self.track.formats(), &self.codecs);
            self.forwarder.set_live(self.track.live());
        }
        if self.forward(encoding as u8, accepted.seq) {
            let highest = self.track.highest(encoding as u8).expect("it has packets");
            for seq in (accepted.seq.0 + 1..=highest.0).take(100) {
                self.forward(encoding as u8, SeqNo(seq));
            }
        }
    }

    fn forward(&mut self, encoding: u8, seq: SeqNo) -> bool {
        let Some(packet) = self.track.packet(encoding, seq) else { return false };
        let Some(rewritten) = self.forwarder.forward(packet.meta, &self.track.timing()) else {
            return false;
        };
        let mut out = [0; 1_500];
        let Ok(written) = self.egress.write(self.now, packet, &rewritten, &mut out) else {
            return false;
        };
        let read = RtpPacket::parse(&out[..written.len]).expect("our own");
        assert_eq!(read.header.marker, rewritten.marker);
        compare_payloads(self.kind, packet.payload, read.payload);
        let given = read.extension_values(&self.extensions).dependency_descriptor;
        if let Some(given) = given {
            let number = rewritten.descriptor.map(|patch| patch.frame_number);
            if rewritten.opens {
                self.structure = None;
            }
            let known = self.structure.as_ref();
            if let Ok(original) = DependencyDescriptor::parse(packet.dependency_descriptor, known) {
                let read = DependencyDescriptor::parse(given, known).expect("it stays readable");
                assert_eq!(read.spatial, original.spatial);
                assert_eq!(read.temporal, original.temporal);
                assert_eq!(read.frame_diffs, original.frame_diffs);
                assert_eq!(read.indications, original.indications);
                assert_eq!(read.structure, original.structure);
                assert!(number.is_none_or(|number| number == read.header.frame_number));
                self.structure = read.structure.or(self.structure.take());
            }
        }
        let before = self.sent.range(..written.seq.0).next_back();
        let behind = self.sent.range(written.seq.0..).next();
        let same = |other: Option<(&u64, &(u8, u64))>| {
            other.map(|(_, other)| *other).filter(|(other, _)| *other == encoding)
        };
        assert!(same(before).is_none_or(|(_, other)| other < seq.0), "order is kept");
        assert!(same(behind).is_none_or(|(_, other)| other > seq.0), "order is kept");
        assert!(self.sent.insert(written.seq.0, (encoding, seq.0)).is_none(), "used twice");
        rewritten.awaited
    }

    /// What was sent before leaves again as it was, under the number of before.
    fn repair(&mut self, back: u8) {
        let Some(highest) = self.sent.keys().next_back().copied() else { return };
        let lost = SeqNo(highest.saturating_sub(back.into())).seq16();
        self.now += Duration::from_millis(500);
        self.egress.handle_nack(self.now, [lost]);
        while let Some(resend) = self.egress.poll_resend() {
            let packet = self.track.packet(resend.encoding, resend.ingress_seq);
            let Some(packet) = packet else { continue };
            let mut out = [0; 1_500];
            let Ok(written) = self.egress.write_resend(&resend, packet, &mut out) else { continue };
            let read = RtpPacket::parse(&out[..written.len]).expect("our own");
            assert_eq!(read.payload.first_chunk(), Some(&lost.0.to_be_bytes()));
            compare_payloads(self.kind, packet.payload, &read.payload[2..]);
        }
    }
}

/// All that differs is what rewriters may touch.
fn compare_payloads(kind: CodecKind, original: &[u8], given: &[u8]) {
    assert_eq!(original.len(), given.len());
    match kind {
        CodecKind::Vp8 => {
            let Some(before) = Vp8Descriptor::parse(original) else {
                return assert_eq!(original, given);
            };
            let after = Vp8Descriptor::parse(given).expect("it stays readable");
            let same = |vp8: Vp8Descriptor| Vp8Descriptor {
                picture_id: vp8.picture_id.map(|_| 0),
                tl0_pic_idx: vp8.tl0_pic_idx.map(|_| 0),
                key_idx: vp8.key_idx.map(|_| 0),
                ..vp8
            };
            assert_eq!(same(after), same(before));
            assert_eq!(original[before.len..], given[after.len..]);
        }
        CodecKind::Vp9 => {
            let Ok(before) = Vp9Descriptor::parse(original) else {
                return assert_eq!(original, given);
            };
            let after = Vp9Descriptor::parse(given).expect("it stays readable");
            let same = |vp9: Vp9Descriptor| Vp9Descriptor {
                picture_id: vp9.picture_id.map(|_| 0),
                tl0_pic_idx: vp9.tl0_pic_idx.map(|_| 0),
                picture_diffs: Vp9PictureDiffs::default(),
                ..vp9
            };
            assert_eq!(same(after), same(before));
            let (told, before_diffs) = (after.picture_diffs, before.picture_diffs);
            assert_eq!(told.as_slice().len(), before_diffs.as_slice().len());
            assert_eq!(original[before.len..], given[after.len..]);
        }
        _ => assert_eq!(original, given),
    }
}

/// A browser's streams, with a change of what is wanted each so many packets.
fn recorded() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for capture in captures::all() {
        let kind = KINDS.iter().position(|kind| *kind == capture.kind).expect("one of them");
        for wanted in [0, 2, 9] {
            let mut input = vec![kind as u8];
            let mut time = 0;
            for (index, packet) in capture.packets.iter().take(180).enumerate() {
                if index % 40 == 20 {
                    input.extend([0x10, wanted ^ (index / 40) as u8]);
                }
                let new_picture = u8::from(packet.time != time) << 5;
                time = packet.time;
                input.extend([0xff, new_picture | u8::from(packet.marker) << 6]);
                input.extend([packet.descriptor.len() as u8, packet.payload.len() as u8]);
                input.extend_from_slice(packet.descriptor);
                input.extend_from_slice(packet.payload);
            }
            inputs.push(input);
        }
    }
    inputs
}

fuzz_target!(init: seeds::write(recorded), |data: &[u8]| {
    let Some((bits, mut rest)) = data.split_first() else { return };
    let mut room = Room::new(*bits);
    room.forwarder.set_wanted(Some(Layers::MAX));
    while let Some(([op, at], tail)) = rest.split_first_chunk() {
        rest = tail;
        match op {
            0..=0x1f => {
                let wanted = Layers { spatial: at & 3, temporal: at >> 2 & 3 };
                room.forwarder.set_wanted(Some(wanted).filter(|_| at & 0x80 == 0));
            }
            0x20 => room.forwarder.abandon(),
            0x21..=0x2f => room.repair(*at),
            _ => {
                let mut take = |len: u8| {
                    let (taken, tail) = rest.split_at(usize::from(len).min(rest.len()));
                    rest = tail;
                    taken
                };
                let lengths = take(2);
                let [descriptor, payload] = lengths else { return };
                let (descriptor, payload) = (take(*descriptor), take(*payload));
                room.packet(*at, descriptor, payload);
            }
        }
    }
});
