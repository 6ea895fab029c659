//! What modules and services ask of nodes: of the best one, of the next when that lets them down, or of every one.

use std::time::Duration;

use futures::StreamExt;
use nexum_host_ifaces::{HostError, HostErrorKind, interfaces::chain::port::EndpointAnswer};
use serde_json::value::RawValue;
use tokio::{sync::mpsc, time::Instant};

use super::{
    RpcBackend,
    endpoint::{self, Endpoint, Purpose},
    errors::CallError,
    pinned::{is_of_form, lacks_block},
    socket::Payload,
};
use crate::{backend::Ask, pin::Pin};

/// First wait before the same endpoints are asked again, and the longest; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Endpoints that are asked the same at once.
const AT_ONCE: usize = 8;
const SEND_RAW: &str = "eth_sendRawTransaction";

impl RpcBackend {
    /// Carries out a module's batch. An endpoint that takes no batch, or none of this length, is asked one by one.
    pub(super) async fn persist_batch(
        &self,
        batch: &[(&str, &RawValue)],
        ask: &Ask<'_>,
    ) -> Result<Vec<Payload>, CallError> {
        let until = Instant::now() + ask.deadline;
        let first = self.shared.board().order_for_modules(self.shared.clock.monotonic_ns()).first().copied();
        let takes =
            first.is_none_or(|index| self.shared.endpoints[index].shape().batch.current() >= batch.len() as u64);
        if takes {
            match self.persist(batch, ask).await {
                // Whether the node refused the batch or a request in it, each of them will tell.
                Err(error @ CallError::Node { .. }) if batch.len() > 1 && !error.is_rate_limit() => {}
                Err(error) if batch.len() > 1 && error.is_nonsense() => {}
                result => return Ok(self.pinned_alone(batch, result?, until, ask).await),
            }
        }
        let mut answers = Vec::with_capacity(batch.len());
        let mut bytes_left = ask.reply_bytes_max;
        for request in batch {
            let answer = self.persist_one(*request, until, Ask { reply_bytes_max: bytes_left, ..*ask }).await;
            if let Ok(json) = &answer {
                bytes_left = bytes_left.saturating_sub(json.get().len());
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Asks once more, one by one, what an endpoint would not read at a block's hash: another one may have the block, or this
    /// one take its number.
    async fn pinned_alone(
        &self,
        batch: &[(&str, &RawValue)],
        mut answers: Vec<Payload>,
        until: Instant,
        ask: &Ask<'_>,
    ) -> Vec<Payload> {
        for (request, answer) in batch.iter().zip(&mut answers) {
            let is_refused = answer.as_ref().is_err_and(|error| lacks_block(error) || is_of_form(error));
            if is_refused && Pin::of(request.0, request.1.get()).is_some() {
                *answer = self.persist_one(*request, until, *ask).await;
            }
        }
        answers
    }

    async fn persist_one(&self, request: (&str, &RawValue), until: Instant, ask: Ask<'_>) -> Payload {
        let ask = Ask { deadline: until.saturating_duration_since(Instant::now()), ..ask };
        let answer = self.persist(&[request], &ask).await?.pop();
        answer.unwrap_or_else(|| Err(CallError::nonsense("it is empty")))
    }

    /// How long to wait before whoever failed is asked again: at least what it asked for.
    fn pause(&self, wait: Duration, failure: &CallError) -> Duration {
        wait.mul_f64(0.5 + (self.jitter)().clamp(0.0, 1.0) / 2.0).max(failure.retry_after())
    }

    /// Carries out a module's requests: the best endpoint first, the next one when it lets us down, within the deadline.
    pub(super) async fn persist(
        &self,
        requests: &[(&str, &RawValue)],
        ask: &Ask<'_>,
    ) -> Result<Vec<Payload>, CallError> {
        let deadline = ask.deadline;
        let pin = match requests {
            [(method, params)] => Pin::of(method, params.get()),
            _ => None,
        };
        let repeatable = requests.iter().all(|(method, _)| is_repeatable(method));
        let until = Instant::now() + deadline;
        let mut error = CallError::unavailable("no endpoint may be used");
        let mut tried = Vec::new();
        let mut wait = RETRY_MIN;
        for attempt in 0..=self.shared.config.max_retries {
            let order = self.shared.board().order_for_modules(self.shared.clock.monotonic_ns());
            let fresh = order.iter().copied().find(|index| !tried.contains(index));
            let index = match (fresh, order.first()) {
                (Some(index), _) => index,
                (None, Some(first)) => {
                    // Every endpoint has been asked: begin again, not at once, and not when there is no time to.
                    let pause = self.pause(wait, &error);
                    if error.retry_after() > until.saturating_duration_since(Instant::now()) {
                        break;
                    }
                    tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
                    wait = (wait * 2).min(RETRY_MAX);
                    tried.clear();
                    *first
                }
                (None, None) => break,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                error = CallError::timeout(deadline);
                break;
            }
            if attempt > 0 && fresh.is_some() {
                self.shared.fell_back();
            }
            tried.push(index);
            let timeout = left.min(self.shared.config.timeout);
            let sent = match (&pin, requests) {
                (Some(pin), [request]) => self.exchange_pinned(ask, index, (*request, pin), timeout).await,
                _ => self.exchange(ask, index, requests, timeout).await,
            };
            match sent {
                Ok(result) => return Ok(result),
                Err(failure) => {
                    let may_have_block = pin.is_some() && lacks_block(&failure);
                    let stop = !(failure.may_differ_elsewhere() || may_have_block) || !repeatable;
                    error = failure;
                    if stop {
                        break;
                    }
                }
            }
        }
        Err(error)
    }

    /// Asks each of the best endpoints that are connected, for itself.
    pub(super) async fn ask_each(
        &self,
        method: &str,
        params: &RawValue,
        endpoints_max: usize,
        ask: Ask<'_>,
    ) -> Vec<EndpointAnswer> {
        let purpose = Purpose::Module { reply_bytes_max: ask.reply_bytes_max };
        let answers = self.ask(self.connected(endpoints_max), purpose, method, params, ask.deadline).await;
        for EndpointAnswer { endpoint, answer } in &answers {
            self.usage.sent(ask.module, method, endpoint, answer.as_ref().ok().map(String::len));
        }
        answers
    }

    /// Sends a transaction to whoever is to have it: the relay, or every endpoint that is connected.
    pub(super) async fn send_everywhere(&self, raw: &[u8], deadline: Duration, answers: &mpsc::Sender<EndpointAnswer>) {
        let Ok(params) = endpoint::raw(&[format!("0x{}", hex::encode(raw))]) else {
            unreachable!("hex is text");
        };
        let Some(relay) = &self.shared.relay else {
            let (params, until) = (&*params, Instant::now() + deadline);
            let each = |index: usize| async move {
                let timeout = until.saturating_duration_since(Instant::now()).min(self.shared.config.timeout);
                let answer = self.ask_one(index, Purpose::Transaction, (SEND_RAW, params), timeout).await;
                // Whoever asked may have given up.
                let _ = answers.send(answer).await;
            };
            return futures::stream::iter(self.connected(usize::MAX)).for_each_concurrent(AT_ONCE, each).await;
        };
        let timeout = deadline.min(self.shared.config.timeout);
        let answer = relay.send(Purpose::Transaction, &[(SEND_RAW, &params)], timeout).await;
        let _ = answers.send(answer_of(relay, answer)).await;
    }

    /// The endpoints that are connected, the best first.
    fn connected(&self, at_most: usize) -> Vec<usize> {
        let board = self.shared.board();
        let mut order = board.order_for_modules(self.shared.clock.monotonic_ns());
        order.retain(|index| board.is_up(*index));
        order.truncate(at_most);
        order
    }

    async fn ask(
        &self,
        endpoints: Vec<usize>,
        purpose: Purpose,
        method: &str,
        params: &RawValue,
        deadline: Duration,
    ) -> Vec<EndpointAnswer> {
        let until = Instant::now() + deadline;
        let mut answers = Vec::with_capacity(endpoints.len());
        for some in endpoints.chunks(AT_ONCE) {
            let timeout = until.saturating_duration_since(Instant::now()).min(self.shared.config.timeout);
            let asked = some.iter().map(|index| self.ask_one(*index, purpose, (method, params), timeout));
            answers.extend(futures::future::join_all(asked).await);
        }
        answers
    }

    async fn ask_one(
        &self,
        index: usize,
        purpose: Purpose,
        request: (&str, &RawValue),
        timeout: Duration,
    ) -> EndpointAnswer {
        let answers = match timeout.is_zero() {
            true => Err(CallError::timeout(timeout)),
            false => self.shared.send(purpose, index, &[request], timeout, false).await,
        };
        answer_of(&self.shared.endpoints[index], answers)
    }
}

/// The answer to one request.
fn answer_of(endpoint: &Endpoint, answers: Result<Vec<Payload>, CallError>) -> EndpointAnswer {
    let answer = match answers.map(|mut answers| answers.pop()) {
        Ok(Some(answer)) => answer,
        Ok(None) => Err(CallError::nonsense("it is empty")),
        Err(error) => Err(error),
    };
    EndpointAnswer { endpoint: endpoint.name.clone(), answer: to_text(answer) }
}

/// Whether a method may be sent twice: it only reads, and reads the same the second time. What a node may have acted on is not
/// sent to another one, and of methods that nobody knows it may have.
fn is_repeatable(method: &str) -> bool {
    let known = ["eth_call", "eth_chainId", "eth_blockNumber", "eth_estimateGas", "eth_feeHistory", "eth_gasPrice"];
    let others =
        ["eth_maxPriorityFeePerGas", "eth_createAccessList", "eth_simulateV1", "eth_syncing", "eth_blobBaseFee"];
    let prefixes =
        ["eth_get", "net_", "web3_", "debug_trace", "debug_get", "trace_", "txpool_", "erigon_get", "ots_get"];
    // These tell what is new since they were last asked.
    let is_cursor = ["eth_getFilterChanges", "eth_getWork"].contains(&method);
    let is_known = known.contains(&method) || others.contains(&method);
    !is_cursor && (is_known || prefixes.iter().any(|prefix| method.starts_with(prefix)))
}

pub(super) fn parse_params(params: String) -> Result<Box<RawValue>, HostError> {
    RawValue::from_string(params)
        .map_err(|error| HostError::new("chain", HostErrorKind::InvalidInput, format!("params are not JSON: {error}")))
}

pub(super) fn to_text(answer: Payload) -> Result<String, HostError> {
    match answer {
        Ok(result) => Ok(Box::<str>::from(result).into_string()),
        Err(error) => Err(error.to_host_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_the_same_again_is_sent_twice() {
        for method in ["eth_call", "eth_getLogs", "eth_getProof", "net_version", "debug_traceCall", "trace_block"] {
            assert!(is_repeatable(method), "{method}");
        }
        let acts = ["eth_sendRawTransaction", "eth_getFilterChanges", "evm_mine", "personal_sign", "eth_sign", "eth_x"];
        for method in acts {
            assert!(!is_repeatable(method), "{method}");
        }
    }
}
