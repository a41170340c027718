use proptest::prelude::*;

use super::*;

#[allow(clippy::disallowed_methods)] // an arbitrary origin for a virtual clock
fn origin() -> Instant {
    Instant::now()
}

fn claim(priority: u32, kbps: &[u64], granted: Option<u8>) -> Claim {
    let mut claim = Claim { priority, ..Claim::default() };
    claim.set_steps(kbps.iter().copied().map(Bitrate::from_kbps), granted);
    claim
}

/// Never patient.
fn hasty() -> Patience {
    Patience { lossy: true, ..Patience::default() }
}

const SIMULCAST: &[u64] = &[150, 500, 1_700];

/// One round of a subscriber with a budget in kb/s.
fn round(mut patience: Patience) -> impl FnMut(Instant, u64, &mut [Claim]) -> bool {
    let mut allocator = BitrateAllocator::default();
    move |now, kbps, claims| {
        allocator.allocate(now, Bitrate::from_kbps(kbps), &mut patience, claims)
    }
}

struct Case {
    name: &'static str,
    budget_kbps: u64,
    /// Priority, ladder, what was granted before.
    claims: &'static [(u32, &'static [u64], Option<u8>)],
    granted: &'static [Option<u8>],
}

#[test]
fn tracks_share_the_estimate() {
    let cases = [
        Case {
            name: "everything fits",
            budget_kbps: 10_000,
            claims: &[(1, SIMULCAST, None), (1, SIMULCAST, None)],
            granted: &[Some(2), Some(2)],
        },
        Case {
            name: "equals rise together",
            budget_kbps: 1_300,
            claims: &[(1, SIMULCAST, None), (1, SIMULCAST, None)],
            granted: &[Some(1), Some(1)],
        },
        Case {
            name: "what is left goes to one of them",
            budget_kbps: 2_500,
            claims: &[(1, SIMULCAST, None), (1, SIMULCAST, None)],
            granted: &[Some(2), Some(1)],
        },
        Case {
            name: "the more important one first, up to its best",
            budget_kbps: 2_000,
            claims: &[(1, SIMULCAST, None), (9, SIMULCAST, None), (1, SIMULCAST, None)],
            granted: &[Some(0), Some(2), None],
        },
        Case {
            name: "nothing fits",
            budget_kbps: 100,
            claims: &[(1, SIMULCAST, Some(2))],
            granted: &[None],
        },
        Case {
            name: "who has more keeps it, wherever it stands",
            budget_kbps: 700,
            claims: &[(1, SIMULCAST, Some(0)), (1, SIMULCAST, Some(1))],
            granted: &[Some(0), Some(1)],
        },
        Case {
            name: "kept below its price",
            budget_kbps: 470,
            claims: &[(1, SIMULCAST, Some(1))],
            granted: &[Some(1)],
        },
        Case {
            name: "not won at its price",
            budget_kbps: 510,
            claims: &[(1, SIMULCAST, Some(0))],
            granted: &[Some(0)],
        },
        Case {
            name: "no ladder, nothing to grant",
            budget_kbps: 10_000,
            claims: &[(1, &[], None), (1, SIMULCAST, None)],
            granted: &[None, Some(2)],
        },
        Case {
            name: "a cheaper track of less importance fits where the better one does not",
            budget_kbps: 120,
            claims: &[(9, SIMULCAST, None), (1, &[100], None)],
            granted: &[None, Some(0)],
        },
    ];
    for case in cases {
        let mut claims: Vec<_> = case.claims.iter().map(|(p, k, g)| claim(*p, k, *g)).collect();
        let budget = Bitrate::from_kbps(case.budget_kbps);
        BitrateAllocator::default().allocate(origin(), budget, &mut hasty(), &mut claims);
        let granted: Vec<_> = claims.iter().map(Claim::granted).collect();
        assert_eq!(granted, case.granted, "{}", case.name);
    }
}

