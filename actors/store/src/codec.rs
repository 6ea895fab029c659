//! How records become bytes: postcard behind one format byte, so that a later layout can be told apart.

use nexum_host_ifaces::{
    store::{Change, JournalEntry, StoreError},
    types::Reorg,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

const LAYOUT: u8 = 1;

/// What a unit takes in the journal besides its record: keys, its part of the receipts, and what RocksDB adds.
const UNIT_BYTES: usize = 128;

/// Bytes that postcard copies as a whole; a `Vec<u8>` it would write one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raw<'a>(pub &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(deserializer).map(Self)
    }
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
pub(crate) struct Undos<'a>(pub &'a [Change]);

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

/// Where a unit lies in its module's journal. It follows the record; records of versions that did not bound the journal's
/// bytes have none, and such a version does not read so far. What is said of recordings follows in turn: before it was,
/// they counted as what a rewind needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

/// The recording of a unit, as far as its record says something of it: bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    Kept(usize),
    LeftOut(usize),
}

/// Adds to an encoded journal record where it lies.
pub(crate) fn place(record: &mut Vec<u8>, from: At, recording: Recorded) -> Result<Span, StoreError> {
    let (recorded, left_out) = match recording {
        Recorded::Kept(bytes) => (bytes as u64, 0),
        Recorded::LeftOut(bytes) => (0, bytes as u64),
    };
    let span = Span { from, bytes: (record.len() + UNIT_BYTES) as u64 + recorded, recorded, left_out };
    let written = (from.all, span.bytes, from.recorded, recorded, left_out);
    *record = postcard::to_extend(&written, std::mem::take(record))
        .map_err(|error| StoreError::Failed(format!("cannot encode: {error}")))?;
    Ok(span)
}

/// Where a journal record says that it lies, if it says so.
pub(crate) fn decode_span(bytes: &[u8]) -> Result<Option<Span>, StoreError> {
    let what = "a journal record";
    let taken = postcard::take_from_bytes::<EventIn<'_>>(body(bytes, what)?);
    let (_, rest) = taken.map_err(|error| damaged(what, &error))?;
    if rest.is_empty() {
        return Ok(None);
    }
    let taken = postcard::take_from_bytes::<(u64, u64)>(rest);
    let ((all, bytes), rest) = taken.map_err(|error| damaged(what, &error))?;
    let (from_recorded, recorded, left_out) = match rest.is_empty() {
        true => (0, 0, 0),
        false => postcard::from_bytes::<(u64, u64, u64)>(rest).map_err(|error| damaged(what, &error))?,
    };
    Ok(Some(Span { from: At { all, recorded: from_recorded }, bytes, recorded, left_out }))
}

/// Encodes into a buffer that is used again.
pub(crate) fn encode<'a, T: Serialize>(value: &T, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], StoreError> {
    let mut taken = std::mem::take(buffer);
    taken.clear();
    taken.push(LAYOUT);
    *buffer =
        postcard::to_extend(value, taken).map_err(|error| StoreError::Failed(format!("cannot encode: {error}")))?;
    Ok(buffer)
}

pub(crate) fn encode_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut buffer = Vec::new();
    encode(value, &mut buffer)?;
    Ok(buffer)
}

fn body<'a>(bytes: &'a [u8], what: &str) -> Result<&'a [u8], StoreError> {
    match bytes.split_first() {
        Some((&LAYOUT, body)) => Ok(body),
        Some((other, _)) => Err(StoreError::Failed(format!("{what} has layout {other}, known is {LAYOUT}"))),
        None => Err(StoreError::Failed(format!("{what} is empty"))),
    }
}

fn damaged(what: &str, error: &postcard::Error) -> StoreError {
    StoreError::Failed(format!("{what} cannot be read: {error}"))
}

/// `what` names the record in errors.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, StoreError> {
    postcard::from_bytes(body(bytes, what)?).map_err(|error| damaged(what, &error))
}

