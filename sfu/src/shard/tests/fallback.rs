//! Subscribers that say nothing about single packets, or say it by stream and number (RFC 8888): on a link that narrows,
//! widens and falls silent.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::{
    ingress::CcfbRecorder,
    rtp::{Bitrate, Seq16},
    wire::rtcp::{CompoundWriter, Message, ReportBlock, messages},
};

const VOICE: u32 = 1;
/// Of three encodings: about 205, 410 and 820 kb/s on the wire.
const PICTURES: [(u32, u16); 3] = [(11, 1), (12, 2), (13, 4)];
/// A track of one encoding that its subscriber has looked away from.
const SCREEN: u32 = 14;
const HEARD: u32 = 101;
const DISABLED: u32 = 301;
const SEEN: u32 = 201;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// One way.
const DELAY: Duration = Duration::from_millis(20);
const QUEUE: Duration = Duration::from_millis(300);
/// IP and UDP.
const OVERHEAD: usize = 28;

/// What a subscriber says of what it gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tells {
    Nothing,
    Reports,
    /// And its own estimate.
    Remb,
    /// RFC 8888.
    Ccfb,
}

/// A publisher, and a subscriber behind a link.
struct Call {
    node: Node,
    start: Instant,
    tells: Tells,
    publisher: usize,
    subscriber: usize,
    /// Next numbers of the publisher's streams, and which of them owe a keyframe.
    seqs: BTreeMap<u32, u16>,
    owed: Vec<u32>,
    /// Bits per second.
    rate: u64,
    /// Nothing passes, either way.
    dead: bool,
    free_at: Instant,
    /// When a packet arrives and how long it waited.
    flying: VecDeque<(Instant, Duration, Vec<u8>)>,
    returning: VecDeque<(Instant, Vec<u8>)>,
    ccfb: CcfbRecorder,
    remb: Remb,
    reports: BTreeMap<u32, Reception>,
    reported_at: Instant,
    voice: Vec<(Instant, u16)>,
    /// When pictures' packets came, and of which encoding.
    pictures: Vec<(Instant, u8)>,
    /// Bytes of repeats and padding; while a picture came, on its track, and on the one that is disabled.
    padding: usize,
    in_play: usize,
    not_in_play: usize,
    spec: PeerSpec,
}

/// What a receiver report is made of (RFC 3550 appendix A.3).
#[derive(Default)]
struct Reception {
    highest: u16,
    came: u32,
    /// At the last report.
    before: (u16, u32),
}

/// The receiving half of Google congestion control as browsers had it: growth by 8 % in a second up to one and a half times
/// what comes in, 0.85 of what comes in under a queue, said each second, or at once where it falls.
struct Remb {
    came: VecDeque<(Instant, usize)>,
    bps: Option<f64>,
    waited: Duration,
    said_at: Instant,
    cut_at: Instant,
}

impl Remb {
    fn receive(&mut self, now: Instant, len: usize, waited: Duration) {
        self.came.push_back((now, len));
        self.waited = waited;
    }

    fn poll(&mut self, now: Instant) -> Option<Bitrate> {
        while self.came.front().is_some_and(|(at, _)| now - *at > SECOND / 2) {
            self.came.pop_front();
        }
        let incoming = self.came.iter().map(|(_, len)| *len as f64 * 16.0).sum::<f64>();
        let since = now - self.said_at;
        if self.came.is_empty() {
            self.said_at = now;
            return None;
        }
        if self.waited > MS * 50 && now - self.cut_at > MS * 300 && self.bps.is_some() {
            self.cut_at = now;
            let cut = self.bps.unwrap().min(incoming * 0.85);
            self.bps = Some(cut);
        } else if since < SECOND {
            return None;
        } else if self.waited < MS * 20 {
            let bps = self.bps.unwrap_or(incoming);
            let grown = (bps * 1.08f64.powf(since.as_secs_f64())).min(incoming * 1.5 + 10e3);
            self.bps = Some(grown.max(bps));
        }
        self.said_at = now;
        self.bps.map(|bps| Bitrate::from_bps(bps as u64))
    }
}

