//! Selector and rewriters of one subscription, in the order in which a packet passes them.

use std::time::Instant;

use super::{
    CodecRewriter, Decision, DescriptorRewriter, LayerSelector, Layers, RtpRewriter,
    silence::{Heard, SilenceGate},
};
use crate::{
    cache::{EncodingSet, PacketMeta, Rewritten, SenderClock, Timing},
    prefetch::prefetch,
    rtp::{MediaKind, SeqNo},
};

/// What stands between a published track and one subscriber.
///
/// In this order: what each packet that leaves looks at comes first.
#[derive(Debug)]
#[repr(C)]
pub struct Forwarder {
    numbers: RtpRewriter,
    codec: CodecRewriter,
    silence: SilenceGate,
    selector: LayerSelector,
    descriptor: DescriptorRewriter,
}

impl Forwarder {
    /// Paused until something is wanted. Egress numbers start at `first_seq`: see [`RtpRewriter::new`].
    pub fn new(kind: MediaKind, first_seq: SeqNo) -> Self {
        Self {
            selector: LayerSelector::new(kind),
            numbers: RtpRewriter::new(first_seq),
            codec: CodecRewriter::new(),
            descriptor: DescriptorRewriter::default(),
            silence: SilenceGate::default(),
        }
    }

    /// What [`Self::forward`] looks at.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        self.numbers.prefetch();
        prefetch(&self.codec);
        prefetch(&self.selector);
    }

    /// The highest layers to pass; `None` pauses.
    pub fn set_wanted(&mut self, wanted: Option<Layers>) {
        self.selector.set_wanted(wanted);
    }

    /// Whether audio that its publisher calls silent is left out after a few packets.
    pub fn set_suppress_silence(&mut self, suppress: bool) {
        self.silence.set_wanted(suppress);
    }

    /// The track has a source (again), whose numbers say nothing about those before: pauses until something is wanted.
    pub fn attach(&mut self, live: EncodingSet) {
        self.selector.set_wanted(None);
        self.selector.set_live(live);
        self.numbers.attach();
    }

    /// Which encodings of the track have packets at the moment.
    pub fn set_live(&mut self, live: EncodingSet) {
        self.selector.set_live(live);
    }

    /// See [`LayerSelector::abandon`].
    pub fn abandon(&mut self) {
        self.selector.abandon();
    }

    /// Passes a packet on under new numbers, or drops it.
    #[inline(always)]
    pub fn forward(&mut self, meta: &PacketMeta, timing: &Timing<'_>) -> Option<Rewritten> {
        let decision = self.selector.select(meta, |meta| self.numbers.is_news(meta));
        let (marker, opens) = match decision {
            Decision::Ignore => return None,
            Decision::Skip => {
                self.numbers.skip(meta);
                let target = self.selector.target_of(meta);
                let above = target.is_some_and(|target| meta.frame.temporal > target.temporal);
                self.codec.skip(meta.codec, above);
                return None;
            }
            Decision::Open { marker } => {
                self.numbers.start(meta, timing);
                self.codec.start(meta.codec);
                self.descriptor.start(meta);
                (marker, true)
            }
            Decision::Pass { marker } => match self.silence.select(meta) {
                Heard::Passes => (marker, false),
                Heard::Resumes => (true, false),
                Heard::LeftOut => {
                    self.numbers.skip(meta);
                    return None;
                }
            },
        };
        let patch = self.codec.rewrite(meta.codec)?;
        let (seq, time) = self.numbers.rewrite(meta)?;
        let descriptor = match meta.frame_number {
            Some(_) => self.descriptor.rewrite(meta, self.selector.target_of(meta), timing),
            None => None,
        };
        let has_structure = meta.frame.layers.is_some_and(|layers| layers.has_structure);
        let awaited = opens || has_structure;
        Some(Rewritten { seq, time, marker, patch, descriptor, opens, awaited })
    }

    /// Whether what follows a packet that passed (see [`Self::follow`]) can pass along with it, under its patch and the numbers behind
    /// its own: nothing that is newer passed yet, and it brought nothing that is said once.
    pub(crate) fn leads(&self, meta: &PacketMeta, rewritten: &Rewritten) -> bool {
        let told = rewritten.descriptor.is_some_and(|descriptor| descriptor.active.is_some());
        self.numbers.is_latest(meta) && !told
    }

    /// `count` packets that follow the last one ([`PacketMeta::follows`]) passed along with it.
    pub(crate) fn follow(&mut self, count: u64) {
        self.numbers.follow(count);
    }

    /// Which layers pass, and which are wanted.
    pub fn selector(&self) -> &LayerSelector {
        &self.selector
    }

    /// The encoding whose keyframe is waited for.
    #[inline(always)]
    pub fn wants_keyframe(&self) -> Option<u8> {
        self.selector.wants_keyframe()
    }

    /// The encodings whose packets have an effect here.
    #[inline(always)]
    pub fn demanded(&self) -> EncodingSet {
        self.selector.demanded()
    }

    /// The sender's clock against this subscriber's timestamps: see [`RtpRewriter::sender_clock`]. `None` while nothing
    /// passes.
    pub fn sender_clock(&self, now: Instant, timing: &Timing<'_>) -> Option<SenderClock> {
        self.selector.current()?;
        self.numbers.sender_clock(now, timing)
    }
}

#[cfg(test)]
mod tests;
