#![allow(clippy::disallowed_methods)] // any instant will do

use proptest::prelude::*;

use super::*;
use crate::wire::rtcp::{ArrivalTick, CompoundWriter, Message, TransportFeedbackFields, messages};

const MS: Duration = Duration::from_millis(1);

/// A sender over a path of one rate with a queue, in steps of a millisecond; feedback each 100 ms over the wire.
struct Link {
    estimator: SendSideEstimator,
    start: Instant,
    at_ms: u32,
    number: u16,
    capacity_bps: f64,
    /// When the path is free again, in milliseconds.
    free_ms: f64,
    /// (arrival in ticks, if any), from `base`.
    arrivals: Vec<Option<ArrivalTick>>,
    base: u16,
    credit: f64,
    /// Sends at this share of the estimate.
    share: f64,
    silent: bool,
    probe: Option<(Probe, u64)>,
}

impl Link {
    fn new(start_kbps: u64, capacity_kbps: u64) -> Self {
        let start = Instant::now();
        let config =
            EstimatorConfig { start: Bitrate::from_kbps(start_kbps), ..EstimatorConfig::default() };
        let mut estimator = SendSideEstimator::new(start, config);
        estimator.set_wanted(start, Bitrate::from_kbps(10_000));
        Self {
            estimator,
            start,
            at_ms: 0,
            number: 65_000,
            capacity_bps: capacity_kbps as f64 * 1e3,
            free_ms: 0.0,
            arrivals: Vec::new(),
            base: 65_000,
            credit: 0.0,
            share: 1.0,
            silent: false,
            probe: None,
        }
    }

    fn now(&self) -> Instant {
        self.start + MS * self.at_ms
    }

    fn run(&mut self, ms: u32) -> u64 {
        for _ in 0..ms {
            self.at_ms += 1;
            let now = self.now();
            if self.estimator.poll_timeout().is_some_and(|due| due <= now) {
                self.estimator.handle_timeout(now);
            }
            if let Some(probe) = self.estimator.poll_probe(now) {
                self.probe = Some((probe, 0));
            }
            let rate = match self.probe {
                Some((probe, _)) => probe.rate.bps() as f64,
                None => self.estimator.estimate().bps() as f64 * self.share,
            };
            self.credit += rate / 8e3;
            while self.credit >= 1_000.0 {
                self.credit -= 1_000.0;
                self.send(now);
            }
            if self.at_ms.is_multiple_of(100) {
                self.feed_back();
            }
        }
        self.estimator.estimate().bps() / 1_000
    }

    fn send(&mut self, now: Instant) {
        let probe = self.probe.map(|(probe, _)| probe.id);
        self.estimator.handle_sent(now, self.number, DataSize::from_bytes(1_000), probe);
        self.number = self.number.wrapping_add(1);
        if let Some((probe, sent)) = &mut self.probe {
            *sent += 1_000;
            if *sent >= probe.size.bytes() && *sent >= u64::from(probe.packets) * 1_000 {
                self.probe = None;
            }
        }
        let now_ms = f64::from(self.at_ms);
        let wait_ms = (self.free_ms - now_ms).max(0.0);
        if wait_ms > 300.0 {
            self.arrivals.push(None);
            return;
        }
        self.free_ms = now_ms + wait_ms + 8e6 / self.capacity_bps;
        self.arrivals.push(Some(ArrivalTick(((self.free_ms + 20.0) * 4.0) as i64)));
    }

    /// Tells of everything that arrived by now.
    fn feed_back(&mut self) {
        let now_tick = i64::from(self.at_ms) * 4;
        let known = self
            .arrivals
            .iter()
            .rposition(|at| at.is_some_and(|at| at.0 <= now_tick))
            .map_or(0, |index| index + 1);
        let arrivals: Vec<_> = self.arrivals.drain(..known).collect();
        let base_seq = self.base;
        self.base = base_seq.wrapping_add(known as u16);
        if self.silent || known == 0 {
            return;
        }
        let mut buf = [0; 4_096];
        let mut writer = CompoundWriter::new(&mut buf);
        let fields = TransportFeedbackFields {
            sender: Ssrc(1),
            media: Ssrc(2),
            base_seq,
            feedback_count: 0,
        };
        assert_eq!(writer.transport_cc(&fields, &arrivals), Ok(known));
        let len = writer.len();
        let now = self.now();
        for message in messages(&buf[..len]) {
            let Ok(Message::TransportCc(feedback)) = message else { panic!("{message:?}") };
            self.estimator.handle_transport_cc(now, &feedback);
        }
    }
}

#[test]
fn the_first_seconds_find_the_path() {
    struct Case {
        start_kbps: u64,
        capacity_kbps: u64,
    }
    for case in [
        Case { start_kbps: 800, capacity_kbps: 5_000 },
        Case { start_kbps: 800, capacity_kbps: 600 },
        Case { start_kbps: 300, capacity_kbps: 2_000 },
    ] {
        let mut link = Link::new(case.start_kbps, case.capacity_kbps);
        let kbps = link.run(3_000);
        let good = case.capacity_kbps * 75 / 100..=case.capacity_kbps * 105 / 100;
        assert!(good.contains(&kbps), "{} kb/s: {kbps} after 3 s", case.capacity_kbps);
    }
}

