//! RTP streams as their headers show them, which needs no key: received, lost before repair, jitter (RFC 3550).

use std::time::Duration;

use super::Recorder;

/// The fields of an RTP header that stay readable under SRTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) payload_type: u8,
    pub(crate) seq: u16,
    pub(crate) time: u32,
    pub(crate) ssrc: u32,
    /// Bytes up to the payload, extensions included.
    pub(crate) size: usize,
}

impl Header {
    /// `None` for anything but RTP (RFC 7983, RFC 5761).
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        let [128..=191, second, ..] = datagram else { return None };
        if datagram.len() < 12 || (192..=223).contains(second) {
            return None;
        }
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| datagram[at + i]));
        let mut size = 12 + 4 * usize::from(datagram[0] & 0x0f);
        if let (true, Some(words)) = (datagram[0] & 0x10 != 0, datagram.get(size + 2..size + 4)) {
            size += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
        }
        Some(Self {
            size,
            payload_type: second & 0x7f,
            seq: u16::from_be_bytes([datagram[2], datagram[3]]),
            time: word(4),
            ssrc: word(8),
        })
    }
}

/// A report block (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reported {
    /// Lost since the last report, in 1/256.
    pub(crate) fraction: u8,
    pub(crate) lost: u32,
    /// Highest sequence number, extended.
    pub(crate) highest: u32,
    /// In RTP ticks.
    pub(crate) jitter: u32,
}

/// One SSRC.
#[derive(Debug)]
pub(crate) struct HeaderStream {
    clock_rate: u32,
    /// Highest sequence number, extended.
    highest: u64,
    /// Highest at the last flush.
    flushed: u64,
    /// Packets since then.
    received: u64,
    /// Of all time, for receiver reports: first number minus one, packets, and both at the last report.
    base: u64,
    total: u64,
    reported: (u64, u64),
    /// Arrival minus RTP time of the last packet, in ticks.
    transit: Option<i64>,
    /// In ticks, times 16.
    jitter: i64,
}

impl HeaderStream {
    pub(crate) fn new(first: Header, clock_rate: u32) -> Self {
        // One cycle ahead, so that an early packet cannot fall below zero.
        let highest = u64::from(first.seq) + (1 << 16) - 1;
        Self {
            clock_rate,
            highest,
            flushed: highest,
            received: 0,
            base: highest,
            total: 0,
            reported: (0, 0),
            transit: None,
            jitter: 0,
        }
    }

    pub(crate) fn handle(&mut self, header: Header, arrived: Duration) {
        let ahead = header.seq.wrapping_sub(self.highest as u16) as i16;
        if ahead > 0 {
            self.highest += ahead as u64;
        }
        self.received += 1;
        self.total += 1;
        let rate = u64::from(self.clock_rate);
        let part = u64::from(arrived.subsec_nanos()) * rate / 1_000_000_000;
        let ticks = arrived.as_secs().wrapping_mul(rate).wrapping_add(part) as u32;
        let transit = i64::from(ticks.wrapping_sub(header.time) as i32);
        if let Some(last) = self.transit.replace(transit) {
            // A jump is a new source on the same SSRC, not jitter.
            let difference = (transit - last).abs();
            if difference < i64::from(self.clock_rate) {
                self.jitter += difference - ((self.jitter + 8) >> 4);
            }
        }
    }

    /// What a receiver report says of the stream now.
    pub(crate) fn report(&mut self) -> Reported {
        let expected = self.highest - self.base;
        let (expected_before, total_before) =
            std::mem::replace(&mut self.reported, (expected, self.total));
        let (new, got) = (expected - expected_before, self.total - total_before);
        let fraction = (new.saturating_sub(got) * 256).checked_div(new).unwrap_or(0);
        Reported {
            fraction: fraction.min(255) as u8,
            lost: expected.saturating_sub(self.total).min(u64::from(u32::MAX)) as u32,
            highest: (self.highest - (1 << 16)) as u32,
            jitter: (self.jitter >> 4) as u32,
        }
    }

    /// A new window: nothing of before counts.
    pub(crate) fn restart(&mut self) {
        self.flushed = self.highest;
        self.received = 0;
    }

    /// Moves what happened since the last flush to the window, if there is one.
    pub(crate) fn flush(&mut self, recorder: &mut Recorder) {
        let expected = self.highest - self.flushed;
        let received = std::mem::take(&mut self.received);
        self.flushed = self.highest;
        if let Some(stats) = recorder.window() {
            stats.count.expected += expected;
            stats.count.lost_before_repair += expected.saturating_sub(received);
            if received > 0 {
                let ticks = (self.jitter >> 4) as f64;
                stats.jitter.record(Duration::from_secs_f64(ticks / f64::from(self.clock_rate)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(seq: u16, time: u32) -> Header {
        Header { payload_type: 96, seq, time, ssrc: 1, size: 12 }
    }

    #[test]
    fn only_rtp_headers_are_read() {
        let mut rtp = vec![0x90, 0xe0, 0x12, 0x34, 0, 0, 0, 5, 0, 0, 0, 9];
        let parsed = Header { payload_type: 96, seq: 0x1234, time: 5, ssrc: 9, size: 12 };
        assert_eq!(Header::parse(&rtp), Some(parsed));
        assert_eq!(Header::parse(&rtp[..11]), None, "short");
        rtp[1] = 200;
        assert_eq!(Header::parse(&rtp), None, "RTCP");
        rtp[0] = 22;
        assert_eq!(Header::parse(&rtp), None, "DTLS");
    }

    #[test]
    fn gaps_are_losses_and_late_packets_fill_them() {
        let mut recorder = Recorder::default();
        recorder.measure(true);
        let mut stream = HeaderStream::new(header(65_534, 0), 90_000);
        // 65535 is late, 3 is lost.
        for seq in [65_534, 0, 65_535, 1, 2, 4] {
            stream.handle(header(seq, 0), Duration::from_secs(1));
        }
        stream.flush(&mut recorder);
        let count = &recorder.stats.count;
        assert_eq!((count.expected, count.lost_before_repair), (7, 1));
        stream.flush(&mut recorder);
        assert_eq!(recorder.stats.count.expected, 7, "counted once");
        let report = stream.report();
        assert_eq!((report.lost, report.fraction, report.highest), (1, 36, 0x1_0004));
        assert_eq!(stream.report().fraction, 0, "nothing since");
    }

    #[test]
    fn jitter_follows_the_arrivals() {
        let mut recorder = Recorder::default();
        recorder.measure(true);
        let mut steady = HeaderStream::new(header(0, 0), 90_000);
        let mut uneven = HeaderStream::new(header(0, 0), 90_000);
        for index in 0..200_u16 {
            let time = u32::from(index) * 3_000;
            let arrived = Duration::from_secs(5) + Duration::from_micros(33_333) * index.into();
            steady.handle(header(index, time), arrived);
            let late = Duration::from_millis(if index % 2 == 0 { 0 } else { 10 });
            uneven.handle(header(index, time), arrived + late);
        }
        steady.flush(&mut recorder);
        assert!(recorder.stats.jitter.max_ms().unwrap() < 0.1);
        uneven.flush(&mut recorder);
        let jitter = recorder.stats.jitter.max_ms().unwrap();
        assert!((8.0..11.0).contains(&jitter), "{jitter}");
    }
}
