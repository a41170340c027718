//! Ports on real loopback sockets.

use super::*;
use crate::net::Source;

const BUFFERS: UdpBuffers = UdpBuffers { receive: 1 << 20, send: 1 << 20 };

impl<F: FnMut(SocketAddr, SocketAddr, &mut [u8])> Receiver for F {
    fn expect_rtcp(&mut self, _: impl Iterator<Item = (SocketAddr, SocketAddr)>) {}

    fn take(&mut self, local: SocketAddr, remote: SocketAddr, datagram: &mut [u8]) {
        self(local, remote, datagram);
    }
}

/// A port and who reports its sockets.
struct Watched {
    port: UdpPort,
    poller: Poller,
    batch: RecvBatch,
}

impl Watched {
    fn bind(ipv6: bool) -> Self {
        let (port, poller) = (UdpPort::bind(0, ipv6, BUFFERS).unwrap(), Poller::new().unwrap());
        port.watch(&poller).unwrap();
        Self { port, poller, batch: RecvBatch::new() }
    }

    /// Waits until a datagram is there.
    fn wait(&mut self) {
        let patience = Some(std::time::Duration::from_secs(10));
        let (mut reported, batch) = (0, &mut self.batch);
        let note = |source| {
            match source {
                Source::Udp(family) => batch.heard(family),
                Source::Apart(family) => batch.heard_apart(family),
                _ => panic!("{source:?}"),
            }
            reported += 1;
        };
        self.poller.wait(patience, note).unwrap();
        assert!(reported > 0, "nothing came");
    }

    fn receive_until(&mut self, count: usize) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let mut got = Vec::new();
        while got.len() < count {
            self.wait();
            let mut take = |local, remote, bytes: &mut [u8]| {
                got.push((local, remote, bytes.to_vec()));
            };
            self.port.receive(&mut self.batch, false, &mut take);
        }
        got
    }
}

fn bind() -> UdpPort {
    UdpPort::bind(0, false, BUFFERS).unwrap()
}

#[test]
fn a_segmented_run_arrives_as_its_datagrams() {
    let (a, mut b) = (bind(), Watched::bind(false));
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let run: Vec<u8> = (0..2_500_u32).map(|i| (i / 1_000) as u8).collect();
    let sent = a.send(loopback, SocketAddr::new(loopback, b.port.port()), &run, Some(1_000));
    assert_eq!(sent, Sent::All);
    let got = b.receive_until(3);
    let sizes: Vec<usize> = got.iter().map(|(.., bytes)| bytes.len()).collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);
    for (index, (local, remote, bytes)) in got.iter().enumerate() {
        assert_eq!((local.ip(), local.port()), (loopback, b.port.port()));
        assert_eq!((remote.ip(), remote.port()), (loopback, a.port()));
        assert!(bytes.iter().all(|byte| usize::from(*byte) == index));
    }
}

#[test]
fn a_socket_that_is_always_empty_is_asked_no_more_until_something_comes() {
    let (a, mut b) = (bind(), Watched::bind(false));
    for _ in 0..1_000 {
        let mut none = |_, _, _: &mut [u8]| panic!("nobody sends");
        assert!(!b.port.receive(&mut b.batch, true, &mut none));
    }
    assert_eq!(b.batch.empty[0], EMPTY_ASKS);
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let to = SocketAddr::new(loopback, b.port.port());
    let mut got = 0;
    for sent in 1..=3 {
        assert_eq!(a.send(loopback, to, b"hello", None), Sent::All);
        while got < sent {
            b.wait();
            b.port.receive(&mut b.batch, true, &mut |_, _, _: &mut [u8]| got += 1);
        }
        assert!(b.batch.empty[0] < EMPTY_ASKS, "asked again");
    }
}

/// What comes is told apart by its first bytes, in both families.
#[test]
fn rtcp_and_stun_come_to_a_socket_of_their_own_and_are_reported_once() {
    let mut node = Watched::bind(true);
    assert!(node.port.capabilities().rtcp_apart);
    let client = UdpPort::bind(0, true, BUFFERS).unwrap();
    let families = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let families = &families[..1 + usize::from(node.port.has_ipv6())];
    for (family, ip) in families.iter().enumerate() {
        let to = SocketAddr::new(*ip, node.port.port());
        // Sender and receiver reports, feedback, extended reports, the edges of the range; requests, answers, the edge of theirs.
        let apart: [&[u8]; 9] = [
            &[0x80, 200],
            &[0x81, 201],
            &[0x8f, 205],
            &[0x80, 207],
            &[0xbf, 192],
            &[0x80, 223],
            &[0, 1],
            &[1, 1],
            &[3],
        ];
        // RTP with and without marker, just outside the ranges, DTLS, and what is too short or nothing.
        let main: [&[u8]; 9] = [
            &[0x80, 96],
            &[0x90, 0x80 | 111],
            &[0x80, 191],
            &[0x80, 224],
            &[4, 200],
            &[20, 254],
            &[0x7f, 200],
            &[0xc0, 200],
            &[0x80],
        ];
        let mut came = [0; 2];
        for bytes in main.into_iter().chain(apart) {
            assert_eq!(client.send(*ip, to, bytes, None), Sent::All);
        }
        let patience = Some(std::time::Duration::from_secs(10));
        while came != [main.len(), apart.len()] {
            let mut sources = Vec::new();
            node.poller.wait(patience, |source| sources.push(source)).unwrap();
            assert!(!sources.is_empty(), "{came:?}");
            for source in sources {
                let index = usize::from(source == Source::Apart(family));
                match source {
                    Source::Udp(known) if known == family => node.batch.heard(family),
                    Source::Apart(known) if known == family => node.batch.heard_apart(family),
                    _ => panic!("{source:?}"),
                }
                let mut take = |_, _, bytes: &mut [u8]| {
                    assert_eq!(index == 1, apart.contains(&&*bytes));
                    came[index] += 1;
                };
                node.port.receive(&mut node.batch, false, &mut take);
                assert_eq!(node.batch.looked_at_apart(family).is_some(), index == 1);
            }
            if came[1] > 0 && came[1] < apart.len() {
                // A busy kernel may hand them over in parts.
                node.port.watch_apart_again(family, &node.poller).unwrap();
            }
        }
        // No more of it until that is asked for.
        assert_eq!(client.send(*ip, to, apart[0], None), Sent::All);
        let mut heard = 0;
        node.poller.wait(Some(std::time::Duration::from_millis(20)), |_| heard += 1).unwrap();
        assert_eq!(heard, 0);
        node.port.watch_apart_again(family, &node.poller).unwrap();
        let mut sources = Vec::new();
        node.poller.wait(patience, |source| sources.push(source)).unwrap();
        assert_eq!(sources, [Source::Apart(family)]);
        node.batch.heard_apart(family);
        node.port.receive(&mut node.batch, false, &mut |_, _, _: &mut [u8]| ());
    }
}

