//! `[queries]`: what the queries of modules may take.

use std::time::Duration;

use nexum_ctl::period::Period;
use nexum_kernel::query::QueryLimits;
use serde::{Deserialize, Serialize};

/// Besides the limits of the module that is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queries {
    /// One query, with the start of its instance.
    pub deadline: Period,
    pub max_fuel: u64,
    pub max_reply_bytes: usize,
    pub max_concurrent_per_module: usize,
    /// Of all queries that run together.
    pub max_memory_bytes: usize,
}

/// Memory is given out in pieces of this size.
const MEMORY_BYTES_MIN: usize = 1024 * 1024;

impl Default for Queries {
    fn default() -> Self {
        let limits = QueryLimits::default();
        Self {
            deadline: Period(limits.deadline),
            max_fuel: limits.max_fuel,
            max_reply_bytes: limits.max_reply_bytes,
            max_concurrent_per_module: limits.max_running_per_module,
            max_memory_bytes: limits.max_memory_bytes,
        }
    }
}

impl Queries {
    pub fn limits(&self) -> QueryLimits {
        QueryLimits {
            deadline: self.deadline.0,
            max_fuel: self.max_fuel,
            max_reply_bytes: self.max_reply_bytes,
            max_running_per_module: self.max_concurrent_per_module,
            max_memory_bytes: self.max_memory_bytes,
        }
    }

    /// The first key whose value would let no query run, and what is wrong with it.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        if self.deadline.0 == Duration::ZERO {
            return Some(("deadline", "must be longer than nothing".to_owned()));
        }
        if self.max_memory_bytes < MEMORY_BYTES_MIN {
            return Some(("max_memory_bytes", format!("is too little for any query: at least {MEMORY_BYTES_MIN}")));
        }
        (self.max_fuel == 0).then(|| ("max_fuel", "is 0: expected at least 1".to_owned()))
    }
}
