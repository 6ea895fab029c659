//! The supervisor of modules: drives each through Load → Init → Run → Restart → Dead, and carries out the operator's
//! orders.
//!
//! Invariant: a module's state changes only here, by what its actor reported or by how it ended. Orders never wait for a
//! guest: they ask the actor to stop after the event in flight and answer when it has.

mod ended;
mod expected;
mod facts;
mod orders;
mod owner;
mod pin;
mod query;
mod slot;
mod standing;
mod upgrade;
mod writes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use expected::Expected;
use nexum_host_ifaces::{
    cron::ScheduleNext,
    grants::LIBRARIES_MAX,
    store::{ModuleHealth, StoreError},
};
use owner::Newest;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use slot::{Phase, Slot, missing};
pub use upgrade::Candidate;
use upgrade::Passing;
use writes::Writes;
pub use writes::Written;

use crate::{
    admin::{AdminError, AdminReply, ModuleHealthReport, ModuleSpec, ModulesOrder, Node},
    health::Changed,
    instance::Prepared,
    load::{Plan, Unprepared},
    module::{self, Exit, ModuleActor, Shared},
    outbox,
    roster::{self, Keep, Owners, Start},
    sources::Heads,
    status::{ModuleStatus, RunState},
};

/// The store answers orders in milliseconds; past this it is down and the order fails.
pub(crate) const ORDER_DEADLINE: Duration = Duration::from_secs(5);

/// How far an actor has come.
pub enum Step {
    /// Verified, compiled and linked.
    Prepared(Arc<Prepared>),
    /// Its durable state is read; Init follows.
    Opened(Box<ModuleHealth>),
    Running,
}

pub enum Msg {
    Step {
        module: Arc<str>,
        generation: u64,
        step: Step,
    },
    /// The wait before a restart is over.
    Start {
        module: Arc<str>,
        generation: u64,
    },
    /// A service is back and has forgotten who waited there.
    PullAgain,
    /// It is time to see what modules should have handled by now.
    Look,
    /// Where the chains stand.
    Heads(BTreeMap<u64, Heads>),
    /// Must reply.
    Facts(RpcReplyPort<Vec<Node>>),
    /// Must reply with the health of every module, by name.
    Reports(RpcReplyPort<BTreeMap<String, ModuleHealthReport>>),
    /// The operator's.
    Order(ModulesOrder),
    /// The store has said whose state a module that is to be loaded would get. Must reply with its name.
    OwnerRead {
        spec: Box<ModuleSpec>,
        newest: Newest,
        reply: AdminReply<String>,
    },
    /// The new version of an upgrade is linked, or is not to be had.
    Candidate {
        module: Arc<str>,
        number: u64,
        plan: Arc<Plan>,
        prepared: Result<Arc<Prepared>, Unprepared>,
    },
    /// The new version's `init` has succeeded: make durable that it is the one to run, before what `init` wrote is. Must
    /// reply.
    UpgradePassed {
        module: Arc<str>,
        generation: u64,
        reply: AdminReply<()>,
    },
    /// A module's actor has tried the new version; why it was not taken.
    UpgradeTried {
        module: Arc<str>,
        generation: u64,
        tried: Result<(), String>,
    },
    /// A write of the roster is over.
    Written(Written),
    /// The store has removed everything about a module, or could not.
    Purged {
        module: String,
        purged: Result<Result<(), StoreError>, AdminError>,
        reply: AdminReply<Result<(), StoreError>>,
    },
    /// It is stored that a module is to run, or to pause; or it could not be.
    StandingChanged {
        module: Arc<str>,
        changed: Result<Changed, String>,
    },
    /// A module's actor failed by a bug in the host, which is counted by now like a failure of the module.
    BugCounted {
        cell: ActorCell,
        exit: Box<Exit>,
    },
    /// Stop every module after its event in flight; must reply, when all have stopped.
    StopAll {
        reply: RpcReplyPort<()>,
    },
    /// Stop those that are still at an event; must reply with what they were at.
    KillRest {
        reply: RpcReplyPort<Vec<String>>,
    },
}

