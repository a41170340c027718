//! What floods of bad input do to forwarding for others: `--seconds` each of garbage, of STUN whose integrity is wrong, of
//! RTCP that is nobody's, of replayed SRTP, and of NACKs for packets that are long gone.
//!
//! Bounded in time and in what is offered. Exits with 1 when a legitimate packet is lost or disordered without the sinks' own
//! sockets having overflowed, when a drop has no reason, or when `p99` is more than three times that of the quiet case.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use chappe_benches::{
    client::Habits,
    cores, floor,
    handshake::Identity,
    port::{Port, kernel_drops, kernel_drops_of},
    report::percentile_us,
    room::{Negotiation, Room, metric},
    rtcp,
    srtp::Profile,
    stun,
    world::{Load, World},
};
use chappe_sfu::{
    config::{CandidateConfig, NodeConfig},
    control::{Node, NodeHandle},
};
use clap::Parser;
use comfy_table::{Table, presets::ASCII_MARKDOWN};

/// Floods a node and watches those it forwards for.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Peers that receive.
    #[arg(long, default_value_t = 50)]
    subscribers: usize,
    /// Datagrams offered in a second.
    #[arg(long, default_value_t = 1_000_000)]
    offered: u64,
    /// Of each flood. Frames come thirty times a second: one that the host held up is not to be a hundredth of them.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
}

/// What is sent again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Quiet,
    Garbage,
    WrongIntegrity,
    StrangeRtcp,
    Replayed,
    OldNacks,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Quiet,
        Self::Garbage,
        Self::WrongIntegrity,
        Self::StrangeRtcp,
        Self::Replayed,
        Self::OldNacks,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Garbage => "garbage",
            Self::WrongIntegrity => "STUN, wrong integrity",
            Self::StrangeRtcp => "RTCP of strangers",
            Self::Replayed => "replayed SRTP",
            Self::OldNacks => "NACKs for old packets",
        }
    }
}

/// Datagrams of one size, one behind the other, and where they come from.
struct Ammunition {
    bytes: Vec<u8>,
    size: usize,
    from: Ipv4Addr,
    port: Arc<Port>,
    /// Once through and no more: they may not be sent twice.
    once: bool,
}

/// Of one send.
const RUN: usize = 40;

/// NACKs that are sealed ahead, at most: each is sent once and takes 70 bytes of memory.
const SEALED: usize = 6_000_000;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("flood: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let identity = Identity::generate(None)?;
    let count = args.subscribers + 1;
    let keys = floor::keys(Profile::Gcm256, 1);
    let mut world = World::new(count, keys, Habits::default()).map_err(|e| e.to_string())?;
    let config = NodeConfig {
        shards: 1,
        udp_port: 0,
        tcp_port: Some(0),
        candidates: CandidateConfig { include_loopback: true, ..CandidateConfig::default() },
        ..NodeConfig::default()
    };
    let node = runtime.block_on(Node::start(config)).map_err(|error| error.to_string())?;
    if !cores::leave_to_media(1, 0) {
        eprintln!("flood: no core for the clients alone: they hold up media, and p99 says little");
    }
    let negotiation = Negotiation { audio: false, transport_cc: false, publishers: 1 };
    let described = runtime.block_on(async {
        let mut room = Room::new(&node, negotiation, identity.fingerprint());
        let mut described = Vec::new();
        for place in 0..count {
            let publishes = place.checked_sub(args.subscribers);
            described.push(room.join(floor::address(place), publishes).await?);
        }
        Ok::<_, String>(described)
    })?;
    world.join(&described, 1, &identity)?;
    let load = Load {
        audio: false,
        frame_packets: 4,
        payload: 1_100,
        interval: Duration::from_secs_f64(4.0 / 120.0),
        spread: Duration::ZERO,
        uneven: false,
    };
    world.publish(&load, Duration::from_secs(1));
    world.restart();

    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "flood",
        "offered/s",
        "read/s",
        "p50 us",
        "p99 us",
        "lost",
        "kernel drops",
        "drops by reason",
    ]);
    let (mut quiet, mut fine) = (0.0, true);
    let to = described[0].node;
    for kind in Kind::ALL {
        let ammunition = ammunition(kind, args, &mut world, &described[0].username)?;
        let row = flood(args, &node, &mut world, &load, ammunition, to);
        let p99 = row.p99_us;
        if kind == Kind::Quiet {
            quiet = p99;
        }
        table.add_row([
            kind.name().to_owned(),
            format!("{:.0}", row.offered as f64 / args.seconds),
            format!("{:.0}", row.read as f64 / args.seconds),
            format!("{:.0}", row.p50_us),
            format!("{p99:.0}"),
            row.lost.to_string(),
            row.kernel_drops.to_string(),
            row.drops.clone(),
        ]);
        let own_fault = row.sink_drops > 0;
        if own_fault {
            eprintln!(
                "{}: the sinks' own sockets overflowed: too little CPU for them",
                kind.name()
            );
        }
        let asked = if kind == Kind::Quiet { 0.0 } else { args.offered as f64 * args.seconds };
        if (row.offered as f64) < 0.9 * asked {
            eprintln!(
                "WRONG: {}: no more than {} datagrams were offered",
                kind.name(),
                row.offered
            );
            fine = false;
        }
        if row.lost > 0 && !own_fault {
            eprintln!("WRONG: {}: {} packets lost", kind.name(), row.lost);
            fine = false;
        }
        if p99 > 3.0 * quiet {
            eprintln!("WRONG: {}: p99 is {:.1} times the quiet one", kind.name(), p99 / quiet);
            fine = false;
        }
        if row.unexplained() > row.offered / 100 {
            eprintln!("WRONG: {}: {} datagrams without a reason", kind.name(), row.unexplained());
            fine = false;
        }
    }
    println!("{table}");
    runtime.block_on(node.stop());
    Ok(fine)
}

