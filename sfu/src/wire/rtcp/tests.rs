//! RTCP read, written, and compared with an independent implementation.

use proptest::prelude::*;
use rtcp_types::{
    Bye as OracleBye, Compound, Fir as OracleFir, Nack as OracleNack, NackBuilder, Packet,
    ReceiverReport as OracleReceiverReport, ReportBlock as OracleReportBlock, Sdes as OracleSdes,
    SdesChunk, SdesItem as OracleSdesItem, TransportFeedback as OracleTransportFeedback, Twcc,
    TwccPacketStatus,
    prelude::{RtcpPacketParser as _, RtcpPacketWriter},
};

use super::*;
use crate::{
    rtp::{Bitrate, RtpTs32, Seq16, Ssrc},
    wire::NtpTime,
};

const SENDER: Ssrc = Ssrc(0x0102_0304);
const MEDIA: Ssrc = Ssrc(0xa1a2_a3a4);

fn written(write: impl FnOnce(&mut CompoundWriter<'_>) -> Result<(), BufferTooSmall>) -> Vec<u8> {
    let mut buf = [0xff; 2_000];
    let mut writer = CompoundWriter::new(&mut buf);
    write(&mut writer).unwrap();
    let len = writer.len();
    buf[..len].to_vec()
}

fn of_oracle(packet: &dyn RtcpPacketWriter) -> Vec<u8> {
    let mut bytes = vec![0; packet.calculate_size().unwrap()];
    let len = packet.write_into_unchecked(&mut bytes);
    assert_eq!(len, bytes.len());
    bytes
}

fn only(bytes: &[u8]) -> Message<'_> {
    let mut messages = messages(bytes);
    let message = messages.next().unwrap().unwrap();
    assert!(messages.next().is_none());
    message
}

fn info() -> SenderInfo {
    SenderInfo {
        ssrc: SENDER,
        ntp: NtpTime(0x1122_3344_5566_7788),
        rtp_timestamp: RtpTs32(90_000),
        packet_count: 7,
        octet_count: 7_700,
    }
}

fn report(ssrc: u32, cumulative_lost: i32) -> ReportBlock {
    ReportBlock {
        ssrc: Ssrc(ssrc),
        fraction_lost: 64,
        cumulative_lost,
        highest_seq: 0x0001_fffe,
        jitter: 12,
        last_sr: 0x3344_5566,
        delay_since_last_sr: 0x1_0000,
    }
}

#[test]
fn malformed_messages_are_errors() {
    struct Case {
        name: &'static str,
        bytes: &'static [u8],
        error: RtcpError,
    }
    let cases = [
        Case { name: "header cut", bytes: &[0x80, 200, 0], error: RtcpError::Short },
        Case { name: "version", bytes: &[0x40, 200, 0, 0], error: RtcpError::Version },
        Case { name: "longer than there is", bytes: &[0x80, 201, 0, 1], error: RtcpError::Short },
        Case { name: "padding, no body", bytes: &[0xa0, 201, 0, 0], error: RtcpError::Padding },
        Case {
            name: "padding of zero",
            bytes: &[0xa0, 201, 0, 1, 0, 0, 0, 0],
            error: RtcpError::Padding,
        },
        Case {
            name: "padding over all",
            bytes: &[0xa0, 201, 0, 1, 0, 0, 0, 5],
            error: RtcpError::Padding,
        },
        Case {
            name: "sr without sender info",
            bytes: &[0x80, 200, 0, 1, 0, 0, 0, 5],
            error: RtcpError::Malformed,
        },
        Case {
            name: "rr without its block",
            bytes: &[0x81, 201, 0, 1, 0, 0, 0, 5],
            error: RtcpError::Malformed,
        },
        Case {
            name: "sdes item cut",
            bytes: &[0x81, 202, 0, 2, 0, 0, 0, 5, 1, 9, b'a', 0],
            error: RtcpError::Malformed,
        },
        Case {
            name: "sdes without end",
            bytes: &[0x81, 202, 0, 2, 0, 0, 0, 5, 1, 2, b'a', b'b'],
            error: RtcpError::Malformed,
        },
        Case { name: "bye without source", bytes: &[0x81, 203, 0, 0], error: RtcpError::Malformed },
        Case {
            name: "bye reason cut",
            bytes: &[0x80, 203, 0, 1, 4, b'a', b'b', b'c'],
            error: RtcpError::Malformed,
        },
        Case {
            name: "pli cut",
            bytes: &[0x81, 206, 0, 1, 0, 0, 0, 1],
            error: RtcpError::Malformed,
        },
        Case {
            name: "fir entry cut",
            bytes: &[0x84, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2],
            error: RtcpError::Malformed,
        },
        Case {
            name: "xr block longer than the report",
            bytes: &[0x80, 207, 0, 2, 0, 0, 0, 1, 4, 0, 0, 2],
            error: RtcpError::Malformed,
        },
        Case {
            name: "ccfb block cut",
            bytes: &[0x8b, 205, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 1, 0, 1, 0, 0, 0, 0],
            error: RtcpError::Malformed,
        },
    ];
    for case in cases {
        let mut messages = messages(case.bytes);
        assert_eq!(messages.next().unwrap().err(), Some(case.error), "{}", case.name);
        assert!(messages.next().is_none(), "{}", case.name);
    }
}

