//! From measurements to a report.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{AgentShare, Clients, Report, SCHEMA, Second, Server, Summary, Tester, round};
use crate::{
    measure::{Cores, Process, Stats, Usage},
    scenario::Scenario,
    swarm::{Point, Run, TesterRun},
};

/// A worker thread that is busier than this has no time for what comes.
const BUSY_PERCENT: f64 = 85.0;
/// Datagrams that wait longer than this in the tester's own sockets (99th percentile) say that it is late.
pub(crate) const LATE_MS: f64 = 20.0;

pub(crate) fn build(scenario: Scenario, run: Run, server: Option<Process>) -> Report {
    let window = run.window.as_secs_f64();
    let tester = tester(&run);
    let agents: Vec<_> =
        run.testers.iter().filter_map(|tester| agent(tester, run.window)).collect();
    let server = server_side(&run, server);
    let figures = figures(&run, server.as_ref(), &tester);
    let mut warnings = Vec::new();
    if tester.is_bottleneck {
        warnings.push(format!(
            "the tester itself was the bottleneck ({} % of one core on {} workers, p99 of its own delay {} ms): \
             use more machines, fewer clients or sinks",
            tester.cpu_percent,
            tester.workers,
            round(run.stats.tester_delay.quantile_ms(0.99).unwrap_or_default()),
        ));
    }
    warnings.extend(run.agents_lost.iter().cloned());
    if run.interrupted {
        warnings.push("interrupted: the figures are those of the run so far".to_owned());
    }
    if window == 0.0 {
        warnings.push("the measured window was never opened".to_owned());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Report {
        schema: SCHEMA,
        tool: format!("chappe-loadtest {}", env!("CARGO_PKG_VERSION")),
        finished_at: now.as_secs(),
        scenario,
        interrupted: run.interrupted,
        window_seconds: round(window),
        clients: Clients {
            planned: run.planned,
            joined: run.joined,
            failed: run.failed,
            lost: run.lost,
            in_room_at_end: run.in_room,
            full: run.full_clients,
            sinks: run.sinks,
            failed_by_reason: run.stats.failures.clone(),
            lost_by_reason: run.stats.lost.clone(),
        },
        figures,
        latency_method: latency_method(&run, &agents),
        times: times(&run.stats),
        server,
        tester,
        agents,
        series: run.series.iter().scan(Duration::ZERO, second).collect(),
        warnings,
    }
}

/// Names of all figures that a run can bring: those of a run in which everything was measured.
pub(crate) fn figure_names() -> BTreeSet<String> {
    let second = Duration::from_secs(1);
    let server = Server {
        pid: None,
        cpu_percent: Some(1.0),
        system_cpu_percent: Some(1.0),
        memory_bytes: Some(1),
        metrics: BTreeMap::new(),
        metrics_seconds: 1.0,
    };
    let cores = Some((Cores::default(), Cores { all: 1, ..Cores::default() }));
    let run = Run { stats: Stats::one_of_each(), window: second, cores, ..Run::default() };
    figures(&run, Some(&server), &Tester::default()).into_keys().collect()
}

fn times(stats: &Stats) -> BTreeMap<String, Summary> {
    let latency = stats.latency();
    [
        ("join", &stats.join),
        ("first_packet", &stats.first_packet),
        ("first_frame", &stats.first_frame),
        ("latency", &latency),
        ("latency_video", &stats.latency_video),
        ("latency_audio", &stats.latency_audio),
        ("data_latency", &stats.latency_data),
        ("data_round_trip", &stats.data_round_trip),
        ("reconnect", &stats.reconnect),
        ("view_switch", &stats.switch),
        ("jitter", &stats.jitter),
        ("freeze", &stats.freezes),
        ("tester_delay", &stats.tester_delay),
        ("tester_lateness", &stats.tester_lateness),
    ]
    .into_iter()
    .filter_map(|(name, times)| Some((name.to_owned(), Summary::of(times)?)))
    .collect()
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

fn figures(run: &Run, server: Option<&Server>, tester: &Tester) -> BTreeMap<String, f64> {
    let count = &run.stats.count;
    let window = run.window.as_secs_f64();
    let per_second = |value: u64| (window > 0.0).then(|| value as f64 / window);
    let kbps = |bytes: u64| per_second(bytes * 8).map(|bits| bits / 1_000.0);
    let mut figures = BTreeMap::new();
    let mut put = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            figures.insert(name.to_owned(), round(value));
        }
    };
    let stats = &run.stats;
    let latency = stats.latency();
    for (name, times) in [
        ("latency_ms", &latency),
        ("video_latency_ms", &stats.latency_video),
        ("audio_latency_ms", &stats.latency_audio),
        ("data_latency_ms", &stats.latency_data),
        ("data_round_trip_ms", &stats.data_round_trip),
        ("join_ms", &stats.join),
        ("first_packet_ms", &stats.first_packet),
        ("first_frame_ms", &stats.first_frame),
        ("reconnect_ms", &stats.reconnect),
        ("view_switch_ms", &stats.switch),
        ("jitter_ms", &stats.jitter),
        ("freeze_ms", &stats.freezes),
        ("tester_delay_ms", &stats.tester_delay),
        ("tester_lateness_ms", &stats.tester_lateness),
    ] {
        for (label, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            put(&format!("{label}_{name}"), times.quantile_ms(quantile));
        }
        put(&format!("max_{name}"), times.max_ms());
    }
    put("loss_before_repair_percent", percent(count.lost_before_repair, count.expected));
    put("loss_percent", percent(count.lost_after_repair, count.expected));
    put("freezes", Some(stats.freezes.count() as f64));
    let minutes = count.stream_milliseconds as f64 / 60_000.0;
    put(
        "freezes_per_stream_minute",
        (minutes > 0.0).then(|| stats.freezes.count() as f64 / minutes),
    );
    put("freeze_percent", percent(count.freeze_milliseconds, count.stream_milliseconds));
    for (name, value) in [
        ("packets_sent", count.packets_sent),
        ("packets_received", count.packets_received),
        ("repair_packets_received", count.repair_packets),
        ("packets_expected", count.expected),
        ("packets_lost_before_repair", count.lost_before_repair),
        ("packets_lost", count.lost_after_repair),
        ("frames_sent", count.frames_sent),
        ("frames_received", count.frames_received),
        ("frames_timed_by_capture_time", count.frames_timed_by_capture_time),
        ("keyframes_received", count.keyframes_received),
        ("keyframe_requests_received", count.keyframe_requests_received),
        ("keyframe_requests_sent", count.keyframe_requests_sent),
        ("layer_switches", count.layer_switches),
        ("data_messages_sent", count.data_sent),
        ("data_messages_received", count.data_received),
        ("datagrams_lost_by_scenario", count.datagrams_impaired),
        ("ice_disconnects", count.ice_disconnects),
        ("sink_packets_decrypted", count.sink_packets_decrypted),
        ("joined", run.joined),
        ("failed_joins", run.failed),
        ("lost_clients", run.lost),
    ] {
        put(name, Some(value as f64));
    }
    put("packets_per_second", per_second(count.packets_received));
    put("sent_kbps", kbps(count.bytes_sent));
    put("received_kbps", kbps(count.bytes_received));
    put("received_payload_kbps", kbps(count.payload_bytes_received));
    put("received_audio_kbps", kbps(count.audio_bytes_received));
    for (name, sent, received) in [
        ("low", count.layer_low_bytes_sent, count.layer_low_bytes_received),
        ("mid", count.layer_mid_bytes_sent, count.layer_mid_bytes_received),
        ("high", count.layer_high_bytes_sent, count.layer_high_bytes_received),
    ] {
        put(&format!("sent_{name}_layer_kbps"), kbps(sent));
        put(&format!("received_{name}_layer_kbps"), kbps(received));
    }
    put("tester_cpu_percent", Some(tester.cpu_percent));
    let micros_per_packet = |cpu: f64| {
        let packets = per_second(count.packets_received).filter(|packets| *packets > 0.0)?;
        Some(cpu / 100.0 * 1e6 / packets)
    };
    put("tester_cpu_us_per_packet", micros_per_packet(tester.cpu_percent));
    let cores = run.cores.and_then(|(before, after)| after.since(before));
    for (at, name) in ["busy", "softirq", "steal"].into_iter().enumerate() {
        put(&format!("machine_{name}_percent"), cores.map(|shares| shares[at]));
    }
    put("tester_memory_bytes_per_client", Some(tester.memory_bytes_per_client as f64));
    if let Some(server) = server {
        put("server_cpu_percent", server.cpu_percent);
        put("server_memory_bytes", server.memory_bytes.map(|bytes| bytes as f64));
        put("server_cpu_us_per_packet", server.cpu_percent.and_then(micros_per_packet));
        let people = run.in_room.max(1) as f64;
        put("server_cpu_percent_per_participant", server.cpu_percent.map(|cpu| cpu / people));
    }
    figures
}

