//! Copies of the whole store and of the files that belong to it: backup while the engine runs, restore while it does not.
//!
//! Invariant: the target either holds a complete, readable store or does not exist.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nexum_host_ifaces::store::StoreError;
use rocksdb::{DB, IteratorMode, checkpoint::Checkpoint};

use crate::{
    open::{self, OpenError},
    options::{Companion, Options},
    store::Store,
    tables::table::{DEFAULT, FAMILIES},
};

/// Why a backup could not be restored. The target is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{0} is not empty: restore into a new directory")]
    TargetNotEmpty(PathBuf),
    #[error("the backup cannot be used: {0}")]
    Backup(OpenError),
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
    // RocksDB collects its copy in `<name>.tmp`, syncs it and renames it; remains of a killed one are in its way.
    let whole = partial(to, "partial");
    let remove_partial = || {
        for remains in [&whole, &partial(&whole, "tmp")] {
            match fs::remove_dir_all(remains) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error.to_string())),
                _ => {}
            }
        }
        Ok(())
    };
    remove_partial()?;
    let checkpoint = Checkpoint::new(&store.db.rocks).and_then(|checkpoint| checkpoint.create_checkpoint(&whole));
    // The companions come after the database, so that an order whose units are in it is in them, too, or is yet to come.
    let done = checkpoint.map_err(|error| error.to_string()).and_then(|()| {
        restrict(&whole).map_err(|error| error.to_string())?;
        let rest = store.options.companions.iter().try_for_each(|companion| take_along(companion, &whole));
        let rest = rest.and_then(|()| sync_directory(&whole));
        rest.and_then(|()| fs::rename(&whole, to).map_err(copy_error(to))).map_err(|error| error.to_string())
    });
    done.map_err(|error| match remove_partial() {
        Ok(()) => failed(error),
        Err(remains) => failed(format!("{error}; {remains}")),
    })
}

/// The state of modules is for the engine's user alone, in a copy as in the state directory.
fn restrict(directory: &Path) -> Result<(), RestoreError> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(copy_error(directory))
}

fn name(companion: &Companion) -> &Path {
    companion.file.file_name().map_or(Path::new(""), Path::new)
}

fn take_along(companion: &Companion, into: &Path) -> Result<(), RestoreError> {
    let content = match fs::read(&companion.file) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => companion.absent.to_owned(),
        Err(error) => return Err(copy_error(&companion.file)(error)),
    };
    put(&content, &into.join(name(companion)))
}

/// Puts a companion back in one step. A backup of a version that took none along leaves what is there.
fn put_back(from: &Path, companion: &Companion) -> Result<(), RestoreError> {
    let kept = from.join(name(companion));
    let content = match fs::read(&kept) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(copy_error(&kept)(error)),
    };
    let draft = partial(&companion.file, "restoring");
    put(&content, &draft)?;
    fs::rename(&draft, &companion.file).map_err(copy_error(&companion.file))?;
    sync_directory(parent(&companion.file))
}

fn put(content: &[u8], to: &Path) -> Result<(), RestoreError> {
    let written = fs::File::create(to).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(copy_error(to))
}

/// Copies the backup in `from` to the directory `to`, which must be empty or absent, after reading all of it. For use
/// when no engine runs. Blocks.
pub fn restore(from: &Path, to: &Path, options: &Options) -> Result<(), RestoreError> {
    match fs::read_dir(to) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(RestoreError::TargetNotEmpty(to.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(copy_error(to)(error)),
    }
    let db = open::read_only(from, options).map_err(RestoreError::Backup)?;
    let partial = partial(to, "restoring");
    let copied = read_everything(from, &db).and_then(|()| copy(from, &partial, &options.companions)).and_then(|()| {
        // Before the store, without which they say nothing: a restore that was cut short is begun anew.
        options.companions.iter().try_for_each(|companion| put_back(from, companion))?;
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
    for name in [DEFAULT].iter().chain(&FAMILIES) {
        let Some(family) = db.cf_handle(name) else { continue };
        for item in db.iterator_cf(family, IteratorMode::Start) {
            item.map_err(|error| RestoreError::Backup(OpenError::from_database(from, &error)))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, companions: &[Companion]) -> Result<(), RestoreError> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(copy_error(to)(error)),
        _ => {}
    }
    // With the directories above it, of which the state directory is one. Nothing is made before the backup has been read.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(copy_error(to))?;
    for entry in fs::read_dir(from).map_err(copy_error(from))? {
        let path = entry.map_err(copy_error(from))?.path();
        let Some(name) = path.file_name().filter(|name| *name != "LOCK") else { continue };
        if path.is_file() && !companions.iter().any(|companion| self::name(companion) == Path::new(name)) {
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
