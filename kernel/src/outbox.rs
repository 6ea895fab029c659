//! The outbox actor: carries out what modules have sent, and hands each module the outcomes.
//!
//! Owns the effects that have not ended, as the store told of them; the timer for the next one; and the modules that
//! wait for outcomes. What to do next is decided by `schedule` and `retry`, which are pure; `attempts` makes an attempt.
//!
//! Invariant: everything here can be lost. An effect is marked in the store before it leaves, and its end is written
//! before the module hears of it; after a crash the store tells everything again. So an effect may reach its
//! destination more than once, with the same key, and its outcome reaches the module exactly once.

mod attempt;
mod finality;
mod metrics;
mod permits;
mod prune;
mod requests;
mod retry;
mod schedule;
mod settle;
mod status;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use attempt::{Attempted, Attempts};
pub use finality::Heads;
pub use metrics::OutboxMetrics;
use nexum_host_ifaces::{
    clock::Clock,
    event::{Answer, Cursor, Delivery, EventId, SourceId, SourceReply, Subscriber},
    outbox::{Changes, Ended, OutboxChange, OutboxRequest, OutcomeRecord, PendingEffect, Progress, digest},
    ports::Ports,
    store::{ModuleId, StoreError, StoreMsg},
    types::Event,
    unit::drafts::PENDING_MAX,
};
pub use permits::Permits;
use ractor::{
    Actor, ActorCell, ActorProcessingErr, ActorRef, MessagingErr, RpcReplyPort, SpawnErr, concurrency::JoinHandle,
};
use retry::RETRY_AFTER_MAX;
pub use retry::RetryPolicy;
pub use schedule::Concurrency;
use schedule::{Pending, Schedule};
pub use settle::Left;
use settle::PendingQuestion;
pub use status::OutboxStatus;
use tokio::task::JoinSet;

use crate::admin::EffectOrder;

/// The store answers in milliseconds; past this it is down and is asked again.
const STORE_DEADLINE: Duration = Duration::from_secs(30);
/// Wait before a store that failed is asked again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How often a chain is asked how far it is final, while an effect waits for it. Blocks come no faster.
const FINALITY_POLL: Duration = Duration::from_secs(1);
/// The timer runs on the machine's monotonic clock, due times are the calendar's: bounds how long they may disagree.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// The operator's bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub policy: RetryPolicy,
    pub concurrency: Concurrency,
    /// One attempt, from connecting to the last byte of the answer.
    pub attempt_deadline: Duration,
    /// Effects of one module that have not ended; `send` is refused past it.
    pub pending_max: u64,
    /// Ends of a module's effects after which what no rewind can reach is forgotten.
    pub prune_every: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: RetryPolicy::default(),
            concurrency: Concurrency::default(),
            attempt_deadline: Duration::from_secs(30),
            pending_max: PENDING_MAX,
            prune_every: prune::EVERY,
        }
    }
}

/// A module's request for the outcomes that follow its cursor.
#[derive(Debug, Clone)]
pub struct Pull {
    pub module: Arc<str>,
    pub source: SourceId,
    pub token: u64,
    /// Number of the last outcome handled.
    pub after: u64,
    pub max: usize,
    pub to: Subscriber,
}

pub enum Msg {
    /// Must answer once, when there is an outcome. Replaces an earlier pull of the module.
    Pull(Pull),
    /// Drop whatever this module waits for.
    Forget { module: Arc<str> },
    /// What modules may do has changed, or time has passed: see what can start.
    Look,
    /// The operator's.
    Order(EffectOrder),
    /// Must reply.
    Status(RpcReplyPort<OutboxStatus>),
    /// What is left of effects that are durable now. Must reply, but not before nothing of the modules in `settled` could
    /// go out any more; the caller stops listening at its deadline.
    Left { settled: BTreeSet<String>, reply: RpcReplyPort<Left> },
    /// What the actor's own tasks found; from anyone else it changes nothing.
    TaskResult(TaskResult),
}

pub enum TaskResult {
    Pending(Result<Vec<PendingEffect>, String>),
    Changes(Result<Changes, String>),
    Attempted {
        live: Box<PendingEffect>,
        done: Attempted,
    },
    /// `asked`: the token and the place of the pull that they were read for.
    Outcomes {
        module: Arc<str>,
        asked: (u64, u64),
        ended: u64,
        outcomes: Result<Vec<OutcomeRecord>, String>,
    },
    Heads {
        chain_id: u64,
        heads: Heads,
    },
    Final {
        chain_id: u64,
        effects: Vec<(PendingEffect, bool)>,
    },
    Reopened(Box<PendingEffect>),
    Told {
        number: u64,
        told: Result<u64, String>,
    },
}

