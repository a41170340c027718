//! The least any SFU can do: for each subscriber a header, a copy of the payload, a seal, a send.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    alloc, cores, cpu,
    packet::{self, Place, Stamp},
    port::Port,
    srtp::{Cipher, Profile},
};

/// All destinations get the same source; each has its own numbers and keys.
pub const SSRC: u32 = 0xf100_0000;

/// Bytes of the header: fixed part and one element of header extension, as a media packet has it.
pub const HEADER: usize = 20;

/// Keys of the destinations, made of nothing secret.
pub fn keys(profile: Profile, destinations: usize) -> Arc<[Cipher]> {
    let key = |n: usize| {
        let mut master = [0x42; 32];
        master[..8].copy_from_slice(&n.to_be_bytes());
        let (key, salt) = match profile {
            Profile::Gcm256 => (&master[..], 12),
            Profile::Gcm128 => (&master[..16], 12),
            Profile::CmSha1 => (&master[..16], 14),
        };
        Cipher::derive(profile, key, &[7; 14][..salt], 0).expect("lengths are the profile's")
    };
    (0..destinations).map(key).collect()
}

/// What is sent, how often, to whom.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Packets of a frame, on average; frames differ by one packet where it is no whole number.
    pub frame_packets: f64,
    /// Bytes of a payload.
    pub payload: usize,
    /// Packets of one send; a frame has a whole number of them.
    pub run: Run,
    /// Nothing is sent: what remains is header, copy and cipher.
    pub discard: bool,
    /// Frames.
    pub frames: u32,
    /// From one frame to the next; zero is back to back.
    pub interval: Duration,
}

/// How a frame leaves to one destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// In one send (GSO).
    Frame,
    /// One send a packet.
    Packet,
}

/// What it came to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Outcome {
    /// Packets that the kernel took.
    pub sent: u64,
    /// Packets that it did not take.
    pub refused: u64,
    /// CPU time of the thread.
    pub cpu_ns: u64,
}

impl Outcome {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.refused += other.refused;
        self.cpu_ns += other.cpu_ns;
    }

    /// CPU time of a packet.
    pub fn ns_per_packet(&self) -> f64 {
        self.cpu_ns as f64 / (self.sent + self.refused).max(1) as f64
    }
}

/// A sender with its own socket.
#[derive(Debug)]
pub struct Floor {
    port: Port,
    keys: Arc<[Cipher]>,
    destinations: Vec<SocketAddr>,
    tag_len: usize,
    seq: u64,
    index: u32,
    frame: u32,
    payload: Vec<u8>,
    arena: Vec<u8>,
}

impl Floor {
    /// To these destinations, which have these keys.
    pub fn new(
        profile: Profile,
        keys: Arc<[Cipher]>,
        destinations: Vec<SocketAddr>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            port: Port::bind()?,
            keys,
            destinations,
            tag_len: profile.tag_len(),
            seq: 1_000,
            index: 1_000,
            frame: 0,
            payload: Vec::new(),
            arena: vec![0; 65_536],
        })
    }

    /// Sends as told. `wait` is called before each frame with what was sent so far: it may hold back.
    pub fn work(&mut self, work: &Work, mut wait: impl FnMut(u64)) -> Outcome {
        let mut outcome = Outcome::default();
        let before = cpu::own_ns();
        let begun = Instant::now();
        for n in 0..work.frames {
            wait(outcome.sent);
            let at = begun + work.interval * n;
            thread::sleep(at.saturating_duration_since(Instant::now()));
            let packets = |frames: u32| (f64::from(frames) * work.frame_packets).round() as usize;
            self.send_frame(work, packets(n + 1) - packets(n), &mut outcome);
        }
        outcome.cpu_ns = cpu::own_ns() - before;
        outcome
    }

    fn send_frame(&mut self, work: &Work, packets: usize, outcome: &mut Outcome) {
        let len = HEADER + work.payload + self.tag_len;
        self.write_payloads(work, packets);
        for (key, to) in self.keys.iter().zip(&self.destinations) {
            let mut filled = 0;
            for n in 0..packets {
                let packet = &mut self.arena[filled * len..(filled + 1) * len];
                let seq = self.seq + n as u64;
                let last = n + 1 == packets;
                let fixed = packet::header(last, packet::VIDEO, seq as u16, self.frame, SSRC);
                packet[..12].copy_from_slice(&fixed);
                packet[0] |= 0x10;
                packet[12..HEADER].copy_from_slice(&[
                    0xbe,
                    0xde,
                    0,
                    1,
                    packet::MID << 4,
                    b'0',
                    0,
                    0,
                ]);
                let payload = &self.payload[n * work.payload..(n + 1) * work.payload];
                packet[HEADER..HEADER + work.payload].copy_from_slice(payload);
                key.seal(SSRC, seq, HEADER, packet).expect("there is room for the tag");
                filled += 1;
                if work.run == Run::Frame && !last {
                    continue;
                }
                let run = &self.arena[..filled * len];
                let taken =
                    work.discard || self.port.send(Ipv4Addr::LOCALHOST, *to, run, Some(len));
                *(if taken { &mut outcome.sent } else { &mut outcome.refused }) += filled as u64;
                filled = 0;
            }
        }
        if work.discard {
            // Nobody misses what was not sent: the next frame takes the same numbers.
            return;
        }
        self.seq += packets as u64;
        self.index += packets as u32;
        self.frame += 1;
    }

    /// Payloads of a frame, as the cache of an SFU holds them.
    fn write_payloads(&mut self, work: &Work, packets: usize) {
        self.payload.resize(packets * work.payload, 0);
        let sent = unix_ns();
        for (n, payload) in self.payload.chunks_exact_mut(work.payload).enumerate() {
            let (first, last) = (n == 0, n + 1 == packets);
            let place = Place { frame: self.frame, first, last, keyframe: false };
            let stamp = Stamp { index: self.index + n as u32, sent };
            packet::write_payload(false, place, stamp, payload);
        }
    }
}

/// Now, as the kernel stamps datagrams.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

const NAME: &str = "floor";

/// A thread that works when told, on the first core, as a node's first media thread does.
#[derive(Debug)]
pub struct FloorThread {
    orders: mpsc::Sender<Work>,
    outcomes: mpsc::Receiver<Outcome>,
}

impl FloorThread {
    /// Starts it.
    pub fn start(mut floor: Floor) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::channel::<Work>();
        let (done, outcomes) = mpsc::channel();
        thread::Builder::new().name(NAME.to_owned()).spawn(move || {
            alloc::mark_own_thread();
            cores::share_with_media(0);
            while let Ok(work) = inbox.recv() {
                let _ = done.send(floor.work(&work, |_| {}));
            }
        })?;
        Ok(Self { orders, outcomes })
    }

    /// Has it work.
    pub fn begin(&self, work: Work) {
        let _ = self.orders.send(work);
    }

    /// The outcome, once it is done.
    pub fn poll(&self) -> Option<Outcome> {
        self.outcomes.try_recv().ok()
    }
}

/// Address of client number `place` (from 0).
pub fn address(place: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + place as u32)
}

/// Which client an address is of.
pub fn place(address: Ipv4Addr) -> Option<usize> {
    let behind = u32::from(address).checked_sub(u32::from(Ipv4Addr::new(127, 1, 0, 1)))?;
    Some(behind as usize)
}

/// Where a client is reached.
pub fn destination(place: usize, ports: &[Port]) -> SocketAddr {
    let port = ports[place % ports.len()].number();
    SocketAddr::new(IpAddr::V4(address(place)), port)
}
