//! The store: the open database, who is in it, and every read.
//!
//! Invariant: reads see what was acknowledged and nothing else. Writes are left to the committer (`committer`) and to
//! the two operations that replace a module's past (`rewind`, `purge`).

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    blocking::Blocking,
    clock::Clock,
    store::{
        DeadLetter, Entries, JournalRoom, ModuleHealth, ModuleId, ModuleInfo, ModuleRecord, ReplayItem, StateView,
        StoreError, StoreStatus,
    },
};
use rocksdb::{ColumnFamily, DB, IteratorMode, ReadOptions, WriteBatch, WriteOptions};

use crate::{
    codec,
    committer::Shared,
    disk::{Disk, Written},
    keys,
    metrics::{Metrics, Window},
    open::{self, Companion, Durability, OpenError, Options},
    receipts::Receipts,
};

/// How long a new store actor waits for the writes of the one before it.
const LEASE_WAIT: Duration = Duration::from_secs(30);

/// A key and its value, as RocksDB hands them out.
pub(crate) type Found = Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>;

/// The one database of an engine. Outlives the store actor, which may die and be started again on it.
pub struct Store {
    pub(crate) db: DB,
    pub(crate) directory: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) journal_entries: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) journal_age: Option<Duration>,
    pub(crate) receipts: Option<Receipts>,
    pub(crate) companions: Vec<Companion>,
    pub(crate) blocking: Blocking,
    pub(crate) disk: Option<Arc<dyn Disk>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) totals: Totals,
    /// Group writes that failed since one succeeded.
    pub(crate) failing: AtomicU32,
    /// Since when there is space on a disk that was full, by the monotonic clock; 0 when it is full, or never was.
    pub(crate) freed_ns: AtomicU64,
    /// Since when no group was written, by the monotonic clock, and why, once one was refused.
    pub(crate) refusing: Mutex<Option<(u64, String)>>,
    index: Mutex<Index>,
    /// The committer that writes, to be stopped by the one that follows it.
    pub(crate) writer: Mutex<Weak<Shared>>,
    leased: Mutex<bool>,
    lease_freed: Condvar,
}

/// The modules of the store, in memory.
#[derive(Default)]
pub(crate) struct Index {
    pub by_name: HashMap<Arc<str>, ModuleId>,
    pub modules: HashMap<ModuleId, Known>,
    pub next_id: u32,
}

pub(crate) struct Known {
    pub name: Arc<str>,
    /// Sequence numbers of its dead letters, and how many bytes each takes.
    pub letters: BTreeMap<u64, u64>,
}

#[derive(Default)]
pub(crate) struct Totals {
    pub units: AtomicU64,
    pub commits: AtomicU64,
    pub window: Mutex<Window>,
}

/// The right to write. Held by the committer thread and by every rewind and purge that an actor started, so that an
/// actor that follows on it never meets a write of the one before.
pub(crate) struct Lease(Arc<Store>);

impl Drop for Lease {
    fn drop(&mut self) {
        *lock(&self.0.leased) = false;
        self.0.lease_freed.notify_all();
    }
}

