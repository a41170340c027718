//! Redundancy that is added to audio for a subscriber who loses packets (RFC 2198).

use std::time::{Duration, Instant};

use crate::cache::{CachedPacket, PacketMeta};

/// How many older frames a packet carries, by what the subscriber reports to be lost.
///
/// Reports tell of packets, not of what redundancy made good: a subscriber that is helped still reports its loss.
#[derive(Debug, Default)]
pub(super) struct Redundancy {
    allowed: bool,
    /// The path has no room for more than the sound itself.
    crowded: bool,
    blocks: u8,
    /// Loss of late, 1/4096: half of each report's, half of what was before.
    smoothed: u32,
    /// Since when less than now would do.
    calm_since: Option<Instant>,
}

/// Older frames in a packet at most. A third would repair bursts that are rare, at a third more of the bitrate.
pub(super) const MAX_BLOCKS: usize = 2;

/// Loss, in 1/4096, from which on one older frame is carried (2 %) and two (8 %): below, concealment is not heard and
/// the doubled bitrate is not worth it.
const LOSS: [u32; MAX_BLOCKS] = [82, 328];

/// A block is given up where the loss stayed below this share of what it was added for, for this long.
const CALM_SHARE: u32 = 2;
const CALM: Duration = Duration::from_secs(10);

impl Redundancy {
    /// Whether the control plane allows it at all.
    pub(super) fn set_allowed(&mut self, allowed: bool) {
        self.allowed = allowed;
    }

    /// The subscriber lost this share of its packets, 1/256, since its last report.
    pub(super) fn handle_loss(&mut self, now: Instant, fraction_lost: u8) {
        self.smoothed = (self.smoothed + u32::from(fraction_lost) * 16) / 2;
        let needed = LOSS.iter().filter(|loss| self.smoothed >= **loss).count() as u8;
        if needed > self.blocks {
            self.blocks = needed;
        }
        let current = usize::from(self.blocks).checked_sub(1).and_then(|index| LOSS.get(index));
        if current.is_none_or(|loss| self.smoothed >= loss / CALM_SHARE) {
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= CALM {
            let kept = LOSS.iter().filter(|loss| self.smoothed >= **loss / CALM_SHARE);
            self.blocks = kept.count() as u8;
            self.calm_since = None;
        }
    }

    /// What is known of the subscriber's path within a second, where reports come each five: the share of everything that it lost
    /// lately, and whether it is `crowded`. On a crowded path packets are lost because there are too many, and more of them is no
    /// help. Loss adds only; to be given up, reports have to be calm.
    pub(super) fn handle_path(&mut self, lost: f32, crowded: bool) {
        self.crowded = crowded;
        if crowded {
            (self.blocks, self.smoothed, self.calm_since) = (0, 0, None);
            return;
        }
        let lost = (lost * 4_096.0) as u32;
        let needed = LOSS.iter().filter(|loss| lost >= **loss).count() as u8;
        if needed > self.blocks {
            self.blocks = needed;
            self.calm_since = None;
        }
    }

    /// Older frames to carry now.
    pub(super) fn blocks(&self) -> u8 {
        if self.allowed && !self.crowded { self.blocks } else { 0 }
    }
}

/// The sound of a packet without redundancy; `None` where it brings some of its own.
pub(super) fn plain<'a>(packet: CachedPacket<'a>) -> Option<&'a [u8]> {
    match packet.meta.red_primary {
        0 => Some(packet.payload),
        // RED with nothing in it but the primary block: one byte of header.
        1 => packet.payload.get(1..),
        _ => None,
    }
}

