//! One attempt at one effect, from the mark in the store to what is written about its end. What is sent, and what an answer
//! means, is up to the kind of effect.

use std::{sync::Arc, time::Duration};

use nexum_host_ifaces::{
    clock::Clock,
    effects::{self, Attempting, Verdict},
    outbox::{EffectEntry, EndEffect, Ended, OutboxRequest, PendingEffect, Progress, Released},
    ports::Ports,
    store::StoreMsg,
    types::OutcomeStatus,
};

use super::{
    Args, STORE_DEADLINE, flat,
    metrics::OutboxMetrics,
    retry::{RETRY_AFTER_MAX, RetryPolicy, next_attempt_ms},
};
use crate::load::Plan;

/// Wait after an attempt that the engine's own bounds refused.
const REFUSED_RETRY_MS: u64 = 250;
/// What its destination has taken on is asked after no more often.
const UNDERWAY_LOOK_MIN: Duration = Duration::from_millis(250);

/// What an attempt came to.
pub enum Attempted {
    /// It is not there any more, or ended in an earlier history.
    Gone,
    Again(Progress),
    /// Its destination has taken it on: what it waits for there.
    Underway(Progress, String),
    Ended(Ended),
    /// The store did not answer; what is known of it, if anything.
    Trouble(String, Option<Progress>),
}

