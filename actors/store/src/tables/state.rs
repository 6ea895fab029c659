//! The state of modules: the module's number ++ the key that the module gave, the value as it is.

use nexum_host_ifaces::store::{Entries, ModuleId, StoreError};
use rocksdb::WriteBatch;

use super::table::{STATE, after_prefix};
use crate::db::{Db, Passed, Read, Row};

/// Into a buffer that is used again.
fn key_in<'a>(id: ModuleId, key: &str, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    buffer.clear();
    buffer.extend_from_slice(&id.0.to_be_bytes());
    buffer.extend_from_slice(key.as_bytes());
    buffer
}

pub(crate) fn get(from: &impl Read, module: ModuleId, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let mut buffer = Vec::with_capacity(4 + key.len());
    Ok(from.get(STATE, key_in(module, key, &mut buffer))?.map(|value| value.to_vec()))
}

/// Entries with `prefix` whose key is greater than `after`, in byte order, at most `limit`; and how much it went past that
/// was deleted or is no longer the newest. Past `passed_max` of that it ends.
pub(crate) fn scan(
    from: &impl Read,
    module: ModuleId,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    passed_max: u64,
) -> Result<(Entries, u64), StoreError> {
    let mut first = Vec::new();
    key_in(module, prefix, &mut first);
    let Some(end) = after_prefix(&first) else { return Ok((Entries::new(), 0)) };
    if let Some(after) = after.filter(|after| *after >= prefix) {
        key_in(module, after, &mut first);
        first.push(0);
    }
    if first >= end {
        return Ok((Entries::new(), 0));
    }
    let entry = |row: Result<Row, StoreError>| -> Result<(String, Vec<u8>), StoreError> {
        let (key, value) = row?;
        let key = key.get(4..).and_then(|key| std::str::from_utf8(key).ok());
        let key = key.ok_or_else(|| StoreError::Failed("a state key is not UTF-8".into()))?;
        Ok((key.to_owned(), value.into_vec()))
    };
    let mut options = from.options();
    // Between two entries; RocksDB does not say where it stood.
    options.set_max_skippable_internal_keys(passed_max);
    let passed = Passed::begin();
    let mut entries = Entries::new();
    let mut rows = from.rows_with(options, STATE, (first, end));
    let passed_by = |entries: &Entries| passed.keys().saturating_sub(entries.len() as u64);
    while entries.len() < limit && passed_by(&entries) <= passed_max {
        let Some(row) = rows.next() else { break };
        entries.push(entry(row)?);
    }
    let passed = passed_by(&entries);
    Ok((entries, if rows.is_cut { passed.max(passed_max.saturating_add(1)) } else { passed }))
}

/// Gives keys their values, or removes them; the buffer is used again.
pub(crate) fn put<'a>(
    batch: &mut WriteBatch,
    db: &Db,
    module: ModuleId,
    changes: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    buffer: &mut Vec<u8>,
) {
    let family = db.family(STATE);
    for (key, value) in changes {
        let key = key_in(module, key, buffer);
        match value {
            Some(value) => batch.put_cf(family, key, value),
            None => batch.delete_cf(family, key),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nexum_host_ifaces::clock::SystemClock;
    use rocksdb::WriteOptions;

    use super::*;
    use crate::{Options, Store, disk::Written, tables::table::module};

    #[test]
    fn what_a_scan_goes_past_is_counted_and_bounded() {
        let directory = tempfile::TempDir::new().unwrap();
        let options = Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
        let store = Store::open(directory.path(), &options).unwrap();
        let (id, keys) = (ModuleId(1), (0..2_000).map(|n| format!("k{n:04}")).collect::<Vec<_>>());
        let write = |keys: &[String], value: Option<&'static [u8]>| {
            let mut batch = WriteBatch::new();
            let changes = keys.iter().map(|key| (key.as_str(), value));
            put(&mut batch, &store.db, id, changes, &mut Vec::new());
            store.db.write(Written::Group, batch, &WriteOptions::default()).unwrap();
        };
        let scanned = |passed_max: u64| scan(&store.db, id, "k", None, 10, passed_max).unwrap();
        write(&keys, Some(b"v"));
        let (entries, passed) = scanned(u64::MAX);
        assert!(entries.len() == 10 && passed <= 1, "{} entries, {passed} passed", entries.len());
        write(&keys[..1_500], None);
        let (entries, passed) = scanned(u64::MAX);
        assert_eq!((entries.len(), &entries[0].0), (10, &keys[1_500]));
        assert!((1_500..=4_500).contains(&passed), "{passed}");
        let (entries, passed) = scanned(100);
        assert!(entries.is_empty() && (101..1_000).contains(&passed), "{} entries, {passed}", entries.len());
        // As often between two entries as not.
        write(&keys, Some(b"v"));
        let gone: Vec<String> = keys.iter().skip(1).step_by(2).cloned().collect();
        write(&gone, None);
        let (entries, passed) = scanned(3);
        assert!(!entries.is_empty() && entries.len() < 10 && passed > 3, "{} entries, {passed}", entries.len());
    }

    #[test]
    fn keys_of_a_module_lie_together() {
        let (low, high) = module(ModuleId(7));
        let mut buffer = Vec::new();
        for key in ["", "a", "\u{10ffff}"] {
            let key = key_in(ModuleId(7), key, &mut buffer);
            assert!(key >= &low[..] && key < &high[..]);
        }
    }
}
