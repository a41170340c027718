//! What is known about a packet, read once when it arrived.

use std::time::Instant;

use super::{FormatId, LayerFacts};
use crate::{
    rtp::{MediaTime, SeqNo},
    wire::{AbsCaptureTime, AudioLevel, PlayoutDelay, VideoOrientation},
};

/// Facts about one packet of one encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketMeta {
    /// Sequence number at ingress; grows over the whole life of the encoding, SSRC changes included.
    pub seq: SeqNo,
    /// Timestamp at ingress.
    pub time: MediaTime,
    /// When it arrived on the publisher's shard.
    pub received_at: Instant,
    /// Index into the track's encodings, lowest quality first.
    pub encoding: u8,
    /// Counts the streams (SSRCs, restarts) that this encoding has been: within one, `seq` and `time` are continuous.
    pub generation: u8,
    /// Payload format.
    pub format: FormatId,
    /// Marker bit.
    pub marker: bool,
    /// Nothing but padding, by which its sender probes for bandwidth: it has a number, but no subscriber needs it.
    pub padding: bool,
    /// Place in its frame, and the frame's layer.
    pub frame: FrameFacts,
    /// Fields of the payload descriptor that have to stay continuous for a subscriber.
    pub codec: CodecFields,
    /// The dependency descriptor's number of the frame, as it came.
    pub frame_number: Option<u16>,
    /// RED only: where the payload of the primary block begins; 0 otherwise.
    pub red_primary: u16,
    /// Passed on.
    pub audio_level: Option<AudioLevel>,
    /// Passed on.
    pub video_orientation: Option<VideoOrientation>,
    /// Passed on.
    pub playout_delay: Option<PlayoutDelay>,
    /// Passed on.
    pub abs_capture_time: Option<AbsCaptureTime>,
}

impl PacketMeta {
    /// Whether it comes right behind `before` and shares its fate with every subscriber: the next packet of the same frame, which
    /// tells nothing that `before` does not.
    pub(crate) fn follows(&self, before: &Self) -> bool {
        // Whether the end of a frame ends the picture too depends on which layers a subscriber gets.
        let may_end = self.frame.end && !self.marker;
        let frame = FrameFacts { start: false, end: self.frame.end, ..before.frame };
        self.seq == before.seq.plus(1)
            && (self.time, self.frame, self.codec) == (before.time, frame, before.codec)
            && (self.encoding, self.generation) == (before.encoding, before.generation)
            && (self.format, self.frame_number) == (before.format, before.frame_number)
            && !(self.padding || before.padding || before.marker || before.frame.end || may_end)
    }
}

/// Where a packet stands in its frame. Audio packets are frames of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameFacts {
    /// First packet of a frame (of a spatial layer's frame with SVC).
    pub start: bool,
    /// Last packet of a frame (of a spatial layer's frame with SVC). That of a picture has the marker bit.
    pub end: bool,
    /// Belongs to a frame that needs no other.
    pub keyframe: bool,
    /// Spatial layer within this encoding (SVC); 0 without.
    pub spatial: u8,
    /// Temporal layer; 0 where the format does not tell.
    pub temporal: u8,
    /// Who needs the frame, and what it needs; `None` where neither the dependency descriptor nor the payload tells.
    pub layers: Option<LayerFacts>,
    /// Its layers will be known once the structure of its dependency descriptor is there, which is on its way: the
    /// packet overtook it.
    pub overtook: bool,
}

/// Fields of a payload descriptor that are rewritten per subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CodecFields {
    /// Nothing to rewrite.
    #[default]
    None,
    /// RFC 7741.
    Vp8(Vp8Fields),
    /// RFC 9628.
    Vp9(Vp9Fields),
}

/// VP8 payload descriptor (RFC 7741 section 4.2). The fields stand from byte 2 on, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vp8Fields {
    /// Picture id.
    pub picture_id: Option<u16>,
    /// The picture id has 15 bits, else 7.
    pub long_picture_id: bool,
    /// Counts frames of temporal layer 0.
    pub tl0_pic_idx: Option<u8>,
    /// The byte that holds TID, Y and KEYIDX, and whether KEYIDX (its low five bits) counts.
    pub tid_key_idx: Option<(u8, bool)>,
}

/// VP9 payload descriptor (RFC 9628 section 4.2). The picture id stands at byte 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vp9Fields {
    /// Picture id.
    pub picture_id: Option<u16>,
    /// The picture id has 15 bits, else 7.
    pub long_picture_id: bool,
    /// Non-flexible mode: the byte of the layer indices and TL0PICIDX behind it.
    pub layers_tl0: Option<(u8, u8)>,
    /// Flexible mode, in which each frame names the pictures that it refers to.
    pub flexible: Option<Vp9Flexible>,
}

/// What stands behind the picture id in flexible mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vp9Flexible {
    /// The byte of the layer indices.
    pub layers: Option<u8>,
    /// P_DIFF: how many pictures back each reference is; zeros behind the last.
    pub diffs: [u8; 3],
}

