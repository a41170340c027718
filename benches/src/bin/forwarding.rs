//! What a packet through the real node costs, against the floor in the same run.
//!
//! The node is the shipped library in its default configuration, with free ports and the loopback address told to
//! clients. Exits with 1 when packets are lost, disordered or not what was sent.

use std::{
    process::{Command, ExitCode},
    time::Duration,
};

use chappe_benches::{
    alloc::{self, CountingAllocator},
    client::Habits,
    cores, cpu,
    floor::{self, Floor, FloorThread, Outcome, Run, Work},
    handshake::Identity,
    packet,
    port::kernel_drops,
    report::{ForwardingReport, LoadReport, forwarding_table, percentile_us},
    rig::Setup,
    room::{Described, Negotiation, Room, metric},
    srtp::Profile,
    turn_cost::{self, Cost},
    world::{Load, World},
};
use chappe_sfu::{
    config::{CandidateConfig, NodeConfig, Placement},
    control::{Node, NodeHandle},
};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Forwards through the real node and compares with the floor.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Peers that publish one track each.
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// Peers that receive all of them.
    #[arg(long, default_value_t = 500)]
    subscribers: usize,
    /// Packets of a frame.
    #[arg(long, default_value_t = 4)]
    frame_packets: usize,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 1_100)]
    payload: usize,
    /// Packets a second of each publisher.
    #[arg(long, default_value_t = 120.0)]
    rate: f64,
    /// Media threads.
    #[arg(long, default_value_t = 1)]
    shards: u16,
    /// Opus: payloads of 120 bytes, one packet a frame, 50 a second, where not given otherwise.
    #[arg(long)]
    audio: bool,
    /// Of a hundred packets so many are asked for again, though they arrived.
    #[arg(long, default_value_t = 0.0)]
    nack_percent: f64,
    /// Transport-wide feedback ten times a second: the node estimates and paces.
    #[arg(long)]
    feedback: bool,
    /// Packets of a frame differ in size by a byte.
    #[arg(long)]
    uneven: bool,
    /// The only SRTP profile that clients offer; not given: all, as browsers do.
    #[arg(long)]
    cipher: Option<Profile>,
    /// A frame's packets leave the publisher over this time.
    #[arg(long, default_value_t = 0)]
    spread_ms: u64,
    /// Seconds of measured load.
    #[arg(long, default_value_t = 8.0)]
    duration: f64,
    /// Seconds of load before.
    #[arg(long)]
    warm_up: Option<f64>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// All rows of docs/performance.md, each in a process of its own.
    #[arg(long)]
    table: bool,
}

/// Rows of the whole table.
const ROWS: &[&str] = &[
    "",
    "--rate 300",
    "--subscribers 50",
    "--subscribers 50 --rate 300",
    "--subscribers 5000",
    "--subscribers 5000 --rate 12",
    "--subscribers 9999 --rate 60",
    "--cipher aes-128-gcm",
    "--cipher aes-cm-sha1",
    "--uneven",
    "--spread-ms 10",
    "--frame-packets 10",
    "--frame-packets 1",
    "--audio",
    "--feedback --nack-percent 1",
    "--feedback --nack-percent 1 --rate 300",
    "--shards 2",
    "--subscribers 50 --publishers 10",
    "--subscribers 10 --publishers 50",
];

/// Slices that the node and the floor take turns in.
const ROUNDS: u32 = 4;

fn main() -> ExitCode {
    alloc::mark_own_thread();
    let mut args = Args::parse();
    if args.table {
        return table(&args);
    }
    if args.audio {
        args.frame_packets = if args.frame_packets == 4 { 1 } else { args.frame_packets };
        args.payload = if args.payload == 1_100 { 120 } else { args.payload };
        args.rate = if args.rate == 120.0 { 50.0 } else { args.rate };
    }
    let senseless = args.payload < packet::MIN_PAYLOAD
        || args.payload > 1_400
        || args.subscribers == 0
        || args.publishers == 0
        || args.frame_packets == 0
        || args.frame_packets * (args.payload + 40) > 60_000
        || args.rate <= 0.0;
    if senseless {
        eprintln!(
            "forwarding: payloads of 30 to 1400 bytes, frames that fit into one send, and somebody to send"
        );
        return ExitCode::from(2);
    }
    let report = match run(&args) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("forwarding: {error}");
            return ExitCode::FAILURE;
        }
    };
    if args.json {
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        println!("{}", forwarding_table(std::slice::from_ref(&report)));
    }
    for wrong in &report.wrong {
        eprintln!("WRONG: {wrong}");
    }
    if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all rows and prints them together.
