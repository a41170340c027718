//! Meetings as they go, for the fuzzer to begin with.

use super::PEERS;

fn step(op: u8, a: u8, b: u8, body: &[u8]) -> Vec<u8> {
    let mut step = vec![op, a, b, body.len() as u8];
    step.extend(body);
    step
}

/// `World::run` has the operations.
const APPLY: u8 = 0;
const REPORT: u8 = 1;
const REMOVE: u8 = 2;
const MEDIA: u8 = 6;
const WAIT: u8 = 10;

/// Eight packets of one of a peer's streams, with a keyframe.
fn burst(peer: u8, stream: u8, format: u8, level: u8) -> Vec<u8> {
    step(MEDIA, peer, 0xe8 | stream, &[format, 0, 0, level])
}

/// Three more, of which the first is lost and comes again; by FlexFEC where asked.
fn repaired(peer: u8, stream: u8, format: u8, fec: bool) -> Vec<u8> {
    step(MEDIA, peer, 0x54 | stream, &[format, 0, 0, 0, fec.into()])
}

/// Transport-wide feedback: `late` says by how much more each packet is late, in milliseconds.
fn feedback(peer: u8, lost: u8, late: u8) -> Vec<u8> {
    let mut body = vec![lost; 6];
    body.resize(6 + 48, late);
    step(REPORT, peer, 1, &body)
}

/// Of 8 ms.
fn wait(steps: u8) -> Vec<u8> {
    step(WAIT, 0, steps, &[])
}

pub(crate) fn all() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0]];
    // Every format from two publishers, of camera and of simulcast.
    for format in [0, 1, 2, 3, 4, 5, 6, 7, 8, 17] {
        let mut seed = vec![5];
        for _ in 0..3 {
            for peer in 0..2 {
                for stream in 1..4 {
                    seed.extend(burst(peer, stream, format, 3));
                }
                seed.extend(repaired(peer, 1, format, false));
            }
            seed.extend(wait(12));
            (2..5).for_each(|peer| seed.extend(feedback(peer, 0, 5)));
            // Lost and asked for; a keyframe.
            seed.extend(step(REPORT, 2, 0, &[0x24]));
            seed.extend(step(REPORT, 3, 4, &[]));
        }
        seeds.push(seed);
    }
    // A path that narrows, falls silent and widens; with feedback of RFC 8888 (bit 4) and REMB (bit 7), with wishes.
    for bits in [0x02, 0x12, 0x32, 0x82, 0x42] {
        let mut seed = vec![bits];
        for late in [0, 0, 0, 40, 80, 120, 0, 0] {
            for _ in 0..4 {
                seed.extend(burst(0, 1, 0, 0));
                seed.extend(burst(0, 3, 6, 0));
                seed.extend(wait(6));
                seed.extend(feedback(1, if late > 80 { 0x55 } else { 0 }, late));
                seed.extend(step(REPORT, 1, 2, &[0, 0, 0, 0, 0, 0, late, late]));
                seed.extend(step(REPORT, 1, 6, &[20]));
            }
        }
        seeds.push(seed);
    }
    // Sound: silence and speech, RED and not, reports of loss.
    for format in [0, 1] {
        let mut seed = vec![0x83];
        for level in [40, 127, 127, 30] {
            seed.extend(burst(0, 0, format, level));
            seed.extend(wait(20));
            for peer in 1..3 {
                seed.extend(step(REPORT, peer, 3, &[60, 3, 1, 1, 1]));
            }
            seed.extend(step(REPORT, 0, 7, &[0, 9, 9]));
        }
        seeds.push(seed);
    }
    // FlexFEC; wishes that change; who leaves and comes back.
    let mut seed = vec![0x45];
    for peer in 0..PEERS as u8 {
        seed.extend(burst(0, 1, 4, 0));
        seed.extend(repaired(0, 1, 4, true));
        seed.extend(step(APPLY, peer, 0x1f | peer << 5, &[0x0a, 1 << peer, 0x7f, 0x11, 0x22, 0]));
        seed.extend(wait(30));
        seed.extend(step(REMOVE, peer, 2, &[]));
        seed.extend(step(APPLY, peer, 0x0f, &[]));
        seed.extend(step(3, peer, 0, &[]));
        seed.extend(step(4, peer, 0, &[]));
    }
    seeds.push(seed);
    seeds
}
