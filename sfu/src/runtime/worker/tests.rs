//! A worker's turns on real sockets, with a clock of the test's.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::*;
use crate::{
    net::{PageMaker, TcpAcceptor, UdpBuffers},
    runtime::outputs::ways,
    shard::{DefaultLimits, ShardConfig, ShardId, TransportContext},
    transport::DtlsVersions,
};

/// A worker, and its door for TCP connections.
fn worker(epoch: Instant) -> (Worker, Io, mpsc::Sender<Accepted>) {
    let config = ShardConfig {
        id: ShardId(0),
        shards: 1,
        node_generation: 1,
        max_peers: 1,
        limits: DefaultLimits::default(),
        epoch,
    };
    let context = TransportContext::generate(DtlsVersions::Dtls12).unwrap();
    let (door, accepted) = mpsc::channel(64);
    let poller = Poller::new().unwrap();
    let doorbell = Arc::new(Doorbell::new(&poller).unwrap());
    let udp = UdpPort::bind(0, false, UdpBuffers { receive: 65_536, send: 65_536 }).unwrap();
    udp.watch(&poller).unwrap();
    let worker = Worker {
        shard: Shard::new(config, context, [1; 32]),
        udp,
        mailbox: mpsc::channel(1).1,
        rings: Rings::default(),
        steering: Steering::new(ShardId(0), 1, Rings::default()),
        outputs: ways(&[Arc::clone(&doorbell)], 1).0.remove(0),
        doorbell,
        accepted,
        block: Arc::new(Block::new(0, stats::describe().len())),
        heap: Heap::new(PageMaker::default()),
        waiting: false,
    };
    (worker, Io::new(poller, Arc::default()), door)
}

/// A client that said whom it is for and nothing since; the other end waits behind the door.
async fn connect(door: &mpsc::Sender<Accepted>) -> TcpStream {
    let acceptor = TcpAcceptor::bind(0, false).unwrap();
    let address = SocketAddr::new([127, 0, 0, 1].into(), acceptor.port());
    let (door, (handed, mut handed_over)) = (door.clone(), mpsc::channel(1));
    tokio::spawn(acceptor.run(move |accepted| {
        door.try_send(accepted).unwrap();
        handed.try_send(()).unwrap();
    }));
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"\0\x05hello").unwrap();
    // Not what waits behind the door: a worker that runs takes it at once.
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, handed_over.recv()).await.unwrap().unwrap();
    client
}

#[tokio::test]
#[allow(clippy::disallowed_methods)] // any instant will do
async fn tcp_clients_get_in_while_the_shard_is_busy_and_strangers_do_not_stay() {
    let start = Instant::now();
    let (mut worker, mut io, door) = worker(start);
    let mut client = connect(&door).await;
    worker.doorbell.ring();
    // Turns without a pause in between: the shard never sleeps.
    let mut turn = |io: &mut Io, at: Instant| {
        worker.turn(at, io);
        (io.counters.tcp_connections, io.counters.tcp_closed)
    };
    assert_eq!(turn(&mut io, start), (1, 0));
    assert_eq!(turn(&mut io, start + Duration::from_secs(9)), (1, 0));
    // No peer made a valid check on it.
    assert_eq!(turn(&mut io, start + Duration::from_secs(10)), (0, 1));
    assert_eq!(io.tcp.poll_timeout(), None, "an idle shard sleeps");
    let closed = tokio::task::spawn_blocking(move || client.read(&mut [0; 10]));
    assert!(matches!(closed.await.unwrap(), Ok(0) | Err(_)));
}

/// One number that the worker published, by name.
fn published(block: &Block, name: &str) -> u64 {
    let index = stats::describe().iter().position(|known| known.name == name);
    block.value(index.expect("it is described"))
}

/// Waits until something is so, for ten seconds at most.
#[allow(clippy::disallowed_methods)] // a real thread is waited for
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A turn as the loop takes it, with a clock of the test's, once something is reported where it is to be.
fn turn_after_wait(worker: &mut Worker, io: &mut Io, at: Instant, is_reported: bool) -> u64 {
    let patience = if is_reported { Duration::from_secs(10) } else { Duration::ZERO };
    io.wait(Some(patience)).unwrap();
    worker.turn(at, io);
    worker.shard.counters().datagrams_in
}

