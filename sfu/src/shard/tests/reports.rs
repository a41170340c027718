//! When peers are reported to, and what that costs.

use super::{super::rtcp::reports_len, rooms::picture, *};
use crate::{
    rtp::RtpTs32,
    wire::{
        NtpTime,
        flexfec_tests::packet,
        rtcp::{CompoundWriter, Message, ReportBlock, SenderInfo, messages},
    },
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// How exactly the time of what left is known.
const STEP: Duration = Duration::from_millis(5);
/// Deadlines are put off by so much at most.
const PUT_OFF: Duration = Duration::from_millis(32);

/// The same of those that were expected to leave with media.
const PUT_OFF_FAR: Duration = Duration::from_millis(128);
/// Between two reports, with the jitter.
const SHORTEST: Duration = Duration::from_millis(750);
const LONGEST: Duration = Duration::from_millis(1_250);

/// What one of the publishers sends at once.
#[derive(Clone, Copy, Debug)]
struct Media {
    ssrc: u32,
    /// Bytes of payload of each packet; none: a voice of one packet.
    picture: Option<&'static [usize]>,
    every: Duration,
}

impl Media {
    fn video(ssrc: u32, picture: &'static [usize], every: Duration) -> Self {
        Self { ssrc, picture: Some(picture), every }
    }

    fn voice(ssrc: u32) -> Self {
        Self { ssrc, picture: None, every: MS * 20 }
    }

    fn track(&self) -> TrackSpec {
        let kind = if self.picture.is_some() { MediaKind::Video } else { MediaKind::Audio };
        TrackSpec { kind, ..video(&self.ssrc.to_string(), self.ssrc) }
    }

    fn subscription(&self) -> SubscriptionSpec {
        let own = SUBSCRIBED + 2 * self.ssrc;
        let rtx_ssrc = self.picture.map(|_| Ssrc(own + 1));
        SubscriptionSpec { rtx_ssrc, ..subscription(&self.ssrc.to_string(), own) }
    }

    fn packets(&self, seq: u16) -> Vec<Vec<u8>> {
        let Some(sizes) = self.picture else {
            let mut bytes = packet(self.ssrc, seq, 100);
            bytes[1] = OPUS;
            bytes[4..8].copy_from_slice(&(u32::from(seq) * 960).to_be_bytes());
            return vec![bytes];
        };
        picture(self.ssrc, seq, sizes)
    }
}

const SUBSCRIBED: u32 = 1_000;

/// Something that left to the subscriber.
struct Left {
    at: Instant,
    run: Vec<Sent>,
}

impl Left {
    fn reports(&self) -> impl Iterator<Item = Message<'_>> {
        let compounds = self.run.iter().filter(|sent| sent.rtcp);
        compounds.flat_map(|sent| messages(&sent.bytes).map(Result::unwrap))
    }

    /// Sender reports in it, by the middle of their wall clocks.
    fn senders(&self) -> Vec<u32> {
        let of = |message| match message {
            Message::SenderReport(report) => Some(report.info.ntp.middle32()),
            _ => None,
        };
        self.reports().filter_map(of).collect()
    }

    fn media(&self) -> usize {
        self.run.iter().filter(|sent| !sent.rtcp).count()
    }
}

/// Somebody who publishes, and somebody who takes it all.
struct Call {
    node: Node,
    media: Vec<(Media, u16)>,
    /// The publisher goes on.
    sends: bool,
    publisher: usize,
    subscriber: usize,
    started: Instant,
    clock_at: Instant,
}

impl Call {
    fn new(media: &[Media]) -> Self {
        let mut node = Node::new();
        let tracks = media.iter().map(Media::track).collect();
        let publisher = node.join(PeerSpec { tracks, ..with_opus() });
        let subscriptions = media.iter().map(Media::subscription).collect();
        let subscriber = node.join(PeerSpec { subscriptions, ..with_opus() });
        let media = media.iter().map(|media| (*media, 1)).collect();
        let (started, sends) = (node.now, true);
        Self { clock_at: started, started, node, media, sends, publisher, subscriber }
    }

