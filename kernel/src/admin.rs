//! The admin port of the kernel: what an operator can ask and order, and the answers as they are shown and serialised.
//!
//! Reads of the store (dead letters, state) go to the store's own port; here is what needs the supervisor tree.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use nexum_host_ifaces::{Hash, grants::Capability, limits::Limits, recording::Record, store::StoreError};
use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};

pub use crate::modules::Wanted;

/// Where the engine's configuration takes a module from, and what the operator changes about it.
#[derive(Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ModuleSpec {
    /// A bundle directory (`nexum.toml` and `module.wasm`).
    pub source: PathBuf,
    /// Capabilities that the operator withholds.
    #[serde(default)]
    pub denied: Vec<Capability>,
    /// Ceilings for this module; the manifest's limits are lowered to them.
    #[serde(default)]
    pub ceiling: Option<Limits>,
    /// Values that replace or add to the manifest's `[config]`.
    #[serde(default)]
    pub config: BTreeMap<String, toml::Value>,
    /// Methods beyond the standard ones that the operator allows, if the manifest asks for them.
    #[serde(default)]
    pub extra_methods: Vec<String>,
    /// What is recorded of its events, if otherwise than of the other modules'.
    #[serde(default)]
    pub record: Option<Record>,
    /// The component that the operator wants, whatever the manifest names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<Hash>,
    /// Whether it may have the state that another module of its name left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt_state: bool,
}

impl fmt::Debug for ModuleSpec {
    /// Without the values of its configuration, of which some may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.config.keys().collect();
        f.debug_struct("ModuleSpec").field("source", &self.source).field("config", &keys).finish_non_exhaustive()
    }
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum AdminError {
    #[error("no module `{0}` is loaded")]
    UnknownModule(String),
    #[error("a module named `{0}` is loaded already")]
    AlreadyLoaded(String),
    #[error("module `{module}` is {state}: {hint}")]
    WrongState { module: String, state: String, hint: String },
    /// The artifact, manifest or grants are wrong; the message names file and line.
    #[error("{0}")]
    Load(String),
    #[error("no service `{0}`: `nexumctl service list` names them")]
    UnknownService(String),
    #[error("module `{module}` has no dead letter {seq}")]
    UnknownDeadLetter { module: String, seq: u64 },
    #[error("the new version of `{module}` may reach more than the running one ({beyond}): say --allow-capabilities")]
    NeedsApproval { module: String, beyond: String },
    /// The same when nobody named a bundle: the one that the module came from has changed.
    #[error(
        "the bundle of `{module}` has changed and may reach more than what runs ({beyond}): if it shall, say \
         `nexumctl module upgrade {module} --allow-capabilities`"
    )]
    RestartNeedsApproval { module: String, beyond: String },
    #[error("`{module}` goes on as it was; the new version was refused: {reason}")]
    NotUpgraded { module: String, reason: String },
    /// The module could not handle the event of a dead letter this time either.
    #[error("it failed again: {0}")]
    FailedAgain(String),
    #[error("module `{module}` has no effect `{id}` that waits: `nexumctl outbox list {module}` names them")]
    UnknownEffect { module: String, id: String },
    /// What was asked for cannot be; everything is as it was.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unavailable(String),
}

impl AdminError {
    /// The order would take a module out of DEAD, which `module restart` alone does.
    pub(crate) fn dead(module: &str) -> Self {
        let hint =
            format!("its budget was spent before the order could be carried out; `nexumctl module restart {module}`");
        Self::WrongState { module: module.to_owned(), state: "DEAD".to_owned(), hint }
    }
}

pub type AdminReply<T> = RpcReplyPort<Result<T, AdminError>>;

