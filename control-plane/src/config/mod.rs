//! Configuration in two stages: raw text (a YAML file, `CHAPPE_*` variables, flags; later ones win) becomes checked
//! values with units. `main` reads it once; nothing else knows where a value came from.

mod cli;
mod raw;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use chappe_sfu::config::{ConfigError, DtlsVersions, Placement, Secret};
pub use cli::{Cli, Command, NodeArgs, RunArgs, TokenArgs};
pub use raw::RawConfig;

/// What the server runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where HTTP, WebSocket, Twirp and gRPC are served.
    pub listen: SocketAddr,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; `None` turns it off.
    pub admin: Option<SocketAddr>,
    /// API key -> secret.
    pub keys: BTreeMap<String, Secret>,
    /// The page hands out tokens, keys were made at start.
    pub dev: bool,
    /// https on the main port.
    pub tls: Tls,
    /// Media of the embedded node.
    pub rtc: Rtc,
    /// Defaults of rooms.
    pub room: RoomDefaults,
    /// Media nodes elsewhere; empty runs one in this process.
    pub nodes: Vec<RemoteNode>,
    /// How long a stopping server waits for its clients to move.
    pub drain_timeout: Duration,
    /// A `tracing` filter.
    pub log_filter: String,
    /// Log lines as JSON.
    pub log_json: bool,
}

/// https, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Plain http: behind a proxy that ends TLS, or for development on loopback.
    Off,
    /// A certificate made at start, for trying it from a phone.
    SelfSigned,
    /// PEM files.
    Files {
        /// Certificate chain.
        cert: PathBuf,
        /// Private key.
        key: PathBuf,
    },
}

/// Media ports and addresses of the embedded node.
#[derive(Clone, Debug)]
pub struct Rtc {
    /// First UDP port; one per shard.
    pub udp_port: u16,
    /// ICE-TCP port; `None` turns it off.
    pub tcp_port: Option<u16>,
    /// Media threads; `None` is one per core.
    pub shards: Option<u16>,
    /// Which shard a new peer goes to.
    pub placement: Placement,
    /// Addresses told to clients instead of the interfaces' own (1:1 NAT, containers).
    pub advertise_ips: Vec<IpAddr>,
    /// `host:port` of a STUN server that tells the public address.
    pub stun_server: Option<String>,
    /// Only these interfaces, when not empty.
    pub include_interfaces: Vec<String>,
    /// Never these interfaces.
    pub exclude_interfaces: Vec<String>,
    /// Loopback addresses are candidates too.
    pub include_loopback: bool,
    /// DTLS versions offered.
    pub dtls: DtlsVersions,
}

/// Defaults of rooms that do not say otherwise.
#[derive(Clone, Debug)]
pub struct RoomDefaults {
    /// Joining makes the room.
    pub auto_create: bool,
    /// An unused room ends after this long.
    pub empty_timeout: Duration,
    /// A room whose last participant left ends after this long.
    pub departure_timeout: Duration,
    /// 0 is unlimited.
    pub max_participants: u32,
    /// Audio that its publisher calls silent is sent to nobody.
    pub suppress_silence: bool,
}

/// A media node in another process.
#[derive(Clone, Debug)]
pub struct RemoteNode {
    /// `http://host:7883` or `https://host:7883`.
    pub url: String,
    /// Shared secret of the node API.
    pub secret: Option<Secret>,
    /// What to check its certificate against, and what to show it (mutual TLS).
    pub tls: Option<NodeTls>,
}

impl RemoteNode {
    /// Whoever listens on the way reads the secret.
    pub fn secret_in_clear(&self) -> bool {
        let Ok(url) = self.url.parse::<http::Uri>() else { return false };
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        self.secret.is_some() && url.scheme_str() == Some("http") && !here
    }
}

/// PEM files for an https node API.
#[derive(Clone, Debug)]
pub struct NodeTls {
    /// Who signs the certificates of media nodes.
    pub ca: PathBuf,
    /// Certificate chain and private key of this control plane, where the node asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[cfg(test)]
mod tests;
