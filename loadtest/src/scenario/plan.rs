//! Who joins: a scenario spelled out, client by client.

use std::time::Duration;

use super::{Scenario, SubscriberMode};

/// How a client is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Sends and receives, or only sends.
    Publisher,
    /// Only receives, whole.
    Subscriber,
    /// Only receives, counted by headers.
    Sink,
}

/// What a network does to a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Impairment {
    /// Share of datagrams lost toward the client.
    pub(crate) downlink_loss: f64,
    /// Share of datagrams lost from the client.
    pub(crate) uplink_loss: f64,
    /// Added each way.
    pub(crate) delay: Duration,
    /// Bits a second toward the client; 0 is no limit.
    pub(crate) rate: u64,
}

/// One client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClientPlan {
    /// Number in the run.
    pub(crate) number: u32,
    /// Number in its room.
    pub(crate) place: u32,
    pub(crate) room: String,
    pub(crate) identity: String,
    pub(crate) mode: Mode,
    pub(crate) subscribes: bool,
    pub(crate) impairment: Option<Impairment>,
}

impl ClientPlan {
    pub(crate) fn publishes(&self) -> bool {
        self.mode == Mode::Publisher
    }
}

/// All clients, in the order of joining: publishers of all rooms first, so that there is something to receive.
pub(crate) fn plan(scenario: &Scenario, prefix: &str) -> Vec<ClientPlan> {
    let mut clients = Vec::new();
    let impaired = Impairment {
        downlink_loss: scenario.loss_percent / 100.0,
        uplink_loss: scenario.uplink_loss_percent / 100.0,
        delay: scenario.delay.0,
        rate: u64::from(scenario.rate_kbps) * 1_000,
    };
    let harmless =
        Impairment { downlink_loss: 0.0, uplink_loss: 0.0, delay: Duration::ZERO, rate: 0 };
    let receivers = match scenario.subscriber_mode {
        SubscriberMode::Full => Mode::Subscriber,
        SubscriberMode::Sink => Mode::Sink,
    };
    for (mode, count, first) in [
        (Mode::Publisher, scenario.publishers, 0),
        (receivers, scenario.subscribers, scenario.publishers),
    ] {
        for place in first..first + count {
            for room in 0..scenario.rooms {
                let number = clients.len() as u32;
                // The share is spread evenly: a step of the running sum is a client.
                let step = |n: u32| (f64::from(n) * scenario.impaired_percent / 100.0) as u64;
                let chosen = impaired != harmless && step(number + 1) > step(number);
                clients.push(ClientPlan {
                    number,
                    place,
                    room: format!("{prefix}-{room}"),
                    identity: format!("load-{number}-{place}"),
                    mode,
                    subscribes: mode != Mode::Publisher || scenario.publishers_subscribe,
                    impairment: chosen.then_some(impaired),
                });
            }
        }
    }
    clients
}
