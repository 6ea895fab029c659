//! The module manifest, `nexum.toml`: read, checked and turned into what the kernel works with.
//!
//! Everything a manifest asks for is validated here, when it is loaded; every error names the file and the line.
//! `raw` mirrors the file; this file owns the meaning.

mod ceilings;
mod raw;

use std::{
    collections::BTreeSet,
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nexum_host_ifaces::{
    Hash,
    bounded::{MESSAGE_BYTES_MAX, cut},
    chain::{Blocks, Hold, Interest, LogFilter},
    cron::{Missed, Schedule, ScheduleCheck},
    event::SourceId,
    grants::Capability,
    http::Allowlist,
    limits::Limits,
    outbox,
    types::{ConfigScalar, ConfigValue},
};

/// A checked manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
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
    /// Chain methods beyond the standard ones.
    pub extra_methods: BTreeSet<String>,
    /// Hosts that requests may go to.
    pub allow: Allowlist,
    pub sources: Vec<Source>,
    pub config: Vec<(String, ConfigValue)>,
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

/// One stream of events with a cursor of its own: the subscriptions that must stay in order with each other.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Chain {
        id: SourceId,
        chain_id: u64,
        interest: Arc<Interest>,
    },
    Cron {
        id: SourceId,
        schedule: Arc<Schedule>,
        missed: Missed,
    },
    /// What became of the module's effects; there for every module that asks for the outbox.
    Outbox {
        id: SourceId,
    },
}

impl Source {
    pub fn id(&self) -> &SourceId {
        match self {
            Self::Chain { id, .. } | Self::Cron { id, .. } | Self::Outbox { id } => id,
        }
    }
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

/// A finding at a byte range of the file.
type Finding = (std::ops::Range<usize>, String);

impl Manifest {
    /// Reads and checks the manifest at `path`. `check` knows which schedules can be used.
    pub fn read(path: &Path, check: &ScheduleCheck) -> Result<Self, ManifestError> {
        Self::parse(&Self::text(path)?, path, check)
    }

    /// The text of a manifest's file, of at most as many bytes as a manifest may have.
    ///
    /// # Errors
    /// The file, and why it is not read.
    pub fn text(path: &Path) -> Result<String, ManifestError> {
        let wrong = |message: String| ManifestError { file: path.to_owned(), line: None, message };
        let unreadable = |error: std::io::Error| wrong(format!("cannot be read: {error}"));
        let mut bytes = Vec::new();
        let file = crate::load::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(wrong("is not a file: a bundle has its manifest in nexum.toml".to_owned()));
        }
        file.take(ceilings::FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > ceilings::FILE_BYTES_MAX {
            return Err(wrong(format!("is larger than {} bytes: no manifest needs as much", ceilings::FILE_BYTES_MAX)));
        }
        String::from_utf8(bytes).map_err(|error| wrong(format!("cannot be read: {error}")))
    }

