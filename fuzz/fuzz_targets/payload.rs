//! Any payload is described; the first byte picks the format.
#![no_main]

use chappe_sfu::{
    rtp::CodecKind,
    wire::payload::{Av1Aggregation, OpusPacket, RedBlocks, describe, write_red},
};
use libfuzzer_sys::fuzz_target;

const KINDS: [CodecKind; 7] = [
    CodecKind::Vp8,
    CodecKind::Vp9,
    CodecKind::H264,
    CodecKind::H265,
    CodecKind::Av1,
    CodecKind::Opus,
    CodecKind::Red,
];

fuzz_target!(|input: &[u8]| {
    let Some((pick, payload)) = input.split_first() else { return };
    let kind = KINDS[usize::from(*pick) % KINDS.len()];
    let _ = describe(kind, payload);
    match kind {
        CodecKind::Opus => {
            let duration = OpusPacket::parse(payload).map(|packet| packet.duration.as_millis());
            assert!(duration.is_none_or(|millis| millis <= 120));
        }
        CodecKind::Av1 => {
            if let Ok((_, obus)) = Av1Aggregation::parse(payload) {
                assert!(obus.count() <= payload.len());
            }
        }
        CodecKind::Red => {
            let Ok(blocks) = RedBlocks::parse(payload) else { return };
            let primary = blocks.primary();
            assert_eq!(&payload[primary.offset..], primary.data);
            assert_eq!(blocks.last().map(|block| block.data), Some(primary.data));
            written_again(blocks);
        }
        _ => {}
    }
});

/// What is written of the blocks reads the same, under the one payload type of all.
fn written_again(blocks: RedBlocks<'_>) {
    let pt = blocks.primary().pt;
    let all: Vec<_> = blocks.map(|block| (block.timestamp_offset, block.data)).collect();
    let Some(((_, primary), older)) = all.split_last() else { return };
    let size: usize = all.iter().map(|(_, data)| 4 + data.len()).sum();
    let mut out = vec![0; size];
    let len = write_red(&mut out, pt, older, primary).expect("room for all that a payload holds");
    let again = RedBlocks::parse(&out[..len]).expect("our own payload");
    let again: Vec<_> = again.map(|block| (block.timestamp_offset, block.data)).collect();
    assert_eq!(again, all);
}
