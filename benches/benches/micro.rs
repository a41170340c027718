//! The steps of a packet's way one by one, and a whole turn of a shard. `cargo bench -p chappe-benches`.
//!
//! Figures of a busy machine waver; `benches/callgrind.sh` counts instructions instead.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use chappe_benches::{
    packet::{self, Place, Stamp},
    rig::{Inputs, Rig, Setup},
    rtcp,
};
use chappe_sfu::{
    bwe::{EstimatorConfig, SendSideEstimator},
    cache::{
        CachedPacket, CodecFields, CodecPatch, EncodingSet, FormatId, Formats, FrameFacts, Layers,
        PacketCache, PacketMeta, Rewritten, Timing, Vp8Fields,
    },
    egress::{EgressConfig, EgressStream, Pacer},
    forward::{CodecRewriter, LayerSelector, RtpRewriter},
    ingress::TwccRecorder,
    rtp::{
        Bitrate, Codec, CodecKind, CodecMap, DataSize, Extension, ExtensionMap, MediaKind,
        MediaTime, Mid, Pt, RtpTs32, Seq16, SeqNo, Ssrc,
    },
    transport::{SrtpEgress, SrtpIngress, SrtpKeys, SrtpProfile},
    wire::{
        ExtensionValues, RtpHeaderFields, RtpPacket, classify,
        rtcp::{Message, messages},
    },
};
use divan::{Bencher, counter::BytesCount};

fn main() {
    divan::main();
}

const PAYLOAD: usize = 1_100;
const PROFILES: [SrtpProfile; 3] =
    [SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm, SrtpProfile::AesCm128HmacSha1_80];

fn datagram(seq: u16) -> Vec<u8> {
    let mut bytes = packet::header(false, packet::VIDEO, seq, 3_000, 7).to_vec();
    bytes[0] |= 0x10;
    bytes.extend_from_slice(&[0xbe, 0xde, 0, 2, packet::MID << 4, b'0']);
    bytes.extend_from_slice(&[packet::TRANSPORT_CC << 4 | 1, 0, 1, 0, 0, 0]);
    let start = bytes.len();
    bytes.resize(start + PAYLOAD, 0);
    let place = Place { frame: 5, first: true, last: false, keyframe: true };
    packet::write_payload(false, place, Stamp { index: 1, sent: 1 }, &mut bytes[start..]);
    bytes
}

fn extensions() -> ExtensionMap {
    let mut map = ExtensionMap::default();
    map.set(Extension::Mid, packet::MID);
    map.set(Extension::TransportCc, packet::TRANSPORT_CC);
    map
}

fn vp8() -> Codec {
    Codec {
        pt: Pt::new(packet::VIDEO).expect("a payload type"),
        rtx: Pt::new(packet::VIDEO_RTX),
        kind: CodecKind::Vp8,
        clock_rate: 90_000,
        channels: 0,
        profile: "".into(),
        red_block: None,
        nack: true,
        pli: true,
        fir: false,
        transport_cc: true,
        remb: false,
    }
}

fn meta(seq: u64, at: Instant) -> PacketMeta {
    let fields = Vp8Fields {
        picture_id: Some((seq / 4) as u16 & 0x7fff),
        long_picture_id: true,
        ..Vp8Fields::default()
    };
    PacketMeta {
        seq: SeqNo(seq),
        time: MediaTime(seq / 4 * 3_000),
        received_at: at,
        encoding: 0,
        generation: 0,
        format: FormatId(0),
        marker: seq % 4 == 3,
        padding: false,
        frame: FrameFacts {
            start: seq.is_multiple_of(4),
            end: seq % 4 == 3,
            keyframe: seq < 4,
            ..FrameFacts::default()
        },
        codec: CodecFields::Vp8(fields),
        frame_number: None,
        red_primary: 0,
        audio_level: None,
        video_orientation: None,
        playout_delay: None,
        abs_capture_time: None,
    }
}

#[divan::bench]
fn demux(bencher: Bencher<'_, '_>) {
    let datagrams = [datagram(1), vec![0, 1, 0, 0], vec![22; 40], vec![0x80, 201, 0, 1]];
    bencher.bench(|| {
        for datagram in &datagrams {
            black_box(classify(black_box(datagram)));
        }
    });
}

#[divan::bench]
fn header_read(bencher: Bencher<'_, '_>) {
    let (bytes, map) = (datagram(1), extensions());
    bencher.bench(|| {
        let packet = RtpPacket::parse(black_box(&bytes)).expect("a packet");
        black_box(packet.extension_values(&map).transport_cc)
    });
}

#[divan::bench]
fn header_write(bencher: Bencher<'_, '_>) {
    let (map, mut out) = (extensions(), [0; 64]);
    let fields = RtpHeaderFields {
        marker: true,
        pt: vp8().pt,
        seq: Seq16(7),
        timestamp: RtpTs32(9),
        ssrc: Ssrc(1),
    };
    let values = ExtensionValues {
        mid: Mid::new(b"0"),
        transport_cc: Some(0),
        ..ExtensionValues::default()
    };
    bencher.bench_local(|| fields.write(black_box(&mut out), black_box(&values), &map));
}

