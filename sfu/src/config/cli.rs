//! Flags and environment variables of `chappe-sfu`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use super::{DtlsVersions, Placement};

const MEDIA: &str = "Media";
const ADDRESSES: &str = "Addresses told to clients";
const API: &str = "Node API";
const OPERATION: &str = "Operation";

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
    #[arg(long, value_name = "N", env = "CHAPPE_RTC_SHARDS", help_heading = MEDIA)]
    pub shards: Option<u16>,
    /// Each media thread stays on a core of its own [default: true].
    #[arg(long, value_name = "BOOL", env = "CHAPPE_RTC_PIN_THREADS", help_heading = MEDIA,
        num_args = 0..=1, default_missing_value = "true")]
    pub pin_threads: Option<bool>,
    /// UDP port of the first shard; the others count up [default: 7882].
    #[arg(long, value_name = "PORT", env = "CHAPPE_RTC_UDP_PORT", help_heading = MEDIA)]
    pub udp_port: Option<u16>,
    /// ICE-TCP port; 0 turns it off [default: 7881].
    #[arg(long, value_name = "PORT", env = "CHAPPE_RTC_TCP_PORT", help_heading = MEDIA)]
    pub tcp_port: Option<u16>,
    /// Use IPv6 where the machine has it [default: true].
    #[arg(long, value_name = "BOOL", env = "CHAPPE_RTC_IPV6", help_heading = MEDIA,
        num_args = 0..=1, default_missing_value = "true")]
    pub ipv6: Option<bool>,
    /// Socket buffer of each shard for what comes in [default: 4194304].
    #[arg(long, value_name = "BYTES", env = "CHAPPE_RTC_RECEIVE_BUFFER", help_heading = MEDIA)]
    pub receive_buffer: Option<usize>,
    /// Socket buffer of each shard for what goes out [default: 16777216].
    #[arg(long, value_name = "BYTES", env = "CHAPPE_RTC_SEND_BUFFER", help_heading = MEDIA)]
    pub send_buffer: Option<usize>,
    /// DTLS versions [default: 1.2].
    #[arg(long, value_name = "VERSIONS", env = "CHAPPE_RTC_DTLS", help_heading = MEDIA)]
    pub dtls: Option<DtlsVersions>,
    /// Which shard a new peer goes to [default: home].
    #[arg(long, value_name = "RULE", env = "CHAPPE_RTC_PLACEMENT", help_heading = MEDIA)]
    pub placement: Option<Placement>,
    /// Peers that one shard takes at most [default: 10000].
    #[arg(long, value_name = "N", env = "CHAPPE_RTC_MAX_PEERS_PER_SHARD", help_heading = MEDIA)]
    pub max_peers_per_shard: Option<usize>,

    /// Address told to clients instead of the interfaces' own (1:1 NAT, containers). May be repeated.
    #[arg(
        long = "advertise-ip",
        value_name = "IP",
        env = "CHAPPE_RTC_ADVERTISE_IP",
        value_delimiter = ',',
        help_heading = ADDRESSES
    )]
    pub advertise_ips: Vec<IpAddr>,
    /// STUN server that tells the public address.
    #[arg(long, value_name = "HOST:PORT", env = "CHAPPE_RTC_STUN_SERVER", help_heading = ADDRESSES)]
    pub stun_server: Option<String>,
    /// Only addresses of this interface. May be repeated.
    #[arg(
        long = "include-interface",
        value_name = "NAME",
        env = "CHAPPE_RTC_INCLUDE_INTERFACES",
        value_delimiter = ',',
        help_heading = ADDRESSES
    )]
    pub include_interfaces: Vec<String>,
    /// No address of this interface. May be repeated.
    #[arg(
        long = "exclude-interface",
        value_name = "NAME",
        env = "CHAPPE_RTC_EXCLUDE_INTERFACES",
        value_delimiter = ',',
        help_heading = ADDRESSES
    )]
    pub exclude_interfaces: Vec<String>,
    /// Tell clients loopback addresses too (development) [default: false].
    #[arg(long, value_name = "BOOL", env = "CHAPPE_RTC_INCLUDE_LOOPBACK", help_heading = ADDRESSES,
        num_args = 0..=1, default_missing_value = "true")]
    pub include_loopback: Option<bool>,

    /// Where the node API listens [default: 0.0.0.0:7883].
    #[arg(long, value_name = "IP:PORT", env = "CHAPPE_NODE_LISTEN", help_heading = API)]
    pub listen: Option<SocketAddr>,
    /// Shared secret that control planes bring.
    #[arg(
        long,
        value_name = "TEXT",
        env = "CHAPPE_NODE_SECRET",
        hide_env_values = true,
        help_heading = API
    )]
    pub secret: Option<String>,
    /// TLS certificate chain of the node API (PEM).
    #[arg(long, value_name = "FILE", env = "CHAPPE_NODE_TLS_CERT", help_heading = API)]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", env = "CHAPPE_NODE_TLS_KEY", help_heading = API)]
    pub tls_key: Option<PathBuf>,
    /// Authority that signs the control planes' certificates: mutual TLS (PEM).
    #[arg(long, value_name = "FILE", env = "CHAPPE_NODE_TLS_CLIENT_CA", help_heading = API)]
    pub tls_client_ca: Option<PathBuf>,

    /// Health and metrics, or "off" [default: 127.0.0.1:7884].
    #[arg(long, value_name = "IP:PORT", env = "CHAPPE_ADMIN_LISTEN", help_heading = OPERATION)]
    pub admin: Option<String>,
    /// Log filter, for example info or chappe_sfu=debug [default: info].
    #[arg(long, value_name = "FILTER", env = "CHAPPE_LOG", help_heading = OPERATION)]
    pub log: Option<String>,
    /// Logs as one JSON object a line.
    #[arg(long, env = "CHAPPE_LOG_JSON", help_heading = OPERATION)]
    pub log_json: bool,
}
