//! What happens when on which way, and what must come of it.

use std::time::Duration;

use crate::{
    media::Source,
    world::{Faults, Loss, SECOND},
};

/// What changes, and on which way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// Bits per second, to the subscriber.
    Rate(u64),
    /// One way, between the node and the subscriber.
    Delay(Duration),
    /// Both ways between the node and the subscriber: feedback is lost as media is.
    Faults(Faults),
    /// Both ways between the publishers and the node.
    PublisherFaults(Faults),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    /// Seconds after everybody is connected.
    pub(super) at: u32,
    pub(super) change: Change,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) publishers: usize,
    /// So many of them speak, the rest send silence.
    pub(super) speakers: usize,
    pub(super) sources: &'static [Source],
    pub(super) seconds: u32,
    pub(super) steps: &'static [Step],
    /// What must come of it.
    pub(super) limits: Limits,
}

/// `None`: not asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Part of the speakers' voices that never came, redundancy included: of the whole, and of each step once the link is steady.
    pub(super) voice_lost: f64,
    /// Part of the video's packets that never came, or too late to be shown.
    pub(super) video_lost: Option<f64>,
    /// Longest time without a new picture of a speaker while the link is steady, and in the seconds after it has changed.
    pub(super) freeze: Option<(Duration, Duration)>,
    /// Part of the seconds of a steady link in which a speaker could have had a better layer, or a picture at all.
    pub(super) worse_than_fits: Option<f64>,
    /// So long after a change a speaker's layer fits into the link.
    pub(super) fits_after: Option<Duration>,
    /// Keyframe requests for each switch, of all streams.
    pub(super) keyframes_a_switch: Option<f64>,
    /// Retransmissions for each packet.
    pub(super) resends: Option<f64>,
    /// Numbers that the node asks publishers for again, for each packet of theirs.
    pub(super) nacks: Option<f64>,
    /// Keyframe requests in a second, of all streams.
    pub(super) keyframes_a_second: Option<f64>,
}

pub(super) const MS: Duration = Duration::from_millis(1);
const MS_200: Duration = Duration::from_millis(200);

/// About 150, 350 and 850 kb/s.
const SIMULCAST: [Source; 3] = [
    Source::Camera { bytes: 700 },
    Source::Camera { bytes: 1_600 },
    Source::Camera { bytes: 4_000 },
];

pub(super) const MEETING: Scenario = Scenario {
    name: "a meeting of 25 on a link that narrows twice and widens",
    publishers: 25,
    speakers: 3,
    sources: &SIMULCAST,
    seconds: 120,
    steps: &[
        Step { name: "8 Mb/s", at: 0, change: Change::Rate(8_000_000) },
        Step { name: "1.5 Mb/s", at: 30, change: Change::Rate(1_500_000) },
        Step { name: "0.4 Mb/s", at: 60, change: Change::Rate(400_000) },
        Step { name: "3 Mb/s", at: 90, change: Change::Rate(3_000_000) },
    ],
    limits: Limits {
        voice_lost: 0.005,
        video_lost: None,
        freeze: Some((MS_200, SECOND)),
        worse_than_fits: Some(0.05),
        fits_after: None,
        keyframes_a_switch: Some(1.0),
        resends: None,
        nacks: None,
        keyframes_a_second: None,
    },
};

pub(super) const RANDOM_LOSS: Scenario = Scenario {
    name: "5 % of random loss at a round trip of 100 ms",
    publishers: 1,
    speakers: 1,
    sources: &SIMULCAST,
    seconds: 30,
    steps: &[
        Step { name: "100 ms", at: 0, change: Change::Delay(Duration::from_millis(50)) },
        Step { name: "5 Mb/s", at: 0, change: Change::Rate(5_000_000) },
        Step {
            name: "5 %",
            at: 5,
            change: Change::Faults(Faults { loss: Loss::Random(0.05), ..FAULTLESS }),
        },
    ],
    limits: Limits {
        voice_lost: 0.012,
        video_lost: Some(0.001),
        freeze: None,
        worse_than_fits: None,
        fits_after: None,
        keyframes_a_switch: None,
        resends: Some(0.15),
        nacks: None,
        keyframes_a_second: Some(0.5),
    },
};

