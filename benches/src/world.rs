//! All clients in one thread: publishers that send on time, sinks that are polled.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Habits, Seen},
    floor::{self, FloorThread, Outcome, Work, unix_ns},
    handshake::Identity,
    packet::{self, AUDIO, Place, Stamp, VIDEO},
    port::{Port, Slots},
    room::{self, Described},
    srtp::Cipher,
};

/// What the publishers send.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// One audio packet instead of a video frame.
    pub audio: bool,
    /// Packets of a frame.
    pub frame_packets: usize,
    /// Bytes of a payload.
    pub payload: usize,
    /// From one frame to the next.
    pub interval: Duration,
    /// A frame's packets leave over this time.
    pub spread: Duration,
    /// Its packets differ in size by a byte.
    pub uneven: bool,
}

/// Handshakes under way at once.
const JOINING: usize = 64;

/// A join that takes longer failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What may be lost while joining is sent again after this time.
const NUDGE: Duration = Duration::from_millis(300);

/// Each client is visited once in this time.
const ROUND: Duration = Duration::from_millis(100);

/// Nothing arrives for this long: everything has.
const QUIET: Duration = Duration::from_millis(60);

/// Packets of the first publisher that are kept for whoever wants to send them again.
const KEPT: usize = 64;

/// Of each publisher every so many frames one is a keyframe.
const KEYFRAME_EVERY: u32 = 50;

#[derive(Debug)]
struct Publisher {
    /// Its place among the clients.
    place: usize,
    ssrc: u32,
    /// Number and count of the next packet.
    index: u32,
    frame: u32,
    in_frame: usize,
    next_at: Instant,
}

/// Everybody.
#[derive(Debug)]
pub struct World {
    ports: Vec<Port>,
    slots: Slots,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    /// Keys of what the floor sends to each client.
    floor_keys: Arc<[Cipher]>,
    habits: Habits,
    /// Packets that the first publisher sent lately, as they were sent.
    sent: VecDeque<Vec<u8>>,
    /// A client that gives no reports.
    silent: Option<usize>,
    /// What arrived.
    pub seen: Seen,
    /// Visits that were made since `round_since`.
    visited: u64,
    round_since: Instant,
    buffer: Vec<u8>,
}

