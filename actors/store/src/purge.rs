//! Removing everything about a module.

use nexum_host_ifaces::store::{ModuleId, StoreError};
use rocksdb::WriteBatch;

use crate::{
    disk::Written,
    keys::{self, Shelf},
    open,
    store::Store,
};

/// Removes the module in one synced write; its number is never used again. The caller sees to it that nobody writes
/// about the module meanwhile.
pub(crate) fn purge(store: &Store, name: &str, module: ModuleId) -> Result<(), StoreError> {
    let mut batch = WriteBatch::new();
    for family in keys::FAMILIES {
        let (from, to) = keys::module(module);
        batch.delete_range_cf(store.family(family)?, from, to);
    }
    let own = [keys::letters(module), keys::replays(module), keys::receipts(module), keys::rewinds(module)];
    let shelves = Shelf::ALL.into_iter().map(|shelf| shelf.of(module));
    for (from, to) in shelves.chain(own) {
        batch.delete_range(from, to);
    }
    batch.delete(keys::record(module));
    batch.delete(keys::health(module));
    batch.delete(keys::reorgs(module));
    batch.delete(keys::name(name));
    store.write(Written::Purge, batch, &open::synced())?;

    let mut index = store.index();
    index.by_name.remove(name);
    index.modules.remove(&module);
    drop(index);
    // The label may never have been used, which is no failure.
    let _ = store.metrics.dead_letters.remove_label_values(&[name]);
    Ok(())
}
