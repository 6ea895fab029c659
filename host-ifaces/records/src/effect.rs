//! What modules have asked to send, for lists.

use serde::{Deserialize, Serialize};

/// An effect as its event asked for it, without what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectSummary {
    pub id: String,
    pub key: String,
    /// `http`, `rpc`, `transaction`, `message`, `signature` or `upload`.
    pub kind: String,
    /// An origin without its path, or a chain.
    pub destination: String,
    pub lane: Option<String>,
    /// `committed`, `safe` or `finalized`.
    pub release: String,
}
