//! Which packets of one stream were seen already (RFC 3711 section 3.3.2).

use super::SrtpError;

/// Ring of 64-bit blocks in the manner of RFC 6479: moving on clears whole blocks, nothing is shifted.
const BLOCKS: u64 = 16;

/// Numbers this far behind the highest are refused. One block less than the ring, since the newest is filled gradually.
pub(super) const WINDOW: u64 = (BLOCKS - 1) * 64;

/// Replay window of one stream. Extends sequence numbers too, since both hang on the highest one.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplayWindow {
    highest: Option<u64>,
    blocks: [u64; BLOCKS as usize],
}

impl ReplayWindow {
    /// The 48-bit index that a packet with these low 16 bits has, nearest to the highest (RFC 3711 section 3.3.1). Before the
    /// first packet the rollover counter is 0.
    pub(super) fn estimate(&self, seq: u16) -> u64 {
        let Some(highest) = self.highest else {
            return u64::from(seq);
        };
        let delta = i64::from(seq.wrapping_sub(highest as u16) as i16);
        // Below 0 there is nothing: then it was a jump ahead of more than half the range.
        highest.checked_add_signed(delta).unwrap_or(u64::from(seq))
    }

    /// Fails when `index` was seen or is too old to know. Changes nothing: the packet is not authenticated yet.
    pub(super) fn check(&self, index: u64) -> Result<(), SrtpError> {
        let Some(highest) = self.highest else {
            return Ok(());
        };
        if index > highest {
            return Ok(());
        }
        if highest - index >= WINDOW {
            return Err(SrtpError::TooOld);
        }
        if self.blocks[block_of(index)] & bit_of(index) != 0 {
            return Err(SrtpError::Replayed);
        }
        Ok(())
    }

    /// Remembers an authenticated packet that passed [`Self::check`].
    pub(super) fn commit(&mut self, index: u64) {
        let first_new = match self.highest {
            None => {
                self.highest = Some(index);
                index / 64
            }
            Some(highest) if index > highest => {
                self.highest = Some(index);
                // At most one round: a larger jump forgets everything.
                (highest / 64 + 1).max((index / 64).saturating_sub(BLOCKS - 1))
            }
            Some(_) => u64::MAX,
        };
        let mut block = first_new;
        while block <= index / 64 {
            self.blocks[(block % BLOCKS) as usize] = 0;
            block += 1;
        }
        self.blocks[block_of(index)] |= bit_of(index);
    }
}

fn block_of(index: u64) -> usize {
    ((index / 64) % BLOCKS) as usize
}

fn bit_of(index: u64) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_passes_once() {
        let mut window = ReplayWindow::default();
        for index in [5, 3, 4, 900, 70] {
            assert_eq!(window.check(index), Ok(()), "{index}");
            window.commit(index);
            assert_eq!(window.check(index), Err(SrtpError::Replayed), "{index}");
        }
        window.commit(5_000);
        assert_eq!(window.check(5_000 - WINDOW), Err(SrtpError::TooOld));
        assert_eq!(window.check(5_000 - WINDOW + 1), Ok(()));
    }

    #[test]
    fn rollover_is_estimated_from_the_highest() {
        let mut window = ReplayWindow::default();
        assert_eq!(window.estimate(65_530), 65_530);
        window.commit(65_530);
        assert_eq!(window.estimate(3), 65_536 + 3);
        window.commit(65_536 + 3);
        assert_eq!(window.estimate(65_535), 65_535, "late, before the wrap");
        let mut window = ReplayWindow::default();
        window.commit(2);
        assert_eq!(window.estimate(65_530), 65_530, "nothing lies below 0");
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            steps in prop::collection::vec(prop_oneof![1 => -1_200i64..2_000, 20 => -6i64..8], 1..700),
        ) {
            let mut window = ReplayWindow::default();
            let mut seen = HashSet::new();
            let mut highest = 10_000_u64;
            for step in steps {
                let index = highest.saturating_add_signed(step);
                let wanted = if window.highest.is_some_and(|h| h >= index && h - index >= WINDOW) {
                    Err(SrtpError::TooOld)
                } else if seen.contains(&index) {
                    Err(SrtpError::Replayed)
                } else {
                    Ok(())
                };
                prop_assert_eq!(window.check(index), wanted);
                if wanted.is_ok() {
                    window.commit(index);
                    seen.insert(index);
                    highest = highest.max(index);
                }
            }
        }
    }
}
