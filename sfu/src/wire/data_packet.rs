//! The splice of data packets: a `livekit.DataPacket` passes through with its sender fields replaced.
//!
//! Only the top-level protobuf tags are walked, and one level of a user packet for its old list of destinations.
//! Every other byte passes as it is, unknown fields included, so that clients may be newer than Chappe.

use super::cursor::{BufferTooSmall, Reader, Writer};

/// Why bytes are no data packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum DataPacketError {
    /// More than [`DataPacket::MAX_LEN`] bytes.
    #[error("data packet too large")]
    TooLarge,
    /// No protobuf message, or a known field of a wrong type.
    #[error("data packet malformed")]
    Malformed,
    /// More than [`DataPacket::MAX_DESTINATIONS`] destinations.
    #[error("data packet names too many destinations")]
    TooManyDestinations,
}

/// Field numbers of `livekit.DataPacket`.
mod field {
    pub(super) const USER: u32 = 2;
    pub(super) const PARTICIPANT_IDENTITY: u32 = 4;
    pub(super) const DESTINATION_IDENTITIES: u32 = 5;
    pub(super) const SEQUENCE: u32 = 16;
    pub(super) const PARTICIPANT_SID: u32 = 17;
    /// Of `livekit.UserPacket`: where clients put destinations before the packet had a field for them.
    pub(super) const USER_DESTINATION_IDENTITIES: u32 = 6;
}

/// A checked data packet of a sender.
#[derive(Clone, Copy, Debug)]
pub struct DataPacket<'a> {
    bytes: &'a [u8],
    sequence: Option<u32>,
    destinations: usize,
    /// Bytes of the sender fields, which are left out.
    dropped: usize,
}

impl<'a> DataPacket<'a> {
    /// Largest packet, in bytes.
    pub const MAX_LEN: usize = 64_000;

    /// Each destination is compared with each peer of a room: more would cost us more than they cost the sender.
    pub const MAX_DESTINATIONS: usize = 1_024;

    /// Walks a packet as its sender wrote it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DataPacketError> {
        if bytes.len() > Self::MAX_LEN {
            return Err(DataPacketError::TooLarge);
        }
        let mut packet = Self { bytes, sequence: None, destinations: 0, dropped: 0 };
        for entry in Fields::new(bytes) {
            let entry = entry?;
            match (entry.number, entry.value) {
                (field::PARTICIPANT_IDENTITY | field::PARTICIPANT_SID, _) => {
                    packet.dropped += entry.raw.len();
                }
                (field::SEQUENCE, Value::Varint(sequence)) => {
                    // Protobuf readers keep the low bits of what is too long for the type, and the last of several.
                    packet.sequence = Some(sequence as u32);
                }
                (field::DESTINATION_IDENTITIES, Value::Bytes(_)) => packet.destinations += 1,
                (field::USER, Value::Bytes(user)) => {
                    for entry in Fields::new(user) {
                        if entry?.user_destination()?.is_some() {
                            packet.destinations += 1;
                        }
                    }
                }
                (field::SEQUENCE | field::DESTINATION_IDENTITIES | field::USER, _) => {
                    return Err(DataPacketError::Malformed);
                }
                _ => {}
            }
        }
        if packet.destinations > Self::MAX_DESTINATIONS {
            return Err(DataPacketError::TooManyDestinations);
        }
        Ok(packet)
    }

    /// The sender's number of a reliable packet.
    pub const fn sequence(&self) -> Option<u32> {
        self.sequence
    }

    /// Nobody is named: the packet is for everybody.
    pub const fn is_broadcast(&self) -> bool {
        self.destinations == 0
    }

    /// Whether a peer of this address gets the packet.
    pub fn is_for(&self, address: &[u8]) -> bool {
        self.is_broadcast() || self.destinations().any(|destination| destination == address)
    }

    /// Addresses named, as bytes of UTF-8.
    pub fn destinations(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // The fields were checked when the packet was parsed.
        Fields::new(self.bytes).flatten().flat_map(|entry| {
            let (own, user) = match (entry.number, entry.value) {
                (field::DESTINATION_IDENTITIES, Value::Bytes(address)) => (Some(address), &[][..]),
                (field::USER, Value::Bytes(user)) => (None, user),
                _ => (None, &[][..]),
            };
            let old = Fields::new(user).flatten();
            own.into_iter().chain(old.filter_map(|entry| entry.user_destination().ok().flatten()))
        })
    }

    /// Bytes of the spliced packet.
    pub const fn spliced_len(&self, stamp: &[u8]) -> usize {
        self.bytes.len() - self.dropped + stamp.len()
    }

    /// Writes the packet without its sender fields, then `stamp`: encoded fields that say who sent it.
    pub fn splice(&self, stamp: &[u8], buf: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let mut writer = Writer::new(buf);
        for entry in Fields::new(self.bytes).flatten() {
            if !matches!(entry.number, field::PARTICIPANT_IDENTITY | field::PARTICIPANT_SID) {
                writer.put(entry.raw)?;
            }
        }
        writer.put(stamp)?;
        Ok(writer.len())
    }
}

/// One field of a message.
#[derive(Clone, Copy)]
struct Field<'a> {
    number: u32,
    value: Value<'a>,
    /// Tag and value as they stand.
    raw: &'a [u8],
}

impl<'a> Field<'a> {
    fn user_destination(&self) -> Result<Option<&'a [u8]>, DataPacketError> {
        match (self.number, self.value) {
            (field::USER_DESTINATION_IDENTITIES, Value::Bytes(address)) => Ok(Some(address)),
            (field::USER_DESTINATION_IDENTITIES, _) => Err(DataPacketError::Malformed),
            _ => Ok(None),
        }
    }
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Iterates the fields of one message; ends after an error.
struct Fields<'a> {
    reader: Reader<'a>,
}

impl<'a> Fields<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes) }
    }

    /// `None` when malformed.
    fn step(&mut self) -> Option<Field<'a>> {
        let before = self.reader.rest();
        let tag = u32::try_from(read_varint(&mut self.reader)?).ok()?;
        let number = tag >> 3;
        let value = match tag & 7 {
            0 => Value::Varint(read_varint(&mut self.reader)?),
            1 => self.reader.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = usize::try_from(read_varint(&mut self.reader)?).ok()?;
                Value::Bytes(self.reader.take(len)?)
            }
            5 => self.reader.take(4).map(|_| Value::Fixed)?,
            // Groups were never part of this message.
            _ => return None,
        };
        let raw = before.get(..before.len() - self.reader.rest().len())?;
        (number > 0).then_some(Field { number, value, raw })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, DataPacketError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.rest().is_empty() {
            return None;
        }
        let field = self.step();
        if field.is_none() {
            self.reader = Reader::new(&[]);
        }
        Some(field.ok_or(DataPacketError::Malformed))
    }
}

/// At most ten bytes; `None` when longer, cut, or over 64 bits.
fn read_varint(reader: &mut Reader<'_>) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = reader.u8()?;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;
