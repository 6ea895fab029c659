//! The state of modules: the module's number ++ the key that the module gave, the value as it is.

use nexum_host_ifaces::store::{Entries, ModuleId, StoreError};
use rocksdb::WriteBatch;

use super::table::{STATE, after_prefix};
use crate::db::{Db, Read, Row};

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

/// Entries with `prefix` whose key is greater than `after`, in byte order, at most `limit`.
pub(crate) fn scan(
    from: &impl Read,
    module: ModuleId,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Entries, StoreError> {
    let mut first = Vec::new();
    key_in(module, prefix, &mut first);
    let Some(end) = after_prefix(&first) else { return Ok(Vec::new()) };
    if let Some(after) = after.filter(|after| *after >= prefix) {
        key_in(module, after, &mut first);
        first.push(0);
    }
    if first >= end {
        return Ok(Vec::new());
    }
    let entry = |row: Result<Row, StoreError>| {
        let (key, value) = row?;
        let key = key.get(4..).and_then(|key| std::str::from_utf8(key).ok());
        let key = key.ok_or_else(|| StoreError::Failed("a state key is not UTF-8".into()))?;
        Ok((key.to_owned(), value.into_vec()))
    };
    from.rows(STATE, (first, end)).take(limit).map(entry).collect()
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
    use super::*;
    use crate::tables::table::module;

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
