//! Continuous fields of payload descriptors for a subscriber.

use super::{counter::Counter, renumber::Renumber};
use crate::cache::{CodecFields, CodecPatch, Vp8Fields, Vp9Fields};

/// Keeps picture ids and the like continuous where one subscriber gets several encodings in turn: VP8 (RFC 7741) and
/// VP9 (RFC 9628). Other formats pass as they are.
///
/// VP8 picture ids of frames that were skipped are closed up, since receivers wait for missing ones. Those of VP9 are
/// not: its frames name their references by distance.
#[derive(Debug, Default)]
pub struct CodecRewriter {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Verbatim,
    // Boxed: an audio subscription has none. Made once per subscription, never per packet.
    Vp8(Box<Vp8>),
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
            (state, CodecFields::Vp8(fields)) => *state = State::Vp8(Box::new(Vp8::new(fields))),
            (state, CodecFields::Vp9(fields)) => *state = State::Vp9(Vp9::new(fields)),
            (state, CodecFields::None) => *state = State::Verbatim,
        }
    }

    /// The changes to a packet that passes; `None` when its frame is too old for a number.
    pub fn rewrite(&mut self, fields: CodecFields) -> Option<CodecPatch> {
        match (&mut self.state, fields) {
            (State::Vp8(vp8), CodecFields::Vp8(fields)) => vp8.rewrite(fields),
            (State::Vp9(vp9), CodecFields::Vp9(fields)) => Some(vp9.rewrite(fields)),
            _ => Some(CodecPatch::NONE),
        }
    }

    /// A packet whose frame was left out by choice.
    pub fn skip(&mut self, fields: CodecFields) {
        if let (State::Vp8(vp8), CodecFields::Vp8(fields)) = (&mut self.state, fields) {
            vp8.skip(fields);
        }
    }
}

#[derive(Debug)]
struct Vp8 {
    pictures: Renumber,
    /// Highest extended picture id of the stream so far.
    highest: u64,
    tl0: Counter<8>,
    key: Counter<5>,
}

impl Vp8 {
    /// The first stream keeps its own numbers.
    fn new(fields: Vp8Fields) -> Self {
        let first = Self::first(fields);
        let mut pictures = Renumber::new(first);
        pictures.start(first);
        Self {
            pictures,
            highest: first,
            tl0: Counter::new(fields.tl0_pic_idx),
            key: Counter::new(Self::key_idx(fields)),
        }
    }

    fn start(&mut self, fields: Vp8Fields) {
        self.highest = Self::first(fields);
        self.pictures.start(self.highest);
        self.tl0.start(fields.tl0_pic_idx);
        self.key.start(Self::key_idx(fields));
    }

    /// With headroom, so that picture ids before the first have numbers too.
    fn first(fields: Vp8Fields) -> u64 {
        1 << 16 | u64::from(fields.picture_id.unwrap_or(0))
    }

    fn key_idx(fields: Vp8Fields) -> Option<u8> {
        fields.tid_key_idx.and_then(|(byte, has_key_idx)| has_key_idx.then_some(byte & 0x1f))
    }

    fn rewrite(&mut self, fields: Vp8Fields) -> Option<CodecPatch> {
        let mut patch = CodecPatch::new(2);
        if let Some(id) = fields.picture_id {
            let extended = self.extend(id, fields.long_picture_id);
            push_picture_id(&mut patch, self.pictures.map(extended)?, fields.long_picture_id);
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
            let extended = self.extend(id, fields.long_picture_id);
            self.pictures.skip(extended);
        }
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
struct Vp9 {
    /// 15 bits, modulo their width on the wire.
    picture: Counter<15>,
    tl0: Counter<8>,
}

impl Vp9 {
    fn new(fields: Vp9Fields) -> Self {
        let tl0 = fields.layers_tl0.map(|(_, tl0)| tl0);
        Self { picture: Counter::new(fields.picture_id), tl0: Counter::new(tl0) }
    }

    fn start(&mut self, fields: Vp9Fields) {
        self.picture.start(fields.picture_id);
        self.tl0.start(fields.layers_tl0.map(|(_, tl0)| tl0));
    }

    fn rewrite(&mut self, fields: Vp9Fields) -> CodecPatch {
        let mut patch = CodecPatch::new(1);
        // Without a picture id the layer indices stand elsewhere; browsers always send one.
        let Some(id) = fields.picture_id else { return CodecPatch::NONE };
        push_picture_id(&mut patch, self.picture.map(id).into(), fields.long_picture_id);
        if let Some((layers, tl0)) = fields.layers_tl0 {
            patch.push(layers);
            patch.push(self.tl0.map(tl0));
        }
        patch
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
