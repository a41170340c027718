//! Counts what the threads allocate.
//!
//! Threads of the benchmark say so themselves ([`mark_own_thread`]); the node's media threads are known by the name that
//! the runtime gives them. Everything else is the node's control side.
#![allow(unsafe_code)] // a global allocator is an unsafe trait; this one only counts

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
};

unsafe extern "C" {
    /// The end of the heap that grows by brk (sbrk(3)), moved by so many bytes.
    fn sbrk(increment: isize) -> *mut u8;
}

/// The system's allocator, with counters.
#[derive(Debug)]
pub struct CountingAllocator;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unknown,
    Shard,
    Own,
    Other,
}

thread_local! {
    static KIND: Cell<Kind> = const { Cell::new(Kind::Unknown) };
}

static ARMED: AtomicBool = AtomicBool::new(false);
static SHARD_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Of the benchmark's own threads, outside of the heap that grows by brk.
static OWN_MAPPED: AtomicI64 = AtomicI64::new(0);

/// What this thread allocates is the benchmark's, not the node's.
pub fn mark_own_thread() {
    KIND.set(Kind::Own);
}

/// From now on (or no longer) allocations on media threads count. All threads must have begun.
pub fn arm(armed: bool) {
    ARMED.store(armed, Relaxed);
}

/// Allocations on media threads while armed.
pub fn shard_allocations() -> u64 {
    SHARD_ALLOCATIONS.load(Relaxed)
}

/// Bytes that the benchmark's own threads hold now outside of the heap that grows by brk, which is the main thread's and no
/// other's: large ones, which are mapped each by itself.
pub fn own_mapped_bytes() -> i64 {
    OWN_MAPPED.load(Relaxed)
}

/// Whether memory is not in the heap that grows by brk: mapped memory lies above it.
fn is_mapped(place: *mut u8) -> bool {
    // SAFETY: asks where the heap ends and moves nothing.
    place >= unsafe { sbrk(0) }
}

fn note(place: *mut u8, bytes: i64, allocates: bool) {
    // A thread that ends has no cell any more: whatever it frees then does not count.
    let _ = KIND.try_with(|cell| match cell.get() {
        Kind::Own if is_mapped(place) => {
            OWN_MAPPED.fetch_add(bytes, Relaxed);
        }
        Kind::Own | Kind::Other => {}
        kind if ARMED.load(Relaxed) => {
            if kind == Kind::Unknown {
                // Asking for the name may allocate: not again from there.
                cell.set(Kind::Other);
                let thread = std::thread::current();
                let is_shard = thread.name().is_some_and(|name| name.starts_with("shard-"));
                cell.set(if is_shard { Kind::Shard } else { Kind::Other });
            }
            if cell.get() == Kind::Shard && allocates {
                SHARD_ALLOCATIONS.fetch_add(1, Relaxed);
            }
        }
        _ => {}
    });
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        let place = unsafe { System.alloc(layout) };
        note(place, layout.size() as i64, true);
        place
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        let place = unsafe { System.alloc_zeroed(layout) };
        note(place, layout.size() as i64, true);
        place
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(place, -(layout.size() as i64), false);
        // SAFETY: the caller's promise is passed on.
        let place = unsafe { System.realloc(place, layout, size) };
        note(place, size as i64, true);
        place
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        note(place, -(layout.size() as i64), false);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}
