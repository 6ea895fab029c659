//! The store: the open database and who is in it.
//!
//! Invariant: reads see what was acknowledged and nothing else. Writes are left to the committer (`committer`) and to
//! the operations that replace or forget a module's past (`rewind`, `purge`, `prune`).

use std::{
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64},
    },
    time::Duration,
};

use nexum_host_ifaces::store::{ModuleId, StoreError};
pub(crate) use nexum_host_ifaces::sync::lock;
use rocksdb::DB;

use crate::{
    db::Db,
    index::{Index, IndexedModule},
    metrics::{Metrics, Window},
    open::{self, OpenError},
    options::Options,
};

/// How long a new store actor waits for the writes of the one before it.
const LEASE_WAIT: Duration = Duration::from_secs(30);

/// The one database of an engine. Outlives the store actor, which may die and be started again on it.
pub struct Store {
    pub(crate) db: Db,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) totals: Totals,
    /// Group writes that failed since one succeeded.
    pub(crate) failing: AtomicU32,
    /// Since when there is space on a disk that was full, by the monotonic clock; 0 when it is full, or never was.
    pub(crate) freed_ns: AtomicU64,
    /// Since when no group was written, by the monotonic clock, and why, once one was refused.
    pub(crate) refusing: Mutex<Option<(u64, String)>>,
    index: Mutex<Index>,
    /// Who writes, to be stopped by the one that follows it.
    pub(crate) writer: Mutex<Option<Weak<dyn Writer>>>,
    leased: Mutex<bool>,
    lease_freed: Condvar,
}

/// Who writes groups.
pub(crate) trait Writer: Send + Sync {
    /// Takes nothing more.
    fn stop(&self);
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

    fn with(rocks: DB, directory: &Path, options: &Options) -> Result<Arc<Self>, OpenError> {
        let metrics = Metrics::new(&options.registry)?;
        let db = Db::new(rocks, directory, options.disk.clone());
        let index = Index::read(&db)?;
        let store = Self {
            db,
            options: Options { journal_entries: options.journal_entries.max(1), ..options.clone() },
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
        &self.db.directory
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
    pub(crate) fn show_letters(&self, known: &IndexedModule) {
        self.metrics.dead_letters.with_label_values(&[&*known.name]).set(known.letters.len() as i64);
    }

    /// The number of a module.
    pub fn id(&self, name: &str) -> Result<ModuleId, StoreError> {
        self.index().by_name.get(name).copied().ok_or_else(|| StoreError::UnknownModule(name.to_owned()))
    }

    /// The name of a module.
    pub(crate) fn name(&self, id: ModuleId) -> Option<Arc<str>> {
        self.index().modules.get(&id).map(|known| known.name.clone())
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
}
