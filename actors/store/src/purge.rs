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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nexum_host_ifaces::clock::SystemClock;
    use rocksdb::{IteratorMode, WriteOptions};

    use super::*;
    use crate::{options::Options, tables::table::DEFAULT};

    #[test]
    fn nothing_under_the_number_stays_and_nothing_else_goes() {
        let directory = tempfile::TempDir::new().unwrap();
        let options = Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
        let store = Store::open(directory.path(), &options).unwrap();
        let mut batch = WriteBatch::new();
        for id in [1, 2, 3].map(ModuleId) {
            modules::add(&mut batch, &format!("m{}", id.0), id).unwrap();
            for tag in Tag::OF_MODULES {
                batch.put(tag.numbered(id, u64::MAX), b"x");
            }
            for family in FAMILIES {
                batch.put_cf(store.db.family(family), table::module(id).0, b"x");
            }
        }
        store.db.write(Written::Group, batch, &WriteOptions::default()).unwrap();
        let rows = |family: &str| store.db.rocks.iterator_cf(store.db.family(family), IteratorMode::Start).count();
        let all = || [DEFAULT].into_iter().chain(FAMILIES).map(rows).sum::<usize>();
        let before = all();
        purge(&store, "m2", ModuleId(2)).unwrap();
        // Its name, its record, and what was put under every tag and in every family.
        assert_eq!(before - all(), 2 + Tag::OF_MODULES.len() + FAMILIES.len());
        purge(&store, "m2", ModuleId(2)).unwrap();
        assert_eq!(before - all(), 2 + Tag::OF_MODULES.len() + FAMILIES.len());
    }
}
