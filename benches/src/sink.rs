//! What a sink checks of a stream: numbers, order, and a sample of the payloads.

use hdrhistogram::Histogram;

use crate::{
    packet::{Parsed, Stamp, read_payload},
    srtp::Cipher,
};

/// Of so many packets one is opened: enough for percentiles, too few to slow the sinks down.
pub const SAMPLE: u64 = 61;

/// What all sinks saw of one sender.
#[derive(Debug)]
pub struct Tally {
    /// Packets, retransmissions apart.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Numbers that were passed over.
    pub missing: u64,
    /// Packets behind a later one, or twice.
    pub disordered: u64,
    /// Packets that were opened.
    pub opened: u64,
    /// Of those, not what was sent, or not sealed as they should be.
    pub wrong: u64,
    /// From sending to the sink's kernel, nanoseconds.
    pub latency: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            packets: 0,
            bytes: 0,
            missing: 0,
            disordered: 0,
            opened: 0,
            wrong: 0,
            latency: Histogram::new(3).expect("three digits are allowed"),
        }
    }
}

/// One stream at one sink.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stream {
    /// Highest number, with rollovers; none before the first packet.
    pub highest: Option<u64>,
    /// What the publisher's count is ahead of the number.
    ahead: Option<i64>,
    /// The publisher's count in the latest packet that was opened.
    pub index: u32,
}

impl Stream {
    /// Counts a packet; its number with rollovers.
    pub fn count(&mut self, seq: u16, len: usize, tally: &mut Tally) -> u64 {
        tally.packets += 1;
        tally.bytes += len as u64;
        let Some(highest) = self.highest else {
            self.highest = Some(seq.into());
            return seq.into();
        };
        let step = i64::from(seq.wrapping_sub(highest as u16) as i16);
        let number = highest.saturating_add_signed(step);
        if step > 0 {
            tally.missing += step as u64 - 1;
            self.highest = Some(number);
        } else {
            tally.disordered += 1;
            // It was taken for missing when it was overtaken.
            tally.missing = tally.missing.saturating_sub(u64::from(step < 0));
        }
        number
    }

    /// Opens a packet and compares it with what was sent. `at`: when it arrived, nanoseconds since the Unix epoch.
    pub fn open(
        &mut self,
        cipher: &Cipher,
        number: u64,
        parsed: &Parsed,
        packet: &mut [u8],
        at: u64,
        tally: &mut Tally,
    ) {
        tally.opened += 1;
        let stamp = open(cipher, number, parsed, packet, 0);
        let ahead = stamp.map(|stamp| i64::from(stamp.index) - number as i64);
        match (stamp, self.ahead.or(ahead)) {
            (Some(stamp), known) if known == ahead => {
                self.ahead = ahead;
                self.index = self.index.max(stamp.index);
                let _ = tally.latency.record(at.saturating_sub(stamp.sent).max(1));
            }
            _ => tally.wrong += 1,
        }
    }

    /// Forgets which number stands for which packet.
    pub fn restart(&mut self) {
        self.ahead = None;
    }

    /// The publisher's count in the packet with the highest number; `None` before one was opened.
    pub fn latest_index(&self) -> Option<i64> {
        Some(self.highest? as i64 + self.ahead?)
    }
}

/// Opens a packet whose payload begins behind `skip` bytes. What was sent, if it is that.
pub fn open(
    cipher: &Cipher,
    number: u64,
    parsed: &Parsed,
    packet: &mut [u8],
    skip: usize,
) -> Option<Stamp> {
    let mut len = cipher.open(parsed.ssrc, number, parsed.header_len, packet).ok()?;
    if parsed.padded {
        // The last byte counts itself (RFC 3550 section 5.1).
        let count = usize::from(*packet.get(len.checked_sub(1)?)?);
        len = len.checked_sub(count).filter(|_| count > 0)?;
    }
    read_payload(packet.get(parsed.header_len + skip..len)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_order_are_seen_over_the_wrap() {
        let (mut stream, mut tally) = (Stream::default(), Tally::default());
        for seq in [65_533, 65_534, 0, 65_535, 1, 4, 4] {
            stream.count(seq, 10, &mut tally);
        }
        assert_eq!(stream.highest, Some(65_536 + 4));
        assert_eq!((tally.packets, tally.missing, tally.disordered), (7, 2, 2));
    }
}
