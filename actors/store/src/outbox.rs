//! Effects in the database: every read of them, what a rewind makes of them, and what is forgotten in time.
//!
//! Invariant: an effect that has not ended is under `outbox`, or, when its unit was undone after it was released, under
//! `retracted`; never under both. One that has ended is under `ended` for as long as its unit can be undone; when that was
//! undone, one that failed or was cancelled is under `retracted`, so that it can be taken up again. An effect that has
//! ended may have lost its body (`bodies`), one that has not ended never.
//!
//! Entries have bodies: whoever reads many keeps one at a time.

mod bodies;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nexum_host_ifaces::{
    Hash,
    event::{Cursor, EventId, SourceId},
    outbox::{Ended, Entry, Listed, Live, Location, OutcomeRecord, Progress, ReleasedEffect, SOURCE, Sent, digest},
    store::{ModuleId, StoreError},
};
use rocksdb::{WriteBatch, WriteOptions};

pub(crate) use bodies::{Body, Shelved, excess};

use crate::{
    codec,
    disk::Written,
    keys::{self, Shelf},
    rewind,
    store::Store,
};

/// Effects that failed are kept past the journal, this many per module: somebody may want to take them up again.
const FAILED_KEPT: usize = 1_000;

const ENTRY: &str = "an outbox entry";
const PROGRESS: &str = "the progress of an effect";

/// A key and its value.
type Row = Result<(Box<[u8]>, Box<[u8]>), StoreError>;

fn get<T: serde::de::DeserializeOwned>(store: &Store, key: &[u8], what: &str) -> Result<Option<T>, StoreError> {
    let found = store.db.get_pinned(key).map_err(|error| store.failed(&error))?;
    found.map(|bytes| codec::decode(&bytes, what)).transpose()
}

/// What is known of an effect; none before it was released.
pub(crate) fn progress(store: &Store, module: ModuleId, id: &str) -> Result<Option<Progress>, StoreError> {
    get(store, &keys::progress(module, digest(id)), PROGRESS)
}

/// The live entry at a location, if it is that effect's: the number of an undone unit is used again.
pub(crate) fn entry_at(store: &Store, module: ModuleId, at: Location, id: &str) -> Result<Option<Entry>, StoreError> {
    let found: Option<Entry> = get(store, &keys::outbox(module, at), ENTRY)?;
    Ok(found.filter(|entry| entry.id == id))
}

/// The ended entry at a location, if it is the effect with that name.
pub(crate) fn ended_at(
    store: &Store,
    module: ModuleId,
    at: Location,
    name: Hash,
) -> Result<Option<Shelved>, StoreError> {
    let found = shelved(store, &keys::ended(module, at))?;
    Ok(found.filter(|shelved| digest(&shelved.entry.id) == name))
}

pub(crate) fn retracted(store: &Store, module: ModuleId, name: Hash) -> Result<Option<Shelved>, StoreError> {
    shelved(store, &keys::retracted(module, name))
}

fn shelved(store: &Store, key: &[u8]) -> Result<Option<Shelved>, StoreError> {
    let found = store.db.get_pinned(key).map_err(|error| store.failed(&error))?;
    found.map(|bytes| Shelved::decode(&bytes)).transpose()
}

fn scan<'a>(store: &'a Store, from: &[u8], to: &[u8]) -> Result<impl Iterator<Item = Row> + use<'a>, StoreError> {
    let range = store.range("default", from, to.to_vec())?;
    Ok(range.map(|item| item.map_err(|error| store.failed(&error))))
}

fn misplaced() -> StoreError {
    StoreError::Failed("a key of the outbox is damaged".into())
}

