//! Counters of RTP: as they are on the wire, and extended so that they never wrap.

use std::fmt;

/// 16-bit sequence number as it is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seq16(pub u16);

/// Extended sequence number: counts packets of one stream without wrapping.
///
/// The low 16 bits are the wire's, the rest is the rollover counter of SRTP (RFC 3711 section 3.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SeqNo(pub u64);

impl SeqNo {
    /// The wire's 16 bits.
    pub const fn seq16(self) -> Seq16 {
        Seq16(self.0 as u16)
    }

    /// Rollover counter (RFC 3711 section 3.3.1).
    pub const fn rollover(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// `self + n`.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl fmt::Display for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 32-bit RTP timestamp as it is on the wire, in units of the codec's clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RtpTs32(pub u32);

/// Extended RTP timestamp in units of the codec's clock; never wraps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MediaTime(pub u64);

impl MediaTime {
    /// The wire's 32 bits.
    pub const fn ts32(self) -> RtpTs32 {
        RtpTs32(self.0 as u32)
    }
}

/// Extends 16-bit sequence numbers by the nearest-to-the-highest rule (RFC 3711 section 3.3.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct SeqExtender {
    highest: Option<u64>,
}

impl SeqExtender {
    /// The extension of `seq` that lies nearest to the highest seen so far. Does not change the highest: call
    /// [`Self::commit`] once the packet is authenticated.
    pub fn peek(&self, seq: Seq16) -> SeqNo {
        let Some(highest) = self.highest else {
            // One rollover of headroom, so that a packet older than the first still has a number.
            return SeqNo((1 << 16) | u64::from(seq.0));
        };
        let delta = seq.0.wrapping_sub(highest as u16) as i16;
        SeqNo(highest.saturating_add_signed(i64::from(delta)))
    }

    /// Remembers `seq` if it is the highest so far.
    pub fn commit(&mut self, seq: SeqNo) {
        self.highest = Some(self.highest.map_or(seq.0, |h| h.max(seq.0)));
    }

    /// [`Self::peek`], then [`Self::commit`].
    pub fn extend(&mut self, seq: Seq16) -> SeqNo {
        let extended = self.peek(seq);
        self.commit(extended);
        extended
    }

    /// Highest number committed.
    pub fn highest(&self) -> Option<SeqNo> {
        self.highest.map(SeqNo)
    }
}

/// Extends 32-bit RTP timestamps like [`SeqExtender`] does sequence numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeExtender {
    highest: Option<u64>,
}

impl TimeExtender {
    /// The extension of `ts` nearest to the highest seen so far; remembers it if it is the highest.
    pub fn extend(&mut self, ts: RtpTs32) -> MediaTime {
        let extended = match self.highest {
            None => (1 << 32) | u64::from(ts.0),
            Some(highest) => {
                let delta = ts.0.wrapping_sub(highest as u32) as i32;
                highest.saturating_add_signed(i64::from(delta))
            }
        };
        self.highest = Some(self.highest.map_or(extended, |h| h.max(extended)));
        MediaTime(extended)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequence_numbers_extend_over_the_wrap_in_both_directions() {
        let mut extender = SeqExtender::default();
        let first = extender.extend(Seq16(65_534));
        assert_eq!(extender.extend(Seq16(1)), first.plus(3));
        assert_eq!(extender.extend(Seq16(65_535)), first.plus(1), "late, before the wrap");
        assert_eq!(extender.highest(), Some(first.plus(3)));
        assert_eq!(first.plus(3).seq16(), Seq16(1));
        assert_eq!(first.plus(3).rollover(), first.rollover() + 1);
    }

    #[test]
    fn timestamps_extend_over_the_wrap() {
        let mut extender = TimeExtender::default();
        let first = extender.extend(RtpTs32(u32::MAX - 10));
        let next = extender.extend(RtpTs32(20));
        assert_eq!(next.0 - first.0, 31);
        assert_eq!(next.ts32(), RtpTs32(20));
    }

    proptest! {
        #[test]
        fn any_walk_of_small_steps_is_followed(
            start: u16,
            steps in prop::collection::vec(-1_000i64..30_000, 1..200),
        ) {
            let mut extender = SeqExtender::default();
            let mut highest = extender.extend(Seq16(start)).0;
            for step in steps {
                let wanted = highest.saturating_add_signed(step);
                prop_assert_eq!(extender.extend(Seq16(wanted as u16)).0, wanted);
                highest = highest.max(wanted);
            }
        }
    }
}
