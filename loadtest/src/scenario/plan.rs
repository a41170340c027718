//! Who joins: a scenario spelled out, client by client.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Scenario, Span, SubscriberMode};

/// How a client is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    /// Sends and receives, or only sends.
    Publisher,
    /// Only receives, whole.
    Subscriber,
    /// Only receives, counted by headers.
    Sink,
}

/// What a network does to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// A network, and the share of the clients that are behind it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Network {
    /// Of the clients.
    pub(crate) percent: f64,
    /// Lost toward the client.
    pub(crate) loss_percent: f64,
    /// Lost from the client.
    pub(crate) uplink_loss_percent: f64,
    /// Each way.
    pub(crate) delay: Span,
    /// Toward the client; 0 is no limit.
    pub(crate) rate_kbps: u32,
}

impl Network {
    /// `None` when it does nothing.
    fn impairment(&self) -> Option<Impairment> {
        let impairment = Impairment {
            downlink_loss: self.loss_percent / 100.0,
            uplink_loss: self.uplink_loss_percent / 100.0,
            delay: self.delay.0,
            rate: u64::from(self.rate_kbps) * 1_000,
        };
        (impairment != Impairment::default()).then_some(impairment)
    }
}

/// The bad networks of a scenario: the one that its own fields describe, and the listed ones.
pub(super) fn networks(scenario: &Scenario) -> impl Iterator<Item = Network> {
    let own = Network {
        percent: scenario.impaired_percent,
        loss_percent: scenario.loss_percent,
        uplink_loss_percent: scenario.uplink_loss_percent,
        delay: scenario.delay,
        rate_kbps: scenario.rate_kbps,
    };
    let all = std::iter::once(own).chain(scenario.networks.iter().cloned());
    all.filter(|network| network.impairment().is_some())
}

/// Deals networks to clients: whoever is furthest behind its share gets the next one, so that shares are kept exactly.
struct Dealer {
    /// Share, clients so far. The first is no bad network.
    shares: Vec<(f64, f64, Option<Impairment>)>,
}

impl Dealer {
    fn new(scenario: &Scenario) -> Self {
        let bad: Vec<_> = networks(scenario)
            .map(|network| (network.percent / 100.0, 0.0, network.impairment()))
            .collect();
        let good = 1.0 - bad.iter().map(|(share, ..)| share).sum::<f64>();
        Self { shares: std::iter::once((good.max(0.0), 0.0, None)).chain(bad).collect() }
    }

    fn next(&mut self) -> Option<Impairment> {
        let dealt: f64 = self.shares.iter().map(|(_, dealt, _)| dealt).sum();
        let behind = |(share, dealt, _): &(f64, f64, Option<Impairment>), total: f64| {
            share * (total + 1.0) - dealt
        };
        // Of those equally far behind, the first one.
        let next = self
            .shares
            .iter_mut()
            .rev()
            .max_by(|one, other| behind(one, dealt).total_cmp(&behind(other, dealt)))?;
        next.1 += 1.0;
        next.2
    }
}

/// One client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    let mut dealer = Dealer::new(scenario);
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
                clients.push(ClientPlan {
                    number,
                    place,
                    room: format!("{prefix}-{room}"),
                    identity: format!("load-{number}-{place}"),
                    mode,
                    subscribes: mode != Mode::Publisher || scenario.publishers_subscribe,
                    impairment: dealer.next(),
                });
            }
        }
    }
    clients
}
