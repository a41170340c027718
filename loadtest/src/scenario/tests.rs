use std::time::Duration;

use super::*;

fn with(overrides: &[&str]) -> Result<Scenario, ScenarioError> {
    let overrides: Vec<_> = overrides.iter().map(|text| (*text).to_owned()).collect();
    load("meeting", &overrides)
}

#[test]
fn every_preset_is_right_and_named_for_its_file() {
    for (name, _) in presets() {
        let scenario = load(name, &[]).unwrap();
        assert_eq!(scenario.name, name);
        assert!(scenario.about.len() > 20, "{name} says what it is for");
    }
}

#[test]
fn fields_are_set_one_by_one() {
    let set = ["publishers=3", "duration=250s", "view=180p", "audio=false", "reconnect=full"];
    let scenario = with(&set).unwrap();
    assert_eq!(scenario.publishers, 3);
    assert_eq!(scenario.duration.0, Duration::from_secs(250));
    assert_eq!((scenario.view, scenario.audio), (Quality::Low, false));
    assert_eq!(scenario.reconnect, Reconnect::Full);
}

#[test]
fn errors_are_one_line_that_names_the_cause() {
    for (set, expected) in [
        ("publishers", "--set publishers: write field=value"),
        ("publisher=3", "--set publisher=3: no such field; there are "),
        ("publishers=many", "--set publishers=many: invalid type"),
        ("duration=5 apples", "is no duration: write 250ms, 20s or 5m"),
        ("loss_percent=101", "loss_percent: 101 is no percentage"),
        ("layers=4", "layers: 4 is not between 1 and 3"),
        ("rooms=0", "nobody takes part"),
    ] {
        let error = with(&[set]).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{set}: {error}");
    }
    for (text, expected) in [
        ("publishers: 3\nviewers: 4\n", "viewers"),
        ("publishers: [", "file.yaml:"),
        ("view: 1080p\n", "1080p"),
    ] {
        let error = Scenario::parse("file.yaml", text, &[]).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{text:?}: {error}");
    }
    let error = load("meating", &[]).unwrap_err().to_string();
    assert!(error.contains("neither a preset (meeting, meeting-4, "), "{error}");
}

#[test]
fn publishers_join_first_and_the_share_of_bad_networks_is_kept() {
    let scenario = with(&[
        "rooms=2",
        "publishers=2",
        "subscribers=3",
        "loss_percent=5",
        "impaired_percent=30",
        "subscriber_mode=sink",
    ])
    .unwrap();
    let clients = plan(&scenario, "x");
    assert_eq!(clients.len(), 10);
    assert_eq!(clients.iter().filter(|client| client.impairment.is_some()).count(), 3);
    assert!(clients[..4].iter().all(ClientPlan::publishes));
    assert!(clients[4..].iter().all(|client| client.mode == Mode::Sink && client.subscribes));
    assert_eq!((clients[1].room.as_str(), clients[2].place), ("x-1", 1));
}

#[test]
fn networks_are_dealt_by_their_shares() {
    let networks =
        r#"networks=[{"percent": 25, "delay": "40ms"}, {"percent": 10, "rate_kbps": 500}]"#;
    let scenario =
        with(&["publishers=40", "loss_percent=5", "impaired_percent=50", networks]).unwrap();
    let clients = plan(&scenario, "x");
    let count = |chosen: fn(Impairment) -> bool, of: &[ClientPlan]| {
        of.iter().filter(|client| client.impairment.is_some_and(chosen)).count()
    };
    let lossy: fn(Impairment) -> bool = |network| network.downlink_loss == 0.05;
    assert_eq!(count(lossy, &clients), 20);
    assert_eq!(count(|network| network.delay == Duration::from_millis(40), &clients), 10);
    assert_eq!(count(|network| network.rate == 500_000, &clients), 4);
    // Spread over the clients, not one after the other.
    assert!((4..=6).contains(&count(lossy, &clients[..10])));
    let error = with(&["loss_percent=5", networks]).unwrap_err().to_string();
    assert!(error.contains("shares of 135 % of the clients are more than all"), "{error}");
}

#[test]
fn joins_come_faster_until_the_ramp_is_over() {
    let set = ["join_rate=100", "join_ramp=10s", "publishers=0", "subscribers=1500"];
    let scenario = load("livestream", &set.map(str::to_owned)).unwrap();
    let due = |seconds| scenario.joins_due(Duration::from_secs(seconds));
    assert_eq!([0, 1, 5, 10, 11, 20].map(due), [1, 6, 126, 501, 601, 1_501]);
    assert_eq!(scenario.joining(), Duration::from_secs(20));
    let plain = load("livestream", &["join_rate=50".to_owned()]).unwrap();
    assert_eq!(plain.joins_due(Duration::from_millis(100)), 6);
    assert_eq!(plain.joining(), Duration::from_millis(2_020));
}
