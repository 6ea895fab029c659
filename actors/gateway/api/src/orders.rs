//! What an operator can order about modules, and what came of it.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use nexum_records::{Hash, crash::Record, limits::Limits, rpc::RpcBudget};
use serde::{Deserialize, Serialize};

/// Where the engine's configuration takes a module from, and what the operator changes about it.
#[derive(Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ModuleSpec {
    /// A bundle directory (`nexum.toml` and `module.wasm`).
    pub source: PathBuf,
    /// Names of capabilities that the operator withholds.
    #[serde(default)]
    pub denied: Vec<String>,
    /// Ceilings for this module; the manifest's limits are lowered to them.
    #[serde(default)]
    pub ceiling: Option<Limits>,
    /// Values that replace or add to the manifest's `[config]`.
    #[serde(default)]
    pub config: BTreeMap<String, toml::Value>,
    /// Methods beyond the standard ones that the operator allows, if the manifest asks for them.
    #[serde(default)]
    pub extra_methods: Vec<String>,
    /// What it may ask of nodes.
    #[serde(default, skip_serializing_if = "RpcBudget::is_unlimited")]
    pub rpc: RpcBudget,
    /// What is recorded of its events, if otherwise than of the other modules'.
    #[serde(default)]
    pub record: Option<Record>,
    /// The component that the operator wants, whatever the manifest names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<Hash>,
    /// Whether it may have the state that another module of its name left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt_state: bool,
    /// Where values of `config` are written.
    #[serde(skip)]
    pub places: Places,
}

/// Where the values of a module's configuration are written, by their dotted keys: file and line. A value that moves to
/// another line is no other one.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<String, String>);

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl FromIterator<(String, String)> for Places {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(places: I) -> Self {
        Self(places.into_iter().collect())
    }
}

impl Places {
    /// Of a value, or of the table that it is in.
    pub fn of(&self, key: &str) -> Option<&str> {
        let above = |key: &str| self.0.get(key).map(String::as_str);
        above(key).or_else(|| above(key.split('.').next()?))
    }
}

impl ModuleSpec {
    /// A bundle about which the operator changes nothing.
    pub fn new(source: PathBuf) -> Self {
        Self {
            source,
            denied: Vec::new(),
            ceiling: None,
            config: BTreeMap::new(),
            extra_methods: Vec::new(),
            rpc: RpcBudget::default(),
            record: None,
            component: None,
            adopt_state: false,
            places: Places::default(),
        }
    }
}

impl fmt::Debug for ModuleSpec {
    /// Without the values of its configuration, of which some may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.config.keys().collect();
        f.debug_struct("ModuleSpec").field("source", &self.source).field("config", &keys).finish_non_exhaustive()
    }
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
    /// What nobody waited for, because it may take as long as a block needs to be final, or people to approve; one line each.
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
    /// Those that their destinations have taken on, such as transactions that are not final yet.
    #[serde(default)]
    pub underway: u64,
    #[serde(default)]
    pub oldest_underway_ms: Option<u64>,
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

impl Outstanding {
    /// One line about what goes on elsewhere, if anything does.
    pub fn underway(&self, module: &str, now_ms: u64) -> Option<String> {
        let oldest = age(now_ms, self.oldest_underway_ms?);
        let goes = if self.underway == 1 { "goes" } else { "go" };
        let count = effects(self.underway);
        Some(format!("module {module}: {count} {goes} on where they were handed to, the oldest sent {oldest} ago"))
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
