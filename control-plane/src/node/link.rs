//! Watches one node: a snapshot, then deltas; a gap means another snapshot, another boot id that all peers are gone.

use std::time::Duration;

use chappe_proto::node::v1 as proto;
use tokio::{sync::mpsc, time::Instant};

use super::{Node, NodeChange, NodeEvent};

/// Pauses between attempts to reach the node.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);
const RECONNECT_AFTER_MOST: Duration = Duration::from_secs(2);
/// A node that nobody can reach for so long is given up: its media may live on, but no call can change it.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// What reading a stream led to.
enum Ended {
    /// The stream broke or had a gap: watch again.
    Broken,
    /// Nobody listens to the events any more.
    Unheard,
}

pub(super) struct Link {
    node: Node,
    events: mpsc::Sender<NodeEvent>,
    boot_id: Option<String>,
}

impl Link {
    pub(super) fn new(node: Node, events: mpsc::Sender<NodeEvent>) -> Self {
        Self { node, events, boot_id: None }
    }

    pub(super) async fn run(mut self) {
        let mut pause = RECONNECT_AFTER;
        let mut unreachable_since: Option<Instant> = None;
        loop {
            match self.node.watch().await {
                Ok(stream) => {
                    let read = self.read(stream).await;
                    if self.node.is_attached() {
                        tracing::warn!(node = self.node.name(), "the event stream ended");
                        self.node.set_attached(false);
                        (pause, unreachable_since) = (RECONNECT_AFTER, None);
                    }
                    if matches!(read, Ended::Unheard) {
                        return;
                    }
                }
                Err(error) => tracing::debug!(node = self.node.name(), %error, "cannot watch"),
            }
            let since = *unreachable_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= LOST_AFTER && self.boot_id.take().is_some() {
                tracing::error!(node = self.node.name(), "given up: out of reach");
                if !self.tell(NodeChange::Lost).await {
                    return;
                }
            }
            if self.events.is_closed() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RECONNECT_AFTER_MOST);
        }
    }

    async fn read(&mut self, mut stream: tonic::Streaming<proto::Event>) -> Ended {
        let mut expected = None;
        loop {
            let event = match stream.message().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ended::Broken,
                Err(status) => {
                    tracing::debug!(node = self.node.name(), %status, "event stream");
                    return Ended::Broken;
                }
            };
            if expected.is_some_and(|expected| event.sequence != expected) {
                tracing::warn!(node = self.node.name(), "events are missing: asking anew");
                return Ended::Broken;
            }
            let restarted = self.boot_id.as_ref().is_some_and(|known| *known != event.boot_id);
            if restarted && !self.tell(NodeChange::Lost).await {
                return Ended::Unheard;
            }
            self.boot_id = Some(event.boot_id);
            let change = match event.event {
                Some(proto::event::Event::Snapshot(snapshot)) => NodeChange::Snapshot(snapshot),
                // Deltas mean nothing before a snapshot.
                _ if expected.is_none() => return Ended::Broken,
                Some(other) => NodeChange::Event(other),
                // A newer node knows events that this control plane does not.
                None => {
                    expected = Some(event.sequence.wrapping_add(1));
                    continue;
                }
            };
            expected = Some(event.sequence.wrapping_add(1));
            let is_snapshot = matches!(change, NodeChange::Snapshot(_));
            if !self.tell(change).await {
                return Ended::Unheard;
            }
            if is_snapshot {
                self.node.set_attached(true);
            }
        }
    }

    async fn tell(&self, change: NodeChange) -> bool {
        let event = NodeEvent { node: self.node.clone(), change };
        self.events.send(event).await.is_ok()
    }
}
