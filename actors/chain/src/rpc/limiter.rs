//! Paces requests to one endpoint.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Requests that may go at once after a pause, in seconds' worth of the rate.
const BURST: Duration = Duration::from_secs(1);
/// The first pause between requests to an endpoint that asks for fewer, and the longest; it doubles.
const SLOWED_MIN: Duration = Duration::from_millis(50);
const SLOWED_MAX: Duration = Duration::from_secs(2);
/// A pause below this is none.
const SLOWED_NONE: Duration = Duration::from_millis(5);
/// What one batch costs at most of a pace that was learnt.
const SLOWED_COST_MAX: Duration = Duration::from_secs(5);

/// For whom a request goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// What every module waits for: heads, headers, logs.
    Engine,
    Module,
}

/// At most so many requests per second, in the order they came. The engine's own reads do not wait for modules' calls,
/// which wait for both: a module that floods the endpoint holds up nobody's events.
#[derive(Debug)]
pub struct Limiter {
    /// As configured.
    per_request: Duration,
    due: Mutex<Due>,
}

/// When the next request would go if there were no burst.
#[derive(Debug, Default)]
struct Due {
    of_engine: Option<Instant>,
    of_all: Option<Instant>,
    /// The pause between requests that the endpoint was found to want.
    slowed: Duration,
    /// What it said when it was last found to.
    said: String,
}

impl Limiter {
    /// `per_second` 0 is unlimited.
    pub fn new(per_second: u32) -> Self {
        let per_request = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        Self { per_request, due: Mutex::default() }
    }

    /// The endpoint asked for fewer requests, in these words.
    pub fn refused(&self, said: String) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.said = said;
        due.slowed = (due.slowed * 2).clamp(SLOWED_MIN, SLOWED_MAX);
    }

    /// The words in which the endpoint asked for fewer requests, where that and not the configured pace holds them up.
    pub fn said(&self) -> Option<String> {
        let due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        (due.slowed > self.per_request).then(|| due.said.clone())
    }

    /// The endpoint answered.
    pub fn answered(&self) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.slowed = Some(due.slowed - due.slowed / 32).filter(|pause| *pause > SLOWED_NONE).unwrap_or_default();
    }

    /// Waits until `requests` more may go. False at once when that would take longer than `at_most`.
    pub async fn pass(&self, caller: Caller, requests: usize, at_most: Duration) -> bool {
        let now = Instant::now();
        let go = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let count = u32::try_from(requests).unwrap_or(u32::MAX);
            let (configured, slowed) = (self.per_request.saturating_mul(count), due.slowed.saturating_mul(count));
            if configured.is_zero() && slowed.is_zero() {
                return true;
            }
            // Whoever asks for fewer gets no bursts.
            let burst = if slowed > configured { Duration::ZERO } else { BURST };
            let cost = configured.max(slowed.min(SLOWED_COST_MAX));
            let after = |due: Option<Instant>| due.unwrap_or(now).max(now) + cost;
            let (next_of_engine, next_of_all) = (after(due.of_engine), after(due.of_all));
            let next = if caller == Caller::Engine { next_of_engine } else { next_of_all };
            let go = next.checked_sub(cost.max(burst)).unwrap_or(now);
            if go.saturating_duration_since(now) > at_most {
                return false;
            }
            due.of_all = Some(next_of_all);
            if caller == Caller::Engine {
                due.of_engine = Some(next_of_engine);
            }
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
        for caller in [Caller::Engine, Caller::Module] {
            let limiter = Limiter::new(10);
            for _ in 0..10 {
                assert!(limiter.pass(caller, 1, Duration::ZERO).await);
            }
            assert!(!limiter.pass(caller, 1, Duration::from_millis(1)).await);
            assert!(limiter.pass(caller, 1, Duration::from_secs(1)).await, "a refused request takes no place");
            assert!(Limiter::new(0).pass(caller, 1_000_000, Duration::ZERO).await);
            assert!(
                Limiter::new(10).pass(caller, 100, Duration::ZERO).await,
                "a batch larger than the burst goes when it is first"
            );
        }
    }

    #[tokio::test]
    async fn one_that_asks_for_fewer_requests_gets_fewer_until_it_answers_again() {
        let limiter = Limiter::new(0);
        limiter.refused("fewer".to_owned());
        limiter.refused("far fewer".to_owned());
        assert!(limiter.pass(Caller::Engine, 1, Duration::ZERO).await);
        assert!(!limiter.pass(Caller::Engine, 1, Duration::from_millis(50)).await);
        assert_eq!(limiter.said().as_deref(), Some("far fewer"));
        (0..200).for_each(|_| limiter.answered());
        assert!(limiter.pass(Caller::Engine, 1_000, Duration::ZERO).await);
        assert_eq!((limiter.said(), Limiter::new(1).said()), (None, None));
    }

    #[tokio::test]
    async fn reads_of_the_engine_pass_calls_of_modules_and_count_against_them() {
        let limiter = Limiter::new(10);
        assert!(limiter.pass(Caller::Module, 100, Duration::ZERO).await);
        assert!(!limiter.pass(Caller::Module, 1, Duration::from_secs(1)).await);
        for _ in 0..10 {
            assert!(limiter.pass(Caller::Engine, 1, Duration::ZERO).await);
        }
        assert!(!limiter.pass(Caller::Engine, 1, Duration::ZERO).await, "they have a pace, too");
        let limiter = Limiter::new(10);
        for _ in 0..10 {
            assert!(limiter.pass(Caller::Engine, 1, Duration::ZERO).await);
        }
        assert!(!limiter.pass(Caller::Module, 1, Duration::ZERO).await);
    }
}