pub(super) struct Attempts {
    ports: Arc<Ports>,
    clock: Arc<dyn Clock>,
    policy: RetryPolicy,
    deadline: Duration,
    metrics: OutboxMetrics,
    jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl Attempts {
    pub fn new(args: &Args) -> Self {
        Self {
            ports: args.ports.clone(),
            clock: args.clock.clone(),
            policy: args.settings.policy.clone(),
            deadline: args.settings.attempt_deadline,
            metrics: args.metrics.clone(),
            jitter: args.jitter.clone(),
        }
    }

    pub async fn attempt(&self, live: &PendingEffect, plan: &Plan) -> Attempted {
        let (module, id, at) = (live.module, live.id.clone(), live.at);
        let now_ms = self.clock.now_ms();
        let asked = |reply| StoreMsg::Outbox(OutboxRequest::Release { module, id, at, now_ms, reply });
        let (entry, mut progress, again) = match flat(self.ports.store().call(STORE_DEADLINE, asked).await) {
            Ok(Released::Now { entry, progress, again }) => (entry, progress, again),
            Ok(Released::Ended | Released::Gone) => return Attempted::Gone,
            Err(error) => return Attempted::Trouble(error, None),
        };
        // Of what its destination had taken on, only the time since counts.
        progress.first_attempt_ms = progress.first_attempt_ms.max(live.progress.first_attempt_ms);
        let kind = effects::of(&entry.effect);
        // Grants may be other ones by now than when it was sent.
        let verdict = match kind.granted(&plan.manifest.name, &plan.grants) {
            Err(error) if !(again && kind.is_followed()) => {
                Verdict::Failed(format!("not granted any more: {}", error.message))
            }
            _ => {
                let with = Attempting {
                    module: &plan.manifest.name,
                    id: &entry.id,
                    key: &entry.key,
                    again,
                    round: progress.round,
                    deadline: self.deadline,
                    grants: &plan.grants,
                    ports: &self.ports,
                    clock: &*self.clock,
                };
                kind.attempt(&with).await
            }
        };
        if !matches!(verdict, Verdict::Underway { .. }) {
            self.metrics.attempts.with_label_values(&[&*live.name]).inc();
        }
        self.conclude(live, &entry, progress, verdict).await
    }

    async fn conclude(
        &self,
        live: &PendingEffect,
        entry: &EffectEntry,
        mut progress: Progress,
        verdict: Verdict,
    ) -> Attempted {
        let now_ms = self.clock.now_ms();
        let (error, after) = match verdict.shortened() {
            Verdict::Underway { what, after } => {
                let wait = after.clamp(UNDERWAY_LOOK_MIN, RETRY_AFTER_MAX);
                progress.next_attempt_ms = now_ms.saturating_add(wait.as_millis() as u64);
                (progress.first_attempt_ms, progress.last_error) = (now_ms, None);
                return Attempted::Underway(progress, what);
            }
            Verdict::Retry { counts: false, error, after } => {
                let wait_ms = after.map_or(0, |after| after.min(RETRY_AFTER_MAX).as_millis() as u64);
                progress.next_attempt_ms = now_ms + wait_ms.max(REFUSED_RETRY_MS);
                progress.last_error = Some(error);
                return Attempted::Again(progress);
            }
            Verdict::Retry { error, after, .. } => (error, after),
            Verdict::Delivered(answer) => {
                progress.attempts += 1;
                return self.end(live, progress, Ended::Delivered, OutcomeStatus::Delivered(answer)).await;
            }
            Verdict::Failed(error) => {
                progress.attempts += 1;
                progress.last_error = Some(error.clone());
                return self.fail(live, entry, progress, error).await;
            }
        };
        progress.attempts += 1;
        progress.last_error = Some(error.clone());
        let next = next_attempt_ms(&progress, after, &self.policy, now_ms, (self.jitter)());
        let Some(next) = next else {
            let error = format!("given up after {} attempts: {error}", progress.attempts);
            return self.fail(live, entry, progress, error).await;
        };
        tracing::debug!(
            module = %live.name, effect = entry.id, attempts = progress.attempts, in_ms = next - now_ms,
            "effect is tried again: {error}"
        );
        progress.next_attempt_ms = next;
        let (module, id, known) = (live.module, live.id.clone(), progress.clone());
        let asked = |reply| StoreMsg::Outbox(OutboxRequest::Attempted { module, id, progress: known, reply });
        match flat(self.ports.store().call(STORE_DEADLINE, asked).await) {
            Ok(()) => {}
            // At worst the count starts lower after a crash.
            Err(error) => tracing::debug!("an attempt was not counted: {error}"),
        }
        Attempted::Again(progress)
    }

    async fn fail(&self, live: &PendingEffect, entry: &EffectEntry, progress: Progress, error: String) -> Attempted {
        tracing::warn!(
            module = %live.name, effect = entry.id, to = live.destination, attempts = progress.attempts,
            "effect failed: {error}; `nexumctl outbox retry {} {}` takes it up again", live.name, entry.id
        );
        self.end(live, progress, Ended::Failed, OutcomeStatus::Failed(error)).await
    }

    /// Why an effect cannot be called back, if it cannot: its destination may have taken it on, and goes on with it.
    pub async fn held_elsewhere(&self, live: &PendingEffect) -> Option<String> {
        if !live.progress.released {
            return None;
        }
        let (name, id) = (live.name.to_string(), live.id.clone());
        let asked = |reply| StoreMsg::Outbox(OutboxRequest::Show { name, id, reply });
        match flat(self.ports.store().call(STORE_DEADLINE, asked).await) {
            Ok(listed) if effects::of(&listed.entry.effect).is_followed() => Some("it may have been handed on".into()),
            Ok(_) => None,
            Err(error) => Some(error),
        }
    }

    /// Writes the end of an effect and the outcome that its module will hear of.
    pub async fn end(&self, live: &PendingEffect, progress: Progress, how: Ended, status: OutcomeStatus) -> Attempted {
        let end = Box::new(EndEffect {
            module: live.module,
            id: live.id.clone(),
            key: live.key.clone(),
            at: live.at,
            progress: progress.clone(),
            how,
            now_ms: self.clock.now_ms(),
            status,
        });
        let asked = |reply| StoreMsg::Outbox(OutboxRequest::End { end, reply });
        match flat(self.ports.store().call(STORE_DEADLINE, asked).await) {
            Ok(()) => Attempted::Ended(how),
            Err(error) => Attempted::Trouble(error, Some(progress)),
        }
    }
}
