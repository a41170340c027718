use super::*;
use crate::{
    rtp::Ssrc,
    wire::rtcp::{
        ArrivalTick, CcfbBlock, CompoundWriter, Message, TransportFeedbackFields, messages,
    },
};

#[test]
#[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
fn the_first_report_is_about_all_that_left_quietly() {
    let start = Instant::now();
    let mut congestion = Congestion::new(start, 0);
    congestion.configure(start, false, false, None);
    let at = |ms| start + Duration::from_millis(ms);
    // Less before it, which is told by itself.
    for n in 0..80_u16 {
        let (stream, size) = ((Ssrc(7), Seq16(n)), DataSize::from_bytes(100));
        congestion.handle_sent(at(300 + u64::from(n) * 50), stream, None, size);
    }
    assert!(congestion.quiet.packets < 12, "{}", congestion.quiet.packets);
    // 2 Mb/s.
    for n in 0..80 {
        let stream = (Ssrc(7), Seq16(n));
        congestion.handle_sent(
            at(5_000 + u64::from(n) * 5),
            stream,
            None,
            DataSize::from_bytes(1_250),
        );
    }
    assert_eq!(congestion.sent().bytes(), 108_000);
    assert!(!congestion.is_controlled());
    assert!(congestion.handle_report(at(5_400), 100.0, 40.0), "two in five were lost");
    let estimate = congestion.estimator.estimate().bps() as f64;
    assert!((estimate - 1.2e6).abs() < 0.1e6, "{estimate}");
    congestion.handle_sent(at(5_405), (Ssrc(7), Seq16(80)), None, DataSize::from_bytes(1_250));
    assert_eq!(congestion.quiet.packets, 0, "told at once from now on");
}

#[test]
#[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
fn feedback_by_stream_and_number_is_translated() {
    let start = Instant::now();
    let mut congestion = Congestion::new(start, 0);
    let ms = |ms| start + Duration::from_millis(ms);
    let report = |begin: u16, arrivals: &[Option<Instant>], now: Instant| {
        let mut bytes = [0; 1_200];
        let mut writer = CompoundWriter::new(&mut bytes);
        let block = CcfbBlock { ssrc: Ssrc(7), begin: Seq16(begin), arrivals };
        let written = writer.ccfb(Ssrc(1), 0x1_0000, &block, |at| now - at);
        assert_eq!(written, Ok(arrivals.len()));
        let len = writer.len();
        bytes[..len].to_vec()
    };
    let give = |congestion: &mut Congestion, now: Instant, bytes: &[u8]| {
        let Some(Ok(Message::Ccfb(feedback))) = messages(bytes).next() else {
            panic!("not written");
        };
        let taken = congestion.handle_ccfb(&feedback);
        if taken {
            congestion.conclude_ccfb(now);
        }
        taken
    };
    let early = report(65_530, &[Some(ms(40)); 3], ms(50));
    assert!(!give(&mut congestion, ms(50), &early), "not negotiated");

    congestion.configure(start, false, true, None);
    assert!(congestion.is_controlled() && congestion.numbers_all());
    for n in 0..20_u16 {
        let stream = (Ssrc(7), Seq16(65_530_u16.wrapping_add(n)));
        let at = ms(u64::from(n) * 5);
        congestion.handle_sent(at, stream, Some(900 + n), DataSize::from_bytes(1_000));
    }
    let arrivals: Vec<_> = (0..20).map(|n| (n != 3).then(|| ms(30 + n * 5))).collect();
    let bytes = report(65_530, &arrivals, ms(130));
    assert!(give(&mut congestion, ms(160), &bytes));
    let stats = congestion.estimator().stats();
    // The last one left at 95 ms and was told of at 160 ms.
    assert!(stats.rtt.is_some_and(|rtt| rtt.as_millis().abs_diff(65) < 10), "{stats:?}");
    for _ in 0..10 {
        // Told often enough: what is made up does not count for ever.
        let _ = give(&mut congestion, ms(200), &bytes);
    }
    assert!(!give(&mut congestion, ms(200), &bytes));
    congestion.forget_stream(Ssrc(7));
    assert!(give(&mut congestion, ms(200), &bytes), "nothing in it is known");
}

#[test]
#[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
fn feedback_on_more_than_was_sent_is_ignored() {
    let now = Instant::now();
    let mut congestion = Congestion::new(now, 0);
    congestion.configure(now, true, false, None);
    for number in 0..10 {
        congestion.handle_sent(
            now,
            (Ssrc(2), Seq16(number)),
            Some(number),
            DataSize::from_bytes(1_000),
        );
    }
    let mut bytes = [0; 1_200];
    let mut writer = CompoundWriter::new(&mut bytes);
    let fields =
        TransportFeedbackFields { sender: Ssrc(1), media: Ssrc(2), base_seq: 0, feedback_count: 0 };
    writer.transport_cc(&fields, &[Some(ArrivalTick(400)); 15]).unwrap();
    let len = writer.len();
    let Some(Ok(Message::TransportCc(feedback))) = messages(&bytes[..len]).next() else {
        panic!("not written");
    };
    // Reports may be repeated a few times, not for ever.
    let taken = (0..10).filter(|_| congestion.handle_transport_cc(now, &feedback)).count();
    assert_eq!(taken, 2, "forty reports on ten packets");
}
