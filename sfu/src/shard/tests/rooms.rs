//! Rooms of so many subscribers that what concerns all of them has to be done in steps.

use super::*;
use crate::wire::flexfec_tests::packet;

/// More than fit two steps.
const CROWD: usize = 300;

/// A picture that needs nothing before it, whose packets begin with `seq` and have payloads of these sizes.
pub(super) fn picture(ssrc: u32, seq: u16, sizes: &[usize]) -> Vec<Vec<u8>> {
    let part = |(index, size): (usize, &usize)| {
        let mut bytes = packet(ssrc, seq + index as u16, 0);
        let marker = if index + 1 == sizes.len() { 0x80 } else { 0 };
        bytes[1] = VP8 | marker;
        bytes[4..8].copy_from_slice(&(u32::from(seq) * 3_000).to_be_bytes());
        let start = if index == 0 { 0x90 } else { 0x80 };
        bytes.extend([start, 0xe0, 0x80 | (seq >> 8) as u8, seq as u8, seq as u8, 0x20]);
        if index == 0 {
            bytes.extend([0, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00]);
        }
        bytes.resize(12 + size, 7);
        bytes
    };
    sizes.iter().enumerate().map(part).collect()
}

/// One in a single packet.
pub(super) fn keyframe(ssrc: u32, seq: u16) -> Vec<u8> {
    picture(ssrc, seq, &[500]).remove(0)
}

/// Steps of the shard until it is done: visits of the longest, and of all.
fn steps(node: &mut Node) -> (u64, u64) {
    let (mut most, mut all) = (0, 0);
    loop {
        while node.shard.poll_transmit().is_some() {}
        let before = node.shard.counters().visits;
        if !node.shard.step() {
            return (most, all);
        }
        let made = node.shard.counters().visits - before;
        (most, all) = (most.max(made), all + made);
    }
}

fn crowd(node: &mut Node, max_fps: Option<u32>) {
    for n in 0..CROWD {
        let wanted = SubscriptionSpec { max_fps, ..subscription("video", 1_000 + 2 * n as u32) };
        node.join(PeerSpec { subscriptions: vec![wanted], ..bare() });
    }
}

/// Media packets that reach each of the crowd.
fn received(sent: &[Sent]) -> Vec<usize> {
    let of = |client| sent.iter().filter(|sent| sent.client == client && !sent.rtcp).count();
    (0..CROWD).map(of).collect()
}

#[test]
fn a_track_comes_and_goes_in_steps_and_what_came_before_it_was_known_passes() {
    let mut node = Node::new();
    crowd(&mut node, None);
    let publisher = node.join(bare());
    for round in 0..3u16 {
        node.check(publisher);
        // It is parked: nobody has claimed it.
        node.rtp(publisher, &keyframe(7, 100 * round));
        node.apply(publisher, PeerSpec { tracks: vec![video("video", 7)], ..bare() });
        let before = node.shard.counters().visits;
        let sent = node.drain();
        assert_eq!(received(&sent), [1; CROWD], "round {round}");
        let visits = node.shard.counters().visits - before;
        assert!((2 * CROWD..2 * CROWD + 9).contains(&(visits as usize)), "told, served: {visits}");
        node.apply(publisher, bare());
        assert_eq!(steps(&mut node).1, 0, "nobody is visited for what is gone");
    }
    node.apply(publisher, PeerSpec { tracks: vec![video("video", 7)], ..bare() });
    let (most, all) = steps(&mut node);
    // A track counts as a visit of its own.
    assert!(most <= 129 && all >= CROWD as u64, "{most} {all}");
}

/// A crowd that takes two tracks of the last peer.
fn crowd_of_two_tracks() -> (Node, impl Fn(&mut Node, &[u32], u16)) {
    let mut node = Node::new();
    for n in 0..CROWD as u32 {
        let subscriptions =
            vec![subscription("a", 1_000 + 4 * n), subscription("b", 1_002 + 4 * n)];
        node.join(PeerSpec { subscriptions, ..bare() });
    }
    let tracks = vec![video("a", 7), video("b", 8)];
    let publisher = node.join(PeerSpec { tracks, ..bare() });
    let send = move |node: &mut Node, ssrcs: &[u32], seq| {
        ssrcs.iter().for_each(|ssrc| node.rtp(publisher, &keyframe(*ssrc, seq)));
    };
    (node, send)
}

#[test]
fn joins_make_the_room_that_a_walk_past_everybody_takes() {
    let (mut node, send) = crowd_of_two_tracks();
    let room = |shard: &Shard| {
        let pending: usize = shard.peers.iter().map(|(_, peer)| peer.pending.capacity()).sum();
        (pending, shard.events.capacity(), shard.fanout.capacities())
    };
    let before = room(&node.shard);
    send(&mut node, &[7, 8], 1);
    let sent = node.drain();
    assert_eq!(received(&sent), [2; CROWD]);
    // Everybody tells of its path, and is told of it.
    node.run_for(Duration::from_secs(12));
    assert!(node.events.len() > CROWD);
    assert_eq!(room(&node.shard), before);
}

