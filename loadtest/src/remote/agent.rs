//! An agent: waits for a coordinator, plays clients as it says, and waits for the next one.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

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
    let headcount = Headcount { here: 0, limit: max_clients.saturating_mul(2) };
    Playing { crew, writer, reports, headcount }.run(reader).await
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
    setup.scenario.fits(setup.clients)?;
    let certificates = setup.certificates.as_deref();
    let target =
        reach(&setup.url, &setup.key, &setup.secret.0, certificates, &setup.scenario).await?;
    (0..workers)
        .map(|index| {
            let reports = reports.clone();
            Worker::start(index, &target, &setup.scenario, setup.run, setup.share, reports)
                .map_err(|error| error.to_string())
        })
        .collect()
}

/// Clients that play, and how many may: with churn, the next one may start before it is known that another has left.
#[derive(Debug)]
struct Headcount {
    here: u64,
    limit: u64,
}

impl Headcount {
    fn start(&mut self) -> io::Result<()> {
        if self.here >= self.limit {
            return Err(io::Error::other("more clients than this agent takes"));
        }
        self.here += 1;
        Ok(())
    }

    fn hear(&mut self, report: &Report) {
        if let Report::Left(_) | Report::Failed(..) | Report::Lost(..) = report {
            self.here = self.here.saturating_sub(1);
        }
    }
}

struct Playing {
    crew: Vec<Worker>,
    writer: Writer,
    reports: mpsc::UnboundedReceiver<Report>,
    headcount: Headcount,
}

impl Playing {
    /// Until the coordinator goes.
    async fn run(mut self, mut reader: Reader) -> io::Result<()> {
        let (sender, mut inbox) = mpsc::channel(MAX_WAITING);
        let _reading = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok(message) = reader.next::<ToAgent>().await {
                if sender.send((message, now())).await.is_err() {
                    return;
                }
            }
        }));
        loop {
            tokio::select! {
                heard = timeout(SILENCE, inbox.recv()) => match heard {
                    Ok(Some((message, came))) => self.handle(message, came).await?,
                    Ok(None) => return Ok(()),
                    Err(_) => return Err(io::Error::other("the coordinator fell silent")),
                },
                Some(report) = self.reports.recv() => {
                    self.headcount.hear(&report);
                    self.writer.send(&FromAgent::Report(report)).await?;
                }
            }
        }
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
                self.headcount.start()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_are_gone_make_room_for_others() {
        let mut headcount = Headcount { here: 0, limit: 2 };
        let ends = [
            Report::Left(0),
            Report::Lost(0, "gone".to_owned()),
            Report::Failed(0, crate::client::ws::ConnectError::Unreachable("down".to_owned())),
        ];
        headcount.start().unwrap();
        for end in ends {
            headcount.start().unwrap();
            headcount.hear(&Report::Joined(0));
            assert!(headcount.start().is_err(), "a third one at a time");
            headcount.hear(&end);
        }
    }
}