fn keys(profile: SrtpProfile) -> SrtpKeys {
    let material: Vec<u8> = (0..88).collect();
    SrtpKeys::from_dtls(profile, &material[..profile_len(profile)]).expect("enough bytes").0
}

fn profile_len(profile: SrtpProfile) -> usize {
    match profile {
        SrtpProfile::AeadAes128Gcm => 56,
        SrtpProfile::AeadAes256Gcm => 88,
        SrtpProfile::AesCm128HmacSha1_80 => 60,
    }
}

#[divan::bench(args = PROFILES)]
fn seal(bencher: Bencher<'_, '_>, profile: SrtpProfile) {
    let srtp = SrtpEgress::new(&keys(profile)).expect("keys");
    let mut bytes = datagram(7);
    bytes.resize(bytes.len() + profile.rtp_overhead(), 0);
    bencher
        .counter(BytesCount::new(PAYLOAD))
        .bench_local(|| srtp.seal_rtp(SeqNo(7), 24, black_box(&mut bytes)));
}

#[divan::bench(args = PROFILES, max_time = 1)]
fn open(bencher: Bencher<'_, '_>, profile: SrtpProfile) {
    let keys = keys(profile);
    let seal = SrtpEgress::new(&keys).expect("keys");
    let mut ingress = SrtpIngress::new(&keys).expect("keys");
    let mut seq = 0;
    let sealed = || {
        seq += 1;
        let mut bytes = datagram(seq as u16);
        bytes.resize(bytes.len() + profile.rtp_overhead(), 0);
        seal.seal_rtp(SeqNo(seq), 24, &mut bytes).expect("room");
        bytes
    };
    bencher
        .counter(BytesCount::new(PAYLOAD))
        .with_inputs(sealed)
        .bench_local_refs(|bytes| ingress.unprotect_rtp(bytes).is_ok());
}

#[divan::bench]
fn rewrite_numbers(bencher: Bencher<'_, '_>) {
    let formats = formats();
    let timing = Timing { formats: &formats, clocks: &[None], decode_targets: &[] };
    let (now, mut seq) = (Instant::now(), 0);
    let mut rewriter = RtpRewriter::new(SeqNo(100));
    rewriter.start(&meta(0, now), &timing);
    bencher.bench_local(|| {
        seq += 1;
        rewriter.rewrite(black_box(&meta(seq, now)))
    });
}

#[divan::bench]
fn rewrite_codec(bencher: Bencher<'_, '_>) {
    let (now, mut seq) = (Instant::now(), 0);
    let mut rewriter = CodecRewriter::new();
    rewriter.start(meta(0, now).codec);
    bencher.bench_local(|| {
        seq += 1;
        rewriter.rewrite(black_box(meta(seq, now).codec))
    });
}

#[divan::bench]
fn select(bencher: Bencher<'_, '_>) {
    let (now, mut seq) = (Instant::now(), 0);
    let mut selector = LayerSelector::new(MediaKind::Video);
    selector.set_wanted(Some(Layers { spatial: 2, temporal: 2 }));
    selector.set_live(EncodingSet::EMPTY.with(0));
    selector.select(&meta(0, now), |_| true);
    bencher.bench_local(|| {
        seq += 1;
        selector.select(black_box(&meta(seq, now)), |_| true)
    });
}

fn formats() -> Formats {
    let mut formats = Formats::default();
    formats.intern(&vp8());
    formats
}

#[divan::bench]
fn cache_insert(bencher: Bencher<'_, '_>) {
    let (begun, payload) = (Instant::now(), datagram(1));
    let (mut cache, mut seq) = (PacketCache::new(), 0);
    bencher.bench_local(|| {
        seq += 1;
        let now = begun + Duration::from_millis(5) * seq as u32;
        let meta = meta(seq, now);
        let packet =
            CachedPacket { meta: &meta, dependency_descriptor: &[], payload: &payload[24..] };
        cache.insert(now, packet)
    });
}

#[divan::bench]
fn cache_get(bencher: Bencher<'_, '_>) {
    let (now, payload, mut cache) = (Instant::now(), datagram(1), PacketCache::new());
    for seq in 0..200 {
        let meta = meta(seq, now);
        let packet =
            CachedPacket { meta: &meta, dependency_descriptor: &[], payload: &payload[24..] };
        cache.insert(now, packet).expect("room");
    }
    let mut seq = 0;
    bencher.bench_local(|| {
        seq = (seq + 1) % 200;
        cache.get(SeqNo(black_box(seq))).map(|packet| packet.payload.len())
    });
}

