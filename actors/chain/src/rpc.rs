//! The backend over JSON-RPC nodes: asks the best endpoint, checks what it says, and asks the next one when it must.

mod agreement;
mod backend;
mod dial;
mod endpoint;
mod envelope;
mod errors;
mod follow;
pub(crate) mod form;
mod headers;
mod limiter;
mod logs;
mod pinned;
mod ranges;
mod requests;
mod scoreboard;
mod secrets;
mod settle;
mod shape;
mod socket;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "fuzzing"))]
pub mod torture;
mod trust;
mod untold;
mod wire;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{HostErrorKind, clock::Clock};
use prometheus::IntGauge;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};

use crate::{
    actor::Jitter,
    config::{ChainConfig, EndpointConfig},
    header::Header,
    metrics::ChainMetrics,
    tracker::Failure,
    usage::Usage,
};
use agreement::{Agreement, HeadVerdict, Told};
pub use dial::{Broken, Dial, Held, Http, Meter, Network, Reply, Room, Socket};
use endpoint::{Endpoint, Purpose};
use errors::CallError;
use scoreboard::{Demotion, Scoreboard};
use secrets::Secrets;
use trust::Trust;

/// What the endpoints' tasks and the readers share.
struct Shared {
    config: ChainConfig,
    endpoints: Vec<Endpoint>,
    /// Where transactions go instead.
    relay: Option<Endpoint>,
    /// Those of all endpoints: nothing that is kept, logged or told has them.
    secrets: Secrets,
    board: Mutex<Scoreboard>,
    /// The endpoint whose heads are followed.
    leader: watch::Sender<Option<usize>>,
    /// The newest block that the actor has read.
    tip: AtomicU64,
    agreement: Mutex<Agreement>,
    /// What has been learnt of the chain itself.
    trust: Mutex<Trust>,
    /// One that stands by is asked for its head soon.
    poke: Vec<Notify>,
    /// It told what cannot be: is it still of this chain?
    is_chain_doubted: Vec<AtomicBool>,
    /// Something was compared.
    heard: Notify,
    /// How many times an endpoint was connected again after none was.
    returns: watch::Sender<u64>,
    /// Why heads that are told are not followed, and since when.
    held_back: Mutex<Option<(String, u64)>>,
    began_ns: u64,
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
        if changed && let Some(leader) = leader {
            self.agreement().lead(leader, now_ns);
            tracing::info!(chain_id = self.config.chain_id, endpoint = %self.endpoints[leader].name, "following");
        }
        result
    }

    /// A head that this endpoint told is not followed.
    fn holds_back(&self, index: usize, why: String) {
        let mut held_back = self.held_back.lock().unwrap_or_else(PoisonError::into_inner);
        let since_ns = held_back.as_ref().map_or_else(|| self.clock.monotonic_ns(), |(_, since_ns)| *since_ns);
        *held_back = Some((format!("a head that can be followed; {}: {why}", self.endpoints[index].name), since_ns));
    }

    /// A head is followed.
    fn goes_on(&self) {
        *self.held_back.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Those that stand by are asked for their heads soon: all of them, or the best.
    fn poke(&self, all: bool) {
        let (leader, now_ns) = (*self.leader.borrow(), self.clock.monotonic_ns());
        let order = {
            let board = self.board();
            let order = board.order(now_ns).into_iter();
            order.filter(|index| Some(*index) != leader && board.is_up(*index)).collect::<Vec<_>>()
        };
        order.iter().take(if all { usize::MAX } else { 1 }).for_each(|index| self.poke[*index].notify_one());
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

    /// The endpoint is connected. What waits to be read again need not wait longer when none was.
    fn came_up(&self, index: usize) {
        let was_alone = self.update(|board, now_ns| {
            let was_alone = !(0..self.endpoints.len()).any(|other| board.is_up(other));
            board.up(index, now_ns);
            was_alone
        });
        if was_alone {
            self.returns.send_modify(|returns| *returns += 1);
        }
    }

    fn failure(&self, index: usize, error: &CallError) -> Failure {
        Failure::Failed(format!("{}: {}", self.endpoints[index].name, self.said(error)))
    }

    /// One line for status and logs. A node may quote its own URL wherever it answers.
    fn said(&self, error: &CallError) -> String {
        self.secrets.clean(&error.message()).into_owned()
    }

    /// The same failure without any key.
    fn clean(&self, failure: Failure) -> Failure {
        let Failure::Failed(what) = failure;
        Failure::Failed(self.secrets.clean(&what).into_owned())
    }

    /// Fails while one alone would say what is final, and another one was there a moment ago.
    fn hear_the_other(&self) -> Result<(), CallError> {
        match self.board().awaited(self.clock.monotonic_ns()) {
            Some(index) => Err(CallError::unavailable(format!("{} is to be heard, too", self.endpoints[index].name))),
            None => Ok(()),
        }
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
        self.let_down_for(index, error, error.retry_after());
    }

    /// The same of one that is to be avoided for at least so long, if it is.
    fn let_down_for(&self, index: usize, error: &CallError, at_least: Duration) {
        let (message, at_least_ns) = (self.said(error), u64::try_from(at_least.as_nanos()).unwrap_or(u64::MAX));
        self.update(|board, now| {
            let why = match error {
                // A pace of our own making is no fault of the endpoint.
                CallError::Paced { .. } => return,
                error if error.is_rate_limit() => Some(Demotion::RateLimited),
                CallError::Transport { kind: HostErrorKind::Timeout, .. } => Some(Demotion::Slow),
                _ => None,
            };
            board.failed(index, now);
            match why {
                Some(why) => board.avoid(index, now, why, at_least_ns, message),
                None => board.note_error(index, message),
            }
        });
    }

    /// Records that an endpoint let a module's request down. Whatever it was may be the request's doing: no module shall
    /// make the others' chain go elsewhere, or have it shown as lost.
    fn let_module_down(&self, index: usize, error: &CallError) {
        let at_least_ns = u64::try_from(error.retry_after().as_nanos()).unwrap_or(u64::MAX);
        match error {
            CallError::Paced { .. }
            | CallError::TooLarge { .. }
            | CallError::Transport { kind: HostErrorKind::InvalidInput, .. } => {}
            error => self.update(|board, now| board.spare(index, now, at_least_ns, self.said(error))),
        }
    }

    /// One exchange with one endpoint. What goes wrong on the way is held against it, unless the question may have been
    /// too large; whether the answers are what they should be is for the caller to say. Silence is held against it in
    /// any case: a smaller question may be answered, but better by another.
    async fn send(
        &self,
        purpose: Purpose,
        index: usize,
        requests: &[(&str, &RawValue)],
        timeout: Duration,
        may_be_too_large: bool,
    ) -> Result<Vec<Result<Box<RawValue>, CallError>>, CallError> {
        let began_ns = self.clock.monotonic_ns();
        let result = self.endpoints[index].send(purpose, requests, timeout).await;
        match &result {
            // What a module asks says nothing of how well the chain is served.
            Err(error) if purpose.is_module() => {
                let is_answer = matches!(error, CallError::Node { .. }) && !error.is_rate_limit();
                if !is_answer {
                    self.let_module_down(index, error);
                }
            }
            Ok(_) if purpose.is_module() => {}
            // Also when it answered with an error: a call that reverts is the module's business.
            Ok(_) => self.answered(index, began_ns),
            Err(error @ CallError::Node { .. }) if !error.is_rate_limit() => self.answered(index, began_ns),
            Err(error) if may_be_too_large && error.is_too_large() && !error.is_silence() => {}
            Err(error) => self.let_down(index, error),
        }
        result
    }

    fn agreement(&self) -> MutexGuard<'_, Agreement> {
        self.agreement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares what an endpoint that stands by says of a block with the chain that is followed.
    fn compare(&self, index: usize, number: u64, told: Option<Told>) {
        let leader = *self.leader.borrow();
        let now_ns = self.clock.monotonic_ns();
        let speaks = leader.is_some_and(|leader| {
            let board = self.board();
            // One that is far ahead says nothing about how far the chain is; but it may be the others that stay behind.
            board.speaks(index, leader, now_ns) || board.is_over(index)
        });
        let (verdict, before, after) = {
            let mut agreement = self.agreement();
            let before = agreement.disputed(now_ns);
            (agreement.compare(index, number, told, speaks, now_ns), before, agreement.disputed(now_ns))
        };
        let what = || match told {
            Some(_) => format!("its block {number} is not that of the other endpoints"),
            None => format!("it lacks block {number}, which the other endpoints have"),
        };
        match (verdict, leader) {
            (HeadVerdict::Fine | HeadVerdict::Tie, _) | (_, None) => {}
            (HeadVerdict::Odd, _) => self.lied(index, &what()),
            (HeadVerdict::LeaderOdd, Some(leader)) => self.lied(leader, &what()),
        }
        if let Some((number, by)) = after.filter(|_| before.is_none()) {
            let (chain_id, endpoint) = (self.config.chain_id, &self.endpoints[by].name);
            tracing::warn!(chain_id, %endpoint, number, "two endpoints have different blocks, and nobody can tell which one is right");
        }
        self.heard.notify_one();
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The header with as much of its bloom as this chain's blooms are worth.
    fn trusting(&self, header: Header) -> Header {
        self.trust().weigh(header)
    }

    /// An endpoint may serve another chain by now.
    fn doubt_chain(&self, index: usize) {
        self.is_chain_doubted[index].store(true, Ordering::Relaxed);
        self.poke[index].notify_one();
    }

    /// Whether an endpoint says that it serves this chain; none when it does not answer.
    async fn serves_chain(&self, index: usize) -> Option<bool> {
        let params = endpoint::raw::<[u8; 0]>(&[]).ok()?;
        let request = [("eth_chainId", &*params)];
        let timeout = self.config.timeout;
        let answers = self.send(Purpose::SecondOpinion, index, &request, timeout, false).await;
        let json = answers.ok()?.pop()?.ok()?;
        Some(wire::quantity(json.get()).ok()? == self.config.chain_id)
    }

    /// Records that an endpoint answered what cannot be.
    fn lied(&self, index: usize, what: &str) {
        let what = self.secrets.clean(what);
        let what = &*what;
        let (chain_id, endpoint) = (self.config.chain_id, &self.endpoints[index].name);
        tracing::warn!(chain_id, %endpoint, what, "a wrong answer; the endpoint is avoided for a while");
        self.doubt_chain(index);
        self.update(|board, now| {
            board.failed(index, now);
            board.avoid(index, now, Demotion::Wrong, 0, format!("a wrong answer: {what}"));
        });
        let labels = [&chain_id.to_string(), endpoint, "wrong"];
        self.metrics.endpoint_errors.with_label_values(&labels).inc();
    }
}

pub struct RpcBackend {
    shared: Arc<Shared>,
    usage: Usage,
    jitter: Jitter,
}

impl RpcBackend {
    pub fn new(
        config: ChainConfig,
        dial: &Arc<dyn Dial>,
        clock: Arc<dyn Clock>,
        metrics: ChainMetrics,
        usage: Usage,
        jitter: Jitter,
    ) -> Result<Self, String> {
        if config.endpoints.is_empty() {
            return Err(format!("chain {}: no endpoint is configured", config.chain_id));
        }
        let endpoints = config.endpoints.iter().map(|endpoint| {
            Endpoint::new(endpoint, &config, dial, clock.clone(), metrics.clone())
                .map_err(|error| format!("chain {}: {error}", config.chain_id))
        });
        let mut endpoints = endpoints.collect::<Result<Vec<Endpoint>, String>>()?;
        endpoint::tell_apart(&mut endpoints);
        let relay = config.relay.as_ref().map(|url| {
            let relay = EndpointConfig { url: url.clone(), priority: 0 };
            Endpoint::new(&relay, &config, dial, clock.clone(), metrics.clone())
                .map_err(|error| format!("chain {}: the relay: {error}", config.chain_id))
        });
        let relay = relay.transpose()?;
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
        let shared = Shared {
            agreement: Mutex::new(Agreement::new(endpoints.len(), follow::upheld_for_ns(&config))),
            trust: Mutex::new(Trust::new(config.chain_id, config.bloom, config.verify)),
            tip: AtomicU64::new(0),
            is_chain_doubted: endpoints.iter().map(|_| AtomicBool::new(false)).collect(),
            poke: endpoints.iter().map(|_| Notify::new()).collect(),
            heard: Notify::new(),
            returns: watch::Sender::new(0),
            held_back: Mutex::new(None),
            began_ns: clock.monotonic_ns(),
            config,
            secrets: Secrets::all(endpoints.iter().chain(&relay).map(|endpoint| &endpoint.secrets)),
            endpoints,
            relay,
            board,
            leader,
            clock,
            metrics,
            blocks_behind,
            gauges,
        };
        Ok(Self { shared: Arc::new(shared), usage, jitter })
    }
}
