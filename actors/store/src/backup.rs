//! Copies of the whole store and of the files that belong to it: backup while the engine runs, restore while it does not.
//!
//! Invariant: the target either holds a complete, readable store or does not exist. Nothing is removed but what was made
//! here; where a restore was cut short, what is left of it says so until another one is done.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nexum_host_ifaces::{file, store::StoreError};
use rocksdb::{DB, IteratorMode, checkpoint::Checkpoint};
use rustix::{fs::FlockOperation, io::Errno};

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
    #[error("{0} is a symbolic link, and a restore makes a new directory there: remove the link")]
    TargetIsLink(PathBuf),
    #[error("an engine uses {0}, which is no backup: `nexumctl state backup` makes one")]
    InUse(PathBuf),
    #[error("{0} is left of a restore that was cut short, and is no backup")]
    Remains(PathBuf),
    #[error("the backup cannot be used: {0}")]
    Backup(OpenError),
    #[error("the backup cannot be used: {path}: {wrong}")]
    Companion { path: PathBuf, wrong: String },
    #[error("cannot copy {path}: {error}")]
    Copy { path: PathBuf, error: io::Error },
}

/// What a companion may hold, bytes. A backup may come from anywhere; the orders of ten thousand modules are a tenth of it.
const COMPANION_BYTES_MAX: u64 = 64 << 20;

/// What killed backups to the same target may leave, each in a directory of its own.
const DRAFTS_MAX: u32 = 100;

/// Writes a consistent copy into the new directory `to`. Tables are shared with the running store by hard links where
/// the file system allows it, so that it is quick. Blocks.
pub(crate) fn backup(store: &Store, to: &Path) -> Result<(), StoreError> {
    let to = plain(to);
    let failed = |detail: String| StoreError::Failed(format!("cannot back up to {}: {detail}", to.display()));
    if to.symlink_metadata().is_ok() {
        return Err(failed("it exists already".into()));
    }
    match to.parent() {
        Some(parent) if parent.as_os_str().is_empty() || parent.is_dir() => {}
        _ => return Err(failed("its parent directory does not exist".into())),
    }
    if let Some(place) = reserved(store, to) {
        return Err(failed(format!("{} is the engine's own: expected another place", place.display())));
    }
    // RocksDB collects its copy in `<name>.tmp`, syncs it and renames it: within a directory that is made for it, so that
    // nothing is in its way, and nothing of others is removed.
    let draft = draft(to).map_err(|error| failed(error.to_string()))?;
    let whole = draft.join("whole");
    let checkpoint = Checkpoint::new(&store.db.rocks).and_then(|checkpoint| checkpoint.create_checkpoint(&whole));
    // The companions come after the database, so that an order whose units are in it is in them, too, or is yet to come.
    let done = checkpoint.map_err(|error| error.to_string()).and_then(|()| {
        restrict(&whole).map_err(|error| error.to_string())?;
        let rest = store.options.companions.iter().try_for_each(|companion| take_along(companion, &whole));
        let rest = rest.and_then(|()| sync_directory(&whole));
        rest.and_then(|()| fs::rename(&whole, to).map_err(copy_error(to))).map_err(|error| error.to_string())
    });
    match (done, fs::remove_dir_all(&draft)) {
        // An empty directory that stays makes the backup no worse.
        (Ok(()), _) => Ok(()),
        (Err(error), Ok(())) => Err(failed(error)),
        (Err(error), Err(remains)) => Err(failed(format!("{error}; {} stays: {remains}", draft.display()))),
    }
}