/// Orders and questions for the running kernel. Every message must be answered.
#[derive(Debug)]
pub enum AdminMsg {
    Tree(RpcReplyPort<Node>),
    Health(RpcReplyPort<Health>),
    /// Load a module now, and at the next start. Answers its name.
    Load {
        spec: Box<ModuleSpec>,
        reply: AdminReply<String>,
    },
    /// Stop a module after the event in flight and forget it; its state stays in the store.
    Unload {
        module: String,
        reply: AdminReply<()>,
    },
    /// Put another version in the place of a module, if its `init` succeeds on the module's state.
    Upgrade {
        wanted: Wanted,
        reply: AdminReply<Upgraded>,
    },
    /// Start afresh with a full restart budget; the way out of Dead.
    Restart {
        module: String,
        reply: AdminReply<()>,
    },
    /// Stop pulling after the event in flight; survives the process.
    Pause {
        module: String,
        reply: AdminReply<()>,
    },
    Resume {
        module: String,
        reply: AdminReply<()>,
    },
    /// Put a module onto the endpoint's chain, when it cannot find its way itself. Answers where it goes on.
    Resync {
        module: String,
        order: ResyncOrder,
        reply: AdminReply<Resynced>,
    },
    /// Deliver a dead letter again; it is removed when the module handles it.
    RetryDeadLetter {
        module: String,
        seq: u64,
        reply: AdminReply<()>,
    },
    /// Remove everything that the store keeps about a module that is not loaded.
    Purge {
        module: String,
        reply: AdminReply<Result<(), StoreError>>,
    },
    /// Attempt an effect of the outbox that waits for its time now; one that failed or was cancelled begins anew.
    RetryEffect {
        module: String,
        id: String,
        reply: AdminReply<()>,
    },
    /// End an effect of the outbox that no attempt is under way for; its module is told.
    CancelEffect {
        module: String,
        id: String,
        reply: AdminReply<()>,
    },
    Services(RpcReplyPort<Vec<ServiceReport>>),
    /// Stop a shared actor, so that its supervisor starts it afresh; `kill` ends it as a bug would, and counts so.
    RestartService {
        service: String,
        kill: bool,
        reply: AdminReply<()>,
    },
    /// Stop a module from pulling, let it finish the event in flight, and leave it paused. Without a name: every module,
    /// until it is resumed or the engine is started again. Waits for the effects that could go out, too. The reply comes
    /// within `deadline`.
    Drain {
        module: Option<String>,
        deadline: Duration,
        reply: AdminReply<Drained>,
    },
    /// Let every paused module go on. Answers their names.
    ResumeAll(AdminReply<Vec<String>>),
    /// Stop everything in order: modules finish the event in flight, the store syncs. Answers what could not finish.
    Shutdown {
        reply: RpcReplyPort<Vec<String>>,
    },
}

/// An upgrade that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    pub module: String,
    /// Version before and after.
    pub from: String,
    pub to: String,
    /// `sha256:` and 64 hex digits.
    pub component: String,
    /// State in the tree as the upgrade was done; only `RUN` says that the new version's `init` has succeeded.
    pub state: String,
}

/// What draining came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Modules that have nothing left to do.
    pub drained: Vec<String>,
    /// What was not finished within the deadline, one line each; it still finishes, and then the module is paused.
    pub unfinished: Vec<String>,
    /// What nobody waited for, because it may take as long as a block needs to be final; one line each.
    #[serde(default)]
    pub held: Vec<String>,
    /// What is left of their effects, by module; those that have none are left out.
    #[serde(default)]
    pub outbox: BTreeMap<String, Outstanding>,
}

/// Effects of one module that have not ended. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outstanding {
    /// Those that could go out: due, under way, or to be tried again.
    pub unsettled: u64,
    /// When the oldest of them was sent.
    pub oldest_unsettled_ms: Option<u64>,
    /// Those that wait for a block to be final.
    pub held: u64,
    pub oldest_held_ms: Option<u64>,
}

impl Outstanding {
    /// One line about what could go out, if anything could.
    pub fn unsettled(&self, module: &str, now_ms: u64) -> Option<String> {
        let oldest = age(now_ms, self.oldest_unsettled_ms?);
        Some(format!("module {module}: {} not settled, the oldest sent {oldest} ago", effects(self.unsettled)))
    }

    /// One line about what waits for finality, if anything does.
    pub fn held(&self, module: &str, now_ms: u64) -> Option<String> {
        let oldest = age(now_ms, self.oldest_held_ms?);
        let waits = if self.held == 1 { "waits" } else { "wait" };
        Some(format!("module {module}: {} {waits} for finality, the oldest sent {oldest} ago", effects(self.held)))
    }
}

fn effects(count: u64) -> String {
    format!("{count} {}", if count == 1 { "effect" } else { "effects" })
}

