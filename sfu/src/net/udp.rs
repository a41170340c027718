//! Batched UDP: recvmmsg with GRO in, GSO out. Answers leave from the address that the request came to.
//!
//! Where the kernel can tell them apart, RTCP and STUN come to a socket of their own on the same port, so that a thread may let them gather
//! while media wakes it at once: feedback and checks of many subscribers are many small messages, none of which is in a hurry.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{apart, poller::Poller};

/// One receive buffer, bytes: the largest GRO list the kernel hands over.
const SLOT_BYTES: usize = 65_535;

/// Distance of two receive buffers, bytes. Not a power of two: the first cache lines of all buffers would otherwise fall
/// into the same cache sets.
const SLOT_STRIDE: usize = 65_536 + 33 * 64;

/// Datagrams handed out in one turn. A batch of full GRO lists holds thousands; however little each of a flood costs, who
/// is to be sent something waits for no more than these.
const DATAGRAMS_PER_TURN: usize = 256;

/// After so many times that an eager turn found a family's socket empty, it is asked no more until the poller has heard of
/// something there, which takes a busy thread some turns: few machines have clients of both families.
const EMPTY_ASKS: u8 = 64;

/// How often an ephemeral port is tried until all sockets share one.
const PORT_ATTEMPTS: usize = 16;

/// IPv4 and IPv6, in this order.
const FAMILIES: usize = 2;

/// Sockets of a port: those of both families for media and handshakes, then those for RTCP and STUN.
const SOCKETS: usize = 2 * FAMILIES;

/// Who takes what is received.
pub(crate) trait Receiver {
    /// RTCP of several remotes comes next, each given with the local address that it was sent to.
    fn expect_rtcp(&mut self, ways: impl Iterator<Item = (SocketAddr, SocketAddr)>);
    /// A datagram: the local address it was sent to, the remote it came from, and what is in it.
    fn take(&mut self, local: SocketAddr, remote: SocketAddr, datagram: &mut [u8]);
}

/// What a send came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// The kernel took it.
    All,
    /// The kernel's buffer is full: the rest of the run is lost. Media is never queued behind a full buffer.
    Full,
    /// The kernel refused it: no route, too big, or an address that is gone.
    Refused,
}

/// Socket buffers to ask for, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UdpBuffers {
    /// SO_RCVBUF.
    pub(crate) receive: usize,
    /// SO_SNDBUF.
    pub(crate) send: usize,
}

/// What the kernel can do at a port.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Capabilities {
    /// Datagrams of one send; 1 without GSO.
    pub(crate) gso_segments: usize,
    /// Datagrams handed over as one; 1 without GRO.
    pub(crate) gro_segments: usize,
    /// SO_RCVBUF as the kernel counts it: twice what was granted.
    pub(crate) receive_buffer: usize,
    /// SO_SNDBUF, the same.
    pub(crate) send_buffer: usize,
    /// RTCP and STUN come to a socket of their own.
    pub(crate) rtcp_apart: bool,
}

/// The UDP port of one shard: its IPv4 sockets and, where the machine has IPv6, its IPv6 sockets on the same port.
#[derive(Debug)]
pub(crate) struct UdpPort {
    v4: Family,
    v6: Option<Family>,
    port: u16,
}

/// The sockets of one family.
#[derive(Debug)]
struct Family {
    /// What is sent leaves here.
    main: UdpSocket,
    /// Where RTCP and STUN come, where the kernel can tell.
    apart: Option<UdpSocket>,
}

