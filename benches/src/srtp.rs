//! SRTP for the sinks and the floor (RFC 3711, RFC 7714), made of aws-lc-rs alone.

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey},
    error::Unspecified,
    hmac,
    iv::FixedLength,
};

/// A protection profile (RFC 5764 section 4.1.2, RFC 7714 section 14.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Profile {
    /// AEAD_AES_128_GCM.
    #[value(name = "aes-128-gcm")]
    Gcm128,
    /// AEAD_AES_256_GCM.
    #[value(name = "aes-256-gcm")]
    Gcm256,
    /// AES128_CM_HMAC_SHA1_80.
    #[value(name = "aes-cm-sha1")]
    CmSha1,
}

impl Profile {
    /// As IANA names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gcm128 => "AEAD_AES_128_GCM",
            Self::Gcm256 => "AEAD_AES_256_GCM",
            Self::CmSha1 => "AES128_CM_HMAC_SHA1_80",
        }
    }

    /// Bytes behind an RTP packet.
    pub fn tag_len(self) -> usize {
        if self == Self::CmSha1 { 10 } else { 16 }
    }

    /// Bytes that DTLS exports for it: keys and salts of both directions.
    pub fn keying_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }

    fn key_len(self) -> usize {
        if self == Self::Gcm256 { 32 } else { 16 }
    }

    fn salt_len(self) -> usize {
        if self == Self::CmSha1 { 14 } else { 12 }
    }
}

impl From<dimpl::SrtpProfile> for Profile {
    fn from(profile: dimpl::SrtpProfile) -> Self {
        match profile {
            dimpl::SrtpProfile::AEAD_AES_128_GCM => Self::Gcm128,
            dimpl::SrtpProfile::AEAD_AES_256_GCM => Self::Gcm256,
            _ => Self::CmSha1,
        }
    }
}

/// Session keys of RTP (or RTCP) in one direction.
pub enum Cipher {
    /// RFC 7714.
    Gcm(LessSafeKey, [u8; 12]),
    /// RFC 3711.
    Cm(Box<(EncryptingKey, [u8; 14], hmac::Key)>),
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher(redacted)")
    }
}

/// Both ciphers of both directions, from the client's side.
#[derive(Debug)]
pub struct Session {
    /// Which one was agreed on.
    pub profile: Profile,
    /// What we send.
    pub rtp: Cipher,
    /// What we report.
    pub rtcp: Cipher,
    /// What the node sends.
    pub remote_rtp: Cipher,
    /// Number of our next report.
    pub rtcp_index: u32,
}

impl Session {
    /// From what the DTLS client exported (RFC 5764 section 4.2).
    pub fn of_client(profile: Profile, material: &[u8]) -> Result<Self, Unspecified> {
        let (key, salt) = (profile.key_len(), profile.salt_len());
        let part = |from: usize, len: usize| material.get(from..from + len).ok_or(Unspecified);
        let ours = (part(0, key)?, part(2 * key, salt)?);
        let theirs = (part(key, key)?, part(2 * key + salt, salt)?);
        Ok(Self {
            profile,
            rtp: Cipher::derive(profile, ours.0, ours.1, 0)?,
            rtcp: Cipher::derive(profile, ours.0, ours.1, 3)?,
            remote_rtp: Cipher::derive(profile, theirs.0, theirs.1, 0)?,
            rtcp_index: 1,
        })
    }

    /// Seals a compound and appends tag and index word.
    pub fn seal_rtcp(&mut self, compound: &mut Vec<u8>) -> Result<(), Unspecified> {
        let index = self.rtcp_index;
        self.rtcp_index += 1;
        self.rtcp.seal_rtcp(index, compound)
    }
}