fn age(now_ms: u64, then_ms: u64) -> String {
    let age_s = now_ms.saturating_sub(then_ms) / 1_000;
    humantime::format_duration(Duration::from_secs(age_s)).to_string()
}

/// How a module gets onto the endpoint's chain again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResyncTo {
    /// Undo its state to the newest position in its journal that lies on the chain.
    Journal,
    /// Keep its state, and go on after the head.
    Head,
    /// Keep its state, and go on after this block.
    Block(u64),
}

/// An order to put a module onto a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResyncOrder {
    pub chain_id: u64,
    pub to: ResyncTo,
}

/// Where a module goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resynced {
    /// The block before the next one that it gets.
    pub after_block: u64,
}

/// What a tree node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    Engine,
    Store,
    Chains,
    Chain,
    Endpoint,
    Cron,
    Egress,
    Outbox,
    Modules,
    Module,
}

/// One node of the tree that `nexumctl tree` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub kind: NodeKind,
    /// For modules the FSM state (`LOAD`, `INIT`, `RUN`, `RESTART`, `PAUSED`, `DEAD`); for services `UP` or `DOWN`.
    pub state: String,
    /// One line for people: heads, endpoints, figures.
    pub summary: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub module: Option<ModuleFacts>,
    pub children: Vec<Node>,
}

/// Failures in a row against the number allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub spent: u32,
    pub max: u32,
}

/// One shared actor, or one of the kernel's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Such as `store`, `chain:1` or `cron`.
    pub name: String,
    /// `UP`, or `DOWN` while it is being started.
    pub state: String,
    /// Since the engine started, by order or not.
    pub restarts: u64,
    /// Failures in the window of supervision; one more than `max` ends the engine.
    pub failures: Budget,
}

/// What the tree knows of one module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModuleFacts {
    pub version: String,
    /// `sha256:` and 64 hex digits.
    pub component: String,
    /// Restarts since the module was first loaded.
    pub restarts: u64,
    pub budget: Budget,
    /// Source to position, such as `chain:1` to `21934117`.
    pub cursors: BTreeMap<String, String>,
    pub state_bytes: u64,
    pub state_bytes_limit: u64,
    pub memory_bytes: u64,
    /// 99th percentile of fuel per event, since the module's actor started.
    pub fuel_p99: u64,
    pub events_processed: u64,
    pub events_failed: u64,
    pub dead_letters: u64,
    /// Effects that have not ended.
    #[serde(default)]
    pub outbox_pending: u64,
    /// Since the oldest of them was sent.
    #[serde(default)]
    pub outbox_oldest_age_ms: Option<u64>,
    pub last_event_age_ms: Option<u64>,
    /// Time until the next start, while in `RESTART`.
    pub next_start_in_ms: Option<u64>,
    /// What it waits for before it may begin what is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<ModuleWait>,
    pub last_error: Option<String>,
}

/// What a module waits for before it may begin an event, its start or its load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleWait {
    pub reason: String,
    pub age_ms: u64,
}

impl fmt::Display for ModuleWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = humantime::format_duration(Duration::from_secs(self.age_ms / 1000));
        write!(f, "waits for {} ({age})", self.reason)
    }
}

pub use nexum_host_ifaces::chain::ChainWait;

/// What `GET /health` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `healthy` or `unhealthy`.
    pub status: String,
    /// Whether every configured module is in Run and every required chain is connected.
    pub ready: bool,
    pub uptime_seconds: u64,
    pub modules: BTreeMap<String, ModuleHealthReport>,
    pub chains: BTreeMap<String, ChainHealthReport>,
    /// Why it is not healthy or not ready, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModuleHealthReport {
    /// `loading`, `init`, `running`, `restarting`, `paused` or `dead`.
    pub state: String,
    pub last_event_age_seconds: Option<u64>,
    /// Why it is not running, if it has said; or what its last failure was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long ago the oldest event came that the module should have handled by now; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_event_age_seconds: Option<u64>,
    /// What it waits for before it may begin what is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<ModuleWait>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChainHealthReport {
    pub connected: bool,
    pub head_block: Option<u64>,
    pub blocks_behind: u64,
    /// What it or a module that reads it waits for, besides new blocks; the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<ChainWait>,
}
