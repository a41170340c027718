//! Presets at small size, and what their reports show.

use std::process::Command;

use serde_json::Value;

use crate::{
    harness::{Server, figure, interrupt, report, until},
    schema::{schema, violations},
};

/// Packets a second as the clients count them and as the server does. Repair and probes come on streams of their own, and
/// the server counts them apart.
fn assert_packets_agree(report: &Value) {
    let server = &report["server"];
    let sent = server["metrics"]["chappe_sfu_media_out_total"].as_f64().unwrap();
    let sent = sent / server["metrics_seconds"].as_f64().unwrap();
    let received = figure(report, "packets_received") - figure(report, "repair_packets_received");
    let received = received / report["window_seconds"].as_f64().unwrap();
    assert!((received / sent - 1.0).abs() < 0.05, "{received} received, {sent} sent a second");
}

#[test]
fn a_meeting_is_seen_whole_and_counted_as_the_server_counts_it() {
    let server = Server::start();
    // The warm-up lets the server settle on its layers: what it does until then is not what is tested here.
    let set = ["publishers=3", "grid=2", "duration=4s", "warmup=8s", "view=180p"];
    let report = server.run("meeting", &set);
    assert_eq!(report["clients"]["joined"], 3);
    assert_eq!(report["clients"]["failed"], 0);
    assert_eq!(figure(&report, "lost_clients"), 0.0);
    // Three people see two cameras of 30 pictures a second each.
    let window = report["window_seconds"].as_f64().unwrap();
    let frames = figure(&report, "frames_received") / window;
    // Three times two cameras of 30; a server that pauses pictures on a busy machine is no error of the tester.
    assert!((60.0..200.0).contains(&frames), "{frames} pictures a second");
    assert!(figure(&report, "p50_video_latency_ms") > 0.0);
    assert!(figure(&report, "p50_audio_latency_ms") > 0.0);
    // Which layers they come in depends on what the server thinks of a busy machine's loopback.
    let layers = ["low", "mid", "high"].map(|layer| format!("received_{layer}_layer_kbps"));
    let layers = layers.map(|name| figure(&report, &name));
    assert!(layers.iter().sum::<f64>() > 200.0, "{layers:?} kb/s of video");
    assert!(figure(&report, "p99_first_frame_ms") >= figure(&report, "p50_first_packet_ms"));
    assert!(figure(&report, "server_cpu_percent") > 0.0);
    // The independent count.
    assert_packets_agree(&report);
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
        &[&set[..], &["impaired_percent=100", "delay=0s", "uplink_loss_percent=0", "networks=[]"]]
            .concat(),
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
fn files_are_written_though_nobody_reads_the_output() {
    let server = Server::start();
    let folder = std::env::temp_dir().join(format!("chappe-loadtest-files-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (json, html) = (folder.join("report.json"), folder.join("report.html"));
    let mut command = server.command("data", &["publishers=2", "duration=1s"]);
    command.arg("--output").arg(&json).arg("--html").arg(&html);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{:?}: {errors}", output.status);
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(report["clients"]["joined"], 2);
    assert!(std::fs::read_to_string(html).unwrap().starts_with("<!doctype html>"));
    std::fs::remove_dir_all(folder).unwrap();
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

#[test]
fn sinks_count_what_whole_clients_see() {
    let server = Server::start();
    let set = ["subscribers=4", "subscriber_mode=sink", "duration=4s", "view=360p", "warmup=2s"];
    let report = server.run("livestream", &set);
    assert_eq!(report["clients"]["joined"], 5, "{}", report["clients"]);
    assert_eq!((&report["clients"]["full"], &report["clients"]["sinks"]), (&1.into(), &4.into()));
    assert_packets_agree(&report);
    assert!(figure(&report, "sink_packets_decrypted") > 10.0);
    assert!(figure(&report, "p50_video_latency_ms") > 0.0);
    let video =
        ["low", "mid"].map(|layer| figure(&report, &format!("received_{layer}_layer_kbps")));
    assert!(video.iter().sum::<f64>() > 350.0, "{video:?} kb/s of four times 360p");
}

#[test]
fn sinks_behind_a_bad_network_show_it() {
    let server = Server::start();
    let set = [
        "subscribers=3",
        "subscriber_mode=sink",
        "duration=4s",
        "view=180p",
        "loss_percent=10",
        "delay=20ms",
    ];
    let report = server.run("livestream", &set);
    assert_eq!(report["clients"]["joined"], 4, "{}", report["clients"]);
    // Three times 4 s of 80 packets a second: 0.1 of them within some standard deviations.
    let loss = figure(&report, "loss_percent");
    assert!((5.0..16.0).contains(&loss), "{loss} %");
    assert!(figure(&report, "p50_audio_latency_ms") >= 39.0, "there and back again");
}

#[test]
fn a_few_speak_to_many() {
    let server = Server::start();
    let set = ["publishers=2", "subscribers=3", "duration=2s"];
    let report = server.run("audio-room", &set);
    assert_eq!(report["clients"]["joined"], 5, "{}", report["clients"]);
    assert_packets_agree(&report);
    assert!(figure(&report, "p50_audio_latency_ms") > 0.0);
    assert_eq!(figure(&report, "frames_received"), 0.0, "no pictures");
    // Two sounds with each listener and one with each speaker, 50 packets a second each.
    let packets = figure(&report, "packets_per_second");
    assert!((340.0..460.0).contains(&packets), "{packets} packets a second");
}

#[test]
fn who_comes_muted_is_taken_and_not_heard() {
    let server = Server::start();
    let set = ["publishers=2", "subscribers=3", "duration=2s", "muted=true"];
    let child = server.command("audio-room", &set).spawn().unwrap();
    until("two tracks", || server.metric("chappe_published_tracks ") == 2.0);
    let report = report(&child.wait_with_output().unwrap());
    assert_eq!(report["clients"]["joined"], 5, "{}", report["clients"]);
    assert_eq!(figure(&report, "packets_per_second"), 0.0);
}

#[test]
fn many_rooms_keep_to_themselves() {
    let server = Server::start();
    let set = ["rooms=3", "publishers=2", "duration=3s", "view=180p", "join_ramp=1s"];
    let report = server.run("many-rooms", &set);
    assert_eq!(report["clients"]["joined"], 6, "{}", report["clients"]);
    // Each sees one camera of 30 pictures a second: the other one of its room.
    let window = report["window_seconds"].as_f64().unwrap();
    let frames = figure(&report, "frames_received") / window;
    assert!((100.0..210.0).contains(&frames), "{frames} pictures a second");
}

#[test]
fn h264_is_seen_as_vp8_is() {
    let server = Server::start();
    let set = [
        "video_codec=h264",
        "publishers=2",
        "subscribers=2",
        "subscriber_mode=sink",
        "duration=4s",
        "view=360p",
        "warmup=3s",
    ];
    let report = server.run("meeting", &set);
    assert_eq!(report["clients"]["joined"], 4, "{}", report["clients"]);
    assert_packets_agree(&report);
    // Two whole clients see one camera each of 30 pictures a second.
    let window = report["window_seconds"].as_f64().unwrap();
    let frames = figure(&report, "frames_received") / window;
    assert!((40.0..70.0).contains(&frames), "{frames} pictures a second");
    assert!(figure(&report, "keyframes_received") >= 2.0);
    assert!(figure(&report, "p50_video_latency_ms") > 0.0);
    assert!(figure(&report, "p50_first_frame_ms") > 0.0);
    // Six cameras in all, four of them with the sinks; in which layers is the server's choice.
    let video = ["low", "mid", "high"]
        .map(|layer| figure(&report, &format!("received_{layer}_layer_kbps")));
    assert!(video.iter().sum::<f64>() > 500.0, "{video:?} kb/s");
    assert!(figure(&report, "sink_packets_decrypted") > 10.0);
}

#[test]
fn clients_behind_different_networks_see_them() {
    let server = Server::start();
    let networks = r#"networks=[{"percent": 50, "delay": "120ms"}]"#;
    let set =
        ["publishers=4", "grid=3", "view=180p", "duration=3s", "impaired_percent=0", networks];
    let report = server.run("bad-network", &set);
    assert_eq!(report["clients"]["joined"], 4, "{}", report["clients"]);
    // Of sound: within the good half at once, one delay between the halves, two within the bad one.
    let audio = &report["times"]["latency_audio"];
    let steps = audio["steps"].as_array().unwrap();
    let first = steps[0][0].as_f64().unwrap();
    let [p50, p90] = ["p50", "p90"].map(|name| audio[name].as_f64().unwrap());
    assert!(first < 100.0, "{first} ms at least");
    assert!((119.0..235.0).contains(&p50), "{p50} ms");
    assert!(p90 >= 239.0, "{p90} ms");
}

#[test]
fn two_peer_connections_see_the_same() {
    let server = Server::start();
    let set = ["publishers=3", "peer_connections=2", "duration=3s", "grid=0", "view=180p"];
    let report = server.run("meeting", &set);
    assert_eq!(report["clients"]["joined"], 3, "{}", report["clients"]);
    let window = report["window_seconds"].as_f64().unwrap();
    let frames = figure(&report, "frames_received") / window;
    assert!((100.0..200.0).contains(&frames), "{frames} pictures a second");
    assert!(figure(&report, "p50_audio_latency_ms") > 0.0);
}

#[test]
fn a_condition_that_holds_fails_the_run() {
    let server = Server::start();
    let set = ["publishers=2", "duration=1s", "view=180p"];
    let run = |condition: &str| {
        let mut command: Command = server.command("meeting", &set);
        command.args(["--fail-if", condition]).output().unwrap()
    };
    let failed = run("joined == 2");
    assert_eq!(failed.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&failed.stderr);
    assert!(errors.contains("failed: joined == 2 (2)"), "{errors}");
    assert!(serde_json::from_slice::<Value>(&failed.stdout).is_ok(), "the report comes anyway");
    assert_eq!(run("joined != 2").status.code(), Some(0));
    assert_eq!(run("no_such_figure > 2").status.code(), Some(2));
}

#[test]
fn the_search_ends_at_a_load_that_the_room_has_no_place_for() {
    let server = Server::with_room_for(6);
    let args = [
        "--field",
        "subscribers",
        "--from",
        "2",
        "--limit",
        "50",
        "--objective",
        "loss_percent < 50",
    ];
    let set = ["publishers=1", "publishers_subscribe=false", "duration=1s", "view=180p"];
    let mut command = server.command_of("find-capacity", "livestream", &set);
    let outcome = report(&command.args(args).output().unwrap());
    assert_eq!(outcome["capacity"], 5, "{}", outcome["steps"]);
    assert_eq!(outcome["at_limit"], false);
}

#[test]
fn the_report_holds_what_its_page_says() {
    let page = include_str!("../../../docs/loadtest.md");
    let server = Server::start();
    let folder = std::env::temp_dir().join(format!("chappe-report-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (json, html) = (folder.join("report.json"), folder.join("report.html"));
    let mut command = server.command("meeting", &["publishers=2", "duration=1s", "data_rate=10"]);
    command.arg("--output").arg(&json).arg("--html").arg(&html);
    let report = report(&command.output().unwrap());
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(written, report);
    assert!(std::fs::read_to_string(&html).unwrap().starts_with("<!doctype html>"));
    // Every field of the objects with fixed fields is named on the page, and nothing else is in them.
    let named = |name: &str| page.contains(&format!("`{name}`"));
    let objects = [
        &report,
        &report["clients"],
        &report["scenario"],
        &report["times"]["join"],
        &report["server"],
        &report["tester"],
        &report["series"][0],
    ];
    for (name, value) in objects.iter().flat_map(|object| object.as_object().unwrap()) {
        assert!(named(name), "docs/loadtest.md does not describe {name} ({value})");
    }
    let numbers = report["figures"].as_object().unwrap();
    assert!(numbers.len() > 40 && numbers.values().all(Value::is_f64), "{numbers:?}");
    let wrong = violations(&schema(), &report);
    assert!(wrong.is_empty(), "{wrong:#?}");
    std::fs::remove_dir_all(folder).unwrap();
}