    /// Checks a manifest's text; `file` is only for the error.
    pub fn parse(text: &str, file: &Path, check: &ScheduleCheck) -> Result<Self, ManifestError> {
        // A message repeats what is written, however long that is.
        let located = |(span, message): Finding| ManifestError {
            file: file.to_owned(),
            line: Some(text[..span.start.min(text.len())].matches('\n').count() + 1),
            message: cut(message, MESSAGE_BYTES_MAX),
        };
        let raw: raw::Manifest = toml::from_str(text).map_err(|error| {
            let message = error.message().replace('\n', " ");
            match error.span() {
                Some(span) => {
                    let message = match key_before(text, span.start).filter(|_| message.starts_with("invalid type")) {
                        Some(key) => format!("{key}: {message}"),
                        None => message,
                    };
                    located((span, message))
                }
                None => ManifestError { file: file.to_owned(), line: None, message: cut(message, MESSAGE_BYTES_MAX) },
            }
        })?;
        raw.check(check).map_err(located)
    }
}

/// The key that the value at `offset` is written after, on the same line.
fn key_before(text: &str, offset: usize) -> Option<&str> {
    let before = text.get(..offset)?;
    let line = &before[before.rfind('\n').map_or(0, |end| end + 1)..];
    line.split_once('=').map(|(key, _)| key.trim()).filter(|key| !key.is_empty())
}

/// Merges subscriptions of one chain with the same hold into one source, so that its blocks and logs stay in order.
#[derive(Debug, Default)]
struct Sources(Vec<Source>);

impl Sources {
    fn chain(&mut self, chain_id: u64, hold: Hold, change: impl FnOnce(&mut Interest)) {
        let id = match hold {
            Hold::Latest => format!("chain:{chain_id}"),
            Hold::Confirmations(count) => format!("chain:{chain_id}:confirmations={count}"),
            Hold::Safe => format!("chain:{chain_id}:safe"),
            Hold::Finalized => format!("chain:{chain_id}:finalized"),
        };
        let found = self.0.iter_mut().find(|source| source.id().as_str() == id);
        let interest = match found {
            Some(Source::Chain { interest, .. }) => interest,
            _ => {
                let interest = Interest { blocks: Blocks::None, logs: Vec::new(), start_block: None, hold };
                self.0.push(Source::Chain { id: SourceId::new(id), chain_id, interest: Arc::new(interest) });
                match self.0.last_mut() {
                    Some(Source::Chain { interest, .. }) => interest,
                    _ => return,
                }
            }
        };
        change(Arc::make_mut(interest));
    }

    fn blocks(&mut self, chain_id: u64, hold: Hold, blocks: Blocks, start: Option<u64>) -> Result<(), String> {
        let mut twice = false;
        self.chain(chain_id, hold, |interest| {
            twice = interest.blocks != Blocks::None;
            interest.blocks = blocks;
            interest.start_block = earliest(interest.start_block, start);
        });
        if twice { Err("the blocks of this chain are subscribed twice".into()) } else { Ok(()) }
    }

    fn logs(&mut self, chain_id: u64, hold: Hold, filter: LogFilter, start: Option<u64>) {
        self.chain(chain_id, hold, |interest| {
            interest.logs.push(filter);
            interest.start_block = earliest(interest.start_block, start);
        });
    }

    fn outbox(&mut self) {
        self.0.push(Source::Outbox { id: SourceId::new(outbox::SOURCE) });
    }

    fn cron(&mut self, schedule: Schedule, missed: Missed) -> Result<(), String> {
        let id = match &schedule {
            Schedule::Cron(expression) => format!("cron:{expression}"),
            Schedule::Every { period_ms } => format!("cron:every={period_ms}ms"),
        };
        if self.0.iter().any(|source| source.id().as_str() == id) {
            return Err("this schedule is subscribed twice".into());
        }
        self.0.push(Source::Cron { id: SourceId::new(id), schedule: Arc::new(schedule), missed });
        Ok(())
    }
}

fn earliest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A TOML value as a module's `init` sees it; nested tables become dotted keys.
pub fn config_values(key: &str, value: &toml::Value, out: &mut Vec<(String, ConfigValue)>) -> Result<(), String> {
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
    use super::*;

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
        assert_eq!(write(ceilings::FILE_BYTES_MAX), Ok(()));
        let error = write(ceilings::FILE_BYTES_MAX + 1).unwrap_err();
        assert_eq!(error, "is larger than 1048576 bytes: no manifest needs as much");
    }

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
        let Source::Chain { interest, .. } = &manifest.sources[0] else { panic!("a chain source") };
        assert_eq!((interest.blocks, interest.logs.len(), interest.start_block), (Blocks::All, 1, Some(7)));
    }

    #[test]
    fn config_arrives_typed_and_flat() {
        let manifest = parse("[config]\nurl = \"u\"\nn = 3\nlist = [1, true]\n[config.inner]\nflag = false\n").unwrap();
        let config: std::collections::BTreeMap<_, _> = manifest.config.into_iter().collect();
        assert!(matches!(config["inner.flag"], ConfigValue::Boolean(false)));
        assert!(matches!(&config["list"], ConfigValue::List(items) if items.len() == 2));
    }
}
