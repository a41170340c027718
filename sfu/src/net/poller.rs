//! What a shard's thread sleeps on: its sockets and the bell by which other threads wake it.
//!
//! The kernel's own list (epoll), asked when there is nothing else to do. Sockets are reported as long as there is something to
//! read: one that was emptied is not heard of again for what it had before, however long nobody asked.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    io::{Errno, write},
};

/// What something was reported of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// The UDP socket of this family, in the order of [`super::UdpPort`].
    Udp(usize),
    /// The one for RTCP and STUN of this family.
    Apart(usize),
    /// Another thread rang.
    Bell,
    /// The TCP connection with this token.
    Tcp(u32),
}

/// What is wanted to be known of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interest {
    /// There is something to read, or it has ended.
    Read,
    /// That, or there is room to write.
    ReadAndWrite,
}

/// Events taken from the kernel at once; what is left is reported the next time.
const EVENTS: usize = 32;

/// Something to read, once.
const ONCE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ONESHOT);

/// Longest sleep, ms: no deadline is that far, and the kernel's number has 31 bits.
const LONGEST: u128 = 3_600_000;

const FAMILIES: u64 = 2;
const APART: u64 = FAMILIES;
const BELL: u64 = APART + FAMILIES;
const FIRST_TCP: u64 = BELL + 1;

impl Source {
    fn to_data(self) -> epoll::EventData {
        epoll::EventData::new_u64(match self {
            Self::Udp(family) => family as u64,
            Self::Apart(family) => APART + family as u64,
            Self::Bell => BELL,
            Self::Tcp(token) => FIRST_TCP + u64::from(token),
        })
    }

    fn from_data(data: u64) -> Self {
        match data {
            family @ 0..FAMILIES => Self::Udp(family as usize),
            family @ APART..BELL => Self::Apart((family - APART) as usize),
            BELL => Self::Bell,
            token => Self::Tcp((token - FIRST_TCP) as u32),
        }
    }
}

