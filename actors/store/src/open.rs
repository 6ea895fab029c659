//! Opening the database: options, the lock, the format version, and errors that say what to do.
//!
//! Invariant: a directory that held a store is never mistaken for an empty one, and a store of another format is not
//! written to.

use std::{
    io,
    path::{Path, PathBuf},
};

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, ErrorKind, LogLevel};

use crate::{
    options::Options,
    tables::table::{DEFAULT, EVENTS, FAMILIES, RECORDINGS, STATE},
};

/// Version of everything in the database, two bytes, big-endian.
const FORMAT: &[u8] = b"m/format";

/// Version of everything that lies in the directory. It goes up with whatever an older version could not read; layouts of
/// single records have their own byte besides.
pub(crate) const FORMAT_VERSION: u16 = 5;

/// The oldest version that is read: none before it was ever released.
pub(crate) const FORMAT_OLDEST: u16 = 5;

/// The log is read again at start: this bounds it to about a second.
const WAL_BYTES_MAX: u64 = 128 << 20;

/// RocksDB would keep every table open without a bound; the default limit of a process is 1,024 descriptors.
const OPEN_FILES_MAX: i32 = 256;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another nexum engine uses {0}")]
    InUse(PathBuf),
    #[error("there is no store in {0}")]
    Missing(PathBuf),
    #[error(
        "{directory} was written by a newer nexum (store format {found}, this one reads up to {FORMAT_VERSION}): \
         run that version, or restore a backup that this one wrote"
    )]
    NewerFormat { directory: PathBuf, found: u16 },
    #[error(
        "{directory} was written by an older nexum (store format {found}, this one reads none before {FORMAT_OLDEST}): \
         run the version that wrote it, or start with an empty state directory"
    )]
    OlderFormat { directory: PathBuf, found: u16 },
    #[error("{directory} holds something that is not a nexum store: {detail}")]
    Foreign { directory: PathBuf, detail: String },
    #[error("the store in {directory} is damaged: {detail}. Move it away and restore a backup")]
    Damaged { directory: PathBuf, detail: String },
    #[error("no space left on the disk that holds {directory}: {detail}")]
    DiskFull { directory: PathBuf, detail: String },
    #[error(
        "a file in {directory} must not grow further, by a limit of the process (`ulimit -f`) or of the file system: \
         {detail}"
    )]
    FileLimit { directory: PathBuf, detail: String },
    #[error("cannot write to {directory}: {detail}")]
    NotWritable { directory: PathBuf, detail: String },
    #[error("cannot open the store in {directory}: {detail}")]
    Failed { directory: PathBuf, detail: String },
    #[error("cannot register the store's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl OpenError {
    pub(crate) fn from_io(directory: &Path, error: &io::Error) -> Self {
        let directory = directory.to_owned();
        let detail = error.to_string();
        match error.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists => Self::NotWritable { directory, detail },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { directory, detail },
            io::ErrorKind::FileTooLarge => Self::FileLimit { directory, detail },
            _ => Self::Failed { directory, detail },
        }
    }

    pub(crate) fn from_database(directory: &Path, error: &rocksdb::Error) -> Self {
        let directory = directory.to_owned();
        let detail = error.to_string();
        // RocksDB passes the system's words on, not its numbers.
        let says = |words: &str| detail.contains(words);
        match error.kind() {
            _ if says("No space left on device") || says("Disk quota exceeded") => Self::DiskFull { directory, detail },
            _ if says("File too large") => Self::FileLimit { directory, detail },
            _ if says("LOCK") && (says("lock hold by current process") || says("temporarily unavailable")) => {
                Self::InUse(directory)
            }
            _ if says("Read-only file system") || says("Permission denied") => Self::NotWritable { directory, detail },
            ErrorKind::Corruption => Self::Damaged { directory, detail },
            ErrorKind::IOError if says("No such file") => Self::Damaged { directory, detail },
            _ => Self::Failed { directory, detail },
        }
    }
}

/// Opens the database in `directory` for writing, making it when the directory is empty or absent.
pub(crate) fn writable(directory: &Path, options: &Options) -> Result<DB, OpenError> {
    std::fs::create_dir_all(directory).map_err(|error| OpenError::from_io(directory, &error))?;
    if holds_database(directory)? {
        check_families(directory)?;
    }
    let mut database_options = database_options(options);
    database_options.create_if_missing(true);
    database_options.create_missing_column_families(true);
    let db = DB::open_cf_descriptors(&database_options, directory, families(options))
        .map_err(|error| OpenError::from_database(directory, &error))?;
    let found = format_version(directory, &db)?;
    if found.is_none() {
        if db.iterator(rocksdb::IteratorMode::Start).next().is_some() {
            return Err(OpenError::Foreign { directory: directory.to_owned(), detail: "no format version".into() });
        }
        db.put_opt(FORMAT, FORMAT_VERSION.to_be_bytes(), &synced())
            .map_err(|error| OpenError::from_database(directory, &error))?;
    }
    Ok(db)
}

/// Opens an existing database without taking its lock and without writing to it.
pub(crate) fn read_only(directory: &Path, options: &Options) -> Result<DB, OpenError> {
    if !directory.is_dir() || !holds_database(directory)? {
        return Err(OpenError::Missing(directory.to_owned()));
    }
    check_families(directory)?;
    let db = DB::open_cf_descriptors_read_only(&database_options(options), directory, families(options), false)
        .map_err(|error| OpenError::from_database(directory, &error))?;
    match format_version(directory, &db)? {
        Some(_) => Ok(db),
        None => Err(OpenError::Foreign { directory: directory.to_owned(), detail: "no format version".into() }),
    }
}

