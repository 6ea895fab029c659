//! When the next attempt at an effect is due. Pure.

use std::time::Duration;

use nexum_host_ifaces::outbox::Progress;

use crate::backoff::backoff;

/// A destination that asks for more patience than this is tried before.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// When an effect is given up, and how long to wait between attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    pub attempts_max: u32,
    /// Since the first attempt.
    pub age_max: Duration,
    pub backoff_first: Duration,
    pub backoff_cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 100,
            age_max: Duration::from_secs(24 * 3_600),
            backoff_first: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(600),
        }
    }
}

/// When the next attempt is due; none when the effect is given up. `progress` counts the attempt that failed; `jitter`
/// is drawn uniformly from 0 to 1.
pub(super) fn next_attempt_ms(
    progress: &Progress,
    after: Option<Duration>,
    policy: &RetryPolicy,
    now_ms: u64,
    jitter: f64,
) -> Option<u64> {
    if progress.attempts >= policy.attempts_max {
        return None;
    }
    let backoff = backoff(policy.backoff_first, policy.backoff_cap, progress.attempts, jitter);
    let wait = after.map_or(backoff, |after| after.min(RETRY_AFTER_MAX).max(backoff));
    let at = now_ms.saturating_add(wait.as_millis() as u64);
    let until = progress.first_attempt_ms.saturating_add(policy.age_max.as_millis() as u64);
    (at <= until).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_cap_until_the_policy_gives_up() {
        let policy = RetryPolicy { attempts_max: 20, ..RetryPolicy::default() };
        let next = |attempts, after: Option<u64>, jitter| {
            let progress = Progress { attempts, first_attempt_ms: 1_000, ..Progress::default() };
            next_attempt_ms(&progress, after.map(Duration::from_secs), &policy, 1_000, jitter).map(|at| at - 1_000)
        };
        assert_eq!(
            [next(1, None, 0.0), next(2, None, 0.0), next(4, None, 0.0)],
            [Some(1_000), Some(2_000), Some(8_000)]
        );
        assert_eq!((next(15, None, 0.0), next(1, None, 1.0)), (Some(600_000), Some(750)));
        assert_eq!((next(1, Some(30), 0.0), next(1, Some(9_999_999), 0.0)), (Some(30_000), Some(3_600_000)));
        assert_eq!(next(20, None, 0.0), None);
        let old = Progress { attempts: 1, first_attempt_ms: 1_000, ..Progress::default() };
        let day_ms = 24 * 3_600 * 1_000;
        assert_eq!(next_attempt_ms(&old, None, &policy, 1_000 + day_ms, 0.0), None);
    }
}
