use super::*;

const fn at(spatial: u8, temporal: u8) -> Layers {
    Layers { spatial, temporal }
}

fn vp8(picture_id: u16, tid: u8, layer_sync: bool) -> PayloadLayers {
    PayloadLayers::Vp8 { picture_id, long: true, tid, layer_sync }
}

/// One packet per frame.
fn read(reader: &mut LayerReader, seq: u64, payload: PayloadLayers, key: bool) -> LayerFacts {
    let mut frame = FrameFacts { start: true, keyframe: key, ..FrameFacts::default() };
    assert_eq!(reader.read(SeqNo(seq), &[], payload, &mut frame), None);
    frame.layers.unwrap()
}

#[test]
fn a_vp8_sync_frame_needs_the_layers_below_it_and_no_other_frame_says_what_it_needs() {
    struct Case {
        name: &'static str,
        tid: u8,
        sync: bool,
        key: bool,
        needs: u64,
        needs_more: bool,
        /// The targets that can be joined here.
        switches: &'static [u8],
    }
    let cases = [
        Case {
            name: "key",
            tid: 0,
            sync: false,
            key: true,
            needs: 0,
            needs_more: false,
            switches: &[0, 1, 2, 3],
        },
        Case {
            name: "top, sync, middle unseen",
            tid: 2,
            sync: true,
            key: false,
            needs: 0,
            needs_more: true,
            switches: &[2],
        },
        Case {
            name: "middle, sync",
            tid: 1,
            sync: true,
            key: false,
            needs: 0b10,
            needs_more: false,
            switches: &[1],
        },
        Case {
            name: "top, sync",
            tid: 2,
            sync: true,
            key: false,
            needs: 0b101,
            needs_more: false,
            switches: &[2],
        },
        Case {
            name: "base",
            tid: 0,
            sync: false,
            key: false,
            needs: 0,
            needs_more: true,
            switches: &[],
        },
        Case {
            name: "middle",
            tid: 1,
            sync: false,
            key: false,
            needs: 0,
            needs_more: true,
            switches: &[],
        },
    ];
    let mut reader = LayerReader::default();
    for (index, case) in (0u16..).zip(cases) {
        let payload = vp8(32_766 + index, case.tid, case.sync);
        let facts = read(&mut reader, index.into(), payload, case.key);
        assert_eq!((facts.needs, facts.needs_more), (case.needs, case.needs_more), "{}", case.name);
        for temporal in 0..Layers::GRID {
            let switch = facts.uses.of(at(0, temporal)) == Indication::Switch;
            assert_eq!(switch, case.switches.contains(&temporal), "{}, {temporal}", case.name);
            let included = facts.uses.includes(at(0, temporal));
            assert_eq!(included, temporal >= case.tid, "{}, {temporal}", case.name);
        }
    }
}

#[test]
fn frame_numbers_go_on_over_wraps_late_packets_and_restarted_counters() {
    let mut reader = LayerReader::default();
    let first = read(&mut reader, 10, vp8(32_767, 0, false), true).frame;
    assert_eq!(read(&mut reader, 11, vp8(0, 0, false), false).frame, first + 1);
    assert_eq!(read(&mut reader, 9, vp8(32_766, 0, false), false).frame, first - 1, "late");
    assert_eq!(read(&mut reader, 13, vp8(2, 0, false), false).frame, first + 3);
    let restarted = read(&mut reader, 14, vp8(30_000, 0, false), true).frame;
    assert!(restarted > first + 3, "a keyframe that comes in order lies ahead");
    assert_eq!(read(&mut reader, 15, vp8(30_001, 0, false), false).frame, restarted + 1);
}

#[test]
fn a_packet_that_overtook_its_structure_waits_for_it() {
    // One template and one decode target, no chain; the frame needs nothing.
    let structure = [0xc0, 0, 7, 0x80, 0x00, 0x39, 0x00, 0x00];
    let mut reader = LayerReader::default();
    let mut frame = FrameFacts::default();
    assert_eq!(reader.read(SeqNo(2), &[0xc0, 0, 8], PayloadLayers::None, &mut frame), Some(8));
    assert!(frame.overtook && frame.layers.is_none());
    let mut key = FrameFacts::default();
    assert_eq!(reader.read(SeqNo(1), &structure, PayloadLayers::None, &mut key), Some(7));
    assert!(key.keyframe && key.layers.is_some_and(|layers| layers.has_structure));
    frame.overtook = false;
    reader.read(SeqNo(2), &[0xc0, 0, 8], PayloadLayers::None, &mut frame);
    let number = |frame: &FrameFacts| frame.layers.map(|layers| layers.frame);
    assert_eq!(number(&frame), number(&key).map(|number| number + 1));
    // What the structure says of its targets holds, though it came late, and it is named by what it came with.
    let mut next = FrameFacts::default();
    reader.read(SeqNo(3), &[0xc0, 0, 9], PayloadLayers::None, &mut next);
    for facts in [key, frame, next].map(|frame| frame.layers.unwrap()) {
        assert_eq!((facts.active, Some(facts.structure)), (1, number(&key)));
    }
}
