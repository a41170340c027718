//! A worker: one thread, one event loop, many clients.

use std::{cell::RefCell, collections::HashMap, rc::Rc, thread};

use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
};

use crate::{
    client::{self, Command, Context, Report, ws::Target},
    measure::{Recorder, Stats},
    scenario::{ClientPlan, Scenario},
};

/// What the lead tells a worker.
#[derive(Debug)]
pub(super) enum Order {
    Start(ClientPlan),
    Tell(u32, Command),
    TellAll(Command),
    /// Open or close the measured window.
    Measure(bool),
    /// Hand over what was measured since the last time.
    Take(oneshot::Sender<Stats>),
}

/// The lead's end of a worker. Dropped, the thread ends with its clients.
#[derive(Debug)]
pub(super) struct Worker {
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(
        index: usize,
        target: &Target,
        scenario: &Scenario,
        run: u32,
        reports: mpsc::UnboundedSender<Report>,
    ) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (target, scenario) = (target.clone(), scenario.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name(format!("clients-{index}")).spawn(move || {
            let recorder = RefCell::new(Recorder::default());
            let context = Rc::new(Context { target, scenario, run, recorder, reports });
            LocalSet::new().block_on(&runtime, work(context, inbox));
        })?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// A worker that has gone takes no orders; its clients are gone too.
    pub(super) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
    }

    pub(super) async fn take(&self) -> Stats {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Take(sender));
        receiver.await.unwrap_or_default()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn work(context: Rc<Context>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut clients: HashMap<u32, mpsc::UnboundedSender<Command>> = HashMap::new();
    while let Some(order) = orders.recv().await {
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
            Order::Take(reply) => {
                let _ = reply.send(context.recorder.borrow_mut().take());
            }
        }
    }
}
