//! Undoing a module's last units, and what is to be gone through again.
//!
//! Invariant: after a rewind to unit n everything about the module is, byte for byte, what it was when unit n had been
//! written. What did happen stays: the failure counters, how many reorgs it was told of, and what became of effects that
//! may have left the host. Two
//! things are added: the signed record of the rewind with the receipts of what was undone, and the redelivery queue, which
//! holds what the module has to be told and to handle again before its sources go on.

use std::collections::BTreeMap;

use nexum_host_ifaces::{
    Hash,
    event::{Cursor, EventId},
    journal::{Receipt, RewindRecord},
    outbox::ReleasedEffect,
    store::{Fork, ModuleId, ModuleRecord, RedeliveryItem, Rewound, StoreError, UnitKind, add_released},
    types,
};
use rocksdb::WriteBatch;

use crate::{
    disk::Written,
    effects, fork, open,
    store::Store,
    tables::{journal, letters, modules, receipts, recordings, redelivery, rewinds, state},
};

/// Receipts of undone units that the record of a rewind keeps, the newest: at one in a thousand units more than the
/// journal holds.
const WITHDRAWN_MAX: usize = 256;

/// Undoes every unit from the first one past a fork on, newest first, in one synced write. `None` when there is none. The
/// caller sees to it that nobody writes about the module meanwhile.
pub(crate) fn rewind(store: &Store, module: ModuleId, fork: &Fork) -> Result<Option<Rewound>, StoreError> {
    let record = modules::record(&store.db, module)?;
    match before_fork(store, module, &record, fork)? {
        Some(to_seq) => undo(store, module, record, to_seq, fork).map(Some),
        None => Ok(None),
    }
}

/// The unit before the first one that a fork retracts.
fn before_fork(store: &Store, module: ModuleId, record: &ModuleRecord, fork: &Fork) -> Result<Option<u64>, StoreError> {
    let (block, _) = fork.ancestor;
    if !fork::past(record.cursors.get(&fork.source), block) {
        return Ok(None);
    }
    let mut oldest = record.seq + 1;
    let entries = journal::newest_first(&store.db, module, 0, record.seq).map(|row| {
        let entry = journal::decode_entry(&row?.1)?;
        oldest = entry.seq;
        Ok(entry)
    });
    match fork::first_retracted(entries, &fork.source, block)? {
        Some(seq) => Ok(Some(seq - 1)),
        None => Err(StoreError::BelowJournal { source_id: fork.source.clone(), block, oldest }),
    }
}

