//! What is recorded of events, and what is known of a recording without reading it.

use serde::{Deserialize, Serialize};

use crate::Hash;

/// What is recorded of a module's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// Nothing.
    None,
    /// Events that fail.
    #[default]
    Failures,
    /// Every event; those that are handled are kept with their journal entry.
    All,
}

/// What is known of a kept crash without decoding it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashBrief {
    /// Of the module, from 1 on; the store gives it.
    pub number: u64,
    pub at_ms: u64,
    /// The event's id, such as `block:1:21934117:0x…`, or `init`.
    pub event: String,
    pub component: Hash,
    pub error: String,
    pub fuel: u64,
    /// Events that the instance had handled before.
    pub handled_before: u64,
    /// Whether it can be replayed.
    pub whole: bool,
    /// Size of the recording.
    pub bytes: u64,
}
