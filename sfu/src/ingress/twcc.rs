//! Arrivals by transport-wide number, told back to the sender
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    rtp::{Seq16, SeqExtender, Ssrc},
    wire::{
        BufferTooSmall,
        rtcp::{ArrivalTick, CompoundWriter, TransportFeedbackFields},
    },
};

/// Notes arrivals on one transport and writes feedback about them.
#[derive(Debug)]
pub struct TwccRecorder {
    /// Tick 0.
    origin: Instant,
    seqs: SeqExtender,
    /// Number of `arrivals[0]`: what was not told yet.
    base: u64,
    arrivals: VecDeque<Option<ArrivalTick>>,
    /// Any stream of the transport.
    media: Ssrc,
    feedback_count: u8,
    /// When feedback is due; `None` while there is nothing to tell.
    due: Option<Instant>,
    /// Packets noted since the last feedback.
    noted: u32,
}

impl TwccRecorder {
    /// mediasoup's figure: senders build their estimates from it.
    pub const INTERVAL: Duration = Duration::from_millis(100);
    /// At a high rate, so that a message does not grow beyond a datagram and estimates follow sooner.
    pub const FAST_INTERVAL: Duration = Duration::from_millis(50);
    /// Packets in one interval from which the fast one counts: about 5 Mb/s.
    const FAST_PACKETS: u32 = 50;
    /// Numbers kept at most. A sender that jumps further starts afresh.
    const MAX_SPAN: u64 = 4_096;

    /// `origin` is any moment before the first packet.
    pub fn new(origin: Instant) -> Self {
        Self {
            origin,
            seqs: SeqExtender::default(),
            base: 0,
            arrivals: VecDeque::new(),
            media: Ssrc(0),
            feedback_count: 0,
            due: None,
            noted: 0,
        }
    }

    /// A packet of stream `media` arrived with this transport-wide number.
    pub fn record(&mut self, now: Instant, media: Ssrc, number: u16) {
        let first = self.seqs.highest().is_none();
        let seq = self.seqs.extend(Seq16(number)).0;
        if first {
            self.base = seq;
        }
        if seq >= self.base + Self::MAX_SPAN {
            self.arrivals.clear();
            self.base = seq;
        }
        // What was told as lost stays lost: senders take the first word for it.
        let Some(index) = seq.checked_sub(self.base) else { return };
        let index = index as usize;
        if self.arrivals.len() <= index {
            self.arrivals.resize(index + 1, None);
        }
        let micros = now.saturating_duration_since(self.origin).as_micros() as i64;
        let arrival = &mut self.arrivals[index];
        if arrival.is_none() {
            *arrival = Some(ArrivalTick(micros / ArrivalTick::MICROS));
        }
        self.media = media;
        self.noted += 1;
        let due = *self.due.get_or_insert(now + Self::INTERVAL);
        if self.noted == Self::FAST_PACKETS {
            self.due = Some(due.min(now.max(due - (Self::INTERVAL - Self::FAST_INTERVAL))));
        }
    }

    /// When [`Self::poll_feedback`] has something to tell.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Writes feedback when it is due. `Err`: the rest did not fit, call again with a fresh buffer.
    pub fn poll_feedback(
        &mut self,
        now: Instant,
        sender: Ssrc,
        writer: &mut CompoundWriter<'_>,
    ) -> Result<(), BufferTooSmall> {
        if self.due.is_none_or(|due| now < due) {
            return Ok(());
        }
        while !self.arrivals.is_empty() {
            let fields = TransportFeedbackFields {
                sender,
                media: self.media,
                base_seq: self.base as u16,
                feedback_count: self.feedback_count,
            };
            let covered = writer.transport_cc(&fields, self.arrivals.make_contiguous())?;
            if covered == 0 {
                break;
            }
            self.feedback_count = self.feedback_count.wrapping_add(1);
            self.arrivals.drain(..covered);
            self.base += covered as u64;
        }
        self.arrivals.clear();
        self.due = None;
        self.noted = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
