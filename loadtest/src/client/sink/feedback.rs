//! RTCP of a sink: receiver reports (RFC 3550 section 6.4.2) and transport-wide feedback
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1).

use std::time::Duration;

use super::sdp::{CAPTURE_TIME, TRANSPORT_CC};
use crate::{client::link::Arrival, measure::Reported};

/// Packets of one feedback at most.
const MAX_PACKETS: u32 = 2_000;
/// Unit of the reference time, and of the deltas.
const REFERENCE_MICROS: i64 = 64_000;
const DELTA_MICROS: i64 = 250;

/// Seconds from the NTP epoch to that of Unix (RFC 5905 section 6).
const NTP_TO_UNIX: u64 = 2_208_988_800;

/// Appends a report with a block per stream; 31 at most.
pub(super) fn receiver_report(own: u32, reports: &[(u32, Reported)], packet: &mut Vec<u8>) {
    let reports = &reports[..reports.len().min(31)];
    let words = 1 + 6 * reports.len();
    packet.extend_from_slice(&[0x80 | reports.len() as u8, 201]);
    packet.extend_from_slice(&(words as u16).to_be_bytes());
    packet.extend_from_slice(&own.to_be_bytes());
    for (ssrc, report) in reports {
        packet.extend_from_slice(&ssrc.to_be_bytes());
        let lost = u32::from(report.fraction) << 24 | report.lost.min(0x7f_ffff);
        packet.extend_from_slice(&lost.to_be_bytes());
        packet.extend_from_slice(&report.highest.to_be_bytes());
        packet.extend_from_slice(&report.jitter.to_be_bytes());
        // Sender reports are not decrypted: no round trip.
        packet.extend_from_slice(&[0; 8]);
    }
}

/// Arrivals that no feedback has told yet.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Highest transport-wide number, extended.
    highest: Option<u32>,
    /// First number that the next feedback tells.
    next: Option<u32>,
    /// In the order of their arrival: the number, and microseconds since `base`. Small, since there are thousands of sinks.
    seen: Vec<(u32, i32)>,
    /// When the first of them arrived.
    base: Duration,
    count: u8,
}

impl Arrivals {
    pub(super) fn handle(&mut self, arrival: &Arrival<'_>) {
        let Some(seq) = transport_seq(arrival.bytes) else { return };
        let extended = match self.highest {
            None => u32::from(seq) + (1 << 16),
            Some(highest) => {
                let ahead = seq.wrapping_sub(highest as u16) as i16;
                highest.saturating_add_signed(i32::from(ahead))
            }
        };
        self.highest = Some(self.highest.map_or(extended, |highest| highest.max(extended)));
        let next = *self.next.get_or_insert(extended);
        // A packet that was told to be missing and comes late is not told again.
        if extended >= next {
            if self.seen.is_empty() {
                self.base = arrival.at;
            }
            let since = micros(arrival.at) - micros(self.base);
            self.seen.push((extended, since.clamp(i32::MIN.into(), i32::MAX.into()) as i32));
        }
    }

