//! Opening what arrives.

use super::{SrtpError, SrtpKeys, SrtpProfile, cipher::Cipher, replay::ReplayWindow};
use crate::prefetch::prefetch;

/// SSRCs remembered for RTP and as many for RTCP. Only authenticated packets make an entry, so only the peer itself can fill
/// the table; when it is full the one silent for longest is forgotten, and counted.
const MAX_SSRCS: usize = 256;

/// Opens packets of one peer: decrypts in place, refuses replays, estimates rollover per SSRC. In this order: whoever sends RTCP alone has
/// it all together.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct SrtpIngress {
    rtcp: Cipher,
    rtcp_streams: Streams,
    profile: SrtpProfile,
    rtp: RtpCipher,
    rtp_streams: Streams,
}

/// What opens RTP. Who only listens and looks sends none: its keys stay as they are until a packet comes.
#[derive(Debug)]
enum RtpCipher {
    Master(SrtpKeys),
    Expanded(Cipher),
}

impl RtpCipher {
    fn expanded(&mut self) -> Result<&Cipher, SrtpError> {
        if let Self::Master(keys) = self {
            *self = Self::Expanded(keys.rtp()?);
        }
        match self {
            Self::Expanded(cipher) => Ok(cipher),
            Self::Master(_) => Err(SrtpError::NoKeys),
        }
    }
}

impl SrtpIngress {
    /// Expands the keys of RTCP, and those of RTP with the first packet of it.
    pub fn new(keys: &SrtpKeys) -> Result<Self, SrtpError> {
        Ok(Self {
            profile: keys.profile(),
            rtp: RtpCipher::Master(keys.clone()),
            rtcp: keys.rtcp()?,
            rtp_streams: Streams::default(),
            rtcp_streams: Streams::default(),
        })
    }

    /// The profile.
    pub fn profile(&self) -> SrtpProfile {
        self.profile
    }

    /// What [`Self::unprotect_rtcp`] looks at.
    #[inline(always)]
    pub(crate) fn prefetch_rtcp(&self) {
        prefetch(&self.rtcp);
        prefetch(&self.rtcp_streams.packets);
    }

    /// What depends on that, once it is here.
    #[inline(always)]
    pub(crate) fn prefetch_rtcp_pointees(&self) {
        if let Some(stream) = self.rtcp_streams.known.first() {
            prefetch(stream);
        }
    }

    /// Opens an RTP packet in place. Returns the length of the plain packet, header included. After an error the bytes are
    /// undefined and no state has changed.
    pub fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let header_len = super::rtp_header_len(packet).ok_or(SrtpError::TooShort)?;
        let ssrc = super::read_u32(packet, 8).ok_or(SrtpError::TooShort)?;
        let seq = u16::from_be_bytes([packet[2], packet[3]]);
        let slot = self.rtp_streams.find(ssrc);
        let index = match slot {
            Some(slot) => {
                let window = &self.rtp_streams.known[slot].window;
                let index = window.estimate(seq);
                window.check(index)?;
                index
            }
            None => u64::from(seq),
        };
        let len = self.rtp.expanded()?.open_rtp(ssrc, index, header_len, packet)?;
        self.rtp_streams.commit(slot, ssrc, index);
        Ok(len)
    }

    /// Opens an RTCP compound in place. Returns the length of the plain compound. After an error the bytes are undefined and
    /// no state has changed.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let ssrc = super::read_u32(packet, 4).ok_or(SrtpError::TooShort)?;
        let index = u64::from(self.rtcp.rtcp_word(packet)? & !super::RTCP_ENCRYPTED);
        let slot = self.rtcp_streams.find(ssrc);
        if let Some(slot) = slot {
            self.rtcp_streams.known[slot].window.check(index)?;
        }
        let len = self.rtcp.open_rtcp(packet)?;
        self.rtcp_streams.commit(slot, ssrc, index);
        Ok(len)
    }

    /// SSRCs that were forgotten because there were too many.
    pub fn forgotten_ssrcs(&self) -> u64 {
        self.rtp_streams.forgotten + self.rtcp_streams.forgotten
    }
}

/// Replay windows by SSRC. A peer has a handful, in bursts of one: the last slot is tried first, then a scan of 4-byte keys
/// beats hashing a key that the peer chose.
#[derive(Debug, Default)]
#[repr(C)]
struct Streams {
    known: Vec<Stream>,
    last_slot: usize,
    packets: u64,
    /// The same SSRCs as in `known`, close together.
    ssrcs: Vec<u32>,
    forgotten: u64,
}

/// In this order: who sends one packet a second has none of it near, and what each packet looks at is one line or two.
#[derive(Debug)]
#[repr(C)]
struct Stream {
    ssrc: u32,
    last_used: u64,
    window: ReplayWindow,
}

impl Streams {
    fn find(&self, ssrc: u32) -> Option<usize> {
        if self.known.get(self.last_slot).is_some_and(|stream| stream.ssrc == ssrc) {
            return Some(self.last_slot);
        }
        self.ssrcs.iter().position(|&known| known == ssrc)
    }

    fn commit(&mut self, slot: Option<usize>, ssrc: u32, index: u64) {
        let slot = slot.unwrap_or_else(|| self.insert(ssrc));
        self.packets += 1;
        self.last_slot = slot;
        let stream = &mut self.known[slot];
        stream.last_used = self.packets;
        stream.window.commit(index);
    }

    fn insert(&mut self, ssrc: u32) -> usize {
        let stream = Stream { ssrc, last_used: 0, window: ReplayWindow::default() };
        if self.ssrcs.len() < MAX_SSRCS {
            if self.known.is_empty() {
                // Of feedback there is mostly one.
                self.known.reserve_exact(1);
            }
            self.ssrcs.push(ssrc);
            self.known.push(stream);
            return self.ssrcs.len() - 1;
        }
        let used = self.known.iter().enumerate().min_by_key(|(_, stream)| stream.last_used);
        let oldest = used.map_or(0, |(slot, _)| slot);
        self.forgotten += 1;
        self.ssrcs[oldest] = ssrc;
        self.known[oldest] = stream;
        oldest
    }
}