/// Every effect that has not ended.
pub(crate) fn live(store: &Store) -> Result<Vec<Live>, StoreError> {
    let mut all = Vec::new();
    let name = |id: ModuleId| store.index().modules.get(&id).map(|known| known.name.clone());
    let known = |module: ModuleId, entry: &Entry| progress(store, module, &entry.id).map(Option::unwrap_or_default);
    let (from, to) = Shelf::Retracted.all();
    for item in scan(store, &from, &to)? {
        let (key, bytes) = item?;
        let module = keys::parse_retracted(&key).ok_or_else(misplaced)?;
        let entry: Entry = codec::decode(&bytes, ENTRY)?;
        let (Some(name), progress) = (name(module), known(module, &entry)?) else { continue };
        if progress.ended.is_none() {
            all.push(Live::new(module, name, None, &entry, progress));
        }
    }
    let (from, to) = Shelf::Outbox.all();
    for item in scan(store, &from, &to)? {
        let (key, bytes) = item?;
        let (module, at) = keys::parse_outbox(&key).ok_or_else(misplaced)?;
        let entry: Entry = codec::decode(&bytes, ENTRY)?;
        let Some(name) = name(module) else { continue };
        all.push(Live::new(module, name, Some(at), &entry, known(module, &entry)?));
    }
    Ok(all)
}

/// Outcomes with a number above `after`, in order.
pub(crate) fn outcomes(
    store: &Store,
    module: ModuleId,
    after: u64,
    limit: usize,
) -> Result<Vec<OutcomeRecord>, StoreError> {
    let (from, to) = (keys::outcome(module, after.saturating_add(1)), Shelf::Outcomes.of(module).1);
    scan(store, &from, &to)?.take(limit).map(|item| codec::decode(&item?.1, "an outcome")).collect()
}

/// Number of the newest outcome that was ever told.
pub(crate) fn last_outcome(store: &Store, module: ModuleId) -> Result<u64, StoreError> {
    let (from, to) = Shelf::Outcomes.of(module);
    let mut options = rocksdb::ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    let newest = match store.db.iterator_opt(rocksdb::IteratorMode::End, options).next() {
        Some(item) => {
            let (_, bytes) = item.map_err(|error| store.failed(&error))?;
            codec::decode::<OutcomeRecord>(&bytes, "an outcome")?.number
        }
        None => 0,
    };
    Ok(newest.max(handled(store, module)?))
}

/// Number of the newest outcome that the module has handled.
fn handled(store: &Store, module: ModuleId) -> Result<u64, StoreError> {
    Ok(match store.record(module)?.cursors.get(&SourceId::new(SOURCE)) {
        Some(Cursor::Outbox { number }) => *number,
        _ => 0,
    })
}

/// The entries of one shelf of a module from a unit on, with their place.
fn entries(
    store: &Store,
    shelf: Shelf,
    module: ModuleId,
    from_seq: u64,
) -> Result<impl Iterator<Item = Result<(Location, Shelved), StoreError>>, StoreError> {
    let at = Location { seq: from_seq, ordinal: 0 };
    entries_until(store, shelf, at, module, &shelf.of(module).1)
}

/// The same up to a key.
fn entries_until<'a>(
    store: &'a Store,
    shelf: Shelf,
    from: Location,
    module: ModuleId,
    end: &[u8],
) -> Result<impl Iterator<Item = Result<(Location, Shelved), StoreError>> + use<'a>, StoreError> {
    let from = if shelf == Shelf::Outbox { keys::outbox(module, from) } else { keys::ended(module, from) };
    let read = |item: Row| {
        let (key, bytes) = item?;
        let (_, at) = keys::parse_outbox(&key).ok_or_else(misplaced)?;
        Ok((at, Shelved::decode(&bytes)?))
    };
    Ok(scan(store, &from, end)?.map(read))
}

/// What one unit asked to send, in order.
pub(crate) fn sent_by(store: &Store, module: ModuleId, seq: u64) -> Result<Vec<Sent>, StoreError> {
    let (from, end) = (Location { seq, ordinal: 0 }, Location { seq: seq + 1, ordinal: 0 });
    let mut found = Vec::new();
    for (shelf, end) in [(Shelf::Outbox, keys::outbox(module, end)), (Shelf::Ended, keys::ended(module, end))] {
        for item in entries_until(store, shelf, from, module, &end)? {
            let (at, shelved) = item?;
            found.push((at, shelved.entry.brief()));
        }
    }
    found.sort_by_key(|(at, _)| *at);
    Ok(found.into_iter().map(|(_, sent)| sent).collect())
}

