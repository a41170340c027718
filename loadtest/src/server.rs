//! The server under test: one that is there, asked whether it lets clients in, or a local one for the run, found, started
//! on free ports, waited for and stopped.

use std::{
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    cli::ServerArgs,
    client::ws::{ConnectError, Target, tls_connector},
    measure::Process,
    scenario::Scenario,
};

/// How long a server may take until it is ready.
const READY: Duration = Duration::from_secs(20);
/// How long a server may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(5);
/// Media ports to look for: one per core, and some.
const MEDIA_PORTS: u16 = 64;

/// The server under test.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) target: Target,
    pub(crate) process: Option<Process>,
    pub(crate) metrics: Option<http::Uri>,
    /// Trusted instead of the system's, as PEM.
    pub(crate) certificates: Option<String>,
    /// Stopped when this goes.
    _local: Option<LocalServer>,
}

impl Server {
    /// Finds or starts it, and asks whether it would let clients in. Errors are sentences.
    pub(crate) async fn prepare(args: &ServerArgs, scenario: &Scenario) -> Result<Self, String> {
        let local = if args.start_server { Some(LocalServer::start().await?) } else { None };
        let (url, key, secret, metrics) = match &local {
            Some(local) => {
                let metrics = Some(local.metrics.clone());
                (local.url.clone(), local.key.clone(), local.secret.clone(), metrics)
            }
            None => {
                let (url, key, secret) = given(args)?;
                (url, key, secret, args.metrics_url.clone())
            }
        };
        let metrics = match metrics {
            Some(metrics) => {
                Some(metrics.parse().map_err(|error| format!("--metrics-url {metrics}: {error}"))?)
            }
            None => None,
        };
        let process = local.as_ref().map(LocalServer::process).or(args.server_pid.map(Process));
        if let Some(process) = process
            && process.usage().is_none()
        {
            return Err(format!("--server-pid {}: no such process", process.0));
        }
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .map_err(|error| format!("--ca {}: {error}", path.display()))
        };
        let certificates = args.ca.as_ref().map(read).transpose()?;
        let target = reach(&url, &key, &secret, certificates.as_deref(), scenario).await?;
        Ok(Self { target, process, metrics, certificates, _local: local })
    }
}

/// URL, API key and secret, by options or by the environment.
fn given(args: &ServerArgs) -> Result<(String, String, String), String> {
    let value = |option: Option<&String>, variable: &str| {
        option.cloned().or_else(|| std::env::var(variable).ok()).filter(|text| !text.is_empty())
    };
    let url = value(args.url.as_ref(), "LIVEKIT_URL").ok_or(
        "no server to test: give --url ws://HOST:7880 with --api-key and --api-secret, or --start-server",
    )?;
    let key = value(args.api_key.as_ref(), "LIVEKIT_API_KEY");
    let secret = value(args.api_secret.as_ref().map(|secret| &secret.0), "LIVEKIT_API_SECRET");
    match (key, secret) {
        (Some(key), Some(secret)) => Ok((url, key, secret)),
        (key, _) => {
            let missing = if key.is_none() { "--api-key" } else { "--api-secret" };
            Err(format!(
                "{missing} is missing: {url} lets in whoever has a token signed with --api-key and --api-secret; \
                 --start-server needs neither"
            ))
        }
    }
}

/// Asks a server whether it would let clients in. Errors are sentences.
pub(crate) async fn reach(
    url: &str,
    key: &str,
    secret: &str,
    certificates: Option<&str>,
    scenario: &Scenario,
) -> Result<Target, String> {
    let url = parse_url(url)?;
    let tls = matches!(url.scheme_str(), Some("https" | "wss"));
    let tls = if tls { Some(tls_connector(certificates)?) } else { None };
    let (key, secret) = (key.to_owned(), secret.to_owned());
    let mut target = Target { url, key, secret, tls, local: IpAddr::V4(Ipv4Addr::LOCALHOST) };
    preflight(&mut target, scenario).await?;
    Ok(target)
}

fn parse_url(text: &str) -> Result<http::Uri, String> {
    let fail = || format!("--url {text}: write http://host:7880 or wss://host");
    let url: http::Uri = text.parse().map_err(|_| fail())?;
    let scheme = matches!(url.scheme_str(), Some("http" | "https" | "ws" | "wss"));
    if scheme && url.host().is_some() { Ok(url) } else { Err(fail()) }
}

