//! What is waited for, as operators are told.

use serde::{Deserialize, Serialize};

/// Something that a chain, another service or a module that uses it waits for, besides new blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainWait {
    /// Who waits; absent when everybody does.
    pub module: Option<String>,
    /// What is waited for, and what went wrong last.
    pub reason: String,
    pub age_ms: u64,
}
