//! Certificates that servers are checked against: those that the operator names, and the system's store as the
//! environment names it, which is looked at before it is read: who reads it does so to its end, and waits for whoever
//! has yet to write it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use nexum_egress::{Authorities, Roots};
use nexum_kernel::manifest::text;

const FILE: &str = "SSL_CERT_FILE";
const DIRECTORIES: &str = "SSL_CERT_DIR";
/// Of a file. All certificates that browsers trust have a fiftieth of it.
const BYTES_MAX: u64 = 16 << 20;

/// What vouches for the servers that modules send to: the file of `[egress] ca_file`, or the system's store.
pub fn roots(ca_file: Option<&Path>) -> Result<Roots, String> {
    match ca_file {
        Some(path) => {
            let read = authorities(path).map(Roots::Only);
            read.map_err(|wrong| format!("[egress] ca_file: {} {wrong}", path.display()))
        }
        None => check().map(|()| Roots::System),
    }
}

/// The authorities of a file.
///
/// # Errors
/// What is wrong with it and what would be right, without the path.
pub fn authorities(path: &Path) -> Result<Authorities, String> {
    Authorities::parse(&text::bytes(path, BYTES_MAX)?)
}

/// Says why the store must not be read, if so. One that is missing is left to who reads it.
pub fn check() -> Result<(), String> {
    let file = env::var_os(FILE).map(PathBuf::from);
    let directories = env::var_os(DIRECTORIES).unwrap_or_default();
    let directories: Vec<PathBuf> =
        env::split_paths(&directories).filter(|path| !path.as_os_str().is_empty()).collect();
    usable(file.as_deref(), &directories)
}

fn usable(file: Option<&Path>, directories: &[PathBuf]) -> Result<(), String> {
    let large = |name: &str, path: &Path| format!("{name}: {} has more than {BYTES_MAX} bytes", path.display());
    if let Some(path) = file {
        match text::open_file(path).and_then(|file| file.metadata()) {
            Ok(found) if found.len() > BYTES_MAX => return Err(large(FILE, path)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(format!("{FILE}: {}: {error}", path.display()));
            }
            _ => {}
        }
    }
    for directory in directories {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        // Of what is in a directory only files are read.
        for path in entries.flatten().map(|entry| entry.path()) {
            if fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() > BYTES_MAX) {
                return Err(large(DIRECTORIES, &path));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_authorities_are_read_from_a_file_with_an_end() {
        let dir = tempfile::TempDir::new().unwrap();
        let (pipe, text) = (dir.path().join("pipe"), dir.path().join("text"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fs::write(&text, "no certificates").unwrap();
        let told = |path: &Path| roots(Some(path)).unwrap_err();
        assert!(told(&pipe).ends_with("/pipe cannot be read: it is a pipe, expected a file"), "{}", told(&pipe));
        assert!(told(&text).ends_with("/text has no certificate: expected certificates of authorities in PEM"));
        assert!(told(&dir.path().join("none")).starts_with("[egress] ca_file: "));
    }

    #[test]
    fn only_a_store_that_has_an_end_is_read() {
        let dir = tempfile::TempDir::new().unwrap();
        let (pipe, large, small) = (dir.path().join("pipe"), dir.path().join("large"), dir.path().join("small"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fs::write(&small, "certificates").unwrap();
        let named = |path: &Path| usable(Some(path), &[]);
        assert!(named(&pipe).unwrap_err().ends_with("it is a pipe, expected a file"));
        assert!(named(Path::new("/dev/zero")).unwrap_err().starts_with("SSL_CERT_FILE: /dev/zero: it is a device"));
        let directories = [dir.path().to_owned()];
        assert_eq!((named(&small), named(&dir.path().join("none"))), (Ok(()), Ok(())));
        assert_eq!(usable(None, &directories), Ok(()));
        fs::File::create(&large).unwrap().set_len(BYTES_MAX + 1).unwrap();
        assert!(named(&large).unwrap_err().ends_with("has more than 16777216 bytes"));
        assert!(usable(None, &directories).unwrap_err().starts_with("SSL_CERT_DIR: "));
    }
}