fn table(args: &Args) -> ExitCode {
    let mut rows = Vec::new();
    let mut failed = false;
    for row in ROWS {
        eprintln!("forwarding {row}");
        let output = std::env::current_exe().and_then(|own| {
            Command::new(own)
                .args(["--json", "--duration", &args.duration.to_string()])
                .args(row.split_whitespace())
                .output()
        });
        let Ok(output) = output else { return ExitCode::FAILURE };
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        failed |= !output.status.success();
        match serde_json::from_slice::<ForwardingReport>(&output.stdout) {
            Ok(report) => rows.push(report),
            Err(error) => eprintln!("no figures: {error}"),
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&rows).unwrap_or_default());
    } else {
        println!("{}", forwarding_table(&rows));
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The node's own counters.
#[derive(Clone, Copy, Debug)]
struct Counters {
    media_out: u64,
    retransmitted: u64,
    sends: u64,
    sends_full: u64,
}

impl Counters {
    fn read(node: &NodeHandle) -> Self {
        let total = |name: &str| metric(node, &format!("chappe_sfu_{name}_total"), "");
        Self {
            media_out: total("media_out"),
            retransmitted: total("retransmitted"),
            sends: total("sends"),
            sends_full: total("sends_full"),
        }
    }

    /// Packets of one send.
    fn run_length(self) -> f64 {
        (self.media_out + self.retransmitted) as f64 / self.sends.max(1) as f64
    }

    fn since(self, before: Self) -> Self {
        Self {
            media_out: self.media_out - before.media_out,
            retransmitted: self.retransmitted - before.retransmitted,
            sends: self.sends - before.sends,
            sends_full: self.sends_full - before.sends_full,
        }
    }
}

/// What the rounds came to.
#[derive(Clone, Copy, Default, Debug)]
struct Measured {
    node_ns: u64,
    floor: Outcome,
    allocations: u64,
}

fn run(args: &Args) -> Result<ForwardingReport, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let identity = Identity::generate(args.cipher)?;
    let count = args.subscribers + args.publishers;
    // Without a choice the profile that both ends of the default handshake prefer; checked below.
    let profile = args.cipher.unwrap_or(Profile::Gcm256);
    let keys = floor::keys(profile, args.subscribers);
    let habits = Habits { transport_cc: args.feedback, nack_percent: args.nack_percent };
    let mut world =
        World::new(count, keys.clone(), habits).map_err(|error| format!("sockets: {error}"))?;
    let destinations =
        (0..args.subscribers).map(|place| floor::destination(place, world.ports())).collect();
    let floor = Floor::new(profile, keys, destinations)
        .and_then(FloorThread::start)
        .map_err(|error| format!("floor: {error}"))?;

    let memory_before = node_bytes();
    let config = config(args);
    let node = runtime.block_on(Node::start(config)).map_err(|error| error.to_string())?;
    let negotiation =
        Negotiation { audio: args.audio, transport_cc: args.feedback, publishers: args.publishers };
    let apart = cores::leave_to_media(args.shards.into(), 0);
    let described = runtime.block_on(describe(&node, negotiation, &identity, args.subscribers))?;
    let before = cpu::thread_ns("shard-");
    world.join(&described, args.publishers, &identity)?;
    let join_us = (cpu::thread_ns("shard-") - before) as f64 / count as f64 / 1_000.0;
    let negotiated = world.clients()[0].session().map(|session| session.profile);
    if negotiated != Some(profile) {
        return Err(format!("the handshake gave {negotiated:?}, the floor has {profile:?}"));
    }

    let load = Load {
        audio: args.audio,
        frame_packets: args.frame_packets,
        payload: args.payload,
        interval: Duration::from_secs_f64(args.frame_packets as f64 / args.rate),
        spread: Duration::from_millis(args.spread_ms),
        uneven: args.uneven,
    };
    let warm_up = args.warm_up.unwrap_or(if args.feedback { 6.0 } else { 2.0 });
    let counters = Counters::read(&node);
    world.publish(&load, Duration::from_secs_f64(warm_up));
    let warm = Counters::read(&node).since(counters);
    world.restart();
    let memory = node_bytes() - memory_before;

    // For whoever looks at the media threads from outside.
    eprintln!("forwarding: measuring");
    let counters = Counters::read(&node);
    let published = world.published();
    let measured = rounds(args, &node, &mut world, &floor, &load);
    let counters = Counters::read(&node).since(counters);
    let figures = Figures {
        apart,
        join_us,
        counters,
        measured,
        expected: (world.published() - published) * args.subscribers as u64,
        rss_per_subscriber: memory / args.subscribers as f64,
        profile,
        warm,
        turn: Cost::default(),
    };
    runtime.block_on(node.stop());
    let figures = Figures { turn: turn(args, warm_up)?, ..figures };
    Ok(report(args, &world, &figures))
}

