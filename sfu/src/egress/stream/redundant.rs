//! Audio with redundancy of our own.

use super::{EgressStream, Leaving, Mapping, PayloadMapping, WriteError, Written, redundancy};
use crate::cache::{CachedPacket, Rewritten};

impl EgressStream {
    /// Writes one of the packets of [`Self::begin`], of audio, with what `older` ones said, the latest first, as redundancy (RFC 2198).
    /// As [`Self::put`] where the subscriber has no RED, the packet has redundancy of its own, or nothing older fits.
    #[cold]
    pub(crate) fn put_redundant<'a>(
        &mut self,
        mut leaving: Leaving,
        packet: CachedPacket<'_>,
        older: impl IntoIterator<Item = CachedPacket<'a>>,
        rewritten: &Rewritten,
        out: &mut [u8],
    ) -> Result<Written, WriteError> {
        let mapping = leaving.mapping;
        let mut blocks = [(0, &[][..]); redundancy::MAX_BLOCKS];
        let mut count = 0;
        // What opens a stream follows nothing.
        if let Some(red) = mapping.red.filter(|_| !rewritten.opens)
            && let Some(primary) = redundancy::plain(packet)
        {
            let mut room = MAX_RED.saturating_sub(primary.len());
            let same_block = |older: &CachedPacket<'_>| {
                let known = self.formats.get(older.meta.format).and_then(|mapping| mapping.red);
                known.is_some_and(|known| known.block == red.block)
            };
            let older = older.into_iter().filter(same_block);
            for block in older.filter_map(|older| redundancy::block(packet.meta, older)) {
                let (Some(left), Some(place)) =
                    (room.checked_sub(block.1.len()), blocks.get_mut(count))
                else {
                    break;
                };
                room = left;
                *place = block;
                count += 1;
            }
            if count > 0 {
                let payload = PayloadMapping::AddRed(red);
                leaving.mapping = Mapping { pt: red.pt, payload, ..mapping };
            }
        }
        let blocks = blocks.get_mut(..count).unwrap_or_default();
        blocks.reverse();
        self.marks.carried = blocks.len() as u8;
        self.put(leaving, packet, rewritten, blocks, out)
    }
}

/// Sound in a packet with redundancy at most, bytes: with everything around it, it fits any path.
const MAX_RED: usize = 1_100;