/// A new directory beside the target of a backup, which nobody else has made.
fn draft(to: &Path) -> io::Result<PathBuf> {
    for number in 0..DRAFTS_MAX {
        let draft = partial(to, &format!("partial-{number}"));
        match fs::DirBuilder::new().mode(0o700).create(&draft) {
            Ok(()) => return Ok(draft),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let first = partial(to, "partial-0");
    let message = format!("{} and others are left of backups that were cut short: remove them", first.display());
    Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
}

/// The place of the engine that the target of a backup is, or lies in.
fn reserved(store: &Store, to: &Path) -> Option<PathBuf> {
    let directory = store.db.rocks.path();
    let companions = store.options.companions.iter().map(|companion| companion.file.as_path());
    let drafted = [directory].into_iter().chain(companions).flat_map(|path| [path.to_owned(), remains(path)]);
    let to = resolved(to);
    drafted.chain(store.options.reserved.iter().cloned()).find(|place| to.starts_with(resolved(place)))
}

/// The same place without links, also where there is nothing yet.
fn resolved(path: &Path) -> PathBuf {
    let beside = || Some(parent(path).canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(beside).unwrap_or_else(|| path.to_owned())
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

/// What a backup has of a companion. A store that was copied by hand has none with it.
fn kept(from: &Path, companion: &Companion) -> Result<Option<Vec<u8>>, RestoreError> {
    let path = from.join(name(companion));
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let content = file::bytes(&path, COMPANION_BYTES_MAX);
    match content.and_then(|content| (companion.check)(&content).map(|()| content)) {
        Ok(content) => Ok(Some(content)),
        Err(wrong) => Err(RestoreError::Companion { path, wrong }),
    }
}

/// Puts a companion back in one step.
fn put_back(from: &Path, companion: &Companion) -> Result<(), RestoreError> {
    // What is there stays.
    let Some(content) = kept(from, companion)? else { return Ok(()) };
    let draft = remains(&companion.file);
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

/// A backup that was read and found whole, and the place where it is to be put.
pub struct Restore<'a> {
    from: &'a Path,
    to: &'a Path,
    options: &'a Options,
    /// False when an earlier restore left something there.
    is_first: bool,
    /// Held until the end, so that no engine begins to write to what is copied.
    _unused: Option<fs::File>,
}

/// Copies the backup in `from` to the directory `to`, which must be empty or absent, after reading all of it. For use
/// when no engine runs. Blocks.
pub fn restore(from: &Path, to: &Path, options: &Options) -> Result<(), RestoreError> {
    Restore::check(from, to, options)?.put_in_place()
}

/// Where a restore of the store in this directory collects its copy. Where it is there and the store is not, a restore was
/// cut short.
pub fn remains(store: &Path) -> PathBuf {
    partial(store, "restoring")
}

impl<'a> Restore<'a> {
    /// Reads all of a backup. The directory above `to` is not made; where it is there, it shows from now on that a restore
    /// was begun.
    pub fn check(from: &'a Path, to: &'a Path, options: &'a Options) -> Result<Self, RestoreError> {
        let to = plain(to);
        vacant(to)?;
        let draft = remains(to);
        if resolved(from).starts_with(resolved(&draft)) {
            return Err(RestoreError::Remains(from.to_owned()));
        }
        let unused = unused(from)?;
        let is_first = draft.symlink_metadata().is_err();
        let is_begun = parent(to).is_dir();
        if is_begun && is_first {
            make(&draft)?;
        }
        let read = open::read_only(from, options).map_err(RestoreError::Backup);
        let read = read.and_then(|db| {
            options.companions.iter().try_for_each(|companion| kept(from, companion).map(drop))?;
            read_everything(from, &db)
        });
        let restore = Self { from, to, options, is_first, _unused: unused };
        match read {
            Ok(()) => Ok(restore),
            Err(error) => {
                restore.give_up(&draft);
                Err(error)
            }
        }
    }

    /// Copies the backup to its place.
    pub fn put_in_place(self) -> Result<(), RestoreError> {
        let (to, companions) = (self.to, &self.options.companions);
        // Again, as whoever calls may not have kept others away before.
        vacant(to)?;
        let draft = remains(to);
        let copied = copy(self.from, &draft, companions).and_then(|()| {
            // Before the store, without which they say nothing: a restore that was cut short is begun anew.
            companions.iter().try_for_each(|companion| put_back(self.from, companion))?;
            // Onto an empty directory, too.
            fs::rename(&draft, to).map_err(copy_error(to))?;
            sync_directory(parent(to))
        });
        if copied.is_err() {
            self.give_up(&draft);
        }
        copied
    }

    /// Leaves what an earlier restore left: the store is as incomplete as it was then.
    fn give_up(&self, draft: &Path) {
        if self.is_first {
            // What went wrong first is what matters.
            let _ = empty(draft).and_then(|()| fs::remove_dir(draft).map_err(copy_error(draft)));
        }
    }
}

/// Refuses a target where something is.
fn vacant(to: &Path) -> Result<(), RestoreError> {
    match to.symlink_metadata() {
        Ok(found) if found.is_symlink() => return Err(RestoreError::TargetIsLink(to.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(copy_error(to)(error)),
    }
    match fs::read_dir(to).map_err(copy_error(to))?.next() {
        Some(_) => Err(RestoreError::TargetNotEmpty(to.to_owned())),
        None => Ok(()),
    }
}

/// Takes the lock of a store that is named as a backup, if it has one: a backup that no engine was started on has none.
fn unused(from: &Path) -> Result<Option<fs::File>, RestoreError> {
    let lock = from.join("LOCK");
    if !lock.is_file() {
        return Ok(None);
    }
    let file = fs::File::open(&lock).map_err(copy_error(&lock))?;
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(RestoreError::InUse(from.to_owned())),
        Err(error) => Err(copy_error(&lock)(error.into())),
    }
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
    make(to)?;
    empty(to)?;
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

/// With the directories above it.
fn make(directory: &Path) -> Result<(), RestoreError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(copy_error(directory))
}

/// Removes the files of a copy that was cut short. There are no directories in one.
fn empty(directory: &Path) -> Result<(), RestoreError> {
    for entry in fs::read_dir(directory).map_err(copy_error(directory))? {
        let path = entry.map_err(copy_error(directory))?.path();
        fs::remove_file(&path).map_err(copy_error(&path))?;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), RestoreError> {
    fs::File::open(path).and_then(|directory| directory.sync_all()).map_err(copy_error(path))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The same path without a slash at its end, behind which a name could not be made longer.
fn plain(path: &Path) -> &Path {
    path.components().as_path()
}

/// A name beside `path`, on the same file system.
fn partial(path: &Path, suffix: &str) -> PathBuf {
    let mut name = plain(path).as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn copy_error(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |error| RestoreError::Copy { path, error }
}
