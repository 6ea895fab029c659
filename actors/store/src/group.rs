//! A group: everything that shares one write, and how a unit becomes keys in it.
//!
//! Invariant: a unit is in the batch entirely or not at all, so whatever can fail happens before its first key.

use std::sync::Arc;

use nexum_host_ifaces::{
    journal::Receipt,
    outbox::{Entry, Live, Location, Released},
    store::{Change, DeadLetter, EventUnit, ModuleHealth, ModuleId, ModuleInfo, ModuleRecord, Reply, StoreError},
};
use rocksdb::WriteBatch;

use crate::{
    codec::{self, At, EventOut, Raw, Recorded, Span, Undos},
    headers::Owed,
    keys,
    store::Store,
};

/// What waits for one write.
#[derive(Default)]
pub(crate) struct Group {
    pub batch: WriteBatch,
    pub units: u64,
    /// What becomes of the index when the write succeeds.
    pub named: Vec<(Arc<str>, ModuleId)>,
    pub letters: Vec<(ModuleId, LetterChange)>,
    /// Effects that the outbox actor hears of when the write succeeds.
    pub sent: Vec<(ModuleId, Location, Entry)>,
    pub waiting: Vec<Waiting>,
    pub headers: Owed,
    /// Recordings that were too large to be kept with their units.
    pub left_out: u64,
}

/// What goes with a unit because the journal holds too much, each from the first number to before the second.
pub(crate) struct Gone {
    /// Entries that are too old by now, and that are too many, with everything that is kept for as long.
    pub units: [Option<(u64, u64)>; 2],
    /// Units of which the recordings go alone.
    pub recordings: Option<(u64, u64)>,
}

pub(crate) enum LetterChange {
    Put { seq: u64, bytes: u64 },
    Removed(u64),
}

/// Who is answered when the group is written.
pub(crate) enum Waiting {
    Done(Reply<()>),
    Opened(ModuleId, Reply<ModuleInfo>),
    Released(Box<Released>, Reply<Released>),
    Reopened(Box<Live>, Reply<Live>),
}

impl Waiting {
    /// The write succeeded. Nobody is told when the caller gave up.
    pub fn answer(self, store: &Store) {
        match self {
            Self::Done(reply) => drop(reply.send(Ok(()))),
            Self::Opened(id, reply) => drop(reply.send(store.info(id))),
            Self::Released(released, reply) => drop(reply.send(Ok(*released))),
            Self::Reopened(live, reply) => drop(reply.send(Ok(*live))),
        }
    }

