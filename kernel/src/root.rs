//! The root of the supervisor tree: starts the shared services and the modules, restarts what dies within a bounded
//! intensity, and ends the process's run when that is spent.
//!
//! Invariant: whatever waited at a service that died is asked for again once the service is back: the root tells the
//! modules, because nobody else sees both ends.

mod services;

use std::{collections::HashMap, sync::Arc, time::Duration};

use nexum_host_ifaces::{
    blocking::Blocking,
    clock::Clock,
    cron::{ScheduleCheck, ScheduleNext},
    limits::Limits,
    port::Port,
    ports::Ports,
    recording::Record,
};
use prometheus::Registry;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};
use services::Ordered;
use tokio::sync::watch;

use crate::{
    admin::{AdminMsg, AdminReply, ModuleSpec, NodeKind, ServiceReport},
    admin_desk::{self, AdminDesk},
    begun::Marks,
    engine::{MapLimit, WasmEngine},
    intensity::{Intensity, RESTARTS_MAX, WINDOW},
    lane::Lanes,
    load::{LibrarySpec, Loader},
    metrics::Metrics,
    module::Shared,
    modules::{self, ModulesSupervisor},
    outbox::{self, OutboxMetrics, OutboxStatus, Permits},
    query::{Queries, QueryLimits, QueryMetrics},
    restart,
    roster::Keep,
    service::{ServiceSpec, StatusSpec, reason},
};

/// How long one service may take to end in order; what is durable does not depend on it.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Wait before a service that could not be started again is tried once more, such as for an address that is not free yet.
const START_AGAIN: Duration = Duration::from_millis(500);

pub struct KernelArgs {
    /// In starting order; stopped in reverse.
    pub services: Vec<ServiceSpec>,
    /// Of the shared actors, bound by their `ServiceSpec`s.
    pub ports: Arc<Ports>,
    /// Bound by the kernel itself.
    pub admin: Port<AdminMsg>,
    pub modules: Vec<ModuleSpec>,
    /// The operator's ceilings for every module.
    pub ceiling: Limits,
    /// And for how their failures are met.
    pub restart: restart::Ceiling,
    /// What modules are at, for the next process.
    pub begun: Arc<Marks>,
    /// Keeps which modules were loaded, upgraded and unloaded at run time.
    pub roster: Arc<dyn Keep>,
    /// What is recorded of events, of modules of which the operator says nothing.
    pub record: Record,
    /// What modules may call besides the host.
    pub libraries: Vec<LibrarySpec>,
    pub engine: WasmEngine,
    /// Where components are compiled and linked.
    pub blocking: Blocking,
    /// Whether threads keep to processors; see [`crate::threads`].
    pub pin_threads: bool,
    pub clock: Arc<dyn Clock>,
    pub registry: Registry,
    /// Whether each module has histograms of its own in the metrics.
    pub module_histograms: bool,
    /// How many memory maps this process may have, which bounds the modules; `None` when unknown.
    pub map_limit: Option<MapLimit>,
    pub schedule_check: ScheduleCheck,
    pub schedule_next: ScheduleNext,
    /// How long modules may take to finish the event in flight when the engine stops.
    pub shutdown_deadline: Duration,
    /// How long an event that a module should have handled may wait before the engine is not healthy.
    pub event_age_threshold: Duration,
    pub outbox: outbox::Settings,
    pub queries: QueryLimits,
    /// Draws uniformly from 0 to 1, for backoff jitter.
    pub jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
    /// Told of a module that was unloaded: what services have counted of it is to be forgotten.
    pub unloaded: Arc<dyn Fn(&str) + Send + Sync>,
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("{0}")]
    Start(String),
    #[error("{service} failed {RESTARTS_MAX} times in {WINDOW:?}: {reason}")]
    IntensitySpent { service: String, reason: String },
}

/// A running kernel.
pub struct KernelHandle {
    root: ActorCell,
    ended: watch::Receiver<Option<Result<(), Arc<KernelError>>>>,
}

impl KernelHandle {
    /// Starts everything and returns once the services are up; modules load in the background.
    pub async fn start(args: KernelArgs) -> Result<Self, KernelError> {
        let (end, ended) = watch::channel(None);
        let (root, _) = Actor::spawn(None, Root, (args, end)).await.map_err(|error| match error {
            // What went wrong, without what ractor puts around it.
            SpawnErr::StartupFailed(error) => match error.downcast() {
                Ok(error) => *error,
                Err(error) => KernelError::Start(error.to_string()),
            },
            other => KernelError::Start(other.to_string()),
        })?;
        Ok(Self { root: root.get_cell(), ended })
    }

