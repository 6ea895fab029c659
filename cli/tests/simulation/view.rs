//! The state as modules read it: the store's, but for a key that a module reads to end the process.

use std::sync::Arc;

use nexum_host_ifaces::store::{Entries, JournalRoom, ModuleId, StateView, StoreError};
use nexum_store::Store;

use crate::disk::SimDisk;

/// What such a key begins with; the module and the event follow. See `fixtures/guests/simulated`.
const DEADLY: &str = "deadly/";

pub struct SimView {
    store: Arc<Store>,
    disk: Arc<SimDisk>,
}

impl SimView {
    pub fn new(store: Arc<Store>, disk: Arc<SimDisk>) -> Self {
        Self { store, disk }
    }
}

impl StateView for SimView {
    fn get(&self, module: ModuleId, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(event) = key.strip_prefix(DEADLY) {
            self.disk.die_of(event);
        }
        self.store.get(module, key)
    }

    fn scan(&self, module: ModuleId, prefix: &str, after: Option<&str>, limit: usize) -> Result<Entries, StoreError> {
        self.store.scan(module, prefix, after, limit)
    }

    fn at_this_moment(self: Arc<Self>) -> Result<Arc<dyn StateView>, StoreError> {
        self.store.clone().at_this_moment()
    }

    fn journal_room(&self, module: ModuleId, seq: u64) -> Result<JournalRoom, StoreError> {
        self.store.journal_room(module, seq)
    }
}
