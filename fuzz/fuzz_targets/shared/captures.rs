//! What Chromium sends as L3T3 and L3T3_KEY: `sfu/tests/captures`, by `sfu/examples/record_captures`.

use chappe_sfu::rtp::CodecKind;

const FILES: [(CodecKind, &[u8]); 4] = [
    (CodecKind::Av1, include_bytes!("../../../sfu/tests/captures/av1-L3T3.rtp")),
    (CodecKind::Av1, include_bytes!("../../../sfu/tests/captures/av1-L3T3_KEY.rtp")),
    (CodecKind::Vp9, include_bytes!("../../../sfu/tests/captures/vp9-L3T3.rtp")),
    (CodecKind::Vp9, include_bytes!("../../../sfu/tests/captures/vp9-L3T3_KEY.rtp")),
];
/// Of a payload: all that anybody reads, and then some.
const KEPT: usize = 48;

#[allow(dead_code)] // not each target uses all of it
pub(crate) struct Capture {
    pub(crate) kind: CodecKind,
    pub(crate) packets: Vec<Recorded>,
}

/// A captured packet.
#[allow(dead_code)] // not each target uses all of it
pub(crate) struct Recorded {
    pub(crate) time: u32,
    pub(crate) marker: bool,
    /// Dependency descriptor; none in padding.
    pub(crate) descriptor: &'static [u8],
    /// The begin of the payload.
    pub(crate) payload: &'static [u8],
}

pub(crate) fn all() -> Vec<Capture> {
    FILES.iter().map(|(kind, file)| Capture { kind: *kind, packets: read(file) }).collect()
}

/// `sfu/tests/captures/recorded.rs` has the format.
fn read(mut bytes: &'static [u8]) -> Vec<Recorded> {
    let mut packets = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<16>() {
        let payload_len = usize::from(u16::from_be_bytes([head[0], head[1]]));
        let (descriptor, rest) = rest.split_at(head[15].into());
        let (payload, rest) = rest.split_at(payload_len);
        packets.push(Recorded {
            time: u32::from_be_bytes([head[10], head[11], head[12], head[13]]),
            marker: head[14] != 0,
            descriptor,
            payload: &payload[..payload.len().min(KEPT)],
        });
        bytes = rest;
    }
    packets
}
