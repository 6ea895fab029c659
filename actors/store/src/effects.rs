//! Reads of effects that take several tables, and what a rewind makes of effects.

use std::collections::{BTreeMap, VecDeque};

use nexum_host_ifaces::{
    event::{Cursor, EventId, SourceId},
    outbox::{EffectEntry, Ended, Listed, PendingEffect, ReleasedEffect, digest},
    store::{ModuleId, StoreError},
};
use rocksdb::WriteBatch;

use crate::{
    db::Db,
    store::Store,
    tables::{
        journal, modules,
        outbox::{self, EffectTable, StoredEffect},
        progress,
    },
};

/// Every effect that has not ended.
pub(crate) fn live(store: &Store) -> Result<Vec<PendingEffect>, StoreError> {
    let mut all = Vec::new();
    for item in outbox::every(&store.db) {
        let (module, at, entry) = item?;
        let progress = progress::get(&store.db, module, &entry.id)?.unwrap_or_default();
        match store.name(module) {
            Some(_) if at.is_none() && progress.ended.is_some() => {}
            Some(name) => all.push(PendingEffect::new(module, name, at, &entry, progress)),
            // A purge takes the effects before the name, so that they went while they were read.
            None if !outbox::is_there(&store.db, module, at, &entry.id)? => {}
            None => {
                return Err(StoreError::Failed(format!(
                    "effect `{}` is of module #{}, which is not there",
                    entry.id, module.0
                )));
            }
        }
    }
    Ok(all)
}

/// Undoes the sending of everything that units after `to_seq` sent. What was not released is as if it had never been;
/// what may have left is answered, and goes on without its unit until it ends.
pub(crate) fn unsend(
    db: &Db,
    module: ModuleId,
    to_seq: u64,
    batch: &mut WriteBatch,
) -> Result<Vec<ReleasedEffect>, StoreError> {
    let mut released = Vec::new();
    for shelf in EffectTable::BOTH {
        for item in outbox::entries(db, shelf, module, to_seq + 1) {
            let (at, shelved, _) = item?;
            let known = progress::get(db, module, &shelved.entry.id)?.unwrap_or_default();
            outbox::delete(batch, shelf, module, at);
            if known.released {
                if known.ended.is_none_or(|end| outbox::is_reopenable(end.how)) {
                    outbox::put_retracted(batch, module, &shelved)?;
                }
                let entry = shelved.entry;
                released.push((at, ReleasedEffect { id: entry.id, key: entry.key }));
            } else if known.ended.is_some_and(|end| end.how == Ended::Retracted) {
                // Should its block come back, it is an effect like any other.
                progress::delete(batch, module, digest(&shelved.entry.id));
            }
        }
    }
    released.sort_by_key(|(at, _)| *at);
    Ok(released.into_iter().map(|(_, effect)| effect).collect())
}

/// Released effects that a reorg retracts, of a module whose state stays: those of one source's events above the last
/// block that stands, but for those that were above an earlier reorg's, too, and were named then.
pub(crate) fn released_above(
    db: &Db,
    module: ModuleId,
    source: &SourceId,
    (chain_id, number): (u64, u64),
) -> Result<Vec<ReleasedEffect>, StoreError> {
    let mut found = BTreeMap::new();
    for shelf in EffectTable::BOTH {
        for item in outbox::entries(db, shelf, module, 0) {
            let (at, StoredEffect { entry, .. }, _) = item?;
            let block = entry.block.filter(|block| block.chain_id == chain_id && block.number > number);
            if let Some(block) = block
                && progress::get(db, module, &entry.id)?.is_some_and(|known| known.released)
            {
                found.insert(at, (block.number, ReleasedEffect { id: entry.id, key: entry.key }));
            }
        }
    }
    let Some((oldest, _)) = found.first_key_value() else { return Ok(Vec::new()) };
    let mut stood = u64::MAX;
    for row in journal::newest_first(db, module, oldest.seq - 1, modules::record(db, module)?.seq) {
        let entry = journal::decode_entry(&row?.1)?;
        let ours = entry.source.as_ref().is_none_or(|of| of == source);
        if let (true, EventId::Reorg { .. }, Some(Cursor::Chain { number, .. })) = (ours, entry.event, entry.cursor) {
            stood = stood.min(number);
        }
        found.retain(|at, (block, _)| at.seq != entry.seq || (ours && *block <= stood));
    }
    Ok(found.into_values().map(|(_, effect)| effect).collect())
}

/// Effects of a module without their bodies: the pending ones, then the ended ones, newest last.
pub(crate) fn list(db: &Db, module: ModuleId, limit: usize) -> Result<Vec<Listed>, StoreError> {
    let known = |entry: &EffectEntry| progress::get(db, module, &entry.id).map(Option::unwrap_or_default);
    let (mut all, mut ended) = (Vec::new(), VecDeque::new());
    for item in outbox::all_retracted(db, module) {
        let (shelved, _) = item?;
        match known(&shelved.entry)?.ended {
            None if all.len() < limit => all.push((shelved.brief(), true)),
            None => {}
            Some(_) => keep_last(&mut ended, limit, (shelved.brief(), true)),
        }
    }
    for item in outbox::entries(db, EffectTable::Pending, module, 0).take(limit - all.len()) {
        all.push((item?.1.brief(), false));
    }
    let room = limit - all.len();
    for item in outbox::entries(db, EffectTable::Ended, module, 0) {
        keep_last(&mut ended, room, (item?.1.brief(), false));
    }
    ended.drain(..ended.len().saturating_sub(room));
    all.extend(ended);
    let shown = |(shelved, retracted): (StoredEffect, _)| {
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
    let (db, module) = (&store.db, store.id(name)?);
    let progress = progress::get(db, module, id)?.unwrap_or_default();
    if let Some(shelved) = outbox::retracted(db, module, digest(id))? {
        return Ok(shelved.listed(progress, true));
    }
    for shelf in EffectTable::BOTH {
        for item in outbox::entries(db, shelf, module, 0) {
            let (_, shelved, _) = item?;
            if shelved.entry.id == id {
                return Ok(shelved.listed(progress, false));
            }
        }
    }
    Err(StoreError::UnknownEffect { module: name.to_owned(), id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nexum_host_ifaces::{
        clock::SystemClock,
        outbox::{Effect, HttpEffect, Location, Release},
    };
    use rocksdb::WriteOptions;

    use super::*;
    use crate::{disk::Written, options::Options};

    #[test]
    fn an_effect_of_no_module_is_not_passed_over() {
        let directory = tempfile::TempDir::new().unwrap();
        let options = Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
        let store = Store::open(directory.path(), &options).unwrap();
        let effect = HttpEffect { method: "POST".into(), url: "https://a".into(), headers: Vec::new(), body: None };
        let entry = EffectEntry {
            id: "x".into(),
            key: "x".into(),
            lane: None,
            release: Release::Committed,
            block: None,
            sent_at_ms: 1,
            effect: Effect::Http(effect),
        };
        let mut batch = WriteBatch::new();
        let at = Location { seq: 1, ordinal: 0 };
        outbox::put_live(&mut batch, ModuleId(7), at, &outbox::encode(&entry).unwrap());
        store.db.write(Written::Group, batch, &WriteOptions::default()).unwrap();
        let error = live(&store).unwrap_err();
        assert_eq!(error.to_string(), "store: effect `x` is of module #7, which is not there");
    }
}