#[test]
fn a_track_that_was_lowered_rests_before_it_rises() {
    let t0 = origin();
    let mut round = round(hasty());
    let mut claims = [claim(1, SIMULCAST, Some(2))];
    let at = |ms| t0 + Duration::from_millis(ms);
    assert!(round(at(0), 800, &mut claims));
    assert_eq!(claims[0].granted(), Some(1), "down at once");
    assert!(!round(at(1_900), 5_000, &mut claims));
    assert!(round(at(2_000), 5_000, &mut claims));
    assert_eq!(claims[0].granted(), Some(2));
}

#[test]
fn a_paused_track_comes_back_as_soon_as_its_first_step_fits() {
    let t0 = origin();
    let mut round = round(hasty());
    let mut claims = [claim(1, SIMULCAST, Some(0))];
    round(t0, 10, &mut claims);
    assert_eq!(claims[0].granted(), None);
    round(t0 + Duration::from_millis(100), 5_000, &mut claims);
    assert_eq!(claims[0].granted(), Some(0), "the first picture at once, better ones later");
}

#[test]
fn what_is_settled_is_kept_through_a_dip_and_what_is_fresh_is_not() {
    struct Case {
        name: &'static str,
        /// How long the step has been held, and how long the dip lasts.
        held_ms: u64,
        dip_ms: u64,
        dip_kbps: u64,
        queue_ms: u64,
        lossy: bool,
        kept: bool,
    }
    let settled = Case {
        name: "somebody's probe",
        held_ms: 9_000,
        dip_ms: 1_000,
        dip_kbps: 1_200,
        queue_ms: 60,
        lossy: false,
        kept: true,
    };
    let cases = [
        Case { name: "too long", dip_ms: 2_000, kept: false, ..settled },
        Case { name: "long, but without a queue", dip_ms: 3_500, queue_ms: 10, ..settled },
        Case { name: "too deep", dip_kbps: 800, kept: false, ..settled },
        Case { name: "a long queue", queue_ms: 250, kept: false, ..settled },
        Case { name: "loss", lossy: true, kept: false, ..settled },
        Case { name: "fresh", held_ms: 500, kept: false, ..settled },
        settled,
    ];
    for case in cases {
        let mut allocator = BitrateAllocator::default();
        let mut patience = Patience::default();
        let mut claims = [claim(1, SIMULCAST, Some(0))];
        let mut now = origin();
        let mut run = |ms: u64, kbps: u64, queue_ms: u64, lossy| {
            for _ in 0..ms / 100 {
                now += Duration::from_millis(100);
                patience.observe(Duration::from_millis(queue_ms), lossy);
                allocator.allocate(now, Bitrate::from_kbps(kbps), &mut patience, &mut claims);
            }
            (claims[0].granted(), patience.kept() > Bitrate::ZERO)
        };
        assert_eq!(run(case.held_ms, 2_000, 0, false), (Some(2), false), "{}", case.name);
        let (granted, kept) = run(case.dip_ms, case.dip_kbps, case.queue_ms, case.lossy);
        assert_eq!((granted == Some(2), kept), (case.kept, case.kept), "{}", case.name);
    }
}

#[test]
fn a_step_that_was_taken_back_waits_longer_each_time() {
    let mut round = round(hasty());
    let mut claims = [claim(1, SIMULCAST, Some(1))];
    let mut now = origin();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let since = now;
        while claims[0].granted() != Some(2) {
            now += Duration::from_millis(100);
            round(now, 1_900, &mut claims);
        }
        waits.push((now - since).as_millis());
        now += Duration::from_millis(500);
        round(now, 1_000, &mut claims);
        assert_eq!(claims[0].granted(), Some(1));
    }
    // The first time it had not been lost yet.
    assert!(waits[1] >= 2_200 && waits[2] > waits[1] && waits[3] > waits[2], "{waits:?}");
    assert!(waits[3] <= 15_000, "{waits:?}");

    // Once it has been kept for long, all is forgiven.
    while claims[0].granted() != Some(2) {
        now += Duration::from_millis(100);
        round(now, 1_900, &mut claims);
    }
    round(now + Duration::from_secs(9), 1_900, &mut claims);
    round(now + Duration::from_secs(10), 1_000, &mut claims);
    round(now + Duration::from_secs(12), 1_900, &mut claims);
    assert_eq!(claims[0].granted(), Some(2));
}

