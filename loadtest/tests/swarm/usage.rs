//! Mistakes of the caller: one clear line that names the cause, and exit code 2.

use std::process::Command;

use crate::harness::{KEY, SECRET, Server, loadtest};

/// The one line that a command ends with.
fn complaint(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("chappe-loadtest: "), "{text}");
    lines[0].to_owned()
}

fn against(url: &str, key: &str, secret: &str, set: &[&str]) -> Command {
    let mut command = loadtest(&["run", "meeting", "--url", url, "--api-key", key]);
    command.args(["--api-secret", secret]);
    for field in set {
        command.args(["--set", field]);
    }
    command
}

/// Without the variables that may name a server where the tests run.
fn unset(args: &[&str]) -> Command {
    let mut command = loadtest(args);
    for variable in ["LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"] {
        command.env_remove(variable);
    }
    command
}

#[test]
fn a_missing_server_or_key_is_named() {
    let url = ["--url", "ws://127.0.0.1:1"];
    for (more, expected) in [
        (&[][..], "no server to test: give --url ws://HOST:7880"),
        (&url, "--api-key is missing: ws://127.0.0.1:1 lets in"),
        (&[url[0], url[1], "--api-key", KEY], "--api-secret is missing: "),
        (&[url[0], url[1], "--api-secret", SECRET], "--api-key is missing: "),
    ] {
        for words in [&["run", "meeting"], &["find-capacity", "livestream"]] {
            let line = complaint(unset(&[words, more].concat()));
            assert!(line.contains(expected) && line.contains("--start-server"), "{line}");
        }
    }
    // By the environment, in part.
    let mut command = unset(&["run", "meeting", "--api-key", KEY]);
    command.env("LIVEKIT_URL", "ws://127.0.0.1:1").env("LIVEKIT_API_SECRET", SECRET);
    let line = complaint(command);
    assert!(line.contains("ws://127.0.0.1:1/: cannot reach the server"), "{line}");
}

#[test]
fn a_wrong_url_is_named() {
    for (url, expected) in [
        ("http://127.0.0.1:1", "http://127.0.0.1:1/: cannot reach the server"),
        ("ftp://127.0.0.1", "write http://host:7880 or wss://host"),
        ("no url", "write http://host:7880 or wss://host"),
    ] {
        let line = complaint(against(url, KEY, SECRET, &[]));
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn a_url_without_a_room_server_is_named() {
    let server = Server::start();
    let line = complaint(against(&format!("{}/elsewhere", server.url), KEY, SECRET, &[]));
    assert!(line.contains("there is no room server (404 for /rtc/v1/validate)"), "{line}");
}

#[test]
fn a_wrong_key_is_named() {
    let server = Server::start();
    for (key, secret) in [("nobody", SECRET), (KEY, "another-secret-of-thirty-two-bytes-or-more")] {
        let line = complaint(against(&server.url, key, secret, &[]));
        assert!(line.contains("does not take this API key and secret (401"), "{line}");
    }
}

#[test]
fn a_full_server_is_named() {
    let server = Server::with_room_for(2);
    let set = ["publishers=4", "duration=1s", "warmup=100ms", "view=180p"];
    let line = complaint(against(&server.url, KEY, SECRET, &set));
    assert!(line.contains("the server is full: 2 of 4 clients were not let in"), "{line}");
}

#[test]
fn a_scenario_with_an_error_is_named() {
    let folder = std::env::temp_dir().join(format!("chappe-loadtest-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("wrong.yaml");
    std::fs::write(&file, "publishers: 3\nviewers: 4\n").unwrap();
    let file = file.to_str().unwrap();
    for (scenario, set, expected) in [
        (file, "publishers=3", "wrong.yaml: "),
        ("meating", "publishers=3", "neither a preset"),
        ("meeting", "publishers=x", "--set publishers=x: "),
        ("meeting", "layers=9", "layers: 9 is not between 1 and 3"),
    ] {
        let command = loadtest(&["run", scenario, "--set", set, "--start-server"]);
        let line = complaint(command);
        assert!(line.contains(expected), "{line}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