/// A panic elsewhere does not make these values wrong: each is replaced in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the store in `directory` for this engine alone, making it when there is none. Blocks on the disk.
    pub fn open(directory: impl AsRef<Path>, options: &Options) -> Result<Arc<Self>, OpenError> {
        let directory = directory.as_ref();
        Self::with(open::writable(directory, options)?, directory, options)
    }

    /// Opens an existing store for reading, also while an engine runs on it: what the engine commits afterwards is not
    /// seen. Blocks on the disk.
    pub fn open_read_only(directory: impl AsRef<Path>, options: &Options) -> Result<Arc<Self>, OpenError> {
        let directory = directory.as_ref();
        Self::with(open::read_only(directory, options)?, directory, options)
    }

    fn with(db: DB, directory: &Path, options: &Options) -> Result<Arc<Self>, OpenError> {
        let metrics = Metrics::new(&options.registry)?;
        let index = Index::read(&db).map_err(|error| match error {
            Unreadable::Database(error) => OpenError::from_database(directory, &error),
            Unreadable::Layout(detail) => OpenError::Damaged { directory: directory.to_owned(), detail },
        })?;
        let store = Self {
            db,
            directory: directory.to_owned(),
            durability: options.durability,
            journal_entries: options.journal_entries.max(1),
            journal_bytes: options.journal_bytes,
            journal_age: options.journal_age,
            receipts: options.receipts.clone(),
            companions: options.companions.clone(),
            blocking: options.blocking,
            disk: options.disk.clone(),
            clock: options.clock.clone(),
            metrics,
            totals: Totals::default(),
            failing: AtomicU32::new(0),
            freed_ns: AtomicU64::new(0),
            refusing: Mutex::default(),
            index: Mutex::new(index),
            writer: Mutex::default(),
            leased: Mutex::new(false),
            lease_freed: Condvar::new(),
        };
        for known in store.index().modules.values().filter(|known| !known.letters.is_empty()) {
            store.show_letters(known);
        }
        Ok(Arc::new(store))
    }

    /// The directory it was opened in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until nobody else writes.
    pub(crate) fn lease(self: &Arc<Self>) -> Result<Lease, StoreError> {
        let leased = lock(&self.leased);
        let waited = self.lease_freed.wait_timeout_while(leased, LEASE_WAIT, |leased| *leased);
        let (mut leased, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(StoreError::Failed("another store actor still writes".into()));
        }
        *leased = true;
        Ok(Lease(self.clone()))
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// To be called when a module's letters change, and not before: one that never had any has no series.
    pub(crate) fn show_letters(&self, known: &Known) {
        self.metrics.dead_letters.with_label_values(&[&*known.name]).set(known.letters.len() as i64);
    }

    pub(crate) fn family(&self, name: &str) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(name).ok_or_else(|| StoreError::Failed(format!("no column family `{name}`")))
    }

    /// Every write goes through here.
    pub(crate) fn write(&self, what: Written, batch: WriteBatch, options: &WriteOptions) -> Result<(), StoreError> {
        if let Some(disk) = &self.disk {
            disk.before(what).map_err(Self::refused)?;
        }
        self.db.write_opt(batch, options).map_err(|error| self.failed(&error))?;
        match &self.disk {
            Some(disk) => disk.after(what).map_err(Self::refused),
            None => Ok(()),
        }
    }

    /// What RocksDB says, in the words of the port.
    pub(crate) fn failed(&self, error: &rocksdb::Error) -> StoreError {
        let error = OpenError::from_database(&self.directory, error);
        match error {
            OpenError::Failed { detail, .. } => StoreError::Failed(detail),
            // A quota is raised by somebody, which the database does not notice: that is like any other failure.
            OpenError::DiskFull { ref detail, .. } if detail.contains("No space left on device") => {
                StoreError::DiskFull(error.to_string())
            }
            clear => StoreError::Failed(clear.to_string()),
        }
    }

    /// The number of a module.
    pub fn id(&self, name: &str) -> Result<ModuleId, StoreError> {
        self.index().by_name.get(name).copied().ok_or_else(|| StoreError::UnknownModule(name.to_owned()))
    }

    pub(crate) fn check_letter(&self, module: ModuleId, seq: u64) -> Result<(), StoreError> {
        let index = self.index();
        let known = index.modules.get(&module);
        match known.is_some_and(|known| known.letters.contains_key(&seq)) {
            true => Ok(()),
            false => {
                let module = known.map_or_else(|| format!("#{}", module.0), |known| known.name.to_string());
                Err(StoreError::UnknownDeadLetter { module, seq })
            }
        }
    }

    pub(crate) fn record(&self, module: ModuleId) -> Result<ModuleRecord, StoreError> {
        match self.db.get_pinned(keys::record(module)).map_err(|error| self.failed(&error))? {
            Some(bytes) => codec::decode(&bytes, "a module record"),
            None => Ok(ModuleRecord::default()),
        }
    }

    fn health(&self, module: ModuleId) -> Result<ModuleHealth, StoreError> {
        match self.db.get_pinned(keys::health(module)).map_err(|error| self.failed(&error))? {
            Some(bytes) => codec::decode(&bytes, "a health record"),
            None => Ok(ModuleHealth::default()),
        }
    }

    fn reorgs(&self, module: ModuleId) -> Result<u64, StoreError> {
        match self.db.get_pinned(keys::reorgs(module)).map_err(|error| self.failed(&error))? {
            Some(bytes) => codec::decode(&bytes, "a count of reorgs"),
            None => Ok(0),
        }
    }

    pub(crate) fn info(&self, module: ModuleId) -> Result<ModuleInfo, StoreError> {
        let (name, dead_letters, dead_letter_bytes) = match self.index().modules.get(&module) {
            Some(known) => (known.name.to_string(), known.letters.len() as u64, known.letters.values().sum::<u64>()),
            None => return Err(StoreError::UnknownModule(format!("#{}", module.0))),
        };
        let (record, health) = (self.record(module)?, self.health(module)?);
        let replay = self.replays(module)?.count() as u64;
        let reorgs = self.reorgs(module)?;
        Ok(ModuleInfo { name, id: module, record, health, dead_letters, dead_letter_bytes, replay, reorgs })
    }

    /// One module by name.
    pub fn inspect(&self, name: &str) -> Result<ModuleInfo, StoreError> {
        self.info(self.id(name)?)
    }

    /// Every module, by name.
    pub fn modules(&self) -> Result<Vec<ModuleInfo>, StoreError> {
        let mut ids: Vec<ModuleId> = self.index().modules.keys().copied().collect();
        ids.sort_unstable();
        let mut modules = ids.into_iter().map(|id| self.info(id)).collect::<Result<Vec<_>, _>>()?;
        modules.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(modules)
    }

    /// Dead letters of a module, oldest first.
    pub fn dead_letters(&self, name: &str) -> Result<Vec<DeadLetter>, StoreError> {
        let (from, end) = keys::letters(self.id(name)?);
        self.range("default", &from, end.to_vec())?
            .map(|item| codec::decode(&item.map_err(|error| self.failed(&error))?.1, "a dead letter"))
            .collect()
    }

    /// What a module still has to go through after a rewind, in order.
    pub fn replay(&self, module: ModuleId) -> Result<Vec<ReplayItem>, StoreError> {
        self.replays(module)?
            .map(|item| codec::decode(&item.map_err(|error| self.failed(&error))?.1, "a replay item"))
            .collect()
    }

    fn replays(&self, module: ModuleId) -> Result<impl Iterator<Item = Found> + use<'_>, StoreError> {
        let (from, end) = keys::replays(module);
        self.range("default", &from, end.to_vec())
    }

    pub(crate) fn range(
        &self,
        family: &str,
        from: &[u8],
        end: Vec<u8>,
    ) -> Result<impl Iterator<Item = Found> + use<'_>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mode = IteratorMode::From(from, rocksdb::Direction::Forward);
        Ok(self.db.iterator_cf_opt(self.family(family)?, options, mode))
    }

    /// State of the store, for the tree.
    pub fn status(&self) -> StoreStatus {
        let files = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let index = self.index();
        let with_letters = index.modules.values().filter(|known| !known.letters.is_empty());
        let dead_letters = with_letters.map(|known| (known.name.to_string(), known.letters.len() as u64)).collect();
        drop(index);
        StoreStatus {
            dead_letters,
            directory: self.directory.clone(),
            disk_bytes: files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum(),
            units_total: self.totals.units.load(Ordering::Relaxed),
            commits_total: self.totals.commits.load(Ordering::Relaxed),
            commit_p99_ms: lock(&self.totals.window).p99_ns() as f64 / 1e6,
            journal_key: self.receipts.as_ref().map(|receipts| receipts.key.public()),
            refusing: self.refusing(),
        }
    }
}

