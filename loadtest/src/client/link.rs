//! One UDP socket per peer (servers tell peers apart by their addresses), with the network that a scenario gives it.

use std::{
    cell::{LazyCell, RefCell},
    collections::VecDeque,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{io::Interest, net::UdpSocket};

use super::rounds::ROUND;
use crate::{media::unix_now, scenario::Impairment};

/// A socket's receive buffer in the kernel: some hundred packets, so that a busy worker loses none.
const RECEIVE_BUFFER: usize = 512 * 1_024;
/// Datagrams of one send with segmentation at most.
const MAX_SEGMENTS: usize = 32;
/// Bytes of one send at most.
const MAX_RUN: usize = 48_000;
/// What a bottleneck keeps before it drops, as time.
const QUEUE: Duration = Duration::from_millis(300);

/// What the kernel hands over at once: coalesced datagrams of one size.
const MAX_COALESCED: usize = 65_536;
/// Of these in one read at most.
const BATCH: usize = 12;

thread_local! {
    /// The receive buffers of a worker.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BATCH * MAX_COALESCED].into());
}

/// A datagram that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) from: SocketAddr,
    /// When the kernel had it, since the Unix epoch; with a delayed network, when it left that.
    pub(crate) at: Duration,
    /// How late the tester came to it.
    pub(crate) late: Duration,
    pub(crate) bytes: &'a [u8],
}

#[derive(Debug)]
struct Waiting {
    due: Instant,
    peer: SocketAddr,
    bytes: Box<[u8]>,
}

#[derive(Debug)]
struct Shaper {
    impairment: Impairment,
    random: SmallRng,
    /// When the bottleneck has sent what it took.
    busy_until: Option<Instant>,
    inbound: VecDeque<Waiting>,
    outbound: VecDeque<Waiting>,
}

/// Datagrams of one size to one place.
#[derive(Debug)]
struct Run {
    to: SocketAddr,
    size: usize,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    /// Its datagrams wake the client.
    Driven(UdpSocket),
    /// The worker looks for them in its rounds, the next time at this one.
    Looked(std::net::UdpSocket, Instant),
    /// The kernel did not give it back.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Link {
    socket: Socket,
    state: UdpSocketState,
    /// Where the server sees us, as far as we know.
    pub(crate) local: SocketAddr,
    run: Option<Run>,
    shaper: Option<Box<Shaper>>,
    /// Datagrams that the scenario's network lost.
    pub(crate) impaired: u64,
}

