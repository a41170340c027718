//! Arrivals by stream and number, told back to a sender that knows no transport-wide numbers (RFC 8888).

use std::time::{Duration, Instant};

use super::TwccRecorder;
use crate::{
    rtp::{Seq16, SeqExtender, Ssrc},
    wire::{
        BufferTooSmall, duration_to_compact,
        rtcp::{CcfbBlock, CompoundWriter},
    },
};

/// Notes arrivals on one transport and writes congestion control feedback about them.
#[derive(Debug)]
pub struct CcfbRecorder {
    /// Zero of the times in reports.
    origin: Instant,
    streams: Vec<Stream>,
    /// When feedback is due; `None` while there is nothing to tell.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Stream {
    ssrc: Ssrc,
    seqs: SeqExtender,
    /// Number of `arrivals[0]`: what was not told yet.
    base: u64,
    arrivals: Vec<Option<Instant>>,
    /// When its last packet came.
    last: Instant,
}

impl CcfbRecorder {
    /// As often as transport-wide feedback. RFC 8888 section 4 asks for once a frame to once a round trip, bounded by 5 %
    /// of the bandwidth.
    pub const INTERVAL: Duration = TwccRecorder::INTERVAL;
    /// Numbers of one stream kept at most: 100 ms of 20 Mb/s. A sender that jumps further starts afresh.
    const MAX_SPAN: u64 = 512;
    /// Streams at most: beyond, the one that was silent for longest is forgotten.
    const MAX_STREAMS: usize = 64;

    /// `origin` is any moment before the first packet.
    pub fn new(origin: Instant) -> Self {
        Self { origin, streams: Vec::new(), due: None }
    }

    /// A packet with this number of the stream arrived.
    pub fn record(&mut self, now: Instant, ssrc: Ssrc, number: Seq16) {
        let known = self.streams.iter().position(|stream| stream.ssrc == ssrc);
        let index = known.unwrap_or_else(|| {
            if self.streams.len() >= Self::MAX_STREAMS {
                let silent = (0..self.streams.len()).min_by_key(|at| self.streams[*at].last);
                if let Some(at) = silent {
                    self.streams.swap_remove(at);
                }
            }
            let seqs = SeqExtender::default();
            self.streams.push(Stream { ssrc, seqs, base: 0, arrivals: Vec::new(), last: now });
            self.streams.len() - 1
        });
        let Some(stream) = self.streams.get_mut(index) else { return };
        stream.last = now;
        let first = stream.seqs.highest().is_none();
        let seq = stream.seqs.extend(number).0;
        if first {
            stream.base = seq;
        }
        if seq >= stream.base + Self::MAX_SPAN {
            stream.arrivals.clear();
            stream.base = seq;
        }
        // What was told as lost stays lost: senders take the first word for it.
        let Some(index) = seq.checked_sub(stream.base) else { return };
        let index = index as usize;
        if stream.arrivals.len() <= index {
            stream.arrivals.resize(index + 1, None);
        }
        if let Some(arrival) = stream.arrivals.get_mut(index) {
            arrival.get_or_insert(now);
        }
        self.due.get_or_insert(now + Self::INTERVAL);
    }

    /// When [`Self::poll_feedback`] has something to tell.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Writes feedback when it is due, a message for each stream. `Err`: the rest did not fit, call again with a fresh
    /// buffer.
    pub fn poll_feedback(
        &mut self,
        now: Instant,
        sender: Ssrc,
        writer: &mut CompoundWriter<'_>,
    ) -> Result<(), BufferTooSmall> {
        if self.due.is_none_or(|due| now < due) {
            return Ok(());
        }
        let timestamp = duration_to_compact(now.saturating_duration_since(self.origin));
        for stream in &mut self.streams {
            while !stream.arrivals.is_empty() {
                let block = CcfbBlock {
                    ssrc: stream.ssrc,
                    begin: Seq16(stream.base as u16),
                    arrivals: &stream.arrivals,
                };
                let before = |at: Instant| now.saturating_duration_since(at);
                let covered = writer.ccfb(sender, timestamp, &block, before)?;
                stream.arrivals.drain(..covered);
                stream.base += covered as u64;
            }
        }
        self.due = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::test_packets::{ms, start},
        wire::rtcp::{Message, messages},
    };