impl StateView for Store {
    fn get(&self, module: ModuleId, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut buffer = Vec::with_capacity(4 + key.len());
        let found = self.db.get_pinned_cf(self.family(keys::STATE)?, keys::state(module, key, &mut buffer));
        Ok(found.map_err(|error| self.failed(&error))?.map(|value| value.to_vec()))
    }

    fn scan(&self, module: ModuleId, prefix: &str, after: Option<&str>, limit: usize) -> Result<Entries, StoreError> {
        let mut from = Vec::new();
        keys::state(module, prefix, &mut from);
        let Some(end) = keys::after_prefix(&from) else { return Ok(Vec::new()) };
        if let Some(after) = after.filter(|after| *after >= prefix) {
            keys::state(module, after, &mut from);
            from.push(0);
        }
        if from >= end {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        for item in self.range(keys::STATE, &from, end)?.take(limit) {
            let (key, value) = item.map_err(|error| self.failed(&error))?;
            let key = key.get(4..).and_then(|key| std::str::from_utf8(key).ok());
            let key = key.ok_or_else(|| StoreError::Failed("a state key is not UTF-8".into()))?;
            entries.push((key.to_owned(), value.into_vec()));
        }
        Ok(entries)
    }

    fn journal_room(&self, module: ModuleId, seq: u64) -> Result<JournalRoom, StoreError> {
        self.room(module, seq)
    }
}

enum Unreadable {
    Database(rocksdb::Error),
    Layout(String),
}

impl From<rocksdb::Error> for Unreadable {
    fn from(error: rocksdb::Error) -> Self {
        Self::Database(error)
    }
}

fn number(bytes: &[u8], what: &str) -> Result<u32, Unreadable> {
    let bytes = bytes.try_into().map_err(|_| Unreadable::Layout(format!("{what} has {} bytes", bytes.len())))?;
    Ok(u32::from_be_bytes(bytes))
}

impl Index {
    fn read(db: &DB) -> Result<Self, Unreadable> {
        let mut index = Self { next_id: 1, ..Self::default() };
        if let Some(next) = db.get(keys::NEXT_ID)? {
            index.next_id = number(&next, "the next module number")?;
        }
        for item in prefixed(db, keys::NAMES) {
            let (key, id) = item?;
            let id = ModuleId(number(&id, "a module number")?);
            let name = std::str::from_utf8(key.get(1..).unwrap_or_default());
            let name: Arc<str> = name.map_err(|_| Unreadable::Layout("a module name is not UTF-8".into()))?.into();
            index.by_name.insert(name.clone(), id);
            index.modules.insert(id, Known { name, letters: BTreeMap::new() });
        }
        for item in prefixed(db, keys::LETTERS) {
            let (key, letter) = item?;
            if let Some((id, seq)) = keys::parse_letter(&key)
                && let Some(known) = index.modules.get_mut(&id)
            {
                known.letters.insert(seq, letter.len() as u64);
            }
        }
        Ok(index)
    }
}

fn prefixed<'a>(db: &'a DB, prefix: &'a [u8]) -> impl Iterator<Item = Found> + 'a {
    let mut options = ReadOptions::default();
    if let Some(end) = keys::after_prefix(prefix) {
        options.set_iterate_upper_bound(end);
    }
    db.iterator_opt(IteratorMode::From(prefix, rocksdb::Direction::Forward), options)
}
