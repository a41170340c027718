//! Memory of a media thread, asked for before it is needed.

use crate::net::{LargePages, PageMaker};

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
    /// Where the large page ends that was filled last, or could not be.
    tried: usize,
    /// Stands where the last large page ends: what lies before it is kept for the peers to come, however many leave.
    end: Option<Vec<u8>>,
}

impl Heap {
    /// Something is reserved for the first peers.
    pub(super) fn new(maker: PageMaker) -> Self {
        Self { came: PEERS, pages: LargePages::new(maker), tried: 0, end: None }
    }

    /// A peer came.
    pub(super) fn peer_came(&mut self) {
        self.came += 1;
    }

    /// Asks for memory for the next peers at once: the system's allocator extends the heap of a thread that is not the first by
    /// one page or two at a time, a system call each, four or five of which a join needs. Where it lies large pages are made.
    pub(super) fn reserve(&mut self) {
        if self.came < PEERS {
            return;
        }
        self.came = 0;
        let mut blocks = Vec::with_capacity(BLOCKS);
        let room = block();
        let start = room.as_ptr().addr();
        let last = start + BYTES - 1;
        self.pages.cover(start);
        let end = last / LargePages::SIZE * LargePages::SIZE + LargePages::SIZE;
        if end == self.tried || !self.pages.ends_before(last) {
            return;
        }
        self.tried = end;
        blocks.push(room);
        let block = fill_large_page(blocks, end);
        self.pages.extend(start, if block.is_some() { end } else { last });
        self.end = block.or(self.end.take());
    }

    /// Whether the kernel gives large pages.
    pub(super) fn has_large_pages(&self) -> bool {
        self.pages.granted()
    }
}

fn block() -> Vec<u8> {
    std::hint::black_box(Vec::with_capacity(BYTES))
}

/// A large page takes so many, with one that it begins in.
const BLOCKS: usize = LargePages::SIZE / BYTES + 2;

/// Has the heap reach `end`, where the large page ends on which the first block does: the kernel makes none of a part. Returns the block
/// that is there; `None` where something else is, or blocks come from elsewhere.
fn fill_large_page(mut blocks: Vec<Vec<u8>>, end: usize) -> Option<Vec<u8>> {
    loop {
        // With what the allocator puts between blocks.
        let is_last = |block: &Vec<u8>| {
            (end.saturating_sub(BYTES + 64)..end).contains(&block.as_ptr().addr())
        };
        if blocks.last().is_some_and(is_last) {
            return blocks.pop();
        }
        if blocks.len() == BLOCKS {
            return None;
        }
        blocks.push(block());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{Arc, Barrier},
        time::{Duration, Instant},
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

    /// Its version: major, minor.
    fn kernel() -> (u32, u32) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    /// Bytes of large pages in the memory that an address is part of.
    fn large_bytes(address: usize) -> usize {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let number = |text| usize::from_str_radix(text, 16).ok();
        let mut here = false;
        for line in smaps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            if let Some((start, end)) = range.and_then(|(a, b)| number(a).zip(number(b))) {
                here = (start..end).contains(&address);
            } else if here && let Some(size) = line.strip_prefix("AnonHugePages:") {
                return size.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1_024;
            }
        }
        0
    }

    /// A peer of 32 KB comes; whether a large page was filled for those that come.
    fn join(heap: &mut Heap, peers: &mut Vec<Vec<Vec<u8>>>) -> bool {
        let tried = heap.tried;
        peers.push((0..32).map(|_| vec![1; 1_000]).collect());
        heap.peer_came();
        heap.reserve();
        heap.tried != tried
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // a real thread is waited for
    fn a_heap_grows_by_large_pages_and_is_kept() {
        // Some get heaps that others use as well.
        const THREADS: usize = 8;
        let maker = PageMaker::start();
        let threads = [(); THREADS].map(|()| {
            let maker = maker.clone();
            std::thread::spawn(move || {
                let (mut heap, mut peers) = (Heap::new(maker), Vec::new());
                let filled = (0..300).filter(|_| join(&mut heap, &mut peers)).count();
                let last = peers.last().unwrap()[0].as_ptr().addr();
                let begun = Instant::now();
                let is_large = || {
                    std::thread::sleep(Duration::from_millis(5));
                    large_bytes(last) >= 3 * LargePages::SIZE
                };
                while !is_large() && begun.elapsed() < Duration::from_secs(3) {}
                // Whoever comes after others have left finds their memory as it was.
                let again = (0..2_000).filter(|n| {
                    peers.swap_remove(n * 7 % peers.len());
                    join(&mut heap, &mut peers)
                });
                let again = again.count();
                (heap.has_large_pages(), filled >= 3 && again <= 2, is_large())
            })
        });
        let told = threads.map(|thread| thread.join().unwrap());
        if told.iter().any(|told| told.0) {
            assert!(told.iter().filter(|told| told.1).count() > THREADS / 2, "{told:?}");
            if kernel() >= (6, 1) {
                assert!(told.iter().filter(|told| told.2).count() > THREADS / 2, "{told:?}");
            }
        }
    }

    #[test]
    fn a_heap_begins_with_a_whole_large_page() {
        // At once, so that not all of them get heaps that ended threads left, with room of any sizes in them.
        const THREADS: usize = 8;
        let barrier = Arc::new(Barrier::new(THREADS));
        let threads = [(); THREADS].map(|()| {
            let barrier = Arc::clone(&barrier);
            std::thread::spawn(move || {
                let mut heap = Heap::new(PageMaker::default());
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
