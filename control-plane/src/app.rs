//! The parts wired together: node, rooms, signalling, APIs, page, listeners; and their orderly end.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::Router;
use chappe_sfu::{
    config::{CandidateConfig, NodeConfig},
    control::{Node as EmbeddedNode, NodeHandle},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tracing::{info, warn};

use crate::{
    api::{self, ApiState, page::Tokens},
    auth::{Grants, Keys},
    config::{Config, RemoteNode, Rtc, Secret, Tls},
    node::{Node, Nodes},
    room::{RoomOptions, RoomPolicy, RoomRegistry, Shutdown},
    server,
    signal::{self, SessionConfig, SignalConfig, SignalState},
    store::MemoryStore,
    telemetry::{self, Observed},
};

/// Life of a token that the page's server hands out in development.
const DEV_TOKEN_LIFE: Duration = Duration::from_secs(6 * 3600);

/// A running server.
#[derive(Debug)]
pub struct App {
    rooms: RoomRegistry,
    node: Option<NodeHandle>,
    sessions: SignalState,
    drain_timeout: Duration,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Where the page is, for people to open.
    pub page: String,
    /// Where other devices find it (`--dev-tls`).
    pub page_on_network: Option<String>,
    keys: Arc<Keys>,
}

impl App {
    /// Binds, starts and serves. Errors are sentences for the operator.
    pub async fn start(config: &Config) -> Result<Self, String> {
        let keys = Arc::new(if config.keys.is_empty() {
            Keys::development()
        } else {
            let pairs =
                config.keys.iter().map(|(key, secret)| (key.clone(), secret.reveal().to_owned()));
            Keys::new(pairs).map_err(|error| error.to_string())?
        });
        let listener = bind(config.listen).await?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let addresses = own_addresses();
        let tls = match &config.tls {
            Tls::Off => None,
            Tls::SelfSigned => {
                let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
                let names = names.into_iter().chain(addresses.iter().map(ToString::to_string));
                Some(Arc::new(server::self_signed(names.collect())?))
            }
            Tls::Files { cert, key } => Some(Arc::new(server::from_files(cert, key)?)),
        };

        let (nodes, node) = start_nodes(config).await?;
        let (known, events) = Nodes::new();
        for one in nodes {
            known.add(one);
        }
        let links = known.clone();
        let rooms =
            RoomRegistry::start(known, events, Arc::new(MemoryStore::default()), policy(config));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();

        let sessions = SignalState::new(rooms.clone(), Arc::clone(&keys), signalling(config));
        let api_state = ApiState { rooms: rooms.clone(), keys: Arc::clone(&keys) };
        let app = Router::new()
            .merge(signal::routes(sessions.clone()))
            .merge(api::routes(api_state.clone()))
            .merge(api::own_stats_routes(api_state.clone()))
            .merge(api::grpc_routes(api_state))
            .merge(api::page::routes(tokens(config, &keys)));
        tasks.spawn(server::serve(listener, tls.clone(), app, stop.clone(), config.drain_timeout));
        if let Some(address) = config.admin {
            let admin = bind(address).await?;
            let observed = Observed {
                rooms: rooms.clone(),
                signal: sessions.clone(),
                nodes: links,
                node: node.clone(),
            };
            let routes = telemetry::admin_routes(observed);
            tasks.spawn(server::serve(admin, None, routes, stop.clone(), Duration::from_secs(1)));
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let page_on_network = addresses
            .iter()
            .find(|address| address.is_ipv4() && !address.is_loopback())
            .filter(|_| config.tls == Tls::SelfSigned)
            .map(|address| format!("{scheme}://{address}:{port}/"));
        let page = format!("{scheme}://localhost:{port}/");
        Ok(Self {
            rooms,
            node,
            sessions,
            drain_timeout: config.drain_timeout,
            stop,
            tasks,
            page,
            page_on_network,
            keys,
        })
    }

    /// API keys in use, for the development banner.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Clients are told to come back, sockets drain, media says goodbye where its node is part of this process.
    pub async fn stop(self) {
        // Remote nodes go on with the media: the next control plane takes their rooms over.
        let how = if self.node.is_some() { Shutdown::Reconnect } else { Shutdown::Resume };
        info!(?how, "stopping: clients are told to come back");
        self.rooms.shutdown_with(how).await;
        if tokio::time::timeout(self.drain_timeout, self.sessions.drained()).await.is_err() {
            warn!("some clients took no notice of the stop");
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(node) = self.node {
            node.stop().await;
        }
        info!("stopped");
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let mut last = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    // A machine without IPv6 has no [::].
    if address.ip().is_unspecified() && address.is_ipv6() {
        match TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], address.port()))).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(format!(
        "cannot listen on {address}: {last} (choose another with --bind, --port or --admin)"
    ))
}

async fn start_nodes(config: &Config) -> Result<(Vec<Node>, Option<NodeHandle>), String> {
    if config.nodes.is_empty() {
        let node = EmbeddedNode::start(node_config(&config.rtc))
            .await
            .map_err(|error| format!("media node: {error}"))?;
        return Ok((vec![Node::embedded("embedded", node.service())], Some(node)));
    }
    let in_clear = config.nodes.iter().filter(|node| node.secret_in_clear()).count();
    if in_clear > 0 {
        warn!(
            nodes = in_clear,
            "THE NODE API'S SECRET CROSSES THE NETWORK IN CLEAR TEXT: use https node URLs with --node-ca"
        );
    }
    Ok((config.nodes.iter().map(remote_node).collect::<Result<_, _>>()?, None))
}

fn remote_node(node: &RemoteNode) -> Result<Node, String> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let mut tls = None;
    if let Some(files) = &node.tls {
        let mut config =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&files.ca)?));
        if let Some((cert, key)) = &files.identity {
            config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        tls = Some(config);
    }
    Node::remote(&node.url, node.secret.as_ref().map(Secret::reveal), tls)
}

