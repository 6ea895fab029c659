//! Chance: everything random in a simulated process is drawn from its seed.
//!
//! Besides the draws of the simulation itself this takes the place of the operating system's generator, from which the
//! order in hash maps, tokio's fair choices and a guest's random numbers come. It holds for the thread that called
//! `from_now_on`, which is the only one that a simulated engine has.

#![allow(unsafe_code, reason = "the C symbol `getrandom` is defined here in place of the system's")]

use std::cell::Cell;

thread_local! {
    static SYSTEM: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A stream of draws (splitmix64).
#[derive(Debug, Clone)]
pub struct Chance(u64);

fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Chance {
    /// A stream of its own for each purpose, so that a draw more here changes nothing there.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut state = seed;
        for byte in purpose.bytes() {
            state = mix(&mut state) ^ u64::from(byte);
        }
        Self(state)
    }

    pub fn next(&mut self) -> u64 {
        mix(&mut self.0)
    }

    /// From 0 to `end - 1`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Both ends included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True in `percent` of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// True in `n` of ten thousand cases.
    pub fn per_myriad(&mut self, n: u64) -> bool {
        self.below(10_000) < n
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(all.len() as u64)).unwrap_or(0)]
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn hash(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.next().to_be_bytes()));
        bytes
    }
}

/// From now on this thread's system randomness comes from the seed.
pub fn from_now_on(seed: u64) {
    SYSTEM.set(Some(seed ^ 0x005e_ed0f_5eed));
}

/// What Rust's standard library and every crate ask the system with.
///
/// # Safety
/// `buffer` points to `length` writable bytes, as for the system's own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    let Some(mut state) = SYSTEM.try_with(Cell::get).ok().flatten() else {
        // SAFETY: the arguments are passed on as they came.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    };
    // SAFETY: as the caller promises.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for chunk in bytes.chunks_mut(8) {
        let drawn = mix(&mut state).to_le_bytes();
        chunk.copy_from_slice(&drawn[..chunk.len()]);
    }
    SYSTEM.set(Some(state));
    isize::try_from(length).unwrap_or(isize::MAX)
}
