use Decision::{Ignore, Skip};

use super::*;
use crate::cache::test_packets::{keyframe, meta, start, vp8_layer};

const OPEN: Decision = Decision::Open { marker: false };
const PASS: Decision = Decision::Pass { marker: false };

/// What happens to a selector, in order.
enum Step {
    Want {
        spatial: u8,
        temporal: u8,
    },
    Pause,
    Abandon,
    Live(&'static [u8]),
    Packet {
        encoding: u8,
        keyframe: bool,
        expect: Decision,
    },
    /// The first packet of a frame in a temporal layer.
    Frame {
        temporal: u8,
        sync: bool,
        expect: Decision,
    },
    NewStream {
        generation: u8,
        keyframe: bool,
        expect: Decision,
    },
    Padding {
        encoding: u8,
        expect: Decision,
    },
    WantsKeyframe(Option<u8>),
    Demands(&'static [u8]),
}

use Step::{Abandon, Demands, Frame, Live, NewStream, Packet, Padding, Pause, Want, WantsKeyframe};

fn run(name: &str, kind: MediaKind, steps: &[Step]) {
    let mut selector = LayerSelector::new(kind);
    let now = start();
    let (mut frames, mut base, mut generations) = (1, 1, 0);
    for (index, step) in steps.iter().enumerate() {
        let at = format!("{name}, step {index}");
        match step {
            Want { spatial, temporal } => {
                selector.set_wanted(Some(Layers { spatial: *spatial, temporal: *temporal }));
            }
            Pause => selector.set_wanted(None),
            Abandon => selector.abandon(),
            Live(encodings) => selector
                .set_live(encodings.iter().copied().fold(EncodingSet::EMPTY, EncodingSet::with)),
            Packet { encoding, keyframe: key, expect } => {
                let packet = meta(*encoding, 1, frames, now);
                let packet = if *key { keyframe(packet) } else { packet };
                assert_eq!(
                    selector.select(&packet, |packet| packet.generation >= generations),
                    *expect,
                    "{at}"
                );
            }
            Frame { temporal, sync, expect } => {
                frames += 1;
                let packet =
                    vp8_layer(meta(0, 1, frames, now), frames, *temporal, sync.then_some(base));
                if *temporal == 0 {
                    base = frames;
                }
                assert_eq!(
                    selector.select(&packet, |packet| packet.generation >= generations),
                    *expect,
                    "{at}"
                );
            }
            Padding { encoding, expect } => {
                let packet = PacketMeta { padding: true, ..meta(*encoding, 1, 1, now) };
                assert_eq!(
                    selector.select(&packet, |packet| packet.generation >= generations),
                    *expect,
                    "{at}"
                );
            }
            NewStream { generation, keyframe: key, expect } => {
                let mut packet = meta(0, 1, 1, now);
                packet.frame.keyframe = *key;
                packet.generation = *generation;
                generations = *generation;
                assert_eq!(
                    selector.select(&packet, |packet| packet.generation >= generations),
                    *expect,
                    "{at}"
                );
            }
            WantsKeyframe(expect) => assert_eq!(selector.wants_keyframe(), *expect, "{at}"),
            Demands(expect) => {
                assert_eq!(selector.demanded().iter().collect::<Vec<_>>(), *expect, "{at}");
            }
        }
    }
}

const fn packet(encoding: u8, keyframe: bool, expect: Decision) -> Step {
    Packet { encoding, keyframe, expect }
}

#[test]
fn video_starts_at_a_keyframe() {
    run(
        "one encoding",
        MediaKind::Video,
        &[
            packet(0, true, Ignore),
            WantsKeyframe(None),
            Want { spatial: 255, temporal: 255 },
            WantsKeyframe(Some(0)),
            Live(&[0]),
            packet(0, false, Ignore),
            packet(0, true, OPEN),
            WantsKeyframe(None),
            packet(0, false, PASS),
            packet(0, true, PASS),
            Pause,
            Demands(&[]),
            packet(0, false, Ignore),
            Want { spatial: 255, temporal: 255 },
            packet(0, false, Ignore),
            packet(0, true, OPEN),
        ],
    );
}

#[test]
fn audio_starts_at_once() {
    run(
        "audio",
        MediaKind::Audio,
        &[
            Want { spatial: 255, temporal: 255 },
            WantsKeyframe(None),
            packet(0, false, OPEN),
            packet(0, false, PASS),
            NewStream { generation: 1, keyframe: false, expect: OPEN },
            packet(0, false, Ignore),
        ],
    );
}

#[test]
fn encodings_switch_at_a_keyframe_of_the_target_and_keep_the_old_one_until_then() {
    run(
        "up and down",
        MediaKind::Video,
        &[
            Want { spatial: 2, temporal: 255 },
            Live(&[0, 1, 2]),
            WantsKeyframe(Some(2)),
            packet(0, true, OPEN),
            WantsKeyframe(Some(2)),
            Demands(&[0, 2]),
            packet(2, false, Ignore),
            packet(0, false, PASS),
            packet(1, true, Ignore),
            packet(2, true, OPEN),
            packet(0, true, Ignore),
            packet(2, false, PASS),
            Demands(&[2]),
            Want { spatial: 1, temporal: 255 },
            WantsKeyframe(Some(1)),
            packet(2, false, PASS),
            Want { spatial: 2, temporal: 255 },
            WantsKeyframe(None),
            packet(1, true, Ignore),
            Want { spatial: 0, temporal: 255 },
            packet(0, true, OPEN),
            packet(2, true, Ignore),
        ],
    );
}

#[test]
fn a_publisher_who_stops_an_encoding_is_followed_down_and_up_again() {
    run(
        "stall",
        MediaKind::Video,
        &[
            Want { spatial: 2, temporal: 255 },
            Live(&[0, 1, 2]),
            packet(2, true, OPEN),
            Live(&[0, 1]),
            WantsKeyframe(Some(1)),
            packet(1, true, OPEN),
            Live(&[0, 1, 2]),
            WantsKeyframe(Some(2)),
            packet(1, false, PASS),
            packet(2, true, OPEN),
        ],
    );
    run(
        "only one above the bound",
        MediaKind::Video,
        &[
            Want { spatial: 0, temporal: 255 },
            Live(&[1]),
            WantsKeyframe(Some(1)),
            packet(1, true, OPEN),
            Live(&[0, 1]),
            packet(0, true, OPEN),
        ],
    );
}

#[test]
fn temporal_layers_drop_at_a_frame_and_rise_at_a_sync_point() {
    run(
        "temporal",
        MediaKind::Video,
        &[
            Want { spatial: 0, temporal: 255 },
            packet(0, true, OPEN),
            Frame { temporal: 2, sync: false, expect: PASS },
            Want { spatial: 0, temporal: 0 },
            Frame { temporal: 2, sync: false, expect: Skip },
            Frame { temporal: 0, sync: false, expect: PASS },
            Frame { temporal: 1, sync: true, expect: Skip },
            Want { spatial: 0, temporal: 1 },
            Frame { temporal: 1, sync: false, expect: Skip },
            Frame { temporal: 2, sync: true, expect: Skip },
            Frame { temporal: 1, sync: true, expect: PASS },
            Frame { temporal: 1, sync: false, expect: PASS },
            Want { spatial: 0, temporal: 2 },
            Frame { temporal: 2, sync: false, expect: Skip },
            Frame { temporal: 2, sync: true, expect: PASS },
            Frame { temporal: 2, sync: false, expect: PASS },
        ],
    );
}

#[test]
fn another_stream_in_the_same_encoding_needs_a_keyframe_of_its_own() {
    run(
        "generations",
        MediaKind::Video,
        &[
            Want { spatial: 0, temporal: 255 },
            Live(&[0]),
            packet(0, true, OPEN),
            NewStream { generation: 1, keyframe: false, expect: Ignore },
            WantsKeyframe(Some(0)),
            NewStream { generation: 1, keyframe: true, expect: OPEN },
            packet(0, false, Ignore),
            NewStream { generation: 1, keyframe: false, expect: PASS },
        ],
    );
}

#[test]
fn padding_of_the_publisher_is_closed_up() {
    run(
        "padding",
        MediaKind::Audio,
        &[
            Want { spatial: 0, temporal: 0 },
            Padding { encoding: 0, expect: Ignore },
            packet(0, false, OPEN),
            Padding { encoding: 0, expect: Skip },
            Padding { encoding: 1, expect: Ignore },
            packet(0, false, PASS),
        ],
    );
}

#[test]
fn what_is_abandoned_passes_no_more_and_waits_for_the_keyframe() {
    let packet = |encoding, keyframe, expect| Packet { encoding, keyframe, expect };
    run(
        "down with a backlog",
        MediaKind::Video,
        &[
            Live(&[0, 1, 2]),
            Want { spatial: 2, temporal: 9 },
            packet(2, true, OPEN),
            Abandon,
            packet(2, false, PASS),
            Want { spatial: 0, temporal: 9 },
            packet(2, false, PASS),
            Abandon,
            packet(2, false, Ignore),
            // What comes up again begins with a keyframe: its packets in between are missing.
            Want { spatial: 2, temporal: 9 },
            packet(2, false, Ignore),
            WantsKeyframe(Some(2)),
            packet(0, true, OPEN),
            packet(2, true, OPEN),
        ],
    );
}
