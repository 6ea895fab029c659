//! The journal: of every unit its entry, what undoes it, and where it lies in the bytes of its module's journal.

use nexum_host_ifaces::{
    store::{JournalEntry, ModuleId, StateChange, StoreError},
    types::Reorg,
};
use rocksdb::{DBPinnableSlice, WriteBatch};
use serde::{Deserialize, Serialize, Serializer};

use super::table::{EVENTS, module};
use crate::{
    codec::{self, Raw},
    db::{Db, Read, Rows},
};

/// What a unit takes in the journal besides its record: keys, its part of the receipts, and what RocksDB adds.
const UNIT_BYTES: usize = 128;

const RECORD: &str = "a journal record";

fn key(id: ModuleId, seq: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&id.0.to_be_bytes());
    key[4..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// One journal record as it is written.
#[derive(Serialize)]
pub(crate) struct EventOut<'a> {
    pub entry: &'a JournalEntry,
    pub state_bytes_before: u64,
    /// The dead letter that the unit resolved, encoded, to be put back when the unit is undone.
    pub resolved: Option<(u64, Raw<'a>)>,
    /// What the module was told of a reorg, to be told again when the unit is undone.
    pub told: Option<&'a Reorg>,
    pub undo: Undos<'a>,
}

/// The changes of a unit, of which key, old value and the new value's size are kept.
pub(crate) struct Undos<'a>(pub &'a [StateChange]);

impl Serialize for Undos<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|change| {
            let new_bytes = change.new.as_ref().map(|new| new.len() as u64);
            (change.key.as_str(), change.old.as_deref().map(Raw), new_bytes)
        }))
    }
}

/// The same record as it is read.
#[derive(Debug, Deserialize)]
pub(crate) struct EventIn<'a> {
    pub entry: JournalEntry,
    pub state_bytes_before: u64,
    #[serde(borrow)]
    pub resolved: Option<(u64, Raw<'a>)>,
    pub told: Option<Box<Reorg>>,
    /// Key, what the unit replaced, and the size of what it wrote.
    #[serde(borrow)]
    pub undo: Vec<(&'a str, Option<Raw<'a>>, Option<u64>)>,
}

/// A place in a module's journal, in bytes from the first unit on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct At {
    /// Of everything.
    pub all: u64,
    /// Of recordings, which are part of it.
    pub recorded: u64,
}

impl At {
    /// Of what a rewind needs.
    pub fn undo(self) -> u64 {
        self.all.saturating_sub(self.recorded)
    }
}

/// Where a unit lies in its module's journal. It comes last in the record, whose size is part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub from: At,
    pub bytes: u64,
    /// What of it is the unit's recording.
    pub recorded: u64,
    /// The size of a recording that was too large to be kept; 0: none was.
    pub left_out: u64,
}

impl Span {
    pub fn end(self) -> At {
        let At { all, recorded } = self.from;
        At { all: all.saturating_add(self.bytes), recorded: recorded.saturating_add(self.recorded) }
    }
}

/// A journal record with where it lies.
#[derive(Deserialize)]
struct Placed<'a> {
    #[serde(borrow)]
    event: EventIn<'a>,
    span: Span,
}

/// The recording of a unit, as far as its record says something of it: bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    Kept(usize),
    LeftOut(usize),
}

/// Adds to an encoded journal record where it lies, which makes it whole.
pub(crate) fn place(record: &mut Vec<u8>, from: At, recording: Recorded) -> Result<Span, StoreError> {
    let (recorded, left_out) = match recording {
        Recorded::Kept(bytes) => (bytes as u64, 0),
        Recorded::LeftOut(bytes) => (0, bytes as u64),
    };
    let span = Span { from, bytes: (record.len() + UNIT_BYTES) as u64 + recorded, recorded, left_out };
    *record = postcard::to_extend(&span, std::mem::take(record))
        .map_err(|error| StoreError::Failed(format!("cannot encode: {error}")))?;
    Ok(span)
}

fn decode_placed(bytes: &[u8]) -> Result<Placed<'_>, StoreError> {
    codec::decode(bytes, RECORD)
}

/// Where a journal record says that it lies.
pub(crate) fn decode_span(bytes: &[u8]) -> Result<Span, StoreError> {
    Ok(decode_placed(bytes)?.span)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<EventIn<'_>, StoreError> {
    Ok(decode_placed(bytes)?.event)
}

/// The entry alone, which comes first in the record.
pub(crate) fn decode_entry(bytes: &[u8]) -> Result<JournalEntry, StoreError> {
    codec::decode(bytes, RECORD)
}

