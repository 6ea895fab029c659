//! What a store is opened with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use nexum_host_ifaces::{blocking::Blocking, clock::Clock, journal::EngineKey};
use rocksdb::statistics::Ticker;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;

/// Block cache by default: with what RocksDB needs for itself, an idle engine stays below 40 MiB.
const BLOCK_CACHE_BYTES: usize = 8 << 20;

/// Memory for unwritten data over all column families. It is only taken when it is needed; at full load it holds about
/// half a second of events, so that flushes are few and large.
const WRITE_BUFFER_BYTES: usize = 96 << 20;

/// Journal entries kept per module. A chain actor keeps 4,096 headers, each worth two units, so that a rewind rarely
/// meets the end of the journal before the end of the headers.
pub const JOURNAL_ENTRIES: u64 = 10_000;

/// What a module's journal may hold, bytes: 10,000 units that replace 100 KiB each, so that only modules that rewrite
/// large values have fewer, and few enough that a hundred such modules fit on a usual disk.
pub const JOURNAL_BYTES: u64 = 1 << 30;

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When it is on the disk: it survives a power failure.
    #[default]
    Sync,
    /// When the operating system has it: it survives the death of the process; a power failure costs the last tenth of
    /// a second.
    Periodic,
}

/// How to open a store. `new` takes what has no default.
#[derive(Clone)]
pub struct Options {
    pub durability: Durability,
    pub block_cache_bytes: usize,
    pub write_buffer_bytes: usize,
    /// Journal entries kept per module; a rewind cannot go back further.
    pub journal_entries: u64,
    /// Bytes of it per module, with the recordings of its units, up to an eighth more.
    pub journal_bytes: u64,
    /// None older than this is kept, but for the newest, up to an eighth more; absent: their number alone counts.
    pub journal_age: Option<Duration>,
    /// Absent: nothing is signed.
    pub receipts: Option<Receipts>,
    /// `Inline`: no thread of its own, everything runs on the actor's. For simulations; durability is then `Sync`.
    pub blocking: Blocking,
    /// Files that belong to the store's past: a backup takes them along, and a restore puts them back.
    pub companions: Vec<Companion>,
    /// What else is the engine's beside the store, where it is or would be: no backup is made there.
    pub reserved: Vec<PathBuf>,
    /// What stands between the store and the disk. For simulations.
    pub disk: Option<Arc<dyn Disk>>,
    /// Counts how often the log is synced, which costs a little with everything that RocksDB does. For tests.
    pub syncs: Option<Syncs>,
    pub clock: Arc<dyn Clock>,
    pub registry: prometheus::Registry,
}

/// Who signs, and how often. A signature takes some 20 µs of processor time, so that one in a thousand units costs less
/// than anything else about a unit.
#[derive(Debug, Clone)]
pub struct Receipts {
    pub key: Arc<EngineKey>,
    /// A receipt after this many units of a module,
    pub every_units: u64,
    /// and with the first unit after this time since the one before.
    pub every: Duration,
}

/// How often the log of one store has been synced. Clones count together.
#[derive(Clone)]
pub struct Syncs(pub(crate) rocksdb::Options);

impl Syncs {
    pub fn new() -> Self {
        let mut counted = rocksdb::Options::default();
        counted.enable_statistics();
        Self(counted)
    }

    pub fn count(&self) -> u64 {
        self.0.get_ticker_count(Ticker::WalFileSynced)
    }
}

impl Default for Syncs {
    fn default() -> Self {
        Self::new()
    }
}

/// A file outside of the database that is only right together with it. It is replaced in one step by who owns it.
#[derive(Debug, Clone)]
pub struct Companion {
    pub file: PathBuf,
    /// What it would hold when it is not there.
    pub absent: &'static [u8],
    /// Whether this is something that it holds; else what is wrong. No other is restored.
    pub check: fn(&[u8]) -> Result<(), String>,
}

impl Options {
    pub fn new(clock: Arc<dyn Clock>, registry: prometheus::Registry) -> Self {
        Self {
            durability: Durability::default(),
            block_cache_bytes: BLOCK_CACHE_BYTES,
            write_buffer_bytes: WRITE_BUFFER_BYTES,
            journal_entries: JOURNAL_ENTRIES,
            journal_bytes: JOURNAL_BYTES,
            journal_age: None,
            receipts: None,
            blocking: Blocking::default(),
            companions: Vec::new(),
            reserved: Vec::new(),
            disk: None,
            syncs: None,
            clock,
            registry,
        }
    }
}
