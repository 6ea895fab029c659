//! The wasm engine: its settings, the epoch ticker, and the cache of compiled components.
//!
//! A component is compiled once, however many modules use it and however often the process starts: the machine code is
//! kept as `.cwasm` under the component's hash and the engine's own settings, and mapped from there. It appears there
//! whole or not at all, and with a checksum over itself and the hash: machine code that a disk has damaged, or that lies
//! under the name of another component, is not run but made anew. So is what this user alone could not have written.

use std::{
    collections::HashMap,
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use nexum_host_ifaces::{
    Hash,
    limits::{IMPORTED_ITEMS_MAX, IMPORTED_RESOURCES_MAX},
    link,
    sync::lock,
};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::Semaphore;
use wasmtime::{Config, Engine, component::Component};

use crate::{
    compile::{AT_ONCE_MAX, Compile, InProcess, Known, Slot, Turn, refused_before, said},
    component_size::INSTANCE_BYTES_MAX,
    load,
};

/// The epoch is the wall-clock backstop behind fuel: a guest yields at each of its ticks, and ends past its deadline. A
/// tenth of a second is precise enough for deadlines of seconds and costs ten wake-ups a second.
pub const EPOCH_TICK: Duration = Duration::from_millis(100);
/// A guest gives its thread back after this much fuel, about 50 µs, so that a long handler never starves the others.
pub const FUEL_YIELD: u64 = 100_000;
/// Memory maps one instance takes on this allocator: five of its linear memory, two of its stack. A component with
/// several memories takes more.
const MAPS_PER_INSTANCE: usize = 7;
/// Memory maps of everything else: libraries, threads, heaps, the database, machine code.
const MAPS_OF_THE_ENGINE: usize = 1_000;
/// What the name of a file in the cache begins with that is not whole yet.
const DRAFT: &str = ".draft-";
/// A file of the cache ends with the CRC-32 of the component's hash and all before, little-endian. It follows the machine
/// code, which says itself where it ends.
const CHECKSUM_BYTES: usize = 4;
/// Read at once while a checksum is made, bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// The bits of a file's mode that let others than its owner write.
const OTHERS_WRITE: u32 = 0o022;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cache directory {path}: {error}")]
    Cache { path: PathBuf, error: std::io::Error },
    #[error("wasm engine: {0}")]
    Wasm(String),
    #[error("component {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("component {path} is not a file: a bundle has its component in module.wasm")]
    NotAFile { path: PathBuf },
    #[error("component {path} has {bytes} bytes, more than [engine] max_component_bytes = {max}; it is not read")]
    TooLarge { path: PathBuf, bytes: u64, max: u64 },
    #[error("component {path} has sha256:{found}, but the manifest names sha256:{expected}; it is not loaded")]
    Mismatch { path: PathBuf, found: String, expected: String },
    #[error("component {path} does not compile: {error}")]
    Compile { path: PathBuf, error: String },
    #[error("component {path} cannot be compiled now: {error}")]
    NotNow { path: PathBuf, error: String },
}

impl EngineError {
    /// Whether what is around is at fault, and neither the component nor its file: another attempt may succeed.
    pub fn is_passing(&self) -> bool {
        use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound, PermissionDenied};
        match self {
            Self::Cache { .. } | Self::NotNow { .. } => true,
            Self::Read { error, .. } => {
                !matches!(error.kind(), NotFound | PermissionDenied | NotADirectory | InvalidFilename)
            }
            Self::Wasm(_)
            | Self::NotAFile { .. }
            | Self::TooLarge { .. }
            | Self::Mismatch { .. }
            | Self::Compile { .. } => false,
        }
    }
}

/// The process's one wasm engine with its compiled components. Cheap to clone.
#[derive(Clone)]
pub struct WasmEngine {
    engine: Engine,
    cache_dir: PathBuf,
    compiler: Arc<dyn Compile>,
    max_component_bytes: u64,
    /// Of components that were verified.
    slots: Arc<Mutex<HashMap<Hash, Arc<Slot>>>>,
    /// For those who compile.
    places: Arc<Semaphore>,
}

/// What every wasm engine here is made with: machine code is used only where it was made with the same.
pub(crate) fn settings() -> Config {
    let mut config = Config::new();
    // Components with the new async ABI are not hosted; support for them doubles the cost of every call.
    config.concurrency_support(false);
    config.consume_fuel(true);
    config.epoch_interruption(true);
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
    config
}

impl WasmEngine {
    /// `cache_dir` must be writable by this engine alone: machine code found there is run. Components are compiled in this
    /// process, and may take what they want; see [`Self::compiled_by`].
    pub fn new(cache_dir: &Path) -> Result<Self, EngineError> {
        let engine = Self::without_wall_clock(cache_dir)?;
        start_ticker(&engine.engine);
        Ok(engine)
    }

