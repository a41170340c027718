//! Statistics of a participant: what its node reports, in the words of `chappe.v1`.

use std::collections::HashMap;

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use chappe_proto::{node::v1 as node, v1 as api};
use http::{HeaderMap, StatusCode, header};
use livekit_protocol::ConnectionQuality;
use serde_json::json;

use super::ApiState;
use crate::room::{ParticipantReport, PeerRole, RequestError, TrackSid};

/// `GET /page/stats`: what the holder of a token that joins a room has of it, for the meeting page's panel.
pub fn own_stats_routes(state: ApiState) -> Router {
    Router::new().route("/page/stats", get(own_stats)).with_state(state)
}

async fn own_stats(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    let refusal = |status: StatusCode, why: String| (status, why).into_response();
    let grants = match state.grants(&headers) {
        Ok(grants) => grants,
        Err(error) => return refusal(StatusCode::UNAUTHORIZED, error.to_string()),
    };
    let room = match grants.join_room() {
        Ok(room) => state.rooms.get(room),
        Err(error) => return refusal(StatusCode::FORBIDDEN, error.to_string()),
    };
    let Some(room) = room else { return refusal(StatusCode::NOT_FOUND, "no room".to_owned()) };
    match room.report(&grants.identity).await {
        Ok(report) => {
            let stats = participant_stats(grants.identity, report);
            ([(header::CACHE_CONTROL, "no-store")], Json(json_of(&stats))).into_response()
        }
        Err(error @ RequestError::Node(_)) => {
            refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        Err(error) => refusal(StatusCode::NOT_FOUND, error.to_string()),
    }
}

/// What the page shows of it. It knows its own numbers better: these are the server's.
fn json_of(stats: &api::ParticipantStats) -> serde_json::Value {
    let subscribed = |one: &api::SubscribedTrackStats| {
        json!({
            "track": one.track_sid,
            "wanted": one.wanted,
            "paused": one.paused,
            "layer": one.current_layer,
            "temporal": one.current_temporal_layer,
            "target": one.target_layer,
            "resent": one.packets_resent,
            "switches": one.switches,
        })
    };
    let connections = stats.connections.iter().map(|path| {
        json!({
            "role": path.role().as_str_name().trim_start_matches("ROLE_").to_ascii_lowercase(),
            "estimate": path.estimate,
            "limit": path.estimate_limit().as_str_name().trim_start_matches("LIMIT_").to_ascii_lowercase(),
            "rtt_ms": path.round_trip_us.map(|us| f64::from(us) / 1_000.0),
            "loss_up": path.uplink_loss_permille.map(|share| f64::from(share) / 10.0),
            "loss_down": path.downlink_loss_permille.map(|share| f64::from(share) / 10.0),
            "jitter_up_ms": f64::from(path.uplink_jitter_us) / 1_000.0,
            "bitrate_down": path.downlink_bitrate,
            "subscribed": path.subscribed.iter().map(subscribed).collect::<Vec<_>>(),
        })
    });
    json!({
        "score": stats.score,
        "quality": stats.quality().as_str_name().trim_start_matches("QUALITY_").to_ascii_lowercase(),
        "connections": connections.collect::<Vec<_>>(),
    })
}

/// The answer for `identity`.
pub(super) fn participant_stats(
    identity: String,
    report: ParticipantReport,
) -> api::ParticipantStats {
    use api::participant_stats::Quality;
    let ParticipantReport { sid, quality, score, peers, publishers } = report;
    let quality = match quality {
        None => Quality::Unspecified,
        Some(ConnectionQuality::Lost) => Quality::Lost,
        Some(ConnectionQuality::Poor) => Quality::Poor,
        Some(ConnectionQuality::Good) => Quality::Good,
        Some(ConnectionQuality::Excellent) => Quality::Excellent,
    };
    let of_peer = |(role, report)| connection(role, report, &publishers);
    api::ParticipantStats {
        sid: sid.to_string(),
        identity,
        quality: quality.into(),
        score,
        connections: peers.into_iter().map(of_peer).collect(),
    }
}

fn connection(
    role: PeerRole,
    report: node::PeerReport,
    publishers: &HashMap<TrackSid, String>,
) -> api::ConnectionStats {
    use api::connection_stats::Role;
    let role = match role {
        PeerRole::Single => Role::Both,
        PeerRole::Publisher => Role::Uplink,
        PeerRole::Subscriber => Role::Downlink,
    };
    let path = report.path.unwrap_or_default();
    let (up, down) = (path.ingress.unwrap_or_default(), path.egress.unwrap_or_default());
    let estimate = path.estimate;
    api::ConnectionStats {
        role: role.into(),
        connected: report.connected,
        round_trip_us: path.rtt_us,
        uplink_loss_permille: up.loss_permille,
        downlink_loss_permille: down.loss_permille,
        uplink_jitter_us: up.jitter_us,
        downlink_jitter_us: down.jitter_us,
        estimate: estimate.as_ref().map(|estimate| estimate.estimate),
        estimate_limit: estimate.map_or(0, |estimate| limit(estimate.limit()).into()),
        downlink_bitrate: path.egress_bitrate,
        pacer_packets: path.pacer_packets,
        published: report.tracks.into_iter().map(published).collect(),
        subscribed: report
            .subscriptions
            .into_iter()
            .map(|one| subscribed(one, publishers))
            .collect(),
    }
}

fn limit(limit: node::EstimateLimit) -> api::connection_stats::Limit {
    use api::connection_stats::Limit;
    match limit {
        node::EstimateLimit::Unspecified => Limit::Unspecified,
        node::EstimateLimit::Start => Limit::Start,
        node::EstimateLimit::Delay => Limit::Delay,
        node::EstimateLimit::Loss => Limit::Loss,
        node::EstimateLimit::Remb => Limit::Client,
        node::EstimateLimit::Silence => Limit::Silence,
        node::EstimateLimit::Max | node::EstimateLimit::Cap => Limit::Configured,
    }
}

/// Clients know a track by its sid alone; the node knows one for each codec.
fn sid_of(track_id: &str) -> &str {
    track_id.split_once('/').map_or(track_id, |(sid, _)| sid)
}

fn published(track: node::TrackReport) -> api::PublishedTrackStats {
    api::PublishedTrackStats {
        track_sid: sid_of(&track.track_id).to_owned(),
        encodings: track.encodings.into_iter().map(encoding).collect(),
    }
}

fn encoding(encoding: node::EncodingReport) -> api::EncodingStats {
    api::EncodingStats {
        live: encoding.live,
        wanted: encoding.demanded,
        bitrate: encoding.bitrate,
        packets: encoding.packets,
        bytes: encoding.bytes,
        frames: encoding.frames,
        keyframes: encoding.keyframes,
        packets_lost: encoding.lost,
        packets_repaired: encoding.repaired,
        jitter_us: encoding.jitter_us,
        nacks: encoding.nacks,
        keyframe_requests: encoding.keyframe_requests,
    }
}

fn subscribed(
    report: node::SubscriptionReport,
    publishers: &HashMap<TrackSid, String>,
) -> api::SubscribedTrackStats {
    let sid = sid_of(&report.track_id);
    let sent = report.sent.unwrap_or_default();
    api::SubscribedTrackStats {
        track_sid: sid.to_owned(),
        // Gone a moment ago: nobody's.
        publisher_identity: publishers.get(&TrackSid(sid.into())).cloned().unwrap_or_default(),
        wanted: report.wanted.is_some(),
        paused: report.starved,
        target_layer: report.target.and_then(|layers| layers.spatial_layer),
        current_layer: report.current.and_then(|layers| layers.spatial_layer),
        current_temporal_layer: report.current.and_then(|layers| layers.temporal_layer),
        bitrate: report.bitrate,
        packets: sent.packets,
        bytes: sent.bytes,
        nacks: sent.nacked,
        packets_resent: sent.resent_packets,
        keyframe_requests: sent.keyframe_requests,
        switches: report.switches,
        waits_for_keyframe: report.waits_for_keyframe,
        idle_ms: report.idle_ms,
    }
}
