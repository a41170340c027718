use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    cache::{
        Formats,
        test_packets::{codec, meta, ms, start},
    },
    rtp::CodecKind,
    wire::NtpTime,
};

fn formats() -> Formats {
    let mut formats = Formats::default();
    formats.intern(&codec(CodecKind::Vp8, 96, Some(97)));
    formats
}

fn clock(at: Instant, seconds: u64, time: u64) -> Option<SenderClock> {
    Some(SenderClock { ntp: NtpTime(seconds << 32), time: MediaTime(time), at, generation: 0 })
}

fn rewrite(rewriter: &mut RtpRewriter, meta: &PacketMeta) -> Option<(u64, u64)> {
    rewriter.rewrite(meta).map(|(seq, time)| (seq.0, time.0))
}

#[test]
fn numbers_go_on_across_switches_and_pauses_and_wrap() {
    let formats = formats();
    let timing = Timing { formats: &formats, clocks: &[None, None], decode_targets: &[] };
    let now = start();
    let mut rewriter = RtpRewriter::new(SeqNo(32_767));
    let low = meta(0, 65_536 * 2 - 1, 1_000_000, now);
    rewriter.start(&low, &timing);
    assert_eq!(rewrite(&mut rewriter, &low), Some((32_767, 1_000_000)), "the first keeps its time");
    let next = meta(0, 65_536 * 2, 1_003_000, now + ms(33));
    assert_eq!(rewrite(&mut rewriter, &next), Some((32_768, 1_003_000)));

    let high = meta(1, 70_000, 5_000_000_000, now + ms(133));
    rewriter.start(&high, &timing);
    assert_eq!(rewrite(&mut rewriter, &high), Some((32_769, 1_012_000)), "100 ms by arrival");
    assert_eq!(rewrite(&mut rewriter, &meta(1, 69_999, 4_999_999_000, now)), None);

    let resumed = meta(1, 71_000, 5_000_000_000 + 900_000, now + ms(10_183));
    rewriter.start(&resumed, &timing);
    assert_eq!(
        rewrite(&mut rewriter, &resumed),
        Some((32_770, 1_912_000)),
        "after a pause timestamps are those of the stream, not of arrivals"
    );
}

#[test]
fn a_switch_follows_the_senders_clock_when_both_reports_are_there() {
    let formats = formats();
    let now = start();
    // Encoding 1 counts from elsewhere: its 9,000,000 is the moment of encoding 0's 90,000.
    let clocks = [clock(now, 100, 90_000), clock(now, 100, 9_000_000)];
    let timing = Timing { formats: &formats, clocks: &clocks, decode_targets: &[] };
    let mut rewriter = RtpRewriter::new(SeqNo(1));
    let low = meta(0, 100, 180_000, now);
    rewriter.start(&low, &timing);
    rewrite(&mut rewriter, &low);
    // Captured 100 ms after the last frame, arrived 400 ms after it.
    let high = meta(1, 500, 9_000_000 + 90_000 + 9_000, now + ms(400));
    rewriter.start(&high, &timing);
    assert_eq!(rewrite(&mut rewriter, &high), Some((2, 189_000)));

    // Back, at a frame captured at the same moment: time still moves.
    let low = meta(0, 200, 189_000, now + ms(410));
    rewriter.start(&low, &timing);
    assert_eq!(rewrite(&mut rewriter, &low), Some((3, 189_090)));
}

#[test]
fn lips_stay_in_sync_across_a_switch() {
    let formats = formats();
    let now = start();
    let clocks = [clock(now, 100, 90_000), clock(now, 100, 9_000_000)];
    let timing = Timing { formats: &formats, clocks: &clocks, decode_targets: &[] };
    let mut rewriter = RtpRewriter::new(SeqNo(1));
    assert_eq!(rewriter.sender_clock(now, &timing), None, "nothing passed yet");
    let low = meta(0, 100, 180_000, now);
    rewriter.start(&low, &timing);
    rewrite(&mut rewriter, &low);
    let high = meta(1, 500, 9_108_000, now + ms(200));
    rewriter.start(&high, &timing);
    let (_, time) = rewrite(&mut rewriter, &high).unwrap();

    // The capture time of a frame by our report is the capture time by the publisher's.
    let report = rewriter.sender_clock(now + ms(700), &timing).unwrap();
    assert_eq!(report.ntp_at(MediaTime(time), 90_000), timing.captured_at(&high).unwrap());
    assert_eq!(report.ntp.signed_since(NtpTime(100 << 32)) >> 22, 716, "0.7 s in 1/1024 s");
}

