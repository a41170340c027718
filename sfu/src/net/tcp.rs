//! ICE-TCP, passive (RFC 6544): one port per process. The acceptor reads one framed STUN message to learn whom a
//! connection is for; from then on the connection belongs to a shard.

use std::{
    cell::RefCell,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, Interest},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::{Notify, Semaphore, mpsc},
};

use super::framing::{FrameReader, MAX_FRAME, push_frame};

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
    /// The connection, not registered with any reactor.
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

/// A connection of one shard: its own tasks read and flush, on the shard's thread.
pub(crate) struct TcpConnection {
    write: Rc<WriteSide>,
    /// Ends both tasks.
    _tasks: AbortOnDrop,
}

struct WriteSide {
    half: OwnedWriteHalf,
    waiting: RefCell<Vec<u8>>,
    flush: Notify,
}

struct AbortOnDrop([tokio::task::JoinHandle<()>; 2]);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl TcpConnection {
    /// Takes over a connection. Packets go to `packets` as `(key, Some(packet))`, the end as `(key, None)`; while it is full
    /// nothing is read, so TCP slows its client. Must run inside a `LocalSet`.
    pub(crate) fn adopt<K: Copy + 'static>(
        accepted: Accepted,
        key: K,
        packets: mpsc::Sender<(K, Option<Vec<u8>>)>,
    ) -> io::Result<Self> {
        let (read, half) = TcpStream::from_std(accepted.stream)?.into_split();
        let write = Rc::new(WriteSide { half, waiting: RefCell::default(), flush: Notify::new() });
        let mut frames = FrameReader::default();
        frames.push(&accepted.rest);
        let first = accepted.first;
        let reading = tokio::task::spawn_local(async move {
            let sent_first = packets.send((key, Some(first))).await.is_ok();
            if sent_first {
                read_packets(read, frames, key, &packets).await;
            }
            let _ = packets.send((key, None)).await;
        });
        let flushing = tokio::task::spawn_local(flush(Rc::clone(&write)));
        Ok(Self { write, _tasks: AbortOnDrop([reading, flushing]) })
    }

    /// Writes one packet, framed. Never waits.
    pub(crate) fn write(&self, packet: &[u8]) -> TcpWrite {
        let mut waiting = self.write.waiting.borrow_mut();
        if waiting.len() + 2 + packet.len() > WRITE_BUFFER {
            return TcpWrite::Full;
        }
        let idle = waiting.is_empty();
        if !push_frame(packet, &mut waiting) {
            return TcpWrite::Full;
        }
        if idle {
            match self.write.half.try_write(&waiting) {
                Ok(written) => {
                    waiting.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return TcpWrite::Closed,
            }
            if !waiting.is_empty() {
                self.write.flush.notify_one();
            }
        }
        TcpWrite::Taken
    }
}

impl std::fmt::Debug for TcpConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpConnection").finish_non_exhaustive()
    }
}

async fn read_packets<K: Copy>(
    mut read: OwnedReadHalf,
    mut frames: FrameReader,
    key: K,
    packets: &mpsc::Sender<(K, Option<Vec<u8>>)>,
) {
    let mut buffer = vec![0; 4 * MAX_FRAME];
    loop {
        loop {
            match frames.poll() {
                Ok(Some(packet)) => {
                    if packets.send((key, Some(packet.to_vec()))).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        match read.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(len) => frames.push(buffer.get(..len).unwrap_or_default()),
        }
    }
}

async fn flush(write: Rc<WriteSide>) {
    loop {
        write.flush.notified().await;
        while !write.waiting.borrow().is_empty() {
            if write.half.ready(Interest::WRITABLE).await.is_err() {
                return;
            }
            let mut waiting = write.waiting.borrow_mut();
            match write.half.try_write(&waiting) {
                Ok(written) => {
                    waiting.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The reading task sees the end too and tells the shard.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::task::LocalSet;

    use super::*;

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

    #[tokio::test]
    async fn packets_travel_both_ways() {
        let first = [framed(b"hello"), framed(b"behind"), vec![0]].concat();
        let (mut client, accepted) = connected(&first).await;
        assert_eq!((accepted.first.as_slice(), accepted.rest.len()), (&b"hello"[..], 2 + 6 + 1));
        LocalSet::new()
            .run_until(async move {
                let (sender, mut packets) = mpsc::channel(4);
                let connection = TcpConnection::adopt(accepted, 7, sender).unwrap();
                client.write_all(&framed(b"more")[1..]).unwrap();
                for wanted in ["hello", "behind", "more"] {
                    assert_eq!(packets.recv().await, Some((7, Some(wanted.into()))));
                }
                assert_eq!(connection.write(b"answer"), TcpWrite::Taken);
                let mut answer = [0; 8];
                client.read_exact(&mut answer).unwrap();
                assert_eq!(answer.to_vec(), framed(b"answer"));
                drop(client);
                assert_eq!(packets.recv().await, Some((7, None)));
            })
            .await;
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_packets_and_nothing_waits() {
        let (mut client, accepted) = connected(&framed(b"x")).await;
        LocalSet::new()
            .run_until(async move {
                let (sender, _packets) = mpsc::channel(4);
                let connection = TcpConnection::adopt(accepted, 0, sender).unwrap();
                let packet = [9; 1_200];
                let (mut taken, mut lost) = (0, 0);
                // Far more than kernel buffers and ours together.
                for _ in 0..20_000 {
                    match connection.write(&packet) {
                        TcpWrite::Taken => taken += 1,
                        TcpWrite::Full => lost += 1,
                        TcpWrite::Closed => panic!("the client is there"),
                    }
                }
                assert!(lost > 0 && connection.write.waiting.borrow().len() <= WRITE_BUFFER);
                // What was taken arrives whole: the framing survives the losses.
                let reading = tokio::task::spawn_blocking(move || {
                    let mut frame = [0; 1_202];
                    for _ in 0..taken {
                        client.read_exact(&mut frame).unwrap();
                        assert_eq!(frame[..2], 1_200_u16.to_be_bytes());
                    }
                });
                reading.await.unwrap();
            })
            .await;
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
