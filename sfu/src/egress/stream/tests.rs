use super::*;
use crate::{
    cache::test_packets::{codec, meta, ms, start},
    egress::RepairShare,
    rtp::{CodecKind, MediaTime},
    wire::{
        AbsCaptureTime, ActiveTargets, AudioLevel, FlexFec, NtpTime, PlayoutDelay, RtpPacket,
        VideoOrientation, duration_to_compact,
    },
};

const SSRC: Ssrc = Ssrc(5_000);
const RTX: Ssrc = Ssrc(5_001);

fn extensions(list: &[(Extension, u8)]) -> ExtensionMap {
    let mut map = ExtensionMap::default();
    list.iter().for_each(|(extension, id)| map.set(*extension, *id));
    map
}

fn stream(
    now: Instant,
    formats: &[crate::rtp::Codec],
    codecs: Vec<crate::rtp::Codec>,
    map: &[(Extension, u8)],
) -> EgressStream {
    let config = EgressConfig {
        ssrc: SSRC,
        rtx_ssrc: Some(RTX),
        fec: None,
        mid: Mid::new(b"3").unwrap(),
        extensions: extensions(map),
    };
    let mut table = Formats::default();
    for format in formats {
        table.intern(format).unwrap();
    }
    let mut stream = EgressStream::new(now, config, SeqNo(7));
    stream.set_codecs(&table, &CodecMap::new(codecs));
    stream
}

fn video(now: Instant) -> EgressStream {
    stream(
        now,
        &[codec(CodecKind::Vp8, 96, Some(97))],
        vec![codec(CodecKind::Vp8, 120, Some(124))],
        &[(Extension::Mid, 4), (Extension::TransportCc, 5), (Extension::AbsSendTime, 6)],
    )
}

fn rewritten(seq: u64, time: u64) -> Rewritten {
    Rewritten {
        seq: SeqNo(seq),
        time: MediaTime(time),
        marker: false,
        patch: CodecPatch::NONE,
        descriptor: None,
        opens: false,
        awaited: false,
    }
}

fn cached<'a>(meta: &'a PacketMeta, payload: &'a [u8]) -> CachedPacket<'a> {
    CachedPacket { meta, dependency_descriptor: &[], payload }
}

fn send(stream: &mut EgressStream, now: Instant, seq: u64) -> Vec<u8> {
    let meta = meta(1, seq + 900, 0, now);
    let mut out = [0; 1_500];
    let payload = [0x10, 0x20, seq as u8];
    let packet = cached(&meta, &payload);
    let written = stream.write(now, packet, &rewritten(seq, seq * 10), &mut out).unwrap();
    assert_eq!((written.seq, written.ssrc), (SeqNo(seq), SSRC));
    out[..written.len].to_vec()
}

#[test]
fn headers_are_written_anew_with_what_the_subscriber_negotiated() {
    let now = start();
    let mut stream = video(now);
    let mut meta = meta(0, 1, 1, now);
    meta.audio_level = Some(AudioLevel { level: 3, voice: true });
    let mut patch = CodecPatch::new(1);
    patch.push(0xff);
    let rewritten = Rewritten { patch, marker: true, ..rewritten(70_000, 1 << 33 | 9) };
    let mut out = [0xee; 1_500];
    let packet = CachedPacket { dependency_descriptor: &[1, 2], ..cached(&meta, &[7, 8, 9]) };
    let written = stream.write(now, packet, &rewritten, &mut out).unwrap();

    let read = RtpPacket::parse(&out[..written.len]).unwrap();
    assert_eq!(read.header.header_len, written.header_len);
    assert!(read.header.marker);
    assert_eq!(read.header.pt.value(), 120);
    assert_eq!(read.header.seq, Seq16(70_000_u32 as u16));
    assert_eq!(read.header.timestamp, RtpTs32(9));
    assert_eq!(read.payload, [7, 0xff, 9]);
    let ids: Vec<u8> = read.elements().map(|(id, _)| id).collect();
    assert_eq!(ids, [4, 5], "MID and transport-cc: the rest was not negotiated or not needed");
    let at = usize::from(written.transport_cc.unwrap());
    assert_eq!(&out[at..at + 2], [0, 0]);
    assert_eq!(written.abs_send_time, None);
}

