//! One track on its way to one peer.

use std::time::{Duration, Instant};

use super::{
    DropReason, EgressCounters, Link, PeerSpec, SubscriptionReport, SubscriptionSpec, Waiting,
    frame_bound::FrameBound, jitter_time,
};
use crate::{
    cache::{CachedPacket, EncodingSet, LadderStep, PacketCache, PacketMeta, Rewritten},
    egress::{
        Claim, EgressConfig, EgressStream, FecStream, Leaving, RepairShare, WriteError, Written,
    },
    forward::{Forwarder, Layers},
    ingress::PublishedTrack,
    prefetch::prefetch,
    room::RouteKey,
    rtp::{Bitrate, DataSize, FrameRate, MediaKind, SeqNo},
    wire::rtcp::SenderInfo,
};

/// A subscription: what is wanted, which packets pass, and how they leave.
///
/// In this order: what each packet that leaves looks at comes first.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Subscription {
    /// The keyframe that is waited for is here, and waits for the pacer: nothing is gained by asking for another.
    coming: Option<(u8, SeqNo)>,
    sent_at: Option<Instant>,
    /// In place and always there, so that it can be asked for without a look at it.
    forwarder: Forwarder,
    /// What left.
    pub(crate) sent: EgressCounters,
    /// Formats of the track that `egress` knows.
    formats: usize,
    pub(crate) egress: EgressStream,
    switches: u64,
    pub(crate) spec: SubscriptionSpec,
    pub(crate) route: RouteKey,
    /// Resends wait for the next turn.
    pub(crate) resending: bool,
    first_seq: SeqNo,
    /// The track is or was published: before, its kind is not known, and the forwarder stays paused.
    attached: bool,
    /// What the estimate allows.
    granted: Grant,
    frames: FrameBound,
    /// Its place in the sharing of the estimate.
    pub(crate) claim: Claim,
    /// Bytes of media when the rate was taken last, and that rate.
    measured: (u64, Bitrate),
}

/// A packet of a batch, which goes to all subscribers of its track.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Arrived {
    /// Index into the track's encodings.
    pub(crate) encoding: u8,
    /// Its number at ingress.
    pub(crate) seq: SeqNo,
    /// Bytes of RTP padding that make it as long as the others of its frame, so that they leave in one send.
    pub(crate) padding: u8,
    /// Where the one before it in the batch passes, it does (see [`PacketMeta::follows`]).
    pub(crate) follows: bool,
}

/// Packets of a frame that left together.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    packets: u8,
    /// All that had their turn, with the one that could not be sent.
    tried: u8,
    /// Of their payloads.
    octets: usize,
    /// Of all of them.
    bytes: u64,
}

impl Sent {
    /// Seals what was written, once `whole` has seen it, and has it leave. `false`: it could not be sealed.
    #[inline(always)]
    fn seal(
        &mut self,
        mut written: Written,
        padding: u8,
        link: &mut Link<'_>,
        whole: impl FnOnce(&[u8]),
    ) -> bool {
        let octets = written.octets();
        if padding > 0 {
            link.pad(&mut written, padding);
        }
        whole(link.space().get(..written.len).unwrap_or_default());
        let Some(len) = link.seal(&written) else { return false };
        self.packets += 1;
        self.octets += octets;
        self.bytes += len as u64;
        true
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug)]
struct Passed {
    /// So many of its packets had their turn.
    count: usize,
    /// Others may have waited for the first.
    awaited: bool,
}

impl Passed {
    /// The first one had its turn and was not sent.
    const NONE: Self = Self { count: 1, awaited: false };
}

/// What the estimate allows of a track.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Grant {
    /// Nothing is held back.
    All,
    /// Layers up to these.
    UpTo(Layers),
    /// Not even the lowest fits.
    Nothing,
}

impl Grant {
    fn bound(self, wish: Layers) -> Option<Layers> {
        match self {
            Self::All => Some(wish),
            Self::UpTo(layers) => Some(Layers {
                spatial: wish.spatial.min(layers.spatial),
                temporal: wish.temporal.min(layers.temporal),
            }),
            Self::Nothing => None,
        }
    }
}

