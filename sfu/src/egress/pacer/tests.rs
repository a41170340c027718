#![allow(clippy::disallowed_methods)] // any instant will do

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn bytes(bytes: u64) -> DataSize {
    DataSize::from_bytes(bytes)
}

/// Sends packets of 1,200 bytes whenever allowed for `time`, waking up `late` after each deadline. Gives (bytes, longest
/// burst in bytes).
fn drain(pacer: &mut Pacer, start: Instant, time: Duration, late: Duration) -> (u64, u64) {
    let (mut now, mut sent, mut longest) = (start, 0, 0);
    while now < start + time {
        let mut burst = 0;
        while pacer.can_send(now) {
            pacer.handle_sent(now, bytes(1_200));
            burst += 1_200;
        }
        sent += burst;
        longest = longest.max(burst);
        now = pacer.poll_timeout().expect("a burst ends") + late;
    }
    (sent, longest)
}

#[test]
fn a_full_queue_leaves_at_the_factor_times_the_estimate_in_short_bursts() {
    for (kbps, late) in
        [(300, Duration::ZERO), (1_000, Duration::ZERO), (10_000, Duration::ZERO), (10_000, MS * 2)]
    {
        let start = Instant::now();
        let estimate = Bitrate::from_kbps(kbps);
        let mut pacer = Pacer::new(start, estimate);
        let (sent, longest) = drain(&mut pacer, start, MS * 1_000, late);
        let expected = estimate.over(MS * 1_250).bytes();
        assert!(sent.abs_diff(expected) <= expected / 50 + 1_200, "{kbps}: {sent} of {expected}");
        let burst = estimate.over(Pacer::BURST + late).bytes() * 5 / 4;
        assert!(longest <= burst + 1_200, "{kbps}: burst of {longest}");
    }
}

#[test]
fn audio_passes_and_holds_video_back() {
    let start = Instant::now();
    let mut pacer = Pacer::new(start, Bitrate::from_kbps(100));
    assert!(pacer.can_send(start));
    pacer.handle_sent(start, bytes(1_250)); // 80 ms at 125 kb/s
    pacer.handle_sent(start, bytes(1_250));
    assert!(!pacer.can_send(start + MS * 159));
    assert!(pacer.can_send(start + MS * 160));
    assert_eq!(pacer.poll_timeout(), Some(start + MS * 160));

    // A higher estimate shortens the wait.
    pacer.set_estimate(start, Bitrate::from_kbps(1_000));
    assert!(pacer.can_send(start + MS * 16));
}

#[test]
fn a_probe_leaves_at_its_rate_and_no_larger_than_stated() {
    let start = Instant::now();
    let mut pacer = Pacer::new(start, Bitrate::from_kbps(500));
    let probe =
        Probe { id: ProbeId(7), rate: Bitrate::from_kbps(2_000), size: bytes(10_000), packets: 6 };
    assert_eq!(pacer.poll_padding(start), None);
    pacer.start_probe(start, probe);
    let (mut now, mut sent, mut packets) = (start, 0u64, 0);
    // One packet of media comes on the way.
    assert_eq!(pacer.handle_sent(now, bytes(1_000)), Some(ProbeId(7)));
    while pacer.is_probing() {
        while let Some(size) = pacer.poll_padding(now) {
            assert_eq!(pacer.handle_sent(now, size), Some(ProbeId(7)));
            sent += size.bytes();
            packets += 1;
        }
        now = pacer.poll_timeout().unwrap_or(now);
    }
    assert!((9_000..=9_000 + Pacer::PADDING).contains(&sent), "{sent}");
    assert!(packets >= 5);
    let took = now - start;
    assert!((MS * 32..=MS * 60).contains(&took), "10,000 bytes at 2 Mb/s take 40 ms, not {took:?}");
    assert_eq!(pacer.handle_sent(now, bytes(1_000)), None);
}

#[test]
fn a_probe_without_packets_ends() {
    let start = Instant::now();
    let mut pacer = Pacer::new(start, Bitrate::from_kbps(500));
    let probe =
        Probe { id: ProbeId(7), rate: Bitrate::from_kbps(2_000), size: bytes(10_000), packets: 6 };
    pacer.start_probe(start, probe);
    assert_eq!(pacer.handle_sent(start + MS * 300, bytes(1_000)), None);
    assert!(!pacer.is_probing());
}

#[test]
fn retransmissions_have_a_share() {
    let start = Instant::now();
    let mut pacer = Pacer::new(start, Bitrate::from_kbps(1_000));
    let mut resent = 0u64;
    // A storm: somebody asks for a packet each millisecond, for ten seconds.
    for n in 0..10_000 {
        if pacer.may_resend(start + MS * n, bytes(1_200)) {
            resent += 1_200;
        }
    }
    let share = Bitrate::from_kbps(250).over(MS * 10_000).bytes();
    assert!(resent.abs_diff(share) <= share / 10, "{resent} of {share}");
}

proptest! {
    #[test]
    fn no_order_of_calls_panics_or_blocks_for_long(
        calls in prop::collection::vec((0u8..5, 0u64..3_000_000_000, 0u64..2_000), 1..200),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut pacer = Pacer::new(now, Bitrate::from_kbps(1));
        for (call, number, pause) in calls {
            now += MS * (pause as u32 % 300);
            match call {
                0 => pacer.set_estimate(now, Bitrate::from_bps(number)),
                1 => drop(pacer.handle_sent(now, bytes(number % 100_000))),
                2 => drop(pacer.may_resend(now, bytes(number % 100_000))),
                3 => pacer.start_probe(now, Probe {
                    id: ProbeId(1),
                    rate: Bitrate::from_bps(number),
                    size: bytes(pause),
                    packets: 6,
                }),
                _ => drop(pacer.poll_padding(now)),
            }
            if let Some(at) = pacer.poll_timeout() {
                prop_assert!(at <= now + MS * 500);
                prop_assert!(pacer.can_send(at.max(now)));
            }
        }
    }
}