#[test]
#[allow(clippy::disallowed_methods)] // any instant will do
fn many_reports_and_checks_are_left_to_gather_and_media_is_not() {
    let start = Instant::now();
    let at = |us| start + Duration::from_micros(us);
    let (mut worker, mut io, _door) = worker(start);
    let port = SocketAddr::new([127, 0, 0, 1].into(), worker.udp.port());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (report, media) = ([0x81, 201, 0, 1, 0, 0, 0, 1], [0x80, 96, 0, 1, 0, 0, 0, 1]);
    let check = [0, 1, 0, 0, 0, 0, 0, 0];
    let send = |bytes: &[u8]| assert_eq!(socket.send_to(bytes, port).unwrap(), bytes.len());
    let mut turn = |io: &mut Io, us, is_reported| {
        let count = turn_after_wait(&mut worker, io, at(us), is_reported);
        (count, io.apart[0].due)
    };
    // Seldom: each is read when it comes, and nothing wakes the thread but the next.
    for (n, us) in [(1, 0), (2, 10_000), (3, 20_000)] {
        send(&report);
        assert_eq!(turn(&mut io, us, true), (n, None));
    }
    // Often: what comes behind the second waits for the end of the pause, however many turns there are, and media does not.
    send(&report);
    assert_eq!(turn(&mut io, 21_000, true), (4, Some(at(25_000))));
    (0..5).for_each(|_| send(&report));
    (0..5).for_each(|_| send(&check));
    assert_eq!(turn(&mut io, 22_000, false), (4, Some(at(25_000))));
    send(&media);
    assert_eq!(turn(&mut io, 23_000, true), (5, Some(at(25_000))));
    // The thread wakes a little late, and one report is enough for another pause.
    assert_eq!(turn(&mut io, 25_300, false), (15, Some(at(29_300))));
    send(&report);
    send(&media);
    assert_eq!(turn(&mut io, 26_000, true), (16, Some(at(29_300))));
    assert_eq!(turn(&mut io, 29_900, false), (17, Some(at(33_900))));
    // Over: one look finds nothing, and the next report is told of.
    assert_eq!(turn(&mut io, 34_000, false), (17, None));
    assert_eq!(turn(&mut io, 40_000, false), (17, None));
    send(&report);
    assert_eq!(turn(&mut io, 50_000, true), (18, None));
}

/// Ends what runs until the doorbell says so, also when a test fails.
struct Stop(Arc<Doorbell>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods)] // any instant will do
async fn who_is_rung_for_without_pause_reads_its_sockets_all_the_same() {
    let (worker, io, door) = worker(Instant::now());
    let (doorbell, block) = (Arc::clone(&worker.doorbell), Arc::clone(&worker.block));
    let stop = Stop(Arc::clone(&doorbell));
    let port = SocketAddr::new([127, 0, 0, 1].into(), worker.udp.port());
    // Two, so that it is rung for while one of them has no core.
    let ringers = [(); 2].map(|()| {
        let doorbell = Arc::clone(&doorbell);
        std::thread::spawn(move || {
            while !doorbell.is_stopped() {
                doorbell.ring();
            }
        })
    });
    let running = std::thread::spawn(move || worker.run(io));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for sent in 1..=50 {
        // To either socket.
        let first = if sent % 2 == 0 { 0xff } else { 0 };
        socket.send_to(&[first; 20], port).unwrap();
        until("a datagram is read", || published(&block, "datagrams_in") == sent);
    }
    // What comes with a connection, and what comes later.
    let mut client = connect(&door).await;
    until("a connection is taken", || published(&block, "datagrams_in") == 51);
    client.write_all(b"\0\x05again").unwrap();
    until("a connection is read", || published(&block, "datagrams_in") == 52);
    drop(stop);
    until("it stops", || running.is_finished());
    running.join().unwrap().unwrap();
    ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
}

#[test]
#[allow(clippy::disallowed_methods)] // any instant will do
fn a_thread_that_is_told_to_stop_stops_whatever_it_is_told_beside() {
    for _ in 0..300 {
        let (worker, io, _door) = worker(Instant::now());
        let doorbell = Arc::clone(&worker.doorbell);
        let running = std::thread::spawn(move || worker.run(io));
        // It is woken, and told to stop while it looks around.
        doorbell.ring();
        doorbell.stop();
        until("it stops", || running.is_finished());
    }
}
