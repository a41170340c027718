//! From DTLS keying material to session keys.

use std::fmt;

use aws_lc_rs::{
    cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey},
    iv::FixedLength,
};

use super::{SrtpError, SrtpProfile, cipher::Cipher};

/// Master key and salt of one direction (RFC 3711 section 8.2). The Debug form shows neither.
#[derive(Clone)]
pub struct SrtpKeys {
    profile: SrtpProfile,
    key: Vec<u8>,
    salt: Vec<u8>,
}

impl SrtpKeys {
    /// Fails unless both lengths are the profile's.
    pub fn new(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Result<Self, SrtpError> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return Err(SrtpError::NoKeys);
        }
        Ok(Self { profile, key: key.to_vec(), salt: salt.to_vec() })
    }

    /// Splits what DTLS exported (RFC 5764 section 4.2) into the keys of the DTLS client and those of the server.
    pub fn from_dtls(profile: SrtpProfile, material: &[u8]) -> Result<(Self, Self), SrtpError> {
        let (key_len, salt_len) = (profile.key_len(), profile.salt_len());
        if material.len() < 2 * (key_len + salt_len) {
            return Err(SrtpError::NoKeys);
        }
        let (client_key, rest) = material.split_at(key_len);
        let (server_key, rest) = rest.split_at(key_len);
        let (client_salt, rest) = rest.split_at(salt_len);
        Ok((
            Self::new(profile, client_key, client_salt)?,
            Self::new(profile, server_key, &rest[..salt_len])?,
        ))
    }

    /// The profile they are for.
    pub fn profile(&self) -> SrtpProfile {
        self.profile
    }

    /// Key and salt, for tests.
    #[cfg(test)]
    pub(super) fn raw(&self) -> (&[u8], &[u8]) {
        (&self.key, &self.salt)
    }

    /// Cipher for RTP packets.
    pub(super) fn rtp(&self) -> Result<Cipher, SrtpError> {
        self.cipher(&self.prf()?, 0)
    }

    /// Cipher for RTCP packets.
    pub(super) fn rtcp(&self) -> Result<Cipher, SrtpError> {
        self.cipher(&self.prf()?, 3)
    }

    /// Both.
    pub(super) fn ciphers(&self) -> Result<(Cipher, Cipher), SrtpError> {
        let prf = self.prf()?;
        Ok((self.cipher(&prf, 0)?, self.cipher(&prf, 3)?))
    }

    /// `label` is that of the encryption key; authentication key and salt follow it (RFC 3711 section 4.3.2).
    fn cipher(&self, prf: &EncryptingKey, label: u8) -> Result<Cipher, SrtpError> {
        let mut key = [0; 32];
        let mut auth = [0; 20];
        let mut salt = [0; 14];
        let key = &mut key[..self.key.len()];
        let salt = &mut salt[..self.salt.len()];
        self.derive(prf, label, key)?;
        if self.profile == SrtpProfile::AesCm128HmacSha1_80 {
            self.derive(prf, label + 1, &mut auth)?;
        }
        self.derive(prf, label + 2, salt)?;
        Cipher::new(self.profile, key, salt, &auth)
    }

    /// What session keys are drawn from.
    pub(super) fn prf(&self) -> Result<EncryptingKey, SrtpError> {
        let algorithm = if self.key.len() == 32 { &AES_256 } else { &AES_128 };
        UnboundCipherKey::new(algorithm, &self.key)
            .and_then(EncryptingKey::ctr)
            .map_err(|_| SrtpError::NoKeys)
    }

    /// RFC 3711 section 4.3 with a key derivation rate of 0; for 256-bit keys RFC 6188 section 3.
    pub(super) fn derive(
        &self,
        prf: &EncryptingKey,
        label: u8,
        out: &mut [u8],
    ) -> Result<(), SrtpError> {
        let mut iv = [0; 16];
        iv[..self.salt.len()].copy_from_slice(&self.salt);
        // The label stands above the 48-bit index, which is 0 at this rate.
        iv[7] ^= label;
        out.fill(0);
        prf.less_safe_encrypt(out, EncryptionContext::Iv128(FixedLength::from(iv)))
            .map_err(|_| SrtpError::NoKeys)?;
        Ok(())
    }
}

impl fmt::Debug for SrtpKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SrtpKeys({}, redacted)", self.profile)
    }
}