#[derive(Clone)]
pub struct Args {
    pub settings: Settings,
    pub ports: Arc<Ports>,
    pub permits: Permits,
    pub clock: Arc<dyn Clock>,
    pub metrics: OutboxMetrics,
    /// Draws uniformly from 0 to 1, for backoff jitter.
    pub jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
}

type Timer = JoinHandle<Result<(), MessagingErr<Msg>>>;

pub struct State {
    args: Args,
    attempts: Arc<Attempts>,
    schedule: Schedule,
    /// Modules that wait for an outcome.
    waiting: HashMap<Arc<str>, Pull>,
    /// Ends of effects by module, since the actor started.
    ended: HashMap<Arc<str>, u64>,
    /// Changes heard of since everything was read; absent while it is being read.
    heard: Option<u64>,
    asked_left: Vec<PendingQuestion>,
    questions: u64,
    /// Chains that are being asked how far they are final, or were lately.
    asked: BTreeSet<u64>,
    tasks: JoinSet<()>,
    timer: Option<(Timer, u64)>,
}

pub struct OutboxActor;

/// Starts the outbox actor under `supervisor`.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<ActorRef<Msg>, SpawnErr> {
    Actor::spawn_linked(None, OutboxActor, args, supervisor).await.map(|(actor, _)| actor)
}