#[test]
fn nobody_else_gets_a_port_that_is_taken() {
    for ipv6 in [false, true] {
        let port = UdpPort::bind(0, ipv6, BUFFERS).unwrap();
        let refused = UdpPort::bind(port.port(), ipv6, BUFFERS).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}

#[test]
fn a_turn_takes_a_bounded_part_of_a_flood_and_nothing_is_lost() {
    let (a, mut b) = (bind(), Watched::bind(false));
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let to = SocketAddr::new(loopback, b.port.port());
    // Few enough for the smallest buffers, where the kernel keeps each by itself.
    for run in 0..10_u8 {
        let bytes: Vec<u8> = (0..40_u8).flat_map(|n| [run, n, 0, 0]).collect();
        assert_eq!(a.send(loopback, to, &bytes, Some(4)), Sent::All);
    }
    let (mut got, mut more) = (Vec::new(), false);
    while got.len() < 400 {
        if !more {
            b.wait();
        }
        let before = got.len();
        let mut take = |_, remote: SocketAddr, bytes: &mut [u8]| {
            assert_eq!(remote.port(), a.port());
            got.push((bytes[0], bytes[1]));
        };
        more = b.port.receive(&mut b.batch, false, &mut take);
        assert!(got.len() - before <= DATAGRAMS_PER_TURN, "{} at once", got.len() - before);
    }
    let all = (0..10).flat_map(|run| (0..40).map(move |n| (run, n)));
    assert!(got.into_iter().eq(all), "in order");
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let (mut node, mut client) = (Watched::bind(false), Watched::bind(false));
    // Linux answers on all of 127.0.0.0/8: the route's own choice of source would be 127.0.0.1.
    let asked = SocketAddr::new([127, 0, 0, 2].into(), node.port.port());
    client.port.send([127, 0, 0, 1].into(), asked, b"ask", None);
    let (local, remote, _) = node.receive_until(1).remove(0);
    assert_eq!(local, asked);
    node.port.send(local.ip(), remote, b"answer", None);
    let (_, from, _) = client.receive_until(1).remove(0);
    assert_eq!(from, asked);
}

#[test]
fn another_thread_sends_from_the_same_port() {
    let (node, mut client) = (bind(), Watched::bind(false));
    let sender = node.sender().unwrap();
    let asked = SocketAddr::new([127, 0, 0, 2].into(), client.port.port());
    let sent =
        std::thread::spawn(move || sender.send([127, 0, 0, 3].into(), asked, &[7; 300], Some(200)));
    assert_eq!(sent.join().unwrap(), Sent::All);
    let got = client.receive_until(2);
    let from = SocketAddr::new([127, 0, 0, 3].into(), node.port());
    assert!(got.iter().all(|(_, remote, _)| *remote == from));
}

#[test]
fn both_families_share_a_port() {
    let mut watched = Watched::bind(true);
    if !watched.port.has_ipv6() {
        // A machine without IPv6 is served over IPv4 alone.
        return;
    }
    let other = UdpPort::bind(0, true, BUFFERS).unwrap();
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    other.send(loopback, SocketAddr::new(loopback, watched.port.port()), b"six", None);
    let (local, remote, bytes) = watched.receive_until(1).remove(0);
    assert_eq!((local.ip(), remote.ip(), bytes.as_slice()), (loopback, loopback, &b"six"[..]));
}

#[test]
fn a_datagram_that_no_path_takes_is_refused_not_fatal() {
    let port = bind();
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let too_big = vec![0; 65_600];
    assert_eq!(port.send(loopback, SocketAddr::new(loopback, 9), &too_big, None), Sent::Refused);
    let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 9);
    assert_eq!(port.send(Ipv6Addr::LOCALHOST.into(), v6, b"x", None), Sent::Refused);
}
