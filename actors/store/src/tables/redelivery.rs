//! What modules have still to go through after a rewind, before their sources go on, in order.

use nexum_host_ifaces::store::{ModuleId, RedeliveryItem, StoreError};
use rocksdb::WriteBatch;

use super::table::{DEFAULT, Tag};
use crate::{
    codec,
    db::{Read, Rows},
};

fn rows(from: &impl Read, id: ModuleId) -> Rows<'_> {
    from.rows(DEFAULT, Tag::Redelivery.range(id))
}

pub(crate) fn all(from: &impl Read, id: ModuleId) -> Result<Vec<RedeliveryItem>, StoreError> {
    rows(from, id).read("a redelivery item").collect()
}

pub(crate) fn count(from: &impl Read, id: ModuleId) -> u64 {
    rows(from, id).count() as u64
}

/// Puts a queue in the place of what there was.
pub(crate) fn replace(batch: &mut WriteBatch, id: ModuleId, queue: &[RedeliveryItem]) -> Result<(), StoreError> {
    let (from, end) = Tag::Redelivery.range(id);
    batch.delete_range(from, end);
    for item in queue {
        batch.put(Tag::Redelivery.numbered(id, item.position), codec::encode_vec(item)?);
    }
    Ok(())
}

/// Removes what a module has gone through.
pub(crate) fn delete(batch: &mut WriteBatch, id: ModuleId, positions: &[u64]) {
    for position in positions {
        batch.delete(Tag::Redelivery.numbered(id, *position));
    }
}