impl UdpPort {
    /// Binds to `port` (0: any free one) on the wildcard addresses of the wanted families. IPv6 is left out silently where the
    /// machine has none.
    pub(crate) fn bind(port: u16, ipv6: bool, buffers: UdpBuffers) -> io::Result<Self> {
        let attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
        let mut last_error = None;
        for _ in 0..attempts {
            match Self::try_bind(port, ipv6, buffers) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last_error = Some(error),
                result => return result,
            }
        }
        Err(last_error.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    fn try_bind(port: u16, ipv6: bool, buffers: UdpBuffers) -> io::Result<Self> {
        let v4 = Family::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), buffers)?;
        let port = v4.main.port;
        let v6 = match ipv6
            .then(|| Family::bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), buffers))
        {
            Some(Err(error)) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            bound => bound.and_then(Result::ok),
        };
        Ok(Self { v4, v6, port })
    }

    /// Has an IPv6 socket.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.v6.is_some()
    }

    /// What the kernel can do here, as far as it has shown yet.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let main = &self.v4.main;
        Capabilities {
            gso_segments: main.state.max_gso_segments(),
            rtcp_apart: self.families().all(|(_, family)| family.apart.is_some()),
            ..main.capabilities
        }
    }

    /// Has a poller report the sockets to [`RecvBatch::heard`] and [`RecvBatch::heard_apart`], those apart once.
    pub(crate) fn watch(&self, poller: &Poller) -> io::Result<()> {
        for (family, sockets) in self.families() {
            poller.watch_udp(family, &sockets.main.io)?;
            if let Some(apart) = &sockets.apart {
                poller.watch_apart(family, &apart.io)?;
            }
        }
        Ok(())
    }

    /// Has the socket apart of a family reported once more.
    pub(crate) fn watch_apart_again(&self, family: usize, poller: &Poller) -> io::Result<()> {
        let apart = self.socket(FAMILIES + family);
        apart.map_or(Ok(()), |apart| poller.watch_apart_again(family, &apart.io))
    }

    /// By number.
    fn families(&self) -> impl Iterator<Item = (usize, &Family)> {
        std::iter::once(&self.v4).chain(&self.v6).enumerate()
    }

    fn socket(&self, index: usize) -> Option<&UdpSocket> {
        let v6 = self.v6.as_ref();
        match index {
            0 => Some(&self.v4.main),
            1 => v6.map(|family| &family.main),
            2 => self.v4.apart.as_ref(),
            _ => v6.and_then(|family| family.apart.as_ref()),
        }
    }

    /// Receives what is there, at most one batch of each socket, and hands datagrams out, [`DATAGRAMS_PER_TURN`] of them at
    /// most. `false`: nothing is left, and the poller tells when there is more.
    ///
    /// With `eager` the kernel is asked whether the poller has heard of anything or not, but for what comes apart: for a thread that works on
    /// and does not ask the poller.
    pub(crate) fn receive(
        &self,
        batch: &mut RecvBatch,
        eager: bool,
        to: &mut impl Receiver,
    ) -> bool {
        let mut left = DATAGRAMS_PER_TURN;
        let mut more = batch.hand_out(&mut left, to);
        for _ in 0..SOCKETS {
            if left == 0 {
                // Nothing is read before what was read is handed out; then the next socket has its turn.
                return true;
            }
            let index = (batch.socket + 1) % SOCKETS;
            batch.socket = index;
            let heard = batch.heard[index];
            let eager = eager && index < FAMILIES && batch.empty[index] < EMPTY_ASKS;
            let asked = if heard || eager { self.socket(index) } else { None };
            let Some(socket) = asked else { continue };
            let received = socket.receive(batch);
            // A batch that is not full has emptied the socket, which saves the call that would find nothing.
            let empty = match &received {
                Ok(count) => *count < BATCH_SIZE,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            };
            batch.heard[index] = !empty;
            more |= !empty;
            let Ok(count) = received else {
                // ICMP errors surface here; the next call goes on.
                let asks = &mut batch.empty[index];
                *asks = if empty { *asks + u8::from(!heard) } else { 0 };
                batch.looked[index] = Some(!empty);
                continue;
            };
            batch.empty[index] = 0;
            batch.looked[index] = Some(true);
            batch.received(count, socket.port);
            if index >= FAMILIES && count > 1 {
                to.expect_rtcp(batch.ways());
            }
            more |= batch.hand_out(&mut left, to);
        }
        more
    }

    /// The same port for another thread, which only sends.
    pub(crate) fn sender(&self) -> io::Result<Self> {
        let v6 = self.v6.as_ref().map(Family::sender).transpose()?;
        Ok(Self { v4: self.v4.sender()?, v6, port: self.port })
    }

    /// The port, the same in both families.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sends `bytes`, cut into datagrams of `segment` bytes where given (the last may be shorter), from `local` to
    /// `remote`. Never waits.
    pub(crate) fn send(
        &self,
        local: IpAddr,
        remote: SocketAddr,
        bytes: &[u8],
        segment: Option<usize>,
    ) -> Sent {
        let family = if remote.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        match family {
            Some(family) => family.main.send(local, remote, bytes, segment),
            None => Sent::Refused,
        }
    }
}

/// Buffers that datagrams are received into; one per shard.
pub(crate) struct RecvBatch {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    /// Slots that are filled, and the port where.
    filled: usize,
    port: u16,
    /// What was handed out: slots, and bytes of the next one.
    slot: usize,
    offset: usize,
    /// The socket that was asked last; those of a port are numbered as in [`SOCKETS`].
    socket: usize,
    /// There is something, as the poller or whoever looks after what comes apart said, by socket.
    heard: [bool; SOCKETS],
    /// How often in a row an eager turn found nothing, by socket.
    empty: [u8; SOCKETS],
    /// Whether something was there when it was looked at last, by socket.
    looked: [Option<bool>; SOCKETS],
}

