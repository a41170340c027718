//! One peer: what the control plane wants of it, wired to its transport, its ingress and its egress.

mod cadence;
mod congestion;
mod counters;
mod data;
mod frame_bound;
mod limits;
mod link;
mod outbox;
mod queue;
mod report;
mod sent_numbers;
mod sharing;
mod slots;
mod spec;
mod stats;
mod subscription;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use slab::Slab;

pub use counters::{Counters, DropReason};
pub use outbox::Transmit;
pub use report::{
    EgressCounters, EstimateReport, PathReport, PeerReport, SubscriptionReport, TrackReport,
};
pub use spec::{DataSpec, EncodingSpec, Limits, PeerSpec, SubscriptionSpec, TrackSpec};
pub use stats::{DirectionStats, Estimate, EstimateLimit, PathStats};
pub(crate) use stats::{PathRecorder, Told, jitter_time};

pub(crate) use cadence::Cadence;
pub(crate) use congestion::{Congestion, Repair, Shared};
pub(crate) use data::{DataChannels, Lane, Queued};
pub(crate) use limits::{Bucket, Budget};
pub(crate) use link::{Link, MAX_RTCP};
pub(crate) use outbox::Outbox;
pub(crate) use queue::Waiting;
pub(crate) use sharing::Sharing;
pub(crate) use slots::Slots;
pub(crate) use subscription::{Arrived, FirstNumbers, Grant, Subscription};

use crate::{
    ingress::{
        BoundEncoding, BoundTrack, CcfbRecorder, FecDecoder, SsrcBinder, TrackSlot, TwccRecorder,
    },
    prefetch::prefetch,
    room::{PeerId, PeerKey, RoomId, RoomKey, RouteKey},
    rtp::{Bitrate, SeqNo, Ssrc, TrackId},
    transport::{IceCredentials, Transport, TransportContext},
    wire::AbsSendTime,
};

/// Who a peer is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) id: PeerId,
    pub(crate) room: RoomKey,
    pub(crate) room_id: RoomId,
}

/// What a peer is born with.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) key: PeerKey,
    pub(crate) identity: Identity,
    pub(crate) ice: IceCredentials,
    /// In whose name RTCP leaves.
    pub(crate) feedback_ssrc: Ssrc,
    /// Of everything that leaves to the peer (RFC 3550 section 6.5.1).
    pub(crate) cname: [u8; 16],
    /// When its first reports leave.
    pub(crate) cadence: Cadence,
    /// SSRCs that the peer may use.
    pub(crate) max_ssrcs: usize,
}

/// A track that the peer publishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerTrack {
    pub(crate) spec: TrackSpec,
    pub(crate) route: RouteKey,
}

/// One peer of a shard. A plain value: it can be moved to another shard.
///
/// In this order: what a turn of a walk looks at comes first, on one page or two. Of 500 peers in a room none is near when its turn
/// comes, neither its lines nor the way to its pages.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Peer {
    pub(crate) key: PeerKey,
    pub(crate) subscriptions: Slots<Subscription>,
    next_number: u16,
    pub(crate) resending: bool,
    /// It waits for its turn to send what the pacer held back.
    pub(crate) releasing: bool,
    /// When it is reported to.
    pub(crate) cadence: Cadence,
    pub(crate) transport: Transport,
    pub(crate) congestion: Congestion,

    /// In whose name it is reported to, and all RTCP. With what reports to it and from it look at behind it.
    pub(crate) feedback_ssrc: Ssrc,
    pub(crate) cname: [u8; 16],
    /// The subscription whose sender report is the first of the next turn.
    pub(crate) next_report: usize,
    /// RTCP.
    pub(crate) feedback_budget: Budget,
    pub(crate) ingress: Bucket,
    pub(crate) rtt: Option<Duration>,
    pub(crate) path: PathRecorder,
    /// By [`TrackSlot`].
    tracks: Slab<PeerTrack>,
    pub(crate) identity: Identity,

    /// Which of its subscriptions have packets in the current walk, where that is of several tracks.
    pub(crate) pending: VecDeque<(RouteKey, u32)>,
    /// Our current ICE credentials.
    pub(crate) ice: IceCredentials,
    pub(crate) ice_generation: u32,
    /// What is wanted, as far as it is true.
    pub(crate) spec: PeerSpec,
    pub(crate) connected: bool,
    pub(crate) data: DataChannels,
    /// It waits to be settled.
    pub(crate) touched: bool,

    pub(crate) binder: SsrcBinder,
    pub(crate) twcc: TwccRecorder,
    /// For a peer that knows no transport-wide numbers.
    pub(crate) ccfb: CcfbRecorder,
    /// Brings back what it lost on its way here, where it sends repair packets.
    pub(crate) fec: FecDecoder,
    /// STUN on its five-tuples.
    pub(crate) checks: Budget,
    /// STUN in its name from anywhere else. Apart, so that nobody who has no path to it holds up checks of the path it has.
    pub(crate) strange_checks: Budget,

    /// Which subscription an egress SSRC belongs to.
    by_ssrc: HashMap<Ssrc, u32>,
    /// The next number of each SSRC that left here before. The SRTP keys live as long as the peer, and the same number
    /// sealed again would use a nonce twice (RFC 7714 section 8.1): an SSRC that comes back goes on.
    used: HashMap<Ssrc, SeqNo>,
    /// What it adds to the shard's sums.
    pub(crate) told: Told,
    /// What left by subscriptions that are gone.
    past: EgressCounters,
}

