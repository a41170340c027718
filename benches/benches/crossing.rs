//! What a packet costs that crosses from one thread to another and is fanned out there: copied once into the other side's memory, or
//! shared by a reference count. CPU of both threads, which are on cores of their own.
//!
//! Both ways move through a ring of one producer and one consumer, and both reuse their memory. Copied, as the relay does it: into a
//! buffer that crosses, from there into the other side's cache, and the buffer goes back. Shared: a count in the packet says whether the
//! other side still has it, and readers copy from the producer's memory. Needs two cores.

use std::{
    hint::{black_box, spin_loop},
    sync::Arc,
    thread,
};

use chappe_benches::{cores, cpu};
use rtrb::RingBuffer;

/// Bytes.
const PACKET: usize = 1_140;
/// Copies for readers in a run.
const COPIES: usize = 400_000;
/// Packets that a side keeps: some seconds of a stream.
const KEPT: usize = 512;
/// On the way at most.
const RING: usize = 256;
/// What either side takes in hand at once: to look at the clock where it waits costs as much as a copy.
const BATCH: usize = 64;
/// Copies of readers that lie beside each other, as in a shard's outbox.
const READ: usize = 32;
/// Readers behind the crossing.
const READERS: [usize; 4] = [1, 10, 50, 250];

fn main() {
    println!(
        "CPU of both threads for each packet that crosses, ns; what readers alone take is in it"
    );
    println!("| readers | copied | shared | copied / shared |");
    println!("| --- | --- | --- | --- |");
    for readers in READERS {
        // In turns; the median of five.
        let mut rounds: Vec<[f64; 2]> =
            (0..5).map(|_| [copied(readers), shared(readers)]).collect();
        let mut median = |way: usize| {
            rounds.sort_by(|a, b| a[way].total_cmp(&b[way]));
            rounds[rounds.len() / 2][way]
        };
        let (copied, shared) = (median(0), median(1));
        println!("| {readers} | {copied:.0} | {shared:.0} | {:.2} |", copied / shared);
    }
}

/// How many batches cross, so that all runs take about as long.
fn batches(readers: usize) -> usize {
    (COPIES / readers.max(4)).div_ceil(BATCH)
}

/// Runs both sides on cores of their own: CPU of both for each packet, without what they waited for each other.
fn both(
    batches: usize,
    produce: impl FnOnce(&mut Idle) + Send,
    consume: impl FnOnce(&mut Idle) + Send,
) -> f64 {
    let on = |core: usize, work: Box<dyn FnOnce(&mut Idle) + Send + '_>| {
        cores::share_with_media(core);
        let (mut idle, begun) = (Idle(0), cpu::own_ns());
        work(&mut idle);
        cpu::own_ns() - begun - idle.0
    };
    let total = thread::scope(|scope| {
        let producer = scope.spawn(|| on(0, Box::new(produce)));
        let consumer = scope.spawn(|| on(1, Box::new(consume)));
        producer.join().unwrap_or_default() + consumer.join().unwrap_or_default()
    });
    total as f64 / (batches * BATCH) as f64
}

/// Time that a side spent in waiting, ns. It spins: what sleeps has to be woken, which is no matter of what crosses.
struct Idle(u64);

impl Idle {
    fn wait(&mut self, ready: impl Fn() -> bool) {
        if ready() {
            return;
        }
        let since = cpu::own_ns();
        while !ready() {
            spin_loop();
        }
        self.0 += cpu::own_ns() - since;
    }
}

/// What arrives, and into what it goes at the publisher's side in either way.
fn arrive(number: usize, into: &mut [u8]) {
    let datagram = [number as u8; PACKET];
    into.copy_from_slice(black_box(&datagram));
}

/// Each reader gets a copy, as a subscriber's packet is written.
fn read(readers: usize, packet: &[u8], out: &mut [u8]) {
    for reader in 0..readers {
        let at = reader % READ * PACKET;
        out[at..at + PACKET].copy_from_slice(packet);
        black_box(&mut out[at]);
    }
}

fn copied(readers: usize) -> f64 {
    let count = batches(readers);
    let (mut there, mut arrived) = RingBuffer::<Vec<u8>>::new(RING);
    let (mut back, mut spent) = RingBuffer::<Vec<u8>>::new(RING);
    for _ in 0..RING {
        back.push(Vec::with_capacity(PACKET)).expect("a place for each");
    }
    let produce = move |idle: &mut Idle| {
        let mut cache = vec![0; KEPT * PACKET];
        for number in 0..count * BATCH {
            if number % BATCH == 0 {
                idle.wait(|| spent.slots() >= BATCH);
            }
            let place = number % KEPT * PACKET;
            let packet = &mut cache[place..place + PACKET];
            arrive(number, packet);
            let mut buffer = spent.pop().expect("it was waited for");
            buffer.clear();
            buffer.extend_from_slice(packet);
            there.push(buffer).expect("as many places as buffers");
        }
    };
    let consume = move |idle: &mut Idle| {
        let (mut cache, mut out) = (vec![0; KEPT * PACKET], vec![0; READ * PACKET]);
        for number in 0..count * BATCH {
            if number % BATCH == 0 {
                idle.wait(|| arrived.slots() >= BATCH);
            }
            let buffer = arrived.pop().expect("it was waited for");
            let place = number % KEPT * PACKET;
            let packet = &mut cache[place..place + PACKET];
            packet.copy_from_slice(&buffer);
            back.push(buffer).expect("as many places as buffers");
            read(readers, packet, &mut out);
        }
    };
    both(count, produce, consume)
}

fn shared(readers: usize) -> f64 {
    let count = batches(readers);
    let (mut there, mut arrived) = RingBuffer::<Arc<[u8; PACKET]>>::new(RING);
    let produce = move |idle: &mut Idle| {
        // More than the other side keeps and has still to take, so that the next one is always free.
        let mut cache: Vec<_> = (0..KEPT + 2 * RING).map(|_| Arc::new([0; PACKET])).collect();
        for number in 0..count * BATCH {
            if number % BATCH == 0 {
                idle.wait(|| there.slots() >= BATCH);
            }
            let place = number % cache.len();
            let packet = &mut cache[place];
            arrive(number, Arc::get_mut(packet).expect("nobody has it any more"));
            there.push(Arc::clone(packet)).expect("it was waited for");
        }
    };
    let consume = move |idle: &mut Idle| {
        let nothing = Arc::new([0; PACKET]);
        let (mut kept, mut out) = (vec![nothing; KEPT], vec![0; READ * PACKET]);
        for number in 0..count * BATCH {
            if number % BATCH == 0 {
                idle.wait(|| arrived.slots() >= BATCH);
            }
            let packet = arrived.pop().expect("it was waited for");
            read(readers, &packet[..], &mut out);
            kept[number % KEPT] = packet;
        }
    };
    both(count, produce, consume)
}
