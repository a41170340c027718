//! ICE-TCP, passive (RFC 6544): one port per process. The acceptor reads one framed STUN message to learn whom a
//! connection is for; from then on the connection belongs to a shard.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{
    framing::{FrameReader, MAX_FRAME, push_frame},
    poller::{Interest, Poller},
};

/// A client sends its check right after connecting.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that have not said whom they are for. One more is closed at once.
const MAX_HALF_OPEN: usize = 256;

/// Bytes that may wait for a slow client: about 100 ms at 10 Mbit/s. What does not fit is dropped, like on a full link.
const WRITE_BUFFER: usize = 128 * 1024;

/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 512;

/// A connection whose first message was read.
pub(crate) struct Accepted {
    /// The connection. It does not block.
    pub(crate) stream: std::net::TcpStream,
    /// Our address.
    pub(crate) local: SocketAddr,
    /// The client's address.
    pub(crate) remote: SocketAddr,
    /// The first framed packet.
    pub(crate) first: Vec<u8>,
    /// Bytes that came behind it, framing included.
    pub(crate) rest: Vec<u8>,
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted").finish_non_exhaustive()
    }
}

/// Listens on one port, IPv4 and (where there is any) IPv6.
#[derive(Debug)]
pub(crate) struct TcpAcceptor {
    listeners: Vec<std::net::TcpListener>,
    port: u16,
}

