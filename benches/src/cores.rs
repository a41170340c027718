//! Which cores the benchmark's own threads run on.
//!
//! Clients would be on other machines. Here they share one with what is measured: where they run on a media thread's core, media waits for
//! them, which says nothing of the node.

use std::sync::OnceLock;

use core_affinity::CoreId;

/// The core of a media thread, as a node pins it.
pub fn of_media(thread: usize) -> Option<CoreId> {
    all().get(thread).copied()
}

/// Has the calling thread, and those it starts from now on, leave the first `media` cores alone. Threads of different `number` get
/// different cores where there are enough. False where the machine has too few for that: everybody shares.
///
/// After the node's start, which looks at the cores of who starts it.
pub fn leave_to_media(media: usize, number: usize) -> bool {
    let all = all();
    let spare = all.get(media..).unwrap_or_default();
    let core = spare.iter().rev().cycle().nth(number);
    core.is_some_and(|core| core_affinity::set_for_current(*core))
}

/// Those that the process was given, whatever became of the calling thread since.
fn all() -> &'static [CoreId] {
    static ALL: OnceLock<Vec<CoreId>> = OnceLock::new();
    ALL.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default())
}
