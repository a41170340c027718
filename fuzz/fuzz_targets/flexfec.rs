//! Media and repair packets of any content in any order: what comes back is a packet, and memory is bounded.
#![no_main]

use chappe_sfu::{
    ingress::FecDecoder,
    rtp::{Extension, ExtensionMap},
    wire::{FlexFec, RtpHeader, RtpPacket},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut extensions = ExtensionMap::default();
    extensions.set(Extension::TransportCc, 3);
    extensions.set(Extension::AbsSendTime, 2);
    let mut decoder = FecDecoder::default();
    let mut rest = input;
    while let Some((op, more)) = rest.split_first() {
        let len = usize::from(*op >> 1).min(more.len());
        let (bytes, behind) = more.split_at(len);
        rest = behind;
        if op & 1 == 0 {
            if let Some(fec) = FlexFec::parse(bytes) {
                assert!((1..=usize::from(FlexFec::MAX_SPAN)).contains(&fec.protected().count()));
            }
            decoder.handle_repair(bytes);
        } else if let Ok(packet) = RtpPacket::parse(bytes) {
            decoder.handle_media(bytes, &packet, &extensions);
        }
        let mut recovered = 0;
        while let Some(bytes) = decoder.poll_recovered() {
            recovered += 1;
            assert!(bytes.len() >= RtpHeader::MIN_LEN && bytes[0] >> 6 == 2);
            if let Ok(packet) = RtpPacket::parse(&bytes) {
                decoder.handle_media(&bytes, &packet, &extensions);
            }
            decoder.reuse(bytes);
        }
        assert!(recovered <= 32, "a repair packet brings back one packet");
    }
});
