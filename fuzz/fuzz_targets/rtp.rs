//! Any datagram is classified and read as RTP; what was read is written and read again.
#![no_main]

use chappe_sfu::{
    rtp::{Extension, ExtensionMap},
    wire::{RtpHeaderFields, RtpPacket, classify},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let _ = classify(datagram);
    let Ok(packet) = RtpPacket::parse(datagram) else { return };
    assert!(packet.csrcs().count() <= 15);
    assert!(packet.header.header_len + packet.payload.len() <= datagram.len());

    let mut map = ExtensionMap::default();
    for (id, extension) in (1..).zip(Extension::ALL) {
        map.set(extension, id);
    }
    let values = packet.extension_values(&map);
    let fields = RtpHeaderFields {
        marker: packet.header.marker,
        pt: packet.header.pt,
        seq: packet.header.seq,
        timestamp: packet.header.timestamp,
        ssrc: packet.header.ssrc,
    };
    let mut buf = [0; 1_200];
    let written = fields.write(&mut buf, &values, &map).expect("room for all extensions");
    let again = RtpPacket::parse(&buf[..written.len]).expect("our own header");
    assert_eq!(again.header.seq, packet.header.seq);

    // An empty value has no length in the one-byte form, so it is not written.
    let mut expected = values;
    expected.dependency_descriptor = values.dependency_descriptor.filter(|raw| !raw.is_empty());
    expected.video_layers_allocation = values.video_layers_allocation.filter(|raw| !raw.is_empty());
    assert_eq!(again.extension_values(&map), expected);
});