    /// Resolves when the kernel has stopped: `Ok` after an orderly shutdown.
    pub async fn wait(&mut self) -> Result<(), Arc<KernelError>> {
        let gone = || Err(Arc::new(KernelError::Start("the root supervisor is gone".into())));
        match self.ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }

    /// Stops everything at once, without waiting for events in flight.
    pub fn kill(&self) {
        self.root.kill();
    }
}

/// The outbox is the kernel's own service: it is delivery, and needs nothing but ports.
fn outbox_service(args: &KernelArgs, port: Port<outbox::Msg>, permits: Permits, metrics: OutboxMetrics) -> ServiceSpec {
    let outbox = outbox::Args {
        settings: args.outbox.clone(),
        ports: args.ports.clone(),
        permits,
        clock: args.clock.clone(),
        metrics,
        jitter: args.jitter.clone(),
    };
    let clock = args.clock.clone();
    let shown = move |status: OutboxStatus| status.shown(clock.now_ms());
    let status = StatusSpec::new("outbox", NodeKind::Outbox, port.clone(), outbox::Msg::Status, shown);
    let spawn = move |supervisor| outbox::spawn(outbox.clone(), supervisor);
    ServiceSpec::new("outbox", port, spawn).with_status(status)
}

struct Root;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Child {
    Service(usize),
    Modules,
    AdminDesk,
}

struct State {
    args: KernelArgs,
    shared: Arc<Shared>,
    children: HashMap<ActorId, Child>,
    modules: Option<ActorRef<modules::Msg>>,
    intensities: HashMap<String, Intensity>,
    /// Restarts since the run began, by name.
    restarts: HashMap<String, u64>,
    /// Ends that the operator ordered.
    ordered: HashMap<ActorId, Ordered>,
    started_ns: u64,
    end: watch::Sender<Option<Result<(), Arc<KernelError>>>>,
}

/// What the root takes besides supervision events.
pub(crate) enum Msg {
    /// Every module has stopped: stop the rest in order.
    End,
    /// A service whose start failed is tried again.
    StartAgain(usize),
    /// Must reply.
    Services(RpcReplyPort<Vec<ServiceReport>>),
    /// Must reply, once the service is back.
    RestartService { service: String, kill: bool, reply: AdminReply<()> },
}

impl Actor for Root {
    type Msg = Msg;
    type State = State;
    type Arguments = (KernelArgs, watch::Sender<Option<Result<(), Arc<KernelError>>>>);

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        (mut args, end): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let metrics = Metrics::register(&args.registry, args.clock.clone(), args.module_histograms)?;
        let mut loader =
            Loader::new(args.engine.clone(), args.ports.clone(), args.ceiling.clone(), args.schedule_check.clone());
        loader.restart = args.restart.clone();
        loader.record = args.record;
        loader.pending_max = args.outbox.pending_max;
        loader.begun = args.begun.clone();
        loader.libraries = args.libraries.clone();
        let (outbox, permits) = (Port::new("outbox"), Permits::default());
        let outbox_metrics = OutboxMetrics::register(&args.registry)?;
        args.services.push(outbox_service(&args, outbox.clone(), permits.clone(), outbox_metrics.clone()));
        let shared = Arc::new(Shared {
            loader: Arc::new(loader),
            ports: args.ports.clone(),
            outbox: outbox.clone(),
            permits: permits.clone(),
            outbox_metrics,
            clock: args.clock.clone(),
            metrics,
            map_limit: args.map_limit,
            jitter: args.jitter.clone(),
            unloaded: args.unloaded.clone(),
            blocking: args.blocking,
            lanes: Lanes::new(args.blocking, args.pin_threads, args.clock.clone()),
            queries: Queries::new(args.queries.clone(), QueryMetrics::register(&args.registry)?),
            begun: args.begun.clone(),
            recordings: Arc::default(),
        });
        let mut state = State {
            started_ns: args.clock.monotonic_ns(),
            args,
            shared,
            children: HashMap::new(),
            modules: None,
            intensities: HashMap::new(),
            restarts: HashMap::new(),
            ordered: HashMap::new(),
            end,
        };
        for index in 0..state.args.services.len() {
            state.start_service(&myself, index).await?;
        }
        state.start_modules(&myself).await?;
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::End => {
                state.stop_in_order(&myself).await;
                // Whoever waited may have gone.
                let _ = state.end.send(Some(Ok(())));
                myself.stop(None);
            }
            Msg::StartAgain(index) => state.bring_back(&myself, Child::Service(index), None).await,
            Msg::Services(reply) => {
                let _ = reply.send(state.reports());
            }
            Msg::RestartService { service, kill, reply } => state.order_restart(&myself, &service, kill, reply),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, reason) = match event {
            SupervisionEvent::ActorTerminated(cell, left, reason) => {
                // What the actor held, such as its listeners, must be free for the next one.
                drop(left);
                (cell, reason.unwrap_or_else(|| "stopped without an order".into()))
            }
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        // One that the root has just ended itself, together with the other of two or to shut down.
        let Some(child) = state.children.remove(&cell.get_id()) else { return Ok(()) };
        let ordered = state.ordered.remove(&cell.get_id());
        let name = state.name(child).to_owned();
        if let Child::Service(index) = child {
            (state.args.services[index].unbind)();
        }
        *state.restarts.entry(name.clone()).or_default() += 1;
        state.shared.metrics.service_restarts.with_label_values(&[&name]).inc();
        match &ordered {
            Some(Ordered { counts: false, .. }) => tracing::info!(service = name, "restart by order"),
            _ => {
                tracing::error!(service = name, "{reason}");
                if !state.may_restart(&myself, &name, &reason) {
                    return Ok(());
                }
            }
        }
        state.bring_back(&myself, child, ordered.map(|ordered| ordered.reply)).await;
        Ok(())
    }
}

