//! Figures of one run, as JSON and as a row of a table.

use comfy_table::{Cell, Table, presets::ASCII_MARKDOWN};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What was asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LoadReport {
    /// "video" or "audio".
    pub media: String,
    /// How many publish.
    pub publishers: usize,
    /// How many receive all of them.
    pub subscribers: usize,
    /// Packets of a frame.
    pub frame_packets: usize,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Packets a second that each subscriber gets of each publisher.
    pub packets_per_s: f64,
    /// A frame's packets arrive over this time, milliseconds.
    pub spread_ms: f64,
    /// Media threads.
    pub shards: u16,
    /// Of a hundred packets so many were asked for again.
    pub nack_percent: f64,
    /// Seconds of measured load.
    pub duration_s: f64,
}

/// What came out. Times are CPU time of the media threads unless they are latencies.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ForwardingReport {
    /// The load.
    pub load: LoadReport,
    /// What was negotiated and switched on.
    pub parts_on: Vec<String>,
    /// SRTP profile that the default handshake gave.
    pub cipher: String,
    /// Packets that reached the sinks.
    pub packets: u64,
    /// Per packet that reached a sink, retransmissions included.
    pub ns_per_packet: f64,
    /// The same of a shard's turn with everything that leaves thrown away, cipher on.
    pub user_ns: f64,
    /// The floor for the same load, sinks and run length.
    pub floor_ns: f64,
    /// The floor with nothing sent, beside it.
    pub floor_no_send_ns: f64,
    /// `ns_per_packet / floor_ns`.
    pub ratio: f64,
    /// `user_ns / floor_no_send_ns`.
    pub user_ratio: f64,
    /// How often a core could do that in a second.
    pub packets_per_s_per_core: f64,
    /// Packets of one send, on average; of the floor too.
    pub run_length: f64,
    /// On media threads.
    pub allocations_per_packet: f64,
    /// From the publisher's send to the sink's kernel, microseconds.
    pub p50_us: f64,
    /// The same.
    pub p99_us: f64,
    /// The same.
    pub p999_us: f64,
    /// The same of the floor, from the beginning of its frame.
    pub floor_p50_us: f64,
    /// The same.
    pub floor_p99_us: f64,
    /// Share of the packets that did not arrive.
    pub loss: f64,
    /// Packets behind later ones.
    pub disordered: u64,
    /// Packets that were opened and compared, those of the floor included.
    pub opened: u64,
    /// Packets asked for again, and those that came.
    pub nacked: u64,
    /// See above.
    pub retransmitted: u64,
    /// Memory of the process that is not the benchmark's own, code left out, per subscriber.
    pub rss_per_subscriber_bytes: f64,
    /// CPU time of the media threads per join.
    pub join_us: f64,
    /// What was wrong; empty, or the run failed.
    pub wrong: Vec<String>,
}

/// Percentile of a latency, microseconds.
pub fn percentile_us(histogram: &Histogram<u64>, percentile: f64) -> f64 {
    histogram.value_at_percentile(percentile) as f64 / 1_000.0
}

/// Rows side by side.
pub fn forwarding_table(rows: &[ForwardingReport]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "load",
        "on",
        "cipher",
        "run",
        "ns/packet",
        "floor",
        "ratio",
        "user",
        "no-send floor",
        "ratio",
        "alloc/packet",
        "p50 us (floor)",
        "p99 us (floor)",
        "p99.9 us",
        "loss",
        "KiB/sub",
        "join us",
    ]);
    for row in rows {
        let load = &row.load;
        let spread = if load.spread_ms > 0.0 {
            format!(" over {} ms", load.spread_ms)
        } else {
            String::new()
        };
        let name = format!(
            "{} {}->{} {}x{} B{spread}, {}/s, {} shard{}",
            load.media,
            load.publishers,
            load.subscribers,
            load.frame_packets,
            load.payload_bytes,
            load.packets_per_s,
            load.shards,
            if load.shards == 1 { "" } else { "s" },
        );
        table.add_row([
            Cell::new(name),
            Cell::new(row.parts_on.join(", ")),
            Cell::new(row.cipher.trim_start_matches("AEAD_")),
            Cell::new(format!("{:.1}", row.run_length)),
            Cell::new(format!("{:.0}", row.ns_per_packet)),
            Cell::new(format!("{:.0}", row.floor_ns)),
            Cell::new(format!("{:.2}", row.ratio)),
            Cell::new(format!("{:.0}", row.user_ns)),
            Cell::new(format!("{:.0}", row.floor_no_send_ns)),
            Cell::new(format!("{:.2}", row.user_ratio)),
            Cell::new(format!("{:.4}", row.allocations_per_packet)),
            Cell::new(format!("{:.0} ({:.0})", row.p50_us, row.floor_p50_us)),
            Cell::new(format!("{:.0} ({:.0})", row.p99_us, row.floor_p99_us)),
            Cell::new(format!("{:.0}", row.p999_us)),
            Cell::new(format!("{:.4} %", row.loss * 100.0)),
            Cell::new(format!("{:.0}", row.rss_per_subscriber_bytes / 1_024.0)),
            Cell::new(format!("{:.0}", row.join_us)),
        ]);
    }
    table.to_string()
}
