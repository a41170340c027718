//! One direction's session keys of RTP or of RTCP, expanded once.
//!
//! AES-CTR is `EncryptingKey::less_safe_encrypt`, which works in place on an expanded key without allocation; the
//! streaming API of the same crate allocates a context and copies the key at each packet.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey},
    constant_time::verify_slices_are_equal,
    hmac,
    iv::FixedLength,
};

use super::{
    CM_TAG_LEN, GCM_TAG_LEN, RTCP_ENCRYPTED, RTCP_HEADER_LEN, RTCP_INDEX_LEN, SrtpError,
    SrtpProfile,
};

/// Seals and opens packets in place. Knows nothing of replay or rollover.
pub(super) enum Cipher {
    /// RFC 7714.
    Gcm { key: LessSafeKey, salt: [u8; 12] },
    /// RFC 3711 section 4.1.1, with HMAC-SHA1 of section 4.2.1.
    Cm(Box<Cm>),
}

/// Boxed: 1,750 bytes, and few peers have it.
pub(super) struct Cm {
    key: EncryptingKey,
    salt: [u8; 14],
    auth: hmac::Key,
}

impl Cipher {
    /// From session keys, not master keys. `auth` is used by AES-CM alone.
    pub(super) fn new(
        profile: SrtpProfile,
        key: &[u8],
        salt: &[u8],
        auth: &[u8],
    ) -> Result<Self, SrtpError> {
        let gcm = |algorithm| -> Result<Self, SrtpError> {
            let key = UnboundKey::new(algorithm, key).map_err(|_| SrtpError::NoKeys)?;
            let salt = salt.try_into().map_err(|_| SrtpError::NoKeys)?;
            Ok(Self::Gcm { key: LessSafeKey::new(key), salt })
        };
        match profile {
            SrtpProfile::AeadAes128Gcm => gcm(&AES_128_GCM),
            SrtpProfile::AeadAes256Gcm => gcm(&AES_256_GCM),
            SrtpProfile::AesCm128HmacSha1_80 => Ok(Self::Cm(Box::new(Cm {
                key: UnboundCipherKey::new(&AES_128, key)
                    .and_then(EncryptingKey::ctr)
                    .map_err(|_| SrtpError::NoKeys)?,
                salt: salt.try_into().map_err(|_| SrtpError::NoKeys)?,
                auth: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, auth),
            }))),
        }
    }

    /// Bytes of the authentication tag.
    pub(super) fn tag_len(&self) -> usize {
        match self {
            Self::Gcm { .. } => GCM_TAG_LEN,
            Self::Cm(_) => CM_TAG_LEN,
        }
    }

    /// `packet` is header, payload and room for the tag. `index` is rollover counter and sequence number, 48 bits.
    pub(super) fn seal_rtp(
        &self,
        ssrc: u32,
        index: u64,
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<(), SrtpError> {
        let body_len = packet.len().checked_sub(self.tag_len()).ok_or(SrtpError::TooShort)?;
        if header_len > body_len {
            return Err(SrtpError::TooShort);
        }
        let (body, tag_room) = packet.split_at_mut(body_len);
        match self {
            Self::Gcm { key, salt } => {
                let (header, payload) = body.split_at_mut(header_len);
                let tag = key
                    .seal_in_place_separate_tag(
                        gcm_rtp_nonce(salt, ssrc, index),
                        Aad::from(header),
                        payload,
                    )
                    .map_err(|_| SrtpError::Authentication)?;
                // Of known length: two moves instead of a call.
                let room = tag_room.first_chunk_mut::<GCM_TAG_LEN>();
                let (Some(room), Some(tag)) = (room, tag.as_ref().first_chunk()) else {
                    return Err(SrtpError::TooShort);
                };
                *room = *tag;
            }
            Self::Cm(cm) => {
                let Cm { key, salt, auth } = &**cm;
                ctr(key, cm_iv(salt, ssrc, index), &mut body[header_len..])?;
                let tag = cm_tag(auth, body, rollover(index));
                tag_room.copy_from_slice(&tag[..CM_TAG_LEN]);
            }
        }
        Ok(())
    }

    /// Length of the packet without its tag. After an error the payload is undefined.
    pub(super) fn open_rtp(
        &self,
        ssrc: u32,
        index: u64,
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<usize, SrtpError> {
        let body_len = packet.len().checked_sub(self.tag_len()).ok_or(SrtpError::TooShort)?;
        if header_len > body_len {
            return Err(SrtpError::TooShort);
        }
        let (body, tag) = packet.split_at_mut(body_len);
        match self {
            Self::Gcm { key, salt } => {
                let (header, payload) = body.split_at_mut(header_len);
                key.open_in_place_separate_tag(
                    gcm_rtp_nonce(salt, ssrc, index),
                    Aad::from(header),
                    tag,
                    payload,
                )
                .map_err(|_| SrtpError::Authentication)?;
            }
            Self::Cm(cm) => {
                let Cm { key, salt, auth } = &**cm;
                let wanted = cm_tag(auth, body, rollover(index));
                verify_slices_are_equal(&wanted[..CM_TAG_LEN], tag)
                    .map_err(|_| SrtpError::Authentication)?;
                ctr(key, cm_iv(salt, ssrc, index), &mut body[header_len..])?;
            }
        }
        Ok(body_len)
    }

    /// `packet` is a compound and room for tag and index word.
    pub(super) fn seal_rtcp(&self, index: u32, packet: &mut [u8]) -> Result<(), SrtpError> {
        let body_len =
            packet.len().checked_sub(self.tag_len() + RTCP_INDEX_LEN).ok_or(SrtpError::TooShort)?;
        let ssrc = super::read_u32(&packet[..body_len], 4).ok_or(SrtpError::TooShort)?;
        let word = (RTCP_ENCRYPTED | index).to_be_bytes();
        let (body, trailer) = packet.split_at_mut(body_len);
        match self {
            Self::Gcm { key, salt } => {
                let (header, payload) = body.split_at_mut(RTCP_HEADER_LEN);
                let tag = key
                    .seal_in_place_separate_tag(
                        gcm_rtcp_nonce(salt, ssrc, index),
                        Aad::from(gcm_rtcp_aad(header, word)),
                        payload,
                    )
                    .map_err(|_| SrtpError::Authentication)?;
                let (tag_room, word_room) = trailer.split_at_mut(GCM_TAG_LEN);
                tag_room.copy_from_slice(tag.as_ref());
                word_room.copy_from_slice(&word);
            }
            Self::Cm(cm) => {
                let Cm { key, salt, auth } = &**cm;
                ctr(key, cm_iv(salt, ssrc, u64::from(index)), &mut body[RTCP_HEADER_LEN..])?;
                let tag = cm_tag(auth, body, word);
                let (word_room, tag_room) = trailer.split_at_mut(RTCP_INDEX_LEN);
                word_room.copy_from_slice(&word);
                tag_room.copy_from_slice(&tag[..CM_TAG_LEN]);
            }
        }
        Ok(())
    }

    /// The index word as it stands in the packet, E flag included.
    pub(super) fn rtcp_word(&self, packet: &[u8]) -> Result<u32, SrtpError> {
        let at = match self {
            Self::Gcm { .. } => packet.len().checked_sub(RTCP_INDEX_LEN),
            Self::Cm(_) => packet.len().checked_sub(RTCP_INDEX_LEN + CM_TAG_LEN),
        };
        at.and_then(|at| super::read_u32(packet, at)).ok_or(SrtpError::TooShort)
    }

    /// Length of the packet without tag and index word. After an error the payload is undefined.
    pub(super) fn open_rtcp(&self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let body_len =
            packet.len().checked_sub(self.tag_len() + RTCP_INDEX_LEN).ok_or(SrtpError::TooShort)?;
        let ssrc = super::read_u32(&packet[..body_len], 4).ok_or(SrtpError::TooShort)?;
        let word = self.rtcp_word(packet)?;
        if word & RTCP_ENCRYPTED == 0 {
            return Err(SrtpError::NotEncrypted);
        }
        let index = word & !RTCP_ENCRYPTED;
        let word = word.to_be_bytes();
        let (body, trailer) = packet.split_at_mut(body_len);
        match self {
            Self::Gcm { key, salt } => {
                let (header, payload) = body.split_at_mut(RTCP_HEADER_LEN);
                key.open_in_place_separate_tag(
                    gcm_rtcp_nonce(salt, ssrc, index),
                    Aad::from(gcm_rtcp_aad(header, word)),
                    &trailer[..GCM_TAG_LEN],
                    payload,
                )
                .map_err(|_| SrtpError::Authentication)?;
            }
            Self::Cm(cm) => {
                let Cm { key, salt, auth } = &**cm;
                let wanted = cm_tag(auth, body, word);
                verify_slices_are_equal(&wanted[..CM_TAG_LEN], &trailer[RTCP_INDEX_LEN..])
                    .map_err(|_| SrtpError::Authentication)?;
                ctr(key, cm_iv(salt, ssrc, u64::from(index)), &mut body[RTCP_HEADER_LEN..])?;
            }
        }
        Ok(body_len)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gcm { .. } => "Cipher::Gcm(redacted)",
            Self::Cm(_) => "Cipher::Cm(redacted)",
        })
    }
}

