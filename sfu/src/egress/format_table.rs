//! How a track's payload formats leave for one subscriber.

use crate::{
    cache::{FormatId, Formats},
    rtp::{Codec, CodecKind, CodecMap, Pt},
};

/// By [`FormatId`]: looked up for each packet, made anew when either side's codecs change.
#[derive(Clone, Debug, Default)]
pub(super) struct FormatTable {
    mappings: [Option<Mapping>; Formats::MAX],
    keeps_records: bool,
    /// Of any format.
    rtx: Option<Pt>,
}

/// How one format leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    pub(super) pt: Pt,
    pub(super) rtx: Option<Pt>,
    pub(super) payload: PayloadMapping,
}

/// What becomes of the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PayloadMapping {
    Verbatim,
    /// RED blocks get the payload type that this subscriber has for them.
    RedBlocks(Pt),
    /// Only the primary block leaves: the subscriber has no RED.
    RedPrimary,
}

impl FormatTable {
    pub(super) fn new(formats: &Formats, codecs: &CodecMap) -> Self {
        let mut table = Self::default();
        for (id, format) in formats.iter() {
            let Some((codec, payload)) = find(format, codecs) else { continue };
            table.keeps_records |= codec.nack && codec.rtx.is_some();
            table.rtx = table.rtx.or(codec.rtx);
            if let Some(mapping) = table.mappings.get_mut(usize::from(id.0)) {
                *mapping = Some(Mapping { pt: codec.pt, rtx: codec.rtx, payload });
            }
        }
        table
    }

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
