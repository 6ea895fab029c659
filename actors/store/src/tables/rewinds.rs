//! Records of rewinds, by their number.

use nexum_host_ifaces::{
    journal::RewindRecord,
    store::{ModuleId, StoreError},
};
use rocksdb::WriteBatch;

use super::table::{DEFAULT, Tag};
use crate::{codec, db::Read};

/// Rewinds kept per module: enough to explain receipts of weeks on a chain that reorganises daily.
const REWINDS_MAX: u64 = 100;

const REWIND: &str = "a rewind";

/// The newest ones of a module, oldest first.
pub(crate) fn all(from: &impl Read, id: ModuleId) -> Result<Vec<RewindRecord>, StoreError> {
    from.rows(DEFAULT, Tag::Rewind.range(id)).read(REWIND).collect()
}

/// Number of the newest one; 0 when there is none.
pub(crate) fn last(from: &impl Read, id: ModuleId) -> Result<u64, StoreError> {
    let last: Option<RewindRecord> = from.rows_back(DEFAULT, Tag::Rewind.range(id)).read(REWIND).next().transpose()?;
    Ok(last.map_or(0, |rewound| rewound.number))
}

/// Adds one, and drops what is past the bound.
pub(crate) fn put(batch: &mut WriteBatch, id: ModuleId, rewound: &RewindRecord) -> Result<(), StoreError> {
    batch.put(Tag::Rewind.numbered(id, rewound.number), codec::encode_vec(rewound)?);
    let outdated = (rewound.number + 1).saturating_sub(REWINDS_MAX);
    batch.delete_range(Tag::Rewind.numbered(id, 0), Tag::Rewind.numbered(id, outdated));
    Ok(())
}