    pub fn refuse(self, error: StoreError) {
        match self {
            Self::Done(reply) => drop(reply.send(Err(error))),
            Self::Opened(_, reply) => drop(reply.send(Err(error))),
            Self::Released(_, reply) => drop(reply.send(Err(error))),
            Self::Reopened(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// Buffers for encoding, used again for every unit.
#[derive(Default)]
pub(crate) struct Scratch {
    key: Vec<u8>,
    event: Vec<u8>,
    record: Vec<u8>,
}

impl Group {
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.waiting.is_empty()
    }

    /// Adds a unit, but for its record; answers where it lies in the journal. `first` says that no unit of this module has
    /// passed since the actor started, `from` where it begins.
    pub fn add(
        &mut self,
        store: &Store,
        unit: &EventUnit,
        (first, from): (bool, At),
        gone: &Gone,
        scratch: &mut Scratch,
    ) -> Result<Span, StoreError> {
        let (id, seq) = (unit.module, unit.entry.seq);
        let (state, events) = (store.family(keys::STATE)?, store.family(keys::EVENTS)?);
        let recordings = store.family(keys::RECORDINGS)?;
        let resolved = match unit.resolved {
            Some(letter) => {
                let bytes = store.db.get(keys::letter(id, letter)).map_err(|error| store.failed(&error))?;
                bytes.map(|bytes| (letter, bytes))
            }
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
        let recorded_max = store.recorded_max();
        let recording = unit.recording.as_ref().filter(|recording| recording.len() as u64 <= recorded_max);
        let recorded = match (&unit.recording, recording) {
            (Some(large), None) => Recorded::LeftOut(large.len()),
            (_, kept) => Recorded::Kept(kept.map_or(0, Vec::len)),
        };
        let span = codec::place(event_bytes, from, recorded)?;
        let health = unit.health.as_ref().map(codec::encode_vec).transpose()?;
        let quarantined = unit.quarantined.as_deref().map(codec::encode_vec::<DeadLetter>).transpose()?;

        let reorgs = unit.reorgs.as_ref().map(codec::encode_vec).transpose()?;
        let effects = unit.outbox.iter().map(codec::encode_vec).collect::<Result<Vec<_>, _>>()?;

        for Change { key: name, new, .. } in &unit.changes {
            let key = keys::state(id, name, key);
            match new {
                Some(value) => self.batch.put_cf(state, key, value),
                None => self.batch.delete_cf(state, key),
            }
        }
        self.batch.put_cf(events, keys::event(id, seq), event_bytes);
        if let Some(recording) = recording {
            self.batch.put_cf(recordings, keys::recording(id, seq), recording);
        }
        if let Some(health) = health {
            self.batch.put(keys::health(id), health);
        }
        if let Some(reorgs) = reorgs {
            self.batch.put(keys::reorgs(id), reorgs);
        }
        if let Some((letter, _)) = resolved {
            self.batch.delete(keys::letter(id, letter));
            self.letters.push((id, LetterChange::Removed(letter)));
        }
        if let Some(letter) = quarantined {
            self.letters.push((id, LetterChange::Put { seq, bytes: letter.len() as u64 }));
            self.batch.put(keys::letter(id, seq), letter);
        }
        for ((ordinal, entry), bytes) in (0..).zip(&unit.outbox).zip(effects) {
            let at = Location { seq, ordinal };
            self.batch.put(keys::outbox(id, at), bytes);
            self.sent.push((id, at, entry.clone()));
        }
        for position in &unit.replayed {
            self.batch.delete(keys::replay(id, *position));
        }
        let outdated = outdated(seq, store.journal_entries, first);
        for (from, to) in outdated.into_iter().chain(gone.units.into_iter().flatten()) {
            self.batch.delete_range_cf(events, keys::event(id, from), keys::event(id, to));
            self.batch.delete_range(keys::receipt(id, from), keys::receipt(id, to));
            self.batch.delete_range_cf(recordings, keys::recording(id, from), keys::recording(id, to));
        }
        if let Some((from, to)) = gone.recordings {
            self.batch.delete_range_cf(recordings, keys::recording(id, from), keys::recording(id, to));
        }
        self.units += 1;
        self.left_out += u64::from(span.left_out > 0);
        Ok(span)
    }

    /// Adds the record that stands after a unit, the last of those added of its module.
    pub fn put_record(&mut self, unit: &EventUnit, scratch: &mut Scratch) -> Result<(), StoreError> {
        codec::encode(&unit.record, &mut scratch.record)?;
        self.batch.put(keys::record(unit.module), &scratch.record);
        Ok(())
    }

    /// Adds a module that the store has not seen.
    pub fn add_module(&mut self, name: &Arc<str>, id: ModuleId) -> Result<(), StoreError> {
        let record = codec::encode_vec(&ModuleRecord::default())?;
        self.batch.put(keys::name(name), id.0.to_be_bytes());
        self.batch.put(keys::NEXT_ID, (id.0 + 1).to_be_bytes());
        self.batch.put(keys::record(id), record);
        self.named.push((name.clone(), id));
        Ok(())
    }

    pub fn put_health(&mut self, id: ModuleId, health: &ModuleHealth) -> Result<(), StoreError> {
        self.batch.put(keys::health(id), codec::encode_vec(health)?);
        Ok(())
    }

    pub fn put_receipt(&mut self, id: ModuleId, receipt: &Receipt) -> Result<(), StoreError> {
        self.batch.put(keys::receipt(id, receipt.seq), codec::encode_vec(receipt)?);
        Ok(())
    }

    pub fn put_letter(&mut self, id: ModuleId, letter: &DeadLetter) -> Result<(), StoreError> {
        let (seq, letter) = (letter.seq, codec::encode_vec(letter)?);
        self.letters.push((id, LetterChange::Put { seq, bytes: letter.len() as u64 }));
        self.batch.put(keys::letter(id, seq), letter);
        Ok(())
    }

    pub fn remove_letter(&mut self, id: ModuleId, seq: u64) {
        self.batch.delete(keys::letter(id, seq));
        self.letters.push((id, LetterChange::Removed(seq)));
    }
}

/// The state's size before the changes, which carry both what is new and what it replaces.
fn state_bytes_before(record: &ModuleRecord, changes: &[Change]) -> u64 {
    let size = |key: &str, value: &Option<Vec<u8>>| value.as_ref().map_or(0, |value| (key.len() + value.len()) as u64);
    let added: u64 = changes.iter().map(|change| size(&change.key, &change.new)).sum();
    let replaced: u64 = changes.iter().map(|change| size(&change.key, &change.old)).sum();
    (record.state_bytes + replaced).saturating_sub(added)
}

/// The half-open range of journal entries to drop with unit `seq`: an eighth of the journal at a time, and at a module's
/// first unit everything that an earlier setting may have kept.
fn outdated(seq: u64, kept: u64, first: bool) -> Option<(u64, u64)> {
    let end = seq.checked_sub(kept)? + 1;
    let step = (kept / 8).max(1);
    match (first, seq % step) {
        (true, _) => Some((0, end)),
        (false, 0) => Some((end.saturating_sub(step), end)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_keeps_at_least_its_number_and_at_most_an_eighth_more() {
        for kept in [1, 7, 8, 100] {
            let mut journal = std::collections::BTreeSet::new();
            for seq in 1..1000u64 {
                journal.insert(seq);
                if let Some((from, to)) = outdated(seq, kept, seq == 500) {
                    assert!(to - from <= (kept / 8).max(1) || from == 0);
                    journal.retain(|seq| *seq < from || *seq >= to);
                }
                let oldest = *journal.first().unwrap();
                assert_eq!(journal.len() as u64, seq - oldest + 1, "no hole");
                assert!(journal.len() as u64 >= kept.min(seq) && journal.len() as u64 <= kept + kept / 8);
            }
        }
    }

    #[test]
    fn the_size_before_is_what_the_changes_replaced() {
        let change = |key: &str, new: Option<&str>, old: Option<&str>| Change {
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
