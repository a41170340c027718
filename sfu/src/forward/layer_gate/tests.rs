use super::*;
use crate::cache::{
    LayerUses,
    test_packets::{meta, start},
};

/// A frame in one packet, of a stream with two spatial layers of two temporal ones.
#[derive(Clone, Copy)]
struct Frame {
    frame: u64,
    picture: u64,
    spatial: u8,
    temporal: u8,
    key: bool,
    /// Frames it needs.
    needs: &'static [u64],
    /// Upper spatial layers need lower ones in every picture (L2T2), or in key pictures only (L2T2_KEY).
    nested: bool,
    /// Its sender tells no switch points.
    silent: bool,
}

/// What happens to a gate, in order.
enum Step {
    /// The stream begins with a frame.
    Open(Frame),
    Want(u8, u8),
    Frame(Frame, Gate),
    /// A packet that came before the structure by which it is read.
    Overtook(Gate),
    /// A packet that nothing is known about; with a marker.
    Bare(Gate),
    Target(Option<(u8, u8)>),
    WantsKeyframe(bool),
    /// So many pictures of one frame pass, from this one on.
    Wait(u64, Frame),
}
use Step::{Bare, Open, Overtook, Target, Wait, Want, WantsKeyframe};

const PASS: Gate = Gate::Pass { marker: false };
/// The last of its picture for the subscriber.
const LAST: Gate = Gate::Pass { marker: true };

const KEY: Frame = Frame {
    frame: 10,
    picture: 1,
    spatial: 0,
    temporal: 0,
    key: true,
    needs: &[],
    nested: true,
    silent: false,
};
const KEY_ABOVE: Frame = Frame { frame: 11, spatial: 1, needs: &[10], ..KEY };
/// The upper temporal layer, of the second picture.
const UPPER: Frame = Frame { frame: 12, picture: 2, temporal: 1, key: false, needs: &[10], ..KEY };
const UPPER_ABOVE: Frame = Frame { frame: 13, spatial: 1, needs: &[12, 11], ..UPPER };
/// The third picture.
const BASE: Frame = Frame { frame: 14, picture: 3, temporal: 0, ..UPPER };
const BASE_ABOVE: Frame = Frame { frame: 15, spatial: 1, needs: &[14, 11], ..BASE };

impl Frame {
    fn indication(self, target: Layers) -> Indication {
        if target.temporal < self.temporal || target.spatial < self.spatial {
            return Indication::NotPresent;
        }
        if self.silent {
            return Indication::Required;
        }
        if target.spatial > self.spatial {
            return match (self.nested, self.key) {
                (_, true) => Indication::Switch,
                (true, false) => Indication::Required,
                (false, false) => Indication::NotPresent,
            };
        }
        let opens = self.temporal == 0 || target.temporal > self.temporal;
        if opens { Indication::Switch } else { Indication::Discardable }
    }

    fn meta(self) -> PacketMeta {
        let (mut uses, mut targets) = (LayerUses::default(), LayerSet::EMPTY);
        for (spatial, temporal) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let target = Layers { spatial, temporal };
            uses.set(target, self.indication(target));
            targets = targets.with(target);
        }
        let mut meta = meta(0, self.frame, self.picture * 3_000, start());
        meta.frame.end = true;
        meta.frame.keyframe = self.key;
        (meta.frame.spatial, meta.frame.temporal) = (self.spatial, self.temporal);
        meta.frame.layers = Some(LayerFacts {
            frame: self.frame,
            needs: self.needs.iter().fold(0, |bits, need| bits | 1 << (self.frame - need - 1)),
            needs_more: false,
            uses,
            targets,
            nested: self.nested,
            has_structure: self.key && self.spatial == 0,
            structure: 0,
            active: 0b1111,
            tells_active: false,
        });
        meta
    }
}

