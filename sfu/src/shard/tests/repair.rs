//! What repair packets do for a subscriber on a long path that loses, and that there are none where they would harm.

use std::collections::{BTreeMap, VecDeque};

use super::{rooms::picture, *};
use crate::{
    ingress::FecDecoder,
    rtp::Seq16,
    wire::rtcp::{ArrivalTick, CompoundWriter, TransportFeedbackFields},
};

const PUBLISHED: [u32; 2] = [7, 8];
const MEDIA: u32 = 1_000;
const RTX: u32 = 1_001;
const REPAIR: u32 = 1_002;
const TRANSPORT_CC: u8 = 3;

const STEP: Duration = Duration::from_millis(5);
const FEEDBACK: Duration = Duration::from_millis(100);

/// What the path to the subscriber is like.
#[derive(Clone, Copy)]
struct Path {
    /// One way.
    delay: Duration,
    /// Of each thousand packets so many are lost, in runs of this length.
    loss: u32,
    run: u32,
    /// Bits per second.
    rate: u64,
    /// The subscriber takes repair packets.
    fec: bool,
}

/// The largest wait before the path; what comes then is lost.
const QUEUE: Duration = Duration::from_millis(250);

/// A subscriber that says how its packets fare, and asks for what it misses.
struct Subscriber {
    path: Path,
    dice: u64,
    lost_of_run: u32,
    free_at: Instant,
    /// To it, by time.
    under_way: VecDeque<(Instant, Vec<u8>)>,
    /// From it.
    returning: VecDeque<(Instant, Vec<u8>)>,
    /// Transport-wide numbers, the first that was not told of, and when the others came.
    arrivals: BTreeMap<u16, Instant>,
    told: u16,
    told_at: Instant,
    count: u8,
    decoder: FecDecoder,
    /// By number: when it would have come, and came at last by which way.
    packets: BTreeMap<u16, (Instant, Option<(Instant, Way)>)>,
    highest: Option<u16>,
    bytes: BTreeMap<u32, u64>,
    overflowed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Straight,
    Repaired,
    Resent,
}

/// What became of those that were lost.
#[derive(Debug, Default)]
struct Outcome {
    lost: usize,
    /// Of these, what repair packets brought back before, or without, a retransmission.
    repaired: usize,
    never: usize,
    /// Mean time that the others came late, milliseconds.
    late: f64,
    overhead: f64,
    overflowed: u64,
    fec_out: u64,
    /// Megabits per second that left, headers included.
    media: f64,
}

impl Subscriber {
    fn new(now: Instant, path: Path) -> Self {
        Self {
            path,
            dice: 7,
            lost_of_run: 0,
            free_at: now,
            under_way: VecDeque::new(),
            returning: VecDeque::new(),
            arrivals: BTreeMap::new(),
            told: 0,
            told_at: now,
            count: 0,
            decoder: FecDecoder::default(),
            packets: BTreeMap::new(),
            highest: None,
            bytes: BTreeMap::new(),
            overflowed: 0,
        }
    }

