//! Loss and jitter of one SSRC for receiver reports (RFC 3550 appendices A.3 and A.8).

use std::time::{Duration, Instant};

use crate::{
    cache::ticks_in,
    rtp::{RtpTs32, SeqNo, Ssrc},
    wire::{NtpTime, duration_to_compact, rtcp::ReportBlock},
};

/// What a receiver report says about one SSRC.
#[derive(Debug)]
pub struct ReceptionStats {
    ssrc: Ssrc,
    clock_rate: u32,
    first_at: Instant,
    base: u64,
    highest: u64,
    /// Without duplicates.
    received: u64,
    expected_prior: u64,
    received_prior: u64,
    transit: Option<u32>,
    /// In 1/16 of the clock's unit.
    jitter16: u32,
    last_sr: Option<(u32, Instant)>,
    /// As the last block said.
    fraction_lost: u8,
}

impl ReceptionStats {
    /// From the first packet on, which has to be added too.
    pub fn new(now: Instant, ssrc: Ssrc, first: SeqNo, clock_rate: u32) -> Self {
        Self {
            ssrc,
            clock_rate,
            first_at: now,
            base: first.0,
            highest: first.0,
            received: 0,
            expected_prior: 0,
            received_prior: 0,
            transit: None,
            jitter16: 0,
            last_sr: None,
            fraction_lost: 0,
        }
    }

    /// Packets that did not come so far; duplicates and repaired ones are not counted as come.
    pub fn lost(&self) -> u64 {
        (self.highest - self.base + 1).saturating_sub(self.received)
    }

    /// Packets lost between the last two reports, in 1/256.
    pub fn fraction_lost(&self) -> u8 {
        self.fraction_lost
    }

    /// Interarrival jitter (RFC 3550 section 6.4.1), in the clock's units.
    pub fn jitter(&self) -> u32 {
        self.jitter16 >> 4
    }

    /// The SSRC reported on.
    pub fn ssrc(&self) -> Ssrc {
        self.ssrc
    }

    /// A packet arrived for the first time.
    pub fn handle_packet(&mut self, now: Instant, seq: SeqNo, timestamp: RtpTs32) {
        self.received += 1;
        self.base = self.base.min(seq.0);
        self.highest = self.highest.max(seq.0);
        let elapsed = now.saturating_duration_since(self.first_at);
        let arrival = ticks_in(elapsed, self.clock_rate) as u32;
        let transit = arrival.wrapping_sub(timestamp.0);
        if let Some(before) = self.transit.replace(transit) {
            let change = (transit.wrapping_sub(before) as i32).unsigned_abs();
            // A restarted source is no jitter.
            if change < self.clock_rate.saturating_mul(10) {
                self.jitter16 += change;
                self.jitter16 -= (self.jitter16 - change + 8) >> 4;
            }
        }
    }

    /// A sender report arrived.
    pub fn handle_sender_report(&mut self, now: Instant, ntp: NtpTime) {
        self.last_sr = Some((ntp.middle32(), now));
    }

    /// The block of a report that leaves now; the next one counts loss from here.
    pub fn report_block(&mut self, now: Instant) -> ReportBlock {
        let expected = self.highest - self.base + 1;
        let lost = expected as i64 - self.received as i64;
        let expected_since = expected - self.expected_prior;
        let received_since = self.received - self.received_prior;
        self.expected_prior = expected;
        self.received_prior = self.received;
        let fraction_lost = match expected_since.checked_sub(received_since) {
            Some(lost) if expected_since > 0 => ((lost << 8) / expected_since).min(255) as u8,
            _ => 0,
        };
        self.fraction_lost = fraction_lost;
        let (last_sr, since) = self
            .last_sr
            .map_or((0, Duration::ZERO), |(sr, at)| (sr, now.saturating_duration_since(at)));
        ReportBlock {
            ssrc: self.ssrc,
            fraction_lost,
            cumulative_lost: lost.clamp(-0x80_0000, 0x7f_ffff) as i32,
            highest_seq: self.highest as u32,
            jitter: self.jitter16 >> 4,
            last_sr,
            delay_since_last_sr: duration_to_compact(since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn loss_is_counted_from_report_to_report() {
        let start = Instant::now();
        let mut stats = ReceptionStats::new(start, Ssrc(7), SeqNo(65_530), 8_000);
        let receive = |stats: &mut ReceptionStats, seqs: &[u64]| {
            for seq in seqs {
                stats.handle_packet(start, SeqNo(*seq), RtpTs32(0));
            }
        };
        receive(&mut stats, &[65_530, 65_531, 65_533, 65_537]);
        let block = stats.report_block(start);
        assert_eq!(block.highest_seq, 0x1_0001);
        assert_eq!(block.cumulative_lost, 4);
        assert_eq!(block.fraction_lost, 128, "4 of 8");
        assert_eq!((block.last_sr, block.delay_since_last_sr), (0, 0));

        receive(&mut stats, &[65_538, 65_532, 65_539]);
        let block = stats.report_block(start);
        assert_eq!(block.cumulative_lost, 3);
        assert_eq!(block.fraction_lost, 0, "a late packet makes the interval negative");

        stats.handle_sender_report(start, NtpTime(0x1234_5678_9abc_def0));
        let block = stats.report_block(start + Duration::from_millis(500));
        assert_eq!(block.last_sr, 0x5678_9abc);
        assert_eq!(block.delay_since_last_sr, 0x8000);
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn jitter_follows_the_estimator_of_the_rfc() {
        let start = Instant::now();
        let mut stats = ReceptionStats::new(start, Ssrc(7), SeqNo(1), 8_000);
        // Packets of 20 ms; each second one is 5 ms (40 units) late, so transit changes by 40 each time.
        let mut expected = 0.0_f64;
        for n in 0..100u32 {
            let late = if n % 2 == 1 { 5 } else { 0 };
            let now = start + Duration::from_millis(u64::from(n * 20 + late));
            let timestamp = RtpTs32((u32::MAX - 500).wrapping_add(n * 160));
            stats.handle_packet(now, SeqNo(1 + u64::from(n)), timestamp);
            if n > 0 {
                expected += (40.0 - expected) / 16.0;
            }
        }
        let jitter = f64::from(stats.report_block(start).jitter);
        assert!((jitter - expected).abs() <= 1.0, "{jitter} is not {expected}");
    }
}
