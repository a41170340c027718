//! Which cores the benchmark's own threads run on.
//!
//! Clients would be on other machines. Here they share one with what is measured: where they run on a media thread's core, media waits for
//! them up to a tick of the kernel, which says nothing of the node. Cores that are two halves of one (hyperthreads) count as two.

use std::sync::OnceLock;

use core_affinity::CoreId;

/// Has the calling thread run where a node's media thread of this number runs.
pub fn share_with_media(thread: usize) {
    if let Some(core) = all().get(thread) {
        core_affinity::set_for_current(*core);
    }
}

/// Has the calling thread, and those it starts from now on, leave the cores of so many media threads alone. Which of the benchmark's own
/// threads it is, `own`, says which of the other cores it gets. False where there is none: everybody shares.
///
/// After the node's start, which looks at the cores of who starts it.
pub fn leave_to_media(media: usize, own: usize) -> bool {
    let spare = all().get(media..).unwrap_or_default();
    let core = spare.iter().rev().cycle().nth(own);
    core.is_some_and(|core| core_affinity::set_for_current(*core))
}

/// Those that the process was given: looked at once, by a thread that is not pinned yet.
fn all() -> &'static [CoreId] {
    static ALL: OnceLock<Vec<CoreId>> = OnceLock::new();
    ALL.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default())
}
