//! RTCP both ways: `docs/rtcp-policy.md` says what becomes of which message.

use std::time::Duration;

use super::{
    DropReason, Event, FiveTuple, Shard, find_peer,
    timer::{Sleeper, Timer},
    track::Track,
};
use crate::{
    ingress::PublishedTrack,
    peer::{Cadence, Grant, MAX_RTCP, PathRecorder, Peer, Told, jitter_time},
    room::{PeerKey, RouteKey},
    rtp::{DataSize, MediaKind, Seq16, Ssrc},
    wire::{
        BufferTooSmall,
        rtcp::{Message, ReportBlock, messages},
    },
};

/// Reports leave each second, as browsers do it; RFC 3550 section 6.2 would allow a video stream one in 360 ms.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Share of the interval by which each report is early or late (RFC 3550 section 6.3.1): peers that joined together do
/// not report together for ever.
const REPORT_JITTER: f64 = 0.25;

/// A sender report without blocks and the CNAME of its SSRC.
const SENDER_REPORT_LEN: usize = 28 + 28;

/// A receiver report without its blocks and the CNAME, and a block.
const RECEIVER_REPORT_LEN: usize = 8 + 28;
const BLOCK_LEN: usize = 24;

/// What SRTCP adds to a compound at most (RFC 7714 section 9): index and tag.
const SRTCP_LEN: usize = 4 + 16;

/// Numbers of NACKs that are looked up in the time that a packet of feedback takes.
const NACKED_PER_UNIT: u64 = 32;

/// Five-tuples that [`Shard::expect_rtcp`] asks for at once: a batch of datagrams.
const EXPECTED: usize = 32;

/// Before a peer answered a sender report. Between two requests to another shard too: ten of them last as long as a cache
/// keeps a packet, and its publisher may be repairing the same loss.
pub(super) const UNKNOWN_RTT: Duration = Duration::from_millis(100);

impl Shard {
    /// RTCP comes on these five-tuples next: what it will look at is asked for, of all of them before any is looked at.
    pub fn expect_rtcp(&self, paths: impl Iterator<Item = FiveTuple>) {
        let mut peers = [None; EXPECTED];
        for (peer, path) in peers.iter_mut().zip(paths) {
            *peer = self.index.by_path(&path);
        }
        for step in 0..Peer::RTCP_PREFETCHES {
            for key in peers.iter().flatten() {
                let Some(peer) = self.peers.get(key.index()) else { continue };
                peer.prefetch_rtcp(step);
                if step == 0 {
                    self.timers.prefetch(Sleeper::Peer(*key));
                }
            }
        }
    }

    /// An SRTCP packet on a five-tuple of `key`.
    pub(super) fn handle_rtcp(
        &mut self,
        key: PeerKey,
        datagram: &mut [u8],
    ) -> Result<(), DropReason> {
        let now = self.now;
        let peer = self.peer_mut(key).ok_or(DropReason::Closed)?;
        if !peer.feedback_budget.take(now) {
            return Err(DropReason::FeedbackRate);
        }
        // All of it comes while the datagram is deciphered.
        peer.congestion.prefetch_feedback();
        self.timers.prefetch(Sleeper::Peer(key));
        let peer = self.peer_mut(key).ok_or(DropReason::Closed)?;
        let len = peer.transport.unprotect_rtcp(datagram)?;
        peer.path.heard_at = now;
        if !peer.ingress.take(now, DataSize::from_bytes(datagram.len() as u64)) {
            return Err(DropReason::OverIngressBitrate);
        }
        let compound = datagram.get(..len).ok_or(DropReason::Malformed)?;
        let (mut outcome, mut concludes) = (Ok(()), false);
        for message in messages(compound) {
            let Ok(message) = message else {
                outcome = Err(DropReason::Malformed);
                break;
            };
            match message {
                Message::Ccfb(feedback) => concludes |= self.congestion_feedback(key, &feedback),
                message => self.handle_message(key, &message),
            }
        }
        if concludes {
            self.congestion_feedback_ends(key);
        }
        // Whatever came behind them: the messages so far count.
        self.follow_up();
        outcome
    }