pub struct Args {
    pub shared: Arc<Shared>,
    /// The modules of the configuration; the roster says which of them the operator has changed since.
    pub configured: Vec<ModuleSpec>,
    pub roster: Arc<dyn Keep>,
    pub schedule_next: ScheduleNext,
}

pub struct State {
    shared: Arc<Shared>,
    /// Boxed: nodes of the map are half empty, and a slot is large.
    slots: BTreeMap<Arc<str>, Box<Slot>>,
    roster: Arc<dyn Keep>,
    writes: Writes,
    owners: Owners,
    expected: Expected,
    /// Configured, and unloaded by order.
    unloaded: Vec<ModuleSpec>,
    by_actor: BTreeMap<ActorId, Arc<str>>,
    /// Modules of which the store is removing everything.
    purging: BTreeSet<String>,
    generations: u64,
    stopping: Vec<RpcReplyPort<()>>,
    shutting_down: bool,
}

pub struct ModulesSupervisor;

impl Actor for ModulesSupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let roster = args.roster.clone();
        // A write of the supervisor before may hang at the disk, and is waited for.
        let read = args.shared.blocking.run(move || Ok::<_, String>((roster.read()?, roster.owners()?))).await;
        let (changes, owners) = read.map_err(|error| error.to_string()).flatten()?;
        let (starts, unloaded) = roster::decide(&args.configured, changes);
        let mut state = State {
            shared: args.shared,
            slots: BTreeMap::new(),
            writes: Writes::new(owners.clone()),
            owners,
            roster: args.roster,
            expected: Expected::new(args.schedule_next),
            unloaded,
            by_actor: BTreeMap::new(),
            purging: BTreeSet::new(),
            generations: 0,
            stopping: Vec::new(),
            shutting_down: false,
        };
        for Start { spec, configured } in starts {
            if configured.is_none() && state.is_pinned_away(&spec) {
                let source = spec.source.display().to_string();
                tracing::warn!(
                    source,
                    "configured with another component by now: what was loaded at run time gives way"
                );
                continue;
            }
            state.load(&myself, spec, configured, true, None).await.map_err(|error| error.to_string())?;
        }
        // What nobody runs any more is not tried alone either, and nobody has to wait for it.
        state.shared.begun.keep(|name| state.slots.contains_key(name));
        state.note_owners(&myself);
        myself.send_interval(expected::LOOK, || Msg::Look);
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            // The most frequent message, and one that changes no count.
            Msg::Step { module, generation, step } => {
                let runs = matches!(step, Step::Running);
                state.on_step(&module, generation, step);
                if runs && state.is_new_owner(&module) {
                    state.note_owners(&myself);
                }
                return Ok(());
            }
            Msg::Start { module, generation } => {
                let due = |slot: &&mut Box<Slot>| {
                    slot.generation == generation && matches!(slot.phase, Phase::Restart { .. })
                };
                if !state.shutting_down && state.slots.get_mut(&module).as_ref().is_some_and(due) {
                    state.start_when_written(&myself, &module).await;
                }
            }
            Msg::PullAgain => state.slots.values().filter_map(|slot| slot.actor.as_ref()).for_each(|actor| {
                // One that has just ended pulls when it starts again.
                let _ = actor.send_message(module::Msg::PullAgain);
            }),
            Msg::Look => state.ask_heads(&myself),
            Msg::Heads(heads) => state.look(heads),
            Msg::Facts(reply) => answer(reply, state.facts()),
            Msg::Reports(reply) => answer(reply, state.reports()),
            Msg::Order(order) => state.carry_out(&myself, order).await,
            Msg::OwnerRead { spec, newest, reply } => {
                state.load_by_order(&myself, *spec, Some(newest), reply).await;
            }
            Msg::StandingChanged { module, changed } => state.on_standing_changed(&myself, &module, changed).await,
            Msg::BugCounted { cell, exit } => {
                state.on_ended(&myself, &cell, Err(exit)).await;
                state.report_stopped();
            }
            Msg::Candidate { module, number, plan, prepared } => {
                state.on_candidate(&myself, &module, number, plan, prepared);
            }
            Msg::UpgradePassed { module, generation, reply } => {
                if state.slots.get(&module).is_some_and(|slot| slot.generation == generation) {
                    state.pass_upgrade(&myself, &module, Passing::Tried(reply));
                }
            }
            Msg::Written(written) => state.on_written(&myself, written).await,
            Msg::UpgradeTried { module, generation, tried } => {
                if state.slots.get(&module).is_some_and(|slot| slot.generation == generation) {
                    state.end_upgrade(&module, tried.err().as_deref().unwrap_or_default());
                }
            }
            Msg::Purged { module, purged, reply } => {
                state.purging.remove(&module);
                answer(reply, purged);
            }
            Msg::StopAll { reply } => {
                state.shutting_down = true;
                state.slots.values().for_each(|slot| slot.ask_to_stop());
                state.stopping.push(reply);
                state.report_stopped();
            }
            Msg::KillRest { reply } => answer(reply, state.kill_rest()),
        }
        state.count();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => state.on_ended(&myself, &cell, Ok(reason)).await,
            SupervisionEvent::ActorFailed(cell, error) => state.on_ended(&myself, &cell, Err(error)).await,
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        state.report_stopped();
        state.count();
        Ok(())
    }
}

