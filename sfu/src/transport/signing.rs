//! The key of the process's certificate. The DTLS library parses it for each endpoint, which costs a multiplication on the
//! curve and some allocations; here each thread parses it once.

use std::{cell::RefCell, fmt, sync::Arc};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use dimpl::{
    CryptoError, CryptoOperation,
    crypto::{
        Buf, CryptoProvider, HashAlgorithm, KeyProvider, SignatureAlgorithm, SigningKey,
        aws_lc_rs as default,
    },
};

use super::record_cipher;

/// The library's own cryptography, but for the parsing of keys and for what records are sealed with.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        key_provider: &ParsedOnce,
        cipher_suites: record_cipher::suites(),
        ..default::default_provider()
    }
}

/// The digest of a key as it was given, and what it is.
type Parsed = (aws_lc_rs::digest::Digest, Arc<EcdsaKeyPair>);

thread_local! {
    /// The key that was asked for last. A process has one.
    static LATEST: RefCell<Option<Parsed>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct ParsedOnce;

impl KeyProvider for ParsedOnce {
    fn load_private_key(&self, der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        let name = digest(&SHA256, der);
        let known = LATEST.with_borrow(|latest| {
            let same = |(known, _): &&Parsed| known.as_ref() == name.as_ref();
            latest.as_ref().filter(same).map(|(_, key)| Arc::clone(key))
        });
        if let Some(key) = known {
            return Ok(Box::new(P256Key(key)));
        }
        let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der) else {
            return default::default_provider().key_provider.load_private_key(der);
        };
        let key = Arc::new(key);
        LATEST.set(Some((name, Arc::clone(&key))));
        Ok(Box::new(P256Key(key)))
    }
}

struct P256Key(Arc<EcdsaKeyPair>);

impl fmt::Debug for P256Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("P256Key(redacted)")
    }
}

impl SigningKey for P256Key {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        if hash != HashAlgorithm::SHA256 {
            let key_hash = HashAlgorithm::SHA256;
            return Err(CryptoError::SigningKeyHashMismatch { key_hash, requested: hash });
        }
        let signature = self.0.sign(&SystemRandom::new(), data);
        let signature =
            signature.map_err(|_| CryptoError::OperationFailed(CryptoOperation::Sign))?;
        out.clear();
        out.extend_from_slice(signature.as_ref());
        Ok(())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        &[HashAlgorithm::SHA256]
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, KeyPair, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_key_is_parsed_once_and_signs_as_itself() {
        let certificates = [(); 2].map(|()| dimpl::certificate::generate_self_signed_certificate());
        for certificate in certificates {
            let der = certificate.unwrap().private_key;
            let own = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).unwrap();
            let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, own.public_key().as_ref());
            for uses in 1..=3 {
                let mut key = ParsedOnce.load_private_key(&der).unwrap();
                let mut signature = Buf::new();
                key.sign(b"data", HashAlgorithm::SHA256, &mut signature).unwrap();
                assert!(public.verify(b"data", &signature).is_ok());
                assert!(key.sign(b"data", HashAlgorithm::SHA384, &mut signature).is_err());
                drop(key);
                let kept =
                    LATEST.with_borrow(|latest| Arc::strong_count(&latest.as_ref().unwrap().1));
                assert_eq!(kept, 1, "use {uses}");
            }
        }
        assert!(ParsedOnce.load_private_key(b"no key").is_err());
    }
}
