//! Memory of a media thread, asked for before it is needed.

use crate::net::LargePages;

/// Peers that come between two reservations, and how much is reserved: what they take, about, and less than the allocator gives back to
/// the system by itself (128 KiB).
const PEERS: u32 = 4;
const BYTES: usize = 120 * 1_024;

/// The heap of the calling thread.
#[derive(Debug)]
pub(super) struct Heap {
    /// Peers that came since memory was reserved.
    came: u32,
    pages: LargePages,
}

impl Heap {
    /// Something is reserved for the first peers.
    pub(super) fn new() -> Self {
        Self { came: PEERS, pages: LargePages::default() }
    }

    /// A peer came.
    pub(super) fn peer_came(&mut self) {
        self.came += 1;
    }

    /// Asks for memory for the next peers at once: the system's allocator extends the heap of a thread that is not the first by
    /// one page or two at a time, a system call each, four or five of which a join needs. Where it lies large pages are asked for.
    pub(super) fn reserve(&mut self) {
        if self.came < PEERS {
            return;
        }
        self.came = 0;
        let room = std::hint::black_box(Vec::<u8>::with_capacity(BYTES));
        self.pages.cover(room.as_ptr().addr());
    }

    /// Whether the kernel gives large pages.
    pub(super) fn has_large_pages(&self) -> bool {
        self.pages.granted()
    }
}
