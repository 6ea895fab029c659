//! `[[egress.credentials]]`: what requests of modules leave with, and where the secrets are.
//!
//! A secret stands in the configuration, or in a file, which is read when the configuration is checked and with every start
//! of the egress service. A file that everybody can read is refused.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use nexum_egress::{Adds, Algorithm, Encoding, Payload, Signing, TimeUnit, VALUE_BYTES_MAX, Value, is_name};
use nexum_host_ifaces::{
    interfaces::http::{
        grant::{Allowlist, pattern},
        port::{self, KEY_HEADER},
    },
    secrets::MASK,
};
use serde::{Deserialize, Serialize};

use super::secret::{self, CREDENTIAL, FILE, Secret};

/// What a file may have besides a secret: the end of its line, and a byte more, which says that it is too large.
const BEYOND_BYTES: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// What modules write in `${secret:NAME}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As allowlists have them.
    pub hosts: Vec<String>,
    pub modules: Vec<String>,
    /// The secret, or `file:PATH`, or `credential:NAME` of systemd.
    pub value: Secret,
    /// The file that has the secret, if one does.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// Added to every request, with the secret as its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Whether it may stand in the body of a request.
    #[serde(default)]
    pub body: bool,
    /// Whether it may leave over plain http.
    #[serde(default)]
    pub allow_http: bool,
    /// Signs every request, with the secret as the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hmac: Option<HmacSigning>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HmacSigning {
    pub algorithm: Algorithm,
    pub encoding: Encoding,
    /// What is signed, with `${…}` for parts of the request.
    pub payload: String,
    /// The header that gets the signature.
    pub header: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_header: Option<String>,
    #[serde(default)]
    pub timestamp: TimeUnit,
}

impl Credential {
    /// With its secret, or why that cannot be had.
    pub fn read(&self) -> nexum_egress::Credential {
        let adds = match (&self.hmac, &self.header) {
            (Some(hmac), _) => Adds::Signature(hmac.signing()),
            (None, Some(header)) => Adds::Header(header.clone()),
            (None, None) => Adds::Nothing,
        };
        nexum_egress::Credential {
            name: self.name.clone(),
            hosts: self.allowlist(),
            modules: self.modules.clone(),
            value: self.value(),
            adds,
            body: self.body,
            allow_http: self.allow_http,
        }
    }

    fn allowlist(&self) -> Allowlist {
        Allowlist::new(self.hosts.iter().filter_map(|host| pattern(host).ok()))
    }

    fn value(&self) -> Result<Value, String> {
        let made = |bytes| if self.hmac.is_some() { Value::key(bytes) } else { Value::text(bytes) };
        match &self.file {
            Some(path) => content(path).and_then(made).map_err(|wrong| format!("{} {wrong}", path.display())),
            None => made(self.value.0.clone().into_bytes()),
        }
    }

    /// The headers that it sets, each with its key.
    fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let hmac = self.hmac.as_ref();
        let signature = hmac.map(|hmac| ("hmac.header", hmac.header.as_str()));
        let timestamp = hmac.and_then(|hmac| Some(("hmac.timestamp_header", hmac.timestamp_header.as_deref()?)));
        [self.header.as_deref().map(|header| ("header", header)), signature, timestamp].into_iter().flatten()
    }

    /// Leaves out what is secret: where a secret is, is not.
    pub(super) fn mask(&mut self) {
        if self.file.is_none() {
            self.value = Secret(MASK.to_owned());
        }
    }
}

impl HmacSigning {
    fn signing(&self) -> Signing {
        let Ok(payload) = self.payload.parse() else {
            unreachable!("a payload is parsed when the configuration is checked")
        };
        Signing {
            algorithm: self.algorithm,
            encoding: self.encoding,
            payload,
            header: self.header.clone(),
            timestamp_header: self.timestamp_header.clone(),
            timestamp: self.timestamp,
        }
    }
}

