//! Time as the host tells it. An event that is tried again may see another time than before: decide by the event's
//! own timestamp wherever one is there.

/// Milliseconds since the Unix epoch, UTC.
pub fn now_ms() -> u64 {
    crate::raw::clock::now_ms()
}

/// Nanoseconds since an arbitrary point. Never goes back; comparable only within one instance.
pub fn monotonic_ns() -> u64 {
    crate::raw::clock::monotonic_ns()
}
