use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    cache::{
        CodecFields, Vp8Fields,
        test_packets::{codec, ms, start},
    },
    rtp::{CodecKind, ExtensionMap, Pt, RtpTs32},
    wire::{
        NtpTime, RtpHeaderFields,
        rtcp::{Message, messages},
    },
};

const MEDIA: Ssrc = Ssrc(100);
const RTX: Ssrc = Ssrc(101);
const RTT: Duration = Duration::from_millis(40);
const PLAIN: [u8; 6] = [0x90, 0xe0, 0x81, 0x02, 0x07, 0x20];

fn codecs() -> CodecMap {
    let mut fir_only = codec(CodecKind::H264, 102, Some(103));
    fir_only.pli = false;
    CodecMap::new(vec![
        codec(CodecKind::Opus, 111, None),
        codec(CodecKind::Vp8, 96, Some(97)),
        fir_only,
    ])
}

/// VP8, first packet of a frame with picture id 0x102.
fn payload(keyframe: bool, fill: u8) -> Vec<u8> {
    [&PLAIN[..], &[u8::from(!keyframe), fill, fill]].concat()
}

fn rtp(pt: u8, seq: u16, timestamp: u32, ssrc: Ssrc, payload: &[u8]) -> Vec<u8> {
    let fields = RtpHeaderFields {
        marker: true,
        pt: Pt::new(pt).unwrap(),
        seq: Seq16(seq),
        timestamp: RtpTs32(timestamp),
        ssrc,
    };
    let mut bytes = vec![0; 64];
    let header =
        fields.write(&mut bytes, &ExtensionValues::default(), &ExtensionMap::default()).unwrap();
    bytes.truncate(header.len);
    bytes.extend_from_slice(payload);
    bytes
}

fn take(
    track: &mut PublishedTrack,
    now: Instant,
    encoding: u8,
    bytes: &[u8],
) -> Result<Accepted, DropReason> {
    let packet = RtpPacket::parse(bytes).unwrap();
    let rtx = matches!(codecs().meaning(packet.header.pt), Some(PayloadMeaning::Rtx(_)));
    let extensions = ExtensionValues::default();
    if rtx {
        track.handle_rtx(now, encoding, &packet, &extensions, &codecs())
    } else {
        track.handle_rtp(now, encoding, &packet, &extensions, &codecs())
    }
}

fn media(track: &mut PublishedTrack, now: Instant, seq: u16) -> Result<Accepted, DropReason> {
    let bytes = rtp(96, seq, u32::from(seq) * 3_000, MEDIA, &payload(false, seq as u8));
    take(track, now, 0, &bytes)
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Lost(Vec<u16>),
    Pli(Ssrc),
    Fir(Ssrc, u8),
}

