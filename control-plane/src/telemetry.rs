//! The admin listener: health, readiness, metrics.

use std::fmt;

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use chappe_sfu::control::NodeHandle;
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{node::Nodes, room::RoomRegistry, signal::SignalState};

/// What the admin listener tells of.
#[derive(Clone)]
pub struct Observed {
    /// Ready when a node is attached.
    pub rooms: RoomRegistry,
    /// Sessions and joins.
    pub signal: SignalState,
    /// Links to media nodes.
    pub nodes: Nodes,
    /// The embedded node, where there is one.
    pub node: Option<NodeHandle>,
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// Ends a text of OpenMetrics: once, after everything.
const END: &str = "# EOF\n";

async fn metrics(State(observed): State<Observed>) -> impl IntoResponse {
    // A control plane beside media nodes: their own listeners tell of media.
    let of_node = observed.node.as_ref().map(NodeHandle::metrics).unwrap_or_default();
    let text = of_node.strip_suffix(END).unwrap_or_default().to_owned() + &own_metrics(&observed);
    ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

/// Counters live with what they count; gauges are read now.
fn own_metrics(observed: &Observed) -> String {
    let mut registry = Registry::with_prefix("chappe");
    let gauge = |value: usize| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    let population = observed.rooms.population();
    registry.register("rooms", "Rooms now", gauge(population.rooms));
    registry.register("participants", "Participants in rooms now", gauge(population.participants));
    registry.register("published_tracks", "Published tracks now", gauge(population.tracks));
    let levels = Family::<_, Gauge>::default();
    for (level, count) in ["lost", "poor", "good", "excellent"].into_iter().zip(population.levels) {
        levels.get_or_create(&[("quality", level)]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let help = "Participants by the quality of their connections, as it was told last";
    registry.register("participants_by_quality", help, levels);
    observed.signal.register_metrics(&mut registry);

    // As many label values as the configuration names nodes.
    let (attached, peers) = (Family::<_, Gauge>::default(), Family::<_, Gauge>::default());
    let reconnects = Family::<_, Counter>::default();
    for node in observed.nodes.all() {
        let label = [("node", node.name().to_owned())];
        attached.get_or_create(&label).set(node.is_attached().into());
        peers.get_or_create(&label).set(i64::try_from(node.peers()).unwrap_or(i64::MAX));
        reconnects.get_or_create(&label).inc_by(node.reconnects());
    }
    let help = "Times that the link to a media node was lost and came back";
    registry.register("node_reconnects", help, reconnects);
    registry.register("node_attached", "1 while the events of a media node are watched", attached);
    registry.register("node_peers", "Peers of this control plane on a media node", peers);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut out, &registry);
    out
}
