//! `[[identity.aws_kms]]` and `[[identity.gcp_kms]]`: keys of accounts that a cloud keeps.

use std::{collections::BTreeMap, path::PathBuf};

use nexum_identity::{Aws, Kms, Provider, ReadSecret, parse_address};
use serde::{Deserialize, Serialize};
use url::{Host, Url};
use zeroize::Zeroizing;

use super::{
    identity::{Wrong, read, wrong},
    secret::{self, Secret, Unreadable},
};

const GOOGLE: &str = "https://cloudkms.googleapis.com";
/// The longest name of a key at AWS, which is that of an alias with its region and account.
const KEY_BYTES_MAX: usize = 2_048;
/// How the name of a version of a key is made up at Google.
const VERSION_PARTS: [&str; 5] = ["projects", "locations", "keyRings", "cryptoKeys", "cryptoKeyVersions"];

/// Where systemd has put credentials.
type Credentials = BTreeMap<String, String>;

/// One key of AWS KMS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsKms {
    /// Its id, its ARN, or an alias.
    pub key: String,
    pub account: String,
    pub region: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    pub access_key_id: Secret,
    pub secret_access_key: Secret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// One version of a key of Google's Cloud KMS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcpKms {
    /// `projects/…/cryptoKeyVersions/…`.
    pub key: String,
    pub account: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    pub token: Secret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl AwsKms {
    pub(super) fn meaning(&self, at: &str, credentials: &Credentials) -> Result<Kms, Wrong> {
        let is_key = |c: char| c.is_ascii_alphanumeric() || ":/_-".contains(c);
        if self.key.is_empty() || self.key.len() > KEY_BYTES_MAX || !self.key.chars().all(is_key) {
            return Err(wrong(&format!("{at}.key"), "is no id, ARN or alias of a key, such as \"alias/keeper\""));
        }
        let is_region = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.region.is_empty() || !self.region.chars().all(is_region) {
            return Err(wrong(&format!("{at}.region"), "is no region, such as \"eu-central-1\""));
        }
        let aws = Aws {
            region: self.region.clone(),
            access_key_id: reader(&self.access_key_id, credentials),
            secret_access_key: reader(&self.secret_access_key, credentials),
            session_token: self.session_token.as_ref().map(|token| reader(token, credentials)),
        };
        let regular = || format!("https://kms.{}.amazonaws.com", self.region);
        Ok(Kms {
            account: read(at, "account", parse_address(&self.account))?,
            key: self.key.clone(),
            endpoint: endpoint(at, &self.endpoint)?.unwrap_or_else(regular),
            ca_file: self.ca_file.clone(),
            provider: Provider::Aws(aws),
        })
    }

    /// Each with its key.
    pub(super) fn secrets(&self, at: String) -> impl Iterator<Item = (String, &Secret)> {
        let Self { access_key_id, secret_access_key, session_token, .. } = self;
        let both = [("access_key_id", access_key_id), ("secret_access_key", secret_access_key)];
        let token = session_token.as_ref().map(|token| ("session_token", token));
        both.into_iter().chain(token).map(move |(key, secret)| (format!("{at}.{key}"), secret))
    }

    pub(super) fn secrets_mut(&mut self) -> impl Iterator<Item = &mut Secret> {
        let Self { access_key_id, secret_access_key, session_token, .. } = self;
        [access_key_id, secret_access_key].into_iter().chain(session_token)
    }
}

impl GcpKms {
    pub(super) fn meaning(&self, at: &str, credentials: &Credentials) -> Result<Kms, Wrong> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || ".:_-".contains(c);
        let parts: Vec<&str> = self.key.split('/').collect();
        let (names, values): (Vec<_>, Vec<_>) =
            parts.chunks(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).unzip();
        let are_parts = values
            .iter()
            .all(|value| value.starts_with(|c: char| c.is_ascii_alphanumeric()) && value.chars().all(is_part));
        if parts.len() != 2 * VERSION_PARTS.len() || names != VERSION_PARTS || !are_parts {
            let expected =
                "is no version of a key: expected projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V";
            return Err(wrong(&format!("{at}.key"), expected));
        }
        let endpoint = endpoint(at, &self.endpoint)?.unwrap_or_else(|| GOOGLE.to_owned());
        // Whoever hears a bearer token has it.
        if !is_private(&endpoint) {
            return Err(wrong(&format!("{at}.endpoint"), "would get the token over plain http: expected https"));
        }
        Ok(Kms {
            account: read(at, "account", parse_address(&self.account))?,
            key: self.key.clone(),
            endpoint,
            ca_file: self.ca_file.clone(),
            provider: Provider::Gcp { token: reader(&self.token, credentials) },
        })
    }

    /// Each with its key.
    pub(super) fn secrets(&self, at: String) -> impl Iterator<Item = (String, &Secret)> {
        [(format!("{at}.token"), &self.token)].into_iter()
    }
}

/// Reads it whenever it is needed: what lies in a file may be replaced there.
fn reader(Secret(named): &Secret, credentials: &Credentials) -> ReadSecret {
    let (named, credentials) = (Zeroizing::new(named.clone()), credentials.clone());
    ReadSecret::new(move || {
        let read = secret::read(&named, &credentials).map(Zeroizing::new);
        read.map_err(|Unreadable { what, wrong }| format!("{what} {wrong}"))
    })
}