#[test]
fn formats_that_were_not_negotiated_and_small_buffers_are_errors() {
    let now = start();
    let mut stream = video(now);
    let mut meta = meta(0, 1, 1, now);
    let mut out = [0; 40];
    let packet = cached(&meta, &[0; 100]);
    assert_eq!(stream.write(now, packet, &rewritten(1, 1), &mut out), Err(WriteError::TooLarge));
    meta.format = FormatId(1);
    assert!(!stream.accepts(meta.format));
    let packet = cached(&meta, &[0]);
    assert_eq!(stream.write(now, packet, &rewritten(1, 1), &mut out), Err(WriteError::Format));
    assert_eq!(stream.packets(), 0);
}

#[test]
fn no_number_leaves_twice() {
    let now = start();
    let mut stream = video(now);
    send(&mut stream, now, 5);
    send(&mut stream, now, 2_000);
    for seq in [2_000, 5] {
        let meta = meta(0, 1, 1, now);
        let mut out = [0; 1_500];
        let outcome = stream.write(now, cached(&meta, &[1]), &rewritten(seq, 1), &mut out);
        assert_eq!(outcome, Err(WriteError::Duplicate), "{seq}");
    }
}

#[test]
fn mid_is_named_until_the_subscriber_knows_it_and_after_each_switch() {
    let now = start();
    let mut stream = video(now);
    let has_mid = |bytes: &[u8]| RtpPacket::parse(bytes).unwrap().elements().any(|(id, _)| id == 4);
    let mut seq = 0;
    let mut next = |stream: &mut EgressStream| {
        seq += 1;
        has_mid(&send(stream, now, seq))
    };
    assert!((0..100).all(|_| next(&mut stream)), "no report yet");
    stream.handle_report_block(now, &block(SSRC, 0, 0));
    assert!(!next(&mut stream));
    let meta = meta(0, 1, 1, now);
    let mut out = [0; 1_500];
    let opens = Rewritten { opens: true, ..rewritten(500, 1) };
    let written = stream.write(now, cached(&meta, &[1]), &opens, &mut out).unwrap();
    assert!(has_mid(&out[..written.len]));
    assert!(next(&mut stream));
}

#[test]
fn nacks_are_answered_over_rtx_once_in_a_round_trip() {
    let now = start();
    let mut stream = video(now);
    let sent: Vec<Vec<u8>> = (65_530..65_540).map(|seq| send(&mut stream, now, seq)).collect();
    let lost = [Seq16(65_535), Seq16(2), Seq16(2), Seq16(1_000)];
    stream.handle_nack(now, lost);
    let resends: Vec<Resend> = std::iter::from_fn(|| stream.poll_resend()).collect();
    let found: Vec<_> = resends.iter().map(|resend| resend.ingress_seq.0).collect();
    assert_eq!(found, [65_535 + 900, 65_538 + 900]);
    assert_eq!(resends[0].encoding, 1);

    let original = RtpPacket::parse(&sent[5]).unwrap();
    for (resend, rtx_seq) in [(resends[0], 7), (resends[0], 8)] {
        let meta = meta(1, resend.ingress_seq.0, 0, now);
        let mut out = [0; 1_500];
        let packet = cached(&meta, original.payload);
        let written = stream.write_resend(&resend, packet, &mut out).unwrap();
        assert_eq!((written.seq, written.ssrc), (SeqNo(rtx_seq), RTX));
        assert!(written.transport_cc.is_some());
        let read = RtpPacket::parse(&out[..written.len]).unwrap();
        assert_eq!(read.header.pt.value(), 124);
        assert_eq!(read.header.timestamp, original.header.timestamp);
        assert_eq!(read.payload[..2], 65_535_u16.to_be_bytes());
        assert_eq!(&read.payload[2..], original.payload);
    }

    stream.handle_nack(now + ms(49), [Seq16(2)]);
    assert_eq!(stream.poll_resend(), None, "it may be on its way");
    stream.handle_nack(now + ms(50), [Seq16(2)]);
    assert!(stream.poll_resend().is_some());
    assert_eq!(stream.packets(), 10, "repairs are not counted as media");
}