/// An older packet's sound as a block of `packet`, with how much older it is; `None` where a block has no room for it
/// (14 bits of timestamp, 10 of length) or it is no part of the same stream.
pub(super) fn block<'a>(packet: &PacketMeta, older: CachedPacket<'a>) -> Option<(u16, &'a [u8])> {
    let same = (packet.encoding, packet.generation) == (older.meta.encoding, older.meta.generation);
    let offset =
        packet.time.0.checked_sub(older.meta.time.0).filter(|_| same && !older.meta.padding)?;
    let offset = u16::try_from(offset).ok().filter(|offset| (1..1 << 14).contains(offset))?;
    let sound = older.payload.get(usize::from(older.meta.red_primary)..)?;
    (1..1 << 10).contains(&sound.len()).then_some((offset, sound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::test_packets::{meta, start};

    #[test]
    fn blocks_follow_the_loss_with_hysteresis() {
        struct Case {
            name: &'static str,
            /// Percent lost, one report a second.
            reports: &'static [u32],
            expect: u8,
        }
        let cases = [
            Case { name: "nothing lost", reports: &[0; 20], expect: 0 },
            Case { name: "one packet of fifty once", reports: &[2, 0, 0, 0, 2, 0], expect: 0 },
            Case { name: "loss that stays", reports: &[3, 3, 3], expect: 1 },
            Case { name: "a burst", reports: &[5], expect: 1 },
            Case { name: "much", reports: &[12, 12], expect: 2 },
            Case { name: "not given up at once", reports: &[5, 0, 0, 0, 0, 0, 0, 0], expect: 1 },
            Case {
                name: "given up",
                reports: &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                expect: 0,
            },
            Case {
                name: "kept between",
                reports: &[5, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2],
                expect: 1,
            },
            Case {
                name: "one by one",
                reports: &[20, 20, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2],
                expect: 1,
            },
        ];
        let now = start();
        for case in cases {
            let mut redundancy = Redundancy::default();
            redundancy.set_allowed(true);
            for (second, percent) in case.reports.iter().enumerate() {
                let at = now + Duration::from_secs(second as u64);
                redundancy.handle_loss(
                    at,
                    (percent * 256 / 100 + 1).min(255) as u8 - u8::from(*percent == 0),
                );
            }
            assert_eq!(redundancy.blocks(), case.expect, "{}", case.name);
            redundancy.set_allowed(false);
            assert_eq!(redundancy.blocks(), 0, "{}", case.name);
        }
    }

    #[test]
    fn only_what_a_block_can_hold_becomes_one() {
        struct Case {
            name: &'static str,
            older_by: u64,
            len: usize,
            generation: u8,
            expect: Option<u16>,
        }
        let cases = [
            Case { name: "20 ms", older_by: 960, len: 80, generation: 0, expect: Some(960) },
            Case {
                name: "furthest",
                older_by: 0x3fff,
                len: 80,
                generation: 0,
                expect: Some(0x3fff),
            },
            Case { name: "too old", older_by: 0x4000, len: 80, generation: 0, expect: None },
            Case { name: "same time", older_by: 0, len: 80, generation: 0, expect: None },
            Case { name: "largest", older_by: 960, len: 0x3ff, generation: 0, expect: Some(960) },
            Case { name: "too large", older_by: 960, len: 0x400, generation: 0, expect: None },
            Case { name: "empty", older_by: 960, len: 0, generation: 0, expect: None },
            Case { name: "another stream", older_by: 960, len: 80, generation: 1, expect: None },
        ];
        let now = start();
        for case in cases {
            let mut older = meta(0, 1, 100_000 - case.older_by, now);
            older.generation = case.generation;
            let payload = vec![7; case.len];
            let older =
                CachedPacket { meta: &older, dependency_descriptor: &[], payload: &payload };
            let made = block(&meta(0, 2, 100_000, now), older);
            assert_eq!(made.map(|(offset, _)| offset), case.expect, "{}", case.name);
        }
        let newer = meta(0, 3, 100_960, now);
        let newer = CachedPacket { meta: &newer, dependency_descriptor: &[], payload: &[1] };
        assert_eq!(block(&meta(0, 2, 100_000, now), newer), None, "newer");
    }

    #[test]
    fn the_path_adds_and_reports_take_away() {
        let now = start();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut redundancy = Redundancy::default();
        redundancy.set_allowed(true);
        let mut after = |lost| {
            redundancy.handle_path(lost, false);
            redundancy.blocks()
        };
        assert_eq!([0.019, 0.021, 0.0, 0.079, 0.081, 0.021].map(&mut after), [0, 1, 1, 1, 2, 2]);
        for seconds in 0..10 {
            redundancy.handle_loss(at(seconds), 0);
            assert_eq!(redundancy.blocks(), 2, "{seconds} s");
        }
        redundancy.handle_loss(at(10), 0);
        assert_eq!(redundancy.blocks(), 0);
    }

    #[test]
    fn a_crowded_path_carries_the_sound_alone() {
        let mut redundancy = Redundancy::default();
        redundancy.set_allowed(true);
        redundancy.handle_path(0.1, false);
        redundancy.handle_path(0.1, true);
        assert_eq!(redundancy.blocks(), 0);
        redundancy.handle_loss(start(), 100);
        assert_eq!(redundancy.blocks(), 0, "whatever reports say");
        redundancy.handle_path(0.0, true);
        redundancy.handle_path(0.0, false);
        assert_eq!(redundancy.blocks(), 0, "what was lost then is forgotten");
    }
}