fn run(name: &str, steps: &[Step]) {
    let mut gate = LayerGate::default();
    let mut wanted = Layers::MAX;
    for (index, step) in steps.iter().enumerate() {
        let at = format!("{name}, step {index}");
        match step {
            Open(frame) => {
                gate.open(&frame.meta(), wanted);
                let first = gate.select(&frame.meta(), wanted);
                assert!(matches!(first, Gate::Pass { .. }), "{at}: {first:?}");
            }
            Want(spatial, temporal) => {
                wanted = Layers { spatial: *spatial, temporal: *temporal };
            }
            Step::Frame(frame, expect) => {
                assert_eq!(gate.select(&frame.meta(), wanted), *expect, "{at}");
            }
            Overtook(expect) => {
                let mut meta = meta(0, 1, 1, start());
                meta.frame.overtook = true;
                assert_eq!(gate.select(&meta, wanted), *expect, "{at}");
            }
            Bare(expect) => {
                let mut meta = meta(0, 1, 1, start());
                meta.marker = true;
                assert_eq!(gate.select(&meta, wanted), *expect, "{at}");
            }
            Target(expect) => {
                let expect = expect.map(|(spatial, temporal)| Layers { spatial, temporal });
                assert_eq!(gate.target(), expect, "{at}");
            }
            WantsKeyframe(expect) => assert_eq!(gate.wants_keyframe(wanted), *expect, "{at}"),
            Wait(pictures, first) => {
                for n in 0..*pictures {
                    let (frame, picture) = (first.frame + n, first.picture + n);
                    let frame = Frame { frame, picture, ..*first };
                    let passed = gate.select(&frame.meta(), wanted);
                    assert!(matches!(passed, Gate::Pass { .. }), "{at}: {passed:?}");
                }
            }
        }
    }
}

const fn frame(frame: Frame, expect: Gate) -> Step {
    Step::Frame(frame, expect)
}

