//! The engine's key, which signs the receipts of the journal: read, or made at the first start.
//!
//! The file holds the secret as 64 hex digits. Whoever can read it can sign in the engine's name.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, ensure};
use nexum_host_ifaces::journal::EngineKey;

/// Others may not read a secret.
const OTHERS: u32 = 0o007;

/// The key that the configuration names, which must be there, or the state directory's own, which is made when it is not.
pub fn load(configured: Option<&Path>, state_dir: &Path) -> anyhow::Result<EngineKey> {
    if let Some(path) = configured {
        return read(path).with_context(|| format!("[journal] key: {} cannot be used", path.display()));
    }
    let path = state_dir.join("journal.key");
    match read(&path) {
        Err(error) if error.downcast_ref().map(io::Error::kind) == Some(io::ErrorKind::NotFound) => {
            make(&path).with_context(|| format!("{} cannot be made", path.display()))
        }
        read => read.with_context(|| format!("{} cannot be used", path.display())),
    }
}

/// Whether a key that the configuration names can be used.
pub fn check(path: &Path) -> anyhow::Result<()> {
    read(path).map(drop)
}

fn read(path: &Path) -> anyhow::Result<EngineKey> {
    let metadata = fs::metadata(path)?;
    ensure!(metadata.is_file(), "it is no file: expected one with 64 hex digits");
    let mode = metadata.permissions().mode();
    ensure!(mode & OTHERS == 0, "it holds a secret that everybody can read: chmod 600 it");
    let text = fs::read_to_string(path)?;
    let mut secret = [0; 32];
    let decoded = hex::decode_to_slice(text.trim(), &mut secret);
    ensure!(decoded.is_ok(), "expected 64 hex digits, such as `openssl rand -hex 32` prints");
    Ok(EngineKey::from_secret(&secret))
}

fn make(path: &Path) -> anyhow::Result<EngineKey> {
    let secret: [u8; 32] = rand::random();
    // In one step: a process that dies here leaves no half of a key.
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    writeln!(file, "{}", hex::encode(secret))?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    if let Some(directory) = path.parent() {
        fs::File::open(directory)?.sync_all()?;
    }
    let key = EngineKey::from_secret(&secret);
    tracing::info!(key = %key.public(), file = %path.display(), "made the key that signs the journal's receipts");
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_for_the_owner_alone_and_read_ever_after() {
        let dir = tempfile::TempDir::new().unwrap();
        let made = load(None, dir.path()).unwrap();
        let path = dir.path().join("journal.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load(None, dir.path()).unwrap().public(), made.public());
        assert_eq!(load(Some(&path), Path::new("/nonexistent")).unwrap().public(), made.public());
    }

    #[test]
    fn what_cannot_be_used_says_what_would_be_right() {
        let dir = tempfile::TempDir::new().unwrap();
        let wrong = |path: &Path| format!("{:#}", load(Some(path), dir.path()).unwrap_err());
        assert!(wrong(&dir.path().join("none")).contains("No such file"));
        assert!(wrong(Path::new("/dev/zero")).contains("it is no file: expected one with 64 hex digits"));
        let path = dir.path().join("key");
        fs::write(&path, "12\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(wrong(&path).contains("expected 64 hex digits"), "{}", wrong(&path));
        fs::write(&path, "12".repeat(32)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(wrong(&path).contains("chmod 600"), "{}", wrong(&path));
    }
}
