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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::test_packets::{meta, start};

    #[test]
    fn a_few_silent_packets_pass_and_speech_resumes() {
        struct Case {
            name: &'static str,
            wanted: bool,
            /// Levels of successive packets; `None` says nothing.
            levels: &'static [Option<u8>],
            /// P passes, R resumes, - is left out.
            expect: &'static str,
        }
        const S: Option<u8> = Some(127);
        const T: Option<u8> = Some(40);
        let cases = [
            Case { name: "not asked", wanted: false, levels: &[S; 9], expect: "PPPPPPPPP" },
            Case { name: "silence", wanted: true, levels: &[S; 9], expect: "PPPPPP---" },
            Case { name: "speech", wanted: true, levels: &[T; 9], expect: "PPPPPPPPP" },
            Case { name: "nothing said", wanted: true, levels: &[None; 9], expect: "PPPPPPPPP" },
            Case {
                name: "nearly silent",
                wanted: true,
                levels: &[Some(126); 9],
                expect: "PPPPPPPPP",
            },
            Case {
                name: "short pause",
                wanted: true,
                levels: &[S, S, S, T, S, S, S, S, S, S],
                expect: "PPPPPPPPPP",
            },
            Case {
                name: "speech again",
                wanted: true,
                levels: &[S, S, S, S, S, S, S, S, T, T, S, S, S, S, S, S, S],
                expect: "PPPPPP--RPPPPPPP-",
            },
        ];
        for case in cases {
            let mut gate = SilenceGate::default();
            gate.set_wanted(case.wanted);
            let given: String = case
                .levels
                .iter()
                .map(|level| {
                    let mut meta = meta(0, 1, 1, start());
                    meta.audio_level = level.map(|level| AudioLevel { level, voice: false });
                    match gate.select(&meta) {
                        Heard::Passes => 'P',
                        Heard::Resumes => 'R',
                        Heard::LeftOut => '-',
                    }
                })
                .collect();
            assert_eq!(given, case.expect, "{}", case.name);
        }
    }
}
