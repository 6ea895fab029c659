//! Recordings: those of handled events beside their journal entries, and the newest crashes of each module, one of each
//! event that a component failed at.
//!
//! Invariant: nothing here looks into a recording; how large one may be is decided by who made it.

use nexum_host_ifaces::{
    Hash,
    recording::{Crash, CrashBrief},
    store::{ModuleId, StoreError},
};
use rocksdb::WriteBatch;
use serde::{Deserialize, Serialize};

use super::table::{RECORDINGS, module};
use crate::{
    codec::{self, Raw},
    db::{Db, Read, Row, Rows},
};

/// Crashes kept per module, each of another event or version: more dead letters than anybody looks at one by one.
const CRASHES_MAX: usize = 64;
/// What their recordings may take together, per module: many of the usual size, a few kilobytes, and sixteen of the greatest.
const CRASHES_BYTES_MAX: u64 = 64 << 20;

const CRASH: &str = "a crash";

/// Number, 0 ++ sequence of a handled event, or number, 1 ++ number of a crash.
fn key(id: ModuleId, crash: bool, number: u64) -> [u8; 13] {
    let mut key = [0; 13];
    key[..4].copy_from_slice(&id.0.to_be_bytes());
    key[4] = crash.into();
    key[5..].copy_from_slice(&number.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(5..)?.try_into().ok()?))
}

/// Half-open range of a module's crashes.
fn crash_range(id: ModuleId) -> ([u8; 13], [u8; 4]) {
    (key(id, true, 0), module(id).1)
}

#[derive(Serialize)]
struct CrashOut<'a> {
    brief: &'a CrashBrief,
    recording: Raw<'a>,
}

#[derive(Deserialize)]
struct CrashIn<'a> {
    brief: CrashBrief,
    #[serde(borrow)]
    recording: Raw<'a>,
}

/// What decides how long a crash is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub number: u64,
    pub event: Box<str>,
    pub component: Hash,
    /// Whether it can be replayed.
    pub whole: bool,
    pub bytes: u64,
}

impl Kept {
    fn new(number: u64, brief: CrashBrief, bytes: usize) -> Self {
        Self { number, event: brief.event.into(), component: brief.component, whole: brief.whole, bytes: bytes as u64 }
    }

    /// A later attempt of the same component at the same event can stand for it. Two versions whose `init` failed are no
    /// attempts at the same, and what can be replayed does not go for what cannot.
    fn goes_for(&self, later: &Self) -> bool {
        (&self.event, self.component) == (&later.event, later.component) && (later.whole || !self.whole)
    }
}

/// Adds the crash `number` to a batch, and drops what goes for it. `kept` are those of the module, oldest first, on the
/// disk and in the batch.
pub(crate) fn put_crash(
    batch: &mut WriteBatch,
    db: &Db,
    id: ModuleId,
    crash: &Crash,
    number: u64,
    kept: &mut Vec<Kept>,
) -> Result<(), StoreError> {
    let family = db.family(RECORDINGS);
    let brief = CrashBrief { number, bytes: crash.recording.len() as u64, ..crash.brief.clone() };
    let bytes = codec::encode_vec(&CrashOut { brief: &brief, recording: Raw(&crash.recording) })?;
    let newest = Kept::new(number, brief, bytes.len());
    batch.put_cf(family, key(id, true, number), bytes);
    for outdated in add(kept, newest) {
        batch.delete_cf(family, key(id, true, outdated));
    }
    Ok(())
}

/// Adds a crash to those that are kept, and answers the numbers of those that go for it: earlier attempts at its event,
/// and the oldest past the bounds.
fn add(kept: &mut Vec<Kept>, newest: Kept) -> Vec<u64> {
    let earlier: Vec<u64> = kept.extract_if(.., |crash| crash.goes_for(&newest)).map(|crash| crash.number).collect();
    kept.push(newest);
    let mut bytes: u64 = kept.iter().map(|crash| crash.bytes).sum();
    let mut excess = 0;
    while excess + 1 < kept.len() && (kept.len() - excess > CRASHES_MAX || bytes > CRASHES_BYTES_MAX) {
        bytes -= kept[excess].bytes;
        excess += 1;
    }
    earlier.into_iter().chain(kept.drain(..excess).map(|crash| crash.number)).collect()
}

/// Adds the recording of a handled event.
pub(crate) fn put(batch: &mut WriteBatch, db: &Db, id: ModuleId, seq: u64, recording: &[u8]) {
    batch.put_cf(db.family(RECORDINGS), key(id, false, seq), recording);
}

/// Removes those of units from the first number to before the second.
pub(crate) fn delete(batch: &mut WriteBatch, db: &Db, id: ModuleId, (from, to): (u64, u64)) {
    batch.delete_range_cf(db.family(RECORDINGS), key(id, false, from), key(id, false, to));
}

/// The recording of a handled event.
pub(crate) fn get(from: &impl Read, id: ModuleId, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(from.get(RECORDINGS, key(id, false, seq))?.map(|recording| recording.to_vec()))
}

