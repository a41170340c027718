//! The coordinator's end of an agent.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    message::{FromAgent, Setup, Taken, ToAgent},
    seal::{self, Reader, Secret, Side, Writer},
};
use crate::{
    client::{Report, Share},
    measure::Usage,
    media::unix_now,
    redacted::Redacted,
    scenario::Scenario,
    swarm::Order,
};

/// For a connection, and for an agent to look at the server.
const PATIENCE: Duration = Duration::from_secs(20);
/// An agent answers each second: one that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two questions for the time.
const CLOCK: Duration = Duration::from_secs(1);
/// Questions before the run starts, and that an offset is chosen from.
const QUESTIONS: usize = 16;

/// Of one clock against another, at most: PHI of RFC 5905 section 7.2, for each of the two.
const DRIFT: f64 = 30e-6;

/// What a run is made of, as each agent is told.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) secret: Redacted,
    pub(crate) certificates: Option<String>,
    pub(crate) scenario: Scenario,
    pub(crate) run: u32,
}

/// An agent's clock against the coordinator's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ClockState {
    /// Nanoseconds that the agent is ahead.
    pub(crate) ahead: i64,
    /// The error is at most this: half of the time that question and answer took, and what clocks may have drifted since.
    pub(crate) error: Duration,
}

/// What one exchange says, and when its answer was heard, in nanoseconds by our clock.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    state: ClockState,
    heard: u64,
}

impl Exchange {
    /// What it still says at `now`: clocks may drift apart by [`DRIFT`].
    fn at(&self, now: u64) -> ClockState {
        let age = Duration::from_nanos(now.saturating_sub(self.heard));
        ClockState { error: self.state.error + age.mul_f64(DRIFT), ..self.state }
    }

    /// Whether one offset lies within what both say.
    fn agrees(&self, later: &Self) -> bool {
        let (old, new) = (self.at(later.heard), later.state);
        let apart = Duration::from_nanos(old.ahead.abs_diff(new.ahead));
        apart <= old.error + new.error
    }
}

/// Exchanges of the last while; the quickest one says most (RFC 5905 section 10).
#[derive(Debug, Default)]
struct Exchanges(VecDeque<Exchange>);

impl Exchanges {
    /// `asked` and `heard` by our clock, `came` and `left` by the agent's, in nanoseconds.
    fn add(&mut self, asked: u64, came: u64, left: u64, heard: u64) {
        let forth = i128::from(came) - i128::from(asked);
        let back = i128::from(left) - i128::from(heard);
        let taken = (i128::from(heard) - i128::from(asked)) - (i128::from(left) - i128::from(came));
        let ahead = (forth + back) / 2;
        let (Ok(ahead), Ok(taken)) = (i64::try_from(ahead), u64::try_from(taken)) else { return };
        let state = ClockState { ahead, error: Duration::from_nanos(taken / 2) };
        let new = Exchange { state, heard };
        // Somebody set a clock: what was said before is void.
        self.0.retain(|old| old.agrees(&new));
        if self.0.len() == QUESTIONS {
            self.0.pop_front();
        }
        self.0.push_back(new);
    }

    fn best(&self) -> ClockState {
        let now = self.0.back().map_or(0, |last| last.heard);
        let states = self.0.iter().map(|exchange| exchange.at(now));
        states.min_by_key(|state| state.error).unwrap_or_default()
    }
}

/// What the connection's task and its owner share.
#[derive(Debug, Default)]
struct Shared {
    clock: ClockState,
    takers: VecDeque<oneshot::Sender<Taken>>,
}

/// An agent that is ready. Dropped, the connection ends and with it the agent's clients.
#[derive(Debug)]
pub(crate) struct AgentLink {
    pub(crate) name: String,
    pub(crate) workers: usize,
    /// Before the first client.
    pub(crate) usage: Usage,
    out: mpsc::UnboundedSender<ToAgent>,
    shared: Arc<Mutex<Shared>>,
}

