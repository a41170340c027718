//! Presets at small size, and what their reports show.

use crate::harness::{Server, figure, interrupt, report, until};

#[test]
fn a_meeting_is_seen_whole_and_counted_as_the_server_counts_it() {
    let server = Server::start();
    let report = server.run("meeting", &["publishers=3", "grid=2", "duration=4s"]);
    assert_eq!(report["clients"]["joined"], 3);
    assert_eq!(report["clients"]["failed"], 0);
    assert_eq!(figure(&report, "lost_clients"), 0.0);
    // Three people see two cameras of 30 pictures a second each.
    let window = report["window_seconds"].as_f64().unwrap();
    let frames = figure(&report, "frames_received") / window;
    assert!((100.0..200.0).contains(&frames), "{frames} pictures a second");
    assert!(figure(&report, "p50_video_latency_ms") > 0.0);
    assert!(figure(&report, "p50_audio_latency_ms") > 0.0);
    assert!(figure(&report, "received_mid_layer_kbps") > 500.0, "a grid at 360p");
    assert!(figure(&report, "p99_first_frame_ms") >= figure(&report, "p50_first_packet_ms"));
    assert!(figure(&report, "server_cpu_percent") > 0.0);
    // The independent count: what the server says that it sent, in about the same window.
    let sent = report["server"]["metrics"]["chappe_sfu_media_out_total"].as_f64().unwrap();
    let received = figure(&report, "packets_received");
    assert!((received / sent - 1.0).abs() < 0.05, "{received} received, {sent} sent");
}

#[test]
fn an_audience_sees_the_layer_it_asks_for() {
    let server = Server::start();
    // Servers wait some seconds before they stop a layer that nobody wants.
    let set = ["subscribers=4", "duration=3s", "view=180p", "warmup=8s"];
    let report = server.run("livestream", &set);
    assert_eq!(report["clients"]["joined"], 5);
    let (low, high) =
        (figure(&report, "received_low_layer_kbps"), figure(&report, "received_high_layer_kbps"));
    assert!(low > 200.0 && high < low / 10.0, "low {low} kb/s, high {high} kb/s");
    // Nobody wants the high layer: its publisher has stopped it.
    let sent = figure(&report, "sent_high_layer_kbps");
    assert!(sent < 100.0, "{sent} kb/s sent in a layer that nobody wants");
}

#[test]
fn a_lossy_link_shows_its_loss_and_its_repair() {
    let server = Server::start();
    let set = ["publishers=2", "loss_percent=10", "view=180p", "duration=5s", "audio=false"];
    let report = server.run(
        "bad-network",
        &[&set[..], &["impaired_percent=100", "delay=0s", "uplink_loss_percent=0"]].concat(),
    );
    let before = figure(&report, "loss_before_repair_percent");
    let after = figure(&report, "loss_percent");
    assert!((4.0..18.0).contains(&before), "{before} % before repair");
    assert!(after < before / 3.0, "{after} % after repair of {before} %");
    assert!(figure(&report, "repair_packets_received") > 0.0);
    assert!(figure(&report, "datagrams_lost_by_scenario") > 0.0);
}

#[test]
fn a_paused_publisher_shows_as_a_freeze() {
    let server = Server::start();
    let set = ["publishers=2", "duration=5s", "pause_at=1s", "pause_for=1500ms", "view=180p"];
    let report = server.run("meeting", &set);
    assert!(figure(&report, "freezes") >= 2.0, "each of two sees the other one stand still");
    let longest = figure(&report, "max_freeze_ms");
    assert!((1_400.0..3_500.0).contains(&longest), "{longest} ms");
}

#[test]
fn a_killed_server_shows_lost_clients() {
    let mut server = Server::start();
    let set = ["publishers=3", "duration=60s", "view=180p"];
    let child = server.command("meeting", &set).spawn().unwrap();
    until("three peers", || server.metric("chappe_sfu_peers") >= 3.0);
    until("media", || server.metric("chappe_sfu_media_out_total") >= 1_000.0);
    server.kill();
    let report = report(&child.wait_with_output().unwrap());
    assert_eq!(report["clients"]["joined"], 3);
    assert_eq!(figure(&report, "lost_clients"), 3.0);
    let reasons = report["clients"]["lost_by_reason"].as_object().unwrap();
    assert!(reasons.keys().all(|reason| reason.contains("connection lost")), "{reasons:?}");
    assert!(report["window_seconds"].as_f64().unwrap() < 55.0, "it does not wait for nobody");
}

#[test]
fn an_interrupted_run_reports_what_it_has() {
    let server = Server::start();
    let child =
        server.command("meeting", &["publishers=2", "duration=60s", "view=180p"]).spawn().unwrap();
    until("media", || server.metric("chappe_sfu_media_out_total") >= 1_000.0);
    interrupt(&child);
    let report = report(&child.wait_with_output().unwrap());
    assert_eq!(report["interrupted"], true);
    assert_eq!(report["clients"]["joined"], 2);
}

#[test]
fn data_arrives_and_answers_come_back() {
    let server = Server::start();
    let report = server.run("data", &["publishers=3", "duration=3s", "data_rate=10"]);
    let sent = figure(&report, "data_messages_sent");
    let received = figure(&report, "data_messages_received");
    assert!(sent > 50.0, "{sent} sent");
    assert!(received > sent * 1.5, "each goes to two others: {received} of {sent}");
    let (one_way, round_trip) =
        (figure(&report, "p50_data_latency_ms"), figure(&report, "p50_data_round_trip_ms"));
    assert!(one_way > 0.0 && round_trip > one_way, "{one_way} ms, {round_trip} ms");
}

#[test]
fn everybody_comes_back_after_a_storm() {
    for how in ["resume", "full"] {
        let server = Server::start();
        let reconnect = format!("reconnect={how}");
        let set = ["rooms=1", "publishers=3", "duration=6s", "reconnect_at=1s", &reconnect];
        let report = server.run("reconnect-storm", &set);
        assert_eq!(figure(&report, "lost_clients"), 0.0, "{how}: {}", report["clients"]);
        assert_eq!(report["times"]["reconnect"]["count"], 3, "{how}");
        assert_eq!(report["clients"]["in_room_at_end"], 3, "{how}");
    }
}

#[test]
fn people_come_and_go() {
    let server = Server::start();
    let set = ["publishers=3", "duration=4s", "churn_rate=1", "view=180p"];
    let report = server.run("churn", &set);
    let joined = figure(&report, "joined");
    assert!((5.0..9.0).contains(&joined), "{joined} joined");
    assert_eq!(figure(&report, "failed_joins"), 0.0);
    assert_eq!(figure(&report, "lost_clients"), 0.0);
}

#[test]
fn the_large_view_follows_the_speaker() {
    let server = Server::start();
    let set = ["publishers=3", "duration=5s", "switch_every=1s"];
    let report = server.run("speaker-switch", &set);
    assert!(report["times"]["view_switch"]["count"].as_u64().unwrap_or(0) >= 3);
    assert!(figure(&report, "layer_switches") >= 6.0);
}
