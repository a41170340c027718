//! Who plays the clients: threads of this process, or agents. Client N belongs to hand N modulo their number.

use tokio::sync::mpsc;

use super::{Order, Worker};
use crate::{
    client::{Report, Share, ws::Target},
    measure::{Process, Stats, Usage},
    remote::{AgentLink, ClockState, Secret, Setting},
    scenario::{ClientPlan, Scenario},
};

/// One of those who play.
#[derive(Debug)]
pub(crate) enum Hand {
    Thread(Worker),
    Agent(AgentLink),
}

/// A process that plays clients, and what it has used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Player {
    /// `None` is this one.
    pub(crate) name: Option<String>,
    pub(crate) workers: usize,
    pub(crate) usage: Option<Usage>,
    pub(crate) clock: Option<ClockState>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Crew {
    hands: Vec<Hand>,
    /// Of each player, before the first client.
    pub(crate) before: Vec<Player>,
    reports: mpsc::UnboundedReceiver<Report>,
}

impl Crew {
    /// Threads of this process.
    pub(crate) fn threads(
        count: usize,
        target: &Target,
        scenario: &Scenario,
        run: u32,
    ) -> std::io::Result<Self> {
        let usage = Process::own().usage();
        let (sender, reports) = mpsc::unbounded_channel();
        let hands = (0..count.max(1))
            .map(|index| {
                let reports = sender.clone();
                Worker::start(index, target, scenario, run, Share::ALL, reports).map(Hand::Thread)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let before = vec![Player { workers: hands.len(), usage, ..Player::default() }];
        Ok(Self { hands, before, reports })
    }

    /// Agents at these addresses (`host:port`), all ready when this returns.
    pub(crate) async fn agents(
        names: &[String],
        secret: &Secret,
        setting: &Setting,
        plans: &[ClientPlan],
    ) -> Result<Self, String> {
        let (sender, reports) = mpsc::unbounded_channel();
        let of = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let mut hands = Vec::new();
        let mut before = Vec::new();
        for (index, name) in (0..).zip(names) {
            let share = Share { index, of };
            let clients = plans.iter().filter(|plan| share.holds(plan.number)).count() as u64;
            let link =
                AgentLink::open(name, secret, setting, share, clients, sender.clone()).await?;
            before.push(player_of(&link, Some(link.usage)));
            hands.push(Hand::Agent(link));
        }
        Ok(Self { hands, before, reports })
    }

    /// What the next client tells of itself.
    pub(crate) async fn report(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn order(&self, client: u32, order: Order) {
        self.hands[client as usize % self.hands.len()].order(order);
    }

    pub(crate) fn order_all(&self, order: &Order) {
        self.hands.iter().for_each(|hand| hand.order(order.clone()));
    }

    /// The clients of an agent.
    pub(crate) fn plays(&self, agent: u32, client: u32) -> bool {
        client as usize % self.hands.len() == agent as usize
    }

    pub(crate) fn name_of(&self, agent: u32) -> &str {
        match self.hands.get(agent as usize) {
            Some(Hand::Agent(link)) => &link.name,
            _ => "",
        }
    }

    /// What all measured since the last time, and what each player has used by now.
    pub(crate) async fn take(&self) -> (Stats, Vec<Player>) {
        let mut stats = Stats::default();
        let mut players = Vec::new();
        let mut threads = 0;
        for hand in &self.hands {
            match hand {
                Hand::Thread(worker) => {
                    threads += 1;
                    stats.add(&worker.take().await);
                }
                Hand::Agent(link) => {
                    let taken = link.take().await;
                    stats.add(&taken.stats);
                    players.push(player_of(link, taken.usage));
                }
            }
        }
        if threads > 0 {
            let usage = Process::own().usage();
            players.push(Player { workers: threads, usage, ..Player::default() });
        }
        (stats, players)
    }
}

impl Hand {
    fn order(&self, order: Order) {
        match self {
            Self::Thread(worker) => worker.order(order),
            Self::Agent(link) => link.order(order),
        }
    }
}

fn player_of(link: &AgentLink, usage: Option<Usage>) -> Player {
    let (name, workers) = (Some(link.name.clone()), link.workers);
    Player { name, workers, usage, clock: Some(link.clock()) }
}
