//! The numbers of a shard and their names. `describe` and `values` list them in the same order.

use std::sync::Arc;

use crate::{
    net::Capabilities,
    shard::{DropReason, EstimateLimit, Shard, Timer},
    telemetry::{Description, Kind},
};

/// What the thread around a shard counts.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct LoopCounters {
    /// Turns of the loop.
    pub(crate) slices: u64,
    /// Slices that were cut because their time was up.
    pub(crate) slices_cut: u64,
    /// Sends: one system call each.
    pub(crate) sends: u64,
    /// Sends that met a full socket buffer.
    pub(crate) sends_full: u64,
    /// Sends that the kernel refused.
    pub(crate) sends_refused: u64,
    /// ICE-TCP connections now.
    pub(crate) tcp_connections: u64,
    /// ICE-TCP connections closed for want of room.
    pub(crate) tcp_refused: u64,
    /// ICE-TCP connections closed because they carried no peer.
    pub(crate) tcp_closed: u64,
    /// Packets lost because a TCP client did not read.
    pub(crate) tcp_full: u64,
    /// Fillings that met a full ring.
    pub(crate) rings_full: u64,
    /// Datagrams handed to the shard that they are for.
    pub(crate) handed_over: u64,
    /// Datagrams for another shard that it had no room for.
    pub(crate) handover_drops: u64,
    /// Events and answers that the control side does not take now.
    pub(crate) outputs_waiting: u64,
    /// Events that newer ones stand for, because the control side did not take them.
    pub(crate) events_merged: u64,
    /// What the kernel can do at the shard's port; GSO may be switched off later, by a device that refuses it.
    pub(crate) capabilities: Capabilities,
    /// The heap of its thread may have large pages.
    pub(crate) large_pages: bool,
}

/// Names of the numbers.
pub(crate) fn describe() -> Arc<[Description]> {
    let gauge = |name, help| Description { name, help, kind: Kind::Gauge, label: None };
    let counter = |name, help| Description { name, help, kind: Kind::Counter, label: None };
    let mut all = vec![
        gauge("peers", "Peers now"),
        gauge("outputs_waiting", "Events and answers that wait for the control side"),
        gauge("tcp_connections", "ICE-TCP connections now"),
        gauge("egress_estimate", "Sum of the bandwidth estimates of all peers, bits per second"),
        gauge("subscriptions", "Tracks that peers receive"),
        gauge("subscriptions_starved", "Of these, how many are paused for want of bandwidth"),
        gauge("rooms_here", "Rooms with members on this shard"),
        gauge("rooms_shared", "Of these, rooms with members on other shards too"),
        gauge("relayed_tracks", "Tracks of other shards that are known here"),
        gauge("gso_segments", "Datagrams that the kernel takes in one send; 1: it has no GSO"),
        gauge("gro_segments", "Datagrams that the kernel hands over as one; 1: it has no GRO"),
        gauge("receive_buffer_bytes", "Receive buffer as granted, as the kernel counts it"),
        gauge("send_buffer_bytes", "Send buffer as granted, as the kernel counts it"),
        gauge(
            "rtcp_apart",
            "1: RTCP and STUN have a socket of their own; 0: each report and check wakes the media thread",
        ),
        gauge("large_pages", "1: the heap of the media thread may have large pages"),
        counter("datagrams_in", "Datagrams received"),
        counter("bytes_in", "Bytes of datagrams received"),
        counter("media_in", "Media packets that were authentic and belonged to a track"),
        counter("media_out", "Media packets sent, retransmissions apart"),
        counter("media_bytes_out", "Bytes of media packets sent"),
        counter("retransmitted", "Packets sent again on request"),
        counter("fec_in", "Repair packets of publishers"),
        counter("fec_recovered", "Media packets that repair packets brought back"),
        counter("fec_out", "Repair packets sent to subscribers"),
        counter("nack_misses", "Packets asked for that were in no cache"),
        counter("nacked", "Packets that subscribers asked for again"),
        counter("resends_over_budget", "Packets asked for again that had no room in the estimate"),
        counter("probe_padding", "Packets sent to fill probes for bandwidth"),
        counter("keyframe_requests", "Keyframes that subscribers asked for"),
        counter("feedback_out", "Times that a publisher was sent NACKs or keyframe requests"),
        counter("transport_feedback", "Transport-wide feedback of subscribers"),
        counter("relayed", "Packets given to other shards"),
        counter("data_out", "Data packets delivered"),
        counter("visits", "Subscribers and readers looked at to fan something out"),
        counter("slices", "Turns of the media loop"),
        counter("slices_cut", "Turns that were cut because their time was up"),
        counter("sends", "Send system calls"),
        counter("sends_full", "Sends that met a full socket buffer"),
        counter("sends_refused", "Sends that the kernel refused"),
        counter("tcp_refused", "ICE-TCP connections closed for want of room"),
        counter("tcp_closed", "ICE-TCP connections closed because they carried no peer"),
        counter("tcp_full", "Packets lost because a TCP client did not read"),
        counter("rings_full", "Times a ring to another shard was full"),
        counter("handed_over", "Datagrams that came to this shard's port for another shard"),
        counter("events_merged", "Events replaced by newer ones while they waited"),
        counter("handover_drops", "Datagrams for another shard that it had no room for"),
    ];
    all.extend(DropReason::ALL.iter().map(|reason| Description {
        label: Some(("reason", snake_case(&format!("{reason:?}")))),
        ..counter("drops", "What was thrown away, by reason")
    }));
    all.extend(Timer::ALL.iter().map(|timer| Description {
        label: Some(("timer", snake_case(&format!("{timer:?}")))),
        ..counter("wakeups", "Timers that went off, by name")
    }));
    all.extend(EstimateLimit::ALL.iter().map(|(_, name)| Description {
        label: Some(("limit", (*name).to_owned())),
        ..gauge("peers_by_limit", "Peers by what holds the estimate of their bandwidth")
    }));
    all.into()
}

