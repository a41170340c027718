//! A published track on this shard, whoever publishes it.

use std::time::{Duration, Instant};

use crate::{
    cache::{CachedPacket, EncodingSet, LadderStep},
    ingress::PublishedTrack,
    peer::{Arrived, Subscription, TrackSpec},
    room::{PeerId, PeerKey, ShardId},
    rtp::{MediaKind, SeqNo},
};

/// Packets of a track and who else wants them.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) published: PublishedTrack,
    pub(super) owner: Owner,
    pub(super) publisher_id: PeerId,
    /// Its publisher is heard.
    pub(super) speaks: bool,
    /// What its publisher's shard calls it towards the others. Not the route, which is given anew at once: media and
    /// tables take different lanes, and what is still on its way must not reach another track.
    pub(super) number: u32,
    /// Arrived since the last walk began.
    pub(super) fresh: Vec<Arrived>,
    /// What the current walk hands out.
    pub(super) batch: Vec<Arrived>,
    /// It waits for the next walk.
    pub(super) dirty: bool,
    /// Encodings that have packets, as subscribers were told.
    pub(super) live: EncodingSet,
    /// Other shards that know the track.
    pub(super) remotes: Vec<Remote>,
    /// What the control plane or the publisher's shard was told last.
    pub(super) told: Demand,
    /// What its takers here want; more than that while they are still to be asked.
    pub(super) local: Demand,
    /// Its takers will be asked what they want.
    pub(super) recounting: bool,
    /// What its takers will be told, in a walk that has not begun.
    pub(super) news: News,
    /// Not all of its takers have been attached: everything is kept until it is known what they want.
    pub(super) attaching: bool,
    /// The steps of its layers and what they cost, as they were measured last.
    pub(super) ladder: Vec<LadderStep>,
    /// Of these, the highest spatial layer.
    pub(super) top: Option<u8>,
    /// Its layers are looked at by the clock.
    pub(super) watched: bool,
    /// Some of its takers may bound how often its picture changes.
    pub(super) bounding: bool,
}

/// What takers of a track have to be told, each by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct News {
    /// It has a source (again).
    pub(super) attach: bool,
    /// Other encodings live.
    pub(super) live: bool,
    /// Its layers were measured: for those that bound how often its picture changes.
    pub(super) frames: bool,
}

impl News {
    /// Nothing.
    pub(super) const NONE: Self = Self { attach: false, live: false, frames: false };

    fn and(self, other: Self) -> Self {
        Self {
            attach: self.attach || other.attach,
            live: self.live || other.live,
            frames: self.frames || other.frames,
        }
    }
}

/// Who feeds a track.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A peer of this shard.
    Peer(PeerKey),
    /// Another shard.
    Relay(ShardId),
}

/// Another shard that knows a track of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Remote {
    pub(super) shard: ShardId,
    pub(super) demand: Demand,
    /// Formats it was told.
    pub(super) formats: usize,
    /// When it was told an encoding's clock last, by encoding.
    pub(super) clocks_at: [Option<Instant>; TrackSpec::MAX_ENCODINGS],
}

impl Remote {
    /// It knows the track and wants nothing of it yet.
    pub(super) fn new(shard: ShardId) -> Self {
        let clocks_at = [None; TrackSpec::MAX_ENCODINGS];
        Self { shard, demand: Demand::default(), formats: 0, clocks_at }
    }

    /// Whether it shall be told an encoding's clock now: where it wants the encoding, and not more often than anybody
    /// sends reports in earnest.
    pub(super) fn takes_clock(&mut self, now: Instant, encoding: u8) -> bool {
        let Some(at) = self.clocks_at.get_mut(usize::from(encoding)) else { return false };
        let soon = at.is_some_and(|at| now.saturating_duration_since(at) < CLOCK_INTERVAL);
        if soon || !self.demand.encodings.contains(encoding) {
            return false;
        }
        *at = Some(now);
        true
    }
}

/// Browsers report each second. More clocks than four a second only cost the relay.
const CLOCK_INTERVAL: Duration = Duration::from_millis(250);

/// Packets of a batch: places and sizes.
#[derive(Clone, Copy, Debug)]
struct Alike {
    first: usize,
    last: usize,
    /// Behind the last.
    end: usize,
    least: usize,
    most: usize,
}

/// Bytes of padding at most. More would make longer runs of what differs more; a send costs as much as some 500 bytes of a
/// packet, and the subscriber's path carries every one of these.
const MAX_PADDING: usize = 8;

