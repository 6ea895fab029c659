//! What lies in a directory of key files.
//!
//! Invariant: only regular files that nobody else may read are taken for key files, each is read up to a bound, and nothing that is
//! left out is left out without a word.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::{KeyFile, KeystoreError, format};

/// Files of one directory that are looked at.
pub const FILES_MAX: usize = 1_024;
/// One file. Key files have about 500 bytes.
pub const FILE_BYTES_MAX: u64 = 64 * 1_024;

/// Names that tools put beside key files; a word about each would only be noise.
const SILENT: [&str; 3] = [".gitignore", ".gitkeep", ".DS_Store"];

/// A file that is no key file, or one that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub path: PathBuf,
    pub why: String,
    /// It is a key file, or looks like one: somebody who put it there wants to know. Others are only named.
    pub is_key: bool,
}

/// What lies in a directory, in the order of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    pub keys: Vec<KeyFile>,
    pub skipped: Vec<Skipped>,
}

pub fn list(directory: &Path) -> Result<Listing, KeystoreError> {
    let failed = |why: io::Error| KeystoreError::file(directory, why);
    let root = fs::canonicalize(directory).map_err(failed)?;
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        if paths.len() == FILES_MAX {
            return Err(KeystoreError::file(directory, format!("it holds more than {FILES_MAX} files")));
        }
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    let mut listing = Listing::default();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Kubernetes mounts secrets as links to files in a directory whose name begins so.
        if SILENT.contains(&&*name) || name.starts_with("..") || is_leftover(&name) {
            continue;
        }
        match read(&root, &path) {
            Ok(content) => listing.keys.push(KeyFile { account: content.account, path, content }),
            Err((why, is_key)) => listing.skipped.push(Skipped { path, why, is_key }),
        }
    }
    Ok(listing)
}

/// What a write leaves behind when the machine stops in its midst.
fn is_leftover(name: &str) -> bool {
    name.starts_with(".0x") && name.ends_with(".tmp")
}

/// The content, or why it is not used and whether it is a key file nevertheless.
fn read(root: &Path, path: &Path) -> Result<format::Content, (String, bool)> {
    let other = |why: String| (why, false);
    let key = |why: String| (why, true);
    let failed = |error: io::Error| key(error.to_string());
    let real = fs::canonicalize(path).map_err(failed)?;
    if !real.starts_with(root) {
        return Err(key("a link to what lies elsewhere: put the file itself here".to_owned()));
    }
    // Neither a link that was put there meanwhile is followed, nor is a pipe waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&real, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(error) => return Err(failed(error.into())),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(other("no regular file".to_owned()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(other(format!("{} bytes, more than the {FILE_BYTES_MAX} of a key file", metadata.size())));
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(other(format!("more than the {FILE_BYTES_MAX} bytes of a key file")));
    }
    let Some(json) = format::as_key_file(&text) else {
        return Err(other("no key file".to_owned()));
    };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(key(format!("others may read it (mode {mode:04o}): chmod 600 '{}'", real.display())));
    }
    format::Content::read(&json).map_err(key)
}