impl Call {
    fn new(tells: Tells) -> Self {
        let mut node = Node::new();
        let now = node.now;
        let spec = with_opus();
        let voice = TrackSpec {
            kind: MediaKind::Audio,
            mid: Mid::new(b"a").unwrap(),
            ..video("voice", VOICE)
        };
        let encodings = PICTURES.iter().flat_map(|(ssrc, _)| video("camera", *ssrc).encodings);
        let camera = TrackSpec { encodings: encodings.collect(), ..video("camera", 0) };
        let tracks = vec![voice, camera, video("screen", SCREEN)];
        let publisher = node.join(PeerSpec { tracks, ..spec.clone() });
        let heard = SubscriptionSpec {
            mid: Mid::new(b"t").unwrap(),
            rtx_ssrc: None,
            ..subscription("voice", HEARD)
        };
        let seen = [subscription("screen", DISABLED), subscription("camera", SEEN)];
        let subscriptions = seen.into_iter().chain([heard]).collect();
        let ccfb = tells == Tells::Ccfb;
        let spec = PeerSpec { subscriptions, ccfb, ..spec };
        let subscriber = node.join(spec.clone());
        Self {
            start: now,
            tells,
            publisher,
            subscriber,
            seqs: BTreeMap::new(),
            owed: PICTURES.map(|(ssrc, _)| ssrc).into_iter().chain([SCREEN]).collect(),
            rate: 3_000_000,
            dead: false,
            free_at: now,
            flying: VecDeque::new(),
            returning: VecDeque::new(),
            ccfb: CcfbRecorder::new(now),
            remb: Remb {
                came: VecDeque::new(),
                bps: None,
                waited: Duration::ZERO,
                said_at: now,
                cut_at: now,
            },
            reports: BTreeMap::new(),
            reported_at: now,
            voice: Vec::new(),
            pictures: Vec::new(),
            padding: 0,
            in_play: 0,
            not_in_play: 0,
            spec,
            node,
        }
    }

    fn now(&self) -> Instant {
        self.node.now
    }

    fn run(&mut self, span: Duration) {
        let end = self.now() + span;
        while self.now() < end {
            self.step();
        }
    }

    /// The time it takes; panics after `limit`.
    fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Duration {
        let begin = self.now();
        while !holds(self) {
            assert!(self.now() - begin < limit, "{:?}: not in {limit:?}: {what}", self.tells);
            self.run(MS * 20);
        }
        self.now() - begin
    }

    fn step(&mut self) {
        let ms = (self.now() - self.start).as_millis() as u64;
        if ms.is_multiple_of(5_000) {
            self.node.check(self.publisher);
            self.node.check(self.subscriber);
        }
        if ms == 1_000 {
            self.spec.subscriptions[0].paused = true;
            self.node.apply(self.subscriber, self.spec.clone());
        }
        if ms < 1_000 && ms.is_multiple_of(40) {
            self.publish_picture(0, SCREEN, 1, ms as u32 * 90);
        }
        if ms.is_multiple_of(20) {
            self.publish(VOICE, OPUS, ms as u32 * 48, &[6; 60]);
        }
        if ms.is_multiple_of(40) {
            for (layer, (ssrc, packets)) in PICTURES.into_iter().enumerate() {
                self.publish_picture(layer as u8, ssrc, packets, ms as u32 * 90);
            }
        }
        for sent in self.node.run_for(MS) {
            if sent.client == self.publisher {
                self.follow_requests(&sent);
            } else if !sent.rtcp {
                self.carry(sent.bytes);
            }
        }
        let now = self.now();
        while let Some((_, waited, bytes)) = self.flying.pop_front_if(|(at, ..)| *at <= now) {
            self.receive(&bytes, waited);
        }
        self.tell();
        while let Some((_, bytes)) = self.returning.pop_front_if(|(at, _)| *at <= now) {
            self.node.rtcp(self.subscriber, &bytes);
        }
    }

