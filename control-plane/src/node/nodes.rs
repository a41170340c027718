//! The nodes that are known, and which of them takes a new room.

use std::{sync::Arc, time::Duration};

use chappe_proto::node::v1 as proto;
use dashmap::DashMap;
use tokio::sync::mpsc;

use super::{Node, link::Link};

/// Events of all nodes that wait for the rooms.
const QUEUE: usize = 1_024;
/// How long a new room waits for a node that is just being reached.
const PLACE_WITHIN: Duration = Duration::from_secs(3);
const PLACE_AGAIN: Duration = Duration::from_millis(20);

/// Something happened on a node.
#[derive(Debug)]
pub struct NodeEvent {
    /// Where.
    pub node: Node,
    /// What.
    pub change: NodeChange,
}

/// What happened on a node.
#[derive(Debug)]
pub enum NodeChange {
    /// Everything on the node: replaces what was known.
    Snapshot(proto::Snapshot),
    /// One event since.
    Event(proto::event::Event),
    /// The node restarted or is given up: every peer on it is gone.
    Lost,
}

/// No media node can take a room.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoNode(pub String);

/// All known nodes; cheap to clone.
#[derive(Clone, Debug)]
pub struct Nodes {
    known: Arc<DashMap<String, Node>>,
    events: mpsc::Sender<NodeEvent>,
}

impl Nodes {
    /// No nodes yet, and what they will say.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<NodeEvent>) {
        let (events, heard) = mpsc::channel(QUEUE);
        (Self { known: Arc::default(), events }, heard)
    }

    /// Takes a node in and watches it from now on.
    pub fn add(&self, node: Node) {
        let link = Link::new(node.clone(), self.events.clone());
        self.known.insert(node.name().to_owned(), node);
        tokio::spawn(link.run());
    }

    /// Names of all nodes.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.known.iter().map(|node| node.key().clone()).collect()
    }

    /// All nodes.
    #[must_use]
    pub fn all(&self) -> Vec<Node> {
        self.known.iter().map(|node| node.value().clone()).collect()
    }

    /// Is any node alive?
    #[must_use]
    pub fn any_attached(&self) -> bool {
        self.known.iter().any(|node| node.is_attached())
    }

    /// The living node with the fewest peers.
    pub async fn place(&self) -> Result<Node, NoNode> {
        let wait = async {
            loop {
                if let Some(node) = self.least_loaded() {
                    return node;
                }
                tokio::time::sleep(PLACE_AGAIN).await;
            }
        };
        tokio::time::timeout(PLACE_WITHIN, wait)
            .await
            .map_err(|_| NoNode(format!("none of {} can be reached", self.known.len())))
    }

    fn least_loaded(&self) -> Option<Node> {
        let attached = self.known.iter().filter(|node| node.is_attached());
        attached.min_by_key(|node| node.peers()).map(|node| node.value().clone())
    }
}