/// What came of one flood.
#[derive(Default)]
struct Row {
    offered: u64,
    read: u64,
    dropped: u64,
    nack_only: bool,
    p50_us: f64,
    p99_us: f64,
    lost: u64,
    kernel_drops: u64,
    sink_drops: u64,
    drops: String,
}

impl Row {
    /// Datagrams of the flood that were neither dropped for a reason nor taken. The kernel counts what came as one send as one.
    fn unexplained(&self) -> u64 {
        if self.nack_only {
            return 0;
        }
        self.offered.saturating_sub(self.dropped + self.kernel_drops * RUN as u64)
    }
}

fn flood(
    args: &Args,
    node: &NodeHandle,
    world: &mut World,
    load: &Load,
    ammunition: Option<Ammunition>,
    to: SocketAddr,
) -> Row {
    let drops_before = drops(node);
    let read_before = metric(node, "chappe_sfu_datagrams_in_total", "");
    let kernel_before = kernel_drops_of(&[to.port()]);
    let sinks_before = kernel_drops(world.ports());
    let published = world.published();
    world.seen.reset();
    let stop = Arc::new(AtomicBool::new(false));
    let offered = Arc::new(AtomicU64::new(0));
    let nack_only = ammunition.as_ref().is_some_and(|ammunition| ammunition.once);
    let thread = ammunition.map(|ammunition| {
        let (stop, offered, rate) = (Arc::clone(&stop), Arc::clone(&offered), args.offered);
        thread::spawn(move || {
            cores::leave_to_media(1, 1);
            fire(&ammunition, rate, to, &stop, &offered);
        })
    });
    world.publish(load, Duration::from_secs_f64(args.seconds));
    stop.store(true, Relaxed);
    if let Some(thread) = thread {
        let _ = thread.join();
    }
    let expected = (world.published() - published) * args.subscribers as u64;
    // What the flood left in the node's socket comes late, which is not lost.
    world.wait_for(expected, Duration::from_secs(3));
    let after = drops(node);
    let by_reason: Vec<(String, u64)> = after
        .iter()
        .zip(&drops_before)
        .map(|((name, now), (_, before))| (name.clone(), now - before))
        .filter(|(_, count)| *count > 0)
        .collect();
    let node_seen = &world.seen.node;
    Row {
        offered: offered.load(Relaxed),
        read: metric(node, "chappe_sfu_datagrams_in_total", "") - read_before,
        dropped: by_reason.iter().map(|(_, count)| count).sum(),
        nack_only,
        p50_us: percentile_us(&node_seen.latency, 50.0),
        p99_us: percentile_us(&node_seen.latency, 99.0),
        lost: expected.saturating_sub(node_seen.packets),
        kernel_drops: kernel_drops_of(&[to.port()]) - kernel_before,
        sink_drops: kernel_drops(world.ports()) - sinks_before,
        drops: by_reason
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// The node's drops by reason.
fn drops(node: &NodeHandle) -> Vec<(String, u64)> {
    let text = node.metrics();
    let of_line = |line: &str| {
        let rest = line.strip_prefix("chappe_sfu_drops_total{")?;
        let (labels, value) = rest.split_once("} ")?;
        let reason = labels.split(',').find_map(|label| label.strip_prefix("reason=\""))?;
        Some((reason.trim_end_matches('"').to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(of_line).collect()
}

/// Sends on time until told to stop, or out of what there is.
fn fire(
    ammunition: &Ammunition,
    rate: u64,
    to: SocketAddr,
    stop: &AtomicBool,
    offered: &AtomicU64,
) {
    let Ammunition { bytes, size, from, port, once } = ammunition;
    let begun = Instant::now();
    let mut sent = 0;
    let mut runs = bytes.chunks(size * RUN);
    while !stop.load(Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        // After a pause nothing is made up for: a second's worth at once is another test.
        sent = sent.max(due.saturating_sub(rate / 100));
        while sent < due {
            let Some(run) = runs.next() else {
                if *once {
                    return;
                }
                runs = bytes.chunks(size * RUN);
                continue;
            };
            let count = run.len().div_ceil(*size) as u64;
            sent += count;
            if port.send(*from, to, run, Some(*size)) {
                offered.fetch_add(count, Relaxed);
            }
        }
        thread::sleep(Duration::from_micros(100));
    }
}

fn ammunition(
    kind: Kind,
    args: &Args,
    world: &mut World,
    username: &str,
) -> Result<Option<Ammunition>, String> {
    let stranger = || Port::bind().map(Arc::new).map_err(|error| error.to_string());
    let from = Ipv4Addr::new(127, 9, 9, 9);
    let many = 4_000;
    Ok(match kind {
        Kind::Quiet => None,
        Kind::Garbage => {
            // All first bytes: each class of datagrams has its share.
            let size = 200;
            let bytes =
                (0..many * size).map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56);
            let bytes = bytes.map(|byte| byte as u8).collect();
            Some(Ammunition { bytes, size, from, port: stranger()?, once: false })
        }
        Kind::WrongIntegrity => {
            let key = stun::integrity_key("not-the-password-of-the-node");
            let mut bytes = Vec::new();
            for n in 0..many as u64 {
                let mut transaction = [9; 12];
                transaction[4..].copy_from_slice(&n.to_be_bytes());
                bytes.extend(stun::binding_request(username, &key, transaction));
            }
            let size = bytes.len() / many;
            Some(Ammunition { bytes, size, from, port: stranger()?, once: false })
        }
        Kind::StrangeRtcp => {
            // As long as a sealed receiver report.
            let size = 60;
            let bytes = [0x81, 201, 0, 7].into_iter().chain([9; 56]).cycle().take(many * size);
            Some(Ammunition { bytes: bytes.collect(), size, from, port: stranger()?, once: false })
        }
        Kind::Replayed => {
            let (from, port, packets) = world.replays().ok_or("nothing was published")?;
            let size = packets.first().map_or(0, Vec::len);
            let bytes = packets.iter().filter(|packet| packet.len() == size).flatten().copied();
            Some(Ammunition {
                bytes: bytes.collect(),
                size,
                from,
                port: Arc::new(port),
                once: false,
            })
        }
        Kind::OldNacks => {
            let total = (args.offered as f64 * args.seconds) as usize;
            let wanted: Vec<u16> = (20_000..20_010).collect();
            let (from, port, bytes, size) = world
                .sealed_reports(0, total.min(SEALED), |out| {
                    rtcp::nack(chappe_benches::room::ssrc(0), &wanted, out);
                })
                .ok_or("no session")?;
            Some(Ammunition { bytes, size, from, port: Arc::new(port), once: true })
        }
    })
}
