//! Layers of an encoding, packet by packet: from the dependency descriptor where there is one (also where the payload is
//! encrypted), else from the payload descriptors of VP8 (RFC 7741) and VP9 (RFC 9628).

use crate::{
    cache::{DecodeTargets, FrameFacts, LayerFacts, LayerSet, LayerUses, Layers},
    rtp::SeqNo,
    wire::{
        DependencyDescriptor, DependencyHeader, DependencyStructure, FrameDiffs, Indication,
        payload::{CodecDescriptor, Vp8Descriptor, Vp9Descriptor},
    },
};

/// What later packets of one stream are read with.
#[derive(Debug, Default)]
pub(super) struct LayerReader {
    structure: Option<Structure>,
    /// Decode targets that the sender produces, as it said last.
    active: u32,
    /// Highest extended frame number (of a picture with VP9) so far.
    highest: Option<u64>,
    /// Highest sequence number so far.
    highest_seq: Option<SeqNo>,
    /// VP8: the latest frame of each temporal layer.
    latest: [Option<u64>; Layers::GRID as usize],
}

/// What a payload says about layers by itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum PayloadLayers {
    #[default]
    None,
    Vp8 {
        picture_id: u16,
        long: bool,
        tid: u8,
        layer_sync: bool,
    },
    Vp9 {
        picture_id: u16,
        long: bool,
        tid: u8,
        sid: u8,
        switching_up: bool,
        inter_picture: bool,
        inter_layer: bool,
        /// Flexible mode: pictures needed, bit n: the one n + 1 before.
        pictures: u16,
    },
}

impl PayloadLayers {
    pub(super) fn new(codec: &CodecDescriptor) -> Self {
        match codec {
            CodecDescriptor::Vp8(vp8) => Self::vp8(vp8).unwrap_or_default(),
            CodecDescriptor::Vp9(vp9) => Self::vp9(vp9).unwrap_or_default(),
            CodecDescriptor::None | CodecDescriptor::Av1(_) => Self::None,
        }
    }

    fn vp8(vp8: &Vp8Descriptor) -> Option<Self> {
        Some(Self::Vp8 {
            picture_id: vp8.picture_id?,
            long: vp8.long_picture_id,
            tid: vp8.tid?,
            layer_sync: vp8.layer_sync,
        })
    }

    fn vp9(vp9: &Vp9Descriptor) -> Option<Self> {
        let (tid, sid) = (vp9.tid?, vp9.sid?);
        if tid >= Layers::GRID || sid >= Layers::GRID {
            return None;
        }
        let diffs = vp9.picture_diffs.as_slice().iter();
        let pictures = diffs.filter(|diff| (1..=VP9_PICTURES).contains(*diff));
        Some(Self::Vp9 {
            picture_id: vp9.picture_id?,
            long: vp9.long_picture_id,
            tid,
            sid,
            switching_up: vp9.switching_up,
            inter_picture: vp9.inter_picture_predicted,
            inter_layer: vp9.inter_layer_predicted,
            pictures: pictures.fold(0, |pictures, diff| pictures | 1 << (diff - 1)),
        })
    }
}

/// Pictures back that dependencies of VP9 are kept for: 64 frames of four spatial layers.
const VP9_PICTURES: u8 = 16;

impl LayerReader {
    /// Another stream took the place of the one so far.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// What the structure says that came last.
    pub(super) fn decode_targets(&self) -> DecodeTargets {
        self.structure.as_ref().map(|structure| structure.decode_targets).unwrap_or_default()
    }

    /// Frames count on from here: another shard numbers them.
    pub(super) fn anchor(&mut self, frame: u64) {
        self.highest = Some(frame);
    }

    /// Completes what the payload said about a packet; `extension` is its dependency descriptor, or empty. Returns the
    /// number that the descriptor gives the frame.
    pub(super) fn read(
        &mut self,
        seq: SeqNo,
        extension: &[u8],
        payload: PayloadLayers,
        frame: &mut FrameFacts,
    ) -> Option<u16> {
        let newest = self.highest_seq.is_none_or(|highest| seq > highest);
        let number = if !extension.is_empty() {
            self.read_descriptor(newest, extension, frame)
        } else {
            // One stream, one way of counting frames.
            if self.structure.is_none() {
                frame.layers = self.read_payload(newest, payload, frame);
            }
            None
        };
        if newest {
            self.highest_seq = Some(seq);
        }
        number
    }

