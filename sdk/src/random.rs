//! Cryptographically secure randomness from the host.

use crate::bindings::nexum::host::random::fill;

/// `len` random bytes. More than 64 KiB in one call traps.
pub fn bytes(len: u32) -> Vec<u8> {
    fill(len)
}

/// A uniformly distributed number.
pub fn u64() -> u64 {
    fill(8).into_iter().fold(0, |number, byte| number << 8 | u64::from(byte))
}