impl RecvBatch {
    /// About 2 MiB, of which only what datagrams fill is ever touched.
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; SLOT_STRIDE * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
            port: 0,
            slot: 0,
            offset: 0,
            socket: 0,
            heard: [false; SOCKETS],
            empty: [0; SOCKETS],
            looked: [None; SOCKETS],
        }
    }

    /// The poller reported this family's socket.
    pub(crate) fn heard(&mut self, family: usize) {
        if let Some(heard) = self.heard.get_mut(family) {
            *heard = true;
        }
    }

    /// This family's socket apart is to be looked at.
    pub(crate) fn heard_apart(&mut self, family: usize) {
        self.heard(FAMILIES + family);
    }

    /// Whether this family's socket apart had something, where it was looked at since this was asked last.
    pub(crate) fn looked_at_apart(&mut self, family: usize) -> Option<bool> {
        self.looked.get_mut(FAMILIES + family)?.take()
    }

    fn slots(&mut self) -> ([IoSliceMut<'_>; BATCH_SIZE], &mut [RecvMeta; BATCH_SIZE]) {
        let mut chunks = self.bytes.chunks_exact_mut(SLOT_STRIDE);
        let slots = std::array::from_fn(|_| {
            let slot = chunks.next().unwrap_or_default();
            let len = slot.len().min(SLOT_BYTES);
            IoSliceMut::new(&mut slot[..len])
        });
        (slots, &mut self.metas)
    }

    /// So many slots were filled at a port.
    fn received(&mut self, count: usize, port: u16) {
        (self.slot, self.offset, self.filled, self.port) = (0, 0, count, port);
    }

    /// Where what was received is to go and came from, by slot: RTCP, which checks came with.
    fn ways(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        let slots = self.metas.iter().zip(self.bytes.chunks(SLOT_STRIDE)).take(self.filled);
        let rtcp = slots.filter(|(_, bytes)| bytes.first().is_some_and(|first| *first >= 0x80));
        rtcp.filter_map(|(meta, _)| Some((SocketAddr::new(meta.dst_ip?, self.port), meta.addr)))
    }

    /// Hands out at most `left` datagrams. Whether some stay for the next time.
    fn hand_out(&mut self, left: &mut usize, to: &mut impl Receiver) -> bool {
        while self.slot < self.filled {
            let begin = self.slot * SLOT_STRIDE;
            let meta = self.metas.get(self.slot);
            let slot = self.bytes.get_mut(begin..begin + SLOT_BYTES);
            let place =
                meta.and_then(|meta| Some((meta, meta.dst_ip?, slot?.get_mut(..meta.len)?)));
            if let Some((meta, local_ip, filled)) = place {
                let local = SocketAddr::new(local_ip, self.port);
                for datagram in
                    filled.get_mut(self.offset..).unwrap_or_default().chunks_mut(meta.stride.max(1))
                {
                    if *left == 0 {
                        return true;
                    }
                    *left -= 1;
                    self.offset += datagram.len();
                    to.take(local, meta.addr, datagram);
                }
            }
            (self.slot, self.offset) = (self.slot + 1, 0);
        }
        false
    }
}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvBatch").finish_non_exhaustive()
    }
}

impl Capabilities {
    /// Once in the log, and what is missing as a warning: it costs CPU or packets.
    fn say(self, address: SocketAddr, asked: UdpBuffers) {
        let family = if address.is_ipv4() { "v4" } else { "v6" };
        tracing::info!(
            family,
            receive_asked = asked.receive,
            receive_granted = self.receive_buffer,
            send_asked = asked.send,
            send_granted = self.send_buffer,
            gso_segments = self.gso_segments,
            gro_segments = self.gro_segments,
            "UDP socket: buffers in bytes as the kernel counts them (twice what it grants)"
        );
        if self.gso_segments <= 1 || self.gro_segments <= 1 {
            tracing::warn!(
                family,
                "the kernel has no UDP segmentation offload: each datagram costs a system call"
            );
        }
        if self.receive_buffer < asked.receive {
            tracing::warn!(
                family,
                "the kernel grants a smaller receive buffer: raise net.core.rmem_max, or bursts are lost"
            );
        }
    }
}

