//! Audio that nobody hears.

use crate::{cache::PacketMeta, wire::AudioLevel};

/// Leaves out packets that their publisher calls silent, once a few of them passed. What is heard passes at once.
///
/// It goes by the level extension (RFC 6464) alone, which payloads that are encrypted end to end have too; packets
/// without a level pass.
#[derive(Debug, Default)]
pub(super) struct SilenceGate {
    wanted: bool,
    /// Silent packets in a row.
    run: u8,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    Passes,
    /// The first one after some were left out: a talkspurt begins (RFC 3551 section 4.1).
    Resumes,
    LeftOut,
}

/// Silent packets that pass, so that a decoder's comfort noise has something to go by (Signal's number). More cost
/// bandwidth, fewer cut the end of a word's echo.
const PASSING: u8 = 6;

impl SilenceGate {
    pub(super) fn set_wanted(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    pub(super) fn select(&mut self, meta: &PacketMeta) -> Heard {
        if !self.wanted {
            return Heard::Passes;
        }
        if meta.audio_level.is_some_and(AudioLevel::is_silent) {
            self.run = (self.run + 1).min(PASSING + 1);
            return if self.run > PASSING { Heard::LeftOut } else { Heard::Passes };
        }
        let left_out = std::mem::take(&mut self.run) > PASSING;
        if left_out { Heard::Resumes } else { Heard::Passes }
    }
}
