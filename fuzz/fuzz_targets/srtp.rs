//! Any datagram is unprotected; none passes without the key.
#![no_main]

use chappe_sfu::transport::{SrtpIngress, SrtpKeys, SrtpProfile};
use libfuzzer_sys::fuzz_target;

const PROFILES: [SrtpProfile; 3] =
    [SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm, SrtpProfile::AesCm128HmacSha1_80];

fuzz_target!(|datagram: &[u8]| {
    for profile in PROFILES {
        let (key, salt) = (vec![1; profile.key_len()], vec![2; profile.salt_len()]);
        let keys = SrtpKeys::new(profile, &key, &salt).expect("lengths of the profile");
        let mut ingress = SrtpIngress::new(&keys).expect("keys of the profile");
        assert!(ingress.unprotect_rtp(&mut datagram.to_vec()).is_err());
        assert!(ingress.unprotect_rtcp(&mut datagram.to_vec()).is_err());
    }
});