/// Whether the operator can take it up again.
pub(crate) fn is_reopenable(how: Ended) -> bool {
    matches!(how, Ended::Failed | Ended::Cancelled)
}

/// Undoes the sending of everything that units after `to_seq` sent. What was not released is as if it had never been;
/// what may have left is answered, and goes on without its unit until it ends.
pub(crate) fn unsend(
    store: &Store,
    module: ModuleId,
    to_seq: u64,
    batch: &mut WriteBatch,
) -> Result<Vec<ReleasedEffect>, StoreError> {
    let mut released = Vec::new();
    for shelf in [Shelf::Outbox, Shelf::Ended] {
        for item in entries(store, shelf, module, to_seq + 1)? {
            let (at, shelved) = item?;
            let known = progress(store, module, &shelved.entry.id)?.unwrap_or_default();
            match shelf {
                Shelf::Outbox => batch.delete(keys::outbox(module, at)),
                _ => batch.delete(keys::ended(module, at)),
            }
            if known.released {
                if known.ended.is_none_or(|end| is_reopenable(end.how)) {
                    batch.put(keys::retracted(module, digest(&shelved.entry.id)), shelved.encode()?);
                }
                let entry = shelved.entry;
                released.push((at, ReleasedEffect { id: entry.id, key: entry.key }));
            } else if known.ended.is_some_and(|end| end.how == Ended::Retracted) {
                // Should its block come back, it is an effect like any other.
                batch.delete(keys::progress(module, digest(&shelved.entry.id)));
            }
        }
    }
    released.sort_by_key(|(at, _)| *at);
    Ok(released.into_iter().map(|(_, effect)| effect).collect())
}

/// Released effects that a reorg retracts, of a module whose state stays: those of one source's events above the last
/// block that stands, but for those that were above an earlier reorg's, too, and were named then.
pub(crate) fn released_above(
    store: &Store,
    module: ModuleId,
    source: &SourceId,
    (chain_id, number): (u64, u64),
) -> Result<Vec<ReleasedEffect>, StoreError> {
    let mut found = BTreeMap::new();
    for shelf in [Shelf::Outbox, Shelf::Ended] {
        for item in entries(store, shelf, module, 0)? {
            let (at, Shelved { entry, .. }) = item?;
            let block = entry.block.filter(|block| block.chain_id == chain_id && block.number > number);
            if let Some(block) = block
                && progress(store, module, &entry.id)?.is_some_and(|known| known.released)
            {
                found.insert(at, (block.number, ReleasedEffect { id: entry.id, key: entry.key }));
            }
        }
    }
    let Some((oldest, _)) = found.first_key_value() else { return Ok(Vec::new()) };
    let mut stood = u64::MAX;
    for item in rewind::newest_first(store, module, oldest.seq - 1, store.record(module)?.seq)? {
        let entry = codec::decode_entry(&item.map_err(|error| store.failed(&error))?.1)?;
        let ours = entry.source.as_ref().is_none_or(|of| of == source);
        if let (true, EventId::Reorg { .. } | EventId::NthReorg { .. }, Some(Cursor::Chain { number, .. })) =
            (ours, entry.event, entry.cursor)
        {
            stood = stood.min(number);
        }
        found.retain(|at, (block, _)| at.seq != entry.seq || (ours && *block <= stood));
    }
    Ok(found.into_values().map(|(_, effect)| effect).collect())
}

/// Effects of a module without their bodies: the live ones, then the ended ones, newest last.
pub(crate) fn list(store: &Store, module: ModuleId, limit: usize) -> Result<Vec<Listed>, StoreError> {
    let known = |entry: &Entry| progress(store, module, &entry.id).map(Option::unwrap_or_default);
    let (mut all, mut ended) = (Vec::new(), VecDeque::new());
    let (from, to) = Shelf::Retracted.of(module);
    for item in scan(store, &from, &to)? {
        let shelved = Shelved::decode(&item?.1)?;
        match known(&shelved.entry)?.ended {
            None if all.len() < limit => all.push((shelved.brief(), true)),
            None => {}
            Some(_) => keep_last(&mut ended, limit, (shelved.brief(), true)),
        }
    }
    for item in entries(store, Shelf::Outbox, module, 0)?.take(limit - all.len()) {
        all.push((item?.1.brief(), false));
    }
    let room = limit - all.len();
    for item in entries(store, Shelf::Ended, module, 0)? {
        keep_last(&mut ended, room, (item?.1.brief(), false));
    }
    ended.drain(..ended.len().saturating_sub(room));
    all.extend(ended);
    let shown = |(shelved, retracted): (Shelved, _)| {
        let progress = known(&shelved.entry)?;
        Ok(shelved.listed(progress, retracted))
    };
    all.into_iter().map(shown).collect()
}

