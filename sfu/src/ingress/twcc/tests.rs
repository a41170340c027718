use super::*;
use crate::{
    cache::test_packets::{ms, start},
    wire::rtcp::{Message, messages},
};

/// (transport-wide number, arrival in microseconds) of all messages in a compound packet.
fn read(bytes: &[u8]) -> Vec<(u16, Option<i64>)> {
    messages(bytes)
        .flat_map(|message| match message.unwrap() {
            Message::TransportCc(feedback) => feedback.arrivals().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        })
        .map(|(seq, tick)| (seq, tick.map(ArrivalTick::micros)))
        .collect()
}

fn poll(recorder: &mut TwccRecorder, now: Instant) -> Vec<(u16, Option<i64>)> {
    let mut buf = [0; 1_200];
    let mut writer = CompoundWriter::new(&mut buf);
    recorder.poll_feedback(now, Ssrc(1), &mut writer).unwrap();
    let len = writer.len();
    read(&buf[..len])
}

#[test]
fn arrivals_are_told_every_100_ms_with_what_is_missing() {
    let origin = start();
    let mut recorder = TwccRecorder::new(origin);
    assert_eq!(recorder.poll_timeout(), None);
    for (number, at) in [(65_534, 10), (65_535, 11), (1, 15), (1, 16)] {
        recorder.record(origin + ms(at), Ssrc(9), number);
    }
    assert_eq!(recorder.poll_timeout(), Some(origin + ms(110)));
    assert_eq!(poll(&mut recorder, origin + ms(109)), []);
    assert_eq!(
        poll(&mut recorder, origin + ms(110)),
        [(65_534, Some(10_000)), (65_535, Some(11_000)), (0, None), (1, Some(15_000))]
    );
    assert_eq!(recorder.poll_timeout(), None);

    recorder.record(origin + ms(120), Ssrc(9), 0);
    recorder.record(origin + ms(120), Ssrc(9), 3);
    assert_eq!(
        poll(&mut recorder, origin + ms(220)),
        [(2, None), (3, Some(120_000))],
        "0 was told as lost"
    );
}

#[test]
fn a_high_rate_is_told_sooner_and_a_full_buffer_goes_on() {
    let origin = start();
    let mut recorder = TwccRecorder::new(origin);
    for number in 0..400 {
        recorder.record(origin + ms(u64::from(number) / 10), Ssrc(9), number);
    }
    assert_eq!(recorder.poll_timeout(), Some(origin + ms(50)));
    let mut got = Vec::new();
    for _ in 0..20 {
        let mut buf = [0; 120];
        let mut writer = CompoundWriter::new(&mut buf);
        let outcome = recorder.poll_feedback(origin + ms(50), Ssrc(1), &mut writer);
        let len = writer.len();
        got.extend(read(&buf[..len]));
        if outcome.is_ok() {
            break;
        }
    }
    let numbers: Vec<u16> = got.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..400).collect::<Vec<_>>());
}

#[test]
fn a_jump_costs_no_memory() {
    let origin = start();
    let mut recorder = TwccRecorder::new(origin);
    recorder.record(origin, Ssrc(9), 0);
    recorder.record(origin, Ssrc(9), 30_000);
    assert_eq!(poll(&mut recorder, origin + ms(100)), [(30_000, Some(0))]);
}
