//! Opus packets (RFC 6716): one RTP packet each.

use super::{STAMP_LEN, Stamp};

/// A packet with one frame, carrying a stamp as padding (section 3.2.5): decoders skip it.
pub(crate) fn stamped_opus(packet: &[u8], stamp: Stamp) -> Vec<u8> {
    let Some((toc, frame)) = packet.split_first() else { return Vec::new() };
    // Code 3 (frame count in a byte of its own), one frame, constant bitrate, padded.
    let mut padded = Vec::with_capacity(packet.len() + 2 + STAMP_LEN);
    padded.extend_from_slice(&[toc | 0b11, 0b0100_0001, STAMP_LEN as u8]);
    padded.extend_from_slice(frame);
    padded.extend_from_slice(&stamp.to_bytes());
    padded
}