    fn handle_message(&mut self, key: PeerKey, message: &Message<'_>) {
        match message {
            Message::SenderReport(report) => {
                self.sender_report(key, &report.info);
                self.report_blocks(key, report.reports);
            }
            Message::ReceiverReport(report) => self.report_blocks(key, report.reports),
            Message::Nack(nack) => self.nack(key, nack.media, nack.lost()),
            Message::Pli(pli) => self.keyframe_wanted(key, pli.media),
            Message::Fir(fir) => {
                for entry in fir.entries() {
                    self.keyframe_wanted(key, entry.ssrc);
                }
            }
            Message::TransportCc(feedback) => self.transport_feedback(key, feedback),
            Message::Remb(remb) => self.receiver_estimate(key, remb.bitrate),
            // CCFB is taken before; SDES, BYE, XR: nothing depends on them.
            _ => {}
        }
    }

    fn sender_report(&mut self, key: PeerKey, info: &crate::wire::rtcp::SenderInfo) {
        let now = self.now;
        let Self { peers, tracks, relays, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return };
        for route in peer.routes() {
            let Some(track) = tracks.get_mut(route.0).and_then(Option::as_mut) else { continue };
            if !track.published.handle_sender_report(now, info) {
                continue;
            }
            for (encoding, clock) in track.published.timing().clocks.iter().enumerate() {
                let Some(clock) = clock.filter(|clock| clock.at == now) else { continue };
                let (route, encoding) = (track.number, encoding as u8);
                for remote in &mut track.remotes {
                    if !remote.takes_clock(now, encoding) {
                        continue;
                    }
                    let Some(lane) = relays.lane(remote.shard) else { continue };
                    // One lost is as good as one lost on the way here: the next comes in a second.
                    let message = super::RelayMessage::Clock { route, encoding, clock };
                    let _ = lane.push_media(message);
                }
            }
            return;
        }
    }

    fn report_blocks(&mut self, key: PeerKey, blocks: impl Iterator<Item = ReportBlock>) {
        let now = self.now;
        let Self { peers, tracks, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return };
        let (mut packets, mut losses) = (0.0, 0.0);
        for block in blocks {
            let Some(subscription) = peer.subscription_of(block.ssrc) else { continue };
            let rtt = subscription.egress.handle_report_block(now, &block);
            let route = subscription.route;
            let lost = subscription.egress.fraction_lost();
            let told = f64::from(subscription.egress.reported());
            let is_media = subscription.spec.ssrc == block.ssrc;
            peer.rtt = rtt.or(peer.rtt);
            let track = tracks.get(route.0).and_then(Option::as_ref).filter(|_| is_media);
            if let Some(track) = track {
                let audio = track.published.kind() == MediaKind::Audio;
                peer.path.add_egress(lost, jitter_time(block.jitter, audio));
                packets += told;
                losses += told * f64::from(lost) / 256.0;
            }
        }
        if packets > 0.0 && peer.congestion.handle_report(now, packets, losses) {
            self.estimate_changed(key);
        }
    }

