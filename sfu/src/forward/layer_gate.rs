//! Which frames of one encoding a subscriber gets, where the encoding has layers.

use crate::{
    cache::{LayerFacts, LayerSet, Layers, PacketMeta},
    rtp::MediaTime,
    wire::Indication,
};

/// Passes the frames of one target, and changes the target only where nothing breaks.
///
/// A target is closed: what its frames need belongs to it too. So a subscriber may
/// - leave a target downwards at any picture, where the lower one is part of it;
/// - join another at a frame that is a switch point of it (dependency descriptor: indication `Switch`) and needs only
///   frames that passed.
///
/// A frame is decided by the target that held at its number, so that late packets share their frame's fate. On top of
/// it no frame passes that needs one which was left out by choice, whatever its indications promised.
///
/// In this order: a stream without layers looks at the first fields alone.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct LayerGate {
    len: u8,
    /// A frame of the base layer was left out because of one before it: only a keyframe helps.
    stuck: bool,
    nested: bool,
    /// Pictures since the goal is another than the target.
    waiting: u16,
    targets: LayerSet,
    /// Highest frame number so far. Bit n of the next two: the frame n before it.
    front: u64,
    passed: u64,
    dropped: u64,
    /// Of the picture that `front` belongs to.
    time: Option<MediaTime>,
    /// From which frame on which target holds, the latest last; empty before the first frame that tells its layers.
    turns: [Turn; Self::TURNS],
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    from: u64,
    target: Layers,
}

