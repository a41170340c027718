//! The file as it is written, and its way to a checked [`Config`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use chappe_sfu::config::{MAX_SHARDS, Origin, Placed, checked_addresses, checked_stun_server};
use serde::Deserialize;
use serde_saphyr::Spanned;
use tracing_subscriber::EnvFilter;

use super::{
    Config, ConfigError, DtlsVersions, NodeArgs, NodeTls, Placement, RemoteNode, RoomDefaults, Rtc,
    RunArgs, Secret, Tls,
};

/// The YAML file. Every key is optional; an unknown one is an error.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    bind: Option<IpAddr>,
    port: Option<u16>,
    admin: Option<Spanned<String>>,
    keys: BTreeMap<String, Spanned<Secret>>,
    dev: Option<bool>,
    tls: RawTls,
    rtc: RawRtc,
    room: RawRoom,
    node: RawNode,
    drain_timeout_seconds: Option<u64>,
    log: RawLog,
    #[serde(skip)]
    origin: Origin,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct RawTls {
    cert: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct RawRtc {
    udp_port: Option<Spanned<u16>>,
    tcp_port: Option<u16>,
    shards: Option<Spanned<u16>>,
    placement: Option<Placement>,
    advertise_ip: Vec<Spanned<IpAddr>>,
    stun_server: Option<Spanned<String>>,
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
    suppress_silence: Option<bool>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct RawNode {
    urls: Vec<Spanned<String>>,
    secret: Option<Secret>,
    ca: Option<PathBuf>,
    cert: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    filter: Option<Spanned<String>>,
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
        let raw: Option<Self> = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError::new(format!("{name}: {error}")))?;
        Ok(Self { origin: Origin::file(name), ..raw.unwrap_or_default() })
    }

    /// Puts flags and variables over the file and checks the whole. Errors name the file and line, or the flag, and
    /// what was expected.
    pub fn check(self, args: &RunArgs, nodes: Option<&NodeArgs>) -> Result<Config, ConfigError> {
        let origin = self.origin;
        let keys = keys(&origin, args, self.keys)?;
        let dev = args.dev_tls || args.dev.or(self.dev).unwrap_or(keys.is_empty());
        if keys.is_empty() && !dev {
            return Err(ConfigError::new(
                "no API keys: give `keys` in the file, --key KEY:SECRET or CHAPPE_KEYS, or use --dev",
            ));
        }
        let bind = args.bind.or(self.bind).unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let filter =
            origin.pick("log.filter", "--log (CHAPPE_LOG)", args.log.clone(), self.log.filter);
        if let Some(filter) = &filter
            && let Err(error) = EnvFilter::try_new(&filter.value)
        {
            return Err(filter.refuse(format!("{:?}: {error}", filter.value)));
        }
        let drain = args.drain_timeout.or(self.drain_timeout_seconds).unwrap_or(10);
        Ok(Config {
            listen: SocketAddr::new(bind, args.port.or(self.port).unwrap_or(7880)),
            admin: admin(origin.pick(
                "admin",
                "--admin (CHAPPE_ADMIN)",
                args.admin.clone(),
                self.admin,
            ))?,
            keys,
            dev,
            tls: self.tls.check(&origin, args)?,
            nodes: nodes.map_or(Ok(Vec::new()), |args| self.node.check(&origin, args))?,
            rtc: self.rtc.check(&origin, args, dev)?,
            room: self.room.check(args),
            drain_timeout: Duration::from_secs(drain),
            log_filter: filter.map_or_else(|| "info".into(), |filter| filter.value),
            log_json: args.log_json || self.log.json.unwrap_or(false),
        })
    }
}