/// The first unit from `seq` on of which there is a recording.
pub(crate) fn first(from: &impl Read, id: ModuleId, seq: u64) -> Result<Option<u64>, StoreError> {
    let (db, mut options) = (from.db(), from.options());
    options.set_iterate_upper_bound(key(id, true, 0));
    // Its value may be large, and is not asked for.
    let mut rows = db.rocks.raw_iterator_cf_opt(db.family(RECORDINGS), options);
    rows.seek(key(id, false, seq));
    rows.status().map_err(|error| db.failed(&error))?;
    Ok(rows.key().and_then(parse_key))
}

/// Number of a module's newest crash; 0 when there is none.
pub(crate) fn last_crash(from: &impl Read, id: ModuleId) -> Result<u64, StoreError> {
    let last = from.rows_back(RECORDINGS, crash_range(id)).next().transpose()?;
    Ok(last.and_then(|(key, _)| parse_key(&key)).unwrap_or(0))
}

/// The recording of a crash.
pub(crate) fn crash(from: &impl Read, id: ModuleId, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
    match from.get(RECORDINGS, key(id, true, number))? {
        Some(bytes) => Ok(Some(codec::decode::<CrashIn<'_>>(&bytes, CRASH)?.recording.0.to_vec())),
        None => Ok(None),
    }
}

fn crash_rows(from: &impl Read, id: ModuleId) -> Rows<'_> {
    from.rows(RECORDINGS, crash_range(id))
}

/// The crashes kept of a module, oldest first.
pub(crate) fn crashes(from: &impl Read, id: ModuleId) -> Result<Vec<CrashBrief>, StoreError> {
    let brief = |row: Result<Row, StoreError>| Ok(codec::decode::<CrashIn<'_>>(&row?.1, CRASH)?.brief);
    crash_rows(from, id).map(brief).collect()
}

/// The same, as far as it decides how long each is kept. Reads every recording: ask once.
pub(crate) fn kept_crashes(from: &impl Read, id: ModuleId) -> Result<Vec<Kept>, StoreError> {
    let kept = |row: Result<Row, StoreError>| {
        let (key, bytes) = row?;
        // One that cannot be read goes in its turn, and keeps no other from being kept.
        let number = parse_key(&key).unwrap_or(0);
        Ok(match codec::decode::<CrashIn<'_>>(&bytes, CRASH) {
            Ok(crash) => Kept::new(number, crash.brief, bytes.len()),
            Err(_) => {
                let (event, component, bytes) = ("".into(), Hash::default(), bytes.len() as u64);
                Kept { number, event, component, whole: false, bytes }
            }
        })
    };
    crash_rows(from, id).map(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(number: u64, event: &str, bytes: u64) -> Kept {
        Kept { number, event: event.into(), component: Hash::default(), whole: true, bytes }
    }

    #[test]
    fn one_crash_of_each_event_is_kept_and_the_oldest_go_first() {
        let mib = 1 << 20;
        let check = |before: &[(u64, &str, u64)], bytes: u64, gone: &[u64]| {
            let mut all = before.iter().map(|(number, event, bytes)| kept(*number, event, *bytes)).collect();
            assert_eq!(add(&mut all, kept(9, "new", bytes)), gone, "{before:?}");
            assert_eq!(all.len(), before.len() + 1 - gone.len());
            assert_eq!(all.last(), Some(&kept(9, "new", bytes)));
        };
        check(&[], 1, &[]);
        check(&[(1, "a", 1), (2, "new", 1), (3, "b", 1)], 1, &[2]);
        check(&[(1, "new", 1), (2, "new", 1)], 1, &[1, 2]);
        check(&[(1, "a", 30 * mib), (2, "b", 30 * mib)], 4 * mib, &[]);
        check(&[(1, "a", 30 * mib), (2, "b", 30 * mib)], 5 * mib, &[1]);
        check(&[(1, "a", 30 * mib), (2, "new", 34 * mib)], 34 * mib, &[2]);
        // One that is larger than everything together is the newest all the same.
        check(&[(1, "a", 1), (2, "b", 1)], 65 * mib, &[1, 2]);

        let other = Kept { component: Hash([1; 32]), ..kept(2, "init", 1) };
        assert!(add(&mut vec![kept(1, "init", 1)], other).is_empty(), "of another version");

        let cut = Kept { whole: false, ..kept(2, "a", 1) };
        assert!(add(&mut vec![kept(1, "a", 1)], cut.clone()).is_empty(), "what can be replayed stays");
        assert_eq!(add(&mut vec![cut], kept(3, "a", 1)), [2]);

        let mut all = Vec::new();
        let gone: Vec<u64> = (1..=66).flat_map(|number| add(&mut all, kept(number, &number.to_string(), 1))).collect();
        assert_eq!((gone, all.len(), all[0].number), (vec![1, 2], 64, 3));
    }
}
