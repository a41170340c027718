//! The report for a terminal.

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use super::{Report, Summary};

/// Distributions in the order of reading, with what they are called.
pub(super) const TIMES: [(&str, &str); 11] = [
    ("join", "join"),
    ("first_packet", "first packet"),
    ("first_frame", "first whole frame"),
    ("latency_video", "video latency"),
    ("latency_audio", "audio latency"),
    ("data_latency", "data latency"),
    ("data_round_trip", "data round trip"),
    ("reconnect", "reconnect"),
    ("view_switch", "view switch"),
    ("jitter", "jitter"),
    ("freeze", "freezes"),
];

/// What people read first.
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    let clients = &report.clients;
    text.push_str(&format!(
        "\n{}: {} of {} clients joined ({} whole, {} sinks)\n{} failed, {} lost; measured for {} s\n",
        report.scenario.name,
        clients.joined,
        clients.planned,
        clients.full,
        clients.sinks,
        clients.failed,
        clients.lost,
        report.window_seconds
    ));
    for (what, reasons) in
        [("failed", &clients.failed_by_reason), ("lost", &clients.lost_by_reason)]
    {
        for (reason, count) in reasons {
            text.push_str(&format!("  {count} {what}: {reason}\n"));
        }
    }
    let mut times = new_table(&["milliseconds", "p50", "p90", "p99", "p99.9", "max", "samples"]);
    for (name, label) in TIMES {
        if let Some(summary) = report.times.get(name) {
            times.add_row(row(label, summary));
        }
    }
    text.push_str(&times.to_string());
    text.push('\n');
    let mut values = new_table(&["figure", "value"]);
    for (label, value) in values_of(report) {
        values.add_row(vec![Cell::new(label), right(value)]);
    }
    text.push_str(&values.to_string());
    text.push('\n');
    if !report.agents.is_empty() {
        let header = ["agent", "clients", "CPU", "memory", "clock ahead", "within"];
        let mut agents = new_table(&header);
        for agent in &report.agents {
            let mut row = vec![Cell::new(&agent.name)];
            row.extend([
                right(agent.clients.to_string()),
                right(format!("{:.1} %", agent.cpu_percent)),
                right(format!("{:.1} MiB", agent.memory_bytes as f64 / 1_048_576.0)),
                right(format!("{:.3} ms", agent.clock_ahead_ms)),
                right(format!("{:.3} ms", agent.clock_error_ms)),
            ]);
            agents.add_row(row);
        }
        text.push_str(&agents.to_string());
        text.push('\n');
    }
    for warning in &report.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.to_vec());
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn row(label: &str, summary: &Summary) -> Vec<Cell> {
    let mut row = vec![Cell::new(label)];
    for value in [summary.p50, summary.p90, summary.p99, summary.p999, summary.max] {
        row.push(right(format!("{value:.1}")));
    }
    row.push(right(summary.count.to_string()));
    row
}

/// Single figures with their units.
pub(super) fn values_of(report: &Report) -> Vec<(&'static str, String)> {
    let figure = |name: &str| report.figures.get(name).copied();
    let number = |name: &str| figure(name).unwrap_or_default();
    let mut values = vec![
        (
            "received",
            format!(
                "{:.0} packets/s, {:.1} Mb/s",
                number("packets_per_second"),
                number("received_kbps") / 1_000.0
            ),
        ),
        (
            "loss before repair, after",
            format!(
                "{:.3} %, {:.3} %",
                number("loss_before_repair_percent"),
                number("loss_percent")
            ),
        ),
        (
            "layers received: low, mid, high",
            format!(
                "{:.1}, {:.1}, {:.1} Mb/s",
                number("received_low_layer_kbps") / 1_000.0,
                number("received_mid_layer_kbps") / 1_000.0,
                number("received_high_layer_kbps") / 1_000.0
            ),
        ),
        (
            "freezes",
            format!("{} ({:.3} % of the time)", number("freezes"), number("freeze_percent")),
        ),
        ("layer switches", number("layer_switches").to_string()),
        (
            "keyframe requests: to publishers, sent",
            format!(
                "{}, {}",
                number("keyframe_requests_received"),
                number("keyframe_requests_sent")
            ),
        ),
    ];
    if let Some(server) = &report.server {
        if let Some(cpu) = server.cpu_percent {
            values.push(("server CPU (100 % is one core)", format!("{cpu:.1} %")));
        }
        if let Some(cost) = figure("server_cpu_us_per_packet") {
            let each = number("server_cpu_percent_per_participant");
            let text = format!("{cost:.2} µs, {each:.2} %");
            values.push(("server CPU per forwarded packet, participant", text));
        }
        if let Some(memory) = server.memory_bytes {
            values.push(("server memory", format!("{:.1} MiB", memory as f64 / 1_048_576.0)));
        }
    }
    if let (Some(busy), Some(softirq)) =
        (figure("machine_busy_percent"), figure("machine_softirq_percent"))
    {
        let text = format!("{busy:.1} %, {softirq:.1} %");
        values.push(("this machine: cores busy, with softirqs", text));
    }
    let tester = &report.tester;
    values.push((
        "tester CPU, per packet received",
        format!("{:.1} %, {:.2} µs", tester.cpu_percent, number("tester_cpu_us_per_packet")),
    ));
    values.push((
        "tester memory per client, own delay p99",
        format!(
            "{} KiB, {:.2} ms",
            tester.memory_bytes_per_client / 1_024,
            number("p99_tester_delay_ms")
        ),
    ));
    values
}
