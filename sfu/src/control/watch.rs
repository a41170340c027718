//! Watchers: a snapshot first, then what happens, each with a bounded queue. One that reads too slowly loses its queue
//! and gets a new snapshot instead, made when it reads again: it costs the same memory however long it sleeps.

use std::{collections::VecDeque, sync::Arc};

use chappe_proto::node::v1 as pb;
use tokio::sync::Notify;

/// Events that may wait for one watcher.
const QUEUE: usize = 1_024;

/// Watchers at once: a control plane, its successor, and people who look.
const MAX_WATCHERS: usize = 16;

/// One watcher's queue.
#[derive(Debug)]
struct Queue {
    id: u64,
    events: VecDeque<pb::event::Event>,
    /// What waits is worthless: a snapshot is due.
    snapshot_due: bool,
    sequence: u64,
    wake: Arc<Notify>,
}

/// All watchers of the node.
#[derive(Debug)]
pub(super) struct Watchers {
    boot_id: String,
    queues: Vec<Queue>,
    ids: u64,
}

/// What a watcher gets next.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Next {
    /// This.
    Event(Box<pb::Event>),
    /// A snapshot is due: make one under the same lock and give it to [`Watchers::stamp`].
    Snapshot,
    /// Nothing yet.
    Wait,
    /// The node has ended this watch.
    Closed,
}

impl Watchers {
    pub(super) fn new(boot_id: String) -> Self {
        Self { boot_id, queues: Vec::new(), ids: 0 }
    }

    /// A new watcher and what wakes it. `None`: there are too many.
    pub(super) fn subscribe(&mut self) -> Option<(u64, Arc<Notify>)> {
        if self.queues.len() >= MAX_WATCHERS {
            return None;
        }
        self.ids += 1;
        let wake = Arc::new(Notify::new());
        self.queues.push(Queue {
            id: self.ids,
            events: VecDeque::new(),
            snapshot_due: true,
            sequence: 0,
            wake: Arc::clone(&wake),
        });
        Some((self.ids, wake))
    }

    pub(super) fn unsubscribe(&mut self, id: u64) {
        self.queues.retain(|queue| queue.id != id);
    }

    /// Ends all watches.
    pub(super) fn close(&mut self) {
        for queue in self.queues.drain(..) {
            queue.wake.notify_one();
        }
    }

    /// Something happened.
    pub(super) fn push(&mut self, event: &pb::event::Event) {
        for queue in &mut self.queues {
            if queue.snapshot_due {
                continue;
            }
            if queue.events.len() >= QUEUE {
                queue.events = VecDeque::new();
                queue.snapshot_due = true;
            } else {
                queue.events.push_back(event.clone());
            }
            queue.wake.notify_one();
        }
    }

    /// What a watcher gets next.
    pub(super) fn poll(&mut self, id: u64) -> Next {
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.id == id) else {
            return Next::Closed;
        };
        if queue.snapshot_due {
            return Next::Snapshot;
        }
        match queue.events.pop_front() {
            Some(event) => Next::Event(Box::new(queue.envelope(&self.boot_id, event))),
            None => Next::Wait,
        }
    }

    /// A snapshot for a watcher, which what happens from now on follows.
    pub(super) fn stamp(&mut self, id: u64, snapshot: pb::Snapshot) -> Option<pb::Event> {
        let queue = self.queues.iter_mut().find(|queue| queue.id == id)?;
        queue.snapshot_due = false;
        Some(queue.envelope(&self.boot_id, pb::event::Event::Snapshot(snapshot)))
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.events.len()).sum()
    }
}

impl Queue {
    fn envelope(&mut self, boot_id: &str, event: pb::event::Event) -> pb::Event {
        self.sequence += 1;
        pb::Event { boot_id: boot_id.to_owned(), sequence: self.sequence, event: Some(event) }
    }
}
