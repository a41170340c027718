//! First stage: what stands in the file, the flags and the environment.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{
    ApiConfig, CandidateConfig, Config, DtlsVersions, MAX_SHARDS, NodeConfig, Placement, Secret,
    TlsFiles,
};

/// A value that cannot be used, with its place and what was expected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Chappe's media node: forwards audio, video and data between the peers that a control plane names.
#[derive(clap::Parser, Clone, Debug, Default)]
#[command(
    name = "chappe-sfu",
    version,
    after_help = "Example:\n  chappe-sfu --secret \"$SECRET\" --advertise-ip 203.0.113.7\n  \
        chappe control --node http://media-1:7883 --node-secret \"$SECRET\"    (elsewhere)\n\n\
        Ports: 7881/tcp ICE-TCP, 7882/udp and up media (one per shard), 7883/tcp node API, 7884/tcp admin."
)]
pub struct Args {
    /// YAML file; flags and environment win over it.
    #[arg(long, short, value_name = "FILE", env = "CHAPPE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Media threads [default: one per core].
    #[arg(long, value_name = "N", env = "CHAPPE_RTC_SHARDS")]
    pub shards: Option<u16>,
    /// UDP port of the first shard; the others count up [default: 7882].
    #[arg(long, value_name = "PORT", env = "CHAPPE_RTC_UDP_PORT")]
    pub udp_port: Option<u16>,
    /// ICE-TCP port; 0 turns it off [default: 7881].
    #[arg(long, value_name = "PORT", env = "CHAPPE_RTC_TCP_PORT")]
    pub tcp_port: Option<u16>,
    /// Address told to clients instead of the interfaces' own (1:1 NAT, containers). May be repeated.
    #[arg(
        long = "advertise-ip",
        value_name = "IP",
        env = "CHAPPE_RTC_ADVERTISE_IP",
        value_delimiter = ','
    )]
    pub advertise_ips: Vec<IpAddr>,
    /// STUN server that tells the public address.
    #[arg(long, value_name = "HOST:PORT", env = "CHAPPE_RTC_STUN_SERVER")]
    pub stun_server: Option<String>,
    /// Tell clients loopback addresses too (development).
    #[arg(long, env = "CHAPPE_RTC_INCLUDE_LOOPBACK")]
    pub include_loopback: bool,
    /// DTLS versions [default: 1.2].
    #[arg(long, value_name = "VERSIONS", env = "CHAPPE_RTC_DTLS")]
    pub dtls: Option<DtlsVersions>,
    /// Which shard a new peer goes to [default: home].
    #[arg(long, value_name = "RULE", env = "CHAPPE_RTC_PLACEMENT")]
    pub placement: Option<Placement>,
    /// Node API [default: 0.0.0.0:7883].
    #[arg(long, value_name = "IP:PORT", env = "CHAPPE_NODE_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Shared secret that control planes bring.
    #[arg(long, value_name = "TEXT", env = "CHAPPE_NODE_SECRET", hide_env_values = true)]
    pub secret: Option<String>,
    /// TLS certificate chain of the node API (PEM).
    #[arg(long, value_name = "FILE", env = "CHAPPE_NODE_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", env = "CHAPPE_NODE_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Authority that signs the control planes' certificates: mutual TLS (PEM).
    #[arg(long, value_name = "FILE", env = "CHAPPE_NODE_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,
    /// Health and metrics [default: 127.0.0.1:7884].
    #[arg(long, value_name = "IP:PORT", env = "CHAPPE_ADMIN_LISTEN")]
    pub admin: Option<SocketAddr>,
    /// Log filter, for example info or chappe_sfu=debug [default: info].
    #[arg(long, value_name = "FILTER", env = "CHAPPE_LOG")]
    pub log: Option<String>,
    /// Logs as one JSON object a line.
    #[arg(long, env = "CHAPPE_LOG_JSON")]
    pub log_json: bool,
}

