//! `key`: key files of accounts, made and looked at without an engine.
//!
//! Invariant: no key and no password is printed, or repeated by an error, also where one was given in place of the name of
//! what holds it.

mod prompt;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::{Path, PathBuf},
};

use nexum_host_ifaces::Address;
use nexum_identity::keystore::{self, KeystoreError};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    args::{
        Output,
        key::{Key, Keystore, NewPassword, Password},
    },
    config::{
        Variables,
        secret::{self, CREDENTIAL, Unreadable},
    },
    exit::Failure,
    render::{print, print_json},
};

/// A password, or a private key with blanks around it.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

pub fn key(wanted: &Key, output: &Output) -> Result<(), Failure> {
    crate::forbid_core_dumps()?;
    match wanted {
        Key::New { keystore, password } => {
            let password = chosen(&Named::of(password), "Password of the new key")?;
            made(keystore::new_key(&keystore.keystore, &password), output)
        }
        Key::Import { private_key_file, keystore, password } => {
            let private_key = private_key(private_key_file.as_deref())?;
            let password = chosen(&Named::of(password), "Password of the key file")?;
            made(keystore::import(&keystore.keystore, &private_key, &password), output)
        }
        Key::List { keystore } => list(keystore, output),
        Key::ExportAddress { file, password } => export_address(file, password, output),
        Key::ChangePassword { account, keystore, password, new } => {
            let old = known(&Named::of(password), "Password")?;
            let new = chosen(&Named::of_new(new), "New password")?;
            let changed = keystore::change_password(&keystore.keystore, *account, &old, &new);
            made(changed.map(|file| (*account, file)), output)
        }
    }
}

fn failed(error: &KeystoreError) -> Failure {
    match error {
        KeystoreError::UnknownAccount(..) => Failure::not_found(error.to_string()),
        _ => Failure::failed(error.to_string()),
    }
}

/// Prints whose key a file now holds.
fn made(made: Result<(Address, PathBuf), KeystoreError>, output: &Output) -> Result<(), Failure> {
    let (account, file) = made.map_err(|error| failed(&error))?;
    match output.json {
        true => print_json(&json!({ "account": account, "file": file.to_string_lossy() })),
        false => print(&format!("{account} {}\n", file.display())),
    }
}

fn list(Keystore { keystore }: &Keystore, output: &Output) -> Result<(), Failure> {
    let found = keystore::list(keystore).map_err(|error| failed(&error))?;
    if output.json {
        let key = |key: &keystore::KeyFile| json!({ "account": key.account, "file": key.path.to_string_lossy() });
        let skipped =
            |skipped: &keystore::Skipped| json!({ "file": skipped.path.to_string_lossy(), "why": skipped.why });
        let keys: Vec<_> = found.keys.iter().map(key).collect();
        let skipped: Vec<_> = found.skipped.iter().map(skipped).collect();
        return print_json(&json!({ "keys": keys, "skipped": skipped }));
    }
    let mut text = String::new();
    for key in &found.keys {
        let account = key.account.map_or_else(|| "account not said".to_owned(), |account| account.to_string());
        text.push_str(&format!("{account} {}\n", key.path.display()));
    }
    for skipped in &found.skipped {
        text.push_str(&format!("not used: {}: {}\n", skipped.path.display(), skipped.why));
    }
    print(&text)
}

fn export_address(file: &Path, password: &Password, output: &Output) -> Result<(), Failure> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = keystore::list(directory).map_err(|error| failed(&error))?;
    let is_it = |path: &Path| path.file_name().is_some() && path.file_name() == file.file_name();
    if let Some(skipped) = found.skipped.iter().find(|skipped| is_it(&skipped.path)) {
        return Err(Failure::failed(format!("{}: {}", file.display(), skipped.why)));
    }
    let key = found.keys.iter().find(|key| is_it(&key.path));
    let key = key.ok_or_else(|| Failure::not_found(format!("{}: there is no such file", file.display())))?;
    let password = known(&Named::of(password), "Password")?;
    let account = keystore::address(key, &password).map_err(|error| failed(&error))?;
    match output.json {
        true => print_json(&json!({ "account": account, "file": file.to_string_lossy() })),
        false => print(&format!("{account}\n")),
    }
}

/// What names a password.
struct Named<'a> {
    file: Option<&'a Path>,
    credential: Option<&'a str>,
    variable: Option<&'a str>,
    /// What the flags begin with.
    prefix: &'static str,
}

impl<'a> Named<'a> {
    fn of(Password { password_file, password_credential, password_env }: &'a Password) -> Self {
        Self {
            file: password_file.as_deref(),
            credential: password_credential.as_deref(),
            variable: password_env.as_deref(),
            prefix: "--password",
        }
    }

    fn of_new(NewPassword { new_password_file, new_password_credential, new_password_env }: &'a NewPassword) -> Self {
        Self {
            file: new_password_file.as_deref(),
            credential: new_password_credential.as_deref(),
            variable: new_password_env.as_deref(),
            prefix: "--new-password",
        }
    }