/// What is wanted of a track.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Demand {
    /// Encodings whose packets have an effect.
    pub(super) encodings: EncodingSet,
    /// Highest spatial layer that is asked for; `None`: nobody asks.
    pub(super) max_spatial: Option<u8>,
}

impl Demand {
    /// What one subscriber wants.
    pub(super) fn of(subscription: &Subscription) -> Self {
        Self { encodings: subscription.demanded(), max_spatial: subscription.max_spatial() }
    }

    /// Whether `other` wants nothing that this does not.
    pub(super) fn covers(self, other: Self) -> bool {
        self.union(other) == self
    }

    /// What both want.
    pub(super) fn union(self, other: Self) -> Self {
        Self {
            encodings: self.encodings.union(other.encodings),
            max_spatial: self.max_spatial.max(other.max_spatial),
        }
    }
}

impl Track {
    pub(super) fn new(
        published: PublishedTrack,
        owner: Owner,
        publisher_id: PeerId,
        number: u32,
    ) -> Self {
        Self {
            published,
            owner,
            publisher_id,
            speaks: false,
            number,
            fresh: Vec::new(),
            batch: Vec::new(),
            dirty: false,
            live: EncodingSet::EMPTY,
            remotes: Vec::new(),
            told: Demand::default(),
            local: Demand::default(),
            recounting: false,
            news: News::NONE,
            attaching: false,
            ladder: Vec::new(),
            top: None,
            watched: false,
            bounding: false,
        }
    }

    /// Takes note of what its takers have to be told. Whether a walk for it has to be asked for.
    #[must_use]
    pub(super) fn tell(&mut self, news: News) -> bool {
        let before = self.news;
        self.news = before.and(news);
        before == News::NONE
    }

    /// Measures its layers.
    pub(super) fn measure(&mut self, now: Instant) {
        self.ladder.clear();
        self.published.ladder(now, &mut self.ladder);
        self.top = self.ladder.iter().map(|step| step.layers.spatial).max();
    }

    /// A packet arrived. Whether the track has to be marked for the next walk.
    #[must_use]
    pub(super) fn arrived(&mut self, encoding: u8, seq: SeqNo) -> bool {
        self.fresh.push(Arrived { encoding, seq, padding: 0, follows: false });
        !std::mem::replace(&mut self.dirty, true)
    }

    /// What arrived becomes what is handed out.
    pub(super) fn take_batch(&mut self) {
        self.dirty = false;
        std::mem::swap(&mut self.fresh, &mut self.batch);
        self.fresh.clear();
        if self.published.kind() == MediaKind::Video {
            self.equalise();
            self.link();
        }
    }

    /// Notes which packets follow those before them, once for all takers.
    fn link(&mut self) {
        let Self { published, batch, .. } = self;
        let mut before = None;
        for arrived in batch {
            let packet = published.packet(arrived.encoding, arrived.seq);
            let pair = packet.zip(before);
            arrived.follows =
                pair.is_some_and(|(packet, before): (CachedPacket<'_>, CachedPacket<'_>)| {
                    packet.meta.follows(before.meta)
                });
            before = packet;
        }
    }

    /// Pads packets that are a little shorter than their neighbours: a send of several datagrams needs equal sizes, the
    /// last of them apart, and encoders split a frame into parts that differ by a byte or so.
    fn equalise(&mut self) {
        for encoding in 0..self.published.encoding_count() {
            let mut from = 0;
            while let Some(like) = self.alike(encoding, from) {
                from = like.end;
                if like.least == like.most {
                    continue;
                }
                let Self { published, batch, .. } = self;
                // The last may be shorter.
                for arrived in batch.get_mut(like.first..like.last).unwrap_or_default() {
                    if arrived.encoding == encoding
                        && let Some(packet) = published.packet(encoding, arrived.seq)
                    {
                        arrived.padding = like.most.saturating_sub(packet.payload.len()) as u8;
                    }
                }
            }
        }
    }

    /// The next packets of an encoding that are nearly of one size.
    fn alike(&self, encoding: u8, from: usize) -> Option<Alike> {
        let mut alike: Option<Alike> = None;
        for (place, arrived) in self.batch.iter().enumerate().skip(from) {
            if arrived.encoding != encoding {
                continue;
            }
            let Some(packet) = self.published.packet(encoding, arrived.seq) else { continue };
            let len = packet.payload.len();
            let begun = alike.get_or_insert(Alike {
                first: place,
                last: place,
                end: place + 1,
                least: len,
                most: len,
            });
            let (least, most) = (begun.least.min(len), begun.most.max(len));
            if most - least > MAX_PADDING {
                return alike;
            }
            *begun = Alike { last: place, end: place + 1, least, most, ..*begun };
        }
        alike
    }