/// Bursts of media that pass the cap on its bitrate: a keyframe of all layers at once.
const INGRESS_BURST: Duration = Duration::from_secs(1);

/// Checks a second. libwebrtc pings one path in 48 ms at most, Firefox one in 20 ms, both for seconds only; each costs two
/// HMACs.
const CHECKS: u32 = 100;

/// Checks a second from five-tuples that passed none, twice of them at once: two interfaces in two families over two
/// protocols, some times over. More would let who knows a user name, and not the password, spend more of the shard's time.
const STRANGE_CHECKS: u32 = 50;

/// RTCP packets a second. A client of a hundred videos on a bad path sends some hundreds; each costs a decryption.
const FEEDBACK: u32 = 2_000;

/// So many subscriptions are sooner asked one by one than looked up.
const FEW: usize = 2;

/// SSRCs whose numbers are remembered: as many as thousands of subscriptions one after the other, 256 KiB.
const MAX_USED: usize = 1 << 14;

impl Peer {
    /// A peer that waits for checks. Its spec has to be applied.
    pub(crate) fn new(
        now: Instant,
        birth: Birth,
        context: &TransportContext,
        spec: PeerSpec,
    ) -> Self {
        let mut transport = Transport::new(context, &birth.ice, now);
        transport.set_remote(now, &spec.transport);
        Self {
            key: birth.key,
            identity: birth.identity,
            transport,
            ice: birth.ice,
            ice_generation: spec.transport.ice_generation,
            connected: false,
            data: DataChannels::new(now),
            touched: false,
            binder: SsrcBinder::new(birth.max_ssrcs),
            twcc: TwccRecorder::new(now),
            ccfb: CcfbRecorder::new(now),
            fec: FecDecoder::default(),
            ingress: Bucket::new(now, Bitrate::ZERO, INGRESS_BURST),
            checks: Budget::new(now, CHECKS, 2 * CHECKS),
            strange_checks: Budget::new(now, STRANGE_CHECKS, 2 * STRANGE_CHECKS),
            feedback_budget: Budget::new(now, FEEDBACK, FEEDBACK),
            tracks: Slab::new(),
            subscriptions: Slots::new(),
            by_ssrc: HashMap::new(),
            used: HashMap::new(),
            pending: VecDeque::new(),
            resending: false,
            releasing: false,
            cadence: birth.cadence,
            feedback_ssrc: birth.feedback_ssrc,
            cname: birth.cname,
            next_report: 0,
            congestion: Congestion::new(now, birth.feedback_ssrc.0),
            next_number: 0,
            rtt: None,
            path: PathRecorder::new(now),
            told: Told::default(),
            past: EgressCounters::default(),
            spec,
        }
    }

    /// Cap on the media from the peer.
    pub(crate) fn set_ingress_rate(&mut self, now: Instant, rate: Bitrate) {
        if self.ingress.rate() != rate {
            self.ingress = Bucket::new(now, rate, INGRESS_BURST);
        }
    }

    /// Adds a published track.
    pub(crate) fn add_track(&mut self, track: PeerTrack) {
        self.tracks.insert(track);
    }

    /// What it publishes, and where each track's packets go.
    pub(crate) fn published(&self) -> impl Iterator<Item = (&TrackSpec, RouteKey)> {
        self.tracks.iter().map(|(_, track)| (&track.spec, track.route))
    }

