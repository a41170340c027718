use super::*;

fn vp8(picture_id: u16, tl0: u8, tid: u8, key_idx: u8) -> CodecFields {
    CodecFields::Vp8(Vp8Fields {
        picture_id: Some(picture_id),
        long_picture_id: true,
        tl0_pic_idx: Some(tl0),
        tid_key_idx: Some((tid << 6 | key_idx, true)),
    })
}

/// (picture id, TL0PICIDX, TID, KEYIDX) after the patch.
fn read(patch: CodecPatch) -> (u16, u8, u8, u8) {
    let mut payload = [0x90, 0xf0, 0, 0, 0, 0, 0xaa];
    patch.apply(&mut payload);
    let vp8 = crate::wire::payload::Vp8Descriptor::parse(&payload).unwrap();
    assert_eq!(payload[6], 0xaa);
    (vp8.picture_id.unwrap(), vp8.tl0_pic_idx.unwrap(), vp8.tid.unwrap(), vp8.key_idx.unwrap())
}

#[test]
fn vp8_fields_go_on_across_a_switch_and_their_wraps() {
    let mut rewriter = CodecRewriter::new();
    let first = vp8(32_766, 254, 0, 30);
    rewriter.start(first);
    assert_eq!(rewriter.rewrite(first).map(read), Some((32_766, 254, 0, 30)));
    assert_eq!(rewriter.rewrite(vp8(32_767, 255, 0, 31)).map(read), Some((32_767, 255, 0, 31)));
    assert_eq!(rewriter.rewrite(vp8(0, 255, 1, 31)).map(read), Some((0, 255, 1, 31)));

    let other = vp8(500, 9, 0, 7);
    rewriter.start(other);
    assert_eq!(rewriter.rewrite(other).map(read), Some((1, 0, 0, 0)));
    assert_eq!(rewriter.rewrite(vp8(502, 10, 0, 7)).map(read), Some((3, 1, 0, 0)), "501 is lost");
    assert_eq!(rewriter.rewrite(vp8(501, 9, 2, 7)).map(read), Some((2, 0, 2, 0)), "and late");
    assert_eq!(rewriter.rewrite(vp8(499, 9, 2, 7)), None, "before the switch");
}

#[test]
fn skipped_vp8_frames_leave_no_gap_in_picture_ids() {
    let mut rewriter = CodecRewriter::new();
    let first = vp8(10, 1, 0, 0);
    rewriter.start(first);
    rewriter.rewrite(first).unwrap();
    rewriter.skip(vp8(11, 1, 2, 0), true);
    rewriter.skip(vp8(11, 1, 2, 0), true);
    assert_eq!(rewriter.rewrite(vp8(12, 1, 1, 0)).map(read), Some((11, 1, 1, 0)));
    rewriter.skip(vp8(13, 1, 2, 0), true);
    assert_eq!(rewriter.rewrite(vp8(14, 2, 0, 0)).map(read), Some((12, 2, 0, 0)));
    assert_eq!(rewriter.rewrite(vp8(12, 1, 1, 0)).map(read), Some((11, 1, 1, 0)), "late packet");
    assert_eq!(rewriter.rewrite(vp8(11, 1, 2, 0)), None, "was skipped");
}

#[test]
fn short_vp8_descriptors_keep_their_shape() {
    let short = |picture_id| {
        CodecFields::Vp8(Vp8Fields { picture_id: Some(picture_id), ..Vp8Fields::default() })
    };
    let mut rewriter = CodecRewriter::new();
    rewriter.start(short(127));
    assert!(rewriter.rewrite(short(127)).is_some());
    let mut payload = [0x90, 0x80, 0, 0x55];
    rewriter.rewrite(short(0)).unwrap().apply(&mut payload);
    assert_eq!(payload, [0x90, 0x80, 0, 0x55], "7 bits wrap");
    rewriter.start(short(9));
    rewriter.rewrite(short(9)).unwrap().apply(&mut payload);
    assert_eq!(payload, [0x90, 0x80, 1, 0x55]);

    let bare = CodecFields::Vp8(Vp8Fields::default());
    rewriter.start(bare);
    let mut payload = [0x10, 0x9d, 0x01];
    rewriter.rewrite(bare).unwrap().apply(&mut payload);
    assert_eq!(payload, [0x10, 0x9d, 0x01]);
}

fn vp9_fixed(picture_id: u16, tl0: u8) -> CodecFields {
    CodecFields::Vp9(Vp9Fields {
        picture_id: Some(picture_id),
        long_picture_id: true,
        layers_tl0: Some((0x42, tl0)),
        flexible: None,
    })
}

fn vp9_flexible(picture_id: u16, diffs: [u8; 3]) -> CodecFields {
    CodecFields::Vp9(Vp9Fields {
        picture_id: Some(picture_id),
        long_picture_id: true,
        layers_tl0: None,
        flexible: Some(Vp9Flexible { layers: Some(0x42), diffs }),
    })
}