/// One socket of one family.
#[derive(Debug)]
struct UdpSocket {
    io: std::net::UdpSocket,
    state: UdpSocketState,
    port: u16,
    /// When it was bound.
    capabilities: Capabilities,
}

impl Family {
    /// Binds the sockets of one family to the same port.
    fn bind(mut address: SocketAddr, buffers: UdpBuffers) -> io::Result<Self> {
        // Alone at first: a port that somebody has is refused, whoever shares what. From then on another process of the same user could
        // ask for a part of the port as well, as it could trace this one.
        let main = UdpSocket::bind(open(address)?, address, buffers)?;
        main.capabilities.say(address, buffers);
        address.set_port(main.port);
        let second = Self::bind_apart(&main, address, buffers).inspect_err(|error| {
            tracing::warn!(%error, "RTCP and STUN get no socket of their own: each report and check wakes the media thread");
            let _ = SockRef::from(&main.io).set_reuse_port(false);
        });
        Ok(Self { main, apart: second.ok() })
    }

    fn bind_apart(
        main: &UdpSocket,
        address: SocketAddr,
        buffers: UdpBuffers,
    ) -> io::Result<UdpSocket> {
        let second = open(address)?;
        SockRef::from(&main.io).set_reuse_port(true)?;
        second.set_reuse_port(true)?;
        let second = UdpSocket::bind(second, address, buffers)?;
        // What came since is in either: both are read.
        apart::steer(&main.io)?;
        Ok(second)
    }

    fn sender(&self) -> io::Result<Self> {
        Ok(Self { main: self.main.sender()?, apart: None })
    }
}

/// A socket that is not bound yet.
fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // The IPv4 socket has the port too, and addresses stay in their own family.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

impl UdpSocket {
    fn bind(socket: Socket, address: SocketAddr, buffers: UdpBuffers) -> io::Result<Self> {
        // What the kernel grants depends on net.core.{r,w}mem_max; less is worse, but no reason not to start.
        let _ = socket.set_recv_buffer_size(buffers.receive);
        let _ = socket.set_send_buffer_size(buffers.send);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        let capabilities = Capabilities {
            gso_segments: state.max_gso_segments(),
            gro_segments: state.gro_segments(),
            receive_buffer: socket.recv_buffer_size().unwrap_or(0),
            send_buffer: socket.send_buffer_size().unwrap_or(0),
            rtcp_apart: false,
        };
        let socket = std::net::UdpSocket::from(socket);
        let port = socket.local_addr()?.port();
        Ok(Self { io: socket, state, port, capabilities })
    }

    fn receive(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        let (mut slots, metas) = batch.slots();
        self.state.recv((&self.io).into(), &mut slots, metas)
    }

    fn sender(&self) -> io::Result<Self> {
        let io = self.io.try_clone()?;
        let state = UdpSocketState::new((&io).into())?;
        Ok(Self { io, state, port: self.port, capabilities: self.capabilities })
    }

    fn send(
        &self,
        local: IpAddr,
        remote: SocketAddr,
        bytes: &[u8],
        segment: Option<usize>,
    ) -> Sent {
        let max_segments = self.state.max_gso_segments();
        let segment = segment.filter(|segment| *segment > 0 && *segment < bytes.len());
        let Some(segment) = segment else { return self.send_one(local, remote, bytes, None) };
        let run = match max_segments {
            0 | 1 => segment,
            // A message is bounded by the length field of UDP as well.
            n => segment * n.min(SLOT_BYTES / segment).max(1),
        };
        for part in bytes.chunks(run) {
            match self.send_one(local, remote, part, Some(segment)) {
                Sent::All => {}
                // The first refusal switches GSO off inside the socket state: send the same part piece by piece.
                Sent::Refused if max_segments > 1 && self.state.max_gso_segments() == 1 => {
                    tracing::info!(
                        "the network device refuses segmented sends: sending one by one"
                    );
                    for datagram in part.chunks(segment) {
                        match self.send_one(local, remote, datagram, None) {
                            Sent::All => {}
                            failed => return failed,
                        }
                    }
                }
                failed => return failed,
            }
        }
        Sent::All
    }

    fn send_one(
        &self,
        local: IpAddr,
        remote: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> Sent {
        let transmit = quinn_udp::Transmit {
            destination: remote,
            ecn: None,
            contents,
            segment_size,
            src_ip: Some(local).filter(|ip| !ip.is_unspecified()),
        };
        match self.state.try_send((&self.io).into(), &transmit) {
            Ok(()) => Sent::All,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Full,
            Err(_) => Sent::Refused,
        }
    }
}

#[cfg(test)]
mod tests;
