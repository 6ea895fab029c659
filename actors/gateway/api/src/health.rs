//! Whether an engine is healthy, and why not.

use std::collections::BTreeMap;

use nexum_records::wait::ChainWait;
use serde::{Deserialize, Serialize};

use crate::tree::{ModuleWait, age};

/// What a health report says first.
pub const HEALTHY: &str = "healthy";
pub const UNHEALTHY: &str = "unhealthy";

/// What `GET /health` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `healthy` or `unhealthy`.
    pub status: String,
    /// Whether it is healthy, and every module runs or is paused.
    pub ready: bool,
    pub uptime_seconds: u64,
    pub modules: BTreeMap<String, ModuleHealthReport>,
    pub chains: BTreeMap<String, ChainHealthReport>,
    /// Other services of which something is waited for, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, ServiceHealthReport>,
    /// Why it is not healthy or not ready, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModuleHealthReport {
    /// What health reports call a `ModuleState`.
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

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChainHealthReport {
    pub connected: bool,
    pub head_block: Option<u64>,
    pub blocks_behind: u64,
    /// What it or a module that reads it waits for, besides new blocks; the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<ChainWait>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceHealthReport {
    /// What is waited for there; the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<ChainWait>,
    /// What people are asked to decide, who take their time: that makes nothing unhealthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<ChainWait>,
}

/// Who waits for what at a chain or another service, and for how long.
pub fn waits_for(wait: &ChainWait) -> String {
    let who = wait.module.as_ref().map_or_else(String::new, |module| format!("module {module} "));
    format!("{who}waits for {} ({})", wait.reason, age(wait.age_ms))
}
