use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    cache::test_packets::{meta, ms, start},
    rtp::MediaTime,
};

/// A packet of a frame of its own.
fn plain(seq: u64) -> Rewritten {
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

proptest! {
    #[test]
    fn what_was_kept_is_what_is_found(
        time in any::<u32>(),
        ingress in (1_u64 << 33) - (1 << 20)..(1 << 33) + (1 << 20),
        later in -(1_i64 << 20)..1 << 20,
        encoding in 0..EncodingSet::MAX,
        markers in any::<[bool; 2]>(),
        count in 1..=u8::MAX,
        bytes in prop::collection::vec(any::<u8>(), 0..=CodecPatch::MAX_LEN),
        frame in proptest::option::of(any::<u16>()),
        active in proptest::option::of((any::<u32>(), 1..=32_u8)),
    ) {
        let now = start();
        let mut patch = CodecPatch::new(3);
        bytes.into_iter().for_each(|byte| patch.push(byte));
        let active = active.map(|(mask, count)| ActiveTargets { mask, count });
        let descriptor = frame.map(|frame_number| DescriptorPatch { frame_number, active });
        let [marker, came] = markers;
        let rewritten = Rewritten {
            seq: SeqNo(1 << 33 | 5),
            time: MediaTime(1 << 35 | u64::from(time)),
            marker,
            patch,
            descriptor,
            opens: false,
            awaited: false,
        };
        let mut records = Records::new(now);
        let first = PacketMeta { marker: came, ..meta(encoding, ingress, 0, now) };
        records.insert(records.clock(now), &first, &rewritten, count);
        // Of another encoding, whose numbers are others.
        let end = (1 << 33 | 5) + u64::from(count);
        let other = ingress.saturating_add_signed(later);
        let next = Rewritten { seq: SeqNo(end), ..rewritten };
        records.insert(records.clock(now), &meta(0, other, 0, now), &next, 1);
        for place in 0..count.into() {
            let expected = Record {
                time: RtpTs32(time),
                ingress_seq: SeqNo(ingress + place),
                patch,
                descriptor,
                encoding,
                ends_picture: marker && !came,
            };
            prop_assert_eq!(records.get(SeqNo((1 << 33 | 5) + place)), Some(expected));
        }
        prop_assert_eq!(records.get(SeqNo(end)).map(|it| it.ingress_seq), Some(SeqNo(other)));
        prop_assert_eq!(records.get(SeqNo(1 << 33 | 4)), None);
        prop_assert_eq!(records.get(SeqNo(end + 1)), None);
    }

    /// Any order of arrival and any losses, frames of any length: what was sent is found as it was sent, and nothing else is.
    #[test]
    fn what_was_sent_in_any_order_is_found(
        steps in prop::collection::vec((1_u64..6, 0_u64..30, 0_u8..8), 1..400),
    ) {
        let mut sent = Vec::new();
        let mut seq = u64::from(u32::MAX) - 200;
        for (count, late, luck) in steps {
            let delay = if luck == 0 { late } else { 0 };
            if luck != 1 {
                sent.push((seq + delay, seq, count));
            }
            seq += count;
        }
        sent.sort_unstable();
        let mut records = Records::new(start());
        for (_, seq, count) in &sent {
            let rewritten = Rewritten { time: MediaTime(*seq), ..plain(*seq) };
            records.insert(records.clock(start()), &meta(0, seq + 7, 0, start()), &rewritten, *count as u8);
        }
        let known: BTreeMap<u64, u64> =
            sent.iter().flat_map(|(_, first, count)| (*first..first + count).map(|seq| (seq, *first))).collect();
        for seq in u64::from(u32::MAX) - 210..seq + 10 {
            let found = records.get(SeqNo(seq)).map(|record| (record.time, record.ingress_seq));
            let expected =
                known.get(&seq).map(|first| (MediaTime(*first).ts32(), SeqNo(seq + 7)));
            prop_assert_eq!(found, expected, "{}", seq);
        }
    }
}

#[test]
fn what_was_sent_within_a_second_is_found_wherever_numbers_begin() {
    for first in [1, 5, 15, 16, 63, 64] {
        let now = start();
        let mut records = Records::new(now);
        for seq in first..first + 100 {
            records.insert(records.clock(now), &meta(0, seq + 7, 0, now), &plain(seq), 1);
        }
        for seq in first..first + 100 {
            let found = records.get(SeqNo(seq)).map(|record| record.ingress_seq);
            assert_eq!(found, Some(SeqNo(seq + 7)), "from {first}");
        }
    }
}

#[test]
fn a_ring_is_hardly_longer_than_a_second_of_its_stream() {
    let mut records = Records::new(start());
    let mut seq = 0;
    for frame in 0..300_u64 {
        // 30 frames a second, each as far from its time as an uplink moves it, over the end of the 64 s that a record tells.
        let now = start() + ms(60_000 + frame * 1_000 / 30 + frame * 7 % 13);
        for _ in 0..4 {
            seq += 1;
            let rewritten = Rewritten { time: MediaTime(frame), ..plain(seq) };
            records.insert(records.clock(now), &meta(0, seq, 0, now), &rewritten, 1);
            let known = |seq| records.get(SeqNo(seq)).is_some();
            assert!((seq.saturating_sub(119)..=seq).filter(|seq| *seq > 0).all(known), "{seq}");
        }
    }
    assert!(records.slots.capacity() <= 40, "{}", records.slots.capacity());
}

#[test]
fn what_comes_late_makes_a_ring_no_longer_and_holes_lose_nothing() {
    let mut records = Records::new(start());
    let mut late = Vec::new();
    for seq in 1..2_400_u64 {
        // 120 packets a second, of which one in twenty comes 150 ms later than its turn, and some never.
        let now = start() + ms(seq * 1_000 / 120);
        match seq % 80 {
            0 | 16 | 32 | 48 => late.push(seq),
            5 | 63 => {}
            _ => records.insert(records.clock(now), &meta(0, seq, 0, now), &plain(seq), 1),
        }
        let due = late.iter().filter(|late| **late + 18 <= seq).copied().collect::<Vec<_>>();
        late.retain(|late| !due.contains(late));
        for seq in due {
            records.insert(records.clock(now), &meta(0, seq, 0, now), &plain(seq), 1);
        }
        for known in (seq.saturating_sub(100)..=seq).filter(|known| *known > 0) {
            let missing = [5, 63].contains(&(known % 80)) || late.contains(&known);
            assert_eq!(records.get(SeqNo(known)).is_some(), !missing, "{known} at {seq}");
        }
    }
    assert!(records.slots.capacity() <= 176, "{}", records.slots.capacity());
}

#[test]
fn a_resend_is_claimed_once_a_round_trip_whatever_the_clock_says() {
    // The clock of records begins anew after 64 s, that of resends does not.
    let sent = start() + ms(65_500);
    let mut records = Records::new(start());
    records.insert(records.clock(sent), &meta(0, 4, 0, sent), &plain(9), 1);
    let rtt = Duration::from_millis(50);
    assert!(records.claim_resend(sent + ms(20), SeqNo(9), rtt));
    assert!(!records.claim_resend(sent + ms(69), SeqNo(9), rtt));
    assert!(records.claim_resend(sent + ms(70), SeqNo(9), rtt));
    assert!(!records.claim_resend(sent + ms(70), SeqNo(8), rtt), "never sent");
}

#[test]
fn what_was_sent_within_a_second_is_known_however_late_it_came() {
    for (late, phase) in (1..30_u64).flat_map(|late| (0..9).map(move |phase| (late, phase))) {
        let mut records = Records::new(start());
        let mut sent = Vec::new();
        for seq in 1..70_u64 {
            // 30 frames a second, each ninth of which comes late.
            let now = start() + ms(seq * 33);
            let in_time = (seq % 9 != phase).then_some((now, seq));
            // Between two frames.
            let due = seq.checked_sub(late).filter(|seq| *seq > 0 && seq % 9 == phase);
            for (now, seq) in in_time.into_iter().chain(due.map(|seq| (now + ms(10), seq))) {
                records.insert(records.clock(now), &meta(0, seq, 0, now), &plain(seq), 1);
                sent.push(seq);
            }
            // Of what had its turn within a second.
            for known in sent.iter().filter(|known| **known + 28 > seq) {
                assert!(records.get(SeqNo(*known)).is_some(), "{known}, others {late} late");
            }
        }
        assert!(records.slots.capacity() <= 64, "{}", records.slots.capacity());
    }
}

#[test]
fn what_comes_behind_too_many_others_has_no_record() {
    let now = start();
    for (behind, known) in [(Records::MAX_LATE, true), (Records::MAX_LATE + 5, false)] {
        let mut records = Records::new(now);
        let last = 1_000 + behind as u64;
        for seq in (900..1_000).chain(1_001..=last).chain([1_000]) {
            records.insert(records.clock(now), &meta(0, seq, 0, now), &plain(seq), 1);
        }
        assert_eq!(records.get(SeqNo(1_000)).is_some(), known, "{behind}");
        assert!(records.get(SeqNo(999)).is_some() && records.get(SeqNo(1_001)).is_some());
    }
}

#[test]
fn a_burst_that_is_asked_for_twice_is_sent_again_once() {
    let now = start();
    let mut records = Records::new(now);
    for seq in 1..=250 {
        records.insert(records.clock(now), &meta(0, seq, 0, now), &plain(seq), 1);
    }
    let rtt = Duration::from_millis(50);
    let claim = |records: &mut Records, after| {
        (1..=250).filter(|seq| records.claim_resend(now + ms(after), SeqNo(*seq), rtt)).count()
    };
    assert_eq!(claim(&mut records, 10), 250);
    assert_eq!(claim(&mut records, 30), 0);
    assert_eq!(claim(&mut records, 60), 250);
}

#[test]
fn packets_share_a_record_only_where_all_is_the_same() {
    let now = start();
    let patch = |byte| {
        let mut patch = CodecPatch::new(2);
        patch.push(byte);
        patch
    };
    let descriptor = |mask: u32| DescriptorPatch {
        frame_number: 3,
        active: Some(ActiveTargets { mask, count: 4 }),
    };
    let first = Rewritten { patch: patch(1), descriptor: Some(descriptor(5)), ..plain(7) };
    let second = Rewritten { seq: SeqNo(8), ..first };
    let others = [
        Rewritten { time: MediaTime(8), ..second },
        Rewritten { patch: patch(2), ..second },
        Rewritten { descriptor: None, ..second },
        Rewritten { descriptor: Some(descriptor(6)), ..second },
        Rewritten {
            descriptor: Some(DescriptorPatch { frame_number: 4, ..descriptor(5) }),
            ..second
        },
    ];
    for other in [second].into_iter().chain(others) {
        let mut records = Records::new(now);
        records.insert(records.clock(now), &meta(0, 100, 0, now), &first, 1);
        records.insert(records.clock(now), &meta(0, 101, 0, now), &other, 1);
        assert_eq!(records.slots.is_empty(), other == second, "{other:?}");
        let found = records.get(SeqNo(8)).unwrap();
        assert_eq!((found.time, found.patch), (other.time.ts32(), other.patch));
        assert_eq!((found.descriptor, found.ingress_seq), (other.descriptor, SeqNo(101)));
    }
    let mut records = Records::new(now);
    records.insert(records.clock(now), &meta(0, 100, 0, now), &first, 1);
    records.insert(records.clock(now), &meta(0, 102, 0, now), &second, 1);
    assert!(!records.slots.is_empty(), "a number is missing at ingress");
}