/// A NACK that crosses a probe on its way has its answer already.
#[test]
fn a_repeat_that_fills_a_probe_is_the_one_resend_of_its_round_trip() {
    let now = start();
    let mut stream = video(now);
    for seq in 1..20 {
        send(&mut stream, now, seq);
    }
    let repeat = stream.latest().unwrap();
    stream.note_repeat(now + ms(100), &repeat);
    let seq = repeat.seq.seq16();
    stream.handle_nack(now + ms(149), [seq]);
    assert_eq!(stream.poll_resend(), None, "it is on its way");
    stream.handle_nack(now + ms(150), [seq]);
    assert!(stream.poll_resend().is_some(), "it was lost, too");
    // A probe takes what it can get.
    let repeats: Vec<_> = (0..40).map(|_| stream.latest().unwrap().seq).collect();
    assert!(repeats.contains(&repeat.seq));
}

#[test]
fn records_reach_back_a_second() {
    let start = start();
    let mut stream = video(start);
    for n in 0..3_000u64 {
        send(&mut stream, start + ms(2) * n as u32, 1 + n);
    }
    let now = start + ms(6_000);
    stream.handle_nack(now, [Seq16(3_000 - 499)]);
    assert!(stream.poll_resend().is_some());
    stream.handle_nack(now, [Seq16(3_000 - 1_024)]);
    assert!(stream.poll_resend().is_none());
}

#[test]
fn without_rtx_nothing_is_sent_again() {
    let now = start();
    let mut stream = stream(
        now,
        &[codec(CodecKind::Opus, 111, None)],
        vec![codec(CodecKind::Opus, 109, None)],
        &[],
    );
    send(&mut stream, now, 1);
    stream.handle_nack(now, [Seq16(1)]);
    assert_eq!(stream.poll_resend(), None);
}

fn block(ssrc: Ssrc, last_sr: u32, delay_since_last_sr: u32) -> ReportBlock {
    ReportBlock {
        ssrc,
        fraction_lost: 12,
        cumulative_lost: 3,
        highest_seq: 9,
        jitter: 44,
        last_sr,
        delay_since_last_sr,
    }
}

/// The example of RFC 3550 section 6.4.1, figure 2: sent at 0xb44db705:20000000, answered after 5.250 s, 6.125 s round
/// trip and delay together less that make 0.875... here with the figure's numbers.
#[test]
fn round_trips_follow_the_example_of_the_rfc() {
    let now = start();
    let mut stream = video(now);
    let ntp = NtpTime(0xb44d_b705_2000_0000);
    let clock = SenderClock { ntp, time: MediaTime(77), at: now, generation: 0 };
    assert_eq!(stream.sender_report(now, &clock), None, "nothing sent yet");
    send(&mut stream, now, 1);
    send(&mut stream, now, 2);
    let info = stream.sender_report(now, &clock).unwrap();
    assert_eq!((info.packet_count, info.octet_count), (2, 6), "headers are not counted");
    assert_eq!((info.ntp, info.rtp_timestamp), (ntp, RtpTs32(77)));

    // A = 0xb710:8000, LSR = 0xb705:2000, DLSR = 0x0005:4000: the delay is 0x0006:2000 = 6.125 s.
    let arrival = now + compact_to_duration(0xb710_8000 - 0xb705_2000);
    let report = block(SSRC, 0xb705_2000, 0x0005_4000);
    assert_eq!(stream.handle_report_block(arrival, &report), Some(ms(6_125)));
    assert_eq!((stream.fraction_lost(), stream.jitter()), (12, 44));

    let again = stream.handle_report_block(arrival + ms(1_000), &report);
    assert_eq!(again, None, "the way there is that of then");
    assert_eq!(stream.handle_report_block(arrival, &block(Ssrc(1), 0, 0)), None);
    let unknown = block(SSRC, 0x1111_1111, duration_to_compact(ms(1)));
    let rtt = stream.handle_report_block(arrival, &unknown);
    assert_eq!(rtt, None, "a report that was never sent says nothing");
}