fn egress(now: Instant) -> EgressStream {
    let config = EgressConfig {
        ssrc: Ssrc(1),
        rtx_ssrc: Some(Ssrc(2)),
        fec: None,
        mid: Mid::new(b"0").expect("a digit"),
        extensions: extensions(),
    };
    let mut stream = EgressStream::new(now, config, SeqNo(1));
    stream.set_codecs(&formats(), &CodecMap::new(vec![vp8()]));
    stream
}

fn rewritten(seq: u64) -> Rewritten {
    Rewritten {
        seq: SeqNo(seq),
        time: MediaTime(seq),
        marker: false,
        patch: CodecPatch::NONE,
        descriptor: None,
        opens: false,
        awaited: false,
    }
}

#[divan::bench]
fn egress_write(bencher: Bencher<'_, '_>) {
    let (begun, payload, mut out) = (Instant::now(), datagram(1), vec![0; 1_600]);
    let (mut stream, mut seq) = (egress(begun), 100);
    bencher.bench_local(|| {
        seq += 1;
        let now = begun + Duration::from_millis(8) * seq as u32;
        let meta = meta(seq, now);
        let packet =
            CachedPacket { meta: &meta, dependency_descriptor: &[], payload: &payload[24..] };
        stream.write(now, packet, &rewritten(seq), black_box(&mut out))
    });
}

#[divan::bench]
fn nack_lookup(bencher: Bencher<'_, '_>) {
    let (begun, payload, mut out) = (Instant::now(), datagram(1), vec![0; 1_600]);
    let mut stream = egress(begun);
    for seq in 1..500 {
        let meta = meta(seq, begun);
        let packet =
            CachedPacket { meta: &meta, dependency_descriptor: &[], payload: &payload[24..] };
        let _ = stream.write(begun, packet, &rewritten(seq), &mut out).expect("room");
    }
    let mut round = 0;
    bencher.bench_local(|| {
        round += 1;
        stream.handle_nack(begun + Duration::from_secs(round), (300..310).map(Seq16));
        while let Some(resend) = stream.poll_resend() {
            black_box(resend);
        }
    });
}

#[divan::bench]
fn pacer(bencher: Bencher<'_, '_>) {
    let begun = Instant::now();
    let (mut pacer, mut n) = (Pacer::new(begun, Bitrate::from_kbps(5_000)), 0);
    bencher.bench_local(|| {
        n += 1;
        let now = begun + Duration::from_millis(2) * n;
        if pacer.can_send(now) {
            black_box(pacer.handle_sent(now, DataSize::from_bytes(1_100)));
        }
        black_box(pacer.poll_timeout())
    });
}

#[divan::bench]
fn twcc_record(bencher: Bencher<'_, '_>) {
    let begun = Instant::now();
    let (mut recorder, mut n) = (TwccRecorder::new(begun), 0_u32);
    let mut space = vec![0; 1_200];
    bencher.bench_local(|| {
        n += 1;
        let now = begun + Duration::from_millis(2) * n;
        recorder.record(now, Ssrc(1), n as u16);
        if n.is_multiple_of(50) {
            let mut writer = chappe_sfu::wire::rtcp::CompoundWriter::new(&mut space);
            let _ = recorder.poll_feedback(now, Ssrc(2), &mut writer);
        }
    });
}

/// Thirty packets and the feedback about them.
#[divan::bench]
fn estimate(bencher: Bencher<'_, '_>) {
    let begun = Instant::now();
    let mut estimator = SendSideEstimator::new(begun, EstimatorConfig::default());
    let (mut number, mut count) = (0_u16, 0_u8);
    bencher.bench_local(|| {
        let mut arrivals = Vec::with_capacity(30);
        let base = number;
        for _ in 0..30 {
            let at = Duration::from_millis(4) * (u32::from(count) * 30 + arrivals.len() as u32);
            arrivals.push(Some(at.as_micros() as u64 + 20_000));
            estimator.handle_sent(begun + at, number, DataSize::from_bytes(1_100), None);
            number = number.wrapping_add(1);
        }
        let mut compound = Vec::new();
        rtcp::transport_cc(base, &arrivals, count, &mut compound);
        let now = begun + Duration::from_millis(120) * (u32::from(count) + 1);
        for message in messages(&compound).flatten() {
            if let Message::TransportCc(feedback) = message {
                estimator.handle_transport_cc(now, &feedback);
            }
        }
        count = count.wrapping_add(1);
        black_box(estimator.estimate())
    });
}

/// A frame of four packets to so many subscribers.
#[divan::bench(args = [5, 50, 500], max_time = 2)]
fn turn(bencher: Bencher<'_, '_>, subscribers: usize) {
    let rig = std::cell::RefCell::new(
        Rig::new(Setup { subscribers, ..Setup::default() }).expect("everybody joins"),
    );
    bencher
        .counter(divan::counter::ItemsCount::new(4 * subscribers))
        .with_inputs(|| rig.borrow_mut().prepare())
        .bench_local_values(|inputs: Inputs| rig.borrow_mut().turn(inputs));
}