impl State {
    /// Notes a failure; ends the run when there were too many.
    fn may_restart(&mut self, myself: &ActorRef<Msg>, name: &str, reason: &str) -> bool {
        let now_ns = self.args.clock.monotonic_ns();
        if self.intensities.entry(name.to_owned()).or_default().allow(now_ns) {
            return true;
        }
        self.give_up(myself, KernelError::IntensitySpent { service: name.to_owned(), reason: reason.to_owned() });
        false
    }

    fn give_up(&self, myself: &ActorRef<Msg>, error: KernelError) {
        tracing::error!("giving up: {error}");
        // Whoever waited may have gone.
        let _ = self.end.send(Some(Err(Arc::new(error))));
        myself.stop(None);
    }

    async fn start_service(&mut self, myself: &ActorRef<Msg>, index: usize) -> Result<(), KernelError> {
        let service = &self.args.services[index];
        let cell = (service.start)(myself.get_cell())
            .await
            .map_err(|error| KernelError::Start(format!("{}: {error}", service.name)))?;
        self.children.insert(cell.get_id(), Child::Service(index));
        tracing::debug!(service = service.name, "started");
        Ok(())
    }

    async fn start_modules(&mut self, myself: &ActorRef<Msg>) -> Result<(), KernelError> {
        let failed = |error: ractor::SpawnErr| KernelError::Start(reason(error));
        // Whichever of the two is left from before goes with the other; its end is no failure.
        let left: Vec<_> =
            self.children.iter().filter(|(_, child)| !matches!(child, Child::Service(_))).map(|(id, _)| *id).collect();
        for id in left {
            self.children.remove(&id);
            if let Some(cell) = self.cell(myself, id) {
                cell.kill_and_wait(None).await.unwrap_or_default();
            }
        }
        let args = modules::Args {
            shared: self.shared.clone(),
            configured: self.args.modules.clone(),
            roster: self.args.roster.clone(),
            schedule_next: self.args.schedule_next.clone(),
        };
        let (supervisor, _) =
            Actor::spawn_linked(None, ModulesSupervisor, args, myself.get_cell()).await.map_err(failed)?;
        self.children.insert(supervisor.get_id(), Child::Modules);
        self.modules = Some(supervisor.clone());
        let args = admin_desk::Args {
            services: self.args.services.iter().filter_map(|service| service.status.clone()).collect(),
            outbox: self.shared.outbox.clone(),
            modules: supervisor,
            clock: self.args.clock.clone(),
            started_ns: self.started_ns,
            root: myself.clone(),
            shutdown_deadline: self.args.shutdown_deadline,
            event_age_threshold: self.args.event_age_threshold,
        };
        let (admin_desk, _) = Actor::spawn_linked(None, AdminDesk, args, myself.get_cell()).await.map_err(failed)?;
        self.args.admin.bind(admin_desk.clone());
        self.children.insert(admin_desk.get_id(), Child::AdminDesk);
        Ok(())
    }
}