/// The list.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// With nothing in it.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Another thread's way to end [`Self::wait`].
    pub(crate) fn bell(&self) -> io::Result<BellRope> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Each pull is reported once, so that nobody needs to set the counter back.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &counter, Source::Bell.to_data(), flags)?;
        Ok(BellRope(counter))
    }

    /// Has a UDP socket reported. It must stay open as long as the list.
    pub(crate) fn watch_udp(&self, family: usize, socket: impl AsFd) -> io::Result<()> {
        let source = Source::Udp(family).to_data();
        Ok(epoll::add(&self.epoll, socket, source, epoll::EventFlags::IN)?)
    }

    /// Has a socket for RTCP and STUN reported once, then no more until [`Self::watch_apart_again`].
    pub(crate) fn watch_apart(&self, family: usize, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, Source::Apart(family).to_data(), ONCE)?)
    }

    /// Has it reported once more, at once if there is something.
    pub(crate) fn watch_apart_again(&self, family: usize, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, Source::Apart(family).to_data(), ONCE)?)
    }

    /// Has a TCP connection reported, until it is closed.
    pub(crate) fn watch_tcp(&self, token: u32, stream: impl AsFd) -> io::Result<()> {
        let source = Source::Tcp(token).to_data();
        Ok(epoll::add(&self.epoll, stream, source, epoll::EventFlags::IN)?)
    }

    /// Changes what is reported of a connection.
    pub(crate) fn set_interest(
        &self,
        token: u32,
        stream: impl AsFd,
        interest: Interest,
    ) -> io::Result<()> {
        let flags = match interest {
            Interest::Read => epoll::EventFlags::IN,
            Interest::ReadAndWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        };
        Ok(epoll::modify(&self.epoll, stream, Source::Tcp(token).to_data(), flags)?)
    }

    /// Waits until something is there or this time is over, rounded up to a millisecond (none: for an hour), and tells what.
    pub(crate) fn wait(
        &self,
        timeout: Option<Duration>,
        mut each: impl FnMut(Source),
    ) -> io::Result<()> {
        let whole = |timeout: Duration| timeout.as_nanos().div_ceil(1_000_000).min(LONGEST) as u64;
        let ms = timeout.map_or(LONGEST as u64, whole);
        let limit =
            Timespec { tv_sec: (ms / 1_000) as i64, tv_nsec: (ms % 1_000 * 1_000_000) as i64 };
        let mut room = [const { MaybeUninit::uninit() }; EVENTS];
        match epoll::wait(&self.epoll, &mut room[..], Some(&limit)) {
            Ok((events, _)) => {
                events.iter().for_each(|event| each(Source::from_data(event.data.u64())));
            }
            // A signal is no reason not to look again.
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Ends the wait of a [`Poller`].
#[derive(Debug)]
pub(crate) struct BellRope(OwnedFd);

impl BellRope {
    /// A system call. Pulling it before the other side waits ends its next wait.
    pub(crate) fn pull(&self) {
        // Refused only at 2^64 - 1 pulls, of which the other side still knows.
        let _ = write(&self.0, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream, UdpSocket},
    };

    use super::*;

    const AT_ONCE: Option<Duration> = Some(Duration::ZERO);
    const LONG: Option<Duration> = Some(Duration::from_secs(10));

    fn seen(poller: &Poller, timeout: Option<Duration>) -> Vec<Source> {
        let mut seen = Vec::new();
        poller.wait(timeout, |source| seen.push(source)).unwrap();
        seen
    }

    #[test]
    fn a_socket_is_reported_while_it_has_something_and_not_for_what_it_had() {
        let poller = Poller::new().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        poller.watch_udp(1, &socket).unwrap();
        assert_eq!(seen(&poller, AT_ONCE), []);
        for text in [b"a", b"b"] {
            socket.send_to(text, socket.local_addr().unwrap()).unwrap();
        }
        assert_eq!(seen(&poller, LONG), [Source::Udp(1)]);
        socket.recv(&mut [0; 1]).unwrap();
        assert_eq!(seen(&poller, LONG), [Source::Udp(1)], "one is left");
        socket.recv(&mut [0; 1]).unwrap();
        assert_eq!(seen(&poller, AT_ONCE), []);
    }

    #[test]
    fn each_pull_of_the_bell_ends_one_wait() {
        let poller = Poller::new().unwrap();
        let rope = poller.bell().unwrap();
        rope.pull();
        rope.pull();
        assert_eq!(seen(&poller, LONG), [Source::Bell], "before the wait");
        assert_eq!(seen(&poller, AT_ONCE), []);
        let pulls = std::thread::spawn(move || {
            rope.pull();
            rope
        });
        assert_eq!(seen(&poller, LONG), [Source::Bell]);
        drop(pulls.join().unwrap());
    }

    #[test]
    fn a_connection_is_reported_for_reading_for_writing_where_wanted_and_no_more_once_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let poller = Poller::new().unwrap();
        poller.watch_tcp(9, &stream).unwrap();
        assert_eq!(seen(&poller, AT_ONCE), [], "nobody asked for room to write");
        poller.set_interest(9, &stream, Interest::ReadAndWrite).unwrap();
        assert_eq!(seen(&poller, LONG), [Source::Tcp(9)]);
        poller.set_interest(9, &stream, Interest::Read).unwrap();
        assert_eq!(seen(&poller, AT_ONCE), []);
        client.write_all(b"x").unwrap();
        assert_eq!(seen(&poller, LONG), [Source::Tcp(9)]);
        stream.read_exact(&mut [0]).unwrap();
        drop(client);
        assert_eq!(seen(&poller, LONG), [Source::Tcp(9)], "its end");
        drop(stream);
        assert_eq!(seen(&poller, AT_ONCE), []);
    }

    #[test]
    fn a_wait_ends_with_its_time_and_not_before() {
        let poller = Poller::new().unwrap();
        #[allow(clippy::disallowed_methods)] // the real clock is what is tested
        let begun = std::time::Instant::now();
        let wait = Duration::from_micros(5_200);
        assert_eq!(seen(&poller, Some(wait)), []);
        assert!(begun.elapsed() >= wait);
    }
}
