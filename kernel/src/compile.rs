//! Machine code from a component: who makes it, what that may cost, and whose turn it is.
//!
//! Invariant: one component is compiled once at a time, and no more than `AT_ONCE_MAX` are altogether. Who waits for that
//! holds no thread, and nothing that a module needs whose machine code is in the cache. Where the work is done is left to
//! a [`Compile`]: a component is code of a stranger, and may make a compiler work and allocate without end, so that an
//! engine has it done by a process that has limits.

use std::{
    fs::File,
    io::{Read, Write as _},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::Duration,
};

use nexum_host_ifaces::{Hash, sync::lock};
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
    /// Processor time of one compilation.
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
    /// file `code`. Blocks. `wanted` says whether anybody still waits for it: where nobody does it may be given up, as what is
    /// around is at fault for.
    ///
    /// # Errors
    /// See [`Refusal`]. What was written by then is thrown away.
    fn compile(&self, component: File, hash: Hash, code: File, wanted: &dyn Fn() -> bool) -> Result<(), Refusal>;
}

/// Compiles in this process and without limits: for components that somebody trusts, such as those of tests.
pub struct InProcess(Engine);

impl InProcess {
    pub fn new(engine: &Engine) -> Self {
        Self(engine.clone())
    }
}

impl Compile for InProcess {
    fn compile(&self, component: File, hash: Hash, mut code: File, _: &dyn Fn() -> bool) -> Result<(), Refusal> {
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
    tried: Mutex<Tried>,
    compiling: Arc<tokio::sync::Mutex<()>>,
}

/// What came of attempts to compile a component.
#[derive(Default)]
struct Tried {
    /// Why it cannot be compiled, until somebody wants it to be tried again.
    refused: Option<String>,
    /// How many attempts failed because of what was around, and why the last of them did.
    failures: u64,
    failure: String,
}

/// What leaves nothing to do.
pub(crate) enum Known {
    Component(Component),
    /// It cannot be compiled.
    Refused(String),
    /// It was tried while the caller waited, and what is around was at fault.
    Failed(String),
}

/// The right to compile one component, for as long as it is held.
pub(crate) struct Turn {
    pub(crate) known: Option<Known>,
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
        self.tried().refused.clone()
    }

    pub(crate) fn refuse(&self, reason: Option<String>) {
        self.tried().refused = reason;
    }

    /// An attempt failed because of what is around: those who waited for it are not to make the same one after it, each in
    /// its turn.
    pub(crate) fn fail(&self, reason: String) {
        let mut tried = self.tried();
        tried.failures += 1;
        tried.failure = reason;
    }

    fn tried(&self) -> MutexGuard<'_, Tried> {
        lock(&self.tried)
    }

    /// What is known to somebody who knew of so many failures before.
    fn known(&self, failures: u64) -> Option<Known> {
        if let Some(component) = self.component() {
            return Some(Known::Component(component));
        }
        let tried = self.tried();
        match &tried.refused {
            Some(reason) => Some(Known::Refused(reason.clone())),
            None => (tried.failures != failures).then(|| Known::Failed(tried.failure.clone())),
        }
    }

    /// Waits until nobody else compiles this component, and there is a place to do it if that is still needed.
    pub(crate) async fn turn(&self, places: &Arc<tokio::sync::Semaphore>) -> Turn {
        let failures = self.tried().failures;
        let alone = self.compiling.clone().lock_owned().await;
        let known = self.known(failures);
        // Nobody closes the semaphore.
        let place = if known.is_some() { None } else { places.clone().acquire_owned().await.ok() };
        Turn { known, _alone: alone, _place: place }
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
        "{reason}; that was found before and it was not tried again: `nexumctl module restart` or `module upgrade` tries it \
         once more"
    );
    EngineError::Compile { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{executor::block_on, poll};
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn who_waited_while_an_attempt_failed_does_not_make_the_same_one_after_it() {
        let (slot, places) = (Slot::default(), Arc::new(Semaphore::new(1)));
        block_on(async {
            let first = slot.turn(&places).await;
            assert!(first.known.is_none(), "somebody has to try it");
            let mut second = pin!(slot.turn(&places));
            assert!(poll!(second.as_mut()).is_pending());
            slot.fail("the disk is full".to_owned());
            drop(first);
            let second = second.await;
            assert!(matches!(&second.known, Some(Known::Failed(reason)) if reason == "the disk is full"));
            assert_eq!(places.available_permits(), 1, "there is nothing to do for it");
            drop(second);
            assert!(slot.turn(&places).await.known.is_none(), "who comes later may have more luck");
        });
    }

    #[test]
    fn who_has_no_place_compiles_nothing_when_somebody_wants_it_tried_again_meanwhile() {
        let (slot, places) = (Slot::default(), Arc::new(Semaphore::new(1)));
        slot.refuse(Some("too much".to_owned()));
        let turn = block_on(slot.turn(&places));
        slot.refuse(None);
        assert!(matches!(&turn.known, Some(Known::Refused(reason)) if reason == "too much"));
        drop(turn);
        let again = block_on(slot.turn(&places));
        assert!(again.known.is_none() && places.available_permits() == 0);
    }
}
