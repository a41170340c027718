//! Payload descriptors: tables by hand, and the same bytes given to independent parsers.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rtc::rtp::{
    codec::{vp8::Vp8Packet, vp9::Vp9Packet},
    packetizer::Depacketizer as _,
};

use super::*;
use crate::rtp::Pt;

/// What a payload says, in short.
#[derive(PartialEq, Debug, Default)]
struct Facts {
    keyframe: bool,
    starts: bool,
    ends: bool,
    temporal: Option<u8>,
    spatial: Option<u8>,
    switch_up: bool,
}

struct Case {
    name: &'static str,
    payload: &'static [u8],
    facts: Result<Facts, PayloadError>,
}

fn check(kind: CodecKind, cases: impl IntoIterator<Item = Case>) {
    for case in cases {
        let facts = describe(kind, case.payload).map(|descriptor| Facts {
            keyframe: descriptor.keyframe,
            starts: descriptor.starts_frame,
            ends: descriptor.ends_frame,
            temporal: descriptor.temporal,
            spatial: descriptor.spatial,
            switch_up: descriptor.switch_up,
        });
        assert_eq!(facts, case.facts, "{kind:?}: {}", case.name);
    }
}

fn keyframe() -> Facts {
    Facts { keyframe: true, starts: true, ..Facts::default() }
}

fn starts() -> Facts {
    Facts { starts: true, ..Facts::default() }
}

#[test]
fn vp8_payloads() {
    check(
        CodecKind::Vp8,
        [
            Case { name: "bare key frame", payload: &[0x10, 0x00], facts: Ok(keyframe()) },
            Case { name: "bare delta frame", payload: &[0x10, 0x01], facts: Ok(starts()) },
            Case {
                name: "later packet of a key frame",
                payload: &[0x00, 0x00],
                facts: Ok(Facts::default()),
            },
            Case { name: "partition 1", payload: &[0x11, 0x00], facts: Ok(Facts::default()) },
            Case {
                name: "all fields, layer sync",
                payload: &[0x90, 0xf0, 0x92, 0x34, 7, 0x6f, 0x01],
                facts: Ok(Facts { temporal: Some(1), switch_up: true, ..starts() }),
            },
            Case {
                name: "key index without layers",
                payload: &[0x90, 0x10, 0xe5, 0x00],
                facts: Ok(keyframe()),
            },
            Case { name: "empty", payload: &[], facts: Err(PayloadError::Short) },
            Case { name: "nothing behind", payload: &[0x10], facts: Err(PayloadError::Short) },
            Case {
                name: "picture id cut",
                payload: &[0x90, 0x80, 0x92],
                facts: Err(PayloadError::Short),
            },
        ],
    );
    let vp8 = Vp8Descriptor::parse(&[0xb0, 0xf0, 0x92, 0x34, 7, 0x6f, 0x01]).unwrap();
    let expected = Vp8Descriptor {
        non_reference: true,
        partition_start: true,
        partition: 0,
        picture_id: Some(0x1234),
        long_picture_id: true,
        tl0_pic_idx: Some(7),
        tid: Some(1),
        layer_sync: true,
        key_idx: Some(15),
        len: 6,
    };
    assert_eq!(vp8, expected);
}