/// RFC 7714 section 8.1: two zero bytes, the SSRC and 48 bits of index.
fn gcm_rtp_nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> Nonce {
    gcm_nonce(salt, u64::from(ssrc) << 16 | index >> 32 & 0xffff, index as u32)
}

/// RFC 7714 section 9.1: two zero bytes, the SSRC, two more and 32 bits of index.
fn gcm_rtcp_nonce(salt: &[u8; 12], ssrc: u32, index: u32) -> Nonce {
    gcm_nonce(salt, u64::from(ssrc) << 16, index)
}

/// The first eight bytes and the last four, each in one piece: the way it is read again. In other pieces a read waits until all
/// that was written before, the payload, has reached the cache.
fn gcm_nonce(salt: &[u8; 12], head: u64, tail: u32) -> Nonce {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *salt;
    let mut nonce = [0; 12];
    // As slices: from single bytes, those that are the salt's alone would be stored apart.
    let (first, last) = nonce.split_at_mut(8);
    first.copy_from_slice(&(u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ head).to_be_bytes());
    last.copy_from_slice(&(u32::from_be_bytes([i, j, k, l]) ^ tail).to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Header and index word (RFC 7714 section 9.2).
fn gcm_rtcp_aad(header: &[u8], word: [u8; 4]) -> [u8; RTCP_HEADER_LEN + RTCP_INDEX_LEN] {
    let mut aad = [0; RTCP_HEADER_LEN + RTCP_INDEX_LEN];
    aad[..RTCP_HEADER_LEN].copy_from_slice(header);
    aad[RTCP_HEADER_LEN..].copy_from_slice(&word);
    aad
}

/// RFC 3711 section 4.1.1; RTP and RTCP differ in the width of the index only.
fn cm_iv(salt: &[u8; 14], ssrc: u32, index: u64) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[..14].copy_from_slice(salt);
    xor(&mut iv[4..8], &ssrc.to_be_bytes());
    xor(&mut iv[8..14], &index.to_be_bytes()[2..]);
    iv
}

fn ctr(key: &EncryptingKey, iv: [u8; 16], in_out: &mut [u8]) -> Result<(), SrtpError> {
    key.less_safe_encrypt(in_out, EncryptionContext::Iv128(FixedLength::from(iv)))
        .map(drop)
        .map_err(|_| SrtpError::Authentication)
}

/// HMAC over the packet and, outside of it, rollover counter or index word (RFC 3711 section 4.2).
fn cm_tag(auth: &hmac::Key, body: &[u8], trailer: [u8; 4]) -> [u8; 20] {
    let mut context = hmac::Context::with_key(auth);
    context.update(body);
    context.update(&trailer);
    let mut tag = [0; 20];
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

fn rollover(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

fn xor(target: &mut [u8], with: &[u8]) {
    for (target, with) in target.iter_mut().zip(with) {
        *target ^= with;
    }
}
