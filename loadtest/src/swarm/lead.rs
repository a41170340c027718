//! The lead of a run: who joins when, when the window opens and closes, what happens in it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::seq::IteratorRandom;
use tokio_util::sync::CancellationToken;

use super::{
    Crew, Order,
    crew::Player,
    run::{Phase, Point, Progress, Run, TesterRun},
};
use crate::{
    client::{Command, Report},
    fetch::counters,
    measure::{Cores, Process, Usage},
    scenario::{ClientPlan, Mode, Scenario},
};

/// How often the lead looks at what is due.
const TURN: Duration = Duration::from_millis(10);
/// Between two points of the series.
const SAMPLE: Duration = Duration::from_secs(1);
/// For clients to count what they have at the end of the window.
const SETTLE: Duration = Duration::from_millis(150);
/// For clients to say good-bye.
const FAREWELL: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Joining,
    In,
    Leaving,
    Out,
}

/// Leads one run.
pub(crate) struct Lead {
    scenario: Scenario,
    crew: Crew,
    plans: Vec<ClientPlan>,
    states: BTreeMap<u32, State>,
    next_plan: usize,
    run: Run,
    started: Instant,
    phase: Phase,
    phase_since: Instant,
    /// When the window was opened.
    opened: Option<Instant>,
    next_sample: Instant,
    next_churn: Option<Instant>,
    next_turn: Option<Instant>,
    turns: u32,
    stormed: bool,
    paused: Option<bool>,
    server: Option<Process>,
    metrics: Option<http::Uri>,
    metrics_before: BTreeMap<String, f64>,
    metrics_at: Option<Instant>,
    players_before: Vec<Player>,
    server_before: Option<Usage>,
    cores_before: Option<Cores>,
}

impl Lead {
    /// Starts no client yet.
    pub(crate) fn new(
        scenario: Scenario,
        plans: Vec<ClientPlan>,
        crew: Crew,
        server: Option<Process>,
        metrics: Option<http::Uri>,
    ) -> Self {
        let now = Instant::now();
        let sinks = plans.iter().filter(|plan| plan.mode == Mode::Sink).count() as u64;
        let run = Run {
            planned: plans.len() as u64,
            full_clients: plans.len() as u64 - sinks,
            sinks,
            ..Run::default()
        };
        Self {
            scenario,
            crew,
            plans,
            states: BTreeMap::new(),
            next_plan: 0,
            run,
            started: now,
            phase: Phase::Joining,
            phase_since: now,
            opened: None,
            next_sample: now + SAMPLE,
            next_churn: None,
            next_turn: None,
            turns: 0,
            stormed: false,
            paused: None,
            server,
            metrics,
            metrics_before: BTreeMap::new(),
            metrics_at: None,
            players_before: Vec::new(),
            server_before: None,
            cores_before: None,
        }
    }

