//! The module manifest, `nexum.toml`: read, checked and turned into what the kernel works with.
//!
//! Everything a manifest asks for is validated here, when it is loaded; every error names the file and the line.
//! `raw` mirrors the file; this file owns the meaning.

mod capabilities;
pub(crate) mod ceilings;
mod libraries;
mod raw;
pub(crate) mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use nexum_admin_api::text;
use nexum_host_ifaces::{
    Hash,
    bounded::{MESSAGE_BYTES_MAX, cut},
    capability::Capability,
    cron::ScheduleCheck,
    interfaces::table::Tables,
    limits::Limits,
    secrets,
    types::{ConfigScalar, ConfigValue},
};
use serde::Deserialize;
use values::Finding;

use crate::sources::Source;

/// A checked manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub kind: Kind,
    pub name: Arc<str>,
    pub version: String,
    pub description: String,
    pub authors: Vec<String>,
    /// SHA-256 of `module.wasm`.
    pub component: Hash,
    pub limits: Limits,
    pub restart: RestartPolicy,
    pub on_reorg: OnReorg,
    pub required_chains: BTreeSet<u64>,
    pub optional_chains: BTreeSet<u64>,
    pub required: Vec<Capability>,
    pub optional: Vec<Capability>,
    /// What it says about interfaces.
    pub tables: Tables,
    pub sources: Vec<Arc<dyn Source>>,
    pub config: Vec<(String, ConfigValue)>,
    /// What the component calls besides the host.
    pub libraries: Vec<LibraryReference>,
}

/// What a bundle is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What is told of events.
    #[default]
    Module,
    /// What modules call.
    Library,
}

/// A library that a module's component was built against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryReference {
    pub name: Arc<str>,
    pub version: String,
    /// SHA-256 of its component.
    pub component: Hash,
}

/// When a failing module is started again, and when it is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Failures in a row after which the module is Dead.
    pub max_consecutive_failures: u32,
    /// Failed attempts after which an event goes to the dead letters.
    pub max_event_attempts: u32,
    pub backoff_first: Duration,
    pub backoff_cap: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            max_consecutive_failures: 10,
            max_event_attempts: 3,
            backoff_first: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(300),
        }
    }
}

/// What a module wants when blocks it handled are retracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReorg {
    /// Undo its state to before the first retracted event, then deliver the new branch.
    #[default]
    Rewind,
    /// Leave its state; deliver a `reorg` event, then the new branch.
    Notify,
}

/// What is wrong with a manifest, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    pub file: PathBuf,
    pub line: Option<usize>,
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// A list of the table of an interface; empty when there is none.
    pub fn list(&self, capability: Capability, key: &str) -> &[String] {
        self.tables.list(capability, key).map_or(&[], |list| list)
    }

    /// Reads and checks the manifest at `path`. `check` knows which schedules can be used.
    pub fn read(path: &Path, check: &ScheduleCheck) -> Result<Self, ManifestError> {
        let wrong = |message: String| ManifestError { file: path.to_owned(), line: None, message };
        let text = text::read(path, text::MANIFEST_BYTES_MAX).map_err(wrong)?;
        Self::parse(&text, path, check)
    }

    /// Checks a manifest's text; `file` is only for the error.
    pub fn parse(text: &str, file: &Path, check: &ScheduleCheck) -> Result<Self, ManifestError> {
        // A message repeats what is written, however long that is, and whatever it is.
        let told = |message: &str| cut(secrets::without_value(&message.replace('\n', " ")), MESSAGE_BYTES_MAX);
        let located = |(span, message): Finding| ManifestError {
            file: file.to_owned(),
            line: Some(text[..span.start.min(text.len())].matches('\n').count() + 1),
            message: told(&message),
        };
        if let Some((at, message)) = text::too_deep(text) {
            return Err(located((at..at, message)));
        }
        let raw: raw::Manifest = toml::from_str(text).map_err(|error| match error.span() {
            Some(span) => {
                let is_of_type = |_: &&str| error.message().starts_with("invalid type");
                let message = match key_before(text, span.start).filter(is_of_type) {
                    Some(key) => format!("{key}: {}", error.message()),
                    None => error.message().to_owned(),
                };
                located((span, message))
            }
            None => ManifestError { file: file.to_owned(), line: None, message: told(error.message()) },
        })?;
        raw.check(check).map_err(located)
    }
}

