//! How loud a track was since somebody asked.

use crate::wire::AudioLevel;

/// The loudest packet since the last look, for the election of speakers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AudioActivity {
    loudest: Option<AudioLevel>,
}

impl AudioActivity {
    pub(super) fn add(&mut self, level: AudioLevel) {
        self.loudest = Some(match self.loudest {
            None => level,
            Some(before) => AudioLevel {
                level: before.level.min(level.level),
                voice: before.voice || level.voice,
            },
        });
    }

    pub(super) fn take(&mut self) -> Option<AudioLevel> {
        self.loudest.take()
    }
}
