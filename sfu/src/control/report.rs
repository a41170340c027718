//! Statistics of a peer, as the contract has them.

use std::time::Duration;

use chappe_proto::node::v1 as pb;

use crate::{
    bwe::Limit,
    cache::{LadderStep, Layers},
    ingress::EncodingStats,
    rtp::MediaKind,
    shard::{
        DirectionStats, EgressCounters, EstimateLimit, EstimateReport, PathReport, PathStats,
        PeerId, PeerReport, RoomId, SubscriptionReport, TrackReport,
    },
};

/// Microseconds, as many as fit.
fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Milliseconds, as many as fit.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// 1/256 in 1/1,000, rounded.
fn permille(fraction: u8) -> u32 {
    (u32::from(fraction) * 1_000 + 128) / 256
}

fn kind(kind: MediaKind) -> pb::MediaKind {
    match kind {
        MediaKind::Audio => pb::MediaKind::Audio,
        MediaKind::Video => pb::MediaKind::Video,
    }
}

fn direction(side: &DirectionStats) -> pb::DirectionStats {
    pb::DirectionStats { loss_permille: side.loss.map(u32::from), jitter_us: micros(side.jitter) }
}

fn limit(limit: EstimateLimit) -> pb::EstimateLimit {
    match limit {
        EstimateLimit::Path(Limit::Start) => pb::EstimateLimit::Start,
        EstimateLimit::Path(Limit::Delay) => pb::EstimateLimit::Delay,
        EstimateLimit::Path(Limit::Loss) => pb::EstimateLimit::Loss,
        EstimateLimit::Path(Limit::Remb) => pb::EstimateLimit::Remb,
        EstimateLimit::Path(Limit::Silence) => pb::EstimateLimit::Silence,
        EstimateLimit::Path(Limit::Max) => pb::EstimateLimit::Max,
        EstimateLimit::Cap => pb::EstimateLimit::Cap,
    }
}

/// What is told of a path unasked.
pub(super) fn peer_stats(room: &RoomId, peer: &PeerId, stats: &PathStats) -> pb::PeerStats {
    let held = stats.estimate.map_or(pb::EstimateLimit::Unspecified, |e| limit(e.limit));
    pb::PeerStats {
        room_id: room.to_string(),
        peer_id: peer.to_string(),
        rtt_us: stats.rtt.map(micros),
        ingress: Some(direction(&stats.ingress)),
        egress: Some(direction(&stats.egress)),
        egress_bitrate: stats.egress_bitrate.bps(),
        silent_ms: millis(stats.silent),
        layers_wanted: stats.layers_wanted,
        layers_given: stats.layers_given,
        estimate: stats.estimate.map(|estimate| estimate.rate.bps()),
        estimate_limit: held.into(),
    }
}

/// What is told of a peer on request.
pub(super) fn peer_report(report: &PeerReport) -> pb::PeerReport {
    pb::PeerReport {
        connected: report.connected,
        path: Some(path(&report.path)),
        tracks: report.tracks.iter().map(track).collect(),
        subscriptions: report.subscriptions.iter().map(subscription).collect(),
    }
}

fn path(path: &PathReport) -> pb::PathReport {
    pb::PathReport {
        rtt_us: path.rtt.map(micros),
        ingress: Some(direction(&path.ingress)),
        egress: Some(direction(&path.egress)),
        silent_ms: millis(path.silent),
        estimate: path.estimate.as_ref().map(estimate),
        pacer_packets: u32::try_from(path.pacer_packets).unwrap_or(u32::MAX),
        sent: Some(counters(&path.sent)),
        bytes_sent: path.bytes_sent,
        egress_bitrate: path.egress_bitrate.bps(),
    }
}

fn estimate(report: &EstimateReport) -> pb::EstimateReport {
    pb::EstimateReport {
        estimate: report.estimate.rate.bps(),
        limit: limit(report.estimate.limit).into(),
        budget: report.budget.bps(),
        acknowledged: report.acknowledged.map(|rate| rate.bps()),
        video_wanted: report.video_wanted.bps(),
        video_granted: report.video_granted.bps(),
        queue_us: micros(report.queue),
        loss_permille: report.loss.into(),
        probes: report.probes,
    }
}

fn counters(sent: &EgressCounters) -> pb::EgressCounters {
    pb::EgressCounters {
        packets: sent.packets,
        bytes: sent.bytes,
        resent_packets: sent.resent_packets,
        resent_bytes: sent.resent_bytes,
        nacked: sent.nacked,
        resends_missed: sent.resends_missed,
        resends_over_budget: sent.resends_over_budget,
        padding_packets: sent.padding_packets,
        keyframe_requests: sent.keyframe_requests,
        fec_packets: sent.fec_packets,
        fec_bytes: sent.fec_bytes,
    }
}

fn track(track: &TrackReport) -> pb::TrackReport {
    let audio = track.kind == MediaKind::Audio;
    pb::TrackReport {
        track_id: track.track.to_string(),
        kind: kind(track.kind).into(),
        muted: track.muted,
        encodings: track.encodings.iter().map(|stats| encoding(stats, audio)).collect(),
        ladder: track.ladder.iter().map(step).collect(),
        cached_bytes: u32::try_from(track.cached).unwrap_or(u32::MAX),
    }
}

fn encoding(stats: &EncodingStats, audio: bool) -> pb::EncodingReport {
    pb::EncodingReport {
        ssrc: stats.ssrc.map_or(0, |ssrc| ssrc.0),
        live: stats.live,
        demanded: stats.demanded,
        bitrate: stats.bitrate.bps(),
        packets: stats.packets,
        bytes: stats.bytes,
        // A marker of audio begins a spurt of talk.
        frames: if audio { 0 } else { stats.frames },
        keyframes: if audio { 0 } else { stats.keyframes },
        lost: stats.lost,
        repaired: stats.repaired,
        loss_permille: permille(stats.fraction_lost),
        jitter_us: micros(crate::peer::jitter_time(stats.jitter, audio)),
        nacks: stats.nacks,
        keyframe_requests: stats.keyframe_requests,
    }
}

fn step(step: &LadderStep) -> pb::LadderReport {
    pb::LadderReport {
        spatial_layer: step.layers.spatial.into(),
        temporal_layer: step.layers.temporal.into(),
        bitrate: step.bitrate.bps(),
    }
}

fn layers(layers: Layers) -> pb::LayersReport {
    let bound = |layer: u8| Some(layer).filter(|layer| *layer != u8::MAX).map(u32::from);
    pb::LayersReport {
        spatial_layer: bound(layers.spatial),
        temporal_layer: bound(layers.temporal),
    }
}

fn subscription(report: &SubscriptionReport) -> pb::SubscriptionReport {
    let kind = report.kind.map_or(pb::MediaKind::Unspecified, kind);
    pb::SubscriptionReport {
        track_id: report.track.to_string(),
        kind: kind.into(),
        published: report.kind.is_some(),
        wanted: report.wanted.map(layers),
        target: report.target.map(layers),
        current: report.current.map(layers),
        starved: report.starved,
        waits_for_keyframe: report.waits_for_keyframe,
        idle_ms: report.idle.map(millis),
        switches: report.switches,
        sent: Some(counters(&report.sent)),
        bitrate: report.bitrate.bps(),
        loss_permille: permille(report.fraction_lost),
        jitter_us: micros(report.jitter),
    }
}
