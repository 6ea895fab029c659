//! The JSON of the admin API, and what can be said of a journal from it alone.
//!
//! Owns: the shapes that the gateway serves and that clients read, and how a bundle's manifest is read before it is
//! parsed, by both. Bytes are 0x-hex, times are milliseconds since the Unix
//! epoch. Fields are added, never renamed or removed.
//!
//! Invariant: nothing here needs an engine, so that a client of one is small.

pub mod accounts;
pub mod crashes;
pub mod health;
pub mod journal;
pub mod orders;
pub mod state;
pub mod text;
#[cfg(any(test, feature = "fuzzing"))]
mod torture;
pub mod tree;

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// What must hold of orders and exports, for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod readers {
    pub use crate::torture::{export, order};
}

/// Every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
}

/// The answer to `POST /v1/modules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    pub name: String,
}

/// The body of `POST /v1/backup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRequest {
    /// A directory that does not exist yet, as the engine's user sees it.
    pub to: PathBuf,
}

/// The body of `POST /v1/services/{name}/restart`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartRequest {
    /// End it as a bug would, which counts against its restarts.
    #[serde(default)]
    pub kill: bool,
}

/// The body of `POST /v1/modules/{name}/upgrade`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// A bundle, as the engine's user sees it, by absolute path; absent: the present one, read again.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// Whether the new version may reach more than the running one.
    #[serde(default)]
    pub allow_capabilities: bool,
}

/// The body of `POST /v1/drain` and `POST /v1/modules/{name}/drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Answered within this time, whatever was finished by then.
    pub deadline_ms: u64,
}

/// The answer to `POST /v1/resume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    pub resumed: Vec<String>,
}

/// The answer to `POST /v1/shutdown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// What could not finish in time, one line each.
    pub unfinished: Vec<String>,
}

/// One entry of a module's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEntry {
    pub key: String,
    pub bytes: usize,
    /// 0x-hex.
    pub value: String,
    /// The same as text, when it is printable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl StateEntry {
    pub fn new(key: String, value: &[u8]) -> Self {
        let text = std::str::from_utf8(value).ok().filter(|text| text.chars().all(|c| !c.is_control() || c == '\n'));
        Self { key, bytes: value.len(), value: hex(value), text: text.map(str::to_owned) }
    }
}

/// A page of `GET /v1/modules/{name}/state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatePage {
    pub entries: Vec<StateEntry>,
    /// `after` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The body of `POST /v1/modules/{name}/query`. The answer is the module's JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryRequest {
    /// A name that the module gives a meaning.
    pub method: String,
    /// Any JSON, of which the module gets the text; absent: `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Box<RawValue>>,
}

/// What the store knows of a module, and whether it is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    pub name: String,
    /// The store's number for it; 0 for one that has never started.
    pub id: u32,
    /// State in the tree, such as `RUN`; absent when the module is not loaded.
    pub state: Option<String>,
    /// Why it is in that state, when it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Sequence number of the last unit.
    pub seq: u64,
    pub cursors: BTreeMap<String, String>,
    pub state_bytes: u64,
    /// Digest of the last journal entry.
    pub journal: String,
    /// What becomes of the module when the engine starts: `running`, `paused`, or `dead` with the reason.
    pub standing: String,
    pub dead_reason: Option<String>,
    pub consecutive_failures: u32,
    pub restarts_total: u64,
    /// The events that failed last and may be tried again.
    pub attempts: Vec<FailedEvent>,
    pub last_error: Option<String>,
    pub dead_letters: u64,
    /// Events that are still to be gone through after a rewind.
    pub replay: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedEvent {
    pub source: String,
    pub event: String,
    pub count: u32,
    pub error: String,
}

/// An event that a module could not handle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// Its number for `show`, `retry` and `drop`.
    pub seq: u64,
    pub at_ms: u64,
    /// The event's id, such as `block:1:21934117:0x…`.
    pub event: String,
    /// `block`, `logs`, `tick`, …
    pub kind: String,
    /// `sha256:` and 64 hex digits.
    pub component: String,
    pub attempts: u32,
    pub error: String,
    pub fuel: u64,
    /// The kept crash that replays it, if there is one; only when one letter is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    /// The event itself; only when one letter is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
}

/// The body of `POST /v1/modules/{name}/dlq/retry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// Go on with the next letter when one fails again.
    #[serde(default)]
    pub keep_going: bool,
}

/// What became of the letters that were there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    pub handled: usize,
    pub failed: Vec<FailedRetry>,
    /// Left as they were, after one that failed or because the module stopped.
    pub not_tried: usize,
    /// Why it was not gone on, when that was not a letter's fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRetry {
    pub seq: u64,
    pub error: String,
}

/// The answer to `DELETE /v1/modules/{name}/dlq`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub dropped: usize,
}

/// An effect of a module's outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Its name for `show`, `retry` and `cancel`.
    pub id: String,
    pub key: String,
    /// `pending`, `released` once it may have left, or how it ended: `delivered`, `failed`, `cancelled`.
    pub state: String,
    /// `http`, `rpc`, `transaction`, `signature` or `upload`.
    pub kind: String,
    /// An origin without its path, or a chain.
    pub destination: String,
    pub lane: Option<String>,
    /// `committed`, `safe` or `finalized`.
    pub release: String,
    pub sent_at_ms: u64,
    pub attempts: u32,
    pub next_attempt_ms: Option<u64>,
    pub last_error: Option<String>,
    /// What it is at where it was handed to, as far as that was asked since the outbox started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underway: Option<String>,
    /// The event that sent it was undone by a reorg, after it may have left.
    pub retracted: bool,
    /// Whether what it carries, if anything, is still there. It is not of one that was delivered, nor of others that ended
    /// long ago.
    pub body_kept: bool,
    /// What is sent; only when one effect is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
}

/// Bytes as they are shown.
pub fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}