    fn nack(&mut self, key: PeerKey, media: Ssrc, lost: impl Iterator<Item = Seq16>) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        // Of what repairs, nothing is sent again.
        let subscription = peer.subscription_of(media).filter(|known| known.spec.ssrc == media);
        let Some(subscription) = subscription else { return };
        let mut asked = 0;
        subscription.egress.handle_nack(now, lost.inspect(|_| asked += 1));
        subscription.sent.nacked += asked;
        // What is long gone, or on its way again, is nobody's next turn.
        let resends = subscription.egress.has_resends();
        subscription.resending |= resends;
        peer.feedback_budget.spend(asked.div_ceil(NACKED_PER_UNIT) as u32);
        if resends && !std::mem::replace(&mut peer.resending, true) {
            self.fanout.resend(key);
        }
        self.counters.nacked += asked;
    }

    fn keyframe_wanted(&mut self, key: PeerKey, media: Ssrc) {
        let Some(peer) = self.peer_mut(key) else { return };
        let Some(subscription) = peer.subscription_of(media) else { return };
        let encoding = subscription.current().or(subscription.wants_keyframe());
        let route = subscription.route;
        subscription.sent.keyframe_requests += 1;
        self.counters.keyframe_requests += 1;
        if let Some(encoding) = encoding {
            self.fanout.keyframes.push((route, encoding));
        }
    }

    /// NACKs and keyframe requests of a track, to its publisher.
    pub(super) fn send_track_feedback(&mut self, key: PeerKey, route: RouteKey) {
        let (now, send_time) = (self.now, self.send_time);
        let Self { peers, tracks, outbox, counters, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return };
        let Some(track) = tracks.get_mut(route.0).and_then(Option::as_mut) else { return };
        let (rtt, sender) = (peer.rtt.unwrap_or(UNKNOWN_RTT), peer.feedback_ssrc);
        counters.feedback_out += 1;
        let Some((_, _, mut link)) = peer.sending(now, send_time, outbox, counters) else { return };
        link.send_rtcp(|writer| track.published.poll_feedback(now, rtt, sender, writer));
    }

    pub(super) fn send_twcc(&mut self, key: PeerKey) {
        let (now, send_time) = (self.now, self.send_time);
        let Self { peers, outbox, counters, timers, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return };
        let sender = peer.feedback_ssrc;
        let Some((mut link, twcc, ccfb)) = peer.feedback(now, send_time, outbox, counters) else {
            return;
        };
        link.send_rtcp(|writer| twcc.poll_feedback(now, sender, writer));
        link.send_rtcp(|writer| ccfb.poll_feedback(now, sender, writer));
        let due = [twcc.poll_timeout(), ccfb.poll_timeout()].into_iter().flatten().min();
        timers.set(Sleeper::Peer(key), Timer::TwccFeedback, due);
    }

    /// Reports by themselves, where none left with media of late.
    pub(super) fn wake_reports(&mut self, key: PeerKey) {
        let now = self.now;
        let Some(peer) = self.peer_mut(key) else { return };
        let mut next = peer.cadence.deadline();
        if next <= now {
            let cadence = Cadence::alone(now, self.report_interval());
            next = cadence.deadline();
            self.send_reports(key);
            if let Some(peer) = self.peer_mut(key) {
                peer.cadence = cadence;
            }
        }
        self.timers.set(Sleeper::Peer(key), Timer::Reports, Some(next));
    }

    /// Reports of a peer whose media of this turn is the last run of what waits: they end it. Where they are longer than its packets
    /// they are a run of their own, for which another is waited for a little.
    pub(super) fn ride_reports(&mut self, key: PeerKey) {
        let now = self.now;
        let Self { peers, tracks, outbox, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return };
        let len = reports_len(peer, tracks);
        let may_fit = len <= MAX_RTCP && !peer.cadence.rides_at_any_cost(now);
        if may_fit && !outbox.has_room(len + SRTCP_LEN) {
            return;
        }
        let interval = self.report_interval();
        self.send_reports(key);
        // Whatever comes to the same path next is no part of it.
        self.outbox.close_run();
        let Some(peer) = self.peer_mut(key) else { return };
        let publishes = peer.routes().next().is_some();
        peer.cadence = Cadence::with_media(now, interval, publishes);
        let deadline = peer.cadence.deadline();
        // The peer itself is not looked at again before then.
        self.timers.set(Sleeper::Peer(key), Timer::Reports, Some(deadline));
    }

    /// A peer that listened publishes now: it is told how its path is as soon as others that publish.
    pub(super) fn report_sooner(&mut self, key: PeerKey) {
        let by = self.now + self.report_interval();
        let Some(peer) = self.peer_mut(key) else { return };
        peer.cadence.shorten(by);
        let deadline = peer.cadence.deadline();
        self.timers.set(Sleeper::Peer(key), Timer::Reports, Some(deadline));
    }

    /// Sender reports for what leaves to a peer, receiver reports for what comes from it.
    fn send_reports(&mut self, key: PeerKey) {
        let (now, send_time) = (self.now, self.send_time);
        let Self { peers, tracks, outbox, counters, blocks, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return };
        blocks.clear();
        let (routes, recorder) = peer.reported();
        for route in routes {
            if let Some(track) = tracks.get_mut(route.0).and_then(Option::as_mut) {
                let before = blocks.len();
                track.published.report_blocks(now, blocks);
                record_ingress(recorder, &track.published, blocks.get(before..));
            }
        }
        let (sender, cname, first) = (peer.feedback_ssrc, peer.cname, peer.next_report);
        let Some((subscriptions, _, mut link)) = peer.sending(now, send_time, outbox, counters)
        else {
            return;
        };
        // The last receiver report shares its packet with sender reports.
        let mut chunks = blocks.chunks(ReportBlock::MAX_PER_MESSAGE);
        let mut last = chunks.next_back();
        for chunk in chunks {
            link.send_rtcp(|writer| {
                writer.receiver_report(sender, chunk)?;
                writer.sdes_cname(sender, &cname)
            });
        }
        let end = subscriptions.end();
        let first = first.min(end);
        let mut slots = (first..end).chain(0..first).peekable();
        link.send_rtcp(|writer| {
            if let Some(chunk) = last.take() {
                writer.receiver_report(sender, chunk)?;
                writer.sdes_cname(sender, &cname)?;
            }
            while let Some(slot) = slots.peek().copied() {
                if writer.remaining() < SENDER_REPORT_LEN {
                    return Err(BufferTooSmall);
                }
                slots.next();
                let Some(subscription) = subscriptions.get_mut(slot) else { continue };
                let track = tracks.get(subscription.route.0).and_then(Option::as_ref);
                let info =
                    track.and_then(|track| subscription.sender_report(now, &track.published));
                let Some(info) = info else { continue };
                writer.sender_report(&info, &[])?;
                writer.sdes_cname(info.ssrc, &cname)?;
            }
            Ok(())
        });
        // What found no room comes first in a second.
        peer.next_report = slots.next().unwrap_or(0);
        self.tell_path(key);
    }

    /// Tells how a peer's path was, where it is time.
    fn tell_path(&mut self, key: PeerKey) {
        let now = self.now;
        let Self { peers, tracks, events, .. } = self;
        let Some(peer) = find_peer(peers, key) else { return };
        let sent = peer.congestion.sent().bytes();
        let Some((mut stats, passed)) = peer.path.poll(now, sent) else { return };
        stats.rtt = peer.rtt;
        stats.estimate = peer.congestion.stats();
        let mut told = Told { estimate: stats.estimate, ..Told::default() };
        for (_, subscription) in peer.subscriptions.iter_mut() {
            subscription.measure(passed);
            let starved = subscription.granted() == Grant::Nothing && !subscription.spec.paused;
            told.subscriptions += 1;
            told.starved += u64::from(starved);
            // As measured last: a measurement for each who takes it would cost tracks times subscribers.
            let track = tracks.get(subscription.route.0).and_then(Option::as_ref);
            let video = track.filter(|track| track.published.kind() == MediaKind::Video);
            let Some(track) = video else { continue };
            let (wanted, given) = subscription.layers(track.top);
            stats.layers_wanted += wanted;
            stats.layers_given += given;
        }
        let (room, peer) = (peer.identity.room_id.clone(), peer.identity.id.clone());
        events.push_back(Event::PeerStats { room, peer, stats });
        self.tell_gauges(key, told);
    }

    pub(super) fn report_interval(&mut self) -> Duration {
        use rand::Rng;
        let jitter = self.random.random_range(1.0 - REPORT_JITTER..1.0 + REPORT_JITTER);
        REPORT_INTERVAL.mul_f64(jitter)
    }
}

/// Bytes of a peer's reports in one compound, before SRTCP.
pub(super) fn reports_len(peer: &Peer, tracks: &[Option<Track>]) -> usize {
    let senders = peer.subscriptions.iter().filter(|(_, known)| known.current().is_some()).count();
    let tracks = peer.routes().filter_map(|route| tracks.get(route.0).and_then(Option::as_ref));
    let blocks: usize = tracks.map(|track| track.published.reported()).sum();
    let receiver = if blocks > 0 { RECEIVER_REPORT_LEN + blocks * BLOCK_LEN } else { 0 };
    receiver + senders * SENDER_REPORT_LEN
}

/// Blocks about a publisher's media; those about retransmissions say nothing of the path that media does not.
fn record_ingress(
    recorder: &mut PathRecorder,
    published: &PublishedTrack,
    blocks: Option<&[ReportBlock]>,
) {
    let audio = published.kind() == MediaKind::Audio;
    let is_media = |block: &&ReportBlock| {
        (0..published.encoding_count()).any(|index| published.ssrc(index) == Some(block.ssrc))
    };
    for block in blocks.into_iter().flatten().filter(is_media) {
        recorder.add_ingress(block.fraction_lost, jitter_time(block.jitter, audio));
    }
}
