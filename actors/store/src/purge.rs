//! Removing everything about a module.

use nexum_host_ifaces::store::{ModuleId, StoreError};
use rocksdb::WriteBatch;

use crate::{
    disk::Written,
    open,
    store::Store,
    tables::{
        modules,
        table::{self, FAMILIES, Tag},
    },
};

/// Removes the module in one synced write; its number is never used again. The caller sees to it that nobody writes
/// about the module meanwhile.
pub(crate) fn purge(store: &Store, name: &str, module: ModuleId) -> Result<(), StoreError> {
    let mut batch = WriteBatch::new();
    for family in FAMILIES {
        let (from, end) = table::module(module);
        batch.delete_range_cf(store.db.family(family), from, end);
    }
    for tag in Tag::OF_MODULES {
        let (from, end) = tag.range(module);
        batch.delete_range(from, end);
    }
    modules::forget_name(&mut batch, name);
    store.db.write(Written::Purge, batch, &open::synced())?;

    let mut index = store.index();
    index.by_name.remove(name);
    index.modules.remove(&module);
    drop(index);
    // The label may never have been used, which is no failure.
    let _ = store.metrics.dead_letters.remove_label_values(&[name]);
    Ok(())
}
