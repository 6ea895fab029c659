//! Secrets, and where they are: `file:PATH`, `credential:NAME` (systemd's), or the text itself, which is to come from the
//! environment by `${VAR}`.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use nexum_kernel::manifest::text;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The prefix of a file's path.
pub const FILE: &str = "file:";
/// The prefix of the name of one of systemd's credentials.
pub const CREDENTIAL: &str = "credential:";
/// Where systemd puts a unit's credentials.
pub const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// What everybody may do with a file.
const OTHERS: u32 = 0o007;
/// Larger ones are something else.
const BYTES_MAX: u64 = 64 * 1024;

/// Whether a text says where a secret is, so that it is none itself.
pub fn is_named(text: &str) -> bool {
    text.starts_with(FILE) || text.starts_with(CREDENTIAL)
}

/// The secret, without the line end that editors leave after it.
///
/// # Errors
/// What is wrong, with the path or name, and without any of it.
pub fn read(text: &str, environment: &BTreeMap<String, String>) -> Result<String, Unreadable> {
    let secret = if let Some(path) = text.strip_prefix(FILE) {
        file(Path::new(path)).map_err(|wrong| Unreadable { what: format!("`{path}`"), wrong })?
    } else if let Some(name) = text.strip_prefix(CREDENTIAL) {
        let unreadable = |wrong: String| Unreadable { what: format!("credential `{name}`"), wrong };
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(unreadable("is no name: expected one of LoadCredential= of the unit".to_owned()));
        }
        let directory = environment.get(DIRECTORY).ok_or_else(|| {
            unreadable(format!("cannot be read: {DIRECTORY} is not set, as systemd does for LoadCredential="))
        })?;
        file(&Path::new(directory).join(name)).map_err(unreadable)?
    } else {
        text.to_owned()
    };
    match secret.is_empty() {
        true => Err(Unreadable { what: "the secret".to_owned(), wrong: "is empty".to_owned() }),
        false => Ok(secret),
    }
}

/// Why a secret cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Which one, quoted.
    pub what: String,
    pub wrong: String,
}

/// Opens a file that has a secret in it.
///
/// # Errors
/// What is wrong with it, which may be that everybody can read it.
pub fn open(path: &Path) -> Result<File, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let file = text::open_file(path).map_err(unreadable)?;
    match file.metadata().map_err(unreadable)?.permissions().mode() & OTHERS {
        0 => Ok(file),
        _ => Err("holds a secret that everybody can read: chmod 600 it".to_owned()),
    }
}

/// What a file has before the line end that closes it.
fn file(path: &Path) -> Result<String, String> {
    // Of the file whose mode was seen, whatever has its name by now; and in one place, since a buffer that grows leaves parts of
    // it behind.
    let file = open(path)?;
    let mut read = Zeroizing::new(Vec::with_capacity(BYTES_MAX as usize + 2));
    file.take(BYTES_MAX + 1).read_to_end(&mut read).map_err(|error| format!("cannot be read: {error}"))?;
    if read.len() as u64 > BYTES_MAX {
        return Err(format!("is larger than {BYTES_MAX} bytes: expected at most as much"));
    }
    let text = std::str::from_utf8(&read).map_err(|_| "cannot be read: it is no UTF-8, expected text")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_secret_is_where_it_is_said_to_be() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("pw");
        fs::write(&path, " pass word \r\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let environment = BTreeMap::from([(DIRECTORY.to_owned(), dir.path().display().to_string())]);
        let read = |text: &str| read(text, &environment);
        assert_eq!(read(&format!("file:{}", path.display())).as_deref(), Ok(" pass word "));
        assert_eq!(read("credential:pw").as_deref(), Ok(" pass word "));
        assert_eq!(read("hunter2").as_deref(), Ok("hunter2"));
        assert!(is_named("file:pw") && is_named("credential:pw") && !is_named("hunter2"));
    }

    #[test]
    fn one_that_is_not_there_says_what_would_be_right() {
        let dir = tempfile::TempDir::new().unwrap();
        let here = BTreeMap::from([(DIRECTORY.to_owned(), dir.path().display().to_string())]);
        let wrong = |text: &str, environment: &BTreeMap<String, String>| {
            let Unreadable { what, wrong } = read(text, environment).unwrap_err();
            format!("{what} {wrong}")
        };
        fs::write(dir.path().join("empty"), "\n").unwrap();
        File::create(dir.path().join("large")).unwrap().set_len(BYTES_MAX + 1).unwrap();
        let mode = |name: &str, mode| fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode));
        mode("empty", 0o644).unwrap();
        assert!(wrong("credential:empty", &here).contains("everybody can read: chmod 600 it"));
        mode("empty", 0o600).unwrap();
        mode("large", 0o600).unwrap();
        assert!(wrong("file:/nonexistent", &here).starts_with("`/nonexistent` cannot be read: No such file"));
        assert!(wrong("file:/dev/zero", &here).ends_with("it is a device, expected a file"));
        assert!(wrong("credential:none", &here).starts_with("credential `none` cannot be read: No such file"));
        assert!(wrong("credential:../pw", &here).contains("is no name: expected one of LoadCredential="));
        assert!(wrong("credential:pw", &BTreeMap::new()).contains("CREDENTIALS_DIRECTORY is not set"));
        assert_eq!(wrong("credential:empty", &here), "the secret is empty");
        assert!(wrong("credential:large", &here).contains("is larger than 65536 bytes"));
        assert_eq!(wrong("", &here), "the secret is empty");
    }
}
