//! Machine code from a component: who makes it, what that may cost, and whose turn it is.
//!
//! Invariant: one component is compiled once at a time, and no more than `AT_ONCE_MAX` are altogether. Who waits for that
//! holds no thread, and nothing that a module needs whose machine code is in the cache. Where the work is done is left to
//! a [`Compile`]: a component is code of a stranger, and may make a compiler work and allocate without end, so that an
//! engine has it done by a process that has limits.

use std::{
    fs::File,
    io::{Read, Write as _},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use nexum_host_ifaces::Hash;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit};
use wasmtime::{Engine, OutOfMemory, component::Component};

use crate::{
    component_size,
    engine::{EngineError, settings},
};

/// Components that are compiled at the same time. Two, so that one that takes all the time there is does not stop every
/// other; each may take the memory that is allowed, so that more would be paid for in memory.
pub(crate) const AT_ONCE_MAX: usize = 2;
/// What a compiler says is shown up to here: its errors quote the component.
const SAID_CHARS_MAX: usize = 1_000;

/// What a component and its compilation may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Size of a component, bytes. A larger one is not read.
    pub max_component_bytes: u64,
    /// Memory of one compilation, and size of the machine code that it makes, bytes.
    pub max_memory_bytes: u64,
    /// How long one compilation may take.
    pub timeout: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            // Room for a component that brings an interpreter, such as one of Python.
            max_component_bytes: 64 << 20,
            max_memory_bytes: 1 << 30,
            timeout: Duration::from_secs(60),
        }
    }
}

/// Why there is no machine code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The component is at fault, or takes more than is allowed: another attempt would end the same way.
    #[error("{0}")]
    Component(String),
    /// The compiler was denied memory.
    #[error("memory ran out")]
    Memory,
    /// What is around is at fault: another attempt may succeed.
    #[error("{0}")]
    Surroundings(String),
}

/// Makes machine code.
pub trait Compile: Send + Sync {
    /// Writes the machine code of the component in the file `component`, which must have the hash `hash`, to the empty
    /// file `code`. Blocks.
    ///
    /// # Errors
    /// See [`Refusal`]. What was written by then is thrown away.
    fn compile(&self, component: File, hash: Hash, code: File) -> Result<(), Refusal>;
}

/// Compiles in this process and without limits: for components that somebody trusts, such as those of tests.
pub struct InProcess(Engine);

impl InProcess {
    pub fn new(engine: &Engine) -> Self {
        Self(engine.clone())
    }
}

impl Compile for InProcess {
    fn compile(&self, component: File, hash: Hash, mut code: File) -> Result<(), Refusal> {
        let made = precompile(&self.0, component, hash, u64::MAX)?;
        code.write_all(&made)
            .map_err(|error| Refusal::Surroundings(format!("its machine code cannot be written: {error}")))
    }
}

/// The machine code of the component that `component` reads, of at most `max_bytes` bytes, which must have the hash `hash`.
/// Works on the calling thread alone, so that its limits are all there is to limit.
///
/// # Errors
/// See [`Refusal`].
pub fn compile_alone(component: impl Read, hash: Hash, max_bytes: u64) -> Result<Vec<u8>, Refusal> {
    let mut config = settings();
    config.parallel_compilation(false);
    let engine = Engine::new(&config).map_err(|error| Refusal::Surroundings(format!("wasm engine: {error:#}")))?;
    precompile(&engine, component, hash, max_bytes)
}

fn precompile(engine: &Engine, component: impl Read, hash: Hash, max_bytes: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let read = component.take(max_bytes).read_to_end(&mut bytes);
    read.map_err(|error| Refusal::Surroundings(format!("its file cannot be read: {error}")))?;
    // Its file was verified before; somebody may have written to it since. One that is cut off has another hash, too.
    if Hash(Sha256::digest(&bytes).into()) != hash {
        return Err(Refusal::Surroundings("its file was changed while it was read".to_owned()));
    }
    component_size::check(&bytes).map_err(Refusal::Component)?;
    engine.precompile_component(&bytes).map_err(|error| match error.is::<OutOfMemory>() {
        true => Refusal::Memory,
        false => Refusal::Component(format!("{error:#}")),
    })
}

/// What is known of one component.
#[derive(Default)]
pub(crate) struct Slot {
    component: OnceLock<Component>,
    /// Why it cannot be compiled, once that was tried.
    refused: Mutex<Option<String>>,
    compiling: Arc<tokio::sync::Mutex<()>>,
}

/// The right to compile one component, for as long as it is held.
pub(crate) struct Turn {
    _alone: OwnedMutexGuard<()>,
    /// Absent when there is nothing left to do.
    _place: Option<OwnedSemaphorePermit>,
}

impl Slot {
    /// The component, if it is open already.
    pub(crate) fn component(&self) -> Option<Component> {
        self.component.get().cloned()
    }

    /// The component that is open from now on: the first that was.
    pub(crate) fn fill(&self, component: Component) -> Component {
        self.component.get_or_init(|| component).clone()
    }

    /// Why it cannot be compiled, if that is known.
    pub(crate) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn refuse(&self, reason: Option<String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Waits until nobody else compiles this component, and there is a place to do it if that is still needed.
    pub(crate) async fn turn(&self, places: &Arc<tokio::sync::Semaphore>) -> Turn {
        let alone = self.compiling.clone().lock_owned().await;
        let is_known = self.component.get().is_some() || self.refused().is_some();
        // Nobody closes the semaphore.
        let place = if is_known { None } else { places.clone().acquire_owned().await.ok() };
        Turn { _alone: alone, _place: place }
    }
}

/// What a refusal says, on one line that can be shown anywhere, and whether it stays.
pub(crate) fn said(refusal: &Refusal) -> (String, bool) {
    let text = refusal.to_string();
    let mut said = String::new();
    for c in text.trim().chars().take(SAID_CHARS_MAX) {
        match c {
            '\n' => said.push(' '),
            // They need no escape where there is no quotation.
            '"' | '\'' | '\\' => said.push(c),
            _ => said.extend(c.escape_debug()),
        }
    }
    if text.trim().chars().nth(SAID_CHARS_MAX).is_some() {
        said.push('…');
    }
    (said, !matches!(refusal, Refusal::Surroundings(_)))
}

/// The error of a component whose compilation was tried before.
pub(crate) fn refused_before(path: &std::path::Path, reason: &str) -> EngineError {
    let error = format!(
        "{reason}; that was found before and it was not tried again: upgrade the module or restart the engine to try it \
         once more"
    );
    EngineError::Compile { path: path.to_owned(), error }
}