    /// A published track by name.
    pub(crate) fn track(&self, id: &TrackId) -> Option<&PeerTrack> {
        self.tracks.iter().map(|(_, track)| track).find(|track| track.spec.id == *id)
    }

    /// A published track is described anew.
    pub(crate) fn change_track(&mut self, spec: TrackSpec) {
        for (_, track) in &mut self.tracks {
            if track.spec.id == spec.id {
                track.spec = spec;
                return;
            }
        }
    }

    /// Removes the published tracks that `keep` refuses; gives their routes.
    pub(crate) fn remove_tracks(
        &mut self,
        mut keep: impl FnMut(&PeerTrack) -> bool,
    ) -> Vec<RouteKey> {
        let mut removed = Vec::new();
        self.tracks.retain(|_, track| {
            let kept = keep(track);
            if !kept {
                removed.push(track.route);
            }
            kept
        });
        removed
    }

    /// Tells the binder what is published.
    pub(crate) fn bind_tracks(&mut self) {
        let bound = self.tracks.iter().map(|(slot, track)| BoundTrack {
            slot: TrackSlot(slot as u16),
            kind: track.spec.kind,
            mid: track.spec.mid,
            encodings: track
                .spec
                .encodings
                .iter()
                .map(|encoding| BoundEncoding {
                    rid: encoding.rid,
                    ssrc: encoding.ssrc,
                    rtx_ssrc: encoding.rtx_ssrc,
                })
                .collect(),
        });
        self.binder.set_tracks(bound.collect());
    }

    /// Where a published track's packets go.
    pub(crate) fn route_of(&self, slot: TrackSlot) -> Option<RouteKey> {
        Some(self.tracks.get(slot.0.into())?.route)
    }

