use super::*;
use crate::{
    cache::{
        CodecFields, Formats, Vp8Fields,
        test_packets::{codec, keyframe, meta, ms, start, vp8_layer},
    },
    rtp::CodecKind,
    wire::{ActiveTargets, AudioLevel, DescriptorPatch, payload::Vp8Descriptor},
};

/// What happens to a forwarder, in order.
enum Step {
    Want {
        spatial: u8,
        temporal: u8,
    },
    Pause,
    /// Another source takes the track's place, or the same one comes again.
    Attach,
    /// A frame of VP8 in one packet. Its number is also its picture id plus `PICTURES`.
    Picture {
        encoding: u8,
        seq: u64,
        temporal: u8,
        key: bool,
        expect: Option<Sent>,
    },
    Padding {
        encoding: u8,
        seq: u64,
    },
    Sound {
        seq: u64,
        level: u8,
        expect: Option<Sent>,
    },
}

/// What a subscriber sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sent {
    seq: u64,
    /// 0 for sound.
    picture: u16,
    marker: bool,
    opens: bool,
}

const PICTURES: u64 = 1_000;

/// In the middle of a stream.
const fn sent(seq: u64, picture: u16) -> Option<Sent> {
    Some(Sent { seq, picture, marker: false, opens: false })
}

const fn opens(seq: u64, picture: u16) -> Option<Sent> {
    Some(Sent { seq, picture, marker: false, opens: true })
}

const fn picture(encoding: u8, seq: u64, temporal: u8, expect: Option<Sent>) -> Step {
    Picture { encoding, seq, temporal, key: false, expect }
}

const fn key(encoding: u8, seq: u64, expect: Option<Sent>) -> Step {
    Picture { encoding, seq, temporal: 0, key: true, expect }
}

const fn sound(seq: u64, level: u8, expect: Option<Sent>) -> Step {
    Sound { seq, level, expect }
}

use Step::{Attach, Padding, Pause, Picture, Sound, Want};

