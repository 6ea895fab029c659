//! How the C library's allocator gives memory back. Owns its settings; they are made once, before the first thread.
//!
//! An engine allocates in bursts: a scrape of a thousand modules takes tens of megabytes for a moment. Left alone, glibc
//! keeps such a burst for ever, and once for each thread that had one. See `docs/adr`.

/// Memory areas that threads share. Two keep the worker threads apart; one per thread keeps freed memory in each.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: i32 = 2;
/// Freed memory at the end of an area that is kept, and the size from which a block is a mapping of its own, bytes. To
/// set them also stops glibc from raising both to many megabytes.
#[cfg(target_env = "gnu")]
const KEPT_BYTES_MAX: i32 = 128 * 1024;

/// Makes the settings. To be called before any thread is started; without effect on other C libraries.
pub fn tune() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS_MAX),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX),
        (libc::M_MMAP_THRESHOLD, KEPT_BYTES_MAX),
    ] {
        #[allow(unsafe_code, reason = "mallopt takes two integers and refuses what it does not know")]
        // A setting that is refused leaves the default, which works too.
        let _accepted = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives freed memory back that lies between what is in use: nothing but this does. Takes milliseconds, in which whoever
/// allocates waits; without effect on other C libraries.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        #[allow(unsafe_code, reason = "malloc_trim takes an integer, and may be called at any time")]
        // Whether there was something to give back changes nothing.
        let _gave = unsafe { libc::malloc_trim(0) };
    }
}
