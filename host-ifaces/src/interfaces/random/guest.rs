//! What a guest calls of `random`: secure randomness from the operating system's generator.

use rand::RngCore;

use crate::{bindings::nexum::host::random, call::Call};

/// One call may ask for this many bytes; keys and nonces need less than 100.
pub const FILL_BYTES_MAX: u32 = 64 * 1024;

impl random::Host for Call {
    fn fill(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
        self.count_or_trap("random")?;
        if len > FILL_BYTES_MAX {
            return Err(wasmtime::Error::msg(format!(
                "random.fill: {len} bytes asked, at most {FILL_BYTES_MAX} per call"
            )));
        }
        self.give(len as usize);
        let draw = || {
            let mut bytes = vec![0; len as usize];
            rand::rng().fill_bytes(&mut bytes);
            bytes
        };
        Ok(self.random(len as usize, draw))
    }
}