/// Where the numbers of a subscription's streams start. Below 2^15 for an SSRC that was never used, so that the receiver
/// guesses the rollover counter right even where the first packets are lost; behind the last for one that was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstNumbers {
    pub(crate) media: SeqNo,
    pub(crate) rtx: SeqNo,
    pub(crate) fec: SeqNo,
}

impl Subscription {
    pub(crate) fn new(
        now: Instant,
        spec: SubscriptionSpec,
        route: RouteKey,
        peer: &PeerSpec,
        first: FirstNumbers,
    ) -> Self {
        let config = EgressConfig {
            ssrc: spec.ssrc,
            rtx_ssrc: spec.rtx_ssrc,
            fec: spec.fec_ssrc.map(|ssrc| FecStream { ssrc, next: first.fec }),
            mid: spec.mid,
            extensions: peer.send_extensions.clone(),
        };
        let mut egress = EgressStream::new(now, config, first.rtx);
        egress.set_fec_format(peer.fec);
        Self {
            egress,
            spec,
            route,
            resending: false,
            forwarder: Forwarder::new(MediaKind::Video, first.media),
            attached: false,
            first_seq: first.media,
            formats: 0,
            granted: Grant::All,
            frames: FrameBound::default(),
            coming: None,
            claim: Claim::default(),
            sent: EgressCounters::default(),
            switches: 0,
            sent_at: None,
            measured: (0, Bitrate::ZERO),
        }
    }

