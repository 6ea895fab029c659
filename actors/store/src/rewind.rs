//! Undoing a module's last units.
//!
//! Invariant: after a rewind to unit n everything about the module is, byte for byte, what it was when unit n had been
//! written; only the failure counters stay, because failures did happen, and the signed record of the rewind is added,
//! with the receipts of what was undone.

use nexum_host_ifaces::{
    Hash,
    journal::{Receipt, RewindRecord},
    store::{ModuleId, ModuleRecord, StoreError},
};
use rocksdb::{IteratorMode, ReadOptions, WriteBatch};

use crate::{codec, journal::REWINDS_MAX, keys, open, store::Store};

/// Receipts of undone units that the record of a rewind keeps, the newest: at one in a thousand units more than the
/// journal holds.
const WITHDRAWN_MAX: usize = 256;

/// Undoes every unit after `to_seq`, newest first, in one synced write. The caller sees to it that nobody writes about
/// the module meanwhile.
pub(crate) fn rewind(store: &Store, module: ModuleId, to_seq: u64) -> Result<ModuleRecord, StoreError> {
    let mut record = store.record(module)?;
    if to_seq == record.seq {
        return Ok(record);
    }
    if to_seq > record.seq {
        return Err(StoreError::Failed(format!("cannot rewind to unit {to_seq}: the last one is {}", record.seq)));
    }
    let (state, events) = (store.family(keys::STATE)?, store.family(keys::EVENTS)?);
    let (from_seq, from_digest) = (record.seq, record.journal);
    let (from, to) = (keys::event(module, to_seq + 1), keys::event(module, from_seq + 1));
    let mut batch = WriteBatch::new();
    let mut buffer = Vec::new();
    let mut restored = Vec::new();

    let mut range = ReadOptions::default();
    range.set_iterate_lower_bound(from);
    range.set_iterate_upper_bound(to);
    for item in store.db.iterator_cf_opt(events, range, IteratorMode::End) {
        let (_, bytes) = item.map_err(|error| store.failed(&error))?;
        let event = codec::decode_event(&bytes)?;
        if event.entry.seq != record.seq {
            break;
        }
        for (key, old, _) in &event.undo {
            let key = keys::state(module, key, &mut buffer);
            match old {
                Some(old) => batch.put_cf(state, key, old.0),
                None => batch.delete_cf(state, key),
            }
        }
        if let Some((seq, letter)) = event.resolved.filter(|(seq, _)| *seq <= to_seq) {
            batch.put(keys::letter(module, seq), letter.0);
            restored.push(seq);
        }
        if let Some(source) = event.entry.source {
            match event.entry.cursor_before {
                Some(cursor) => record.cursors.insert(source, cursor),
                None => record.cursors.remove(&source),
            };
        }
        record.state_bytes = event.state_bytes_before;
        record.journal = event.entry.previous;
        record.seq -= 1;
    }
    if record.seq != to_seq {
        return Err(StoreError::Failed(format!(
            "cannot rewind to unit {to_seq}: unit {} is no longer in the journal, which keeps the newest {}",
            record.seq, store.journal_entries
        )));
    }
    batch.delete_range_cf(events, from, to);
    batch.delete_range(&keys::letter(module, to_seq + 1)[..], &keys::letters(module).1[..]);
    batch.delete_range(&keys::outbox(module, to_seq + 1, 0)[..], &keys::outboxes(module).1[..]);
    batch.delete_range(&keys::receipt(module, to_seq + 1)[..], &keys::receipts(module).1[..]);
    batch.put(keys::record(module), codec::encode_vec(&record)?);
    let rewound = rewound(store, module, (from_seq, from_digest), &record)?;
    batch.put(keys::rewind(module, rewound.number), codec::encode_vec(&rewound)?);
    let outdated = (rewound.number + 1).saturating_sub(REWINDS_MAX);
    batch.delete_range(keys::rewind(module, 0), keys::rewind(module, outdated));
    store.db.write_opt(batch, &open::synced()).map_err(|error| store.failed(&error))?;

    if let Some(known) = store.index().modules.get_mut(&module) {
        known.letters.retain(|seq| *seq <= to_seq);
        known.letters.extend(restored);
        store.show_letters(known);
    }
    Ok(record)
}

/// The record of the rewind from one place in the journal to where the module's record then stands.
fn rewound(
    store: &Store,
    module: ModuleId,
    (from_seq, from_digest): (u64, Hash),
    record: &ModuleRecord,
) -> Result<RewindRecord, StoreError> {
    let mut withdrawn: Vec<Receipt> = store.receipts_from(module, record.seq + 1)?;
    withdrawn.drain(..withdrawn.len().saturating_sub(WITHDRAWN_MAX));
    let mut rewound = RewindRecord {
        number: store.rewinds_of(module)?.last().map_or(0, |rewound| rewound.number) + 1,
        at_ms: store.clock.now_ms(),
        from_seq,
        from_digest,
        to_seq: record.seq,
        to_digest: record.journal,
        key: None,
        signature: None,
        withdrawn,
    };
    let name = store.index().modules.get(&module).map(|known| known.name.clone());
    if let (Some(receipts), Some(name)) = (&store.receipts, name) {
        receipts.key.rewound(&name, &mut rewound);
    }
    Ok(rewound)
}
