//! An agent: waits for a coordinator, plays clients as it says, and waits for the next one.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    message::{FromAgent, Setup, Taken, ToAgent},
    seal::{self, Reader, Secret, Side, Writer},
};
use crate::{
    client::Report,
    measure::Process,
    server::reach,
    swarm::{Order, Worker},
};

/// A coordinator asks for the time each second: one that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(15);
/// Messages of the coordinator that wait at most: beyond, it is not read.
const MAX_WAITING: usize = 1_024;

/// Serves one coordinator at a time until `stop`. `max_clients` bounds what one may ask for.
pub(crate) async fn serve(
    listener: TcpListener,
    secret: Secret,
    workers: usize,
    max_clients: u64,
    stop: CancellationToken,
) -> io::Result<()> {
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = stop.cancelled() => return Ok(()),
        };
        let session = session(stream, from, &secret, workers, max_clients);
        tokio::select! {
            ended = session => match ended {
                Ok(()) => eprintln!("chappe-loadtest: {from} is done"),
                Err(error) => eprintln!("chappe-loadtest: {from}: {error}"),
            },
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn session(
    stream: TcpStream,
    from: SocketAddr,
    secret: &Secret,
    workers: usize,
    max_clients: u64,
) -> io::Result<()> {
    let (mut reader, mut writer) = seal::open(stream, secret, Side::Agent).await?;
    let first = timeout(SILENCE, reader.next()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let ToAgent::Setup(setup) = first else {
        return Err(io::Error::other("the coordinator says nothing of what to run"));
    };
    let (sender, reports) = mpsc::unbounded_channel();
    let crew = match crew(&setup, workers, max_clients, &sender).await {
        Ok(crew) => crew,
        Err(reason) => {
            writer.send(&FromAgent::Refused(reason)).await?;
            return Ok(());
        }
    };
    eprintln!(
        "chappe-loadtest: {} of {} for {from}: {} clients against {}",
        setup.share.index + 1,
        setup.share.of,
        setup.clients,
        setup.url
    );
    let usage = Process::own().usage().unwrap_or_default();
    writer.send(&FromAgent::Ready { workers: crew.len(), usage }).await?;
    let limit = max_clients.saturating_mul(2);
    Playing { crew, writer, reports, started: 0, limit }.run(reader).await
}

/// Threads that play, once the server is known to let clients in.
async fn crew(
    setup: &Setup,
    workers: usize,
    max_clients: u64,
    reports: &mpsc::UnboundedSender<Report>,
) -> Result<Vec<Worker>, String> {
    if setup.clients > max_clients {
        return Err(format!(
            "{} clients are more than the {max_clients} of its --max-clients",
            setup.clients
        ));
    }
    setup.scenario.check()?;
    let certificates = setup.certificates.as_deref();
    let target =
        reach(&setup.url, &setup.key, &setup.secret, certificates, &setup.scenario).await?;
    (0..workers)
        .map(|index| {
            let reports = reports.clone();
            Worker::start(index, &target, &setup.scenario, setup.run, setup.share, reports)
                .map_err(|error| error.to_string())
        })
        .collect()
}

struct Playing {
    crew: Vec<Worker>,
    writer: Writer,
    reports: mpsc::UnboundedReceiver<Report>,
    /// Clients of all time, and how many there may be.
    started: u64,
    limit: u64,
}

impl Playing {
    /// Until the coordinator goes.
    async fn run(mut self, mut reader: Reader) -> io::Result<()> {
        let (sender, mut inbox) = mpsc::channel(MAX_WAITING);
        let reading = tokio::spawn(async move {
            while let Ok(message) = reader.next::<ToAgent>().await {
                if sender.send((message, now())).await.is_err() {
                    return;
                }
            }
        });
        let done = loop {
            tokio::select! {
                heard = timeout(SILENCE, inbox.recv()) => match heard {
                    Ok(Some((message, came))) => self.handle(message, came).await?,
                    Ok(None) => break Ok(()),
                    Err(_) => break Err(io::Error::other("the coordinator fell silent")),
                },
                Some(report) = self.reports.recv() => {
                    self.writer.send(&FromAgent::Report(report)).await?;
                }
            }
        };
        reading.abort();
        done
    }

    async fn handle(&mut self, message: ToAgent, came: u64) -> io::Result<()> {
        match message {
            ToAgent::Setup(_) => Err(io::Error::other("a second run in one connection")),
            ToAgent::Clock(asked) => {
                self.writer.send(&FromAgent::Clock { asked, came, left: now() }).await
            }
            ToAgent::Order(order) => self.order(order),
            ToAgent::Take => {
                let mut taken = Taken { usage: Process::own().usage(), ..Taken::default() };
                for worker in &self.crew {
                    taken.stats.add(&worker.take().await);
                }
                self.writer.send(&FromAgent::Taken(taken)).await
            }
        }
    }

    fn order(&mut self, order: Order) -> io::Result<()> {
        let number = match &order {
            Order::Start(plan) => {
                self.started += 1;
                if self.started > self.limit {
                    return Err(io::Error::other("more clients than this agent takes"));
                }
                plan.number
            }
            Order::Tell(number, _) => *number,
            Order::TellAll(_) | Order::Measure(_) | Order::Clock(_) => {
                self.crew.iter().for_each(|worker| worker.order(order.clone()));
                return Ok(());
            }
        };
        if let Some(worker) = self.crew.get(number as usize % self.crew.len().max(1)) {
            worker.order(order);
        }
        Ok(())
    }
}

/// Nanoseconds since the Unix epoch.
fn now() -> u64 {
    u64::try_from(crate::media::unix_now().as_nanos()).unwrap_or(u64::MAX)
}
