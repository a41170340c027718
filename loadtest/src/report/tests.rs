use std::time::Duration;

use super::*;
use crate::{measure::Stats, scenario::load, swarm::Run};

pub(crate) fn sample() -> Report {
    let mut stats = Stats::default();
    for ms in 1..=100 {
        stats.latency_video.record(Duration::from_millis(ms));
        stats.join.record(Duration::from_millis(ms * 2));
    }
    stats.count.expected = 1_000;
    stats.count.lost_before_repair = 50;
    stats.count.lost_after_repair = 1;
    stats.count.packets_received = 1_000;
    stats.failures.insert("refused with 403".to_owned(), 1);
    let run = Run {
        stats,
        window: Duration::from_secs(10),
        planned: 5,
        joined: 4,
        failed: 1,
        full_clients: 5,
        ..Run::default()
    };
    build(load("meeting", &[]).unwrap(), run, None)
}

#[test]
fn figures_are_what_was_measured() {
    let report = sample();
    for (name, expected) in [
        ("p50_latency_ms", 50.0),
        ("p99_latency_ms", 99.0),
        ("loss_before_repair_percent", 5.0),
        ("loss_percent", 0.1),
        ("packets_per_second", 100.0),
        ("failed_joins", 1.0),
    ] {
        let value = report.figures[name];
        assert!((value - expected).abs() <= expected * 0.01, "{name}: {value}");
    }
    assert!(!report.figures.contains_key("p50_data_round_trip_ms"), "nothing was measured");
}

#[test]
fn a_report_survives_its_json() {
    let report = sample();
    let text = serde_json::to_string(&report).unwrap();
    let back: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
}

#[test]
fn the_table_names_failures_and_figures() {
    let text = table(&sample());
    for expected in
        ["4 of 5 clients joined", "1 failed: refused with 403", "5.000 %, 0.100 %", "video latency"]
    {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

#[test]
fn every_figure_of_a_report_has_a_known_name() {
    let names = figure_names();
    assert!(sample().figures.keys().all(|name| names.contains(name)));
    for name in ["p999_data_round_trip_ms", "server_cpu_us_per_packet", "loss_percent"] {
        assert!(names.contains(name), "{name}");
    }
}

#[test]
fn tables_fit_a_terminal_of_80_columns() {
    let mut report = sample();
    for summary in report.times.values_mut() {
        (summary.p50, summary.p90, summary.p99) = (1234.5, 1234.5, 1234.5);
        (summary.p999, summary.max, summary.count) = (12345.6, 12345.6, 12_345_678);
    }
    let first = report.times["latency_video"].clone();
    for name in ["first_frame", "data_round_trip"] {
        report.times.insert(name.to_owned(), first.clone());
    }
    for (name, value) in [
        ("packets_per_second", 433_340.0),
        ("received_kbps", 4_000_000.0),
        ("received_high_layer_kbps", 4_000_000.0),
        ("tester_cpu_us_per_packet", 123.45),
        ("machine_busy_percent", 100.0),
        ("machine_softirq_percent", 100.0),
    ] {
        report.figures.insert(name.to_owned(), value);
    }
    for line in table(&report).lines().filter(|line| !line.starts_with("warning")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
