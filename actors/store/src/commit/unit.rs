//! How a unit becomes keys in a group.
//!
//! Invariant: a unit is in the batch entirely or not at all, so whatever can fail happens before its first key.

use nexum_host_ifaces::{
    outbox::Location,
    store::{EventUnit, ModuleRecord, StateChange, StoreError},
};

use super::last::Last;
use crate::{
    bound::{self, Past},
    codec::{self, Raw},
    committer::{
        group::{Group, Scratch},
        queue::Turn,
    },
    store::Store,
    tables::{
        journal::{self, At, EventOut, Recorded, Span, Undos},
        letters, modules, outbox, receipts, recordings, redelivery, state,
    },
};

impl Turn<'_> {
    /// Adds units of one module up to the first one that is at fault, and the record of the last.
    pub fn commit(&mut self, units: &[EventUnit]) -> Result<(), StoreError> {
        let failed = units.iter().enumerate().find_map(|(at, unit)| Some((at, self.add(unit).err()?)));
        let (added, result) = match failed {
            Some((at, error)) => (&units[..at], Err(error)),
            None => (units, Ok(())),
        };
        if let Some(unit) = added.last() {
            put_record(&mut self.queue.waiting, unit, &mut self.queue.scratch)?;
        }
        result
    }

    fn add(&mut self, unit: &EventUnit) -> Result<(), StoreError> {
        self.admit(unit.module)?;
        let (queue, store) = (&mut *self.queue, self.store);
        let (mut last, first) = match queue.sequence.get(&unit.module) {
            Some(last) => (*last, false),
            None => (Last::read(store, unit)?, true),
        };
        let stored = last.seq();
        let got = unit.entry.seq;
        // The number alone is not enough: after a unit was refused, a late one of an earlier instance may have the number
        // that is next. Its digest does not fit then.
        if got != stored + 1 || unit.record.seq != got || unit.entry.previous != last.digest() {
            return Err(StoreError::OutOfSequence { stored, got });
        }
        let gone = (last.aged(store, unit)?, last.past(store, unit)?);
        let span = put(&mut queue.waiting, store, unit, (first, last.end()), gone, &mut queue.scratch)?;
        last.grow(span);
        if let Some(receipt) = last.follow(store, unit) {
            receipts::put(&mut queue.waiting.batch, unit.module, &receipt)?;
        }
        queue.sequence.insert(unit.module, last);
        Ok(())
    }
}

/// Adds a unit, but for its record; answers where it lies in the journal. `first` says that no unit of this module has
/// passed since the actor started, `from` where it begins. What is too old by now and what is too much goes with it.
fn put(
    group: &mut Group,
    store: &Store,
    unit: &EventUnit,
    (first, from): (bool, At),
    (aged, past): (Option<(u64, u64)>, Past),
    scratch: &mut Scratch,
) -> Result<Span, StoreError> {
    let (db, id, seq) = (&store.db, unit.module, unit.entry.seq);
    let resolved = match unit.resolved {
        Some(letter) => letters::encoded(db, id, letter)?.map(|bytes| (letter, bytes)),
        None => None,
    };
    let event = EventOut {
        entry: &unit.entry,
        state_bytes_before: state_bytes_before(&unit.record, &unit.changes),
        resolved: resolved.as_ref().map(|(letter, bytes)| (*letter, Raw(bytes))),
        told: unit.told.as_deref(),
        undo: Undos(&unit.changes),
    };
    let Scratch { key, event: event_bytes, .. } = scratch;
    codec::encode(&event, event_bytes)?;
    let recorded_max = bound::recorded_max(store);
    let recording = unit.recording.as_ref().filter(|recording| recording.len() as u64 <= recorded_max);
    let recorded = match (&unit.recording, recording) {
        (Some(large), None) => Recorded::LeftOut(large.len()),
        (_, kept) => Recorded::Kept(kept.map_or(0, Vec::len)),
    };
    let span = journal::place(event_bytes, from, recorded)?;
    let quarantined = unit.quarantined.as_deref().map(letters::encode).transpose()?;
    let effects = unit.outbox.iter().map(outbox::encode).collect::<Result<Vec<_>, _>>()?;

    modules::put_counters(&mut group.batch, id, unit.health.as_ref(), unit.reorgs)?;
    let changes = unit.changes.iter().map(|change| (change.key.as_str(), change.new.as_deref()));
    state::put(&mut group.batch, db, id, changes, key);
    journal::put(&mut group.batch, db, id, seq, event_bytes);
    if let Some(recording) = recording {
        recordings::put(&mut group.batch, db, id, seq, recording);
    }
    if let Some((letter, _)) = resolved {
        group.remove_letter(id, letter);
    }
    if let Some(letter) = quarantined {
        group.put_letter(id, seq, &letter);
    }
    for ((ordinal, entry), encoded) in (0..).zip(&unit.outbox).zip(effects) {
        let at = Location { seq, ordinal };
        outbox::put_live(&mut group.batch, id, at, &encoded);
        group.sent.push((id, at, entry.clone()));
    }
    redelivery::delete(&mut group.batch, id, &unit.redelivered);
    let outdated = bound::outdated(seq, store.options.journal_entries, first);
    for gone in [outdated, aged, past.units].into_iter().flatten() {
        journal::delete(&mut group.batch, db, id, gone);
        receipts::delete(&mut group.batch, id, gone);
        recordings::delete(&mut group.batch, db, id, gone);
    }
    if let Some(gone) = past.recordings {
        recordings::delete(&mut group.batch, db, id, gone);
    }
    group.units += 1;
    group.left_out += u64::from(span.left_out > 0);
    Ok(span)
}

