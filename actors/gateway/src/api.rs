//! The JSON shapes of the admin API that are not the kernel's own (`Node`, `Health`, `ModuleSpec`).
//!
//! Bytes are 0x-hex, times are milliseconds since the Unix epoch. Fields are added, never renamed or removed.

pub mod crashes;
pub mod journal;

use std::{collections::BTreeMap, path::PathBuf};

use nexum_host_ifaces::{
    effects,
    event::EventId,
    outbox::{Ended, Listed, Sent},
    recording::CrashBrief,
    store::{DeadLetter, ModuleInfo, Standing},
    types::{Event, Log, OutcomeStatus},
};
use nexum_kernel::admin::Node;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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

impl Inspection {
    pub fn new(info: ModuleInfo, node: Option<Node>) -> Self {
        let reason = node.as_ref().filter(|node| node.state != "RUN").and_then(|node| node.module.as_ref());
        let reason = reason.and_then(|facts| facts.last_error.clone());
        let ModuleInfo { name, id, record, health, dead_letters, replay, .. } = info;
        let (standing, dead_reason) = match health.standing {
            Standing::Running => ("running", None),
            Standing::Paused => ("paused", None),
            Standing::Dead { reason } => ("dead", Some(reason)),
        };
        let attempts = health.attempts.into_iter().map(|(source, attempt)| FailedEvent {
            source: source.to_string(),
            event: attempt.event.to_string(),
            count: attempt.count,
            error: attempt.error,
        });
        Self {
            name,
            id: id.0,
            state: node.map(|node| node.state),
            reason,
            seq: record.seq,
            cursors: record.cursors.iter().map(|(source, cursor)| (source.to_string(), cursor.to_string())).collect(),
            state_bytes: record.state_bytes,
            journal: record.journal.to_string(),
            standing: standing.to_owned(),
            dead_reason,
            consecutive_failures: health.consecutive_failures,
            restarts_total: health.restarts_total,
            attempts: attempts.collect(),
            last_error: health.last_error,
            dead_letters,
            replay,
        }
    }
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

impl Letter {
    /// A line of the list: without backtrace and payload.
    pub fn brief(letter: &DeadLetter) -> Self {
        Self {
            seq: letter.seq,
            at_ms: letter.at_ms,
            event: letter.id.to_string(),
            kind: letter.id.kind().to_owned(),
            component: format!("sha256:{}", hex::encode(letter.component.0)),
            attempts: letter.attempts,
            error: letter.error.clone(),
            fuel: letter.fuel,
            crash: None,
            backtrace: None,
            payload: None,
        }
    }

    /// `crashes` are those of the module, oldest first.
    pub fn full(letter: &DeadLetter, crashes: &[CrashBrief]) -> Self {
        let (first, again) = (letter.id.to_string(), EventId::Retry { seq: letter.seq }.to_string());
        let of_it = |crash: &&CrashBrief| crash.whole && (crash.event == first || crash.event == again);
        Self {
            crash: crashes.iter().rfind(of_it).map(|crash| crash.number),
            backtrace: letter.backtrace.clone(),
            payload: Some(event(&letter.event)),
            ..Self::brief(letter)
        }
    }
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
    /// `http` or `rpc`.
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
    /// The event that sent it was undone by a reorg, after it may have left.
    pub retracted: bool,
    /// Whether what it carries is still there. It is not of one that was delivered, nor of others that ended long ago.
    #[serde(default = "kept")]
    pub body_kept: bool,
    /// What is sent; only when one effect is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
}

/// What an engine means that does not say.
fn kept() -> bool {
    true
}

impl Effect {
    /// A line of the list: without payload.
    pub fn brief(listed: &Listed) -> Self {
        let Listed { entry, progress, retracted, body_kept } = listed;
        let state = match &progress.ended {
            Some(end) => match end.how {
                Ended::Delivered => "delivered",
                Ended::Failed => "failed",
                Ended::Cancelled | Ended::Retracted => "cancelled",
            },
            None if progress.released => "released",
            None => "pending",
        };
        let Sent { id, key, kind, destination, lane, release } = entry.brief();
        let waits = progress.ended.is_none() && progress.next_attempt_ms > 0;
        Self {
            id,
            key,
            state: state.to_owned(),
            kind,
            destination,
            lane,
            release,
            sent_at_ms: entry.sent_at_ms,
            attempts: progress.attempts,
            next_attempt_ms: waits.then_some(progress.next_attempt_ms),
            last_error: progress.last_error.clone(),
            retracted: *retracted,
            body_kept: *body_kept,
            payload: None,
        }
    }

    pub fn full(listed: &Listed) -> Self {
        let payload = effects::of(&listed.entry.effect).payload();
        Self { payload: Some(payload), ..Self::brief(listed) }
    }
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// An event as JSON-RPC users know it: bytes as hex.
fn event(event: &Event) -> Value {
    match event {
        Event::Block(block) => json!({ "block": {
            "chain_id": block.chain_id,
            "number": block.number,
            "hash": hex(&block.hash),
            "parent_hash": hex(&block.parent_hash),
            "timestamp": block.timestamp,
        }}),
        Event::Logs(logs) => json!({ "logs": logs.iter().map(log).collect::<Vec<_>>() }),
        Event::Tick(tick) => json!({ "tick": { "fired_at": tick.fired_at } }),
        Event::Message(message) => json!({ "message": {
            "content_topic": message.content_topic,
            "payload": hex(&message.payload),
            "timestamp": message.timestamp,
            "sender": message.sender.as_deref().map(hex),
        }}),
        Event::Reorg(reorg) => json!({ "reorg": {
            "chain_id": reorg.chain_id,
            "common_ancestor": { "number": reorg.common_ancestor.number, "hash": hex(&reorg.common_ancestor.hash) },
            "old_head": { "number": reorg.old_head.number, "hash": hex(&reorg.old_head.hash) },
            "new_head": { "number": reorg.new_head.number, "hash": hex(&reorg.new_head.hash) },
            "released_effects": reorg.released_effects.iter()
                .map(|effect| json!({ "id": effect.id, "key": effect.key })).collect::<Vec<_>>(),
        }}),
        Event::Outcome(outcome) => {
            let (status, detail) = match &outcome.status {
                OutcomeStatus::Delivered(answer) => ("delivered", hex(answer)),
                OutcomeStatus::Failed(error) => ("failed", error.clone()),
                OutcomeStatus::Cancelled(reason) => ("cancelled", reason.clone()),
            };
            json!({ "outcome": {
                "effect_id": outcome.effect_id,
                "key": outcome.key,
                "attempts": outcome.attempts,
                "status": status,
                "detail": detail,
            }})
        }
    }
}

fn log(log: &Log) -> Value {
    json!({
        "chain_id": log.chain_id,
        "address": hex(&log.address),
        "topics": log.topics.iter().map(|topic| hex(topic)).collect::<Vec<_>>(),
        "data": hex(&log.data),
        "block_number": log.block_number,
        "block_hash": hex(&log.block_hash),
        "block_timestamp": log.block_timestamp,
        "transaction_hash": hex(&log.transaction_hash),
        "transaction_index": log.transaction_index,
        "log_index": log.log_index,
    })
}