#[test]
fn the_estimate_follows_a_fall_and_a_rise() {
    let mut link = Link::new(800, 2_500);
    link.run(10_000);
    link.capacity_bps = 600e3;
    let kbps = link.run(1_500);
    assert!(kbps <= 600, "{kbps} after the fall");
    let kbps = link.run(8_000);
    assert!((480..=630).contains(&kbps), "{kbps} later");
    link.capacity_bps = 2_500e3;
    let kbps = link.run(10_000);
    assert!(kbps >= 2_000, "{kbps} after the rise");
}

#[test]
fn nothing_is_probed_for_that_nobody_wants() {
    let mut link = Link::new(800, 20_000);
    link.estimator.set_wanted(link.start, Bitrate::from_kbps(1_000));
    link.share = 0.3;
    let kbps = link.run(60_000);
    assert!((800..=1_300).contains(&kbps), "{kbps}");
    let before = link.estimator.stats().probes;
    link.run(60_000);
    assert_eq!(link.estimator.stats().probes, before, "what is wanted fits");

    link.estimator.set_wanted(link.now(), Bitrate::from_kbps(5_000));
    link.run(2_000);
    assert!(link.estimator.estimate() >= Bitrate::from_kbps(4_000), "more is wanted");
}

#[test]
fn a_receiver_that_falls_silent_costs_rate_and_comes_back() {
    let mut link = Link::new(800, 2_000);
    link.run(10_000);
    link.silent = true;
    let kbps = link.run(10_000);
    assert_eq!(kbps, 50, "the minimum");
    assert_eq!(link.estimator.stats().limit, Limit::Silence);
    link.silent = false;
    let kbps = link.run(10_000);
    assert!(kbps >= 1_000, "{kbps}");
}

#[test]
fn remb_counts_until_feedback_by_packet_comes() {
    let now = Instant::now();
    let mut estimator = SendSideEstimator::new(now, EstimatorConfig::default());
    estimator.handle_remb(now, Bitrate::from_kbps(1_234));
    assert_eq!(estimator.estimate(), Bitrate::from_kbps(1_234));
    assert_eq!(estimator.stats().limit, Limit::Remb);
    let mut link = Link::new(800, 5_000);
    link.run(1_000);
    let before = link.estimator.estimate();
    link.estimator.handle_remb(link.now(), Bitrate::from_kbps(100));
    assert_eq!(link.estimator.estimate(), before);
}

#[test]
fn memory_stays_within_twenty_kibibytes() {
    // The ring is the only thing on the heap: 2,048 records of 8 bytes.
    let size = size_of::<SendSideEstimator>() + 2_048 * 8;
    assert!(size <= 20 * 1_024, "{size}");
}

fn feedback_bytes() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(any::<u8>(), 8..200);
    (body, any::<bool>()).prop_map(|(mut body, small)| {
        body.resize(body.len() / 4 * 4, 0);
        if small {
            // Numbers that were sent, and few of them.
            let base = u16::from(body[0]) * 4;
            body[0..2].copy_from_slice(&base.to_be_bytes());
            body[2] = 0;
        }
        let words = (body.len() / 4 + 2) as u16;
        let mut message = vec![0x8f, 205];
        message.extend(words.to_be_bytes());
        message.extend([0; 8]);
        message.extend(body);
        message
    })
}

proptest! {
    #[test]
    fn random_feedback_neither_panics_nor_leaves_the_bounds(
        feedback in prop::collection::vec((feedback_bytes(), 0u32..3_000), 1..60),
    ) {
        let start = Instant::now();
        let config = EstimatorConfig::default();
        let mut estimator = SendSideEstimator::new(start, config);
        estimator.set_wanted(start, Bitrate::from_kbps(4_000));
        let (mut now, mut number) = (start, 0u16);
        for (bytes, pause) in feedback {
            for _ in 0..20 {
                let probe = estimator.poll_probe(now);
                let size = DataSize::from_bytes(1_000);
                estimator.handle_sent(now, number, size, probe.map(|probe| probe.id));
                number = number.wrapping_add(1);
                now += MS * (pause / 20);
            }
            for message in messages(&bytes).flatten() {
                if let Message::TransportCc(feedback) = message {
                    estimator.handle_transport_cc(now, &feedback);
                }
            }
            if estimator.poll_timeout().is_some_and(|due| due <= now) {
                estimator.handle_timeout(now);
            }
            let estimate = estimator.estimate();
            prop_assert!(estimate >= config.min && estimate <= config.max, "{estimate}");
            prop_assert!((0.0..=1.0).contains(&estimator.loss()));
        }
    }
}
