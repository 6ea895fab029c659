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
    socket::Payload,
};

/// First wait before the same endpoints are asked again; doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Endpoints that are asked the same at once.
const AT_ONCE: usize = 8;
const SEND_RAW: &str = "eth_sendRawTransaction";

impl RpcBackend {
    /// Carries out a module's batch. An endpoint that takes no batch, or none of this length, is asked one by one.
    pub(super) async fn persist_batch(
        &self,
        batch: &[(&str, &RawValue)],
        deadline: Duration,
        reply_bytes_max: usize,
    ) -> Result<Vec<Payload>, CallError> {
        let until = Instant::now() + deadline;
        let first = self.shared.board().order_for_modules(self.shared.clock.monotonic_ns()).first().copied();
        let takes =
            first.is_none_or(|index| self.shared.endpoints[index].shape().batch.current() >= batch.len() as u64);
        if takes {
            match self.persist(batch, deadline, reply_bytes_max).await {
                // Whether the node refused the batch or a request in it, each of them will tell.
                Err(error @ CallError::Node { .. }) if batch.len() > 1 && !error.is_rate_limit() => {}
                Err(error) if batch.len() > 1 && error.is_nonsense() => {}
                result => return result,
            }
        }
        let mut answers = Vec::with_capacity(batch.len());
        let mut bytes_left = reply_bytes_max;
        for request in batch {
            let left = until.saturating_duration_since(Instant::now());
            let answer = self.persist(std::slice::from_ref(request), left, bytes_left).await;
            let answer = answer.map(|mut answers| answers.pop());
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => Err(CallError::nonsense("it is empty")),
                Err(error) => Err(error),
            };
            if let Ok(json) = &answer {
                bytes_left = bytes_left.saturating_sub(json.get().len());
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Carries out a module's requests: the best endpoint first, the next one when it lets us down, within the deadline.
    pub(super) async fn persist(
        &self,
        requests: &[(&str, &RawValue)],
        deadline: Duration,
        reply_bytes_max: usize,
    ) -> Result<Vec<Payload>, CallError> {
        let purpose = Purpose::Module { reply_bytes_max };
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
                    // Every endpoint has been asked: begin again, not at once.
                    tokio::time::sleep(wait.min(until.saturating_duration_since(Instant::now()))).await;
                    wait *= 2;
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
            match self.shared.send(purpose, index, requests, timeout, false).await {
                Ok(result) => return Ok(result),
                Err(failure) => {
                    let stop = !failure.may_differ_elsewhere() || !repeatable;
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
        deadline: Duration,
        reply_bytes_max: usize,
    ) -> Vec<EndpointAnswer> {
        let purpose = Purpose::Module { reply_bytes_max };
        self.ask(self.connected(endpoints_max), purpose, method, params, deadline).await
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

/// Whether a method may be sent twice. What a node may have acted on is not sent to another one.
fn is_repeatable(method: &str) -> bool {
    !(method.starts_with("eth_send") || method.starts_with("personal_") || method.contains("sign"))
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
