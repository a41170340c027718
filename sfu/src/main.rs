//! `chappe-sfu`: a media node for control planes elsewhere.

use std::{error::Error, process::ExitCode, time::Duration};

use chappe_sfu::{
    config::{Args, Config},
    control::{Node, admin_routes},
    telemetry::log,
};
use clap::Parser;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// How long control planes have to hang up when the node stops.
const HANG_UP: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let config = match Args::parse().load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("chappe-sfu: {error}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = run(&config) {
        eprintln!("chappe-sfu: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(config: &Config) -> Result<(), Box<dyn Error>> {
    // Several crates could bring one: say which before the first handshake.
    let _ = rustls::crypto::ring::default_provider().install_default();
    log::start(&config.log, config.log_json)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(serve(config))
}

async fn serve(config: &Config) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let node = Node::start(config.node.clone()).await?;
    let stopping = CancellationToken::new();
    if let Some(address) = config.admin {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("admin port {}: {error}", address.port()))?;
        let serving = axum::serve(listener, admin_routes(node.clone()))
            .with_graceful_shutdown(stopping.clone().cancelled_owned());
        tokio::spawn(serving.into_future());
    }
    if config.api.secret_in_clear() {
        tracing::warn!(
            "THE NODE API'S SECRET CROSSES THE NETWORK IN CLEAR TEXT: give --tls-cert and --tls-key, or let --listen \
             be a loopback address"
        );
    }
    tracing::info!(
        shards = config.node.shards,
        udp_port = config.node.udp_port,
        api_port = config.api.listen.port(),
        "media node is up"
    );
    let api = node.serve(&config.api, stopping.clone().cancelled_owned());
    tokio::pin!(api);
    tokio::select! {
        ended = &mut api => return Ok(ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: peers are told goodbye");
    node.stop().await;
    stopping.cancel();
    // A control plane that does not hang up must not hold us.
    if let Ok(ended) = tokio::time::timeout(HANG_UP, api).await {
        ended?;
    }
    tracing::info!("stopped");
    Ok(())
}