#[test]
fn another_publisher_under_the_same_indices_does_not_tear_timestamps() {
    let formats = formats();
    let now = start();
    let clocks = [clock(now, 100, 90_000)];
    let timing = Timing { formats: &formats, clocks: &clocks, decode_targets: &[] };
    let mut rewriter = RtpRewriter::new(SeqNo(1));
    let first = meta(0, 100, 180_000, now);
    rewriter.start(&first, &timing);
    rewrite(&mut rewriter, &first);
    for foreign in [7_000_000_000, 10] {
        let before = rewriter.last.unwrap().time_in.0.wrapping_add(rewriter.time_offset);
        let at = rewriter.last.unwrap().received_at + ms(1_000);
        let packet = meta(0, 90_000, foreign, at);
        rewriter.start(&packet, &timing);
        let (_, time) = rewrite(&mut rewriter, &packet).unwrap();
        assert_eq!(time - before, 90_000);
    }
}

/// A packet, and what becomes of it.
#[derive(Clone, Copy)]
struct Packet {
    what: What,
    encoding: u8,
    seq: u64,
    time: u64,
    /// When it came, in milliseconds.
    at: u64,
    /// Number and timestamp; `None`: too late for one, or left out.
    expect: Option<(u64, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// It opens a stream.
    Start,
    Pass,
    /// It is left out by choice.
    Skip,
}

const fn opens(encoding: u8, seq: u64, time: u64, at: u64, expect: (u64, u64)) -> Packet {
    Packet { what: What::Start, encoding, seq, time, at, expect: Some(expect) }
}

const fn pass(seq: u64, time: u64, at: u64, expect: (u64, u64)) -> Packet {
    Packet { what: What::Pass, encoding: 0, seq, time, at, expect: Some(expect) }
}

const fn late(seq: u64, time: u64, at: u64) -> Packet {
    Packet { what: What::Pass, encoding: 0, seq, time, at, expect: None }
}

const fn skip(seq: u64) -> Packet {
    Packet { what: What::Skip, encoding: 0, seq, time: 0, at: 0, expect: None }
}

#[test]
fn numbers_and_timestamps_by_case() {
    struct Case {
        name: &'static str,
        /// Timestamps of encodings 0 and 1 at one moment, by their sender's reports.
        reports: Option<[u64; 2]>,
        packets: Vec<Packet>,
    }
    let cases = [
        Case {
            name: "lost ones leave a gap, late ones fill it",
            reports: None,
            packets: vec![
                opens(0, 100, 3_000, 0, (7, 3_000)),
                pass(103, 12_000, 100, (10, 12_000)),
                pass(101, 6_000, 110, (8, 6_000)),
            ],
        },
        Case {
            name: "left out by choice: closed up, on both sides of what is lost",
            reports: None,
            packets: vec![
                opens(0, 100, 3_000, 0, (7, 3_000)),
                skip(101),
                pass(102, 6_000, 33, (8, 6_000)),
                pass(104, 12_000, 100, (10, 12_000)),
                skip(105),
                skip(106),
                pass(107, 15_000, 133, (11, 15_000)),
                pass(103, 9_000, 140, (9, 9_000)),
                late(101, 3_000, 150),
            ],
        },
        Case {
            name: "too late to close up: it stays a gap",
            reports: None,
            packets: vec![
                opens(0, 100, 3_000, 0, (7, 3_000)),
                pass(102, 6_000, 33, (9, 6_000)),
                skip(101),
                pass(103, 9_000, 66, (10, 9_000)),
            ],
        },
        Case {
            name: "from before the stream",
            reports: None,
            packets: vec![opens(0, 100, 3_000, 0, (7, 3_000)), late(99, 0, 5)],
        },
        Case {
            name: "a switch without reports: by arrival",
            reports: None,
            packets: vec![
                opens(0, 100, 3_000, 0, (7, 3_000)),
                opens(1, 9_000, 777, 50, (8, 7_500)),
                opens(0, 110, 9_000, 80, (9, 10_200)),
            ],
        },
        Case {
            name: "a switch with reports: by the sender's clock, whatever the network did",
            reports: Some([0, 90_000]),
            packets: vec![
                opens(0, 100, 3_000, 0, (7, 3_000)),
                opens(1, 9_000, 96_000, 450, (8, 6_000)),
                opens(0, 110, 9_000, 460, (9, 9_000)),
            ],
        },
        Case {
            name: "captured at the same moment: a millisecond later",
            reports: Some([0, 90_000]),
            packets: vec![
                opens(0, 100, 3_000, 0, (7, 3_000)),
                opens(1, 9_000, 93_000, 10, (8, 3_090)),
            ],
        },
        Case {
            name: "captured before what passed: a millisecond later too",
            reports: Some([0, 90_000]),
            packets: vec![
                opens(0, 100, 6_000, 0, (7, 6_000)),
                opens(1, 9_000, 93_000, 10, (8, 6_090)),
            ],
        },
        Case {
            name: "reports that contradict the arrivals by more than two seconds: by arrival",
            reports: Some([0, 90_000]),
            packets: vec![
                opens(0, 100, 3_000, 0, (7, 3_000)),
                opens(1, 9_000, 93_000 + 90_000 * 60, 100, (8, 12_000)),
            ],
        },
        Case {
            name: "after a pause the stream's own time goes on",
            reports: None,
            packets: vec![
                opens(0, 100, 3_000, 0, (7, 3_000)),
                opens(0, 400, 903_000, 10_500, (8, 903_000)),
            ],
        },
        Case {
            name: "across the wraps of both wire counters",
            reports: None,
            packets: vec![
                opens(0, 65_535, (1 << 32) - 1_000, 0, (7, (1 << 32) - 1_000)),
                pass(65_536, (1 << 32) + 2_000, 33, (8, (1 << 32) + 2_000)),
            ],
        },
    ];
    let formats = formats();
    for case in cases {
        let now = start();
        let clocks = match case.reports {
            Some([first, second]) => [clock(now, 100, first), clock(now, 100, second)],
            None => [None, None],
        };
        let timing = Timing { formats: &formats, clocks: &clocks, decode_targets: &[] };
        let mut rewriter = RtpRewriter::new(SeqNo(7));
        for (index, packet) in case.packets.iter().enumerate() {
            let meta = meta(packet.encoding, packet.seq, packet.time, now + ms(packet.at));
            match packet.what {
                What::Start => rewriter.start(&meta, &timing),
                What::Pass => {}
                What::Skip => {
                    rewriter.skip(&meta);
                    continue;
                }
            }
            let given = rewrite(&mut rewriter, &meta);
            assert_eq!(given, packet.expect, "{}, packet {index}", case.name);
        }
    }
}

proptest! {
    /// Loss, reordering and drops by choice, over two switches: no number twice, order kept within a stream.
    #[test]
    fn no_number_is_given_twice(
        packets in prop::collection::vec((0u64..12, 0u8..4, any::<bool>()), 30..300),
    ) {
        let formats = formats();
        let timing = Timing { formats: &formats, clocks: &[None, None, None], decode_targets: &[] };
        let now = start();
        let mut rewriter = RtpRewriter::new(SeqNo(100));
        let mut given = BTreeMap::new();
        let third = packets.len() / 3;
        for (encoding, part) in packets.chunks(third).enumerate().take(3) {
            let base = 65_536 + 10_000 * encoding as u64;
            let mut order: Vec<(u64, u64, bool)> = part
                .iter()
                .zip(0u64..)
                .filter(|((_, lost, _), n)| *lost != 0 || *n == 0)
                .map(|((delay, _, drop), n)| {
                    let delay = if n == 0 { 0 } else { *delay };
                    (n + delay, base + n, *drop && n != 0)
                })
                .collect();
            order.sort_unstable();
            rewriter.start(&meta(encoding as u8, base, base * 3_000, now), &timing);
            let mut last_of_stream = BTreeMap::new();
            for (_, seq, drop) in order {
                let packet = meta(encoding as u8, seq, seq * 3_000, now);
                if drop {
                    rewriter.skip(&packet);
                } else if let Some((out, _)) = rewrite(&mut rewriter, &packet) {
                    prop_assert!(given.insert(out, (encoding, seq)).is_none(), "{out} twice");
                    last_of_stream.insert(seq, out);
                }
            }
            let outs: Vec<u64> = last_of_stream.into_values().collect();
            prop_assert!(outs.is_sorted_by(|a, b| a < b));
        }
        let streams: Vec<usize> = given.into_values().map(|(encoding, _)| encoding).collect();
        prop_assert!(streams.is_sorted(), "a stream begins above the one before");
    }
}
