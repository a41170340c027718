//! Sockets that stand for many clients: all addresses of 127.0.0.0/8 reach a socket on the wildcard address.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

/// The largest list of datagrams that the kernel hands over.
const SLOT: usize = 65_536;

/// One socket.
#[derive(Debug)]
pub struct Port {
    socket: UdpSocket,
    state: UdpSocketState,
    number: u16,
}

/// Where datagrams are received into.
#[derive(Debug)]
pub struct Slots {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Slots {
    /// Touched at once, so that they are no part of what is measured later.
    pub fn new() -> Self {
        Self { bytes: vec![1; SLOT * BATCH_SIZE], metas: [RecvMeta::default(); BATCH_SIZE] }
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a datagram came from and went to, and when the kernel took it (since the Unix epoch).
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The client's address.
    pub client: Ipv4Addr,
    /// Zero where the kernel does not say.
    pub at: Duration,
}

/// Datagrams that these sockets had no room for, since they were bound.
pub fn kernel_drops(ports: &[Port]) -> u64 {
    let numbers: Vec<u16> = ports.iter().map(|port| port.number).collect();
    kernel_drops_of(&numbers)
}

/// The same by the sockets' port numbers.
pub fn kernel_drops_of(ports: &[u16]) -> u64 {
    let table = std::fs::read_to_string("/proc/self/net/udp").unwrap_or_default();
    let of_line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (_, number) = fields.nth(1)?.rsplit_once(':')?;
        let number = u16::from_str_radix(number, 16).ok()?;
        ports.contains(&number).then_some(fields.next_back()?.parse::<u64>().ok()?)
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

impl Port {
    /// Any free port, with the largest buffers that the kernel grants.
    pub fn bind() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        let _ = socket.set_recv_buffer_size(64 << 20);
        let _ = socket.set_send_buffer_size(64 << 20);
        socket.bind(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0).into())?;
        let socket = UdpSocket::from(socket);
        let number = socket.local_addr()?.port();
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, number })
    }

    /// The same socket for another thread.
    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = self.socket.try_clone()?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, number: self.number })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Sends datagrams of `segment` bytes (the last may be shorter). False when the kernel took none.
    pub fn send(
        &self,
        from: Ipv4Addr,
        to: SocketAddr,
        contents: &[u8],
        segment: Option<usize>,
    ) -> bool {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: segment.filter(|segment| *segment < contents.len()),
            src_ip: Some(IpAddr::V4(from)),
        };
        self.state.try_send((&self.socket).into(), &transmit).is_ok()
    }

    /// Hands out one batch of what is there; how many datagrams that were.
    pub fn receive(&self, slots: &mut Slots, mut each: impl FnMut(Arrival, &mut [u8])) -> usize {
        let Slots { bytes, metas } = slots;
        let mut chunks = bytes.chunks_exact_mut(SLOT);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let Ok(count) = self.state.recv((&self.socket).into(), &mut buffers, &mut metas[..]) else {
            return 0;
        };
        let mut datagrams = 0;
        for (meta, buffer) in metas.iter().zip(&mut buffers).take(count) {
            let Some(IpAddr::V4(client)) = meta.dst_ip else { continue };
            let arrival = Arrival { client, at: meta.timestamp.unwrap_or_default() };
            for datagram in buffer[..meta.len].chunks_mut(meta.stride.max(1)) {
                datagrams += 1;
                each(arrival, datagram);
            }
        }
        datagrams
    }
}
