//! What seals and opens the records of DTLS. Most peers need it a few times: at the end of the handshake, for a goodbye, where
//! they exchange no data. Keys that the library keeps expanded are 600 bytes in each direction; here they are the bytes that they came
//! as, until there is much to seal or to open.

use std::{fmt, sync::LazyLock};

use dimpl::{
    CryptoError,
    crypto::{
        Aad, Buf, Cipher, Dtls12CipherSuite, HashAlgorithm, Nonce, SupportedDtls12CipherSuite,
        TmpBuf, aws_lc_rs as default,
    },
};

/// The library's own suites of DTLS 1.2, sparing with memory.
pub(super) fn suites() -> &'static [&'static dyn SupportedDtls12CipherSuite] {
    static SPARING: LazyLock<Vec<Sparing>> = LazyLock::new(|| {
        default::default_provider().cipher_suites.iter().copied().map(Sparing).collect()
    });
    static SUITES: LazyLock<Vec<&'static dyn SupportedDtls12CipherSuite>> =
        LazyLock::new(|| SPARING.iter().map(|suite| suite as _).collect());
    &SUITES
}

#[derive(Debug)]
struct Sparing(&'static dyn SupportedDtls12CipherSuite);

impl SupportedDtls12CipherSuite for Sparing {
    fn suite(&self) -> Dtls12CipherSuite {
        self.0.suite()
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.0.hash_algorithm()
    }

    fn key_lengths(&self) -> (usize, usize, usize) {
        self.0.key_lengths()
    }

    fn explicit_nonce_len(&self) -> usize {
        self.0.explicit_nonce_len()
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn min_protected_fragment_len(&self) -> usize {
        self.0.min_protected_fragment_len()
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        Ok(Box::new(RecordCipher { suite: self.0, key: key.into(), uses: 0, expanded: None }))
    }
}

/// After so many records the expanded key is kept. Opening an association takes a dozen; expanding takes a quarter of a microsecond.
const OFTEN: u8 = 64;

struct RecordCipher {
    suite: &'static dyn SupportedDtls12CipherSuite,
    key: Box<[u8]>,
    uses: u8,
    expanded: Option<Box<dyn Cipher>>,
}

impl RecordCipher {
    fn with(
        &mut self,
        work: impl FnOnce(&mut dyn Cipher) -> Result<(), CryptoError>,
    ) -> Result<(), CryptoError> {
        if let Some(cipher) = &mut self.expanded {
            return work(&mut **cipher);
        }
        let mut cipher = self.suite.create_cipher(&self.key)?;
        let outcome = work(&mut *cipher);
        self.uses += 1;
        if self.uses == OFTEN {
            self.expanded = Some(cipher);
        }
        outcome
    }
}

impl Cipher for RecordCipher {
    fn encrypt(&mut self, plaintext: &mut Buf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        self.with(|cipher| cipher.encrypt(plaintext, aad, nonce))
    }

    fn decrypt(
        &mut self,
        ciphertext: &mut TmpBuf<'_>,
        aad: Aad,
        nonce: Nonce,
    ) -> Result<(), CryptoError> {
        self.with(|cipher| cipher.decrypt(ciphertext, aad, nonce))
    }
}

impl fmt::Debug for RecordCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordCipher(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_the_library_however_many_there_are() {
        for (sparing, own) in suites().iter().zip(default::default_provider().cipher_suites) {
            assert_eq!(sparing.suite(), own.suite());
            let key = vec![7; own.key_lengths().1];
            let [mut sealing, mut opening] = [(); 2].map(|()| sparing.create_cipher(&key).unwrap());
            let mut library = own.create_cipher(&key).unwrap();
            for n in 0..2 * OFTEN {
                let sealed = |cipher: &mut dyn Cipher| {
                    let mut record = Buf::new();
                    record.extend_from_slice(b"record");
                    cipher.encrypt(&mut record, Aad(Default::default()), Nonce([n; 12])).unwrap();
                    record.to_vec()
                };
                let mut record = sealed(&mut *sealing);
                assert_eq!(record, sealed(&mut *library), "{n}");
                let mut open = |record: &mut [u8]| {
                    let mut record = TmpBuf::new(record);
                    opening.decrypt(&mut record, Aad(Default::default()), Nonce([n; 12])).ok()?;
                    Some(record.as_ref().to_vec())
                };
                let mut forged = record.clone();
                forged[0] ^= 1;
                assert_eq!(open(&mut forged), None, "{n}");
                assert_eq!(open(&mut record).as_deref(), Some(&b"record"[..]), "{n}");
            }
        }
    }
}
