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

const SIMULCAST: &[u64] = &[150, 500, 1_700];

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
        BitrateAllocator::default().allocate(origin(), budget, &mut claims);
        let granted: Vec<_> = claims.iter().map(Claim::granted).collect();
        assert_eq!(granted, case.granted, "{}", case.name);
    }
}

#[test]
fn a_track_that_was_lowered_rests_before_it_rises() {
    let t0 = origin();
    let mut allocator = BitrateAllocator::default();
    let mut claims = [claim(1, SIMULCAST, Some(2))];
    let at = |ms| t0 + Duration::from_millis(ms);
    assert!(allocator.allocate(at(0), Bitrate::from_kbps(800), &mut claims));
    assert_eq!(claims[0].granted(), Some(1), "down at once");
    assert!(!allocator.allocate(at(1_900), Bitrate::from_kbps(5_000), &mut claims));
    assert!(allocator.allocate(at(2_000), Bitrate::from_kbps(5_000), &mut claims));
    assert_eq!(claims[0].granted(), Some(2));
}

#[test]
fn a_paused_track_comes_back_as_soon_as_its_first_step_fits() {
    let t0 = origin();
    let mut allocator = BitrateAllocator::default();
    let mut claims = [claim(1, SIMULCAST, Some(0))];
    allocator.allocate(t0, Bitrate::from_kbps(10), &mut claims);
    assert_eq!(claims[0].granted(), None);
    allocator.allocate(t0 + Duration::from_millis(100), Bitrate::from_kbps(5_000), &mut claims);
    assert_eq!(claims[0].granted(), Some(0), "the first picture at once, better ones later");
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
            allocator.allocate(now, budget, &mut claims);
            let sum: Bitrate = claims.iter().map(Claim::cost).sum();
            prop_assert!(sum.mul_f64(KEEP) <= budget + Bitrate::from_bps(claims.len() as u64 * 16));
            // The important may take what the others' keeping has left over, but it ends.
            let settled = (0..100).any(|_| !allocator.allocate(now, budget, &mut claims));
            prop_assert!(settled, "the same budget goes round in circles");
        }
    }
}

#[test]
fn a_picture_is_held_but_not_one_that_has_just_come_back() {
    let start = origin();
    let at = |seconds| start + Duration::from_secs(seconds);
    let kbps = Bitrate::from_kbps;
    let mut allocator = BitrateAllocator::default();
    let mut claims = [claim(1, SIMULCAST, None)];
    // Seconds, budget, whether it is there, whether a hold keeps it.
    for (seconds, budget, granted, held) in [
        (0, 200, true, true),
        (1, 100, false, true), // Nobody knows of a pause before.
        (2, 100, false, true),
        (9, 200, true, true),
        (10, 100, false, false),
        (20, 200, true, true),
        (28, 100, false, true), // It lasted.
    ] {
        allocator.allocate(at(seconds), kbps(budget), &mut claims);
        assert_eq!(claims[0].granted().is_some(), granted, "{seconds} s");
        let mut kept = claims[0].clone();
        kept.hold(at(seconds));
        assert_eq!(kept.granted().is_some(), held, "{seconds} s, held");
    }
}
