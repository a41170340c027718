//! The estimator and the pacer under any order of sending, waiting and feedback, the latter as bytes from the wire: any
//! bytes, and what an honest receiver writes of a path with any delays and losses.
#![no_main]

use std::time::{Duration, Instant};

use chappe_sfu::{
    bwe::{EstimatorConfig, SendSideEstimator},
    egress::Pacer,
    ingress::TwccRecorder,
    rtp::{Bitrate, DataSize, Ssrc},
    wire::rtcp::{CompoundWriter, Message, messages},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let start = Instant::now();
    let config = EstimatorConfig::default();
    let mut now = start;
    let mut estimator = SendSideEstimator::new(now, config);
    let mut pacer = Pacer::new(now, estimator.estimate());
    estimator.set_wanted(now, Bitrate::from_kbps(5_000));
    let mut receiver = TwccRecorder::new(start);
    let (mut number, mut next, mut rest) = (0u16, 0u16, data);
    while let Some(([step, value], tail)) = rest.split_first_chunk() {
        rest = tail;
        let value = *value;
        match step % 7 {
            // A burst.
            0 => {
                for _ in 0..value % 32 {
                    let size = DataSize::from_bytes(200 + u64::from(value) * 4);
                    let probe = pacer.handle_sent(now, size);
                    estimator.handle_sent(now, number, size, probe);
                    number = number.wrapping_add(1);
                }
            }
            1 => now += Duration::from_millis(u64::from(value) * 4),
            2 => {
                let at = usize::from(value).min(rest.len());
                let (body, tail) = rest.split_at(at);
                rest = tail;
                feed(&mut estimator, now, body, number);
            }
            3 => {
                number = number.wrapping_add(u16::from(value) << 6);
                next = number;
            }
            4 => estimator.set_wanted(now, Bitrate::from_kbps(u64::from(value) * 100)),
            // Packets arrive, each as late as its byte says, or not at all.
            5 => {
                let count = usize::from(number.wrapping_sub(next).min(u16::from(value)));
                let (fates, tail) = rest.split_at(count.min(rest.len()));
                rest = tail;
                for fate in fates {
                    if let Some(late) = fate.checked_add(1) {
                        let at = now + Duration::from_micros(u64::from(late).pow(2) * 10);
                        receiver.record(at, Ssrc(2), next);
                    }
                    next = next.wrapping_add(1);
                }
                now += Duration::from_millis(100);
                answer(&mut estimator, &mut receiver, now);
            }
            _ => estimator.handle_remb(now, Bitrate::from_bps(1 << (value % 64))),
        }
        if estimator.poll_timeout().is_some_and(|due| due <= now) {
            estimator.handle_timeout(now);
        }
        if let Some(probe) = estimator.poll_probe(now) {
            pacer.start_probe(now, probe);
        }
        let estimate = estimator.estimate();
        assert!(estimate >= config.min && estimate <= config.max, "{estimate}");
        pacer.set_estimate(now, estimate);
        if let Some(padding) = pacer.poll_padding(now) {
            assert!(padding.bytes() <= 1_200);
        }
        if let Some(at) = pacer.poll_timeout() {
            assert!(at <= now + Duration::from_millis(500));
        }
        assert!((0.0..=1.0).contains(&estimator.loss()));
    }
});

/// The feedback that is due, as it is written.
fn answer(estimator: &mut SendSideEstimator, receiver: &mut TwccRecorder, now: Instant) {
    loop {
        let mut buf = [0; 1_200];
        let mut writer = CompoundWriter::new(&mut buf);
        let done = receiver.poll_feedback(now, Ssrc(1), &mut writer);
        let len = writer.len();
        for message in messages(&buf[..len]).flatten() {
            if let Message::TransportCc(feedback) = message {
                estimator.handle_transport_cc(now, &feedback);
            }
        }
        if done.is_ok() || len == 0 {
            return;
        }
    }
}

/// Any bytes become the body of a feedback message; its packet numbers start near those in use.
fn feed(estimator: &mut SendSideEstimator, now: Instant, body: &[u8], number: u16) {
    let mut message = vec![0x8f, 205, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
    let base = body.first().map_or(0, |back| number.wrapping_sub(u16::from(*back)));
    message.extend(base.to_be_bytes());
    message.extend(body.get(1..).unwrap_or_default());
    message.resize(message.len().next_multiple_of(4), 0);
    let words = (message.len() / 4 - 1) as u16;
    message[2..4].copy_from_slice(&words.to_be_bytes());
    for message in messages(&message).flatten() {
        if let Message::TransportCc(feedback) = message {
            estimator.handle_transport_cc(now, &feedback);
        }
    }
    let mut ccfb = vec![0x8b, 205, 0, 0, 0, 0, 0, 1];
    ccfb.extend(body);
    ccfb.resize(ccfb.len().next_multiple_of(4), 0);
    let words = (ccfb.len() / 4 - 1) as u16;
    ccfb[2..4].copy_from_slice(&words.to_be_bytes());
    for message in messages(&ccfb).flatten() {
        if let Message::Ccfb(feedback) = message {
            estimator.handle_congestion_feedback(now, &feedback, |ssrc: Ssrc, seq| {
                (ssrc.0 & 1 == 0).then_some(seq.0)
            });
        }
    }
}
