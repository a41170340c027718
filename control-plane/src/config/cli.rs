//! Flags and environment variables.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use super::{DtlsVersions, Placement};

/// A video room server: join rooms from browsers and apps with the LiveKit client SDKs.
///
/// Without arguments it runs everything in one process, with development keys made at each start.
#[derive(Parser, Debug)]
#[command(name = "chappe", version, args_conflicts_with_subcommands = false)]
#[command(after_help = "Examples:
  chappe                                     try it: prints a link to a meeting page
  chappe --dev-tls                           the same over https, for phones on your network
  chappe --config chappe.yaml                with your keys, ports and addresses
  chappe token --room standup --identity ada --config chappe.yaml
  chappe control --node http://media-1:7883  control plane beside media nodes (chappe-sfu)")]
pub struct Cli {
    /// What to do; without one, everything runs in this process.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub run: RunArgs,
}

/// Subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the control plane beside media nodes (chappe-sfu) instead of an embedded one.
    Control(NodeArgs),
    /// Print an access token for a room.
    Token(TokenArgs),
    /// Check the configuration and print nothing when it is right.
    CheckConfig,
}

/// Where the media nodes are.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Media nodes")]
pub struct NodeArgs {
    /// Node API of a media node, for example http://media-1:7883. May be repeated.
    #[arg(long = "node", value_name = "URL", env = "CHAPPE_NODES", value_delimiter = ',')]
    pub nodes: Vec<String>,
    /// Shared secret of the node API.
    #[arg(long, value_name = "TEXT", env = "CHAPPE_NODE_SECRET", hide_env_values = true)]
    pub node_secret: Option<String>,
    /// PEM file of who signs the nodes' certificates, for https URLs.
    #[arg(long, value_name = "FILE", env = "CHAPPE_NODE_CA")]
    pub node_ca: Option<PathBuf>,
    /// PEM file of the certificate shown to the nodes (mutual TLS).
    #[arg(long, value_name = "FILE", env = "CHAPPE_NODE_CERT")]
    pub node_cert: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", env = "CHAPPE_NODE_KEY")]
    pub node_key: Option<PathBuf>,
}

/// What a token is made of.
#[derive(Args, Debug, Clone)]
pub struct TokenArgs {
    /// Room the token opens.
    #[arg(long)]
    pub room: String,
    /// Identity of the participant, unique in the room.
    #[arg(long)]
    pub identity: String,
    /// Name shown to the others; the identity when absent.
    #[arg(long)]
    pub name: Option<String>,
    /// Life of the token in seconds; negative makes an expired one, for tests of error pages.
    #[arg(long, default_value_t = 6 * 3600, allow_negative_numbers = true)]
    pub valid_for: i64,
    /// Sign for managing rooms (roomCreate, roomList, roomAdmin) as well.
    #[arg(long)]
    pub room_admin: bool,
    /// Do not allow publishing.
    #[arg(long)]
    pub watch_only: bool,
}

const SERVER: &str = "Server";
const MEDIA: &str = "Media (of the embedded node)";
const ROOMS: &str = "Rooms";
const OPERATION: &str = "Operation";

/// Flags of a running server. Each wins over its variable, which wins over the file.
#[derive(Args, Debug, Clone, Default)]
pub struct RunArgs {
    /// YAML file with the configuration.
    #[arg(long, short, global = true, value_name = "FILE", env = "CHAPPE_CONFIG")]
    pub config: Option<PathBuf>,

