//! Where a room's media is, and what the node there keeps of the room for the next control plane.

use std::time::{Duration, Instant};

use chappe_proto::node::v1 as node;
use tokio::{sync::watch, task::JoinHandle};

use super::state::{MAX_SAVED, RoomState};
use crate::node::{CallError, Node};

/// A busy room is saved at most this often, and a large one less: writing it down may cost a twentieth of the time.
const SAVE_EVERY: Duration = Duration::from_millis(50);
const SAVE_SHARE: u32 = 20;
/// After a failure.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Revisions start there after a take-over: above everything that the owner before may have used.
const TAKE_OVER_LEAP: u64 = 1_000_000;

/// A room's place on its node. One attempt to save at a time is under way.
pub(super) struct Home {
    node: Node,
    /// True once the node knows the room.
    ready: watch::Sender<bool>,
    /// Of the room on the node.
    revision: u64,
    unsaved: bool,
    saving: Option<JoinHandle<Saved>>,
}

/// What became of an attempt to save.
enum Saved {
    Done,
    Failed,
    /// The node has a later revision.
    Behind,
    Fenced,
}

/// Another control plane commands the room.
pub(super) struct Fenced;

impl Home {
    /// On a node that does not know the room yet.
    pub(super) fn new(node: Node) -> Self {
        let ready = watch::Sender::new(false);
        Self { node, ready, revision: 0, unsaved: true, saving: None }
    }

    /// On a node that kept the room for another control plane, which saved this revision or a few later ones.
    pub(super) fn taken_over(node: Node, revision: u64) -> Self {
        let home = Self { revision: revision + TAKE_OVER_LEAP, ..Self::new(node) };
        home.ready.send_replace(true);
        home
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Becomes true once the node knows the room.
    pub(super) fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// What is saved is not the room any more.
    pub(super) fn outdate(&mut self) {
        self.unsaved = true;
    }

    /// Gives the node what a later control plane needs, where that changed and nothing is under way.
    pub(super) fn save(&mut self, state: &RoomState, epoch: u64) {
        if !self.unsaved || self.saving.is_some() {
            return;
        }
        self.unsaved = false;
        let started = Instant::now();
        let owner_state = match state.save() {
            Ok(bytes) if bytes.len() <= MAX_SAVED => bytes,
            Ok(bytes) => {
                let (room, size) = (state.name(), bytes.len());
                tracing::error!(room, size, "too large to outlive a restart of the control plane");
                if *self.ready.borrow() {
                    return;
                }
                Vec::new()
            }
            Err(error) => {
                tracing::error!(room = state.name(), %error, "the room cannot be saved");
                return;
            }
        };
        let pause = (started.elapsed() * SAVE_SHARE).max(SAVE_EVERY);
        self.revision += 1;
        let request = node::ApplyRoomRequest {
            room_id: state.sid().to_owned(),
            epoch,
            revision: self.revision,
            owner_state,
        };
        let (node, ready) = (self.node.clone(), self.ready.clone());
        let name = state.name().to_owned();
        self.saving = Some(tokio::spawn(async move {
            if let Err(error) = node.apply_room(&request).await {
                tracing::warn!(room = name, %error, "the room is not saved");
                if let CallError::Fenced(_) = error {
                    return Saved::Fenced;
                }
                tokio::time::sleep(SAVE_AGAIN_AFTER).await;
                return match error {
                    CallError::Stale(_) => Saved::Behind,
                    _ => Saved::Failed,
                };
            }
            ready.send_replace(true);
            tokio::time::sleep(pause).await;
            Saved::Done
        }));
    }

    /// Waits for the end of what is under way, for ever if nothing is. Cancel safe.
    pub(super) async fn saved(&mut self) -> Result<(), Fenced> {
        let saved = match &mut self.saving {
            Some(task) => task.await.unwrap_or(Saved::Failed),
            None => std::future::pending().await,
        };
        self.saving = None;
        match saved {
            Saved::Done => {}
            Saved::Failed => self.unsaved = true,
            Saved::Behind => {
                self.revision += TAKE_OVER_LEAP;
                self.unsaved = true;
            }
            Saved::Fenced => return Err(Fenced),
        }
        Ok(())
    }

    /// Ends what is under way; the revision of the last word.
    pub(super) fn close(&mut self) -> u64 {
        if let Some(saving) = self.saving.take() {
            saving.abort();
        }
        self.revision + 1
    }
}