/// Memory that is not the benchmark's.
fn node_bytes() -> f64 {
    cpu::other_threads_bytes() as f64 - alloc::own_mapped_bytes() as f64
}

/// A shard's turn without the kernel, for the same load on one shard; nothing else of this process runs meanwhile.
fn turn(args: &Args, warm_up: f64) -> Result<Cost, String> {
    let setup = Setup {
        publishers: args.publishers,
        subscribers: args.subscribers,
        frame_packets: args.frame_packets,
        payload: args.payload,
        uneven: args.uneven,
        rate: args.rate,
        audio: args.audio,
        feedback: args.feedback,
        nack_percent: args.nack_percent,
        profile: args.cipher,
    };
    let warm_up = Duration::from_secs_f64(warm_up);
    let measure = move || {
        alloc::mark_own_thread();
        turn_cost::measure(setup, warm_up, 100_000)
    };
    let thread = std::thread::Builder::new().name("turn".to_owned()).spawn(measure);
    let outcome = thread.map_err(|error| error.to_string())?.join();
    outcome.map_err(|_| "the shard's turn panicked".to_owned())?
}

/// The shipped defaults, on free ports, reachable on loopback.
fn config(args: &Args) -> NodeConfig {
    let default = NodeConfig::default();
    NodeConfig {
        shards: args.shards,
        udp_port: 0,
        tcp_port: Some(0),
        candidates: CandidateConfig { include_loopback: true, ..CandidateConfig::default() },
        // A room on all shards is what more than one is measured for.
        placement: if args.shards > 1 { Placement::RoundRobin } else { default.placement },
        ..default
    }
}

async fn describe(
    node: &NodeHandle,
    negotiation: Negotiation,
    identity: &Identity,
    subscribers: usize,
) -> Result<Vec<Described>, String> {
    let mut room = Room::new(node, negotiation, identity.fingerprint());
    let mut described = Vec::new();
    for place in 0..subscribers + negotiation.publishers {
        let publishes = place.checked_sub(subscribers);
        described.push(room.join(floor::address(place), publishes).await?);
    }
    Ok(described)
}

/// Node and floor take turns.
fn rounds(
    args: &Args,
    node: &NodeHandle,
    world: &mut World,
    floor: &FloorThread,
    load: &Load,
) -> Measured {
    let mut measured = Measured::default();
    let slice = Duration::from_secs_f64(args.duration / f64::from(ROUNDS));
    world.seen.reset();
    let allocations = alloc::shard_allocations();
    for _ in 0..ROUNDS {
        let (before, counters) = (cpu::thread_ns("shard-"), Counters::read(node));
        alloc::arm(true);
        world.publish(load, slice);
        alloc::arm(false);
        measured.node_ns += cpu::thread_ns("shard-") - before;
        let work = floor_work(args, slice, Counters::read(node).since(counters).run_length());
        let outcome = world.run_floor(floor, work);
        measured.floor.add(outcome);
    }
    measured.allocations = alloc::shard_allocations() - allocations;
    measured
}

/// The floor's part of a round: as many packets in the same time, in runs as the node has just made them.
fn floor_work(args: &Args, slice: Duration, run_length: f64) -> Work {
    let packets = args.rate * args.publishers as f64 * slice.as_secs_f64();
    // What one send holds at most.
    let run_length = run_length.clamp(1.0, 60_000.0 / (args.payload + 40) as f64).min(60.0);
    let frames = (packets / run_length).ceil().max(1.0) as u32;
    Work {
        frame_packets: run_length,
        payload: args.payload,
        run: Run::Frame,
        discard: false,
        frames,
        interval: slice / frames,
    }
}

/// Everything that a report is made of.
struct Figures {
    /// Clients have a core of their own.
    apart: bool,
    join_us: f64,
    counters: Counters,
    warm: Counters,
    measured: Measured,
    /// Packets that all subscribers together should have got.
    expected: u64,
    rss_per_subscriber: f64,
    profile: Profile,
    turn: Cost,
}

