//! What a guest calls of `clock`.

use crate::{bindings::nexum::host::clock, call::Call, clock::Clock};

impl clock::Host for Call {
    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        self.count_or_trap("clock")?;
        Ok(self.time(Clock::now_ms))
    }

    fn monotonic_ns(&mut self) -> wasmtime::Result<u64> {
        self.count_or_trap("clock")?;
        Ok(self.time(Clock::monotonic_ns))
    }
}
