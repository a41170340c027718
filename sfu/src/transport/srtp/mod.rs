//! SRTP and SRTCP (RFC 3711, RFC 7714), sealed and opened in place, without allocation.
//!
//! Ours because it is the hot path: keys are expanded once per transport and direction ([`SrtpEgress`] can be borrowed
//! alone, sealing takes `&self`), rollover comes from the extended sequence number that egress keeps anyway, and ingress
//! keeps one small window per SSRC. A receiver starts at rollover counter 0: egress streams must start below sequence
//! number 65,536, better below 32,768, so that a lost first packet does not hide a wrap.

mod cipher;
mod egress;
mod ingress;
mod keys;
mod replay;
#[cfg(test)]
mod tests;

pub use egress::SrtpEgress;
pub use ingress::SrtpIngress;
pub use keys::SrtpKeys;

/// Protection profile agreed on by DTLS-SRTP (RFC 5764 section 4.1.2, RFC 7714 section 14.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum SrtpProfile {
    /// AEAD_AES_128_GCM.
    AeadAes128Gcm,
    /// AEAD_AES_256_GCM.
    AeadAes256Gcm,
    /// AES_CM_128_HMAC_SHA1_80.
    AesCm128HmacSha1_80,
}

impl SrtpProfile {
    /// Bytes that sealing adds to an RTP packet.
    pub const fn rtp_overhead(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => GCM_TAG_LEN,
            Self::AesCm128HmacSha1_80 => CM_TAG_LEN,
        }
    }

    /// Bytes that sealing adds to an RTCP packet: tag and index word.
    pub const fn rtcp_overhead(self) -> usize {
        self.rtp_overhead() + RTCP_INDEX_LEN
    }

    /// Bytes of a master key.
    pub const fn key_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AesCm128HmacSha1_80 => 16,
            Self::AeadAes256Gcm => 32,
        }
    }

    /// Bytes of a master salt.
    pub const fn salt_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
            Self::AesCm128HmacSha1_80 => 14,
        }
    }
}

impl std::fmt::Display for SrtpProfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
            Self::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
        })
    }
}

/// Why a packet was not sealed or opened; counted, never logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum SrtpError {
    /// Shorter than its headers say, or without room for the tag.
    #[error("packet too short")]
    TooShort,
    /// The tag does not match: tampered with, or other keys.
    #[error("authentication failed")]
    Authentication,
    /// Seen before.
    #[error("packet was replayed")]
    Replayed,
    /// Older than the replay window.
    #[error("packet is older than the replay window")]
    TooOld,
    /// SRTCP without encryption, which WebRTC never sends.
    #[error("SRTCP packet is not encrypted")]
    NotEncrypted,
    /// The SRTCP index of this key is used up (RFC 3711 section 9.2).
    #[error("key is exhausted")]
    Exhausted,
    /// Keys of a length that the profile does not have, or SRTP is not up yet.
    #[error("no keys")]
    NoKeys,
}

const GCM_TAG_LEN: usize = 16;
const CM_TAG_LEN: usize = 10;
const RTCP_INDEX_LEN: usize = 4;
/// E flag of the SRTCP index word (RFC 3711 section 3.4).
const RTCP_ENCRYPTED: u32 = 1 << 31;
/// Bytes of an RTCP packet that stay in the clear: first header and sender SSRC.
const RTCP_HEADER_LEN: usize = 8;

/// Length of an RTP header with CSRCs and extension; `None` when the packet is shorter.
fn rtp_header_len(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let mut len = 12 + 4 * usize::from(first & 0x0f);
    if first & 0x10 != 0 {
        let words = packet.get(len + 2..len + 4)?;
        len += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
    }
    (len <= packet.len()).then_some(len)
}

fn read_u32(packet: &[u8], at: usize) -> Option<u32> {
    packet.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}
