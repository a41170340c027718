//! Packets of a frame pass together where they arrive together, and leave as they would one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{rtp::Seq16, wire::rtcp::CompoundWriter};

const PUBLISHED: u32 = 7;
const MEDIA: u32 = 1_000;
const RTX: u32 = 1_001;

/// A frame of VP8, and what becomes of it on its way here.
#[derive(Clone, Debug)]
struct Frame {
    key: bool,
    /// Of two.
    temporal: u8,
    /// Bytes of its packets.
    sizes: Vec<usize>,
    /// A probe of padding behind it.
    padding: bool,
    /// All of it is late by a frame.
    late: bool,
    /// By packet: 0 lost, 1 late by a frame or two, anything else in time.
    luck: Vec<u8>,
}

fn frame() -> impl Strategy<Value = Frame> {
    let sizes = prop::collection::vec(prop_oneof![3 => 300..303_usize, 1 => 60..400_usize], 1..7);
    let luck = prop::collection::vec(0..24_u8, 7);
    let bits = (0..12_u8, 0..8_u8, 0..4_u8);
    (bits, 0..2_u8, sizes, luck).prop_map(|((key, padding, late), temporal, sizes, luck)| {
        let key = key == 0;
        let temporal = if key { 0 } else { temporal };
        Frame { key, temporal, sizes, padding: padding == 0, late: late == 0, luck }
    })
}

/// All packets of the frames, each with the turn in which it arrives.
fn packets(frames: &[Frame]) -> Vec<(usize, Vec<u8>)> {
    let (mut seq, mut tl0, mut key_idx) = (1_u16, 0_u8, 0_u8);
    let mut packets = Vec::new();
    for (turn, frame) in frames.iter().enumerate() {
        let key = frame.key || turn == 0;
        let temporal = if key { 0 } else { frame.temporal };
        tl0 = tl0.wrapping_add(u8::from(temporal == 0));
        key_idx = (key_idx + u8::from(key)) % 32;
        let header = |marker: bool, padded: bool, seq: u16| {
            let time = (turn as u32 * 3_000).to_be_bytes();
            let mut bytes = vec![0x80 | u8::from(padded) << 5, VP8 | u8::from(marker) << 7];
            bytes.extend(seq.to_be_bytes());
            bytes.extend(time);
            bytes.extend(PUBLISHED.to_be_bytes());
            bytes
        };
        for (index, size) in frame.sizes.iter().enumerate() {
            let mut bytes = header(index + 1 == frame.sizes.len(), false, seq);
            let start = if index == 0 { 0x90 } else { 0x80 };
            let picture = (turn as u16 | 0x8000).to_be_bytes();
            bytes.extend([start, 0xf0, picture[0], picture[1], tl0, temporal << 6 | key_idx]);
            if index == 0 {
                bytes.extend([u8::from(!key), 0, 0, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00]);
            }
            bytes.resize(12 + size, seq as u8);
            let at = match frame.luck.get(index) {
                Some(0) if turn > 0 => None,
                Some(1) if turn > 0 => Some(turn + 1 + usize::from(seq % 2)),
                _ if frame.late && turn > 0 => Some(turn + 1),
                _ => Some(turn),
            };
            packets.extend(at.map(|at| (at, turn, bytes)));
            seq += 1;
        }
        if frame.padding {
            let mut bytes = header(false, true, seq);
            bytes.extend([0; 99]);
            bytes.push(100);
            packets.push((turn, turn, bytes));
            seq += 1;
        }
    }
    // What is late comes behind what is in time.
    packets.sort_by_key(|(at, turn, _)| (*at, at > turn));
    packets.into_iter().map(|(at, _, bytes)| (at, bytes)).collect()
}

/// By number: marker, time and payload.
type Received = BTreeMap<(u32, u16), (bool, u32, Vec<u8>)>;

struct World {
    node: Node,
    taker: PeerSpec,
    received: Received,
}

impl World {
    fn new(max_temporal: Option<u8>) -> Self {
        let taken = SubscriptionSpec { max_temporal, ..subscription("camera", MEDIA) };
        Self::taken_by(PeerSpec { subscriptions: vec![taken], ..bare() })
    }

    fn taken_by(taker: PeerSpec) -> Self {
        let mut node = Node::new();
        node.join(PeerSpec { tracks: vec![video("camera", PUBLISHED)], ..bare() });
        node.join(taker.clone());
        Self { node, taker, received: Received::new() }
    }

    /// The subscriber takes nothing for a while, or something again.
    fn pause(&mut self, paused: bool) {
        self.taker.subscriptions.iter_mut().for_each(|taken| taken.paused = paused);
        self.node.apply(1, self.taker.clone());
    }

    /// Has packets arrive at once, and this time pass. The numbers that came of them.
    fn hand_over(&mut self, packets: &[Vec<u8>], span: Duration) -> Vec<u16> {
        packets.iter().for_each(|packet| self.node.rtp(0, packet));
        let sent = self.node.run_for(span);
        let media = sent.iter().filter(|sent| sent.client == 1 && !sent.rtcp);
        let numbers = media.map(|sent| RtpPacket::parse(&sent.bytes).unwrap().header);
        numbers.filter(|header| header.ssrc == Ssrc(MEDIA)).map(|header| header.seq.0).collect()
    }

