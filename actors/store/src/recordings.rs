//! Recordings: those of handled events beside their journal entries, and the newest crashes of each module.
//!
//! Invariant: nothing here looks into a recording; how large one may be is decided by who made it.

use nexum_host_ifaces::{
    recording::{Crash, CrashBrief, Wanted},
    store::{ModuleId, StoreError},
};
use rocksdb::{IteratorMode, WriteBatch};
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, Raw},
    keys,
    store::Store,
};

/// Crashes kept per module, the newest: the attempts at two events, and two more.
pub(crate) const CRASHES_MAX: u64 = 8;

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

/// Adds the crash `number` to a batch, and drops the one that is too old.
pub(crate) fn put(
    batch: &mut WriteBatch,
    store: &Store,
    id: ModuleId,
    crash: &Crash,
    number: u64,
) -> Result<(), StoreError> {
    let family = store.family(keys::RECORDINGS)?;
    let brief = CrashBrief { number, bytes: crash.recording.len() as u64, ..crash.brief.clone() };
    let bytes = codec::encode_vec(&CrashOut { brief: &brief, recording: Raw(&crash.recording) })?;
    batch.put_cf(family, keys::crash(id, number), bytes);
    let outdated = (number + 1).saturating_sub(CRASHES_MAX);
    batch.delete_range_cf(family, keys::crash(id, 0), keys::crash(id, outdated));
    Ok(())
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
                return found.map_err(|error| self.failed(&error))?.ok_or_else(|| {
                    StoreError::UnknownRecording(format!(
                        "module `{name}` has no recording of unit {seq}: [journal] record = \"all\" keeps them, as long as \
                         the unit is in the journal"
                    ))
                });
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
}
