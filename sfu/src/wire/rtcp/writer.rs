//! Builds a compound packet in the caller's buffer.

use super::{BufferTooSmall, Writer};

/// Appends messages to a buffer. A message that does not fit leaves the buffer as it was before, so that the caller
/// can send what it has and start again.
#[derive(Debug)]
pub struct CompoundWriter<'b> {
    buf: &'b mut [u8],
    len: usize,
}

impl<'b> CompoundWriter<'b> {
    /// Starts with an empty compound packet.
    pub const fn new(buf: &'b mut [u8]) -> Self {
        Self { buf, len: 0 }
    }

    /// Bytes written so far.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that are still free.
    pub const fn remaining(&self) -> usize {
        self.buf.len() - self.len
    }

    /// Writes one message: the header, then what `body` writes, padded to 32 bits with zero bytes that the message
    /// format itself knows as such.
    pub(super) fn message(
        &mut self,
        packet_type: u8,
        count: u8,
        body: impl FnOnce(&mut Writer<'_>) -> Result<(), BufferTooSmall>,
    ) -> Result<(), BufferTooSmall> {
        debug_assert!(count < 32, "five bits");
        let mut writer = Writer::new(self.buf.get_mut(self.len..).ok_or(BufferTooSmall)?);
        writer.put(&[0x80 | count, packet_type, 0, 0])?;
        body(&mut writer)?;
        writer.pad4()?;
        let words = u16::try_from(writer.len() / 4 - 1).map_err(|_| BufferTooSmall)?;
        writer.set_u16(2, words);
        self.len += writer.len();
        Ok(())
    }
}
