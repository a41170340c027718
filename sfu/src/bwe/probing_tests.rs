use super::*;

const MS: Duration = Duration::from_millis(1);

const SITUATION: Situation = Situation {
    now: Duration::ZERO,
    estimate_bps: 1e6,
    useful_bps: 10e6,
    app_limited: false,
    capacity_known: true,
    verified: true,
    calm: true,
    peak_bps: 0.0,
    since_fall: None,
};

/// Sends the probe at its rate over a path of `path_bps` with `jitter_ms` on every other packet.
fn send(prober: &mut Prober, probe: Probe, now: Duration, path_bps: f64, jitter_ms: i64) {
    let (mut sent, mut left) = (0, now);
    let mut free_us = 0i64;
    let mut n = 0;
    while sent < probe.size.bytes() || n < probe.packets {
        prober.handle_sent(left, probe.id, 1_200);
        let at_us = left.as_micros() as i64;
        free_us = free_us.max(at_us) + (1_200.0 * 8e6 / path_bps) as i64;
        let jitter_us = if n % 2 == 0 { jitter_ms * 1_000 } else { 0 };
        prober.handle_arrived(probe.id, 1_200, free_us + 50_000 + jitter_us);
        left += Duration::from_secs_f64(1_200.0 * 8.0 / probe.rate.bps() as f64);
        sent += 1_200;
        n += 1;
    }
}

#[test]
fn a_probe_measures_the_path_or_its_own_rate() {
    struct Case {
        name: &'static str,
        path_bps: f64,
        jitter_ms: i64,
        passed: bool,
        mbps: std::ops::RangeInclusive<f64>,
    }
    let cases = [
        Case { name: "wide", path_bps: 100e6, jitter_ms: 0, passed: true, mbps: 2.9..=3.0 },
        Case {
            name: "wide with jitter",
            path_bps: 100e6,
            jitter_ms: 3,
            passed: true,
            mbps: 2.7..=3.0,
        },
        Case { name: "narrow", path_bps: 1.5e6, jitter_ms: 0, passed: false, mbps: 1.4..=1.5 },
    ];
    for case in cases {
        let mut prober = Prober::new(0);
        let probe = prober.poll(SITUATION).expect("the first");
        assert_eq!(prober.poll(SITUATION), None, "one at a time");
        send(&mut prober, probe, MS * 5, case.path_bps, case.jitter_ms);
        let (passed, bps) = match prober.poll_outcome(MS * 200) {
            Some(Outcome::Passed(bps)) => (true, bps),
            Some(Outcome::Saturated(bps)) => (false, bps),
            None => panic!("{}: nothing measured", case.name),
        };
        assert_eq!(passed, case.passed, "{}: {bps}", case.name);
        assert!(case.mbps.contains(&(bps / 1e6)), "{}: {bps}", case.name);
        // What passed is followed up at once, what did not is not.
        let next = prober.poll(Situation { now: MS * 201, estimate_bps: bps, ..SITUATION });
        assert_eq!(next.is_some(), case.passed, "{}", case.name);
    }
}

#[test]
fn probes_come_for_a_reason() {
    struct Case {
        name: &'static str,
        situation: Situation,
        wanted_rose: bool,
        kbps: Option<u64>,
    }
    let later = Situation { now: MS * 4_000, ..SITUATION };
    let cases = [
        Case { name: "too early", situation: later, wanted_rose: false, kbps: None },
        Case {
            name: "application-limited, five seconds later",
            situation: Situation { now: MS * 5_500, app_limited: true, ..later },
            wanted_rose: false,
            kbps: Some(2_000),
        },
        Case {
            name: "more is wanted",
            situation: Situation { useful_bps: 1.5e6, ..later },
            wanted_rose: true,
            kbps: Some(1_500),
        },
        Case {
            name: "no more can be used",
            situation: Situation { now: MS * 60_000, useful_bps: 1.05e6, ..later },
            wanted_rose: true,
            kbps: None,
        },
        Case {
            name: "a queue grows",
            situation: Situation { now: MS * 60_000, calm: false, ..later },
            wanted_rose: true,
            kbps: None,
        },
        Case {
            name: "after a large fall",
            situation: Situation { peak_bps: 3e6, since_fall: Some(MS * 2_500), ..later },
            wanted_rose: false,
            kbps: Some(2_000),
        },
        Case {
            name: "too soon after it",
            situation: Situation { peak_bps: 3e6, since_fall: Some(MS * 1_500), ..later },
            wanted_rose: false,
            kbps: None,
        },
    ];
    for case in cases {
        let mut prober = Prober::new(0);
        let first = prober.poll(SITUATION).expect("the first");
        send(&mut prober, first, MS * 5, 1e6, 0);
        prober.poll_outcome(MS * 200).expect("measured");
        if case.wanted_rose {
            prober.handle_wanted_rose();
        }
        let probe = prober.poll(case.situation);
        assert_eq!(probe.map(|probe| probe.rate.bps() / 1_000), case.kbps, "{}", case.name);
    }
}

#[test]
fn a_probe_that_nobody_answers_is_given_up() {
    let mut prober = Prober::new(0);
    let first = prober.poll(SITUATION).expect("the first");
    assert_eq!(prober.poll_timeout(false, true), Some(MS * 1_000));
    let next = Situation { now: MS * 6_000, app_limited: true, ..SITUATION };
    let second = prober.poll(next).expect("another");
    assert_ne!(first.id, second.id);
}
