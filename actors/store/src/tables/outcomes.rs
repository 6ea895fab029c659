//! Outcomes of effects that wait for their module or were handled lately, by their number.

use nexum_host_ifaces::{
    event::{Cursor, SourceId},
    outbox::{OutcomeRecord, SOURCE},
    store::{ModuleId, StoreError},
};
use rocksdb::WriteBatch;

use super::{
    modules,
    table::{DEFAULT, Tag},
};
use crate::{codec, db::Read};

const OUTCOME: &str = "an outcome";

/// Those with a number above `after`, in order.
pub(crate) fn after(
    from: &impl Read,
    id: ModuleId,
    after: u64,
    limit: usize,
) -> Result<Vec<OutcomeRecord>, StoreError> {
    let range = (Tag::Outcome.numbered(id, after.saturating_add(1)), Tag::Outcome.range(id).1);
    from.rows(DEFAULT, range).read(OUTCOME).take(limit).collect()
}

/// Number of the newest outcome that was ever told.
pub(crate) fn last(from: &impl Read, id: ModuleId) -> Result<u64, StoreError> {
    let newest: Option<OutcomeRecord> =
        from.rows_back(DEFAULT, Tag::Outcome.range(id)).read(OUTCOME).next().transpose()?;
    Ok(newest.map_or(0, |newest| newest.number).max(handled(from, id)?))
}

/// Number of the newest outcome that the module has handled.
pub(crate) fn handled(from: &impl Read, id: ModuleId) -> Result<u64, StoreError> {
    Ok(match modules::record(from, id)?.cursors.get(&SourceId::new(SOURCE)) {
        Some(Cursor::Number { number }) => *number,
        _ => 0,
    })
}

pub(crate) fn encode(outcome: &OutcomeRecord) -> Result<Vec<u8>, StoreError> {
    codec::encode_vec(outcome)
}

pub(crate) fn put(batch: &mut WriteBatch, id: ModuleId, number: u64, encoded: &[u8]) {
    batch.put(Tag::Outcome.numbered(id, number), encoded);
}

/// Removes those up to a number.
pub(crate) fn delete_through(batch: &mut WriteBatch, id: ModuleId, number: u64) {
    batch.delete_range(Tag::Outcome.numbered(id, 0), Tag::Outcome.numbered(id, number + 1));
}