    fn read_descriptor(
        &mut self,
        newest: bool,
        extension: &[u8],
        frame: &mut FrameFacts,
    ) -> Option<u16> {
        let known = self.structure.as_ref().map(|structure| &*structure.parsed);
        let Ok(read) = DependencyDescriptor::parse(extension, known) else {
            // Its structure is lost: the frame cannot be placed among the others, nor its number be left as it is.
            let header = DependencyHeader::parse(extension).ok()?;
            (frame.start, frame.end) = (header.start_of_frame, header.end_of_frame);
            frame.overtook = true;
            return Some(header.frame_number);
        };
        let has_structure = read.structure.is_some();
        let own = read.structure.map(Structure::new);
        // A late packet is read with the structure that it brings; newer ones are not.
        let structure = own.as_ref().or(self.structure.as_ref())?;
        let header = read.header;
        let FrameDiffs { near, far } = read.frame_diffs;
        let independent = near == 0 && !far;
        let active = read.active_decode_targets.unwrap_or(self.active);
        (frame.start, frame.end) = (header.start_of_frame, header.end_of_frame);
        frame.keyframe = header.start_of_frame && has_structure && independent && read.spatial == 0;
        (frame.spatial, frame.temporal) = (read.spatial, read.temporal);
        frame.layers = structure.fits.then(|| {
            let mut uses = LayerUses::default();
            for (target, layers) in structure.targets() {
                uses.set(layers, read.indications.of(target));
            }
            LayerFacts {
                frame: 0,
                needs: near,
                needs_more: far,
                uses,
                // What a nested target lacks is not missed, and may come back any time. Elsewhere it is all there is.
                targets: if structure.nested { structure.set } else { structure.active(active) },
                nested: structure.nested,
                has_structure,
                structure: structure.decode_targets.from,
                active,
                tells_active: read.active_decode_targets.is_some(),
            }
        });
        // A key picture may repeat the structure in its upper layers, for those who get them: it is that of its lowest.
        let known = self.structure.as_ref().zip(own.as_ref());
        let repeated = known.filter(|(known, own)| read.spatial > 0 && known.parsed == own.parsed);
        let from = repeated.map(|(known, _)| known.decode_targets.from);
        // One that comes late is not for what came before it, but where there was none.
        let adopted = own.filter(|_| newest || self.structure.is_none());
        if newest || adopted.is_some() {
            self.active = active;
        }
        let number = self.extend(header.frame_number, 16, newest && frame.keyframe);
        let from = from.unwrap_or(number);
        if let Some(layers) = &mut frame.layers {
            layers.frame = number;
            if has_structure {
                layers.structure = from;
            }
        }
        if let Some(mut own) = adopted {
            own.decode_targets.from = from;
            self.structure = Some(own);
        }
        Some(header.frame_number)
    }

    fn read_payload(
        &mut self,
        newest: bool,
        payload: PayloadLayers,
        frame: &FrameFacts,
    ) -> Option<LayerFacts> {
        let key = frame.keyframe;
        match payload {
            PayloadLayers::None => None,
            PayloadLayers::Vp8 { picture_id, long, tid, layer_sync } => {
                let number = self.extend(picture_id, if long { 15 } else { 7 }, newest && key);
                Some(self.vp8_facts(number, tid, layer_sync, key))
            }
            PayloadLayers::Vp9 {
                picture_id,
                long,
                tid,
                sid,
                switching_up,
                inter_picture,
                inter_layer,
                pictures,
            } => {
                let picture = self.extend(picture_id, if long { 15 } else { 7 }, newest && key);
                let mut uses = LayerUses::default();
                for target in LayerSet::ALL.iter() {
                    if sid > target.spatial || tid > target.temporal {
                        continue;
                    }
                    let up = switching_up && target.temporal > tid && target.spatial == sid;
                    let switch = !inter_picture || up;
                    uses.set(
                        target,
                        if switch { Indication::Switch } else { Indication::Required },
                    );
                }
                // The same spatial layer of older pictures, and the one below of this picture.
                let grid = u64::from(Layers::GRID);
                let older = (0..u64::from(VP9_PICTURES))
                    .filter(|back| pictures & 1 << back != 0)
                    .fold(0, |needs, back| needs | 1 << (grid * (back + 1) - 1));
                Some(LayerFacts {
                    frame: picture * grid + u64::from(sid),
                    needs: older | u64::from(inter_layer),
                    needs_more: inter_picture,
                    uses,
                    targets: LayerSet::ALL,
                    nested: true,
                    has_structure: false,
                    structure: 0,
                    active: 0,
                    tells_active: false,
                })
            }
        }
    }

