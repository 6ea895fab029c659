//! The backend over JSON-RPC nodes: asks the best endpoint, checks what it says, and asks the next one when it must.

mod agreement;
mod dial;
mod endpoint;
mod errors;
mod follow;
mod limiter;
mod reads;
mod scoreboard;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::FuturesUnordered};
use nexum_host_ifaces::{Hash, HostError, HostErrorKind, chain::EndpointStatus, clock::Clock, types::Log};
use prometheus::IntGauge;
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    backend::{Backend, Seen},
    config::ChainConfig,
    filter::Union,
    header::Header,
    metrics::ChainMetrics,
    tracker::{Failure, Tag},
};
use agreement::{Agreement, Verdict};
pub use dial::{Dial, Network};
use endpoint::Endpoint;
use errors::CallError;
use limiter::Caller;
use reads::Asked;
use scoreboard::{Demotion, Scoreboard};

/// First wait before the same endpoints are asked again; doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// What the endpoints' tasks and the readers share.
struct Shared {
    config: ChainConfig,
    endpoints: Vec<Endpoint>,
    board: Mutex<Scoreboard>,
    /// The endpoint whose heads are followed.
    leader: watch::Sender<Option<usize>>,
    /// The newest block that the actor has read.
    tip: AtomicU64,
    agreement: Mutex<Agreement>,
    clock: Arc<dyn Clock>,
    metrics: ChainMetrics,
    blocks_behind: IntGauge,
    /// Lag and score of each endpoint.
    gauges: Vec<(IntGauge, IntGauge)>,
}

impl Shared {
    /// Changes the scoreboard, and the leader if that follows from it.
    fn update<T>(&self, change: impl FnOnce(&mut Scoreboard, u64) -> T) -> T {
        let now_ns = self.clock.monotonic_ns();
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut board, now_ns);
        let (leader, demoted) = (board.leader(now_ns), board.take_demoted());
        let behind = board.best_head().map_or(0, |best| best.saturating_sub(self.tip.load(Ordering::Relaxed)));
        for (index, (lag, score)) in self.gauges.iter().enumerate() {
            let (blocks, of_hundred) = board.figures(index);
            lag.set(i64::try_from(blocks).unwrap_or(i64::MAX));
            score.set(of_hundred.into());
        }
        drop(board);
        self.blocks_behind.set(i64::try_from(behind).unwrap_or(i64::MAX));
        for (index, why) in demoted {
            let (chain_id, endpoint) = (self.config.chain_id, &self.endpoints[index].name);
            self.metrics.endpoint_demotions.with_label_values(&[&chain_id.to_string(), endpoint, why.label()]).inc();
            tracing::info!(chain_id, %endpoint, reason = why.label(), "endpoint demoted");
        }
        let changed = self.leader.send_if_modified(|current| {
            let moved = current.is_some() && leader.is_some() && *current != leader;
            let changed = *current != leader;
            *current = leader;
            if moved {
                self.fell_back();
            }
            changed
        });
        if changed {
            self.agreement().forget();
        }
        if changed && let Some(leader) = leader {
            tracing::info!(chain_id = self.config.chain_id, endpoint = %self.endpoints[leader].name, "following");
        }
        result
    }

    fn fell_back(&self) {
        self.metrics.rpc_fallbacks.with_label_values(&[&self.config.chain_id.to_string()]).inc();
    }

    fn board(&self) -> MutexGuard<'_, Scoreboard> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts that a second endpoint is asked about what the first one did not find.
    fn confirms(&self) {
        self.metrics.rpc_confirmations.with_label_values(&[&self.config.chain_id.to_string()]).inc();
    }

    fn order(&self) -> Vec<usize> {
        self.board().order(self.clock.monotonic_ns())
    }

    fn is_up(&self, index: usize) -> bool {
        self.board().is_up(index)
    }

    /// Whether an endpoint told a head that is at least this high.
    fn has_told(&self, index: usize, number: u64) -> bool {
        self.board().head_of(index).is_some_and(|head| head >= number)
    }

    /// Records that an endpoint answered, and how long it took.
    fn answered(&self, index: usize, began_ns: u64) {
        self.update(|board, now| board.answered(index, now.saturating_sub(began_ns)));
    }

    /// Records that an endpoint let a request down.
    fn let_down(&self, index: usize, error: &CallError) {
        let message = error.message();
        let at_least_ns = u64::try_from(error.retry_after().as_nanos()).unwrap_or(u64::MAX);
        self.update(|board, now| {
            let why = match error {
                // A pace of our own making is no fault of the endpoint.
                CallError::Paced => return,
                error if error.is_rate_limit() => Some(Demotion::RateLimited),
                CallError::Transport { kind: HostErrorKind::Timeout, .. } => Some(Demotion::Slow),
                _ => None,
            };
            board.failed(index);
            match why {
                Some(why) => board.avoid(index, now, why, at_least_ns, message),
                None => board.note_error(index, message),
            }
        });
    }

    /// Records that an endpoint let a module's request down. That it was slow or would not have so much asked of it may
    /// be the request's doing: no module shall make the others' chain go elsewhere.
    fn let_module_down(&self, index: usize, error: &CallError) {
        let at_least_ns = u64::try_from(error.retry_after().as_nanos()).unwrap_or(u64::MAX);
        match error {
            CallError::Transport { kind: HostErrorKind::Unavailable | HostErrorKind::Denied, .. } => {
                self.let_down(index, error);
            }
            CallError::Paced | CallError::Transport { kind: HostErrorKind::InvalidInput, .. } => {}
            error => self.update(|board, now| board.spare(index, now, at_least_ns, error.message())),
        }
    }

    /// One exchange with one endpoint for the engine itself; see `send_for`.
    async fn send(
        &self,
        index: usize,
        requests: &[(&str, &RawValue)],
        timeout: Duration,
        may_be_too_large: bool,
    ) -> Result<Vec<Result<Box<RawValue>, CallError>>, CallError> {
        self.send_for(Caller::Engine, index, requests, timeout, may_be_too_large).await
    }

    /// One exchange with one endpoint. What goes wrong on the way is held against it, unless the question may have been
    /// too large; whether the answers are what they should be is for the caller to say. Silence is held against it in
    /// any case: a smaller question may be answered, but better by another.
    async fn send_for(
        &self,
        caller: Caller,
        index: usize,
        requests: &[(&str, &RawValue)],
        timeout: Duration,
        may_be_too_large: bool,
    ) -> Result<Vec<Result<Box<RawValue>, CallError>>, CallError> {
        let began_ns = self.clock.monotonic_ns();
        let result = self.endpoints[index].send(caller, requests, timeout).await;
        match &result {
            // Also when it answered with an error: a call that reverts is the module's business.
            Ok(_) => self.answered(index, began_ns),
            Err(error @ CallError::Node { .. }) if !error.is_rate_limit() => self.answered(index, began_ns),
            Err(error) if may_be_too_large && error.is_too_large() && !error.is_silence() => {}
            Err(error) if caller == Caller::Module => self.let_module_down(index, error),
            Err(error) => self.let_down(index, error),
        }
        result
    }

    fn agreement(&self) -> MutexGuard<'_, Agreement> {
        self.agreement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares what an endpoint that stands by says of a block with the chain that is followed.
    fn compare(&self, index: usize, number: u64, told: Hash) {
        let leader = *self.leader.borrow();
        let verdict = self.agreement().compare(index, number, told);
        let what = || format!("its block {number} is not that of the other endpoints");
        match (verdict, leader) {
            (Verdict::Fine, _) | (_, None) => {}
            (Verdict::Odd, _) => self.lied(index, &what()),
            (Verdict::LeaderOdd, Some(leader)) => self.lied(leader, &what()),
        }
    }

    /// Records that an endpoint answered what cannot be.
    fn lied(&self, index: usize, what: &str) {
        let (chain_id, endpoint) = (self.config.chain_id, &self.endpoints[index].name);
        tracing::warn!(chain_id, %endpoint, what, "a wrong answer; the endpoint is avoided for a while");
        self.update(|board, now| {
            board.failed(index);
            board.avoid(index, now, Demotion::Wrong, 0, format!("a wrong answer: {what}"));
        });
        let labels = [&chain_id.to_string(), endpoint, "wrong"];
        self.metrics.endpoint_errors.with_label_values(&labels).inc();
    }
}

