//! The root of the supervisor tree: starts the shared services and the modules, restarts what dies within a bounded
//! intensity, and ends the process's run when that is spent.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use nexum_host_ifaces::{
    chain::ChainMsg, clock::Clock, cron::CronMsg, cron::ScheduleCheck, limits::Limits, port::Port, store::StateView,
    store::StoreMsg,
};
use prometheus::Registry;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::watch;

use crate::{
    admin::{AdminMsg, ModuleSpec},
    admin_desk::{self, AdminDesk},
    engine::{EngineError, WasmEngine},
    intensity::{Intensity, RESTARTS_MAX, WINDOW},
    load::Loader,
    metrics::Metrics,
    module::Shared,
    modules::{self, ModulesSupervisor},
};

/// How long the services may take to end in order; what is durable does not depend on it.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

type Started = Pin<Box<dyn Future<Output = Result<ActorCell, String>> + Send>>;

/// How a shared actor is started, now and after it died.
#[derive(Clone)]
pub struct ServiceSpec {
    pub name: String,
    /// Spawns the actor linked to the given supervisor and binds its port.
    pub start: Arc<dyn Fn(ActorCell) -> Started + Send + Sync>,
    /// Unbinds its port, so that callers see `unavailable` until it is back.
    pub unbind: Arc<dyn Fn() + Send + Sync>,
}

/// The addresses of the shared actors, bound by their `ServiceSpec`s.
#[derive(Clone)]
pub struct Ports {
    pub store: Port<StoreMsg>,
    pub view: Arc<dyn StateView>,
    pub chains: BTreeMap<u64, Port<ChainMsg>>,
    pub cron: Port<CronMsg>,
    /// Bound by the kernel itself.
    pub admin: Port<AdminMsg>,
}

pub struct KernelArgs {
    /// In starting order; stopped in reverse.
    pub services: Vec<ServiceSpec>,
    pub ports: Ports,
    pub modules: Vec<ModuleSpec>,
    /// The operator's ceilings for every module.
    pub ceiling: Limits,
    /// Where compiled components are kept; for this engine alone.
    pub cache_dir: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub registry: Registry,
    pub schedule_check: ScheduleCheck,
    /// Draws uniformly from 0 to 1, for backoff jitter.
    pub jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(transparent)]
    Engine(#[from] EngineError),
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

struct Root;

enum Child {
    Service(usize),
    Modules,
    AdminDesk,
}

struct State {
    args: KernelArgs,
    shared: Arc<Shared>,
    children: HashMap<ActorId, Child>,
    intensities: HashMap<String, Intensity>,
    started_ns: u64,
    end: watch::Sender<Option<Result<(), Arc<KernelError>>>>,
}

/// The root takes no messages but supervision events and the order to end.
enum Msg {
    /// Everything has stopped in order.
    End,
}

impl Actor for Root {
    type Msg = Msg;
    type State = State;
    type Arguments = (KernelArgs, watch::Sender<Option<Result<(), Arc<KernelError>>>>);

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        (args, end): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let metrics = Metrics::register(&args.registry, args.clock.clone())?;
        let engine = WasmEngine::new(&args.cache_dir)?;
        let loader = Loader::new(engine, args.ports.chains.clone(), args.ceiling.clone(), args.schedule_check.clone());
        let shared = Arc::new(Shared {
            loader,
            store: args.ports.store.clone(),
            view: args.ports.view.clone(),
            cron: args.ports.cron.clone(),
            clock: args.clock.clone(),
            metrics,
            jitter: args.jitter.clone(),
        });
        let started_ns = args.clock.monotonic_ns();
        let mut state = State { args, shared, children: HashMap::new(), intensities: HashMap::new(), started_ns, end };
        for index in 0..state.args.services.len() {
            state.start_service(&myself, index).await?;
        }
        state.start_modules(&myself).await?;
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let Msg::End = message;
        state.children.clear();
        myself.get_cell().stop_children_and_wait(None, Some(STOP_DEADLINE)).await;
        // Whoever waited may have gone.
        let _ = state.end.send(Some(Ok(())));
        myself.stop(None);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, reason) = match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                (cell, reason.unwrap_or_else(|| "stopped without an order".into()))
            }
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        let Some(child) = state.children.remove(&cell.get_id()) else { return Ok(()) };
        let name = match &child {
            Child::Service(index) => {
                let service = &state.args.services[*index];
                (service.unbind)();
                service.name.clone()
            }
            Child::Modules => "modules".to_owned(),
            Child::AdminDesk => "admin".to_owned(),
        };
        tracing::error!(service = name, "{reason}");
        let now_ns = state.args.clock.monotonic_ns();
        let restarted = if state.intensities.entry(name.clone()).or_default().allow(now_ns) {
            match child {
                Child::Service(index) => state.start_service(&myself, index).await,
                // The two know each other's address, so they start together.
                Child::Modules | Child::AdminDesk => state.start_modules(&myself).await,
            }
        } else {
            Err(KernelError::IntensitySpent { service: name.clone(), reason: reason.clone() })
        };
        if let Err(error) = restarted {
            tracing::error!(service = name, "giving up: {error}");
            let _ = state.end.send(Some(Err(Arc::new(error))));
            myself.stop(None);
        }
        Ok(())
    }
}

impl State {
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
        let failed = |error: ractor::SpawnErr| KernelError::Start(error.to_string());
        // Whichever of the two is left from before goes with the other; its end is no failure.
        let left: Vec<_> =
            self.children.iter().filter(|(_, child)| !matches!(child, Child::Service(_))).map(|(id, _)| *id).collect();
        for id in left {
            self.children.remove(&id);
            if let Some(cell) = myself.get_cell().get_children().into_iter().find(|cell| cell.get_id() == id) {
                cell.kill_and_wait(None).await.unwrap_or_default();
            }
        }
        let args = modules::Args { shared: self.shared.clone(), modules: self.args.modules.clone() };
        let (supervisor, _) =
            Actor::spawn_linked(None, ModulesSupervisor, args, myself.get_cell()).await.map_err(failed)?;
        self.children.insert(supervisor.get_id(), Child::Modules);
        let root = myself.clone();
        let args = admin_desk::Args {
            ports: self.args.ports.clone(),
            modules: supervisor,
            clock: self.args.clock.clone(),
            started_ns: self.started_ns,
            end: Arc::new(move || {
                // A root that is gone has nothing left to end.
                let _ = root.send_message(Msg::End);
            }),
        };
        let (admin_desk, _) = Actor::spawn_linked(None, AdminDesk, args, myself.get_cell()).await.map_err(failed)?;
        self.args.ports.admin.bind(admin_desk.clone());
        self.children.insert(admin_desk.get_id(), Child::AdminDesk);
        Ok(())
    }
}
