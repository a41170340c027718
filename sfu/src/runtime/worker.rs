//! The loop of one shard's thread.
//!
//! A turn takes inputs that are there (commands, messages of other shards, one batch of datagrams), all with one `now`,
//! and then lets the shard send. When that takes longer than [`SLICE`], it is cut: the socket is drained and `now` is read
//! again before the rest is sent.
//!
//! Between two turns the thread sleeps in the kernel, on its sockets and its doorbell alone. A general runtime's reactor, timers
//! and wakers in between cost more than the turn of a small room: whoever slept finds all their code and data cold.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    doorbell::Doorbell,
    heap::Heap,
    outputs::Outputs,
    ring::Rings,
    stats::{self, LoopCounters},
    steering::Steering,
    tcp_table::TcpTable,
};
use crate::{
    net::{
        Accepted, Poller, Receiver, RecvBatch, Sent, Source, TcpBuffer, TcpConnection, TcpRead,
        TcpWrite, UdpPort,
    },
    shard::{Command, Event, FiveTuple, Protocol, RelayMessage, Reply, Shard, Transmit},
    telemetry::Block,
};

/// How long a shard sends before the socket is looked at again. Longer saves system calls, shorter keeps the delay of
/// what waits in the socket and the age of `now` small.
const SLICE: Duration = Duration::from_micros(250);

/// Sends between two looks at the clock: about 10 us of GSO sends.
const SENDS_PER_LOOK: u32 = 16;

/// Commands taken in one turn: a joining crowd must not hold up media.
const COMMANDS_PER_TURN: usize = 16;

/// Messages taken from each ring in one turn.
const MESSAGES_PER_TURN: usize = 256;

/// Packets of TCP clients taken in one turn.
const TCP_PACKETS_PER_TURN: usize = 64;

/// Connections of TCP clients taken in one turn: however busy the shard is, they get in.
const CONNECTIONS_PER_TURN: usize = 8;

/// When to try again after a ring was full.
const RING_RETRY: Duration = Duration::from_millis(1);

/// Turns in a row after which the poller is asked: connections of TCP clients need it, and each time costs a system call.
const TURNS_PER_LOOK: u32 = 4;

/// How long RTCP and STUN are left to gather, and again until none has come, where some came twice in this time: a wake-up costs more than
/// a report or a check, and several at once cost less than by themselves. Nothing that they tell is in such a hurry.
const APART_PAUSE: Duration = Duration::from_millis(4);

/// How old the published counters may be. Copying them takes some thirty cache lines of other threads.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

/// What a shard's thread tells the node.
pub(crate) enum Output {
    /// Something that happened.
    Event(Event),
    /// A command is done: run `then` with the reply. It comes behind all events that came before the reply.
    Answer {
        /// The reply.
        reply: Reply,
        /// What the sender of the command wants done.
        then: Then,
    },
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(event) => f.debug_tuple("Event").field(event).finish(),
            Self::Answer { reply, .. } => f.debug_tuple("Answer").field(reply).finish(),
        }
    }
}

/// Runs with the answer to a command, on the thread that reads the [`Output`]s.
pub(crate) type Then = Box<dyn FnOnce(Reply) + Send>;

/// A command on its way.
pub(crate) struct Letter {
    pub(super) command: Command,
    pub(super) then: Then,
}

/// Why a command was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum MailboxError {
    /// Too many commands wait already.
    #[error("the shard has too many commands waiting: retry later")]
    Full,
    /// The shard's thread has ended.
    #[error("the shard has stopped")]
    Stopped,
}

/// Everything that a shard's thread owns.
pub(super) struct Worker {
    pub(super) shard: Shard,
    pub(super) udp: UdpPort,
    pub(super) mailbox: mpsc::Receiver<Letter>,
    pub(super) rings: Rings<RelayMessage>,
    pub(super) steering: Steering,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) outputs: Outputs,
    pub(super) accepted: mpsc::Receiver<Accepted>,
    pub(super) block: Arc<Block>,
    pub(super) heap: Heap,
    /// Something waits in the mailbox, a ring or at the door, whether anybody rings again or not.
    pub(super) waiting: bool,
}

/// What one turn left.
struct Turn {
    /// There is more to do at once.
    more: bool,
    /// Nothing waits in the shard: it may be asked for its next deadline.
    drained: bool,
    /// A ring was full.
    ring_full: bool,
}