#[test]
fn numbers_that_never_left_are_no_loss_of_the_path() {
    let now = start();
    let mut stream = video(now);
    let report = |stream: &mut EgressStream, highest_seq, fraction_lost| {
        stream.handle_report_block(
            now,
            &ReportBlock { highest_seq, fraction_lost, ..block(SSRC, 0, 0) },
        );
        stream.fraction_lost()
    };
    let lost_upstream = |seq: &u64| seq % 4 == 1;
    (65_500..=65_600).for_each(|seq| drop(send(&mut stream, now, seq)));
    assert_eq!(report(&mut stream, 65_600, 7), 7, "the first");
    // A quarter is lost on its way to the node; what left after the report's end does not count.
    (65_601..=65_800)
        .filter(|seq| !lost_upstream(seq))
        .for_each(|seq| drop(send(&mut stream, now, seq)));
    assert_eq!(report(&mut stream, 65_700 + 65_536, 64), 0);
    assert_eq!(report(&mut stream, 65_800, 64 + 25), 25, "a tenth more is lost behind it");
    (65_801..=65_900).for_each(|seq| drop(send(&mut stream, now, seq)));
    assert_eq!(report(&mut stream, 65_900, 25), 25);
    assert_eq!(report(&mut stream, 65_850, 9), 9, "a late report");
    // More than are remembered between two reports: a third of the latest.
    (65_901..=70_000).filter(|seq| seq % 3 != 0).for_each(|seq| drop(send(&mut stream, now, seq)));
    let rest = report(&mut stream, 70_000, 86);
    assert!(rest <= 1, "{rest}");
}

#[test]
fn red_is_unwrapped_or_its_blocks_renamed() {
    let now = start();
    let mut red = codec(CodecKind::Red, 63, None);
    red.red_block = Pt::new(111);
    // One redundant block of 3 bytes, then 2 bytes of the primary one.
    let payload = [0x80 | 111, 0, 0, 3, 111, 1, 2, 3, 8, 9];
    let mut meta = meta(0, 1, 1, now);
    meta.red_primary = 8;
    let mut out = [0; 100];

    let opus = codec(CodecKind::Opus, 109, None);
    let mut without = stream(now, std::slice::from_ref(&red), vec![opus.clone()], &[]);
    let written = without.write(now, cached(&meta, &payload), &rewritten(1, 1), &mut out).unwrap();
    let read = RtpPacket::parse(&out[..written.len]).unwrap();
    assert_eq!((read.header.pt.value(), read.payload), (109, &[8, 9][..]));

    let mut other = red.clone();
    (other.pt, other.red_block) = (Pt::new(64).unwrap(), Pt::new(109));
    let mut with = stream(now, &[red], vec![opus, other], &[]);
    let written = with.write(now, cached(&meta, &payload), &rewritten(1, 1), &mut out).unwrap();
    let read = RtpPacket::parse(&out[..written.len]).unwrap();
    assert_eq!(read.header.pt.value(), 64);
    assert_eq!(read.payload, [0x80 | 109, 0, 0, 3, 109, 1, 2, 3, 8, 9]);
}

