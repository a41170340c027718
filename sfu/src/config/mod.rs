//! Configuration in two stages: raw text (file, flags, environment; [`RawConfig`] and [`Args`]) becomes checked values
//! with units ([`Config`]). The embedded node is configured with [`NodeConfig`] alone.

mod cli;
mod place;
mod raw;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, net::SocketAddr, path::PathBuf};

pub use cli::Args;
pub use place::{ConfigError, Origin, Placed};
pub use raw::{RawConfig, checked_addresses, checked_stun_server};

/// A media node: threads, ports, addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// Media threads, at least one.
    pub shards: u16,
    /// Each media thread stays on a core of its own. Only sensible up to one shard per core.
    pub pin_threads: bool,
    /// UDP port of the first shard, the others count up from it; 0 is any free port for each.
    pub udp_port: u16,
    /// ICE-TCP port; `None` turns it off, 0 is any free port.
    pub tcp_port: Option<u16>,
    /// IPv6 is used where the machine has it.
    pub ipv6: bool,
    /// Socket buffer to ask for, bytes. 4 MiB holds 30 ms of 1 Gbit/s.
    pub receive_buffer: usize,
    /// Socket buffer to ask for, bytes. A keyframe to 500 subscribers is 15 MB: what does not fit is lost.
    pub send_buffer: usize,
    /// Which addresses clients are told.
    pub candidates: CandidateConfig,
    /// DTLS versions.
    pub dtls: DtlsVersions,
    /// Which shard a new peer goes to.
    pub placement: Placement,
    /// Peers that one shard takes at most.
    pub max_peers_per_shard: usize,
    /// Commands that may wait for a shard; one more is refused.
    pub mailbox: usize,
    /// Messages that may be under way from one shard to another.
    pub ring: usize,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self {
            shards: u16::try_from(cores.min(MAX_SHARDS)).unwrap_or(1),
            pin_threads: true,
            udp_port: 7_882,
            tcp_port: Some(7_881),
            ipv6: true,
            receive_buffer: 4 << 20,
            send_buffer: 16 << 20,
            candidates: CandidateConfig::default(),
            dtls: DtlsVersions::default(),
            placement: Placement::default(),
            max_peers_per_shard: 10_000,
            mailbox: 1_024,
            ring: 1_024,
        }
    }
}

/// Each shard has a ring to each other: 64 shards are 4,032 rings.
pub const MAX_SHARDS: usize = 64;

/// Which addresses clients are told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CandidateConfig {
    /// Told instead of the interfaces' own of the same family (1:1 NAT, containers).
    pub advertise_ips: Vec<IpAddr>,
    /// `host:port` of a STUN server that tells the public address, which is told beside the others.
    pub stun_server: Option<String>,
    /// Only these interfaces; empty is all.
    pub include_interfaces: Vec<String>,
    /// Never these interfaces.
    pub exclude_interfaces: Vec<String>,
    /// Loopback is told too. It always is where there is nothing else.
    pub include_loopback: bool,
}

/// DTLS versions offered and accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize, clap::ValueEnum)]
pub enum DtlsVersions {
    /// 1.2 only: browsers end on AES-GCM, which costs a fifth of the alternative.
    #[default]
    #[serde(rename = "1.2")]
    #[value(name = "1.2")]
    V12,
    /// 1.3 only.
    #[serde(rename = "1.3")]
    #[value(name = "1.3")]
    V13,
    /// 1.3 where the client has it, else 1.2.
    #[serde(rename = "auto")]
    #[value(name = "auto")]
    Auto,
}

/// Which shard a new peer goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Where its room began, until that shard has clearly more to do than another.
    #[default]
    Home,
    /// The next one: every room is on all shards. For tests.
    RoundRobin,
}

/// Text that is not shown by accident.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Shows the text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// How the node API is protected when it is opened on TCP. There is no way without.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Every call carries `authorization: Bearer <secret>`.
    pub secret: Option<Secret>,
    /// TLS, with client certificates where `client_ca` is given.
    pub tls: Option<TlsFiles>,
}

impl ApiConfig {
    /// Whoever listens on the way reads the secret.
    pub fn secret_in_clear(&self) -> bool {
        self.secret.is_some() && self.tls.is_none() && !self.listen.ip().is_loopback()
    }
}

/// PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// Certificate chain of the node.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs the certificates of control planes: mutual TLS.
    pub client_ca: Option<PathBuf>,
}

/// Everything that the binary `chappe-sfu` needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The node.
    pub node: NodeConfig,
    /// The node API.
    pub api: ApiConfig,
    /// `/healthz`, `/readyz` and `/metrics`; `None` opens no such listener.
    pub admin: Option<SocketAddr>,
    /// `tracing` filter directives.
    pub log: String,
    /// Logs as one JSON object a line.
    pub log_json: bool,
}
