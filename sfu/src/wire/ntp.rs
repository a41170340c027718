//! NTP timestamps (RFC 5905 section 6), as sender reports and abs-capture-time carry them.

use std::time::Duration;

/// Seconds since 1900 in 32.32 fixed point.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// Seconds from 1900 to 1970.
    const UNIX_EPOCH: u64 = 2_208_988_800;

    /// From the time since 1970. The era wraps in 2036, as the format does.
    pub fn from_unix(since_1970: Duration) -> Self {
        let seconds = since_1970.as_secs().wrapping_add(Self::UNIX_EPOCH);
        let fraction = (u64::from(since_1970.subsec_nanos()) << 32) / 1_000_000_000;
        Self(seconds << 32 | fraction)
    }

    /// The middle 32 bits (16.16 seconds): what LSR and round trip times are counted in.
    pub const fn middle32(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// `self - earlier`, wrapping; negative when `earlier` is later.
    pub fn signed_since(self, earlier: Self) -> i64 {
        self.0.wrapping_sub(earlier.0) as i64
    }
}

/// A span in 1/65536 s, as LSR, DLSR and DLRR carry it; saturates at 65,535 s.
pub fn duration_to_compact(span: Duration) -> u32 {
    u32::try_from((span.as_nanos() << 16) / 1_000_000_000).unwrap_or(u32::MAX)
}

/// The span that `compact` 1/65536 s stand for.
pub fn compact_to_duration(compact: u32) -> Duration {
    Duration::from_nanos((u64::from(compact) * 1_000_000_000) >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_times_become_ntp_times() {
        let half_past_epoch = NtpTime::from_unix(Duration::from_millis(500));
        assert_eq!(half_past_epoch.0, 2_208_988_800 << 32 | 0x8000_0000);
        assert_eq!(half_past_epoch.middle32(), (2_208_988_800_u64 << 16) as u32 | 0x8000);
        let later = NtpTime::from_unix(Duration::from_secs(1));
        assert_eq!(later.signed_since(half_past_epoch), 0x8000_0000);
        assert_eq!(half_past_epoch.signed_since(later), -0x8000_0000);
    }

    #[test]
    fn compact_spans() {
        assert_eq!(duration_to_compact(Duration::from_millis(1_500)), 0x1_8000);
        assert_eq!(compact_to_duration(0x1_8000), Duration::from_millis(1_500));
        assert_eq!(duration_to_compact(Duration::from_secs(100_000)), u32::MAX);
    }
}
