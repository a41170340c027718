//! Starts, reaches and stops the threads of a node.

use std::{
    io,
    sync::{Arc, OnceLock, mpsc as std_mpsc},
    thread::JoinHandle,
    time::Instant,
};

use rand::Rng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    candidates::{Addresses, Candidate},
    doorbell::Doorbell,
    heap::Heap,
    outputs::{self, OutputReader, Outputs},
    ring::{Rings, mesh},
    stats,
    steering::{self, Handed, Steering},
    worker::{Io, Letter, MailboxError, Then, Worker},
};
use crate::{
    config::{DtlsVersions, NodeConfig},
    net::{
        Accepted, PageMaker, Poller, TcpAcceptor, UdpBuffers, UdpPort, local_ufrag,
        udp_kernel_drops,
    },
    shard::{
        Command, Fingerprint, RelayMessage, Shard, ShardConfig, ShardId, TransportContext, Ufrag,
    },
    telemetry::{Block, Blocks},
    transport,
};

/// Connections that may wait for a shard to take them.
const ACCEPTED_WAITING: usize = 64;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A UDP port could not be bound.
    #[error("UDP port {port} (rtc.udp_port, one per shard): {error}")]
    Udp {
        /// Which one.
        port: u16,
        /// Why.
        error: io::Error,
    },
    /// The ICE-TCP port could not be bound.
    #[error("ICE-TCP port {port} (rtc.tcp_port): {error}")]
    Tcp {
        /// Which one.
        port: u16,
        /// Why.
        error: io::Error,
    },
    /// No certificate for DTLS.
    #[error("DTLS: {0}")]
    Dtls(String),
    /// The addresses of the machine are unknown.
    #[error("the machine's addresses: {0}")]
    Addresses(io::Error),
    /// A thread did not start.
    #[error("media thread: {0}")]
    Thread(io::Error),
}

/// Way to one shard. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    letters: mpsc::Sender<Letter>,
    doorbell: Arc<Doorbell>,
}

impl Mailbox {
    /// Has the shard do `command`, then `then` be run with the reply by whoever reads the outputs. Never waits.
    pub(crate) fn send(
        &self,
        command: Command,
        then: impl FnOnce(crate::shard::Reply) + Send + 'static,
    ) -> Result<(), MailboxError> {
        let then: Then = Box::new(then);
        self.letters.try_send(Letter { command, then }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => MailboxError::Full,
            mpsc::error::TrySendError::Closed(_) => MailboxError::Stopped,
        })?;
        self.doorbell.ring();
        Ok(())
    }
}

/// The threads of a node. They end when it is dropped.
#[derive(Debug)]
pub(crate) struct Runtime {
    mailboxes: Vec<Mailbox>,
    candidates: Vec<Arc<[Candidate]>>,
    fingerprint: Fingerprint,
    blocks: Blocks,
    udp_ports: Vec<u16>,
    /// Ends the acceptor of TCP connections.
    stop: CancellationToken,
    doorbells: Vec<Arc<Doorbell>>,
    threads: Vec<JoinHandle<()>>,
}

/// Where TCP connections for a shard go in.
struct Door {
    accepted: mpsc::Sender<Accepted>,
    doorbell: Arc<Doorbell>,
}

/// What a shard's thread says when its sockets are there.
struct Ready {
    port: u16,
    has_ipv6: bool,
    /// For the other shards.
    sender: UdpPort,
}

/// What goes into a shard's thread.
struct Seat {
    config: ShardConfig,
    context: TransportContext,
    seed: [u8; 32],
    port: u16,
    ipv6: bool,
    buffers: UdpBuffers,
    core: Option<core_affinity::CoreId>,
    mailbox: mpsc::Receiver<Letter>,
    accepted: mpsc::Receiver<Accepted>,
    rings: Rings<RelayMessage>,
    handover: Rings<Handed>,
    ports: Arc<OnceLock<Box<[UdpPort]>>>,
    poller: Poller,
    doorbell: Arc<Doorbell>,
    outputs: Outputs,
    block: Arc<Block>,
    maker: PageMaker,
}