impl Worker {
    /// Runs until told to stop, or until the kernel refuses to wait.
    #[allow(clippy::disallowed_methods)] // this loop is where the core gets its clock from
    pub(super) fn run(mut self, mut io: Io) -> std::io::Result<()> {
        let mut published = Instant::now();
        // Turns since the poller was asked.
        let mut busy = 0;
        while !self.doorbell.is_stopped() {
            let now = Instant::now();
            io.eager = busy > 0;
            let turn = self.turn(now, &mut io);
            io.counters.slices += 1;
            let deadline = if turn.more { Some(now) } else { self.deadline(now, &turn, &io) };
            // What changed last is published before a long sleep.
            if deadline.is_none_or(|at| at >= published + 2 * PUBLISH_EVERY)
                || now >= published + PUBLISH_EVERY
            {
                self.publish(&io);
                published = now;
            }
            if !turn.more && self.may_sleep() {
                busy = 0;
                io.wait_until(deadline)?;
                continue;
            }
            // Who is rung for in each turn is busy as well: it asks its sockets without having slept.
            busy += 1;
            if busy == TURNS_PER_LOOK {
                busy = 0;
                io.wait(Some(Duration::ZERO))?;
            }
        }
        // Goodbyes that the last commands left.
        while !self.drain(&mut io).0 {}
        self.publish(&io);
        Ok(())
    }

    /// When to come back at the latest.
    fn deadline(&self, now: Instant, turn: &Turn, io: &Io) -> Option<Instant> {
        let retry = turn.ring_full.then(|| now + RING_RETRY);
        let own = [self.shard.poll_timeout(), io.tcp.poll_timeout(), retry];
        own.into_iter().chain(io.apart.map(|look| look.due)).flatten().min()
    }

    /// Whether nothing came to do meanwhile. Who rings from now on ends the sleep.
    fn may_sleep(&self) -> bool {
        // Looked at last: a ring that was answered may have been that of the end.
        !self.outputs.may_flush() && self.doorbell.fall_asleep() && !self.doorbell.is_stopped()
    }

    fn turn(&mut self, now: Instant, io: &mut Io) -> Turn {
        let mut more = false;
        self.outputs.flush();
        if self.doorbell.answer() || self.waiting {
            more |= self.take_waiting(now, io);
        }
        self.steering.sweep(now);
        more |= io.serve_tcp(now, &mut self.shard);
        let Self { shard, steering, udp, .. } = self;
        io.look_apart(now);
        let mut inbound = Inbound { now, shard, steering };
        more |= udp.receive(&mut io.batch, io.eager, &mut inbound);
        io.pause_apart(now, udp);
        steering.flush();
        (io.counters.handed_over, io.counters.handover_drops) =
            (steering.handed_over, steering.dropped);
        shard.handle_timeout(now);
        io.sweep(now, shard);
        let (drained, ring_full) = self.drain(io);
        Turn { more: more || !drained, drained, ring_full }.checked()
    }

    /// Takes what other threads put where this one finds it, a bounded part. Whether some of it waits for the next turn.
    fn take_waiting(&mut self, now: Instant, io: &mut Io) -> bool {
        let mut more = false;
        for _ in 0..COMMANDS_PER_TURN {
            if self.outputs.is_full() {
                break;
            }
            let Ok(letter) = self.mailbox.try_recv() else { break };
            self.take_letter(now, letter);
        }
        let letters = !self.mailbox.is_empty();
        more |= letters && !self.outputs.is_full();
        for ring in &mut self.rings.incoming {
            for _ in 0..MESSAGES_PER_TURN {
                let Some(message) = ring.pop() else { break };
                self.shard.handle_relay(now, ring.from, message);
            }
            more |= !ring.is_empty();
        }
        for _ in 0..CONNECTIONS_PER_TURN {
            let Ok(accepted) = self.accepted.try_recv() else { break };
            io.adopt(now, accepted);
        }
        more |= !self.accepted.is_empty();
        more |= self.steering.receive(now, &mut self.shard);
        // Letters that nobody takes now wait for room in the outputs, of which the doorbell tells.
        self.waiting = more || letters;
        more
    }

    fn take_letter(&mut self, now: Instant, letter: Letter) {
        let reply = self.shard.handle_command(now, letter.command);
        self.tell_events();
        self.outputs.send(Output::Answer { reply, then: letter.then });
    }