/// The YAML file.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    rtc: RawRtc,
    node: RawNode,
    admin: RawAdmin,
    log: RawLog,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRtc {
    shards: Option<u16>,
    pin_threads: Option<bool>,
    udp_port: Option<u16>,
    tcp_port: Option<u16>,
    ipv6: Option<bool>,
    receive_buffer_bytes: Option<usize>,
    send_buffer_bytes: Option<usize>,
    advertise_ip: Vec<IpAddr>,
    stun_server: Option<String>,
    include_interfaces: Vec<String>,
    exclude_interfaces: Vec<String>,
    include_loopback: bool,
    dtls: Option<DtlsVersions>,
    placement: Option<Placement>,
    max_peers_per_shard: Option<usize>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawNode {
    listen: Option<SocketAddr>,
    secret: Option<Secret>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAdmin {
    listen: Option<SocketAddr>,
    disabled: bool,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    filter: Option<String>,
    json: bool,
}

impl Args {
    /// Reads the file, if one is named, and checks everything.
    pub fn load(self) -> Result<Config, ConfigError> {
        let raw = self.config.as_deref().map(RawConfig::read).transpose()?.unwrap_or_default();
        raw.check(self)
    }
}

impl RawConfig {
    /// Reads a YAML file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigError::new(format!("{}: {error}", path.display())))?;
        Self::parse(&text).map_err(|error| ConfigError::new(format!("{}: {error}", path.display())))
    }

    /// Reads YAML text. Errors name line, column and what was expected.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|error| ConfigError::new(error.to_string()))
    }

    /// Second stage; `args` win.
    pub fn check(self, args: Args) -> Result<Config, ConfigError> {
        let node = self.rtc.check(&args)?;
        let api = self.node.check(&args)?;
        let admin = args.admin.or(self.admin.listen);
        let default_admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7_884);
        Ok(Config {
            node,
            api,
            admin: Some(admin.unwrap_or(default_admin))
                .filter(|_| admin.is_some() || !self.admin.disabled),
            log: args.log.or(self.log.filter).unwrap_or_else(|| "info".to_owned()),
            log_json: args.log_json || self.log.json,
        })
    }
}

impl RawRtc {
    fn check(self, args: &Args) -> Result<NodeConfig, ConfigError> {
        let default = NodeConfig::default();
        let shards = args.shards.or(self.shards).unwrap_or(default.shards);
        if !(1..=MAX_SHARDS).contains(&usize::from(shards)) {
            return Err(ConfigError::new(format!(
                "rtc.shards: expected 1 to {MAX_SHARDS}, got {shards}"
            )));
        }
        let udp_port = args.udp_port.or(self.udp_port).unwrap_or(default.udp_port);
        if udp_port != 0 && udp_port.checked_add(shards - 1).is_none() {
            return Err(ConfigError::new(format!(
                "rtc.udp_port: {udp_port} leaves no room for {shards} ports below 65536"
            )));
        }
        let tcp_port = match args.tcp_port.or(self.tcp_port) {
            Some(0) => None,
            Some(port) => Some(port),
            None => default.tcp_port,
        };
        let advertise_ips = if args.advertise_ips.is_empty() {
            self.advertise_ip
        } else {
            args.advertise_ips.clone()
        };
        if let Some(ip) = advertise_ips.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
            return Err(ConfigError::new(format!(
                "rtc.advertise_ip: {ip} is no address of one machine"
            )));
        }
        let max_peers_per_shard = self.max_peers_per_shard.unwrap_or(default.max_peers_per_shard);
        if max_peers_per_shard == 0 {
            return Err(ConfigError::new("rtc.max_peers_per_shard: expected 1 or more"));
        }
        Ok(NodeConfig {
            shards,
            pin_threads: self.pin_threads.unwrap_or(default.pin_threads),
            udp_port,
            tcp_port,
            ipv6: self.ipv6.unwrap_or(default.ipv6),
            receive_buffer: self.receive_buffer_bytes.unwrap_or(default.receive_buffer),
            send_buffer: self.send_buffer_bytes.unwrap_or(default.send_buffer),
            candidates: CandidateConfig {
                advertise_ips,
                stun_server: args.stun_server.clone().or(self.stun_server),
                include_interfaces: self.include_interfaces,
                exclude_interfaces: self.exclude_interfaces,
                include_loopback: args.include_loopback || self.include_loopback,
            },
            dtls: args.dtls.or(self.dtls).unwrap_or_default(),
            placement: args.placement.or(self.placement).unwrap_or_default(),
            max_peers_per_shard,
            ..default
        })
    }
}