/// The same for a record that something may follow.
pub(crate) fn decode_first<'a, T: DeserializeOwned>(bytes: &'a [u8], what: &str) -> Result<(T, &'a [u8]), StoreError> {
    postcard::take_from_bytes(body(bytes, what)?).map_err(|error| damaged(what, &error))
}

/// The same for a record that borrows from the bytes.
pub(crate) fn decode_borrowed<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, StoreError> {
    postcard::from_bytes(body(bytes, what)?).map_err(|error| damaged(what, &error))
}

pub(crate) fn decode_event(bytes: &[u8]) -> Result<EventIn<'_>, StoreError> {
    let what = "a journal record";
    postcard::from_bytes(body(bytes, what)?).map_err(|error| damaged(what, &error))
}

/// The entry alone, which comes first in the record.
pub(crate) fn decode_entry(bytes: &[u8]) -> Result<JournalEntry, StoreError> {
    let what = "a journal record";
    let (entry, _) = postcard::take_from_bytes(body(bytes, what)?).map_err(|error| damaged(what, &error))?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::{
        Hash,
        event::{Cursor, EventId, SourceId},
        store::{ModuleRecord, UnitKind},
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
    fn an_event_reads_back_with_what_undoes_it() {
        let changes = [
            Change { key: "a".into(), new: Some(vec![1]), old: None },
            Change { key: "b".into(), new: None, old: Some(vec![0, 255]) },
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
        let mut bytes = encode_vec(&out).unwrap();
        assert_eq!(decode_span(&bytes).unwrap(), None, "as earlier versions wrote it");
        let from = At { all: 1_000, recorded: 300 };
        let span = {
            let mut bytes = bytes.clone();
            let left_out = place(&mut bytes, from, Recorded::LeftOut(70)).unwrap();
            assert_eq!(decode_span(&bytes).unwrap(), Some(left_out));
            assert_eq!((left_out.left_out, left_out.end().recorded), (70, 300));
            left_out
        };
        let mut earlier = postcard::to_extend(&(1_000u64, 200u64), bytes.clone()).unwrap();
        let read = decode_span(&earlier).unwrap().unwrap();
        assert_eq!(
            (read.from.undo(), read.end()),
            (1_000, At { all: 1_200, recorded: 0 }),
            "as it was before recordings"
        );
        earlier.pop();
        assert!(decode_span(&earlier).is_err());
        let kept = place(&mut bytes, from, Recorded::Kept(50)).unwrap();
        assert_eq!((kept.from, decode_span(&bytes).unwrap()), (from, Some(kept)));
        assert!(kept.end().all >= 1_000 + 50 + bytes.len() as u64);
        assert_eq!((kept.end().recorded, kept.end().undo()), (350, span.end().undo()), "with and without the same");
        let read = decode_event(&bytes).unwrap();
        assert_eq!((&read.entry, read.state_bytes_before), (&entry, 77));
        assert_eq!(read.resolved, Some((2, Raw(&letter))));
        assert_eq!(read.undo, [("a", None, Some(1)), ("b", Some(Raw(&[0, 255])), None)]);
        assert_eq!(decode_entry(&bytes).unwrap(), entry);
    }

    #[test]
    fn unknown_layouts_and_cut_records_are_refused_by_name() {
        let mut bytes = encode_vec(&ModuleRecord::default()).unwrap();
        assert_eq!(decode::<ModuleRecord>(&bytes, "x").unwrap(), ModuleRecord::default());
        let cut = decode::<ModuleRecord>(&bytes[..3], "the record of `m`").unwrap_err();
        assert!(cut.to_string().starts_with("store: the record of `m` cannot be read"), "{cut}");
        bytes[0] = 9;
        let newer = decode::<ModuleRecord>(&bytes, "x").unwrap_err();
        assert_eq!(newer.to_string(), "store: x has layout 9, known is 1");
        assert!(decode::<ModuleRecord>(&[], "x").is_err());
    }
}
