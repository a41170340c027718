//! The file as it is written, and its way to a checked [`Config`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{
    Config, ConfigError, DtlsVersions, NodeArgs, NodeTls, RemoteNode, RoomDefaults, Rtc, RunArgs,
    Secret, Tls,
};

/// The YAML file. Every key is optional; an unknown one is an error.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    bind: Option<IpAddr>,
    port: Option<u16>,
    admin: Option<String>,
    keys: BTreeMap<String, String>,
    dev: Option<bool>,
    tls: Option<RawTls>,
    rtc: RawRtc,
    room: RawRoom,
    node: RawNode,
    drain_timeout_seconds: Option<u64>,
    log: RawLog,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct RawTls {
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct RawRtc {
    udp_port: Option<u16>,
    tcp_port: Option<u16>,
    shards: Option<usize>,
    advertise_ip: Vec<IpAddr>,
    stun_server: Option<String>,
    include_interfaces: Vec<String>,
    exclude_interfaces: Vec<String>,
    include_loopback: Option<bool>,
    dtls: Option<DtlsVersions>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct RawRoom {
    auto_create: Option<bool>,
    empty_timeout_seconds: Option<u64>,
    departure_timeout_seconds: Option<u64>,
    max_participants: Option<u32>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct RawNode {
    urls: Vec<String>,
    secret: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    filter: Option<String>,
    json: Option<bool>,
}

/// Shorter secrets are guessed: HS256 wants as many bits as its hash (RFC 7518 section 3.2).
const MIN_SECRET_BYTES: usize = 32;

impl RawConfig {
    /// Reads a file. Errors name the file, the line and what was expected.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::new(format!("{}: {error}", path.display())))?;
        Self::parse(&text, &path.display().to_string())
    }

    pub(super) fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        serde_saphyr::from_str::<Option<Self>>(text)
            .map(Option::unwrap_or_default)
            .map_err(|error| ConfigError::new(format!("{name}: {error}")))
    }

    /// Puts flags and variables over the file and checks the whole.
    pub fn check(self, args: &RunArgs, nodes: Option<&NodeArgs>) -> Result<Config, ConfigError> {
        let keys = self.keys(args)?;
        let dev = args.dev_tls || args.dev.or(self.dev).unwrap_or(keys.is_empty());
        if keys.is_empty() && !dev {
            return Err(ConfigError::new(
                "no API keys: give `keys` in the file, --key KEY:SECRET or CHAPPE_KEYS, or use --dev",
            ));
        }
        let tls = match &self.tls {
            Some(files) => Tls::Files { cert: files.cert.clone(), key: files.key.clone() },
            None if args.dev_tls => Tls::SelfSigned,
            None => Tls::Off,
        };
        let bind = args.bind.or(self.bind).unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        Ok(Config {
            listen: SocketAddr::new(bind, args.port.or(self.port).unwrap_or(7880)),
            admin: admin(args.admin.as_deref().or(self.admin.as_deref()))?,
            keys,
            dev,
            tls,
            nodes: self.nodes(nodes)?,
            rtc: self.rtc.check(args, dev)?,
            room: self.room.check(),
            drain_timeout: Duration::from_secs(self.drain_timeout_seconds.unwrap_or(10)),
            log_filter: args.log.clone().or(self.log.filter).unwrap_or_else(|| "info".into()),
            log_json: args.log_json || self.log.json.unwrap_or(false),
        })
    }

    fn keys(&self, args: &RunArgs) -> Result<BTreeMap<String, Secret>, ConfigError> {
        let mut keys: BTreeMap<String, String> = self.keys.clone();
        for pair in &args.keys {
            let (key, secret) = pair
                .split_once(':')
                .ok_or_else(|| ConfigError::new("--key and CHAPPE_KEYS: expected KEY:SECRET"))?;
            keys.insert(key.trim().to_owned(), secret.trim().to_owned());
        }
        for (key, secret) in &keys {
            if key.is_empty() {
                return Err(ConfigError::new("keys: a key is empty"));
            }
            if secret.len() < MIN_SECRET_BYTES {
                return Err(ConfigError::new(format!(
                    "keys: the secret of {key} has {} bytes, expected at least {MIN_SECRET_BYTES} \
                     (openssl rand -hex 32 makes one)",
                    secret.len()
                )));
            }
        }
        Ok(keys.into_iter().map(|(key, secret)| (key, Secret::new(secret))).collect())
    }

    fn nodes(&self, args: Option<&NodeArgs>) -> Result<Vec<RemoteNode>, ConfigError> {
        let Some(args) = args else { return Ok(Vec::new()) };
        let urls = if args.nodes.is_empty() { &self.node.urls } else { &args.nodes };
        if urls.is_empty() {
            return Err(ConfigError::new(
                "no media nodes: give --node URL, CHAPPE_NODES or `node.urls` in the file",
            ));
        }
        let secret = args.node_secret.clone().or(self.node.secret.clone()).map(Secret::new);
        let either = |flag: &Option<PathBuf>, file: &Option<PathBuf>| flag.clone().or(file.clone());
        let ca = either(&args.node_ca, &self.node.ca);
        let identity =
            either(&args.node_cert, &self.node.cert).zip(either(&args.node_key, &self.node.key));
        if secret.is_none() && identity.is_none() {
            return Err(ConfigError::new(
                "no secret for the node API: give --node-secret, CHAPPE_NODE_SECRET or `node.secret`, \
                 the same as at chappe-sfu, or certificates (--node-ca, --node-cert, --node-key)",
            ));
        }
        let tls = ca.map(|ca| NodeTls { ca, identity });
        urls.iter()
            .map(|url| {
                let https = url.starts_with("https://");
                if !https && !url.starts_with("http://") {
                    return Err(ConfigError::new(format!(
                        "node URL {url:?}: expected http://HOST:PORT or https://HOST:PORT"
                    )));
                }
                if https != tls.is_some() {
                    return Err(ConfigError::new(format!(
                        "node URL {url:?}: https goes with --node-ca, http without"
                    )));
                }
                Ok(RemoteNode { url: url.clone(), secret: secret.clone(), tls: tls.clone() })
            })
            .collect()
    }
}

impl RawRtc {
    fn check(self, args: &RunArgs, dev: bool) -> Result<Rtc, ConfigError> {
        let shards = args.rtc_shards.or(self.shards);
        if shards == Some(0) || shards.is_some_and(|shards| shards > 256) {
            return Err(ConfigError::new("rtc.shards: expected 1 to 256"));
        }
        let advertise_ips = if args.rtc_advertise_ips.is_empty() {
            self.advertise_ip
        } else {
            args.rtc_advertise_ips.clone()
        };
        if let Some(ip) = advertise_ips.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
            return Err(ConfigError::new(format!(
                "rtc.advertise_ip: {ip} is no address that a client can reach"
            )));
        }
        Ok(Rtc {
            udp_port: args.rtc_udp_port.or(self.udp_port).unwrap_or(7882),
            tcp_port: Some(args.rtc_tcp_port.or(self.tcp_port).unwrap_or(7881))
                .filter(|port| *port != 0),
            shards,
            advertise_ips,
            stun_server: self.stun_server,
            include_interfaces: self.include_interfaces,
            exclude_interfaces: self.exclude_interfaces,
            include_loopback: self.include_loopback.unwrap_or(dev),
            dtls: self.dtls.unwrap_or(DtlsVersions::V12),
        })
    }
}

impl RawRoom {
    fn check(self) -> RoomDefaults {
        RoomDefaults {
            auto_create: self.auto_create.unwrap_or(true),
            empty_timeout: Duration::from_secs(self.empty_timeout_seconds.unwrap_or(300)),
            departure_timeout: Duration::from_secs(self.departure_timeout_seconds.unwrap_or(20)),
            max_participants: self.max_participants.unwrap_or(0),
        }
    }
}

fn admin(text: Option<&str>) -> Result<Option<SocketAddr>, ConfigError> {
    match text {
        Some("off") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| ConfigError::new(format!("admin: {text:?}: expected IP:PORT or \"off\""))),
        None => Ok(Some(SocketAddr::from(([127, 0, 0, 1], 7889)))),
    }
}
