//! The wasm engine: its settings, the epoch ticker, and the cache of compiled components.
//!
//! A component is compiled once, however many modules use it and however often the process starts: the machine code is
//! kept as `.cwasm` under the component's hash and the engine's own settings, and mapped from there.

use std::{
    collections::HashMap,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use nexum_host_ifaces::Hash;
use sha2::{Digest as _, Sha256};
use wasmtime::{Config, Engine, component::Component};

/// The epoch is the wall-clock backstop behind fuel; a tenth of a second is precise enough for deadlines of seconds and
/// costs ten wake-ups a second.
pub const EPOCH_TICK: Duration = Duration::from_millis(100);
/// A guest gives its thread back after this much fuel, about 50 µs, so that a long handler never starves the others.
pub const FUEL_YIELD: u64 = 100_000;
/// Memory maps one instance takes on this allocator: five of its linear memory, two of its stack. A component with
/// several memories takes more.
const MAPS_PER_INSTANCE: usize = 7;
/// Memory maps of everything else: libraries, threads, heaps, the database, machine code.
const MAPS_OF_THE_ENGINE: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cache directory {path}: {error}")]
    Cache { path: PathBuf, error: std::io::Error },
    #[error("wasm engine: {0}")]
    Wasm(String),
    #[error("component {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("component {path} has sha256:{found}, but the manifest names sha256:{expected}; it is not loaded")]
    Mismatch { path: PathBuf, found: String, expected: String },
    #[error("component {path} does not compile: {error}")]
    Compile { path: PathBuf, error: String },
}

type Slot = Arc<OnceLock<Component>>;

/// The process's one wasm engine with its compiled components. Cheap to clone.
#[derive(Clone)]
pub struct WasmEngine {
    engine: Engine,
    cache_dir: PathBuf,
    compiled: Arc<Mutex<HashMap<Hash, Slot>>>,
    /// Held while compiling: one compilation uses every core already, and whoever waited finds its work in the cache.
    compiling: Arc<Mutex<()>>,
}

impl WasmEngine {
    /// `cache_dir` must be writable by this engine alone: machine code found there is run.
    pub fn new(cache_dir: &Path) -> Result<Self, EngineError> {
        let engine = Self::without_wall_clock(cache_dir)?;
        start_ticker(&engine.engine);
        Ok(engine)
    }

    /// An engine whose epochs stand still, so that fuel alone bounds a guest that never waits: for simulations, where
    /// nothing may depend on the machine's clock.
    pub fn without_wall_clock(cache_dir: &Path) -> Result<Self, EngineError> {
        let mut config = Config::new();
        // Components with the new async ABI are not hosted; support for them doubles the cost of every call.
        config.concurrency_support(false);
        config.consume_fuel(true);
        config.epoch_interruption(true);
        config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
        let engine = Engine::new(&config).map_err(|error| EngineError::Wasm(format!("{error:#}")))?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache_dir = cache_dir.join(format!("wasmtime-{:016x}", hasher.finish()));
        fs::create_dir_all(&cache_dir)
            .and_then(|()| restrict(&cache_dir))
            .map_err(|error| EngineError::Cache { path: cache_dir.clone(), error })?;
        Ok(Self { engine, cache_dir, compiled: Arc::default(), compiling: Arc::default() })
    }

    pub fn wasm(&self) -> &Engine {
        &self.engine
    }

    /// The compiled component of the file at `path`, whose bytes must have the hash `expected`. Blocks: compiling takes
    /// from milliseconds to seconds.
    pub fn component(&self, path: &Path, expected: Hash) -> Result<Component, EngineError> {
        let slot = {
            let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
            compiled.entry(expected).or_default().clone()
        };
        // The file is verified for every module that names it, even when the machine code is there already.
        let read = |error| EngineError::Read { path: path.to_owned(), error };
        let mut hasher = Sha256::new();
        std::io::copy(&mut fs::File::open(path).map_err(read)?, &mut hasher).map_err(read)?;
        verify(path, hasher, expected)?;
        if let Some(component) = slot.get() {
            return Ok(component.clone());
        }
        let component = match self.cached(expected) {
            Some(component) => component,
            None => self.compile(path, expected)?,
        };
        Ok(slot.get_or_init(|| component).clone())
    }