fn node_config(rtc: &Rtc) -> NodeConfig {
    let default = NodeConfig::default();
    NodeConfig {
        shards: rtc.shards.unwrap_or(default.shards),
        udp_port: rtc.udp_port,
        tcp_port: rtc.tcp_port,
        candidates: CandidateConfig {
            advertise_ips: rtc.advertise_ips.clone(),
            stun_server: rtc.stun_server.clone(),
            include_interfaces: rtc.include_interfaces.clone(),
            exclude_interfaces: rtc.exclude_interfaces.clone(),
            include_loopback: rtc.include_loopback,
        },
        dtls: rtc.dtls,
        placement: rtc.placement,
        ..default
    }
}

fn policy(config: &Config) -> RoomPolicy {
    RoomPolicy {
        auto_create: config.room.auto_create,
        defaults: RoomOptions {
            max_participants: config.room.max_participants,
            empty_timeout: config.room.empty_timeout,
            departure_timeout: config.room.departure_timeout,
            ..RoomOptions::default()
        },
        ..RoomPolicy::default()
    }
}

fn signalling(config: &Config) -> SignalConfig {
    let session = SessionConfig {
        suppress_silence: config.room.suppress_silence,
        ..SessionConfig::default()
    };
    SignalConfig { session, ..SignalConfig::default() }
}

fn tokens(config: &Config, keys: &Arc<Keys>) -> Tokens {
    if !config.dev {
        return Tokens::Off;
    }
    let keys = Arc::clone(keys);
    let make = Arc::new(move |room: &str, identity: &str, name: &str| {
        let mut grants = Grants::to_join(room, identity);
        name.clone_into(&mut grants.name);
        keys.mint(&grants, DEV_TOKEN_LIFE, SystemTime::now()).unwrap_or_default()
    });
    if config.tls == Tls::SelfSigned { Tokens::Anyone(make) } else { Tokens::Loopback(make) }
}

/// Addresses of this machine's interfaces.
fn own_addresses() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.into_iter().map(|interface| interface.ip()).collect(),
        Err(error) => {
            warn!(%error, "cannot list the network interfaces");
            Vec::new()
        }
    }
}
