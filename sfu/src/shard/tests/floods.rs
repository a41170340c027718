//! What peers and strangers send far too much of is dropped before it costs anything, and counted.

use super::{rooms::keyframe, *};
use crate::{
    rtp::Seq16,
    wire::{flexfec_tests::packet, rtcp::CompoundWriter},
};

fn media_of(track: &str) -> PeerSpec {
    PeerSpec { tracks: vec![video(track, 7)], ..bare() }
}

#[test]
fn checks_of_strangers_with_a_wrong_password_are_looked_at_for_a_moment_only() {
    let mut node = Node::new();
    let peer = node.join(bare());
    let name = format!("{}:remote", node.clients[peer].local.ufrag);
    let wrong = fuzz_check(&name, "not the password of the node", &[]);
    for n in 0..20_000_u32 {
        node.shard.handle_datagram(node.now, path(1_000 + n as usize % 5_000), &mut wrong.clone());
    }
    let drops = |node: &Node, reason| node.shard.counters().drops(reason);
    let looked_at = drops(&node, DropReason::StunAuth);
    assert!((50..200).contains(&looked_at), "{looked_at} of a burst were computed");
    assert_eq!(drops(&node, DropReason::StunRate), 20_000 - looked_at);
    // Its own path is checked all the same, and kept.
    for _ in 0..20 {
        node.run_for(Duration::from_secs(2));
        for _ in 0..1_000 {
            node.shard.handle_datagram(node.now, path(1_000), &mut wrong.clone());
        }
        node.check(peer);
    }
    assert_eq!(node.shard.peers(), 1, "it is not lost after 40 s");
    // A new path of its own gets through once the flood is over.
    node.run_for(Duration::from_secs(2));
    let Client { local, .. } = &node.clients[peer];
    let mut check = fuzz_check(&name, &local.pwd, &[]);
    node.shard.handle_datagram(node.now, path(900), &mut check);
    node.drain();
    assert!(node.shard.knows(&path(900)));
}

#[test]
fn a_peer_that_checks_without_end_is_answered_as_often_as_it_needs() {
    let mut node = Node::new();
    let peer = node.join(bare());
    for _ in 0..10_000 {
        node.check(peer);
    }
    let mut answers = 0_u64;
    while let Some(transmit) = node.shard.poll_transmit() {
        let segment = transmit.segment.unwrap_or(transmit.bytes.len());
        answers += transmit.bytes.chunks(segment).count() as u64;
    }
    assert!((100..300).contains(&answers), "{answers} answers");
    assert_eq!(node.shard.counters().drops(DropReason::StunRate), 10_000 - answers);
}

#[test]
fn old_nacks_cost_no_turn_and_a_flood_of_them_is_cut() {
    let mut node = Node::new();
    let publisher = node.join(media_of("video"));
    let spec = PeerSpec { subscriptions: vec![subscription("video", 1_000)], ..bare() };
    let subscriber = node.join(spec);
    node.rtp(publisher, &keyframe(7, 1));
    node.drain();
    let lost: Vec<_> = (20_000..20_010).map(Seq16).collect();
    let mut plain = vec![0; 100];
    let mut writer = CompoundWriter::new(&mut plain);
    writer.nack(Ssrc(1), Ssrc(1_000), lost.iter().copied()).unwrap();
    let len = writer.len();
    plain.truncate(len);
    let before = node.shard.counters().visits;
    for _ in 0..10_000 {
        node.rtcp(subscriber, &plain);
    }
    assert!(node.drain().is_empty());
    assert_eq!(node.shard.counters().visits, before, "there is nothing to send again");
    let dropped = node.shard.counters().drops(DropReason::FeedbackRate);
    assert_eq!(node.shard.counters().nacked, 10 * (10_000 - dropped));
    assert!((1_000..=2_000).contains(&(10_000 - dropped)), "{dropped} were dropped");
    // It is heard again when it has calmed down.
    node.run_for(Duration::from_secs(1));
    node.rtcp(subscriber, &plain);
    assert_eq!(node.shard.counters().drops(DropReason::FeedbackRate), dropped);
}

#[test]
fn replays_are_refused_by_their_number_and_hold_up_nobody() {
    let mut node = Node::new();
    let publisher = node.join(media_of("video"));
    let media = packet(7, 1, 1_000);
    node.rtp(publisher, &media);
    node.drain();
    let sealed = node.seal(publisher, &media);
    for _ in 0..5_000 {
        let mut again = sealed.clone();
        node.shard.handle_datagram(node.now, path(publisher), &mut again);
        assert_eq!(again, sealed, "it is not even decrypted");
    }
    assert_eq!(node.shard.counters().drops(DropReason::SrtpReplay), 5_000);
    node.rtp(publisher, &packet(7, 2, 1_000));
    assert_eq!(node.shard.counters().media_in, 2);
}
