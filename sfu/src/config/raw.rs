//! First stage: what stands in the file, and its way to a checked [`Config`].

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde_saphyr::Spanned;
use tracing_subscriber::EnvFilter;

use super::{
    ApiConfig, Args, CandidateConfig, Config, DtlsVersions, MAX_SHARDS, NodeConfig, Placement,
    Secret, TlsFiles,
    place::{ConfigError, Origin, Placed, is_host_and_port},
};

/// The YAML file.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    rtc: RawRtc,
    node: RawNode,
    admin: RawAdmin,
    log: RawLog,
    #[serde(skip)]
    origin: Origin,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRtc {
    shards: Option<Spanned<u16>>,
    pin_threads: Option<bool>,
    udp_port: Option<Spanned<u16>>,
    tcp_port: Option<u16>,
    ipv6: Option<bool>,
    receive_buffer_bytes: Option<usize>,
    send_buffer_bytes: Option<usize>,
    advertise_ip: Vec<Spanned<IpAddr>>,
    stun_server: Option<Spanned<String>>,
    include_interfaces: Vec<String>,
    exclude_interfaces: Vec<String>,
    include_loopback: Option<bool>,
    dtls: Option<DtlsVersions>,
    placement: Option<Placement>,
    max_peers_per_shard: Option<Spanned<usize>>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawNode {
    listen: Option<SocketAddr>,
    secret: Option<Spanned<Secret>>,
    tls_cert: Option<Spanned<PathBuf>>,
    tls_key: Option<Spanned<PathBuf>>,
    tls_client_ca: Option<Spanned<PathBuf>>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAdmin {
    listen: Option<Spanned<String>>,
    disabled: bool,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    filter: Option<Spanned<String>>,
    json: bool,
}

impl Args {
    /// Reads the file, if one is named, and checks everything.
    pub fn load(self) -> Result<Config, ConfigError> {
        let raw = self.config.as_deref().map(RawConfig::read).transpose()?.unwrap_or_default();
        raw.check(self)
    }
}

/// Shorter secrets are guessed.
const MIN_SECRET_CHARACTERS: usize = 16;

impl RawConfig {
    /// Reads a YAML file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigError::new(format!("{name}: {error}")))?;
        Self::parse(&text, &name)
    }

    /// Reads YAML text. Errors name the file, line, column and what was expected.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let raw: Option<Self> = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError::new(format!("{name}: {error}")))?;
        Ok(Self { origin: Origin::file(name), ..raw.unwrap_or_default() })
    }

    /// Second stage; `args` win. Errors name the file and line, or the flag, and what was expected.
    pub fn check(self, args: Args) -> Result<Config, ConfigError> {
        let origin = self.origin;
        let node = self.rtc.check(&origin, &args)?;
        let api = self.node.check(&origin, &args)?;
        let filter = origin.pick("log.filter", "--log (CHAPPE_LOG)", args.log, self.log.filter);
        if let Some(filter) = &filter
            && let Err(error) = EnvFilter::try_new(&filter.value)
        {
            return Err(filter.refuse(format!("{:?}: {error}", filter.value)));
        }
        Ok(Config {
            node,
            api,
            admin: self.admin.check(&origin, args.admin)?,
            log: filter.map_or_else(|| "info".to_owned(), |filter| filter.value),
            log_json: args.log_json || self.log.json,
        })
    }
}

impl RawAdmin {
    fn check(
        self,
        origin: &Origin,
        given: Option<String>,
    ) -> Result<Option<SocketAddr>, ConfigError> {
        let flag = "--admin (CHAPPE_ADMIN_LISTEN)";
        match origin.pick("admin.listen", flag, given, self.listen) {
            Some(listen) if listen.value == "off" => Ok(None),
            Some(listen) => listen.value.parse().map(Some).map_err(|_| {
                listen.refuse(format!("expected IP:PORT or \"off\", got {:?}", listen.value))
            }),
            None if self.disabled => Ok(None),
            None => Ok(Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7_884))),
        }
    }
}

impl RawRtc {
    fn check(self, origin: &Origin, args: &Args) -> Result<NodeConfig, ConfigError> {
        let default = NodeConfig::default();
        let (shards, udp_port) = threads(origin, args, self.shards, self.udp_port, &default)?;
        let tcp_port = match args.tcp_port.or(self.tcp_port) {
            Some(0) => None,
            Some(port) => Some(port),
            None => default.tcp_port,
        };
        let flag = "--max-peers-per-shard (CHAPPE_RTC_MAX_PEERS_PER_SHARD)";
        let most = origin.pick(
            "rtc.max_peers_per_shard",
            flag,
            args.max_peers_per_shard,
            self.max_peers_per_shard,
        );
        if let Some(most) = most.as_ref().filter(|most| most.value == 0) {
            return Err(most.refuse("expected 1 or more, got 0"));
        }
        let flag = "--advertise-ip (CHAPPE_RTC_ADVERTISE_IP)";
        let advertised =
            origin.pick_all("rtc.advertise_ip", flag, &args.advertise_ips, self.advertise_ip);
        let flag = "--stun-server (CHAPPE_RTC_STUN_SERVER)";
        let stun_server =
            origin.pick("rtc.stun_server", flag, args.stun_server.clone(), self.stun_server);
        let or = |given: &[String], written: Vec<String>| {
            if given.is_empty() { written } else { given.to_vec() }
        };
        Ok(NodeConfig {
            shards,
            pin_threads: args.pin_threads.or(self.pin_threads).unwrap_or(default.pin_threads),
            udp_port,
            tcp_port,
            ipv6: args.ipv6.or(self.ipv6).unwrap_or(default.ipv6),
            receive_buffer: args
                .receive_buffer
                .or(self.receive_buffer_bytes)
                .unwrap_or(default.receive_buffer),
            send_buffer: args.send_buffer.or(self.send_buffer_bytes).unwrap_or(default.send_buffer),
            candidates: CandidateConfig {
                advertise_ips: checked_addresses(advertised)?,
                stun_server: checked_stun_server(stun_server)?,
                include_interfaces: or(&args.include_interfaces, self.include_interfaces),
                exclude_interfaces: or(&args.exclude_interfaces, self.exclude_interfaces),
                include_loopback: args
                    .include_loopback
                    .or(self.include_loopback)
                    .unwrap_or_default(),
            },
            dtls: args.dtls.or(self.dtls).unwrap_or_default(),
            placement: args.placement.or(self.placement).unwrap_or_default(),
            max_peers_per_shard: most.map_or(default.max_peers_per_shard, |most| most.value),
            ..default
        })
    }
}

