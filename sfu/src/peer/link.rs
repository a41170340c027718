//! The last step of everything that leaves to a peer: transport-wide number, send time, SRTP.

use std::time::Instant;

use super::{Congestion, Counters, DropReason, Outbox, Waiting, outbox::MAX_PACKET};
use crate::{
    egress::Written,
    rtp::DataSize,
    transport::{Protocol, SrtpEgress, Transport},
    wire::{
        AbsSendTime, BufferTooSmall, patch_abs_send_time, patch_transport_cc, rtcp::CompoundWriter,
    },
};

/// A connected peer's way out, borrowed for one slice.
#[derive(Debug)]
pub(crate) struct Link<'a> {
    /// There are no datagrams: the bytes go into a connection.
    pub(crate) tcp: bool,
    pub(crate) srtp: &'a mut SrtpEgress,
    /// Bytes that sealing adds to an RTP packet.
    pub(crate) overhead: usize,
    /// Transport-wide number of the next packet: one counter per transport.
    pub(crate) next_number: &'a mut u16,
    pub(crate) congestion: &'a mut Congestion,
    /// Of the slice.
    pub(crate) now: Instant,
    /// The same for those without transport-wide numbers.
    pub(crate) send_time: AbsSendTime,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) counters: &'a mut Counters,
}

impl<'a> Link<'a> {
    /// Out of `transport`, if that is connected, at the time of this slice.
    #[inline(always)]
    pub(crate) fn new(
        transport: &'a mut Transport,
        (next_number, congestion): (&'a mut u16, &'a mut Congestion),
        (now, send_time): (Instant, AbsSendTime),
        outbox: &'a mut Outbox,
        counters: &'a mut Counters,
    ) -> Option<Self> {
        let path = transport.egress_path()?;
        let tcp = path.protocol == Protocol::Tcp;
        outbox.aim(path);
        let srtp = transport.srtp_egress()?;
        let overhead = srtp.profile().rtp_overhead();
        let link =
            Self { tcp, srtp, overhead, next_number, congestion, now, send_time, outbox, counters };
        Some(link)
    }
}

impl Link<'_> {
    /// Room for a media packet before it is sealed.
    #[inline(always)]
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let len = MAX_PACKET - self.overhead;
        self.outbox.space().get_mut(..len).unwrap_or_default()
    }

    /// Bytes that wait to be sent, to whomever.
    pub(crate) fn waiting(&self) -> usize {
        self.outbox.pending()
    }

    /// Puts RTP padding (RFC 3550 section 5.1) behind what was written into [`Self::space`], where there is room and it is of
    /// use: a connection has no datagrams that could be of one size.
    pub(crate) fn pad(&mut self, written: &mut Written, count: u8) {
        if self.tcp {
            return;
        }
        let end = written.len + usize::from(count);
        let from = written.len;
        let space = self.space();
        let Some([between @ .., last]) = space.get_mut(from..end) else { return };
        between.fill(0);
        *last = count;
        if let Some(first) = space.first_mut() {
            *first |= PADDING_BIT;
        }
        written.len = end;
    }

    /// Seals what was written into [`Self::space`] and puts it on its way. Returns its size, `None` when it cannot be
    /// sealed.
    #[inline(always)]
    pub(crate) fn seal(&mut self, written: &Written) -> Option<usize> {
        let len = written.len + self.overhead;
        let packet = self.outbox.space().get_mut(..len)?;
        let numbered = written.transport_cc.is_some() || self.congestion.numbers_all();
        let number = numbered.then_some(*self.next_number);
        if let Some(number) = number {
            *self.next_number = number.wrapping_add(1);
        }
        if let Some((at, number)) = written.transport_cc.zip(number) {
            patch_transport_cc(packet, at, number);
        }
        if let Some(at) = written.abs_send_time {
            patch_abs_send_time(packet, at, self.send_time);
        }
        self.srtp.seal_rtp(written.seq, written.header_len, packet).ok()?;
        self.outbox.commit(len);
        let stream = (written.ssrc, written.seq.seq16());
        self.congestion.handle_sent(self.now, stream, number, DataSize::from_bytes(len as u64));
        Some(len)
    }

    /// Has a packet wait for the pacer, behind those that wait already. `false`: too much waits, it is dropped.
    pub(crate) fn defer(&mut self, waiting: Waiting) -> bool {
        let waits = self.congestion.defer(waiting);
        if !waits {
            self.counters.drop(DropReason::Pacer);
        }
        waits
    }

    /// Sends what `write` writes as RTCP, in as many packets as it takes: `write` is called again while it says that
    /// its rest did not fit.
    pub(crate) fn send_rtcp(
        &mut self,
        mut write: impl FnMut(&mut CompoundWriter<'_>) -> Result<(), BufferTooSmall>,
    ) {
        let overhead = self.srtp.profile().rtcp_overhead();
        for _ in 0..MAX_COMPOUNDS {
            let space = self.outbox.space().get_mut(..MAX_RTCP).unwrap_or_default();
            let mut writer = CompoundWriter::new(space);
            let rest = write(&mut writer).is_err();
            let len = writer.len();
            if len == 0 {
                return;
            }
            let Some(packet) = self.outbox.space().get_mut(..len + overhead) else { return };
            if self.srtp.seal_rtcp(packet).is_ok() {
                self.outbox.commit(len + overhead);
            }
            if !rest {
                return;
            }
        }
    }
}

/// Of the first byte of an RTP header.
const PADDING_BIT: u8 = 0x20;

/// Plain bytes of one compound: with SRTP, UDP and IPv6 below the 1,280 bytes that every path carries.
pub(crate) const MAX_RTCP: usize = 1_180;

/// Compounds of one call. What is over is left to the caller.
const MAX_COMPOUNDS: usize = 8;
