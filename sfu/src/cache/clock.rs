//! How an encoding's media time relates to its sender's clock (RFC 3550 section 6.4.1).

use std::time::{Duration, Instant};

use super::{DecodeTargets, FormatId, Formats, PacketMeta};
use crate::{rtp::MediaTime, wire::NtpTime};

/// The latest sender report of an encoding. All streams of one sender share the NTP clock: that is what keeps lips
/// in sync, and what aligns the timestamps of two simulcast encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenderClock {
    /// The sender's clock when it wrote the report.
    pub ntp: NtpTime,
    /// Media time at that moment.
    pub time: MediaTime,
    /// When the report arrived here.
    pub at: Instant,
    /// [`super::PacketMeta::generation`] of the stream that `time` belongs to.
    pub generation: u8,
}

impl SenderClock {
    /// The sender's clock at media time `time`.
    pub fn ntp_at(&self, time: MediaTime, clock_rate: u32) -> NtpTime {
        let ticks = i128::from(time.0) - i128::from(self.time.0);
        let delta = (ticks << 32) / i128::from(clock_rate.max(1));
        NtpTime(self.ntp.0.wrapping_add(delta as u64))
    }

    /// Both clocks run on until `now`.
    #[must_use]
    pub fn advanced_to(&self, now: Instant, clock_rate: u32) -> Self {
        let elapsed = now.saturating_duration_since(self.at);
        let ntp = ((elapsed.as_nanos() << 32) / 1_000_000_000) as u64;
        Self {
            ntp: NtpTime(self.ntp.0.wrapping_add(ntp)),
            time: MediaTime(self.time.0.wrapping_add(ticks_in(elapsed, clock_rate))),
            at: now,
            generation: self.generation,
        }
    }
}

/// What rewriters need to know of a track, besides the packets: above all its time.
#[derive(Clone, Copy, Debug)]
pub struct Timing<'a> {
    /// For the clock rates.
    pub formats: &'a Formats,
    /// By encoding; `None` until its first sender report.
    pub clocks: &'a [Option<SenderClock>],
    /// By encoding.
    pub decode_targets: &'a [DecodeTargets],
}

impl Timing<'_> {
    /// Hertz; the field's usual video clock for a format that is not there.
    pub fn clock_rate(&self, format: FormatId) -> u32 {
        self.formats.get(format).map_or(90_000, |codec| codec.clock_rate.max(1))
    }

    /// The clock of one stream of an encoding; `None` too when the report was about another stream.
    pub fn clock(&self, encoding: u8, generation: u8) -> Option<SenderClock> {
        let clock = (*self.clocks.get(usize::from(encoding))?)?;
        (clock.generation == generation).then_some(clock)
    }

    /// When a packet was captured, on its sender's clock.
    pub fn captured_at(&self, meta: &PacketMeta) -> Option<NtpTime> {
        let clock = self.clock(meta.encoding, meta.generation)?;
        Some(clock.ntp_at(meta.time, self.clock_rate(meta.format)))
    }
}

/// Units of a clock in `span`.
pub(crate) fn ticks_in(span: Duration, clock_rate: u32) -> u64 {
    (span.as_nanos() * u128::from(clock_rate) / 1_000_000_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn media_time_and_sender_clock_convert_in_both_directions() {
        let at = Instant::now();
        let clock =
            SenderClock { ntp: NtpTime(1_000 << 32), time: MediaTime(90_000), at, generation: 0 };
        assert_eq!(clock.ntp_at(MediaTime(135_000), 90_000), NtpTime(1_000 << 32 | 1 << 31));
        assert_eq!(clock.ntp_at(MediaTime(0), 90_000), NtpTime(999 << 32), "before the report");

        let later = clock.advanced_to(at + Duration::from_millis(1_500), 90_000);
        assert_eq!(later.ntp, NtpTime(1_001 << 32 | 1 << 31));
        assert_eq!(later.time, MediaTime(90_000 + 135_000));
        assert_eq!(later.ntp_at(MediaTime(90_000), 90_000), clock.ntp);
    }
}
