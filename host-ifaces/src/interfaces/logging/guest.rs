//! What a guest calls of `logging`.

use crate::{
    bindings::nexum::host::logging::{self, Level},
    call::Call,
};

impl logging::Host for Call {
    fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        self.count_or_trap("logging")?;
        self.take(message.len());
        self.log_line(level, message);
        Ok(())
    }
}