#[test]
fn the_target_changes_only_where_nothing_breaks() {
    struct Case {
        name: &'static str,
        steps: Vec<Step>,
    }
    let cases = [
        Case {
            name: "all is wanted",
            steps: vec![
                Open(KEY),
                Target(Some((1, 1))),
                frame(KEY_ABOVE, LAST),
                frame(UPPER, PASS),
                frame(UPPER_ABOVE, LAST),
                WantsKeyframe(false),
            ],
        },
        Case {
            name: "the lowest target, whose last packet ends the picture",
            steps: vec![
                Want(0, 0),
                Open(KEY),
                Target(Some((0, 0))),
                frame(KEY_ABOVE, Gate::Skip),
                frame(UPPER, Gate::Skip),
                frame(UPPER_ABOVE, Gate::Skip),
                frame(BASE, LAST),
                frame(BASE_ABOVE, Gate::Skip),
                WantsKeyframe(false),
            ],
        },
        Case {
            name: "down at the next picture, not within one",
            steps: vec![
                Open(KEY),
                Want(0, 1),
                WantsKeyframe(false),
                frame(KEY_ABOVE, LAST),
                frame(UPPER, LAST),
                Target(Some((0, 1))),
                frame(UPPER_ABOVE, Gate::Skip),
            ],
        },
        Case {
            name: "a late packet shares its frame's fate",
            steps: vec![
                Open(KEY),
                frame(KEY_ABOVE, LAST),
                frame(UPPER, PASS),
                Want(0, 1),
                frame(BASE, LAST),
                frame(UPPER_ABOVE, LAST),
                frame(BASE_ABOVE, Gate::Skip),
            ],
        },
        Case {
            name: "a temporal layer up at a frame that opens it",
            steps: vec![
                Want(0, 0),
                Open(KEY),
                Want(0, 1),
                WantsKeyframe(false),
                frame(UPPER, Gate::Skip),
                frame(BASE, LAST),
                Target(Some((0, 1))),
                frame(Frame { frame: 16, picture: 4, needs: &[14], ..UPPER }, LAST),
            ],
        },
        Case {
            name: "a spatial layer up at a keyframe, which is asked for",
            steps: vec![
                Want(0, 0),
                Open(KEY),
                frame(KEY_ABOVE, Gate::Skip),
                Want(1, 0),
                WantsKeyframe(true),
                frame(BASE, LAST),
                frame(BASE_ABOVE, Gate::Skip),
                WantsKeyframe(true),
                frame(Frame { frame: 20, picture: 5, ..KEY }, PASS),
                Target(Some((1, 0))),
                WantsKeyframe(false),
                frame(Frame { frame: 21, picture: 5, needs: &[20], ..KEY_ABOVE }, LAST),
            ],
        },
        Case {
            name: "layers that do not build on each other are left by a keyframe",
            steps: vec![
                Open(Frame { nested: false, ..KEY }),
                frame(Frame { nested: false, ..KEY_ABOVE }, LAST),
                frame(Frame { nested: false, ..BASE }, Gate::Skip),
                frame(Frame { nested: false, needs: &[11], ..BASE_ABOVE }, LAST),
                Want(0, 1),
                WantsKeyframe(true),
                frame(
                    Frame { frame: 16, picture: 4, nested: false, needs: &[14], ..BASE },
                    Gate::Skip,
                ),
                frame(
                    Frame { frame: 17, picture: 4, nested: false, needs: &[15], ..BASE_ABOVE },
                    LAST,
                ),
                frame(Frame { frame: 20, picture: 5, nested: false, ..KEY }, LAST),
                Target(Some((0, 1))),
                WantsKeyframe(false),
            ],
        },
        Case {
            name: "or at a frame that needs nothing but what passed",
            steps: vec![
                Open(Frame { nested: false, ..KEY }),
                frame(Frame { nested: false, ..KEY_ABOVE }, LAST),
                Want(0, 1),
                frame(Frame { nested: false, ..BASE }, LAST),
                Target(Some((0, 1))),
                frame(Frame { nested: false, needs: &[11], ..BASE_ABOVE }, Gate::Skip),
            ],
        },
        Case {
            name: "no frame passes that needs one which was left out",
            steps: vec![
                Want(0, 0),
                Open(KEY),
                frame(UPPER, Gate::Skip),
                frame(Frame { needs: &[12], ..BASE }, Gate::Skip),
                WantsKeyframe(true),
                frame(Frame { frame: 20, picture: 5, ..KEY }, LAST),
                WantsKeyframe(false),
            ],
        },
        Case { name: "from before the stream", steps: vec![Open(BASE), frame(UPPER, Gate::Skip)] },
        Case {
            name: "what overtook its structure comes again; where nothing has layers all passes",
            steps: vec![
                Overtook(PASS),
                Bare(LAST),
                Target(None),
                WantsKeyframe(false),
                Open(KEY),
                Overtook(Gate::Later),
                Bare(LAST),
            ],
        },
        Case {
            name: "layers that begin in the middle of a stream",
            steps: vec![Want(0, 0), Bare(LAST), frame(BASE, PASS), frame(BASE_ABOVE, LAST)],
        },
    ];
    for case in cases {
        run(case.name, &case.steps);
    }
}

#[test]
fn a_keyframe_is_asked_for_where_no_switch_point_comes_in_a_second() {
    const PLAIN: Frame = Frame { key: false, silent: true, needs: &[], ..BASE };
    let patience = u64::from(PATIENCE);
    run(
        "a sender that tells no switch points",
        &[
            Want(0, 0),
            Open(KEY),
            Want(0, 1),
            Wait(patience, PLAIN),
            WantsKeyframe(false),
            Wait(1, Frame { frame: 60, picture: 60, ..PLAIN }),
            WantsKeyframe(true),
            Target(Some((0, 0))),
            frame(Frame { frame: 70, picture: 70, ..KEY }, LAST),
            Target(Some((0, 1))),
            WantsKeyframe(false),
        ],
    );
}