#[test]
fn vp9_payloads() {
    check(
        CodecKind::Vp9,
        [
            Case {
                name: "key frame of one packet",
                payload: &[0x8c, 0x05, 1],
                facts: Ok(Facts { ends: true, ..keyframe() }),
            },
            Case {
                name: "non-flexible, layers 2/1, switch up",
                payload: &[0xe8, 0x81, 0x00, 0x53, 9, 1],
                facts: Ok(Facts {
                    temporal: Some(2),
                    spatial: Some(1),
                    switch_up: true,
                    ..starts()
                }),
            },
            Case {
                name: "upper spatial layer of a key picture",
                payload: &[0xa8, 0x05, 0x03, 9, 1],
                facts: Ok(Facts { temporal: Some(0), spatial: Some(1), ..starts() }),
            },
            Case {
                name: "flexible, three references",
                payload: &[0xd4, 0x05, 3, 5, 6, 1],
                facts: Ok(Facts { ends: true, ..Facts::default() }),
            },
            Case {
                name: "flexible, four references",
                payload: &[0xd4, 0x05, 3, 5, 7, 8, 1],
                facts: Err(PayloadError::Malformed),
            },
            Case {
                name: "structure with sizes and a group",
                payload: &[
                    0x8a, 0x05, 0x38, 2, 0x80, 1, 0x68, 5, 0, 2, 0xd0, 2, 0x04, 1, 0x48, 1, 2, 1,
                ],
                facts: Ok(keyframe()),
            },
            Case {
                name: "structure cut",
                payload: &[0x8a, 0x05, 0x30, 2, 0x80],
                facts: Err(PayloadError::Short),
            },
            Case { name: "empty", payload: &[], facts: Err(PayloadError::Short) },
            Case { name: "nothing behind", payload: &[0x8c, 5], facts: Err(PayloadError::Short) },
        ],
    );
    let payload =
        [0x8a, 0x05, 0x38, 2, 0x80, 1, 0x68, 5, 0, 2, 0xd0, 2, 0x04, 1, 0x48, 1, 2, 0xaa, 0xbb];
    let vp9 = Vp9Descriptor::parse(&payload).unwrap();
    let structure = vp9.structure.unwrap();
    assert_eq!(structure.spatial_layers, 2);
    assert_eq!(structure.sizes[..2], [(640, 360), (1280, 720)]);
    assert_eq!(vp9.len, 17);
    let mut oracle = Vp9Packet::default();
    let rest = oracle.depacketize(&Bytes::copy_from_slice(&payload)).unwrap();
    assert_eq!((oracle.ns, &oracle.width[..], rest.len()), (1, &[640, 1280][..], 2));
}

#[test]
fn h264_payloads() {
    check(
        CodecKind::H264,
        [
            Case { name: "idr", payload: &[0x65, 0x88], facts: Ok(keyframe()) },
            Case {
                name: "second slice of an idr",
                payload: &[0x65, 0x40],
                facts: Ok(Facts::default()),
            },
            Case { name: "sps", payload: &[0x67, 0x42], facts: Ok(keyframe()) },
            Case { name: "pps", payload: &[0x68, 0xce], facts: Ok(starts()) },
            Case { name: "slice", payload: &[0x41, 0x9a], facts: Ok(starts()) },
            Case { name: "later slice", payload: &[0x41, 0x20], facts: Ok(Facts::default()) },
            Case {
                name: "stap-a with sps, pps and idr",
                payload: &[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68, 0, 2, 0x65, 0x88],
                facts: Ok(keyframe()),
            },
            Case {
                name: "stap-a with slices",
                payload: &[0x58, 0, 2, 0x41, 0x9a, 0, 2, 0x41, 0x20],
                facts: Ok(starts()),
            },
            Case {
                name: "stap-a cut",
                payload: &[0x78, 0, 9, 0x67, 0x42],
                facts: Err(PayloadError::Short),
            },
            Case {
                name: "stap-a with nothing",
                payload: &[0x78, 0, 0],
                facts: Err(PayloadError::Malformed),
            },
            Case { name: "fu-a, idr starts", payload: &[0x7c, 0x85, 0x88], facts: Ok(keyframe()) },
            Case {
                name: "fu-a, idr goes on",
                payload: &[0x7c, 0x05, 0x88],
                facts: Ok(Facts::default()),
            },
            Case { name: "fu-a, slice starts", payload: &[0x5c, 0x81, 0x9a], facts: Ok(starts()) },
            Case { name: "fu-a cut", payload: &[0x7c], facts: Err(PayloadError::Short) },
            Case { name: "interleaved", payload: &[0x79], facts: Err(PayloadError::Malformed) },
            Case { name: "empty", payload: &[], facts: Err(PayloadError::Short) },
        ],
    );
}

