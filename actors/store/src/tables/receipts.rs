//! Signed receipts, by the unit each covers.

use nexum_host_ifaces::{
    journal::Receipt,
    store::{ModuleId, StoreError},
};
use rocksdb::WriteBatch;

use super::table::{DEFAULT, Tag};
use crate::{codec, db::Read};

const RECEIPT: &str = "a receipt";

/// Those for units from `seq` on, oldest first.
pub(crate) fn from_unit(from: &impl Read, id: ModuleId, seq: u64) -> impl Iterator<Item = Result<Receipt, StoreError>> {
    from.rows(DEFAULT, (Tag::Receipt.numbered(id, seq), Tag::Receipt.range(id).1)).read(RECEIPT)
}

/// Those for units from the first to the last.
pub(crate) fn between(from: &impl Read, id: ModuleId, first: u64, last: u64) -> Result<Vec<Receipt>, StoreError> {
    let range = (Tag::Receipt.numbered(id, first), Tag::Receipt.numbered(id, last + 1));
    from.rows(DEFAULT, range).read(RECEIPT).collect()
}

/// The newest one.
pub(crate) fn last(from: &impl Read, id: ModuleId) -> Result<Option<Receipt>, StoreError> {
    from.rows_back(DEFAULT, Tag::Receipt.range(id)).read(RECEIPT).next().transpose()
}

pub(crate) fn put(batch: &mut WriteBatch, id: ModuleId, receipt: &Receipt) -> Result<(), StoreError> {
    batch.put(Tag::Receipt.numbered(id, receipt.seq), codec::encode_vec(receipt)?);
    Ok(())
}

/// Removes those of units from the first number to before the second.
pub(crate) fn delete(batch: &mut WriteBatch, id: ModuleId, (from, to): (u64, u64)) {
    batch.delete_range(Tag::Receipt.numbered(id, from), Tag::Receipt.numbered(id, to));
}
