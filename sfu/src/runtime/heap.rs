//! Memory of a media thread, asked for before it is needed.

use crate::net::LargePages;

/// Peers that come between two reservations.
const PEERS: u32 = 4;

/// What is reserved: what they take, about, and less than the allocator gives back to the system by itself, or takes from it for one block
/// (128 KiB each).
const BYTES: usize = 120 * 1_024;

/// The heap of the calling thread.
#[derive(Debug)]
pub(super) struct Heap {
    /// Peers that came since memory was reserved.
    came: u32,
    pages: LargePages,
    /// Stands where the first large page of the heap ends, which is not given back while it does.
    end: Option<Vec<u8>>,
}

impl Heap {
    /// Something is reserved for the first peers.
    pub(super) fn new() -> Self {
        Self { came: PEERS, pages: LargePages::default(), end: None }
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
        let room = block();
        self.pages.cover(room.as_ptr().addr());
        if self.end.is_none() && self.pages.granted() {
            self.end = Some(fill_large_page(room).unwrap_or_default());
        }
    }

    /// Whether the kernel gives large pages.
    pub(super) fn has_large_pages(&self) -> bool {
        self.pages.granted()
    }
}

fn block() -> Vec<u8> {
    std::hint::black_box(Vec::with_capacity(BYTES))
}

/// Has the heap reach the end of the large page that `first` lies on: the kernel makes none of a part, and some sixty peers, a shard with
/// small rooms, would never fill one. Returns the block at its end; `None` where blocks come from elsewhere, and nothing is gained.
fn fill_large_page(first: Vec<u8>) -> Option<Vec<u8>> {
    let end = first.as_ptr().addr().next_multiple_of(LargePages::SIZE);
    let mut blocks = vec![first];
    for _ in 0..=LargePages::SIZE / BYTES {
        let last = block();
        // With what the allocator puts between blocks.
        if (end.saturating_sub(BYTES + 64)..end).contains(&last.as_ptr().addr()) {
            return Some(last);
        }
        blocks.push(last);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{Arc, Barrier},
    };

    use super::*;

    /// Where the memory ends that an address is part of.
    fn end_of(address: usize) -> usize {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        let mut ranges = maps.lines().map(|line| {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            number(start)..number(end)
        });
        ranges.find(|range| range.contains(&address)).unwrap().end
    }

    #[test]
    fn a_heap_begins_with_a_whole_large_page() {
        // At once, so that not all of them get heaps that ended threads left, with room of any sizes in them.
        const THREADS: usize = 8;
        let barrier = Arc::new(Barrier::new(THREADS));
        let threads = [(); THREADS].map(|()| {
            let barrier = Arc::clone(&barrier);
            std::thread::spawn(move || {
                let mut heap = Heap::new();
                barrier.wait();
                heap.reserve();
                // A small value may come from a heap of another thread: what was kept tells.
                let kept = heap.end.as_ref().filter(|kept| kept.capacity() > 0);
                let whole = kept.map(|kept| kept.as_ptr().addr()).is_some_and(|address| {
                    let end = address.next_multiple_of(LargePages::SIZE);
                    end <= address + BYTES + 64 && end <= end_of(address)
                });
                barrier.wait();
                (heap.has_large_pages(), whole)
            })
        });
        let told = threads.map(|thread| thread.join().unwrap());
        if told.iter().any(|(large, _)| *large) {
            assert!(told.iter().filter(|(_, whole)| *whole).count() > THREADS / 2, "{told:?}");
        }
    }
}
