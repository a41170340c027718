//! What a system gives as randomness, repeated, so that a seed is a whole run: str0m draws SSRCs and numbers from `fastrand`, and the order of
//! its packets is that of std's hash maps. What handshakes draw (aws-lc asks the kernel itself) is in no packet's length or time afterwards.
//!
//! Both are kept for each thread: a run that shall repeat has a thread of its own.

use std::cell::Cell;

thread_local! { static STATE: Cell<u64> = const { Cell::new(0) } }

/// From now on with this luck, on this thread.
pub(crate) fn seed(seed: u64) {
    STATE.set(seed);
    fastrand::seed(seed);
}

/// Stands before the C library's for this program: std keys its hash maps with it.
///
/// # Safety
///
/// `buffer` has room for `len` bytes.
#[unsafe(no_mangle)]
#[allow(unsafe_code)] // a symbol of the C library, and a pointer from it
unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    for at in 0..len {
        let state = STATE.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        STATE.set(state);
        // Safety: within `len`.
        unsafe { buffer.add(at).write((state >> 56) as u8) };
    }
    len as isize
}