/// Adds the record that stands after a unit, the last of those added of its module.
fn put_record(group: &mut Group, unit: &EventUnit, scratch: &mut Scratch) -> Result<(), StoreError> {
    modules::put_record(&mut group.batch, unit.module, &unit.record, &mut scratch.record)
}

/// The state's size before the changes, which carry both what is new and what it replaces.
fn state_bytes_before(record: &ModuleRecord, changes: &[StateChange]) -> u64 {
    let size = |key: &str, value: &Option<Vec<u8>>| value.as_ref().map_or(0, |value| (key.len() + value.len()) as u64);
    let added: u64 = changes.iter().map(|change| size(&change.key, &change.new)).sum();
    let replaced: u64 = changes.iter().map(|change| size(&change.key, &change.old)).sum();
    (record.state_bytes + replaced).saturating_sub(added)
}

#[cfg(test)]
pub(crate) mod tests {
    use nexum_host_ifaces::{
        event::EventId,
        ledger::{Ledger, UnitParts},
        store::UnitKind,
    };
    use rocksdb::WriteOptions;

    use super::*;
    use crate::disk::Written;

    /// Writes the module's next unit, behind `from`, and drops one; answers where it ends.
    pub(crate) fn write(store: &Store, ledger: &mut Ledger, from: At, gone: Option<u64>) -> At {
        let unit = ledger.seal(UnitParts {
            kind: UnitKind::Handled,
            event: EventId::Init,
            moved: None,
            at_ms: 1,
            fuel: 1,
            changes: Vec::new(),
            state_bytes: 0,
            effects: Vec::new(),
        });
        ledger.adopt(unit.record.clone());
        let (mut group, mut scratch) = (Group::default(), Scratch::default());
        let gone = (gone.map(|seq| (seq, seq + 1)), Past::default());
        let span = put(&mut group, store, &unit, (false, from), gone, &mut scratch).unwrap();
        put_record(&mut group, &unit, &mut scratch).unwrap();
        store.db.write(Written::Group, group.batch, &WriteOptions::default()).unwrap();
        span.end()
    }

    #[test]
    fn the_size_before_is_what_the_changes_replaced() {
        let change = |key: &str, new: Option<&str>, old: Option<&str>| StateChange {
            key: key.into(),
            new: new.map(|value| value.as_bytes().to_vec()),
            old: old.map(|value| value.as_bytes().to_vec()),
        };
        let record = ModuleRecord { state_bytes: 10, ..ModuleRecord::default() };
        assert_eq!(state_bytes_before(&record, &[change("a", Some("123"), None)]), 6);
        assert_eq!(state_bytes_before(&record, &[change("a", None, Some("123"))]), 14);
        assert_eq!(state_bytes_before(&record, &[change("a", Some("1"), Some("123"))]), 12);
    }
}
