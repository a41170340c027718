//! RTP packets of the publishers and the floor, and how a sink knows that they are what was sent.

/// Payload type of video (VP8).
pub const VIDEO: u8 = 96;
/// Payload type of its retransmissions.
pub const VIDEO_RTX: u8 = 97;
/// Payload type of audio (Opus).
pub const AUDIO: u8 = 111;
/// Id of the transport-wide number's header extension.
pub const TRANSPORT_CC: u8 = 5;
/// Id of the m-line's header extension.
pub const MID: u8 = 4;
/// Id of the audio level's header extension.
pub const AUDIO_LEVEL: u8 = 6;

/// What a publisher writes at the end of each payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Counts the packets of a publisher.
    pub index: u32,
    /// When it was sent, nanoseconds since the Unix epoch.
    pub sent: u64,
}

/// Bytes of a stamp.
const STAMP: usize = 16;
const MAGIC: [u8; 4] = *b"chpB";

/// Smallest payload: a VP8 keyframe's start and the stamp.
pub const MIN_PAYLOAD: usize = 14 + STAMP;

/// Where in a frame a packet stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Number of the frame.
    pub frame: u32,
    /// Its first packet.
    pub first: bool,
    /// Its last packet.
    pub last: bool,
    /// The frame needs no other one.
    pub keyframe: bool,
}

/// Bytes of the payload of packet `n` of a frame: where sizes are uneven, those of the first half are a byte shorter, as
/// libwebrtc splits a frame that does not divide.
pub fn size(payload: usize, uneven: bool, n: usize, frame_packets: usize) -> usize {
    payload - usize::from(uneven && n < frame_packets / 2)
}

/// Fixed RTP header (RFC 3550 section 5.1).
pub fn header(marker: bool, pt: u8, seq: u16, time: u32, ssrc: u32) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = 0x80;
    header[1] = pt | u8::from(marker) << 7;
    header[2..4].copy_from_slice(&seq.to_be_bytes());
    header[4..8].copy_from_slice(&time.to_be_bytes());
    header[8..].copy_from_slice(&ssrc.to_be_bytes());
    header
}

/// A header extension with nothing but an audio level (RFC 6464, RFC 8285 section 4.2), in -dBov.
pub fn audio_level(level: u8) -> [u8; 8] {
    [0xbe, 0xde, 0, 1, AUDIO_LEVEL << 4, level & 0x7f | 0x80, 0, 0]
}

/// Writes a payload over all of `out`, which has at least [`MIN_PAYLOAD`] bytes.
pub fn write_payload(audio: bool, place: Place, stamp: Stamp, out: &mut [u8]) {
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = filler(at);
    }
    if !audio {
        // RFC 7741 section 4.2: extended, start of a partition, picture id of 15 bits.
        let picture = (place.frame as u16 & 0x7fff | 0x8000).to_be_bytes();
        let flags = if place.first { 0x90 } else { 0x80 };
        out[..4].copy_from_slice(&[flags, 0x80, picture[0], picture[1]]);
        if place.first {
            // RFC 6386 section 9.1, 320x240.
            let start = [0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00];
            out[4..14].copy_from_slice(&start);
            out[4] |= u8::from(!place.keyframe);
        }
    }
    let at = out.len() - STAMP;
    out[at..at + 4].copy_from_slice(&MAGIC);
    out[at + 4..at + 8].copy_from_slice(&stamp.index.to_be_bytes());
    out[at + 8..].copy_from_slice(&stamp.sent.to_be_bytes());
}

/// The stamp of a payload that arrived as it was written, apart from what a node may rewrite (the picture id).
pub fn read_payload(payload: &[u8]) -> Option<Stamp> {
    let (body, stamp) = payload.split_at_checked(payload.len().checked_sub(STAMP)?)?;
    let intact = body.iter().enumerate().skip(14).all(|(at, byte)| *byte == filler(at));
    let index = u32::from_be_bytes(stamp[4..8].try_into().ok()?);
    let sent = u64::from_be_bytes(stamp[8..].try_into().ok()?);
    (intact && stamp[..4] == MAGIC).then_some(Stamp { index, sent })
}

fn filler(at: usize) -> u8 {
    (at as u8).wrapping_mul(167) ^ 0x5a
}

/// What a sink reads of a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed {
    /// Payload type.
    pub pt: u8,
    /// Sequence number.
    pub seq: u16,
    /// Source.
    pub ssrc: u32,
    /// Bytes in the clear.
    pub header_len: usize,
    /// It ends with padding.
    pub padded: bool,
    /// Transport-wide number, if there is one.
    pub transport_cc: Option<u16>,
}

/// Reads the header of an RTP packet.
pub fn parse(packet: &[u8]) -> Option<Parsed> {
    let first = *packet.first()?;
    let mut header_len = 12 + 4 * usize::from(first & 0x0f);
    let mut transport_cc = None;
    if first & 0x10 != 0 {
        let head = packet.get(header_len..header_len + 4)?;
        let len = 4 * usize::from(u16::from_be_bytes([head[2], head[3]]));
        let elements = packet.get(header_len + 4..header_len + 4 + len)?;
        transport_cc = element(elements, TRANSPORT_CC);
        header_len += 4 + len;
    }
    let fixed = packet.get(..12).filter(|_| first >> 6 == 2 && packet.len() >= header_len)?;
    Some(Parsed {
        pt: fixed[1] & 0x7f,
        seq: u16::from_be_bytes([fixed[2], fixed[3]]),
        ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
        header_len,
        padded: first & 0x20 != 0,
        transport_cc,
    })
}

/// A two-byte element among those with one-byte headers (RFC 8285 section 4.2).
fn element(mut rest: &[u8], wanted: u8) -> Option<u16> {
    while let Some((head, behind)) = rest.split_first() {
        if *head == 0 {
            rest = behind;
            continue;
        }
        let len = usize::from(head & 0x0f) + 1;
        if head >> 4 == wanted {
            return Some(u16::from_be_bytes([*behind.first()?, *behind.get(1)?]));
        }
        rest = behind.get(len..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_reads_back_and_a_changed_one_does_not() {
        let stamp = Stamp { index: 70_000, sent: 1 << 60 };
        for (audio, first) in [(true, true), (false, true), (false, false)] {
            let place = Place { frame: 9, first, last: true, keyframe: true };
            let mut payload = vec![0; 120];
            write_payload(audio, place, stamp, &mut payload);
            assert_eq!(read_payload(&payload), Some(stamp));
            payload[50] ^= 4;
            assert_eq!(read_payload(&payload), None);
        }
        assert_eq!(read_payload(&[0; 3]), None);
    }

    #[test]
    fn headers_are_parsed_with_their_extension() {
        let mut packet = header(true, VIDEO, 65_535, 9, 77).to_vec();
        packet[0] |= 0x10;
        packet.extend([0xbe, 0xde, 0, 2, 0x40, b'm', 0x51, 0x12, 0x34, 0, 0, 0, 1, 2, 3]);
        let parsed = parse(&packet).unwrap();
        assert_eq!((parsed.pt, parsed.seq, parsed.ssrc), (VIDEO, 65_535, 77));
        assert_eq!((parsed.header_len, parsed.transport_cc), (24, Some(0x1234)));
        assert_eq!(parse(&packet[..20]), None);
        let mut audio = header(true, AUDIO, 1, 2, 3).to_vec();
        audio[0] |= 0x10;
        audio.extend(audio_level(20));
        let parsed = parse(&audio).unwrap();
        assert_eq!((parsed.header_len, parsed.transport_cc), (20, None));
    }
}
