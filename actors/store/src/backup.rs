//! Copies of the whole store: backup while the engine runs, restore while it does not.
//!
//! Invariant: the target either holds a complete, readable store or does not exist.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nexum_host_ifaces::store::StoreError;
use rocksdb::{DB, IteratorMode, checkpoint::Checkpoint};

use crate::{
    keys,
    open::{self, OpenError},
    store::Store,
};

/// Why a backup could not be restored. The target is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{0} is not empty: restore into a new directory")]
    TargetNotEmpty(PathBuf),
    #[error("the backup cannot be used: {0}")]
    Backup(#[from] OpenError),
    #[error("cannot copy {path}: {error}")]
    Copy { path: PathBuf, error: io::Error },
}

/// Writes a consistent copy into the new directory `to`. Tables are shared with the running store by hard links where
/// the file system allows it, so that it is quick. Blocks.
pub(crate) fn backup(store: &Store, to: &Path) -> Result<(), StoreError> {
    let failed = |detail: String| StoreError::Failed(format!("cannot back up to {}: {detail}", to.display()));
    if to.symlink_metadata().is_ok() {
        return Err(failed("it exists already".into()));
    }
    match to.parent() {
        Some(parent) if parent.as_os_str().is_empty() || parent.is_dir() => {}
        _ => return Err(failed("its parent directory does not exist".into())),
    }
    // RocksDB collects the copy in `<to>.tmp`, syncs it and renames it; remains of a killed one are in its way.
    let partial = partial(to, "tmp");
    let remove_partial = || match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error.to_string())),
        _ => Ok(()),
    };
    remove_partial()?;
    let checkpoint = Checkpoint::new(&store.db).and_then(|checkpoint| checkpoint.create_checkpoint(to));
    checkpoint.map_err(|error| match remove_partial() {
        Ok(()) => failed(error.to_string()),
        Err(remains) => failed(format!("{error}; {remains}")),
    })
}

/// Copies the backup in `from` to the directory `to`, which must be empty or absent, after reading all of it. For use
/// when no engine runs. Blocks.
pub fn restore(from: &Path, to: &Path, options: &open::Options) -> Result<(), RestoreError> {
    match fs::read_dir(to) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(RestoreError::TargetNotEmpty(to.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(copy_error(to)(error)),
    }
    let db = open::read_only(from, options)?;
    let partial = partial(to, "restoring");
    let copied = read_everything(from, &db).and_then(|()| copy(from, &partial)).and_then(|()| {
        // Onto an empty directory, too.
        fs::rename(&partial, to).map_err(copy_error(to))?;
        sync_directory(parent(to))
    });
    if copied.is_err() {
        // What went wrong first is what matters.
        let _ = fs::remove_dir_all(&partial);
    }
    copied
}

fn read_everything(from: &Path, db: &DB) -> Result<(), RestoreError> {
    for name in ["default"].iter().chain(&keys::FAMILIES) {
        let Some(family) = db.cf_handle(name) else { continue };
        for item in db.iterator_cf(family, IteratorMode::Start) {
            item.map_err(|error| OpenError::from_database(from, &error))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), RestoreError> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(copy_error(to)(error)),
        _ => {}
    }
    fs::create_dir_all(to).map_err(copy_error(to))?;
    for entry in fs::read_dir(from).map_err(copy_error(from))? {
        let path = entry.map_err(copy_error(from))?.path();
        let Some(name) = path.file_name().filter(|name| *name != "LOCK") else { continue };
        if path.is_file() {
            let target = to.join(name);
            fs::copy(&path, &target).map_err(copy_error(&path))?;
            fs::File::open(&target).and_then(|file| file.sync_all()).map_err(copy_error(&target))?;
        }
    }
    sync_directory(to)
}

fn sync_directory(path: &Path) -> Result<(), RestoreError> {
    fs::File::open(path).and_then(|directory| directory.sync_all()).map_err(copy_error(path))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name beside `path`, on the same file system.
fn partial(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn copy_error(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |error| RestoreError::Copy { path, error }
}
