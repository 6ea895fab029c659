//! A directory of key files: what the engine opens, and what `nexum key` makes and changes.
//!
//! `format` reads the two kinds of file, `kdf` turns a password into a key within bounds, `directory` reads what lies
//! there, `write` makes files. All of it blocks: a password is slow to turn into a key, by design.
//!
//! Invariant: what a file says is a claim. No more is read, allocated or computed than the bounds here allow, before it is known
//! that the file is worth it. Keys and passwords are wiped from memory, and nothing here prints one.

mod directory;
mod format;
mod kdf;
mod write;

use std::path::{Path, PathBuf};

use alloy_signer_local::PrivateKeySigner;
use nexum_host_ifaces::Address;
use zeroize::Zeroizing;

pub use directory::{FILE_BYTES_MAX, FILES_MAX, Listing, Skipped};

/// Why a key could not be made, read or changed. For people; never with a key or a password in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeystoreError {
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("{0} holds no key of account {1}")]
    UnknownAccount(String, Address),
    #[error("the private key is not 32 bytes in hex, or no number below the order of secp256k1")]
    NoKey,
    #[error("the operating system gives no random bytes: {0}")]
    NoRandomness(String),
}

impl KeystoreError {
    fn file(path: &Path, why: impl ToString) -> Self {
        Self::File { path: path.to_owned(), why: why.to_string() }
    }
}

/// A file that says whose key it holds, or that may be opened to find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    pub path: PathBuf,
    /// As the file says; it is checked when the key is opened.
    pub account: Option<Address>,
    pub(crate) content: format::Content,
}

/// The key files of a directory, and what else lies there. Nothing is opened.
pub fn list(directory: &Path) -> Result<Listing, KeystoreError> {
    directory::list(directory)
}

/// What a key file says: its JSON, and the account if it names one, or why it is not used. None for what is no key file.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn claims(bytes: &[u8]) -> Option<(serde_json::Value, Result<Option<Address>, String>)> {
    let json = format::as_key_file(bytes)?;
    let read = format::Content::read(&json).map(|content| content.account);
    Some((json, read))
}

/// Opens one file. The account that it names, if it names one, is that of the key.
pub fn open(file: &KeyFile, password: &str) -> Result<PrivateKeySigner, KeystoreError> {
    let secret = file.content.open(password).map_err(|why| KeystoreError::file(&file.path, why))?;
    let key = PrivateKeySigner::from_slice(&*secret)
        .map_err(|_| KeystoreError::file(&file.path, "it holds no key of secp256k1"))?;
    file.content.check_owner(&key).map_err(|why| KeystoreError::file(&file.path, why))?;
    Ok(key)
}

/// The account of a file, by opening it.
pub fn address(file: &KeyFile, password: &str) -> Result<Address, KeystoreError> {
    open(file, password).map(|key| Address(key.address().into_array()))
}

/// Makes a key and writes it to a new file `0x….json` of the directory, which is made when it is not there.
pub fn new_key(directory: &Path, password: &str) -> Result<(Address, PathBuf), KeystoreError> {
    write::put(directory, &write::random_key()?, password, kdf::LOG_N)
}

/// Writes this private key, 64 hex digits with or without 0x, to a new file `0x….json` of the directory. Fails when the
/// directory has a key of that account already.
pub fn import(directory: &Path, private_key: &str, password: &str) -> Result<(Address, PathBuf), KeystoreError> {
    let digits = private_key.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let mut secret = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, &mut *secret).map_err(|_| KeystoreError::NoKey)?;
    write::put(directory, &secret, password, kdf::LOG_N)
}

/// Writes the file of that account anew, in its place and as Web3 Secret Storage v3, so that the new password opens it. The
/// old file stays as it is until the new one is on the disk as a whole.
pub fn change_password(directory: &Path, account: Address, old: &str, new: &str) -> Result<PathBuf, KeystoreError> {
    let found = list(directory)?;
    let unnamed = || found.keys.iter().filter(|file| file.account.is_none());
    let file = match found.keys.iter().find(|file| file.account == Some(account)) {
        Some(file) => file,
        // A file need not say whose key it holds.
        None => unnamed()
            .find(|file| address(file, old) == Ok(account))
            .ok_or_else(|| KeystoreError::UnknownAccount(directory.display().to_string(), account))?,
    };
    let key = open(file, old)?;
    write::replace(&file.path, &write::secret_of(&key), new, kdf::LOG_N)?;
    Ok(file.path.clone())
}

#[cfg(test)]
mod tests;