/// The key that the value at `offset` is written after, on the same line.
fn key_before(text: &str, offset: usize) -> Option<&str> {
    let before = text.get(..offset)?;
    let line = &before[before.rfind('\n').map_or(0, |end| end + 1)..];
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let key = line.split_once('=').map(|(key, _)| key.trim());
    key.filter(|key| !key.is_empty() && key.chars().all(is_bare))
}

/// The line of a key of `[config]`, or of the table that it is in, in the manifest at `path`; none when it is not there.
pub fn config_line(path: &Path, key: &str) -> Option<usize> {
    #[derive(Deserialize)]
    struct Configured {
        #[serde(default)]
        config: BTreeMap<String, toml::Spanned<toml::Value>>,
    }
    let text = text::read(path, text::MANIFEST_BYTES_MAX).ok()?;
    let Configured { config } = toml::from_str(&text).ok()?;
    let value = config.get(key).or_else(|| config.get(key.split('.').next()?))?;
    Some(text.get(..value.span().start)?.matches('\n').count() + 1)
}

/// A TOML value as a module's `init` sees it; nested tables become dotted keys.
pub fn config_values(key: &str, value: &toml::Value, out: &mut Vec<(String, ConfigValue)>) -> Result<(), String> {
    if key.len() > ceilings::CONFIG_KEY_BYTES_MAX {
        let most = ceilings::CONFIG_KEY_BYTES_MAX;
        return Err(format!("[config]: a key of {} bytes: expected at most {most}", key.len()));
    }
    let value = match value {
        toml::Value::Table(table) => {
            for (inner, value) in table {
                config_values(&format!("{key}.{inner}"), value, out)?;
            }
            return Ok(());
        }
        toml::Value::Array(items) => {
            ConfigValue::List(items.iter().map(|item| scalar(key, item)).collect::<Result<_, _>>()?)
        }
        single => match scalar(key, single)? {
            ConfigScalar::String(text) => ConfigValue::String(text),
            ConfigScalar::Integer(number) => ConfigValue::Integer(number),
            ConfigScalar::Boolean(flag) => ConfigValue::Boolean(flag),
        },
    };
    out.push((key.to_owned(), value));
    Ok(())
}

