//! Continuous fields of payload descriptors for a subscriber.

use super::{counter::Counter, renumber::Renumber};
use crate::cache::{CodecFields, CodecPatch, Vp8Fields, Vp9Fields, Vp9Flexible};

/// Keeps picture ids and the like continuous where one subscriber gets several encodings in turn: VP8 (RFC 7741) and
/// VP9 (RFC 9628). Other formats pass as they are.
///
/// Picture ids of pictures that were left out by choice are closed up, since receivers wait for missing ones. With VP9 that
/// holds for flexible mode, whose frames name their references by distance: the distances shrink along. In non-flexible
/// mode the gaps stay: there the distance of two picture ids says which place of the picture group a picture has, and so
/// what it refers to (RFC 9628 section 4.2.1; libwebrtc takes it modulo the group's length).
#[derive(Debug, Default)]
pub struct CodecRewriter {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Verbatim,
    // In place, though audio has none: what is elsewhere is on another page, which is in no cache when its turn comes.
    Vp8(Vp8),
    Vp9(Vp9),
}

impl CodecRewriter {
    /// Nothing to rewrite until a stream starts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first packet of a stream: see [`super::Decision::Open`].
    pub fn start(&mut self, fields: CodecFields) {
        match (&mut self.state, fields) {
            (State::Vp8(vp8), CodecFields::Vp8(fields)) => vp8.start(fields),
            (State::Vp9(vp9), CodecFields::Vp9(fields)) => vp9.start(fields),
            (state, CodecFields::Vp8(fields)) => *state = State::Vp8(Vp8::new(fields)),
            (state, CodecFields::Vp9(fields)) => *state = State::Vp9(Vp9::new(fields)),
            (state, CodecFields::None) => *state = State::Verbatim,
        }
    }

    /// The changes to a packet that passes; `None` when its frame is too old for a number.
    #[inline(always)]
    pub fn rewrite(&mut self, fields: CodecFields) -> Option<CodecPatch> {
        match (&mut self.state, fields) {
            (State::Vp8(vp8), CodecFields::Vp8(fields)) => vp8.rewrite(fields),
            (State::Vp9(vp9), CodecFields::Vp9(fields)) => vp9.rewrite(fields),
            _ => Some(CodecPatch::NONE),
        }
    }

    /// A packet whose frame was left out by choice; `above`: because its temporal layer is above what is wanted, which holds
    /// for all spatial layers of its picture, whenever their packets come.
    pub fn skip(&mut self, fields: CodecFields, above: bool) {
        match (&mut self.state, fields) {
            (State::Vp8(vp8), CodecFields::Vp8(fields)) => vp8.skip(fields),
            (State::Vp9(vp9), CodecFields::Vp9(fields)) if above => vp9.skip(fields),
            _ => {}
        }
    }
}

/// Picture ids, which VP8 and VP9 have in common: 7 or 15 bits.
#[derive(Debug)]
#[repr(C)]
struct Pictures {
    /// Highest extended picture id of the stream so far.
    highest: u64,
    numbers: Renumber,
}

impl Pictures {
    /// The first stream keeps its own numbers.
    fn new(id: Option<u16>) -> Self {
        let first = Self::first(id);
        let mut numbers = Renumber::new(first);
        numbers.start(first);
        Self { numbers, highest: first }
    }

    fn start(&mut self, id: Option<u16>) {
        self.highest = Self::first(id);
        self.numbers.start(self.highest);
    }

    /// With headroom, so that picture ids before the first have numbers too.
    fn first(id: Option<u16>) -> u64 {
        1 << 16 | u64::from(id.unwrap_or(0))
    }

    /// Nearest to the highest so far.
    fn extend(&mut self, id: u16, long: bool) -> u64 {
        let shift = if long { 1 } else { 9 };
        let delta = (id.wrapping_sub(self.highest as u16) << shift) as i16 >> shift;
        let extended = self.highest.saturating_add_signed(delta.into());
        self.highest = self.highest.max(extended);
        extended
    }
}

#[derive(Debug)]
#[repr(C)]
struct Vp8 {
    /// Of the packet before: a frame's packets have the same fields.
    latest: Option<(Vp8Fields, CodecPatch)>,
    tl0: Counter<8>,
    key: Counter<5>,
    pictures: Pictures,
}

impl Vp8 {
    fn new(fields: Vp8Fields) -> Self {
        Self {
            pictures: Pictures::new(fields.picture_id),
            tl0: Counter::new(fields.tl0_pic_idx),
            key: Counter::new(Self::key_idx(fields)),
            latest: None,
        }
    }

    fn start(&mut self, fields: Vp8Fields) {
        self.latest = None;
        self.pictures.start(fields.picture_id);
        self.tl0.start(fields.tl0_pic_idx);
        self.key.start(Self::key_idx(fields));
    }

    fn key_idx(fields: Vp8Fields) -> Option<u8> {
        fields.tid_key_idx.and_then(|(byte, has_key_idx)| has_key_idx.then_some(byte & 0x1f))
    }