    fn publish(&mut self, ssrc: u32, pt: u8, time: u32, payload: &[u8]) {
        let seq = self.seqs.entry(ssrc).or_default();
        let mut bytes = vec![0x80, pt];
        bytes.extend(seq.to_be_bytes());
        bytes.extend(time.to_be_bytes());
        bytes.extend(ssrc.to_be_bytes());
        bytes.extend(payload);
        *seq += 1;
        self.node.rtp(self.publisher, &bytes);
    }

    /// Its last byte says which encoding it is of.
    fn publish_picture(&mut self, layer: u8, ssrc: u32, packets: u16, time: u32) {
        let key = self.owed.contains(&ssrc);
        self.owed.retain(|owed| *owed != ssrc);
        let id = (time / 3_600) as u16;
        for part in 0..packets {
            let start = if part == 0 { 0x90 } else { 0x80 };
            let mut payload = vec![start, 0xe0, 0x80 | (id >> 8) as u8, id as u8, id as u8, 0x20];
            if part == 0 && key {
                payload.extend([0, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00]);
            } else {
                payload.push(1);
            }
            payload.resize(950, layer);
            let marker = if part + 1 == packets { 0x80 } else { 0 };
            self.publish(ssrc, VP8 | marker, time, &payload);
        }
    }

    fn follow_requests(&mut self, sent: &Sent) {
        for message in messages(&sent.bytes).flatten().take_while(|_| sent.rtcp) {
            match message {
                Message::Pli(pli) => self.owed.push(pli.media.0),
                Message::Fir(fir) => self.owed.extend(fir.entries().map(|entry| entry.ssrc.0)),
                _ => {}
            }
        }
    }

    /// A queue that drops what does not fit.
    fn carry(&mut self, bytes: Vec<u8>) {
        let now = self.now();
        let begins = self.free_at.max(now);
        let waits = begins - now;
        if self.dead || waits > QUEUE {
            return;
        }
        // With SRTP's tag.
        let bits = (bytes.len() + 16 + OVERHEAD) as u64 * 8;
        self.free_at = begins + Duration::from_micros(bits * 1_000_000 / self.rate);
        self.flying.push_back((self.free_at + DELAY, waits, bytes));
    }

    fn receive(&mut self, bytes: &[u8], waited: Duration) {
        let now = self.now();
        let header = RtpPacket::parse(bytes).unwrap().header;
        let (ssrc, seq) = (header.ssrc, header.seq.0);
        self.remb.receive(now, bytes.len() + 16 + OVERHEAD, waited);
        if self.tells == Tells::Ccfb {
            self.ccfb.record(now, ssrc, Seq16(seq));
        }
        match ssrc.0 {
            HEARD => self.voice.push((now, seq)),
            SEEN => self.pictures.push((now, bytes[bytes.len() - 1])),
            DISABLED => {}
            ssrc => {
                self.padding += bytes.len();
                if self.layer().is_some() && now - self.start > 2 * SECOND {
                    self.in_play += if ssrc == SEEN + 1 { bytes.len() } else { 0 };
                    self.not_in_play += if ssrc == DISABLED + 1 { bytes.len() } else { 0 };
                }
            }
        }
        if matches!(ssrc.0, HEARD | SEEN) {
            let first = Reception { before: (seq.wrapping_sub(1), 0), ..Reception::default() };
            let reception = self.reports.entry(ssrc.0).or_insert(first);
            reception.highest = seq;
            reception.came += 1;
        }
    }