#[test]
fn the_descriptor_and_the_marker_are_the_subscribers_own_and_repeated_so() {
    struct Case {
        name: &'static str,
        active: Option<ActiveTargets>,
        /// Of the publisher.
        descriptor: Vec<u8>,
        expect: Option<Vec<u8>>,
    }
    let all_but_one = Some(ActiveTargets { mask: 0b01, count: 2 });
    let cases = [
        Case {
            name: "number only",
            active: None,
            descriptor: vec![0xc1, 9, 9],
            expect: Some(vec![0xc1, 0x12, 0x34]),
        },
        Case {
            name: "a mask grows it",
            active: all_but_one,
            descriptor: vec![0xc1, 9, 9],
            expect: Some(vec![0xc1, 0x12, 0x34, 0b0100_0010]),
        },
        Case {
            name: "no room for the mask",
            active: all_but_one,
            descriptor: [vec![0xc1, 9, 9, 0x04], vec![0xff; 251]].concat(),
            expect: None,
        },
    ];
    for case in cases {
        let now = start();
        let list = [(Extension::DependencyDescriptor, 8)];
        let format = codec(CodecKind::Vp9, 98, Some(99));
        let mut stream = stream(now, std::slice::from_ref(&format), vec![format.clone()], &list);
        let meta = meta(0, 1, 1, now);
        let packet =
            CachedPacket { dependency_descriptor: &case.descriptor, ..cached(&meta, &[7]) };
        let descriptor = Some(DescriptorPatch { frame_number: 0x1234, active: case.active });
        let rewritten = Rewritten { marker: true, descriptor, ..rewritten(5, 6) };
        let mut out = [0; 1_500];
        let written = stream.write(now, packet, &rewritten, &mut out).unwrap();
        let check = |bytes: &[u8]| {
            let read = RtpPacket::parse(bytes).unwrap();
            assert!(read.header.marker, "{}", case.name);
            let found = read.elements().find(|(id, _)| *id == 8).map(|(_, value)| value.to_vec());
            assert_eq!(found, case.expect, "{}", case.name);
        };
        check(&out[..written.len]);
        stream.handle_nack(now, [Seq16(5)]);
        let resend = stream.poll_resend().unwrap();
        let written = stream.write_resend(&resend, packet, &mut out).unwrap();
        check(&out[..written.len]);
        let left_out = if case.expect.is_none() { 2 } else { 0 };
        assert_eq!(stream.descriptors_left_out(), left_out, "{}", case.name);
    }
}

#[test]
fn padding_takes_numbers_of_the_retransmissions_alone() {
    let now = start();
    let mut stream = video(now);
    let mut out = [0xff; 1_500];
    assert_eq!(stream.next_numbers(), [None, Some((RTX, SeqNo(7))), None]);
    let written = stream.write_padding(1_000, &mut out).unwrap();
    assert_eq!((written.ssrc, written.seq), (RTX, SeqNo(7)));
    let packet = RtpPacket::parse(&out[..written.len]).unwrap();
    assert_eq!((packet.header.pt, packet.header.seq), (Pt::new(124).unwrap(), Seq16(7)));
    assert!(packet.payload.is_empty(), "nothing but padding");
    assert_eq!(written.len - written.header_len, 255);
    assert!(written.transport_cc.is_some() && written.abs_send_time.is_none());
    // Whoever takes the SSRC up again must not seal these numbers twice, though no media left.
    assert_eq!(stream.next_numbers(), [None, Some((RTX, SeqNo(8))), None]);
    // A receiver that estimates for itself needs to know when it left.
    stream.set_extensions(extensions(&[(Extension::Mid, 4), (Extension::AbsSendTime, 6)]));
    assert!(stream.write_padding(1_000, &mut out).unwrap().abs_send_time.is_some());
}