fn feedback(track: &mut PublishedTrack, now: Instant) -> Vec<Asked> {
    let mut buf = [0; 1_200];
    let mut writer = CompoundWriter::new(&mut buf);
    track.poll_feedback(now, RTT, Ssrc(1), &mut writer).unwrap();
    let len = writer.len();
    messages(&buf[..len])
        .map(|message| match message.unwrap() {
            Message::Nack(nack) => Asked::Lost(nack.lost().map(|seq| seq.0).collect()),
            Message::Pli(pli) => Asked::Pli(pli.media),
            Message::Fir(fir) => {
                let entry = fir.entries().next().unwrap();
                Asked::Fir(entry.ssrc, entry.seq)
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

fn video(encodings: usize) -> PublishedTrack {
    PublishedTrack::new(MediaKind::Video, TrackSource::Peer, encodings)
}

#[test]
fn packets_are_read_once_and_found_by_number() {
    let now = start();
    let mut track = video(1);
    let bytes = rtp(96, 65_535, 10, MEDIA, &payload(true, 1));
    let first = take(&mut track, now, 0, &bytes).unwrap();
    assert!(first.started);
    let second = media(&mut track, now, 0).unwrap();
    assert!(!second.started);
    assert_eq!(second.seq, first.seq.plus(1));

    let packet = track.packet(0, first.seq).unwrap();
    assert_eq!(packet.payload, payload(true, 1));
    assert!(packet.meta.frame.start && packet.meta.frame.keyframe && packet.meta.frame.end);
    let expected = Vp8Fields {
        picture_id: Some(0x102),
        long_picture_id: true,
        tl0_pic_idx: Some(7),
        tid_key_idx: Some((0x20, false)),
    };
    assert_eq!(packet.meta.codec, CodecFields::Vp8(Vp8Fields { ..expected }));
    assert_eq!(track.formats().get(packet.meta.format).unwrap().kind, CodecKind::Vp8);
    assert_eq!(media(&mut track, now, 0), Err(DropReason::Duplicate));
    assert_eq!(track.ssrc(0), Some(MEDIA));
}

#[test]
fn what_does_not_fit_is_dropped_with_its_reason() {
    let now = start();
    let mut track = video(1);
    let unknown = rtp(33, 1, 0, MEDIA, &[1]);
    assert_eq!(take(&mut track, now, 0, &unknown), Err(DropReason::UnknownPayloadType));
    let orphan = rtp(97, 1, 0, RTX, &[0, 1, 2]);
    assert_eq!(take(&mut track, now, 0, &orphan), Err(DropReason::OrphanRtx));
    let bytes = rtp(96, 1, 0, MEDIA, &payload(true, 0));
    assert_eq!(take(&mut track, now, 1, &bytes), Err(DropReason::NoEncoding));
    let padding = take(&mut track, now, 0, &rtp(96, 1, 0, MEDIA, &[])).unwrap();
    assert!(track.packet(0, padding.seq).unwrap().meta.padding);
    let oversized = rtp(96, 2, 0, MEDIA, &[0; 3_000]);
    assert_eq!(take(&mut track, now, 0, &oversized), Err(DropReason::TooLarge));
    assert_eq!(take(&mut track, now, 0, &rtp(97, 1, 0, RTX, &[])), Err(DropReason::Padding));
}

#[test]
fn a_lossy_stream_is_asked_for_and_repaired_by_rtx() {
    let mut now = start();
    let mut track = video(1);
    let mut missing = BTreeSet::new();
    let mut rtx_seq = 0;
    for n in 0..2_000u16 {
        let seq = n.wrapping_add(65_000);
        now += ms(5);
        if n % 17 == 3 || n % 90 == 89 {
            missing.insert(seq);
        } else {
            media(&mut track, now, seq).unwrap();
        }
        for asked in feedback(&mut track, now) {
            let Asked::Lost(lost) = asked else { panic!("{asked:?}") };
            for seq in lost {
                assert!(missing.contains(&seq), "{seq} is not missing");
                rtx_seq += 1;
                // Every third repair is lost too.
                if rtx_seq % 3 != 0 {
                    let original = [&seq.to_be_bytes()[..], &payload(false, seq as u8)].concat();
                    let time = u32::from(seq) * 3_000;
                    take(&mut track, now, 0, &rtp(97, rtx_seq, time, RTX, &original)).unwrap();
                    missing.remove(&seq);
                }
            }
        }
        now += ms(5);
    }
    for _ in 0..3 {
        now += RTT;
        feedback(&mut track, now);
    }
    assert!(missing.len() < 4, "{missing:?}");
    let highest = track.encodings[0].cache.highest().unwrap();
    for back in 0..99 {
        let seq = SeqNo(highest.0 - back).seq16().0;
        let Some(packet) = track.packet(0, SeqNo(highest.0 - back)) else {
            assert!(missing.contains(&seq), "{seq} was taken");
            continue;
        };
        assert_eq!(packet.payload, payload(false, seq as u8));
        assert_eq!(packet.meta.time.ts32().0, u32::from(seq) * 3_000);
    }
    let mut blocks = Vec::new();
    track.report_blocks(now, &mut blocks);
    assert_eq!(blocks.iter().map(|block| block.ssrc).collect::<Vec<_>>(), [MEDIA, RTX]);
    assert!(blocks[0].cumulative_lost > 100, "repairs do not hide loss: {blocks:?}");
}

#[test]
fn keyframes_are_asked_for_as_negotiated() {
    let now = start();
    let mut track = video(1);
    track.request_keyframe(now, 0);
    assert_eq!(track.poll_timeout(), None, "nobody to ask yet");
    assert_eq!(feedback(&mut track, now), []);
    media(&mut track, now, 1).unwrap();
    assert_eq!(track.poll_timeout(), Some(now));
    assert_eq!(feedback(&mut track, now), [Asked::Pli(MEDIA)]);
    assert_eq!(feedback(&mut track, now), []);
    take(&mut track, now, 0, &rtp(96, 2, 0, MEDIA, &payload(true, 0))).unwrap();
    assert_eq!(track.poll_timeout(), None);

    let mut track = video(1);
    take(&mut track, now, 0, &rtp(102, 1, 0, MEDIA, &[0x41, 0, 0])).unwrap();
    track.request_keyframe(now, 0);
    assert_eq!(feedback(&mut track, now), [Asked::Fir(MEDIA, 0)]);
    assert_eq!(feedback(&mut track, now + ms(500)), [Asked::Fir(MEDIA, 1)]);
}

#[test]
fn a_request_soon_after_that_of_another_encoding_is_repeated_when_browsers_heed_it() {
    const OTHER: Ssrc = Ssrc(200);
    let now = start();
    let open = || {
        let mut track = video(2);
        for (encoding, ssrc) in [(0, MEDIA), (1, OTHER)] {
            take(&mut track, now, encoding, &rtp(96, 1, 0, ssrc, &payload(false, 0))).unwrap();
        }
        track
    };
    let mut track = open();
    track.request_keyframe(now, 1);
    assert_eq!(feedback(&mut track, now), [Asked::Pli(OTHER)]);
    track.request_keyframe(now + ms(60), 0);
    assert_eq!(feedback(&mut track, now + ms(60)), [Asked::Pli(MEDIA)], "at once all the same");
    assert_eq!(track.poll_timeout(), Some(now + ms(350)));
    assert_eq!(feedback(&mut track, now + ms(350)), [Asked::Pli(MEDIA)]);
    assert_eq!(track.poll_timeout(), Some(now + ms(850)), "that one is heeded");

    let mut track = open();
    track.request_keyframe(now, 1);
    assert_eq!(feedback(&mut track, now), [Asked::Pli(OTHER)]);
    track.request_keyframe(now + ms(60), 0);
    assert_eq!(feedback(&mut track, now + ms(60)), [Asked::Pli(MEDIA)]);
    take(&mut track, now + ms(90), 0, &rtp(96, 2, 3_000, MEDIA, &payload(true, 0))).unwrap();
    assert_eq!(track.poll_timeout(), Some(now + ms(1_000)), "it was heeded: the other's waits");

    let mut track = open();
    track.request_keyframe(now, 1);
    assert_eq!(feedback(&mut track, now), [Asked::Pli(OTHER)]);
    track.request_keyframe(now + ms(310), 0);
    assert_eq!(feedback(&mut track, now + ms(310)), [Asked::Pli(MEDIA)]);
    assert_eq!(track.poll_timeout(), Some(now + ms(810)), "as usual");
}

#[test]
fn lost_parameter_sets_are_asked_for_though_the_keyframe_is_there() {
    let now = start();
    let mut track = video(1);
    take(&mut track, now, 0, &rtp(102, 1, 0, MEDIA, &[0x41, 0, 0])).unwrap();
    // An SPS in packet 2 is lost; packet 3 is an IDR slice.
    take(&mut track, now, 0, &rtp(102, 3, 0, MEDIA, &[0x65, 0x88, 0, 0])).unwrap();
    assert_eq!(feedback(&mut track, now + ms(10)), [Asked::Lost(vec![2])]);
}

#[test]
fn too_much_loss_asks_for_a_keyframe() {
    let now = start();
    let mut track = video(1);
    media(&mut track, now, 1).unwrap();
    media(&mut track, now, 5_000).unwrap();
    assert_eq!(track.poll_timeout(), Some(now), "without other feedback to wait for");
    assert_eq!(feedback(&mut track, now), [Asked::Pli(MEDIA)]);
}

proptest! {
    /// Whatever a peer sends: no panic, numbers of an encoding never come twice, memory is bounded.
    #[test]
    fn any_input_is_an_answer(
        packets in prop::collection::vec(
            (0u8..4, any::<u16>(), any::<u32>(), 0u32..3, prop::collection::vec(any::<u8>(), 0..40)),
            1..200,
        ),
        step in prop_oneof![Just(0u16), Just(1), Just(700), Just(33_000)],
    ) {
        let mut now = start();
        let mut track = video(2);
        let mut seen = BTreeSet::new();
        let mut next = 0u16;
        for (class, random, timestamp, ssrc, payload) in packets {
            now += ms(u64::from(random % 50));
            next = next.wrapping_add(step);
            let seq = if class == 0 { random } else { next };
            let pt = [96, 102, 97, 111][usize::from(class)];
            let bytes = rtp(pt, seq, timestamp, Ssrc(ssrc), &payload);
            let encoding = (random % 3) as u8;
            if let Ok(accepted) = take(&mut track, now, encoding, &bytes) {
                prop_assert!(seen.insert((encoding, accepted.seq)), "{accepted:?} twice");
                prop_assert!(track.packet(encoding, accepted.seq).is_some());
            }
            feedback(&mut track, now);
            let mut blocks = Vec::new();
            track.report_blocks(now, &mut blocks);
            prop_assert!(blocks.len() <= 4);
        }
        prop_assert!(track.memory() < 2 * 1_300 * 1_024);
        let due = track.poll_timeout();
        prop_assert!(due.is_none_or(|due| due > now), "{due:?} is in the past");
    }
}

#[test]
fn numbers_grow_over_restarts_and_new_ssrcs() {
    let now = start();
    let mut track = video(1);
    let old = media(&mut track, now, 40_000).unwrap();
    // The same SSRC counts from somewhere far behind: the second packet in a row proves it.
    assert_eq!(media(&mut track, now, 20_000), Err(DropReason::TooOld));
    let restarted = media(&mut track, now, 20_001).unwrap();
    assert!(restarted.started && restarted.seq > old.seq);
    assert_eq!(track.packet(0, restarted.seq).unwrap().meta.generation, 1);

    let other = rtp(96, 3, 0, Ssrc(555), &payload(true, 0));
    let replaced = take(&mut track, now + ms(500), 0, &other).unwrap();
    assert!(replaced.started && replaced.seq > restarted.seq);
    assert_eq!(replaced.seq.seq16(), Seq16(3));
    assert_eq!(track.packet(0, replaced.seq).unwrap().meta.generation, 2);
}

#[test]
fn senders_that_take_turns_in_one_encoding_renew_its_stream_twice_a_second() {
    let other = Ssrc(555);
    let first = |seq: u16| if seq.is_multiple_of(2) { MEDIA } else { other };
    let restarts = |seq: u16| if (seq / 2).is_multiple_of(2) { 20_000 + seq } else { 50_000 + seq };
    for (case, ssrc_of, seq_of) in [
        ("two SSRCs", &first as &dyn Fn(u16) -> Ssrc, &(|seq| seq) as &dyn Fn(u16) -> u16),
        ("numbers that start anew", &|_| MEDIA, &restarts),
    ] {
        let (now, mut track) = (start(), video(1));
        let (mut started, mut dropped) = (0, 0);
        for n in 0..2_000_u16 {
            let bytes = rtp(96, seq_of(n), 0, ssrc_of(n), &payload(false, 0));
            match take(&mut track, now + ms(u64::from(n)), 0, &bytes) {
                Ok(accepted) => started += u32::from(accepted.started),
                Err(DropReason::TooManySsrcs | DropReason::TooOld) => dropped += 1,
                Err(reason) => panic!("{case}: {reason}"),
            }
        }
        assert!((2..=5).contains(&started), "{case}: {started} starts in two seconds");
        assert!(dropped > 500, "{case}: {dropped} dropped");
    }
}

#[test]
fn muted_packets_are_dropped_and_not_missed_afterwards() {
    let now = start();
    let mut track = video(1);
    media(&mut track, now, 1).unwrap();
    track.set_muted(true);
    assert_eq!(media(&mut track, now, 2), Err(DropReason::Muted));
    track.set_muted(false);
    let again = media(&mut track, now, 300).unwrap();
    assert!(again.started);
    assert_eq!(feedback(&mut track, now + ms(100)), []);
    assert_eq!(track.packet(0, again.seq).unwrap().meta.generation, 1);
}

#[test]
fn an_encoding_lives_while_it_keeps_up_with_the_others() {
    let now = start();
    let mut track = video(3);
    assert!(track.live().is_empty());
    let packet = |encoding: u8, seq| {
        let ssrc = Ssrc(u32::from(encoding) + 1);
        rtp(96, seq, 0, ssrc, &payload(false, 0))
    };
    take(&mut track, now, 0, &packet(0, 1)).unwrap();
    take(&mut track, now, 2, &packet(2, 1)).unwrap();
    assert_eq!(track.live(), EncodingSet::EMPTY.with(0).with(2));
    take(&mut track, now + ms(999), 0, &packet(0, 2)).unwrap();
    assert_eq!(track.live(), EncodingSet::EMPTY.with(0).with(2));
    take(&mut track, now + ms(1_000), 0, &packet(0, 3)).unwrap();
    assert_eq!(track.live(), EncodingSet::EMPTY.with(0));
}

#[test]
fn what_nobody_gets_is_neither_kept_nor_repaired() {
    let now = start();
    let mut track = video(1);
    let first = media(&mut track, now, 1).unwrap();
    track.set_demanded(EncodingSet::EMPTY);
    assert_eq!(track.packet(0, first.seq), None);
    assert_eq!(track.memory(), 0);
    let last = media(&mut track, now, 5).unwrap();
    assert_eq!(track.highest(0), Some(last.seq));
    assert_eq!(track.packet(0, last.seq), None);
    assert_eq!(track.poll_timeout(), None);
    assert_eq!(feedback(&mut track, now + ms(20)), []);
    assert_eq!(track.live(), EncodingSet::EMPTY.with(0));
    assert!(track.bitrate(now + ms(100), 0).bps() > 0);

    track.set_demanded(EncodingSet::EMPTY.with(0));
    let again = media(&mut track, now + ms(30), 6).unwrap();
    assert!(track.packet(0, again.seq).is_some());
}

#[test]
fn each_packet_counts_once_in_the_rate() {
    let now = start();
    let mut track = video(1);
    for n in 0..20_u16 {
        media(&mut track, now + ms(50) * n.into(), n + 1).unwrap();
    }
    let size = rtp(96, 1, 0, MEDIA, &payload(false, 0)).len() as u64;
    assert_eq!(track.bitrate(now + ms(1_000), 0).bps(), size * 8 * 20);
}

#[test]
fn sender_reports_become_clocks_and_are_echoed() {
    let now = start();
    let mut track = video(1);
    media(&mut track, now, 10).unwrap();
    let info = SenderInfo {
        ssrc: MEDIA,
        ntp: NtpTime(77 << 32),
        rtp_timestamp: RtpTs32(31_000),
        packet_count: 1,
        octet_count: 1,
    };
    assert!(track.handle_sender_report(now, &info));
    assert!(!track.handle_sender_report(now, &SenderInfo { ssrc: Ssrc(3), ..info }));
    let clock = track.timing().clock(0, 0).unwrap();
    assert_eq!((clock.ntp, clock.time.ts32()), (info.ntp, info.rtp_timestamp));
    let mut blocks = Vec::new();
    track.report_blocks(now + ms(250), &mut blocks);
    assert_eq!(blocks[0].last_sr, 77 << 16);
    assert_eq!(blocks[0].delay_since_last_sr, 0x4000);
}

#[test]
fn a_replica_takes_what_crosses_a_relay() {
    let now = start();
    let mut origin = video(2);
    let accepted = take(&mut origin, now, 1, &rtp(96, 9, 0, MEDIA, &payload(true, 4))).unwrap();
    let packet = origin.packet(1, accepted.seq).unwrap();

    let mut replica = PublishedTrack::new(MediaKind::Video, TrackSource::Relay, 2);
    assert!(replica.set_format(packet.meta.format, origin.formats().get(FormatId(0)).unwrap()));
    replica.set_live(origin.live());
    replica.request_keyframe(now, 1);
    assert_eq!(replica.poll_keyframe_requests(now), EncodingSet::EMPTY.with(1));
    assert!(replica.handle_relayed(now, packet).unwrap().started);
    assert_eq!(replica.handle_relayed(now, packet), Err(DropReason::Duplicate));
    assert_eq!(replica.packet(1, accepted.seq), Some(packet));
    assert_eq!(replica.live(), EncodingSet::EMPTY.with(1));
    assert_eq!(replica.poll_timeout(), None, "the keyframe came");
    let packet = replica.packet(1, accepted.seq).unwrap();
    assert_eq!(video(2).handle_relayed(now, packet), Err(DropReason::NoEncoding));
}
