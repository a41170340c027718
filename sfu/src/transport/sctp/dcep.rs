//! Data Channel Establishment Protocol (RFC 8832): two messages.

/// DATA_CHANNEL_OPEN (section 5.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DcepOpen {
    pub(super) ordered: bool,
    pub(super) reliability: Reliability,
    pub(super) label: String,
    pub(super) protocol: String,
}

/// What happens to a message that is not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reliability {
    Reliable,
    /// Given up after this many retransmissions.
    MaxRetransmits(u32),
    /// Given up after this many milliseconds.
    MaxLifetime(u32),
}

/// A DCEP message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Dcep {
    Open(DcepOpen),
    Ack,
}

impl Dcep {
    /// `None` when malformed or of an unknown type.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        match *message.first()? {
            ACK => Some(Self::Ack),
            OPEN => {
                let (header, rest) = message.split_at_checked(12)?;
                let value = u32::from_be_bytes(header[4..8].try_into().ok()?);
                let reliability = match header[1] & !UNORDERED {
                    0 => Reliability::Reliable,
                    1 => Reliability::MaxRetransmits(value),
                    2 => Reliability::MaxLifetime(value),
                    _ => return None,
                };
                let label_len = usize::from(u16::from_be_bytes([header[8], header[9]]));
                let protocol_len = usize::from(u16::from_be_bytes([header[10], header[11]]));
                let (label, rest) = rest.split_at_checked(label_len)?;
                let protocol = rest.get(..protocol_len)?;
                Some(Self::Open(DcepOpen {
                    ordered: header[1] & UNORDERED == 0,
                    reliability,
                    label: std::str::from_utf8(label).ok()?.to_owned(),
                    protocol: std::str::from_utf8(protocol).ok()?.to_owned(),
                }))
            }
            _ => None,
        }
    }

    /// Lengths over 65,535 are refused before.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let open = match self {
            Self::Ack => return vec![ACK],
            Self::Open(open) => open,
        };
        let (kind, value) = match open.reliability {
            Reliability::Reliable => (0, 0),
            Reliability::MaxRetransmits(value) => (1, value),
            Reliability::MaxLifetime(value) => (2, value),
        };
        let mut out = vec![OPEN, kind | if open.ordered { 0 } else { UNORDERED }];
        out.extend_from_slice(&PRIORITY_NORMAL.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
        out.extend_from_slice(&(open.label.len() as u16).to_be_bytes());
        out.extend_from_slice(&(open.protocol.len() as u16).to_be_bytes());
        out.extend_from_slice(open.label.as_bytes());
        out.extend_from_slice(open.protocol.as_bytes());
        out
    }
}

const OPEN: u8 = 0x03;
const ACK: u8 = 0x02;
const UNORDERED: u8 = 0x80;
/// RFC 8831 section 6.4.
const PRIORITY_NORMAL: u16 = 256;

/// For the fuzzer: what was read is written and read again.
#[cfg(fuzzing)]
pub fn fuzz_dcep(message: &[u8]) {
    if let Some(read) = Dcep::parse(message) {
        assert_eq!(Dcep::parse(&read.to_bytes()), Some(read));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn open_stands_as_in_the_rfc() {
        let open = Dcep::Open(DcepOpen {
            ordered: false,
            reliability: Reliability::MaxRetransmits(0),
            label: "_lossy".to_owned(),
            protocol: String::new(),
        });
        let bytes = open.to_bytes();
        assert_eq!(bytes, b"\x03\x81\x01\x00\0\0\0\0\0\x06\0\0_lossy");
        assert_eq!(Dcep::parse(&bytes), Some(open));
        assert_eq!(Dcep::parse(&[2]), Some(Dcep::Ack));
        assert_eq!(Dcep::parse(&bytes[..bytes.len() - 1]), None, "cut");
        assert_eq!(Dcep::parse(b"\x03\x03\x01\x00\0\0\0\0\0\0\0\0"), None, "unknown type");
        assert_eq!(Dcep::parse(b"\x03\x00\x01\x00\0\0\0\0\0\x01\0\0\xff"), None, "not UTF-8");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(dcep) = Dcep::parse(&bytes) {
                prop_assert_eq!(Dcep::parse(&dcep.to_bytes()), Some(dcep));
            }
        }
    }
}