#[test]
fn a_malformed_message_does_not_hide_the_next() {
    let bytes = [0x81, 201, 0, 1, 0, 0, 0, 5, 0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    let mut messages = messages(&bytes);
    assert_eq!(messages.next().unwrap().err(), Some(RtcpError::Malformed));
    assert!(matches!(
        messages.next(),
        Some(Ok(Message::Pli(Pli { sender: Ssrc(1), media: Ssrc(2) })))
    ));
}

#[test]
fn unknown_messages_are_named_and_passed_over() {
    let bytes = [0x85, 204, 0, 1, 0, 0, 0, 5, 0x9f, 206, 0, 0];
    let kinds: Vec<_> = messages(&bytes)
        .map(|message| match message.unwrap() {
            Message::Unknown { packet_type, count } => (packet_type, count),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [(204, 5), (206, 31)]);
}

#[test]
fn a_compound_reads_back_and_another_parser_agrees() {
    let reports = [report(1, -3), report(2, 0x7f_ffff)];
    let bytes = written(|writer| {
        writer.sender_report(&info(), &reports)?;
        writer.sdes_cname(SENDER, b"chappe")?;
        writer.bye(&[SENDER, MEDIA])
    });

    let read: Vec<_> = messages(&bytes).collect::<Result<_, _>>().unwrap();
    let [Message::SenderReport(sr), Message::Sdes(sdes), Message::Bye(bye)] = &read[..] else {
        panic!("{read:?}")
    };
    assert_eq!(sr.info, info());
    assert_eq!(sr.reports.collect::<Vec<_>>(), reports);
    let cname = SdesItem { ssrc: SENDER, kind: SdesItem::CNAME, text: b"chappe" };
    assert_eq!(sdes.items().collect::<Vec<_>>(), [cname]);
    assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [SENDER, MEDIA]);

    let oracle: Vec<_> = Compound::parse(&bytes).unwrap().collect::<Result<_, _>>().unwrap();
    let [Packet::Sr(sr), Packet::Sdes(sdes), Packet::Bye(bye)] = &oracle[..] else {
        panic!("{oracle:?}")
    };
    assert_eq!((sr.ssrc(), sr.ntp_timestamp()), (SENDER.0, info().ntp.0));
    assert_eq!((sr.packet_count(), sr.octet_count()), (7, 7_700));
    let blocks: Vec<_> = sr.report_blocks().map(|b| (b.ssrc(), b.cumulative_lost())).collect();
    assert_eq!(blocks, [(1, 0xff_fffd), (2, 0x7f_ffff)]);
    let chunk = sdes.chunks().next().unwrap();
    assert_eq!(chunk.items().next().unwrap().value(), b"chappe");
    assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [SENDER.0, MEDIA.0]);
}

