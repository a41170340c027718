//! One SSRC of a publisher and its retransmissions.

use std::time::Instant;

use super::{DropReason, NackGenerator, ReceptionStats};
use crate::{
    cache::{Seen, SeqWindow},
    rtp::{MediaTime, RtpTs32, Seq16, SeqExtender, SeqNo, Ssrc, TimeExtender},
    wire::{NtpTime, RtpHeader, rtcp::ReportBlock},
};

/// Numbers of one stream, extended once; what is missing of it; what a receiver report says about it.
#[derive(Debug)]
pub struct IngressStream {
    ssrc: Ssrc,
    generation: u8,
    clock_rate: u32,
    /// Added to extended sequence numbers: a multiple of 2^16 that puts this stream above its predecessor.
    base: u64,
    seqs: SeqExtender,
    times: TimeExtender,
    window: SeqWindow,
    /// The number that would prove a restart: one above a packet that was far too old (RFC 3550 appendix A.1).
    restart: Option<Seq16>,
    reception: ReceptionStats,
    nack: NackGenerator,
    rtx: Option<RtxStream>,
}

#[derive(Debug)]
struct RtxStream {
    seqs: SeqExtender,
    reception: ReceptionStats,
}

/// Where a packet stands in its stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Placed {
    pub(super) seq: SeqNo,
    pub(super) time: MediaTime,
}

impl IngressStream {
    /// From its first packet on. `after` is the highest number of the stream that had the encoding before.
    pub(super) fn new(
        now: Instant,
        header: &RtpHeader,
        clock_rate: u32,
        generation: u8,
        after: Option<SeqNo>,
    ) -> Self {
        // A whole cycle is left free, so that packets from before the first one are above the predecessor too.
        let base = after.map_or(0, |highest| ((highest.0 >> 16) + 1) << 16);
        let first = SeqExtender::default().peek(header.seq);
        Self {
            ssrc: header.ssrc,
            generation,
            clock_rate,
            base,
            seqs: SeqExtender::default(),
            times: TimeExtender::default(),
            window: SeqWindow::default(),
            restart: None,
            reception: ReceptionStats::new(now, header.ssrc, first, clock_rate),
            nack: NackGenerator::default(),
            rtx: None,
        }
    }

    /// The SSRC of the media.
    pub fn ssrc(&self) -> Ssrc {
        self.ssrc
    }

    /// Counts the streams that the encoding had before.
    pub fn generation(&self) -> u8 {
        self.generation
    }

    /// Highest number seen.
    pub fn highest(&self) -> Option<SeqNo> {
        self.seqs.highest().map(|seq| seq.plus(self.base))
    }

    /// What is missing.
    pub fn nack(&mut self) -> &mut NackGenerator {
        &mut self.nack
    }

    /// Hertz of its timestamps.
    pub fn clock_rate(&self) -> u32 {
        self.clock_rate
    }

    /// How the media was received.
    pub fn reception(&self) -> &ReceptionStats {
        &self.reception
    }

    /// When feedback about lost packets is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.nack.poll_timeout()
    }

    /// Takes a media packet.
    pub(super) fn handle_rtp(
        &mut self,
        now: Instant,
        header: &RtpHeader,
    ) -> Result<Placed, DropReason> {
        let seq = self.seqs.peek(header.seq);
        self.check(seq)?;
        self.seqs.commit(seq);
        self.window.insert(seq);
        self.restart = None;
        self.reception.handle_packet(now, seq, header.timestamp);
        Ok(self.place(now, seq, header.timestamp))
    }

    /// Takes a retransmission of the packet that had `original` as its number (RFC 4588 section 4).
    pub(super) fn handle_rtx(
        &mut self,
        now: Instant,
        header: &RtpHeader,
        original: Seq16,
    ) -> Result<Placed, DropReason> {
        self.count_rtx(now, header);
        self.handle_repaired(now, header, original)
    }

    /// Takes a packet that was lost and came back by other means: to receiver reports it stays lost.
    pub(super) fn handle_repaired(
        &mut self,
        now: Instant,
        header: &RtpHeader,
        original: Seq16,
    ) -> Result<Placed, DropReason> {
        let seq = self.seqs.peek(original);
        self.check(seq)?;
        self.seqs.commit(seq);
        self.window.insert(seq);
        Ok(self.place(now, seq, header.timestamp))
    }

    /// A packet of the retransmission stream that repairs nothing still counts as received.
    pub(super) fn count_rtx(&mut self, now: Instant, header: &RtpHeader) {
        if self.rtx.as_ref().is_none_or(|rtx| rtx.reception.ssrc() != header.ssrc) {
            let first = SeqExtender::default().peek(header.seq);
            let reception = ReceptionStats::new(now, header.ssrc, first, self.clock_rate);
            self.rtx = Some(RtxStream { seqs: SeqExtender::default(), reception });
        }
        if let Some(rtx) = &mut self.rtx {
            let seq = rtx.seqs.extend(header.seq);
            rtx.reception.handle_packet(now, seq, header.timestamp);
        }
    }

    /// Whether a packet that was refused as too old shows, with the one before it, that the sender restarted its
    /// numbers. The stream then has to be replaced.
    pub(super) fn is_restart(&mut self, seq: Seq16) -> bool {
        let next = Seq16(seq.0.wrapping_add(1));
        self.restart.replace(next) == Some(seq)
    }

    /// A sender report of the media or of its retransmissions. Returns the media time of its timestamp when it was
    /// about the media.
    pub(super) fn handle_sender_report(
        &mut self,
        now: Instant,
        ssrc: Ssrc,
        ntp: NtpTime,
        timestamp: RtpTs32,
    ) -> Option<MediaTime> {
        if ssrc == self.ssrc {
            self.reception.handle_sender_report(now, ntp);
            // A copy: a report that is ahead of the packets must not move what they are extended against.
            let mut times = self.times;
            return Some(times.extend(timestamp));
        }
        if let Some(rtx) = self.rtx.as_mut().filter(|rtx| rtx.reception.ssrc() == ssrc) {
            rtx.reception.handle_sender_report(now, ntp);
        }
        None
    }

    /// The SSRC of its retransmissions, once one arrived.
    pub fn rtx_ssrc(&self) -> Option<Ssrc> {
        self.rtx.as_ref().map(|rtx| rtx.reception.ssrc())
    }

    /// Blocks of a receiver report: the media's, and that of its retransmissions.
    pub(super) fn report_blocks(&mut self, now: Instant) -> impl Iterator<Item = ReportBlock> + '_ {
        let media = self.reception.report_block(now);
        let rtx = self.rtx.as_mut().map(|rtx| rtx.reception.report_block(now));
        std::iter::once(media).chain(rtx)
    }

    /// How many of them there are.
    pub(super) fn reported(&self) -> usize {
        1 + usize::from(self.rtx.is_some())
    }

    fn check(&self, seq: SeqNo) -> Result<(), DropReason> {
        match self.window.check(seq) {
            Seen::No => Ok(()),
            Seen::Yes => Err(DropReason::Duplicate),
            Seen::TooOld => Err(DropReason::TooOld),
        }
    }

    fn place(&mut self, now: Instant, seq: SeqNo, timestamp: RtpTs32) -> Placed {
        let placed = Placed { seq: seq.plus(self.base), time: self.times.extend(timestamp) };
        self.nack.handle_packet(now, placed.seq);
        placed
    }
}