    /// An engine whose epochs stand still, so that fuel alone bounds a guest that never waits: for simulations, where
    /// nothing may depend on the machine's clock.
    pub fn without_wall_clock(cache_dir: &Path) -> Result<Self, EngineError> {
        let engine = Engine::new(&settings()).map_err(|error| EngineError::Wasm(format!("{error:#}")))?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        // What was compiled under other bounds is looked at again.
        (INSTANCE_BYTES_MAX, IMPORTED_ITEMS_MAX, IMPORTED_RESOURCES_MAX).hash(&mut hasher);
        let cache_dir = cache_dir.join(format!("wasmtime-{:016x}", hasher.finish()));
        make_private(&cache_dir).map_err(|error| EngineError::Cache { path: cache_dir.clone(), error })?;
        Ok(Self {
            compiler: Arc::new(InProcess::new(&engine)),
            engine,
            cache_dir,
            max_component_bytes: u64::MAX,
            slots: Arc::default(),
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        })
    }

    /// The same engine, for components of strangers: `compiler` compiles them, and one of more than `max_component_bytes`
    /// is not read.
    pub fn compiled_by(mut self, compiler: Arc<dyn Compile>, max_component_bytes: u64) -> Self {
        (self.compiler, self.max_component_bytes) = (compiler, max_component_bytes);
        self
    }

    /// The same engine, with what an engine before was killed over removed: for the one to which the cache belongs.
    pub fn without_drafts(self) -> Self {
        remove_drafts(&self.cache_dir);
        self
    }

    pub fn wasm(&self) -> &Engine {
        &self.engine
    }

    /// The compiled component of the file at `path`, whose bytes must have the hash `expected`. Blocks: compiling takes
    /// from milliseconds to seconds. Waits for no turn: for whoever loads one component.
    pub fn component(&self, path: &Path, expected: Hash) -> Result<Component, EngineError> {
        match self.ready(path, expected)? {
            Some(component) => Ok(component),
            None => self.compile(path, expected, &|| true),
        }
    }

    /// The compiled component of this hash, if an engine of this version and these settings compiled it before.
    pub fn kept(&self, hash: Hash) -> Option<Component> {
        self.cached(hash)
    }

    /// Lets a component that could not be compiled be tried again.
    pub fn try_again(&self, hash: Hash) {
        if let Some(slot) = lock(&self.slots).get(&hash) {
            slot.refuse(None);
        }
    }

    /// The component of the file at `path`, if its machine code is there already. Blocks for as long as reading takes.
    pub(crate) fn ready(&self, path: &Path, expected: Hash) -> Result<Option<Component>, EngineError> {
        // The file is verified for every module that names it, even when the machine code is there already.
        let read = |error| EngineError::Read { path: path.to_owned(), error };
        let mut hasher = Sha256::new();
        io::copy(&mut self.open(path)?.take(self.max_component_bytes), &mut hasher).map_err(read)?;
        verify(path, hasher, expected)?;
        let slot = self.slot(expected);
        if let Some(component) = slot.component() {
            return Ok(Some(component));
        }
        if let Some(reason) = slot.refused() {
            return Err(refused_before(path, &reason));
        }
        Ok(self.cached(expected).map(|component| slot.fill(component)))
    }

    /// Waits, without holding a thread, until the caller may `compile_in_turn`.
    pub(crate) async fn turn(&self, hash: Hash) -> Turn {
        self.slot(hash).turn(&self.places).await
    }

    /// Compiles and caches, unless somebody has done so meanwhile. Blocks, until it is done or not `wanted` any more.
    pub(crate) fn compile_in_turn(
        &self,
        turn: Turn,
        path: &Path,
        hash: Hash,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Component, EngineError> {
        let compiled = match &turn.known {
            Some(Known::Component(component)) => Ok(component.clone()),
            Some(Known::Refused(reason)) => Err(refused_before(path, reason)),
            Some(Known::Failed(error)) => Err(EngineError::NotNow { path: path.to_owned(), error: error.clone() }),
            None => self.compile(path, hash, wanted),
        };
        drop(turn);
        compiled
    }

    fn slot(&self, hash: Hash) -> Arc<Slot> {
        lock(&self.slots).entry(hash).or_default().clone()
    }

    fn cache_path(&self, hash: Hash) -> PathBuf {
        self.cache_dir.join(format!("{}.cwasm", hex::encode(hash.0)))
    }

    /// The file of a component, found to be one and not too large.
    fn open(&self, path: &Path) -> Result<File, EngineError> {
        let read = |error| EngineError::Read { path: path.to_owned(), error };
        let file = load::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(EngineError::NotAFile { path: path.to_owned() });
        }
        let (bytes, max) = (metadata.len(), self.max_component_bytes);
        if bytes > max {
            return Err(EngineError::TooLarge { path: path.to_owned(), bytes, max });
        }
        Ok(file)
    }