    /// Leads the run to its end, or to `stop`.
    pub(crate) async fn run(
        mut self,
        stop: &CancellationToken,
        mut show: impl FnMut(Progress<'_>),
    ) -> Run {
        let mut turn = tokio::time::interval(TURN);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while self.phase != Phase::Leaving {
            tokio::select! {
                _ = turn.tick() => self.turn(&mut show).await,
                report = self.crew.report() => self.handle_report(report),
                () = stop.cancelled() => {
                    self.run.interrupted = true;
                    break;
                }
            }
        }
        self.close_window().await;
        self.dismiss().await;
        self.run
    }

    async fn turn(&mut self, show: &mut impl FnMut(Progress<'_>)) {
        let now = Instant::now();
        let alone = !self.states.values().any(|state| matches!(state, State::Joining | State::In));
        match self.phase {
            Phase::Joining => {
                self.start_clients(now);
                let all = self.next_plan == self.plans.len();
                let joining = self.states.values().any(|state| *state == State::Joining);
                if all && !joining {
                    self.enter(if alone { Phase::Leaving } else { Phase::WarmingUp }, now);
                }
            }
            Phase::WarmingUp => {
                if now >= self.phase_since + self.scenario.warmup.0 {
                    self.open_window().await;
                    self.enter(Phase::Measuring, Instant::now());
                }
            }
            Phase::Measuring => {
                self.stir(now);
                let over = now >= self.phase_since + self.scenario.duration.0;
                if over || (alone && self.scenario.churn_rate == 0.0) {
                    self.enter(Phase::Leaving, now);
                }
            }
            Phase::Leaving => {}
        }
        if now >= self.next_sample {
            self.next_sample += SAMPLE;
            let _ = self.sample().await;
            show(self.progress(now));
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.phase_since = now;
    }

    fn progress(&self, now: Instant) -> Progress<'_> {
        let [joining, warmup, window] = [
            self.scenario.joining().as_secs_f64(),
            self.scenario.warmup.0.as_secs_f64(),
            self.scenario.duration.0.as_secs_f64(),
        ];
        let here = (now - self.phase_since).as_secs_f64();
        let over = match self.phase {
            Phase::Joining => here.min(joining),
            Phase::WarmingUp => joining + here.min(warmup),
            Phase::Measuring => joining + warmup + here.min(window),
            Phase::Leaving => joining + warmup + window,
        };
        let done = over / (joining + warmup + window);
        Progress {
            phase: self.phase,
            planned: self.run.planned,
            joined: self.run.joined,
            failed: self.run.failed,
            lost: self.run.lost,
            done: done.min(1.0),
            last: self.run.series.last(),
        }
    }

    fn start_clients(&mut self, now: Instant) {
        let due = self.scenario.joins_due(now - self.started) as usize;
        while self.next_plan < self.plans.len().min(due) {
            let plan = self.plans[self.next_plan].clone();
            self.next_plan += 1;
            self.start(plan);
        }
    }

    fn start(&mut self, plan: ClientPlan) {
        self.states.insert(plan.number, State::Joining);
        self.crew.order(plan.number, Order::Start(plan));
    }

    /// What the scenario has happen inside the window.
    fn stir(&mut self, now: Instant) {
        let since = now - self.phase_since;
        let scenario = &self.scenario;
        let storm = scenario.reconnect_at.0;
        if !storm.is_zero() && since >= storm && !self.stormed {
            self.stormed = true;
            self.crew.order_all(&Order::TellAll(Command::Reconnect));
        }
        let (at, length) = (scenario.pause_at.0, scenario.pause_for.0);
        let paused = !at.is_zero() && since >= at && since < at + length;
        if !at.is_zero() && self.paused.replace(paused).unwrap_or(false) != paused {
            self.crew.order_all(&Order::TellAll(Command::Pause(paused)));
        }
        if self.next_turn.is_some_and(|at| now >= at) {
            self.turns += 1;
            self.next_turn = Some(now + self.scenario.switch_every.0);
            let turns = self.turns;
            self.crew.order_all(&Order::TellAll(Command::Spotlight(turns)));
        }
        while self.next_churn.is_some_and(|at| now >= at) {
            let interval = Duration::from_secs_f64(1.0 / self.scenario.churn_rate);
            self.next_churn = self.next_churn.map(|at| at + interval);
            self.replace_one();
        }
    }

    /// One client leaves, another one comes in its place.
    fn replace_one(&mut self) {
        let inside = self.states.iter().filter(|(_, state)| **state == State::In);
        let Some(number) = inside.map(|(number, _)| *number).choose(&mut rand::rng()) else {
            return;
        };
        self.states.insert(number, State::Leaving);
        self.crew.order(number, Order::Tell(number, Command::Leave));
        let next = self.plans.len() as u32;
        let old = &self.plans[number as usize];
        let identity = format!("load-{next}-{}", old.place);
        let plan = ClientPlan { number: next, identity, ..old.clone() };
        self.plans.push(plan.clone());
        self.next_plan = self.plans.len();
        self.run.planned += 1;
        self.start(plan);
    }

    fn handle_report(&mut self, report: Report) {
        match report {
            Report::Joined(number) => {
                self.run.joined += 1;
                let state = self.states.entry(number).or_insert(State::In);
                if *state == State::Joining {
                    *state = State::In;
                }
            }
            Report::Failed(number, error) => {
                self.run.failed += 1;
                self.states.insert(number, State::Out);
                let entry = self.run.errors.entry(error.category());
                entry.or_insert((error, 0)).1 += 1;
            }
            Report::Lost(number, _) => {
                self.run.lost += 1;
                self.states.insert(number, State::Out);
            }
            Report::Left(number) => {
                self.run.left += 1;
                self.states.insert(number, State::Out);
            }
            Report::AgentLost(index, reason) => self.lose_agent(index, &reason),
        }
    }

    /// Nobody speaks for its clients any more.
    fn lose_agent(&mut self, index: u32, reason: &str) {
        let name = self.crew.name_of(index);
        self.run.agents_lost.push(format!("agent {name} was lost: {reason}"));
        for (number, state) in &mut self.states {
            if !self.crew.plays(index, *number) || *state == State::Out {
                continue;
            }
            let reasons = match std::mem::replace(state, State::Out) {
                State::Joining => {
                    self.run.failed += 1;
                    &mut self.run.stats.failures
                }
                _ => {
                    self.run.lost += 1;
                    &mut self.run.stats.lost
                }
            };
            *reasons.entry("agent lost".to_owned()).or_default() += 1;
        }
    }

    fn in_room(&self) -> u32 {
        self.states.values().filter(|state| **state == State::In).count() as u32
    }

    async fn sample(&mut self) -> Vec<Player> {
        let (stats, players) = self.crew.take().await;
        self.run.stats.add(&stats);
        let at = self.started.elapsed();
        self.run.series.push(Point::of(at, self.in_room(), &stats));
        players
    }

    async fn open_window(&mut self) {
        self.metrics_before = counters(self.metrics.as_ref()).await;
        self.metrics_at = Some(Instant::now());
        self.players_before = self.sample().await;
        self.server_before = self.server.and_then(Process::usage);
        self.cores_before = Cores::now();
        self.crew.order_all(&Order::Measure(true));
        let now = Instant::now();
        self.opened = Some(now);
        if !self.scenario.switch_every.0.is_zero() {
            self.next_turn = Some(now + self.scenario.switch_every.0);
        }
        if self.scenario.churn_rate > 0.0 {
            self.next_churn = Some(now);
        }
    }

    async fn close_window(&mut self) {
        if self.opened.is_some() {
            self.run.in_room = u64::from(self.in_room());
            self.crew.order_all(&Order::TellAll(Command::Flush));
            tokio::time::sleep(SETTLE).await;
            self.run.window = self.opened.map(|at| at.elapsed()).unwrap_or_default();
            self.crew.order_all(&Order::Measure(false));
            self.run.server = self.server_before.zip(self.server.and_then(Process::usage));
            self.run.cores = self.cores_before.zip(Cores::now());
            let after = counters(self.metrics.as_ref()).await;
            self.run.metrics_span = self.metrics_at.map(|at| at.elapsed()).unwrap_or_default();
            for (name, value) in after {
                let before = self.metrics_before.get(&name).copied().unwrap_or(0.0);
                self.run.metrics.insert(name, value - before);
            }
        }
        let after = self.sample().await;
        let mut before = std::mem::take(&mut self.players_before);
        if before.is_empty() {
            before.clone_from(&after);
        }
        let several = self.crew.before.iter().any(|player| player.name.is_some());
        for (index, at_start) in self.crew.before.iter().enumerate() {
            let clients = self
                .plans
                .iter()
                .filter(|plan| !several || self.crew.plays(index as u32, plan.number));
            let of = |players: &[Player]| players.get(index).cloned().unwrap_or_default();
            self.run.testers.push(TesterRun {
                at_start: at_start.clone(),
                before: of(&before),
                after: of(&after),
                clients: clients.count() as u64,
            });
        }
    }

    /// Everybody leaves.
    async fn dismiss(&mut self) {
        self.crew.order_all(&Order::TellAll(Command::Leave));
        let patience = tokio::time::sleep(FAREWELL);
        tokio::pin!(patience);
        while self.states.values().any(|state| *state != State::Out) {
            tokio::select! {
                report = self.crew.report() => {
                    // Who has not come in by now is neither failed nor lost.
                    let (failed, lost) = (self.run.failed, self.run.lost);
                    self.handle_report(report);
                    (self.run.failed, self.run.lost) = (failed, lost);
                }
                () = &mut patience => break,
            }
        }
    }
}

impl std::fmt::Debug for Lead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lead").field("phase", &self.phase).finish_non_exhaustive()
    }
}