fn threads(
    origin: &Origin,
    args: &Args,
    shards: Option<Spanned<u16>>,
    udp_port: Option<Spanned<u16>>,
    default: &NodeConfig,
) -> Result<(u16, u16), ConfigError> {
    let shards = origin.pick("rtc.shards", "--shards (CHAPPE_RTC_SHARDS)", args.shards, shards);
    let wrong = |shards: &&Placed<u16>| !(1..=MAX_SHARDS).contains(&usize::from(shards.value));
    if let Some(shards) = shards.as_ref().filter(wrong) {
        return Err(shards.refuse(format!("expected 1 to {MAX_SHARDS}, got {}", shards.value)));
    }
    let flag = "--udp-port (CHAPPE_RTC_UDP_PORT)";
    let port = origin.pick("rtc.udp_port", flag, args.udp_port, udp_port);
    let shards = shards.map_or(default.shards, |shards| shards.value);
    let first = port.as_ref().map_or(default.udp_port, |port| port.value);
    if let Some(port) = &port
        && first != 0
        && first.checked_add(shards - 1).is_none()
    {
        return Err(port.refuse(format!("{first} leaves no room for {shards} ports below 65536")));
    }
    Ok((shards, first))
}

/// Addresses that one machine can have.
pub fn checked_addresses(placed: Vec<Placed<IpAddr>>) -> Result<Vec<IpAddr>, ConfigError> {
    let of_no_machine = |ip: IpAddr| ip.is_unspecified() || ip.is_multicast();
    if let Some(ip) = placed.iter().find(|ip| of_no_machine(ip.value)) {
        return Err(
            ip.refuse(format!("expected an address that clients can reach, got {}", ip.value))
        );
    }
    Ok(placed.into_iter().map(|ip| ip.value).collect())
}

/// `host:port`.
pub fn checked_stun_server(server: Option<Placed<String>>) -> Result<Option<String>, ConfigError> {
    match server {
        Some(server) if !is_host_and_port(&server.value) => {
            Err(server.refuse(format!("expected HOST:PORT, got {:?}", server.value)))
        }
        server => Ok(server.map(|server| server.value)),
    }
}

impl RawNode {
    fn check(self, origin: &Origin, args: &Args) -> Result<ApiConfig, ConfigError> {
        let given = args.secret.as_deref().map(Secret::from);
        let secret =
            origin.pick("node.secret", "--secret (CHAPPE_NODE_SECRET)", given, self.secret);
        let short = |secret: &&Placed<Secret>| secret.value.reveal().len() < MIN_SECRET_CHARACTERS;
        if let Some(secret) = secret.as_ref().filter(short) {
            return Err(secret.refuse(format!(
                "expected {MIN_SECRET_CHARACTERS} characters or more, got {}",
                secret.value.reveal().len()
            )));
        }
        let file = |key, flag, given: &Option<PathBuf>, written| {
            origin.pick(key, flag, given.clone(), written)
        };
        let flag = "--tls-cert (CHAPPE_NODE_TLS_CERT)";
        let certificate = file("node.tls_cert", flag, &args.tls_cert, self.tls_cert);
        let flag = "--tls-key (CHAPPE_NODE_TLS_KEY)";
        let key = file("node.tls_key", flag, &args.tls_key, self.tls_key);
        let flag = "--tls-client-ca (CHAPPE_NODE_TLS_CLIENT_CA)";
        let client_ca = file("node.tls_client_ca", flag, &args.tls_client_ca, self.tls_client_ca);
        let tls = match (certificate, key, client_ca) {
            (Some(certificate), Some(key), client_ca) => Some(TlsFiles {
                certificate: certificate.value,
                key: key.value,
                client_ca: client_ca.map(|ca| ca.value),
            }),
            (None, None, None) => None,
            (Some(alone), None, _) | (None, Some(alone), _) | (None, None, Some(alone)) => {
                return Err(alone.refuse(
                    "expected node.tls_cert and node.tls_key together, node.tls_client_ca only beside them",
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
        let secret = secret.map(|secret| secret.value);
        Ok(ApiConfig { listen: listen.unwrap_or(default), secret, tls })
    }
}
