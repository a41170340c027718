//! Data channel messages of a peer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| chappe_sfu::transport::fuzz_dcep(message));
