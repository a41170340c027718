//! Any bytes are read as a data packet; what is spliced names no sender but the stamp's.
#![no_main]

use chappe_sfu::wire::DataPacket;
use libfuzzer_sys::fuzz_target;

/// `participant_identity: "a"`.
const STAMP: &[u8] = &[0x22, 1, b'a'];

fuzz_target!(|bytes: &[u8]| {
    let Ok(packet) = DataPacket::parse(bytes) else { return };
    let mut spliced = vec![0; packet.spliced_len(STAMP)];
    assert_eq!(packet.splice(STAMP, &mut spliced), Ok(spliced.len()));

    // The stamp may take a packet over the limit; it is the node's own.
    let Ok(again) = DataPacket::parse(&spliced) else {
        return assert!(spliced.len() > DataPacket::MAX_LEN);
    };
    assert_eq!(
        again.spliced_len(b""),
        spliced.len() - STAMP.len(),
        "no other sender field is left"
    );
    assert_eq!(again.sequence(), packet.sequence());
    assert!(again.destinations().eq(packet.destinations()));
    assert_eq!(packet.is_broadcast(), packet.destinations().next().is_none());
});
