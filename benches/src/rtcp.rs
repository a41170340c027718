//! Reports that a sink gives: receiver reports, NACKs, transport-wide feedback.

/// Who reports.
const REPORTER: u32 = 1;

/// A receiver report about streams that lost nothing (RFC 3550 section 6.4.2): SSRC and highest number of each.
pub fn receiver_report(streams: &[(u32, u32)], out: &mut Vec<u8>) {
    let streams = &streams[..streams.len().min(31)];
    head(out, streams.len() as u8, 201, 4 + 24 * streams.len());
    for (ssrc, highest) in streams {
        out.extend_from_slice(&ssrc.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&highest.to_be_bytes());
        out.extend_from_slice(&[0; 12]);
    }
}

/// A generic NACK (RFC 4585 section 6.2.1), one entry per number.
pub fn nack(media: u32, lost: &[u16], out: &mut Vec<u8>) {
    head(out, 1, 205, 8 + 4 * lost.len());
    out.extend_from_slice(&media.to_be_bytes());
    for seq in lost {
        out.extend_from_slice(&seq.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
    }
}

/// Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1) about packets from `base` on:
/// microseconds of arrival, `None` for what did not arrive. All in chunks of two-bit symbols.
pub fn transport_cc(base: u16, arrivals: &[Option<u64>], count: u8, out: &mut Vec<u8>) {
    let Some(first) = arrivals.iter().flatten().next() else { return };
    let reference = first / 64_000;
    let mut ticks = (reference * 256) as i64;
    let (mut chunks, mut deltas) = (Vec::new(), Vec::new());
    for part in arrivals.chunks(7) {
        let mut chunk = 0xc000_u16;
        for (place, arrival) in part.iter().enumerate() {
            let Some(at) = arrival else { continue };
            let delta = (at / 250) as i64 - ticks;
            ticks += delta;
            let symbol = if let Ok(small) = u8::try_from(delta) {
                deltas.push(small);
                1
            } else {
                let large = delta.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
                deltas.extend_from_slice(&large.to_be_bytes());
                2
            };
            chunk |= symbol << (12 - 2 * place);
        }
        chunks.extend_from_slice(&chunk.to_be_bytes());
    }
    let len = 16 + chunks.len() + deltas.len();
    let padding = len.next_multiple_of(4) - len;
    head(out, 15, 205, len + padding);
    out.extend_from_slice(&REPORTER.to_be_bytes());
    out.extend_from_slice(&base.to_be_bytes());
    out.extend_from_slice(&(arrivals.len() as u16).to_be_bytes());
    out.extend_from_slice(&(reference as u32).to_be_bytes()[1..]);
    out.push(count);
    out.extend_from_slice(&chunks);
    out.extend_from_slice(&deltas);
    out.resize(out.len() + padding, 0);
}

/// Common header and sender; `rest` counts the bytes behind the first four.
fn head(out: &mut Vec<u8>, count: u8, kind: u8, rest: usize) {
    out.extend_from_slice(&[0x80 | count, kind]);
    out.extend_from_slice(&((rest / 4) as u16).to_be_bytes());
    out.extend_from_slice(&REPORTER.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use chappe_sfu::wire::rtcp::{Message, messages};

    use super::*;

    #[test]
    fn the_node_reads_what_we_report() {
        let mut compound = Vec::new();
        receiver_report(&[(7, 70_000), (9, 5)], &mut compound);
        nack(7, &[1, 65_535], &mut compound);
        let arrivals = [
            Some(64_000_500),
            None,
            Some(64_000_250),
            Some(64_100_000),
            None,
            None,
            None,
            Some(64_900_000),
        ];
        transport_cc(65_534, &arrivals, 3, &mut compound);
        let mut seen = Vec::new();
        for message in messages(&compound) {
            match message.unwrap() {
                Message::ReceiverReport(report) => {
                    seen.extend(report.reports.map(|block| u64::from(block.ssrc.0)));
                }
                Message::Nack(nack) => seen.extend(nack.lost().map(|seq| u64::from(seq.0))),
                Message::TransportCc(feedback) => {
                    let got: Vec<_> = feedback.arrivals().collect();
                    assert_eq!(got.first().map(|(seq, _)| *seq), Some(65_534));
                    let micros: Vec<_> =
                        got.iter().map(|(_, at)| at.map(|at| at.micros() as u64)).collect();
                    let wanted: Vec<_> =
                        arrivals.iter().map(|at| at.map(|at| at / 250 * 250)).collect();
                    assert_eq!(micros, wanted);
                }
                _ => panic!("nothing else"),
            }
        }
        assert_eq!(seen, [7, 9, 1, 65_535]);
    }
}
