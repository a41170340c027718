use super::*;
use crate::{
    cache::{
        DecodeTargets, Formats,
        test_packets::{meta, start, vp8_layer},
    },
    wire::ActiveTargets,
};

/// A packet with a descriptor, of a stream with two spatial layers of two temporal ones.
#[derive(Clone, Copy)]
struct Packet {
    /// It opens a stream.
    opens: bool,
    /// Its frame's number on the wire.
    number: Option<u16>,
    /// Its frame, for the order.
    frame: u64,
    /// It brings a structure.
    brings: bool,
    /// The frame that brought the track's structure.
    since: u64,
    /// And the one that brought the structure by which it was read.
    by: u64,
    /// Decode targets that the publisher produces.
    active: u32,
    /// It says so itself.
    tells: bool,
    /// What the subscriber is on.
    target: Option<(u8, u8)>,
    /// Number and mask that it leaves with.
    expect: Option<(u16, Option<u32>)>,
}

const FIRST: Packet = Packet {
    opens: true,
    number: Some(10),
    frame: 10,
    brings: true,
    since: 10,
    by: 10,
    active: 0b1111,
    tells: true,
    target: Some((1, 1)),
    expect: Some((10, None)),
};
const NEXT: Packet = Packet {
    opens: false,
    number: Some(11),
    frame: 11,
    brings: false,
    tells: false,
    expect: Some((11, None)),
    ..FIRST
};

#[test]
fn frame_numbers_go_on_and_the_targets_that_are_left_are_told() {
    struct Case {
        name: &'static str,
        packets: &'static [Packet],
    }
    let cases = [
        Case { name: "everything is wanted: nothing to tell", packets: &[FIRST, NEXT] },
        Case {
            name: "a lower target is told once",
            packets: &[
                Packet { target: Some((0, 1)), expect: Some((10, Some(0b0011))), ..FIRST },
                Packet { target: Some((0, 1)), ..NEXT },
            ],
        },
        Case {
            name: "one that changes is told with the frame that changes it, and again where it is back",
            packets: &[
                FIRST,
                Packet { target: Some((1, 0)), expect: Some((11, Some(0b0101))), ..NEXT },
                Packet {
                    number: Some(12),
                    frame: 12,
                    target: Some((1, 0)),
                    expect: Some((12, None)),
                    ..NEXT
                },
                Packet { number: Some(13), frame: 13, expect: Some((13, Some(0b1111))), ..NEXT },
            ],
        },
        Case {
            name: "a late packet of a frame before the change says nothing",
            packets: &[
                FIRST,
                Packet {
                    number: Some(12),
                    frame: 12,
                    target: Some((0, 0)),
                    expect: Some((12, Some(0b0001))),
                    ..NEXT
                },
                NEXT,
            ],
        },
        Case {
            name: "what the publisher says anew is cut to what passes",
            packets: &[
                Packet { target: Some((0, 0)), expect: Some((10, Some(0b0001))), ..FIRST },
                Packet {
                    active: 0b0011,
                    tells: true,
                    target: Some((0, 0)),
                    expect: Some((11, Some(0b0001))),
                    ..NEXT
                },
            ],
        },
        Case {
            name: "layers that the publisher stopped are its own to tell",
            packets: &[Packet { active: 0b0011, ..FIRST }, Packet { active: 0b0011, ..NEXT }],
        },
        Case {
            name: "a stream that begins without a word about targets",
            packets: &[Packet {
                tells: false,
                target: Some((0, 1)),
                expect: Some((10, Some(0b0011))),
                ..FIRST
            }],
        },
        Case {
            name: "of another structure than the subscriber's nothing is told, nor to frames from before it",
            packets: &[
                FIRST,
                Packet { by: 20, target: Some((0, 0)), ..NEXT },
                Packet { since: 20, target: Some((0, 0)), ..NEXT },
                Packet { since: 20, by: 20, target: Some((0, 0)), ..NEXT },
                Packet {
                    number: Some(20),
                    frame: 20,
                    since: 20,
                    by: 20,
                    brings: true,
                    expect: Some((20, None)),
                    ..NEXT
                },
                Packet {
                    number: Some(19),
                    frame: 19,
                    since: 20,
                    by: 20,
                    tells: true,
                    target: Some((0, 0)),
                    expect: Some((19, None)),
                    ..NEXT
                },
                Packet {
                    number: Some(21),
                    frame: 21,
                    since: 20,
                    by: 20,
                    target: Some((0, 0)),
                    expect: Some((21, Some(0b0001))),
                    ..NEXT
                },
            ],
        },
        Case {
            name: "an upper layer of the key picture repeats the structure",
            packets: &[
                FIRST,
                Packet { brings: true, ..NEXT },
                Packet {
                    number: Some(12),
                    frame: 12,
                    target: Some((0, 0)),
                    expect: Some((12, Some(0b0001))),
                    ..NEXT
                },
            ],
        },
        Case {
            name: "no layers: the number alone",
            packets: &[Packet { target: None, ..FIRST }, Packet { target: None, ..NEXT }],
        },
        Case {
            name: "no descriptor: nothing",
            packets: &[FIRST, Packet { number: None, expect: None, ..NEXT }],
        },
        Case {
            name: "another stream goes on behind the highest, with its own distances, and is told its targets",
            packets: &[
                Packet { number: Some(65_534), expect: Some((65_534, None)), ..FIRST },
                Packet { number: Some(65_535), expect: Some((65_535, None)), ..NEXT },
                Packet {
                    number: Some(700),
                    frame: 5,
                    since: 5,
                    by: 5,
                    target: Some((0, 1)),
                    expect: Some((0, Some(0b0011))),
                    ..FIRST
                },
                Packet {
                    number: Some(703),
                    frame: 8,
                    since: 5,
                    by: 5,
                    target: Some((0, 1)),
                    expect: Some((3, None)),
                    ..NEXT
                },
                Packet {
                    number: Some(702),
                    frame: 7,
                    since: 5,
                    by: 5,
                    target: Some((0, 1)),
                    expect: Some((2, None)),
                    ..NEXT
                },
            ],
        },
    ];
    let formats = Formats::default();
    let mut targets = DecodeTargets { count: 4, ..DecodeTargets::default() };
    for (layers, whole) in [((0, 0), 0b0001), ((0, 1), 0b0011), ((1, 0), 0b0101), ((1, 1), 0b1111)]
    {
        targets.whole[Layers { spatial: layers.0, temporal: layers.1 }.cell()] = whole;
    }
    let now = start();
    for case in cases {
        let mut rewriter = DescriptorRewriter::default();
        for (index, packet) in case.packets.iter().enumerate() {
            let mut meta = vp8_layer(meta(0, 1, 1, now), packet.frame, 0, None);
            meta.frame_number = packet.number;
            let facts = meta.frame.layers.as_mut().unwrap();
            (facts.active, facts.tells_active) = (packet.active, packet.tells);
            (facts.has_structure, facts.structure) = (packet.brings, packet.by);
            if packet.opens {
                rewriter.start(&meta);
            }
            let target = packet.target.map(|(spatial, temporal)| Layers { spatial, temporal });
            let targets = DecodeTargets { from: packet.since, ..targets };
            let timing = Timing { formats: &formats, clocks: &[], decode_targets: &[targets] };
            let given = rewriter.rewrite(&meta, target, &timing);
            let expect = packet.expect.map(|(frame_number, mask)| DescriptorPatch {
                frame_number,
                active: mask.map(|mask| ActiveTargets { mask, count: 4 }),
            });
            assert_eq!(given, expect, "{}, packet {index}", case.name);
        }
    }
}
