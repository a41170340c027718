//! Log lines and the admin listener: health, readiness, metrics.

use std::io::IsTerminal;

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use chappe_sfu::control::NodeHandle;
use tracing_subscriber::EnvFilter;

use crate::room::RoomRegistry;

/// Starts logging to standard error. Fails on a malformed filter.
pub fn start_logging(filter: &str, json: bool) -> Result<(), String> {
    let parsed =
        EnvFilter::try_new(filter).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json {
        log.json().init()
    } else {
        log.init()
    }
    Ok(())
}

/// What the admin listener tells of.
#[derive(Clone)]
pub struct Observed {
    /// Ready when a node is attached.
    pub rooms: RoomRegistry,
    /// The embedded node, where there is one.
    pub node: Option<NodeHandle>,
}

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed")
            .field("embedded_node", &self.node.is_some())
            .finish_non_exhaustive()
    }
}

/// `/healthz` (the process answers), `/readyz` (rooms can be joined) and `/metrics`.
pub fn admin_routes(observed: Observed) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(observed)
}

async fn ready(State(observed): State<Observed>) -> impl IntoResponse {
    let node = observed.node.as_ref().is_none_or(NodeHandle::ready);
    if node && observed.rooms.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no media node is attached\n")
    }
}

async fn metrics(State(observed): State<Observed>) -> impl IntoResponse {
    let text = match &observed.node {
        Some(node) => node.metrics(),
        // A control plane beside media nodes: their own listeners tell of media.
        None => "# EOF\n".to_owned(),
    };
    ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
