//! What there is once about every module: its name and number, its record, its failures, and how many reorgs it was told
//! of, which is no part of the record because a rewind puts that back.

use std::sync::Arc;

use nexum_host_ifaces::store::{ModuleHealth, ModuleId, ModuleRecord, StoreError};
use rocksdb::WriteBatch;

use super::table::Tag;
use crate::{
    codec,
    db::{Db, Read},
    open::OpenError,
};

/// The next module number, four bytes, big-endian.
const NEXT_ID: &[u8] = b"m/next-id";

fn name_key(name: &str) -> Vec<u8> {
    [&[Tag::Name as u8][..], name.as_bytes()].concat()
}

fn number(db: &Db, bytes: &[u8], what: &str) -> Result<u32, OpenError> {
    let bytes = bytes.try_into().map_err(|_| db.damaged(format!("{what} has {} bytes", bytes.len())))?;
    Ok(u32::from_be_bytes(bytes))
}

/// The number of the module that comes next.
pub(crate) fn next_id(db: &Db) -> Result<u32, OpenError> {
    let found = db.rocks.get(NEXT_ID).map_err(|error| OpenError::from_database(&db.directory, &error))?;
    found.map_or(Ok(1), |next| number(db, &next, "the next module number"))
}

/// Every module's name and number.
pub(crate) fn names(db: &Db) -> impl Iterator<Item = Result<(Arc<str>, ModuleId), OpenError>> {
    db.prefixed(&Tag::Name.all().0).map(move |row| {
        let (key, id) = row?;
        let id = ModuleId(number(db, &id, "a module number")?);
        let name = std::str::from_utf8(key.get(1..).unwrap_or_default());
        let name: Arc<str> = name.map_err(|_| db.damaged("a module name is not UTF-8"))?.into();
        Ok((name, id))
    })
}

pub(crate) fn record(from: &impl Read, id: ModuleId) -> Result<ModuleRecord, StoreError> {
    from.read(Tag::Record.of(id), "a module record").map(Option::unwrap_or_default)
}

pub(crate) fn health(from: &impl Read, id: ModuleId) -> Result<ModuleHealth, StoreError> {
    from.read(Tag::Health.of(id), "a health record").map(Option::unwrap_or_default)
}

pub(crate) fn reorgs(from: &impl Read, id: ModuleId) -> Result<u64, StoreError> {
    from.read(Tag::Reorgs.of(id), "a count of reorgs").map(Option::unwrap_or_default)
}

/// Adds a module that the store has not seen.
pub(crate) fn add(batch: &mut WriteBatch, name: &str, id: ModuleId) -> Result<(), StoreError> {
    let record = codec::encode_vec(&ModuleRecord::default())?;
    batch.put(name_key(name), id.0.to_be_bytes());
    batch.put(NEXT_ID, (id.0 + 1).to_be_bytes());
    batch.put(Tag::Record.of(id), record);
    Ok(())
}

pub(crate) fn forget_name(batch: &mut WriteBatch, name: &str) {
    batch.delete(name_key(name));
}

/// Adds a record, encoded in a buffer that is used again.
pub(crate) fn put_record(
    batch: &mut WriteBatch,
    id: ModuleId,
    record: &ModuleRecord,
    buffer: &mut Vec<u8>,
) -> Result<(), StoreError> {
    batch.put(Tag::Record.of(id), codec::encode(record, buffer)?);
    Ok(())
}

/// Adds what is counted beside the record, all of it or, when it cannot be encoded, nothing.
pub(crate) fn put_counters(
    batch: &mut WriteBatch,
    id: ModuleId,
    health: Option<&ModuleHealth>,
    reorgs: Option<u64>,
) -> Result<(), StoreError> {
    let health = health.map(codec::encode_vec).transpose()?;
    if let Some(reorgs) = reorgs {
        batch.put(Tag::Reorgs.of(id), codec::encode_vec(&reorgs)?);
    }
    if let Some(health) = health {
        batch.put(Tag::Health.of(id), health);
    }
    Ok(())
}
