//! Files of others open here, ours are as they should be, and files that mean harm do none.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use serde_json::Value;
use tempfile::TempDir;

use super::*;

/// Cheap to open.
const CHEAP: u8 = 4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/keystores")
}

/// A directory with copies of fixtures that are their owner's alone.
fn directory(names: &[&str]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for name in names {
        put(&directory, name, &fs::read(fixtures().join(name)).unwrap(), 0o600);
    }
    directory
}

fn put(directory: &TempDir, name: &str, text: &[u8], mode: u32) {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn key_files_of_the_definition_and_of_other_programs_open() {
    let expected = read(&fixtures().join("expected.json"));
    let expected = expected.as_object().unwrap();
    assert!(expected.len() >= 6);
    let names: Vec<&str> = expected.keys().map(String::as_str).collect();
    let directory = directory(&names);
    let listing = list(directory.path()).unwrap();
    assert_eq!((listing.keys.len(), &listing.skipped), (expected.len(), &Vec::new()));
    for file in &listing.keys {
        let wanted = &expected[&*file.path.file_name().unwrap().to_string_lossy()];
        let key = open(file, wanted["password"].as_str().unwrap()).unwrap();
        assert_eq!(hex::encode(key.to_bytes()), wanted["secret"].as_str().unwrap(), "{}", file.path.display());
        let address: Address = wanted["address"].as_str().unwrap().parse().unwrap();
        assert_eq!(key.address().into_array(), address.0);
        assert!(file.account.is_none_or(|account| account == address));
        if file.path.ends_with("eth-account-pbkdf2.json") {
            let error = open(file, "wrong").unwrap_err().to_string();
            assert!(error.ends_with("the password is wrong, or the file is damaged"), "{error}");
        }
    }
}

#[test]
fn a_file_that_is_made_here_is_its_owners_alone_and_opens_again() {
    let directory = TempDir::new().unwrap();
    let keys = directory.path().join("keys");
    let secret = Zeroizing::new([7; 32]);
    let (account, path) = write::put(&keys, &secret, "pw", CHEAP).unwrap();
    assert_eq!(path, keys.join(format!("{account}.json")));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o7777, 0o700);
    let file = read(&path);
    assert_eq!((&file["version"], &file["crypto"]["kdf"]), (&3.into(), &"scrypt".into()));
    assert_eq!(file["id"].as_str().unwrap().len(), 36);
    let listing = list(&keys).unwrap();
    assert_eq!((listing.keys.len(), listing.keys[0].account), (1, Some(account)));
    assert_eq!(open(&listing.keys[0], "pw").unwrap().to_bytes().0, *secret);

    // The same key again, under any name.
    let before = fs::read(&path).unwrap();
    assert!(write::put(&keys, &secret, "other", CHEAP).unwrap_err().to_string().contains("is here already"));
    fs::rename(&path, keys.join("old")).unwrap();
    assert!(write::put(&keys, &secret, "other", CHEAP).is_err());
    fs::write(&path, "something else").unwrap();
    fs::remove_file(keys.join("old")).unwrap();
    assert!(write::put(&keys, &secret, "other", CHEAP).is_err(), "a file is overwritten");
    assert_eq!(fs::read(&path).unwrap(), b"something else");
    assert_eq!(fs::read_dir(&keys).unwrap().count(), 1, "something is left behind");

    // Another password.
    fs::write(&path, before).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    write::replace(&path, &secret, "new", CHEAP).unwrap();
    let listing = list(&keys).unwrap();
    assert!(open(&listing.keys[0], "pw").is_err());
    assert_eq!(address(&listing.keys[0], "new"), Ok(account));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn keys_are_made_imported_and_get_another_password() {
    let directory = TempDir::new().unwrap();
    let (account, _) = new_key(directory.path(), "pw").unwrap();
    assert_ne!(new_key(directory.path(), "pw").unwrap().0, account);
    let (imported, _) = import(directory.path(), &format!(" 0x{}\n", "07".repeat(32)), "pw").unwrap();
    for wrong in ["", "0x07", &"00".repeat(32), &"ff".repeat(32), &"zz".repeat(32)] {
        assert_eq!(import(directory.path(), wrong, "pw"), Err(KeystoreError::NoKey));
    }
    let path = change_password(directory.path(), imported, "pw", "new").unwrap();
    let listing = list(directory.path()).unwrap();
    let file = listing.keys.iter().find(|file| file.path == path).unwrap();
    assert_eq!(address(file, "new"), Ok(imported));
    assert!(change_password(directory.path(), imported, "pw", "x").is_err());
    let unknown = change_password(directory.path(), Address([1; 20]), "pw", "x").unwrap_err();
    assert!(unknown.to_string().contains("holds no key of account 0x0101"), "{unknown}");
}

#[test]
fn a_file_that_names_another_account_is_not_used() {
    let directory = directory(&["eth-account-pbkdf2.json"]);
    let path = directory.path().join("eth-account-pbkdf2.json");
    let mut file = read(&path);
    file["address"] = "00".repeat(20).into();
    fs::write(&path, file.to_string()).unwrap();
    let listing = list(directory.path()).unwrap();
    let expected = read(&fixtures().join("expected.json"));
    let password = expected["eth-account-pbkdf2.json"]["password"].as_str().unwrap();
    let error = open(&listing.keys[0], password).unwrap_err().to_string();
    assert!(error.contains("it is said to be of account 0x0000"), "{error}");
}

#[test]
fn a_byte_order_mark_before_a_key_file_is_passed_over() {
    let name = "eth-account-pbkdf2.json";
    let directory = directory(&[name]);
    let text = fs::read(directory.path().join(name)).unwrap();
    put(&directory, name, &[b"\xef\xbb\xbf".as_slice(), text.as_slice()].concat(), 0o600);
    let listing = list(directory.path()).unwrap();
    let expected = read(&fixtures().join("expected.json"));
    let password = expected[name]["password"].as_str().unwrap();
    assert!(listing.keys.len() == 1 && open(&listing.keys[0], password).is_ok());
}

#[test]
fn what_means_harm_or_is_no_key_is_named_and_left_alone() {
    let outside = directory(&["eth-account-pbkdf2.json"]);
    let directory = directory(&["eth-account-pbkdf2.json", "eip2335-pbkdf2.json"]);
    let text = fs::read(directory.path().join("eth-account-pbkdf2.json")).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut file: Value = serde_json::from_slice(&text).unwrap();
        change(&mut file);
        file.to_string().into_bytes()
    };
    let scrypt = |n: u64| serde_json::json!({"dklen": 32, "n": n, "r": 8, "p": 1, "salt": "00"});
    put(&directory, "readable", &text, 0o644);
    put(&directory, "grouped", &text, 0o640);
    put(&directory, "notes.txt", b"not a key", 0o600);
    put(&directory, "huge-c", &with(&|file| file["crypto"]["kdfparams"]["c"] = (1u64 << 60).into()), 0o600);
    let huge_n = |file: &mut Value| {
        file["crypto"]["kdf"] = "scrypt".into();
        file["crypto"]["kdfparams"] = scrypt(1 << 40);
    };
    put(&directory, "huge-n", &with(&huge_n), 0o600);
    put(&directory, "version", &with(&|file| file["version"] = 9.into()), 0o600);
    let large = fs::File::create(directory.path().join("large")).unwrap();
    large.set_len(100 << 20).unwrap();
    fs::create_dir(directory.path().join("folder")).unwrap();
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .unwrap();
    symlink(outside.path().join("eth-account-pbkdf2.json"), directory.path().join("link-out")).unwrap();
    symlink("/dev/zero", directory.path().join("link-zero")).unwrap();
    symlink("nowhere", directory.path().join("link-nowhere")).unwrap();
    symlink("eth-account-pbkdf2.json", directory.path().join("link-in")).unwrap();

    let listing = list(directory.path()).unwrap();
    let keys: Vec<_> = listing.keys.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(keys, ["eth-account-pbkdf2.json", "link-in"]);
    let said = |name: &str| {
        let skipped = listing.skipped.iter().find(|skipped| skipped.path.ends_with(name));
        skipped.map(|skipped| (skipped.why.as_str(), skipped.is_key)).unwrap_or_else(|| panic!("nothing of {name}"))
    };
    for (name, why, is_key) in [
        ("eip2335-pbkdf2.json", "BLS key", true),
        ("readable", "chmod 600", true),
        ("grouped", "mode 0640", true),
        ("notes.txt", "no key file", false),
        ("huge-c", "1152921504606846976 rounds", true),
        ("huge-n", "n = 1099511627776", true),
        ("version", "neither 3", true),
        ("large", "104857600 bytes", false),
        ("folder", "no regular file", false),
        ("pipe", "no regular file", false),
        ("link-out", "lies elsewhere", true),
        ("link-zero", "lies elsewhere", true),
        ("link-nowhere", "No such file", true),
    ] {
        let (said, was_key) = said(name);
        assert!(said.contains(why) && was_key == is_key, "{name}: {said}");
    }
    assert_eq!(listing.skipped.len(), 13);
}

#[test]
fn a_directory_of_more_files_than_are_looked_at_is_refused() {
    let directory = TempDir::new().unwrap();
    for number in 0..=FILES_MAX {
        fs::write(directory.path().join(number.to_string()), "").unwrap();
    }
    assert!(list(directory.path()).unwrap_err().to_string().contains("more than 1024 files"));
    assert!(list(&directory.path().join("none")).is_err());
}
