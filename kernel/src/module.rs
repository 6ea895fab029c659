//! The module actor: owns one instance, pulls its sources, and turns each delivery into one atomic unit.
//!
//! Invariants: strictly one event at a time; a cursor moves only with the unit that handled its event; after any failure
//! the actor stops with an `Exit`, because the instance's memory may mirror state that was rolled back. When and whether
//! it starts again is the supervisor's business (`modules`), by the decision in `restart`.

mod deaths;
mod exit;
mod feed;
mod quarantine;
mod recording;
mod redelivery;
mod resync;
mod rewind;
#[cfg(test)]
mod size;
mod upgrade;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub use exit::Exit;
use feed::Feeds;
use nexum_host_ifaces::{
    blocking::Blocking,
    clock::Clock,
    event::{Answer, Cursor, Delivery, EventId, SourceId, SourceReply},
    host::HostArgs,
    port::Port,
    ports::Ports,
    recording::Pool,
    store::{EventUnit, ModuleHealth, ModuleInfo, Standing, StoreMsg, UnitKind},
    types::Event,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use redelivery::Redelivery;
pub use resync::Resync;
use upgrade::host_args;

use crate::{
    admin::AdminReply,
    begun::{self, Marks, What},
    engine::MapLimit,
    health,
    instance::{Failure, Instance, Prepared},
    lane::Lanes,
    load::{Loader, Plan},
    metrics::{Metrics, ModuleMetrics},
    modules::{self, Candidate},
    outbox::{self, OutboxMetrics, Permits},
    query::Queries,
    restart::{self, Fault},
    status::{ModuleStatus, RunState},
};

/// A commit is one synced group; past this the disk is in trouble and the module starts again from what is durable.
const STORE_DEADLINE: Duration = Duration::from_secs(30);
/// An event with more fuel than this, about half a millisecond, ends the message that it came with.
const LONG_FUEL: u64 = 1_000_000;
/// State changes on their way to the store past which the module waits for it: bounds memory while it catches up.
const SENT_BYTES_MAX: usize = 1024 * 1024;

/// What every module actor shares.
pub struct Shared {
    pub loader: Arc<Loader>,
    pub ports: Arc<Ports>,
    pub outbox: Port<outbox::Msg>,
    /// Whose effects may go out.
    pub permits: Permits,
    pub outbox_metrics: OutboxMetrics,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    /// Bounds how many modules are loaded; `None` when unknown.
    pub map_limit: Option<MapLimit>,
    /// Draws uniformly from 0 to 1, for backoff jitter.
    pub jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
    /// Told of a module that was unloaded.
    pub unloaded: Arc<dyn Fn(&str) + Send + Sync>,
    pub blocking: Blocking,
    pub lanes: Lanes,
    pub queries: Queries,
    /// What modules are at.
    pub begun: Arc<Marks>,
    /// Memory of all recordings.
    pub recordings: Arc<Pool>,
}

pub enum Msg {
    /// Load, init and start pulling. Sent once, by the actor to itself.
    Begin,
    /// A source's answer to a pull.
    Reply(SourceReply),
    /// A service has forgotten what waited there: ask every source anew. Answers to earlier pulls then count no more.
    PullAgain,
    /// Try another version in the place of this one, and tell the supervisor what came of it.
    Upgrade(Arc<Candidate>),
    /// Deliver a dead letter again. Must reply.
    Retry { seq: u64, reply: AdminReply<()> },
}

impl From<SourceReply> for Msg {
    fn from(reply: SourceReply) -> Self {
        Self::Reply(reply)
    }
}

impl TryFrom<Msg> for SourceReply {
    type Error = ();

    fn try_from(message: Msg) -> Result<Self, ()> {
        match message {
            Msg::Reply(reply) => Ok(reply),
            _ => Err(()),
        }
    }
}

pub struct Args {
    pub shared: Arc<Shared>,
    pub plan: Arc<Plan>,
    /// Present on every start but the first.
    pub prepared: Option<Arc<Prepared>>,
    /// Counters that replace the stored ones.
    pub health: Option<ModuleHealth>,
    pub status: Arc<ModuleStatus>,
    pub supervisor: ActorRef<modules::Msg>,
    /// Tells the supervisor's messages about this actor from those about an earlier one.
    pub generation: u64,
    /// An order to find its place on a chain, before any source is asked.
    pub resync: Option<Resync>,
}

pub struct State {
    args: Args,
    metrics: Arc<ModuleMetrics>,
    running: Option<Running>,
}

/// A module past Init.
struct Running {
    instance: Instance,
    prepared: Arc<Prepared>,
    host: HostArgs,
    health: ModuleHealth,
    metrics: Arc<ModuleMetrics>,
    feeds: Feeds,
    redelivery: Redelivery,
    /// Reorgs that the module was told of or will be.
    reorgs: u64,
    /// Fuel of the last event, when it was handled.
    fuel: u64,
    begun: begun::Slot,
}

pub struct ModuleActor;

impl Actor for ModuleActor {
    type Msg = Msg;
    /// Absent while a message is handled, and for good when that was cut short.
    type State = Option<Box<State>>;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<Self::State, ActorProcessingErr> {
        myself.send_message(Msg::Begin)?;
        let metrics = args.shared.metrics.module(args.name());
        Ok(Some(Box::new(State { args, metrics, running: None })))
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        here: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let Some(state) = here.take() else { return Err(Box::new(Exit::Environment("it was cut short".into()))) };
        let (shared, status) = (state.args.shared.clone(), state.args.status.clone());
        // In memory of its own while it lasts: an actor that waits would keep room for the largest work that there is.
        let work = Box::pin(state.take_on(myself, message));
        let (state, done) = shared.lanes.run(&status.pace, || status.tried(), work).await;
        state.metrics.busy_ns.set(status.pace.busy_ns());
        if let Err(exit) = done {
            return Err(Box::new(exit));
        }
        *here = Some(state);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        state.iter_mut().for_each(|state| state.leave());
        Ok(())
    }
}

impl State {
    /// Handles one message, wherever it runs. What is rare has memory of its own, so that an event takes only what it needs.
    async fn take_on(mut self: Box<Self>, myself: ActorRef<Msg>, message: Msg) -> (Box<Self>, Result<(), Exit>) {
        let mut done = match message {
            Msg::Begin => Box::pin(self.begin(&myself)).await,
            Msg::Reply(reply) => self.on_reply(reply).await,
            Msg::PullAgain => self.pull_again().await,
            Msg::Upgrade(candidate) => Box::pin(self.on_upgrade(candidate)).await,
            Msg::Retry { seq, reply } => Box::pin(self.on_retry(seq, reply)).await,
        };
        if let Err(exit) = &mut done {
            // An instance whose memory is full takes long to give back: that is done where its work was.
            self.leave();
            // Before the supervisor hears of it: it has all the others to look after.
            if let Exit::Fault { health, written, .. } = exit {
                let health = (**health).clone();
                *written = health::put(&self.args.shared.ports.store(), STORE_DEADLINE, self.args.name(), health).await;
            }
        }
        (self, done)
    }

    async fn begin(&mut self, myself: &ActorRef<Msg>) -> Result<(), Exit> {
        let Args { shared, plan, supervisor, generation, status, .. } = &self.args;
        let name = plan.manifest.name.clone();
        let begun = shared.begun.slot(&name);
        self.args.count_death(&begun).await?;
        let step =
            |step| supervisor.send_message(modules::Msg::Step { module: name.clone(), generation: *generation, step });
        let prepared = match &self.args.prepared {
            Some(prepared) => prepared.clone(),
            None => tokio::select! {
                prepared = shared.loader.prepare(shared.blocking, plan) => prepared?,
                // A compiler may take long, and is given up. Nothing of the module runs yet, and whoever wants it to hold has
                // it stopped.
                () = status.held() => return Ok(()),
            },
        };
        // A supervisor that is gone takes its actors with it.
        let _ = step(modules::Step::Prepared(prepared.clone()));
        let info: ModuleInfo =
            shared.ports.store().call(STORE_DEADLINE, |reply| StoreMsg::Open { name: name.clone(), reply }).await??;
        let health = match &self.args.health {
            Some(health) => {
                let kept = Box::new(health.clone());
                let put = |reply| StoreMsg::PutHealth { module: info.id, health: kept, reply };
                shared.ports.store().call(STORE_DEADLINE, put).await??;
                health.clone()
            }
            None => info.health,
        };
        status.dead_letters.store(info.dead_letters, Ordering::Relaxed);
        status.state_bytes.store(info.record.state_bytes, Ordering::Relaxed);
        status.set_cursors(info.record.cursors.clone());
        status.consecutive_failures.store(health.consecutive_failures, Ordering::Relaxed);
        if health.standing != Standing::Running {
            return Err(Exit::Standing(Box::new(health)));
        }
        let _ = step(modules::Step::Opened(Box::new(health.clone())));
        let metrics = self.metrics.clone();
        metrics.start(plan.limits.max_state_bytes);
        let host = host_args(shared, plan, info.id);
        let feeds = Feeds::new(&name, &plan.manifest.sources, &info.record, myself.get_derived());
        let redelivery = match info.redelivery {
            0 => Redelivery::default(),
            _ => {
                let items = |reply| StoreMsg::Redelivery { module: info.id, reply };
                Redelivery::new(shared.ports.store().call(STORE_DEADLINE, items).await??)
            }
        };
        let reorgs = info.reorgs;
        let starting = begun.begin(What::Event(&EventId::Init)).await;
        let instance = match Instance::start(&prepared, &host, info.record).await {
            Ok(instance) => instance,
            Err(failed) => {
                starting.ended();
                return Err(self.args.not_started(&host, health, failed));
            }
        };
        let mut running =
            Running { instance, prepared, host, health, metrics, feeds, redelivery, reorgs, fuel: 0, begun };
        let started = running.init(&self.args).await;
        // Well or badly: the process has not died of it.
        starting.ended();
        started?;
        let _ = self.args.supervisor.send_message(modules::Msg::Step {
            module: name,
            generation: self.args.generation,
            step: modules::Step::Running,
        });
        if let Some(resync) = self.args.resync.take() {
            running.resync(&self.args, resync).await?;
        }
        self.running.insert(running).go_on_with_all(&self.args).await
    }

    async fn on_reply(&mut self, reply: SourceReply) -> Result<(), Exit> {
        // No source is asked before it runs, and what is left of an actor that does not get so far handles no message.
        let Some(running) = &mut self.running else { unreachable!("{} answered before it was asked", reply.source) };
        // An answer to a pull that was given up meanwhile: for another position, or by the version before.
        let Some(index) = running.feeds.take(&reply) else { return Ok(()) };
        match reply.answer {
            Answer::Events { deliveries, progress, .. } if !running.redelivery.is_empty() => {
                Box::pin(running.replay_from(&self.args, index, deliveries, progress)).await?;
                // Once nothing is left to deliver again, every source goes on: none was asked meanwhile.
                return match self.args.status.run_state() {
                    RunState::Run => running.go_on_with_all(&self.args).await,
                    RunState::Hold => running.settle(&self.args).await,
                };
            }
            Answer::Events { deliveries, progress, skipped } => {
                running.metrics.skipped.inc_by(skipped);
                let mut deliveries = deliveries.into_iter();
                // Ticks that are left may be too late when they are asked for again.
                let may_end = skipped == 0 && running.feeds.source(index).may_end_early();
                let mut long = false;
                while !long && let Some(delivery) = deliveries.next() {
                    if self.args.status.run_state() == RunState::Hold {
                        return running.settle(&self.args).await;
                    }
                    running.deliver(&self.args, index, delivery).await?;
                    // Where the next one is handled may be another matter, and is decided between messages. What is left
                    // is asked for again.
                    long = may_end && running.fuel > LONG_FUEL && !self.args.status.pace.is_slow();
                }
                if let Some(cursor) = progress.filter(|_| !long || deliveries.len() == 0) {
                    running.advance(&self.args, index, cursor);
                }
                running.settle(&self.args).await?;
            }
            Answer::Reorg(reorg) => return Box::pin(running.on_reorg(&self.args, index, reorg)).await,
            Answer::Stuck { reason } => return Err(Exit::Stuck(reason)),
        }
        match self.args.status.run_state() {
            RunState::Run => running.go_on(&self.args, index).await,
            RunState::Hold => running.settle(&self.args).await,
        }
    }

    async fn pull_again(&mut self) -> Result<(), Exit> {
        let wanted = self.args.status.run_state() == RunState::Run;
        match self.running.as_mut().filter(|_| wanted) {
            Some(running) => running.go_on_with_all(&self.args).await,
            None => Ok(()),
        }
    }

    /// Withdraws what still waits at the sources.
    fn leave(&mut self) {
        if let Some(running) = self.running.take() {
            running.feeds.forget(&self.args);
        }
    }
}

impl Args {
    fn name(&self) -> &Arc<str> {
        &self.plan.manifest.name
    }

    /// Counts a failure of the guest and decides what follows; the supervisor makes it durable.
    fn fault(&self, mut health: ModuleHealth, failure: Failure, event: Option<(SourceId, EventId)>) -> Exit {
        let failure = recording::clip(&failure);
        self.status.failed.fetch_add(1, Ordering::Relaxed);
        let label = event.as_ref().map_or_else(|| "init".to_owned(), |(_, id)| id.to_string());
        tracing::warn!(module = %self.name(), event = label, fuel = failure.fuel, "{}", failure.message);
        let Failure { message, backtrace, fuel } = failure;
        let fault = Fault { message, backtrace, fuel, event };
        let decision = restart::decide(&mut health, &fault, &self.plan.manifest.restart, (self.shared.jitter)());
        Exit::fault(health, decision)
    }
}

impl Running {
    async fn init(&mut self, args: &Args) -> Result<(), Exit> {
        self.metrics.kind("init").dispatched.inc();
        let started = self.instance.init(&args.plan.config).await;
        self.count_fuel(&started);
        match started {
            Ok(fuel) => {
                let unit = self.instance.host().seal(UnitKind::Handled, None, fuel);
                self.send(args, unit);
                self.settle(args).await?;
                self.metrics.kind("init").processed.inc();
                Ok(())
            }
            Err(failure) => {
                self.keep_crash(args, None, &failure);
                self.metrics.kind("init").failed.inc();
                Err(self.failed(args, failure, None))
            }
        }
    }

    /// One event of one source: the guest, then the unit; or the dead letters, when its attempts are used up.
    async fn deliver(&mut self, args: &Args, index: usize, delivery: Delivery) -> Result<(), Exit> {
        self.fuel = 0;
        let source = self.feeds.id(index).clone();
        if let Some(deaths) = self.begun.deadly(What::Event(&delivery.id)) {
            return Box::pin(self.quarantine_deadly(args, index, delivery, deaths)).await;
        }
        let policy = &args.plan.manifest.restart;
        if let Some(attempt) = restart::exhausted(&self.health, &source, &delivery.id, policy).cloned() {
            return Box::pin(self.quarantine(args, index, delivery, attempt)).await;
        }
        let at = self.begun.begin(What::Event(&delivery.id)).await;
        let kind = delivery.id.kind();
        let started_ns = args.shared.clock.monotonic_ns();
        self.metrics.kind(kind).dispatched.inc();
        if delivery.seen_ns > 0 {
            self.metrics.observe_latency(kind, started_ns.saturating_sub(delivery.seen_ns));
        }
        let handled = self.instance.handle(&delivery.id, &delivery.event).await;
        self.count_fuel(&handled);
        let took_ns = args.shared.clock.monotonic_ns().saturating_sub(started_ns);
        self.metrics.observe_duration(kind, took_ns);
        self.note_usage(args);
        let fuel = match handled {
            Ok(fuel) => fuel,
            Err(failure) => {
                self.keep_crash(args, Some((&delivery.id, &delivery.event)), &failure);
                at.ended();
                // What the module handled before this event stands.
                self.settle(args).await?;
                self.metrics.kind(kind).failed.inc();
                return Err(self.failed(args, failure, Some((source, delivery.id))));
            }
        };
        self.fuel = fuel;
        self.metrics.observe_fuel(fuel);
        args.status.add_fuel(fuel);
        let moved = Some((source.clone(), delivery.cursor.clone()));
        let recording = self.handled(args, (&delivery.id, &delivery.event), fuel);
        let mut unit = self.instance.host().seal(UnitKind::Handled, moved, fuel);
        unit.recording = recording;
        if let Event::Reorg(told) = &*delivery.event {
            unit.told = Some(Box::new(told.clone()));
        }
        if restart::recovered(&mut self.health, Some(&source)) {
            unit.health = Some(self.health.clone());
            self.metrics.consecutive_failures.set(0);
            args.status.consecutive_failures.store(0, Ordering::Relaxed);
        }
        self.send(args, unit);
        at.ended();
        self.metrics.kind(kind).processed.inc();
        args.status.processed.fetch_add(1, Ordering::Relaxed);
        args.status.last_event_ms.store(args.shared.clock.now_ms(), Ordering::Relaxed);
        self.feeds.durable(index, delivery.cursor);
        if self.instance.host().sent_bytes() > SENT_BYTES_MAX {
            self.settle(args).await?;
        }
        Ok(())
    }

    /// The source has nothing for this module up to `cursor`. Made durable now and then, so that a restart does not
    /// read it all again; the first position at once, so that nothing before a first event is lost.
    fn advance(&mut self, args: &Args, index: usize, cursor: Cursor) {
        if !self.feeds.worth_keeping(index, &cursor) {
            args.status.set_seen(self.feeds.id(index), cursor.clone());
            self.feeds.progress(index, cursor);
            return;
        }
        let host = self.instance.host();
        let source = self.feeds.id(index).clone();
        host.begin(&EventId::Advance { source: source.clone() });
        let unit = host.seal(UnitKind::Advanced, Some((source, cursor.clone())), 0);
        self.send(args, unit);
        self.feeds.durable(index, cursor);
    }

    /// Hands a unit on without waiting for it. A module that catches up handles a whole pull before it waits for the disk:
    /// units are written in order, so that what is durable is always a prefix of what was handled.
    fn send(&mut self, args: &Args, mut unit: EventUnit) {
        unit.redelivered = self.redelivery.take_done();
        if let EventId::Reorg { nth, .. } = unit.entry.event
            && nth > self.reorgs
        {
            self.reorgs = nth;
            unit.reorgs = Some(nth);
        }
        let state_bytes = unit.record.state_bytes;
        args.status.state_bytes.store(state_bytes, Ordering::Relaxed);
        self.metrics.state_bytes_used.set(state_bytes);
        self.instance.host().send(unit);
    }

    /// Waits until every unit sent is durable.
    async fn settle(&mut self, args: &Args) -> Result<(), Exit> {
        self.host.commits.settle(STORE_DEADLINE).await?;
        self.instance.host().settled();
        self.feeds.show(&args.status);
        Ok(())
    }

    /// What the failure of an attempt comes to: the module's own, unless something around it failed meanwhile.
    fn failed(&mut self, args: &Args, failure: Failure, event: Option<(SourceId, EventId)>) -> Exit {
        match self.instance.host().poisoned() {
            Some(reason) => Exit::Environment(reason.to_owned()),
            None => args.fault(self.health.clone(), failure, event),
        }
    }
}
