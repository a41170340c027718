//! A shard's turn without threads, sockets and the kernel: for profilers and instruction counts.
//!
//! `benches/callgrind.sh` counts instructions of [`chappe_benches::rig::Rig::turn`] alone.

use std::{process::ExitCode, time::Duration};

use chappe_benches::{
    rig::{Rig, Setup},
    srtp::Profile,
    turn_cost,
};
use clap::Parser;

/// Drives one shard by hand.
#[derive(Debug, Parser)]
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
    /// Opus packets.
    #[arg(long)]
    audio: bool,
    /// Packets of a frame differ in size by a byte.
    #[arg(long)]
    uneven: bool,
    /// Transport-wide feedback ten times a second.
    #[arg(long)]
    feedback: bool,
    /// Of a hundred packets so many are asked for again.
    #[arg(long, default_value_t = 0.0)]
    nack_percent: f64,
    /// The only SRTP profile that clients offer.
    #[arg(long)]
    cipher: Option<Profile>,
    /// Virtual seconds before anything counts.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// So many turns and no clock: for instruction counts.
    #[arg(long)]
    turns: Option<u64>,
    /// MiB of other memory that are written before each turn, so that nothing of it is in a cache when it begins.
    #[arg(long, conflicts_with = "turns")]
    cold: Option<usize>,
}

/// Of which the median counts.
const COLD_TURNS: usize = 301;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("turn: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
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
    let warm_up = Duration::from_secs_f64(args.warm_up);
    if let Some(turns) = args.turns {
        return count(setup, warm_up, turns);
    }
    if let Some(mib) = args.cold {
        let ns = turn_cost::measure_cold(setup, warm_up, COLD_TURNS, mib << 20)?;
        println!("{ns:.1} ns a packet with {mib} MiB of other memory before each turn");
        return Ok(());
    }
    let cost = turn_cost::measure(setup, warm_up, 200_000)?;
    println!(
        "{:.1} ns a packet, floor without sending {:.1} ns, ratio {:.2}, runs of {:.2}",
        cost.user_ns,
        cost.floor_ns,
        cost.user_ns / cost.floor_ns,
        cost.run_length
    );
    Ok(())
}

/// Says how many packets the counted turns sent; whoever counts divides.
fn count(setup: Setup, warm_up: Duration, turns: u64) -> Result<(), String> {
    let mut rig = Rig::warmed_up(setup, warm_up)?;
    let before = rig.output();
    for _ in 0..turns {
        let inputs = rig.prepare();
        rig.counted_turn(inputs);
    }
    let output = rig.output().since(before);
    println!("packets {} sends {}", output.packets, output.sends);
    Ok(())
}
