//! The lock of a state directory: the file `LOCK` in it, which outlives whatever is moved away or replaced beside it.
//!
//! Whoever writes to the directory holds it: an engine, and a restore. The system frees it with the process, however that
//! ends; the file stays. Reading takes no lock.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, bail};

const FILE: &str = "LOCK";
/// A process id and a word.
const HOLDER_BYTES_MAX: u64 = 64;

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of a directory that is there, in the name of `who`.
///
/// # Errors
/// Another process holds it: the message says which. Or the file cannot be made.
pub fn hold(state_dir: &Path, who: &str) -> anyhow::Result<Lock> {
    let path = state_dir.join(FILE);
    let named = || path.display().to_string();
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.with_context(named)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => bail!("{}", held(&file, state_dir)),
        Err(TryLockError::Error(error)) => return Err(error).with_context(named),
    }
    // For whoever comes next. On a full disk the lock is as good without it.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{} {who}", std::process::id()));
    Ok(Lock { _file: file })
}

/// Who holds the lock, as they wrote it.
fn held(file: &File, state_dir: &Path) -> String {
    let mut text = String::new();
    // What cannot be read names nobody.
    let _ = file.take(HOLDER_BYTES_MAX).read_to_string(&mut text);
    let holder = text.trim().split_once(' ').and_then(|(pid, who)| Some((pid.parse::<u32>().ok()?, who)));
    let (place, lock) = (state_dir.display(), state_dir.join(FILE));
    match holder {
        Some((pid, who)) => {
            format!("another nexum {who} uses {place}: process {pid} holds {}; stop it first", lock.display())
        }
        None => format!("another nexum engine uses {place}: a process holds {}; stop it first", lock.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_is_first_also_when_the_store_was_moved_away() {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        let first = hold(dir.path(), "engine").unwrap();
        std::fs::rename(dir.path().join("store"), dir.path().join("store.before")).unwrap();
        let told = hold(dir.path(), "restore").unwrap_err().to_string();
        let wanted =
            format!("another nexum engine uses {}: process {} holds", dir.path().display(), std::process::id());
        assert!(told.starts_with(&wanted), "{told}");
        drop(first);
        let second = hold(dir.path(), "restore").unwrap();
        let told = hold(dir.path(), "engine").unwrap_err().to_string();
        assert!(told.contains("another nexum restore uses"), "{told}");
        drop(second);
        assert!(hold(&dir.path().join("none"), "engine").is_err());
    }
}