    /// Appends a feedback of what arrived since the last one; nothing when nothing did.
    pub(super) fn feedback(&mut self, own: u32, media: u32, packet: &mut Vec<u8>) {
        self.seen.sort_unstable_by_key(|(number, _)| *number);
        self.seen.dedup_by_key(|(number, _)| *number);
        let (Some(first), Some((last, _))) = (self.next, self.seen.last().copied()) else {
            return;
        };
        let first = first.max((last + 1).saturating_sub(MAX_PACKETS));
        self.next = Some(last + 1);
        let mut told = self.seen.iter().skip_while(|(number, _)| *number < first).peekable();
        let Some((_, start)) = told.peek().copied().copied() else { return };
        let base = micros(self.base);
        let reference = (base + i64::from(start)) / REFERENCE_MICROS;
        let mut at = reference * REFERENCE_MICROS;
        let begin = packet.len();
        let symbols = last + 1 - first;
        packet.extend_from_slice(&[0x8f, 205, 0, 0]);
        packet.extend_from_slice(&own.to_be_bytes());
        packet.extend_from_slice(&media.to_be_bytes());
        packet.extend_from_slice(&(first as u16).to_be_bytes());
        packet.extend_from_slice(&(symbols as u16).to_be_bytes());
        packet.extend_from_slice(&((reference as u32) << 8 | u32::from(self.count)).to_be_bytes());
        self.count = self.count.wrapping_add(1);
        // Vectors of seven two-bit symbols each, then the deltas.
        let vectors = packet.len();
        for _ in 0..symbols.div_ceil(7) {
            packet.extend_from_slice(&[0b1100_0000, 0]);
        }
        for (index, number) in (first..=last).enumerate() {
            let Some((_, arrived)) = told.next_if(|(seen, _)| *seen == number) else { continue };
            let delta = (base + i64::from(*arrived) - at).div_euclid(DELTA_MICROS);
            at += delta * DELTA_MICROS;
            let symbol: u16 = if let Ok(small) = u8::try_from(delta) {
                packet.push(small);
                1
            } else {
                let large = delta.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
                packet.extend_from_slice(&large.to_be_bytes());
                2
            };
            let bits = (symbol << (12 - 2 * (index % 7))).to_be_bytes();
            let vector = vectors + 2 * (index / 7);
            packet[vector] |= bits[0];
            packet[vector + 1] |= bits[1];
        }
        self.seen.clear();
        let padding = (4 - (packet.len() - begin) % 4) % 4;
        if padding > 0 {
            packet[begin] |= 0x20;
            packet.resize(packet.len() + padding, 0);
            if let Some(last) = packet.last_mut() {
                *last = padding as u8;
            }
        }
        let words = ((packet.len() - begin) / 4 - 1) as u16;
        packet[begin + 2..begin + 4].copy_from_slice(&words.to_be_bytes());
    }
}

/// Since the Unix epoch: fits for ages.
fn micros(time: Duration) -> i64 {
    time.as_secs() as i64 * 1_000_000 + i64::from(time.subsec_micros())
}

/// The transport-wide sequence number.
fn transport_seq(datagram: &[u8]) -> Option<u16> {
    let value = extension(datagram, TRANSPORT_CC)?;
    Some(u16::from_be_bytes([*value.first()?, *value.get(1)?]))
}

/// When the frame was captured, since the Unix epoch by the clock of its sender
/// (http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time: an NTP timestamp).
pub(super) fn capture_time(datagram: &[u8]) -> Option<Duration> {
    let value: &[u8; 8] = extension(datagram, CAPTURE_TIME)?.first_chunk()?;
    let ntp = u64::from_be_bytes(*value);
    let nanos = ((ntp & 0xffff_ffff) * 1_000_000_000) >> 32;
    Some(Duration::new((ntp >> 32).checked_sub(NTP_TO_UNIX)?, nanos as u32))
}

