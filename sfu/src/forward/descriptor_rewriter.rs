//! The dependency descriptor for a subscriber.

use super::counter::Counter;
use crate::{
    cache::{Layers, PacketMeta, Timing},
    wire::{ActiveTargets, DescriptorPatch},
};

/// Keeps frame numbers continuous where streams change, and tells which decode targets are left where layers are
/// dropped (RTP Payload Format For AV1, appendix A.8.2: `active_decode_targets_bitmask`).
///
/// Within one stream frame numbers keep their distances: frames name what they need by them, and gaps are allowed.
#[derive(Debug)]
pub struct DescriptorRewriter {
    numbers: Counter<16>,
    /// The mask that the subscriber knows, and from which frame on.
    told: Option<(u32, u64)>,
    /// The frame that brought the structure which the subscriber has.
    structure: Option<u64>,
}

impl Default for DescriptorRewriter {
    fn default() -> Self {
        Self { numbers: Counter::new(None::<u16>), told: None, structure: None }
    }
}

impl DescriptorRewriter {
    /// The first packet of a stream: see [`super::Decision::Open`].
    pub fn start(&mut self, meta: &PacketMeta) {
        self.numbers.start(meta.frame_number);
        (self.told, self.structure) = (None, None);
    }

    /// The changes to a packet that passes on `target`, or as part of a stream whose layers are not known; `None` where it has
    /// no descriptor.
    pub fn rewrite(
        &mut self,
        meta: &PacketMeta,
        target: Option<Layers>,
        timing: &Timing<'_>,
    ) -> Option<DescriptorPatch> {
        let frame_number = self.numbers.map(meta.frame_number?);
        let active = target.and_then(|target| self.active(meta, target, timing));
        Some(DescriptorPatch { frame_number, active })
    }

    fn active(
        &mut self,
        meta: &PacketMeta,
        target: Layers,
        timing: &Timing<'_>,
    ) -> Option<ActiveTargets> {
        let facts = meta.frame.layers?;
        if self.told.is_some_and(|(_, from)| facts.frame < from) {
            return None;
        }
        let targets = timing.decode_targets.get(usize::from(meta.encoding))?;
        if facts.has_structure {
            self.structure = self.structure.max(Some(facts.structure));
        }
        // A mask has as many bits as the structure has targets by which it is read.
        let same = self.structure == Some(targets.from) && facts.structure == targets.from;
        if !same || facts.frame < targets.from {
            return None;
        }
        let count = targets.count;
        let mask = *targets.whole.get(target.cell())? & facts.active;
        // Unless it is changed, the packet says what the publisher produces.
        let known = match self.told {
            Some((mask, _)) if !facts.tells_active => mask,
            _ => facts.active,
        };
        if mask != known || facts.tells_active || self.told.is_none() {
            self.told = Some((mask, facts.frame));
        }
        (mask != known).then_some(ActiveTargets { mask, count })
    }
}

#[cfg(test)]
mod tests;
