//! The ledger: a module's progress as its actor holds it, from which each unit is made.
//!
//! Pure: it computes the next record and the journal entry; the store writes them. The ledger moves on with what is sent;
//! when a write is not acknowledged, the ledger is discarded with its instance.

use sha2::{Digest, Sha256};

use crate::{
    Hash,
    encoded::encoded,
    event::{Cursor, EventId, SourceId},
    outbox::Entry,
    store::{Change, EventUnit, JournalEntry, ModuleId, ModuleRecord, UnitKind},
};

#[derive(Debug, Clone)]
pub struct Ledger {
    pub module: ModuleId,
    pub component: Hash,
    pub record: ModuleRecord,
}

/// What the caller knows of the unit to be.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub kind: UnitKind,
    pub event: EventId,
    /// The source and where its cursor stands now; absent for `init` and for retried dead letters.
    pub moved: Option<(SourceId, Cursor)>,
    pub at_ms: u64,
    pub fuel: u64,
    pub changes: Vec<Change>,
    /// Keys plus values after the changes, bytes.
    pub state_bytes: u64,
    pub effects: Vec<Entry>,
}

impl Ledger {
    /// The unit that follows the current record. The ledger itself does not change; see `adopt`.
    pub fn seal(&self, outcome: Outcome) -> EventUnit {
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
            replayed: Vec::new(),
            reorgs: None,
            recording: None,
        }
    }

    /// Moves on to a record whose unit was sent.
    pub fn adopt(&mut self, record: ModuleRecord) {
        self.record = record;
    }
}

impl JournalEntry {
    /// SHA-256 over the entry, which contains the digest of the one before.
    pub fn digest(&self) -> Hash {
        Hash(Sha256::digest(encoded(self)).into())
    }

    /// Whether the unit takes its source back to before what was handled of it. A reorg may, which leads to where two
    /// branches part, and so may a schedule, whose clock was wrong before.
    pub(crate) fn goes_back(&self) -> bool {
        match (&self.event, &self.cursor_before, &self.cursor) {
            (EventId::Reorg { .. } | EventId::NthReorg { .. }, _, _) => false,
            (
                _,
                Some(Cursor::Chain { number: before, part: part_before, .. }),
                Some(Cursor::Chain { number, part, .. }),
            ) => (number, part) < (before, part_before),
            (_, Some(Cursor::Outbox { number: before }), Some(Cursor::Outbox { number })) => number < before,
            _ => false,
        }
    }
}

/// SHA-256 over keys and new values, each with its length, in order; zero when nothing changed.
fn state_digest(changes: &[Change]) -> Hash {
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
fn effects_digest(effects: &[Entry]) -> Hash {
    if effects.is_empty() {
        return Hash::default();
    }
    let mut hasher = Sha256::new();
    for Entry { id, key, lane, release, effect, block: _, sent_at_ms: _ } in effects {
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

    fn outcome(cursor: u64) -> Outcome {
        let source = SourceId::new("chain:1");
        Outcome {
            kind: UnitKind::Handled,
            event: EventId::Block { chain_id: 1, number: cursor, hash: Hash([1; 32]) },
            moved: Some((source, Cursor::block(cursor, Hash([1; 32])))),
            at_ms: 5,
            fuel: 7,
            changes: vec![Change { key: "a".into(), new: Some(vec![1]), old: None }],
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

    /// Digests are compared between engines and covered by receipts: what makes one must never change.
    #[test]
    fn the_digest_of_an_entry_stays_what_it_is() {
        let entry = JournalEntry {
            seq: 300,
            at_ms: 1_700_000_000_000,
            kind: UnitKind::Handled,
            event: EventId::Block { chain_id: 1, number: 10, hash: Hash([1; 32]) },
            source: Some(SourceId::new("chain:1")),
            cursor_before: None,
            cursor: Some(Cursor::block(10, Hash([1; 32]))),
            component: Hash([4; 32]),
            fuel: 7,
            state_digest: Hash([5; 32]),
            effects_digest: Hash::default(),
            previous: Hash([6; 32]),
        };
        let digest = "0x7e9b614978b51788a28e96c7c5f4b97b0835eaa474d34458ed97c269ce432d43";
        assert_eq!(entry.digest().to_string(), digest);
    }

    #[test]
    fn only_a_reorg_and_a_schedule_take_a_source_back() {
        let mut ledger = Ledger { module: ModuleId(1), component: Hash::default(), record: ModuleRecord::default() };
        let chain = |number, part| Cursor::Chain { number, hash: Some(Hash([1; 32])), part };
        let mut goes_back = |before: Cursor, after: Cursor, event: EventId| {
            let source = SourceId::new("any");
            ledger.record.cursors.insert(source.clone(), before);
            ledger.seal(Outcome { event, moved: Some((source, after)), ..outcome(1) }).entry.goes_back()
        };
        let block = || outcome(1).event;
        let reorg = EventId::NthReorg { chain_id: 1, old_head: Hash([1; 32]), new_head: Hash([2; 32]), nth: 1 };
        assert!(!goes_back(chain(8, Part::Block), chain(8, Part::Block), block()));
        assert!(!goes_back(chain(8, Part::Logs), chain(8, Part::Block), block()));
        assert!(!goes_back(chain(8, Part::Block), chain(9, Part::Logs), block()));
        assert!(goes_back(chain(8, Part::Block), chain(8, Part::Logs), block()));
        assert!(goes_back(chain(8, Part::Logs), chain(7, Part::Block), block()));
        assert!(!goes_back(chain(8, Part::Block), chain(7, Part::Block), reorg));
        let outbox = |number| Cursor::Outbox { number };
        assert!(!goes_back(outbox(4), outbox(5), block()));
        assert!(goes_back(outbox(4), outbox(3), block()));
        let cron = |fired_at| Cursor::Cron { fired_at };
        assert!(!goes_back(cron(4), cron(3), block()));
    }

    #[test]
    fn a_deletion_and_an_empty_value_have_different_digests() {
        let change = |new| Change { key: "k".into(), new, old: None };
        assert_ne!(state_digest(&[change(None)]), state_digest(&[change(Some(vec![]))]));
        assert_eq!(state_digest(&[]), Hash::default());
    }
}