/// The options of a write that is done when it is on the disk.
pub(crate) fn synced() -> rocksdb::WriteOptions {
    let mut options = rocksdb::WriteOptions::default();
    options.set_sync(true);
    options
}

/// Whether a database lies in the directory. RocksDB takes the file `CURRENT` as the sign of one and would start an
/// empty database over the tables of another whose `CURRENT` was lost.
fn holds_database(directory: &Path) -> Result<bool, OpenError> {
    let entries = std::fs::read_dir(directory).map_err(|error| OpenError::from_io(directory, &error))?;
    let mut remains = None;
    for entry in entries {
        let name = entry.map_err(|error| OpenError::from_io(directory, &error))?.file_name();
        let name = name.to_string_lossy();
        if name == "CURRENT" {
            return Ok(true);
        }
        if name.ends_with(".sst") || name.ends_with(".log") {
            remains = Some(name.into_owned());
        }
    }
    match remains {
        None => Ok(false),
        Some(name) => Err(OpenError::Damaged {
            directory: directory.to_owned(),
            detail: format!("{name} is there, but the file CURRENT is missing"),
        }),
    }
}

/// Refuses a database with other column families than ours, if possible with its version.
fn check_families(directory: &Path) -> Result<(), OpenError> {
    let plain = rocksdb::Options::default();
    let present = DB::list_cf(&plain, directory).map_err(|error| OpenError::from_database(directory, &error))?;
    let unknown = present.iter().find(|name| *name != DEFAULT && !FAMILIES.contains(&name.as_str()));
    let Some(unknown) = unknown else { return Ok(()) };
    let db = DB::open_cf_for_read_only(&plain, directory, &present, false)
        .map_err(|error| OpenError::from_database(directory, &error))?;
    format_version(directory, &db)?;
    Err(OpenError::Foreign { directory: directory.to_owned(), detail: format!("it has a column family `{unknown}`") })
}

fn format_version(directory: &Path, db: &DB) -> Result<Option<u16>, OpenError> {
    let stored = db.get(FORMAT).map_err(|error| OpenError::from_database(directory, &error))?;
    let Some(stored) = stored else { return Ok(None) };
    let Ok(bytes) = <[u8; 2]>::try_from(stored.as_slice()) else {
        let detail = format!("its format version has {} bytes", stored.len());
        return Err(OpenError::Foreign { directory: directory.to_owned(), detail });
    };
    match u16::from_be_bytes(bytes) {
        found if found > FORMAT_VERSION => Err(OpenError::NewerFormat { directory: directory.to_owned(), found }),
        found if found < FORMAT_OLDEST => Err(OpenError::OlderFormat { directory: directory.to_owned(), found }),
        found => Ok(Some(found)),
    }
}

fn database_options(options: &Options) -> rocksdb::Options {
    let counted = options.syncs.as_ref().map(|syncs| syncs.0.clone());
    let mut database = counted.unwrap_or_default();
    database.set_db_write_buffer_size(options.write_buffer_bytes);
    database.set_max_total_wal_size(WAL_BYTES_MAX);
    database.set_max_open_files(OPEN_FILES_MAX);
    database.set_max_background_jobs(2);
    // One thread writes; the machinery for several would only cost.
    database.set_allow_concurrent_memtable_write(false);
    database.set_enable_write_thread_adaptive_yield(false);
    // A synced log that vanished or was cut is noticed at the next start.
    database.set_track_and_verify_wals_in_manifest(true);
    // RocksDB's own diary: small, and only what matters.
    database.set_log_level(LogLevel::Warn);
    database.set_keep_log_file_num(2);
    database.set_max_log_file_size(1 << 20);
    database.set_stats_dump_period_sec(0);
    database.set_stats_persist_period_sec(0);
    database
}

fn families(options: &Options) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    let buffer = options.write_buffer_bytes;
    // Records are rewritten with every unit, so that a small buffer collapses into a few kilobytes when it is flushed.
    vec![
        ColumnFamilyDescriptor::new(DEFAULT, family_options(&cache, buffer / 8, true)),
        ColumnFamilyDescriptor::new(STATE, family_options(&cache, buffer / 3, true)),
        ColumnFamilyDescriptor::new(EVENTS, family_options(&cache, buffer / 3, false)),
        ColumnFamilyDescriptor::new(RECORDINGS, family_options(&cache, buffer / 8, false)),
    ]
}

fn family_options(cache: &Cache, write_buffer_bytes: usize, looked_up: bool) -> rocksdb::Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(5);
    if looked_up {
        table.set_bloom_filter(10.0, false);
    }
    let mut family = rocksdb::Options::default();
    family.set_block_based_table_factory(&table);
    family.set_write_buffer_size(write_buffer_bytes);
    family.set_max_write_buffer_number(3);
    family.set_compression_type(DBCompressionType::Lz4);
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_become_advice() {
        let of = |kind| OpenError::from_io(Path::new("/d"), &io::Error::from(kind)).to_string();
        assert!(of(io::ErrorKind::ReadOnlyFilesystem).starts_with("cannot write to /d: "));
        assert!(of(io::ErrorKind::StorageFull).starts_with("no space left on the disk that holds /d: "));
        assert!(of(io::ErrorKind::Interrupted).starts_with("cannot open the store in /d: "));
    }
}
