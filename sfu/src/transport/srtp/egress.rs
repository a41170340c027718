//! Sealing what leaves.

use super::{RTCP_ENCRYPTED, SrtpError, SrtpKeys, SrtpProfile, cipher::Cipher};
use crate::{prefetch::prefetch, rtp::SeqNo};

/// Seals packets to one peer. Holds expanded keys and one counter; nothing per SSRC. In this order: what a packet of media needs is one
/// line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct SrtpEgress {
    profile: SrtpProfile,
    rtp: Cipher,
    rtcp: Cipher,
    /// One counter for all SSRCs of the key: numbers of one SSRC then have gaps, which no receiver minds.
    rtcp_index: u32,
}

const _: () = assert!(std::mem::offset_of!(SrtpEgress, rtcp) <= 64);

impl SrtpEgress {
    /// Expands the keys.
    pub fn new(keys: &SrtpKeys) -> Result<Self, SrtpError> {
        let (rtp, rtcp) = keys.ciphers()?;
        Ok(Self { profile: keys.profile(), rtp, rtcp, rtcp_index: 0 })
    }

    /// What sealing a packet needs; the expanded key itself belongs to the library.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.profile);
    }

    /// What sealing RTCP needs besides.
    #[inline(always)]
    pub(crate) fn prefetch_rtcp(&self) {
        prefetch(&self.rtcp_index);
    }

    /// The profile, which tells the room that sealing needs.
    pub fn profile(&self) -> SrtpProfile {
        self.profile
    }

    /// Seals an RTP packet in place. `packet` is header, payload and [`SrtpProfile::rtp_overhead`] bytes of room, no more;
    /// all of it is then to be sent. `seq` extends the sequence number in the header, from rollover 0 (see module).
    #[inline(always)]
    pub fn seal_rtp(
        &self,
        seq: SeqNo,
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<usize, SrtpError> {
        let ssrc = super::read_u32(packet, 8).ok_or(SrtpError::TooShort)?;
        debug_assert_eq!(packet.get(2..4), Some(&seq.seq16().0.to_be_bytes()[..]));
        self.rtp.seal_rtp(ssrc, seq.0, header_len, packet)?;
        Ok(packet.len())
    }

    /// Seals an RTCP compound in place. `packet` is the compound and [`SrtpProfile::rtcp_overhead`] bytes of room, no more;
    /// all of it is then to be sent.
    pub fn seal_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let index = self.rtcp_index + 1;
        if index >= RTCP_ENCRYPTED {
            return Err(SrtpError::Exhausted);
        }
        self.rtcp.seal_rtcp(index, packet)?;
        self.rtcp_index = index;
        Ok(packet.len())
    }
}
