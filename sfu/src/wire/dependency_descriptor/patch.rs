//! Changes to a descriptor on its way to one subscriber. All other fields stay as the publisher wrote them.

use super::{Bits, DependencyStructure, DescriptorError};

/// What one subscriber sees in place of the publisher's fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DescriptorPatch {
    /// Counts frames, modulo 2^16.
    pub frame_number: u16,
    /// One bit per decode target that the subscriber gets whole, to be told with this packet; `None` leaves what
    /// the publisher says about it.
    pub active: Option<ActiveTargets>,
}

/// The mask of active decode targets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActiveTargets {
    /// Bit n: decode target n.
    pub mask: u32,
    /// How many the structure has, 1..=32.
    pub count: u8,
}

impl DescriptorPatch {
    /// What the mask adds at most, bytes.
    pub const MAX_GROWTH: usize = 6;

    /// Writes `descriptor` with the changes to `out` and says how long it became. `Malformed` too where it does not
    /// fit.
    pub fn apply(&self, descriptor: &[u8], out: &mut [u8]) -> Result<usize, DescriptorError> {
        let [first, _, _, rest @ ..] = descriptor else { return Err(DescriptorError::Short) };
        let [high, low] = self.frame_number.to_be_bytes();
        let mut writer = BitWriter { bytes: out, at: 0 };
        for byte in [*first, high, low] {
            writer.put(8, byte.into())?;
        }
        let Some(active) = self.active else {
            for byte in rest {
                writer.put(8, (*byte).into())?;
            }
            return Ok(writer.len());
        };
        let mut bits = Bits { bytes: descriptor, at: 24 };
        let flags = if rest.is_empty() { 0 } else { bits.read(5)? };
        writer.put(5, flags | 0x08)?;
        if flags & 0x10 != 0 {
            let from = bits.at;
            DependencyStructure::read(&mut bits)?;
            writer.copy(descriptor, from, bits.at)?;
        }
        writer.put(active.count.into(), active.mask)?;
        if flags & 0x08 != 0 {
            bits.read(active.count.into())?;
        }
        if !rest.is_empty() {
            writer.copy(descriptor, bits.at, descriptor.len() * 8)?;
        }
        Ok(writer.len())
    }
}

/// Writes bits from the most significant on.
struct BitWriter<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl BitWriter<'_> {
    fn len(&self) -> usize {
        self.at.div_ceil(8)
    }

    /// The low `count` bits of `value`, at most 32.
    fn put(&mut self, count: u32, value: u32) -> Result<(), DescriptorError> {
        for bit in (0..count).rev() {
            let byte = self.bytes.get_mut(self.at / 8).ok_or(DescriptorError::Malformed)?;
            let place = 7 - self.at % 8;
            if place == 7 {
                *byte = 0;
            }
            *byte |= ((value >> bit & 1) as u8) << place;
            self.at += 1;
        }
        Ok(())
    }

    fn copy(&mut self, from: &[u8], start: usize, end: usize) -> Result<(), DescriptorError> {
        let mut bits = Bits { bytes: from, at: start };
        while bits.at < end {
            let count = (end - bits.at).min(32) as u32;
            self.put(count, bits.read(count)?)?;
        }
        Ok(())
    }
}