    /// VP8 names no references. A sync frame needs nothing but the base layer, yet later frames of its layer may need
    /// older ones of the layers between: it is a place to join for those who have them.
    fn vp8_facts(&mut self, number: u64, tid: u8, layer_sync: bool, key: bool) -> LayerFacts {
        let sync = layer_sync && tid > 0;
        let mut uses = LayerUses::default();
        for temporal in tid..Layers::GRID {
            let switch = key || (sync && temporal == tid);
            let indication = if switch { Indication::Switch } else { Indication::Required };
            uses.set(Layers { spatial: 0, temporal }, indication);
        }
        let mut needs = Some(0).filter(|_| key || sync);
        if sync && !key {
            for below in self.latest.iter().take(tid.into()) {
                let back = below.and_then(|below| number.checked_sub(below + 1));
                needs = needs.zip(back.filter(|back| *back < 64)).map(|(bits, n)| bits | 1 << n);
            }
        }
        if let Some(latest) = self.latest.get_mut(usize::from(tid))
            && latest.is_none_or(|latest| number > latest)
        {
            *latest = Some(number);
        }
        LayerFacts {
            frame: number,
            needs: needs.unwrap_or(0),
            needs_more: needs.is_none(),
            uses,
            targets: (0..Layers::GRID)
                .fold(LayerSet::EMPTY, |set, temporal| set.with(Layers { spatial: 0, temporal })),
            nested: true,
            has_structure: false,
            structure: 0,
            active: 0,
            tells_active: false,
        }
    }

    /// Nearest to the highest so far; `onward`: it cannot lie before it, whatever the sender did to its numbers.
    fn extend(&mut self, raw: u16, bits: u32, onward: bool) -> u64 {
        // With headroom for what comes late.
        let highest = *self.highest.get_or_insert(1 << 20 | u64::from(raw));
        let shift = 16 - bits;
        let mut delta = i64::from((raw.wrapping_sub(highest as u16) << shift) as i16 >> shift);
        if onward && delta < 0 {
            delta += 1 << bits;
        }
        let number = highest.saturating_add_signed(delta);
        self.highest = Some(highest.max(number));
        number
    }
}

/// A structure and its decode targets on the grid.
#[derive(Debug)]
struct Structure {
    /// Boxed: it is large, and most encodings have none.
    parsed: Box<DependencyStructure>,
    /// By decode target.
    layers: [Layers; 32],
    set: LayerSet,
    nested: bool,
    /// The grid has room for its layers.
    fits: bool,
    decode_targets: DecodeTargets,
}

impl Structure {
    fn new(parsed: DependencyStructure) -> Self {
        let count = parsed.decode_targets().min(32);
        let mut layers = [Layers { spatial: 0, temporal: 0 }; 32];
        let mut decode_targets = DecodeTargets { count, from: 0, whole: [0; 16] };
        let (mut set, mut fits) = (LayerSet::EMPTY, true);
        for (target, place) in (0..count).zip(&mut layers) {
            let (spatial, temporal) = parsed.layers_of(target);
            *place = Layers { spatial, temporal };
            // Two decode targets of the same layers cannot be told apart by whoever asks for layers.
            fits &= spatial < Layers::GRID && temporal < Layers::GRID && !set.contains(*place);
            set = set.with(*place);
            if let Some(whole) = decode_targets.whole.get_mut(place.cell()) {
                *whole = parsed.part_of(target);
            }
        }
        let nested = layers.iter().take(count.into()).enumerate().all(|(target, lower)| {
            let above = layers.iter().take(count.into()).filter(|upper| lower.within(**upper));
            above
                .map(|upper| decode_targets.whole[upper.cell()])
                .all(|whole| whole & 1 << target != 0)
        });
        Self { parsed: Box::new(parsed), layers, set, nested, fits, decode_targets }
    }

    /// Those of `mask`; all where it leaves none.
    fn active(&self, mask: u32) -> LayerSet {
        let active = self.targets().filter(|(target, _)| mask & 1 << target != 0);
        let set = active.fold(LayerSet::EMPTY, |set, (_, layers)| set.with(layers));
        if set.is_empty() { self.set } else { set }
    }

    fn targets(&self) -> impl Iterator<Item = (u8, Layers)> {
        (0..self.decode_targets.count).zip(self.layers)
    }
}

#[cfg(test)]
mod tests;