/// One question before the crowd comes.
async fn preflight(target: &mut Target, scenario: &Scenario) -> Result<(), String> {
    let room = format!("load-check-{:08x}", rand::random::<u32>());
    let say = |url: &http::Uri, error: &ConnectError| format!("{url}: {error}");
    let token =
        target.token(&room, "load-check", true, true).map_err(|error| say(&target.url, &error))?;
    let path = if scenario.peer_connections == 1 { "/rtc/v1/validate" } else { "/rtc/validate" };
    match target.validate(&token, path).await {
        Ok(()) => Ok(()),
        Err(ConnectError::Refused { status: 401, reason }) => Err(format!(
            "{}: the server does not take this API key and secret (401: {reason})",
            target.url
        )),
        // Rooms that joining makes do not exist yet.
        Err(ConnectError::Refused { status: 404, reason }) if reason.contains("room") => Ok(()),
        Err(ConnectError::Refused { status: 404, .. }) => Err(format!(
            "{}: there is no room server (404 for {path}){}",
            target.url,
            if scenario.peer_connections == 1 {
                "; for an older one --set peer_connections=2"
            } else {
                ""
            }
        )),
        Err(error) => Err(say(&target.url, &error)),
    }
}

/// A server that this process started.
#[derive(Debug)]
struct LocalServer {
    child: Child,
    url: String,
    metrics: String,
    key: String,
    secret: String,
}

impl LocalServer {
    /// Starts it and waits until it is ready.
    async fn start() -> Result<Self, String> {
        let binary = find()?;
        let port = free_tcp()?;
        let admin = free_tcp()?;
        let media = free_udp()?;
        let key = "loadtest".to_owned();
        let secret = format!("{:032x}", rand::random::<u128>());
        let child = Command::new(&binary)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CHAPPE_KEYS", format!("{key}:{secret}"))
            .env("CHAPPE_BIND", "127.0.0.1")
            .env("CHAPPE_PORT", port.to_string())
            .env("CHAPPE_ADMIN", format!("127.0.0.1:{admin}"))
            .env("CHAPPE_RTC_UDP_PORT", media.to_string())
            .env("CHAPPE_RTC_TCP_PORT", "0")
            // What it warns of when clients go would stand in the middle of the report.
            .env("CHAPPE_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let mut server = Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            metrics: format!("http://127.0.0.1:{admin}/metrics"),
            key,
            secret,
        };
        server.ready(&format!("http://127.0.0.1:{admin}/readyz")).await?;
        Ok(server)
    }

    async fn ready(&mut self, url: &str) -> Result<(), String> {
        let url = url.parse().map_err(|_| "no admin URL".to_owned())?;
        let since = Instant::now();
        while since.elapsed() < READY {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the server ended at once: {status}"));
            }
            if crate::fetch::get(&url).await.is_ok_and(|(status, _)| status.is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("the server was not ready within {READY:?}"))
    }

    fn process(&self) -> Process {
        Process(self.child.id())
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        // In order first: the standard library can only kill.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).stderr(Stdio::null()).status();
        let since = Instant::now();
        while since.elapsed() < STOP {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary `chappe`: named by `CHAPPE_BIN` (a file or its folder), or beside this one.
fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("CHAPPE_BIN").map(PathBuf::from) {
        let path = if path.is_dir() { path.join("chappe") } else { path };
        return path
            .is_file()
            .then_some(path.clone())
            .ok_or_else(|| format!("CHAPPE_BIN: there is no {}", path.display()));
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let beside = own.parent().map(|folder| folder.join("chappe")).unwrap_or_default();
    if beside.is_file() {
        return Ok(beside);
    }
    Err(format!(
        "--start-server: there is no {}; build it (cargo build --release --bins) or name it in CHAPPE_BIN",
        beside.display()
    ))
}

fn free_tcp() -> Result<u16, String> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port: {error}"))
}

/// The first of a row of free UDP ports, outside the range that the kernel hands out.
fn free_udp() -> Result<u16, String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let count = u16::try_from(cores).unwrap_or(MEDIA_PORTS).min(MEDIA_PORTS);
    for _ in 0..100 {
        let first: u16 = rand::random_range(20_000..30_000);
        if (first..first + count).all(|port| UdpSocket::bind(("0.0.0.0", port)).is_ok()) {
            return Ok(first);
        }
    }
    Err("no free UDP ports for media".to_owned())
}