#[test]
fn the_goal_is_the_least_that_raises_somebody() {
    let now = origin();
    let mut allocator = BitrateAllocator::default();
    for claims in [
        vec![claim(1, SIMULCAST, Some(0)), claim(1, SIMULCAST, Some(1))],
        vec![claim(2, SIMULCAST, None), claim(1, SIMULCAST, None)],
        vec![claim(1, &[300], Some(0)), claim(3, SIMULCAST, Some(2)), claim(2, SIMULCAST, Some(1))],
    ] {
        let mut settled = claims.clone();
        let kept: Bitrate = claims.iter().map(|claim| claim.cost().mul_f64(KEEP)).sum();
        allocator.allocate(now, kept + Bitrate::from_bps(100), &mut hasty(), &mut settled);
        assert_eq!(settled, claims, "nothing changes");
        let goal = allocator.goal().expect("somebody has not all");
        let sum = |claims: &[Claim]| claims.iter().map(Claim::cost).sum::<Bitrate>();
        for (kbps, more) in [(2, true), (-2, false)] {
            let mut after = claims.clone();
            let budget = Bitrate::from_bps(goal.bps().saturating_add_signed(kbps * 1_000));
            allocator.allocate(now, budget, &mut hasty(), &mut after);
            assert_eq!(sum(&after) > sum(&claims), more, "{goal} {claims:?}");
        }
    }
    let mut all = [claim(1, SIMULCAST, Some(2)), claim(1, &[], None)];
    allocator.allocate(now, Bitrate::from_kbps(5_000), &mut hasty(), &mut all);
    assert_eq!(allocator.goal(), None);
}

#[test]
fn a_ladder_that_wavers_never_gets_cheaper_upwards() {
    let mut claim = Claim::default();
    claim.set_steps([300, 200, 900].map(Bitrate::from_kbps), Some(7));
    assert_eq!(claim.steps(), [300, 300, 900].map(Bitrate::from_kbps));
    assert_eq!(claim.granted(), Some(2), "as high as the ladder goes");
    claim.set_steps([], Some(1));
    assert_eq!((claim.granted(), claim.top()), (None, Bitrate::ZERO));
}

proptest! {
    #[test]
    fn the_sum_fits_and_nothing_flaps(
        ladders in prop::collection::vec((0u32..4, prop::collection::vec(1u64..3_000, 0..16)), 0..30),
        budgets in prop::collection::vec(0u64..20_000, 1..20),
    ) {
        let t0 = origin();
        let mut allocator = BitrateAllocator::default();
        let mut claims: Vec<_> = ladders.iter().map(|(p, steps)| claim(*p, steps, None)).collect();
        for (round, budget) in budgets.iter().enumerate() {
            let now = t0 + Duration::from_millis(700) * round as u32;
            let budget = Bitrate::from_kbps(*budget);
            allocator.allocate(now, budget, &mut hasty(), &mut claims);
            let sum: Bitrate = claims.iter().map(Claim::cost).sum();
            prop_assert!(sum.mul_f64(KEEP) <= budget + Bitrate::from_bps(claims.len() as u64 * 16));
            // The important may take what the others' keeping has left over, but it ends.
            let settled = (0..100).any(|_| !allocator.allocate(now, budget, &mut hasty(), &mut claims));
            prop_assert!(settled, "the same budget goes round in circles");
        }
    }
}