    /// Where all its packets go.
    pub(crate) fn routes(&self) -> impl Iterator<Item = RouteKey> + '_ {
        self.tracks.iter().map(|(_, track)| track.route)
    }

    /// The same, and what keeps what is reported of them.
    pub(crate) fn reported(&mut self) -> (impl Iterator<Item = RouteKey> + '_, &mut PathRecorder) {
        (self.tracks.iter().map(|(_, track)| track.route), &mut self.path)
    }

    /// Puts a subscription at the place where the next one will be inserted.
    pub(crate) fn add_subscription(&mut self, subscription: Subscription) {
        let ssrcs = subscription.spec.ssrcs();
        let slot = self.subscriptions.insert(subscription) as u32;
        // All of them may have packets in the same walk, sooner or later: not then.
        self.pending.reserve(self.subscriptions.end());
        for ssrc in ssrcs {
            self.by_ssrc.insert(ssrc, slot);
        }
    }

    /// Takes a subscription away.
    pub(crate) fn remove_subscription(&mut self, slot: u32) -> Option<Subscription> {
        let subscription = self.subscriptions.remove(slot as usize)?;
        self.by_ssrc.retain(|_, known| *known != slot);
        self.pending.retain(|(_, known)| *known != slot);
        self.congestion.forget(slot);
        self.past += subscription.sent;
        for ssrc in subscription.spec.ssrcs() {
            self.congestion.forget_stream(ssrc);
        }
        self.used.extend(subscription.egress.next_numbers().into_iter().flatten());
        Some(subscription)
    }

    /// What left by all its subscriptions, present and former.
    pub(crate) fn sent(&self) -> EgressCounters {
        let mut sum = self.past;
        for (_, subscription) in self.subscriptions.iter() {
            sum += subscription.sent;
        }
        sum
    }

    /// Where an SSRC that left here before has to go on.
    pub(crate) fn number_after(&self, ssrc: Ssrc) -> Option<SeqNo> {
        self.used.get(&ssrc).copied()
    }

    /// Whether there is memory for the numbers of these subscriptions, once they are gone.
    pub(crate) fn remembers_all(&self, subscriptions: &[SubscriptionSpec]) -> bool {
        self.used.len() < MAX_USED
            || subscriptions
                .iter()
                .flat_map(SubscriptionSpec::ssrcs)
                .all(|ssrc| self.used.contains_key(&ssrc) || self.by_ssrc.contains_key(&ssrc))
    }

    /// The subscription that an SSRC of ours belongs to.
    pub(crate) fn subscription_of(&mut self, ssrc: Ssrc) -> Option<&mut Subscription> {
        if self.subscriptions.end() <= FEW {
            // It is looked at anyway, the map is not.
            let mut all = self.subscriptions.iter_mut().map(|(_, subscription)| subscription);
            return all.find(|it| it.spec.ssrcs().any(|own| own == ssrc));
        }
        let slot = *self.by_ssrc.get(&ssrc)?;
        self.subscriptions.get_mut(slot as usize)
    }

    /// Steps of [`Self::prefetch`].
    pub(crate) const PREFETCHES: usize = 4;

    /// From this one on it asks for what reports take, where they leave with this turn.
    pub(crate) const REPORT_STEP: usize = 1;

    /// Asks for what the turn of this peer in a walk will need: its subscription in this slot, or else the first of those that have
    /// packets. Step 0 comes first; each needs what the one before asked for, which takes as long as a turn of somebody else.
    #[inline(always)]
    pub(crate) fn prefetch(&self, now: Instant, step: usize, slot: Option<u32>) {
        let next = || {
            let slot = slot.or_else(|| Some(self.pending.front()?.1))?;
            self.subscriptions.get(slot as usize)
        };
        match step {
            0 => {
                prefetch(&self.key);
                if slot.is_none() {
                    prefetch(&self.pending);
                }
                self.transport.prefetch();
                self.congestion.prefetch();
            }
            1 => {
                match slot {
                    Some(slot) => {
                        if let Some(place) = self.subscriptions.place(slot as usize) {
                            prefetch(place);
                        }
                    }
                    None => {
                        if let Some(pending) = self.pending.front() {
                            prefetch(pending);
                        }
                    }
                }
                self.transport.prefetch_pointees();
                self.congestion.prefetch_estimator(now);
                if self.cadence.may_ride(now) {
                    prefetch(&self.next_report);
                    prefetch(&self.path);
                    prefetch(&self.tracks);
                    prefetch(&self.identity);
                }
            }
            2 => {
                self.congestion.prefetch_pointees();
                if let Some(subscription) = next() {
                    subscription.prefetch();
                }
                if self.cadence.may_ride(now) {
                    self.transport.prefetch_rtcp_egress();
                }
            }
            _ => {
                if let Some(subscription) = next() {
                    subscription.prefetch_pointees();
                }
            }
        }
    }

    /// Steps of [`Self::prefetch_rtcp`].
    pub(crate) const RTCP_PREFETCHES: usize = 3;

    /// Asks for what RTCP of this peer will need, like [`Self::prefetch`].
    #[inline(always)]
    pub(crate) fn prefetch_rtcp(&self, step: usize) {
        self.transport.prefetch_rtcp(step);
        match step {
            0 => {
                prefetch(&self.key);
                prefetch(&self.feedback_budget);
                prefetch(&self.ingress);
                prefetch(&self.path);
                prefetch(&self.subscriptions);
                self.congestion.prefetch_told();
            }
            1 => {
                self.congestion.prefetch_feedback();
                if let Some(place) = self.subscriptions.place(0) {
                    prefetch(place);
                }
            }
            _ => {
                if let Some(subscription) = self.subscriptions.get(0) {
                    subscription.egress.prefetch_reported();
                }
            }
        }
    }

    /// What sending media takes, each borrowed by itself. `None` before the peer is connected.
    #[inline(always)]
    pub(crate) fn sending<'a>(
        &'a mut self,
        now: Instant,
        send_time: AbsSendTime,
        outbox: &'a mut Outbox,
        counters: &'a mut Counters,
    ) -> Option<(&'a mut Slots<Subscription>, &'a PeerSpec, Link<'a>)> {
        let numbers = (&mut self.next_number, &mut self.congestion);
        let link = Link::new(&mut self.transport, numbers, (now, send_time), outbox, counters)?;
        Some((&mut self.subscriptions, &self.spec, link))
    }

    /// The same for feedback by packet.
    pub(crate) fn feedback<'a>(
        &'a mut self,
        now: Instant,
        send_time: AbsSendTime,
        outbox: &'a mut Outbox,
        counters: &'a mut Counters,
    ) -> Option<(Link<'a>, &'a mut TwccRecorder, &'a mut CcfbRecorder)> {
        let numbers = (&mut self.next_number, &mut self.congestion);
        let link = Link::new(&mut self.transport, numbers, (now, send_time), outbox, counters)?;
        Some((link, &mut self.twcc, &mut self.ccfb))
    }
}
