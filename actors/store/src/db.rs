//! The database, as the tables see it: reads of what is there now or was at one moment, and every write.
//!
//! Invariant: what RocksDB says of a failure reaches nobody but in the words of the port.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use nexum_host_ifaces::store::StoreError;
use rocksdb::{
    ColumnFamily, DB, DBIterator, DBPinnableSlice, Direction, ErrorKind, IteratorMode, ReadOptions, Snapshot,
    WriteBatch, WriteOptions,
    perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats},
};
use serde::de::DeserializeOwned;

use crate::{
    codec,
    disk::{Disk, Written},
    open::OpenError,
    tables::table::{DEFAULT, after_prefix},
};

/// A key and its value.
pub(crate) type Row = (Box<[u8]>, Box<[u8]>);

/// The open database and where it lies.
pub(crate) struct Db {
    pub rocks: DB,
    pub directory: PathBuf,
    disk: Option<Arc<dyn Disk>>,
}

impl Db {
    pub fn new(rocks: DB, directory: &Path, disk: Option<Arc<dyn Disk>>) -> Self {
        Self { rocks, directory: directory.to_owned(), disk }
    }

    /// One of our column families, which are opened with the database.
    pub fn family(&self, name: &str) -> &ColumnFamily {
        let Some(family) = self.rocks.cf_handle(name) else { unreachable!("the column family `{name}` is not open") };
        family
    }

    /// What is there now, whatever is written later.
    pub fn moment(&self) -> Moment<'_> {
        Moment { db: self, snapshot: self.rocks.snapshot() }
    }

    /// Every write goes through here.
    pub fn write(&self, what: Written, batch: WriteBatch, options: &WriteOptions) -> Result<(), StoreError> {
        if let Some(disk) = &self.disk {
            disk.before(what).map_err(refused)?;
        }
        self.rocks.write_opt(batch, options).map_err(|error| self.failed(&error))?;
        match &self.disk {
            Some(disk) => disk.after(what).map_err(refused),
            None => Ok(()),
        }
    }

    /// What RocksDB says, in the words of the port.
    pub fn failed(&self, error: &rocksdb::Error) -> StoreError {
        let error = OpenError::from_database(&self.directory, error);
        match error {
            OpenError::Failed { detail, .. } => StoreError::Failed(detail),
            // A quota is raised by somebody, which the database does not notice: that is like any other failure.
            OpenError::DiskFull { ref detail, .. } if detail.contains("No space left on device") => {
                StoreError::DiskFull(error.to_string())
            }
            clear => StoreError::Failed(clear.to_string()),
        }
    }

    /// Everything under a prefix, for who opens the database.
    pub fn prefixed(&self, prefix: &[u8]) -> impl Iterator<Item = Result<Row, OpenError>> + use<'_> {
        let mut options = ReadOptions::default();
        if let Some(end) = after_prefix(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let rows = self.rocks.iterator_opt(IteratorMode::From(prefix, Direction::Forward), options);
        rows.map(move |row| row.map_err(|error| OpenError::from_database(&self.directory, &error)))
    }

    /// Why the store cannot be opened: one of its records is not what it should be.
    pub fn damaged(&self, detail: impl Into<String>) -> OpenError {
        OpenError::Damaged { directory: self.directory.clone(), detail: detail.into() }
    }
}

/// What a disk says of a write that it does not take, in the words of the port.
fn refused(detail: String) -> StoreError {
    match detail.contains("No space left on device") {
        true => StoreError::DiskFull(detail),
        false => StoreError::Failed(detail),
    }
}

/// The database at one moment.
pub(crate) struct Moment<'a> {
    db: &'a Db,
    snapshot: Snapshot<'a>,
}

/// What is read from: the database as it is, or at one moment.
pub(crate) trait Read {
    fn db(&self) -> &Db;

    /// What makes a read one of that moment.
    fn options(&self) -> ReadOptions;

    fn get(&self, family: &str, key: impl AsRef<[u8]>) -> Result<Option<DBPinnableSlice<'_>>, StoreError> {
        self.get_with(family, key, &self.options())
    }

    fn get_with(
        &self,
        family: &str,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Option<DBPinnableSlice<'_>>, StoreError> {
        let db = self.db();
        db.rocks.get_pinned_cf_opt(db.family(family), key, options).map_err(|error| db.failed(&error))
    }

    /// A record of `default`; `what` names it in errors.
    fn read<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>, what: &str) -> Result<Option<T>, StoreError> {
        self.get(DEFAULT, key)?.map(|bytes| codec::decode(&bytes, what)).transpose()
    }

    /// What lies in a half-open range.
    fn rows(&self, family: &str, range: (impl AsRef<[u8]>, impl Into<Vec<u8>>)) -> Rows<'_> {
        self.rows_with(self.options(), family, range)
    }

    fn rows_with(
        &self,
        mut options: ReadOptions,
        family: &str,
        (from, end): (impl AsRef<[u8]>, impl Into<Vec<u8>>),
    ) -> Rows<'_> {
        let db = self.db();
        options.set_iterate_upper_bound(end);
        let mode = IteratorMode::From(from.as_ref(), Direction::Forward);
        Rows { found: db.rocks.iterator_cf_opt(db.family(family), options, mode), db, is_cut: false }
    }

    /// The same from its end.
    fn rows_back(&self, family: &str, (from, end): (impl Into<Vec<u8>>, impl Into<Vec<u8>>)) -> Rows<'_> {
        let (db, mut options) = (self.db(), self.options());
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(end);
        let found = db.rocks.iterator_cf_opt(db.family(family), options, IteratorMode::End);
        Rows { found, db, is_cut: false }
    }
}

impl Read for Db {
    fn db(&self) -> &Db {
        self
    }

    fn options(&self) -> ReadOptions {
        ReadOptions::default()
    }
}

impl Read for Moment<'_> {
    fn db(&self) -> &Db {
        self.db
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

/// Counts what the reads of this thread go past: keys that were deleted, and values that are no longer the newest.
pub(crate) struct Passed(PerfContext);

impl Passed {
    pub fn begin() -> Self {
        set_perf_stats(PerfStatsLevel::EnableCount);
        let mut counted = PerfContext::default();
        counted.reset();
        Self(counted)
    }

    /// How many so far; each record that was read is counted once, too.
    pub fn keys(&self) -> u64 {
        let counted = [PerfMetric::InternalKeySkippedCount, PerfMetric::InternalDeleteSkippedCount];
        counted.into_iter().map(|metric| self.0.metric(metric)).sum()
    }
}

/// What is found in a range.
pub(crate) struct Rows<'a> {
    found: DBIterator<'a>,
    db: &'a Db,
    /// Ended where more was to be gone past than the options of the read let it. What follows is not known.
    pub is_cut: bool,
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.found.next()? {
            Err(error) if error.kind() == ErrorKind::Incomplete => {
                self.is_cut = true;
                None
            }
            found => Some(found.map_err(|error| self.db.failed(&error))),
        }
    }
}

impl<'a> Rows<'a> {
    /// The records themselves; `what` names one in errors.
    pub fn read<T: DeserializeOwned>(self, what: &'a str) -> impl Iterator<Item = Result<T, StoreError>> {
        self.map(move |row| codec::decode(&row?.1, what))
    }
}
