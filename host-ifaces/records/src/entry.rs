//! Entries of a journal, each of which contains the digest of the one before.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Hash,
    encoded::encoded,
    event::{Cursor, EventId, SourceId},
};

/// What a unit records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitKind {
    /// The guest handled the event.
    Handled,
    /// The guest asked for its writes so far; the event is not handled yet.
    Flushed,
    /// The event went to the dead letters.
    Quarantined,
    /// Nothing concerned the module up to the new cursor.
    Advanced,
}

/// The journal entry of one unit. `digest()` chains it to the one before, so that fields and variants are appended and
/// never reordered: that would change the digest of every entry there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub kind: UnitKind,
    pub event: EventId,
    pub source: Option<SourceId>,
    /// The source's cursor before and after.
    pub cursor_before: Option<Cursor>,
    pub cursor: Option<Cursor>,
    pub component: Hash,
    pub fuel: u64,
    pub state_digest: Hash,
    pub effects_digest: Hash,
    pub previous: Hash,
}

impl JournalEntry {
    /// SHA-256 over the entry, which contains the digest of the one before.
    pub fn digest(&self) -> Hash {
        Hash(Sha256::digest(encoded(self)).into())
    }

    /// Whether the unit takes its source back to before what was handled of it. A reorg may, which leads to where two
    /// branches part, and so may a schedule, whose clock was wrong before.
    pub fn goes_back(&self) -> bool {
        match (&self.event, &self.cursor_before, &self.cursor) {
            (EventId::Reorg { .. }, _, _) => false,
            (
                _,
                Some(Cursor::Chain { number: before, part: part_before, .. }),
                Some(Cursor::Chain { number, part, .. }),
            ) => (number, part) < (before, part_before),
            (_, Some(Cursor::Number { number: before }), Some(Cursor::Number { number })) => number < before,
            (_, Some(Cursor::Message { time_ns: before, .. }), Some(Cursor::Message { time_ns, .. })) => {
                time_ns < before
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