fn report(args: &Args, world: &World, figures: &Figures) -> ForwardingReport {
    let Figures { counters, measured, .. } = figures;
    let seen = &world.seen;
    let forwarded = (seen.node.packets + seen.repairs).max(1) as f64;
    let ns_per_packet = measured.node_ns as f64 / forwarded;
    let floor_ns = measured.floor.ns_per_packet();
    let Cost { user_ns, floor_ns: no_send, .. } = figures.turn;
    let loss = 1.0 - seen.node.packets as f64 / figures.expected.max(1) as f64;
    ForwardingReport {
        load: LoadReport {
            media: if args.audio { "audio" } else { "video" }.to_owned(),
            publishers: args.publishers,
            subscribers: args.subscribers,
            frame_packets: args.frame_packets,
            payload_bytes: args.payload,
            packets_per_s: args.rate,
            spread_ms: args.spread_ms as f64,
            shards: args.shards,
            nack_percent: args.nack_percent,
            duration_s: args.duration,
        },
        parts_on: parts(args, figures.apart),
        cipher: figures.profile.name().to_owned(),
        packets: seen.node.packets,
        ns_per_packet,
        user_ns,
        floor_ns,
        floor_no_send_ns: no_send,
        ratio: ns_per_packet / floor_ns,
        user_ratio: user_ns / no_send,
        packets_per_s_per_core: 1e9 / ns_per_packet,
        run_length: counters.run_length(),
        allocations_per_packet: measured.allocations as f64 / forwarded,
        p50_us: percentile_us(&seen.node.latency, 50.0),
        p99_us: percentile_us(&seen.node.latency, 99.0),
        p999_us: percentile_us(&seen.node.latency, 99.9),
        floor_p50_us: percentile_us(&seen.floor.latency, 50.0),
        floor_p99_us: percentile_us(&seen.floor.latency, 99.0),
        loss,
        disordered: seen.node.disordered,
        opened: seen.node.opened + seen.floor.opened,
        nacked: seen.nacked,
        retransmitted: counters.retransmitted,
        rss_per_subscriber_bytes: figures.rss_per_subscriber,
        join_us: figures.join_us,
        wrong: wrong(args, world, figures),
    }
}

fn parts(args: &Args, apart: bool) -> Vec<String> {
    let mut parts = vec!["reports 1 Hz".to_owned(), "consent".to_owned(), "MID".to_owned()];
    if args.feedback {
        parts.push("transport-cc 10 Hz, estimator, pacer".to_owned());
    }
    if args.audio {
        parts.push("audio levels, speakers".to_owned());
    }
    if args.uneven {
        parts.push("uneven sizes".to_owned());
    }
    if args.nack_percent > 0.0 {
        parts.push(format!("NACK {} %", args.nack_percent));
    }
    if !apart {
        parts.push("clients share the media threads' cores".to_owned());
    }
    parts
}

/// What must not be.
fn wrong(args: &Args, world: &World, figures: &Figures) -> Vec<String> {
    let seen = &world.seen;
    let mut wrong = Vec::new();
    let mut check = |fine: bool, what: String| {
        if !fine {
            wrong.push(what);
        }
    };
    let (node, floor) = (&seen.node, &seen.floor);
    let dropped = kernel_drops(world.ports());
    check(
        dropped == 0,
        format!("the sinks' own sockets overflowed ({dropped} datagrams): too little CPU for them"),
    );
    let lost = figures.expected.saturating_sub(node.packets);
    check(
        node.packets == figures.expected,
        format!("{lost} of {} packets of the node did not arrive", figures.expected),
    );
    check(world.incomplete() == 0, format!("{} streams are incomplete", world.incomplete()));
    check(
        node.missing == 0 && node.disordered == 0,
        format!("node: {} gaps, {} out of order", node.missing, node.disordered),
    );
    check(node.wrong == 0 && node.opened > 0, format!("node: {} wrong payloads", node.wrong));
    check(seen.wrong_repairs == 0, format!("{} wrong retransmissions", seen.wrong_repairs));
    check(seen.strays == 0, format!("{} strays", seen.strays));
    check(
        floor.wrong == 0 && floor.opened > 0 && floor.disordered == 0,
        format!("floor: {} wrong payloads of {}", floor.wrong, floor.opened),
    );
    let sent = figures.measured.floor.sent;
    check(
        floor.packets == sent && figures.measured.floor.refused == 0,
        format!("floor: {} of {sent} packets arrived", floor.packets),
    );
    let again = figures.counters.retransmitted as f64 / seen.nacked.max(1) as f64;
    check(
        args.nack_percent == 0.0 || again > 0.9,
        format!("{:.1} % of what was asked for again came", again * 100.0),
    );
    check(figures.counters.sends_full == 0, "sends met a full buffer".to_owned());
    check(figures.warm.media_out > 0, "nothing was forwarded while warming up".to_owned());
    wrong
}