/// Share of one core between two readings.
fn cpu_percent(usage: (Usage, Usage), window: Duration) -> Option<f64> {
    let used = usage.1.cpu.saturating_sub(usage.0.cpu).as_secs_f64();
    (!window.is_zero()).then(|| round(used * 100.0 / window.as_secs_f64()))
}

fn server_side(run: &Run, process: Option<Process>) -> Option<Server> {
    if process.is_none() && run.metrics.is_empty() {
        return None;
    }
    let system = run.server.and_then(|(before, after)| {
        let used = after.system.saturating_sub(before.system).as_secs_f64();
        (!run.window.is_zero()).then(|| round(used * 100.0 / run.window.as_secs_f64()))
    });
    Some(Server {
        pid: process.map(|process| process.0),
        cpu_percent: run.server.and_then(|usage| cpu_percent(usage, run.window)),
        system_cpu_percent: system,
        memory_bytes: run.server.map(|(_, after)| after.memory),
        metrics: run.metrics.clone(),
        metrics_seconds: round(run.metrics_span.as_secs_f64()),
    })
}

/// The share of a core that a process used in the window.
fn cpu_of(tester: &TesterRun, window: Duration) -> f64 {
    let usage = tester.before.usage.zip(tester.after.usage);
    usage.and_then(|usage| cpu_percent(usage, window)).unwrap_or_default()
}