impl RawNode {
    fn check(self, args: &Args) -> Result<ApiConfig, ConfigError> {
        let secret = args.secret.as_deref().map(Secret::from).or(self.secret);
        if secret.as_ref().is_some_and(|secret| secret.reveal().len() < 16) {
            return Err(ConfigError::new("node.secret: expected 16 characters or more"));
        }
        let certificate = args.tls_cert.clone().or(self.tls_cert);
        let key = args.tls_key.clone().or(self.tls_key);
        let client_ca = args.tls_client_ca.clone().or(self.tls_client_ca);
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key, client_ca }),
            (None, None) if client_ca.is_none() => None,
            _ => {
                return Err(ConfigError::new(
                    "node.tls_cert and node.tls_key: expected both, node.tls_client_ca only beside them",
                ));
            }
        };
        let mutual = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if secret.is_none() && !mutual {
            return Err(ConfigError::new(
                "the node API is never open to everybody: give --secret (CHAPPE_NODE_SECRET, node.secret) or mutual \
                 TLS (--tls-cert, --tls-key, --tls-client-ca)",
            ));
        }
        let listen = args.listen.or(self.listen);
        let default = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7_883);
        Ok(ApiConfig { listen: listen.unwrap_or(default), secret, tls })
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn with_secret() -> Args {
        Args { secret: Some(SECRET.into()), ..Args::default() }
    }

    #[test]
    fn defaults_need_only_a_secret() {
        let config = RawConfig::default().check(with_secret()).unwrap();
        assert_eq!((config.node.udp_port, config.node.tcp_port), (7_882, Some(7_881)));
        assert_eq!(config.api.listen.port(), 7_883);
        assert!(config.node.shards >= 1);
        let refused = RawConfig::default().check(Args::default()).unwrap_err().to_string();
        assert!(refused.contains("--secret"), "{refused}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = "rtc:\n  udp_port: 5000\n  shards: 3\n  placement: round-robin\n  dtls: auto\n";
        let args = Args { udp_port: Some(6_000), tcp_port: Some(0), ..with_secret() };
        let node = RawConfig::parse(file).unwrap().check(args).unwrap().node;
        assert_eq!((node.udp_port, node.shards, node.tcp_port), (6_000, 3, None));
        assert_eq!((node.placement, node.dtls), (Placement::RoundRobin, DtlsVersions::Auto));
    }

    #[test]
    fn wrong_values_are_named() {
        struct Case {
            yaml: &'static str,
            says: &'static [&'static str],
        }
        let cases = [
            Case { yaml: "rtc:\n  shards: 0\n", says: &["rtc.shards", "1 to 64"] },
            Case { yaml: "rtc:\n  shardz: 1\n", says: &["shardz", "line 2"] },
            Case { yaml: "rtc:\n  udp_port: 65535\n  shards: 2\n", says: &["rtc.udp_port"] },
            Case { yaml: "rtc:\n  udp_port: high\n", says: &["line 2"] },
            Case {
                yaml: "rtc:\n  advertise_ip: [0.0.0.0]\n",
                says: &["rtc.advertise_ip", "0.0.0.0"],
            },
            Case { yaml: "node:\n  tls_cert: a.pem\n", says: &["node.tls_key"] },
            Case { yaml: "rtc:\n  max_peers_per_shard: 0\n", says: &["rtc.max_peers_per_shard"] },
        ];
        for case in cases {
            let checked = RawConfig::parse(case.yaml).and_then(|raw| raw.check(with_secret()));
            let said = checked.unwrap_err().to_string();
            assert!(case.says.iter().all(|text| said.contains(text)), "{:?}: {said}", case.yaml);
        }
        let short = Args { secret: Some("short".into()), ..Args::default() };
        assert!(RawConfig::default().check(short).unwrap_err().to_string().contains("16"));
    }

    #[test]
    fn mutual_tls_does_without_a_secret() {
        let file = "node: { tls_cert: a.pem, tls_key: b.pem, tls_client_ca: c.pem }\n";
        let api = RawConfig::parse(file).unwrap().check(Args::default()).unwrap().api;
        assert!(api.secret.is_none() && api.tls.is_some_and(|tls| tls.client_ca.is_some()));
        let file = "node: { tls_cert: a.pem, tls_key: b.pem }\n";
        assert!(RawConfig::parse(file).unwrap().check(Args::default()).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = RawConfig::default().check(with_secret()).unwrap();
        assert!(!format!("{config:?}").contains(SECRET));
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["chappe-sfu", "--advertise-ip", "192.0.2.1,2001:db8::1"])
            .unwrap();
        assert_eq!(args.advertise_ips.len(), 2);
    }
}
