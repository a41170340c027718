//! Layers of a stream and what a frame is for each of them, in one form for every codec: the dependency descriptor's
//! decode targets, laid onto a grid.

use crate::{
    rtp::{Bitrate, FrameRate},
    wire::Indication,
};

/// A quality that a subscriber may get at most, or a decode target of one encoding.
///
/// For a whole track `spatial` is the index of an encoding where the track has several (simulcast), and the spatial
/// layer within its only one otherwise (SVC): whoever compares steps of a ladder need not know which.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Layers {
    /// Index of an encoding, lowest quality first, or spatial layer.
    pub spatial: u8,
    /// Temporal layer within it.
    pub temporal: u8,
}

impl Layers {
    /// No bound.
    pub const MAX: Self = Self { spatial: u8::MAX, temporal: u8::MAX };
    /// Spatial and temporal layers that the grid has, each. Streams with more pass as a whole.
    pub const GRID: u8 = 4;

    /// Position in the grid; those outside are moved onto its edge.
    pub(crate) const fn cell(self) -> usize {
        let edge = Self::GRID - 1;
        let spatial = if self.spatial > edge { edge } else { self.spatial };
        let temporal = if self.temporal > edge { edge } else { self.temporal };
        (spatial * Self::GRID + temporal) as usize
    }

    pub(crate) const fn of_cell(cell: usize) -> Self {
        Self { spatial: cell as u8 / Self::GRID, temporal: cell as u8 % Self::GRID }
    }

    /// Neither dimension is above that of `other`.
    pub(crate) const fn within(self, other: Self) -> bool {
        self.spatial <= other.spatial && self.temporal <= other.temporal
    }
}

/// A set of cells of the grid of [`Layers`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LayerSet(u16);

impl LayerSet {
    /// Nothing.
    pub const EMPTY: Self = Self(0);
    /// The whole grid: where a stream does not tell what it has, a target beyond its layers takes all of it.
    pub const ALL: Self = Self(u16::MAX);

    /// With `layers`.
    #[must_use]
    pub const fn with(self, layers: Layers) -> Self {
        Self(self.0 | 1 << layers.cell())
    }

    /// With all of `other`.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `layers` is in it.
    pub const fn contains(self, layers: Layers) -> bool {
        self.0 & 1 << layers.cell() != 0
    }

    /// Nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Spatial layer first, lowest first.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Layers> {
        (0..u16::BITS as usize).filter(move |cell| self.0 & 1 << cell != 0).map(Layers::of_cell)
    }

    /// The best that is within `bound`: a spatial layer counts more than a temporal one. The lowest where nothing is.
    pub fn best_within(self, bound: Layers) -> Option<Layers> {
        let mut lowest = None;
        for layers in self.iter().rev() {
            if layers.within(bound) {
                return Some(layers);
            }
            lowest = Some(layers);
        }
        lowest
    }
}

/// What one frame is for each target of the grid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LayerUses(u32);

impl LayerUses {
    /// For one target.
    pub const fn of(self, target: Layers) -> Indication {
        Indication::from_bits(self.0 >> (2 * target.cell()))
    }

    /// Whether it belongs to a target.
    pub const fn includes(self, target: Layers) -> bool {
        self.0 >> (2 * target.cell()) & 3 != 0
    }

    /// Sets it for one target.
    pub fn set(&mut self, target: Layers, indication: Indication) {
        let at = 2 * target.cell();
        self.0 = self.0 & !(3 << at) | indication.bits() << at;
    }

    /// The targets it belongs to.
    pub fn targets(self) -> LayerSet {
        let mut targets = LayerSet::EMPTY;
        for cell in 0..16 {
            targets.0 |= u16::from(self.0 >> (2 * cell) & 3 != 0) << cell;
        }
        targets
    }
}

/// A frame's place among the layers of its encoding: which targets it is for and which frames it needs. From the
/// dependency descriptor, else from the payload descriptor of VP8 or VP9.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerFacts {
    /// Counts the frames of all spatial layers, gaps allowed: what `needs` is relative to.
    pub frame: u64,
    /// Bit n: it needs the frame n + 1 before it.
    pub needs: u64,
    /// It may need others: not told, or too far back.
    pub needs_more: bool,
    /// What it is for each target.
    pub uses: LayerUses,
    /// The targets of the stream: those that its sender produces, or more where `nested`. A sender stops the upper
    /// layers where its bandwidth falls.
    pub targets: LayerSet,
    /// A target has all frames of the targets of lower spatial layers, so that it can be left downwards at any picture.
    pub nested: bool,
    /// The packet carries the structure of a dependency descriptor.
    pub has_structure: bool,
    /// The frame that brought the structure by which it was read.
    pub structure: u64,
    /// Decode targets of the dependency descriptor that the sender produces, one bit each.
    pub active: u32,
    /// The packet says so itself.
    pub tells_active: bool,
}

impl LayerFacts {
    /// The frame can be decoded by somebody who has seen nothing.
    pub const fn is_independent(&self) -> bool {
        self.needs == 0 && !self.needs_more
    }
}

/// How the targets of an encoding are called in its dependency descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DecodeTargets {
    /// How many decode targets the structure has; 0 where there is none.
    pub count: u8,
    /// The frame that brought the structure: what came before it is read with another.
    pub from: u64,
    /// By cell of the grid: the decode targets that somebody on this target gets whole.
    pub whole: [u32; 16],
}

/// What a subscriber may be put on, and what it costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LadderStep {
    /// For [`Layers`] of a whole track.
    pub layers: Layers,
    /// Of everything that passes on this step, headers included.
    pub bitrate: Bitrate,
    /// How often the picture changes on it; zero where the format does not tell.
    pub frame_rate: FrameRate,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(spatial: u8, temporal: u8) -> Layers {
        Layers { spatial, temporal }
    }

    #[test]
    fn the_best_target_within_a_bound() {
        struct Case {
            name: &'static str,
            targets: &'static [(u8, u8)],
            bound: Layers,
            expect: Option<(u8, u8)>,
        }
        let full = &[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];
        let cases = [
            Case { name: "no bound", targets: full, bound: Layers::MAX, expect: Some((1, 2)) },
            Case { name: "temporal", targets: full, bound: at(1, 0), expect: Some((1, 0)) },
            Case { name: "spatial", targets: full, bound: at(0, 9), expect: Some((0, 2)) },
            Case { name: "all above", targets: &[(1, 1)], bound: at(0, 0), expect: Some((1, 1)) },
            Case { name: "none", targets: &[], bound: Layers::MAX, expect: None },
        ];
        for case in cases {
            let set = case.targets.iter().fold(LayerSet::EMPTY, |set, (s, t)| set.with(at(*s, *t)));
            let expect = case.expect.map(|(s, t)| at(s, t));
            assert_eq!(set.best_within(case.bound), expect, "{}", case.name);
            assert_eq!(set.iter().count(), case.targets.len(), "{}", case.name);
        }
    }

    #[test]
    fn uses_are_kept_by_target() {
        let mut uses = LayerUses::default();
        uses.set(at(1, 2), Indication::Switch);
        uses.set(at(3, 3), Indication::Required);
        uses.set(at(1, 2), Indication::Discardable);
        assert_eq!(uses.of(at(1, 2)), Indication::Discardable);
        assert_eq!(uses.of(at(0, 0)), Indication::NotPresent);
        assert!(uses.includes(at(3, 3)) && !uses.includes(at(3, 2)));
        assert_eq!(uses.targets(), LayerSet::EMPTY.with(at(1, 2)).with(at(3, 3)));
    }
}