fn scalar(key: &str, value: &toml::Value) -> Result<ConfigScalar, String> {
    match value {
        toml::Value::String(text) => Ok(ConfigScalar::String(text.clone())),
        toml::Value::Integer(number) => Ok(ConfigScalar::Integer(*number)),
        toml::Value::Boolean(flag) => Ok(ConfigScalar::Boolean(*flag)),
        toml::Value::Datetime(time) => Ok(ConfigScalar::String(time.to_string())),
        other => Err(format!(
            "[config] {key}: a {} has no form in WIT here; write it as a string, an integer or a boolean",
            other.type_str()
        )),
    }
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::cron::ScheduleNext;

    use super::*;
    use crate::sources::Calendar;

    pub(super) fn any_schedule() -> ScheduleCheck {
        Arc::new(|_| Ok(()))
    }

    const HEAD: &str = "[module]\nname = \"m\"\nversion = \"0.1.0\"\ncomponent = \"sha256:1111111111111111111111111111111111111111111111111111111111111111\"\n[capabilities]\nrequired = [\"logging\"]\n";

    fn parse(rest: &str) -> Result<Manifest, String> {
        Manifest::parse(&format!("{HEAD}{rest}"), Path::new("nexum.toml"), &any_schedule())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_error_repeats_no_more_of_a_manifest_than_people_read() {
        let long = "x".repeat(1 << 20);
        for wrong in [
            format!("[module.restart]\nbackoff = \"{long}\"\n"),
            format!("[[subscription]]\nkind = \"{long}\"\n"),
            format!("[{long}]\n"),
        ] {
            let error = parse(&wrong).unwrap_err();
            assert!(error.len() < 2 * MESSAGE_BYTES_MAX && error.starts_with("nexum.toml:"), "{} bytes", error.len());
        }
    }

    #[test]
    fn lists_that_everybody_would_carry_have_an_end() {
        let schedules = |count: usize| -> String {
            (1..=count).map(|n| format!("[[subscription]]\nkind = \"cron\"\nevery = \"{n}s\"\n")).collect()
        };
        assert_eq!(parse(&schedules(ceilings::SUBSCRIPTIONS_MAX)).map(|it| it.sources.len()), Ok(128));
        let error = parse(&schedules(ceilings::SUBSCRIPTIONS_MAX + 1)).unwrap_err();
        assert!(error.ends_with(": 129 subscriptions: expected at most 128"), "{error}");
        let logs = |key: &str, digits: usize, count: usize| {
            let values: Vec<String> = (0..count).map(|n| format!("\"0x{n:0digits$x}\"")).collect();
            let values = if key == "topics" { format!("[{}]", values.join(",")) } else { values.join(",") };
            let log = "[chains]\nrequired = [1]\n[[subscription]]\nkind = \"log\"\nchain_id = 1\n";
            parse(&format!("{log}{key} = [{values}]\n")).map(drop)
        };
        assert_eq!((logs("address", 40, 1000), logs("topics", 64, 1000)), (Ok(()), Ok(())));
        let error = logs("address", 40, 1001).unwrap_err();
        assert!(error.ends_with(": 1001 addresses: expected at most 1000"), "{error}");
        let error = logs("topics", 64, 1001).unwrap_err();
        assert!(error.ends_with(": 1001 topics at one position: expected at most 1000"), "{error}");
    }

    #[test]
    fn a_manifest_that_is_too_large_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nexum.toml");
        let write = |bytes: u64| {
            let comment = "#".repeat(usize::try_from(bytes).unwrap() - HEAD.len());
            std::fs::write(&path, format!("{HEAD}{comment}")).unwrap();
            Manifest::read(&path, &any_schedule()).map(drop).map_err(|error| error.message)
        };
        assert_eq!(write(text::MANIFEST_BYTES_MAX), Ok(()));
        let error = write(text::MANIFEST_BYTES_MAX + 1).unwrap_err();
        assert_eq!(error, "is larger than 1048576 bytes: expected at most as much");
    }

    #[test]
    fn no_error_repeats_what_may_be_a_secret() {
        const KEY: &str = "k3y-0123456789";
        let url = format!("https://user:{KEY}@rpc.example.org/v2/{KEY}");
        let block = "[chains]\nrequired = [1]\n[[subscription]]\nkind = \"block\"\n";
        for wrong in [
            format!("[config]\nurl = \"{url}\n"),
            format!("[config]\nurl = {url}\"\n"),
            format!("[config]\nurl = {url}\n"),
            format!("[config]\nurl = '{url}\"\n"),
            format!("[config]\nurl = \"{url}\"\nurl = \"{url}\"\n"),
            format!("[config]\nurl = \"\\q{url}\"\n"),
            format!("[config]\nurl = \"{url}\" \"{url}\"\n"),
            format!("[config]\n\"{url}\"\n"),
            format!("[config]\nurls = [\"{url}\", 1.5]\n"),
            format!("{block}chain_id = \"{KEY}\"\n"),
            format!("{block}chain_id = [\"{url}\"]\n"),
            format!("{block}chain_id = 1\nfinality = \"{url}`x\"\n"),
            format!("{block}chain_id = 1\n\"{url}\" = 1\n"),
            format!("[module.restart]\nbackoff = [\n\"{url}?a=b\", 5,\n]\n"),
            format!("[[subscription]]\nkind = \"cron\"\nevery = \"{url}\"\n"),
            format!("[capabilities.http]\nallow = [\"{url}\"]\n"),
            format!("[capabilities.identity]\nmethods = [\"{url}`{KEY}\"]\n"),
        ] {
            let error = parse(&wrong).unwrap_err();
            assert!(!error.contains(KEY), "{wrong}{error}");
            assert!(error.starts_with("nexum.toml:"), "it says where: {error}");
        }
    }

    #[test]
    fn whatever_the_bytes_are_there_is_an_answer() {
        assert!(Manifest::parse(&format!("\u{feff}{HEAD}"), Path::new("m"), &any_schedule()).is_ok());
        assert!(Manifest::parse(&HEAD.replace('\n', "\r\n"), Path::new("m"), &any_schedule()).is_ok());
        let many = |open: &str, close: &str| format!("[config]\nx = {}1{}\n", open.repeat(9999), close.repeat(9999));
        let nested = "tables and lists within each other: expected at most 32";
        let digits = "9".repeat(1 << 16);
        let long = "k".repeat(300);
        let keys: String = (0..99_999).map(|n| format!("k{n}=1\n")).collect();
        for (wrong, why) in [
            (many("[", "]"), nested),
            (many("{a=", "}"), nested),
            (many("{a.b.c.d=[", "]}"), nested),
            (many("{a=", ""), nested),
            (format!("[config{}]\n", ".a".repeat(99_999)), nested),
            (format!("[config]\na{} = 1\n", ".a".repeat(99_999)), nested),
            (format!("[config.{long}]\n{keys}"), "a key of 300 bytes: expected at most 256"),
            (format!("[config]\nx = {digits}\n"), ""),
            (format!("[config]\nx = 1e{digits}\n"), ""),
            ("[config]\nx = \"\0\"\n".to_owned(), ""),
            ("\0".to_owned(), ""),
        ] {
            let error = parse(&wrong).unwrap_err();
            assert!(error.starts_with("nexum.toml:") && error.contains(why) && error.len() < 2048, "{error}");
        }
        assert_eq!(parse(&format!("[config]\n{keys}")).map(|manifest| manifest.config.len()), Ok(99_999));
    }

    /// What the fuzzer begins with.
    #[test]
    fn the_corpus_is_answered() {
        let mut taken = 0;
        for seed in nexum_testkit::corpus("manifest") {
            let text = String::from_utf8(seed).unwrap();
            match Manifest::parse(&text, Path::new("nexum.toml"), &any_schedule()) {
                Ok(_) => taken += 1,
                Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
            }
        }
        assert!(taken > 1);
    }

    const TRANSFERS: &str = "logs of chain 1 from 0x5fbdb2315678afecb367f032d93f642f64180aa3, from block 7 on";

    #[test]
    fn subscriptions_of_one_chain_share_a_cursor_unless_they_are_held_back_differently() {
        let manifest = parse(
            "[chains]\nrequired = [1]\n\
             [[subscription]]\nkind = \"block\"\nchain_id = 1\n\
             [[subscription]]\nkind = \"log\"\nchain_id = 1\nstart_block = 7\naddress = \"0x5FbDB2315678afecb367f032d93F642f64180aa3\"\n\
             [[subscription]]\nkind = \"chain-log\"\nchain_id = 1\nconfirmations = 3\n\
             [[subscription]]\nkind = \"cron\"\nevery = \"30s\"\n",
        )
        .unwrap();
        let ids: Vec<_> = manifest.sources.iter().map(|source| source.id().as_str()).collect();
        assert_eq!(ids, ["chain:1", "chain:1:confirmations=3", "cron:every=30000ms"]);
        let next: ScheduleNext = Arc::new(|_, _| None);
        let calendar = Calendar { next: &next, now_ms: 0, times: 1 };
        let told: Vec<_> = manifest.sources[0].shown(&calendar).into_iter().map(|shown| shown.what).collect();
        assert_eq!(told, ["every block of chain 1, from block 7 on", TRANSFERS]);
    }

    #[test]
    fn sources_are_in_the_order_of_their_first_subscriptions_and_then_come_outcomes() {
        let every = |period: u64| format!("[[subscription]]\nkind = \"cron\"\nevery = \"{period}s\"\n");
        let block = |chain: u64| format!("[[subscription]]\nkind = \"block\"\nchain_id = {chain}\n");
        let log = "[[subscription]]\nkind = \"log\"\nchain_id = 7\n";
        let subscriptions = [every(9), block(7), every(8), block(1), log.to_owned()].concat();
        let manifest =
            parse(&format!("optional = [\"outbox\"]\n[chains]\nrequired = [1, 7]\n{subscriptions}")).unwrap();
        let ids: Vec<_> = manifest.sources.iter().map(|source| source.id().as_str()).collect();
        assert_eq!(ids, ["cron:every=9000ms", "chain:7", "cron:every=8000ms", "chain:1", "outbox"]);
    }

    #[test]
    fn config_arrives_typed_and_flat() {
        let manifest = parse("[config]\nurl = \"u\"\nn = 3\nlist = [1, true]\n[config.inner]\nflag = false\n").unwrap();
        let config: std::collections::BTreeMap<_, _> = manifest.config.into_iter().collect();
        assert!(matches!(config["inner.flag"], ConfigValue::Boolean(false)));
        assert!(matches!(&config["list"], ConfigValue::List(items) if items.len() == 2));
    }
}
