//! Messages that are kept for long and looked at rarely.

use std::{fmt, marker::PhantomData};

use prost::Message;

/// A message as it stands on the wire. Taken apart, the state of a peer that takes one track is dozens of small allocations, 2 KiB;
/// so it is 400 bytes in one.
pub(super) struct Packed<M> {
    bytes: Box<[u8]>,
    message: PhantomData<M>,
}

impl<M: Message + Default> Packed<M> {
    pub(super) fn new(message: &M) -> Self {
        Self { bytes: message.encode_to_vec().into(), message: PhantomData }
    }

    pub(super) fn unpack(&self) -> M {
        // What was written here can be read.
        M::decode(&*self.bytes).unwrap_or_default()
    }
}

impl<M> Default for Packed<M> {
    fn default() -> Self {
        Self { bytes: Box::default(), message: PhantomData }
    }
}

impl<M> fmt::Debug for Packed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("bytes", &self.bytes.len()).finish()
    }
}