/// The value of a header extension (RFC 8285, one-byte and two-byte).
fn extension(datagram: &[u8], wanted: u8) -> Option<&[u8]> {
    let first = *datagram.first()?;
    if first & 0x10 == 0 {
        return None;
    }
    let at = 12 + 4 * usize::from(first & 0x0f);
    let header = datagram.get(at..at + 4)?;
    let profile = u16::from_be_bytes([header[0], header[1]]);
    let words = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let mut rest = datagram.get(at + 4..at + 4 + 4 * words)?;
    while let [id, tail @ ..] = rest {
        if *id == 0 {
            rest = tail;
            continue;
        }
        let (id, len, tail) = match profile {
            0xbede => (id >> 4, usize::from(id & 0x0f) + 1, tail),
            0x1000..=0x100f => (*id, usize::from(*tail.first()?), &tail[1..]),
            _ => return None,
        };
        let value = tail.get(..len)?;
        if id == wanted {
            return Some(value);
        }
        rest = &tail[len..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(seq: u16) -> Vec<u8> {
        let mut bytes = vec![0x90, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0xbe, 0xde, 0, 2];
        // Id 4 with one byte, then ours, then padding.
        bytes.extend_from_slice(&[0x40, b'0', TRANSPORT_CC << 4 | 1]);
        bytes.extend_from_slice(&seq.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 1, 2, 3]);
        bytes
    }

    fn arrive(arrivals: &mut Arrivals, seq: u16, at: Duration) {
        let from = ([127, 0, 0, 1], 1).into();
        arrivals.handle(&Arrival { from, at, late: Duration::ZERO, bytes: &packet(seq) });
    }

    #[test]
    fn arrivals_are_told_in_the_drafts_format() {
        let mut arrivals = Arrivals::default();
        let start = Duration::from_micros(REFERENCE_MICROS as u64) * 1_000;
        for (seq, micros) in [(65_534, 500), (65_535, 1_000), (1, 101_000), (2, 100_000)] {
            arrive(&mut arrivals, seq, start + Duration::from_micros(micros));
        }
        // Behind something else in its compound.
        let mut feedback = vec![7; 5];
        arrivals.feedback(1, 9, &mut feedback);
        let parts: [&[u8]; 4] = [
            // Header, sender, media.
            &[0x8f, 205, 0, 6, 0, 0, 0, 1, 0, 0, 0, 9],
            // 65534 on, five packets; from 1000 x 64 ms on; the first feedback.
            &[0xff, 0xfe, 0, 5, 0, 3, 0xe8, 0],
            // Small, small, missing, large, large.
            &[0b1101_0100, 0b1010_0000],
            // 500 us, 500 us, 100 ms, -1 ms.
            &[2, 2, 0x01, 0x90, 0xff, 0xfc],
        ];
        assert_eq!(feedback[5..], parts.concat());
        let told = |arrivals: &mut Arrivals| {
            let mut packet = Vec::new();
            arrivals.feedback(1, 9, &mut packet);
            packet
        };
        assert!(told(&mut arrivals).is_empty(), "told once");
        arrive(&mut arrivals, 3, start);
        let padded = told(&mut arrivals);
        assert_eq!((padded[0], padded.len(), padded[3], padded[23]), (0xaf, 24, 5, 1));
        arrive(&mut arrivals, 0, start);
        assert!(told(&mut arrivals).is_empty(), "too late to be told");
    }

    #[test]
    fn other_extensions_are_passed_over() {
        let mut two_byte = packet(0);
        two_byte.truncate(12);
        two_byte.extend_from_slice(&[0x10, 0, 0, 2, 4, 1, b'0', TRANSPORT_CC, 2, 0x12, 0x34, 0]);
        assert_eq!(transport_seq(&packet(0xabcd)), Some(0xabcd));
        assert_eq!(transport_seq(&two_byte), Some(0x1234));
        assert_eq!(transport_seq(&packet(1)[..18]), None, "cut");
        assert_eq!(transport_seq(&[0x80; 12]), None, "none there");
    }

    #[test]
    fn the_capture_time_is_read() {
        let mut bytes = vec![0x90, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0xbe, 0xde, 0, 3];
        bytes.push(CAPTURE_TIME << 4 | 7);
        let ntp = (NTP_TO_UNIX + 1_000) << 32 | 1 << 31;
        bytes.extend_from_slice(&ntp.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0]);
        assert_eq!(capture_time(&bytes), Some(Duration::from_millis(1_000_500)));
        assert_eq!(capture_time(&packet(1)), None, "another extension");
        bytes[17..21].fill(0);
        assert_eq!(capture_time(&bytes), None, "before 1970");
    }

    #[test]
    fn reports_hold_a_block_per_stream() {
        let report = Reported { fraction: 64, lost: 3, highest: 0x1_0002, jitter: 7 };
        let mut bytes = Vec::new();
        receiver_report(5, &[(9, report)], &mut bytes);
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..4], [0x81, 201, 0, 7]);
        assert_eq!(bytes[12..20], [64, 0, 0, 3, 0, 1, 0, 2]);
    }
}