#[test]
fn more_blocks_than_a_message_holds_become_more_messages() {
    let reports: Vec<_> = (0..70).map(|ssrc| report(ssrc, 0)).collect();
    let bytes = written(|writer| writer.sender_report(&info(), &reports));
    let read: Vec<_> = messages(&bytes).map(Result::unwrap).collect();
    assert_eq!(read.len(), 3);
    let blocks: Vec<_> = read
        .into_iter()
        .flat_map(|message| match message {
            Message::SenderReport(report) => report.reports,
            Message::ReceiverReport(report) => report.reports,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(blocks, reports);
}

#[test]
fn what_does_not_fit_leaves_what_was_written() {
    let mut buf = [0; 20];
    let mut writer = CompoundWriter::new(&mut buf);
    writer.pli(&Pli { sender: SENDER, media: MEDIA }).unwrap();
    let nack = writer.nack(SENDER, MEDIA, [Seq16(1)]);
    assert_eq!(nack, Err(BufferTooSmall));
    assert_eq!((writer.len(), writer.remaining()), (12, 8));
    assert!(matches!(only(&buf[..12]), Message::Pli(_)));
}

#[test]
fn messages_of_another_writer_are_read() {
    let bytes = of_oracle(
        &OracleReceiverReport::builder(SENDER.0)
            .add_report_block(
                OracleReportBlock::builder(9).fraction_lost(3).cumulative_lost(0xff_ffff),
            )
            .padding(4),
    );
    let Message::ReceiverReport(mut rr) = only(&bytes) else { panic!() };
    let block = rr.reports.next().unwrap();
    assert_eq!((block.ssrc, block.fraction_lost, block.cumulative_lost), (Ssrc(9), 3, -1));

    let bytes = of_oracle(
        &OracleSdes::builder()
            .add_chunk(
                SdesChunk::builder(1)
                    .add_item(OracleSdesItem::builder(SdesItem::CNAME, "abc"))
                    .add_item(OracleSdesItem::builder(SdesItem::MID, "0")),
            )
            .add_chunk(SdesChunk::builder(2).add_item(OracleSdesItem::builder(2, ""))),
    );
    let Message::Sdes(sdes) = only(&bytes) else { panic!() };
    let items: Vec<_> = sdes.items().map(|i| (i.ssrc.0, i.kind, i.text.to_vec())).collect();
    assert_eq!(items, [(1, 1, b"abc".to_vec()), (1, 15, b"0".to_vec()), (2, 2, vec![])]);

    let bytes = of_oracle(&OracleBye::builder().add_source(5).reason("done"));
    let Message::Bye(bye) = only(&bytes) else { panic!() };
    assert_eq!((bye.reason, bye.ssrcs().next()), (Some(&b"done"[..]), Some(Ssrc(5))));

    let fci = OracleFir::builder().add_ssrc(7, 8).add_ssrc(9, 10);
    let bytes = of_oracle(&rtcp_types::PayloadFeedback::builder(&fci).sender_ssrc(1));
    let Message::Fir(fir) = only(&bytes) else { panic!() };
    let mut entries: Vec<_> = fir.entries().map(|entry| (entry.ssrc.0, entry.seq)).collect();
    entries.sort_unstable();
    assert_eq!((fir.sender, entries), (Ssrc(1), vec![(7, 8), (9, 10)]));
}

#[test]
fn full_intra_requests_are_read_by_another_parser() {
    let entries = [FirEntry { ssrc: MEDIA, seq: 255 }, FirEntry { ssrc: SENDER, seq: 0 }];
    let bytes = written(|writer| writer.fir(SENDER, &entries));
    let Message::Fir(fir) = only(&bytes) else { panic!() };
    assert_eq!(fir.entries().collect::<Vec<_>>(), entries);
    let Ok(Packet::PayloadFeedback(oracle)) = Packet::parse(&bytes) else { panic!() };
    let oracle: OracleFir<'_> = oracle.parse_fci().unwrap();
    let read: Vec<_> = oracle.entries().map(|e| (e.ssrc(), e.sequence())).collect();
    assert_eq!(read, [(MEDIA.0, 255), (SENDER.0, 0)]);
}

#[test]
fn remb_keeps_eighteen_bits() {
    struct Case {
        name: &'static str,
        bps: u64,
        read: u64,
    }
    let cases = [
        Case { name: "zero", bps: 0, read: 0 },
        Case { name: "fits the mantissa", bps: 0x3_ffff, read: 0x3_ffff },
        Case { name: "one bit more", bps: 0x4_0001, read: 0x4_0000 },
        Case { name: "2.5 Mb/s", bps: 2_500_000, read: 2_500_000 },
        Case { name: "no limit", bps: u64::MAX, read: 0x3_ffff << 46 },
    ];
    for case in cases {
        let bytes =
            written(|writer| writer.remb(SENDER, Bitrate::from_bps(case.bps), &[MEDIA, SENDER]));
        let Message::Remb(remb) = only(&bytes) else { panic!("{}", case.name) };
        assert_eq!(remb.bitrate.bps(), case.read, "{}", case.name);
        assert_eq!(remb.ssrcs().collect::<Vec<_>>(), [MEDIA, SENDER], "{}", case.name);
    }
    let huge = [0x8f, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 82, 69, 77, 66, 0, 0xff, 0xff, 0xff];
    let Message::Remb(remb) = only(&huge) else { panic!() };
    assert_eq!(remb.bitrate.bps(), u64::MAX, "an exponent of 63 saturates");
}

#[test]
fn extended_reports_carry_round_trips() {
    let items = [
        DlrrItem { ssrc: MEDIA, last_rr: 5, delay: 6 },
        DlrrItem { ssrc: SENDER, last_rr: 7, delay: 8 },
    ];
    let bytes = written(|writer| {
        writer.xr_dlrr(SENDER, &items)?;
        writer.xr_reference_time(MEDIA, NtpTime(99))
    });
    let read: Vec<_> = messages(&bytes).map(Result::unwrap).collect();
    let [Message::ExtendedReport(dlrr), Message::ExtendedReport(time)] = &read[..] else {
        panic!("{read:?}")
    };
    let read: Vec<_> = dlrr.blocks().flat_map(|block| block.dlrr_items()).collect();
    assert_eq!((dlrr.sender, read), (SENDER, items.to_vec()));
    assert!(matches!(time.blocks().next(), Some(XrBlock::ReferenceTime(NtpTime(99)))));

    // The other parser takes blocks of one item only.
    let bytes = written(|writer| {
        writer.xr_dlrr(SENDER, &items[..1])?;
        writer.xr_reference_time(MEDIA, NtpTime(99))
    });
    let oracle: Vec<_> = Compound::parse(&bytes).unwrap().map(Result::unwrap).collect();
    let [Packet::Xr(dlrr), Packet::Xr(time)] = &oracle[..] else { panic!("{oracle:?}") };
    let block = dlrr.block_iter().next().unwrap();
    let block: rtcp_types::DelaySinceLastReceiverReport<'_> = block.parse_into().unwrap();
    let read: Vec<_> = block.block_iter().map(|b| (b.ssrc(), b.last_receiver_report())).collect();
    assert_eq!(read, [(MEDIA.0, 5)]);
    let block = time.block_iter().next().unwrap();
    let block: rtcp_types::ReceiverReferenceTime<'_> = block.parse_into().unwrap();
    assert_eq!(block.ntp_timestamp(), 99);
}

#[test]
fn congestion_feedback_is_read() {
    let body: &[u16] = &[
        0,
        1, // sender
        0,
        7,
        0xffff,
        3, // stream 7: numbers 65535, 0, 1
        0x8000 | 0x2000 | 1_024,
        0,
        0x8000 | 0x1fff,
        0, // one odd report, so two bytes of padding
        0,
        9,
        5,
        0, // stream 9: nothing
        0x1234,
        0x5678, // timestamp
    ];
    let mut bytes = vec![0x8b, 205, 0, body.len() as u8 / 2];
    bytes.extend(body.iter().flat_map(|half| half.to_be_bytes()));
    let Message::Ccfb(ccfb) = only(&bytes) else { panic!() };
    assert_eq!((ccfb.sender, ccfb.timestamp), (Ssrc(1), 0x1234_5678));
    let report = |seq, arrival| CcfbReport { ssrc: Ssrc(7), seq: Seq16(seq), arrival };
    let second = std::time::Duration::from_secs(1);
    let expected = [
        report(0xffff, Some(CcfbArrival { ecn: 1, before: Some(second) })),
        report(0, None),
        report(1, Some(CcfbArrival { ecn: 0, before: None })),
    ];
    assert_eq!(ccfb.reports().collect::<Vec<_>>(), expected);
}

/// Reference time, status count and FCI behind a header and two SSRCs.
fn feedback(status_count: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x8f, 205, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xfe];
    bytes.extend(status_count.to_be_bytes());
    bytes.extend([0xff, 0xff, 0xff, 9]);
    bytes.extend(rest);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes[3] = (bytes.len() / 4 - 1) as u8;
    bytes
}

#[test]
fn transport_feedback_chunks_are_read() {
    let at = |ticks: i64| Some(ArrivalTick(-256 + ticks));
    struct Case {
        name: &'static str,
        status_count: u16,
        rest: &'static [u8],
        arrivals: Vec<Option<ArrivalTick>>,
    }
    let cases = [
        Case {
            name: "run of small deltas",
            status_count: 3,
            rest: &[0x20, 3, 1, 2, 3],
            arrivals: vec![at(1), at(3), at(6)],
        },
        Case {
            name: "one-bit vector, cut by the count",
            status_count: 2,
            rest: &[0b1001_0000, 0, 4],
            arrivals: vec![None, at(4)],
        },
        Case {
            name: "two-bit vector, negative delta",
            status_count: 3,
            rest: &[0b1110_0001, 0, 0xff, 0xff, 5],
            arrivals: vec![at(-1), None, at(4)],
        },
        Case {
            name: "two chunks",
            status_count: 4,
            rest: &[0, 3, 0x20, 1, 7],
            arrivals: vec![None, None, None, at(7)],
        },
        Case { name: "nothing", status_count: 0, rest: &[], arrivals: vec![] },
    ];
    for case in cases {
        let bytes = feedback(case.status_count, case.rest);
        let Message::TransportCc(read) = only(&bytes) else { panic!("{}", case.name) };
        let (seqs, arrivals): (Vec<_>, Vec<_>) = read.arrivals().unzip();
        assert_eq!(arrivals, case.arrivals, "{}", case.name);
        let expected: Vec<_> = (0..case.status_count).map(|n| 0xfffe_u16.wrapping_add(n)).collect();
        assert_eq!(seqs, expected, "{}", case.name);
        assert_eq!((read.feedback_count, read.sender, read.media), (9, Ssrc(1), Ssrc(2)));
    }
}

#[test]
fn impossible_transport_feedback_is_malformed() {
    struct Case {
        name: &'static str,
        status_count: u16,
        rest: &'static [u8],
    }
    let cases = [
        Case { name: "no chunk", status_count: 1, rest: &[] },
        Case { name: "run of zero", status_count: 1, rest: &[0x20, 0, 1, 1] },
        Case { name: "reserved symbol in a run", status_count: 1, rest: &[0x60, 1, 1, 1] },
        Case { name: "reserved symbol in a vector", status_count: 1, rest: &[0xf0, 0, 1, 1] },
        Case { name: "deltas cut", status_count: 3, rest: &[0x20, 3, 1, 2] },
        Case {
            name: "absurd count",
            status_count: 16_385,
            rest: &[0x1f, 0xff, 0x1f, 0xff, 0x1f, 0xff],
        },
    ];
    for case in cases {
        let bytes = feedback(case.status_count, case.rest);
        let error = messages(&bytes).next().unwrap().err();
        assert_eq!(error, Some(RtcpError::Malformed), "{}", case.name);
    }
}

fn fields() -> TransportFeedbackFields {
    TransportFeedbackFields { sender: SENDER, media: MEDIA, base_seq: 65_500, feedback_count: 200 }
}

#[test]
fn transport_feedback_is_packed_well() {
    let written_len = |arrivals: &[Option<ArrivalTick>]| {
        written(|writer| {
            writer.transport_cc(&fields(), arrivals).map(|covered| {
                assert_eq!(covered, arrivals.len());
            })
        })
        .len()
    };
    let all: Vec<_> = (0..200).map(|n| Some(ArrivalTick(n * 4))).collect();
    assert_eq!(written_len(&all), 20 + 2 + 200 + 2, "one run");
    let holes: Vec<_> = (0..14).map(|n| (n % 3 != 0).then_some(ArrivalTick(n * 4))).collect();
    assert_eq!(written_len(&holes), 20 + 2 + 9 + 1, "one one-bit vector");
}

#[test]
fn transport_feedback_ends_where_no_delta_reaches() {
    let arrivals = [Some(ArrivalTick(100)), None, Some(ArrivalTick(100 + 0x8000))];
    let mut buf = [0; 100];
    let mut writer = CompoundWriter::new(&mut buf);
    assert_eq!(writer.transport_cc(&fields(), &arrivals), Ok(2));
    assert_eq!(writer.transport_cc(&fields(), &arrivals[1..2]), Ok(0), "nothing arrived");
    let len = writer.len();
    let Message::TransportCc(read) = only(&buf[..len]) else { panic!() };
    assert_eq!(read.arrivals().map(|(_, at)| at).collect::<Vec<_>>(), arrivals[..2]);
}

fn any_arrivals() -> impl Strategy<Value = Vec<Option<ArrivalTick>>> {
    let step = prop_oneof![
        6 => (0i64..256).prop_map(Some),
        2 => (-2_000i64..2_000).prop_map(Some),
        3 => Just(None),
    ];
    // Each kind of step comes in bursts, so that runs and vectors both appear.
    (-(1i64 << 30)..1 << 30, prop::collection::vec((step, 1usize..30), 1..40)).prop_map(
        |(start, steps)| {
            let mut tick = start;
            steps
                .into_iter()
                .flat_map(|(step, times)| std::iter::repeat_n(step, times))
                .map(|step| {
                    tick += step.unwrap_or(0);
                    step.map(|_| ArrivalTick(tick))
                })
                .collect()
        },
    )
}

proptest! {
    #[test]
    fn any_feedback_reads_back_and_another_parser_agrees(
        arrivals in any_arrivals(),
        room in 30usize..1_200,
    ) {
        let mut buf = vec![0; room];
        let mut writer = CompoundWriter::new(&mut buf);
        let covered = match writer.transport_cc(&fields(), &arrivals) {
            Ok(0) => {
                prop_assert!(arrivals.iter().all(Option::is_none));
                return Ok(());
            }
            Ok(covered) => covered,
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let len = writer.len();
        let Message::TransportCc(read) = only(&buf[..len]) else { panic!() };
        prop_assert_eq!(read.base_seq, 65_500);
        let got: Vec<_> = read.arrivals().map(|(_, at)| at).collect();
        // The reference time wraps at 24 bits: compare spans.
        let (Some(got_first), first) =
            (got.iter().flatten().next(), arrivals[..covered].iter().flatten().next())
        else {
            prop_assert!(first_is_missing(&arrivals[..covered]));
            return Ok(());
        };
        let offset = got_first.0 - first.unwrap().0;
        prop_assert_eq!(offset % (1 << 32), 0);
        let expected: Vec<_> = arrivals[..covered]
            .iter()
            .map(|at| at.map(|ArrivalTick(tick)| ArrivalTick(tick + offset)))
            .collect();
        prop_assert_eq!(&got, &expected);

        let Ok(Packet::TransportFeedback(oracle)) = Packet::parse(&buf[..len]) else { panic!() };
        let oracle: Twcc<'_> = oracle.parse_fci().unwrap();
        let received: Vec<_> = oracle
            .packets()
            .map(|packet| matches!(packet.unwrap().1, TwccPacketStatus::Received { .. }))
            .collect();
        prop_assert_eq!(received, expected.iter().map(Option::is_some).collect::<Vec<_>>());
    }

    #[test]
    fn feedback_of_another_writer_is_read(
        arrivals in any_arrivals(),
        base: u16,
        reference in 0u32..0x80_0000,
    ) {
        let mut deltas = Vec::new();
        let statuses: Vec<_> = {
            let mut last = arrivals.iter().flatten().next().map_or(0, |at| at.0);
            arrivals
                .iter()
                .map(|at| match at {
                    None => TwccPacketStatus::NotReceived,
                    Some(at) => {
                        let delta = (at.0 - last) as i16;
                        last = at.0;
                        deltas.push(i64::from(delta));
                        TwccPacketStatus::Received { delta }
                    }
                })
                .collect()
        };
        let twcc = Twcc::builder(base, reference, 3, &statuses, None);
        let bytes = of_oracle(&OracleTransportFeedback::builder_owned(twcc)
            .sender_ssrc(1)
            .media_ssrc(2));
        let Message::TransportCc(read) = only(&bytes) else { panic!() };
        prop_assert_eq!((read.base_seq, read.feedback_count), (base, 3));
        let mut tick = i64::from(reference) * 256;
        for ((_, at), status) in read.arrivals().zip(&statuses) {
            let expected = match status {
                TwccPacketStatus::Received { delta } => {
                    tick += i64::from(*delta);
                    Some(ArrivalTick(tick))
                }
                TwccPacketStatus::NotReceived => None,
            };
            prop_assert_eq!(at, expected);
        }
        prop_assert_eq!(read.arrivals().count(), statuses.len());
    }

    #[test]
    fn any_nack_reads_back_and_another_parser_agrees(
        start: u16,
        steps in prop::collection::vec(1u16..40, 1..100),
    ) {
        let mut seq = start;
        let lost: Vec<_> = steps
            .into_iter()
            .map(|step| {
                seq = seq.wrapping_add(step);
                Seq16(seq)
            })
            .collect();
        let bytes = written(|writer| writer.nack(SENDER, MEDIA, lost.iter().copied()));
        let Message::Nack(nack) = only(&bytes) else { panic!() };
        prop_assert_eq!((nack.sender, nack.media), (SENDER, MEDIA));
        prop_assert_eq!(nack.lost().collect::<Vec<_>>(), lost.clone());

        let Ok(Packet::TransportFeedback(oracle)) = Packet::parse(&bytes) else { panic!() };
        let oracle: OracleNack<'_> = oracle.parse_fci().unwrap();
        let expected: Vec<_> = lost.iter().map(|seq| seq.0).collect();
        prop_assert_eq!(oracle.entries().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn nacks_of_another_writer_are_read(
        lost in prop::collection::btree_set(any::<u16>(), 1..100),
    ) {
        let fci = lost.iter().fold(NackBuilder::default(), |fci, seq| fci.add_rtp_sequence(*seq));
        let bytes = of_oracle(&OracleTransportFeedback::builder(&fci));
        let Message::Nack(nack) = only(&bytes) else { panic!() };
        let mut read: Vec<_> = nack.lost().map(|seq| seq.0).collect();
        read.sort_unstable();
        prop_assert_eq!(read, lost.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn noise_never_panics(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        packet_type in 199u8..209,
        count in 0u8..32,
        claim_all: bool,
    ) {
        if claim_all && bytes.len() >= 4 {
            let words = (bytes.len() / 4 - 1) as u8;
            bytes[..4].copy_from_slice(&[0x80 | count, packet_type, 0, words]);
        }
        for message in messages(&bytes).flatten() {
            walk(&message);
        }
    }
}

fn first_is_missing(arrivals: &[Option<ArrivalTick>]) -> bool {
    arrivals.iter().all(Option::is_none)
}

fn walk(message: &Message<'_>) -> usize {
    match message {
        Message::SenderReport(report) => report.reports.count(),
        Message::ReceiverReport(report) => report.reports.count(),
        Message::Sdes(sdes) => sdes.items().count(),
        Message::Bye(bye) => bye.ssrcs().count(),
        Message::Nack(nack) => nack.lost().count(),
        Message::TransportCc(feedback) => {
            assert_eq!(feedback.arrivals().count(), usize::from(feedback.status_count));
            0
        }
        Message::Ccfb(feedback) => feedback.reports().count(),
        Message::Fir(fir) => fir.entries().count(),
        Message::Remb(remb) => remb.ssrcs().count(),
        Message::ExtendedReport(report) => {
            report.blocks().map(|block| block.dlrr_items().count()).sum()
        }
        Message::Pli(_) | Message::Unknown { .. } => 0,
    }
}