    /// What [`Self::forward`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.coming);
        self.forwarder.prefetch();
        prefetch(&self.formats);
        self.egress.prefetch();
    }

    /// What depends on that, once it is here.
    #[inline(always)]
    pub(super) fn prefetch_pointees(&self) {
        self.egress.prefetch_pointees();
    }

    /// The track has a source (again). Whatever passed before, the next packet opens a stream anew, on numbers that
    /// go on.
    pub(crate) fn attach(&mut self, track: &PublishedTrack, live: EncodingSet) {
        if !std::mem::replace(&mut self.attached, true) {
            self.forwarder = Forwarder::new(track.kind(), self.first_seq);
        }
        self.forwarder.attach(live);
        self.formats = 0;
        // What waited was of the source before.
        self.coming = None;
        self.aim();
    }

    /// Takes what is wanted now. The stream stays the same.
    pub(crate) fn change(&mut self, spec: SubscriptionSpec) {
        self.spec = spec;
        self.aim();
    }

    /// Codecs or extensions were negotiated anew.
    pub(crate) fn renegotiate(&mut self, peer: &PeerSpec) {
        self.formats = 0;
        self.egress.set_extensions(peer.send_extensions.clone());
        self.egress.set_fec_format(peer.fec);
    }

    /// Which encodings of the track have packets now.
    pub(crate) fn set_live(&mut self, live: EncodingSet) {
        if self.attached {
            self.forwarder.set_live(live);
        }
    }

    /// The encodings whose packets have an effect here.
    #[inline(always)]
    pub(crate) fn demanded(&self) -> EncodingSet {
        self.forwarder.demanded()
    }

    /// The encoding whose keyframe is waited for.
    #[inline(always)]
    pub(crate) fn wants_keyframe(&self) -> Option<u8> {
        let encoding = self.forwarder.wants_keyframe()?;
        self.coming.is_none_or(|(coming, _)| coming != encoding).then_some(encoding)
    }

    /// The encoding that passes.
    pub(crate) fn current(&self) -> Option<u8> {
        self.forwarder.selector().current()
    }

    /// Spatial layers of a video track that are asked for and have packets, and how many of them pass. `highest` is the
    /// top of the track's ladder.
    pub(crate) fn layers(&self, highest: Option<u8>) -> (u32, u32) {
        let (Some(highest), Some(wanted)) = (highest, self.max_spatial()) else { return (0, 0) };
        let wanted = highest.min(wanted);
        let given = self.passing().map_or(0, |layers| u32::from(layers.spatial.min(wanted)) + 1);
        (u32::from(wanted) + 1, given)
    }

    /// It is wanted, fits, and its packets pass.
    pub(crate) fn is_in_play(&self) -> bool {
        !self.spec.paused && self.granted != Grant::Nothing && self.current().is_some()
    }

    /// The step of the track's ladder that passes.
    fn passing(&self) -> Option<Layers> {
        self.forwarder.selector().current_layers()
    }

    /// An interval of this length is over.
    pub(crate) fn measure(&mut self, passed: Duration) {
        let since = DataSize::from_bytes(self.sent.bytes - self.measured.0);
        self.measured = (self.sent.bytes, since.per(passed).unwrap_or(Bitrate::ZERO));
    }

    /// What is known of it; `track` is `None` while it is not published.
    pub(crate) fn report(
        &self,
        now: Instant,
        track: Option<&PublishedTrack>,
    ) -> SubscriptionReport {
        let kind = track.map(PublishedTrack::kind);
        let audio = kind == Some(MediaKind::Audio);
        let wanted = self.wish();
        SubscriptionReport {
            track: self.spec.track.clone(),
            kind,
            wanted,
            target: wanted.and_then(|wish| self.granted.bound(wish)),
            current: track.and_then(|_| self.passing()),
            starved: wanted.is_some() && self.granted == Grant::Nothing,
            waits_for_keyframe: track.is_some() && !audio && self.wants_keyframe().is_some(),
            idle: self.sent_at.map(|at| now.saturating_duration_since(at)),
            switches: self.switches,
            sent: self.sent,
            bitrate: self.measured.1,
            fraction_lost: self.egress.fraction_lost(),
            jitter: jitter_time(self.egress.jitter(), audio),
        }
    }

    /// Highest spatial layer that is asked for; `None` while paused.
    pub(crate) fn max_spatial(&self) -> Option<u8> {
        (!self.spec.paused).then_some(self.spec.max_spatial.unwrap_or(u8::MAX))
    }

    /// What a sender report says now; `None` while there is nothing to say.
    pub(crate) fn sender_report(
        &mut self,
        now: Instant,
        track: &PublishedTrack,
    ) -> Option<SenderInfo> {
        let clock = self.forwarder.sender_clock(now, &track.timing())?;
        self.egress.sender_report(now, &clock)
    }

    /// Sends those packets of a batch that the subscriber gets, as soon as the pacer lets them. `slot` is its own place.
    pub(crate) fn forward(
        &mut self,
        slot: u32,
        track: &PublishedTrack,
        batch: &[Arrived],
        peer: &PeerSpec,
        link: &mut Link<'_>,
    ) {
        let formats = track.formats();
        if self.formats != formats.len() {
            self.egress.set_codecs(formats, &peer.codecs);
            self.formats = formats.len();
        }
        // Audio does not wait: it is little, and late it is worth nothing.
        let paced = track.kind() == MediaKind::Video;
        let mut left = batch;
        while let Some(Arrived { encoding, seq, .. }) = left.first() {
            if !paced || link.congestion.may_send(link.now) {
                left = self.release(slot, left, track, link);
                continue;
            }
            let packet = self.waiting(slot, *encoding, *seq);
            if self.demanded().contains(*encoding) && link.defer(packet) {
                self.note_keyframe(track, packet);
            }
            left = &left[1..];
        }
    }

    /// Sends the first packet of a batch, whose turn has come, if the subscriber gets it, and with it those that follow it. What is
    /// left of the batch comes by itself right after it.
    #[inline(always)]
    pub(crate) fn release<'a>(
        &mut self,
        slot: u32,
        batch: &'a [Arrived],
        track: &PublishedTrack,
        link: &mut Link<'_>,
    ) -> &'a [Arrived] {
        let Some((Arrived { encoding, seq, .. }, behind)) = batch.split_first() else {
            return batch;
        };
        let (encoding, seq) = (*encoding, *seq);
        self.coming.take_if(|coming| *coming == (encoding, seq));
        if self.is_leaving(encoding)
            && link.congestion.is_behind()
            && (self.wants_keyframe().is_none() || link.congestion.is_far_behind())
        {
            // What waits of it would only delay the keyframe behind it. Before that has come it is all that can be seen.
            self.forwarder.abandon();
            return behind;
        }
        // Not there: nobody asked for the encoding, or it waited, or burst, longer than the cache keeps.
        let Some(packet) = track.packet(encoding, seq) else { return behind };
        let passed = self.pass(track, packet, batch, link);
        let left = batch.get(passed.count..).unwrap_or(&[]);
        if passed.awaited {
            self.pass_waiting(slot, (encoding, seq), behind, track, link);
        }
        left
    }

    /// Sends what came before the packet that it needs, which has left now. `behind` comes, or came, by itself.
    #[cold]
    fn pass_waiting(
        &mut self,
        slot: u32,
        (encoding, seq): (u8, SeqNo),
        behind: &[Arrived],
        track: &PublishedTrack,
        link: &mut Link<'_>,
    ) {
        // No more than a cache holds, whatever the numbers.
        let highest = track.highest(encoding).map_or(seq.0, |highest| highest.0);
        let last = highest.min(seq.0 + PacketCache::MAX_PACKETS as u64);
        let mut behind = behind.iter().filter(|next| next.encoding == encoding).peekable();
        for early in (seq.0 + 1..=last).map(SeqNo) {
            // Its own turn comes, with its padding: packets of a keyframe mostly arrive together, in order.
            if behind.next_if(|next| next.seq == early).is_some() {
                continue;
            }
            match track.packet(encoding, early) {
                Some(packet) if link.congestion.may_send(link.now) => {
                    self.pass(track, packet, &[], link);
                }
                Some(_) => {
                    link.defer(self.waiting(slot, encoding, early));
                }
                None => {}
            }
        }
    }

    fn waiting(&self, slot: u32, encoding: u8, seq: SeqNo) -> Waiting {
        // Beyond 32,767 a node's user has one priority: a record has 16 bytes.
        let priority = u16::try_from(self.claim.priority).unwrap_or(u16::MAX);
        Waiting { slot, encoding, priority, seq }
    }

    fn note_keyframe(&mut self, track: &PublishedTrack, waiting: Waiting) {
        let Waiting { encoding, seq, .. } = waiting;
        let wanted = self.forwarder.wants_keyframe();
        let opens =
            |packet: CachedPacket<'_>| packet.meta.frame.keyframe && packet.meta.frame.start;
        if wanted == Some(encoding) && track.packet(encoding, seq).is_some_and(opens) {
            self.coming = Some((encoding, seq));
        }
    }

    /// This encoding passes still, and is more than the estimate allows.
    fn is_leaving(&self, encoding: u8) -> bool {
        let selector = self.forwarder.selector();
        selector.current() == Some(encoding)
            && selector.target().is_some_and(|target| target < encoding)
            && matches!(self.granted, Grant::UpTo(layers) if layers.spatial < encoding)
    }

    /// Sends a packet, the first of `batch` where there is one, if the subscriber gets it. Those that follow it leave along with it, for
    /// as long as the pacer lets them: what was decided and written for the first holds for them.
    fn pass(
        &mut self,
        track: &PublishedTrack,
        first: CachedPacket<'_>,
        batch: &[Arrived],
        link: &mut Link<'_>,
    ) -> Passed {
        if !self.egress.accepts(first.meta.format) {
            link.counters.drop(DropReason::Unforwardable);
            return Passed::NONE;
        }
        let Some(rewritten) = self.forwarder.forward(first.meta, &track.timing()) else {
            return Passed::NONE;
        };
        let leaving = match self.egress.begin(first.meta.format, &rewritten) {
            Ok(leaving) => leaving,
            Err(WriteError::Duplicate) => return Passed::NONE,
            Err(_) => {
                link.counters.drop(DropReason::Unforwardable);
                return Passed::NONE;
            }
        };
        let leads = leaving.latest && self.forwarder.leads(first.meta, &rewritten);
        let paced = track.kind() == MediaKind::Video;
        // A packet of audio is a frame of its own and tells how loud it is.
        let stamp = if paced { self.egress.stamp(leaving, &rewritten) } else { None };
        let (mut packet, mut seq, mut marker) = (first, rewritten.seq, rewritten.marker);
        let mut sent = Sent::default();
        let mut next = batch.iter();
        let mut padding = next.next().map_or(0, |first| first.padding);
        loop {
            let left = match &stamp {
                Some(stamp) if stamp.suits(&packet) => {
                    let written = stamp.write(packet, seq, marker, link.space());
                    written.is_some_and(|written| sent.seal(written, padding, link, |_| {}))
                }
                _ => {
                    let each = Rewritten { seq, marker, ..rewritten };
                    self.pass_apart(track, leaving, packet, &each, padding, link, &mut sent)
                }
            };
            sent.tried += 1;
            if !left {
                link.counters.drop(DropReason::Unforwardable);
                break;
            }
            if !leads || sent.tried == u8::MAX || (paced && !link.congestion.may_send(link.now)) {
                break;
            }
            let Some(follows) = next.next().filter(|next| next.follows) else { break };
            let Some(behind) = track.packet(follows.encoding, follows.seq) else { break };
            (packet, padding) = (behind, follows.padding);
            (seq, marker) = (seq.plus(1), behind.meta.marker);
        }
        self.note(first.meta, &rewritten, sent, link)
    }

    /// Sends a packet with whatever it or its subscriber has beside a payload. `false`: it could not be written or sealed.
    #[inline(never)]
    #[allow(clippy::too_many_arguments)] // one step of a loop
    fn pass_apart(
        &mut self,
        track: &PublishedTrack,
        leaving: Leaving,
        packet: CachedPacket<'_>,
        each: &Rewritten,
        padding: u8,
        link: &mut Link<'_>,
        sent: &mut Sent,
    ) -> bool {
        let written = match self.egress.redundancy() {
            0 => self.egress.put(leaving, packet, each, &[], link.space()),
            count => {
                let PacketMeta { seq, encoding, .. } = *packet.meta;
                let older = (1..=count as u64).filter_map(|back| seq.0.checked_sub(back));
                let older = older.filter_map(|seq| track.packet(encoding, SeqNo(seq)));
                self.egress.put_redundant(leaving, packet, older, each, link.space())
            }
        };
        let Ok(written) = written else { return false };
        let mut repairs = false;
        let left = sent.seal(written, padding, link, |packet| {
            repairs = self.egress.is_protected() && self.egress.protect(packet, each.marker);
        });
        if left && repairs {
            self.send_repairs(link);
        }
        left
    }

    /// Counts packets that left in a row, of which these are the first.
    #[inline(always)]
    fn note(
        &mut self,
        first: &PacketMeta,
        rewritten: &Rewritten,
        sent: Sent,
        link: &mut Link<'_>,
    ) -> Passed {
        if sent.packets == 0 {
            return Passed::NONE;
        }
        self.egress.count(link.send_time, first, rewritten, sent.packets, sent.octets);
        // With the one that could not be sent: its number is used up.
        self.forwarder.follow(u64::from(sent.tried) - 1);
        link.counters.media_out += u64::from(sent.packets);
        link.counters.media_bytes_out += sent.bytes;
        self.sent.packets += u64::from(sent.packets);
        self.sent.bytes += sent.bytes;
        if rewritten.opens {
            self.switches += 1;
        }
        self.sent_at = Some(link.now);
        Passed { count: sent.tried.into(), awaited: rewritten.awaited }
    }

    /// Sends the repair packets that are due. They do not ask the pacer, as what is sent again does not: few at a time, out of
    /// a share that fits, and told to it as everything.
    #[cold]
    fn send_repairs(&mut self, link: &mut Link<'_>) {
        while let Some(written) = self.egress.write_repair(link.space()) {
            let Some(len) = written.ok().and_then(|written| link.seal(&written)) else {
                link.counters.drop(DropReason::Unforwardable);
                return;
            };
            link.counters.fec_out += 1;
            self.sent.fec_packets += 1;
            self.sent.fec_bytes += len as u64;
        }
    }

    /// What leaves is protected with this share of repair packets from now on, where the subscriber takes any.
    pub(crate) fn protect(&mut self, share: Option<RepairShare>, wait: Duration) {
        self.egress.set_protection(share, wait);
    }

    /// Sends again what was asked for. `missed` gets what is in no cache here.
    pub(crate) fn resend(
        &mut self,
        track: &PublishedTrack,
        link: &mut Link<'_>,
        mut missed: impl FnMut(u8, SeqNo),
    ) {
        self.resending = false;
        while let Some(resend) = self.egress.poll_resend() {
            let Some(packet) = track.packet(resend.encoding, resend.ingress_seq) else {
                link.counters.nack_misses += 1;
                self.sent.resends_missed += 1;
                missed(resend.encoding, resend.ingress_seq);
                continue;
            };
            let size = DataSize::from_bytes(packet.payload.len() as u64);
            if !link.congestion.may_resend(link.now, size) {
                // Whoever still misses it after a round trip asks again.
                link.counters.resends_over_budget += 1;
                self.sent.resends_over_budget += 1;
                continue;
            }
            let written = self.egress.write_resend(&resend, packet, link.space());
            if let Some(len) = written.ok().and_then(|written| link.seal(&written)) {
                link.counters.retransmitted += 1;
                self.sent.resent_packets += 1;
                self.sent.resent_bytes += len as u64;
            }
        }
    }

    /// Sends about `size` bytes that nobody asked for, to fill a probe for bandwidth: one of the latest packets again,
    /// which may repair a loss, or else nothing but padding. Its size, where the stream has retransmissions at all.
    pub(crate) fn pad(
        &mut self,
        track: &PublishedTrack,
        size: DataSize,
        link: &mut Link<'_>,
    ) -> Option<usize> {
        let latest = self.egress.latest();
        let known = latest
            .and_then(|resend| Some((resend, track.packet(resend.encoding, resend.ingress_seq)?)));
        let written = match known {
            Some((resend, packet)) => self.egress.write_resend(&resend, packet, link.space()),
            None => self.egress.write_padding(size.bytes() as usize, link.space()),
        };
        let len = link.seal(&written.ok()?)?;
        if let Some((resend, _)) = &known {
            self.egress.note_repeat(link.now, resend);
        }
        link.counters.probe_padding += 1;
        self.sent.padding_packets += 1;
        Some(len)
    }

    /// The best that the client wants; `None` while it wants nothing.
    pub(crate) fn wish(&self) -> Option<Layers> {
        (!self.spec.paused).then(|| Layers {
            spatial: self.spec.max_spatial.unwrap_or(u8::MAX),
            temporal: [self.spec.max_temporal, self.frames.highest()]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(u8::MAX),
        })
    }

    /// Whether the client bounds how often the picture changes, or did.
    pub(crate) fn bounds_frames(&self) -> bool {
        self.spec.max_fps.is_some() || self.frames.highest().is_some()
    }

    /// Takes what was measured of the track. Whether the wish is another one now.
    pub(crate) fn bound_frames(&mut self, steps: &[LadderStep]) -> bool {
        let wanted = self.spec.max_fps.map(FrameRate::from_fps);
        let changed = self.frames.update(wanted, self.spec.max_spatial.unwrap_or(u8::MAX), steps);
        if changed {
            self.aim();
        }
        changed
    }

    /// What the estimate allows.
    pub(crate) fn grant(&mut self, grant: Grant) {
        if std::mem::replace(&mut self.granted, grant) != grant {
            self.aim();
        }
    }

    /// What the estimate allows now.
    pub(crate) fn granted(&self) -> Grant {
        self.granted
    }

    fn aim(&mut self) {
        let wanted = self.wish().and_then(|wish| self.granted.bound(wish));
        let suppress = self.spec.suppress_silence;
        self.egress.set_add_redundancy(self.spec.add_redundancy);
        if self.attached {
            self.forwarder.set_suppress_silence(suppress);
            self.forwarder.set_wanted(wanted);
        }
    }
}
