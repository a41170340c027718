//! Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb-03).

use super::{BufferTooSmall, CompoundWriter, Reader};
use crate::rtp::{Bitrate, Ssrc};

/// A receiver's own estimate: the fallback where transport-wide feedback is missing.
#[derive(Clone, Copy, Debug)]
pub struct Remb<'a> {
    /// Who estimates.
    pub sender: Ssrc,
    /// Its estimate for all streams named, together.
    pub bitrate: Bitrate,
    ssrcs: &'a [[u8; 4]],
}

impl<'a> Remb<'a> {
    const NAME: &'static [u8; 4] = b"REMB";

    /// Application layer feedback is REMB by its name only.
    pub(super) fn is(body: &[u8]) -> bool {
        body.get(8..12).is_some_and(|name| name == Self::NAME)
    }

    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let sender = Ssrc(reader.u32()?);
        reader.take(8)?;
        let count = reader.u8()?;
        let bits = reader.u24()?;
        let mantissa = u64::from(bits & 0x3_ffff);
        // Exponents up to 63 overflow: such an estimate is no limit.
        let bitrate = u128::from(mantissa) << (bits >> 18);
        let bitrate = Bitrate::from_bps(u64::try_from(bitrate).unwrap_or(u64::MAX));
        let (ssrcs, _) = reader.take(usize::from(count) * 4)?.as_chunks();
        Some(Self { sender, bitrate, ssrcs })
    }

    /// The streams that share the estimate.
    pub fn ssrcs(&self) -> impl ExactSizeIterator<Item = Ssrc> + use<'a> {
        self.ssrcs.iter().map(|ssrc| Ssrc(u32::from_be_bytes(*ssrc)))
    }
}

impl CompoundWriter<'_> {
    /// Writes an estimate for at most 255 streams. It loses what is below 18 significant bits.
    pub fn remb(
        &mut self,
        sender: Ssrc,
        bitrate: Bitrate,
        ssrcs: &[Ssrc],
    ) -> Result<(), BufferTooSmall> {
        let ssrcs = ssrcs.get(..255).unwrap_or(ssrcs);
        let exponent = 46u32.saturating_sub(bitrate.bps().leading_zeros());
        let mantissa = (bitrate.bps() >> exponent) as u32;
        self.message(206, 15, |writer| {
            writer.u32(sender.0)?;
            writer.u32(0)?;
            writer.put(Remb::NAME)?;
            writer.u8(ssrcs.len() as u8)?;
            writer.u24(exponent << 18 | mantissa)?;
            ssrcs.iter().try_for_each(|ssrc| writer.u32(ssrc.0))
        })
    }
}
