//! The allocator of the process, and what it does with memory that was freed. Merges have to stay within a bound.

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_set, mi_option_t};

/// Ingest allocates and frees small pieces on many threads, where this allocator is faster than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3, which the bindings do not name: how many milliseconds what was freed is kept before the
/// system gets it back.
const PURGE_DELAY: mi_option_t = 15;

/// What mimalloc comes with.
const USUAL_PURGE_DELAY_MS: c_long = 1000;

/// Whether memory that was freed is kept for a while, as it is at first. If not, the process holds little more than what is in use.
///
/// Merges allocate and free buffers of megabytes on many threads: with the usual delay, and with huge pages of which a part is in
/// use, they held several times their bound. Without both they take up to a tenth more time, which ingest and queries need not.
pub fn keep_freed(keep: bool) {
    let delay_ms = if keep { USUAL_PURGE_DELAY_MS } else { 0 };
    // SAFETY: the option exists and takes any number; the allocator reads it each time that it frees.
    unsafe { mi_option_set(PURGE_DELAY, delay_ms) };
    #[cfg(target_os = "linux")]
    // SAFETY: only numbers are handed over. If the system does not know it, nothing changes.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!keep), 0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: the option exists.
        let delay_ms = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        // Another version of mimalloc may number its options otherwise.
        assert_eq!(delay_ms(), USUAL_PURGE_DELAY_MS);
        keep_freed(false);
        assert_eq!(delay_ms(), 0);
        keep_freed(true);
        assert_eq!(delay_ms(), USUAL_PURGE_DELAY_MS);
    }
}