    /// The peer of this shard that publishes it.
    pub(super) fn publisher(&self) -> Option<PeerKey> {
        match self.owner {
            Owner::Peer(peer) => Some(peer),
            Owner::Relay(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::TrackSource;

    #[test]
    #[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
    fn a_clock_crosses_only_where_it_is_wanted_and_a_few_times_a_second() {
        let start = Instant::now();
        let mut remote = Remote::new(ShardId(1));
        assert!(!remote.takes_clock(start, 0), "nobody wants it");
        remote.demand.encodings = EncodingSet::EMPTY.with(1);
        let taken = |remote: &mut Remote, encoding| {
            let at = |ms| start + Duration::from_millis(ms);
            (0..1_000).filter(|ms| remote.takes_clock(at(*ms), encoding)).count()
        };
        assert_eq!(taken(&mut remote, 0), 0);
        assert_eq!(taken(&mut remote, 1), 4);
    }

    /// Bytes of padding that packets of these encodings and sizes get.
    fn paddings(packets: &[(u8, usize)]) -> Vec<u8> {
        let now = crate::cache::test_packets::start();
        let published = PublishedTrack::new(MediaKind::Video, TrackSource::Relay, 2);
        let mut track = Track::new(published, Owner::Relay(ShardId(1)), PeerId::new("p"), 1);
        for (seq, (encoding, len)) in packets.iter().enumerate() {
            let meta = crate::cache::test_packets::meta(*encoding, seq as u64, 0, now);
            let payload = vec![0; *len];
            let packet =
                CachedPacket { meta: &meta, dependency_descriptor: &[], payload: &payload };
            track.published.handle_relayed(now, packet).unwrap();
            let marked = track.arrived(*encoding, SeqNo(seq as u64));
            assert_eq!(marked, seq == 0, "once for the walk");
        }
        track.take_batch();
        assert!(!track.dirty && track.fresh.is_empty());
        track.batch.iter().map(|arrived| arrived.padding).collect()
    }

    #[test]
    fn what_follows_is_noted_for_all_takers() {
        let now = crate::cache::test_packets::start();
        let published = PublishedTrack::new(MediaKind::Video, TrackSource::Relay, 2);
        let mut track = Track::new(published, Owner::Relay(ShardId(1)), PeerId::new("p"), 1);
        // Encoding and number; one picture of each.
        for (encoding, seq) in [(0, 1), (0, 2), (0, 3), (0, 5), (0, 6), (1, 7), (0, 7), (0, 8)] {
            let mut meta = crate::cache::test_packets::meta(encoding, seq, 0, now);
            meta.frame.start = seq == 1;
            let packet =
                CachedPacket { meta: &meta, dependency_descriptor: &[], payload: &[0; 90] };
            track.published.handle_relayed(now, packet).unwrap();
            let _ = track.arrived(encoding, SeqNo(seq));
        }
        track.take_batch();
        let follows: Vec<bool> = track.batch.iter().map(|arrived| arrived.follows).collect();
        assert_eq!(follows, [false, true, true, false, true, false, false, true]);
    }

    #[test]
    fn sizes_that_differ_by_a_byte_or_so_become_equal() {
        let one = |sizes: &[usize]| -> Vec<u8> {
            paddings(&sizes.iter().map(|size| (0, *size)).collect::<Vec<_>>())
        };
        assert_eq!(one(&[1_000, 1_000, 1_000]), [0, 0, 0]);
        assert_eq!(one(&[999, 999, 1_000, 1_000]), [1, 1, 0, 0], "as libwebrtc splits a frame");
        assert_eq!(one(&[1_000, 998, 1_000, 997]), [0, 2, 0, 0], "the last may be shorter");
        assert_eq!(one(&[1_000, 990, 400]), [0, 0, 0], "what differs by more is left alone");
        assert_eq!(one(&[1_000, 995, 990, 990]), [0, 0, 0, 0], "within bounds, and then anew");
        assert_eq!(one(&[999, 1_000, 300, 700, 701]), [1, 0, 0, 1, 0], "frame by frame");
        let layers = [(0, 99), (1, 500), (0, 100), (1, 503), (0, 98), (1, 503)];
        assert_eq!(paddings(&layers), [1, 3, 0, 0, 0, 0], "each encoding for itself");
    }
}