    fn is_lost(&mut self) -> bool {
        if self.lost_of_run > 0 {
            self.lost_of_run -= 1;
            return true;
        }
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99_991);
        let lost =
            (self.dice >> 40) % (1_000 * u64::from(self.path.run)) < u64::from(self.path.loss);
        self.lost_of_run = if lost { self.path.run - 1 } else { 0 };
        lost
    }

    /// The node sent something.
    fn send(&mut self, now: Instant, bytes: Vec<u8>) {
        let packet = RtpPacket::parse(&bytes).unwrap();
        let (ssrc, seq) = (packet.header.ssrc.0, packet.header.seq.0);
        *self.bytes.entry(ssrc).or_default() += bytes.len() as u64;
        let begins = self.free_at.max(now);
        if ssrc == MEDIA {
            self.packets.insert(seq, (begins + self.path.delay, None));
        }
        if begins - now > QUEUE {
            self.overflowed += 1;
            return;
        }
        // With SRTP, UDP and IP.
        let bits = (bytes.len() as u64 + 44) * 8;
        self.free_at = begins + Duration::from_micros(bits * 1_000_000 / self.path.rate);
        if !self.is_lost() {
            self.under_way.push_back((self.free_at + self.path.delay, bytes));
        }
    }

    /// Everything that came until now.
    fn receive(&mut self, now: Instant) {
        while self.under_way.front().is_some_and(|(at, _)| *at <= now) {
            let Some((at, bytes)) = self.under_way.pop_front() else { return };
            let packet = RtpPacket::parse(&bytes).unwrap();
            let number = packet.elements().find(|(id, _)| *id == TRANSPORT_CC).unwrap().1;
            self.arrivals.insert(u16::from_be_bytes([number[0], number[1]]), at);
            match packet.header.ssrc.0 {
                MEDIA => {
                    self.came(packet.header.seq.0, at, Way::Straight);
                    self.decoder.handle_media(&bytes, &packet, &extensions());
                    self.ask(at, packet.header.seq.0);
                }
                RTX if packet.payload.len() > 2 => {
                    let seq = u16::from_be_bytes([packet.payload[0], packet.payload[1]]);
                    self.came(seq, at, Way::Resent);
                }
                REPAIR => self.decoder.handle_repair(packet.payload),
                _ => {}
            }
            while let Some(back) = self.decoder.poll_recovered() {
                let packet = RtpPacket::parse(&back).unwrap();
                assert_eq!(packet.header.ssrc, Ssrc(MEDIA));
                assert_eq!(packet.header.pt.value(), VP8, "what is made up is no packet");
                self.came(packet.header.seq.0, at, Way::Repaired);
            }
        }
    }

    fn came(&mut self, seq: u16, at: Instant, way: Way) {
        if let Some((_, came)) = self.packets.get_mut(&seq) {
            came.get_or_insert((at, way));
        }
    }

    /// Asks for what lies before a packet, once: that is the earliest that a retransmission may come.
    fn ask(&mut self, now: Instant, seq: u16) {
        let first = self.highest.replace(self.highest.map_or(seq, |highest| highest.max(seq)));
        let missing: Vec<_> = (first.map_or(seq, |first| first + 1)..seq).map(Seq16).collect();
        if missing.is_empty() {
            return;
        }
        let mut bytes = [0; 1_200];
        let mut writer = CompoundWriter::new(&mut bytes);
        writer.nack(Ssrc(1), Ssrc(MEDIA), missing).unwrap();
        let len = writer.len();
        self.returning.push_back((now + self.path.delay, bytes[..len].to_vec()));
    }

    /// Tells how packets fared.
    fn tell(&mut self, now: Instant, origin: Instant) {
        let Some(last) = self.arrivals.keys().next_back().copied() else { return };
        if now < self.told_at + FEEDBACK || last < self.told {
            return;
        }
        self.told_at = now;
        let tick =
            |at: &Instant| ArrivalTick((*at - origin).as_micros() as i64 / ArrivalTick::MICROS);
        let arrivals: Vec<_> =
            (self.told..=last).map(|number| self.arrivals.get(&number).map(tick)).collect();
        let fields = TransportFeedbackFields {
            sender: Ssrc(1),
            media: Ssrc(MEDIA),
            base_seq: self.told,
            feedback_count: self.count,
        };
        let mut bytes = [0; 1_400];
        let mut writer = CompoundWriter::new(&mut bytes);
        writer.transport_cc(&fields, &arrivals).unwrap();
        let len = writer.len();
        self.returning.push_back((now + self.path.delay, bytes[..len].to_vec()));
        (self.told, self.count) = (last + 1, self.count.wrapping_add(1));
    }

    fn outcome(&self, from: u16, until: Instant) -> Outcome {
        let mut outcome = Outcome { overflowed: self.overflowed, ..Outcome::default() };
        let mut late = 0;
        for (due, came) in self.packets.range(from..).map(|(_, packet)| packet) {
            if *due > until || came.is_some_and(|(_, way)| way == Way::Straight) {
                continue;
            }
            outcome.lost += 1;
            match came {
                Some((at, way)) => {
                    outcome.repaired += usize::from(*way == Way::Repaired);
                    late += (*at - *due).as_millis();
                }
                None => outcome.never += 1,
            }
        }
        outcome.late = late as f64 / (outcome.lost - outcome.never).max(1) as f64;
        let of = |ssrc| self.bytes.get(&ssrc).copied().unwrap_or(0) as f64;
        outcome.overhead = of(REPAIR) / of(MEDIA);
        outcome.media = of(MEDIA) * 8.0 / 20e6;
        outcome
    }
}

fn extensions() -> ExtensionMap {
    let mut extensions = ExtensionMap::default();
    extensions.set(Extension::Mid, 4);
    extensions.set(Extension::TransportCc, TRANSPORT_CC);
    extensions
}