impl Actor for OutboxActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let attempts = Arc::new(Attempts::new(&args));
        let schedule = Schedule::new(args.settings.concurrency, args.settings.policy.backoff_cap.max(RETRY_AFTER_MAX));
        let mut state = State {
            args,
            attempts,
            schedule,
            waiting: HashMap::new(),
            ended: HashMap::new(),
            heard: None,
            asked_left: Vec::new(),
            questions: 0,
            asked: BTreeSet::new(),
            tasks: JoinSet::new(),
            timer: None,
        };
        state.read_all(&myself, Duration::ZERO);
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        while state.tasks.try_join_next().is_some() {}
        match message {
            Msg::Pull(pull) => {
                let module = pull.module.clone();
                state.waiting.insert(module.clone(), pull);
                state.read_outcomes(&myself, &module, Duration::ZERO);
            }
            Msg::Forget { module } => {
                state.waiting.remove(&module);
            }
            Msg::Look => {
                state.disarm();
                state.publish_all();
            }
            Msg::Order(EffectOrder::Retry { module, id, reply }) => state.retry(&myself, module, id, reply),
            Msg::Order(EffectOrder::Cancel { module, id, reply }) => state.cancel(&myself, module, id, reply),
            Msg::Order(EffectOrder::Waits { module, reply }) => {
                // Nobody to tell when the caller gave up.
                let _ = reply.send(Ok(state.schedule.waits(&module)));
                return Ok(());
            }
            Msg::Status(reply) => {
                let pending =
                    state.schedule.pending().map(|pending| (pending.module, (pending.count, pending.oldest_ms)));
                // Nobody to tell when the caller gave up.
                let _ = reply.send(OutboxStatus { in_flight: state.schedule.flying(), pending: pending.collect() });
                return Ok(());
            }
            Msg::Left { settled, reply } => state.ask_left(&myself, settled, reply),
            Msg::TaskResult(found) => state.found(&myself, found),
        }
        state.answer_left();
        state.look(&myself);
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl State {
    /// Runs something that waits, and brings what it found back as a message.
    fn task(&mut self, myself: &ActorRef<Msg>, work: impl Future<Output = TaskResult> + Send + 'static) {
        let myself = myself.clone();
        self.tasks.spawn(async move {
            let found = work.await;
            // An actor that has ended needs it no more.
            let _ = myself.send_message(Msg::TaskResult(found));
        });
    }

    fn read_all(&mut self, myself: &ActorRef<Msg>, wait: Duration) {
        self.heard = None;
        let store = self.args.ports.store();
        self.task(myself, async move {
            tokio::time::sleep(wait).await;
            let all = store.call(STORE_DEADLINE, |reply| StoreMsg::Outbox(OutboxRequest::Pending { reply })).await;
            TaskResult::Pending(flat(all))
        });
    }

    fn await_news(&mut self, myself: &ActorRef<Msg>) {
        let store = self.args.ports.store();
        self.task(myself, async move {
            let asked = store.ask(|reply| StoreMsg::Outbox(OutboxRequest::Changes { reply }));
            TaskResult::Changes(match asked {
                Ok(pending) => flat(pending.answer().await),
                Err(error) => Err(error.to_string()),
            })
        });
    }

    fn read_outcomes(&mut self, myself: &ActorRef<Msg>, module: &Arc<str>, wait: Duration) {
        let Some(pull) = self.waiting.get(module) else { return };
        let (module, asked, limit) = (module.clone(), (pull.token, pull.after), pull.max);
        let ended = self.ended.get(&module).copied().unwrap_or(0);
        let store = self.args.ports.store();
        self.task(myself, async move {
            tokio::time::sleep(wait).await;
            let name = module.to_string();
            let request = |reply| StoreMsg::Outbox(OutboxRequest::Outcomes { name, after: asked.1, limit, reply });
            let outcomes = flat(store.call(STORE_DEADLINE, request).await);
            TaskResult::Outcomes { module, asked, ended, outcomes }
        });
    }

    /// What is no longer alive may have ended by a write that was said to have failed.
    fn read_all_outcomes(&mut self, myself: &ActorRef<Msg>) {
        let waiting: Vec<_> = self.waiting.keys().cloned().collect();
        waiting.iter().for_each(|module| self.read_outcomes(myself, module, Duration::ZERO));
    }

    fn found(&mut self, myself: &ActorRef<Msg>, found: TaskResult) {
        match found {
            TaskResult::Pending(Ok(all)) => {
                self.schedule.replace(all);
                self.read_all_outcomes(myself);
                self.heard_all(myself);
                self.await_news(myself);
                self.publish_all();
            }
            TaskResult::Changes(Ok(Changes::Known(changes))) => {
                self.heard = self.heard.map(|heard| heard + changes.len() as u64);
                changes.into_iter().for_each(|change| self.change(change));
                self.await_news(myself);
            }
            TaskResult::Changes(Ok(Changes::Lost)) => self.read_all(myself, Duration::ZERO),
            TaskResult::Pending(Err(error)) | TaskResult::Changes(Err(error)) => {
                tracing::debug!("the outbox is read again: {error}");
                self.read_all(myself, STORE_RETRY);
            }
            TaskResult::Attempted { live, done } => self.done(myself, &live, done),
            TaskResult::Outcomes { module, asked, ended, outcomes } => {
                self.outcomes(myself, &module, asked, ended, outcomes);
            }
            TaskResult::Heads { chain_id, heads } => self.decide(myself, chain_id, heads),
            TaskResult::Final { chain_id, effects } => self.finalized(myself, chain_id, effects),
            TaskResult::Told { number, told } => self.told(number, told),
            TaskResult::Reopened(live) => {
                self.change(OutboxChange::Sent(*live));
            }
        }
    }

    fn change(&mut self, change: OutboxChange) {
        match change {
            OutboxChange::Sent(live) => {
                let (module, name) = (live.module, live.name.clone());
                self.schedule.add(live);
                return self.publish(module, &name);
            }
            OutboxChange::Rewound { module, to_seq } => self.schedule.rewound(module, to_seq),
            OutboxChange::Purged { module } => self.schedule.purged(module),
        }
        self.publish_all();
    }

    /// Starts what can start, and arms the timer for what comes next.
    fn look(&mut self, myself: &ActorRef<Msg>) {
        let now_ms = self.args.clock.now_ms();
        let permits = self.args.permits.clone();
        while let Some(live) = self.schedule.start(now_ms, |name| permits.get(name).is_some()) {
            let (attempts, plan) = (self.attempts.clone(), permits.get(&live.name));
            self.task(myself, async move {
                let done = match plan {
                    Some(plan) => attempts.attempt(&live, &plan).await,
                    None => Attempted::Trouble("its module is not loaded".into(), None),
                };
                TaskResult::Attempted { live: Box::new(live), done }
            });
        }
        self.ask_chains(myself);
        let next = self.schedule.next_due_ms(now_ms, |name| permits.get(name).is_some());
        let Some(next) = next else { return };
        let wait = Duration::from_millis(next.saturating_sub(now_ms)).min(LOOK_MAX);
        let at = now_ms.saturating_add(wait.as_millis() as u64);
        if self.timer.as_ref().is_some_and(|(_, armed)| *armed <= at) {
            return;
        }
        self.disarm();
        self.timer = Some((myself.send_after(wait, || Msg::Look), at));
    }

    fn disarm(&mut self) {
        if let Some((timer, _)) = self.timer.take() {
            timer.abort();
        }
    }

    fn done(&mut self, myself: &ActorRef<Msg>, live: &PendingEffect, done: Attempted) {
        match done {
            Attempted::Gone => {
                self.schedule.ended(live.module, &live.id, live.at);
                // Its end may be durable although the store said that it failed.
                *self.ended.entry(live.name.clone()).or_default() += 1;
                self.read_outcomes(myself, &live.name, Duration::ZERO);
            }
            Attempted::Again(progress) => self.schedule.again(live.module, &live.id, progress),
            Attempted::Underway(progress, what) => self.schedule.underway(live.module, &live.id, progress, what),
            Attempted::Trouble(reason, known) => {
                tracing::debug!(module = %live.name, effect = live.id, "tried again: {reason}");
                let next_attempt_ms = self.args.clock.now_ms() + STORE_RETRY.as_millis() as u64;
                let known = known.unwrap_or_else(|| live.progress.clone());
                let progress = Progress { next_attempt_ms, ..known };
                self.schedule.postponed(live.module, &live.id, progress);
            }
            Attempted::Ended(how) => {
                self.args.metrics.ended(&live.name, how);
                self.schedule.ended(live.module, &live.id, live.at);
                let ended = self.ended.entry(live.name.clone()).or_default();
                *ended += 1;
                if prune::is_due(*ended, self.args.settings.prune_every) {
                    self.prune(live.module);
                }
                self.read_outcomes(myself, &live.name, Duration::ZERO);
            }
        }
        self.publish(live.module, &live.name);
    }

    fn prune(&mut self, module: ModuleId) {
        let store = self.args.ports.store();
        self.tasks.spawn(async move {
            let asked = |reply| StoreMsg::Outbox(OutboxRequest::Prune { module, reply });
            if let Err(error) = flat(store.call(STORE_DEADLINE, asked).await) {
                tracing::warn!("old outcomes are kept for now: {error}");
            }
        });
    }

    fn outcomes(
        &mut self,
        myself: &ActorRef<Msg>,
        module: &Arc<str>,
        asked: (u64, u64),
        ended: u64,
        outcomes: Result<Vec<OutcomeRecord>, String>,
    ) {
        let current = self.ended.get(module).copied().unwrap_or(0);
        // Each instance of a module counts its tokens from the beginning: one that has started meanwhile stands elsewhere.
        let Some(pull) = self.waiting.get(module).filter(|pull| (pull.token, pull.after) == asked) else { return };
        match outcomes {
            Ok(outcomes) if outcomes.is_empty() => {
                if current != ended {
                    self.read_outcomes(myself, module, Duration::ZERO);
                }
            }
            Ok(outcomes) => {
                let deliveries = outcomes.into_iter().map(delivery).collect();
                let answer = Answer::Events { deliveries, progress: None, skipped: 0 };
                let reply = SourceReply { source: pull.source.clone(), token: pull.token, answer };
                // A module that has stopped meanwhile pulls again when it starts.
                let _ = pull.to.send_message(reply);
                self.waiting.remove(module);
            }
            Err(_) => self.read_outcomes(myself, module, STORE_RETRY),
        }
    }

    /// Tells metrics and quota how much of a module has not ended.
    fn publish(&self, module: ModuleId, name: &str) {
        let pending = self.schedule.pending_of(module, name);
        if let Some(plan) = self.args.permits.get(name) {
            plan.quota.set(pending.count, pending.bytes);
        }
        self.args.metrics.show(&pending);
    }

    fn publish_all(&self) {
        let pending: HashMap<String, Pending> =
            self.schedule.pending().map(|pending| (pending.module.clone(), pending)).collect();
        for (name, plan) in self.args.permits.all() {
            let (count, bytes) = pending.get(&*name).map_or((0, 0), |pending| (pending.count, pending.bytes));
            plan.quota.set(count, bytes);
        }
        self.args.metrics.show_all(&pending);
    }
}

fn delivery(record: OutcomeRecord) -> Delivery {
    Delivery {
        id: EventId::Outcome { effect: digest(&record.outcome.effect_id), round: record.round },
        cursor: Cursor::Number { number: record.number },
        event: Arc::new(Event::Outcome(record.outcome)),
        seen_ns: 0,
    }
}

/// A port's answer with both kinds of failure in words.
fn flat<T>(answer: Result<Result<T, StoreError>, nexum_host_ifaces::port::PortError>) -> Result<T, String> {
    answer.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// How people read it.
pub(crate) fn name(how: Ended) -> &'static str {
    match how {
        Ended::Delivered => "delivered",
        Ended::Failed => "failed",
        Ended::Cancelled | Ended::Retracted => "cancelled",
    }
}