impl AgentLink {
    /// Connects, has the agent look at the server, and compares clocks. Errors are sentences.
    pub(crate) async fn open(
        name: &str,
        secret: &Secret,
        setting: &Setting,
        share: Share,
        clients: u64,
        reports: mpsc::UnboundedSender<Report>,
    ) -> Result<Self, String> {
        let fail = |error: &dyn std::fmt::Display| format!("agent {name}: {error}");
        let connecting = timeout(PATIENCE, TcpStream::connect(name));
        let stream = connecting
            .await
            .map_err(|_| fail(&"it cannot be reached: timed out"))?
            .map_err(|error| fail(&format!("it cannot be reached: {error}")))?;
        let (mut reader, mut writer) =
            seal::open(stream, secret, Side::Coordinator).await.map_err(|error| {
                // An agent that does not take our secret hangs up without a word.
                match error.kind() {
                    io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::TimedOut => {
                        fail(&"it hung up: is it busy, or its secret another one?")
                    }
                    _ => fail(&error),
                }
            })?;
        let setup = Setup {
            url: setting.url.clone(),
            key: setting.key.clone(),
            secret: setting.secret.clone(),
            certificates: setting.certificates.clone(),
            scenario: setting.scenario.clone(),
            run: setting.run,
            share,
            clients,
        };
        let lost = |error: io::Error| fail(&error);
        writer.send(&ToAgent::Setup(setup)).await.map_err(lost)?;
        let answer = timeout(PATIENCE, reader.next()).await;
        let answer: FromAgent = answer.map_err(|_| fail(&"no answer"))?.map_err(lost)?;
        let (workers, usage) = match answer {
            FromAgent::Ready { workers, usage } => (workers, usage),
            FromAgent::Refused(reason) => return Err(fail(&reason)),
            _ => return Err(fail(&"it does not say whether it is ready")),
        };
        let exchanges = compare_clocks(&mut reader, &mut writer).await.map_err(lost)?;
        let clock = exchanges.best();
        let (out, orders) = mpsc::unbounded_channel();
        let _ = out.send(ToAgent::Order(Order::Clock(-clock.ahead)));
        let shared = Arc::new(Mutex::new(Shared { clock, ..Shared::default() }));
        let talk = Talk { writer, orders, shared: Arc::clone(&shared), exchanges, reports };
        tokio::spawn(talk.run(reader, share.index));
        Ok(Self { name: name.to_owned(), workers, usage, out, shared })
    }

    /// An agent that is gone takes no orders; its clients are gone too.
    pub(crate) fn order(&self, order: Order) {
        let _ = self.out.send(ToAgent::Order(order));
    }

    /// What was measured since the last time; nothing from an agent that is gone.
    pub(crate) async fn take(&self) -> Taken {
        let (sender, receiver) = oneshot::channel();
        lock(&self.shared).takers.push_back(sender);
        let _ = self.out.send(ToAgent::Take);
        receiver.await.unwrap_or_default()
    }

    pub(crate) fn clock(&self) -> ClockState {
        lock(&self.shared).clock
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn compare_clocks(reader: &mut Reader, writer: &mut Writer) -> io::Result<Exchanges> {
    let mut exchanges = Exchanges::default();
    for _ in 0..QUESTIONS {
        writer.send(&ToAgent::Clock(now())).await?;
        let answer =
            timeout(SILENCE, reader.next()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if let FromAgent::Clock { asked, came, left } = answer {
            exchanges.add(asked, came, left, now());
        }
    }
    Ok(exchanges)
}

/// The connection's task.
struct Talk {
    writer: Writer,
    orders: mpsc::UnboundedReceiver<ToAgent>,
    shared: Arc<Mutex<Shared>>,
    exchanges: Exchanges,
    reports: mpsc::UnboundedSender<Report>,
}

impl Talk {
    async fn run(mut self, reader: Reader, index: u32) {
        let reports = self.reports.clone();
        if let Err(error) = self.talk(reader).await {
            let _ = reports.send(Report::AgentLost(index, error.to_string()));
        }
        // Whoever waits for measurements waits no longer.
        lock(&self.shared).takers.clear();
        while let Some(message) = self.orders.recv().await {
            if let ToAgent::Take = message {
                lock(&self.shared).takers.clear();
            }
        }
    }

    /// Until the link is dropped, or the agent is lost.
    async fn talk(&mut self, mut reader: Reader) -> io::Result<()> {
        let (sender, mut inbox) = mpsc::unbounded_channel();
        let _reading = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let heard = timeout(SILENCE, reader.next::<FromAgent>()).await;
                let heard = heard.unwrap_or_else(|_| Err(io::Error::other("it fell silent")));
                let over = heard.is_err();
                if sender.send((heard, now())).is_err() || over {
                    return;
                }
            }
        }));
        let mut clock = interval(CLOCK);
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.writer.send(&order).await?,
                    None => return Ok(()),
                },
                _ = clock.tick() => self.writer.send(&ToAgent::Clock(now())).await?,
                Some((heard, at)) = inbox.recv() => match heard {
                    Ok(heard) => self.handle(heard, at).await?,
                    Err(error) => return Err(error),
                },
            }
        }
    }

    async fn handle(&mut self, message: FromAgent, at: u64) -> io::Result<()> {
        match message {
            FromAgent::Report(report) => {
                let _ = self.reports.send(report);
            }
            FromAgent::Taken(taken) => {
                if let Some(taker) = lock(&self.shared).takers.pop_front() {
                    let _ = taker.send(taken);
                }
            }
            FromAgent::Clock { asked, came, left } => {
                self.exchanges.add(asked, came, left, at);
                let best = self.exchanges.best();
                let before = std::mem::replace(&mut lock(&self.shared).clock, best);
                if before.ahead != best.ahead {
                    self.writer.send(&ToAgent::Order(Order::Clock(-best.ahead))).await?;
                }
            }
            FromAgent::Ready { .. } | FromAgent::Refused(_) => {}
        }
        Ok(())
    }
}