impl TcpAcceptor {
    /// Binds to `port` (0: any free one).
    pub(crate) fn bind(port: u16, ipv6: bool) -> io::Result<Self> {
        let v4 = listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
        let port = v4.local_addr()?.port();
        let mut listeners = vec![v4];
        if ipv6 {
            // Without IPv6 (or with the ephemeral port taken there) IPv4 alone serves.
            listeners.extend(listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)));
        }
        Ok(Self { listeners, port })
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Accepts for ever and gives every connection with its first message to `hand_over`. Needs a tokio runtime.
    pub(crate) async fn run(
        self,
        hand_over: impl Fn(Accepted) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let hand_over = Arc::new(hand_over);
        let half_open = Arc::new(Semaphore::new(MAX_HALF_OPEN));
        let mut tasks = tokio::task::JoinSet::new();
        for listener in self.listeners {
            let listener = TcpListener::from_std(listener)?;
            let (hand_over, half_open) = (Arc::clone(&hand_over), Arc::clone(&half_open));
            tasks.spawn(async move {
                loop {
                    let Ok((stream, remote)) = listener.accept().await else {
                        // Out of file descriptors: wait for some to be closed.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    };
                    let Ok(permit) = Arc::clone(&half_open).try_acquire_owned() else { continue };
                    let hand_over = Arc::clone(&hand_over);
                    tokio::spawn(async move {
                        let reading = read_first(stream, remote);
                        if let Ok(Some(accepted)) =
                            tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, reading).await
                        {
                            hand_over(accepted);
                        }
                        drop(permit);
                    });
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}

async fn read_first(mut stream: TcpStream, remote: SocketAddr) -> Option<Accepted> {
    let local = stream.local_addr().ok()?;
    let _ = stream.set_nodelay(true);
    let mut frames = FrameReader::default();
    let mut buffer = [0; 1_024];
    // Bounded: a frame longer than MAX_FRAME is an error, a shorter one ends the loop.
    loop {
        if let Some(first) = frames.poll().ok()? {
            let first = first.to_vec();
            let rest = frames.into_rest();
            return Some(Accepted { stream: stream.into_std().ok()?, local, remote, first, rest });
        }
        match stream.read(&mut buffer).await.ok()? {
            0 => return None,
            len => frames.push(buffer.get(..len)?),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What writing a packet came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TcpWrite {
    /// Written or waiting in the buffer.
    Taken,
    /// The buffer is full: the packet is lost.
    Full,
    /// The connection is gone.
    Closed,
}

/// What one look at a connection left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TcpRead {
    /// Whole packets wait in it: look again soon.
    More,
    /// The poller tells when there is more.
    Empty,
    /// It has ended, or sent what no client sends. Packets that came before were handed out.
    Closed,
}

/// A connection of one shard.
#[derive(Debug)]
pub(crate) struct TcpConnection {
    stream: std::net::TcpStream,
    /// Its name for the poller.
    token: u32,
    frames: FrameReader,
    /// To be written, framed.
    waiting: Vec<u8>,
    /// The poller tells when there is room to write.
    writes_watched: bool,
}

/// Where connections are read into, one after another.
#[derive(Debug)]
pub(crate) struct TcpBuffer(Box<[u8]>);

impl Default for TcpBuffer {
    fn default() -> Self {
        Self(vec![0; 4 * MAX_FRAME].into())
    }
}

impl TcpConnection {
    /// Takes over a connection, which `poller` reports by `token` from now on. What came with it is handed out by the first
    /// [`Self::serve`].
    pub(crate) fn adopt(accepted: Accepted, token: u32, poller: &Poller) -> io::Result<Self> {
        let mut came = Vec::with_capacity(2 + accepted.first.len() + accepted.rest.len());
        push_frame(&accepted.first, &mut came);
        came.extend_from_slice(&accepted.rest);
        let mut frames = FrameReader::default();
        frames.push(&came);
        poller.watch_tcp(token, &accepted.stream)?;
        Ok(Self {
            stream: accepted.stream,
            token,
            frames,
            waiting: Vec::new(),
            writes_watched: false,
        })
    }

    /// Its name for the poller.
    pub(crate) fn token(&self) -> u32 {
        self.token
    }

    /// Writes what waits, reads what is there, one buffer at most, and hands out `limit` packets at most, taking them off it.
    /// What is not read makes TCP slow its client.
    pub(crate) fn serve(
        &mut self,
        poller: &Poller,
        buffer: &mut TcpBuffer,
        limit: &mut usize,
        mut each: impl FnMut(&mut [u8]),
    ) -> TcpRead {
        if !self.waiting.is_empty() && self.flush(poller).is_err() {
            return TcpRead::Closed;
        }
        for read in [false, true] {
            if read {
                match self.stream.read(&mut buffer.0) {
                    Ok(0) => return TcpRead::Closed,
                    Ok(len) => self.frames.push(buffer.0.get(..len).unwrap_or_default()),
                    Err(error) if is_transient(&error) => return TcpRead::Empty,
                    Err(_) => return TcpRead::Closed,
                }
            }
            loop {
                if *limit == 0 {
                    return TcpRead::More;
                }
                match self.frames.poll() {
                    Ok(Some(packet)) => {
                        *limit -= 1;
                        each(packet);
                    }
                    Ok(None) => break,
                    Err(_) => return TcpRead::Closed,
                }
            }
        }
        TcpRead::Empty
    }

    /// Writes one packet, framed. Never waits.
    pub(crate) fn write(&mut self, packet: &[u8], poller: &Poller) -> TcpWrite {
        if self.waiting.len() + 2 + packet.len() > WRITE_BUFFER {
            return TcpWrite::Full;
        }
        let idle = self.waiting.is_empty();
        if !push_frame(packet, &mut self.waiting) {
            return TcpWrite::Full;
        }
        if idle && self.flush(poller).is_err() {
            return TcpWrite::Closed;
        }
        TcpWrite::Taken
    }

    /// Writes of what waits as much as there is room for.
    fn flush(&mut self, poller: &Poller) -> io::Result<()> {
        match self.stream.write(&self.waiting) {
            Ok(written) => drop(self.waiting.drain(..written)),
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        let waits = !self.waiting.is_empty();
        if waits != self.writes_watched {
            let interest = if waits { Interest::ReadAndWrite } else { Interest::Read };
            poller.set_interest(self.token, &self.stream, interest)?;
            self.writes_watched = waits;
        }
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::net::Source;

    fn framed(packet: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(push_frame(packet, &mut bytes));
        bytes
    }

    /// An acceptor on a free port and what it hands over.
    fn acceptor() -> (SocketAddr, mpsc::Receiver<Accepted>) {
        let acceptor = TcpAcceptor::bind(0, false).unwrap();
        let address = SocketAddr::new([127, 0, 0, 1].into(), acceptor.port());
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(acceptor.run(move |accepted| sender.try_send(accepted).unwrap()));
        (address, receiver)
    }

    async fn connected(first: &[u8]) -> (std::net::TcpStream, Accepted) {
        let (address, mut accepted) = acceptor();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(first).unwrap();
        let accepted = accepted.recv().await.unwrap();
        assert_eq!(accepted.remote, client.local_addr().unwrap());
        (client, accepted)
    }

    /// What a connection hands out until it is empty or has ended; the latter is said.
    fn serve(
        connection: &mut TcpConnection,
        poller: &Poller,
        mut limit: usize,
    ) -> (Vec<Vec<u8>>, TcpRead) {
        let (mut packets, mut buffer) = (Vec::new(), TcpBuffer::default());
        let each = |packet: &mut [u8]| packets.push(packet.to_vec());
        let read = connection.serve(poller, &mut buffer, &mut limit, each);
        (packets, read)
    }

    fn reported(poller: &Poller, patience: Duration) -> Vec<Source> {
        let mut reported = Vec::new();
        poller.wait(Some(patience), |source| reported.push(source)).unwrap();
        reported
    }

    fn wait(poller: &Poller) {
        assert_eq!(reported(poller, Duration::from_secs(10)), [Source::Tcp(7)]);
    }

    #[tokio::test]
    async fn packets_travel_both_ways() {
        let first = [framed(b"hello"), framed(b"behind"), vec![0]].concat();
        let (mut client, accepted) = connected(&first).await;
        assert_eq!((accepted.first.as_slice(), accepted.rest.len()), (&b"hello"[..], 2 + 6 + 1));
        let poller = Poller::new().unwrap();
        let mut connection = TcpConnection::adopt(accepted, 7, &poller).unwrap();
        let packets = |texts: &[&str]| texts.iter().map(|t| t.as_bytes().to_vec()).collect();
        assert_eq!(serve(&mut connection, &poller, 1), (packets(&["hello"]), TcpRead::More));
        assert_eq!(serve(&mut connection, &poller, 9), (packets(&["behind"]), TcpRead::Empty));
        client.write_all(&framed(b"more")[1..]).unwrap();
        wait(&poller);
        assert_eq!(serve(&mut connection, &poller, 9), (packets(&["more"]), TcpRead::Empty));
        assert_eq!(connection.write(b"answer", &poller), TcpWrite::Taken);
        let mut answer = [0; 8];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer.to_vec(), framed(b"answer"));
        client.write_all(&framed(b"last")).unwrap();
        drop(client);
        wait(&poller);
        assert_eq!(serve(&mut connection, &poller, 9).0, packets(&["last"]));
        wait(&poller);
        assert_eq!(serve(&mut connection, &poller, 9), (vec![], TcpRead::Closed));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_packets_and_nothing_waits() {
        let (mut client, accepted) = connected(&framed(b"x")).await;
        let poller = Poller::new().unwrap();
        let mut connection = TcpConnection::adopt(accepted, 7, &poller).unwrap();
        let packet = [9; 1_200];
        let (mut taken, mut lost) = (0, 0);
        // Far more than kernel buffers and ours together.
        for _ in 0..20_000 {
            match connection.write(&packet, &poller) {
                TcpWrite::Taken => taken += 1,
                TcpWrite::Full => lost += 1,
                TcpWrite::Closed => panic!("the client is there"),
            }
        }
        assert!(lost > 0 && connection.waiting.len() <= WRITE_BUFFER);
        // What was taken arrives whole: the framing survives the losses.
        let reading = tokio::task::spawn_blocking(move || {
            let mut frame = [0; 1_202];
            for _ in 0..taken {
                client.read_exact(&mut frame).unwrap();
                assert_eq!(frame[..2], 1_200_u16.to_be_bytes());
            }
            client
        });
        while !connection.waiting.is_empty() {
            wait(&poller);
            serve(&mut connection, &poller, 0);
        }
        let client = reading.await.unwrap();
        assert_eq!(reported(&poller, Duration::ZERO), [], "room to write is no news");
        drop(client);
    }

    #[tokio::test]
    async fn a_connection_that_starts_with_noise_is_closed() {
        let (address, mut accepted) = acceptor();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let closed = tokio::task::spawn_blocking(move || client.read(&mut [0; 10])).await.unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)));
        assert!(accepted.try_recv().is_err());
    }

    #[tokio::test]
    async fn half_open_connections_are_bounded() {
        let (address, mut accepted) = acceptor();
        let mut silent = Vec::new();
        for _ in 0..MAX_HALF_OPEN {
            silent.push(std::net::TcpStream::connect(address).unwrap());
        }
        // Accepted in order: one more is closed without being read.
        let mut late = std::net::TcpStream::connect(address).unwrap();
        let closed = tokio::task::spawn_blocking(move || late.read(&mut [0; 10])).await.unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)));
        // A silent one that speaks up is still served.
        silent[0].write_all(&framed(b"late")).unwrap();
        assert_eq!(accepted.recv().await.unwrap().first, b"late");
    }
}