impl Link {
    /// `local` is the address under which this machine reaches the server.
    pub(crate) fn bind(
        local: IpAddr,
        impairment: Option<Impairment>,
        seed: u64,
    ) -> io::Result<Self> {
        let any: IpAddr = match local {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = std::net::UdpSocket::bind((any, 0))?;
        let reference = socket2::SockRef::from(&socket);
        // The kernel may give less: then losses show as the tester's own delay.
        let _ = reference.set_recv_buffer_size(RECEIVE_BUFFER);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let port = socket.local_addr()?.port();
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: Socket::Driven(UdpSocket::from_std(socket)?),
            state,
            local: (local, port).into(),
            run: None,
            shaper: impairment.map(|impairment| {
                Box::new(Shaper {
                    impairment,
                    random: SmallRng::seed_from_u64(seed),
                    busy_until: None,
                    inbound: VecDeque::new(),
                    outbound: VecDeque::new(),
                })
            }),
            impaired: 0,
        })
    }

    /// From now on the socket is looked at once a round, for several datagrams at a time: neither the kernel nor the event loop
    /// wakes anybody for each of them. The kernel's timestamps say when they came. False for a bad network: it needs its exact
    /// moments.
    pub(crate) fn look_in_rounds(&mut self, now: Instant) -> bool {
        if self.shaper.is_some() {
            return false;
        }
        self.socket = match std::mem::replace(&mut self.socket, Socket::Gone) {
            Socket::Driven(socket) => {
                socket.into_std().map_or(Socket::Gone, |socket| Socket::Looked(socket, now + ROUND))
            }
            other => other,
        };
        true
    }

    /// When it should be looked at, if nobody is woken for it.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        match self.socket {
            Socket::Looked(_, due) => Some(due),
            Socket::Driven(_) | Socket::Gone => None,
        }
    }

    /// Waits until datagrams can be read; for ever when they are looked for in rounds.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_readable(context)).await
    }

    /// [`Self::readable`] for one who may not hold it while it waits.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.socket {
            Socket::Driven(socket) => socket.poll_recv_ready(context),
            Socket::Looked(..) | Socket::Gone => Poll::Pending,
        }
    }

    /// A look of a round is over: what it came too late for has been handed over.
    pub(crate) fn end_look(&mut self, now: Instant) {
        if let Socket::Looked(_, due) = &mut self.socket {
            *due = now + ROUND;
        }
    }

    /// Hands over what has arrived, a batch at most; true when there may be more.
    pub(crate) fn receive(&mut self, now: Instant, mut take: impl FnMut(Arrival<'_>)) -> bool {
        let looked = self.next_look();
        BUFFER.with_borrow_mut(|buffer| {
            let mut meta = [RecvMeta::default(); BATCH];
            let mut parts = buffer.chunks_exact_mut(MAX_COALESCED);
            let mut slices: [IoSliceMut<'_>; BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
            let count = self.read(&mut slices, &mut meta);
            let read_at = LazyCell::new(unix_now);
            for (slice, meta) in slices.iter().zip(&meta[..count]) {
                let at = meta.timestamp.unwrap_or_else(|| *read_at);
                let late = match looked {
                    Some(due) => now.saturating_duration_since(due),
                    None => read_at.saturating_sub(at),
                };
                for bytes in slice[..meta.len].chunks(meta.stride.max(1)) {
                    let arrival = Arrival { from: meta.addr, at, late, bytes };
                    if self.shaper.is_none() {
                        take(arrival);
                    } else {
                        self.shape(now, arrival);
                    }
                }
            }
            count == BATCH
        })
    }

    /// Reads a batch; 0 when there is nothing.
    fn read(&self, slices: &mut [IoSliceMut<'_>; BATCH], meta: &mut [RecvMeta; BATCH]) -> usize {
        let Some(socket) = self.socket.sock_ref() else { return 0 };
        let recv = || self.state.recv(socket, slices, meta);
        let Socket::Driven(driven) = &self.socket else { return recv().unwrap_or(0) };
        let mut count = 0;
        let _ = driven.try_io(Interest::READABLE, || {
            count = recv()?;
            // There was room for more: the event loop learns that the socket is empty without another call.
            if count < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        count
    }

    fn shape(&mut self, now: Instant, arrival: Arrival<'_>) {
        let Some(shaper) = &mut self.shaper else { return };
        if shaper.admit_inbound(now, arrival.bytes.len()).is_none() {
            self.impaired += 1;
            return;
        }
        let due = shaper.busy_until.unwrap_or(now) + shaper.impairment.delay;
        let bytes = arrival.bytes.into();
        shaper.inbound.push_back(Waiting { due, peer: arrival.from, bytes });
    }

    /// Queues a datagram; [`Self::flush`] sends it.
    pub(crate) fn send(&mut self, now: Instant, to: SocketAddr, bytes: &[u8]) {
        if let Some(shaper) = &mut self.shaper {
            let impairment = shaper.impairment;
            if shaper.loses(impairment.uplink_loss) {
                self.impaired += 1;
                return;
            }
            if !impairment.delay.is_zero() {
                let due = now + impairment.delay;
                shaper.outbound.push_back(Waiting { due, peer: to, bytes: bytes.into() });
                return;
            }
        }
        self.append(to, bytes);
    }

    fn append(&mut self, to: SocketAddr, bytes: &[u8]) {
        if let Some(run) = &mut self.run {
            let full = run.bytes.len() + bytes.len() > MAX_RUN
                || run.bytes.len() >= run.size * MAX_SEGMENTS;
            // Only the last segment of a run may be shorter.
            let open = run.bytes.len() % run.size == 0;
            if run.to == to && open && bytes.len() <= run.size && !full {
                run.bytes.extend_from_slice(bytes);
                return;
            }
            self.flush();
        }
        if !bytes.is_empty() {
            self.run = Some(Run { to, size: bytes.len(), bytes: bytes.to_vec() });
        }
    }

    /// Sends what is queued. UDP: what the kernel does not take is lost.
    pub(crate) fn flush(&mut self) {
        let Some(run) = self.run.take() else { return };
        let transmit = Transmit {
            destination: run.to,
            ecn: None,
            contents: &run.bytes,
            segment_size: (run.bytes.len() > run.size).then_some(run.size),
            src_ip: None,
        };
        // Past tokio, which calls a socket unwritable that it has not looked at yet.
        if let Some(socket) = self.socket.sock_ref() {
            let _ = self.state.try_send(socket, &transmit);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        let shaper = self.shaper.as_ref()?;
        let first = [&shaper.inbound, &shaper.outbound];
        first.iter().filter_map(|queue| queue.front().map(|waiting| waiting.due)).min()
    }

    /// Lets delayed datagrams through that are due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, mut take: impl FnMut(Arrival<'_>)) {
        let Some(mut shaper) = self.shaper.take() else { return };
        while let Some(waiting) = shaper.outbound.pop_front_if(|waiting| waiting.due <= now) {
            self.append(waiting.peer, &waiting.bytes);
        }
        while let Some(waiting) = shaper.inbound.pop_front_if(|waiting| waiting.due <= now) {
            let late = now.saturating_duration_since(waiting.due);
            let at = unix_now().saturating_sub(late);
            take(Arrival { from: waiting.peer, at, late, bytes: &waiting.bytes });
        }
        self.shaper = Some(shaper);
        self.flush();
    }
}

impl Socket {
    fn sock_ref(&self) -> Option<UdpSockRef<'_>> {
        match self {
            Self::Driven(socket) => Some(socket.into()),
            Self::Looked(socket, _) => Some(socket.into()),
            Self::Gone => None,
        }
    }
}

impl Shaper {
    fn loses(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random_bool(share.clamp(0.0, 1.0))
    }

    /// `None` when the datagram is lost, at random or because the bottleneck's queue is full.
    fn admit_inbound(&mut self, now: Instant, len: usize) -> Option<()> {
        if self.loses(self.impairment.downlink_loss) {
            return None;
        }
        if self.impairment.rate > 0 {
            let begin = self.busy_until.filter(|at| *at > now).unwrap_or(now);
            if begin.saturating_duration_since(now) > QUEUE {
                return None;
            }
            let bits = len as f64 * 8.0;
            let time = Duration::from_secs_f64(bits / self.impairment.rate as f64);
            self.busy_until = Some(begin + time);
        } else {
            self.busy_until = Some(now);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(link: &mut Link, got: &mut Vec<Vec<u8>>) {
        let now = Instant::now();
        while link.receive(now, |arrival| got.push(arrival.bytes.to_vec())) {}
        link.handle_timeout(now, |arrival| got.push(arrival.bytes.to_vec()));
    }

    #[tokio::test]
    async fn runs_arrive_as_the_datagrams_that_were_sent() {
        let local = Ipv4Addr::LOCALHOST.into();
        let mut sender = Link::bind(local, None, 1).unwrap();
        let mut receiver = Link::bind(local, None, 2).unwrap();
        let sizes = [700, 700, 700, 200, 700, 40, 40, 41];
        for (index, size) in sizes.iter().enumerate() {
            sender.send(Instant::now(), receiver.local, &vec![index as u8; *size]);
        }
        sender.flush();
        let mut got = Vec::new();
        while got.len() < sizes.len() {
            receiver.readable().await.unwrap();
            drain(&mut receiver, &mut got);
        }
        let expected: Vec<_> =
            sizes.iter().enumerate().map(|(index, size)| vec![index as u8; *size]).collect();
        assert_eq!(got, expected);
    }

    #[tokio::test]
    async fn what_is_looked_at_late_came_when_the_kernel_had_it() {
        let local = Ipv4Addr::LOCALHOST.into();
        let mut sender = Link::bind(local, None, 1).unwrap();
        let mut receiver = Link::bind(local, None, 2).unwrap();
        assert!(receiver.look_in_rounds(Instant::now()));
        sender.send(Instant::now(), receiver.local, &[7; 30]);
        sender.flush();
        let sent = unix_now();
        tokio::time::sleep(ROUND).await;
        let mut came = Vec::new();
        // Received on loopback when it was sent.
        while came.is_empty() {
            receiver.receive(Instant::now(), |arrival| came.push(arrival.at));
        }
        assert!(came[0] < sent + ROUND / 2, "{:?} after it was sent", came[0].saturating_sub(sent));
    }

    #[tokio::test]
    async fn a_bad_network_loses_and_delays() {
        let local = Ipv4Addr::LOCALHOST.into();
        let impairment = Impairment {
            downlink_loss: 0.5,
            uplink_loss: 0.0,
            delay: Duration::from_millis(30),
            rate: 0,
        };
        let mut sender = Link::bind(local, None, 1).unwrap();
        let mut receiver = Link::bind(local, Some(impairment), 2).unwrap();
        let start = Instant::now();
        for index in 0..200_u8 {
            sender.send(start, receiver.local, &[index; 30]);
        }
        sender.flush();
        let mut got = Vec::new();
        while got.len() as u64 + receiver.impaired < 200 {
            let wait = Duration::from_millis(1);
            let _ = tokio::time::timeout(wait, receiver.readable()).await;
            drain(&mut receiver, &mut got);
        }
        assert!(start.elapsed() >= impairment.delay);
        assert!((60..140).contains(&got.len()), "{} of 200", got.len());
    }
}
