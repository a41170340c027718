//! What publishers are told of what they sent.

use std::collections::BTreeSet;

use super::*;
use crate::wire::{
    flexfec_tests::{packet, protect},
    rtcp::{Message, messages},
};

const MEDIA: u32 = 7;
const REPAIR: u32 = 8;

/// A repair packet as it is on the wire.
fn repair(seq: u16, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = packet(REPAIR, seq, 0);
    bytes[1] = FEC;
    bytes.extend(protect(MEDIA, packets));
    bytes
}

#[test]
fn what_repair_packets_brought_back_stays_lost_in_reports_and_repair_packets_are_told_of() {
    let mut node = Node::new();
    let spec =
        PeerSpec { fec: Pt::new(FEC), ccfb: true, tracks: vec![video("video", MEDIA)], ..bare() };
    let publisher = node.join(spec);
    let packets: Vec<_> = (10..14).map(|seq| packet(MEDIA, seq, 100)).collect();
    for number in [0, 1, 3] {
        node.rtp(publisher, &packets[number]);
    }
    node.rtp(publisher, &repair(500, &packets));
    assert_eq!(node.shard.counters().fec_recovered, 1);

    let sent = node.run_for(Duration::from_millis(1_500));
    let (mut blocks, mut told) = (Vec::new(), BTreeSet::new());
    for sent in sent.iter().filter(|sent| sent.rtcp) {
        assert_eq!(sent.client, publisher);
        for message in messages(&sent.bytes) {
            match message.unwrap() {
                Message::ReceiverReport(report) => blocks.extend(report.reports),
                Message::Nack(nack) => panic!("asked for {:?}", nack.lost().collect::<Vec<_>>()),
                Message::Ccfb(feedback) => {
                    told.extend(
                        feedback
                            .reports()
                            .map(|report| (report.ssrc.0, report.seq.0, report.arrival.is_some())),
                    );
                }
                _ => {}
            }
        }
    }
    let block = blocks.iter().find(|block| block.ssrc == Ssrc(MEDIA)).unwrap();
    assert_eq!(block.cumulative_lost, 1, "{block:?}");
    assert_eq!(block.fraction_lost, 64, "one of four");
    let expect = [(MEDIA, 10, true), (MEDIA, 11, true), (MEDIA, 12, false), (MEDIA, 13, true)];
    assert_eq!(told, BTreeSet::from_iter(expect.into_iter().chain([(REPAIR, 500, true)])));

    let (room, peer) = (RoomId::new(ROOM), peer_id(publisher));
    let Reply::Report(Some(report)) =
        node.shard.handle_command(node.now, Command::ReportPeer { room, peer })
    else {
        panic!("no report");
    };
    assert_eq!(report.tracks[0].encodings[0].repaired, 1);
}
