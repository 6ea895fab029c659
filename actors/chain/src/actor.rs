//! The actor: takes messages, hands pulls to its driver and requests to the backend. It decides nothing.

use std::{sync::Arc, time::Duration};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    clock::Clock,
    interfaces::chain::port::{ChainMsg, EndpointAnswer},
    port::Port,
    store::StoreMsg,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
};

use crate::{
    backend::{Ask, DynBackend},
    budgets::Budgets,
    config::ChainConfig,
    driver::{Driver, ForDriver, Keeper},
    history::History,
    metrics::ChainMetrics,
    mock::{Fixture, MockBackend, MockChain},
    requests::{Asked, REQUESTS_MAX, Requests, too_many},
    rpc::{Dial, RpcBackend},
    shared::SharedReads,
    tracker::Tracker,
    usage::Usage,
};

/// Messages on their way from the mailbox to the driver.
const MESSAGES_MAX: usize = 1_024;
/// Requests in flight that go to every endpoint, transactions among them.
const EVERYWHERE_MAX: usize = 256;

/// How long the others may still answer once one endpoint has taken a transaction. Those that are slower get it, too.
const GRACE: Duration = Duration::from_millis(250);
/// Answers to a broadcast that were not looked at yet.
const ANSWERS_MAX: usize = 8;

/// How long endpoints must contradict what was read before it is given up.
const GIVEN_UP_AFTER_NS: u64 = 10_000_000_000;

/// Draws uniformly from 0 to 1.
pub type Jitter = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Where the chain comes from.
pub enum Source {
    /// Nodes, and how they are reached: over the network, which all chains share, or in a simulation.
    Rpc(ChainConfig, Arc<dyn Dial>),
    /// Plays a fixture in real time.
    Mock(Fixture),
    /// A scripted chain that the holder of the same handle moves.
    Manual(MockChain),
}

/// What a chain actor is started with.
pub struct Args {
    pub source: Source,
    pub clock: Arc<dyn Clock>,
    pub metrics: ChainMetrics,
    /// Headers of earlier runs. Keep a clone: a restarted actor wants it back, and so does a restarted store.
    pub history: History,
    /// Where new headers are kept before anybody gets their blocks; absent for a chain that begins anew with each run.
    pub headers: Option<Port<StoreMsg>>,
    /// What modules have asked of this chain, kept over restarts of the actor.
    pub usage: Usage,
    /// How much they may ask, of all chains.
    pub budgets: Budgets,
    /// Spreads attempts that follow a failure.
    pub jitter: Jitter,
}

pub struct ChainActor;

pub struct State {
    backend: DynBackend,
    driver: mpsc::Sender<ForDriver>,
    requests: Requests,
    everywhere: Arc<Semaphore>,
    chain_label: String,
    metrics: ChainMetrics,
    /// What is asked.
    tasks: JoinSet<()>,
    /// Aborted with the actor.
    _driving: JoinSet<()>,
}

impl State {
    /// Counts requests of a module.
    fn count(&self, module: &str, requests: usize) {
        self.metrics.module_requests.with_label_values(&[&*self.chain_label, module]).inc_by(requests as u64);
    }

    /// Asks endpoint by endpoint, for which there is room whatever modules ask.
    fn ask_everybody<F: Future<Output = Vec<EndpointAnswer>> + Send + 'static>(
        &mut self,
        reply: RpcReplyPort<Vec<EndpointAnswer>>,
        ask: impl FnOnce(DynBackend) -> F,
    ) {
        let Ok(permit) = self.everywhere.clone().try_acquire_owned() else {
            // The caller may have given up.
            return drop(reply.send(refused(too_many(EVERYWHERE_MAX))));
        };
        let asked = ask(self.backend.clone());
        self.tasks.spawn(async move {
            // The caller may have given up.
            let _ = reply.send(asked.await);
            drop(permit);
        });
    }

    fn broadcast(&mut self, raw: Arc<[u8]>, deadline: Duration, reply: RpcReplyPort<Vec<EndpointAnswer>>) {
        let Ok(permit) = self.everywhere.clone().try_acquire_owned() else {
            // The caller may have given up.
            return drop(reply.send(refused(too_many(EVERYWHERE_MAX))));
        };
        let backend = self.backend.clone();
        self.tasks.spawn(async move {
            let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
            tokio::join!(backend.broadcast(&raw, deadline, sender), gather(receiver, reply));
            drop(permit);
        });
    }
}

