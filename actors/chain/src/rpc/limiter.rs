//! Paces requests to one endpoint.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Requests that may go at once after a pause, in seconds' worth of the rate.
const BURST: Duration = Duration::from_secs(1);

/// At most so many requests per second, in the order they came.
#[derive(Debug)]
pub struct Limiter {
    per_request: Duration,
    /// When the next request would go if there were no burst.
    due: Mutex<Option<Instant>>,
}

impl Limiter {
    /// `per_second` 0 is unlimited.
    pub fn new(per_second: u32) -> Self {
        let per_request = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        Self { per_request, due: Mutex::new(None) }
    }

    /// Waits until `requests` more may go. False at once when that would take longer than `at_most`.
    pub async fn pass(&self, requests: usize, at_most: Duration) -> bool {
        if self.per_request.is_zero() {
            return true;
        }
        let now = Instant::now();
        let cost = self.per_request * u32::try_from(requests).unwrap_or(u32::MAX);
        let go = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let next = due.unwrap_or(now).max(now) + cost;
            let go = next.checked_sub(cost.max(BURST)).unwrap_or(now);
            if go.saturating_duration_since(now) > at_most {
                return false;
            }
            *due = Some(next);
            go
        };
        if go > now {
            tokio::time::sleep_until(go).await;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_of_requests_may_go_at_once_and_what_would_wait_too_long_is_refused() {
        let limiter = Limiter::new(10);
        for _ in 0..10 {
            assert!(limiter.pass(1, Duration::ZERO).await);
        }
        assert!(!limiter.pass(1, Duration::from_millis(1)).await);
        assert!(limiter.pass(1, Duration::from_secs(1)).await, "a refused request takes no place");
        assert!(Limiter::new(0).pass(1_000_000, Duration::ZERO).await);
        assert!(
            Limiter::new(10).pass(100, Duration::ZERO).await,
            "a batch larger than the burst goes when it is first"
        );
    }
}
