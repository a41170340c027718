//! Several machines, played by several processes.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output},
};

use serde_json::Value;

use crate::{
    harness::{KEY, SECRET, Server, figure, interrupt, loadtest, report, until},
    machines::{Machine, two_machines},
};

const SWARM_SECRET: &str = "a-secret-for-tests-of-the-swarm";

/// An agent on a free port.
struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    fn start(more: &[&str]) -> Self {
        Self::on(&Machine::this(), more)
    }

    fn on(machine: &Machine, more: &[&str]) -> Self {
        let listen = format!("{}:0", machine.address);
        let mut command = machine.run(loadtest(&["agent", "--listen", &listen, "--workers", "1"]));
        command.args(more).env("CHAPPE_SWARM_SECRET", SWARM_SECRET);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let address = first.rsplit(' ').next().unwrap().to_owned();
        // What it says later is read, so that it is never held up.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run that ends with its test, however that ends.
struct Running(Option<Child>);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    /// Ctrl-C, and what it says then.
    fn end(mut self) -> Output {
        interrupt(self.0.as_ref().unwrap());
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn coordinator(server: &Server, agents: &[&Agent], scenario: &str, set: &[&str]) -> Command {
    let addresses: Vec<_> = agents.iter().map(|agent| agent.address.as_str()).collect();
    let agents = addresses.join(",");
    let mut command =
        loadtest(&["coordinator", scenario, "--json", "--agent", &agents, "--url", &server.url]);
    command.args(["--api-key", KEY, "--api-secret", SECRET]);
    command.args(["--metrics-url", &server.metrics_url()]);
    command.env("CHAPPE_SWARM_SECRET", SWARM_SECRET);
    for field in ["warmup=500ms", "bandwidth_feedback=false"].iter().chain(set) {
        command.args(["--set", field]);
    }
    command
}

#[test]
fn two_agents_make_one_report() {
    let server = Server::start();
    let (one, other) = (Agent::start(&[]), Agent::start(&[]));
    let set = ["publishers=4", "grid=3", "view=180p", "duration=3s", "data_rate=5"];
    for subscribers in ["subscriber_mode=full", "subscriber_mode=sink"] {
        // The agents are there for the next run when one is over.
        let set = [&set[..], &["subscribers=2", subscribers]].concat();
        let run = coordinator(&server, &[&one, &other], "meeting", &set).output().unwrap();
        let report = report(&run);
        assert_seen_whole(&report);
        assert!(figure(&report, "p50_data_round_trip_ms") > 0.0);
    }
}

/// Six clients on two agents, with latencies of their own machine and of the other one.
fn assert_seen_whole(report: &Value) {
    assert_eq!(report["clients"]["joined"], 6, "{}", report["clients"]);
    let agents = report["agents"].as_array().unwrap();
    assert_eq!(agents.len(), 2);
    for agent in agents {
        assert_eq!(agent["clients"], 3);
        // The clocks are those of one machine.
        let ahead = agent["clock_ahead_ms"].as_f64().unwrap().abs();
        assert!(ahead <= agent["clock_error_ms"].as_f64().unwrap() + 0.1, "{agent}");
    }
    assert_eq!(report["tester"]["workers"], 2);
    assert!(figure(report, "p50_video_latency_ms") > 0.0);
    assert!(figure(report, "p50_audio_latency_ms") > 0.0);
    // What comes from the other agent is timed by the capture time that the server passes on.
    let timed = figure(report, "frames_timed_by_capture_time");
    let all = ["latency_video", "latency_audio"]
        .map(|name| report["times"][name]["count"].as_f64().unwrap_or_default());
    let share = timed / all.iter().sum::<f64>();
    assert!((0.3..0.9).contains(&share), "{share} of the frames");
    let method = report["latency_method"].as_str().unwrap();
    assert!(method.contains("abs-capture-time") && method.contains("agree within"), "{method}");
}

#[test]
fn agents_on_two_machines_make_one_report() {
    let test = "agents::agents_on_two_machines_make_one_report";
    let Some((here, machines)) = two_machines(test) else { return };
    let server = Server::at(here, 0);
    let [one, other] = machines.each_ref().map(|machine| Agent::on(machine, &[]));
    assert_ne!(one.address.split(':').next(), other.address.split(':').next());
    // Half of the clients sit behind 30 ms: sound from one half to the other takes as long, from machine to machine too.
    let networks = r#"networks=[{"percent": 50, "delay": "30ms"}]"#;
    let set =
        ["publishers=6", "grid=5", "view=180p", "duration=3s", "impaired_percent=0", networks];
    let run = coordinator(&server, &[&one, &other], "meeting", &set).output().unwrap();
    let report = report(&run);
    assert_seen_whole(&report);
    let audio = &report["times"]["latency_audio"];
    let [p50, p90] = ["p50", "p90"].map(|name| audio[name].as_f64().unwrap());
    assert!(p50 >= 29.0 && p90 >= 59.0, "{p50} ms, {p90} ms");
    let first = audio["steps"][0][0].as_f64().unwrap();
    assert!(first < 29.0, "{first} ms at least");
}

#[test]
fn a_lost_agent_is_told_with_its_clients() {
    let server = Server::start();
    let (one, mut other) = (Agent::start(&[]), Agent::start(&[]));
    let set = ["publishers=4", "view=180p", "duration=60s"];
    let run = Running::start(coordinator(&server, &[&one, &other], "meeting", &set));
    until("four peers", || server.metric("chappe_sfu_peers") >= 4.0);
    until("media", || server.metric("chappe_sfu_media_out_total") >= 1_000.0);
    other.child.kill().unwrap();
    // The others go on: the run ends when it is told to.
    until("two of them gone", || server.metric("chappe_sfu_peers") <= 2.0);
    let report = report(&run.end());
    assert_eq!(report["clients"]["lost_by_reason"]["agent lost"], 2, "{}", report["clients"]);
    assert_eq!(figure(&report, "lost_clients"), 2.0);
    let warned = format!("agent {} was lost", other.address);
    let warnings = report["warnings"].as_array().unwrap();
    let said = |warning: &Value| warning.as_str().unwrap().starts_with(&warned);
    assert!(warnings.iter().any(said), "{warnings:?}");
}

#[test]
fn mistakes_with_agents_are_named() {
    let server = Server::start();
    let agent = Agent::start(&["--max-clients", "3"]);
    let complaint = |mut command: Command| {
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        text
    };
    let run = |set: &[&str]| coordinator(&server, &[&agent], "meeting", set);
    let text = complaint(run(&["publishers=4"]));
    assert!(text.contains("4 clients are more than the 3 of its --max-clients"), "{text}");
    let mut wrong = run(&["publishers=2"]);
    wrong.env("CHAPPE_SWARM_SECRET", "another-secret-of-the-swarm");
    let text = complaint(wrong);
    assert!(text.contains("it hung up: is it busy, or its secret another one?"), "{text}");
    let mut none = run(&["publishers=2"]);
    none.env_remove("CHAPPE_SWARM_SECRET");
    let text = complaint(none);
    assert!(text.contains("need one secret: CHAPPE_SWARM_SECRET or --secret-file"), "{text}");
    let mut short = run(&["publishers=2"]);
    short.env("CHAPPE_SWARM_SECRET", "short");
    assert!(complaint(short).contains("16 characters or more"));
    let nowhere =
        Agent { address: "127.0.0.1:1".to_owned(), child: Command::new("true").spawn().unwrap() };
    let text = complaint(coordinator(&server, &[&nowhere], "meeting", &[]));
    assert!(text.contains("agent 127.0.0.1:1: it cannot be reached"), "{text}");
}