#[test]
fn h265_payloads() {
    let base = || Some(0);
    check(
        CodecKind::H265,
        [
            Case {
                name: "idr",
                payload: &[0x26, 0x01, 0xaf],
                facts: Ok(Facts { temporal: base(), ..keyframe() }),
            },
            Case {
                name: "later slice of an idr",
                payload: &[0x26, 0x01, 0x2f],
                facts: Ok(Facts { temporal: base(), ..Facts::default() }),
            },
            Case {
                name: "aggregated vps, sps, pps",
                payload: &[0x60, 0x01, 0, 2, 0x40, 0x01, 0, 2, 0x42, 0x01, 0, 2, 0x44, 0x01],
                facts: Ok(Facts { temporal: base(), ..keyframe() }),
            },
            Case {
                name: "trailing picture of layer 1",
                payload: &[0x02, 0x02, 0x80],
                facts: Ok(Facts { temporal: Some(1), ..starts() }),
            },
            Case {
                name: "temporal sub-layer access",
                payload: &[0x06, 0x03, 0x80],
                facts: Ok(Facts { temporal: Some(2), switch_up: true, ..starts() }),
            },
            Case {
                name: "fragment, idr starts",
                payload: &[0x62, 0x01, 0x93, 0x80],
                facts: Ok(Facts { temporal: base(), ..keyframe() }),
            },
            Case {
                name: "fragment, idr goes on",
                payload: &[0x62, 0x01, 0x13, 0x80],
                facts: Ok(Facts { temporal: base(), ..Facts::default() }),
            },
            Case {
                name: "temporal id of zero",
                payload: &[0x26, 0x00],
                facts: Err(PayloadError::Malformed),
            },
            Case {
                name: "aggregate cut",
                payload: &[0x60, 0x01, 0, 9, 0x40, 0x01],
                facts: Err(PayloadError::Short),
            },
            Case { name: "paci", payload: &[0x64, 0x01], facts: Err(PayloadError::Malformed) },
            Case { name: "cut", payload: &[0x26], facts: Err(PayloadError::Short) },
        ],
    );
}

#[test]
fn av1_payloads() {
    check(
        CodecKind::Av1,
        [
            Case {
                name: "new sequence: sequence header and frame",
                payload: &[0x28, 2, 0x08, 0, 0x30, 1],
                facts: Ok(keyframe()),
            },
            Case {
                name: "sequence header without the N bit",
                payload: &[0x20, 2, 0x08, 0, 0x30, 1],
                facts: Ok(keyframe()),
            },
            Case { name: "frame", payload: &[0x10, 0x30, 1], facts: Ok(starts()) },
            Case {
                name: "frame with layers",
                payload: &[0x10, 0x34, 0x48, 1],
                facts: Ok(Facts { temporal: Some(2), spatial: Some(1), ..starts() }),
            },
            Case {
                name: "rest of a frame",
                payload: &[0x90, 0x0a, 1],
                facts: Ok(Facts::default()),
            },
            Case {
                name: "rest of a frame, then another with lengths",
                payload: &[0x80, 2, 0x0a, 1, 2, 0x30, 1],
                facts: Ok(starts()),
            },
            Case { name: "tile group", payload: &[0x10, 0x20, 1], facts: Ok(Facts::default()) },
            Case {
                name: "continues a new sequence",
                payload: &[0x98, 0x0a],
                facts: Err(PayloadError::Malformed),
            },
            Case {
                name: "forbidden bit",
                payload: &[0x10, 0xb0],
                facts: Err(PayloadError::Malformed),
            },
            Case {
                name: "length beyond the packet",
                payload: &[0x00, 9, 0x30],
                facts: Err(PayloadError::Short),
            },
            Case {
                name: "length of five bytes",
                payload: &[0x00, 0x80, 0x80, 0x80, 0x80, 0],
                facts: Err(PayloadError::Malformed),
            },
            Case {
                name: "fewer elements than counted",
                payload: &[0x20, 2, 0x30, 1],
                facts: Err(PayloadError::Short),
            },
            Case { name: "empty", payload: &[], facts: Err(PayloadError::Short) },
        ],
    );
}