/// All processes that played clients together.
fn tester(run: &Run) -> Tester {
    let memory = |usage: Option<Usage>| usage.map_or(0, |usage| usage.memory);
    let all = || run.testers.iter();
    let busy = |tester: &TesterRun| {
        cpu_of(tester, run.window) > BUSY_PERCENT * tester.at_start.workers as f64
    };
    let late = run.stats.tester_delay.quantile_ms(0.99).is_some_and(|ms| ms > LATE_MS);
    let grown: u64 = all()
        .map(|tester| memory(tester.after.usage).saturating_sub(memory(tester.at_start.usage)))
        .sum();
    Tester {
        workers: all().map(|tester| tester.at_start.workers).sum(),
        cpu_percent: round(all().map(|tester| cpu_of(tester, run.window)).sum()),
        memory_bytes: all().map(|tester| memory(tester.after.usage)).sum(),
        memory_bytes_per_client: grown / run.planned.max(1),
        is_bottleneck: all().any(busy) || late,
    }
}

/// One of several machines; nothing for a run on this one.
fn agent(tester: &TesterRun, window: Duration) -> Option<AgentShare> {
    let clock = tester.after.clock.or(tester.at_start.clock)?;
    Some(AgentShare {
        name: tester.at_start.name.clone()?,
        clients: tester.clients,
        workers: tester.at_start.workers,
        cpu_percent: cpu_of(tester, window),
        memory_bytes: tester.after.usage.map_or(0, |usage| usage.memory),
        clock_ahead_ms: round(clock.ahead as f64 / 1e6),
        clock_error_ms: round(clock.error.as_secs_f64() * 1e3),
    })
}

/// In words, with what makes it uncertain.
fn latency_method(run: &Run, agents: &[AgentShare]) -> String {
    if agents.is_empty() {
        let text = "send time in the payload against the kernel's receive time, one clock";
        return text.to_owned();
    }
    // Two agents may each be off by their own error.
    let mut errors: Vec<_> = agents.iter().map(|agent| agent.clock_error_ms).collect();
    errors.sort_by(f64::total_cmp);
    let error: f64 = errors.iter().rev().take(2).sum();
    let by_capture = run.stats.count.frames_timed_by_capture_time;
    let all = run.stats.latency_video.count() + run.stats.latency_audio.count();
    let share = percent(by_capture, all).unwrap_or_default();
    format!(
        "within an agent the send time in the payload, between agents abs-capture-time ({share:.0} % of the frames) or, where \
         the server does not pass it on, the payload; against the kernel's receive time, on clocks that agree within {error:.3} ms"
    )
}

/// `last` is the time of the point before.
fn second(last: &mut Duration, point: &Point) -> Option<Second> {
    let length = point.at.saturating_sub(*last).as_secs_f64().max(0.001);
    *last = point.at;
    let count = &point.count;
    Some(Second {
        at_seconds: round(point.at.as_secs_f64()),
        in_room: point.in_room,
        received_mbps: round(count.bytes_received as f64 * 8.0 / 1e6 / length),
        packets_per_second: round(count.packets_received as f64 / length),
        p50_latency_ms: point.latency_ms.map(|(p50, _)| round(p50)),
        p99_latency_ms: point.latency_ms.map(|(_, p99)| round(p99)),
        loss_before_repair_percent: percent(count.lost_before_repair, count.expected).map(round),
        loss_percent: percent(count.lost_after_repair, count.expected).map(round),
        freezes: point.freezes,
    })
}
