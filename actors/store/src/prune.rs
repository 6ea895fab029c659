//! What is forgotten of effects: everything once no rewind can reach it, and the bodies of those that have ended past a
//! bound.
//!
//! Invariant: an entry stays for as long as what is known of its effect does, with or without its body.

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
        outbox::{self, EffectTable, StoredEffect},
        outcomes, progress,
    },
};

/// Effects that failed are kept past the journal, this many per module: somebody may want to take them up again.
const FAILED_KEPT: usize = 1_000;

/// What entries that keep their body may take, per module: many thousands of the usual size, a few kilobytes, and a few
/// hundred of the greatest, and little enough that a module whose receiver refuses everything fills no disk.
const BODIES_BYTES_MAX: u64 = 64 << 20;

/// Forgets ended effects whose unit no rewind can reach, but for the newest failures, and outcomes that no rewind can
/// bring back: each one handled is a unit of its own.
pub(crate) fn prune(store: &Store, module: ModuleId) -> Result<(), StoreError> {
    let db = &store.db;
    let kept = store.options.journal_entries + store.options.journal_entries / 8;
    let oldest = modules::record(db, module)?.seq.saturating_sub(kept);
    let mut batch = WriteBatch::new();
    let mut failed = Vec::new();
    // An effect that was sent again while it was pending, and has ended, is pending at its other place still: what is
    // known of it keeps it from going out again.
    let live = outbox::entries(db, EffectTable::Pending, module, 0).map(|item| Ok(digest(&item?.1.entry.id)));
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
        outbox::delete(batch, EffectTable::Ended, module, at);
    }
    Ok(())
}

/// An ended effect that keeps its body, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Body {
    /// When it ended. First, so that the order is that of the ends.
    ended_ms: u64,
    /// Absent when the unit that sent it was undone.
    pub at: Option<Location>,
    /// Digest of the effect's id.
    pub name: Hash,
    /// Of the whole entry.
    bytes: u64,
}

impl Body {
    /// The effect without its body, if it still lies there with one. The caller sees to it that it is still so when this
    /// is written.
    pub fn strip(&self, db: &Db, module: ModuleId) -> Result<Option<StoredEffect>, StoreError> {
        let found = match self.at {
            Some(at) => outbox::ended_at(db, module, at, self.name)?,
            None => outbox::retracted(db, module, self.name)?,
        };
        let Some(StoredEffect { entry, bare: false }) = found else { return Ok(None) };
        let ended = progress::get(db, module, &entry.id)?.is_some_and(|known| known.ended.is_some());
        Ok(ended.then(|| StoredEffect::bare(&entry)))
    }
}

/// The ended effects of a module that keep a body past the bound: those that ended first. Reads every ended entry once:
/// 65 ms for 10,000 of half a kilobyte.
pub(crate) fn excess_bodies(db: &Db, module: ModuleId) -> Result<Vec<Body>, StoreError> {
    let ended = outbox::entries(db, EffectTable::Ended, module, 0)
        .map(|item| item.map(|(at, of, bytes)| (Some(at), of, bytes)));
    let retracted = outbox::all_retracted(db, module).map(|item| item.map(|(of, bytes)| (None, of, bytes)));
    let mut kept = Vec::new();
    for item in ended.chain(retracted) {
        let (at, shelved, bytes) = item?;
        kept.extend(body(db, module, at, &shelved, bytes)?);
    }
    kept.sort_unstable();
    Ok(oldest_past(BODIES_BYTES_MAX, kept))
}

fn body(
    db: &Db,
    module: ModuleId,
    at: Option<Location>,
    StoredEffect { entry, bare }: &StoredEffect,
    bytes: u64,
) -> Result<Option<Body>, StoreError> {
    // What carries nothing loses nothing, and when it ended need not be looked up.
    if *bare || !StoredEffect::bare(entry).bare {
        return Ok(None);
    }
    let end = progress::get(db, module, &entry.id)?.and_then(|known| known.ended);
    Ok(end.map(|end| Body { ended_ms: end.at_ms, at, name: digest(&entry.id), bytes }))
}

/// Of bodies in the order of their ends, the first ones until the others fit.
fn oldest_past(bytes_max: u64, mut bodies: Vec<Body>) -> Vec<Body> {
    let mut bytes = 0;
    let fitting = bodies.iter().rev().take_while(|body| {
        bytes += body.bytes;
        bytes <= bytes_max
    });
    let fitting = fitting.count();
    bodies.truncate(bodies.len() - fitting);
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bodies_that_fit_are_kept() {
        let bodies = |sizes: &[u64]| -> Vec<Body> {
            (1..)
                .zip(sizes)
                .map(|(ended_ms, bytes)| Body { ended_ms, at: None, name: Hash::default(), bytes: *bytes })
                .collect()
        };
        let check = |sizes: &[u64], gone: usize| {
            assert_eq!(oldest_past(10, bodies(sizes)), bodies(&sizes[..gone]), "{sizes:?}");
        };
        check(&[], 0);
        check(&[10], 0);
        check(&[5, 5], 0);
        check(&[1, 5, 5], 1);
        // What is older than one that does not fit goes, too, small as it may be.
        check(&[1, 9, 5], 2);
        check(&[1, 11], 2);
    }
}
