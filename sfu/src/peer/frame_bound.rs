//! How often a client wants the picture to change, as a bound on temporal layers.

use crate::{cache::LadderStep, rtp::FrameRate};

/// The highest temporal layer that a client's frame rate leaves room for, by what was measured.
#[derive(Debug, Default)]
pub(super) struct FrameBound {
    /// `None`: all of them.
    highest: Option<u8>,
}

/// A layer is taken where its rate is at most this share of what is wanted: cameras are a little faster than they say.
const TAKE_PERCENT: u32 = 110;

/// And kept up to this one, so that a rate which wavers changes nothing.
const KEEP_PERCENT: u32 = 130;

impl FrameBound {
    /// The highest temporal layer that may pass; `None` is no bound.
    pub(super) fn highest(&self) -> Option<u8> {
        self.highest
    }

    /// Takes what was measured of the track: `steps` by layer, the lowest first. Those of the best spatial layer up to
    /// `max_spatial` count. Whether the bound is another one now.
    pub(super) fn update(
        &mut self,
        wanted: Option<FrameRate>,
        max_spatial: u8,
        steps: &[LadderStep],
    ) -> bool {
        let before = self.highest;
        let spatials = || steps.iter().map(|step| step.layers.spatial);
        let best = spatials().filter(|spatial| *spatial <= max_spatial).max().or(spatials().min());
        let (Some(wanted), Some(best)) = (wanted, best) else {
            // Nothing was measured of late: what holds goes on.
            self.highest = before.filter(|_| wanted.is_some());
            return self.highest != before;
        };
        let own = || steps.iter().filter(|step| step.layers.spatial == best);
        let fits = |step: &&LadderStep| {
            let kept = before.is_none_or(|bound| step.layers.temporal <= bound);
            step.frame_rate <= wanted.percent(if kept { KEEP_PERCENT } else { TAKE_PERCENT })
        };
        let temporal = |step: &LadderStep| step.layers.temporal;
        let top = own().map(temporal).max();
        let highest = own().filter(fits).map(temporal).max();
        // The lowest is as slow as it gets.
        let highest = highest.or(own().map(temporal).min());
        self.highest = highest.filter(|_| highest != top);
        self.highest != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::Layers, rtp::Bitrate};

    fn step(spatial: u8, temporal: u8, fps: u32) -> LadderStep {
        LadderStep {
            layers: Layers { spatial, temporal },
            bitrate: Bitrate::from_kbps(100),
            frame_rate: FrameRate::from_fps(fps),
        }
    }

    #[test]
    fn the_highest_temporal_layer_that_is_slow_enough() {
        struct Case {
            name: &'static str,
            steps: &'static [(u8, u8, u32)],
            wanted: Option<u32>,
            max_spatial: u8,
            expect: Option<u8>,
        }
        const L1T3: &[(u8, u8, u32)] = &[(0, 0, 8), (0, 1, 15), (0, 2, 30)];
        const TWO: &[(u8, u8, u32)] = &[(0, 0, 8), (0, 1, 15), (1, 0, 15), (1, 1, 30)];
        let cases = [
            Case { name: "no wish", steps: L1T3, wanted: None, max_spatial: 9, expect: None },
            Case { name: "all", steps: L1T3, wanted: Some(30), max_spatial: 9, expect: None },
            Case { name: "half", steps: L1T3, wanted: Some(15), max_spatial: 9, expect: Some(1) },
            Case {
                name: "between",
                steps: L1T3,
                wanted: Some(20),
                max_spatial: 9,
                expect: Some(1),
            },
            Case { name: "slower", steps: L1T3, wanted: Some(1), max_spatial: 9, expect: Some(0) },
            Case {
                name: "of its size",
                steps: TWO,
                wanted: Some(15),
                max_spatial: 0,
                expect: None,
            },
            Case {
                name: "the best",
                steps: TWO,
                wanted: Some(15),
                max_spatial: 1,
                expect: Some(0),
            },
            Case {
                name: "nothing there",
                steps: &[],
                wanted: Some(5),
                max_spatial: 1,
                expect: None,
            },
            Case {
                name: "without layers",
                steps: &[(0, 0, 0)],
                wanted: Some(5),
                max_spatial: 0,
                expect: None,
            },
        ];
        for case in cases {
            let steps: Vec<_> = case.steps.iter().map(|(s, t, fps)| step(*s, *t, *fps)).collect();
            let mut bound = FrameBound::default();
            let changed =
                bound.update(case.wanted.map(FrameRate::from_fps), case.max_spatial, &steps);
            assert_eq!(bound.highest(), case.expect, "{}", case.name);
            assert_eq!(changed, case.expect.is_some(), "{}", case.name);
        }
    }

    #[test]
    fn a_rate_that_wavers_changes_nothing() {
        let wanted = Some(FrameRate::from_fps(15));
        let mut bound = FrameBound::default();
        let at = |fps| [step(0, 0, fps / 2), step(0, 1, fps), step(0, 2, fps * 2)];
        assert!(bound.update(wanted, 0, &at(15)));
        for fps in [16, 17, 19, 14, 15] {
            assert!(!bound.update(wanted, 0, &at(fps)), "{fps}");
        }
        assert!(bound.update(wanted, 0, &at(22)), "too fast to keep");
        assert_eq!(bound.highest(), Some(0));
        assert!(!bound.update(wanted, 0, &at(18)), "and to take again");
        assert!(bound.update(wanted, 0, &at(16)));
        assert!(!bound.update(wanted, 0, &[]), "silence");
        assert!(bound.update(None, 0, &at(16)), "nobody minds any more");
        assert_eq!(bound.highest(), None);
    }
}
