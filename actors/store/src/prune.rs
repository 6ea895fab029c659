//! What is known of effects and outcomes is forgotten once no rewind can reach it.

use std::collections::BTreeSet;

use nexum_host_ifaces::{
    Hash,
    outbox::{Ended, Location, digest},
    store::{ModuleId, StoreError},
};
use rocksdb::{WriteBatch, WriteOptions};

use crate::{
    db::Db,
    disk::Written,
    store::Store,
    tables::{
        modules,
        outbox::{self, Shelf},
        outcomes, progress,
    },
};

/// Effects that failed are kept past the journal, this many per module: somebody may want to take them up again.
const FAILED_KEPT: usize = 1_000;

/// Forgets ended effects whose unit no rewind can reach, but for the newest failures, and outcomes that no rewind can
/// bring back: each one handled is a unit of its own.
pub(crate) fn prune(store: &Store, module: ModuleId) -> Result<(), StoreError> {
    let db = &store.db;
    let kept = store.options.journal_entries + store.options.journal_entries / 8;
    let oldest = modules::record(db, module)?.seq.saturating_sub(kept);
    let mut batch = WriteBatch::new();
    let mut failed = Vec::new();
    // Sent again while it was live, an effect that has ended is live at its other place: what is known of it keeps it from
    // going out again.
    let live = outbox::entries(db, Shelf::Live, module, 0).map(|item| Ok(digest(&item?.1.entry.id)));
    let live: BTreeSet<Hash> = live.collect::<Result<_, StoreError>>()?;
    for item in progress::all(db, module) {
        let (name, known) = item?;
        let (Some(end), Some(at)) = (known.ended, known.at) else { continue };
        if at.seq >= oldest || live.contains(&name) {
            continue;
        }
        match end.how {
            Ended::Failed => failed.push((end.at_ms, name, at)),
            _ => forget(db, &mut batch, module, name, at)?,
        }
    }
    failed.sort_unstable_by_key(|(at_ms, ..)| *at_ms);
    let excess = failed.len().saturating_sub(FAILED_KEPT);
    for (_, name, at) in failed.drain(..excess) {
        forget(db, &mut batch, module, name, at)?;
    }
    if let Some(through) = outcomes::handled(db, module)?.checked_sub(kept) {
        outcomes::delete_through(&mut batch, module, through);
    }
    // Losing this write loses nothing.
    db.write(Written::Prune, batch, &WriteOptions::default())
}

fn forget(db: &Db, batch: &mut WriteBatch, module: ModuleId, name: Hash, at: Location) -> Result<(), StoreError> {
    progress::delete(batch, module, name);
    outbox::delete_retracted(batch, module, name);
    // The number of an undone unit is used again: its place may be another effect's by now.
    if outbox::ended_at(db, module, at, name)?.is_some() {
        outbox::delete(batch, Shelf::Ended, module, at);
    }
    Ok(())
}
