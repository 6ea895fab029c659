//! What modules may ask of chains and what they did ask, as it is configured, counted and told.

use serde::{Deserialize, Serialize};

/// What one module may ask of nodes, on all chains together. Absent: as much as it likes.
///
/// Units are what the operator's table says that a method costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpcBudget {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units_per_second: Option<u64>,
    /// Of a day in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_day: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units_per_day: Option<u64>,
}

impl RpcBudget {
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// Whether anything of it is to be remembered over a restart.
    pub fn has_day(&self) -> bool {
        self.requests_per_day.is_some() || self.units_per_day.is_some()
    }
}

/// What one module asked of one endpoint by one method, since the engine started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcRow {
    pub chain_id: u64,
    pub module: String,
    /// A method that every module may call, or `other`.
    pub method: String,
    /// Its name in the tree, which never carries a URL's key; `shared` for what another request answered.
    pub endpoint: String,
    /// Requests sent, each attempt and each of a batch; none of what was shared.
    pub requests: u64,
    /// What these cost.
    pub units: u64,
    /// Those that brought an error: of the node, or of the way there.
    pub errors: u64,
    /// Of results, as the endpoint sent them.
    pub bytes: u64,
    /// Reads that were answered by another request for the same.
    pub shared: u64,
}

/// How far one module has used its budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcSpent {
    pub module: String,
    pub budget: RpcBudget,
    /// Used of the day at hand, as far as a budget for the day makes it count. A restart rounds it up.
    pub requests_today: u64,
    pub units_today: u64,
    /// When the next day begins, milliseconds since the Unix epoch; absent without a budget for the day.
    pub day_ends_ms: Option<u64>,
    /// Calls that were refused for it since the engine started.
    pub refused: u64,
    /// Calls that had to wait for it.
    pub waited: u64,
}

/// What modules asked of chains, and how far their budgets are used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RpcUsage {
    pub rows: Vec<RpcRow>,
    pub budgets: Vec<RpcSpent>,
}
