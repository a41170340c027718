use super::*;

const ANNA: RouteKey = RouteKey(1);
const BEN: RouteKey = RouteKey(2);
const CARL: RouteKey = RouteKey(3);

/// A room's noise.
const NOISE: u8 = 95;

fn room() -> Speakers {
    let mut speakers = Speakers::default();
    for route in [ANNA, BEN, CARL] {
        speakers.add(route);
    }
    speakers
}

/// One interval: who talks, and how loudly (-dBov). Everybody else sends the noise of a room.
fn interval(speakers: &mut Speakers, talking: &[(RouteKey, u8)]) -> bool {
    for route in [ANNA, BEN, CARL] {
        let talks = talking.iter().find(|(who, _)| *who == route);
        let mut window = LevelWindow::silent(ELECTION_SLOTS);
        for slot in 0..ELECTION_SLOTS {
            // Speech is never steady.
            let level = talks.map_or(NOISE, |(_, level)| level + (slot % 4) as u8);
            window.note(slot, slot, level);
        }
        speakers.feed(route, &window);
    }
    speakers.elect()
}

fn intervals(speakers: &mut Speakers, count: usize, talking: &[(RouteKey, u8)]) -> usize {
    (0..count).filter(|_| interval(speakers, talking)).count()
}

fn heard(speakers: &Speakers) -> Vec<(RouteKey, bool)> {
    speakers.speaking().iter().map(|one| (one.route, one.dominant)).collect()
}

#[test]
fn the_tables_are_the_published_scores() {
    let score = |n: usize, v: usize, lambda: f64| -> f64 {
        let choose: f64 = (0..v).map(|k| (n - k) as f64 / (k + 1) as f64).product();
        choose.ln() + n as f64 * 0.5_f64.ln() - lambda.ln() + lambda * v as f64
    };
    let tables: [(&[i32], f64); 3] = [(&IMMEDIATE, 0.78), (&MEDIUM, 24.0), (&LONG, 47.0)];
    for (table, lambda) in tables {
        for (v, entry) in table.iter().enumerate() {
            let expected = score(table.len() - 1, v, lambda).max(1e-10).ln() * 1024.0;
            assert!((f64::from(*entry) - expected).abs() <= 1.0, "{lambda} {v}: {expected}");
        }
    }
    for (loudness, amplitude) in AMPLITUDE.iter().enumerate().skip(1) {
        let expected = 65_535.0 * 10_f64.powf((loudness as f64 - 127.0) / 20.0);
        assert!((f64::from(*amplitude) - expected).abs() <= 1.0, "{loudness}: {expected}");
    }
    assert_eq!(AMPLITUDE[0], 0);
}

#[test]
fn who_talks_is_heard_and_dominant_until_somebody_takes_over() {
    let mut speakers = room();
    assert!(interval(&mut speakers, &[]), "the first election is told");
    assert_eq!(intervals(&mut speakers, 10, &[]), 0, "silence says nothing more");
    assert!(intervals(&mut speakers, 10, &[(ANNA, 20)]) <= 4, "changes only");
    assert_eq!(heard(&speakers), [(ANNA, true)]);
    // A word in between does not take the floor.
    interval(&mut speakers, &[(ANNA, 20), (BEN, 30)]);
    interval(&mut speakers, &[(ANNA, 20), (BEN, 30)]);
    assert_eq!(heard(&speakers), [(ANNA, true), (BEN, false)]);
    intervals(&mut speakers, 10, &[(BEN, 20)]);
    assert_eq!(heard(&speakers), [(BEN, true)]);
    intervals(&mut speakers, 10, &[]);
    assert_eq!(heard(&speakers), []);
}

#[test]
fn the_floor_is_kept_through_a_pause_and_a_cough_does_not_take_it() {
    let mut speakers = room();
    intervals(&mut speakers, 10, &[(ANNA, 20)]);
    interval(&mut speakers, &[]);
    interval(&mut speakers, &[(BEN, 5)]);
    assert_eq!(heard(&speakers), [(BEN, false)], "heard, not dominant");
    intervals(&mut speakers, 3, &[(ANNA, 25)]);
    assert_eq!(heard(&speakers), [(ANNA, true)]);
}

#[test]
fn levels_are_linear_and_smoothed() {
    let mut speakers = room();
    intervals(&mut speakers, 20, &[(ANNA, 6), (BEN, 26)]);
    let level = |route| {
        speakers.speaking().iter().find(|one| one.route == route).map_or(0, |one| one.level)
    };
    let (anna, ben) = (level(ANNA), level(BEN));
    // -6 dBov is half of full scale; what is told is at most 6 dB off.
    assert!((14_000..33_000).contains(&anna), "{anna}");
    assert!((5..20).contains(&(anna / ben)), "20 dB are ten to one: {anna} {ben}");
}

#[test]
fn a_track_without_any_word_is_silent_after_a_while() {
    let mut speakers = room();
    intervals(&mut speakers, 5, &[(ANNA, 20)]);
    // One lost message is nothing.
    speakers.elect();
    assert_eq!(heard(&speakers), [(ANNA, true)]);
    for _ in 0..5 {
        speakers.elect();
    }
    assert_eq!(heard(&speakers), []);
}

#[test]
fn who_leaves_is_silent_at_once() {
    let mut speakers = room();
    intervals(&mut speakers, 5, &[(ANNA, 20)]);
    speakers.remove(ANNA);
    assert!(speakers.elect());
    assert_eq!(heard(&speakers), []);
    intervals(&mut speakers, 5, &[(BEN, 30)]);
    assert_eq!(heard(&speakers), [(BEN, true)]);
}

#[test]
fn many_who_shout_are_bounded() {
    let mut speakers = Speakers::default();
    for route in 0..100 {
        speakers.add(RouteKey(route));
        let mut window = LevelWindow::silent(20);
        window.note(0, 19, 10);
        speakers.feed(RouteKey(route), &window);
    }
    speakers.elect();
    assert_eq!(speakers.speaking().len(), MAX_TOLD);
}