    #[inline(always)]
    fn rewrite(&mut self, fields: Vp8Fields) -> Option<CodecPatch> {
        if let Some((of, patch)) = self.latest
            && of == fields
        {
            return Some(patch);
        }
        let patch = self.rewrite_frame(fields)?;
        self.latest = Some((fields, patch));
        Some(patch)
    }

    fn rewrite_frame(&mut self, fields: Vp8Fields) -> Option<CodecPatch> {
        let mut patch = CodecPatch::new(2);
        if let Some(id) = fields.picture_id {
            let extended = self.pictures.extend(id, fields.long_picture_id);
            let out = self.pictures.numbers.map(extended)?;
            push_picture_id(&mut patch, out, fields.long_picture_id);
        }
        if let Some(tl0) = fields.tl0_pic_idx {
            patch.push(self.tl0.map(tl0));
        }
        if let Some((byte, has_key_idx)) = fields.tid_key_idx {
            let low = if has_key_idx { self.key.map(byte & 0x1f) } else { byte & 0x1f };
            patch.push(byte & 0xe0 | low);
        }
        Some(patch)
    }

    fn skip(&mut self, fields: Vp8Fields) {
        if let Some(id) = fields.picture_id {
            let extended = self.pictures.extend(id, fields.long_picture_id);
            self.pictures.numbers.skip(extended);
        }
    }
}

#[derive(Debug)]
#[repr(C)]
struct Vp9 {
    tl0: Counter<8>,
    /// Of this picture something was left out and nothing passed yet. Its other spatial layers may still pass: whether it is
    /// left out as a whole is known with the next picture.
    pending: Option<u64>,
    /// Highest picture of which something passed.
    passed: u64,
    pictures: Pictures,
}

impl Vp9 {
    fn new(fields: Vp9Fields) -> Self {
        let tl0 = fields.layers_tl0.map(|(_, tl0)| tl0);
        let pictures = Pictures::new(fields.picture_id);
        Self { pictures, tl0: Counter::new(tl0), pending: None, passed: 0 }
    }

    fn start(&mut self, fields: Vp9Fields) {
        self.pictures.start(fields.picture_id);
        self.tl0.start(fields.layers_tl0.map(|(_, tl0)| tl0));
        (self.pending, self.passed) = (None, 0);
    }

    fn rewrite(&mut self, fields: Vp9Fields) -> Option<CodecPatch> {
        // Without a picture id the layer indices stand elsewhere; browsers always send one.
        let Some(id) = fields.picture_id else { return Some(CodecPatch::NONE) };
        let picture = self.pictures.extend(id, fields.long_picture_id);
        if let Some(pending) = self.pending.filter(|pending| *pending <= picture) {
            self.pending = None;
            if pending < picture {
                self.pictures.numbers.skip(pending);
            }
        }
        let out = self.pictures.numbers.map(picture)?;
        self.passed = self.passed.max(picture);
        let mut patch = CodecPatch::new(1);
        push_picture_id(&mut patch, out, fields.long_picture_id);
        if let Some((layers, tl0)) = fields.layers_tl0 {
            patch.push(layers);
            patch.push(self.tl0.map(tl0));
        }
        if let Some(Vp9Flexible { layers, diffs }) = fields.flexible {
            layers.into_iter().for_each(|layers| patch.push(layers));
            self.push_diffs(&mut patch, picture, out, diffs);
        }
        Some(patch)
    }

    /// The distances to what a picture refers to, without the pictures that were left out in between. What is older than
    /// the memory, or was left out, was never shown: it keeps its distance.
    fn push_diffs(&self, patch: &mut CodecPatch, picture: u64, out: u64, diffs: [u8; 3]) {
        let count = diffs.iter().take_while(|diff| **diff != 0).count();
        for (index, diff) in diffs.into_iter().take(count).enumerate() {
            let reference = picture.checked_sub(diff.into());
            let reference = reference.and_then(|picture| self.pictures.numbers.of(picture));
            let closed_up = reference.and_then(|reference| out.checked_sub(reference));
            let diff = closed_up.and_then(|diff| u8::try_from(diff).ok()).unwrap_or(diff);
            patch.push(diff << 1 | u8::from(index + 1 < count));
        }
    }

    fn skip(&mut self, fields: Vp9Fields) {
        let Some(id) = fields.picture_id.filter(|_| fields.flexible.is_some()) else { return };
        let picture = self.pictures.extend(id, fields.long_picture_id);
        if picture <= self.passed {
            return;
        }
        match self.pending {
            Some(pending) if picture < pending => {
                self.pictures.numbers.skip(picture);
            }
            Some(pending) if pending < picture => {
                self.pictures.numbers.skip(pending);
                self.pending = Some(picture);
            }
            _ => self.pending = Some(picture),
        }
    }
}

fn push_picture_id(patch: &mut CodecPatch, id: u64, long: bool) {
    if long {
        patch.push(0x80 | (id >> 8) as u8);
        patch.push(id as u8);
    } else {
        patch.push(id as u8 & 0x7f);
    }
}

#[cfg(test)]
mod tests;