/// The secret in a file, without the end of its line.
fn content(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let file = secret::open(path)?;
    // In one place: of a buffer that grows, the smaller ones would stay behind.
    let mut bytes = Vec::with_capacity(VALUE_BYTES_MAX + BEYOND_BYTES);
    file.take((VALUE_BYTES_MAX + BEYOND_BYTES) as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    for end in [b'\n', b'\r'] {
        let _ = bytes.pop_if(|last| *last == end);
    }
    Ok(bytes)
}

/// The path of a key, and what is wrong with its value.
type Wrong = (String, String);

/// Finds the files of the secrets that are in files; `directory` is systemd's. Paths are relative to the configuration's file
/// by now.
pub(super) fn find(credentials: &mut [Credential], directory: Option<&str>) -> Result<(), Wrong> {
    for (index, credential) in credentials.iter_mut().enumerate() {
        let wrong = |message: &str| (format!("egress.credentials.{index}.value"), message.to_owned());
        let value = &credential.value.0;
        credential.file = match (value.strip_prefix(FILE), value.strip_prefix(CREDENTIAL)) {
            (Some(path), _) => Some(PathBuf::from(path)),
            (None, Some(name)) => {
                if !is_name(name.as_bytes()) || name.starts_with('.') {
                    return Err(wrong("names no credential of systemd: expected one such as credential:slack"));
                }
                let directory = directory.filter(|directory| !directory.is_empty());
                let missing = "the environment has no CREDENTIALS_DIRECTORY: expected a unit with LoadCredential=";
                Some(Path::new(directory.ok_or_else(|| wrong(missing))?).join(name))
            }
            (None, None) => None,
        };
    }
    Ok(())
}

/// Whether all secrets are there and can be used.
pub(super) fn check_values(credentials: &[Credential]) -> Result<(), Wrong> {
    for (index, credential) in credentials.iter().enumerate() {
        credential.value().map_err(|wrong| (format!("egress.credentials.{index}.value"), wrong))?;
    }
    Ok(())
}

/// The first thing that is wrong, if any, but for the secrets themselves.
pub(super) fn check(credentials: &[Credential]) -> Result<(), Wrong> {
    for (index, credential) in credentials.iter().enumerate() {
        let wrong = |key: &str, message: String| (format!("egress.credentials.{index}.{key}"), message);
        check_one(credential, index + 1).map_err(|(key, message)| wrong(&key, message))?;
        for (number, other) in (1..).zip(&credentials[..index]) {
            check_two(credential, other, number).map_err(|(key, message)| wrong(&key, message))?;
        }
        let payload = credential.hmac.as_ref().and_then(|hmac| hmac.payload.parse::<Payload>().ok());
        for name in payload.iter().flat_map(Payload::secrets) {
            let is_it = |other: &Credential| other.name.as_deref() == Some(name) && other.hmac.is_none();
            if !credentials.iter().any(is_it) {
                let message = format!("has the secret `{name}`: expected the name of one without hmac");
                return Err(wrong("hmac.payload", message));
            }
        }
    }
    Ok(())
}

/// What is wrong with one of them beside another, which has this number.
fn check_two(credential: &Credential, other: &Credential, number: usize) -> Result<(), Wrong> {
    if let Some(name) = credential.name.as_ref().filter(|name| other.name.as_ref() == Some(*name)) {
        return Err(("name".to_owned(), format!("`{name}` is the name of [[egress.credentials]] number {number}")));
    }
    let is_set = |name: &str| other.headers().any(|(_, set)| set.eq_ignore_ascii_case(name));
    match credential.headers().find(|(_, name)| is_set(name)) {
        Some((key, name)) if meet(credential, other) => {
            let message = format!("`{name}` is set by [[egress.credentials]] number {number} for the same requests");
            Err((key.to_owned(), message))
        }
        _ => Ok(()),
    }
}

/// Whether a request may be one of both.
fn meet(one: &Credential, other: &Credential) -> bool {
    let (hosts, others) = (one.allowlist(), other.allowlist());
    // Of two patterns that stand for the same host, one covers the other.
    let same_hosts = hosts.beyond(&others).len() < one.hosts.len() || others.beyond(&hosts).len() < other.hosts.len();
    same_hosts && one.modules.iter().any(|module| other.modules.contains(module))
}

/// What is wrong with one of them by itself; it has this number.
fn check_one(credential: &Credential, number: usize) -> Result<(), Wrong> {
    let wrong = |key: &str, message: &str| Err((key.to_owned(), message.to_owned()));
    if let Some(name) = credential.name.as_ref().filter(|name| !is_name(name.as_bytes())) {
        let message = format!("`{name}`: expected 1 to 64 letters, digits, `-`, `_` and `.`");
        return Err(("name".to_owned(), message));
    }
    match (&credential.name, &credential.header, &credential.hmac) {
        (None, None, None) => {
            let message = format!("number {number} has no name, header or hmac: nothing would use it");
            return Err(("value".to_owned(), message));
        }
        (_, Some(_), Some(_)) => return wrong("header", "excludes [egress.credentials.hmac]: the secret is its key"),
        _ => {}
    }
    if credential.body && (credential.name.is_none() || credential.hmac.is_some()) {
        return wrong("body", "is not used: only a secret that modules name is put into a body");
    }
    if credential.hosts.is_empty() {
        return wrong("hosts", "is empty: expected the hosts that it is for, such as \"hooks.example.org\"");
    }
    for (at, host) in credential.hosts.iter().enumerate() {
        pattern(host).map_err(|wrong| (format!("hosts.{at}"), wrong))?;
    }
    if credential.modules.is_empty() || credential.modules.iter().any(String::is_empty) {
        return wrong("modules", "has no name of a module: expected those that it is for");
    }
    for (key, name) in credential.headers() {
        port::check_name(name).map_err(|error| (key.to_owned(), error.message))?;
        if name.eq_ignore_ascii_case(KEY_HEADER) {
            return wrong(key, "`Idempotency-Key` is the outbox's to set");
        }
    }
    let Some(hmac) = &credential.hmac else { return Ok(()) };
    let payload: Payload = hmac.payload.parse().map_err(|wrong| ("hmac.payload".to_owned(), wrong))?;
    if payload.has_timestamp() && hmac.timestamp_header.is_none() {
        return wrong("hmac.payload", "has `${timestamp}`: set timestamp_header, so that the other side hears it");
    }
    if hmac.timestamp_header.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(&hmac.header)) {
        return wrong("hmac.timestamp_header", "is the header of the signature");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;

    const TOML: &str = "name = \"s\"\nhosts = [\"a.org\"]\nmodules = [\"m\"]\n";

    fn with(value: &str) -> Credential {
        toml::from_str(&format!("{TOML}value = \"{value}\"\n")).unwrap()
    }

    #[test]
    fn a_secret_is_read_from_a_file_that_not_everybody_reads() {
        let dir = tempfile::TempDir::new().unwrap();
        let write = |name: &str, text: &[u8], mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            content(&path)
        };
        assert_eq!(write("a", b"k3y\n", 0o600), Ok(b"k3y".to_vec()));
        assert_eq!(write("b", b"k3y\r\n", 0o640), Ok(b"k3y".to_vec()));
        assert_eq!(write("c", b" k3y\n\n", 0o400), Ok(b" k3y\n".to_vec()));
        assert!(write("d", b"k3y", 0o644).unwrap_err().ends_with("chmod 600 it"));
        assert!(
            Value::text(write("e", &[b'k'; 1 << 16], 0o600).unwrap()).unwrap_err().starts_with("has more than 4096")
        );
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(content(&pipe).unwrap_err(), "cannot be read: it is a pipe, expected a file");
    }

    #[test]
    fn systemds_credentials_are_found_by_their_names() {
        let found = |value: &str, directory: Option<&str>| {
            let mut all = [with(value)];
            find(&mut all, directory).map(|()| all[0].file.clone()).map_err(|(_, wrong)| wrong)
        };
        assert_eq!(found("k3y", None), Ok(None));
        assert_eq!(found("file:/a/b", None), Ok(Some(PathBuf::from("/a/b"))));
        assert_eq!(found("credential:s", Some("/run/c")), Ok(Some(PathBuf::from("/run/c/s"))));
        for name in ["", "..", ".s", "a/b", "../s"] {
            assert!(
                found(&format!("credential:{name}"), Some("/run/c")).unwrap_err().starts_with("names no credential")
            );
        }
        for directory in [None, Some("")] {
            assert!(found("credential:s", directory).unwrap_err().contains("no CREDENTIALS_DIRECTORY"));
        }
    }

    #[test]
    fn what_is_shown_says_where_a_secret_is_and_not_what_it_is() {
        let mut all = [with("k3y"), with("file:/a/b")];
        find(&mut all, None).unwrap();
        assert!(!format!("{all:?}").contains("k3y"));
        all.iter_mut().for_each(Credential::mask);
        assert_eq!([&all[0].value.0, &all[1].value.0], ["***", "file:/a/b"]);
    }
}
