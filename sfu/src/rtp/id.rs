//! Identifiers that travel in packets.

use std::fmt;

use smol_str::SmolStr;

/// Synchronisation source (RFC 3550 section 3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ssrc(pub u32);

impl fmt::Display for Ssrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// RTP payload type, 0..=127 (RFC 3550 section 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Pt(u8);

impl Pt {
    /// `None` above 127.
    pub const fn new(value: u8) -> Option<Self> {
        if value < 128 { Some(Self(value)) } else { None }
    }

    /// The low seven bits of an RTP header's second byte.
    pub const fn from_header_byte(byte: u8) -> Self {
        Self(byte & 0x7f)
    }

    /// 0..=127.
    pub const fn value(self) -> u8 {
        self.0
    }
}

/// Short text as it stands in a header extension: at most [`ShortText::MAX`] bytes, kept inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct ShortText {
    len: u8,
    bytes: [u8; Self::MAX],
}

impl ShortText {
    /// A one-byte header extension carries at most 16 bytes (RFC 8285 section 4.2).
    const MAX: usize = 16;

    fn new(text: &[u8]) -> Option<Self> {
        // token-char of RFC 8866 is narrower; printable ASCII keeps what clients send and keeps logs clean.
        if text.is_empty() || text.len() > Self::MAX || !text.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let mut bytes = [0; Self::MAX];
        bytes[..text.len()].copy_from_slice(text);
        Some(Self { len: text.len() as u8, bytes })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

macro_rules! short_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(ShortText);

        impl $name {
            /// `None` when empty, longer than 16 bytes or not printable ASCII.
            pub fn new(text: &[u8]) -> Option<Self> {
                ShortText::new(text).map(Self)
            }

            /// As it stands on the wire.
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&String::from_utf8_lossy(self.as_bytes()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

short_text! {
    /// Media identification: which m-line a packet belongs to (RFC 9143).
    Mid
}

short_text! {
    /// RTP stream id: which encoding of a simulcast track (RFC 8852).
    Rid
}

/// A published track, unique on the node. Opaque to the media path. In place up to 23 bytes, as those of rooms and peers.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TrackId(SmolStr);

impl TrackId {
    /// Takes the id as the control plane spelled it.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// As the control plane spelled it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_types_have_seven_bits() {
        assert_eq!(Pt::new(127).map(Pt::value), Some(127));
        assert_eq!(Pt::new(128), None);
        assert_eq!(Pt::from_header_byte(0x80 | 96).value(), 96);
    }

    #[test]
    fn short_text_refuses_what_an_extension_cannot_carry() {
        assert_eq!(Mid::new(b"0").unwrap().as_bytes(), b"0");
        assert_eq!(Rid::new(b"q").unwrap().to_string(), "q");
        assert!(Mid::new(b"").is_none());
        assert!(Mid::new(b"12345678901234567").is_none());
        assert!(Rid::new(b"a b").is_none());
        assert!(Rid::new(&[0xff]).is_none());
    }
}
