//! Opus (RFC 7587; packets by RFC 6716 section 3).

use std::time::Duration;

/// An Opus packet by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpusPacket {
    /// How much sound it stands for.
    pub duration: Duration,
    /// Nothing but a placeholder: the encoder is in discontinuous transmission.
    pub dtx: bool,
}

impl OpusPacket {
    /// `None` for an empty payload, or one that claims more than the 120 ms that a packet may hold.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let toc = *payload.first()?;
        let frame_micros = match toc >> 3 {
            config @ 0..=11 => [10_000, 20_000, 40_000, 60_000][usize::from(config & 3)],
            config @ 12..=15 => [10_000, 20_000][usize::from(config & 1)],
            config => [2_500, 5_000, 10_000, 20_000][usize::from(config & 3)],
        };
        let frames = match toc & 3 {
            0 => 1,
            1 | 2 => 2,
            _ => u64::from(payload.get(1)? & 0x3f),
        };
        let duration = Duration::from_micros(frame_micros * frames);
        if duration.is_zero() || duration > Duration::from_millis(120) {
            return None;
        }
        // Frames of at most one byte carry no sound (RFC 6716 section 2.1.9).
        Some(Self { duration, dtx: payload.len() <= 2 })
    }
}