    /// Lets time pass; what left to the subscriber, and when reports left to the publisher.
    fn play(&mut self, span: Duration) -> (Vec<Left>, Vec<Instant>) {
        let (mut left, mut told) = (Vec::new(), Vec::new());
        let end = self.node.now + span;
        while self.node.now < end {
            let passed = self.node.now - self.started;
            if (passed.as_millis() as u64).is_multiple_of(5_000) {
                self.node.check(self.publisher);
                self.node.check(self.subscriber);
            }
            if self.sends {
                self.publish(passed);
            }
            let at = self.node.now;
            for run in self.node.runs_for(STEP) {
                let run = Left { at, run };
                match run.run[0].client {
                    client if client == self.subscriber => left.push(run),
                    _ => {
                        let tells = |message| matches!(message, Message::ReceiverReport(_));
                        told.extend(run.reports().any(tells).then_some(at));
                    }
                }
            }
        }
        (left, told)
    }

    fn publish(&mut self, passed: Duration) {
        let clock = self.node.now >= self.clock_at;
        for (media, seq) in &mut self.media {
            if (passed.as_millis()).is_multiple_of(media.every.as_millis()) {
                for packet in media.packets(*seq) {
                    self.node.rtp(self.publisher, &packet);
                    *seq += 1;
                }
            }
            if clock {
                self.clock_at = self.node.now + SECOND;
                let info = SenderInfo {
                    ssrc: Ssrc(media.ssrc),
                    ntp: NtpTime(
                        (1_000_000 << 32) + ((passed.as_micros() as u64) << 32) / 1_000_000,
                    ),
                    rtp_timestamp: RtpTs32(u32::from(*seq)),
                    packet_count: 0,
                    octet_count: 0,
                };
                self.node.rtcp(self.publisher, &compound(|w| w.sender_report(&info, &[]).unwrap()));
            }
        }
    }

    fn wakeups(&self) -> u64 {
        let mut all = self.node.shard.wakeups();
        all.find(|(timer, _)| *timer == Timer::Reports).unwrap().1
    }

    /// When statistics of a client were told.
    fn stats(&self, client: usize) -> Vec<Instant> {
        let of = |(at, event): &(Instant, Event)| {
            let is = |id: &PeerId| *id == peer_id(client);
            matches!(event, Event::PeerStats { peer, .. } if is(peer)).then_some(*at)
        };
        self.node.events.iter().filter_map(of).collect()
    }
}