/// Most headers in one batch; public endpoints refuse longer ones.
const BATCH_MAX: usize = 100;

pub struct RpcBackend {
    shared: Arc<Shared>,
    /// Most headers in one batch for now: halved when a node refuses, one more when it does not.
    batch_max: AtomicUsize,
}

impl RpcBackend {
    pub fn new(
        config: ChainConfig,
        dial: &Arc<dyn Dial>,
        clock: Arc<dyn Clock>,
        metrics: ChainMetrics,
    ) -> Result<Self, String> {
        if config.endpoints.is_empty() {
            return Err(format!("chain {}: no endpoint is configured", config.chain_id));
        }
        let keepalive = (config.stall_after / 2).clamp(Duration::from_secs(1), Duration::from_secs(10));
        let endpoints = config.endpoints.iter().map(|endpoint| {
            Endpoint::new(
                endpoint,
                config.chain_id,
                config.requests_per_second,
                keepalive,
                dial.clone(),
                clock.clone(),
                metrics.clone(),
            )
            .map_err(|error| format!("chain {}: {error}", config.chain_id))
        });
        let endpoints = endpoints.collect::<Result<Vec<Endpoint>, String>>()?;
        let entries = endpoints.iter().zip(&config.endpoints);
        let entries = entries.map(|(endpoint, config)| (endpoint.name.clone(), config.priority));
        let lag_ns = u64::try_from(config.stall_after.as_nanos()).unwrap_or(u64::MAX);
        let board = Mutex::new(Scoreboard::new(entries, lag_ns));
        let leader = watch::channel(None).0;
        let chain_label = config.chain_id.to_string();
        let blocks_behind = metrics.blocks_behind.with_label_values(&[&chain_label]);
        let gauges = endpoints.iter().map(|endpoint| {
            let labels = [chain_label.as_str(), endpoint.name.as_str()];
            (metrics.endpoint_lag.with_label_values(&labels), metrics.endpoint_score.with_label_values(&labels))
        });
        let gauges = gauges.collect();
        let agreement = Mutex::new(Agreement::new(endpoints.len()));
        let tip = AtomicU64::new(0);
        let shared = Shared { config, endpoints, board, leader, tip, agreement, clock, metrics, blocks_behind, gauges };
        let shared = Arc::new(shared);
        Ok(Self { shared, batch_max: AtomicUsize::new(BATCH_MAX) })
    }

