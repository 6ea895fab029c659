//! The state of every module at one moment, for as long as somebody holds it.
//!
//! What is held keeps RocksDB from dropping what is overwritten meanwhile: whoever asks bounds for how long.

use std::sync::Arc;

use nexum_host_ifaces::{
    limits::DELETED_KEYS_MAX,
    store::{Entries, ModuleId, StateView, StoreError},
};

use crate::{db::Moment, store::Store, tables::state};

/// A moment, and the store that it is of.
pub(crate) struct Still {
    // Before the store: fields are dropped in this order.
    moment: Moment<'static>,
    _store: Arc<Store>,
}

impl Still {
    pub fn of(store: Arc<Store>) -> Self {
        #[allow(
            unsafe_code,
            reason = "the moment borrows from the store, which does not move, and which is kept until the moment is gone"
        )]
        let moment = unsafe { std::mem::transmute::<Moment<'_>, Moment<'static>>(store.db.moment()) };
        Self { moment, _store: store }
    }
}

impl StateView for Still {
    fn get(&self, module: ModuleId, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        state::get(&self.moment, module, key)
    }

    fn scan(&self, module: ModuleId, prefix: &str, after: Option<&str>, limit: usize) -> Result<Entries, StoreError> {
        state::scan(&self.moment, module, prefix, after, limit, u64::MAX).map(|(entries, _)| entries)
    }

    fn scan_past(
        &self,
        module: ModuleId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Entries, u64), StoreError> {
        state::scan(&self.moment, module, prefix, after, limit, DELETED_KEYS_MAX)
    }

    fn at_this_moment(self: Arc<Self>) -> Result<Arc<dyn StateView>, StoreError> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::clock::SystemClock;
    use rocksdb::{WriteBatch, WriteOptions};

    use super::*;
    use crate::{Options, disk::Written};

    #[test]
    fn what_is_held_still_is_as_it_was_whatever_is_written_and_outlives_every_other_handle() {
        let directory = tempfile::TempDir::new().unwrap();
        let options = Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
        let store = Store::open(directory.path(), &options).unwrap();
        let id = ModuleId(1);
        let write = |value: Option<&[u8]>| {
            let mut batch = WriteBatch::new();
            state::put(&mut batch, &store.db, id, [("a", value)], &mut Vec::new());
            store.db.write(Written::Group, batch, &WriteOptions::default()).unwrap();
        };
        write(Some(b"1"));
        let still = Arc::clone(&store).at_this_moment().unwrap();
        write(Some(b"2"));
        let later = Arc::clone(&store).at_this_moment().unwrap();
        write(None);
        assert_eq!(store.get(id, "a"), Ok(None));
        drop(store);
        assert_eq!(still.get(id, "a"), Ok(Some(b"1".to_vec())));
        assert_eq!(still.scan(id, "", None, 9), Ok(vec![("a".to_owned(), b"1".to_vec())]));
        drop(still);
        assert_eq!(later.scan_past(id, "", None, 9).unwrap().0, [("a".to_owned(), b"2".to_vec())]);
    }
}
