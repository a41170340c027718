//! How a track's payload formats leave for one subscriber.

use crate::{
    cache::{FormatId, Formats},
    rtp::{Codec, CodecKind, CodecMap, Pt},
};

/// By [`FormatId`]: looked up for each packet, made anew when either side's codecs change. In this order: the first formats are those
/// that are used.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub(super) struct FormatTable {
    keeps_records: bool,
    mappings: [Option<Mapping>; Formats::MAX],
    /// Of any format.
    rtx: Option<Pt>,
}

/// How one format leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    pub(super) pt: Pt,
    pub(super) rtx: Option<Pt>,
    pub(super) payload: PayloadMapping,
    /// How it leaves with redundancy that is added: plain sound, to a subscriber with RED.
    pub(super) red: Option<RedMapping>,
}

/// Payload types of redundant audio and of the blocks in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RedMapping {
    pub(super) pt: Pt,
    pub(super) block: Pt,
}

/// What becomes of the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PayloadMapping {
    Verbatim,
    /// RED blocks get the payload type that this subscriber has for them.
    RedBlocks(Pt),
    /// Only the primary block leaves: the subscriber has no RED.
    RedPrimary,
    /// Older blocks are put before it.
    AddRed(RedMapping),
}

impl FormatTable {
    pub(super) fn new(formats: &Formats, codecs: &CodecMap) -> Self {
        let mut table = Self::default();
        for (id, format) in formats.iter() {
            let Some((codec, payload)) = find(format, codecs) else { continue };
            table.keeps_records |= codec.nack && codec.rtx.is_some();
            table.rtx = table.rtx.or(codec.rtx);
            if let Some(mapping) = table.mappings.get_mut(usize::from(id.0)) {
                let red = red_for(format, codecs);
                *mapping = Some(Mapping { pt: codec.pt, rtx: codec.rtx, payload, red });
            }
        }
        table
    }

    #[inline(always)]
    pub(super) fn get(&self, id: FormatId) -> Option<Mapping> {
        *self.mappings.get(usize::from(id.0))?
    }

    /// A payload type for packets on the retransmissions' SSRC that hold nothing.
    pub(super) const fn padding(&self) -> Option<Pt> {
        self.rtx
    }

    /// Whether anything may be asked for again.
    pub(super) const fn keeps_records(&self) -> bool {
        self.keeps_records
    }
}

fn red_for(format: &Codec, codecs: &CodecMap) -> Option<RedMapping> {
    if !matches!(format.kind, CodecKind::Opus | CodecKind::Red) {
        return None;
    }
    let same =
        |codec: &&Codec| (codec.clock_rate, codec.channels) == (format.clock_rate, format.channels);
    let opus = codecs.iter().filter(same).find(|codec| codec.kind == CodecKind::Opus)?;
    let red = codecs
        .iter()
        .filter(same)
        .find(|codec| codec.kind == CodecKind::Red && codec.red_block == Some(opus.pt))?;
    Some(RedMapping { pt: red.pt, block: opus.pt })
}

fn find<'a>(format: &Codec, codecs: &'a CodecMap) -> Option<(&'a Codec, PayloadMapping)> {
    if let Some(codec) = codecs.matching(format) {
        return match codec.red_block.filter(|_| codec.kind == CodecKind::Red) {
            Some(pt) if format.red_block != Some(pt) => {
                Some((codec, PayloadMapping::RedBlocks(pt)))
            }
            _ => Some((codec, PayloadMapping::Verbatim)),
        };
    }
    if format.kind != CodecKind::Red {
        return None;
    }
    // All browsers wrap Opus; the clock and channels of RED are those of its blocks.
    let opus = codecs.iter().find(|codec| {
        codec.kind == CodecKind::Opus
            && codec.clock_rate == format.clock_rate
            && codec.channels == format.channels
    })?;
    Some((opus, PayloadMapping::RedPrimary))
}