#[test]
fn redundancy_is_added_where_the_subscriber_loses_and_takes_it() {
    let codec = |kind, pt, red_block: Option<u8>| crate::rtp::Codec {
        clock_rate: 48_000,
        channels: 2,
        red_block: red_block.and_then(Pt::new),
        ..codec(kind, pt, None)
    };
    struct Case {
        name: &'static str,
        /// What the publisher sends, and where its primary block begins.
        format: CodecKind,
        red_primary: u16,
        has_red: bool,
        lost: u8,
        opens: bool,
        /// Payload type, and how much older each block is.
        expect: (u8, &'static [u16]),
    }
    let plain = Case {
        name: "nothing lost",
        format: CodecKind::Opus,
        red_primary: 0,
        has_red: true,
        lost: 0,
        opens: false,
        expect: (111, &[]),
    };
    let cases = [
        Case { name: "some lost", lost: 20, expect: (63, &[960, 0]), ..plain },
        Case { name: "more lost", lost: 80, expect: (63, &[1_920, 960, 0]), ..plain },
        Case { name: "no RED", lost: 80, has_red: false, ..plain },
        Case { name: "the first of a stream", lost: 80, opens: true, ..plain },
        Case {
            name: "RED without redundancy",
            format: CodecKind::Red,
            red_primary: 1,
            lost: 20,
            expect: (63, &[960, 0]),
            ..plain
        },
        Case {
            name: "redundancy of its own",
            format: CodecKind::Red,
            red_primary: 7,
            lost: 80,
            expect: (63, &[960, 0]),
            ..plain
        },
        plain,
    ];
    for case in cases {
        let now = start();
        let (opus, red) = (codec(CodecKind::Opus, 111, None), codec(CodecKind::Red, 63, Some(111)));
        let format = if case.format == CodecKind::Red { red.clone() } else { opus.clone() };
        let codecs = if case.has_red { vec![opus, red] } else { vec![opus] };
        let mut stream = stream(now, &[format], codecs, &[]);
        stream.set_add_redundancy(true);
        let report = ReportBlock {
            ssrc: SSRC,
            fraction_lost: case.lost,
            cumulative_lost: 0,
            highest_seq: 0,
            jitter: 0,
            last_sr: 0,
            delay_since_last_sr: 0,
        };
        stream.handle_report_block(now, &report);

        let sounds: [&[u8]; 3] = [&[0xfc, 1, 1, 1], &[0xfc, 2], &[0xfc, 3, 3]];
        let payloads = sounds.map(|sound| match case.red_primary {
            0 => sound.to_vec(),
            1 => [&[111], sound].concat(),
            // One block of two bytes, 20 ms older.
            _ => {
                let bits: u32 = (0x80 | 111) << 24 | 960 << 10 | 2;
                [&bits.to_be_bytes()[..], &[111, 0xfc, 9], sound].concat()
            }
        });
        let metas = [0, 1, 2].map(|n| PacketMeta {
            red_primary: case.red_primary,
            ..meta(0, 50 + n, 480_000 + 960 * n, now)
        });
        let older = (1..=stream.redundancy()).map(|back| 2 - back);
        let older = older.map(|index| cached(&metas[index], &payloads[index]));
        let rewritten = Rewritten { opens: case.opens, ..rewritten(9, 777_000) };
        let mut out = [0; 1_500];
        let packet = cached(&metas[2], &payloads[2]);
        let leaving = stream.begin(packet.meta.format, &rewritten).unwrap();
        let written = stream.put_redundant(leaving, packet, older, &rewritten, &mut out).unwrap();
        let read = RtpPacket::parse(&out[..written.len]).unwrap();
        assert_eq!(read.header.seq, Seq16(9), "{}: its number", case.name);
        assert_eq!(read.header.timestamp, RtpTs32(777_000), "{}: its time", case.name);
        let (pt, offsets) = case.expect;
        assert_eq!(read.header.pt.value(), pt, "{}", case.name);
        let own = case.red_primary == 7;
        let added = if own { 0 } else { offsets.len().saturating_sub(1) };
        assert_eq!(usize::from(stream.carried()), added, "{}: what was truly added", case.name);
        if pt == 111 {
            assert_eq!(read.payload, payloads[2], "{}", case.name);
            continue;
        }
        let blocks: Vec<_> =
            crate::wire::payload::RedBlocks::parse(read.payload).unwrap().collect();
        let given: Vec<_> = blocks.iter().map(|block| block.timestamp_offset).collect();
        assert_eq!(given, offsets, "{}", case.name);
        assert!(blocks.iter().all(|block| block.pt.value() == 111), "{}", case.name);
        assert_eq!(blocks.last().unwrap().data, sounds[2], "{}", case.name);
        if case.red_primary < 2 {
            for (block, sound) in blocks.iter().rev().zip(sounds.iter().rev()) {
                assert_eq!(block.data, *sound, "{}", case.name);
            }
        }
    }
}

#[test]
fn capture_time_and_playout_delay_pass_in_packets_and_their_repetitions() {
    let now = start();
    let ids = [
        (Extension::AbsCaptureTime, 7),
        (Extension::PlayoutDelay, 5),
        (Extension::VideoOrientation, 6),
    ];
    let vp8 = codec(CodecKind::Vp8, 96, Some(97));
    let mut stream = stream(now, std::slice::from_ref(&vp8), vec![vp8.clone()], &ids);
    let capture = AbsCaptureTime { ntp: NtpTime(0x1234_5678_9abc_def0), clock_offset: Some(-77) };
    let delay = PlayoutDelay { min: ms(20), max: ms(400) };
    let meta = PacketMeta {
        abs_capture_time: Some(capture),
        playout_delay: Some(delay),
        video_orientation: Some(VideoOrientation(3)),
        ..meta(0, 1, 90_000, now)
    };
    let packet = cached(&meta, &[0x10, 1, 2]);
    let mut out = [0; 1_500];
    // At another timestamp than the publisher's: a capture time is a moment, not a timestamp.
    let written = stream.write(now, packet, &rewritten(4, 1_000_000), &mut out).unwrap();
    let check = |bytes: &[u8]| {
        let read = RtpPacket::parse(bytes).unwrap().extension_values(&extensions(&ids));
        assert_eq!(read.abs_capture_time, Some(capture));
        assert_eq!(read.playout_delay, Some(delay));
        assert_eq!(read.video_orientation, Some(VideoOrientation(3)));
    };
    check(&out[..written.len]);
    stream.handle_nack(now, [Seq16(4)]);
    let resend = stream.poll_resend().unwrap();
    let written = stream.write_resend(&resend, packet, &mut out).unwrap();
    check(&out[..written.len]);
}

const FEC: Ssrc = Ssrc(0xfec);

/// A stream with repair packets, whose numbers go on at `next`.
fn repaired(now: Instant, next: u64) -> EgressStream {
    let mut stream = video(now);
    stream.fec = Some(FecStream { ssrc: FEC, next: SeqNo(next) });
    stream.set_fec_format(Pt::new(49));
    stream
}

/// Numbers of repair packets that leave with so many pictures of one packet.
fn repairs(stream: &mut EgressStream, now: Instant, seqs: std::ops::Range<u64>) -> Vec<u64> {
    let mut numbers = Vec::new();
    for seq in seqs {
        let bytes = send(stream, now, seq);
        if !stream.is_protected() || !stream.protect(&bytes, true) {
            continue;
        }
        let mut out = [0; 1_500];
        while let Some(written) = stream.write_repair(&mut out) {
            let written = written.unwrap();
            let read = RtpPacket::parse(&out[..written.len]).unwrap();
            assert_eq!((read.header.ssrc, read.header.pt.value()), (FEC, 49));
            assert_eq!(read.header.header_len, written.header_len);
            assert_eq!(read.header.seq, written.seq.seq16());
            assert_eq!(read.header.timestamp, RtpTs32(seq as u32 * 10), "that of the latest");
            let ids: Vec<u8> = read.elements().map(|(id, _)| id).collect();
            assert_eq!(ids, [4, 5], "MID and transport-cc");
            let fec = FlexFec::parse(read.payload).unwrap();
            assert_eq!(fec.ssrc, SSRC);
            assert!(fec.protected().any(|protected| protected == SeqNo(seq).seq16()));
            numbers.push(written.seq.0);
        }
    }
    numbers
}

#[test]
fn repair_packets_are_a_stream_of_their_own_whose_numbers_go_on() {
    let now = start();
    let mut stream = repaired(now, 65_534);
    assert_eq!(repairs(&mut stream, now, 1..50), [0; 0], "nobody asked for them");
    stream.set_protection(Some(RepairShare::MOST), Duration::ZERO);
    let first = repairs(&mut stream, now, 50..150);
    assert!(first.len() > 3 && first[..3] == [65_534, 65_535, 65_536], "{first:?}");
    stream.set_protection(None, Duration::ZERO);
    assert_eq!(repairs(&mut stream, now, 150..180), [0; 0]);
    stream.set_protection(Some(RepairShare::MOST), Duration::ZERO);
    let second = repairs(&mut stream, now, 180..280);
    assert_eq!(second[0], first[first.len() - 1] + 1, "no number twice: it is part of a nonce");
    let next = second[second.len() - 1] + 1;
    assert_eq!(stream.next_numbers()[2], Some((FEC, SeqNo(next))));
    // The subscriber takes none any more.
    stream.set_fec_format(None);
    assert!(!stream.is_protected() && !stream.can_be_protected());
    stream.set_protection(Some(RepairShare::MOST), Duration::ZERO);
    assert!(!stream.is_protected());
    assert_eq!(repairs(&mut stream, now, 280..330), [0; 0]);
    stream.handle_report_block(now, &ReportBlock { fraction_lost: 9, ..block(FEC, 0, 0) });
    assert_eq!(stream.fraction_lost(), 0, "what they lose is not the media's");
}