/// Nanoseconds since the Unix epoch.
fn now() -> u64 {
    u64::try_from(unix_now().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn the_quickest_exchange_says_how_far_a_clock_is_ahead() {
        let mut exchanges = Exchanges::default();
        // The agent is 5 ms ahead. 1 ms there, 9 ms back; then 200 us each way; then 3 ms there, none back.
        exchanges.add(0, 6_000_000, 6_100_000, 10_100_000);
        exchanges.add(20_000_000, 25_200_000, 25_300_000, 20_500_000);
        exchanges.add(40_000_000, 48_000_000, 48_000_000, 43_000_000);
        let best = exchanges.best();
        let drift = Duration::from_nanos(22_500_000).mul_f64(DRIFT);
        assert_eq!((best.ahead, best.error), (5_000_000, Duration::from_micros(200) + drift));
        // Behind as well.
        let mut exchanges = Exchanges::default();
        exchanges.add(20_000_000, 15_200_000, 15_300_000, 20_500_000);
        assert_eq!(exchanges.best().ahead, -5_000_000);
        // Nonsense is left out: an answer before its question.
        exchanges.add(u64::MAX, 0, u64::MAX, 0);
        assert_eq!(exchanges.best().ahead, -5_000_000);
        for _ in 0..QUESTIONS {
            exchanges.add(0, 2_000_000, 2_000_000, 2_000_000);
        }
        assert_eq!(exchanges.best().ahead, 1_000_000, "old ones are forgotten");
    }

    /// An agent whose clock is off and drifts, behind a path that takes longer one way than the other.
    struct Simulated {
        /// Nanoseconds that its clock is ahead at the start, and gains a second.
        ahead: i64,
        gains: i64,
        /// Shortest ways there and back, and what queues add at most to each.
        ways: (u64, u64),
        queues: u64,
    }

    /// Our clock at the start of each simulation.
    const START: u64 = 1_800_000_000_000_000_000;

    impl Simulated {
        fn ahead_at(&self, time: u64) -> i64 {
            self.ahead + (time - START) as i64 / 1_000_000_000 * self.gains
        }

        /// One exchange that begins `second` seconds after the start.
        fn exchange(&self, second: u64, random: &mut SmallRng, exchanges: &mut Exchanges) {
            let asked = START + second * 1_000_000_000;
            let clock = |time: u64| time.saturating_add_signed(self.ahead_at(time));
            let came = asked + self.ways.0 + random.random_range(0..=self.queues);
            let left = came + random.random_range(10_000..=200_000);
            let heard = left + self.ways.1 + random.random_range(0..=self.queues);
            exchanges.add(asked, clock(came), clock(left), heard);
        }
    }

    #[test]
    fn the_offset_of_a_clock_is_known_within_what_is_said() {
        let minute = 60_000_000_000;
        let cases = [
            ("one machine", Simulated { ahead: 0, gains: 0, ways: (20_000, 20_000), queues: 0 }),
            (
                "a minute behind, a symmetric path",
                Simulated { ahead: -minute, gains: 0, ways: (400_000, 400_000), queues: 3_000_000 },
            ),
            (
                "an hour ahead, ten times longer there than back",
                Simulated {
                    ahead: 60 * minute,
                    gains: 0,
                    ways: (10_000_000, 1_000_000),
                    queues: 5_000_000,
                },
            ),
            (
                "a poor crystal, ten times longer back than there",
                Simulated {
                    ahead: minute,
                    gains: 25_000,
                    ways: (1_000_000, 10_000_000),
                    queues: 20_000_000,
                },
            ),
            (
                "a poor crystal, a path that takes its time one way only",
                Simulated { ahead: 0, gains: 25_000, ways: (0, 10_000_000), queues: 100_000 },
            ),
        ];
        for (name, agent) in cases {
            for seed in 0..20 {
                let mut random = SmallRng::seed_from_u64(seed);
                let mut exchanges = Exchanges::default();
                for second in 0..120 {
                    agent.exchange(second, &mut random, &mut exchanges);
                    let best = exchanges.best();
                    let now = exchanges.0.back().unwrap().heard;
                    let wrong = best.ahead.abs_diff(agent.ahead_at(now));
                    let said = best.error.as_nanos() as u64 + agent.gains.unsigned_abs();
                    assert!(
                        wrong <= said,
                        "{name}, seed {seed}, second {second}: {wrong} ns of {said}"
                    );
                }
                // Half of the difference of the ways is what no exchange can tell; the rest is found out.
                let best = exchanges.best();
                let ways = (agent.ways.0 + agent.ways.1) / 2;
                let rest = Duration::from_nanos(ways + agent.queues / 2 + 700_000);
                assert!(best.error <= rest, "{name}, seed {seed}: {:?}", best.error);
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_during_a_run_is_believed_at_once() {
        let mut random = SmallRng::seed_from_u64(1);
        let mut exchanges = Exchanges::default();
        let agent = |ahead| Simulated { ahead, gains: 0, ways: (300_000, 300_000), queues: 50_000 };
        for second in 0..20 {
            agent(0).exchange(second, &mut random, &mut exchanges);
        }
        agent(-80_000_000).exchange(20, &mut random, &mut exchanges);
        let best = exchanges.best();
        assert!(best.ahead.abs_diff(-80_000_000) <= 400_000, "{best:?}");
        assert_eq!(exchanges.0.len(), 1, "what was said before is void");
    }
}
