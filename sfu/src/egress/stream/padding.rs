//! What is sent though nobody asked for it, to fill probes for bandwidth.

use std::time::{Duration, Instant};

use super::{EgressStream, Resend, WriteError, Written, place_for_send_time};
use crate::{
    rtp::{RtpTs32, SeqNo},
    wire::{ExtensionValues, RtpHeaderFields},
};

/// Of the first byte of an RTP header.
const PADDING_BIT: u8 = 0x20;
/// Padding repeats this many of the latest packets in turn. More of them repair more of what may be lost, fewer are
/// surer to be in the cache.
const PADDING_PACKETS: u64 = 16;

impl EgressStream {
    /// One of the latest packets, another one each time, for whoever needs something to send: see
    /// [`Self::write_resend`].
    pub fn latest(&mut self) -> Option<Resend> {
        self.rtx_ssrc?;
        let highest = self.sent.highest()?;
        self.padded = (self.padded + 1) % PADDING_PACKETS;
        let seq = SeqNo(highest.0.checked_sub(self.padded)?);
        Some(self.records.get(seq)?.resend(seq))
    }

    /// One of [`Self::latest`] has left. It counts as sent again: a NACK that it crosses is answered by it.
    pub fn note_repeat(&mut self, now: Instant, repeat: &Resend) {
        // It is no repair that has to wait for the one before.
        self.records.claim_resend(now, repeat.seq, Duration::ZERO);
    }

    /// Writes a packet that holds nothing but padding, on the SSRC of the retransmissions: a packet on that of the media
    /// would take a number from it. At most 255 bytes of `size` become padding (RFC 3550 section 5.1).
    pub fn write_padding(&mut self, size: usize, out: &mut [u8]) -> Result<Written, WriteError> {
        let (Some(pt), Some(ssrc)) = (self.formats.padding(), self.rtx_ssrc) else {
            return Err(WriteError::Format);
        };
        // Its time is that of nothing, and no receiver plays it.
        let timestamp = RtpTs32(0);
        let seq = self.rtx_seq;
        let fields = RtpHeaderFields { marker: false, pt, seq: seq.seq16(), timestamp, ssrc };
        let values = ExtensionValues {
            mid: Some(self.mid),
            transport_cc: Some(0),
            abs_send_time: place_for_send_time(&self.extensions),
            ..ExtensionValues::default()
        };
        let header =
            fields.write(out, &values, &self.extensions).map_err(|_| WriteError::TooLarge)?;
        let count = u8::try_from(size.max(1)).unwrap_or(u8::MAX);
        let len = header.len + usize::from(count);
        let padding = out.get_mut(header.len..len).ok_or(WriteError::TooLarge)?;
        padding.fill(0);
        if let Some(last) = padding.last_mut() {
            *last = count;
        }
        if let Some(first) = out.first_mut() {
            *first |= PADDING_BIT;
        }
        self.rtx_seq = seq.plus(1);
        Ok(Written {
            len,
            header_len: header.len,
            ssrc,
            seq,
            transport_cc: header.transport_cc,
            abs_send_time: header.abs_send_time,
        })
    }
}