/// Whoever asked may have gone; then there is nobody to tell.
fn answer<T: Send + 'static>(reply: RpcReplyPort<T>, value: T) {
    let _ = reply.send(value);
}

impl State {
    /// Plans a module and starts it. At boot a wrong module is kept as Dead with its reason, so that the tree shows it;
    /// an order to load a wrong module is refused.
    async fn load(
        &mut self,
        myself: &ActorRef<Msg>,
        spec: ModuleSpec,
        configured: Option<ModuleSpec>,
        boot: bool,
        newest: Option<Newest>,
    ) -> Result<String, AdminError> {
        let source = spec.source.display().to_string();
        // They are counted where there may be so many.
        let each = if self.shared.loader.libraries.is_empty() { 1 } else { 1 + LIBRARIES_MAX };
        let most = self.slots.len() * each;
        let tight = self.shared.map_limit.filter(|limit| most >= limit.instances());
        let refusal = tight.and_then(|limit| limit.refusal(self.planned()));
        let planned = self.shared.loader.plan(&spec).and_then(|plan| refusal.map_or(Ok(plan), Err));
        let plan = match planned {
            Ok(plan) => Arc::new(plan),
            Err(reason) if boot => {
                tracing::error!(source, "module not loaded: {reason}");
                self.slots.insert(source.as_str().into(), Slot::unplanned(spec, configured, reason));
                return Ok(source);
            }
            Err(reason) => return Err(AdminError::Load(reason)),
        };
        let name = plan.manifest.name.clone();
        if self.slots.contains_key(&name) {
            if boot && configured.is_none() {
                tracing::warn!(module = %name, source, "configured by now: what was loaded at run time gives way");
                return Ok(source);
            }
            if boot {
                tracing::error!(module = %name, source, "a module of this name is configured twice; the second is not loaded");
                let reason = format!("a module named `{name}` is configured already; names are the identity of state");
                self.slots.insert(format!("{name} ({source})").into(), Slot::unplanned(spec, configured, reason));
                return Ok(source);
            }
            return Err(AdminError::AlreadyLoaded(name.to_string()));
        }
        if self.purging.contains(&*name) {
            return Err(AdminError::Unavailable(format!("{name}: what is stored of it is being removed")));
        }
        // What was loaded or upgraded by order was asked about then.
        let is_news = !boot || configured.as_ref() == Some(&spec);
        if is_news && let Err(reason) = self.check_owner(&spec, &plan, newest).await {
            if !boot {
                return Err(AdminError::Load(reason));
            }
            tracing::error!(module = %name, source, "module not loaded: {reason}");
            self.slots.insert(source.as_str().into(), Slot::unplanned(spec, configured, reason));
            return Ok(source);
        }
        if !boot {
            // Whoever asks for this component wants to know what comes of it now.
            self.shared.loader.engine.try_again(plan.manifest.component);
        }
        let status = Arc::new(ModuleStatus::default());
        self.permit(&plan);
        self.slots.insert(name.clone(), Slot::planned(spec, configured, plan, status));
        self.start(myself, &name).await;
        Ok(name.to_string())
    }