#[test]
fn what_is_left_out_by_choice_leaves_no_trace_and_what_is_lost_does() {
    struct Case {
        name: &'static str,
        kind: MediaKind,
        live: u8,
        suppress_silence: bool,
        steps: Vec<Step>,
    }
    const VIDEO: Case = Case {
        name: "",
        kind: MediaKind::Video,
        live: 1,
        suppress_silence: false,
        steps: Vec::new(),
    };
    let cases = [
        Case {
            name: "nothing is wanted",
            steps: vec![key(0, 100, None), picture(0, 101, 0, None)],
            ..VIDEO
        },
        Case {
            name: "upper temporal layers are left out",
            steps: vec![
                Want { spatial: 0, temporal: 0 },
                key(0, 100, opens(7, 1_100)),
                picture(0, 101, 2, None),
                picture(0, 102, 1, None),
                picture(0, 103, 2, None),
                picture(0, 104, 0, sent(8, 1_101)),
            ],
            ..VIDEO
        },
        Case {
            name: "one is lost, one is late",
            steps: vec![
                Want { spatial: 0, temporal: 3 },
                key(0, 100, opens(7, 1_100)),
                picture(0, 103, 0, sent(10, 1_103)),
                picture(0, 102, 0, sent(9, 1_102)),
                picture(0, 99, 0, None),
            ],
            ..VIDEO
        },
        Case {
            name: "padding is closed up",
            steps: vec![
                Want { spatial: 0, temporal: 3 },
                key(0, 100, opens(7, 1_100)),
                Padding { encoding: 0, seq: 101 },
                picture(0, 102, 0, sent(8, 1_102)),
            ],
            ..VIDEO
        },
        Case {
            name: "another encoding goes on at its keyframe",
            live: 2,
            steps: vec![
                Want { spatial: 1, temporal: 3 },
                key(0, 100, opens(7, 1_100)),
                picture(1, 500, 0, None),
                picture(0, 101, 0, sent(8, 1_101)),
                key(1, 501, opens(9, 1_102)),
                picture(0, 102, 0, None),
                picture(1, 502, 0, sent(10, 1_103)),
                Want { spatial: 0, temporal: 3 },
                picture(1, 503, 0, sent(11, 1_104)),
                key(0, 110, opens(12, 1_105)),
                picture(1, 504, 0, None),
            ],
            ..VIDEO
        },
        Case {
            name: "after a pause it begins with a keyframe, without a gap",
            steps: vec![
                Want { spatial: 0, temporal: 3 },
                key(0, 100, opens(7, 1_100)),
                Pause,
                picture(0, 101, 0, None),
                Want { spatial: 0, temporal: 3 },
                picture(0, 102, 0, None),
                key(0, 120, opens(8, 1_101)),
            ],
            ..VIDEO
        },
        Case {
            name: "a keyframe from before a pause begins nothing when it comes late",
            steps: vec![
                Want { spatial: 0, temporal: 3 },
                key(0, 100, opens(7, 1_100)),
                picture(0, 104, 0, sent(11, 1_104)),
                Pause,
                Want { spatial: 0, temporal: 3 },
                key(0, 103, None),
                key(0, 105, opens(12, 1_105)),
            ],
            ..VIDEO
        },
        Case {
            name: "nor does one from before the encoding was left, and numbers of others say nothing of it",
            live: 2,
            steps: vec![
                Want { spatial: 1, temporal: 3 },
                key(1, 500, opens(7, 1_500)),
                picture(1, 503, 0, sent(10, 1_503)),
                Want { spatial: 0, temporal: 3 },
                key(0, 900, opens(11, 1_504)),
                Want { spatial: 1, temporal: 3 },
                key(1, 502, None),
                picture(0, 901, 0, sent(12, 1_505)),
                key(1, 504, opens(13, 1_506)),
            ],
            ..VIDEO
        },
        Case {
            name: "another source begins wherever its numbers are",
            live: 2,
            steps: vec![
                Want { spatial: 1, temporal: 3 },
                key(1, 500, opens(7, 1_500)),
                Want { spatial: 0, temporal: 3 },
                key(0, 900, opens(8, 1_501)),
                Attach,
                key(0, 901, None),
                Want { spatial: 1, temporal: 3 },
                key(0, 10, opens(9, 1_502)),
                key(1, 20, opens(10, 1_503)),
            ],
            ..VIDEO
        },
        Case {
            name: "sound that comes late is not taken for new after a pause",
            kind: MediaKind::Audio,
            steps: vec![
                Want { spatial: 0, temporal: 0 },
                sound(100, 40, opens(7, 0)),
                Pause,
                Want { spatial: 0, temporal: 0 },
                sound(99, 40, None),
                sound(101, 40, opens(8, 0)),
            ],
            ..VIDEO
        },
        Case {
            name: "silence is left out, and speech after it has the marker of a talkspurt",
            kind: MediaKind::Audio,
            suppress_silence: true,
            steps: vec![
                Want { spatial: 0, temporal: 0 },
                sound(100, 127, opens(7, 0)),
                sound(101, 127, sent(8, 0)),
                sound(102, 127, sent(9, 0)),
                sound(103, 127, sent(10, 0)),
                sound(104, 127, sent(11, 0)),
                sound(105, 127, sent(12, 0)),
                sound(106, 127, sent(13, 0)),
                sound(107, 127, None),
                sound(108, 127, None),
                sound(109, 40, Some(Sent { seq: 14, picture: 0, marker: true, opens: false })),
                sound(110, 40, sent(15, 0)),
            ],
            ..VIDEO
        },
        Case {
            name: "silence passes where nobody asked",
            kind: MediaKind::Audio,
            steps: vec![
                Want { spatial: 0, temporal: 0 },
                sound(100, 127, opens(7, 0)),
                sound(101, 127, sent(8, 0)),
                sound(102, 127, sent(9, 0)),
                sound(103, 127, sent(10, 0)),
                sound(104, 127, sent(11, 0)),
                sound(105, 127, sent(12, 0)),
                sound(106, 127, sent(13, 0)),
                sound(107, 127, sent(14, 0)),
                sound(108, 127, sent(15, 0)),
            ],
            ..VIDEO
        },
    ];
    let mut formats = Formats::default();
    formats.intern(&codec(CodecKind::Vp8, 96, None));
    let timing = Timing { formats: &formats, clocks: &[None, None], decode_targets: &[] };
    let now = start();
    for case in cases {
        let mut forwarder = Forwarder::new(case.kind, SeqNo(7));
        forwarder.set_live(EncodingSet::first(case.live));
        forwarder.set_suppress_silence(case.suppress_silence);
        for (index, step) in case.steps.iter().enumerate() {
            let at = |seq: u64| now + ms(33 * seq);
            let (packet, expect) = match step {
                Want { spatial, temporal } => {
                    let wanted = Layers { spatial: *spatial, temporal: *temporal };
                    forwarder.set_wanted(Some(wanted));
                    continue;
                }
                Pause => {
                    forwarder.set_wanted(None);
                    continue;
                }
                Attach => {
                    forwarder.attach(EncodingSet::first(case.live));
                    continue;
                }
                Picture { encoding, seq, temporal, key, expect } => {
                    let mut packet = meta(*encoding, *seq, 3_000 * seq, at(*seq));
                    packet.codec = CodecFields::Vp8(Vp8Fields {
                        picture_id: Some((PICTURES + seq) as u16),
                        long_picture_id: true,
                        tl0_pic_idx: None,
                        tid_key_idx: Some((temporal << 6, false)),
                    });
                    let packet = vp8_layer(packet, *seq, *temporal, None);
                    (if *key { keyframe(packet) } else { packet }, *expect)
                }
                Padding { encoding, seq } => {
                    let packet = meta(*encoding, *seq, 3_000 * seq, at(*seq));
                    (PacketMeta { padding: true, ..packet }, None)
                }
                Sound { seq, level, expect } => {
                    let mut packet = meta(0, *seq, 960 * seq, at(*seq));
                    packet.audio_level = Some(AudioLevel { level: *level, voice: false });
                    (packet, *expect)
                }
            };
            let given = forwarder.forward(&packet, &timing).map(|rewritten| {
                let mut payload = [0x90, 0xb0, 0x80, 0, 0, 0xaa];
                rewritten.patch.apply(&mut payload);
                let id = Vp8Descriptor::parse(&payload).and_then(|vp8| vp8.picture_id);
                Sent {
                    seq: rewritten.seq.0,
                    picture: id.unwrap_or_default(),
                    marker: rewritten.marker,
                    opens: rewritten.opens,
                }
            });
            assert_eq!(given, expect, "{}, step {index}", case.name);
        }
    }
}

#[test]
fn the_latest_packet_leads_where_it_says_nothing_once() {
    let formats = Formats::default();
    let timing = Timing { formats: &formats, clocks: &[], decode_targets: &[] };
    let mut forwarder = Forwarder::new(MediaKind::Video, SeqNo(1));
    forwarder.attach(EncodingSet::first(1));
    forwarder.set_wanted(Some(Layers::MAX));
    let first = keyframe(meta(0, 10, 900, start()));
    let rewritten = forwarder.forward(&first, &timing).unwrap();
    assert!(forwarder.leads(&first, &rewritten));
    let told =
        DescriptorPatch { frame_number: 1, active: Some(ActiveTargets { mask: 1, count: 2 }) };
    let telling = Rewritten { descriptor: Some(told), ..rewritten };
    assert!(!forwarder.leads(&first, &telling), "those that follow do not say it again");
    let numbered = DescriptorPatch { active: None, ..told };
    assert!(forwarder.leads(&first, &Rewritten { descriptor: Some(numbered), ..rewritten }));
    let last = meta(0, 14, 1_800, start());
    assert!(forwarder.forward(&last, &timing).is_some());
    assert!(!forwarder.leads(&first, &rewritten), "something newer passed");
}