fn compound(write: impl FnOnce(&mut CompoundWriter<'_>)) -> Vec<u8> {
    let mut bytes = [0; 1_200];
    let mut writer = CompoundWriter::new(&mut bytes);
    write(&mut writer);
    let len = writer.len();
    bytes[..len].to_vec()
}

fn gaps(moments: &[Instant]) -> Vec<Duration> {
    moments.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[track_caller]
fn within(gaps: &[Duration], least: Duration, most: Duration) {
    let out = |gap: &&Duration| **gap + STEP < least || **gap > most + STEP;
    let wrong: Vec<_> = gaps.iter().filter(out).collect();
    assert!(wrong.is_empty() && !gaps.is_empty(), "{wrong:?} of {gaps:?}");
}

#[test]
fn a_sender_report_is_the_last_datagram_of_a_run_of_media_and_the_timer_hardly_wakes() {
    const FOUR: &[usize] = &[1_000; 4];
    for media in [
        Media::voice(1),
        Media::video(1, &[300], MS * 35),
        Media::video(1, FOUR, MS * 40),
        Media::video(1, FOUR, MS * 330),
    ] {
        let mut call = Call::new(&[media]);
        call.play(SECOND * 4);
        let (wakeups, frames_before) = (call.wakeups(), call.media[0].1);
        let span = SECOND * 60;
        let (left, told) = call.play(span);
        let size = media.packets(1).len();
        let frames = usize::from(call.media[0].1 - frames_before) / size;
        assert_eq!(left.len(), frames, "a send for each frame, and no other: {media:?}");
        let mut reports = Vec::new();
        for Left { at, run } in &left {
            let (last, before) = run.split_last().unwrap();
            let packets = if last.rtcp { before } else { run };
            assert!(packets.len() == size && packets.iter().all(|sent| !sent.rtcp), "{media:?}");
            reports.extend(last.rtcp.then_some(*at));
        }
        within(&gaps(&reports), SHORTEST, LONGEST + media.every);
        let expected = span.as_secs_f64() / (SECOND + media.every / 2).as_secs_f64();
        assert!(
            (reports.len() as f64 / expected - 1.0).abs() < 0.1,
            "{media:?}: {}",
            reports.len()
        );
        // The publisher, to whom nothing else leaves, is woken for each; the subscriber in two seconds.
        within(&gaps(&told), SHORTEST, LONGEST + PUT_OFF);
        let wakeups = call.wakeups() - wakeups - told.len() as u64;
        assert!(wakeups <= 33, "{media:?}: {wakeups} visits in a minute");
    }
}

#[test]
fn reports_longer_than_the_packets_are_a_send_of_their_own_and_break_no_run() {
    let media = [Media::voice(1), Media::voice(2), Media::voice(3)];
    let mut call = Call::new(&media);
    call.play(SECOND * 4);
    let (left, _) = call.play(SECOND * 20);
    let reports: Vec<_> = left.iter().filter(|left| left.media() == 0).collect();
    for left in &left {
        let whole = left.media() == media.len() && left.senders().is_empty();
        assert!(whole || (left.media() == 0 && left.senders().len() == media.len()));
    }
    let at: Vec<_> = reports.iter().map(|left| left.at).collect();
    within(&gaps(&at), SHORTEST, LONGEST + MS * 120);
}

#[test]
fn a_report_waits_a_little_for_a_run_that_it_can_end() {
    // Frames end with a packet that is shorter than the others, so that nothing may follow it; voice is as long as the report.
    let uneven = Media::video(1, &[900, 900, 300], MS * 30);
    let voice = Media::voice(2);
    let mut call = Call::new(&[uneven, voice]);
    call.play(SECOND * 4);
    let (left, _) = call.play(SECOND * 20);
    let (rode, alone): (Vec<_>, Vec<_>) =
        left.iter().filter(|left| !left.senders().is_empty()).partition(|left| left.media() > 0);
    assert!(rode.len() >= 15 && alone.is_empty(), "{} rode, {} did not", rode.len(), alone.len());
}

/// A call in which the subscriber publishes so many voices, too, each a packet in 20 ms.
struct Answered {
    call: Call,
    own: Vec<Media>,
    seq: u16,
}

impl Answered {
    fn new(media: &[Media], voices: u32) -> Self {
        let mut call = Call::new(media);
        let own: Vec<_> = (0..voices).map(|n| Media::voice(90 + n)).collect();
        let spec = PeerSpec {
            tracks: own.iter().map(Media::track).collect(),
            subscriptions: media.iter().map(Media::subscription).collect(),
            ..with_opus()
        };
        call.node.apply(call.subscriber, spec);
        Self { call, own, seq: 1 }
    }

    /// What left to the subscriber.
    fn play(&mut self, span: Duration) -> Vec<Left> {
        let end = self.call.node.now + span;
        let mut all = Vec::new();
        while self.call.node.now < end {
            for own in &self.own {
                self.call.node.rtp(self.call.subscriber, &own.packets(self.seq)[0]);
            }
            self.seq += 1;
            all.extend(self.call.play(MS * 20).0);
        }
        all
    }
}

#[test]
fn reports_are_as_long_as_they_are_measured_to_be() {
    let pictures = [Media::video(1, &[1_000; 2], MS * 40), Media::video(2, &[1_000; 2], MS * 40)];
    for (taken, voices) in [(0, 1), (1, 0), (1, 1), (2, 0), (2, 3)] {
        let mut answered = Answered::new(&pictures[..taken], voices);
        answered.play(SECOND * 4);
        let Shard { peers, tracks, .. } = &answered.call.node.shard;
        let (_, peer) = peers.iter().nth(answered.call.subscriber).unwrap();
        let measured = reports_len(peer, tracks);
        let left = answered.play(SECOND * 4);
        let lengths: Vec<_> = left
            .iter()
            .flat_map(|left| &left.run)
            .filter(|sent| sent.rtcp && sent.bytes[1] <= 201)
            .map(|sent| sent.bytes.len())
            .collect();
        assert!(lengths.len() >= 3, "{lengths:?}");
        assert!(lengths.iter().all(|len| *len == measured), "{measured}: {lengths:?}");
    }
}

#[test]
fn what_is_said_of_a_publishers_own_media_counts_when_a_run_is_looked_for() {
    // As long as a sender report, or else long enough for everything.
    let media = [Media::voice(1), Media::video(2, &[900; 2], MS * 60)];
    let mut answered = Answered::new(&media, 2);
    answered.play(SECOND * 4);
    let left = answered.play(SECOND * 20);
    let told = left.iter().filter(|left| !left.senders().is_empty());
    let (rode, alone): (Vec<_>, Vec<_>) = told.partition(|left| left.media() > 0);
    assert!(rode.len() >= 12 && alone.is_empty(), "{} rode, {} did not", rode.len(), alone.len());
}

#[test]
fn who_begins_to_publish_is_reported_to_as_soon_as_others_that_do() {
    let media = Media::video(1, &[1_000; 2], MS * 40);
    let mut call = Call::new(&[media]);
    call.play(SECOND * 5);
    // Right behind a report that left with media; the next one is expected to do the same, and nothing comes any more.
    while !call.play(STEP).0.iter().any(|left| left.media() > 0 && !left.senders().is_empty()) {}
    call.sends = false;
    let own = Media::voice(9);
    let spec = PeerSpec {
        tracks: vec![own.track()],
        subscriptions: vec![media.subscription()],
        ..with_opus()
    };
    let since = call.node.now;
    call.node.apply(call.subscriber, spec);
    let told = (1..200).find_map(|seq| {
        call.node.rtp(call.subscriber, &own.packets(seq)[0]);
        let (left, _) = call.play(MS * 20);
        let tells = |message| matches!(message, Message::ReceiverReport(_));
        left.iter().any(|left| left.reports().any(tells)).then(|| call.node.now - since)
    });
    assert!(told.is_some_and(|told| told <= LONGEST + PUT_OFF + MS * 20), "{told:?}");
}

#[test]
fn a_visit_in_which_nothing_leaves_takes_no_report_along() {
    let (stops, paused) = (Media::voice(1), Media::video(2, &[1_000; 2], MS * 40));
    let mut call = Call::new(&[stops, paused]);
    call.play(SECOND * 4);
    let subscriptions =
        vec![stops.subscription(), SubscriptionSpec { paused: true, ..paused.subscription() }];
    call.node.apply(call.subscriber, PeerSpec { subscriptions, ..with_opus() });
    call.media.remove(0);
    call.play(SECOND * 4);
    let (wakeups, visits) = (call.wakeups(), call.node.shard.counters().visits);
    let (left, told) = call.play(SECOND * 20);
    assert!(call.node.shard.counters().visits - visits > 500, "the paused one is looked at");
    assert!(left.iter().all(|left| left.media() == 0));
    let reports = left.iter().filter(|left| !left.senders().is_empty()).count();
    let wakeups = call.wakeups() - wakeups;
    assert_eq!(wakeups, (reports + told.len()) as u64, "each by itself");
    assert!(reports >= 15, "{reports}");
}

#[test]
fn who_is_reported_to_with_media_is_not_woken_for_it() {
    let mut call = Call::new(&[Media::video(1, &[1_000; 2], MS * 40)]);
    call.play(SECOND * 5);
    let before = call.wakeups();
    let (left, told) = call.play(SECOND * 20);
    let rode = left.iter().filter(|left| left.media() > 0 && !left.senders().is_empty()).count();
    assert!(rode >= 15, "{rode}");
    assert_eq!(call.wakeups() - before, told.len() as u64, "the publisher's, each by itself");
}

#[test]
fn who_gets_no_media_is_reported_to_each_second_and_told_of_as_before() {
    let mut call = Call::new(&[Media::video(1, &[1_000; 2], MS * 40)]);
    call.play(SECOND * 10);
    let (left, _) = call.play(SECOND * 20);
    let last = left.iter().rfind(|left| !left.senders().is_empty()).unwrap().at;
    call.sends = false;
    let (left, told) = call.play(SECOND * 30);
    let at: Vec<_> = left.iter().filter(|left| !left.senders().is_empty()).map(|l| l.at).collect();
    assert!(at[0] - last <= LONGEST + MS * 1_500 + PUT_OFF_FAR + STEP, "{:?}", at[0] - last);
    within(&gaps(&at), SHORTEST, LONGEST + PUT_OFF);
    within(&gaps(&told), SHORTEST, LONGEST + PUT_OFF);
    // Two seconds, and until the report after that; once the one that was expected to leave with media.
    within(&gaps(&call.stats(call.publisher)), SECOND * 2, SECOND * 2 + LONGEST + PUT_OFF);
    let mut stats = gaps(&call.stats(call.subscriber));
    stats.sort_unstable();
    let longest = stats.pop().unwrap();
    assert!(longest <= SECOND * 2 + LONGEST + MS * 1_500, "{longest:?}");
    within(&stats, SECOND * 2, SECOND * 2 + LONGEST + MS * 50);
}

#[test]
fn a_publisher_is_reported_to_each_second_whether_media_comes_or_not() {
    let gets = Media::video(1, &[1_000; 2], MS * 40);
    let mut call = Call::new(&[gets]);
    let own = Media::voice(9);
    let spec = PeerSpec {
        tracks: vec![own.track()],
        subscriptions: vec![gets.subscription()],
        ..with_opus()
    };
    call.node.apply(call.subscriber, spec);
    let mut seq = 1;
    let mut told = Vec::new();
    // A minute with media, one without, and one with it again.
    for media in [true, false, true] {
        call.sends = media;
        let mut moments = Vec::new();
        for _ in 0..3_000 {
            call.node.rtp(call.subscriber, &own.packets(seq)[0]);
            seq += 1;
            let (left, _) = call.play(MS * 20);
            for left in left {
                let blocks = left.reports().filter_map(|message| match message {
                    Message::ReceiverReport(report) => Some(report.reports.count()),
                    _ => None,
                });
                if blocks.sum::<usize>() > 0 {
                    moments.push(left.at);
                }
            }
        }
        let late = if media { MS * 40 } else { PUT_OFF };
        within(&gaps(&moments[2..]), SHORTEST, LONGEST + late);
        told.extend(moments);
    }
    within(&gaps(&told[1..]), MS * 350, LONGEST + MS * 400 + PUT_OFF);
}

#[test]
fn the_first_sender_reports_come_soon_after_the_first_media() {
    for every in [20, 40, 330].map(|ms| MS * ms) {
        for joins in 0..10 {
            let media = Media::video(1, &[1_000; 2], every);
            let mut call = Call::new(&[media]);
            call.play(SECOND * 5 + MS * 35 * joins);
            let subscriptions = vec![SubscriptionSpec {
                ssrc: Ssrc(77),
                rtx_ssrc: Some(Ssrc(78)),
                ..media.subscription()
            }];
            let spec = PeerSpec { subscriptions, ..with_opus() };
            call.subscriber = call.node.join(spec);
            let (left, _) = call.play(SECOND * 4);
            let first = left.iter().find(|left| left.media() > 0).unwrap().at;
            let reports = left.iter().filter(|left| !left.senders().is_empty());
            let at: Vec<_> = reports.map(|left| left.at - first).collect();
            assert!(at[0] <= LONGEST + STEP, "{at:?}");
            assert!(at[1] <= LONGEST * 2 + every + STEP, "{at:?}");
        }
    }
}

#[test]
fn the_round_trip_is_measured_by_a_report_that_left_with_media() {
    let media = Media::video(1, &[1_000; 2], MS * 40);
    let mut call = Call::new(&[media]);
    call.play(SECOND * 4);
    let (left, _) = call.play(SECOND * 2);
    let report = left.iter().rfind(|left| !left.senders().is_empty()).unwrap();
    assert!(report.media() > 0);
    let held = SECOND / 4;
    let passed = call.node.now - report.at;
    call.node.run_for(held - passed.min(held) + MS * 80);
    let waited = call.node.now - report.at - MS * 80;
    let block = ReportBlock {
        ssrc: media.subscription().ssrc,
        fraction_lost: 0,
        cumulative_lost: 0,
        highest_seq: 5,
        jitter: 0,
        last_sr: report.senders()[0],
        delay_since_last_sr: (waited.as_secs_f64() * 65_536.0) as u32,
    };
    let bytes = compound(|writer| writer.receiver_report(Ssrc(5), &[block]).unwrap());
    call.node.rtcp(call.subscriber, &bytes);
    let (room, peer) = (RoomId::new(ROOM), peer_id(call.subscriber));
    let Reply::Report(Some(told)) =
        call.node.shard.handle_command(call.node.now, Command::ReportPeer { room, peer })
    else {
        panic!("no report");
    };
    let rtt = told.path.rtt.unwrap();
    assert!(rtt.abs_diff(MS * 80) <= STEP * 2, "{rtt:?}");
}