impl Runtime {
    /// Binds the ports and starts the threads. Blocks for some milliseconds, or seconds where a STUN server is asked.
    #[allow(clippy::disallowed_methods)] // entropy and the clock enter the core here
    pub(crate) fn start(config: &NodeConfig) -> Result<(Self, OutputReader), StartError> {
        let mut random = rand::rng();
        let addresses =
            Addresses::gather(config, random.random()).map_err(StartError::Addresses)?;
        let versions = match config.dtls {
            DtlsVersions::V12 => transport::DtlsVersions::Dtls12,
            DtlsVersions::V13 => transport::DtlsVersions::Dtls13,
            DtlsVersions::Auto => transport::DtlsVersions::Auto,
        };
        let context = TransportContext::generate(versions)
            .map_err(|error| StartError::Dtls(error.to_string()))?;
        let tcp = config
            .tcp_port
            .map(|port| {
                TcpAcceptor::bind(port, config.ipv6)
                    .map_err(|error| StartError::Tcp { port, error })
            })
            .transpose()?;
        let node_generation = random.random();
        let epoch = Instant::now();
        let count = config.shards.max(1);
        let pollers = (0..count).map(|_| Poller::new()).collect::<io::Result<Vec<_>>>();
        let pollers = pollers.map_err(StartError::Thread)?;
        let doorbells = pollers.iter().map(|poller| Doorbell::new(poller).map(Arc::new));
        let doorbells = doorbells.collect::<io::Result<Vec<_>>>().map_err(StartError::Thread)?;
        let descriptions = stats::describe();
        let (outputs, reader) = outputs::ways(&doorbells, outputs::CAPACITY);
        let cores = cores(config);
        let mut runtime = Self {
            mailboxes: Vec::new(),
            candidates: Vec::new(),
            fingerprint: context.fingerprint().clone(),
            blocks: Blocks { descriptions: Arc::clone(&descriptions), blocks: Vec::new() },
            udp_ports: Vec::new(),
            stop: CancellationToken::new(),
            doorbells: doorbells.clone(),
            threads: Vec::new(),
        };
        let mut doors = Vec::new();
        let ports = Arc::new(OnceLock::new());
        let mut senders = Vec::new();
        let rings = mesh(&doorbells, config.ring.max(1)).into_iter();
        let handovers = mesh(&doorbells, steering::CAPACITY);
        // Its thread ends with those of the shards.
        let maker = PageMaker::start();
        let seats = rings.zip(handovers).zip(outputs).zip(pollers).zip(&doorbells);
        for (index, ((((rings, handover), outputs), poller), doorbell)) in seats.enumerate() {
            let id = ShardId(index as u16);
            let (letters, mailbox) = mpsc::channel(config.mailbox.max(1));
            let (door, accepted) = mpsc::channel(ACCEPTED_WAITING);
            let block = Arc::new(Block::new(id.0, descriptions.len()));
            let seat = Seat {
                config: ShardConfig {
                    id,
                    shards: count,
                    node_generation,
                    max_peers: config.max_peers_per_shard,
                    limits: Default::default(),
                    epoch,
                },
                context: context.clone(),
                seed: random.random(),
                port: if config.udp_port == 0 { 0 } else { config.udp_port.saturating_add(id.0) },
                ipv6: config.ipv6,
                buffers: UdpBuffers { receive: config.receive_buffer, send: config.send_buffer },
                core: cores.get(index).copied(),
                mailbox,
                accepted,
                rings,
                handover,
                ports: Arc::clone(&ports),
                poller,
                doorbell: Arc::clone(doorbell),
                outputs,
                block: Arc::clone(&block),
                maker: maker.clone(),
            };
            let ready = runtime.spawn(seat)?;
            let tcp_port = tcp.as_ref().map(TcpAcceptor::port);
            let candidates = addresses.candidates(ready.port, ready.has_ipv6, tcp_port);
            runtime.candidates.push(candidates.into());
            runtime.udp_ports.push(ready.port);
            senders.push(ready.sender);
            runtime.mailboxes.push(Mailbox { letters, doorbell: Arc::clone(doorbell) });
            runtime.blocks.blocks.push(block);
            doors.push(Door { accepted: door, doorbell: Arc::clone(doorbell) });
        }
        let _ = ports.set(senders.into());
        if let Some(acceptor) = tcp {
            runtime.spawn_acceptor(acceptor, node_generation, doors)?;
        }
        Ok((runtime, reader))
    }

    /// How many shards.
    pub(crate) fn shards(&self) -> usize {
        self.mailboxes.len()
    }

    /// Way to a shard.
    pub(crate) fn mailbox(&self, shard: usize) -> Option<&Mailbox> {
        self.mailboxes.get(shard)
    }

    /// Addresses that the peers of a shard are told.
    pub(crate) fn candidates(&self, shard: usize) -> &[Candidate] {
        self.candidates.get(shard).map_or(&[], |candidates| candidates)
    }

    /// Of the process's certificate.
    pub(crate) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// All threads run.
    pub(crate) fn healthy(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Everything counted, as the shards published it last.
    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Datagrams that the kernel dropped before they were read, by shard; `None` where it does not tell. Reads /proc.
    pub(crate) fn kernel_drops(&self) -> Option<Vec<u64>> {
        udp_kernel_drops(&self.udp_ports)
    }

    /// Ends the threads when they have said what there was to say. Does not wait.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.doorbells.iter().for_each(|doorbell| doorbell.stop());
    }

