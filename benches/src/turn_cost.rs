//! What a turn of a shard costs beside the floor, both with nothing sent.

use std::time::Duration;

use crate::{
    cpu,
    floor::{self, Floor, Run, Work},
    rig::{Inputs, Output, Rig, Setup},
};

/// What a turn came to beside the floor with nothing sent.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cost {
    /// CPU time of a packet.
    pub user_ns: f64,
    /// The same of the floor, with the same cipher and sizes.
    pub floor_ns: f64,
    /// Packets of one send.
    pub run_length: f64,
}

/// Rounds of which the median counts.
const ROUNDS: usize = 9;

/// Measures on the calling thread; `warm_up` and `packets` (of each round) at least.
pub fn measure(setup: Setup, warm_up: Duration, packets: u64) -> Result<Cost, String> {
    let mut rig = Rig::warmed_up(setup, warm_up)?;
    let turns = packets.div_ceil(rig.packets_per_turn()).max(8);
    let keys = floor::keys(rig.profile(), setup.subscribers);
    let nowhere = vec![([127, 0, 0, 1], 9).into(); setup.subscribers];
    let mut floor = Floor::new(rig.profile(), keys, nowhere).map_err(|error| error.to_string())?;
    let work = Work {
        frame_packets: setup.frame_packets as f64,
        payload: setup.payload,
        run: Run::Frame,
        discard: true,
        frames: (turns * setup.publishers as u64) as u32,
        interval: Duration::ZERO,
    };
    let (mut turn_ns, mut floor_ns, mut output) = (Vec::new(), Vec::new(), Output::default());
    for _ in 0..ROUNDS {
        let inputs: Vec<Inputs> = (0..turns).map(|_| rig.prepare()).collect();
        let (before, cpu) = (rig.output(), cpu::own_ns());
        inputs.into_iter().for_each(|inputs| rig.turn(inputs));
        let cpu = cpu::own_ns() - cpu;
        let sent = rig.output().since(before);
        turn_ns.push(cpu as f64 / sent.packets.max(1) as f64);
        floor_ns.push(floor.work(&work, |_| {}).ns_per_packet());
        output = Output {
            packets: output.packets + sent.packets,
            sends: output.sends + sent.sends,
            bytes: output.bytes + sent.bytes,
        };
    }
    if output.packets == 0 {
        return Err("nothing left the shard".to_owned());
    }
    Ok(Cost {
        user_ns: median(&mut turn_ns),
        floor_ns: median(&mut floor_ns),
        run_length: output.run_length(),
    })
}

/// CPU time of a packet, in nanoseconds, where nothing that a turn needs is in a cache when it begins: `swept` bytes of other memory
/// were written before. The median of `turns`, so that what the machine does now and then counts for nothing.
pub fn measure_cold(
    setup: Setup,
    warm_up: Duration,
    turns: usize,
    swept: usize,
) -> Result<f64, String> {
    let mut rig = Rig::warmed_up(setup, warm_up)?;
    let mut other = vec![0_u8; swept];
    let mut turn_ns = Vec::new();
    for _ in 0..turns {
        let inputs = rig.prepare();
        other.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
        let (before, cpu) = (rig.output(), cpu::own_ns());
        rig.turn(inputs);
        let cpu = cpu::own_ns() - cpu;
        let sent = rig.output().since(before).packets;
        if sent > 0 {
            turn_ns.push(cpu as f64 / sent as f64);
        }
    }
    if turn_ns.is_empty() {
        return Err("nothing left the shard".to_owned());
    }
    Ok(median(&mut turn_ns))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
