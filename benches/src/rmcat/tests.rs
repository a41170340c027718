//! The cases at a fixed seed, so that a regression of the estimator or the pacer fails here. `rmcat` runs them all.

use super::{
    cases::{self, Stack},
    figures::{measure, measure_layers},
    media::Source,
};

const LAYERS: [u64; 3] = [150_000, 450_000, 1_300_000];

/// Padding over media, at most, that probes take (docs/bwe.md).
const PROBING: f64 = 0.03;

fn case(name: &str) -> cases::Case {
    cases::all().into_iter().find(|case| case.name == name).expect("it is there")
}

#[test]
fn the_targets_of_rfc_8867_are_reached() {
    let mut missed = Vec::new();
    // 5.7 lasts 300 s with many flows of TCP: too long for here.
    for case in cases::all().iter().filter(|case| case.name != "5.7") {
        let records = case.run(Stack::Chappe, &Source::Encoder, 1);
        let figures = measure(case, &records);
        if !figures.pass || figures.probing > PROBING {
            missed.push(figures);
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Growth by a share of the rate kept those down who came late, came back, or had yielded to TCP.
#[test]
fn who_is_behind_catches_up_where_it_once_did_not() {
    let cases = cases::all();
    let mut missed = Vec::new();
    for (name, seed) in [("5.4", 6), ("5.8", 4), ("5.6", 10), ("5.6b", 5), ("5.7", 3)] {
        let case = cases.iter().find(|case| case.name == name).expect("it is there");
        let figures = measure(case, &case.run(Stack::Chappe, &Source::Encoder, seed));
        if !figures.pass {
            missed.push(figures);
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn a_run_repeats_itself() {
    let cases = cases::all();
    let case = cases.iter().find(|case| case.name == "5.1").expect("it is there");
    let run = |seed| measure(case, &case.run(Stack::Chappe, &Source::Encoder, seed));
    assert_eq!(format!("{:?}", run(5)), format!("{:?}", run(5)));
    assert_ne!(format!("{:?}", run(5)), format!("{:?}", run(6)));
}

#[test]
fn the_best_layer_that_fits_is_sent() {
    let case = case("5.1");
    let records = case.run(Stack::Chappe, &Source::Layers(LAYERS.to_vec()), 1);
    let figures = measure_layers(&case, &records, &LAYERS);
    assert!(figures.flows.pass && figures.flows.probing <= PROBING, "{figures:#?}");
}

#[test]
fn two_on_one_link_do_not_take_turns_at_the_top_layer() {
    let case = case("5.2");
    let runs = [1, 2, 3].map(|seed| {
        let records = case.run(Stack::Chappe, &Source::Layers(LAYERS.to_vec()), seed);
        measure_layers(&case, &records, &LAYERS)
    });
    // 0.84 without patience, 0.97 with it.
    assert!(runs.iter().map(|run| run.chosen).sum::<f64>() / 3.0 >= 0.95, "{runs:#?}");
    assert!(runs.iter().all(|run| run.flows.probing <= PROBING), "{runs:#?}");
}

/// What patience keeps has its price of the moment: it neither ends because layers grew, nor holds on to what they were.
#[test]
fn layers_whose_rates_wander_are_kept_and_fill_no_queue() {
    let case = case("5.2");
    let runs = [1, 2, 3].map(|seed| {
        let records = case.run(Stack::Chappe, &Source::Wandering(LAYERS.to_vec()), seed);
        measure_layers(&case, &records, &LAYERS)
    });
    assert!(runs.iter().map(|run| run.chosen).sum::<f64>() / 3.0 >= 0.85, "{runs:#?}");
    for run in &runs {
        assert!(run.flows.p95_queue_ms <= 80.0 && run.flows.loss <= 0.005, "{runs:#?}");
        assert!(run.switches <= 20.0, "{runs:#?}");
    }
}
