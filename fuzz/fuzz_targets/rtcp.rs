//! Any datagram is read as RTCP; NACKs and transport-wide feedback are written and read again.
#![no_main]

use chappe_sfu::wire::rtcp::{
    ArrivalTick, CompoundWriter, Message, Nack, TransportFeedback, TransportFeedbackFields,
    messages,
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
            Message::Ccfb(feedback) => feedback.reports().count(),
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
