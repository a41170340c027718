//! A local server for the run: found, started on free ports, waited for, stopped.

use std::{
    net::{TcpListener, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::measure::Process;

/// How long a server may take until it is ready.
const READY: Duration = Duration::from_secs(20);
/// How long a server may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(5);
/// Media ports to look for: one per core, and some.
const MEDIA_PORTS: u16 = 64;

/// A server that this process started.
#[derive(Debug)]
pub(crate) struct LocalServer {
    child: Child,
    pub(crate) url: String,
    pub(crate) metrics: String,
    pub(crate) key: String,
    pub(crate) secret: String,
}

impl LocalServer {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start() -> Result<Self, String> {
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
            .env("CHAPPE_LOG", "warn")
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

    pub(crate) fn process(&self) -> Process {
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