    /// Instances of modules that have or may have one, and of their libraries; a module that was refused has none.
    fn planned(&self) -> usize {
        self.slots.values().filter_map(|slot| slot.plan.as_ref()).map(|plan| 1 + plan.libraries.len()).sum()
    }

    /// Lets the effects of a module go out, within what its plan grants. Says where its manifest asks for more than it has.
    pub(super) fn permit(&self, plan: &Arc<Plan>) {
        if let Some(held) = &plan.held {
            tracing::warn!(module = %plan.manifest.name, "[restart] of the engine holds its manifest to less: {held}");
        }
        self.shared.permits.set(plan);
        // An outbox that is down looks when it is back.
        let _ = self.shared.outbox.cast(outbox::Msg::Look);
    }

    /// Spawns the actor of a slot: Load the first time, a fresh instance from what is prepared afterwards.
    async fn start(&mut self, myself: &ActorRef<Msg>, name: &Arc<str>) {
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        // One that could not be planned is loaded anew instead, and neither waits for a restart nor can be resynced.
        let Some(plan) = slot.plan.clone() else { unreachable!("module {name} is started without a plan") };
        if self.shutting_down {
            // Nobody would ask it to stop.
            slot.phase = Phase::Stopped;
            if let Some(resync) = slot.resync.take() {
                answer(resync.reply, Err(AdminError::Unavailable("the engine is shutting down".into())));
            }
            return;
        }
        self.generations += 1;
        slot.generation = self.generations;
        slot.status.set_run_state(RunState::Run);
        let args = module::Args {
            shared: self.shared.clone(),
            plan,
            prepared: slot.prepared.clone(),
            health: slot.override_health.take(),
            resync: slot.resync.take(),
            status: slot.status.clone(),
            supervisor: myself.clone(),
            generation: slot.generation,
        };
        match Actor::spawn_linked(None, ModuleActor, args, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.by_actor.insert(actor.get_id(), name.clone());
                slot.actor = Some(actor);
                slot.enter(if slot.prepared.is_some() { Phase::Init } else { Phase::Load });
            }
            Err(error) => slot.die(format!("its actor did not start: {error}")),
        }
    }

    fn on_step(&mut self, name: &Arc<str>, generation: u64, step: Step) {
        // An actor that has ended meanwhile: what it reported before does not count after it.
        let Some(slot) = self.slots.get_mut(name).filter(|slot| slot.generation == generation) else { return };
        match step {
            Step::Prepared(prepared) => {
                slot.prepared = Some(prepared);
                slot.enter(Phase::Init);
            }
            Step::Opened(health) => slot.health = *health,
            Step::Running => {
                slot.unprepared = 0;
                slot.enter(Phase::Run);
                tracing::info!(module = %name, "running");
            }
        }
    }

    fn report_stopped(&mut self) {
        let is_still = |slot: &Slot| slot.actor.is_none() && slot.changing.is_none();
        if self.shutting_down && self.writes.is_idle() && self.slots.values().all(|slot| is_still(slot)) {
            self.stopping.drain(..).for_each(|reply| answer(reply, ()));
        }
    }

    fn count(&self) {
        self.shared.metrics.modules_loaded.set(self.slots.len() as i64);
        let dead = self.slots.values().filter(|slot| matches!(slot.phase, Phase::Dead { .. })).count();
        self.shared.metrics.modules_dead.set(dead as i64);
    }
}