/// The records from `seq` on, oldest first.
pub(crate) fn rows(from: &impl Read, id: ModuleId, seq: u64) -> Rows<'_> {
    from.rows(EVENTS, (key(id, seq), module(id).1))
}

/// The entries from `seq` on, oldest first.
pub(crate) fn entries(
    from: &impl Read,
    id: ModuleId,
    seq: u64,
) -> impl Iterator<Item = Result<JournalEntry, StoreError>> {
    rows(from, id, seq).map(|row| decode_entry(&row?.1))
}

/// The records with `from < seq <= to`, newest first.
pub(crate) fn newest_first(db: &Db, id: ModuleId, from: u64, to: u64) -> Rows<'_> {
    db.rows_back(EVENTS, (key(id, from + 1), key(id, to + 1)))
}

/// One record.
pub(crate) fn get(from: &impl Read, id: ModuleId, seq: u64) -> Result<Option<DBPinnableSlice<'_>>, StoreError> {
    from.get(EVENTS, key(id, seq))
}

/// Where a unit lies in the bytes of the module's journal; `None` when it is not kept.
pub(crate) fn span(from: &impl Read, id: ModuleId, seq: u64) -> Result<Option<Span>, StoreError> {
    let mut options = from.options();
    // A large record would take the place of everything that is read often.
    options.fill_cache(false);
    let found = from.get_with(EVENTS, key(id, seq), &options)?;
    found.map(|bytes| decode_span(&bytes)).transpose()
}

/// Adds an encoded record.
pub(crate) fn put(batch: &mut WriteBatch, db: &Db, id: ModuleId, seq: u64, record: &[u8]) {
    batch.put_cf(db.family(EVENTS), key(id, seq), record);
}

/// Removes units from the first number to before the second.
pub(crate) fn delete(batch: &mut WriteBatch, db: &Db, id: ModuleId, (from, to): (u64, u64)) {
    batch.delete_range_cf(db.family(EVENTS), key(id, from), key(id, to));
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::{
        Hash,
        event::{Cursor, EventId, SourceId},
        store::UnitKind,
    };

    use super::*;

    fn entry() -> JournalEntry {
        JournalEntry {
            seq: 3,
            at_ms: 4,
            kind: UnitKind::Handled,
            event: EventId::Block { chain_id: 1, number: 2, hash: Hash([3; 32]) },
            source: Some(SourceId::new("chain:1")),
            cursor_before: None,
            cursor: Some(Cursor::block(2, Hash([3; 32]))),
            component: Hash([4; 32]),
            fuel: 5,
            state_digest: Hash([5; 32]),
            effects_digest: Hash::default(),
            previous: Hash([6; 32]),
        }
    }

    #[test]
    fn keys_are_in_the_order_of_units() {
        assert!(key(ModuleId(7), 255) < key(ModuleId(7), 256));
        assert!(key(ModuleId(7), u64::MAX) < key(ModuleId(8), 0));
    }

    #[test]
    fn an_event_reads_back_with_what_undoes_it() {
        let changes = [
            StateChange { key: "a".into(), new: Some(vec![1]), old: None },
            StateChange { key: "b".into(), new: None, old: Some(vec![0, 255]) },
        ];
        let entry = entry();
        let letter = [9, 9];
        let out = EventOut {
            entry: &entry,
            state_bytes_before: 77,
            resolved: Some((2, Raw(&letter))),
            told: None,
            undo: Undos(&changes),
        };
        let mut bytes = codec::encode_vec(&out).unwrap();
        assert!(decode_span(&bytes).is_err() && decode(&bytes).is_err(), "it does not say where it lies");
        let from = At { all: 1_000, recorded: 300 };
        let span = {
            let mut bytes = bytes.clone();
            let left_out = place(&mut bytes, from, Recorded::LeftOut(70)).unwrap();
            assert_eq!(decode_span(&bytes).unwrap(), left_out);
            assert_eq!((left_out.left_out, left_out.end().recorded), (70, 300));
            left_out
        };
        let kept = place(&mut bytes, from, Recorded::Kept(50)).unwrap();
        assert_eq!((kept.from, decode_span(&bytes).unwrap()), (from, kept));
        assert!(kept.end().all >= 1_000 + 50 + bytes.len() as u64);
        assert_eq!((kept.end().recorded, kept.end().undo()), (350, span.end().undo()), "with and without the same");
        let read = decode(&bytes).unwrap();
        assert_eq!((&read.entry, read.state_bytes_before), (&entry, 77));
        assert_eq!(read.resolved, Some((2, Raw(&letter))));
        assert_eq!(read.undo, [("a", None, Some(1)), ("b", Some(Raw(&[0, 255])), None)]);
        assert_eq!(decode_entry(&bytes).unwrap(), entry);
    }
}
