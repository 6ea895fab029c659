//! What the tree of an engine shows: services, chains and modules, and how they are doing.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::state::ServiceState;

/// Shorter waits are the network's doing, and not shown.
pub const SHOWN_WAIT_MS: u64 = 5_000;

/// A time for people, in whole seconds.
pub fn age(ms: u64) -> String {
    humantime::format_duration(Duration::from_secs(ms / 1_000)).to_string()
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
    /// Where egress sent something.
    Origin,
    Outbox,
    /// Any other shared actor.
    Service,
    Modules,
    Module,
    /// What a module calls besides the host.
    Library,
}

/// One node of the tree that `nexumctl tree` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub kind: NodeKind,
    /// For modules the name of a `ModuleState`, for everything else that of a `ServiceState`.
    pub state: String,
    /// One line for people: heads, endpoints, figures.
    pub summary: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub module: Option<ModuleFacts>,
    pub children: Vec<Node>,
}

impl Node {
    /// A node that is no module's.
    pub fn new(
        name: impl Into<String>,
        kind: NodeKind,
        state: ServiceState,
        summary: impl Into<String>,
        children: Vec<Self>,
    ) -> Self {
        let (name, state, summary) = (name.into(), state.name().to_owned(), summary.into());
        Self { name, kind, state, summary, module: None, children }
    }
}

/// Failures in a row against the number allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub spent: u32,
    pub max: u32,
}

/// What became of a capability that a module asked for, or that the operator withholds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantReport {
    pub capability: String,
    /// `granted`; or `stubbed`, where the engine has no such service, and `denied`, by the operator, both of which answer
    /// `unsupported`.
    pub grant: String,
    /// Who decided that, and where it is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl GrantReport {
    pub const GRANTED: &'static str = "granted";

    pub fn is_granted(&self) -> bool {
        self.grant == Self::GRANTED
    }
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
    /// 99th percentile of fuel per event, over the last 128 events.
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<GrantReport>,
    /// The chains that it may ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<u64>,
}

/// What a module waits for before it may begin an event, its start or its load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleWait {
    pub reason: String,
    pub age_ms: u64,
}

impl fmt::Display for ModuleWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waits for {} ({})", self.reason, age(self.age_ms))
    }
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