/// A publisher of so many packets of 1,000 bytes in each of 30 pictures a second, in one or two encodings, and a subscriber behind
/// this path; what became of it after ten seconds, for twenty more.
fn watch(packets: &[usize], path: Path) -> Outcome {
    let mut node = Node::new();
    let origin = node.now;
    let mut track = video("video", PUBLISHED[0]);
    track.encodings = PUBLISHED[..packets.len()]
        .iter()
        .map(|ssrc| EncodingSpec { rid: None, ssrc: Some(Ssrc(*ssrc)), rtx_ssrc: None })
        .collect();
    let publisher = node.join(PeerSpec { tracks: vec![track], ..bare() });
    let wanted = SubscriptionSpec { fec_ssrc: Some(Ssrc(REPAIR)), ..subscription("video", MEDIA) };
    let subscriber = node.join(PeerSpec {
        send_extensions: extensions(),
        fec: Pt::new(FEC).filter(|_| path.fec),
        subscriptions: vec![wanted],
        ..bare()
    });
    let mut them = Subscriber::new(node.now, path);
    let (mut seqs, mut picture_at, mut checked_at) = ([1; 2], node.now, node.now);
    let (mut time, mut from) = (90_000, None);
    let mut next = Vec::new();
    while node.now < origin + Duration::from_secs(30) {
        if node.now >= picture_at {
            picture_at += Duration::from_micros(33_333);
            time += 3_000_u32;
            for ((ssrc, seq), count) in PUBLISHED.into_iter().zip(&mut seqs).zip(packets) {
                for mut packet in picture(ssrc, *seq, &vec![1_000; *count]) {
                    packet[4..8].copy_from_slice(&time.to_be_bytes());
                    node.rtp(publisher, &packet);
                }
                *seq += *count as u16;
            }
        }
        if node.now >= checked_at {
            checked_at += Duration::from_secs(4);
            (0..2).for_each(|client| node.check(client));
        }
        while them.returning.front().is_some_and(|(at, _)| *at <= node.now) {
            let Some((_, bytes)) = them.returning.pop_front() else { break };
            node.rtcp(subscriber, &bytes);
        }
        next.clear();
        next.extend(node.run_for(STEP));
        for sent in next.drain(..).filter(|sent| sent.client == subscriber && !sent.rtcp) {
            them.send(node.now, sent.bytes);
        }
        them.receive(node.now);
        them.tell(node.now, origin);
        if from.is_none() && node.now >= origin + Duration::from_secs(10) {
            from = them.highest;
            them.bytes.clear();
        }
    }
    // What was sent at the end may still be asked for.
    let until = node.now - 4 * path.delay - Duration::from_millis(300);
    let fec_out = node.shard.counters().fec_out;
    let (room, peer) = (RoomId::new(ROOM), peer_id(subscriber));
    let Reply::Report(Some(report)) =
        node.shard.handle_command(node.now, Command::ReportPeer { room, peer })
    else {
        panic!("no report");
    };
    assert_eq!(report.subscriptions[0].sent.fec_packets, fec_out, "told of and counted");
    Outcome { fec_out, ..them.outcome(from.unwrap(), until) }
}

const LONG: Path =
    Path { delay: Duration::from_millis(100), loss: 50, run: 1, rate: 20_000_000, fec: true };

#[test]
fn most_of_what_a_long_path_loses_comes_back_before_it_could_be_sent_again() {
    struct Case {
        name: &'static str,
        /// In each picture.
        packets: usize,
        path: Path,
        /// Of a hundred that were lost, so many are repaired at least.
        repaired: usize,
        /// Bytes of repair packets for a hundred of media at most.
        overhead: f64,
    }
    let cases = [
        Case { name: "2 Mb/s, 5 %", packets: 8, path: LONG, repaired: 40, overhead: 10.0 },
        Case { name: "0.5 Mb/s, 5 %", packets: 2, path: LONG, repaired: 50, overhead: 17.0 },
        Case {
            name: "2 Mb/s, 2 %",
            packets: 8,
            path: Path { loss: 20, ..LONG },
            repaired: 50,
            overhead: 7.0,
        },
        Case {
            name: "4 Mb/s, 5 % in pairs",
            packets: 16,
            path: Path { run: 2, ..LONG },
            repaired: 20,
            overhead: 10.0,
        },
    ];
    for Case { name, packets, path, repaired, overhead } in cases {
        let with = watch(&[packets], path);
        let without = watch(&[packets], Path { fec: false, ..path });
        println!("{name}: {with:?}\nwithout: {without:?}");
        assert!(with.lost > 30 && with.overflowed == 0, "{name}: {with:?}");
        assert!(with.repaired * 100 >= with.lost * repaired, "{name}: {with:?}");
        assert!(with.overhead * 100.0 <= overhead, "{name}: {with:?}");
        assert!(with.late < without.late * 0.9, "{name}: {with:?} {without:?}");
        assert_eq!((without.repaired, without.fec_out), (0, 0), "{name}");
    }
}

#[test]
fn there_are_no_repair_packets_where_they_are_of_no_use_or_would_fill_the_path() {
    struct Case {
        name: &'static str,
        packets: &'static [usize],
        path: Path,
        /// Megabits per second of media that arrive, at least.
        media: f64,
        repairs: bool,
    }
    let narrow = Path { rate: 1_300_000, ..LONG };
    let none = |name, packets, path, media| Case { name, packets, path, media, repairs: false };
    let cases = [
        none("nothing is lost", &[8], Path { loss: 0, ..LONG }, 1.9),
        none("resends come in time", &[8], Path { delay: Duration::from_millis(30), ..LONG }, 1.9),
        none("they were not negotiated", &[8], Path { fec: false, ..LONG }, 1.9),
        none(
            "the path takes the lower layer and loses nothing",
            &[2, 8],
            Path { loss: 0, ..narrow },
            0.4,
        ),
        none("nothing fits", &[8], narrow, 0.0),
        Case {
            name: "there is room beside the lower layer",
            packets: &[2, 8],
            path: narrow,
            media: 0.4,
            repairs: true,
        },
    ];
    for Case { name, packets, path, media, repairs } in cases {
        let outcome = watch(packets, path);
        println!("{name}: {outcome:?}");
        assert_eq!(outcome.fec_out > 0, repairs, "{name}: {outcome:?}");
        assert!(outcome.media >= media, "{name}: {outcome:?}");
        assert!(media == 0.0 || outcome.overflowed == 0, "{name}: {outcome:?}");
    }
}