#[test]
fn vp9_ids_keep_their_distances_where_these_say_what_a_picture_is() {
    let mut rewriter = CodecRewriter::new();
    rewriter.start(vp9_fixed(0x7ffe, 255));
    rewriter.rewrite(vp9_fixed(0x7ffe, 255)).unwrap();
    rewriter.rewrite(vp9_fixed(0x7fff, 255)).unwrap();
    rewriter.start(vp9_fixed(77, 3));
    let mut payload = [0xa0, 0, 0, 0, 0, 0x99];
    rewriter.rewrite(vp9_fixed(77, 3)).unwrap().apply(&mut payload);
    assert_eq!(payload, [0xa0, 0x80, 0, 0x42, 0, 0x99]);
    rewriter.skip(vp9_fixed(78, 3), true);
    rewriter.rewrite(vp9_fixed(79, 4)).unwrap().apply(&mut payload);
    assert_eq!(payload, [0xa0, 0x80, 2, 0x42, 1, 0x99], "gaps stay");
}

#[test]
fn vp9_pictures_that_name_their_references_close_up() {
    /// One packet after the other.
    enum Packet {
        Pass { id: u16, diffs: [u8; 3], expect: Option<(u16, &'static [u8])> },
        Skip { id: u16 },
    }
    use Packet::{Pass, Skip};
    struct Case {
        name: &'static str,
        packets: &'static [Packet],
    }
    let cases = [
        Case {
            name: "every second picture left out",
            packets: &[
                Skip { id: 101 },
                Pass { id: 102, diffs: [2, 0, 0], expect: Some((101, &[1])) },
                Skip { id: 103 },
                Skip { id: 103 },
                Pass { id: 104, diffs: [2, 4, 0], expect: Some((102, &[1, 2])) },
            ],
        },
        Case {
            name: "an upper spatial layer left out, the picture stays",
            packets: &[
                Pass { id: 101, diffs: [1, 0, 0], expect: Some((101, &[1])) },
                Skip { id: 101 },
                Pass { id: 102, diffs: [1, 0, 0], expect: Some((102, &[1])) },
            ],
        },
        Case {
            name: "a lower spatial layer left out, the upper one passes",
            packets: &[
                Skip { id: 101 },
                Pass { id: 101, diffs: [1, 0, 0], expect: Some((101, &[1])) },
                Pass { id: 102, diffs: [2, 1, 0], expect: Some((102, &[2, 1])) },
            ],
        },
        Case {
            name: "lost, then late",
            packets: &[
                Pass { id: 102, diffs: [2, 0, 0], expect: Some((102, &[2])) },
                Pass { id: 101, diffs: [1, 0, 0], expect: Some((101, &[1])) },
                Skip { id: 103 },
                Pass { id: 104, diffs: [3, 2, 0], expect: Some((103, &[2, 1])) },
            ],
        },
        Case {
            name: "left out, then wanted",
            packets: &[
                Skip { id: 101 },
                Pass { id: 102, diffs: [2, 0, 0], expect: Some((101, &[1])) },
                Pass { id: 101, diffs: [1, 0, 0], expect: None },
            ],
        },
        Case {
            name: "refers to what was left out",
            packets: &[
                Skip { id: 101 },
                Pass { id: 102, diffs: [1, 0, 0], expect: Some((101, &[1])) },
                Pass { id: 103, diffs: [3, 0, 0], expect: Some((102, &[2])) },
            ],
        },
    ];
    for case in cases {
        let mut rewriter = CodecRewriter::new();
        rewriter.start(vp9_flexible(100, [0; 3]));
        rewriter.rewrite(vp9_flexible(100, [0; 3])).unwrap();
        for packet in case.packets {
            match packet {
                Skip { id } => rewriter.skip(vp9_flexible(*id, [0; 3]), true),
                Pass { id, diffs, expect } => {
                    let read = rewriter.rewrite(vp9_flexible(*id, *diffs)).map(|patch| {
                        // As sent: P_DIFFs each with the bit that says whether one follows.
                        let count = diffs.iter().filter(|diff| **diff != 0).count();
                        let mut payload = vec![0xf8, 0x80 | (id >> 8) as u8, *id as u8, 0x42];
                        payload
                            .extend((0..count).map(|at| diffs[at] << 1 | u8::from(at + 1 < count)));
                        payload.push(0x99);
                        patch.apply(&mut payload);
                        assert_eq!(payload.last(), Some(&0x99), "{}", case.name);
                        let vp9 = crate::wire::payload::Vp9Descriptor::parse(&payload).unwrap();
                        (vp9.picture_id.unwrap(), vp9.picture_diffs.as_slice().to_vec())
                    });
                    let expect = expect.map(|(id, diffs)| (id, diffs.to_vec()));
                    assert_eq!(read, expect, "{}: {id}", case.name);
                }
            }
        }
    }
}
