//! `[outbox]`: how often effects are tried, and how many at once.

use std::time::Duration;

use nexum_ctl::period::Period;
use nexum_kernel::outbox::{Concurrency, RetryPolicy, Settings};
use serde::{Deserialize, Serialize};

/// How effects are carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbox {
    pub max_attempts: u32,
    /// Since the first attempt.
    pub max_age: Period,
    pub backoff_first: Period,
    pub backoff_cap: Period,
    /// One attempt.
    pub timeout: Period,
    /// Effects of one module that have not ended.
    pub max_pending: u64,
    pub max_concurrent: usize,
    pub max_concurrent_per_module: usize,
    /// Of one module, at one origin or chain.
    pub max_concurrent_per_destination: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        let Settings { policy, concurrency, attempt_deadline, pending_max, .. } = Settings::default();
        Self {
            max_attempts: policy.attempts_max,
            max_age: Period(policy.age_max),
            backoff_first: Period(policy.backoff_first),
            backoff_cap: Period(policy.backoff_cap),
            timeout: Period(attempt_deadline),
            max_pending: pending_max,
            max_concurrent: concurrency.all,
            max_concurrent_per_module: concurrency.per_module,
            max_concurrent_per_destination: concurrency.per_destination,
        }
    }
}

impl Outbox {
    pub fn settings(&self) -> Settings {
        Settings {
            policy: RetryPolicy {
                attempts_max: self.max_attempts,
                age_max: self.max_age.0,
                backoff_first: self.backoff_first.0,
                backoff_cap: self.backoff_cap.0.max(self.backoff_first.0),
            },
            concurrency: Concurrency {
                all: self.max_concurrent,
                per_module: self.max_concurrent_per_module,
                per_destination: self.max_concurrent_per_destination,
            },
            attempt_deadline: self.timeout.0,
            pending_max: self.max_pending,
            ..Settings::default()
        }
    }

    /// The first key whose value would stop everything, and what is wrong with it.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        let counts = [
            ("max_attempts", u64::from(self.max_attempts)),
            ("max_pending", self.max_pending),
            ("max_concurrent", self.max_concurrent as u64),
            ("max_concurrent_per_module", self.max_concurrent_per_module as u64),
            ("max_concurrent_per_destination", self.max_concurrent_per_destination as u64),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Some((key, "is 0: expected at least 1".to_owned()));
        }
        let periods = [("timeout", self.timeout), ("backoff_first", self.backoff_first), ("max_age", self.max_age)];
        let never = periods.into_iter().find(|(_, period)| period.0 == Duration::ZERO);
        never.map(|(key, _)| (key, "must be longer than nothing".to_owned()))
    }
}