impl World {
    /// Sockets for so many clients.
    pub fn new(clients: usize, floor_keys: Arc<[Cipher]>, habits: Habits) -> std::io::Result<Self> {
        // The kernel grants about 8 MiB a socket. Together they hold a second of load: this thread may have to wait for
        // a core.
        let ports = (0..clients.div_ceil(32).clamp(4, 64))
            .map(|_| Port::bind())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            ports,
            slots: Slots::new(),
            clients: Vec::new(),
            publishers: Vec::new(),
            floor_keys,
            habits,
            sent: VecDeque::new(),
            silent: None,
            seen: Seen::default(),
            visited: 0,
            round_since: Instant::now(),
            buffer: Vec::new(),
        })
    }

    /// Its sockets.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Its clients, in the order of their addresses: subscribers first.
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// Joins all of them; the last `publishers` will publish.
    pub fn join(
        &mut self,
        described: &[Described],
        publishers: usize,
        identity: &Identity,
    ) -> Result<(), String> {
        let subscribers = described.len() - publishers;
        self.clients = described.iter().map(|d| Client::new(d, publishers)).collect();
        let begun = Instant::now();
        let mut waiting: VecDeque<usize> = (0..self.clients.len()).collect();
        let mut joining: Vec<(usize, Instant)> = Vec::new();
        while !waiting.is_empty() || !joining.is_empty() {
            let now = Instant::now();
            if now > begun + PATIENCE + Duration::from_millis(5) * self.clients.len() as u32 {
                return Err(format!("{} joins are not through", waiting.len() + joining.len()));
            }
            while joining.len() < JOINING
                && let Some(place) = waiting.pop_front()
            {
                joining.push((place, now));
            }
            for (place, due) in &mut joining {
                if now >= *due {
                    let port = &self.ports[*place % self.ports.len()];
                    self.clients[*place].nudge(now, port)?;
                    *due = now + NUDGE;
                }
            }
            self.poll_joins(now, identity)?;
            joining.retain(|(place, _)| !self.clients[*place].is_connected());
            self.tend(now);
        }
        // The last flights' answers.
        let until = Instant::now() + QUIET;
        while Instant::now() < until {
            self.poll_joins(Instant::now(), identity)?;
        }
        self.clients.iter_mut().for_each(Client::settle);
        let now = Instant::now();
        self.publishers = (0..publishers)
            .map(|n| Publisher {
                place: subscribers + n,
                ssrc: room::ssrc(n),
                index: 1_000,
                frame: 0,
                in_frame: 0,
                next_at: now,
            })
            .collect();
        Ok(())
    }

    fn poll_joins(&mut self, now: Instant, identity: &Identity) -> Result<(), String> {
        let Self { ports, slots, clients, .. } = self;
        let mut outcome = Ok(());
        for port in &*ports {
            port.receive(slots, |arrival, datagram| {
                if let Some(client) = client_of(clients, arrival.client)
                    && let Err(error) = client.handle_join(now, datagram, identity, port)
                {
                    outcome = Err(error);
                }
            });
        }
        outcome
    }

    /// Publishes for this long and until everything has arrived.
    pub fn publish(&mut self, load: &Load, duration: Duration) {
        let begun = Instant::now();
        let count = self.publishers.len() as u32;
        for (n, publisher) in self.publishers.iter_mut().enumerate() {
            publisher.next_at = begun + load.interval * n as u32 / count.max(1);
        }
        let mut last_sent = begun;
        loop {
            let now = Instant::now();
            let ends = now >= begun + duration;
            if ends && self.publishers.iter().all(|publisher| publisher.in_frame == 0) {
                break;
            }
            for n in 0..self.publishers.len() {
                while self.publishers[n].next_at <= now
                    && !(ends && self.publishers[n].in_frame == 0)
                {
                    self.send_packet(n, load);
                    last_sent = now;
                }
            }
            self.poll(now, now.duration_since(last_sent) < Duration::from_millis(5));
        }
        self.settle();
    }

    /// Sends a publisher's next packet and says when the one behind it is due.
    fn send_packet(&mut self, number: usize, load: &Load) {
        let Self { clients, publishers, ports, buffer, sent, .. } = self;
        let publisher = &mut publishers[number];
        let client = &clients[publisher.place];
        let Some(session) = client.session() else { return };
        let last = publisher.in_frame + 1 == load.frame_packets;
        let (pt, clock) = if load.audio { (AUDIO, 48_000.0) } else { (VIDEO, 90_000.0) };
        let ticks = load.interval.as_secs_f64() * clock * f64::from(publisher.frame);
        let seq = publisher.index as u16;
        let header = packet::header(last, pt, seq, ticks as u64 as u32, publisher.ssrc);
        buffer.clear();
        buffer.extend_from_slice(&header);
        if load.audio {
            buffer[0] |= 0x10;
            buffer.extend_from_slice(&packet::audio_level(loudness(number, publisher, load)));
        }
        let header_len = buffer.len();
        let size = packet::size(load.payload, load.uneven, publisher.in_frame, load.frame_packets);
        buffer.resize(header_len + size, 0);
        let place = Place {
            frame: publisher.frame,
            first: publisher.in_frame == 0,
            last,
            keyframe: publisher.frame.is_multiple_of(KEYFRAME_EVERY),
        };
        let stamp = Stamp { index: publisher.index, sent: unix_ns() };
        packet::write_payload(load.audio, place, stamp, &mut buffer[header_len..]);
        buffer.resize(buffer.len() + session.profile.tag_len(), 0);
        if session.rtp.seal(publisher.ssrc, publisher.index.into(), header_len, buffer).is_ok() {
            client.send(&ports[publisher.place % ports.len()], buffer);
            if number == 0 {
                let mut kept = if sent.len() == KEPT {
                    sent.pop_front().unwrap_or_default()
                } else {
                    Vec::new()
                };
                kept.clone_from(buffer);
                sent.push_back(kept);
            }
        }
        publisher.index += 1;
        publisher.in_frame += 1;
        let gap = load.spread / load.frame_packets as u32;
        publisher.next_at += gap;
        if last {
            publisher.next_at += load.interval - gap * load.frame_packets as u32;
            publisher.in_frame = 0;
            publisher.frame += 1;
        }
    }

    /// What follows is checked on its own: a stream may have been paused before.
    pub fn restart(&mut self) {
        self.clients.iter_mut().for_each(Client::restart);
    }

    /// Has the floor work, and until everything has arrived.
    pub fn run_floor(&mut self, floor: &FloorThread, work: Work) -> Outcome {
        floor.begin(work);
        loop {
            if let Some(outcome) = floor.poll() {
                self.settle();
                return outcome;
            }
            self.poll(Instant::now(), false);
        }
    }

    /// Receives until so many packets of the node have come since counting began, for so long at most.
    pub fn wait_for(&mut self, packets: u64, patience: Duration) {
        let until = Instant::now() + patience;
        while self.seen.node.packets < packets && Instant::now() < until {
            self.poll(Instant::now(), false);
        }
    }

    /// Receives until nothing comes any more.
    fn settle(&mut self) {
        let mut last = Instant::now();
        while last.elapsed() < QUIET {
            if self.poll(Instant::now(), false) > 0 {
                last = Instant::now();
            }
        }
    }

    /// Takes what is there and does what is due. Sleeps a little where there is nothing, unless `eager`.
    fn poll(&mut self, now: Instant, eager: bool) -> usize {
        let media = self.poll_media();
        self.tend(now);
        if media == 0 && !eager {
            std::thread::sleep(Duration::from_micros(50));
        }
        media
    }

    fn poll_media(&mut self) -> usize {
        let Self { ports, slots, clients, habits, seen, floor_keys, .. } = self;
        let before = seen.node.packets + seen.floor.packets + seen.repairs;
        for port in &*ports {
            port.receive(slots, |arrival, datagram| {
                let Some(place) = floor::place(arrival.client) else { return };
                let Some(client) = clients.get_mut(place) else { return };
                if matches!(datagram.first(), Some(128..=191)) {
                    client.handle_media(arrival, datagram, floor_keys, place, habits, seen);
                }
            });
        }
        (seen.node.packets + seen.floor.packets + seen.repairs - before) as usize
    }

    /// Visits the clients whose turn it is.
    fn tend(&mut self, now: Instant) {
        let count = self.clients.len() as u64;
        let share = now.duration_since(self.round_since).as_secs_f64() / ROUND.as_secs_f64();
        let wanted = (share * count as f64) as u64;
        // After a pause nobody is visited twice.
        self.visited = self.visited.max(wanted.saturating_sub(count));
        while self.visited < wanted {
            let place = (self.visited % count) as usize;
            let client = &mut self.clients[place];
            if client.is_connected() && self.silent != Some(place) {
                client.visit(&self.ports[place % self.ports.len()], &self.habits, &mut self.seen);
            }
            self.visited += 1;
        }
    }

    /// The first publisher's address and socket, and packets that it sent lately.
    pub fn replays(&self) -> Option<(Ipv4Addr, Port, Vec<Vec<u8>>)> {
        let place = self.publishers.first()?.place;
        let port = self.ports[place % self.ports.len()].try_clone().ok()?;
        Some((self.clients[place].ip(), port, self.sent.iter().cloned().collect()))
    }

    /// So many reports of a client, sealed one by one, all of one size: its address and socket, the datagrams and their size. It
    /// gives no other reports from now on, which would be newer than these.
    pub fn sealed_reports(
        &mut self,
        place: usize,
        count: usize,
        write: impl Fn(&mut Vec<u8>),
    ) -> Option<(Ipv4Addr, Port, Vec<u8>, usize)> {
        self.silent = Some(place);
        let port = self.ports[place % self.ports.len()].try_clone().ok()?;
        let client = self.clients.get_mut(place)?;
        let (mut all, mut size, mut compound) = (Vec::new(), 0, Vec::new());
        for _ in 0..count {
            compound.clear();
            write(&mut compound);
            client.seal_rtcp(&mut compound)?;
            size = compound.len();
            all.extend_from_slice(&compound);
        }
        Some((client.ip(), port, all, size))
    }

    /// Streams that have not everything that was published: whoever never began, or ends early.
    pub fn incomplete(&self) -> usize {
        let subscribers = self.clients.len() - self.publishers.len();
        let incomplete = |client: &Client| {
            let pairs = self.publishers.iter().zip(client.streams());
            pairs.filter(|(p, s)| s.latest_index() != Some(i64::from(p.index) - 1)).count()
        };
        self.clients.iter().take(subscribers).map(incomplete).sum()
    }

    /// Packets published so far.
    pub fn published(&self) -> u64 {
        self.publishers.iter().map(|publisher| u64::from(publisher.index)).sum()
    }
}

/// Everybody speaks for a second in two, not all at once: who is heard changes all the time. In -dBov.
fn loudness(number: usize, publisher: &Publisher, load: &Load) -> u8 {
    let time = load.interval * publisher.frame;
    if (time.as_secs() as usize + number).is_multiple_of(2) { 20 } else { 127 }
}

fn client_of(clients: &mut [Client], address: Ipv4Addr) -> Option<&mut Client> {
    clients.get_mut(floor::place(address)?)
}
