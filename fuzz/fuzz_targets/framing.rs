//! The stream of an ICE-TCP connection.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&[u8], &[u8])| {
    let (cuts, stream) = data;
    chappe_sfu::fuzz_framing(cuts, stream);
});
