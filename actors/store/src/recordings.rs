//! Recordings: those of handled events beside their journal entries, and the newest crashes of each module, one of each
//! event that a component failed at.
//!
//! Invariant: nothing here looks into a recording; how large one may be is decided by who made it.

use nexum_host_ifaces::{
    Hash,
    journal::REWIND_UNITS,
    recording::{Crash, CrashBrief, Wanted},
    store::{ModuleId, StoreError},
};
use rocksdb::{IteratorMode, WriteBatch};
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, Raw, Span},
    keys,
    store::Store,
};

/// Crashes kept per module, each of another event or version: more dead letters than anybody looks at one by one.
const CRASHES_MAX: usize = 64;
/// What their recordings may take together, per module: many of the usual size, a few kilobytes, and sixteen of the greatest.
const CRASHES_BYTES_MAX: u64 = 64 << 20;

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
pub(crate) fn put(
    batch: &mut WriteBatch,
    store: &Store,
    id: ModuleId,
    crash: &Crash,
    number: u64,
    kept: &mut Vec<Kept>,
) -> Result<(), StoreError> {
    let family = store.family(keys::RECORDINGS)?;
    let brief = CrashBrief { number, bytes: crash.recording.len() as u64, ..crash.brief.clone() };
    let bytes = codec::encode_vec(&CrashOut { brief: &brief, recording: Raw(&crash.recording) })?;
    let newest = Kept::new(number, brief, bytes.len());
    batch.put_cf(family, keys::crash(id, number), bytes);
    for outdated in add(kept, newest) {
        batch.delete_cf(family, keys::crash(id, outdated));
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

impl Store {
    /// Number of a module's newest crash; 0 when there is none.
    pub(crate) fn last_crash(&self, module: ModuleId) -> Result<u64, StoreError> {
        let family = self.family(keys::RECORDINGS)?;
        let (from, end) = keys::crashes(module);
        let mut options = rocksdb::ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(end);
        match self.db.iterator_cf_opt(family, options, IteratorMode::End).next() {
            Some(item) => Ok(keys::parse_recording(&item.map_err(|error| self.failed(&error))?.0).unwrap_or(0)),
            None => Ok(0),
        }
    }

    /// The crashes kept of a module, oldest first, as far as it decides how long each is kept. Reads every recording: ask once.
    pub(crate) fn kept_crashes(&self, module: ModuleId) -> Result<Vec<Kept>, StoreError> {
        let (from, end) = keys::crashes(module);
        self.range(keys::RECORDINGS, &from, end.to_vec())?
            .map(|item| {
                let (key, bytes) = item.map_err(|error| self.failed(&error))?;
                // One that cannot be read goes in its turn, and keeps no other from being kept.
                let number = keys::parse_recording(&key).unwrap_or(0);
                Ok(match codec::decode_borrowed::<CrashIn<'_>>(&bytes, "a crash") {
                    Ok(crash) => Kept::new(number, crash.brief, bytes.len()),
                    Err(_) => {
                        let (event, component, bytes) = ("".into(), Hash::default(), bytes.len() as u64);
                        Kept { number, event, component, whole: false, bytes }
                    }
                })
            })
            .collect()
    }

    /// The crashes kept of a module, oldest first.
    pub fn crashes(&self, name: &str) -> Result<Vec<CrashBrief>, StoreError> {
        let (from, end) = keys::crashes(self.id(name)?);
        self.range(keys::RECORDINGS, &from, end.to_vec())?
            .map(|item| {
                let (_, bytes) = item.map_err(|error| self.failed(&error))?;
                Ok(codec::decode_borrowed::<CrashIn<'_>>(&bytes, "a crash")?.brief)
            })
            .collect()
    }

    /// One recording of a module, as it was handed in.
    pub fn recording(&self, name: &str, wanted: Wanted) -> Result<Vec<u8>, StoreError> {
        let module = self.id(name)?;
        let number = match wanted {
            Wanted::Unit(seq) => {
                let found = self.db.get_cf(self.family(keys::RECORDINGS)?, keys::recording(module, seq));
                return match found.map_err(|error| self.failed(&error))? {
                    Some(recording) => Ok(recording),
                    None => Err(self.unrecorded(name, module, seq)?),
                };
            }
            Wanted::Crash(number) => number,
            Wanted::LastCrash => self.last_crash(module)?,
        };
        let found = self.db.get_cf(self.family(keys::RECORDINGS)?, keys::crash(module, number));
        let bytes = found.map_err(|error| self.failed(&error))?.ok_or_else(|| {
            StoreError::UnknownRecording(match wanted {
                Wanted::LastCrash => format!("no crash of module `{name}` is kept"),
                _ => format!("no crash {number} of module `{name}` is kept"),
            })
        })?;
        Ok(codec::decode_borrowed::<CrashIn<'_>>(&bytes, "a crash")?.recording.0.to_vec())
    }

    /// Bytes that the recording of a handled event may have, so that no single one takes much of a journal.
    pub(crate) fn recorded_max(&self) -> u64 {
        self.journal_bytes / (2 * REWIND_UNITS)
    }

    /// Why there is no recording of a unit.
    fn unrecorded(&self, name: &str, module: ModuleId, seq: u64) -> Result<StoreError, StoreError> {
        let why = match self.span(module, seq)? {
            Some(Span { left_out: bytes @ 1.., .. }) => {
                format!(
                    "it had {bytes} bytes and was left out, as each is that takes more than a 512th of [journal] bytes"
                )
            }
            Some(Span { recorded: 1.., .. }) => {
                "it was dropped, because what undoes the newest units takes the room of the journal ([journal] bytes)"
                    .into()
            }
            _ => "[journal] record = \"all\" keeps them, as long as the unit is in the journal".to_owned(),
        };
        Ok(StoreError::UnknownRecording(format!("module `{name}` has no recording of unit {seq}: {why}")))
    }
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