    fn tell(&mut self) {
        let now = self.now();
        let mut said = Vec::new();
        if self.tells != Tells::Nothing && now - self.reported_at >= SECOND {
            self.reported_at = now;
            let blocks: Vec<_> = self.reports.iter_mut().filter_map(report_block).collect();
            said.push(compound(|writer| writer.receiver_report(Ssrc(9), &blocks)));
        }
        if self.tells == Tells::Remb
            && let Some(bps) = self.remb.poll(now)
        {
            said.push(compound(|writer| writer.remb(Ssrc(9), bps, &[Ssrc(HEARD), Ssrc(SEEN)])));
        }
        if self.tells == Tells::Ccfb && self.ccfb.poll_timeout().is_some_and(|due| due <= now) {
            let ccfb = &mut self.ccfb;
            said.push(compound(|writer| ccfb.poll_feedback(now, Ssrc(9), writer)));
        }
        let dead = self.dead;
        self.returning.extend(said.into_iter().filter(|_| !dead).map(|bytes| (now + DELAY, bytes)));
    }

    /// The encoding that comes now.
    fn layer(&self) -> Option<u8> {
        let last = self.pictures.last().filter(|(at, _)| self.now() - *at < SECOND / 2);
        last.map(|(_, layer)| *layer)
    }

    /// Share of the pictures' packets of late that are of this encoding.
    fn share(&self, layer: u8, span: Duration) -> f64 {
        let since = self.now() - span;
        let of = |wanted: &dyn Fn(u8) -> bool| {
            let late = self.pictures.iter().filter(|(at, _)| *at >= since);
            late.filter(|(_, layer)| wanted(*layer))
                .map(|(_, layer)| 1.0 / f64::from(PICTURES[usize::from(*layer)].1))
                .sum::<f64>()
        };
        of(&|other| other == layer) / of(&|_| true)
    }

    /// Share of the voice of late that never came.
    fn voice_lost(&self, span: Duration) -> f64 {
        let since = self.now() - span;
        let heard = self.voice.iter().filter(|(at, _)| *at >= since).count();
        1.0 - heard as f64 / (span.as_millis() / 20) as f64
    }

    fn is_paused(&mut self) -> bool {
        let (room, peer) = (RoomId::new(ROOM), peer_id(self.subscriber));
        let command = Command::ReportPeer { room, peer };
        let Reply::Report(Some(report)) = self.node.shard.handle_command(self.now(), command)
        else {
            panic!("no report");
        };
        report.subscriptions.iter().any(|subscription| subscription.starved)
    }
}

fn report_block((ssrc, reception): (&u32, &mut Reception)) -> Option<ReportBlock> {
    let (highest, came) = reception.before;
    let expected = u32::from(reception.highest.wrapping_sub(highest));
    let lost = expected.saturating_sub(reception.came - came);
    reception.before = (reception.highest, reception.came);
    (expected > 0).then(|| ReportBlock {
        ssrc: Ssrc(*ssrc),
        fraction_lost: (lost * 256 / expected).min(255) as u8,
        cumulative_lost: 0,
        highest_seq: reception.highest.into(),
        jitter: 0,
        last_sr: 0,
        delay_since_last_sr: 0,
    })
}