fn undo(
    store: &Store,
    module: ModuleId,
    mut record: ModuleRecord,
    to_seq: u64,
    fork: &Fork,
) -> Result<Rewound, StoreError> {
    let db = &store.db;
    let (last, last_digest) = (record.seq, record.journal);
    let mut batch = WriteBatch::new();
    let mut restored = Vec::new();
    let mut undone = Vec::new();
    // Of a key that many units changed the oldest value counts alone: no more is held than the state was large.
    let mut values: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    for row in journal::newest_first(db, module, to_seq, last) {
        let (_, bytes) = row?;
        let event = journal::decode(&bytes)?;
        if event.entry.seq != record.seq {
            break;
        }
        for (key, old, _) in &event.undo {
            values.insert((*key).to_owned(), old.map(|old| old.0.to_vec()));
        }
        if let Some((seq, letter)) = event.resolved.filter(|(seq, _)| *seq <= to_seq) {
            letters::put(&mut batch, module, seq, letter.0);
            restored.push((seq, letter.0.len() as u64));
        }
        let entry = event.entry;
        if let Some(source) = &entry.source {
            match entry.cursor_before.clone() {
                Some(cursor) => record.cursors.insert(source.clone(), cursor),
                None => record.cursors.remove(source),
            };
        }
        record.state_bytes = event.state_bytes_before;
        record.journal = entry.previous;
        record.seq -= 1;
        let again = match entry.kind {
            UnitKind::Handled | UnitKind::Quarantined => true,
            UnitKind::Flushed => false,
            // Where a source began, it begins again.
            UnitKind::Advanced => entry.cursor_before.is_none(),
        };
        if let (true, Some(source), Some(cursor)) = (again, entry.source, entry.cursor) {
            undone.push(RedeliveryItem { position: 0, source, event: entry.event, cursor, told: event.told });
        }
    }
    if record.seq != to_seq {
        return Err(StoreError::Failed(format!("unit {} is missing in the journal", record.seq)));
    }
    let values = values.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
    state::put(&mut batch, db, module, values, &mut Vec::new());
    undone.reverse();
    let released = effects::unsend(db, module, to_seq, &mut batch)?;
    let queue = queue(fork, &released, undone, redelivery::all(db, module)?);

    let gone = (to_seq + 1, last + 1);
    journal::delete(&mut batch, db, module, gone);
    recordings::delete(&mut batch, db, module, gone);
    receipts::delete(&mut batch, module, gone);
    letters::delete_after(&mut batch, module, to_seq);
    redelivery::replace(&mut batch, module, &queue)?;
    modules::put_record(&mut batch, module, &record, &mut Vec::new())?;
    if let EventId::Reorg { nth, .. } = &fork.event {
        modules::put_counters(&mut batch, module, None, Some(*nth))?;
    }
    rewinds::put(&mut batch, module, &rewound(store, module, (last, last_digest), &record)?)?;
    db.write(Written::Rewind, batch, &open::synced())?;

    let mut index = store.index();
    let known = index.written(module);
    let before = known.letters.len();
    known.letters.retain(|seq, _| *seq <= to_seq);
    known.letters.extend(restored);
    if before > 0 || !known.letters.is_empty() {
        store.show_letters(known);
    }
    drop(index);
    Ok(Rewound { record, redelivery: queue, released })
}

/// What the module goes through next: the reorg, then what was undone of its other sources, then what an earlier rewind
/// had left. Of the forked source nothing is delivered again, because it delivers what stands; an earlier reorg of it that is
/// no longer handled is told again with this one, so that no released effect is forgotten.
fn queue(
    fork: &Fork,
    released: &[ReleasedEffect],
    undone: Vec<RedeliveryItem>,
    left: Vec<RedeliveryItem>,
) -> Vec<RedeliveryItem> {
    let mut reorg = fork.reorg.clone();
    reorg.released_effects = released
        .iter()
        .map(|effect| types::ReleasedEffect { id: effect.id.clone(), key: effect.key.clone() })
        .collect();
    let mut others = Vec::new();
    for item in undone.into_iter().chain(left) {
        if item.source != fork.source {
            others.push(item);
        } else if let Some(told) = item.told {
            add_released(&mut reorg, told.released_effects);
        }
    }
    let (number, hash) = fork.ancestor;
    let told = RedeliveryItem {
        position: 0,
        source: fork.source.clone(),
        event: fork.event.clone(),
        cursor: Cursor::block(number, hash),
        told: Some(Box::new(reorg)),
    };
    let items = std::iter::once(told).chain(others);
    (0..).zip(items).map(|(position, item)| RedeliveryItem { position, ..item }).collect()
}

/// The record of the rewind from one place in the journal to where the module's record then stands.
fn rewound(
    store: &Store,
    module: ModuleId,
    (from_seq, from_digest): (u64, Hash),
    record: &ModuleRecord,
) -> Result<RewindRecord, StoreError> {
    let withdrawn = receipts::from_unit(&store.db, module, record.seq + 1);
    let mut withdrawn = withdrawn.collect::<Result<Vec<Receipt>, _>>()?;
    withdrawn.drain(..withdrawn.len().saturating_sub(WITHDRAWN_MAX));
    let mut rewound = RewindRecord {
        number: rewinds::last(&store.db, module)? + 1,
        at_ms: store.options.clock.now_ms(),
        from_seq,
        from_digest,
        to_seq: record.seq,
        to_digest: record.journal,
        key: None,
        signature: None,
        withdrawn,
    };
    if let Some(receipts) = &store.options.receipts {
        let name = store.index().written(module).name.clone();
        receipts.key.rewound(&name, &mut rewound);
    }
    Ok(rewound)
}