const FAULTLESS: Faults =
    Faults { loss: Loss::None, jitter: Duration::ZERO, reorder: 0.0, duplicate: 0.0 };

/// Of 30 %, five in a row on average.
const BURST: Faults = Faults { loss: Loss::Bursts { enter: 0.0857, leave: 0.2 }, ..FAULTLESS };

pub(super) const BURSTS: Scenario = Scenario {
    name: "30 % lost in bursts of five on the way to the subscriber",
    steps: &[
        Step { name: "5 Mb/s", at: 0, change: Change::Rate(5_000_000) },
        Step { name: "30 %", at: 5, change: Change::Faults(BURST) },
    ],
    limits: Limits {
        voice_lost: 0.4,
        video_lost: None,
        resends: Some(0.6),
        keyframes_a_second: Some(2.0),
        ..RANDOM_LOSS.limits
    },
    ..RANDOM_LOSS
};

pub(super) const BURSTS_OF_PUBLISHERS: Scenario = Scenario {
    name: "30 % lost in bursts of five on the way from the publisher",
    steps: &[
        Step { name: "5 Mb/s", at: 0, change: Change::Rate(5_000_000) },
        Step { name: "30 %", at: 5, change: Change::PublisherFaults(BURST) },
    ],
    limits: Limits { nacks: Some(1.3), ..BURSTS.limits },
    ..RANDOM_LOSS
};

pub(super) const DISORDER: Scenario = Scenario {
    name: "jitter, overtaking and doubles, but no loss",
    steps: &[
        Step { name: "5 Mb/s", at: 0, change: Change::Rate(5_000_000) },
        Step {
            name: "disorder",
            at: 5,
            change: Change::Faults(Faults {
                jitter: Duration::from_millis(10),
                reorder: 0.03,
                duplicate: 0.02,
                ..FAULTLESS
            }),
        },
    ],
    limits: Limits {
        voice_lost: 0.0,
        video_lost: Some(0.0),
        freeze: Some((MS_200, MS_200)),
        worse_than_fits: Some(0.0),
        resends: Some(0.05),
        ..RANDOM_LOSS.limits
    },
    ..RANDOM_LOSS
};

/// About 150, 500 and 1,500 kb/s.
pub(super) const NARROW: Scenario = Scenario {
    name: "a link that falls to a quarter",
    publishers: 1,
    speakers: 1,
    sources: &[
        Source::Camera { bytes: 700 },
        Source::Camera { bytes: 2_300 },
        Source::Camera { bytes: 7_000 },
    ],
    seconds: 60,
    steps: &[
        Step { name: "10 ms", at: 0, change: Change::Delay(Duration::from_millis(10)) },
        Step { name: "2 Mb/s", at: 0, change: Change::Rate(2_000_000) },
        Step { name: "0.5 Mb/s", at: 20, change: Change::Rate(500_000) },
        Step { name: "2 Mb/s", at: 40, change: Change::Rate(2_000_000) },
    ],
    limits: Limits { fits_after: Some(Duration::from_secs(5)), ..MEETING.limits },
};

/// About 210, 640 and 1,500 kb/s, the lower ones included.
pub(super) const NARROW_SVC: Scenario = Scenario {
    name: "spatial layers on a link that falls to a quarter",
    sources: &[Source::Spatial { bytes: 7_000 }],
    ..NARROW
};

/// About 120, 370 and 850 kb/s, the lower ones included.
pub(super) const MEETING_SVC: Scenario = Scenario {
    name: "three publishers of spatial layers on a link that narrows twice and widens",
    publishers: 3,
    sources: &[Source::Spatial { bytes: 4_000 }],
    ..MEETING
};