    const SENDER: Ssrc = Ssrc(1);

    /// What the feedback that is due says: stream, number, and how long before the report it came, in ms.
    fn told(
        recorder: &mut CcfbRecorder,
        now: Instant,
        size: usize,
    ) -> Vec<(u32, u16, Option<u64>)> {
        let mut told = Vec::new();
        loop {
            let mut bytes = vec![0; size];
            let mut writer = CompoundWriter::new(&mut bytes);
            let rest = recorder.poll_feedback(now, SENDER, &mut writer).is_err();
            let len = writer.len();
            for message in messages(&bytes[..len]) {
                let Ok(Message::Ccfb(feedback)) = message else { panic!("{message:?}") };
                assert_eq!(feedback.sender, SENDER);
                told.extend(feedback.reports().map(|report| {
                    let before = report.arrival.map(|arrival| arrival.before.unwrap());
                    (report.ssrc.0, report.seq.0, before.map(|it| it.as_millis() as u64))
                }));
            }
            if !rest {
                return told;
            }
        }
    }

    #[test]
    fn each_packet_is_told_once_with_its_time() {
        let now = start();
        let mut recorder = CcfbRecorder::new(now);
        assert_eq!(recorder.poll_timeout(), None);
        for (at, ssrc, number) in [(0, 7, 65_534), (10, 7, 65_535), (20, 9, 100), (30, 7, 1)] {
            recorder.record(now + ms(at), Ssrc(ssrc), Seq16(number));
        }
        assert_eq!(recorder.poll_timeout(), Some(now + ms(100)));
        assert_eq!(told(&mut recorder, now + ms(99), 1_000), []);
        let first = told(&mut recorder, now + ms(100), 1_000);
        let near = |got: Option<u64>, want: u64| got.is_some_and(|got| want - got <= 1);
        assert_eq!(first.len(), 5, "{first:?}");
        assert!(near(first[0].2, 100) && (first[0].0, first[0].1) == (7, 65_534), "{first:?}");
        assert!(near(first[1].2, 90), "{first:?}");
        assert_eq!(first[2], (7, 0, None), "missing");
        assert!(near(first[3].2, 70), "{first:?}");
        assert!(near(first[4].2, 80) && (first[4].0, first[4].1) == (9, 100), "{first:?}");
        assert_eq!(recorder.poll_timeout(), None);

        recorder.record(now + ms(200), Ssrc(7), Seq16(0));
        recorder.record(now + ms(210), Ssrc(7), Seq16(2));
        let second = told(&mut recorder, now + ms(310), 1_000);
        assert_eq!(second.len(), 1, "told as lost stays lost: {second:?}");
        assert_eq!((second[0].0, second[0].1), (7, 2));
    }

    #[test]
    fn small_buffers_and_jumps_of_numbers_cost_nothing_but_messages() {
        let now = start();
        let mut recorder = CcfbRecorder::new(now);
        for number in 0..300 {
            recorder.record(now, Ssrc(7), Seq16(number));
        }
        let all = told(&mut recorder, now + ms(100), 120);
        let numbers: Vec<_> = all.iter().map(|(_, number, _)| *number).collect();
        assert_eq!(numbers, (0..300).collect::<Vec<_>>());

        recorder.record(now, Ssrc(7), Seq16(300));
        recorder.record(now, Ssrc(7), Seq16(20_000));
        let after = told(&mut recorder, now + ms(300), 1_000);
        assert_eq!(after.iter().map(|it| it.1).collect::<Vec<_>>(), [20_000], "it starts afresh");
        for ssrc in 0..200 {
            recorder.record(now + ms(400 + u64::from(ssrc)), Ssrc(ssrc), Seq16(1));
        }
        assert_eq!(recorder.streams.len(), CcfbRecorder::MAX_STREAMS);
        let latest = told(&mut recorder, now + ms(700), 1_000);
        assert!(latest.iter().all(|it| it.0 >= 200 - 64), "the longest silent are forgotten");
    }
}