    /// Sends until nothing waits or the slice is over; whether nothing waits, and whether a ring was full.
    fn drain(&mut self, io: &mut Io) -> (bool, bool) {
        let drained = self.send_slice(io);
        let mut ring_full = false;
        for ring in &mut self.rings.outgoing {
            if !ring.fill(|to| self.shard.poll_relay(to)) {
                io.counters.rings_full += 1;
                ring_full = true;
            }
        }
        self.tell_events();
        self.outputs.ring();
        self.heap.reserve();
        io.counters.capabilities = self.udp.capabilities();
        io.counters.large_pages = self.heap.has_large_pages();
        io.counters.outputs_waiting = self.outputs.waiting() as u64;
        io.counters.events_merged = self.outputs.merged;
        (drained, ring_full)
    }

    /// Sends for one slice at most. Whether nothing waits.
    #[allow(clippy::disallowed_methods)] // the budget of a slice is measured here
    fn send_slice(&mut self, io: &mut Io) -> bool {
        // Not from the turn's `now`: however much came in, something leaves.
        let begun = Instant::now();
        let mut sends = 0;
        let cut = 'slice: loop {
            while let Some(transmit) = self.shard.poll_transmit() {
                io.send(&self.udp, &transmit);
                sends += 1;
                if sends % SENDS_PER_LOOK == 0 && begun.elapsed() > SLICE {
                    break 'slice true;
                }
            }
            if !self.shard.step() {
                break false;
            }
            if begun.elapsed() > SLICE {
                break true;
            }
        };
        io.counters.slices_cut += u64::from(cut);
        !cut
    }

    fn tell_events(&mut self) {
        while let Some(event) = self.shard.poll_event() {
            if matches!(event, Event::PeerConnected { .. }) {
                self.heap.peer_came();
            }
            self.outputs.send(Output::Event(event));
        }
    }

    fn publish(&self, io: &Io) {
        self.block.publish(stats::values(&self.shard, &io.counters));
    }
}

impl Turn {
    fn checked(self) -> Self {
        debug_assert!(self.drained || self.more, "the drain rule asks to come back at once");
        self
    }
}

/// Where received datagrams go.
struct Inbound<'a> {
    now: Instant,
    shard: &'a mut Shard,
    steering: &'a mut Steering,
}

fn udp_path((local, remote): (SocketAddr, SocketAddr)) -> FiveTuple {
    FiveTuple { protocol: Protocol::Udp, local, remote }
}

impl Receiver for Inbound<'_> {
    fn expect_rtcp(&mut self, ways: impl Iterator<Item = (SocketAddr, SocketAddr)>) {
        self.shard.expect_rtcp(ways.map(udp_path));
    }

    fn take(&mut self, local: SocketAddr, remote: SocketAddr, datagram: &mut [u8]) {
        self.steering.deliver(self.now, self.shard, udp_path((local, remote)), datagram);
    }
}

/// When RTCP and STUN of one family are looked at.
#[derive(Clone, Copy, Default)]
struct ApartLook {
    /// The next time; `None`: the poller tells.
    due: Option<Instant>,
    /// When some was there last.
    came: Option<Instant>,
}

/// Where datagrams come from and leave, and what was counted there.
pub(super) struct Io {
    poller: Poller,
    batch: RecvBatch,
    tcp: TcpTable<TcpConnection>,
    tcp_buffer: TcpBuffer,
    /// The other shards' ports, for answers to what came to them. Set when all are there.
    ports: Arc<OnceLock<Box<[UdpPort]>>>,
    /// By family.
    apart: [ApartLook; 2],
    /// The sockets are asked for datagrams although the poller was not.
    eager: bool,
    counters: LoopCounters,
}

impl Io {
    pub(super) fn new(poller: Poller, ports: Arc<OnceLock<Box<[UdpPort]>>>) -> Self {
        Self {
            poller,
            batch: RecvBatch::new(),
            tcp: TcpTable::default(),
            tcp_buffer: TcpBuffer::default(),
            ports,
            apart: Default::default(),
            eager: false,
            counters: LoopCounters::default(),
        }
    }

    /// Waits until something is there, until `deadline` at most, and notes what.
    #[allow(clippy::disallowed_methods)] // how long to sleep counts from when the turn is over
    fn wait_until(&mut self, deadline: Option<Instant>) -> std::io::Result<()> {
        self.wait(deadline.map(|at| at.saturating_duration_since(Instant::now())))
    }

    /// Waits until something is there, for so long at most, and notes what.
    fn wait(&mut self, timeout: Option<Duration>) -> std::io::Result<()> {
        let Self { poller, batch, tcp, .. } = self;
        poller.wait(timeout, |source| match source {
            Source::Udp(family) => batch.heard(family),
            Source::Apart(family) => batch.heard_apart(family),
            Source::Tcp(token) => tcp.heard(token),
            // The doorbell itself knows.
            Source::Bell => {}
        })
    }

