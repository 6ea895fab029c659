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

    /// Waits until `requests` more may go.
    pub async fn pass(&self, requests: usize) {
        if self.per_request.is_zero() {
            return;
        }
        let now = Instant::now();
        let cost = self.per_request * u32::try_from(requests).unwrap_or(u32::MAX);
        let go = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let next = due.unwrap_or(now).max(now) + cost;
            *due = Some(next);
            next.checked_sub(cost.max(BURST)).unwrap_or(now)
        };
        if go > now {
            tokio::time::sleep_until(go).await;
        }
    }
}
