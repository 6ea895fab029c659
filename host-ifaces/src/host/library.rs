//! The libraries of a Store: their functions, and whose code runs.

use std::sync::Arc;

use wasmtime::component::{Func, Val};

use super::HostState;
use crate::{link::weight, types::Config};

impl HostState {
    /// Code of the library at this place runs from now on. Answers whose did, and the library's configuration.
    pub(crate) fn start_library(&mut self, at: usize) -> (Option<usize>, Config) {
        let caller = self.call.enter(Some(at));
        let config = self.call.library().map(|library| (*library.config).clone());
        (caller, config.unwrap_or_default())
    }

    /// The library whose start was begun last has these functions.
    pub(crate) fn library_started(&mut self, caller: Option<usize>, functions: Vec<Func>) {
        self.libraries.push(functions);
        self.call.enter(caller);
    }

    /// Begins a call of a function of a library, which counts as one of the host. Answers the function, and whose code runs
    /// again when it has answered.
    pub(crate) fn call_library(
        &mut self,
        library: usize,
        function: usize,
        arguments: &[Val],
    ) -> wasmtime::Result<(Func, Option<usize>)> {
        self.call.take(arguments.iter().map(weight).sum());
        self.call.count_or_trap("library")?;
        let found = self.libraries.get(library).and_then(|functions| functions.get(function)).copied();
        let function = found.ok_or_else(|| wasmtime::Error::msg("the library has not been started"))?;
        Ok((function, self.call.enter(Some(library))))
    }

    pub(crate) fn library_answered(&mut self, caller: Option<usize>, results: &[Val]) {
        self.call.give(results.iter().map(weight).sum());
        self.call.enter(caller);
    }

    /// The library whose code runs or, after a trap, ran.
    pub fn library(&self) -> Option<Arc<str>> {
        self.call.library().map(|library| library.name().clone())
    }
}