    /// The compiled component of this hash, if an engine of this version and these settings compiled it before.
    pub fn kept(&self, hash: Hash) -> Option<Component> {
        self.cached(hash)
    }

    fn cache_path(&self, hash: Hash) -> PathBuf {
        self.cache_dir.join(format!("{}.cwasm", hex::encode(hash.0)))
    }

    fn cached(&self, hash: Hash) -> Option<Component> {
        let path = self.cache_path(hash);
        if !path.exists() {
            return None;
        }
        #[allow(
            unsafe_code,
            reason = "the file comes from `compile` below, in a directory that only this engine writes"
        )]
        let opened = unsafe { Component::deserialize_file(&self.engine, &path) };
        opened
            .inspect_err(|error| tracing::warn!(path = %path.display(), "cached machine code not used: {error:#}"))
            .ok()
    }

    /// Compiles and caches.
    fn compile(&self, path: &Path, hash: Hash) -> Result<Component, EngineError> {
        let _turn = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = self.cached(hash) {
            return Ok(component);
        }
        let wrong =
            |error: wasmtime::Error| EngineError::Compile { path: path.to_owned(), error: format!("{error:#}") };
        let bytes = fs::read(path).map_err(|error| EngineError::Read { path: path.to_owned(), error })?;
        verify(path, Sha256::new_with_prefix(&bytes), hash)?;
        let code = self.engine.precompile_component(&bytes).map_err(wrong)?;
        let kept = self.cache_path(hash);
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.cache_dir)?;
            file.write_all(&code)?;
            file.as_file().sync_all()?;
            file.persist(&kept)?;
            Ok(())
        };
        write().map_err(|error| EngineError::Cache { path: kept.clone(), error })?;
        match self.cached(hash) {
            Some(component) => Ok(component),
            None => Component::new(&self.engine, &bytes).map_err(wrong),
        }
    }
}

fn verify(path: &Path, content: Sha256, expected: Hash) -> Result<(), EngineError> {
    let found = Hash(content.finalize().into());
    if found == expected {
        return Ok(());
    }
    let hex = |hash: Hash| hex::encode(hash.0);
    Err(EngineError::Mismatch { path: path.to_owned(), found: hex(found), expected: hex(expected) })
}

fn restrict(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// A thread of its own, because a task could be starved by the very guest it should interrupt. It ends with the engine.
fn start_ticker(engine: &Engine) {
    let engine = engine.weak();
    std::thread::spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::park_timeout(EPOCH_TICK);
        }
    });
}

/// How many memory maps a process may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapLimit(pub usize);

impl MapLimit {
    /// The kernel's `vm.max_map_count`; `None` when it cannot be read.
    pub fn of_this_machine() -> Option<Self> {
        fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok().map(Self)
    }

    /// How many instances fit.
    pub fn instances(self) -> usize {
        self.0.saturating_sub(MAPS_OF_THE_ENGINE) / MAPS_PER_INSTANCE
    }

    /// A limit that this many instances fit into.
    pub fn for_instances(count: usize) -> Self {
        Self(MAPS_OF_THE_ENGINE + count * MAPS_PER_INSTANCE)
    }

    /// Why one more instance than `loaded` is refused; `None` when there is room.
    pub fn refusal(self, loaded: usize) -> Option<String> {
        let fit = self.instances();
        (loaded >= fit).then(|| {
            format!(
                "{loaded} modules are loaded and vm.max_map_count = {} has room for {fit}: raise it, such as with \
                 `sysctl -w vm.max_map_count={}`",
                self.0,
                Self::for_instances((loaded + 1) * 2).0
            )
        })
    }
}