    /// The password that is named; none when none is.
    fn read(&self, environment: &Variables) -> Result<Option<Zeroizing<String>>, Failure> {
        let prefix = self.prefix;
        let read = match (self.file, self.credential, self.variable) {
            (Some(file), ..) => {
                let read = File::open(file).and_then(text);
                read.map_err(|error| Failure::usage(format!("{prefix}-file: it cannot be read: {error}")))?
            }
            (_, Some(name), _) => {
                let read = secret::read(&format!("{CREDENTIAL}{name}"), environment);
                let wrong = |error: Unreadable| Failure::usage(format!("{prefix}-credential: it {}", error.wrong));
                Zeroizing::new(read.map_err(wrong)?)
            }
            (.., Some(name)) => {
                let missing = || Failure::usage(format!("{prefix}-env: the environment has no such variable in UTF-8"));
                Zeroizing::new(environment.get(name).ok_or_else(missing)?.clone())
            }
            (None, None, None) => return Ok(None),
        };
        // What an editor leaves after it is no part of it.
        let password = read.trim_end_matches(['\r', '\n']);
        match password.is_empty() {
            true => Err(Failure::usage("the password is empty")),
            false => Ok(Some(Zeroizing::new(password.to_owned()))),
        }
    }

    fn asked(&self, prompt: &str) -> Result<Zeroizing<String>, Failure> {
        let asked = prompt::hidden(prompt).map_err(|error| Failure::failed(format!("the terminal: {error}")))?;
        let prefix = self.prefix;
        let asked = asked.ok_or_else(|| {
            let ways = format!("give {prefix}-file, {prefix}-credential or {prefix}-env");
            Failure::usage(format!("there is no terminal to ask for a password at: {ways}"))
        })?;
        match asked.is_empty() {
            true => Err(Failure::usage("the password is empty")),
            false => Ok(asked),
        }
    }
}

/// A password that is there already.
fn known(named: &Named<'_>, prompt: &str) -> Result<Zeroizing<String>, Failure> {
    match named.read(&crate::environment()?)? {
        Some(password) => Ok(password),
        None => named.asked(prompt),
    }
}

/// A password that is to be, typed twice where it is typed.
fn chosen(named: &Named<'_>, prompt: &str) -> Result<Zeroizing<String>, Failure> {
    if let Some(password) = named.read(&crate::environment()?)? {
        return Ok(password);
    }
    let first = named.asked(prompt)?;
    match *named.asked(&format!("{prompt}, again"))? == *first {
        true => Ok(first),
        false => Err(Failure::failed("the two passwords differ")),
    }
}

fn private_key(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    if let Some(file) = file {
        let read = File::open(file).and_then(text);
        return read.map_err(|error| Failure::usage(format!("--private-key-file: it cannot be read: {error}")));
    }
    let stdin = io::stdin();
    if stdin.is_terminal()
        && let Some(typed) = prompt::hidden("Private key").map_err(|error| Failure::failed(error.to_string()))?
    {
        return Ok(typed);
    }
    text(stdin.lock()).map_err(|error| Failure::failed(format!("stdin: {error}")))
}

fn text(from: impl Read) -> io::Result<Zeroizing<String>> {
    // In one place: of a buffer that grows, the smaller ones would stay behind.
    let mut text = Zeroizing::new(String::with_capacity(SECRET_BYTES_MAX as usize + 2));
    from.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        let message = format!("it has more than {SECRET_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It stands where a name should stand.
    const PASSWORD: &str = "hunter2";

    fn named(file: Option<&Path>, credential: Option<&'static str>, variable: Option<&'static str>) -> String {
        let environment =
            Variables::from([("PW".to_owned(), format!("{PASSWORD}\n")), ("NONE".to_owned(), String::new())]);
        let named = Named { file, credential, variable, prefix: "--password" };
        match named.read(&environment) {
            Ok(read) => format!("{:?}", read.map(|password| password.as_str().to_owned())),
            Err(failure) => format!("{}: {}", failure.code, failure.message),
        }
    }

    #[test]
    fn a_password_is_read_from_what_names_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("pw");
        std::fs::write(&path, format!("{PASSWORD}\r\n")).unwrap();
        let read = format!("{:?}", Some(PASSWORD));
        assert_eq!(named(Some(&path), None, None), read);
        assert_eq!(named(None, None, Some("PW")), read);
        assert_eq!(named(None, None, None), "None");
        assert_eq!(named(None, None, Some("NONE")), "2: the password is empty");
    }

    #[test]
    fn a_password_in_the_place_of_a_name_is_not_repeated() {
        let refused = [
            named(Some(Path::new(PASSWORD)), None, None),
            named(None, Some(PASSWORD), None),
            named(None, None, Some(PASSWORD)),
        ];
        for (refused, wanted) in
            refused.iter().zip(["--password-file: ", "--password-credential: ", "--password-env: "])
        {
            assert!(refused.starts_with(&format!("2: {wanted}")) && !refused.contains(PASSWORD), "{refused}");
        }
    }
}