fn keys(
    origin: &Origin,
    args: &RunArgs,
    written: BTreeMap<String, Spanned<Secret>>,
) -> Result<BTreeMap<String, Secret>, ConfigError> {
    const FLAG: &str = "--key (CHAPPE_KEYS)";
    let mut keys: BTreeMap<String, Placed<Secret>> = BTreeMap::new();
    for (key, secret) in written {
        let place = format!("keys.{key}");
        keys.insert(key, origin.placed(&place, secret));
    }
    for pair in &args.keys {
        let (key, secret) = pair
            .split_once(':')
            .ok_or_else(|| ConfigError::new(format!("{FLAG}: expected KEY:SECRET")))?;
        let secret = Placed::flag(FLAG, Secret::new(secret.trim()));
        keys.insert(key.trim().to_owned(), secret);
    }
    for (key, secret) in &keys {
        if key.is_empty() {
            return Err(secret.refuse("a key is empty, expected a name before the secret"));
        }
        let bytes = secret.value.reveal().len();
        if bytes < MIN_SECRET_BYTES {
            return Err(secret.refuse(format!(
                "the secret of {key} has {bytes} bytes, expected at least {MIN_SECRET_BYTES} \
                 (openssl rand -hex 32 makes one)",
            )));
        }
    }
    Ok(keys.into_iter().map(|(key, secret)| (key, secret.value)).collect())
}

impl RawTls {
    fn check(self, origin: &Origin, args: &RunArgs) -> Result<Tls, ConfigError> {
        let flag = "--tls-cert (CHAPPE_TLS_CERT)";
        let cert = origin.pick("tls.cert", flag, args.tls_cert.clone(), self.cert);
        let flag = "--tls-key (CHAPPE_TLS_KEY)";
        let key = origin.pick("tls.key", flag, args.tls_key.clone(), self.key);
        match together(cert, key)? {
            Some((cert, key)) => Ok(Tls::Files { cert, key }),
            None if args.dev_tls => Ok(Tls::SelfSigned),
            None => Ok(Tls::Off),
        }
    }
}

/// A certificate and its key, or neither.
fn together(
    cert: Option<Placed<PathBuf>>,
    key: Option<Placed<PathBuf>>,
) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some((cert.value, key.value))),
        (None, None) => Ok(None),
        (Some(cert), None) => Err(cert.refuse("expected the file of its private key beside it")),
        (None, Some(key)) => Err(key.refuse("expected the file of its certificate beside it")),
    }
}

impl RawNode {
    fn check(self, origin: &Origin, args: &NodeArgs) -> Result<Vec<RemoteNode>, ConfigError> {
        let urls = origin.pick_all("node.urls", "--node (CHAPPE_NODES)", &args.nodes, self.urls);
        if urls.is_empty() {
            return Err(ConfigError::new(
                "no media nodes: give --node URL, CHAPPE_NODES or `node.urls` in the file",
            ));
        }
        let secret = args.node_secret.as_deref().map(Secret::from).or(self.secret);
        let ca = args.node_ca.clone().or(self.ca);
        let flag = "--node-cert (CHAPPE_NODE_CERT)";
        let cert = origin.pick("node.cert", flag, args.node_cert.clone(), self.cert);
        let flag = "--node-key (CHAPPE_NODE_KEY)";
        let key = origin.pick("node.key", flag, args.node_key.clone(), self.key);
        let identity = together(cert, key)?;
        if secret.is_none() && identity.is_none() {
            return Err(ConfigError::new(
                "no secret for the node API: give --node-secret, CHAPPE_NODE_SECRET or `node.secret`, \
                 the same as at chappe-sfu, or certificates (--node-ca, --node-cert, --node-key)",
            ));
        }
        let tls = ca.map(|ca| NodeTls { ca, identity });
        urls.into_iter()
            .map(|url| {
                checked_node_url(&url, tls.is_some())?;
                Ok(RemoteNode { url: url.value, secret: secret.clone(), tls: tls.clone() })
            })
            .collect()
    }
}

fn checked_node_url(url: &Placed<String>, with_ca: bool) -> Result<(), ConfigError> {
    let text = &url.value;
    let parsed = text.parse::<http::Uri>().ok();
    let host = parsed.as_ref().and_then(http::Uri::host).filter(|host| !host.is_empty());
    let https = match (parsed.as_ref().and_then(http::Uri::scheme_str), host) {
        (Some("https"), Some(_)) => true,
        (Some("http"), Some(_)) => false,
        _ => {
            return Err(
                url.refuse(format!("expected http://HOST:PORT or https://HOST:PORT, got {text:?}"))
            );
        }
    };
    if https != with_ca {
        return Err(url.refuse(format!(
            "{text:?}: expected https with --node-ca (CHAPPE_NODE_CA, node.ca), http without"
        )));
    }
    Ok(())
}

