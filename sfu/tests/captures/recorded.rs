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
    // Asked at run time: cargo may run what it compiled for another checkout.
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo"))
        .join(format!("tests/captures/{codec}-{mode}.rtp"))
}

pub(crate) const CAPTURES: [(&str, &str); 4] =
    [("vp9", "L3T3"), ("vp9", "L3T3_KEY"), ("av1", "L3T3"), ("av1", "L3T3_KEY")];