    /// Carries out a module's requests: the best endpoint first, the next one when it lets us down, within the deadline.
    async fn persist(
        &self,
        requests: &[(&str, &RawValue)],
        deadline: Duration,
    ) -> Result<Vec<Result<Box<RawValue>, CallError>>, CallError> {
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
            match self.shared.send_for(Caller::Module, index, requests, timeout, false).await {
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
}

/// Whether a method may be sent twice. What a node may have acted on is not sent to another one.
fn is_repeatable(method: &str) -> bool {
    !(method.starts_with("eth_send") || method.starts_with("personal_") || method.contains("sign"))
}

fn parse_params(params: String) -> Result<Box<RawValue>, HostError> {
    RawValue::from_string(params)
        .map_err(|error| HostError::new("chain", HostErrorKind::InvalidInput, format!("params are not JSON: {error}")))
}

fn to_text(answer: Result<Box<RawValue>, CallError>) -> Result<String, HostError> {
    match answer {
        Ok(result) => Ok(Box::<str>::from(result).into_string()),
        Err(error) => Err(error.to_host_error()),
    }
}

#[async_trait]
impl Backend for RpcBackend {
    async fn follow(&self, heads: mpsc::Sender<Seen>) {
        let lines = (0..self.shared.endpoints.len()).map(|index| {
            let line = follow::Line::new(self.shared.clone(), index, heads.clone());
            line.run()
        });
        let mut lines: FuturesUnordered<_> = lines.collect();
        while lines.next().await.is_some() {}
    }

    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Header>, Failure> {
        self.read_headers(Asked::Blocks, numbers).await
    }

    async fn history(&self, numbers: &[u64]) -> Result<Vec<Header>, Failure> {
        self.read_headers(Asked::History, numbers).await
    }

    async fn header(&self, hash: Hash) -> Result<Option<Header>, Failure> {
        self.read_header(hash).await
    }

    async fn tagged(&self, tag: Tag) -> Result<Option<Header>, Failure> {
        self.read_tagged(tag).await
    }

    async fn block_logs(&self, block: &Header, union: &Union) -> Result<Vec<Log>, Failure> {
        self.read_block_logs(block, union).await
    }

    async fn range_logs(&self, from: u64, to: u64, union: &Union) -> Result<(Vec<Log>, Hash), Failure> {
        self.read_range_logs(from, to, union).await
    }

    async fn request(&self, method: &str, params: &str, deadline: Duration) -> Result<String, HostError> {
        let params = parse_params(params.to_owned())?;
        let answers = self.persist(&[(method, &params)], deadline).await;
        match answers.map(|mut answers| answers.pop()) {
            Ok(Some(answer)) => to_text(answer),
            Ok(None) => Err(CallError::nonsense("it is empty").to_host_error()),
            Err(error) => Err(error.to_host_error()),
        }
    }

    async fn request_batch(
        &self,
        requests: Vec<(String, String)>,
        deadline: Duration,
    ) -> Result<Vec<Result<String, HostError>>, HostError> {
        if requests.is_empty() {
            return Ok(vec![]);
        }
        let mut parsed = Vec::with_capacity(requests.len());
        for (method, params) in requests {
            parsed.push((method, parse_params(params)?));
        }
        let batch: Vec<(&str, &RawValue)> =
            parsed.iter().map(|(method, params)| (method.as_str(), &**params)).collect();
        match self.persist(&batch, deadline).await {
            Ok(answers) => Ok(answers.into_iter().map(to_text).collect()),
            // A batch of one is sent as a plain request: the node's error is the answer to it.
            Err(error @ CallError::Node { .. }) if batch.len() == 1 => Ok(vec![Err(error.to_host_error())]),
            Err(error) => Err(error.to_host_error()),
        }
    }

    fn endpoints(&self) -> Vec<EndpointStatus> {
        self.shared.board().status(self.shared.clock.monotonic_ns())
    }

    fn read_up_to(&self, number: u64, settled: Option<(u64, Hash)>) {
        self.shared.agreement().settled(settled);
        self.shared.tip.store(number, Ordering::Relaxed);
        let behind = self.best_head().map_or(0, |best| best.saturating_sub(number));
        self.shared.blocks_behind.set(i64::try_from(behind).unwrap_or(i64::MAX));
    }

    fn best_head(&self) -> Option<u64> {
        self.shared.board().best_head()
    }
}