#[test]
fn opus_packets() {
    struct Case {
        name: &'static str,
        payload: &'static [u8],
        packet: Option<(u64, bool)>,
    }
    let cases = [
        Case { name: "celt 20 ms", payload: &[0xfc, 1, 2], packet: Some((20_000, false)) },
        Case { name: "celt 2.5 ms", payload: &[0x80, 1, 2], packet: Some((2_500, false)) },
        Case { name: "silk 60 ms", payload: &[0x18, 1, 2], packet: Some((60_000, false)) },
        Case { name: "hybrid 10 ms", payload: &[0x70, 1, 2], packet: Some((10_000, false)) },
        Case { name: "two frames", payload: &[0xfd, 1, 2], packet: Some((40_000, false)) },
        Case { name: "six frames", payload: &[0xff, 6, 2], packet: Some((120_000, false)) },
        Case { name: "seven frames", payload: &[0xff, 7, 2], packet: None },
        Case { name: "no frames", payload: &[0xff, 0, 2], packet: None },
        Case { name: "count missing", payload: &[0xff], packet: None },
        Case { name: "dtx", payload: &[0xf8], packet: Some((20_000, true)) },
        Case { name: "empty", payload: &[], packet: None },
    ];
    for case in cases {
        let packet = OpusPacket::parse(case.payload);
        let expected = case
            .packet
            .map(|(micros, dtx)| OpusPacket { duration: Duration::from_micros(micros), dtx });
        assert_eq!(packet, expected, "{}", case.name);
    }
    assert!(describe(CodecKind::Opus, &[0xfc, 1]).unwrap().keyframe);
    assert_eq!(describe(CodecKind::Opus, &[]), Err(PayloadError::Short));
}

#[test]
fn red_blocks() {
    // Two redundant blocks, 1,920 and 960 older, of two and one bytes, then the primary.
    let payload = [0xef, 0x1e, 0x00, 2, 0xef, 0x0f, 0x00, 1, 0x6f, 1, 2, 3, 4, 5];
    let blocks = RedBlocks::parse(&payload).unwrap();
    let opus = Pt::new(111).unwrap();
    assert_eq!(blocks.primary(), RedPrimary { pt: opus, data: &[4, 5], offset: 12 });
    let expected = [
        RedBlock { pt: opus, timestamp_offset: 1_920, data: &[1, 2] },
        RedBlock { pt: opus, timestamp_offset: 960, data: &[3] },
        RedBlock { pt: opus, timestamp_offset: 0, data: &[4, 5] },
    ];
    assert_eq!(blocks.collect::<Vec<_>>(), expected);

    struct Case {
        name: &'static str,
        payload: Vec<u8>,
        error: PayloadError,
    }
    let cases = [
        Case { name: "empty", payload: vec![], error: PayloadError::Short },
        Case { name: "header cut", payload: vec![0xef, 0, 0], error: PayloadError::Short },
        Case { name: "no primary", payload: vec![0xef, 0, 0, 0], error: PayloadError::Short },
        Case {
            name: "data cut",
            payload: vec![0xef, 0, 0, 3, 0x6f, 1, 2],
            error: PayloadError::Short,
        },
        Case {
            name: "blocks without end",
            payload: [0xef, 0, 0, 0].repeat(40),
            error: PayloadError::Malformed,
        },
    ];
    for case in cases {
        assert_eq!(RedBlocks::parse(&case.payload).err(), Some(case.error), "{}", case.name);
    }
}

const KINDS: [CodecKind; 7] = [
    CodecKind::Vp8,
    CodecKind::Vp9,
    CodecKind::H264,
    CodecKind::H265,
    CodecKind::Av1,
    CodecKind::Opus,
    CodecKind::Red,
];

