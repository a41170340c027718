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
static OWN_BYTES: AtomicI64 = AtomicI64::new(0);

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

/// Bytes that the benchmark's own threads hold now.
pub fn own_bytes() -> i64 {
    OWN_BYTES.load(Relaxed)
}

fn note(bytes: i64, allocates: bool) {
    // A thread that ends has no cell any more: whatever it frees then does not count.
    let _ = KIND.try_with(|cell| match cell.get() {
        Kind::Own => {
            OWN_BYTES.fetch_add(bytes, Relaxed);
        }
        Kind::Other => {}
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
        note(layout.size() as i64, true);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64, true);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as i64 - layout.size() as i64, true);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        note(-(layout.size() as i64), false);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}
