//! One attempt at one effect, from the mark in the store to what is written about its end.

use std::{sync::Arc, time::Duration};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    chain::ChainMsg,
    clock::Clock,
    http::{EgressMsg, Fetch, Header, KEY_HEADER, Request},
    outbox::{Effect, EndOf, Ended, Entry, HttpEffect, Live, OutboxRequest, Progress, Released, RpcEffect},
    port::Port,
    store::StoreMsg,
    types::OutcomeStatus,
};

use super::{
    Args, STORE_DEADLINE, flat,
    metrics::OutboxMetrics,
    verdict::{self, RetryPolicy, Verdict},
};
use crate::load::Plan;

/// Wait after an attempt that the engine's own bounds refused.
const REFUSED_RETRY_MS: u64 = 250;

/// What the answer to a JSON-RPC effect may take; modules are told of the beginning.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// What an attempt came to.
pub enum Done {
    /// It is not there any more, or ended in an earlier history.
    Gone,
    Again(Progress),
    Ended(Ended),
    /// The store did not answer; what is known of it, if anything.
    Trouble(String, Option<Progress>),
}

pub(super) struct Courier {
    store: Port<StoreMsg>,
    egress: Port<EgressMsg>,
    clock: Arc<dyn Clock>,
    policy: RetryPolicy,
    deadline: Duration,
    metrics: OutboxMetrics,
    jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl Courier {
    pub fn new(args: &Args) -> Self {
        Self {
            store: args.store.clone(),
            egress: args.egress.clone(),
            clock: args.clock.clone(),
            policy: args.settings.policy.clone(),
            deadline: args.settings.attempt_deadline,
            metrics: args.metrics.clone(),
            jitter: args.jitter.clone(),
        }
    }

    pub async fn attempt(&self, live: &Live, plan: &Plan) -> Done {
        let (module, id, at) = (live.module, live.id.clone(), live.at);
        let now_ms = self.clock.now_ms();
        let asked = |reply| StoreMsg::Outbox(OutboxRequest::Release { module, id, at, now_ms, reply });
        let (entry, progress, again) = match flat(self.store.call(STORE_DEADLINE, asked).await) {
            Ok(Released::Now { entry, progress, again }) => (entry, progress, again),
            Ok(Released::Ended | Released::Gone) => return Done::Gone,
            Err(error) => return Done::Trouble(error, None),
        };
        self.metrics.attempts.with_label_values(&[&*live.name]).inc();
        // Grants may be other ones by now than when it was sent.
        let granted = plan.grants.effect(&plan.manifest.name, &entry.effect);
        let verdict = match (granted, &entry.effect) {
            (Err(error), _) => Verdict::Failed(format!("not granted any more: {}", error.message)),
            (_, Effect::Http(effect)) => self.http(plan, &entry.key, effect).await,
            (_, Effect::Rpc(effect)) => self.rpc(plan, &live.name, effect, again).await,
            (_, Effect::Transaction(_) | Effect::Message(_)) => {
                Verdict::Failed("this engine has no actor for such effects yet".into())
            }
        };
        self.conclude(live, &entry, progress, verdict).await
    }

    async fn conclude(&self, live: &Live, entry: &Entry, mut progress: Progress, verdict: Verdict) -> Done {
        let now_ms = self.clock.now_ms();
        let (error, after) = match verdict.shortened() {
            Verdict::Retry { counts: false, error, .. } => {
                progress.next_attempt_ms = now_ms + REFUSED_RETRY_MS;
                progress.last_error = Some(error);
                return Done::Again(progress);
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
        let next = verdict::next_attempt_ms(&progress, after, &self.policy, now_ms, (self.jitter)());
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
        match flat(self.store.call(STORE_DEADLINE, asked).await) {
            Ok(()) => {}
            // At worst the count starts lower after a crash.
            Err(error) => tracing::debug!("an attempt was not counted: {error}"),
        }
        Done::Again(progress)
    }

    async fn fail(&self, live: &Live, entry: &Entry, progress: Progress, error: String) -> Done {
        tracing::warn!(
            module = %live.name, effect = entry.id, to = live.destination, attempts = progress.attempts,
            "effect failed: {error}; `nexumctl outbox retry {} {}` takes it up again", live.name, entry.id
        );
        self.end(live, progress, Ended::Failed, OutcomeStatus::Failed(error)).await
    }

    /// Writes the end of an effect and the outcome that its module will hear of.
    pub async fn end(&self, live: &Live, progress: Progress, how: Ended, status: OutcomeStatus) -> Done {
        let end = Box::new(EndOf {
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
        match flat(self.store.call(STORE_DEADLINE, asked).await) {
            Ok(()) => Done::Ended(how),
            Err(error) => Done::Trouble(error, Some(progress)),
        }
    }

    async fn http(&self, plan: &Plan, key: &str, effect: &HttpEffect) -> Verdict {
        let HttpEffect { method, url, headers, body } = effect.clone();
        let mut request = Request { method, url, headers, body, timeout_ms: None };
        request.headers.push(Header { name: KEY_HEADER.into(), value: key.to_owned() });
        let fetch = Box::new(Fetch {
            module: plan.manifest.name.clone(),
            request,
            allow: plan.grants.hosts().clone(),
            deadline: self.deadline,
            max_reply_bytes: verdict::ANSWER_BYTES_MAX,
            is_effect: true,
        });
        // The egress actor keeps the deadline; the call waits longer only for its word.
        let waited = self.deadline + Duration::from_secs(1);
        let answer = self.egress.call(waited, |reply| EgressMsg::Fetch { fetch, reply }).await;
        let answer = answer.unwrap_or_else(|error| Err(error.to_host_error("http")));
        verdict::of_http(answer, self.clock.now_ms())
    }

    /// `again` says that an earlier attempt may have arrived.
    async fn rpc(&self, plan: &Plan, module: &Arc<str>, effect: &RpcEffect, again: bool) -> Verdict {
        let RpcEffect { chain_id, method, params } = effect;
        let Some(port) = plan.chains.get(chain_id) else {
            return Verdict::Failed(format!("chain {chain_id} has no port"));
        };
        let verdict = verdict::of_rpc(effect, self.request(port, module, method, params).await);
        match (verdict, verdict::transaction_hash(effect)) {
            // So a node also answers to a transaction that is on the chain by now.
            (Verdict::Failed(refusal), Some(hash)) => {
                let found = self.request(port, module, "eth_getTransactionByHash", &format!("[\"{hash}\"]")).await;
                verdict::of_refused_transaction(refusal, &hash, again, found)
            }
            (verdict, _) => verdict,
        }
    }

    async fn request(
        &self,
        port: &Port<ChainMsg>,
        module: &Arc<str>,
        method: &str,
        params: &str,
    ) -> Result<String, HostError> {
        let module = module.clone();
        let (method, params, deadline) = (method.to_owned(), params.to_owned(), self.deadline);
        let reply_bytes_max = ANSWER_BYTES_MAX;
        let request = |reply| ChainMsg::Request { module, method, params, deadline, reply_bytes_max, reply };
        let answer = port.call(deadline, request).await;
        answer.unwrap_or_else(|error| Err(HostError::new("chain", HostErrorKind::Unavailable, error.to_string())))
    }
}