proptest! {
    #[test]
    fn vp8_descriptors_agree_with_another_parser(
        payload in prop::collection::vec(any::<u8>(), 8..16),
    ) {
        let vp8 = Vp8Descriptor::parse(&payload).unwrap();
        let mut oracle = Vp8Packet::default();
        let rest = oracle.depacketize(&Bytes::from(payload.clone())).unwrap();
        prop_assert_eq!(vp8.len, payload.len() - rest.len());
        prop_assert_eq!(vp8.picture_id, (oracle.i == 1).then_some(oracle.picture_id));
        prop_assert_eq!(vp8.tl0_pic_idx, (oracle.l == 1).then_some(oracle.tl0_pic_idx));
        prop_assert_eq!(vp8.tid, (oracle.t == 1).then_some(oracle.tid));
        prop_assert_eq!(vp8.key_idx, (oracle.k == 1).then_some(oracle.key_idx));
        prop_assert_eq!(vp8.non_reference, oracle.n == 1);
        prop_assert_eq!(vp8.starts_frame(), oracle.s == 1 && oracle.pid == 0);
    }

    #[test]
    fn vp9_descriptors_agree_with_another_parser(
        mut payload in prop::collection::vec(any::<u8>(), 1..60),
    ) {
        // The other parser takes the reserved bits of a structure for its G bit: no structures here.
        payload[0] &= !0x02;
        let mut oracle = Vp9Packet::default();
        let rest = oracle.depacketize(&Bytes::from(payload.clone()));
        let (Ok(vp9), Ok(rest)) = (Vp9Descriptor::parse(&payload), rest) else { return Ok(()) };
        prop_assert_eq!(vp9.len, payload.len() - rest.len());
        prop_assert_eq!(vp9.picture_id, oracle.i.then_some(oracle.picture_id));
        prop_assert_eq!(vp9.tid, oracle.l.then_some(oracle.tid));
        prop_assert_eq!(vp9.sid, oracle.l.then_some(oracle.sid));
        prop_assert_eq!(vp9.switching_up, oracle.l && oracle.u);
        prop_assert_eq!(vp9.inter_layer_predicted, oracle.l && oracle.d);
        prop_assert_eq!(vp9.tl0_pic_idx, (oracle.l && !oracle.f).then_some(oracle.tl0picidx));
        prop_assert_eq!(vp9.picture_diffs.as_slice(), &oracle.pdiff[..]);
        prop_assert_eq!(vp9.starts_frame, oracle.b);
        prop_assert_eq!(vp9.ends_frame, oracle.e);
    }

    #[test]
    fn noise_never_panics(payload in prop::collection::vec(any::<u8>(), 0..80)) {
        for kind in KINDS {
            let _ = describe(kind, &payload);
        }
        let _ = OpusPacket::parse(&payload);
        if let Ok(blocks) = RedBlocks::parse(&payload) {
            let primary = blocks.primary();
            prop_assert_eq!(&payload[primary.offset..], primary.data);
            prop_assert_eq!(blocks.last().map(|block| block.data), Some(primary.data));
        }
    }
}

#[test]
fn red_that_is_written_reads_the_same() {
    let pt = Pt::new(111).unwrap();
    let older: [(u16, &[u8]); 2] = [(0x3fff, &[1; 1_023]), (960, &[2, 3])];
    let mut out = [0xee; 1_200];
    let len = write_red(&mut out, pt, &older, &[4, 5, 6]).unwrap();
    assert_eq!(len, 4 + 4 + 1 + 1_023 + 2 + 3);
    let blocks: Vec<_> = RedBlocks::parse(&out[..len]).unwrap().collect();
    let read: Vec<_> = blocks.iter().map(|block| (block.timestamp_offset, block.data)).collect();
    assert_eq!(read, [(0x3fff, &[1; 1_023][..]), (960, &[2, 3]), (0, &[4, 5, 6])]);
    assert!(blocks.iter().all(|block| block.pt == pt));
    assert_eq!(write_red(&mut out[..len - 1], pt, &older, &[4, 5, 6]), None, "no room");
    assert_eq!(write_red(&mut out, pt, &[(960, &[0; 1_024])], &[4]), None, "ten bits of length");
}