/// The numbers.
pub(crate) fn values(shard: &Shard, own: &LoopCounters) -> impl Iterator<Item = u64> {
    let (c, gauges, spread) = (*shard.counters(), *shard.gauges(), shard.spread());
    [
        shard.peers() as u64,
        own.outputs_waiting,
        own.tcp_connections,
        gauges.estimated,
        gauges.subscriptions,
        gauges.starved,
        spread.rooms as u64,
        spread.shared as u64,
        spread.relayed_tracks as u64,
        own.capabilities.gso_segments as u64,
        own.capabilities.gro_segments as u64,
        own.capabilities.receive_buffer as u64,
        own.capabilities.send_buffer as u64,
        u64::from(own.capabilities.rtcp_apart),
        u64::from(own.large_pages),
        c.datagrams_in,
        c.bytes_in,
        c.media_in,
        c.media_out,
        c.media_bytes_out,
        c.retransmitted,
        c.fec_in,
        c.fec_recovered,
        c.fec_out,
        c.nack_misses,
        c.nacked,
        c.resends_over_budget,
        c.probe_padding,
        c.keyframe_requests,
        c.feedback_out,
        c.transport_feedback,
        c.relayed,
        c.data_out,
        c.visits,
        own.slices,
        own.slices_cut,
        own.sends,
        own.sends_full,
        own.sends_refused,
        own.tcp_refused,
        own.tcp_closed,
        own.tcp_full,
        own.rings_full,
        own.handed_over,
        own.events_merged,
        own.handover_drops,
    ]
    .into_iter()
    .chain(DropReason::ALL.into_iter().map(move |reason| c.drops(reason)))
    .chain(shard.wakeups().map(|(_, count)| count))
    .chain(gauges.limits)
}

fn snake_case(camel: &str) -> String {
    let mut out = String::with_capacity(camel.len() + 4);
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_like_other_metrics() {
        assert_eq!(snake_case("UnknownUfrag"), "unknown_ufrag");
        assert_eq!(describe()[0].name, "peers");
    }
}