fn keep_last<T>(kept: &mut VecDeque<T>, room: usize, next: T) {
    while kept.len() >= room.max(1) {
        kept.pop_front();
    }
    kept.push_back(next);
}

/// One effect with its body as far as it is kept.
pub(crate) fn show(store: &Store, name: &str, id: &str) -> Result<Listed, StoreError> {
    let module = store.id(name)?;
    let progress = progress(store, module, id)?.unwrap_or_default();
    if let Some(shelved) = retracted(store, module, digest(id))? {
        return Ok(shelved.listed(progress, true));
    }
    for shelf in [Shelf::Outbox, Shelf::Ended] {
        for item in entries(store, shelf, module, 0)? {
            let (_, shelved) = item?;
            if shelved.entry.id == id {
                return Ok(shelved.listed(progress, false));
            }
        }
    }
    Err(StoreError::UnknownEffect { module: name.to_owned(), id: id.to_owned() })
}

/// Forgets ended effects whose unit no rewind can reach, but for the newest failures, and outcomes that no rewind can
/// bring back: each one handled is a unit of its own.
pub(crate) fn prune(store: &Store, module: ModuleId) -> Result<(), StoreError> {
    let kept = store.journal_entries + store.journal_entries / 8;
    let oldest = store.record(module)?.seq.saturating_sub(kept);
    let mut batch = WriteBatch::new();
    let mut failed = Vec::new();
    // Sent again while it was live, an effect that has ended is live at its other place: what is known of it keeps it from
    // going out again.
    let live = entries(store, Shelf::Outbox, module, 0)?.map(|item| Ok(digest(&item?.1.entry.id)));
    let live: BTreeSet<Hash> = live.collect::<Result<_, StoreError>>()?;
    let (from, to) = Shelf::Progress.of(module);
    for item in scan(store, &from, &to)? {
        let (key, bytes) = item?;
        let known: Progress = codec::decode(&bytes, PROGRESS)?;
        let (Some(end), Some(at)) = (known.ended, known.at) else { continue };
        let name = keys::parse_progress(&key).ok_or_else(misplaced)?;
        if at.seq >= oldest || live.contains(&name) {
            continue;
        }
        match end.how {
            Ended::Failed => failed.push((end.at_ms, key, at)),
            _ => forget(store, &mut batch, module, &key, at)?,
        }
    }
    failed.sort_unstable_by_key(|(at_ms, ..)| *at_ms);
    let excess = failed.len().saturating_sub(FAILED_KEPT);
    for (_, key, at) in failed.drain(..excess) {
        forget(store, &mut batch, module, &key, at)?;
    }
    if let Some(through) = handled(store, module)?.checked_sub(kept) {
        batch.delete_range(keys::outcome(module, 0), keys::outcome(module, through + 1));
    }
    // Losing this write loses nothing.
    store.write(Written::Prune, batch, &WriteOptions::default())
}

fn forget(
    store: &Store,
    batch: &mut WriteBatch,
    module: ModuleId,
    progress: &[u8],
    at: Location,
) -> Result<(), StoreError> {
    let name = keys::parse_progress(progress).ok_or_else(misplaced)?;
    batch.delete(progress);
    batch.delete(keys::retracted(module, name));
    // The number of an undone unit is used again: its place may be another effect's by now.
    if ended_at(store, module, at, name)?.is_some() {
        batch.delete(keys::ended(module, at));
    }
    Ok(())
}
