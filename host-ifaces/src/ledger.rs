//! The ledger: a module's progress as its actor holds it, from which each unit is made.
//!
//! Pure: it computes the next record and the journal entry; the store writes them. The ledger moves on with what is sent;
//! when a write is not acknowledged, the ledger is discarded with its instance.

use nexum_records::encoded::encoded;
use sha2::{Digest, Sha256};

use crate::{
    Hash,
    event::{Cursor, EventId, SourceId},
    outbox::EffectEntry,
    state::ModuleId,
    store::{EventUnit, JournalEntry, ModuleRecord, StateChange, UnitKind},
};

#[derive(Debug, Clone)]
pub struct Ledger {
    pub module: ModuleId,
    pub component: Hash,
    pub record: ModuleRecord,
}

/// What the caller knows of the unit to be.
#[derive(Debug, Clone)]
pub struct UnitParts {
    pub kind: UnitKind,
    pub event: EventId,
    /// The source and where its cursor stands now; absent for `init` and for retried dead letters.
    pub moved: Option<(SourceId, Cursor)>,
    pub at_ms: u64,
    pub fuel: u64,
    pub changes: Vec<StateChange>,
    /// Keys plus values after the changes, bytes.
    pub state_bytes: u64,
    pub effects: Vec<EffectEntry>,
}

impl Ledger {
    /// The unit that follows the current record. The ledger itself does not change; see `adopt`.
    pub fn seal(&self, outcome: UnitParts) -> EventUnit {
        let mut record = self.record.clone();
        record.seq += 1;
        record.state_bytes = outcome.state_bytes;
        let (source, cursor) = outcome.moved.unzip();
        let cursor_before = source.as_ref().and_then(|source| record.cursors.get(source).cloned());
        if let (Some(source), Some(cursor)) = (&source, &cursor) {
            record.cursors.insert(source.clone(), cursor.clone());
        }
        let entry = JournalEntry {
            seq: record.seq,
            at_ms: outcome.at_ms,
            kind: outcome.kind,
            event: outcome.event,
            source,
            cursor_before,
            cursor,
            component: self.component,
            fuel: outcome.fuel,
            state_digest: state_digest(&outcome.changes),
            effects_digest: effects_digest(&outcome.effects),
            previous: record.journal,
        };
        record.journal = entry.digest();
        EventUnit {
            module: self.module,
            entry,
            changes: outcome.changes,
            record,
            health: None,
            quarantined: None,
            resolved: None,
            outbox: outcome.effects,
            told: None,
            redelivered: Vec::new(),
            reorgs: None,
            recording: None,
        }
    }

    /// Moves on to a record whose unit was sent.
    pub fn adopt(&mut self, record: ModuleRecord) {
        self.record = record;
    }
}

/// SHA-256 over keys and new values, each with its length, in order; zero when nothing changed.
fn state_digest(changes: &[StateChange]) -> Hash {
    if changes.is_empty() {
        return Hash::default();
    }
    let mut hasher = Sha256::new();
    for change in changes {
        hasher.update((change.key.len() as u64).to_le_bytes());
        hasher.update(change.key.as_bytes());
        match &change.new {
            Some(value) => {
                hasher.update((value.len() as u64 + 1).to_le_bytes());
                hasher.update(value);
            }
            None => hasher.update(0u64.to_le_bytes()),
        }
    }
    Hash(hasher.finalize().into())
}

/// SHA-256 over what the effects are and how they go, in order; zero without effects. When they were sent is left out, so
/// that two engines agree.
fn effects_digest(effects: &[EffectEntry]) -> Hash {
    if effects.is_empty() {
        return Hash::default();
    }
    let mut hasher = Sha256::new();
    for EffectEntry { id, key, lane, release, effect, block: _, sent_at_ms: _ } in effects {
        let bytes = encoded(&(id, key, lane, release, effect));
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    Hash(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Part;

    fn outcome(cursor: u64) -> UnitParts {
        let source = SourceId::new("chain:1");
        UnitParts {
            kind: UnitKind::Handled,
            event: EventId::Block { chain_id: 1, number: cursor, hash: Hash([1; 32]) },
            moved: Some((source, Cursor::block(cursor, Hash([1; 32])))),
            at_ms: 5,
            fuel: 7,
            changes: vec![StateChange { key: "a".into(), new: Some(vec![1]), old: None }],
            state_bytes: 2,
            effects: Vec::new(),
        }
    }

    #[test]
    fn units_follow_each_other_and_an_unacknowledged_one_changes_nothing() {
        let mut ledger = Ledger { module: ModuleId(1), component: Hash::default(), record: ModuleRecord::default() };
        let first = ledger.seal(outcome(10));
        assert_eq!(ledger.record.seq, 0);
        assert_eq!(first, ledger.seal(outcome(10)));
        ledger.adopt(first.record.clone());
        let second = ledger.seal(outcome(11));
        assert_eq!(second.entry.seq, 2);
        assert_eq!(second.entry.previous, first.entry.digest());
        assert_eq!(second.entry.cursor_before, first.entry.cursor);
    }

    impl PartialEq for EventUnit {
        fn eq(&self, other: &Self) -> bool {
            self.entry == other.entry && self.changes == other.changes && self.record == other.record
        }
    }

    #[test]
    fn only_a_reorg_and_a_schedule_take_a_source_back() {
        let mut ledger = Ledger { module: ModuleId(1), component: Hash::default(), record: ModuleRecord::default() };
        let chain = |number, part| Cursor::Chain { number, hash: Some(Hash([1; 32])), part };
        let mut goes_back = |before: Cursor, after: Cursor, event: EventId| {
            let source = SourceId::new("any");
            ledger.record.cursors.insert(source.clone(), before);
            ledger.seal(UnitParts { event, moved: Some((source, after)), ..outcome(1) }).entry.goes_back()
        };
        let block = || outcome(1).event;
        let reorg = EventId::Reorg { chain_id: 1, old_head: Hash([1; 32]), new_head: Hash([2; 32]), nth: 1 };
        assert!(!goes_back(chain(8, Part::Block), chain(8, Part::Block), block()));
        assert!(!goes_back(chain(8, Part::Logs), chain(8, Part::Block), block()));
        assert!(!goes_back(chain(8, Part::Block), chain(9, Part::Logs), block()));
        assert!(goes_back(chain(8, Part::Block), chain(8, Part::Logs), block()));
        assert!(goes_back(chain(8, Part::Logs), chain(7, Part::Block), block()));
        assert!(!goes_back(chain(8, Part::Block), chain(7, Part::Block), reorg));
        let number = |number| Cursor::Number { number };
        assert!(!goes_back(number(4), number(5), block()));
        assert!(goes_back(number(4), number(3), block()));
        let cron = |fired_at| Cursor::Cron { fired_at };
        assert!(!goes_back(cron(4), cron(3), block()));
    }

    #[test]
    fn a_deletion_and_an_empty_value_have_different_digests() {
        let change = |new| StateChange { key: "k".into(), new, old: None };
        assert_ne!(state_digest(&[change(None)]), state_digest(&[change(Some(vec![]))]));
        assert_eq!(state_digest(&[]), Hash::default());
    }
}
