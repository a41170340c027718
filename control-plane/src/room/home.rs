//! Where a room's media is, and what the node there keeps of the room for the next control plane.

use std::{error::Error, time::Duration};

use chappe_proto::node::v1 as node;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::state::{MAX_SAVED, RoomState, Written};
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
    /// The next attempt, where there is something to save, is not before.
    not_before: Instant,
}

/// What became of an attempt to save.
enum Saved {
    /// The next one waits for so long.
    Done(Duration),
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
        let not_before = Instant::now();
        Self { node, ready, revision: 0, unsaved: true, saving: None, not_before }
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

    /// When to [save](Self::save), if anything.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.unsaved && self.saving.is_none()).then_some(self.not_before)
    }

    /// Gives the node what a later control plane needs, where that changed, nothing is under way and the last time is long
    /// enough ago.
    pub(super) fn save(&mut self, state: &RoomState, epoch: u64) {
        if self.due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.unsaved = false;
        let name = state.name().to_owned();
        let started = Instant::now();
        let written = match state.write() {
            Ok(written) => written,
            Err(error) => {
                tracing::error!(room = name, %error, "the room cannot be saved");
                return;
            }
        };
        let writing = started.elapsed();
        self.revision += 1;
        let (room_id, revision) = (state.sid().to_owned(), self.revision);
        let (node, ready) = (self.node.clone(), self.ready.clone());
        self.saving = Some(tokio::spawn(async move {
            let (packed, packing) = pack(written).await;
            let owner_state = match packed {
                Ok(bytes) if bytes.len() <= MAX_SAVED => bytes,
                Ok(bytes) => {
                    let size = bytes.len();
                    tracing::error!(
                        room = name,
                        size,
                        "too large to outlive a restart of the control plane"
                    );
                    Vec::new()
                }
                Err(error) => {
                    tracing::error!(room = name, %error, "the room cannot be saved");
                    Vec::new()
                }
            };
            let pause = ((writing + packing) * SAVE_SHARE).max(SAVE_EVERY);
            // A node that knows the room keeps what it has; another has to hear of it.
            if !owner_state.is_empty() || !*ready.borrow() {
                let request = node::ApplyRoomRequest { room_id, epoch, revision, owner_state };
                if let Err(error) = node.apply_room(&request).await {
                    tracing::warn!(room = name, %error, "the room is not saved");
                    return match error {
                        CallError::Fenced(_) => Saved::Fenced,
                        CallError::Stale(_) => Saved::Behind,
                        _ => Saved::Failed,
                    };
                }
                ready.send_replace(true);
            }
            Saved::Done(pause)
        }));
    }

    /// Waits for the end of what is under way, for ever if nothing is. Cancel safe.
    pub(super) async fn saved(&mut self) -> Result<(), Fenced> {
        let saved = match &mut self.saving {
            Some(task) => task.await.unwrap_or(Saved::Failed),
            None => std::future::pending().await,
        };
        self.saving = None;
        let pause = match saved {
            // No timer: most often there is nothing to save by then.
            Saved::Done(pause) => pause,
            Saved::Failed => {
                self.unsaved = true;
                SAVE_AGAIN_AFTER
            }
            Saved::Behind => {
                self.revision += TAKE_OVER_LEAP;
                self.unsaved = true;
                SAVE_AGAIN_AFTER
            }
            Saved::Fenced => return Err(Fenced),
        };
        self.not_before = Instant::now() + pause;
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

/// The bytes to keep, and the time that it took to make them. Not on a thread that others wait for, where it is long.
async fn pack(written: Written) -> (Result<Vec<u8>, Box<dyn Error + Send + Sync>>, Duration) {
    let takes_long = written.takes_long();
    let pack = || {
        let started = Instant::now();
        (written.pack(), started.elapsed())
    };
    let done = if takes_long { tokio::task::spawn_blocking(pack).await } else { Ok(pack()) };
    match done {
        Ok((packed, took)) => (packed.map_err(Into::into), took),
        Err(stopped) => (Err(stopped.into()), Duration::ZERO),
    }
}