fn compound<E: std::fmt::Debug>(
    write: impl FnOnce(&mut CompoundWriter<'_>) -> Result<(), E>,
) -> Vec<u8> {
    let mut bytes = [0; 1_200];
    let mut writer = CompoundWriter::new(&mut bytes);
    write(&mut writer).unwrap();
    let len = writer.len();
    bytes[..len].to_vec()
}

/// What a kind of feedback must reach: times to pause, to a picture again, and to the best again.
struct Limits {
    pause: Duration,
    resume: Duration,
    best: Duration,
    /// Of the voice, while the link takes one layer less than is there, and while it takes the voice only.
    voice_lost: (f64, f64),
}

fn follows_the_link(tells: Tells, limits: &Limits) {
    let mut call = Call::new(tells);
    call.run_until("the best picture", 10 * SECOND, |call| call.layer() == Some(2));
    call.run(10 * SECOND);
    assert!(call.share(2, 5 * SECOND) > 0.99, "{tells:?}");

    // 410 kb/s and the voice fit, 820 do not.
    call.rate = 650_000;
    call.run(5 * SECOND);
    call.run(20 * SECOND);
    let (share, lost) = (call.share(1, 20 * SECOND), call.voice_lost(20 * SECOND));
    eprintln!("{tells:?}: {share:.3} of the layer that fits, {lost:.4} of the voice lost");
    assert!(share > 0.7, "{tells:?}: {share}");
    assert!(lost < limits.voice_lost.0, "{tells:?}: {lost}");

    // Not even the lowest.
    call.rate = 150_000;
    let mut begin = call.now();
    let fell = begin;
    while !call.is_paused() {
        call.run(MS * 20);
        assert!(call.now() - fell < limits.pause, "{tells:?}: no pause");
    }
    eprintln!("{tells:?}: paused after {:?}", call.now() - begin);
    call.run(2 * SECOND);
    assert_eq!(call.layer(), None, "{tells:?}");
    call.run(8 * SECOND);
    let lost = call.voice_lost(8 * SECOND);
    eprintln!("{tells:?}: {lost:.4} of the voice lost in a pause");
    assert!(lost < limits.voice_lost.1, "{tells:?}: {lost}");

    call.rate = 3_000_000;
    begin = call.now();
    call.run_until("a picture again", limits.resume, |call| call.layer().is_some());
    let resumed = call.now() - begin;
    call.run_until("the best again", limits.best, |call| call.layer() == Some(2));
    eprintln!("{tells:?}: a picture after {resumed:?}, the best after {:?}", call.now() - begin);
    call.run(10 * SECOND);
    assert!(call.share(2, 5 * SECOND) > 0.99, "{tells:?}: it stays");

    call.dead = true;
    call.run(13 * SECOND);
    // With feedback by packet lowest layers are held: it may be a receiver that is busy.
    assert_eq!(call.is_paused(), tells != Tells::Ccfb, "{tells:?}: nobody is there");
    call.dead = false;
    begin = call.now();
    call.run_until("a picture after silence", limits.resume, |call| call.layer().is_some());
    eprintln!("{tells:?}: a picture {:?} after silence", call.now() - begin);
    call.run(SECOND);
    assert!(call.voice_lost(SECOND / 2) < 0.05, "{tells:?}: the voice never stopped");
    eprintln!("{tells:?}: {} bytes of padding, {} in play", call.padding, call.in_play);
    // None but at the moments at which pictures end: what came last is on its way then.
    let beside = call.not_in_play;
    assert!(beside * 20 <= call.in_play, "{beside} bytes of padding on what nobody looks at");
    assert_eq!(call.in_play > 0, matches!(tells, Tells::Remb | Tells::Ccfb), "{tells:?}");
}

#[test]
fn a_subscriber_that_sends_its_own_estimate_gets_what_fits() {
    let limits = Limits {
        pause: 2 * SECOND,
        resume: 40 * SECOND,
        best: 70 * SECOND,
        voice_lost: (0.01, 0.02),
    };
    follows_the_link(Tells::Remb, &limits);
}

#[test]
fn a_subscriber_with_feedback_by_stream_and_number_gets_what_fits() {
    let limits = Limits {
        pause: 2 * SECOND,
        resume: 15 * SECOND,
        best: 15 * SECOND,
        voice_lost: (0.005, 0.01),
    };
    follows_the_link(Tells::Ccfb, &limits);
}

#[test]
fn a_subscriber_with_receiver_reports_only_gets_what_is_not_lost() {
    let limits = Limits {
        pause: 5 * SECOND,
        resume: 60 * SECOND,
        best: 120 * SECOND,
        voice_lost: (0.05, 0.03),
    };
    follows_the_link(Tells::Reports, &limits);
}

#[test]
fn a_subscriber_that_says_nothing_gets_everything() {
    let mut call = Call::new(Tells::Nothing);
    call.rate = 650_000;
    call.run(10 * SECOND);
    assert!(call.share(2, 5 * SECOND) > 0.99);
    assert!(!call.is_paused());
}