    fn take(&mut self, sent: Vec<Sent>) -> Result<(), TestCaseError> {
        for sent in sent.into_iter().filter(|sent| sent.client == 1 && !sent.rtcp) {
            let packet = RtpPacket::parse(&sent.bytes).unwrap();
            let header = &packet.header;
            let mut key = (header.ssrc.0, header.seq.0);
            let mut payload = packet.payload.to_vec();
            if key.0 == RTX {
                // By the number that it repeats.
                let own = payload.drain(..2).fold(0, |sum, byte| sum << 8 | u16::from(byte));
                key.1 = own;
            }
            let before = self.received.insert(key, (header.marker, header.timestamp.0, payload));
            prop_assert!(before.is_none(), "twice: {key:?}");
        }
        Ok(())
    }

    /// Has a frame's time pass.
    fn pass(&mut self) -> Result<(), TestCaseError> {
        let sent = self.node.run_for(Duration::from_millis(33));
        self.take(sent)
    }

    /// Asks for the latest packets again, whether they came or not.
    fn ask_again(&mut self) -> Result<(), TestCaseError> {
        let latest = self.received.keys().filter(|(ssrc, _)| *ssrc == MEDIA).map(|(_, seq)| *seq);
        let Some(latest) = latest.max() else { return Ok(()) };
        let mut bytes = [0; 1_000];
        let mut writer = CompoundWriter::new(&mut bytes);
        let lost = (latest.saturating_sub(40)..=latest).map(Seq16);
        writer.nack(Ssrc(1), Ssrc(MEDIA), lost).unwrap();
        let len = writer.len();
        self.node.rtcp(1, &bytes[..len]);
        let sent = self.node.drain();
        self.take(sent)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn what_leaves_is_the_same_however_much_arrives_at_once(
        frames in prop::collection::vec(frame(), 1..40),
        max_temporal in prop_oneof![Just(None), Just(Some(0))],
        paused in (0..20_usize, 0..6_usize),
    ) {
        let packets = packets(&frames);
        let (mut one_by_one, mut together) = (World::new(max_temporal), World::new(max_temporal));
        for turn in 0..frames.len() + 3 {
            if turn == paused.0 || turn == paused.0 + paused.1 {
                one_by_one.pause(turn == paused.0 && paused.1 > 0);
                together.pause(turn == paused.0 && paused.1 > 0);
            }
            for (_, packet) in packets.iter().filter(|(at, _)| *at == turn) {
                one_by_one.node.rtp(0, packet);
                let sent = one_by_one.node.drain();
                one_by_one.take(sent)?;
                together.node.rtp(0, packet);
            }
            one_by_one.pass()?;
            together.pass()?;
        }
        one_by_one.ask_again()?;
        together.ask_again()?;
        let least = if paused.0 == 0 { 0 } else { frames[0].sizes.len() };
        prop_assert!(one_by_one.received.len() >= least, "some at least");
        prop_assert_eq!(one_by_one.received, together.received);
    }
}

#[test]
fn what_the_pacer_holds_back_of_a_frame_leaves_under_the_numbers_behind_it() {
    const TRANSPORT_CC: u8 = 3;
    let mut extensions = bare().send_extensions;
    extensions.set(Extension::TransportCc, TRANSPORT_CC);
    let subscriptions = vec![subscription("camera", MEDIA)];
    let taker = PeerSpec { subscriptions, send_extensions: extensions, ..bare() };
    let mut world = World::taken_by(taker);
    let picture = rooms::picture(PUBLISHED, 1, &[90; 60]);
    let at_once = world.hand_over(&picture, Duration::ZERO);
    assert!((3..40).contains(&at_once.len()), "{} left at once", at_once.len());
    let later = world.hand_over(&[], Duration::from_secs(5));
    let first = at_once[0];
    let all: Vec<u16> = at_once.into_iter().chain(later).collect();
    assert_eq!(all, (first..first + 60).collect::<Vec<_>>());
}

#[test]
fn one_that_cannot_be_written_is_missing_and_nothing_else() {
    let mut world = World::new(None);
    // With its header it is longer than a packet may be.
    let picture = rooms::picture(PUBLISHED, 1, &[1_100, 1_100, 1_585, 1_100, 1_100]);
    let came = world.hand_over(&picture, Duration::ZERO);
    let first = came[0];
    assert_eq!(came, [0, 1, 3, 4].map(|place| first + place));
    assert_eq!(world.node.shard.counters().drops(DropReason::Unforwardable), 1);
    let next = rooms::picture(PUBLISHED, 6, &[1_100]);
    assert_eq!(world.hand_over(&next, Duration::ZERO), [first + 5]);
}

#[test]
fn a_frame_of_more_packets_than_are_counted_at_once_leaves_whole() {
    let mut world = World::new(None);
    let picture = rooms::picture(PUBLISHED, 1, &[100; 400]);
    let came = world.hand_over(&picture, Duration::ZERO);
    assert_eq!(came, (came[0]..came[0] + 400).collect::<Vec<_>>());
    world.received = came.into_iter().map(|seq| ((MEDIA, seq), (false, 0, Vec::new()))).collect();
    world.ask_again().unwrap();
    let resent = world.received.keys().filter(|(ssrc, _)| *ssrc == RTX).map(|(_, seq)| *seq);
    let latest = world.received.keys().map(|(_, seq)| *seq).max().unwrap();
    assert_eq!(resent.collect::<Vec<_>>(), (latest - 40..=latest).collect::<Vec<_>>());
}