#[test]
fn packets_of_two_tracks_in_one_walk_are_gathered_and_leave_in_one_visit() {
    let (mut node, send) = crowd_of_two_tracks();
    send(&mut node, &[7, 8], 1);
    // They are told that it lives.
    node.drain();
    for (seq, ssrcs, visited) in [(2, &[7, 8][..], 4 * CROWD), (3, &[8], CROWD)] {
        send(&mut node, ssrcs, seq);
        let mut sent = Vec::new();
        let before = node.shard.counters().visits;
        loop {
            while let Some(transmit) = node.shard.poll_transmit() {
                sent.push(transmit.path);
            }
            if !node.shard.step() {
                break;
            }
        }
        let visits = (node.shard.counters().visits - before) as usize;
        assert!((visited..visited + 9).contains(&visits), "{visits}");
        let mut paths = sent.clone();
        paths.dedup();
        assert_eq!(paths.len(), CROWD, "what is for one is not torn apart");
    }
}

#[test]
fn what_came_before_a_track_was_known_passes_whatever_the_first_who_are_asked_want() {
    let mut node = Node::new();
    for n in 0..CROWD {
        // The first of them want the smallest picture only.
        let max_spatial = (n < CROWD / 2).then_some(0);
        let wanted =
            SubscriptionSpec { max_spatial, ..subscription("video", 1_000 + 2 * n as u32) };
        node.join(PeerSpec { subscriptions: vec![wanted], ..bare() });
    }
    let publisher = node.join(bare());
    node.rtp(publisher, &keyframe(7, 1));
    node.rtp(publisher, &picture(8, 1, &[900])[0]);
    let mut track = video("video", 7);
    track.encodings.push(EncodingSpec { rid: None, ssrc: Some(Ssrc(8)), rtx_ssrc: None });
    node.apply(publisher, PeerSpec { tracks: vec![track], ..bare() });
    let mut large = [0; 2];
    for sent in node.drain().iter().filter(|sent| !sent.rtcp && sent.bytes.len() > 800) {
        large[usize::from(sent.client >= CROWD / 2)] += 1;
    }
    assert_eq!(large, [0, CROWD / 2]);
}

#[test]
fn a_measurement_reaches_those_who_bound_frames_in_steps() {
    for (max_fps, visits) in [(Some(10), CROWD as u64), (None, 0)] {
        let mut node = Node::new();
        crowd(&mut node, max_fps);
        let publisher = node.join(PeerSpec { tracks: vec![video("video", 7)], ..bare() });
        node.rtp(publisher, &keyframe(7, 1));
        node.run_for(Duration::from_millis(400));
        let at = node.now + Duration::from_millis(200);
        // The layers are looked at, and nothing else is due for all.
        let watched = |node: &Node| node.shard.wakeups().find(|(timer, _)| *timer == Timer::Layers);
        let before = watched(&node).unwrap().1;
        let (mut most, mut all) = (0, 0);
        while let Some(due) = node.shard.poll_timeout().filter(|due| *due <= at) {
            node.now = node.now.max(due);
            node.shard.handle_timeout(node.now);
            let (longest, made) = steps(&mut node);
            (most, all) = (most.max(longest), all + made);
            while node.shard.poll_event().is_some() {}
        }
        assert_eq!(watched(&node).unwrap().1, before + 1);
        assert!(most <= 129 && (visits..visits + 20).contains(&all), "{max_fps:?}: {most} {all}");
    }
}

#[test]
fn layers_are_measured_by_the_clock_and_not_for_each_who_takes_them() {
    let mut node = Node::new();
    let publisher = node.join(PeerSpec { tracks: vec![video("video", 7)], ..bare() });
    crowd(&mut node, None);
    for n in 0..50 {
        node.rtp(publisher, &keyframe(7, n));
        node.run_for(Duration::from_millis(100));
    }
    let measured: u64 =
        node.shard.tracks.iter().flatten().map(|track| track.published.measured()).sum();
    assert!((8..=11).contains(&measured), "{measured} times in 5 s");
}

#[test]
fn packets_of_a_keyframe_leave_in_one_run_too() {
    let mut node = Node::new();
    let publisher = node.join(PeerSpec { tracks: vec![video("video", 7)], ..bare() });
    node.join(PeerSpec { subscriptions: vec![subscription("video", 1_000)], ..bare() });
    // The picture opens the stream: those behind its first packet may have come before it.
    for packet in picture(7, 10, &[999, 998, 1_000, 1_000]) {
        node.rtp(publisher, &packet);
    }
    let mut runs = Vec::new();
    loop {
        while let Some(transmit) = node.shard.poll_transmit() {
            let segment = transmit.segment.unwrap_or(transmit.bytes.len());
            let media = classify(transmit.bytes) == DatagramClass::Rtp;
            runs.extend(media.then(|| transmit.bytes.chunks(segment).count()));
        }
        if !node.shard.step() {
            break;
        }
    }
    assert_eq!(runs, [4], "one send of equal datagrams");
}