    fn cached(&self, hash: Hash) -> Option<Component> {
        let path = self.cache_path(hash);
        let opened = match load::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
            Ok(file) => check_whole(&file, hash).map_err(|error| error.to_string()).and_then(|()| self.map(&file)),
        };
        opened
            .inspect_err(|error| {
                tracing::warn!(path = %path.display(), "cached machine code is not used but made anew: {error}");
            })
            .ok()
    }

    /// Maps machine code that is whole: that very file, whatever has its name by now.
    fn map(&self, file: &File) -> Result<Component, String> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        #[allow(
            unsafe_code,
            reason = "the file comes from `make` below, only this user could have written to it, and it is as it was"
        )]
        let opened = unsafe { Component::deserialize_file(&self.engine, path) };
        opened.map_err(|error| format!("{error:#}"))
    }

    fn compile(&self, path: &Path, hash: Hash, wanted: &dyn Fn() -> bool) -> Result<Component, EngineError> {
        let slot = self.slot(hash);
        if let Some(component) = slot.component() {
            return Ok(component);
        }
        if let Some(reason) = slot.refused() {
            return Err(refused_before(path, &reason));
        }
        let made = self.make(path, hash, wanted);
        match &made {
            Err(EngineError::Compile { error, .. }) => slot.refuse(Some(error.clone())),
            // Given up: whoever waits for the same component begins anew.
            Err(EngineError::NotNow { .. }) if !wanted() => {}
            Err(EngineError::NotNow { error, .. }) => slot.fail(error.clone()),
            Err(error @ EngineError::Cache { .. }) => slot.fail(error.to_string()),
            // They are about this one file of perhaps several with the component.
            Ok(_) | Err(_) => {}
        }
        made.map(|component| slot.fill(component))
    }

    /// Compiles and caches.
    fn make(&self, path: &Path, hash: Hash, wanted: &dyn Fn() -> bool) -> Result<Component, EngineError> {
        let unkept = |error| EngineError::Cache { path: self.cache_dir.clone(), error };
        let component = self.open(path)?;
        let draft = tempfile::Builder::new().prefix(DRAFT).tempfile_in(&self.cache_dir).map_err(unkept)?;
        let code = draft.as_file().try_clone().map_err(unkept)?;
        self.compiler.compile(component, hash, code, wanted).map_err(|refusal| {
            let (error, stays) = said(&refusal);
            let path = path.to_owned();
            if stays { EngineError::Compile { path, error } } else { EngineError::NotNow { path, error } }
        })?;
        let sealed = seal(draft, hash).map_err(unkept)?;
        // It is opened before it is kept: what cannot be opened is never found in the cache. It was made a moment ago, so that
        // the component is not to blame.
        let opened = self.map(sealed.as_file());
        let component = opened.map_err(|error| EngineError::NotNow { path: path.to_owned(), error })?;
        // What cannot be linked is not kept either: its types may take much more memory than it has bytes.
        link::check_imports(&self.engine, &component)
            .map_err(|error| EngineError::Compile { path: path.to_owned(), error: error.to_string() })?;
        if let Err(error) = sealed.persist(self.cache_path(hash)) {
            tracing::warn!(path = %self.cache_dir.display(), "machine code is not kept: {}", error.error);
        }
        Ok(component)
    }
}

/// Ends machine code with its checksum, and has it on the disk.
fn seal(mut draft: NamedTempFile, hash: Hash) -> io::Result<NamedTempFile> {
    let sum = checksum(hash, draft.reopen()?)?;
    draft.seek(SeekFrom::End(0))?;
    draft.write_all(&sum.to_le_bytes())?;
    draft.as_file().sync_all()?;
    Ok(draft)
}

/// Whether a file of the cache is what `seal` made of it for the component with this hash.
fn check_whole(mut file: &File, hash: Hash) -> io::Result<()> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    let metadata = file.metadata()?;
    let is_mine = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & OTHERS_WRITE == 0;
    if !metadata.is_file() || !is_mine {
        let message = "it is not a file that the user who runs this alone can write to";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let code = metadata.len().checked_sub(CHECKSUM_BYTES as u64).ok_or_else(damaged)?;
    let found = checksum(hash, file.take(code))?;
    let mut sum = [0; CHECKSUM_BYTES];
    file.read_exact(&mut sum)?;
    if u32::from_le_bytes(sum) == found { Ok(()) } else { Err(damaged()) }
}

fn checksum(hash: Hash, content: impl Read) -> io::Result<u32> {
    let (mut content, mut hasher) = (BufReader::with_capacity(PIECE_BYTES, content), crc32fast::Hasher::new());
    hasher.update(&hash.0);
    loop {
        let piece = content.fill_buf()?;
        if piece.is_empty() {
            return Ok(hasher.finalize());
        }
        hasher.update(piece);
        let read = piece.len();
        content.consume(read);
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

/// Makes a directory that this user alone can write to. One that belongs to somebody else is refused: its owner could put
/// any machine code there.
fn make_private(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let (found, me) = (fs::symlink_metadata(dir)?, rustix::process::geteuid().as_raw());
    if !found.is_dir() || found.uid() != me {
        let owner = found.uid();
        let message = format!(
            "machine code in it is run, so that it must be a directory, not a link, of the user who runs this: it belongs \
             to user {owner}, and this is user {me}"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// Removes files that were not finished. What cannot be removed takes room and nothing else.
fn remove_drafts(dir: &Path) {
    // Whoever looks for machine code there next says why it cannot be read.
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(DRAFT)) {
        let _ = fs::remove_file(entry.path());
    }
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
