//! A server for tests, and the load tester's binary as people run it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use chappe::{
    app::App,
    config::{RawConfig, RunArgs},
};
use serde_json::Value;
use tokio::runtime::Runtime;

pub(crate) const KEY: &str = "testkey";
pub(crate) const SECRET: &str = "a-secret-for-tests-of-thirty-two-bytes-and-more";

/// One run at a time: figures of two at once would be those of neither.
static MACHINE: Mutex<()> = Mutex::new(());

/// Keeps other tests from running beside one that runs in a process of its own.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(crate) struct Server {
    runtime: Option<Runtime>,
    _app: Option<App>,
    pub(crate) url: String,
    admin: u16,
    _machine: MutexGuard<'static, ()>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with_room_for(0)
    }

    /// Rooms take so many people at most; 0 is no limit.
    pub(crate) fn with_room_for(people: u32) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, people)
    }

    /// Clients reach it at this address.
    pub(crate) fn at(address: Ipv4Addr, people: u32) -> Self {
        let machine = alone();
        let admin = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let args = RunArgs {
            bind: Some(address.into()),
            port: Some(0),
            admin: Some(format!("127.0.0.1:{admin}")),
            keys: vec![format!("{KEY}:{SECRET}")],
            rtc_udp_port: Some(0),
            rtc_tcp_port: Some(0),
            rtc_shards: Some(1),
            ..RunArgs::default()
        };
        let mut config = RawConfig::default().check(&args, None).unwrap();
        config.rtc.include_loopback = true;
        config.room.max_participants = people;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let app = runtime.block_on(App::start(&config)).unwrap();
        let url = app.page.trim_end_matches('/').replace("localhost", &address.to_string());
        let server =
            Self { runtime: Some(runtime), _app: Some(app), url, admin, _machine: machine };
        until("a server that is ready", || server.get("/readyz").starts_with("HTTP/1.1 200"));
        server
    }

    /// The process is gone from one moment to the next, as far as clients can tell.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.admin)
    }

    /// The admin listener's answer, headers included; empty when there is none.
    fn get(&self, path: &str) -> String {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.admin)) {
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
            if stream.write_all(request.as_bytes()).is_ok() {
                let _ = stream.read_to_string(&mut text);
            }
        }
        text
    }

    /// A number of the server's metrics, summed over labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics");
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Runs a scenario against this server and reads its report.
    pub(crate) fn run(&self, scenario: &str, set: &[&str]) -> Value {
        let output = self.command(scenario, set).output().unwrap();
        report(&output)
    }

    pub(crate) fn command(&self, scenario: &str, set: &[&str]) -> Command {
        self.command_of("run", scenario, set)
    }

    pub(crate) fn command_of(&self, what: &str, scenario: &str, set: &[&str]) -> Command {
        let metrics = self.metrics_url();
        let pid = std::process::id().to_string();
        let mut command = loadtest(&[what, scenario, "--json", "--url", &self.url]);
        command.args(["--api-key", KEY, "--api-secret", SECRET, "--workers", "1"]);
        command.args(["--metrics-url", &metrics, "--server-pid", &pid]);
        // Without feedback: on a busy machine an estimate of the bandwidth may take the pictures away.
        for field in ["warmup=500ms", "bandwidth_feedback=false"].iter().chain(set) {
            command.args(["--set", field]);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn loadtest(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chappe-loadtest"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The report object, alone on standard output.
pub(crate) fn report(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

/// A value of the report's `figures`; 0 when nothing was measured.
pub(crate) fn figure(report: &Value, name: &str) -> f64 {
    report["figures"][name].as_f64().unwrap_or_default()
}

/// Waits for a condition, and says which one when it does not come true.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ctrl-C.
pub(crate) fn interrupt(child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
}
