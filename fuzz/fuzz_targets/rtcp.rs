//! Any datagram is read as RTCP; NACKs and transport-wide feedback are written and read again.
#![no_main]

use chappe_sfu::wire::rtcp::{
    ArrivalTick, CcfbBlock, CompoundWriter, CongestionFeedback, Message, Nack, TransportFeedback,
    TransportFeedbackFields, messages,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    for message in messages(datagram).flatten() {
        let entries = match message {
            Message::SenderReport(report) => report.reports.count(),
            Message::ReceiverReport(report) => report.reports.count(),
            Message::Sdes(sdes) => sdes.items().count(),
            Message::Bye(bye) => bye.ssrcs().count(),
            Message::Nack(nack) => nack_again(&nack),
            Message::TransportCc(feedback) => feedback_again(&feedback),
            Message::Ccfb(feedback) => ccfb_again(&feedback),
            Message::Fir(fir) => fir.entries().count(),
            Message::Remb(remb) => remb.ssrcs().count(),
            Message::ExtendedReport(report) => {
                report.blocks().map(|block| 1 + block.dlrr_items().count()).sum()
            }
            Message::Pli(_) | Message::Unknown { .. } => 0,
        };
        // A NACK names at most 17 packets in four bytes, run lengths at most 16,384 in all.
        assert!(entries <= 16_384.max(datagram.len() * 5));
    }
});

fn nack_again(nack: &Nack<'_>) -> usize {
    let mut buf = vec![0; 300_000];
    let mut writer = CompoundWriter::new(&mut buf);
    writer.nack(nack.sender, nack.media, nack.lost()).expect("room for the widest list");
    let len = writer.len();
    let mut again = Vec::new();
    for message in messages(&buf[..len]) {
        let Ok(Message::Nack(nack)) = message else { panic!("our own message: {message:?}") };
        again.extend(nack.lost().map(|seq| seq.0));
    }
    let mut wanted: Vec<_> = nack.lost().map(|seq| seq.0).collect();
    for list in [&mut again, &mut wanted] {
        list.sort_unstable();
        list.dedup();
    }
    assert_eq!(again, wanted);
    nack.lost().count()
}

/// What is told of the first stream, up to where its numbers go on, is written and read again.
fn ccfb_again(feedback: &CongestionFeedback<'_>) -> usize {
    let count = feedback.reports().count();
    let Some(first) = feedback.reports().next() else { return count };
    let now = std::time::Instant::now();
    let longest = std::time::Duration::from_secs(60);
    let arrivals: Vec<_> = (0u16..)
        .zip(feedback.reports())
        .take_while(|(index, report)| {
            report.ssrc == first.ssrc && report.seq.0 == first.seq.0.wrapping_add(*index)
        })
        .take(16_384)
        // What came nobody knows when is told as long ago.
        .map(|(_, report)| report.arrival.map(|it| now + it.before.unwrap_or(longest)))
        .collect();
    let block = CcfbBlock { ssrc: first.ssrc, begin: first.seq, arrivals: &arrivals };
    let mut buf = vec![0; 40_000];
    let mut writer = CompoundWriter::new(&mut buf);
    let written = writer.ccfb(feedback.sender, feedback.timestamp, &block, |at| at - now);
    assert_eq!(written, Ok(arrivals.len()), "room for the longest feedback");
    let len = writer.len();
    let Some(Ok(Message::Ccfb(again))) = messages(&buf[..len]).next() else {
        panic!("our own message");
    };
    let times = |feedback: &CongestionFeedback<'_>| -> Vec<_> {
        let reports = feedback.reports().take(arrivals.len());
        reports.map(|report| report.arrival.map(|it| it.before)).collect()
    };
    let micros = |list: Vec<Option<Option<std::time::Duration>>>| -> Vec<_> {
        list.into_iter().map(|at| at.map(|at| at.map(|at| at.as_millis()))).collect()
    };
    for (again, told) in micros(times(&again)).into_iter().zip(micros(times(feedback))) {
        assert_eq!(again.is_some(), told.is_some());
        if let (Some(Some(again)), Some(Some(told))) = (again, told) {
            assert!(told.abs_diff(again) <= 1, "ticks of a millisecond, rounded down");
        }
    }
    count
}

fn feedback_again(feedback: &TransportFeedback<'_>) -> usize {
    let arrivals: Vec<_> = feedback.arrivals().map(|(_, arrival)| arrival).collect();
    assert_eq!(arrivals.len(), usize::from(feedback.status_count));
    let fields = TransportFeedbackFields {
        sender: feedback.sender,
        media: feedback.media,
        base_seq: feedback.base_seq,
        feedback_count: feedback.feedback_count,
    };
    let mut buf = vec![0; 100_000];
    let mut writer = CompoundWriter::new(&mut buf);
    let covered = writer.transport_cc(&fields, &arrivals).expect("room for the longest feedback");
    let len = writer.len();
    let Some(Ok(Message::TransportCc(again))) = messages(&buf[..len]).next() else {
        assert_eq!(covered, 0, "only feedback without arrivals is not written");
        return arrivals.len();
    };
    let again: Vec<_> = again.arrivals().map(|(_, arrival)| arrival).collect();
    // The reference time has 24 bits on the wire, ticks have more: spans are what must agree.
    let span = |list: &[Option<_>]| -> Vec<Option<i64>> {
        let first = list.iter().flatten().next().map_or(0, |at: &ArrivalTick| at.0);
        list.iter().map(|at| at.map(|at| at.0 - first)).collect()
    };
    assert_eq!(span(&again), span(&arrivals[..covered]));
    arrivals.len()
}