    fn spawn(&mut self, seat: Seat) -> Result<Ready, StartError> {
        let port = seat.port;
        let (sender, receiver) = std_mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("shard-{}", seat.config.id.0))
            .spawn(move || seat.run(&sender))
            .map_err(StartError::Thread)?;
        self.threads.push(thread);
        let ended = || Err(io::Error::other("the thread ended"));
        receiver.recv().unwrap_or_else(|_| ended()).map_err(|error| StartError::Udp { port, error })
    }

    fn spawn_acceptor(
        &mut self,
        acceptor: TcpAcceptor,
        node_generation: u16,
        doors: Vec<Door>,
    ) -> Result<(), StartError> {
        let stop = self.stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let hand_over = move |accepted: Accepted| {
            let Some(ufrag) = local_ufrag(&accepted.first).and_then(Ufrag::decode) else { return };
            let of_this_life = ufrag.node_generation == node_generation;
            if let Some(door) = doors.get(usize::from(ufrag.shard.0)).filter(|_| of_this_life) {
                // A shard that cannot take it has worse to do: the client tries again.
                if door.accepted.try_send(accepted).is_ok() {
                    door.doorbell.ring();
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("ice-tcp".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = acceptor.run(hand_over) => {}
                        () = stop.cancelled() => {}
                    }
                });
            })
            .map_err(StartError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop();
        let own = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last handle may go with a letter that a shard's thread drops.
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        }
    }
}

impl Seat {
    fn run(self, ready: &std_mpsc::SyncSender<io::Result<Ready>>) {
        if let Some(core) = self.core {
            core_affinity::set_for_current(core);
        }
        let bound = UdpPort::bind(self.port, self.ipv6, self.buffers).and_then(|udp| {
            udp.watch(&self.poller)?;
            let sender = udp.sender()?;
            Ok((udp, sender))
        });
        let (udp, sender) = match bound {
            Ok(bound) => bound,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let _ = ready.send(Ok(Ready { port: udp.port(), has_ipv6: udp.has_ipv6(), sender }));
        let id = self.config.id;
        let io = Io::new(self.poller, Arc::clone(&self.ports));
        let worker = Worker {
            steering: Steering::new(id, self.config.node_generation, self.handover),
            shard: Shard::new(self.config, self.context, self.seed),
            udp,
            mailbox: self.mailbox,
            rings: self.rings,
            doorbell: self.doorbell,
            outputs: self.outputs,
            accepted: self.accepted,
            block: self.block,
            heap: Heap::new(self.maker),
            waiting: false,
        };
        if let Err(error) = worker.run(io) {
            tracing::error!(shard = id.0, %error, "the media thread ends: the kernel refuses to wait");
        }
    }
}

/// The core of each shard, where pinning is wanted and there is one for each.
fn cores(config: &NodeConfig) -> Vec<core_affinity::CoreId> {
    if !config.pin_threads {
        return Vec::new();
    }
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if cores.len() < usize::from(config.shards) {
        tracing::info!(
            shards = config.shards,
            cores = cores.len(),
            "more shards than cores: threads are not pinned"
        );
        return Vec::new();
    }
    cores
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        room::RoomId,
        runtime::{Output, doorbell::doorbells},
    };

    #[test]
    fn a_full_mailbox_is_an_error_to_the_caller() {
        let (letters, mut reader) = mpsc::channel(1);
        let doorbell = doorbells(1).remove(0);
        let mailbox = Mailbox { letters, doorbell };
        let send = || mailbox.send(Command::RemoveRoom { room: RoomId::new("r") }, |_| ());
        assert_eq!(send(), Ok(()));
        assert_eq!(send(), Err(MailboxError::Full));
        assert!(reader.try_recv().is_ok());
        assert_eq!(send(), Ok(()));
        drop(reader);
        assert_eq!(send(), Err(MailboxError::Stopped));
    }

    #[tokio::test]
    async fn a_control_side_that_does_not_read_is_refused_before_memory_grows() {
        const MAILBOX: usize = 16;
        let config = NodeConfig {
            shards: 1,
            pin_threads: false,
            udp_port: 0,
            tcp_port: None,
            mailbox: MAILBOX,
            ..NodeConfig::default()
        };
        let (runtime, mut outputs) = Runtime::start(&config).unwrap();
        let send = || {
            let command = Command::RemoveRoom { room: RoomId::new("r") };
            runtime.mailbox(0).unwrap().send(command, |_| ())
        };
        // Refused ten times in a row, with time for the shard in between: it takes no more.
        let (mut taken, mut refused) = (0, 0);
        while refused < 10 {
            match send() {
                Ok(()) => (taken, refused) = (taken + 1, 0),
                Err(_) => {
                    refused += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
            assert!(taken < 100_000, "nobody reads");
        }
        let most = outputs::CAPACITY + outputs::MAX_BACKLOG + 2 * MAILBOX;
        assert!(taken > outputs::CAPACITY && taken < most, "{taken} commands");
        let mut answers = 0;
        while answers < taken {
            assert!(matches!(outputs.recv().await, Some(Output::Answer { .. })));
            answers += 1;
        }
        assert_eq!(send(), Ok(()), "there is room again");
        assert!(outputs.recv().await.is_some());
    }
}
