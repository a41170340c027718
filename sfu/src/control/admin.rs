//! Health and metrics over plain HTTP, on a listener of their own.

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};

use super::NodeHandle;

/// What OpenMetrics scrapers expect.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/healthz` (the process answers), `/readyz` (all media threads run) and `/metrics`.
pub fn admin_routes(node: NodeHandle) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node)
}

async fn ready(State(node): State<NodeHandle>) -> impl IntoResponse {
    if node.ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "a media thread has ended\n")
    }
}

async fn metrics(State(node): State<NodeHandle>) -> impl IntoResponse {
    ([("content-type", OPEN_METRICS)], node.metrics())
}