/// Answers with all that is told by shortly after the first acceptance; then hears the others out, so that they are sent it.
async fn gather(mut answers: mpsc::Receiver<EndpointAnswer>, reply: RpcReplyPort<Vec<EndpointAnswer>>) {
    let mut told = Vec::new();
    while let Some(answer) = answers.recv().await {
        let is_taken = answer.answer.is_ok();
        told.push(answer);
        if is_taken {
            let others = async {
                while let Some(answer) = answers.recv().await {
                    told.push(answer);
                }
            };
            // Either way: what came by now is told.
            let _ = tokio::time::timeout(GRACE, others).await;
            break;
        }
    }
    // The caller may have given up.
    let _ = reply.send(told);
    while answers.recv().await.is_some() {}
}

/// Starts a chain actor under a supervisor.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<(ActorRef<ChainMsg>, JoinHandle<()>), SpawnErr> {
    Actor::spawn_linked(None, ChainActor, args, supervisor).await
}

impl Actor for ChainActor {
    type Msg = ChainMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<ChainMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args { source, clock, metrics, history, headers, usage, budgets, jitter } = args;
        let reads = SharedReads::new(clock.clone());
        let driver_clock = clock.clone();
        // A mock chain is what it says.
        let patience_ns = if matches!(source, Source::Rpc(..)) { GIVEN_UP_AFTER_NS } else { 0 };
        let (backend, chain_id, name, window_blocks, max_log_range): (DynBackend, _, _, _, _) = match source {
            Source::Rpc(config, dial) => nodes(config, &dial, clock, &metrics, (usage.clone(), jitter))?,
            Source::Mock(fixture) => {
                let (id, name) = (fixture.chain_id, fixture.name.clone());
                let chain = MockChain::new(fixture);
                (Arc::new(MockBackend::playing(chain, clock, usage.clone())), id, name, 256, 2_000)
            }
            Source::Manual(chain) => {
                let (id, name) = (chain.chain_id(), chain.name());
                (Arc::new(MockBackend::manual(chain, clock, usage.clone())), id, name, 256, 2_000)
            }
        };
        let tracker = Tracker::new(chain_id, window_blocks, max_log_range, history.clone()).patient(patience_ns);
        let keeper = Keeper { chain_id, history, store: headers };
        let driver = Driver::new(chain_id, name, tracker, keeper, backend.clone(), metrics.clone(), driver_clock);
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let mut driving_tasks = JoinSet::new();
        let driving = tokio::spawn(driver.run(receiver));
        // The actor must not outlive its driver: whoever supervises it then starts both anew.
        let abort = AbortOnDrop(driving.abort_handle());
        driving_tasks.spawn(async move {
            let _abort = abort;
            if let Err(error) = driving.await {
                tracing::error!(%error, "the chain driver died");
            }
            myself.kill();
        });
        let requests = Requests::new(backend.clone(), budgets, usage, reads);
        let everywhere = Arc::new(Semaphore::new(EVERYWHERE_MAX));
        let chain_label = chain_id.to_string();
        let tasks = JoinSet::new();
        Ok(State {
            backend,
            driver: sender,
            requests,
            everywhere,
            chain_label,
            metrics,
            tasks,
            _driving: driving_tasks,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<ChainMsg>,
        message: ChainMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // A panic is the end of one request: whoever waits for its answer is told that there is none.
        while state.tasks.try_join_next().is_some() {}
        match message {
            ChainMsg::Request { module, budget, method, params, deadline, reply_bytes_max, reply } => {
                state.count(&module, 1);
                let asked = Asked { module, budget, deadline, reply_bytes_max };
                state.tasks.spawn(state.requests.clone().request(asked, method, params, reply));
            }
            ChainMsg::RequestBatch { module, budget, requests, deadline, reply_bytes_max, reply } => {
                state.count(&module, requests.len());
                let asked = Asked { module, budget, deadline, reply_bytes_max };
                state.tasks.spawn(state.requests.clone().batch(asked, requests, reply));
            }
            ChainMsg::Usage(reply) => {
                // The caller may have given up.
                let _ = reply.send(state.requests.usage());
            }
            ChainMsg::RequestEach { module, method, params, endpoints_max, deadline, reply_bytes_max, reply } => {
                state.count(&module, 1);
                state.ask_everybody(reply, move |backend| async move {
                    let ask = Ask { module: &module, deadline, reply_bytes_max };
                    backend.request_each(&method, &params, endpoints_max, ask).await.unwrap_or_else(refused)
                });
            }
            ChainMsg::Broadcast { raw, deadline, reply } => {
                state.broadcast(raw, deadline, reply);
            }
            ChainMsg::Hashes { numbers, reply } => match state.requests.permits().clone().try_acquire_owned() {
                Ok(permit) => {
                    let backend = state.backend.clone();
                    state.tasks.spawn(async move {
                        let headers = backend.history(&numbers).await;
                        let hashes = headers.map(|headers| headers.iter().map(|header| header.hash).collect());
                        let failed = |error| HostError::new("chain", HostErrorKind::Unavailable, format!("{error}"));
                        let _ = reply.send(hashes.map_err(failed));
                        drop(permit);
                    });
                }
                Err(_) => {
                    let _ = reply.send(Err(too_many(REQUESTS_MAX)));
                }
            },
            ChainMsg::Finality { tag, numbers, reply } => match state.requests.permits().clone().try_acquire_owned() {
                Ok(permit) => {
                    let backend = state.backend.clone();
                    state.tasks.spawn(async move {
                        let known = backend.finality(tag, &numbers).await;
                        let failed = |error| HostError::new("chain", HostErrorKind::Unavailable, format!("{error}"));
                        let _ = reply.send(known.map_err(failed));
                        drop(permit);
                    });
                }
                Err(_) => {
                    let _ = reply.send(Err(too_many(REQUESTS_MAX)));
                }
            },
            ChainMsg::Pull(pull) => hand_on(&state.driver, ForDriver::Pull(pull)).await?,
            ChainMsg::Forget { module } => hand_on(&state.driver, ForDriver::Forget { module }).await?,
            ChainMsg::Followed { numbers, reply } => {
                hand_on(&state.driver, ForDriver::Followed { numbers, reply }).await?;
            }
            ChainMsg::Status(reply) => hand_on(&state.driver, ForDriver::Status(reply)).await?,
        }
        Ok(())
    }
}

async fn hand_on(driver: &mpsc::Sender<ForDriver>, message: ForDriver) -> Result<(), ActorProcessingErr> {
    driver.send(message).await.map_err(|_| "the chain driver is gone".into())
}

/// The backend over nodes, with what the tracker wants to know of it.
fn nodes(
    config: ChainConfig,
    dial: &Arc<dyn Dial>,
    clock: Arc<dyn Clock>,
    metrics: &ChainMetrics,
    (usage, jitter): (Usage, Jitter),
) -> Result<(DynBackend, u64, String, usize, u64), String> {
    let (id, name) = (config.chain_id, config.name.clone());
    let (window, range) = (config.window_blocks, config.max_log_range);
    Ok((Arc::new(RpcBackend::new(config, dial, clock, metrics.clone(), usage, jitter)?), id, name, window, range))
}

/// The answer where no endpoint was asked.
fn refused(error: HostError) -> Vec<EndpointAnswer> {
    vec![EndpointAnswer { endpoint: "none".to_owned(), answer: Err(error) }]
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(answer: Result<String, HostError>) -> EndpointAnswer {
        EndpointAnswer { endpoint: "n".to_owned(), answer }
    }

    #[tokio::test]
    async fn one_that_is_slow_holds_up_nobody_once_another_has_taken_it() {
        let ((sender, receiver), (reply, told)) = (mpsc::channel(8), ractor::concurrency::oneshot());
        let gathering = tokio::spawn(gather(receiver, reply.into()));
        let busy = HostError::new("chain", HostErrorKind::RateLimited, "busy");
        for each in [Err(busy), Ok("0x1".to_owned()), Ok("0x2".to_owned())] {
            sender.send(answer(each)).await.unwrap();
        }
        // The slow one has not answered.
        let told: Vec<EndpointAnswer> = told.await.unwrap();
        assert_eq!(told.iter().map(|answer| answer.answer.is_ok()).collect::<Vec<_>>(), [false, true, true]);
        sender.send(answer(Ok("0x3".to_owned()))).await.unwrap();
        drop(sender);
        gathering.await.unwrap();
    }

    #[tokio::test]
    async fn while_nobody_has_taken_it_everybody_is_heard() {
        let ((sender, receiver), (reply, told)) = (mpsc::channel(8), ractor::concurrency::oneshot());
        let gathering = tokio::spawn(gather(receiver, reply.into()));
        for _ in 0..3 {
            sender.send(answer(Err(HostError::new("chain", HostErrorKind::Timeout, "slow")))).await.unwrap();
        }
        drop(sender);
        gathering.await.unwrap();
        let told: Vec<EndpointAnswer> = told.await.unwrap();
        assert_eq!(told.len(), 3);
    }
}
