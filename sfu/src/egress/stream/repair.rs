//! Repair packets of a subscription: when they are made is the caller's choice.

use std::time::Duration;

use super::{EgressStream, WriteError, Written, place_for_send_time};
use crate::{
    egress::{RepairShare, protection::Protection},
    rtp::{Pt, SeqNo, Ssrc},
    wire::{ExtensionValues, RtpHeaderFields},
};

/// The stream of repair packets (FlexFEC) of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FecStream {
    /// Its SSRC.
    pub ssrc: Ssrc,
    /// Number of its next packet: at first below 2^15 where the SSRC was never used.
    pub next: SeqNo,
}

impl EgressStream {
    /// Payload type of repair packets; `None`: the subscriber takes none any more.
    pub fn set_fec_format(&mut self, pt: Option<Pt>) {
        self.fec_pt = pt;
        if !self.can_be_protected() {
            self.set_protection(None, Duration::ZERO);
        }
    }

    /// Whether repair packets were negotiated.
    pub fn can_be_protected(&self) -> bool {
        self.fec.is_some() && self.fec_pt.is_some()
    }

    /// Protects what leaves from now on, as far as this share pays for it; `None`: nothing. A group of packets lasts up to `wait`
    /// if losses in a row can be repaired then.
    pub fn set_protection(&mut self, share: Option<RepairShare>, wait: Duration) {
        let share = share.filter(|_| self.can_be_protected());
        match (&mut self.protection, share) {
            (Some(protection), Some(share)) => protection.set_share(share, wait),
            (protection, share) => {
                *protection = share.map(|share| Box::new(Protection::new(share, wait)));
            }
        }
        self.marks.protected = self.protection.is_some();
    }

    /// Whether what leaves is protected.
    pub fn is_protected(&self) -> bool {
        self.marks.protected
    }

    /// A packet of the media leaves, `ends_picture` with its marker: its bytes before transport-wide number and send time are
    /// written, which receivers take as zeros. Whether [`Self::write_repair`] has something now.
    pub fn protect(&mut self, packet: &[u8], ends_picture: bool) -> bool {
        let protection = self.protection.as_mut();
        protection.is_some_and(|protection| protection.add(packet, ends_picture))
    }

    /// Writes the next repair packet; `None` when there is none left.
    pub fn write_repair(&mut self, out: &mut [u8]) -> Option<Result<Written, WriteError>> {
        let (Some(fec), Some(pt)) = (&mut self.fec, self.fec_pt) else { return None };
        let protection = self.protection.as_mut()?;
        let timestamp = protection.latest();
        let seq = fec.next;
        let fields =
            RtpHeaderFields { marker: false, pt, seq: seq.seq16(), timestamp, ssrc: fec.ssrc };
        let values = ExtensionValues {
            mid: Some(self.mid),
            transport_cc: Some(0),
            abs_send_time: place_for_send_time(&self.extensions),
            ..ExtensionValues::default()
        };
        let Ok(header) = fields.write(out, &values, &self.extensions) else {
            return Some(Err(WriteError::TooLarge));
        };
        let space = out.get_mut(header.len..).unwrap_or_default();
        let len = match protection.write(self.ssrc, space)? {
            Ok(len) => header.len + len,
            Err(_) => return Some(Err(WriteError::TooLarge)),
        };
        fec.next = seq.plus(1);
        Some(Ok(Written {
            len,
            header_len: header.len,
            ssrc: fec.ssrc,
            seq,
            transport_cc: header.transport_cc,
            abs_send_time: header.abs_send_time,
        }))
    }
}
