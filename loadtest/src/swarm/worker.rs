//! A worker: one thread, one event loop, many clients.

use std::{cell::RefCell, collections::HashMap, rc::Rc, thread};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
};

use crate::{
    client::{self, Command, Context, Report, Rounds, Share, ws::Target},
    measure::{Recorder, Stats},
    media::Clock,
    scenario::{ClientPlan, Scenario},
};

/// What the lead tells a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Start(ClientPlan),
    Tell(u32, Command),
    TellAll(Command),
    /// Open or close the measured window.
    Measure(bool),
    /// The run's clock is so many nanoseconds ahead of this machine's.
    Clock(i64),
}

#[derive(Debug)]
enum Errand {
    Order(Order),
    /// Hand over what was measured since the last time.
    Take(oneshot::Sender<Stats>),
}

/// The lead's end of a worker. Dropped, the thread ends with its clients.
#[derive(Debug)]
pub(crate) struct Worker {
    errands: Option<mpsc::UnboundedSender<Errand>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start(
        index: usize,
        target: &Target,
        scenario: &Scenario,
        run: u32,
        share: Share,
        reports: mpsc::UnboundedSender<Report>,
    ) -> std::io::Result<Self> {
        let (errands, inbox) = mpsc::unbounded_channel();
        let (target, scenario) = (target.clone(), scenario.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name(format!("clients-{index}")).spawn(move || {
            let recorder = RefCell::new(Recorder::default());
            let context = Rc::new(Context {
                target,
                scenario,
                run,
                clock: Clock::default(),
                share,
                recorder,
                reports,
                rounds: Rounds::default(),
            });
            LocalSet::new().block_on(&runtime, work(context, inbox));
        })?;
        Ok(Self { errands: Some(errands), thread: Some(thread) })
    }

    /// A worker that has gone takes no orders; its clients are gone too.
    pub(crate) fn order(&self, order: Order) {
        self.send(Errand::Order(order));
    }

    fn send(&self, errand: Errand) {
        if let Some(errands) = &self.errands {
            let _ = errands.send(errand);
        }
    }

    pub(crate) async fn take(&self) -> Stats {
        let (sender, receiver) = oneshot::channel();
        self.send(Errand::Take(sender));
        receiver.await.unwrap_or_default()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.errands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn work(context: Rc<Context>, mut errands: mpsc::UnboundedReceiver<Errand>) {
    let mut clients: HashMap<u32, mpsc::UnboundedSender<Command>> = HashMap::new();
    while let Some(errand) = errands.recv().await {
        let order = match errand {
            Errand::Order(order) => order,
            Errand::Take(reply) => {
                let _ = reply.send(context.recorder.borrow_mut().take());
                continue;
            }
        };
        match order {
            Order::Start(plan) => {
                let (commands, inbox) = mpsc::unbounded_channel();
                clients.insert(plan.number, commands);
                tokio::task::spawn_local(client::play(Rc::clone(&context), plan, inbox));
            }
            Order::Tell(number, command) => {
                if let Some(client) = clients.get(&number) {
                    let _ = client.send(command);
                }
            }
            Order::TellAll(command) => {
                clients.retain(|_, client| client.send(command).is_ok());
            }
            Order::Measure(on) => context.recorder.borrow_mut().measure(on),
            Order::Clock(ahead) => context.clock.set(ahead),
        }
    }
}