impl Cipher {
    /// Session keys from a master key (RFC 3711 section 4.3, RFC 6188 section 3); `label` is 0 for RTP, 3 for RTCP.
    pub fn derive(
        profile: Profile,
        key: &[u8],
        salt: &[u8],
        label: u8,
    ) -> Result<Self, Unspecified> {
        let expand = |label: u8, len: usize| -> Result<Vec<u8>, Unspecified> {
            let algorithm = if key.len() == 32 { &AES_256 } else { &AES_128 };
            let prf = EncryptingKey::ctr(UnboundCipherKey::new(algorithm, key)?)?;
            let mut iv = [0; 16];
            iv[..salt.len()].copy_from_slice(salt);
            iv[7] ^= label;
            let mut out = vec![0; len];
            prf.less_safe_encrypt(&mut out, EncryptionContext::Iv128(FixedLength::from(iv)))?;
            Ok(out)
        };
        let session_key = expand(label, key.len())?;
        let session_salt = expand(label + 2, salt.len())?;
        let algorithm = match profile {
            Profile::Gcm128 => &AES_128_GCM,
            Profile::Gcm256 => &AES_256_GCM,
            Profile::CmSha1 => {
                let key = EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, &session_key)?)?;
                let mac =
                    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &expand(label + 1, 20)?);
                let salt = session_salt.try_into().map_err(|_| Unspecified)?;
                return Ok(Self::Cm(Box::new((key, salt, mac))));
            }
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &session_key)?);
        Ok(Self::Gcm(key, session_salt.try_into().map_err(|_| Unspecified)?))
    }

    /// Seals in place; the last `tag_len` bytes of `packet` are room for the tag.
    pub fn seal(
        &self,
        ssrc: u32,
        index: u64,
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<(), Unspecified> {
        match self {
            Self::Gcm(key, salt) => {
                let (body, tag) = packet.split_at_mut(packet.len() - 16);
                let (header, payload) = body.split_at_mut(header_len);
                let nonce = gcm_nonce(salt, ssrc, index);
                let sum = key.seal_in_place_separate_tag(nonce, Aad::from(header), payload)?;
                tag.copy_from_slice(sum.as_ref());
            }
            Self::Cm(keys) => {
                let (key, salt, mac) = &**keys;
                let (body, tag) = packet.split_at_mut(packet.len() - 10);
                cm(key, salt, ssrc, index, &mut body[header_len..])?;
                let sum = cm_tag(mac, body, &((index >> 16) as u32).to_be_bytes());
                tag.copy_from_slice(&sum.as_ref()[..10]);
            }
        }
        Ok(())
    }

    /// Opens in place; the length without the tag.
    pub fn open(
        &self,
        ssrc: u32,
        index: u64,
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<usize, Unspecified> {
        let tag_len = if matches!(self, Self::Gcm(..)) { 16 } else { 10 };
        let len = packet.len().checked_sub(tag_len).filter(|len| *len >= header_len);
        let len = len.ok_or(Unspecified)?;
        let (body, tag) = packet.split_at_mut(len);
        match self {
            Self::Gcm(key, salt) => {
                let (header, payload) = body.split_at_mut(header_len);
                let nonce = gcm_nonce(salt, ssrc, index);
                key.open_in_place_separate_tag(nonce, Aad::from(header), tag, payload)?;
            }
            Self::Cm(keys) => {
                let (key, salt, mac) = &**keys;
                let sum = cm_tag(mac, body, &((index >> 16) as u32).to_be_bytes());
                if sum.as_ref()[..10] != *tag {
                    return Err(Unspecified);
                }
                cm(key, salt, ssrc, index, &mut body[header_len..])?;
            }
        }
        Ok(len)
    }

    fn seal_rtcp(&self, index: u32, compound: &mut Vec<u8>) -> Result<(), Unspecified> {
        let word = (index | 1 << 31).to_be_bytes();
        let ssrc = compound.get(4..8).and_then(|ssrc| ssrc.try_into().ok()).ok_or(Unspecified)?;
        let ssrc = u32::from_be_bytes(ssrc);
        match self {
            Self::Gcm(key, salt) => {
                let nonce = gcm_nonce(salt, ssrc, index.into());
                let (header, payload) = compound.split_at_mut(8);
                let aad = [&*header, &word].concat();
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), payload)?;
                compound.extend_from_slice(tag.as_ref());
                compound.extend_from_slice(&word);
            }
            Self::Cm(keys) => {
                let (key, salt, mac) = &**keys;
                cm(key, salt, ssrc, index.into(), &mut compound[8..])?;
                let tag = cm_tag(mac, compound, &word);
                compound.extend_from_slice(&word);
                compound.extend_from_slice(&tag.as_ref()[..10]);
            }
        }
        Ok(())
    }
}

/// RFC 7714 sections 8.1 and 9.1: for RTCP the upper bits of the index are zero.
fn gcm_nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> Nonce {
    let mut nonce = *salt;
    // Eight bytes and four, as the library reads them: in other pieces that waits for everything written before, the payload.
    let (first, last) = nonce.split_at_mut(8);
    let head = u64::from(ssrc) << 16 | index >> 32 & 0xffff;
    first.copy_from_slice(
        &(u64::from_be_bytes((&*first).try_into().expect("8")) ^ head).to_be_bytes(),
    );
    let tail = u32::from_be_bytes((&*last).try_into().expect("4")) ^ index as u32;
    last.copy_from_slice(&tail.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// RFC 3711 section 4.1.1.
fn cm(
    key: &EncryptingKey,
    salt: &[u8; 14],
    ssrc: u32,
    index: u64,
    payload: &mut [u8],
) -> Result<(), Unspecified> {
    let mut iv = [0; 16];
    iv[4..8].copy_from_slice(&ssrc.to_be_bytes());
    iv[8..14].copy_from_slice(&index.to_be_bytes()[2..]);
    for (byte, salt) in iv.iter_mut().zip(salt) {
        *byte ^= salt;
    }
    key.less_safe_encrypt(payload, EncryptionContext::Iv128(FixedLength::from(iv)))?;
    Ok(())
}

/// RFC 3711 section 4.2.
fn cm_tag(key: &hmac::Key, body: &[u8], behind: &[u8; 4]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(body);
    context.update(behind);
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_and_nothing_else() {
        for profile in [Profile::Gcm128, Profile::Gcm256, Profile::CmSha1] {
            let material: Vec<u8> = (0..100).collect();
            let client = Session::of_client(profile, &material).unwrap();
            // The node's half, seen from its side, is the client's own.
            let packet: Vec<u8> = (0..80).collect();
            let mut sealed = [&packet[..], &vec![0; profile.tag_len()]].concat();
            client.rtp.seal(7, 0x1_0005, 12, &mut sealed).unwrap();
            assert_eq!(sealed[..12], packet[..12]);
            assert_ne!(sealed[12..80], packet[12..]);
            let mut wrong = sealed.clone();
            wrong[40] ^= 1;
            assert!(client.rtp.open(7, 0x1_0005, 12, &mut wrong).is_err());
            assert!(client.rtp.open(7, 0x5, 12, &mut sealed.clone()).is_err());
            assert_eq!(client.rtp.open(7, 0x1_0005, 12, &mut sealed), Ok(80));
            assert_eq!(sealed[..80], packet);
        }
    }
}