    /// Has RTCP and STUN read whose pause is over.
    fn look_apart(&mut self, now: Instant) {
        for (family, look) in self.apart.iter().enumerate() {
            if look.due.is_some_and(|due| due <= now) {
                self.batch.heard_apart(family);
            }
        }
    }

    /// Leaves RTCP and STUN alone for a while where there is much of it. Otherwise the poller is to tell of the next.
    fn pause_apart(&mut self, now: Instant, udp: &UdpPort) {
        for (family, look) in self.apart.iter_mut().enumerate() {
            let Some(came) = self.batch.looked_at_apart(family) else { continue };
            let before = if came { look.came.replace(now) } else { None };
            // After a pause it need not have come twice: that nothing woke the thread is what the pause is for.
            let soon = |before| now <= before + APART_PAUSE;
            let much = came && (look.due.is_some() || before.is_some_and(soon));
            // A poller that refuses is asked again after the pause.
            let told = !much && udp.watch_apart_again(family, &self.poller).is_ok();
            look.due = (!told).then(|| now + APART_PAUSE);
        }
    }

    /// Takes packets of TCP clients, a bounded part. Whether some wait for the next turn.
    fn serve_tcp(&mut self, now: Instant, shard: &mut Shard) -> bool {
        let mut limit = TCP_PACKETS_PER_TURN;
        while limit > 0
            && let Some((path, connection)) = self.tcp.next_ready()
        {
            let take = |packet: &mut [u8]| shard.handle_datagram(now, path, packet);
            match connection.serve(&self.poller, &mut self.tcp_buffer, &mut limit, take) {
                TcpRead::Empty => {}
                TcpRead::More => {
                    let token = connection.token();
                    self.tcp.heard(token);
                }
                // The peer's checks end with the connection; consent tells the shard.
                TcpRead::Closed => self.forget(&path),
            }
        }
        self.tcp.is_any_ready()
    }

    fn send(&mut self, udp: &UdpPort, transmit: &Transmit<'_>) {
        let Transmit { path, bytes, segment } = *transmit;
        match path.protocol {
            Protocol::Udp => {
                self.counters.sends += 1;
                let (local, remote) = (path.local, path.remote);
                let sent = if local.port() == udp.port() {
                    udp.send(local.ip(), remote, bytes, segment)
                } else {
                    // It came to another shard's port and was handed over.
                    let ports = self.ports.get().map_or(&[][..], |ports| ports);
                    let port = ports.iter().find(|port| port.port() == local.port());
                    port.map_or(Sent::Refused, |port| port.send(local.ip(), remote, bytes, segment))
                };
                match sent {
                    Sent::All => {}
                    Sent::Full => self.counters.sends_full += 1,
                    Sent::Refused => self.counters.sends_refused += 1,
                }
            }
            Protocol::Tcp => self.send_tcp(&path, bytes, segment),
        }
    }

    fn send_tcp(&mut self, path: &FiveTuple, bytes: &[u8], segment: Option<usize>) {
        let Some(connection) = self.tcp.get_mut(path) else { return };
        for packet in bytes.chunks(segment.unwrap_or(bytes.len()).max(1)) {
            match connection.write(packet, &self.poller) {
                TcpWrite::Taken => {}
                TcpWrite::Full => self.counters.tcp_full += 1,
                TcpWrite::Closed => return self.forget(path),
            }
        }
    }

    fn adopt(&mut self, now: Instant, accepted: Accepted) {
        let (local, remote) = (accepted.local, accepted.remote);
        let path = FiveTuple { protocol: Protocol::Tcp, local, remote };
        if !self.tcp.has_room(&path) {
            self.counters.tcp_refused += 1;
            return;
        }
        // One that the poller does not take is closed: the client tries again.
        let poller = &self.poller;
        let _ = self.tcp.insert(now, path, |token| TcpConnection::adopt(accepted, token, poller));
        self.counters.tcp_connections = self.tcp.len() as u64;
    }

    fn forget(&mut self, path: &FiveTuple) {
        self.tcp.remove(path);
        self.counters.tcp_connections = self.tcp.len() as u64;
    }

    /// Closes connections that carry no peer.
    fn sweep(&mut self, now: Instant, shard: &Shard) {
        if self.tcp.poll_timeout().is_some_and(|due| due <= now) {
            let closed = self.tcp.sweep(now, |path| shard.knows(path));
            self.counters.tcp_closed += closed as u64;
            self.counters.tcp_connections = self.tcp.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests;
