//! Asking for memory before its turn comes.
//!
//! Between two frames the kernel moves megabytes of socket buffers through the processor's caches, so that a subscriber's turn finds
//! nothing of it near, and each of some forty lines was waited for by itself. Who is next is known, so its lines are asked for while
//! others are served ([`crate::peer::Peer::prefetch`]): a tenth of what a packet costs at 500 subscribers (`docs/performance-log.md`,
//! "Fifth"). Each type says which of its own lines that are.

/// Has the line in which a value begins brought into the nearest cache. Waits for nothing, and changes nothing.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    safe_arch::prefetch_t0(value);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
