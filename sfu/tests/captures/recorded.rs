//! Captures of a browser's packets: what `examples/record_captures` writes and the tests replay.

use std::path::PathBuf;

/// A packet of a capture. In a file: length of the payload (16 bits), number (64), timestamp (32), marker (8), length of
/// the descriptor (8); then descriptor and payload.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) seq: u64,
    pub(crate) time: u32,
    pub(crate) marker: bool,
    pub(crate) descriptor: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn place(codec: &str, mode: &str) -> PathBuf {
    place_of(&format!("{codec}-{mode}"))
}

pub(crate) fn place_of(name: &str) -> PathBuf {
    // Asked at run time: cargo may run what it compiled for another checkout.
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo"))
        .join(format!("tests/captures/{name}.rtp"))
}

/// Captures of whole RTP packets, each behind its length (16 bits): audio as RED (63) of Opus (111); video as VP8 (96)
/// with retransmissions (97) of some packets that came as well.
pub(crate) const RED: &str = "opus-red";
pub(crate) const RTX: &str = "vp8-rtx";

/// What a file of whole packets holds.
#[allow(dead_code)] // the tests read what the example writes
pub(crate) fn frame(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for packet in packets {
        file.extend_from_slice(&(packet.len() as u16).to_be_bytes());
        file.extend_from_slice(packet);
    }
    file
}

pub(crate) const CAPTURES: [(&str, &str); 4] =
    [("vp9", "L3T3"), ("vp9", "L3T3_KEY"), ("av1", "L3T3"), ("av1", "L3T3_KEY")];