    /// Development mode: keys made at start, and the page hands out tokens. On when no keys are given.
    #[arg(long, global = true, env = "CHAPPE_DEV", num_args = 0..=1, default_missing_value = "true",
        value_name = "BOOL", help_heading = SERVER)]
    pub dev: Option<bool>,
    /// Development mode over https with a self-signed certificate: cameras then work from other devices.
    #[arg(long, global = true, env = "CHAPPE_DEV_TLS", help_heading = SERVER)]
    pub dev_tls: bool,
    /// API key and secret as KEY:SECRET. May be repeated.
    #[arg(
        long = "key",
        global = true,
        value_name = "KEY:SECRET",
        env = "CHAPPE_KEYS",
        value_delimiter = ',',
        hide_env_values = true,
        help_heading = SERVER
    )]
    pub keys: Vec<String>,
    /// Address to listen on [default: all].
    #[arg(long, global = true, value_name = "IP", env = "CHAPPE_BIND", help_heading = SERVER)]
    pub bind: Option<IpAddr>,
    /// Port of HTTP, WebSocket and gRPC [default: 7880].
    #[arg(long, global = true, env = "CHAPPE_PORT", help_heading = SERVER)]
    pub port: Option<u16>,
    /// Certificate chain: https on the port (PEM).
    #[arg(long, global = true, value_name = "FILE", env = "CHAPPE_TLS_CERT", help_heading = SERVER)]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, global = true, value_name = "FILE", env = "CHAPPE_TLS_KEY", help_heading = SERVER)]
    pub tls_key: Option<PathBuf>,

    /// First UDP port of media, one per shard [default: 7882].
    #[arg(long, global = true, value_name = "PORT", env = "CHAPPE_RTC_UDP_PORT", help_heading = MEDIA)]
    pub rtc_udp_port: Option<u16>,
    /// ICE-TCP port, 0 turns it off [default: 7881].
    #[arg(long, global = true, value_name = "PORT", env = "CHAPPE_RTC_TCP_PORT", help_heading = MEDIA)]
    pub rtc_tcp_port: Option<u16>,
    /// Media threads [default: one per core].
    #[arg(long, global = true, value_name = "N", env = "CHAPPE_RTC_SHARDS", help_heading = MEDIA)]
    pub rtc_shards: Option<u16>,
    /// Which shard a new peer goes to [default: home].
    #[arg(long, global = true, value_name = "RULE", env = "CHAPPE_RTC_PLACEMENT", help_heading = MEDIA)]
    pub rtc_placement: Option<Placement>,
    /// DTLS versions [default: 1.2].
    #[arg(long, global = true, value_name = "VERSIONS", env = "CHAPPE_RTC_DTLS", help_heading = MEDIA)]
    pub rtc_dtls: Option<DtlsVersions>,
    /// Address told to clients instead of the interfaces' own. May be repeated (v4 and v6).
    #[arg(
        long = "rtc-advertise-ip",
        global = true,
        value_name = "IP",
        env = "CHAPPE_RTC_ADVERTISE_IP",
        value_delimiter = ',',
        help_heading = MEDIA
    )]
    pub rtc_advertise_ips: Vec<IpAddr>,
    /// STUN server that tells the public address.
    #[arg(long, global = true, value_name = "HOST:PORT", env = "CHAPPE_RTC_STUN_SERVER",
        help_heading = MEDIA)]
    pub rtc_stun_server: Option<String>,
    /// Tell clients only addresses of this interface. May be repeated.
    #[arg(
        long = "rtc-include-interface",
        global = true,
        value_name = "NAME",
        env = "CHAPPE_RTC_INCLUDE_INTERFACES",
        value_delimiter = ',',
        help_heading = MEDIA
    )]
    pub rtc_include_interfaces: Vec<String>,
    /// Tell clients no address of this interface. May be repeated.
    #[arg(
        long = "rtc-exclude-interface",
        global = true,
        value_name = "NAME",
        env = "CHAPPE_RTC_EXCLUDE_INTERFACES",
        value_delimiter = ',',
        help_heading = MEDIA
    )]
    pub rtc_exclude_interfaces: Vec<String>,
    /// Tell clients loopback addresses too [default: in development].
    #[arg(long, global = true, value_name = "BOOL", env = "CHAPPE_RTC_INCLUDE_LOOPBACK",
        num_args = 0..=1, default_missing_value = "true", help_heading = MEDIA)]
    pub rtc_include_loopback: Option<bool>,

    /// Joining makes the room [default: true].
    #[arg(long, global = true, value_name = "BOOL", env = "CHAPPE_ROOM_AUTO_CREATE",
        num_args = 0..=1, default_missing_value = "true", help_heading = ROOMS)]
    pub room_auto_create: Option<bool>,
    /// A room that nobody joins ends after this long [default: 300].
    #[arg(long, global = true, value_name = "SECONDS", env = "CHAPPE_ROOM_EMPTY_TIMEOUT",
        help_heading = ROOMS)]
    pub room_empty_timeout: Option<u64>,
    /// A room whose last participant left ends after this long [default: 20].
    #[arg(long, global = true, value_name = "SECONDS", env = "CHAPPE_ROOM_DEPARTURE_TIMEOUT",
        help_heading = ROOMS)]
    pub room_departure_timeout: Option<u64>,
    /// Participants of a room at most, 0 is unlimited [default: 0].
    #[arg(long, global = true, value_name = "N", env = "CHAPPE_ROOM_MAX_PARTICIPANTS",
        help_heading = ROOMS)]
    pub room_max_participants: Option<u32>,
    /// Send nobody the audio that its publisher calls silent [default: false].
    #[arg(long, global = true, value_name = "BOOL", env = "CHAPPE_ROOM_SUPPRESS_SILENCE",
        num_args = 0..=1, default_missing_value = "true", help_heading = ROOMS)]
    pub room_suppress_silence: Option<bool>,

    /// How long a stopping server waits for its clients [default: 10].
    #[arg(long, global = true, value_name = "SECONDS", env = "CHAPPE_DRAIN_TIMEOUT",
        help_heading = OPERATION)]
    pub drain_timeout: Option<u64>,
    /// Address of /healthz, /readyz and /metrics, or "off" [default: 127.0.0.1:7889].
    #[arg(long, global = true, value_name = "IP:PORT", env = "CHAPPE_ADMIN", help_heading = OPERATION)]
    pub admin: Option<String>,
    /// Log filter, for example "info" or "chappe=debug" [default: info].
    #[arg(long, global = true, value_name = "FILTER", env = "CHAPPE_LOG", help_heading = OPERATION)]
    pub log: Option<String>,
    /// Log lines as JSON.
    #[arg(long, global = true, env = "CHAPPE_LOG_JSON", help_heading = OPERATION)]
    pub log_json: bool,
}
