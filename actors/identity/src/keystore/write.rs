//! Key files made: Web3 Secret Storage, version 3, with scrypt.
//!
//! Invariant: a file appears under its name as a whole and on the disk, or not at all; it is its owner's alone from its first
//! byte on; and none is ever overwritten but by a change of its own password.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use alloy_primitives::keccak256;
use alloy_signer_local::PrivateKeySigner;
use nexum_host_ifaces::Address;
use rand::{TryRngCore as _, rngs::OsRng};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    KeystoreError, directory,
    format::apply_cipher,
    kdf::{Kdf, P, R},
};

type Secret = Zeroizing<[u8; 32]>;

pub fn random_key() -> Result<Secret, KeystoreError> {
    loop {
        let secret = Zeroizing::new(random::<32>()?);
        // All but one in 2^127 are.
        if PrivateKeySigner::from_slice(&*secret).is_ok() {
            return Ok(secret);
        }
    }
}

pub fn secret_of(key: &PrivateKeySigner) -> Secret {
    Zeroizing::new(key.to_bytes().0)
}

/// Writes a new file.
pub fn put(directory: &Path, secret: &Secret, password: &str, log_n: u8) -> Result<(Address, PathBuf), KeystoreError> {
    let key = PrivateKeySigner::from_slice(&**secret).map_err(|_| KeystoreError::NoKey)?;
    let account = Address(key.address().into_array());
    let path = directory.join(format!("{account}.json"));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|why| KeystoreError::file(directory, why))?;
    let known = directory::list(directory)?.keys.into_iter().find(|file| file.account == Some(account));
    if let Some(known) = known {
        return Err(KeystoreError::file(&known.path, format!("the key of account {account} is here already")));
    }
    // A link is made only where nothing is.
    let text = encrypted(&key, secret, password, log_n).map_err(|why| KeystoreError::file(&path, why))?;
    written(&path, &text, |temporary| fs::hard_link(temporary, &path).and_then(|()| fs::remove_file(temporary)))?;
    Ok((account, path))
}

/// Writes a file in place of the one that is there.
pub fn replace(path: &Path, secret: &Secret, password: &str, log_n: u8) -> Result<(), KeystoreError> {
    let key = PrivateKeySigner::from_slice(&**secret).map_err(|_| KeystoreError::NoKey)?;
    let text = encrypted(&key, secret, password, log_n).map_err(|why| KeystoreError::file(path, why))?;
    // What a link leads to is replaced, and not the link.
    let path = fs::canonicalize(path).map_err(|why| KeystoreError::file(path, why))?;
    written(&path, &text, |temporary| fs::rename(temporary, &path))
}

fn written(path: &Path, text: &str, publish: impl Fn(&Path) -> io::Result<()>) -> Result<(), KeystoreError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let tag = hex::encode(random::<8>()?);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".0x{tag}-{name}.tmp"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        publish(&temporary)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|why| {
        // It may be gone already, or never have been.
        let _ = fs::remove_file(&temporary);
        KeystoreError::file(path, why)
    })
}

fn encrypted(key: &PrivateKeySigner, secret: &Secret, password: &str, log_n: u8) -> Result<String, String> {
    let bytes = |error: KeystoreError| error.to_string();
    let (salt, iv, id) =
        (random::<32>().map_err(bytes)?, random::<16>().map_err(bytes)?, random::<16>().map_err(bytes)?);
    let derived = Kdf::Scrypt { log_n, r: R, p: P, salt: salt.to_vec() }.derive(password.as_bytes())?;
    let (cipher_key, check_key) = derived.split_at(16);
    let mut ciphertext = **secret;
    apply_cipher(cipher_key, &iv, &mut ciphertext)?;
    let checked = Zeroizing::new([check_key, &ciphertext[..]].concat());
    let file = json!({
        "version": 3,
        "id": uuid(id),
        "address": hex::encode(key.address()),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": { "iv": hex::encode(iv) },
            "ciphertext": hex::encode(ciphertext),
            "kdf": "scrypt",
            "kdfparams": { "dklen": 32, "n": 1u64 << log_n, "r": R, "p": P, "salt": hex::encode(salt) },
            "mac": hex::encode(keccak256(checked.as_slice())),
        },
    });
    Ok(format!("{file}\n"))
}

/// A random UUID, version 4.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let digits = hex::encode(bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

fn random<const N: usize>() -> Result<[u8; N], KeystoreError> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|why| KeystoreError::NoRandomness(why.to_string()))?;
    Ok(bytes)
}