/// A packet in a cache, or on its way into one: exactly this crosses a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachedPacket<'a> {
    /// What is known about it.
    pub meta: &'a PacketMeta,
    /// AV1 dependency descriptor, raw; empty when there is none.
    pub dependency_descriptor: &'a [u8],
    /// Payload as the publisher sent it, padding removed.
    pub payload: &'a [u8],
}

impl CachedPacket<'_> {
    /// Whether its header tells nothing that is its own: those of such packets differ in what each subscriber gets anew.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.dependency_descriptor.is_empty()
            && self.meta.audio_level.is_none()
            && self.meta.abs_capture_time.is_none()
            && self.meta.playout_delay.is_none()
            && self.meta.video_orientation.is_none()
    }
}

/// A set of a track's encodings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct EncodingSet(u8);

impl EncodingSet {
    /// More encodings than any track has.
    pub const MAX: u8 = 8;
    /// No encoding.
    pub const EMPTY: Self = Self(0);

    /// Encodings `0..count`.
    pub const fn first(count: u8) -> Self {
        if count >= Self::MAX { Self(u8::MAX) } else { Self((1 << count) - 1) }
    }

    /// As eight bits, the lowest encoding in the lowest.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From [`Self::bits`].
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// With `encoding`. Those from 8 on are left out.
    #[must_use]
    pub const fn with(self, encoding: u8) -> Self {
        if encoding < Self::MAX { Self(self.0 | 1 << encoding) } else { self }
    }

    /// With all of `other`.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `encoding` is in it.
    pub const fn contains(self, encoding: u8) -> bool {
        encoding < Self::MAX && self.0 & 1 << encoding != 0
    }

    /// Nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Lowest quality.
    pub const fn lowest(self) -> Option<u8> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() as u8) }
    }

    /// Highest quality.
    pub const fn highest(self) -> Option<u8> {
        if self.0 == 0 { None } else { Some(7 - self.0.leading_zeros() as u8) }
    }

    /// Highest quality that is not above `bound`.
    pub const fn highest_up_to(self, bound: u8) -> Option<u8> {
        Self(self.0 & Self::first(bound.saturating_add(1)).0).highest()
    }

    /// Lowest quality first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..Self::MAX).filter(move |encoding| self.contains(*encoding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::test_packets::{meta, start};

    #[test]
    fn sets_of_encodings() {
        let set = EncodingSet::EMPTY.with(0).with(2).with(8);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 2]);
        assert_eq!((set.lowest(), set.highest()), (Some(0), Some(2)));
        assert_eq!(set.highest_up_to(1), Some(0));
        assert_eq!(set.highest_up_to(u8::MAX), Some(2));
        assert_eq!(EncodingSet::EMPTY.with(2).highest_up_to(1), None);
        assert_eq!(EncodingSet::first(3).bits(), 7);
        assert_eq!(EncodingSet::first(8).bits(), 255);
        assert!(EncodingSet::EMPTY.is_empty() && EncodingSet::EMPTY.lowest().is_none());
        assert_eq!(EncodingSet::from_bits(128).highest(), Some(7));
    }

    #[test]
    fn packets_follow_those_before_them_within_a_frame() {
        let now = start();
        let before = meta(0, 9, 900, now);
        let plain = |seq, time| {
            let mut meta = meta(0, seq, time, now);
            meta.frame.start = false;
            meta
        };
        assert!(plain(10, 900).follows(&before));
        let ends = |frame: FrameFacts| FrameFacts { end: true, ..frame };
        let marked =
            PacketMeta { marker: true, frame: ends(plain(10, 900).frame), ..plain(10, 900) };
        assert!(marked.follows(&before), "the end of the picture");
        type Change = fn(&mut PacketMeta);
        let others: [(&str, Change); 13] = [
            ("a number is missing", |meta| meta.seq = SeqNo(11)),
            ("another picture", |meta| meta.time = MediaTime(901)),
            ("another encoding", |meta| meta.encoding = 1),
            ("another stream of it", |meta| meta.generation = 1),
            ("another format", |meta| meta.format = FormatId(1)),
            ("nothing but padding", |meta| meta.padding = true),
            ("the start of a frame", |meta| meta.frame.start = true),
            ("an upper layer", |meta| meta.frame.temporal = 1),
            ("the end of a layer, which may be that of the picture", |meta| meta.frame.end = true),
            ("its layers will be known", |meta| meta.frame.overtook = true),
            ("another frame of the descriptor", |meta| meta.frame_number = Some(4)),
            ("other fields of the payload", |meta| {
                meta.codec =
                    CodecFields::Vp8(Vp8Fields { picture_id: Some(1), ..Vp8Fields::default() });
            }),
            ("a keyframe", |meta| meta.frame.keyframe = true),
        ];
        for (name, change) in others {
            let mut other = plain(10, 900);
            change(&mut other);
            assert!(!other.follows(&before), "{name}");
        }
        assert!(!plain(11, 900).follows(&marked), "behind the end of a picture");
        let marker = PacketMeta { marker: true, ..before };
        let end = PacketMeta { frame: ends(before.frame), ..before };
        assert!(![marker, end].iter().any(|before| plain(10, 900).follows(before)), "either");
        let padding = PacketMeta { padding: true, ..before };
        assert!(!plain(10, 900).follows(&padding), "behind padding");
    }
}