/// A URL of scheme, host and port alone, if one is given.
fn endpoint(at: &str, given: &Option<String>) -> Result<Option<String>, Wrong> {
    let Some(given) = given else { return Ok(None) };
    let is_bare = |url: &Url| {
        let has_more = url.query().is_some() || url.fragment().is_some() || url.password().is_some();
        url.path() == "/" && url.username().is_empty() && !has_more
    };
    let is_usable = |url: &Url| matches!(url.scheme(), "https" | "http") && url.has_host() && is_bare(url);
    match Url::parse(given).is_ok_and(|url| is_usable(&url)) {
        true => Ok(Some(given.clone())),
        // It may hold a password.
        false => Err(wrong(&format!("{at}.endpoint"), "is no URL of scheme, host and port, such as https://kms:8443")),
    }
}

fn is_private(endpoint: &str) -> bool {
    let Ok(url) = Url::parse(endpoint) else { return false };
    let is_here = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        _ => false,
    };
    url.scheme() == "https" || is_here
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Identity;

    const ACCOUNT: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";
    const VERSION: &str = "projects/p/locations/europe/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1";

    fn identity(table: &str, changes: &[(&str, &str)]) -> Identity {
        let mut toml = format!("[[{table}]]\naccount = \"{ACCOUNT}\"\n");
        toml.push_str(&match table {
            "aws_kms" => "key = \"alias/k\"\nregion = \"eu-central-1\"\naccess_key_id = \"AKIDS3CRET\"\n\
                          secret_access_key = \"file:/nonexistent\"\n"
                .to_owned(),
            _ => format!("key = \"{VERSION}\"\ntoken = \"t0ken\"\n"),
        });
        for (from, to) in changes {
            assert!(toml.contains(from), "{from}");
            toml = toml.replace(from, to);
        }
        toml.push_str("[[policies]]\nmodule = \"m\"\naccount = \"0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266\"\nmethods = [\"message\"]\n");
        toml::from_str(&toml).unwrap()
    }

    #[test]
    fn a_key_of_a_cloud_is_asked_for_where_the_cloud_is() {
        let endpoint = |table: &str, changes: &[(&str, &str)]| {
            let settings = identity(table, changes).settings().map_err(|wrong| wrong.message)?;
            Ok::<_, String>(settings.kms[0].endpoint.clone())
        };
        assert_eq!(endpoint("aws_kms", &[]).as_deref(), Ok("https://kms.eu-central-1.amazonaws.com"));
        assert_eq!(endpoint("gcp_kms", &[]).as_deref(), Ok(GOOGLE));
        let at = |url: &str| format!("endpoint = \"{url}\"\naccount = ");
        for url in ["https://kms:8443", "http://127.0.0.1:1/", "http://[::1]:1"] {
            for table in ["aws_kms", "gcp_kms"] {
                assert_eq!(endpoint(table, &[("account = ", at(url).as_str())]).as_deref(), Ok(url));
            }
        }
        assert_eq!(endpoint("aws_kms", &[("account = ", at("http://kms").as_str())]).as_deref(), Ok("http://kms"));
        let plain = endpoint("gcp_kms", &[("account = ", at("http://kms").as_str())]).unwrap_err();
        assert!(plain.contains("plain http"), "{plain}");
        for url in [
            "kms",
            "ftp://kms",
            "https://u@kms",
            "https://:p@kms",
            "https://kms/v1",
            "https://kms/?a",
            "https://kms/#a",
        ] {
            let wrong = endpoint("aws_kms", &[("account = ", at(url).as_str())]).unwrap_err();
            assert!(wrong.contains("no URL of scheme, host and port"), "{url}: {wrong}");
        }
        for key in [
            "",
            "projects/p",
            "a/b",
            &VERSION[1..],
            &format!("{VERSION}/x"),
            &VERSION.replace("/p/", "/../"),
            &VERSION.replace("/p/", "/p?/"),
        ] {
            let wrong = endpoint("gcp_kms", &[(VERSION, key)]).unwrap_err();
            assert!(wrong.contains("no version of a key"), "{key}: {wrong}");
        }
        for (from, to, why) in [
            ("alias/k", "a key", "no id, ARN or alias"),
            ("eu-central-1", "eu.central", "no region"),
            (ACCOUNT, "0x12", "address"),
        ] {
            let wrong = endpoint("aws_kms", &[(from, to)]).unwrap_err();
            assert!(wrong.contains(why), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_read_anew_and_shown_by_nobody() {
        use std::{fs, os::unix::fs::PermissionsExt as _};

        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("token");
        let named = format!("file:{}", path.display());
        let mut google = identity("gcp_kms", &[("t0ken", named.as_str())]);
        let missing = google.read(&BTreeMap::new()).unwrap_err();
        assert_eq!(missing.path, "identity.gcp_kms.0.token");
        let write = |text: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("one\n");
        google.read(&BTreeMap::new()).map_err(|wrong| wrong.message).unwrap();
        let settings = google.settings().map_err(|wrong| wrong.message).unwrap();
        let Provider::Gcp { token } = &settings.kms[0].provider else { panic!("{settings:?}") };
        let read = || token.read().map(|token| token.as_str().to_owned());
        assert_eq!(read().as_deref(), Ok("one"));
        write("two\n");
        assert_eq!(read().as_deref(), Ok("two"));
        fs::remove_file(&path).unwrap();
        assert!(read().unwrap_err().contains("cannot be read"));

        let aws = identity("aws_kms", &[]);
        assert_eq!(aws.clone().read(&BTreeMap::new()).unwrap_err().path, "identity.aws_kms.0.secret_access_key");
        let config = crate::config::Config { identity: Some(aws), ..crate::config::Config::default() };
        let shown = crate::config::shown(&config);
        assert!(!shown.contains("AKIDS3CRET") && !format!("{config:?}").contains("AKIDS3CRET"), "{shown}");
        assert!(shown.contains("access_key_id = \"***\"") && shown.contains("file:/nonexistent"), "{shown}");
    }
}
