//! What a datagram is, by its first bytes (RFC 7983, RFC 5761 section 4).

/// Class of a datagram that arrived on a media port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DatagramClass {
    /// STUN: connectivity checks.
    Stun,
    /// DTLS records: handshake and data channels.
    Dtls,
    /// RTP, protected as SRTP.
    Rtp,
    /// RTCP, protected as SRTCP.
    Rtcp,
    /// Anything else, ZRTP and TURN channels included, and what is too short to be one of the above.
    Unknown,
}

/// Classifies a datagram. Says only what it may be: the header is checked by its parser.
pub fn classify(datagram: &[u8]) -> DatagramClass {
    let (Some(&first), Some(&second)) = (datagram.first(), datagram.get(1)) else {
        return DatagramClass::Unknown;
    };
    let (class, min_len) = match first {
        0..=3 => (DatagramClass::Stun, 20),
        20..=63 => (DatagramClass::Dtls, 13),
        // Payload types 64..=95 with the marker bit set are RTCP packet types 192..=223.
        128..=191 if (192..=223).contains(&second) => (DatagramClass::Rtcp, 8),
        128..=191 => (DatagramClass::Rtp, 12),
        _ => return DatagramClass::Unknown,
    };
    // A DTLS 1.3 unified header (first byte 32..=63) may be shorter than a 1.2 record header.
    if datagram.len() < min_len && !(32..=63).contains(&first) {
        return DatagramClass::Unknown;
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        name: &'static str,
        head: [u8; 2],
        len: usize,
        class: DatagramClass,
    }

    #[test]
    fn first_bytes_decide() {
        use DatagramClass::{Dtls, Rtcp, Rtp, Stun, Unknown};
        let cases = [
            Case { name: "binding request", head: [0, 1], len: 20, class: Stun },
            Case { name: "stun, cut", head: [0, 1], len: 19, class: Unknown },
            Case { name: "first byte 4", head: [4, 0], len: 100, class: Unknown },
            Case { name: "zrtp", head: [16, 0], len: 100, class: Unknown },
            Case { name: "change cipher spec", head: [20, 254], len: 14, class: Dtls },
            Case { name: "handshake", head: [22, 254], len: 100, class: Dtls },
            Case { name: "handshake, cut", head: [22, 254], len: 12, class: Unknown },
            Case { name: "unified header", head: [0x2f, 0], len: 12, class: Dtls },
            Case { name: "last of dtls", head: [63, 0], len: 100, class: Dtls },
            Case { name: "turn channel", head: [64, 0], len: 100, class: Unknown },
            Case { name: "quic", head: [127, 0], len: 100, class: Unknown },
            Case { name: "rtp", head: [0x80, 96], len: 12, class: Rtp },
            Case { name: "rtp with marker", head: [0x90, 0x80 | 96], len: 40, class: Rtp },
            Case { name: "rtp, pt 63", head: [0x80, 0x80 | 63], len: 40, class: Rtp },
            Case { name: "rtp, cut", head: [0x80, 96], len: 11, class: Unknown },
            Case { name: "sender report", head: [0x80, 200], len: 28, class: Rtcp },
            Case { name: "first rtcp type", head: [0xbf, 192], len: 8, class: Rtcp },
            Case { name: "last rtcp type", head: [0x80, 223], len: 8, class: Rtcp },
            Case { name: "rtcp, cut", head: [0x80, 200], len: 7, class: Unknown },
            Case { name: "above the range", head: [192, 200], len: 40, class: Unknown },
        ];
        for case in cases {
            let mut datagram = vec![0; case.len];
            datagram[..2].copy_from_slice(&case.head);
            assert_eq!(classify(&datagram), case.class, "{}", case.name);
        }
        assert_eq!(classify(&[]), Unknown);
        assert_eq!(classify(&[0x80]), Unknown);
    }
}