impl Default for Turn {
    fn default() -> Self {
        Self { from: 0, target: Layers { spatial: 0, temporal: 0 } }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gate {
    /// It passes; with this marker bit.
    Pass { marker: bool },
    /// Left out by choice.
    Skip,
    /// It will be known what it is: it comes again then.
    Later,
}

/// Pictures to wait for a switch point before a keyframe is asked for: about a second. Streams with switch points have
/// them each few pictures.
const PATIENCE: u16 = 32;

impl LayerGate {
    /// More changes than this within the life of a late packet do not happen.
    const TURNS: usize = 8;

    /// A stream begins with this packet.
    pub(super) fn open(&mut self, meta: &PacketMeta, wanted: Layers) {
        *self = Self::default();
        if let Some(facts) = meta.frame.layers {
            self.begin(facts, meta.time, facts.targets.best_within(wanted));
        }
    }

    /// Decides about a packet of the stream.
    #[inline(always)]
    pub(super) fn select(&mut self, meta: &PacketMeta, wanted: Layers) -> Gate {
        let Some(facts) = meta.frame.layers else {
            // A stream that never had layers passes as a whole, whatever its descriptors refer to.
            let waits = meta.frame.overtook && self.len > 0;
            return if waits { Gate::Later } else { Gate::Pass { marker: meta.marker } };
        };
        self.select_layered(meta, facts, wanted)
    }

    fn select_layered(&mut self, meta: &PacketMeta, facts: LayerFacts, wanted: Layers) -> Gate {
        if self.len == 0 {
            // All passed so far.
            self.begin(facts, meta.time, facts.targets.best_within(Layers::MAX));
        }
        if facts.frame > self.front {
            self.advance(meta, facts, wanted);
        } else if meta.frame.keyframe && facts.frame == self.front {
            self.aim(meta, facts, wanted, false);
        }
        // From before the stream, or from long ago.
        let Some(target) = self.target_at(facts.frame) else { return Gate::Skip };
        let needed = facts.uses.includes(target);
        // Whoever can read only the first packet of a structure needs it, in whichever layers.
        let is_key = facts.is_independent() && meta.frame.spatial == 0;
        let back = self.front - facts.frame;
        let broken = back < 64 && (facts.needs << 1) & self.dropped >> back != 0;
        let passes = (needed && !broken) || is_key;
        if needed && broken && meta.frame.temporal == 0 {
            self.stuck = true;
        }
        if back < 64 {
            let bits = if passes { &mut self.passed } else { &mut self.dropped };
            *bits |= 1 << back;
        }
        if !passes {
            return Gate::Skip;
        }
        let ends = needed && meta.frame.end && meta.frame.spatial == target.spatial;
        Gate::Pass { marker: meta.marker || ends }
    }

    /// The target that holds now; `None` where the stream has no layers.
    pub(super) fn target(&self) -> Option<Layers> {
        Some(self.turns.get(usize::from(self.len.checked_sub(1)?))?.target)
    }

    /// The target that held when a frame was new.
    pub(super) fn target_at(&self, frame: u64) -> Option<Layers> {
        let turns = self.turns.get(..usize::from(self.len))?;
        turns.iter().rev().find(|turn| turn.from <= frame).map(|turn| turn.target)
    }

    /// What is wanted can be had from a keyframe on, or not soon without one.
    #[inline(always)]
    pub(super) fn wants_keyframe(&self, wanted: Layers) -> bool {
        self.target().is_some_and(|target| self.is_without(target, wanted))
    }

    /// See [`Self::wants_keyframe`]: `target` is what passes.
    fn is_without(&self, target: Layers, wanted: Layers) -> bool {
        let Some(goal) = self.targets.best_within(wanted).filter(|goal| *goal != target) else {
            return self.stuck;
        };
        let without = goal.spatial == target.spatial || (self.nested && goal.within(target));
        self.stuck || !without || self.waiting > PATIENCE
    }

    fn begin(&mut self, facts: LayerFacts, time: MediaTime, target: Option<Layers>) {
        let Some(target) = target else { return };
        self.front = facts.frame;
        self.time = Some(time);
        self.passed = 1;
        self.targets = facts.targets;
        self.nested = facts.nested;
        self.turn(facts.frame, target);
    }

    fn turn(&mut self, from: u64, target: Layers) {
        if usize::from(self.len) == Self::TURNS {
            self.turns.rotate_left(1);
            self.len -= 1;
        }
        self.turns[usize::from(self.len)] = Turn { from, target };
        self.len += 1;
        self.waiting = 0;
    }

    /// Takes a frame that is newer than all before.
    fn advance(&mut self, meta: &PacketMeta, facts: LayerFacts, wanted: Layers) {
        let steps = facts.frame - self.front;
        self.front = facts.frame;
        self.passed = self.passed.checked_shl(steps.min(64) as u32).unwrap_or(0);
        self.dropped = self.dropped.checked_shl(steps.min(64) as u32).unwrap_or(0);
        let new_picture = Some(meta.time) != self.time;
        self.time = Some(meta.time);
        self.aim(meta, facts, wanted, new_picture);
    }

    /// Changes the target if that is wanted and this frame allows it.
    fn aim(&mut self, meta: &PacketMeta, facts: LayerFacts, wanted: Layers, new_picture: bool) {
        (self.targets, self.nested) = (facts.targets, facts.nested);
        self.stuck &= !meta.frame.keyframe;
        let Some(target) = self.target() else { return };
        let Some(goal) = self.targets.best_within(wanted).filter(|goal| *goal != target) else {
            self.waiting = 0;
            return;
        };
        self.waiting = self.waiting.saturating_add(new_picture.into());
        let next = if meta.frame.keyframe && facts.uses.includes(goal) {
            Some(goal)
        } else {
            self.down(target, goal).filter(|_| new_picture).or_else(|| {
                let joins = self.is_decodable(facts, target)
                    && (new_picture || meta.frame.spatial <= target.spatial || facts.needs == 0);
                joins.then(|| Self::join(facts, target, goal)).flatten()
            })
        };
        if let Some(next) = next.filter(|next| *next != target) {
            self.turn(facts.frame, next);
        }
    }

    /// A part of `target` on the way to `goal`, if there is one.
    fn down(&self, target: Layers, goal: Layers) -> Option<Layers> {
        let spatial = if self.nested { goal.spatial.min(target.spatial) } else { target.spatial };
        let lower = Layers { spatial, temporal: goal.temporal.min(target.temporal) };
        (lower != target && self.targets.contains(lower)).then_some(lower)
    }

    fn is_decodable(&self, facts: LayerFacts, target: Layers) -> bool {
        // Bit 0 of `passed` is this frame itself.
        let missing = facts.needs & !(self.passed >> 1);
        facts.uses.includes(target) || (missing == 0 && !facts.needs_more)
    }

    /// The best target on the way to `goal` that can be joined at a frame which can be decoded.
    fn join(facts: LayerFacts, target: Layers, goal: Layers) -> Option<Layers> {
        let opens = |layers: &Layers| facts.uses.of(*layers) == Indication::Switch;
        if opens(&goal) {
            return Some(goal);
        }
        let spatial = target.spatial;
        (target.temporal + 1..=goal.temporal)
            .rev()
            .map(|temporal| Layers { spatial, temporal })
            .find(opens)
    }
}

#[cfg(test)]
mod tests;