impl RawRtc {
    fn check(self, origin: &Origin, args: &RunArgs, dev: bool) -> Result<Rtc, ConfigError> {
        let flag = "--rtc-shards (CHAPPE_RTC_SHARDS)";
        let shards = origin.pick("rtc.shards", flag, args.rtc_shards, self.shards);
        let wrong = |shards: &&Placed<u16>| !(1..=MAX_SHARDS).contains(&usize::from(shards.value));
        if let Some(shards) = shards.as_ref().filter(wrong) {
            return Err(shards.refuse(format!("expected 1 to {MAX_SHARDS}, got {}", shards.value)));
        }
        let shards = shards.map(|shards| shards.value);
        let flag = "--rtc-udp-port (CHAPPE_RTC_UDP_PORT)";
        let port = origin.pick("rtc.udp_port", flag, args.rtc_udp_port, self.udp_port);
        let last = |first: u16| first.checked_add(shards.unwrap_or(1) - 1);
        if let Some(port) = port.as_ref().filter(|port| last(port.value).is_none()) {
            return Err(port.refuse(format!(
                "{} leaves no room for {} ports below 65536",
                port.value,
                shards.unwrap_or(1)
            )));
        }
        let flag = "--rtc-advertise-ip (CHAPPE_RTC_ADVERTISE_IP)";
        let advertised =
            origin.pick_all("rtc.advertise_ip", flag, &args.rtc_advertise_ips, self.advertise_ip);
        let flag = "--rtc-stun-server (CHAPPE_RTC_STUN_SERVER)";
        let stun =
            origin.pick("rtc.stun_server", flag, args.rtc_stun_server.clone(), self.stun_server);
        let or = |given: &[String], written: Vec<String>| {
            if given.is_empty() { written } else { given.to_vec() }
        };
        Ok(Rtc {
            udp_port: port.map_or(7882, |port| port.value),
            tcp_port: Some(args.rtc_tcp_port.or(self.tcp_port).unwrap_or(7881))
                .filter(|port| *port != 0),
            shards,
            placement: args.rtc_placement.or(self.placement).unwrap_or_default(),
            advertise_ips: checked_addresses(advertised)?,
            stun_server: checked_stun_server(stun)?,
            include_interfaces: or(&args.rtc_include_interfaces, self.include_interfaces),
            exclude_interfaces: or(&args.rtc_exclude_interfaces, self.exclude_interfaces),
            include_loopback: args.rtc_include_loopback.or(self.include_loopback).unwrap_or(dev),
            dtls: args.rtc_dtls.or(self.dtls).unwrap_or_default(),
        })
    }
}

impl RawRoom {
    fn check(self, args: &RunArgs) -> RoomDefaults {
        let seconds = |given: Option<u64>, written: Option<u64>, default| {
            Duration::from_secs(given.or(written).unwrap_or(default))
        };
        RoomDefaults {
            auto_create: args.room_auto_create.or(self.auto_create).unwrap_or(true),
            empty_timeout: seconds(args.room_empty_timeout, self.empty_timeout_seconds, 300),
            departure_timeout: seconds(
                args.room_departure_timeout,
                self.departure_timeout_seconds,
                20,
            ),
            max_participants: args.room_max_participants.or(self.max_participants).unwrap_or(0),
            suppress_silence: args.room_suppress_silence.or(self.suppress_silence).unwrap_or(false),
        }
    }
}

fn admin(address: Option<Placed<String>>) -> Result<Option<SocketAddr>, ConfigError> {
    match address {
        Some(address) if address.value == "off" => Ok(None),
        Some(address) => address.value.parse().map(Some).map_err(|_| {
            address.refuse(format!("expected IP:PORT or \"off\", got {:?}", address.value))
        }),
        None => Ok(Some(SocketAddr::from(([127, 0, 0, 1], 7889)))),
    }
}
