//! The least any SFU can do, back to back: what a subscriber's packet costs before anybody has written an SFU.
//!
//! One thread writes a header, copies the payload, seals and sends to each destination in turn; another reads on a few
//! sockets and checks. Exits with 1 when something is lost, disordered or wrong.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use chappe_benches::{
    cores,
    floor::{self, Floor, Outcome, Run, Work},
    packet,
    port::{Port, Slots},
    sink::{SAMPLE, Stream, Tally},
    srtp::{Cipher, Profile},
};
use clap::Parser;
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde::Serialize;

/// Measures the floor.
#[derive(Debug, Parser)]
struct Args {
    /// Bytes of a payload.
    #[arg(long, default_value_t = 1_100)]
    payload: usize,
    /// Packets of a frame, which are one send with GSO.
    #[arg(long, default_value_t = 4)]
    frame_packets: usize,
    /// Destinations.
    #[arg(long, default_value_t = 500)]
    destinations: usize,
    /// The cipher; all of them where not given.
    #[arg(long)]
    cipher: Option<Profile>,
    /// Packets of each row.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u64,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    cipher: &'static str,
    send: &'static str,
    payload_bytes: usize,
    frame_packets: usize,
    destinations: usize,
    ns_per_packet: f64,
    packets_per_s_per_core: f64,
    opened: u64,
    wrong: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let fits = args.frame_packets * (args.payload + 40) <= 60_000;
    if args.payload < packet::MIN_PAYLOAD
        || args.destinations == 0
        || args.frame_packets == 0
        || !fits
    {
        eprintln!("floor: payloads of 30 bytes or more, frames that fit into one send");
        return ExitCode::from(2);
    }
    let all = [Profile::Gcm128, Profile::Gcm256, Profile::CmSha1];
    let ciphers = args.cipher.map_or(all.to_vec(), |one| vec![one]);
    let mut rows = Vec::new();
    for profile in ciphers {
        match measure(&args, profile) {
            Ok(more) => rows.extend(more),
            Err(error) => {
                eprintln!("floor: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&rows).unwrap_or_default());
    } else {
        print(&rows);
    }
    let wrong = rows
        .iter()
        .filter_map(|row| row.wrong.as_ref())
        .inspect(|wrong| eprintln!("WRONG: {wrong}"));
    if wrong.count() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "cipher",
        "send",
        "payload",
        "frame",
        "destinations",
        "ns/packet",
        "packets/s/core",
    ]);
    for row in rows {
        table.add_row([
            row.cipher.to_owned(),
            row.send.to_owned(),
            row.payload_bytes.to_string(),
            row.frame_packets.to_string(),
            row.destinations.to_string(),
            format!("{:.0}", row.ns_per_packet),
            format!("{:.2} M", row.packets_per_s_per_core / 1e6),
        ]);
    }
    println!("{table}");
}

/// One row for each way to send.
fn measure(args: &Args, profile: Profile) -> Result<Vec<Row>, String> {
    let keys = floor::keys(profile, args.destinations);
    let sinks = Sinks::start(args.destinations, Arc::clone(&keys))?;
    let mut floor = Floor::new(profile, keys, sinks.destinations.clone())
        .map_err(|error| format!("socket: {error}"))?;
    let per_frame = (args.frame_packets * args.destinations) as u64;
    let frames = (args.packets / per_frame).max(3) as u32;
    let ways = [
        ("none", Run::Frame, true),
        ("one by one", Run::Packet, false),
        ("GSO", Run::Frame, false),
    ];
    let mut rows = Vec::new();
    for (send, run, discard) in ways {
        let work = Work {
            frame_packets: args.frame_packets as f64,
            payload: args.payload,
            run,
            discard,
            frames,
            interval: Duration::ZERO,
        };
        let received = Arc::clone(&sinks.received);
        let base = received.load(Relaxed);
        let thread = thread::Builder::new().name("floor".to_owned()).spawn(move || {
            cores::share_with_media(0);
            // A warm-up of two frames, then the sinks are never more than two frames behind.
            let behind = |sent: u64| sent.saturating_sub(received.load(Relaxed) - base);
            let warm = floor.work(&Work { frames: 2, ..work }, |_| {});
            let outcome = floor.work(&work, |sent| {
                let patience = Instant::now() + Duration::from_secs(2);
                while !work.discard
                    && behind(sent + warm.sent) > 2 * per_frame
                    && Instant::now() < patience
                {
                    thread::sleep(Duration::from_micros(100));
                }
            });
            (floor, warm, outcome)
        });
        let (back, warm, outcome) =
            thread.map_err(|error| error.to_string())?.join().map_err(|_| "the floor panicked")?;
        floor = back;
        let sent = if discard { 0 } else { warm.sent + outcome.sent };
        sinks.wait_for(base + sent);
        rows.push(row(args, profile, send, &outcome, sinks.received.load(Relaxed) - base, sent));
    }
    let (opened, wrong) = sinks.stop();
    for row in &mut rows {
        row.opened = opened;
        if let Some(wrong) = &wrong {
            row.wrong.get_or_insert_with(|| wrong.clone());
        }
    }
    Ok(rows)
}

fn row(
    args: &Args,
    profile: Profile,
    send: &'static str,
    outcome: &Outcome,
    arrived: u64,
    sent: u64,
) -> Row {
    let ns = outcome.ns_per_packet();
    let fine = arrived == sent && outcome.refused == 0;
    Row {
        cipher: profile.name(),
        send,
        payload_bytes: args.payload,
        frame_packets: args.frame_packets,
        destinations: args.destinations,
        ns_per_packet: ns,
        packets_per_s_per_core: 1e9 / ns,
        opened: 0,
        wrong: (!fine).then(|| format!("{arrived} of {sent} arrived, {} refused", outcome.refused)),
    }
}

/// A thread that reads and checks.
struct Sinks {
    destinations: Vec<std::net::SocketAddr>,
    received: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<Tally>,
}

impl Sinks {
    fn start(count: usize, keys: Arc<[Cipher]>) -> Result<Self, String> {
        let ports: Vec<Port> = (0..count.div_ceil(100).max(4))
            .map(|_| Port::bind())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("sockets: {error}"))?;
        let destinations = (0..count).map(|place| floor::destination(place, &ports)).collect();
        let received = Arc::new(AtomicU64::new(0));
        let ended = Arc::new(AtomicBool::new(false));
        let (counter, stop) = (Arc::clone(&received), Arc::clone(&ended));
        let thread = thread::spawn(move || read(&ports, &keys, &counter, &stop));
        Ok(Self { destinations, received, ended, thread })
    }

    fn wait_for(&self, count: u64) {
        let patience = Instant::now() + Duration::from_secs(2);
        while self.received.load(Relaxed) < count && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many packets were opened, and what was wrong.
    fn stop(self) -> (u64, Option<String>) {
        self.ended.store(true, Relaxed);
        let Ok(tally) = self.thread.join() else {
            return (0, Some("the sinks panicked".to_owned()));
        };
        // What was written and not sent leaves a gap in the numbers, the same at each destination.
        let fine = tally.wrong == 0 && tally.disordered == 0 && tally.opened > 0;
        let wrong = format!("{} wrong, {} disordered", tally.wrong, tally.disordered);
        (tally.opened, (!fine).then_some(wrong))
    }
}

fn read(ports: &[Port], keys: &[Cipher], received: &AtomicU64, ended: &AtomicBool) -> Tally {
    cores::leave_to_media(1, 0);
    let mut slots = Slots::new();
    let mut streams = vec![Stream::default(); keys.len()];
    let mut tally = Tally::default();
    while !ended.load(Relaxed) {
        let before = tally.packets;
        for port in ports {
            port.receive(&mut slots, |arrival, datagram| {
                let place = floor::place(arrival.client).unwrap_or(usize::MAX);
                let (Some(stream), Some(key), Some(parsed)) =
                    (streams.get_mut(place), keys.get(place), packet::parse(datagram))
                else {
                    tally.wrong += 1;
                    return;
                };
                let number = stream.count(parsed.seq, datagram.len(), &mut tally);
                if tally.packets.is_multiple_of(SAMPLE) {
                    let at = arrival.at.as_nanos() as u64;
                    stream.open(key, number, &parsed, datagram, at, &mut tally);
                }
            });
        }
        received.store(tally.packets, Relaxed);
        if tally.packets == before {
            thread::sleep(Duration::from_micros(50));
        }
    }
    tally
}
